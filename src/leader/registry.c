/*
 * registry.c
 *		The followers that are registered with a stream, and which log each needs.
 *
 * Registrations live in shared memory (shmem.h), where senders note how far
 * their followers are, and in the file "registry" of the stream's directory, so
 * that the log is still kept for followers that are away after a restart
 * (registry_file.c).
 *
 * Who is registered changes only under Fanout->registry_lock, and the file is
 * written before the lock is released: memory and file always name the same
 * followers.  Their positions in the file may lag behind those in memory.  The log
 * is kept for the position in the file (saved_lsn): if it were trimmed by the one
 * in memory, a crash would make a follower look lost that is not.
 *
 * Lock order: registry_lock, Fanout->lock, an entry's mutex.
 */
#include "postgres.h"

#include <signal.h>

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/uuid.h"

#include "leader/leader.h"
#include "leader/registry_file.h"

#define SAVE_INTERVAL_MS	30000

/* ---------- entries in memory ---------- */

static bool
is_of(const Registration *registration, const LeaderStream *stream)
{
	return registration->in_use &&
		registration->dboid == stream->dboid &&
		registration->stream_id == stream->id;
}

/* Needs Fanout->lock. */
static Registration *
find_locked(const LeaderStream *stream, const char *name)
{
	for (int i = 0; i < fanout_max_followers; i++)
	{
		Registration *registration = &Registrations[i];

		if (is_of(registration, stream) && strcmp(NameStr(registration->name), name) == 0)
			return registration;
	}
	return NULL;
}

/* A free entry or NULL; needs Fanout->lock, exclusive. */
static Registration *
find_free_locked(void)
{
	for (int i = 0; i < fanout_max_followers; i++)
	{
		if (!Registrations[i].in_use)
			return &Registrations[i];
	}
	return NULL;
}

/*
 * Make the entry what the file or a registration says, with no sender; its
 * owner is the caller, under Fanout->lock.
 */
static void
fill_entry(Registration *registration, const LeaderStream *stream, const RegistryEntry *entry)
{
	SpinLockAcquire(&registration->mutex);
	if (!registration->in_use)
	{
		registration->sender_pid = 0;
		registration->sender_procno = -1;
		registration->client_addr[0] = '\0';
		registration->connected_at = 0;
		registration->dboid = stream->dboid;
		registration->stream_id = stream->id;
		registration->name = entry->name;
		registration->in_use = true;
	}
	registration->instance = entry->instance;
	registration->role = entry->role;
	registration->state = (RegistrationState) entry->state;
	registration->sent_lsn = entry->applied_lsn;
	registration->applied_lsn = entry->applied_lsn;
	registration->durable_lsn = entry->durable_lsn;
	registration->saved_lsn = entry->durable_lsn;
	registration->applied_seq = entry->applied_seq;
	registration->proven_at = 0;
	registration->last_seen_at = entry->last_seen_at;
	SpinLockRelease(&registration->mutex);
}

static void
end_sender(pid_t pid)
{
	if (pid != 0)
		(void) kill(pid, SIGTERM);
}

/* ---------- loading and saving ---------- */

/* What the file must hold of the stream's followers now, palloc'd. */
static RegistryEntry *
collect_entries(const LeaderStream *stream, uint32 *count)
{
	RegistryEntry *entries = palloc0(sizeof(RegistryEntry) * fanout_max_followers);

	*count = 0;
	LWLockAcquire(Fanout->lock, LW_SHARED);
	for (int i = 0; i < fanout_max_followers; i++)
	{
		Registration *registration = &Registrations[i];
		RegistryEntry *entry = &entries[*count];

		if (!is_of(registration, stream))
			continue;
		SpinLockAcquire(&registration->mutex);
		entry->name = registration->name;
		entry->instance = registration->instance;
		entry->role = registration->role;
		entry->state = registration->state == FOLLOWER_STREAMING
			? FOLLOWER_AWAY : registration->state;
		entry->applied_lsn = registration->applied_lsn;
		entry->durable_lsn = registration->durable_lsn;
		entry->applied_seq = registration->applied_seq;
		entry->last_seen_at = registration->last_seen_at;
		SpinLockRelease(&registration->mutex);
		(*count)++;
	}
	LWLockRelease(Fanout->lock);
	return entries;
}

/* What was written is safe now: the log before it may go. */
static void
note_saved(const LeaderStream *stream, const RegistryEntry *entries, uint32 count)
{
	LWLockAcquire(Fanout->lock, LW_SHARED);
	for (uint32 i = 0; i < count; i++)
	{
		Registration *registration = find_locked(stream, NameStr(entries[i].name));

		if (registration == NULL)
			continue;
		SpinLockAcquire(&registration->mutex);
		registration->saved_lsn = entries[i].durable_lsn;
		SpinLockRelease(&registration->mutex);
	}
	LWLockRelease(Fanout->lock);
}

