/*
 * discovery.c
 *		Making the hints that did not come with a server's data.
 *
 * Hints (hints.h) are directories, and only what is in the WAL reaches a physical standby
 * or what is restored from a backup.  So a server that has replayed WAL when it starts
 * may have rows in its databases that nobody made hints for here.  Its launcher then
 * has a short-lived worker look into each database, one after the other, and make them.
 *
 * While no background worker is free it is tried again.  A worker whose database's tables
 * stay locked gives up, and says so in the server log.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlogrecovery.h"
#include "catalog/pg_database.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "hints.h"
#include "launcher.h"
#include "own_tables.h"
#include "shmem.h"
#include "transaction.h"

#define LOCK_TIMEOUT	"10s"

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

		if (database->datallowconn)
			result = lappend_oid(result, database->oid);
		MemoryContextSwitchTo(oldcontext);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	return result;
}

/* Returns false when no worker is free. */
static bool
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
	if (!RegisterDynamicBackgroundWorker(&worker, &handle))
		return false;
	(void) WaitForBackgroundWorkerShutdown(handle);
	pfree(handle);
	return true;
}

/* Look into all databases if this server has replayed WAL; false: call it again later. */
bool
discover_streams(void)
{
	static List *databases = NIL;

	if (XLogRecPtrIsInvalid(GetXLogReplayRecPtr(NULL)))
		return true;
	if (databases == NIL)
		databases = connectable_databases(TopMemoryContext);
	while (databases != NIL)
	{
		CHECK_FOR_INTERRUPTS();
		if (!look_into(linitial_oid(databases)))
			return false;
		databases = list_delete_first(databases);
	}
	return true;
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
												1, &isnull)), false);
	}
	own_tables_end(&state);
}

void
fanout_discovery_main(Datum dboid)
{
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(dboid), InvalidOid, 0);
	SetConfigOption("lock_timeout", LOCK_TIMEOUT, PGC_SUSET, PGC_S_OVERRIDE);

	fanout_start_transaction();
	PushActiveSnapshot(GetTransactionSnapshot());
	make_hints(HINT_STREAM, "stream");
	make_hints(HINT_FOLLOWED, "followed_stream");
	PopActiveSnapshot();
	CommitTransactionCommand();
	proc_exit(0);
}
