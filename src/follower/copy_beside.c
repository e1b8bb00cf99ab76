/*
 * copy_beside.c
 *		Copying tables beside the running stream.
 *
 * For a table that has to be copied again, or has joined the stream, the others need not
 * wait.  Its changes are ignored while a process of its own, the copier, brings the rows,
 * and are applied afterwards:
 *
 *	1. Before the worker streams, it writes where the stream stands to
 *	   followed_stream.copy_lsn, unless one is there, and starts the copier.  From then on
 *	   it reports nothing after copy_lsn as durable, so the leader keeps the log from there.
 *	2. The copier takes a snapshot of the leader that sees all that committed before, so
 *	   all up to copy_lsn.  For each pending table it deletes the rows, copies, and notes the
 *	   snapshot, in one transaction; the table is then behind.  Readers see the old rows
 *	   until that commits.
 *	3. The worker has the leader send the stream from copy_lsn again.  Of the transactions
 *	   that it has applied already it applies what changes tables that are behind, and what
 *	   their snapshots don't see (apply.c): all in one local transaction, which also puts
 *	   these tables in line with the stream.  Then it goes on as always.
 *
 * Whatever is interrupted leaves a table pending or behind as it was, and is done again.
 * Step 3 begins only when nothing is being copied by a worker that waits for it.
 *
 * The copier ends with its worker, when that does not stream any more, and when the worker
 * waits for a lock that it has: for a schema change.  A schema change of a table that is
 * pending or behind has it copied again (apply_ddl.c).
 *
 * A table that can't be copied stays pending, and its changes are ignored; the others are
 * copied and put in line.  The worker starts another copier after a pause, which grows.  While no
 * table is behind, copy_lsn moves along then: nothing is kept for a copy that is to begin anew.
 *
 * copier_pid and copier_owner in the stream's record say who copies for which worker: there is
 * never more than one, and none beside a copy by the worker itself.
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "replication/origin.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "follower/copy.h"
#include "follower/local_table.h"
#include "launcher.h"
#include "session.h"
#include "transaction.h"

extern PGDLLEXPORT void fanout_copier_main(Datum arg);

#define POLL_MS		20
#define MAX_TRIES	10

/* What a copier is started with, in bgw_extra. */
typedef struct CopierStart
{
	Oid			dboid;
	int32		followed_id;
	pid_t		owner;			/* the worker */
} CopierStart;

/* ---------- the worker's side ---------- */

/* When to look whether there is a copier, as long as tables are pending. */
static struct
{
	int64		at;				/* fanout_boottime_us(); 0: none are */
	int			failures;		/* so often there was none */
	bool		due;			/* now */
} retry;

#define MAX_RETRY_PAUSE_MS	60000

static int64
retry_pause(void)
{
	int64		pause = (int64) fanout_retry_interval << Min(retry.failures, 16);

	return Min(pause, Max(fanout_retry_interval, MAX_RETRY_PAUSE_MS)) * 1000;
}

static pid_t
read_copier(FollowedStream *stream, pid_t *owner)
{
	pid_t		pid;

	SpinLockAcquire(&stream->mutex);
	pid = stream->copier_pid;
	*owner = stream->copier_owner;
	SpinLockRelease(&stream->mutex);
	return pid;
}

void
copier_signal(FollowedStream *stream)
{
	pid_t		owner;
	pid_t		pid = read_copier(stream, &owner);

	if (pid != 0)
		(void) kill(pid, SIGTERM);
}

void
copier_end(FollowedStream *stream)
{
	pid_t		owner;

	while (read_copier(stream, &owner) != 0)
	{
		copier_signal(stream);
		CHECK_FOR_INTERRUPTS();
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 POLL_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}

/* One that is at work may be about to end: then it wakes the worker. */
static bool
copier_is_there(FollowedStream *stream)
{
	bool		there;

	SpinLockAcquire(&stream->mutex);
	there = stream->copier_pid != 0;
	if (there)
		stream->copier_wanted = true;
	SpinLockRelease(&stream->mutex);
	return there;
}

static bool
start_copier(const FollowedRow *row)
{
	BackgroundWorker worker = {0};
	CopierStart start = {.dboid = MyDatabaseId,.followed_id = row->id,.owner = MyProcPid};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker.bgw_library_name, FANOUT_LIBRARY, BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "fanout_copier_main", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "pg_fanout copy", BGW_MAXLEN);
	snprintf(worker.bgw_name, BGW_MAXLEN, "pg_fanout copy beside stream \"%s\"", NameStr(row->stream));
	memcpy(worker.bgw_extra, &start, sizeof(start));
	if (RegisterDynamicBackgroundWorker(&worker, NULL))
		return true;
	ereport(LOG,
			(errmsg("no background worker slot is free to copy tables beside stream \"%s\"",
					NameStr(row->stream)),
			 errhint("Raise \"max_worker_processes\" to have the stream go on meanwhile.")));
	return false;
}