/* Needs registry_lock, exclusive. */
static void
write_file(const LeaderStream *stream)
{
	uint32		count;
	RegistryEntry *entries = collect_entries(stream, &count);

	registry_file_write(stream, entries, count);
	note_saved(stream, entries, count);
	pfree(entries);
}

/* Returns false when there is no room for the entry. */
static bool
load_entry(const LeaderStream *stream, const RegistryEntry *entry)
{
	Registration *registration;

	LWLockAcquire(Fanout->lock, LW_EXCLUSIVE);
	registration = find_locked(stream, NameStr(entry->name));
	if (registration == NULL)
	{
		registration = find_free_locked();
		if (registration != NULL)
			fill_entry(registration, stream, entry);
	}
	LWLockRelease(Fanout->lock);
	return registration != NULL;
}

/* Needs registry_lock, exclusive. */
static void
load_locked(LeaderStream *stream)
{
	RegistryEntry *entries;
	uint32		count;

	if (stream->registry_loaded)
		return;
	entries = registry_file_read(stream, &count);
	for (uint32 i = 0; i < count; i++)
	{
		if (!load_entry(stream, &entries[i]))
			ereport(WARNING,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("follower \"%s\" of stream \"%s\" is forgotten, since more than \"fanout.max_followers\" are registered",
							NameStr(entries[i].name), NameStr(stream->name)),
					 errdetail("It has to copy again when there is room for it.")));
	}
	stream->registry_loaded = true;
}

/*
 * Read the file into shared memory, once after the server's start.  Every
 * function that looks up followers calls it, since any may come before the
 * decoder does.  When there are more followers than entries, because
 * fanout.max_followers was lowered, the last ones are left out: the stream goes on.
 */
void
registry_load(LeaderStream *stream)
{
	bool		loaded;

	LWLockAcquire(Fanout->registry_lock, LW_SHARED);
	loaded = stream->registry_loaded;
	LWLockRelease(Fanout->registry_lock);
	if (loaded)
		return;

	LWLockAcquire(Fanout->registry_lock, LW_EXCLUSIVE);
	load_locked(stream);
	LWLockRelease(Fanout->registry_lock);
}

/* ---------- registering ---------- */

typedef enum ClaimResult
{
	CLAIMED,
	NAME_TAKEN,
	SHARE_USED,					/* the role has as many as it may */
	NO_ROOM
} ClaimResult;

/*
 * May the entry, which is in use under that name, become this one?  Who knows its instance
 * is that follower, whatever its login.  Others must at least be of the same role.
 */
static bool
may_take_over(Registration *registration, const RegistryEntry *entry, bool is_owner)
{
	bool		result;

	SpinLockAcquire(&registration->mutex);
	result = memcmp(&registration->instance, &entry->instance, sizeof(pg_uuid_t)) == 0;
	result |= (is_owner || registration->role == entry->role) &&
		registration->sender_pid == 0 &&
		(registration->state == FOLLOWER_LOST || registration->state == FOLLOWER_COPYING);
	SpinLockRelease(&registration->mutex);
	return result;
}

/*
 * No role may use up the entries, which all streams share: it has at most as many as are
 * free.  Needs Fanout->lock.
 */
static bool
share_is_used_locked(Oid role)
{
	int			own = 0;
	int			free = 0;

	for (int i = 0; i < fanout_max_followers; i++)
	{
		if (!Registrations[i].in_use)
			free++;
		else if (Registrations[i].role == role)
			own++;
	}
	return own >= free;
}

/* Fills *registration; needs Fanout->lock, exclusive. */
static ClaimResult
claim_locked(LeaderStream *stream, const RegistryEntry *entry, bool is_owner,
			 Registration **registration)
{
	*registration = find_locked(stream, NameStr(entry->name));
	if (*registration != NULL)
	{
		if (!may_take_over(*registration, entry, is_owner))
			return NAME_TAKEN;
		end_sender((*registration)->sender_pid);
	}
	else
	{
		*registration = find_free_locked();
		if (*registration == NULL)
			return NO_ROOM;
		if (!is_owner && share_is_used_locked(entry->role))
			return SHARE_USED;
	}
	fill_entry(*registration, stream, entry);
	return CLAIMED;
}

