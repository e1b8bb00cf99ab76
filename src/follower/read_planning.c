/*
 * read_planning.c
 *		Reads of the planner's.
 *
 * The planner runs functions: STABLE ones to estimate how many rows there will be.  What
 * comes of that is no answer, so these reads are not bounded (read_bound.c).  IMMUTABLE ones
 * give constants of the plan: they should not read tables, and are bounded when they do.
 *
 * Such a read is known by its snapshot, which is the one that the planner was called with.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/planner.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "follower/read_planning.h"

static planner_hook_type prev_planner = NULL;

/* Of the innermost planner that runs; NULL: none, or its reads are bounded. */
static Snapshot planning_snapshot = NULL;

/* In a language in which it may run queries. */
static bool
is_constant_function(Oid funcid, void *context)
{
	HeapTuple	tuple;
	Form_pg_proc proc;
	bool		constant;

	if (funcid < FirstNormalObjectId)
		return false;
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(funcid));
	if (!HeapTupleIsValid(tuple))
		return false;
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	constant = proc->provolatile == PROVOLATILE_IMMUTABLE &&
		proc->prolang != INTERNALlanguageId && proc->prolang != ClanguageId;
	ReleaseSysCache(tuple);
	return constant;
}

/* Does the query call functions that the planner would run for good? */
static bool
has_constant_functions(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (check_functions_in_node(node, is_constant_function, NULL))
		return true;
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, has_constant_functions, NULL, 0);
	return expression_tree_walker(node, has_constant_functions, NULL);
}

static PlannedStmt *
plan(Query *parse, const char *query_string, int options, ParamListInfo params)
{
	return prev_planner ? prev_planner(parse, query_string, options, params) :
		standard_planner(parse, query_string, options, params);
}

static PlannedStmt *
bound_planner(Query *parse, const char *query_string, int options, ParamListInfo params)
{
	Snapshot	outer = planning_snapshot;
	PlannedStmt *result;

	if (!read_is_bounded())
		return plan(parse, query_string, options, params);
	planning_snapshot = ActiveSnapshotSet() && !has_constant_functions((Node *) parse, NULL) ?
		GetActiveSnapshot() : NULL;
	PG_TRY();
	{
		result = plan(parse, query_string, options, params);
	}
	PG_FINALLY();
	{
		planning_snapshot = outer;
	}
	PG_END_TRY();
	return result;
}

bool
is_of_planner(Snapshot snapshot)
{
	return snapshot == planning_snapshot;
}

void
read_planning_init(void)
{
	prev_planner = planner_hook;
	planner_hook = bound_planner;
}