/* Is any table in that state? */
static bool
any_in_state(int32 followed_id, char state)
{
	return followed_execute(psprintf("SELECT 1 FROM fanout.followed_table"
									 " WHERE followed_id = $1 AND state = '%c' LIMIT 1", state),
							followed_id) > 0;
}

static void
note_copy_lsn(FollowedRow *row, XLogRecPtr lsn)
{
	followed_execute(psprintf("UPDATE fanout.followed_stream SET copy_lsn = nullif('%X/%X', '0/0')::pg_lsn"
							  " WHERE id = $1", LSN_FORMAT_ARGS(lsn)), row->id);
	row->copy_lsn = lsn;
}

static void
copy_first(int32 followed_id, bool failed_too)
{
	followed_execute(psprintf("UPDATE fanout.followed_stream s SET copy_state = 'data'"
							  " WHERE id = $1 AND copy_state = 'done' AND EXISTS (SELECT"
							  " FROM fanout.followed_table t WHERE t.followed_id = s.id"
							  " AND t.state = 'p'%s)", failed_too ? "" : " AND t.failures = 0"),
					 followed_id);
}

void
copy_before_streaming(int32 followed_id)
{
	copy_first(followed_id, false);
}

/*
 * The schema came with an earlier snapshot than the rows, when a copy was interrupted.  The
 * tables that are pending still are copied beside the stream, then.
 */
void
stream_before_copying(int32 followed_id)
{
	followed_execute("UPDATE fanout.followed_stream"
					 " SET copy_state = CASE WHEN copy_schema AND NOT schema_done THEN 'indexes'"
					 " ELSE 'done' END"
					 " WHERE id = $1 AND copy_state = 'data' AND start_lsn IS NOT NULL",
					 followed_id);
}

/*
 * Where a copy begins, unless one has.  It must not be lost by a crash: the copy needs the
 * stream from there.  Returns whether any table is pending.
 */
static bool
note_where_it_begins(FollowedRow *row, bool copier_there)
{
	MemoryContext context = CurrentMemoryContext;
	XLogRecPtr	standing = replorigin_session_get_progress(true);
	bool		pending;
	bool		behind;

	begin_step("looking for tables to be copied");
	MemoryContextSwitchTo(context);
	schedule_copies_of_unlogged(row->id);
	pending = any_in_state(row->id, TABLE_PENDING);
	behind = any_in_state(row->id, TABLE_BEHIND);
	if (pending && !behind && !copier_there)
		note_copy_lsn(row, standing);
	else if (!pending && !behind && !XLogRecPtrIsInvalid(row->copy_lsn))
		note_copy_lsn(row, InvalidXLogRecPtr);
	end_step();
	return pending;
}

bool
copy_beside(FollowedStream *stream, FollowedRow *row)
{
	bool		there;
	bool		due = retry.due;
	bool		stream_first;
	pid_t		owner;

	if (read_copier(stream, &owner) != 0 && owner != MyProcPid)
		copier_end(stream);
	retry.due = false;
	there = copier_is_there(stream);
	if (!note_where_it_begins(row, there))
	{
		retry.at = 0;
		retry.failures = 0;
		return true;
	}
	/* What it commits is not in line with the others: before that, nobody takes it for that. */
	tables_settled(stream, 0);
	retry.at = fanout_boottime_us() + retry_pause();
	if (there || start_copier(row))
		return true;
	begin_step("no process is free to copy tables");
	copy_first(row->id, due);
	stream_first = followed_execute("SELECT 1 FROM fanout.followed_stream"
									" WHERE id = $1 AND copy_state = '" COPY_DONE "'", row->id) > 0;
	end_step();
	return stream_first;
}