static void
refuse_claim(ClaimResult result, const LeaderStream *stream, const RegistryEntry *entry)
{
	if (result == NAME_TAKEN)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("follower \"%s\" is already registered with stream \"%s\"",
						NameStr(entry->name), NameStr(stream->name)),
				 errhint("Choose another name, or call fanout.drop_follower() on the leader if that follower is gone.")));
	if (result == SHARE_USED)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many followers of role \"%s\" are registered on this server",
						GetUserNameFromId(entry->role, false)),
				 errdetail("A role that does not own the stream may have no more than can still be registered."),
				 errhint("Raise \"fanout.max_followers\" and restart the server, or drop followers that are gone.")));
	ereport(ERROR,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("too many followers are registered on this server"),
			 errhint("Raise \"fanout.max_followers\" and restart the server.")));
}

Registration *
registry_add(LeaderStream *stream, const char *name, const pg_uuid_t *instance,
			 XLogRecPtr lsn)
{
	RegistryEntry entry = {.instance = *instance, .state = FOLLOWER_COPYING,
		.role = GetUserId(),
	.applied_lsn = lsn, .durable_lsn = lsn, .last_seen_at = GetCurrentTimestamp()};
	StreamRow  *row = stream_row_by_id(stream->id);
	bool		is_owner = row != NULL && stream_is_owner(row);
	Registration *registration;
	ClaimResult result;

	namestrcpy(&entry.name, name);
	LWLockAcquire(Fanout->registry_lock, LW_EXCLUSIVE);
	load_locked(stream);

	LWLockAcquire(Fanout->lock, LW_EXCLUSIVE);
	result = claim_locked(stream, &entry, is_owner, &registration);
	LWLockRelease(Fanout->lock);

	if (result != CLAIMED)
		refuse_claim(result, stream, &entry);
	dropped_forget(stream, instance);
	write_file(stream);
	LWLockRelease(Fanout->registry_lock);
	return registration;
}

Registration *
registry_find(LeaderStream *stream, const char *name)
{
	Registration *registration;

	registry_load(stream);
	LWLockAcquire(Fanout->lock, LW_SHARED);
	registration = find_locked(stream, name);
	LWLockRelease(Fanout->lock);
	return registration;
}

/* Ends its sender, too. */
void
registry_remove(LeaderStream *stream, const char *name, bool dropped)
{
	Registration *registration;
	pg_uuid_t	instance;
	pid_t		pid = 0;

	LWLockAcquire(Fanout->registry_lock, LW_EXCLUSIVE);
	load_locked(stream);
	LWLockAcquire(Fanout->lock, LW_EXCLUSIVE);
	registration = find_locked(stream, name);
	if (registration != NULL)
	{
		SpinLockAcquire(&registration->mutex);
		pid = registration->sender_pid;
		instance = registration->instance;
		registration->in_use = false;
		SpinLockRelease(&registration->mutex);
	}
	LWLockRelease(Fanout->lock);
	end_sender(pid);
	if (registration != NULL)
	{
		if (dropped)
			dropped_note(stream, &instance);
		write_file(stream);
	}
	LWLockRelease(Fanout->registry_lock);
}

/* ---------- the decoder's side ---------- */

/* True when a follower freed a segment's worth of log, or any and it was long ago. */
static bool
save_is_due(const LeaderStream *stream)
{
	static TimestampTz checked_at = 0;
	TimestampTz now = GetCurrentTimestamp();
	uint64		enough = (uint64) fanout_segment_size * 1024 * 1024;
	uint64		most = 0;

	LWLockAcquire(Fanout->lock, LW_SHARED);
	for (int i = 0; i < fanout_max_followers; i++)
	{
		Registration *registration = &Registrations[i];

		if (!is_of(registration, stream))
			continue;
		SpinLockAcquire(&registration->mutex);
		if (registration->durable_lsn > registration->saved_lsn)
			most = Max(most, registration->durable_lsn - registration->saved_lsn);
		SpinLockRelease(&registration->mutex);
	}
	LWLockRelease(Fanout->lock);

	if (most < enough && !TimestampDifferenceExceeds(checked_at, now, SAVE_INTERVAL_MS))
		return false;
	checked_at = now;
	return most > 0;
}

void
registry_save(LeaderStream *stream, bool force)
{
	if (!force && !save_is_due(stream))
		return;
	LWLockAcquire(Fanout->registry_lock, LW_EXCLUSIVE);
	load_locked(stream);
	write_file(stream);
	LWLockRelease(Fanout->registry_lock);
}

