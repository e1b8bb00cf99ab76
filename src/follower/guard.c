/*
 * guard.c
 *		Nobody but the stream writes to replicated tables.
 *
 * Three hooks see all ways to change a table:
 *
 *	ExecutorStart		rows: INSERT, UPDATE, DELETE, MERGE, in CTEs, functions, rules
 *						and by foreign keys.  What counts are the plan's result
 *						relations; required permissions would mislead (FOR KEY SHARE
 *						asks for UPDATE).
 *	ProcessUtility		COPY FROM, and indexes, triggers, rules and policies
 *	object access		TRUNCATE and DROP, also by CASCADE or ownership, and ALTER of any
 *						kind
 *
 * Row locks, LOCK, and maintenance (VACUUM, ANALYZE, REINDEX, CLUSTER) are allowed:
 * they change nothing that a reader sees.
 */
#include "postgres.h"

#include "catalog/index.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_class.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/parsenodes.h"
#include "parser/parsetree.h"
#include "tcop/utility.h"
#include "utils/lsyscache.h"

#include "follower/follower.h"

static ExecutorStart_hook_type prev_executor_start = NULL;
static ProcessUtility_hook_type prev_process_utility = NULL;
static object_access_hook_type prev_object_access = NULL;

static bool allowed = false;	/* this process is the stream's own */
static int	maintenance = 0;	/* depth of maintenance commands */

void
guard_allow_this_process(void)
{
	allowed = true;
}

static inline bool
guarding(void)
{
	return fanout_guard && !allowed && Fanout != NULL &&
		pg_atomic_read_u32(&Fanout->followed_streams) > 0;
}

static void
refuse(Oid relid, int32 followed_id, const char *what)
{
	FollowedStream *stream = followed_stream_find(MyDatabaseId, followed_id);
	char		leader[sizeof(stream->leader)] = "";
	NameData	name = {{0}};

	if (stream != NULL)
	{
		SpinLockAcquire(&stream->mutex);
		memcpy(leader, stream->leader, sizeof(leader));
		name = stream->stream;
		SpinLockRelease(&stream->mutex);
	}
	ereport(ERROR,
			(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
			 errmsg("cannot execute %s on replicated table \"%s\"", what, get_rel_name(relid)),
			 errdetail("The table is this follower's copy of a table of stream \"%s\".",
					   NameStr(name)),
			 leader[0] != '\0' ?
			 errhint("Write to the leader: %s", leader) :
			 errhint("Write to the leader.")));
}

static void
check_table(Oid relid, const char *what)
{
	int32		followed_id = guard_followed_id(relid);

	if (followed_id != 0)
		refuse(relid, followed_id, what);
}

/* ---------- rows ---------- */

static const char *
command_name(CmdType command)
{
	switch (command)
	{
		case CMD_INSERT:
			return "INSERT";
		case CMD_UPDATE:
			return "UPDATE";
		case CMD_DELETE:
			return "DELETE";
		case CMD_MERGE:
			return "MERGE";
		default:
			return "a change";
	}
}

static void
guard_executor_start(QueryDesc *query, int eflags)
{
	PlannedStmt *stmt = query->plannedstmt;

	if (stmt->resultRelations != NIL && guarding() && (eflags & EXEC_FLAG_EXPLAIN_ONLY) == 0)
	{
		ListCell   *lc;

		foreach(lc, stmt->resultRelations)
			check_table(rt_fetch(lfirst_int(lc), stmt->rtable)->relid,
						command_name(query->operation));
	}
	if (prev_executor_start)
		prev_executor_start(query, eflags);
	else
		standard_ExecutorStart(query, eflags);
}

/* ---------- utility statements ---------- */

static bool
is_maintenance(Node *stmt)
{
	return IsA(stmt, VacuumStmt) || IsA(stmt, ClusterStmt) || IsA(stmt, ReindexStmt) ||
		IsA(stmt, CheckPointStmt);
}

