/*
 * dropped.c
 *		Which followers were dropped from a stream on purpose.
 *
 * A follower that comes and is not registered has most often lost its registration with
 * files of the leader's, and copies again by itself.  One that fanout.drop_follower() was
 * called for must not: its instance is remembered, in the record and in the registry's
 * file, until it registers again because somebody there has asked for that.
 *
 * So many are remembered; the oldest is forgotten when there is no room for more, and would copy
 * again if it came.  All of it is protected by registry_lock.
 */
#include "postgres.h"

#include "leader/leader.h"

static int
dropped_index(const LeaderStream *stream, const pg_uuid_t *instance)
{
	for (int i = 0; i < stream->dropped_count; i++)
	{
		if (memcmp(&stream->dropped[i], instance, sizeof(pg_uuid_t)) == 0)
			return i;
	}
	return -1;
}

static void
remove_at(LeaderStream *stream, int i)
{
	stream->dropped_count--;
	memmove(&stream->dropped[i], &stream->dropped[i + 1],
			sizeof(pg_uuid_t) * (stream->dropped_count - i));
}

void
dropped_forget(LeaderStream *stream, const pg_uuid_t *instance)
{
	int			i = dropped_index(stream, instance);

	if (i >= 0)
		remove_at(stream, i);
}

void
dropped_note(LeaderStream *stream, const pg_uuid_t *instance)
{
	dropped_forget(stream, instance);
	if (stream->dropped_count == MAX_DROPPED)
		remove_at(stream, 0);
	stream->dropped[stream->dropped_count++] = *instance;
}

bool
dropped_has(LeaderStream *stream, const pg_uuid_t *instance)
{
	bool		dropped;

	registry_load(stream);
	LWLockAcquire(Fanout->registry_lock, LW_SHARED);
	dropped = dropped_index(stream, instance) >= 0;
	LWLockRelease(Fanout->registry_lock);
	return dropped;
}
