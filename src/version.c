/*
 * version.c
 *		The library and the extension's SQL objects must be of one version.
 *
 * A new version comes in three steps: its files are installed, the server is
 * restarted, ALTER EXTENSION pg_fanout UPDATE is run in each database.  Between
 * the first two nothing changes: the postmaster has the old library, and all of its
 * children inherit it.  Between the last two, workers and functions fail with an error
 * that names the third step, before they read a table whose columns they may not know;
 * workers are retried, and go on where they were.  The steps can't be exchanged: CREATE
 * and ALTER EXTENSION fail when they leave a version that is not the library's.
 *
 * FANOUT_VERSION is the default version of the control file, which the Makefile hands
 * to this file alone.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_extension.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"

#include "pg_fanout.h"
#include "shmem.h"
#include "version.h"

static ProcessUtility_hook_type prev_process_utility = NULL;

/* The version of this database's extension; NULL: it has none. */
static char *
installed_version(void)
{
	Relation	rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	char	   *version = NULL;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ,
				CStringGetDatum(FANOUT_LIBRARY));
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool		isnull;
		Datum		value = heap_getattr(tuple, Anum_pg_extension_extversion,
										 RelationGetDescr(rel), &isnull);

		version = TextDatumGetCString(value);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return version;
}

static void
check(const char *hint)
{
	char	   *installed = installed_version();

	if (installed == NULL)
		return;
	if (strcmp(installed, FANOUT_VERSION) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("extension \"pg_fanout\" is of version %s, but the server loaded the library of version %s",
						installed, FANOUT_VERSION),
				 errhint("%s", hint)));
	pfree(installed);
}

void
version_check(void)
{
	check("Run ALTER EXTENSION pg_fanout UPDATE in this database.");
}

static bool
sets_version(Node *stmt)
{
	const char *name = NULL;

	if (IsA(stmt, CreateExtensionStmt))
		name = ((CreateExtensionStmt *) stmt)->extname;
	else if (IsA(stmt, AlterExtensionStmt))
		name = ((AlterExtensionStmt *) stmt)->extname;
	return name != NULL && strcmp(name, FANOUT_LIBRARY) == 0;
}

static void
version_utility(PlannedStmt *pstmt, const char *query_string, bool read_only_tree,
				ProcessUtilityContext context, ParamListInfo params,
				QueryEnvironment *query_env, DestReceiver *dest, QueryCompletion *qc)
{
	ProcessUtility_hook_type next =
		prev_process_utility ? prev_process_utility : standard_ProcessUtility;
	bool		check_after = sets_version(pstmt->utilityStmt);

	next(pstmt, query_string, read_only_tree, context, params, query_env, dest, qc);
	if (check_after)
		check("Restart the server after a new version was installed, and before this statement.");
}

void
version_init(void)
{
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = version_utility;
}