bool
copier_is_due(FollowedStream *stream)
{
	pid_t		owner;

	if (retry.at == 0 || fanout_boottime_us() < retry.at)
		return false;
	retry.at = fanout_boottime_us() + retry_pause();
	if (read_copier(stream, &owner) != 0)
		return false;
	retry.failures++;
	retry.due = true;
	return true;
}

/* ---------- the copier ---------- */

static FollowedStream *my_stream;
static pid_t my_owner;
static bool copied = false;		/* any table */

/* Is the worker that started this still there, and streaming? */
static bool
is_wanted(void)
{
	bool		wanted;

	SpinLockAcquire(&my_stream->mutex);
	wanted = my_stream->worker.pid == my_owner &&
		(my_stream->state == FOLLOW_STREAMING || my_stream->state == FOLLOW_CATCHING_UP);
	SpinLockRelease(&my_stream->mutex);
	return wanted;
}

static bool
claim(void)
{
	bool		claimed;

	SpinLockAcquire(&my_stream->mutex);
	claimed = my_stream->worker.pid == my_owner && my_stream->copier_pid == 0;
	if (claimed)
	{
		my_stream->copier_pid = MyProcPid;
		my_stream->copier_owner = my_owner;
		my_stream->copier_wanted = false;
	}
	SpinLockRelease(&my_stream->mutex);
	return claimed;
}

static void
wake_owner(void)
{
	int			procno;

	pg_atomic_write_u32(&my_stream->reread, 1);
	SpinLockAcquire(&my_stream->mutex);
	procno = my_stream->worker.procno;
	SpinLockRelease(&my_stream->mutex);
	fanout_wake(procno);
}

/*
 * Called after the transaction has ended, see fanout_copier_main().  The worker has to put
 * in line what was copied, and to start another one if more is to be.
 */
static void
copier_gone(int code, Datum arg)
{
	bool		wanted;

	SpinLockAcquire(&my_stream->mutex);
	my_stream->copier_pid = 0;
	wanted = my_stream->copier_wanted;
	SpinLockRelease(&my_stream->mutex);
	if (copied || wanted)
		wake_owner();
}

/* The copy_table() callback. */
static void
end_if_in_the_way(void)
{
	if (!is_wanted())
		proc_exit(0);
	if (!waits_for_us(my_owner))
		return;
	ereport(LOG,
			(errmsg("the copy of a table is given up, since a schema change of the stream needs the table"),
			 errdetail("It begins anew after that.")));
	proc_exit(1);
}

static void
wait_before_snapshot(PGconn *conn, const FollowedRow *row, List *tables)
{
	List	   *joined = NIL;
	ListCell   *lc;

	foreach(lc, tables)
	{
		PendingTable *table = lfirst(lc);

		if (table->joined && !row->all_tables)
			joined = lappend_oid(joined, table->leader->relid);
	}
	wait_for_writers(conn, row, joined);
}

/* Those that this process has not tried yet. */
static List *
tables_to_copy(PGconn *conn, const FollowedRow *row, List *tried, const FollowedTable **missing)
{
	List	   *pending = pending_tables(row, leader_tables(conn, NameStr(row->stream)), missing);
	ListCell   *lc;

	foreach(lc, pending)
	{
		if (list_member_oid(tried, ((PendingTable *) lfirst(lc))->relid))
			pending = foreach_delete_current(pending, lc);
	}
	return pending;
}

/*
 * The leader's transaction that sees the tables locked and unchanged; returns the
 * pending tables, *snapshot is what it sees, *missing is one of those that are not there.
 */
static List *
take_snapshot(PGconn *conn, const FollowedRow *row, List *tried, char **snapshot,
			  const FollowedTable **missing)
{
	for (int i = 0; i < MAX_TRIES; i++)
	{
		List	   *tables = tables_to_copy(conn, row, tried, missing);
		List	   *on_leader = pending_on_leader(tables);

		CHECK_FOR_INTERRUPTS();
		wait_before_snapshot(conn, row, tables);
		PQclear(leader_query(conn, "BEGIN ISOLATION LEVEL REPEATABLE READ", 0, NULL));
		lock_leader_tables(conn, on_leader);
		*snapshot = leader_query_value(conn, "SELECT pg_catalog.pg_current_snapshot()", 0, NULL);
		if (same_tables(on_leader, pending_on_leader(tables_to_copy(conn, row, tried, missing))))
			return tables;
		PQclear(leader_query(conn, "ROLLBACK", 0, NULL));
	}
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the tables of stream \"%s\" change too often to be copied",
					NameStr(row->stream))));
}

