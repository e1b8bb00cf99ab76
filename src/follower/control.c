/*
 * control.c
 *		What users do with a followed stream: unfollow, pause, resume, resync, skip a
 *		transaction, give it another leader, and wait for its copy.
 *
 * All of them change the stream's row and, once that is committed, have the
 * worker look at it again.  A rollback does nothing.  DROP EXTENSION takes the rows of all
 * streams; then their workers find none.
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_extension.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "follower/follower.h"
#include "launcher.h"

PG_FUNCTION_INFO_V1(fanout_unfollow);
PG_FUNCTION_INFO_V1(fanout_pause);
PG_FUNCTION_INFO_V1(fanout_resume);
PG_FUNCTION_INFO_V1(fanout_resync);
PG_FUNCTION_INFO_V1(fanout_skip);
PG_FUNCTION_INFO_V1(fanout_set_leader);
PG_FUNCTION_INFO_V1(fanout_wait_for_copy);

/* An unknown sender of a worker that has ended ends within that time. */
#define OLD_SENDER_MS			3000
#define UNREGISTER_POLL_MS		50

/* For a leader that takes connections, but answers nothing. */
#define UNREGISTER_TIMEOUT_MS	10000

/* ---------- what is to happen ---------- */

typedef struct PendingChange
{
	int32		id;
	SubTransactionId subid;		/* a rollback of it undoes this */
	bool		restart;		/* end the worker instead of asking it */
	bool		copy;			/* tables are to be copied again */
	bool		missing;		/* tables are missing */
	FollowedRow *unregister;	/* tell the leader that this follower is gone */
	bool		stopped;		/* ... and keep workers from their work until the end */
} PendingChange;

static List *pending = NIL;		/* in TopTransactionContext */
static bool extension_dropped = false;	/* perhaps in a subtransaction that was rolled back */

static object_access_hook_type prev_object_access = NULL;

/* All of this database's workers look for their rows. */
static void
restart_workers(void)
{
	for (int i = 0; i < fanout_max_streams; i++)
	{
		FollowedStream *stream = &FollowedStreams[i];
		pid_t		pid = 0;

		SpinLockAcquire(&stream->mutex);
		if (stream->in_use && stream->dboid == MyDatabaseId)
			pid = stream->worker.pid;
		stream->worker.failures = 0;
		SpinLockRelease(&stream->mutex);
		if (pid != 0)
			(void) kill(pid, SIGTERM);
	}
	launcher_wake();
}

/* The worker looks at its row, now that the change of it is committed. */
static void
notify_worker(const PendingChange *change)
{
	FollowedStream *stream = followed_stream_find(MyDatabaseId, change->id);
	pid_t		pid;
	int			procno;

	if (stream == NULL)
		return;
	pg_atomic_write_u32(&stream->reread, 1);
	if (change->copy)
		positions_state(stream, FOLLOW_COPYING);
	if (change->missing)
		tables_settled(stream, 0);
	SpinLockAcquire(&stream->mutex);
	pid = stream->worker.pid;
	procno = stream->worker.procno;
	stream->worker.failures = 0;
	SpinLockRelease(&stream->mutex);
	if (change->restart && pid != 0)
		(void) kill(pid, SIGTERM);
	fanout_wake(procno);
	launcher_wake();
}

/* ---------- telling the leader ---------- */

/*
 * End the worker, which must not register anew when the leader has forgotten it.  Returns the
 * leader's process that was sending to it, or did before; 0: none is known.
 */
static pid_t
stop_worker(PendingChange *change)
{
	FollowedStream *stream = followed_stream_find(MyDatabaseId, change->id);
	pid_t		sender;

	if (stream == NULL)
		return 0;
	SpinLockAcquire(&stream->mutex);
	sender = stream->sender_pid != 0 ? stream->sender_pid : stream->former_sender_pid;
	SpinLockRelease(&stream->mutex);
	change->stopped = true;
	worker_stop(stream);
	return sender;
}

/*
 * The leader may have a sender that we have not heard of, when the worker was just connecting.
 * It ends when it notices that its connection has; one that does not is another's.
 */
