/*
 * guard.c
 *		Nobody but the stream writes to replicated tables.
 *
 * Three hooks see the ways to change a table:
 *
 *	ExecutorStart		rows: INSERT, UPDATE, DELETE, MERGE, in CTEs, functions, rules
 *						and by foreign keys.  What counts are the plan's result
 *						relations; required permissions would mislead (FOR KEY SHARE
 *						asks for UPDATE).
 *	ProcessUtility		COPY FROM and CREATE INDEX; also ALTER and DROP of a table, so that
 *						they are refused before they queue for a lock that stops readers
 *	object access		TRUNCATE, DROP, ALTER and what belongs to a table, however the
 *						command got there; see guard_objects.c
 *
 * Row locks, LOCK, and maintenance (VACUUM, ANALYZE, REINDEX, CLUSTER) are allowed:
 * they change nothing that a reader sees.  Not seen at all is what writes to a
 * heap without the executor: other logical replication.  A subscription can't get
 * replicated tables; what else there may be is not covered.
 *
 * The guard holds for superusers and whatever session_replication_role is; only
 * fanout.guard and the stream's own processes get past it; what code of others does in those is
 * looked at, too (guard_code.c).  What nobody else gets past is that a
 * replicated table stays logged: a crash would empty it, and nobody would know.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/index.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "executor/executor.h"
#include "nodes/parsenodes.h"
#include "nodes/plannodes.h"
#include "parser/parsetree.h"
#include "tcop/utility.h"
#include "utils/lsyscache.h"

#include "follower/guard.h"
#include "follower/read_views.h"

static ExecutorStart_hook_type prev_executor_start = NULL;
static ProcessUtility_hook_type prev_process_utility = NULL;

static const char *current_command = "DDL";

bool
guard_is_active(void)
{
	return fanout_guard && (!guard_is_own_process() || guard_is_code()) && follows_anything();
}

bool
guard_is_passed(void)
{
	return !fanout_guard && !guard_is_own_process() && follows_anything();
}

const char *
guard_current_command(void)
{
	return current_command;
}

void
guard_check_table(Oid relid, const char *command)
{
	const GuardedStream *stream = guard_stream_of(relid);

	if (stream == NULL)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
			 errmsg("cannot execute %s on replicated table \"%s\"", command, get_rel_name(relid)),
			 errdetail("The table is a follower's copy of stream \"%s\".", NameStr(stream->name)),
			 stream->leader[0] != '\0' ? errhint("Write to the leader: %s", stream->leader) : 0));
}

/* ---------- rows ---------- */

static bool
plan_writes(Plan *plan, Index rti)
{
	ModifyTable *modify = (ModifyTable *) plan;

	return plan != NULL && IsA(plan, ModifyTable) &&
		(modify->rootRelation == rti || list_member_int(modify->resultRelations, rti));
}

/* What a statement does to a result relation; in a CTE not what the statement is called. */
static const char *
command_on(PlannedStmt *stmt, Index rti)
{
	CmdType		operation = stmt->commandType;
	ListCell   *lc;

	foreach(lc, stmt->subplans)
	{
		if (plan_writes(lfirst(lc), rti))
			operation = ((ModifyTable *) lfirst(lc))->operation;
	}
	switch (operation)
	{
		case CMD_INSERT:
			return "INSERT";
		case CMD_UPDATE:
			return "UPDATE";
		case CMD_DELETE:
			return "DELETE";
		default:
			return "MERGE";
	}
}

/* The stream's own processes write the extension's tables all the time: those are no stream's. */
static void
check_written(PlannedStmt *stmt, Index rti)
{
	Oid			relid = rt_fetch(rti, stmt->rtable)->relid;

	if (guard_fills_own(relid))
		return;
	if (!guard_is_own_process() || get_rel_namespace(relid) != get_namespace_oid(FANOUT_SCHEMA, true))
		guard_check_table(relid, command_on(stmt, rti));
}

static void
guard_executor_start(QueryDesc *query, int eflags)
{
	PlannedStmt *stmt = query->plannedstmt;

	if (stmt->resultRelations != NIL && (eflags & EXEC_FLAG_EXPLAIN_ONLY) == 0 &&
		fanout_guard && follows_anything() && !guard_leaves_out(stmt))
	{
		ListCell   *lc;

		foreach(lc, stmt->resultRelations)
			check_written(stmt, lfirst_int(lc));
	}
	if (prev_executor_start)
		prev_executor_start(query, eflags);
	else
		standard_ExecutorStart(query, eflags);
}

/* ---------- utility statements ---------- */

Oid
guard_table_of_relation(Oid relid)
{
	char		relkind = get_rel_relkind(relid);
	Oid			table;
	int32		column;

	if (relkind == RELKIND_INDEX || relkind == RELKIND_PARTITIONED_INDEX)
		return IndexGetRelation(relid, true);
	if (relkind == RELKIND_SEQUENCE &&
		(sequenceIsOwned(relid, DEPENDENCY_AUTO, &table, &column) ||
		 sequenceIsOwned(relid, DEPENDENCY_INTERNAL, &table, &column)))
		return table;
	return relid;
}

