/*
 * discovery.c
 *		Making the hints that did not come with a server's data.
 *
 * Hints (hints.h) are directories, and only what is in the WAL reaches a physical standby
 * or what is restored from a backup; and a copy or an upgrade of a server may leave out what
 * it does not know.  So a server may have rows in its databases that nobody made hints for
 * here.  After each start the launcher has a short-lived worker look into each database, one
 * after the other, and make them.
 *
 * Until all have been looked into, every database counts as one that may follow a stream
 * (follows_anything()): neither guard nor bounds go by what is not there yet.
 *
 * While no background worker is free it is tried again.  A worker whose database's tables
 * stay locked gives up, says so in the server log, and is started again after the others.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "hints.h"
#include "launcher.h"
#include "own_tables.h"
#include "session.h"
#include "shmem.h"
#include "transaction.h"

#define LOCK_TIMEOUT	"10s"
#define NEXT_ROUND_MS	30000

/* Of a database whose DROP was interrupted: the server lets nobody in. */
#define INVALID_DATABASE_LIMIT	(-2)

typedef enum LookResult
{
	LOOKED,
	NOT_LOOKED,					/* the worker has failed, or somebody drops the database */
	NO_WORKER
} LookResult;

/* ---------- the launcher's side ---------- */

static List *
connectable_databases(MemoryContext context)
{
	List	   *result = NIL;
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tuple;

	fanout_start_transaction();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_database database = (Form_pg_database) GETSTRUCT(tuple);
		MemoryContext oldcontext = MemoryContextSwitchTo(context);

		if (database->datallowconn && database->datconnlimit != INVALID_DATABASE_LIMIT)
			result = lappend_oid(result, database->oid);
		MemoryContextSwitchTo(oldcontext);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	return result;
}

static LookResult
look_into(Oid dboid)
{
	BackgroundWorker worker = {0};
	BackgroundWorkerHandle *handle;

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_notify_pid = MyProcPid;
	worker.bgw_main_arg = ObjectIdGetDatum(dboid);
	strlcpy(worker.bgw_library_name, FANOUT_LIBRARY, BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "fanout_discovery_main", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "pg_fanout discovery", BGW_MAXLEN);
	snprintf(worker.bgw_name, BGW_MAXLEN, "pg_fanout discovery of database %u", dboid);
	if (database_is_reserved(dboid))
		return NOT_LOOKED;
	pg_atomic_write_u32(&Fanout->looked_into, InvalidOid);
	if (!RegisterDynamicBackgroundWorker(&worker, &handle))
		return NO_WORKER;
	(void) WaitForBackgroundWorkerShutdown(handle);
	pfree(handle);
	return pg_atomic_read_u32(&Fanout->looked_into) == dboid ? LOOKED : NOT_LOOKED;
}

/* Those of the list that can be looked into now; the list is freed. */
static List *
still_connectable(List *oids)
{
	List	   *all = connectable_databases(CurrentMemoryContext);
	List	   *others = list_difference_oid(all, oids);
	List	   *result = list_difference_oid(all, others);

	list_free(all);
	list_free(others);
	list_free(oids);
	return result;
}

/*
 * Look into the next database, and say after how many milliseconds to go on.  Hints are found
 * by the launcher's next scan: only after that, with the next call, all is done.
 */
long
discover_streams(void)
{
	static bool listed = false;
	static List *databases = NIL;	/* to be looked into in this round */
	static List *failed = NIL;	/* ... and in the next one */
	MemoryContext oldcontext = MemoryContextSwitchTo(TopMemoryContext);
	long		pause = 0;

	if (!listed)
		databases = connectable_databases(CurrentMemoryContext);
	listed = true;
	if (databases != NIL)
	{
		Oid			dboid = linitial_oid(databases);
		LookResult	result = look_into(dboid);

		if (result == NOT_LOOKED)
			failed = lappend_oid(failed, dboid);
		if (result == NO_WORKER)
			pause = fanout_retry_interval;
		else
			databases = list_delete_first(databases);
	}
	else if (failed != NIL)
	{
		databases = still_connectable(failed);
		failed = NIL;
		pause = NEXT_ROUND_MS;
	}
	else
		pg_atomic_write_u32(&Fanout->discovered, 1);
	MemoryContextSwitchTo(oldcontext);
	return pause;
}

/* ---------- the worker ---------- */

static void
make_hints(HintKind kind, const char *table)
{
	OwnTables	state;
	Oid			types[] = {OIDOID};
	Datum		values[] = {ObjectIdGetDatum(MyDatabaseId)};

	if (!OidIsValid(own_table_oid(table)))
		return;
	own_tables_begin(&state);
	if (SPI_execute_with_args(psprintf("SELECT id FROM fanout.%s WHERE dboid = $1", table),
							  1, types, values, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read fanout.%s", table);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;

		hint_create(kind, MyDatabaseId,
					DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc,
												1, &isnull)));
	}
	own_tables_end(&state);
}

void
fanout_discovery_main(Datum dboid)
{
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	session_connect(DatumGetObjectId(dboid));
	session_set("lock_timeout", LOCK_TIMEOUT);

	fanout_start_transaction();
	PushActiveSnapshot(GetTransactionSnapshot());
	make_hints(HINT_STREAM, "stream");
	make_hints(HINT_FOLLOWED, "followed_stream");
	PopActiveSnapshot();
	CommitTransactionCommand();
	pg_atomic_write_u32(&Fanout->looked_into, MyDatabaseId);
	proc_exit(0);
}