static void
unregister_on(PGconn *conn, const FollowedRow *row, pid_t sender)
{
	char	   *instance = DatumGetCString(DirectFunctionCall1(uuid_out,
															   UUIDPGetDatum(&row->instance)));
	const char *params[] = {NameStr(row->stream), NameStr(row->follower), instance,
		psprintf("%d", (int) sender)};
	PGresult   *res;

	leader_set_timeout(conn, UNREGISTER_TIMEOUT_MS);
	for (int waited = 0;; waited += UNREGISTER_POLL_MS)
	{
		const char *state;

		leader_query_start(conn, "SELECT fanout.unregister_follower($1, $2, $3, $4)", 4, params);
		res = leader_query_wait(conn);
		if (PQresultStatus(res) == PGRES_TUPLES_OK)
			break;
		state = PQresultErrorField(res, PG_DIAG_SQLSTATE);
		if (state == NULL || strcmp(state, "55006") != 0 || waited >= OLD_SENDER_MS)
			leader_raise(conn, res);
		PQclear(res);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 UNREGISTER_POLL_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	PQclear(res);
}

/* Best effort: a leader that can't be reached keeps changes until told otherwise. */
static void
unregister(PendingChange *change)
{
	const FollowedRow *row = change->unregister;
	MemoryContext oldcontext = CurrentMemoryContext;
	pid_t		sender = stop_worker(change);

	PG_TRY();
	{
		PGconn	   *conn = leader_connect(row->conninfo, "pg_fanout unfollow");

		unregister_on(conn, row, sender);
		leader_disconnect(conn);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(oldcontext);
		error = CopyErrorData();
		FlushErrorState();
		if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
			ReThrowError(error);
		ereport(WARNING,
				(errmsg("could not tell the leader that follower \"%s\" is gone: %s",
						NameStr(row->follower), error->message),
				 errhint("Call fanout.drop_follower('%s', '%s') on the leader, unless that is another database by now.",
						 NameStr(row->stream), NameStr(row->follower))));
	}
	PG_END_TRY();
}

static void
allow_worker(const PendingChange *change)
{
	FollowedStream *stream = change->stopped ? followed_stream_find(MyDatabaseId, change->id) : NULL;

	if (stream != NULL)
		worker_allow(stream);
}

/* ---------- at the end of the transaction ---------- */

static void
control_xact_callback(XactEvent event, void *arg)
{
	ListCell   *lc;

	if (event == XACT_EVENT_PRE_COMMIT)
	{
		foreach(lc, pending)
		{
			PendingChange *change = lfirst(lc);

			if (change->unregister != NULL)
				unregister(change);
		}
	}
	else if (event == XACT_EVENT_COMMIT)
	{
		foreach(lc, pending)
			notify_worker(lfirst(lc));
		if (extension_dropped)
			restart_workers();
	}
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
	{
		foreach(lc, pending)
			allow_worker(lfirst(lc));
		pending = NIL;
		extension_dropped = false;
	}
}

static void
control_subxact_callback(SubXactEvent event, SubTransactionId subid,
						 SubTransactionId parent, void *arg)
{
	ListCell   *lc;

	foreach(lc, pending)
	{
		PendingChange *change = lfirst(lc);

		if (change->subid != subid)
			continue;
		if (event == SUBXACT_EVENT_ABORT_SUB)
			pending = foreach_delete_current(pending, lc);
		else if (event == SUBXACT_EVENT_COMMIT_SUB)
			change->subid = parent;
	}
}

static void
register_callbacks(void)
{
	static bool registered = false;

	if (!registered)
	{
		RegisterXactCallback(control_xact_callback, NULL);
		RegisterSubXactCallback(control_subxact_callback, NULL);
	}
	registered = true;
}

static void
watch_extension(ObjectAccessType access, Oid class_id, Oid object_id, int sub_id, void *arg)
{
	if (prev_object_access)
		prev_object_access(access, class_id, object_id, sub_id, arg);
	if (access == OAT_DROP && class_id == ExtensionRelationId && follows_anything() &&
		object_id == get_extension_oid(FANOUT_LIBRARY, true))
	{
		register_callbacks();
		fanout_not_prepared();
		extension_dropped = true;
	}
}

void
control_init(void)
{
	prev_object_access = object_access_hook;
	object_access_hook = watch_extension;
}

static PendingChange *
add_pending(int32 id)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(TopTransactionContext);
	PendingChange *change = palloc0(sizeof(PendingChange));

	register_callbacks();
	fanout_not_prepared();
	change->id = id;
	change->subid = GetCurrentSubTransactionId();
	pending = lappend(pending, change);
	MemoryContextSwitchTo(oldcontext);
	return change;
}

