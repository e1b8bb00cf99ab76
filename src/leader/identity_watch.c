/*
 * identity_watch.c
 *		Tables of streams with identity => true get a replica identity when they come to
 *		need one.
 *
 * There are many ways to that: a table is made, by whatever statement; its key or an index is
 * dropped; it becomes a logged table; it is attached to one that is published, or moved into a
 * published schema; a publication changes.  So while a statement that changes the schema
 * runs, an object access hook collects the tables that something happens to, and when it
 * is done, those that lack an identity get one.  That is a part of the statement, written
 * down for the followers after it.
 *
 * Statements in functions and in extensions' scripts have their turn at once: what comes
 * next may be an UPDATE.  But a script's statements don't go to the followers, which run
 * the script themselves; so the identities of its tables are written down after it.
 *
 * The server lets nobody drop the NOT NULL of a column in an identity's index.  Where we
 * have chosen the index that must not be in the way, so another one is chosen first.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/index.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_publication.h"
#include "catalog/pg_publication_namespace.h"
#include "catalog/pg_publication_rel.h"
#include "commands/extension.h"
#include "commands/tablecmds.h"
#include "miscadmin.h"
#include "tcop/utility.h"
#include "utils/array.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "leader/ddl.h"
#include "leader/identity.h"
#include "shmem.h"

/* What the statement that runs now has done; statements may run in statements. */
typedef struct Watch
{
	MemoryContext context;
	List	   *relids;			/* tables that something happened to */
	bool		publications;	/* publications were made or changed */
} Watch;

static Watch *watch = NULL;

/* Tables that the extension's script which runs now has given an identity to. */
static List *given_in_script = NIL;

static ProcessUtility_hook_type prev_process_utility = NULL;
static object_access_hook_type prev_object_access = NULL;

/* ---------- collecting ---------- */

static void
note_table(Oid relid)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(watch->context);

	watch->relids = list_append_unique_oid(watch->relids, relid);
	MemoryContextSwitchTo(oldcontext);
}

static void
note_object(ObjectAccessType access, Oid class_id, Oid object_id, int sub_id)
{
	if (class_id == RelationRelationId && access == OAT_DROP)
	{
		/* The table of an index that goes, perhaps as that of a key. */
		Oid			relid = sub_id == 0 && get_rel_relkind(object_id) == RELKIND_INDEX ?
			IndexGetRelation(object_id, true) : InvalidOid;

		if (OidIsValid(relid))
			note_table(relid);
	}
	else if (class_id == RelationRelationId || class_id == InheritsRelationId)
		note_table(object_id);
	else if (class_id == PublicationRelationId || class_id == PublicationRelRelationId ||
			 class_id == PublicationNamespaceRelationId)
		watch->publications = true;
}

static void
watch_objects(ObjectAccessType access, Oid class_id, Oid object_id, int sub_id, void *arg)
{
	if (prev_object_access)
		prev_object_access(access, class_id, object_id, sub_id, arg);
	if (watch != NULL &&
		(access == OAT_POST_CREATE || access == OAT_POST_ALTER || access == OAT_DROP))
		note_object(access, class_id, object_id, sub_id);
}

/* ---------- before the statement ---------- */

/* The column that the command allows nulls in; InvalidAttrNumber: none. */
static AttrNumber
column_losing_not_null(Oid relid, const AlterTableCmd *cmd)
{
	AttrNumber	column = InvalidAttrNumber;
	HeapTuple	tuple;

	if (cmd->subtype == AT_DropNotNull)
		return get_attnum(relid, cmd->name);
	if (cmd->subtype != AT_DropConstraint)
		return InvalidAttrNumber;
	/* From 18 on NOT NULL is a constraint that can be dropped by its name. */
	tuple = SearchSysCache1(CONSTROID,
							ObjectIdGetDatum(get_relation_constraint_oid(relid, cmd->name, true)));
	if (!HeapTupleIsValid(tuple))
		return InvalidAttrNumber;
	if (((Form_pg_constraint) GETSTRUCT(tuple))->contype == 'n')
	{
		bool		isnull;
		Datum		key = SysCacheGetAttr(CONSTROID, tuple, Anum_pg_constraint_conkey, &isnull);

		if (!isnull)
			column = ((int16 *) ARR_DATA_PTR(DatumGetArrayTypeP(key)))[0];
	}
	ReleaseSysCache(tuple);
	return column;
}

/* The table and those that inherit from it, which the statement is about to lock just so. */
static void
free_columns(AlterTableStmt *stmt)
{
	List	   *rows = identity_streams();
	LOCKMODE	lockmode = AlterTableGetLockLevel(stmt->cmds);
	Oid			relid = AlterTableLookupRelation(stmt, lockmode);
	List	   *relids = OidIsValid(relid) ? find_all_inheritors(relid, lockmode, NULL) : NIL;
	ListCell   *lc;
	ListCell   *lc2;

	foreach(lc, relids)
	{
		foreach(lc2, stmt->cmds)
		{
			AttrNumber	column = column_losing_not_null(lfirst_oid(lc),
														lfirst_node(AlterTableCmd, lc2));

			if (column != InvalidAttrNumber)
				identity_avoid(lfirst_oid(lc), column, rows);
		}
	}
}