/* The relation that a statement changes, when that can be told from its text; NULL: none. */
static RangeVar *
changed_relation(Node *stmt)
{
	switch (nodeTag(stmt))
	{
		case T_CopyStmt:
			return ((CopyStmt *) stmt)->is_from ? ((CopyStmt *) stmt)->relation : NULL;
		case T_IndexStmt:
			return ((IndexStmt *) stmt)->relation;
		case T_AlterTableStmt:
			return ((AlterTableStmt *) stmt)->relation;
		case T_RenameStmt:
			return ((RenameStmt *) stmt)->relation;
		case T_AlterObjectSchemaStmt:
			return ((AlterObjectSchemaStmt *) stmt)->relation;
		default:
			return NULL;
	}
}

static void
check_relation(const RangeVar *relation, const char *command)
{
	Oid			relid = RangeVarGetRelid(relation, NoLock, true);

	if (OidIsValid(relid))
		guard_check_table(guard_table_of_relation(relid), command);
}

static void
check_dropped(DropStmt *stmt)
{
	ListCell   *lc;

	if (stmt->removeType != OBJECT_TABLE && stmt->removeType != OBJECT_INDEX)
		return;
	foreach(lc, stmt->objects)
		check_relation(makeRangeVarFromNameList(lfirst_node(List, lc)), current_command);
}

static void
check_utility(Node *stmt)
{
	RangeVar   *relation = changed_relation(stmt);

	if (IsA(stmt, DropStmt))
		check_dropped((DropStmt *) stmt);
	else if (relation != NULL)
		check_relation(relation, IsA(stmt, CopyStmt) ? "COPY FROM" : current_command);
}

/* Does the statement give a subscription tables? */
static bool
subscribes(Node *stmt)
{
	AlterSubscriptionStmt *alter = (AlterSubscriptionStmt *) stmt;

	if (!IsA(stmt, AlterSubscriptionStmt))
		return IsA(stmt, CreateSubscriptionStmt);
	return alter->kind == ALTER_SUBSCRIPTION_REFRESH ||
		alter->kind == ALTER_SUBSCRIPTION_SET_PUBLICATION ||
		alter->kind == ALTER_SUBSCRIPTION_ADD_PUBLICATION;
}

/* Which tables, only the publisher knew: look when it is done, and undo it. */
static void
check_subscribed_tables(void)
{
	ListCell   *lc;

	CommandCounterIncrement();
	foreach(lc, subscribed_tables())
		guard_check_table(lfirst_oid(lc), current_command);
}

/* Does the statement take a table out of the WAL? */
static bool
makes_unlogged(Node *stmt)
{
	ListCell   *lc;

	if (!IsA(stmt, AlterTableStmt))
		return false;
	foreach(lc, ((AlterTableStmt *) stmt)->cmds)
	{
		if (lfirst_node(AlterTableCmd, lc)->subtype == AT_SetUnLogged)
			return true;
	}
	return false;
}

static void
check_stays_logged(Node *stmt)
{
	Oid			relid;

	if (guard_is_own_process() || !follows_anything() || !makes_unlogged(stmt))
		return;
	relid = RangeVarGetRelid(((AlterTableStmt *) stmt)->relation, NoLock, true);
	if (!OidIsValid(relid) || guard_stream_of(relid) == NULL)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("replicated table \"%s\" must stay logged", get_rel_name(relid)),
			 errdetail("After a crash it would be empty.")));
}

static void
guard_process_utility(PlannedStmt *pstmt, const char *query_string, bool read_only_tree,
					  ProcessUtilityContext context, ParamListInfo params,
					  QueryEnvironment *query_env, DestReceiver *dest, QueryCompletion *qc)
{
	ProcessUtility_hook_type next =
		prev_process_utility ? prev_process_utility : standard_ProcessUtility;
	const char *outer_command = current_command;
	int			outer = guard_enter_statement(pstmt->utilityStmt, context);

	current_command = GetCommandTagName(CreateCommandTag(pstmt->utilityStmt));
	PG_TRY();
	{
		bool		active = guard_is_active();
		bool		left_out = active && guard_is_own_process() &&
			guard_leaves_out_utility(pstmt->utilityStmt);

		if (!active)
			check_stays_logged(pstmt->utilityStmt);
		else if (!left_out)
			check_utility(pstmt->utilityStmt);
		if (!left_out)
			next(pstmt, query_string, read_only_tree, context, params, query_env, dest, qc);
		if (active && subscribes(pstmt->utilityStmt))
			check_subscribed_tables();
		if (!active)
			dropped_tables_finish();
		if (follows_anything())
			view_note_statement(pstmt->utilityStmt, guard_is_own_process() && !active);
	}
	PG_FINALLY();
	{
		current_command = outer_command;
		guard_leave_statement(outer);
	}
	PG_END_TRY();
}

void
guard_init(void)
{
	prev_executor_start = ExecutorStart_hook;
	ExecutorStart_hook = guard_executor_start;
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = guard_process_utility;
	guard_objects_init();
}
