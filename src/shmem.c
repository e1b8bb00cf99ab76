/*
 * shmem.c
 *		Setting up, finding and claiming the records described in shmem.h.
 *
 * When the server starts, an entry is claimed for every hint directory, so that
 * hooks which first look whether there is anything to do (guard, commit hook)
 * hold from the first connection on.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "catalog/pg_control.h"
#include "common/controldata_utils.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "storage/shmem.h"

#include "compat.h"
#include "follower/history.h"
#include "follower/read_running.h"
#include "hints.h"
#include "shmem.h"

FanoutShmem *Fanout = NULL;
LeaderStream *LeaderStreams = NULL;
Registration *Registrations = NULL;
FollowedStream *FollowedStreams = NULL;

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

#define FANOUT_TRANCHE	"pg_fanout"

#define FREE_TIMEOUT_MS	2000
#define FREE_POLL_MS	20

static void
shmem_request(void)
{
	Size		size;

	if (prev_shmem_request_hook)
		prev_shmem_request_hook();

	size = MAXALIGN(sizeof(FanoutShmem));
	size = add_size(size, MAXALIGN(mul_size(sizeof(LeaderStream), fanout_max_streams)));
	size = add_size(size, MAXALIGN(mul_size(sizeof(Registration), fanout_max_followers)));
	size = add_size(size, MAXALIGN(mul_size(sizeof(FollowedStream), fanout_max_streams)));
	size = add_size(size, MAXALIGN(history_shmem_size()));
	size = add_size(size, MAXALIGN(read_running_shmem_size()));
	RequestAddinShmemSpace(size);
	RequestNamedLWLockTranche(FANOUT_TRANCHE, 3);
}

static void
worker_info_init(WorkerInfo *info)
{
	memset(info, 0, sizeof(*info));
	info->procno = -1;
}

/* Where the WAL ends that this server finds, if there is nothing in it to recover. */
static XLogRecPtr
read_shutdown_lsn(void)
{
	bool		crc_ok;
	ControlFileData *control = get_controlfile(".", &crc_ok);

	return control->state == DB_SHUTDOWNED ? control->checkPoint : InvalidXLogRecPtr;
}

static void
init_control(void)
{
	LWLockPadded *locks = GetNamedLWLockTranche(FANOUT_TRANCHE);

	Fanout->lock = &locks[0].lock;
	Fanout->registry_lock = &locks[1].lock;
	Fanout->activity_lock = &locks[2].lock;
	Fanout->activity_area = DSM_HANDLE_INVALID;
	SpinLockInit(&Fanout->mutex);
	Fanout->shutdown_lsn = read_shutdown_lsn();
	Fanout->launcher_procno = -1;
	pg_atomic_init_u32(&Fanout->leader_streams, 0);
	pg_atomic_init_u32(&Fanout->followed_streams, 0);
	pg_atomic_init_u32(&Fanout->discovered, 0);
	pg_atomic_init_u32(&Fanout->looked_into, InvalidOid);
	pg_atomic_init_u64(&Fanout->guard_generation, 1);
}

static void
init_arrays(void)
{
	memset(LeaderStreams, 0, mul_size(sizeof(LeaderStream), fanout_max_streams));
	memset(Registrations, 0, mul_size(sizeof(Registration), fanout_max_followers));
	memset(FollowedStreams, 0, mul_size(sizeof(FollowedStream), fanout_max_streams));

	for (int i = 0; i < fanout_max_streams; i++)
	{
		SpinLockInit(&LeaderStreams[i].mutex);
		worker_info_init(&LeaderStreams[i].worker);
		pg_atomic_init_u32(&LeaderStreams[i].log_trust, LOG_TRUSTED);
		pg_atomic_init_u64(&LeaderStreams[i].flush_request, 0);
		pg_atomic_init_u64(&LeaderStreams[i].async_commit_lsn, 0);
		pg_atomic_init_u32(&LeaderStreams[i].decoder_asleep, 0);
		ConditionVariableInit(&LeaderStreams[i].follower_applied);

		SpinLockInit(&FollowedStreams[i].mutex);
		worker_info_init(&FollowedStreams[i].worker);
		ConditionVariableInit(&FollowedStreams[i].changed);
		pg_atomic_init_u32(&FollowedStreams[i].ask_now, 0);
		pg_atomic_init_u32(&FollowedStreams[i].reread, 0);
		pg_atomic_init_u64(&FollowedStreams[i].settled_xid, 0);
	}
	for (int i = 0; i < fanout_max_followers; i++)
	{
		SpinLockInit(&Registrations[i].mutex);
		Registrations[i].sender_procno = -1;
		pg_atomic_init_u32(&Registrations[i].sender_asleep, 0);
		pg_atomic_init_u32(&Registrations[i].sender_challenged, 0);
	}
}