void
control_tables_missing(int32 followed_id)
{
	add_pending(followed_id)->missing = true;
}

/* ---------- functions ---------- */

static FollowedRow *
require_stream(FunctionCallInfo fcinfo)
{
	fanout_require_preload();
	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser to change how a stream is followed")));
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("stream must not be null")));
	return followed_row_require(NameStr(*PG_GETARG_NAME(0)));
}

/*
 * Nobody else changes the stream's row until the end of the transaction, and a worker that is about
 * to is not waited for.  The row lives until then; it may be another than before.
 */
static FollowedRow *
take_row(const FollowedRow *row)
{
	MemoryContext oldcontext;
	FollowedRow *taken;

	followed_row_take(row->id);
	oldcontext = MemoryContextSwitchTo(TopTransactionContext);
	taken = followed_row_require(NameStr(row->stream));
	MemoryContextSwitchTo(oldcontext);
	return taken;
}

/* unfollow(stream name) */
Datum
fanout_unfollow(PG_FUNCTION_ARGS)
{
	FollowedRow *row = take_row(require_stream(fcinfo));
	PendingChange *change;

	(void) followed_execute("DELETE FROM fanout.followed_stream WHERE id = $1", row->id);
	followed_tables_changed();
	change = add_pending(row->id);
	change->restart = true;
	change->unregister = row;
	PG_RETURN_VOID();
}

/* pause(stream name) */
Datum
fanout_pause(PG_FUNCTION_ARGS)
{
	FollowedRow *row = take_row(require_stream(fcinfo));

	(void) followed_execute("UPDATE fanout.followed_stream SET paused = true WHERE id = $1", row->id);
	(void) add_pending(row->id);
	PG_RETURN_VOID();
}

/* resume(stream name): also retries at once after an error */
Datum
fanout_resume(PG_FUNCTION_ARGS)
{
	FollowedRow *row = require_stream(fcinfo);

	PreventCommandIfReadOnly("fanout.resume()");
	if (row->paused)
	{
		row = take_row(row);
		(void) followed_execute("UPDATE fanout.followed_stream SET paused = false WHERE id = $1",
								row->id);
	}
	(void) add_pending(row->id);
	PG_RETURN_VOID();
}

/* Has the leader said that it does not know this follower? */
static bool
is_forgotten(int32 id)
{
	FollowedStream *stream = followed_stream_find(MyDatabaseId, id);
	bool		forgotten;

	if (stream == NULL)
		return false;
	SpinLockAcquire(&stream->mutex);
	forgotten = stream->forgotten;
	SpinLockRelease(&stream->mutex);
	return forgotten;
}

/*
 * resync(stream name, relation regclass)
 *
 * One table is copied beside the stream.
 */
Datum
fanout_resync(PG_FUNCTION_ARGS)
{
	FollowedRow *row = require_stream(fcinfo);
	Oid			relid = PG_ARGISNULL(1) ? InvalidOid : PG_GETARG_OID(1);
	PendingChange *change;

	if (OidIsValid(relid) || is_forgotten(row->id))
		schedule_copy(row->id, relid);
	else
		schedule_copy_of_all(row->id);
	change = add_pending(row->id);
	change->restart = change->copy = !OidIsValid(relid);
	PG_RETURN_VOID();
}

