/*
 * launcher.c
 *		The launcher: one process per server that keeps a worker running for every
 *		hint directory.
 *
 * The launcher is attached to no database, so it can read none of our tables.  It
 * reads the hint directories (hints.h), claims a shared-memory record for
 * each and starts its worker: a decoder for a stream, a follower worker for a
 * followed stream.  The worker holds the hint against the tables of its
 * database, and removes the hint when they know nothing of it.
 *
 * A worker that ends is started again: at once after a long run or when
 * whoever wants it has set its failures to 0, else after a pause that doubles with
 * each failure up to fanout.retry_interval.  Whether a worker runs is told by the pid
 * in its record; the launcher's own table only bridges the time between its
 * start and its first note there, and so may be lost with the launcher.
 *
 * There may be more hints than records: fanout.max_streams was lowered.  A hint too many
 * waits until there is a record for it.  Its worker is started all the same now and then: to
 * remove the hint, if its stream is gone.
 */
#include "postgres.h"

#include "access/xact.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/ps_status.h"
#include "utils/syscache.h"

#include "compat.h"
#include "follower/history.h"
#include "launcher.h"
#include "session.h"
#include "shmem.h"
#include "transaction.h"

#define FIRST_RETRY_MS		100
#define SCAN_INTERVAL_MS	10000
#define RESERVED_POLL_MS	100

/* What the launcher remembers of a hint. */
typedef struct Launch
{
	Hint		hint;			/* hash key */
	BackgroundWorkerHandle *handle; /* NULL: none started by this launcher */
	TimestampTz started_at;
	TimestampTz retry_at;		/* not before */
	bool		refused;		/* no background worker slot was free last time */
	bool		too_many;		/* nor was a record */
	slock_t		mutex;			/* of worker, which stands in for the one in the record */
	WorkerInfo	worker;
	bool		seen;			/* still on disk in this scan */
} Launch;

static HTAB *launches;

/* ---------- waking the launcher ---------- */

static bool wake_at_end = false;

void
launcher_wake(void)
{
	int			procno;

	SpinLockAcquire(&Fanout->mutex);
	procno = Fanout->launcher_procno;
	SpinLockRelease(&Fanout->mutex);
	fanout_wake(procno);
}

static void
wake_xact_callback(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT && wake_at_end)
		launcher_wake();
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		wake_at_end = false;
}

void
launcher_wake_at_end(void)
{
	static bool registered = false;

	if (!registered)
	{
		RegisterXactCallback(wake_xact_callback, NULL);
		registered = true;
	}
	fanout_not_prepared();
	wake_at_end = true;
}

/* ---------- records ---------- */

static void
report_too_many(Launch *launch)
{
	if (!launch->too_many)
		ereport(LOG,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("%s %d of database %u waits: there are too many on this server",
						launch->hint.kind == HINT_STREAM ? "stream" : "followed stream",
						launch->hint.id, launch->hint.dboid),
				 errhint("Raise \"fanout.max_streams\" and restart the server.")));
	launch->too_many = true;
}

/* The worker in the hint's record, and its mutex; claims a record when needed. */
static WorkerInfo *
hint_worker(Launch *launch, slock_t **mutex)
{
	const Hint *hint = &launch->hint;
	LeaderStream *leader = NULL;
	FollowedStream *followed = NULL;

	if (hint->kind == HINT_STREAM)
		leader = leader_stream_claim(hint->dboid, hint->id);
	else
		followed = followed_stream_claim(hint->dboid, hint->id);

	if (leader == NULL && followed == NULL)
	{
		report_too_many(launch);
		*mutex = &launch->mutex;
		return &launch->worker;
	}
	launch->too_many = false;
	*mutex = leader != NULL ? &leader->mutex : &followed->mutex;
	return leader != NULL ? &leader->worker : &followed->worker;
}

static void
release_hint(const Hint *hint)
{
	if (hint->kind == HINT_STREAM)
	{
		LeaderStream *stream = leader_stream_find(hint->dboid, hint->id);

		if (stream != NULL)
			leader_stream_release(stream);
	}
	else
	{
		FollowedStream *stream = followed_stream_find(hint->dboid, hint->id);

		if (stream != NULL)
			followed_stream_release(stream);
	}
}

/* ---------- starting workers ---------- */

