/*
 * era.c
 *		Eras of the leader's WAL: is a position one of this history?
 *
 * A position alone does not tell which history it is from.  When the leader is put back
 * to an earlier point, by point-in-time recovery, the promotion of a standby or old files,
 * it writes other WAL at positions that followers have seen before.
 *
 * So every life of the server, from one start to the next, is an era with a random name.
 * It begins where the WAL ended that the server found when it started.  The file of a
 * stream's registry has the names and beginnings of the eras that led here, and goes with
 * every copy of the server's files.  A follower notes the name of the era before it applies
 * or copies anything from it, and when it comes back it says that name and the newest
 * position that its data depends on.  That is of this history if the file has the name and
 * the position does not lie behind the beginning of the era that came next.
 *
 * All of it is protected by registry_lock.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "access/xlogrecovery.h"

#include "leader/leader.h"

/* Where the WAL ended that this server found when it started. */
static XLogRecPtr
wal_found(void)
{
	XLogRecPtr	replayed = GetXLogReplayRecPtr(NULL);

	return XLogRecPtrIsInvalid(replayed) ? Fanout->shutdown_lsn : replayed;
}

/* Needs registry_lock, exclusive.  Returns false when this life has its era. */
bool
era_begin(LeaderStream *stream)
{
	Era			era = {.start_lsn = wal_found()};

	if (stream->era_begun)
		return false;
	if (!pg_strong_random(era.name.data, UUID_LEN))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random values")));
	if (stream->era_count == MAX_ERAS)
		memmove(&stream->eras[0], &stream->eras[1], sizeof(Era) * --stream->era_count);
	stream->eras[stream->era_count++] = era;
	stream->era_begun = true;
	return true;
}

/* Returns false when there is none yet: the decoder has not come so far. */
bool
era_current(LeaderStream *stream, pg_uuid_t *name)
{
	bool		begun;

	LWLockAcquire(Fanout->registry_lock, LW_SHARED);
	begun = stream->era_begun;
	if (begun)
		*name = stream->eras[stream->era_count - 1].name;
	LWLockRelease(Fanout->registry_lock);
	return begun;
}

bool
era_has(LeaderStream *stream, const pg_uuid_t *name, XLogRecPtr lsn)
{
	bool		result = false;

	LWLockAcquire(Fanout->registry_lock, LW_SHARED);
	for (int i = 0; i < stream->era_count; i++)
	{
		if (memcmp(&stream->eras[i].name, name, sizeof(pg_uuid_t)) != 0)
			continue;
		result = lsn <= (i + 1 < stream->era_count ? stream->eras[i + 1].start_lsn
						 : GetFlushRecPtr(NULL));
	}
	LWLockRelease(Fanout->registry_lock);
	return result;
}
