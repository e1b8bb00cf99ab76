/*
 * copy_worker.c
 *		Copying several tables at a time.
 *
 * The follower's worker puts the list of pending tables into a dynamic shared
 * memory segment and starts helpers, fanout.copy_workers - 1 of them, or as many
 * as there are background worker slots.  Each, and the worker itself, takes the
 * next table off the list until none is left.  All read with the snapshot that the
 * worker exported, so they see the same.
 *
 * A helper that fails notes why, and the others stop at their next table; what
 * was copied stays, and the next try does the rest.
 *
 * Helpers are ended with the worker, but that takes them a moment, in which another worker
 * may start.  A table is copied by one process only, and nothing is copied for a copy that
 * has begun anew since: so a helper holds a lock while it lives, and a worker that is to copy
 * waits until it can have that lock alone.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/dsm.h"
#include "storage/ipc.h"
#include "storage/lock.h"
#include "tcop/tcopprot.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "follower/copy.h"
#include "follower/local_table.h"
#include "launcher.h"
#include "transaction.h"

/* What the helpers share. */
typedef struct CopyQueue
{
	slock_t		mutex;
	int			next;			/* of the list */
	bool		failed;
	int			sqlerrcode;		/* of the error */
	char		error[FANOUT_ERROR_LEN];
	char		snapshot_id[64];
	int			count;
	Oid			relids[FLEXIBLE_ARRAY_MEMBER];	/* local tables, in order */
} CopyQueue;

/* What a helper is started with, in bgw_extra. */
typedef struct CopyHelper
{
	Oid			dboid;
	int32		followed_id;
	dsm_handle	handle;
	Size		snapshot_len;
} CopyHelper;

/*
 * The lock of the helpers of a stream.  Of a session it lasts as long as the process:
 * that is so for locks of this method only.
 */
static void
lock_helpers(int32 followed_id, LOCKMODE mode, bool of_session)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId,
					   get_relname_relid("followed_stream", get_namespace_oid(FANOUT_SCHEMA, false)),
					   followed_id, 0);
	tag.locktag_lockmethodid = USER_LOCKMETHOD;
	(void) LockAcquire(&tag, mode, of_session, false);
}

static Oid
take_next(CopyQueue *queue)
{
	Oid			relid = InvalidOid;

	SpinLockAcquire(&queue->mutex);
	if (!queue->failed && queue->next < queue->count)
		relid = queue->relids[queue->next++];
	SpinLockRelease(&queue->mutex);
	return relid;
}

/* Take tables off the queue and copy them. */
static void
copy_from_queue(const FollowedRow *row, PGconn *conn, CopyQueue *queue, List *tables,
				const char *snapshot)
{
	Oid			relid;

	while (OidIsValid(relid = take_next(queue)))
	{
		ListCell   *lc;

		CHECK_FOR_INTERRUPTS();
		foreach(lc, tables)
		{
			CopyTable  *table = lfirst(lc);
			Oid			local;

			fanout_start_transaction();
			local = local_table_find(table->nspname, table->relname, NoLock, true);
			CommitTransactionCommand();
			if (local == relid)
			{
				copy_table(row, conn, table, relid, snapshot, NULL);
				break;
			}
		}
	}
}

/* ---------- the worker's side ---------- */

static CopyQueue *
make_queue(const CopySession *session, List *relids, dsm_segment **segment)
{
	CopyQueue  *queue;
	ListCell   *lc;

	*segment = dsm_create(offsetof(CopyQueue, relids) + sizeof(Oid) * Max(list_length(relids), 1), 0);
	queue = dsm_segment_address(*segment);
	memset(queue, 0, offsetof(CopyQueue, relids));
	SpinLockInit(&queue->mutex);
	strlcpy(queue->snapshot_id, session->snapshot_id, sizeof(queue->snapshot_id));
	foreach(lc, relids)
		queue->relids[queue->count++] = lfirst_oid(lc);
	return queue;
}

static BackgroundWorkerHandle *
start_helper(const FollowedRow *row, dsm_segment *segment)
{
	BackgroundWorker worker = {0};
	CopyHelper	helper = {.dboid = MyDatabaseId, .followed_id = row->id,
	.handle = dsm_segment_handle(segment)};
	BackgroundWorkerHandle *handle;

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_notify_pid = MyProcPid;
	strlcpy(worker.bgw_library_name, FANOUT_LIBRARY, BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "fanout_copy_main", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "pg_fanout copy", BGW_MAXLEN);
	snprintf(worker.bgw_name, BGW_MAXLEN, "pg_fanout copy of stream \"%s\"", NameStr(row->stream));
	memcpy(worker.bgw_extra, &helper, sizeof(helper));
	if (RegisterDynamicBackgroundWorker(&worker, &handle))
		return handle;
	ereport(LOG,
			(errmsg("no background worker slot is free to copy several tables of stream \"%s\" at a time",
					NameStr(row->stream)),
			 errhint("Raise \"max_worker_processes\" to have it go faster.")));
	return NULL;
}