/* Claim an entry for every hint; those that do not fit are the launcher's to report. */
static void
claim_from_hints(void)
{
	ListCell   *lc;

	foreach(lc, hint_list())
	{
		Hint	   *hint = lfirst(lc);

		if (hint->kind == HINT_STREAM)
			(void) leader_stream_claim(hint->dboid, hint->id);
		else
			(void) followed_stream_claim(hint->dboid, hint->id);
	}
}

static void
shmem_startup(void)
{
	bool		found;
	bool		found_any;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	Fanout = ShmemInitStruct("pg_fanout", sizeof(FanoutShmem), &found);
	LeaderStreams = ShmemInitStruct("pg_fanout leader streams",
									mul_size(sizeof(LeaderStream), fanout_max_streams),
									&found_any);
	Registrations = ShmemInitStruct("pg_fanout registrations",
									mul_size(sizeof(Registration), fanout_max_followers),
									&found_any);
	FollowedStreams = ShmemInitStruct("pg_fanout followed streams",
									  mul_size(sizeof(FollowedStream), fanout_max_streams),
									  &found_any);
	if (!found)
	{
		init_control();
		init_arrays();
	}
	history_shmem_init();
	read_running_shmem_init();
	LWLockRelease(AddinShmemInitLock);

	if (!found)
		claim_from_hints();
}

void
fanout_shmem_init(void)
{
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = shmem_request;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = shmem_startup;
}

/* ---------- leader streams ---------- */

/* Index of the entry, -1 when there is none; *free_slot gets a free one or -1. */
static int
leader_stream_index(Oid dboid, int32 id, int *free_slot)
{
	*free_slot = -1;
	for (int i = 0; i < fanout_max_streams; i++)
	{
		LeaderStream *stream = &LeaderStreams[i];

		if (stream->in_use && stream->dboid == dboid && stream->id == id)
			return i;
		if (!stream->in_use && *free_slot < 0)
			*free_slot = i;
	}
	return -1;
}

LeaderStream *
leader_stream_find(Oid dboid, int32 id)
{
	int			free_slot;
	int			i;

	LWLockAcquire(Fanout->lock, LW_SHARED);
	i = leader_stream_index(dboid, id, &free_slot);
	LWLockRelease(Fanout->lock);
	return i < 0 ? NULL : &LeaderStreams[i];
}

/* Reads without a lock: a stream that is being made or dropped may count or not. */
bool
leader_of_any_stream(Oid dboid)
{
	if (Fanout == NULL || pg_atomic_read_u32(&Fanout->leader_streams) == 0)
		return false;
	for (int i = 0; i < fanout_max_streams; i++)
	{
		if (LeaderStreams[i].in_use && LeaderStreams[i].dboid == dboid)
			return true;
	}
	return false;
}

/* What a claim resets: everything but the mutex and the identity. */
static void
leader_stream_reset(LeaderStream *stream)
{
	memset(&stream->name, 0, sizeof(stream->name));
	worker_info_init(&stream->worker);
	stream->state = STREAM_STARTING;
	memset(&stream->end, 0, sizeof(stream->end));
	stream->decoded_lsn = InvalidXLogRecPtr;
	stream->log_start_lsn = InvalidXLogRecPtr;
	stream->synced_lsn = InvalidXLogRecPtr;
	stream->log_bytes = 0;
	stream->transactions = 0;
	stream->changes = 0;
	stream->registry_loaded = false;
	stream->registry_system = 0;
	stream->registry_timeline = 0;
	stream->era_begun = false;
	stream->era_count = 0;
	stream->dropped_count = 0;
	pg_atomic_write_u32(&stream->log_trust, LOG_TRUSTED);
	stream->failed_lsn = InvalidXLogRecPtr;
	stream->failures = 0;
	pg_atomic_write_u64(&stream->flush_request, 0);
	pg_atomic_write_u64(&stream->async_commit_lsn, 0);
	pg_atomic_write_u32(&stream->decoder_asleep, 0);
}

/* Who claims a record for a stream that exists does so outside of transactions. */
static VirtualTransactionId
current_transaction(void)
{
	VirtualTransactionId vxid;

	SetInvalidVirtualTransactionId(vxid);
	if (MyProc != NULL)
		GET_VXID_FROM_PGPROC(vxid, *MyProc);
	return vxid;
}

static bool
is_running(VirtualTransactionId vxid)
{
	return VirtualTransactionIdIsValid(vxid) && !VirtualXactLock(vxid, false);
}

