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
 * A table that can't be copied is noted as such (copy_pending.c), and the others are copied.
 * A helper that fails for another reason notes why, and the others stop at their next table;
 * what was copied stays, and the next try does the rest.
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
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "follower/copy.h"
#include "launcher.h"
#include "session.h"
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
	char		address[1024];	/* of the leader, see leader_address() */
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

static List *
read_pending(const FollowedRow *row, List *leader_list)
{
	MemoryContext context = CurrentMemoryContext;
	List	   *pending;

	fanout_start_transaction();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(context);
	pending = pending_tables(row, leader_list, NULL);
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	return pending;
}

/* An entry of a hash table. */
typedef struct PendingEntry
{
	Oid			relid;			/* here; hash key */
	const PendingTable *table;
} PendingEntry;

static HTAB *
pending_by_relid(List *pending)
{
	HASHCTL		ctl = {.keysize = sizeof(Oid), .entrysize = sizeof(PendingEntry)};
	HTAB	   *table;
	ListCell   *lc;

	ctl.hcxt = CurrentMemoryContext;
	table = hash_create("pg_fanout tables to copy", Max(list_length(pending), 1), &ctl,
						HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	foreach(lc, pending)
	{
		PendingTable *one = lfirst(lc);
		PendingEntry *entry = hash_search(table, &one->relid, HASH_ENTER, NULL);

		entry->table = one;
	}
	return table;
}

/*
 * Take tables off the queue and copy them, with a connection of its own that sees what the
 * session does whose snapshot it is.  After a failure it takes another one.
 */
static void
copy_from_queue(const FollowedRow *row, CopyQueue *queue)
{
	PGconn	   *conn = copy_session_join(row, queue->address, queue->snapshot_id);
	char	   *snapshot = leader_query_value(conn, "SELECT pg_catalog.pg_current_snapshot()", 0, NULL);
	List	   *pending = read_pending(row, leader_tables(conn, NameStr(row->stream)));
	HTAB	   *tables = pending_by_relid(pending);
	Oid			relid;

	while (OidIsValid(relid = take_next(queue)))
	{
		PendingEntry *entry = hash_search(tables, &relid, HASH_FIND, NULL);

		CHECK_FOR_INTERRUPTS();
		if (entry == NULL)
			continue;			/* it is not to be copied any more */
		if (conn == NULL)
			conn = copy_session_join(row, queue->address, queue->snapshot_id);
		if (copy_table_by_itself(row, conn, entry->table, snapshot, NULL))
			continue;
		leader_disconnect(conn);
		conn = NULL;
	}
	if (conn != NULL)
		leader_disconnect(conn);
}

/* ---------- the worker's side ---------- */

static CopyQueue *
make_queue(const CopySession *session, List *pending, dsm_segment **segment)
{
	CopyQueue  *queue;
	ListCell   *lc;

	*segment = dsm_create(offsetof(CopyQueue, relids) + sizeof(Oid) * list_length(pending), 0);
	queue = dsm_segment_address(*segment);
	memset(queue, 0, offsetof(CopyQueue, relids));
	SpinLockInit(&queue->mutex);
	strlcpy(queue->snapshot_id, session->snapshot_id, sizeof(queue->snapshot_id));
	strlcpy(queue->address, leader_address(session->conn), sizeof(queue->address));
	foreach(lc, pending)
		queue->relids[queue->count++] = ((PendingTable *) lfirst(lc))->relid;
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

/* A helper may have ended in the middle of a table. */
static void
check_all_tried(List *pending)
{
	ListCell   *lc;

	foreach(lc, pending)
	{
		if (((PendingTable *) lfirst(lc))->failures == 0)
			ereport(ERROR,
					(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
					 errmsg("a copy worker ended early")));
	}
}

void
copy_pending_tables(const FollowedRow *row, CopySession *session)
{
	List	   *pending = read_pending(row, session->tables);
	List	   *handles = NIL;
	dsm_segment *segment;
	CopyQueue  *queue;
	ListCell   *lc;

	if (pending == NIL)
		return;
	queue = make_queue(session, pending, &segment);
	dsm_pin_mapping(segment);
	PG_ENSURE_ERROR_CLEANUP(end_helpers, PointerGetDatum(&handles));
	{
		start_helpers(row, segment, list_length(pending), &handles);
		copy_from_queue(row, queue);
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
	check_all_tried(read_pending(row, session->tables));
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

	fanout_start_transaction();
	lock_helpers(helper->followed_id, ShareLock, true);
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(context);
	row = followed_row_by_id(helper->followed_id);
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	if (row != NULL)
		copy_from_queue(row, queue);
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
	session_connect(helper.dboid);
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