/* The transaction that the stream stands at; fails when that is not known, or another. */
static void
check_failing(const FollowedRow *row, XLogRecPtr lsn)
{
	FollowedStream *stream = followed_stream_find(MyDatabaseId, row->id);
	XLogRecPtr	failing = InvalidXLogRecPtr;

	if (stream != NULL)
	{
		SpinLockAcquire(&stream->mutex);
		if (stream->failing_lsn >= stream->applied_lsn)
			failing = stream->failing_lsn;
		SpinLockRelease(&stream->mutex);
	}
	if (XLogRecPtrIsInvalid(failing))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("stream \"%s\" does not fail at a transaction", NameStr(row->stream)),
				 errhint("After a restart of the server, wait until it has failed again.")));
	if (failing != lsn)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the transaction committed at %X/%X is not the one that fails",
						LSN_FORMAT_ARGS(lsn)),
				 errdetail("Stream \"%s\" fails at the one committed at %X/%X.",
						   NameStr(row->stream), LSN_FORMAT_ARGS(failing))));
}

/*
 * skip(stream name, lsn pg_lsn)
 *
 * A transaction that fails for another reason later would fail there again, and say so.
 */
Datum
fanout_skip(PG_FUNCTION_ARGS)
{
	FollowedRow *row = require_stream(fcinfo);
	XLogRecPtr	lsn;

	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("lsn must not be null")));
	lsn = PG_GETARG_LSN(1);
	check_failing(row, lsn);
	row = take_row(row);
	(void) followed_execute(psprintf("UPDATE fanout.followed_stream SET skip_lsn = '%X/%X'"
									 " WHERE id = $1", LSN_FORMAT_ARGS(lsn)), row->id);
	ereport(WARNING,
			(errmsg("the leader's transaction committed at %X/%X will be passed",
					LSN_FORMAT_ARGS(lsn)),
			 errdetail("Tables that it changes are copied again, and their staleness is unknown until then.")));
	(void) add_pending(row->id);
	PG_RETURN_VOID();
}

/* Another database is another history: its tables are copied, and the old leader is told. */
static void
set_leader(FollowedRow *row, const char *conninfo)
{
	CheckedLeader leader;
	PendingChange *change;
	bool		same;

	leader_check_conninfo(conninfo);
	leader_check(&leader, conninfo, NameStr(row->stream));
	same = strtou64(leader.system, NULL, 10) == row->leader_system &&
		leader.database == row->leader_database;
	if (!same)
		leader_check_name(&leader, NameStr(row->follower), NameStr(row->stream));
	leader_disconnect(leader.conn);

	row = take_row(row);
	followed_row_set_leader(row->id, conninfo, &leader);
	change = add_pending(row->id);
	change->restart = true;
	if (same)
		return;
	schedule_copy(row->id, InvalidOid);
	change->copy = true;
	change->unregister = row;
}

/* set_leader(stream name, leader text) */
Datum
fanout_set_leader(PG_FUNCTION_ARGS)
{
	MemoryContext context = CurrentMemoryContext;
	FollowedRow *row = require_stream(fcinfo);

	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("leader must not be null")));
	PG_TRY();
	{
		set_leader(row, text_to_cstring(PG_GETARG_TEXT_PP(1)));
	}
	PG_CATCH();
	{
		rethrow_without_statement(context);
	}
	PG_END_TRY();
	PG_RETURN_VOID();
}

/*
 * wait_for_copy(stream name, timeout interval) RETURNS boolean
 *
 * Streaming means that the initial copy is complete and put in order.  A table that is to be
 * copied again counts, too.
 */
Datum
fanout_wait_for_copy(PG_FUNCTION_ARGS)
{
	FollowedRow *row;
	TimestampTz deadline;
	bool		streaming = false;

	fanout_require_preload();
	row = followed_row_require(NameStr(*PG_GETARG_NAME(0)));
	deadline = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
													   TimestampTzGetDatum(GetCurrentTimestamp()),
													   PG_GETARG_DATUM(1)));
	for (;;)
	{
		FollowedStream *stream = followed_stream_find(MyDatabaseId, row->id);
		long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);
		PositionsCopy positions;

		if (stream != NULL)
		{
			positions_read(stream, &positions);
			streaming = positions.state == FOLLOW_STREAMING && all_tables_current(stream);
		}
		if (streaming || left <= 0)
			break;
		if (stream != NULL)
			check_not_in_the_way(stream, true);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 Min(left, 20), PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	PG_RETURN_BOOL(streaming);
}