LeaderStream *
leader_stream_claim(Oid dboid, int32 id)
{
	int			free_slot;
	int			i;

	LWLockAcquire(Fanout->lock, LW_EXCLUSIVE);
	i = leader_stream_index(dboid, id, &free_slot);
	if (i < 0 && free_slot >= 0)
	{
		LeaderStream *stream = &LeaderStreams[free_slot];

		SpinLockAcquire(&stream->mutex);
		leader_stream_reset(stream);
		stream->dboid = dboid;
		stream->id = id;
		stream->maker = current_transaction();
		stream->in_use = true;
		SpinLockRelease(&stream->mutex);
		pg_atomic_fetch_add_u32(&Fanout->leader_streams, 1);
		i = free_slot;
	}
	LWLockRelease(Fanout->lock);
	return i < 0 ? NULL : &LeaderStreams[i];
}

/* Give up a stream's entry and those of its followers. */
void
leader_stream_release(LeaderStream *stream)
{
	LWLockAcquire(Fanout->lock, LW_EXCLUSIVE);
	for (int i = 0; i < fanout_max_followers; i++)
	{
		Registration *registration = &Registrations[i];

		SpinLockAcquire(&registration->mutex);
		if (registration->in_use && registration->dboid == stream->dboid &&
			registration->stream_id == stream->id)
			registration->in_use = false;
		SpinLockRelease(&registration->mutex);
	}
	SpinLockAcquire(&stream->mutex);
	stream->in_use = false;
	SpinLockRelease(&stream->mutex);
	pg_atomic_fetch_sub_u32(&Fanout->leader_streams, 1);
	LWLockRelease(Fanout->lock);
}

/* ---------- followed streams ---------- */

static int
followed_stream_index(Oid dboid, int32 id, int *free_slot)
{
	*free_slot = -1;
	for (int i = 0; i < fanout_max_streams; i++)
	{
		FollowedStream *stream = &FollowedStreams[i];

		if (stream->in_use && stream->dboid == dboid && stream->id == id)
			return i;
		if (!stream->in_use && *free_slot < 0)
			*free_slot = i;
	}
	return -1;
}

FollowedStream *
followed_stream_find(Oid dboid, int32 id)
{
	int			free_slot;
	int			i;

	LWLockAcquire(Fanout->lock, LW_SHARED);
	i = followed_stream_index(dboid, id, &free_slot);
	LWLockRelease(Fanout->lock);
	return i < 0 ? NULL : &FollowedStreams[i];
}

bool
follows_anything(void)
{
	return Fanout != NULL &&
		(pg_atomic_read_u32(&Fanout->followed_streams) > 0 ||
		 pg_atomic_read_u32(&Fanout->discovered) == 0 || RecoveryInProgress());
}

static void
followed_stream_reset(FollowedStream *stream)
{
	memset(&stream->stream, 0, sizeof(stream->stream));
	memset(&stream->follower, 0, sizeof(stream->follower));
	stream->leader[0] = '\0';
	stream->leader_system = 0;
	stream->leader_dboid = InvalidOid;
	worker_info_init(&stream->worker);
	stream->sender_pid = 0;
	stream->former_sender_pid = 0;
	stream->forgotten = false;
	stream->row_holder = 0;
	stream->stopped_by = 0;
	stream->state = FOLLOW_STARTING;
	stream->hold_pid = 0;
	stream->held = false;
	stream->received_lsn = InvalidXLogRecPtr;
	stream->applied_lsn = InvalidXLogRecPtr;
	stream->applied_xid = 0;
	stream->durable_lsn = InvalidXLogRecPtr;
	stream->leader_lsn = InvalidXLogRecPtr;
	stream->leader_heard = false;
	stream->leader_seq = 0;
	stream->applied_seq = 0;
	stream->applied_transactions = 0;
	stream->last_applied_at = 0;
	stream->generation++;
	stream->fine_next = 0;
	stream->coarse_next = 0;
	stream->alone_until = InvalidXLogRecPtr;
	stream->failed_after = InvalidXLogRecPtr;
	stream->failing_lsn = InvalidXLogRecPtr;
	pg_atomic_write_u32(&stream->ask_now, 0);
	pg_atomic_write_u64(&stream->settled_xid, 0);
	pg_atomic_write_u32(&stream->reread, 0);
}