XLogRecPtr
registry_needed_lsn(LeaderStream *stream)
{
	XLogRecPtr	needed = InvalidXLogRecPtr;

	LWLockAcquire(Fanout->lock, LW_SHARED);
	for (int i = 0; i < fanout_max_followers; i++)
	{
		Registration *registration = &Registrations[i];

		if (!is_of(registration, stream))
			continue;
		SpinLockAcquire(&registration->mutex);
		if (registration->state != FOLLOWER_LOST &&
			(XLogRecPtrIsInvalid(needed) || registration->saved_lsn < needed))
			needed = registration->saved_lsn;
		SpinLockRelease(&registration->mutex);
	}
	LWLockRelease(Fanout->lock);
	return needed;
}

/* Mark one follower; true if it is lost by that. */
static bool
mark_lost(Registration *registration, XLogRecPtr start_lsn)
{
	bool		lost;

	SpinLockAcquire(&registration->mutex);
	lost = registration->state != FOLLOWER_LOST && registration->durable_lsn < start_lsn;
	if (lost)
		registration->state = FOLLOWER_LOST;
	SpinLockRelease(&registration->mutex);
	if (lost)
		fanout_wake(registration->sender_procno);
	return lost;
}

int
registry_mark_lost(LeaderStream *stream, XLogRecPtr start_lsn)
{
	List	   *names = NIL;
	ListCell   *lc;

	LWLockAcquire(Fanout->lock, LW_SHARED);
	for (int i = 0; i < fanout_max_followers; i++)
	{
		Registration *registration = &Registrations[i];

		if (is_of(registration, stream) && mark_lost(registration, start_lsn))
			names = lappend(names, pstrdup(NameStr(registration->name)));
	}
	LWLockRelease(Fanout->lock);

	foreach(lc, names)
		ereport(LOG,
				(errmsg("follower \"%s\" of stream \"%s\" is lost and must be copied again",
						(char *) lfirst(lc), NameStr(stream->name)),
				 errdetail("The change log now starts at %X/%X, after the last change that the follower has.",
						   LSN_FORMAT_ARGS(start_lsn))));
	if (names != NIL)
		registry_save(stream, true);
	return list_length(names);
}

void
registry_set_history(LeaderStream *stream, uint64 system_identifier, uint32 timeline)
{
	bool		same;

	LWLockAcquire(Fanout->registry_lock, LW_EXCLUSIVE);
	load_locked(stream);
	same = stream->registry_system == system_identifier &&
		stream->registry_timeline == timeline;
	if (stream->registry_system != system_identifier)
		stream->era_count = 0;
	stream->registry_system = system_identifier;
	stream->registry_timeline = timeline;
	if (era_begin(stream) || !same || !registry_file_exists(stream))
		write_file(stream);
	LWLockRelease(Fanout->registry_lock);
	if (!same)
		ereport(LOG,
				(errmsg("stream \"%s\" begins on timeline %u of system %llu",
						NameStr(stream->name), timeline,
						(unsigned long long) system_identifier)));
}

int
registry_wake_senders(LeaderStream *stream)
{
	int			count = 0;

	LWLockAcquire(Fanout->lock, LW_SHARED);
	for (int i = 0; i < fanout_max_followers; i++)
	{
		Registration *registration = &Registrations[i];

		if (!is_of(registration, stream) || registration->sender_pid == 0)
			continue;
		count++;
		if (pg_atomic_exchange_u32(&registration->sender_asleep, 0) != 0)
			fanout_wake(registration->sender_procno);
	}
	LWLockRelease(Fanout->lock);
	return count;
}

/* ---------- lists ---------- */

int
registry_count(LeaderStream *stream)
{
	int			count = 0;

	LWLockAcquire(Fanout->lock, LW_SHARED);
	for (int i = 0; i < fanout_max_followers; i++)
		count += is_of(&Registrations[i], stream) ? 1 : 0;
	LWLockRelease(Fanout->lock);
	return count;
}

static int
compare_names(const ListCell *a, const ListCell *b)
{
	return strcmp(NameStr(((Registration *) lfirst(a))->name),
				  NameStr(((Registration *) lfirst(b))->name));
}

List *
registry_list(LeaderStream *stream)
{
	List	   *result = NIL;

	registry_load(stream);
	LWLockAcquire(Fanout->lock, LW_SHARED);
	for (int i = 0; i < fanout_max_followers; i++)
	{
		Registration *copy;

		if (!is_of(&Registrations[i], stream))
			continue;
		copy = palloc(sizeof(Registration));
		SpinLockAcquire(&Registrations[i].mutex);
		memcpy(copy, &Registrations[i], sizeof(Registration));
		SpinLockRelease(&Registrations[i].mutex);
		result = lappend(result, copy);
	}
	LWLockRelease(Fanout->lock);
	list_sort(result, compare_names);
	return result;
}
