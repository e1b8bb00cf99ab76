/*
 * apply_script.c
 *		Rows that a schema change's own code writes here: an extension's script, a function in an
 *		index, an event trigger that is ENABLE ALWAYS.
 *
 * On the leader that code has run, too, and what it wrote to replicated tables comes with the
 * stream.  So here such a statement is started and ended, but not run.  But an extension's
 * script fills the extension's own tables, whose rows then don't come (extension_script.c
 * draws the line).
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

static bool running = false;	/* a schema change */
static List *others = NIL;		/* of the last script; see extension_script_others() */

/* Does the statement write to a table whose rows come with the stream? */
static bool
writes_streamed(const PlannedStmt *stmt)
{
	ListCell   *lc;

	foreach(lc, stmt->resultRelations)
	{
		Oid			relid = rt_fetch(lfirst_int(lc), stmt->rtable)->relid;

		if (guard_stream_of(relid) != NULL &&
			!(creating_extension && extension_script_owns(relid, others)))
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
	if (running && writes_streamed(query->plannedstmt))
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

static void
note_others(const char *extension)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(TopMemoryContext);

	list_free(others);
	others = extension_script_others(extension);
	MemoryContextSwitchTo(oldcontext);
}

void
apply_script_begin(Node *stmt)
{
	if (IsA(stmt, CreateExtensionStmt))
		note_others(((CreateExtensionStmt *) stmt)->extname);
	else if (IsA(stmt, AlterExtensionStmt))
		note_others(((AlterExtensionStmt *) stmt)->extname);
	running = true;
}

void
apply_script_end(void)
{
	running = false;
}