FollowedStream *
followed_stream_claim(Oid dboid, int32 id)
{
	int			free_slot;
	int			i;

	LWLockAcquire(Fanout->lock, LW_EXCLUSIVE);
	i = followed_stream_index(dboid, id, &free_slot);
	if (i < 0 && free_slot >= 0)
	{
		FollowedStream *stream = &FollowedStreams[free_slot];

		SpinLockAcquire(&stream->mutex);
		followed_stream_reset(stream);
		stream->dboid = dboid;
		stream->id = id;
		stream->maker = current_transaction();
		stream->in_use = true;
		SpinLockRelease(&stream->mutex);
		pg_atomic_fetch_add_u32(&Fanout->followed_streams, 1);
		i = free_slot;
	}
	LWLockRelease(Fanout->lock);
	return i < 0 ? NULL : &FollowedStreams[i];
}

void
followed_stream_release(FollowedStream *stream)
{
	LWLockAcquire(Fanout->lock, LW_EXCLUSIVE);
	SpinLockAcquire(&stream->mutex);
	stream->in_use = false;
	SpinLockRelease(&stream->mutex);
	pg_atomic_fetch_sub_u32(&Fanout->followed_streams, 1);
	LWLockRelease(Fanout->lock);
	ConditionVariableBroadcast(&stream->changed);
}

static List *
add_hint(List *hints, HintKind kind, Oid dboid, int32 id)
{
	Hint	   *hint = palloc(sizeof(Hint));

	hint->kind = kind;
	hint->dboid = dboid;
	hint->id = id;
	return lappend(hints, hint);
}

List *
streams_with_records(void)
{
	List	   *hints = NIL;

	LWLockAcquire(Fanout->lock, LW_SHARED);
	for (int i = 0; i < fanout_max_streams; i++)
	{
		if (LeaderStreams[i].in_use && !is_running(LeaderStreams[i].maker))
			hints = add_hint(hints, HINT_STREAM, LeaderStreams[i].dboid, LeaderStreams[i].id);
		if (FollowedStreams[i].in_use && !is_running(FollowedStreams[i].maker))
			hints = add_hint(hints, HINT_FOLLOWED, FollowedStreams[i].dboid,
							 FollowedStreams[i].id);
	}
	LWLockRelease(Fanout->lock);
	return hints;
}

/* ---------- too many ---------- */

/*
 * A record for a stream that is being made, before its row is committed: so nobody makes more
 * than there is room for.  After a rollback the worker that is started for the hint finds no
 * row and gives the record back.  That of a stream that was just dropped is free once its
 * last worker has cleaned up, so wait for a while.
 */
static bool
reserve_record(HintKind kind, int32 id)
{
	for (int waited = 0;; waited += FREE_POLL_MS)
	{
		if (kind == HINT_STREAM ? leader_stream_claim(MyDatabaseId, id) != NULL
			: followed_stream_claim(MyDatabaseId, id) != NULL)
			return true;
		if (waited >= FREE_TIMEOUT_MS)
			return false;
		CHECK_FOR_INTERRUPTS();
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 FREE_POLL_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}

void
leader_stream_reserve(int32 id)
{
	if (!reserve_record(HINT_STREAM, id))
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many streams on this server"),
				 errdetail("It leads %d already.", fanout_max_streams),
				 errhint("Raise \"fanout.max_streams\" and restart the server.")));
}

void
followed_stream_reserve(int32 id)
{
	if (!reserve_record(HINT_FOLLOWED, id))
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many followed streams on this server"),
				 errdetail("It follows %d already.", fanout_max_streams),
				 errhint("Raise \"fanout.max_streams\" and restart the server.")));
}

/* ---------- workers ---------- */

void
fanout_wake(int procno)
{
	if (procno >= 0)
		SetLatch(&ProcGlobal->allProcs[procno].procLatch);
}

void
worker_info_error(slock_t *mutex, WorkerInfo *info, const char *message)
{
	TimestampTz now = GetCurrentTimestamp();
	int			len = pg_mbcliplen(message, strlen(message), FANOUT_ERROR_LEN - 1);

	SpinLockAcquire(mutex);
	memcpy(info->last_error, message, len);
	info->last_error[len] = '\0';
	info->last_error_at = now;
	SpinLockRelease(mutex);
}

void
worker_info_started(slock_t *mutex, WorkerInfo *info)
{
	SpinLockAcquire(mutex);
	info->pid = MyProcPid;
	info->procno = GetNumberFromPGProc(MyProc);
	SpinLockRelease(mutex);
}

void
worker_info_stopped(slock_t *mutex, WorkerInfo *info)
{
	TimestampTz now = GetCurrentTimestamp();

	SpinLockAcquire(mutex);
	info->pid = 0;
	info->procno = -1;
	info->stopped_at = now;
	SpinLockRelease(mutex);
}