static void
describe_worker(BackgroundWorker *worker, const Hint *hint)
{
	bool		decoder = hint->kind == HINT_STREAM;

	memset(worker, 0, sizeof(*worker));
	worker->bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker->bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker->bgw_restart_time = BGW_NEVER_RESTART;
	worker->bgw_notify_pid = MyProcPid;
	strlcpy(worker->bgw_library_name, FANOUT_LIBRARY, BGW_MAXLEN);
	strlcpy(worker->bgw_function_name,
			decoder ? "fanout_decoder_main" : "fanout_follower_main", BGW_MAXLEN);
	strlcpy(worker->bgw_type, decoder ? "pg_fanout decoder" : "pg_fanout follower", BGW_MAXLEN);
	snprintf(worker->bgw_name, BGW_MAXLEN, "%s %d of database %u",
			 worker->bgw_type, hint->id, hint->dboid);
	memcpy(worker->bgw_extra, hint, sizeof(*hint));
}

static void
report_refused(Launch *launch, slock_t *mutex, WorkerInfo *info)
{
	worker_info_error(mutex, info,
					  "no background worker slot is free; raise \"max_worker_processes\"");
	if (!launch->refused)
		ereport(LOG,
				(errmsg("no background worker slot is free for pg_fanout %s %d of database %u",
						launch->hint.kind == HINT_STREAM ? "decoder" : "follower",
						launch->hint.id, launch->hint.dboid),
				 errhint("Raise \"max_worker_processes\" and restart the server.")));
	launch->refused = true;
}

static void
start_worker(Launch *launch, slock_t *mutex, WorkerInfo *info, TimestampTz now)
{
	BackgroundWorker worker;
	MemoryContext oldcontext;

	describe_worker(&worker, &launch->hint);
	oldcontext = MemoryContextSwitchTo(TopMemoryContext);
	if (RegisterDynamicBackgroundWorker(&worker, &launch->handle))
	{
		launch->started_at = now;
		launch->refused = false;
	}
	else
	{
		launch->handle = NULL;
		launch->retry_at = TimestampTzPlusMilliseconds(now, fanout_retry_interval);
		report_refused(launch, mutex, info);
	}
	MemoryContextSwitchTo(oldcontext);
}

/* A worker that is started or runs still looks after the record itself. */
static bool
has_worker(Launch *launch)
{
	pid_t		pid;

	return launch->handle != NULL &&
		GetBackgroundWorkerPid(launch->handle, &pid) != BGWH_STOPPED;
}

/* The worker started by this launcher has ended: say when it may start again. */
static void
note_worker_ended(Launch *launch, slock_t *mutex, WorkerInfo *info, TimestampTz now)
{
	int			failures;
	int			least;
	int			pause;

	pfree(launch->handle);
	launch->handle = NULL;

	SpinLockAcquire(mutex);
	if (TimestampDifferenceExceeds(launch->started_at, now, 2 * fanout_retry_interval))
		info->failures = 0;
	failures = info->failures++;
	least = info->pause_ms;
	info->pause_ms = 0;
	SpinLockRelease(mutex);

	pause = Max(least, Min(fanout_retry_interval, FIRST_RETRY_MS << Min(failures, 16)));
	launch->retry_at = TimestampTzPlusMilliseconds(now, pause);
}

/*
 * See to one hint's worker.  Returns in how many milliseconds it must be looked
 * at again.
 */
static long
tend_worker(Launch *launch, TimestampTz now)
{
	slock_t    *mutex;
	WorkerInfo *info = hint_worker(launch, &mutex);
	bool		running;
	bool		at_once;

	if (launch->handle != NULL && !has_worker(launch))
		note_worker_ended(launch, mutex, info, now);

	SpinLockAcquire(mutex);
	running = info->pid != 0;
	at_once = info->failures == 0;
	SpinLockRelease(mutex);

	if (database_is_reserved(launch->hint.dboid))
		return RESERVED_POLL_MS;
	if (running || launch->handle != NULL)
		return SCAN_INTERVAL_MS;
	if (!at_once && now < launch->retry_at)
		return TimestampDifferenceMilliseconds(now, launch->retry_at) + 1;
	start_worker(launch, mutex, info, now);
	return launch->handle != NULL ? SCAN_INTERVAL_MS : fanout_retry_interval;
}

/* ---------- the scan ---------- */

/* Databases that are gone take their hints with them. */
static bool
database_exists(Oid dboid)
{
	bool		exists;

	fanout_start_transaction();
	exists = SearchSysCacheExists1(DATABASEOID, ObjectIdGetDatum(dboid));
	CommitTransactionCommand();
	return exists;
}

static Launch *
find_launch(const Hint *hint)
{
	bool		found;
	Launch	   *launch = hash_search(launches, hint, HASH_ENTER, &found);

	if (!found)
	{
		memset((char *) launch + sizeof(Hint), 0, sizeof(Launch) - sizeof(Hint));
		SpinLockInit(&launch->mutex);
	}
	launch->seen = true;
	return launch;
}

