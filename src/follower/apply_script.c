/*
 * apply_script.c
 *		The script of an extension that the leader has made or updated, run here.
 *
 * It fills the extension's own tables.  What it writes to other tables that are replicated
 * does nothing here: those rows come with the stream, as the leader's script has written
 * them (extension_script.c draws the line).  Such a statement is started and ended, but not run.
 */
#include "postgres.h"

#include "commands/extension.h"
#include "executor/executor.h"
#include "nodes/parsenodes.h"
#include "nodes/plannodes.h"
#include "parser/parsetree.h"
#include "utils/memutils.h"

#include "compat.h"
#include "extension_script.h"
#include "follower/apply_internal.h"
#include "follower/guard.h"

static ExecutorRun_hook_type prev_executor_run = NULL;

/* Of the script that runs or ran last. */
static List *others = NIL;

/* Does the statement write to a table whose rows come with the stream? */
static bool
writes_streamed(const PlannedStmt *stmt)
{
	ListCell   *lc;

	foreach(lc, stmt->resultRelations)
	{
		Oid			relid = rt_fetch(lfirst_int(lc), stmt->rtable)->relid;

		if (guard_stream_of(relid) != NULL && !extension_script_owns(relid, others))
			return true;
	}
	return false;
}

/*
 * To run it without moving does all but execute the plan.  Data-modifying CTEs would be
 * completed at the end nevertheless.
 */
static void
script_executor_run(FANOUT_EXECUTOR_RUN_PARAMETERS)
{
	if (creating_extension && writes_streamed(query->plannedstmt))
	{
		direction = NoMovementScanDirection;
		query->estate->es_auxmodifytables = NIL;
	}
	if (prev_executor_run)
		prev_executor_run(FANOUT_EXECUTOR_RUN_ARGUMENTS);
	else
		standard_ExecutorRun(FANOUT_EXECUTOR_RUN_ARGUMENTS);
}

void
apply_script_init(void)
{
	static bool registered = false;

	if (registered)
		return;
	prev_executor_run = ExecutorRun_hook;
	ExecutorRun_hook = script_executor_run;
	registered = true;
}

void
apply_script_prepare(Node *stmt)
{
	const char *name;
	MemoryContext oldcontext;

	if (IsA(stmt, CreateExtensionStmt))
		name = ((CreateExtensionStmt *) stmt)->extname;
	else if (IsA(stmt, AlterExtensionStmt))
		name = ((AlterExtensionStmt *) stmt)->extname;
	else
		return;
	oldcontext = MemoryContextSwitchTo(TopMemoryContext);
	list_free(others);
	others = extension_script_others(name);
	MemoryContextSwitchTo(oldcontext);
}