/*
 * A table that was dropped, or has left the publications, leaves here, too, when the stream
 * comes to that: unless it is one of all tables without schema changes.
 */
static void
check_missing(PGconn *conn, const FollowedRow *row, const FollowedTable *missing)
{
	bool		all_tables;
	bool		ddl;
	char	   *text;

	if (missing == NULL)
		return;
	ask_about_stream(conn, row, &all_tables, &ddl);
	if (!all_tables || ddl)
		return;
	text = psprintf("table \"%s.%s\" is no longer in stream \"%s\" of the leader",
					missing->nspname, missing->relname, NameStr(row->stream));
	begin_step("noting a table that is gone");
	followed_execute(psprintf("UPDATE fanout.followed_table SET last_error = %s,"
							  " last_error_at = pg_catalog.clock_timestamp()"
							  " WHERE followed_id = $1 AND relid = %u AND state = 'p'",
							  quote_literal_cstr(text), missing->relid), row->id);
	end_step();
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_TABLE),
			 errmsg_internal("%s", text),
			 errhint("Call fanout.resync() without a table to copy those that are.")));
}

/*
 * Copy with one snapshot of the leader until nothing is left, or a table can't be copied; *tried
 * are the oids of those tables, and the connection is gone with the last of them.  Returns whether
 * anything is left.
 */
static bool
copy_with_one_snapshot(const FollowedRow *row, List **tried)
{
	MemoryContext context = CurrentMemoryContext;
	PGconn	   *conn;
	const FollowedTable *missing;
	char	   *snapshot;
	List	   *tables;
	ListCell   *lc;

	begin_step("preparing to copy tables beside the stream");
	MemoryContextSwitchTo(context);
	conn = leader_connect(row->conninfo, NameStr(row->follower));
	tables = take_snapshot(conn, row, *tried, &snapshot, &missing);
	copy_note_totals(row, tables);
	end_step();
	pgstat_report_activity(STATE_RUNNING, "copying tables beside the stream");

	foreach(lc, tables)
	{
		PendingTable *table = lfirst(lc);

		*tried = lappend_oid(*tried, table->relid);
		if (!copy_table_by_itself(row, conn, table, snapshot, end_if_in_the_way))
		{
			leader_disconnect(conn);
			return true;
		}
		copied = true;
	}
	check_missing(conn, row, missing);
	leader_disconnect(conn);
	return false;
}

/* Lives in its own context, in which the copies' transactions come and go. */
static void
copy_pending(int32 followed_id)
{
	MemoryContext context = CurrentMemoryContext;
	FollowedRow *row;
	List	   *tried = NIL;

	begin_step("looking for tables to be copied");
	MemoryContextSwitchTo(context);
	row = followed_row_by_id(followed_id);
	end_step();
	while (row != NULL && copy_with_one_snapshot(row, &tried))
		CHECK_FOR_INTERRUPTS();
}

static void
keep_error(void)
{
	ErrorData  *error;

	MemoryContextSwitchTo(TopMemoryContext);
	error = CopyErrorData();
	worker_info_error(&my_stream->mutex, &my_stream->worker,
					  psprintf("copying tables beside the stream: %s%s%s",
							   error->message ? error->message : "unknown error",
							   error->detail ? ": " : "", error->detail ? error->detail : ""));
}

/* The record is left last of all: before_shmem_exit() calls go from the last to the first. */
void
fanout_copier_main(Datum arg)
{
	CopierStart start;

	memcpy(&start, MyBgworkerEntry->bgw_extra, sizeof(start));
	my_owner = start.owner;
	my_stream = followed_stream_find(start.dboid, start.followed_id);
	if (my_stream == NULL || !claim())
		proc_exit(0);
	before_shmem_exit(copier_gone, (Datum) 0);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	session_connect(start.dboid);
	pgstat_report_appname(MyBgworkerEntry->bgw_name);
	follower_session_init();
	MemoryContextSwitchTo(AllocSetContextCreate(TopMemoryContext, "pg_fanout copier",
												ALLOCSET_DEFAULT_SIZES));
	PG_TRY();
	{
		copy_pending(start.followed_id);
	}
	PG_CATCH();
	{
		keep_error();
		PG_RE_THROW();
	}
	PG_END_TRY();
	proc_exit(0);
}