/*
 * A stream with a record is one that was there at last: if its hint is gone, and no worker has
 * removed it, somebody else did.  The tables know: a worker looks.
 */
static void
restore_hints(void)
{
	ListCell   *lc;

	foreach(lc, streams_with_records())
	{
		Hint	   *hint = lfirst(lc);

		if (hint_exists(hint))
			continue;
		if (!database_exists(hint->dboid))
		{
			release_hint(hint);
			continue;
		}
		ereport(LOG,
				(errmsg("making the directory of %s %d of database %u again",
						hint->kind == HINT_STREAM ? "stream" : "followed stream",
						hint->id, hint->dboid)));
		hint_create(hint->kind, hint->dboid, hint->id);
	}
}

/* Forget what is no longer on disk: its last worker has given up the record. */
static void
forget_unseen(void)
{
	HASH_SEQ_STATUS status;
	Launch	   *launch;

	hash_seq_init(&status, launches);
	while ((launch = hash_seq_search(&status)) != NULL)
	{
		bool		gone = !launch->seen && !has_worker(launch);

		launch->seen = false;
		if (!gone)
			continue;
		if (launch->handle != NULL)
			pfree(launch->handle);
		hash_search(launches, &launch->hint, HASH_REMOVE, NULL);
	}
}

static long
scan_hints(void)
{
	long		timeout = SCAN_INTERVAL_MS;
	TimestampTz now = GetCurrentTimestamp();
	ListCell   *lc;

	restore_hints();
	foreach(lc, hint_list())
	{
		Hint	   *hint = lfirst(lc);

		CHECK_FOR_INTERRUPTS();
		if (!database_exists(hint->dboid))
		{
			release_hint(hint);
			hint_remove_database(hint->dboid);
			continue;
		}
		timeout = Min(timeout, tend_worker(find_launch(hint), now));
	}
	forget_unseen();
	return timeout;
}

/* ---------- entry points ---------- */

static void
launcher_gone(int code, Datum arg)
{
	SpinLockAcquire(&Fanout->mutex);
	Fanout->launcher_procno = -1;
	SpinLockRelease(&Fanout->mutex);
}

static void
launcher_init(void)
{
	HASHCTL		ctl = {.keysize = sizeof(Hint), .entrysize = sizeof(Launch)};

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	session_connect(InvalidOid);

	before_shmem_exit(launcher_gone, (Datum) 0);
	SpinLockAcquire(&Fanout->mutex);
	Fanout->launcher_procno = GetNumberFromPGProc(MyProc);
	SpinLockRelease(&Fanout->mutex);

	launches = hash_create("pg_fanout launches", 16, &ctl, HASH_ELEM | HASH_BLOBS);
}

/* Sleep up to timeout ms or until woken, sampling the history all the while. */
static void
sleep_and_sample(long timeout)
{
	TimestampTz end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout);

	do
	{
		bool		sampling = pg_atomic_read_u32(&Fanout->followed_streams) > 0;
		int			events;

		events = WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						   sampling ? Min(timeout, HISTORY_TICK_MS) : timeout,
						   PG_WAIT_EXTENSION);
		if (events & WL_LATCH_SET)
		{
			ResetLatch(MyLatch);
			return;
		}
		if (sampling)
			history_tick();
		timeout = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), end);
	} while (timeout > 0);
}

void
fanout_launcher_main(Datum arg)
{
	MemoryContext scan_context;

	launcher_init();
	scan_context = AllocSetContextCreate(TopMemoryContext, "pg_fanout hint scan",
										 ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(scan_context);

	for (;;)
	{
		long		timeout;

		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		timeout = scan_hints();

		/* The workers that are known to be needed come first. */
		if (pg_atomic_read_u32(&Fanout->discovered) == 0)
			timeout = Min(timeout, discover_streams());
		/* A transaction of the scan may have left another context behind. */
		MemoryContextSwitchTo(scan_context);
		MemoryContextReset(scan_context);

		sleep_and_sample(timeout);
	}
}

void
launcher_register(void)
{
	BackgroundWorker worker = {0};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 1;
	strlcpy(worker.bgw_library_name, FANOUT_LIBRARY, BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "fanout_launcher_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "pg_fanout launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "pg_fanout launcher", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}

Hint
worker_start(void)
{
	Hint		hint;

	memcpy(&hint, MyBgworkerEntry->bgw_extra, sizeof(hint));
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	session_connect(hint.dboid);
	pgstat_report_appname(MyBgworkerEntry->bgw_name);
	return hint;
}