/* The handles are in a list that end_helpers() has, too. */
static void
start_helpers(const FollowedRow *row, dsm_segment *segment, int tables, List **handles)
{
	for (int i = 1; i < Min(fanout_copy_workers, tables); i++)
	{
		BackgroundWorkerHandle *handle = start_helper(row, segment);

		if (handle == NULL)
			break;
		*handles = lappend(*handles, handle);
	}
}

/* The worker fails or is ended.  It can't wait for them now, but the next one will. */
static void
end_helpers(int code, Datum arg)
{
	List	  **handles = (List **) DatumGetPointer(arg);
	ListCell   *lc;

	foreach(lc, *handles)
		TerminateBackgroundWorker(lfirst(lc));
}

void
copy_wait_for_helpers(int32 followed_id)
{
	fanout_start_transaction();
	lock_helpers(followed_id, ExclusiveLock, false);
	CommitTransactionCommand();
}

/* Tables in the leader's order that are still to be copied, as local oids. */
static List *
pending_relids(const FollowedRow *row, const CopySession *session)
{
	MemoryContext context = CurrentMemoryContext;
	List	   *relids = NIL;
	List	   *followed;
	ListCell   *lc;

	fanout_start_transaction();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(context);
	followed = followed_tables(row->id);
	foreach(lc, session->tables)
	{
		CopyTable  *table = lfirst(lc);
		Oid			relid = local_table_find(table->nspname, table->relname, NoLock, true);
		ListCell   *lc2;

		foreach(lc2, followed)
		{
			FollowedTable *followed_table = lfirst(lc2);

			if (followed_table->relid == relid && followed_table->state == TABLE_PENDING)
				relids = lappend_oid(relids, relid);
		}
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	return relids;
}

void
copy_pending_tables(const FollowedRow *row, CopySession *session)
{
	List	   *relids = pending_relids(row, session);
	List	   *handles = NIL;
	dsm_segment *segment;
	CopyQueue  *queue = make_queue(session, relids, &segment);
	ListCell   *lc;

	dsm_pin_mapping(segment);
	PG_ENSURE_ERROR_CLEANUP(end_helpers, PointerGetDatum(&handles));
	{
		start_helpers(row, segment, list_length(relids), &handles);
		copy_from_queue(row, session->conn, queue, session->tables, session->snapshot);
		foreach(lc, handles)
		{
			if (WaitForBackgroundWorkerShutdown(lfirst(lc)) == BGWH_POSTMASTER_DIED)
				proc_exit(1);
		}
	}
	PG_END_ENSURE_ERROR_CLEANUP(end_helpers, PointerGetDatum(&handles));
	if (queue->failed)
		ereport(ERROR,
				(errcode(queue->sqlerrcode),
				 errmsg("a copy worker failed: %s", queue->error)));
	if (pending_relids(row, session) != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("a copy worker ended early")));
	dsm_detach(segment);
}

/* ---------- the helper's side ---------- */

static void
helper_failed(CopyQueue *queue)
{
	ErrorData  *error;

	MemoryContextSwitchTo(TopMemoryContext);
	error = CopyErrorData();
	SpinLockAcquire(&queue->mutex);
	queue->failed = true;
	queue->sqlerrcode = error->sqlerrcode;
	strlcpy(queue->error, error->message ? error->message : "unknown error", FANOUT_ERROR_LEN);
	SpinLockRelease(&queue->mutex);
}

static void
help(const CopyHelper *helper, CopyQueue *queue)
{
	MemoryContext context = CurrentMemoryContext;
	FollowedRow *row;
	PGconn	   *conn;
	PGresult   *res;
	char	   *snapshot;

	fanout_start_transaction();
	lock_helpers(helper->followed_id, ShareLock, true);
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(context);
	row = followed_row_by_id(helper->followed_id);
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	if (row == NULL)
		return;

	conn = copy_session_join(row, queue->snapshot_id);
	res = leader_query(conn, "SELECT pg_catalog.pg_current_snapshot()::text", 0, NULL);
	snapshot = pstrdup(PQgetvalue(res, 0, 0));
	PQclear(res);
	copy_from_queue(row, conn, queue, leader_tables(conn, NameStr(row->stream)), snapshot);
	leader_disconnect(conn);
}

/* Entry point of a helper. */
void
fanout_copy_main(Datum arg)
{
	CopyHelper	helper;
	dsm_segment *segment;
	CopyQueue  *queue;

	memcpy(&helper, MyBgworkerEntry->bgw_extra, sizeof(helper));
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(helper.dboid, InvalidOid, 0);
	pgstat_report_appname(MyBgworkerEntry->bgw_name);
	follower_session_init();

	segment = dsm_attach(helper.handle);
	if (segment == NULL)
		proc_exit(0);			/* the worker has ended */
	dsm_pin_mapping(segment);
	queue = dsm_segment_address(segment);
	MemoryContextSwitchTo(AllocSetContextCreate(TopMemoryContext, "pg_fanout copy",
												ALLOCSET_DEFAULT_SIZES));
	PG_TRY();
	{
		help(&helper, queue);
	}
	PG_CATCH();
	{
		helper_failed(queue);
		PG_RE_THROW();
	}
	PG_END_TRY();
	proc_exit(0);
}