static void
before_statement(Node *stmt)
{
	ListCell   *lc;

	if (!IsA(stmt, AlterTableStmt) || ((AlterTableStmt *) stmt)->objtype != OBJECT_TABLE)
		return;
	foreach(lc, ((AlterTableStmt *) stmt)->cmds)
	{
		AlterTableType type = lfirst_node(AlterTableCmd, lc)->subtype;

		if (type == AT_DropNotNull || type == AT_DropConstraint)
		{
			free_columns((AlterTableStmt *) stmt);
			return;
		}
	}
}

/* ---------- after the statement ---------- */

/* What it has left of the transaction can't be taken back: it has committed inside. */
static bool
committed_inside(Node *stmt)
{
	return IsA(stmt, DropStmt) && ((DropStmt *) stmt)->concurrent;
}

static void
give_to(List *relids, List *rows, bool wait)
{
	ListCell   *lc;

	foreach(lc, relids)
	{
		MemoryContext oldcontext;

		CHECK_FOR_INTERRUPTS();
		if (!identity_give(lfirst_oid(lc), rows, wait) || !creating_extension)
			continue;
		oldcontext = MemoryContextSwitchTo(TopTransactionContext);
		given_in_script = list_append_unique_oid(given_in_script, lfirst_oid(lc));
		MemoryContextSwitchTo(oldcontext);
	}
}

static void
after_statement(Node *stmt, const Watch *seen)
{
	List	   *rows = identity_streams();
	ListCell   *lc;

	give_to(seen->relids, rows, !committed_inside(stmt));
	/* A REPLICA IDENTITY that the statement sets is not seen by the hook. */
	if (IsA(stmt, AlterTableStmt) && ((AlterTableStmt *) stmt)->objtype == OBJECT_TABLE)
		give_to(list_make1_oid(RangeVarGetRelid(((AlterTableStmt *) stmt)->relation, NoLock, true)),
				rows, true);
	foreach(lc, seen->publications ? rows : NIL)
		give_to(identity_lacking(lfirst(lc)), rows, true);

	if (creating_extension)
		return;
	foreach(lc, given_in_script)
	{
		if (get_rel_name(lfirst_oid(lc)) != NULL)
			identity_write_down(lfirst_oid(lc));
	}
	given_in_script = NIL;
}

/* ---------- the hook ---------- */

static bool
is_watched(Node *stmt, ProcessUtilityContext context)
{
	return context != PROCESS_UTILITY_SUBCOMMAND && is_schema_change(stmt) &&
		Fanout != NULL && OidIsValid(MyDatabaseId) && IsTransactionState() &&
		!XactReadOnly && !RecoveryInProgress() && identity_streams() != NIL;
}

static void
run_watched(PlannedStmt *pstmt, const char *query_string, bool read_only_tree,
			ProcessUtilityContext context, ParamListInfo params, QueryEnvironment *query_env,
			DestReceiver *dest, QueryCompletion *qc, ProcessUtility_hook_type next)
{
	Watch	   *outer = watch;
	Watch		mine = {0};

	if (outer == NULL)
		given_in_script = NIL;	/* an error may have left some */
	/* A statement that commits inside ends what lives as long as the transaction. */
	mine.context = AllocSetContextCreate(TopMemoryContext, "pg_fanout identities",
										 ALLOCSET_SMALL_SIZES);
	PG_TRY();
	{
		before_statement(pstmt->utilityStmt);
		watch = &mine;
		next(pstmt, query_string, read_only_tree, context, params, query_env, dest, qc);
		watch = outer;
		after_statement(pstmt->utilityStmt, &mine);
	}
	PG_FINALLY();
	{
		watch = outer;
		MemoryContextDelete(mine.context);
	}
	PG_END_TRY();
}

static void
identity_utility(PlannedStmt *pstmt, const char *query_string, bool read_only_tree,
				 ProcessUtilityContext context, ParamListInfo params,
				 QueryEnvironment *query_env, DestReceiver *dest, QueryCompletion *qc)
{
	ProcessUtility_hook_type next =
		prev_process_utility ? prev_process_utility : standard_ProcessUtility;

	if (is_watched(pstmt->utilityStmt, context))
		run_watched(pstmt, query_string, read_only_tree, context, params, query_env, dest, qc,
					next);
	else
		next(pstmt, query_string, read_only_tree, context, params, query_env, dest, qc);
}

void
identity_watch_init(void)
{
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = identity_utility;
	prev_object_access = object_access_hook;
	object_access_hook = watch_objects;
}