/* The table on which DROP TRIGGER, RULE or POLICY names an object. */
static RangeVar *
table_of_drop(DropStmt *stmt)
{
	List	   *name;

	if (stmt->removeType != OBJECT_TRIGGER && stmt->removeType != OBJECT_RULE &&
		stmt->removeType != OBJECT_POLICY)
		return NULL;
	name = castNode(List, linitial(stmt->objects));
	return makeRangeVarFromNameList(list_truncate(list_copy(name), list_length(name) - 1));
}

/* The table that a statement changes in a way that no other hook sees; NULL: none. */
static RangeVar *
changed_table(Node *stmt)
{
	switch (nodeTag(stmt))
	{
		case T_CopyStmt:
			return ((CopyStmt *) stmt)->is_from ? ((CopyStmt *) stmt)->relation : NULL;
		case T_IndexStmt:
			return ((IndexStmt *) stmt)->relation;
		case T_CreateTrigStmt:
			return ((CreateTrigStmt *) stmt)->relation;
		case T_RuleStmt:
			return ((RuleStmt *) stmt)->relation;
		case T_CreatePolicyStmt:
			return ((CreatePolicyStmt *) stmt)->table;
		case T_AlterPolicyStmt:
			return ((AlterPolicyStmt *) stmt)->table;
		case T_DropStmt:
			return table_of_drop((DropStmt *) stmt);
		default:
			return NULL;
	}
}

static void
check_utility(PlannedStmt *pstmt)
{
	RangeVar   *table = changed_table(pstmt->utilityStmt);
	Oid			relid = table != NULL ? RangeVarGetRelid(table, NoLock, true) : InvalidOid;

	if (OidIsValid(relid))
		check_table(relid, IsA(pstmt->utilityStmt, CopyStmt) ? "COPY FROM" :
					GetCommandTagName(CreateCommandTag(pstmt->utilityStmt)));
}

static void
guard_process_utility(PlannedStmt *pstmt, const char *query_string, bool read_only_tree,
					  ProcessUtilityContext context, ParamListInfo params,
					  QueryEnvironment *query_env, DestReceiver *dest, QueryCompletion *qc)
{
	ProcessUtility_hook_type next =
		prev_process_utility ? prev_process_utility : standard_ProcessUtility;
	Node	   *stmt = pstmt->utilityStmt;

	if (guarding())
		check_utility(pstmt);
	if (!is_maintenance(stmt))
	{
		next(pstmt, query_string, read_only_tree, context, params, query_env, dest, qc);
		return;
	}

	maintenance++;
	PG_TRY();
	{
		next(pstmt, query_string, read_only_tree, context, params, query_env, dest, qc);
	}
	PG_FINALLY();
	{
		maintenance--;
	}
	PG_END_TRY();
}

/* ---------- objects ---------- */

/* An index stands for its table. */
static Oid
table_of(Oid relid)
{
	char		relkind = get_rel_relkind(relid);

	if (relkind == RELKIND_INDEX || relkind == RELKIND_PARTITIONED_INDEX)
		return IndexGetRelation(relid, true);
	return relid;
}

static void
guard_object_access(ObjectAccessType access, Oid class_id, Oid object_id, int sub_id, void *arg)
{
	if (class_id == RelationRelationId && maintenance == 0 && guarding())
	{
		switch (access)
		{
			case OAT_TRUNCATE:
				check_table(object_id, "TRUNCATE");
				break;
			case OAT_DROP:
				check_table(table_of(object_id), "DROP");
				break;
			case OAT_POST_ALTER:
				check_table(table_of(object_id), "ALTER");
				break;
			default:
				break;
		}
	}
	if (prev_object_access)
		prev_object_access(access, class_id, object_id, sub_id, arg);
}

void
guard_init(void)
{
	prev_executor_start = ExecutorStart_hook;
	ExecutorStart_hook = guard_executor_start;
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = guard_process_utility;
	prev_object_access = object_access_hook;
	object_access_hook = guard_object_access;
}
