/*
 * database_commands.c
 *		Commands that need a database to themselves first stop its workers.
 *
 * DROP DATABASE, ALTER DATABASE with RENAME or SET TABLESPACE, and CREATE DATABASE with
 * a TEMPLATE fail while anybody is connected to the database; a worker is, and a decoder
 * holds its slot besides.  So before such a command runs, for somebody who may run
 * it, the launcher is told to start nothing there and the workers are ended.
 *
 * What tells it is a lock, which ends with the command's transaction, however that does, and
 * which several commands hold side by side.  While the launcher finds it held it looks
 * often; afterwards it removes the hints of a database that is gone, and starts the workers
 * of one that is not.
 *
 * Senders are their followers' connections and count like everybody's.
 *
 * Replication origins belong to the whole server and outlive a database.  Those of its
 * streams go in the transaction that drops it.
 */
#include "postgres.h"

#include <signal.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xlog.h"
#include "catalog/pg_database.h"
#include "catalog/pg_replication_origin.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "replication/origin.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/rel.h"

#include "compat.h"
#include "launcher.h"
#include "shmem.h"

#define STOP_TIMEOUT_MS	5000
#define STOP_POLL_MS	10

static ProcessUtility_hook_type prev_process_utility = NULL;

/* End one worker if it runs; true if it does. */
static bool
stop_worker(slock_t *mutex, const WorkerInfo *info)
{
	pid_t		pid;

	SpinLockAcquire(mutex);
	pid = info->pid;
	SpinLockRelease(mutex);
	return pid != 0 && kill(pid, SIGTERM) == 0;
}

/* End all workers of the database; true while any runs. */
static bool
stop_workers(Oid dboid)
{
	bool		running = false;

	for (int i = 0; i < fanout_max_streams; i++)
	{
		LeaderStream *leader = &LeaderStreams[i];
		FollowedStream *followed = &FollowedStreams[i];

		if (leader->in_use && leader->dboid == dboid)
			running |= stop_worker(&leader->mutex, &leader->worker);
		if (followed->in_use && followed->dboid == dboid)
			running |= stop_worker(&followed->mutex, &followed->worker);
	}
	return running;
}

static void
stop_workers_and_wait(Oid dboid)
{
	for (int waited = 0; stop_workers(dboid) && waited < STOP_TIMEOUT_MS; waited += STOP_POLL_MS)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 STOP_POLL_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/* The server itself locks databases as objects of number 0. */
static void
reservation_tag(LOCKTAG *tag, Oid dboid)
{
	SET_LOCKTAG_OBJECT(*tag, InvalidOid, DatabaseRelationId, dboid, 1);
}

static void
reserve(Oid dboid)
{
	LOCKTAG		tag;

	reservation_tag(&tag, dboid);
	(void) LockAcquire(&tag, ShareLock, false, false);
}

bool
database_is_reserved(Oid dboid)
{
	LOCKTAG		tag;

	reservation_tag(&tag, dboid);
	if (LockAcquire(&tag, ExclusiveLock, true, true) == LOCKACQUIRE_NOT_AVAIL)
		return true;
	LockRelease(&tag, ExclusiveLock, true);
	return false;
}

/* The value of an option in a List of DefElem; NULL: not there. */
static char *
option_value(List *options, const char *name)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (strcmp(option->defname, name) == 0 && option->arg != NULL)
			return defGetString(option);
	}
	return NULL;
}

/* The database that a command needs to itself; NULL: none. */
static char *
database_needed(Node *stmt)
{
	switch (nodeTag(stmt))
	{
		case T_DropdbStmt:
			return ((DropdbStmt *) stmt)->dbname;
		case T_RenameStmt:
			return ((RenameStmt *) stmt)->renameType == OBJECT_DATABASE ?
				((RenameStmt *) stmt)->subname : NULL;
		case T_AlterDatabaseStmt:
			return option_value(((AlterDatabaseStmt *) stmt)->options, "tablespace") != NULL ?
				((AlterDatabaseStmt *) stmt)->dbname : NULL;
		case T_CreatedbStmt:
			return option_value(((CreatedbStmt *) stmt)->options, "template");
		default:
			return NULL;
	}
}

/* Names of the origins of the database's streams, see followed_origin_name(). */
static List *
origins_of(Oid dboid)
{
	Relation	rel = table_open(ReplicationOriginRelationId, RowExclusiveLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	List	   *names = NIL;
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;
		Datum		roname = heap_getattr(tuple, Anum_pg_replication_origin_roname,
										  RelationGetDescr(rel), &isnull);
		char	   *name = TextDatumGetCString(roname);
		Oid			of;
		int32		id;

		if (sscanf(name, "fanout_%u_%d", &of, &id) == 2 && of == dboid)
			names = lappend(names, name);
	}
	systable_endscan(scan);
	table_close(rel, NoLock);
	return names;
}

static void
drop_origins_of(Oid dboid)
{
	ListCell   *lc;

	foreach(lc, origins_of(dboid))
		replorigin_drop_by_name(lfirst(lc), true, false);
}

static void
database_command_utility(PlannedStmt *pstmt, const char *query_string, bool read_only_tree,
					  ProcessUtilityContext context, ParamListInfo params,
					  QueryEnvironment *query_env, DestReceiver *dest, QueryCompletion *qc)
{
	ProcessUtility_hook_type next =
		prev_process_utility ? prev_process_utility : standard_ProcessUtility;
	char	   *database = database_needed(pstmt->utilityStmt);
	Oid			dboid = database != NULL ? get_database_oid(database, true) : InvalidOid;

	if (!OidIsValid(dboid) || dboid == MyDatabaseId || RecoveryInProgress() ||
		!fanout_owns_database(dboid, GetUserId()))
	{
		next(pstmt, query_string, read_only_tree, context, params, query_env, dest, qc);
		return;
	}

	reserve(dboid);
	launcher_wake();
	stop_workers_and_wait(dboid);
	next(pstmt, query_string, read_only_tree, context, params, query_env, dest, qc);
	if (IsA(pstmt->utilityStmt, DropdbStmt))
		drop_origins_of(dboid);
}

void
database_commands_init(void)
{
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = database_command_utility;
}
