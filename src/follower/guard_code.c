/*
 * guard_code.c
 *		Code of others in the stream's own processes.
 *
 * The follower's worker and those that copy may change replicated tables.  They also run code
 * of others: triggers that fire here, functions of constraints, defaults and indexes, whatever
 * a schema change runs.  To keep these apart:
 *
 *	rows		The stream writes rows without the executor.  So a statement that writes to
 *				a replicated table through it is somebody's code.
 *				But an extension's script fills the extension's own tables
 *				(extension_script.c draws the line).
 *	utility		The stream's own statements are announced (guard_announce()).  What
 *				runs within one is not, but for its parts and the script of an extension.
 *
 * What such code writes to replicated tables is left out, without an error: the same code ran on
 * the leader, and the stream brings what it did there.  So a trigger that is ENABLE ALWAYS on
 * both sides does no harm.  A statement that also writes elsewhere is refused, and so are
 * schema changes.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "commands/extension.h"
#include "executor/executor.h"
#include "parser/parsetree.h"
#include "utils/lsyscache.h"

#include "compat.h"
#include "extension_script.h"
#include "follower/guard.h"

/* Whose utility statement runs now. */
typedef enum Author
{
	AUTHOR_NONE,				/* none runs */
	AUTHOR_STREAM,
	AUTHOR_CODE
} Author;

static bool own_process = false;
static bool announced = false;	/* the next utility statement is the stream's */
static Author author = AUTHOR_NONE;
static List *others = NIL;		/* of the last script; see extension_script_others() */

static ExecutorRun_hook_type prev_executor_run = NULL;

/* ---------- utility statements ---------- */

void
guard_announce(bool statement)
{
	announced = statement;
}

/* A statement that failed before it ran announces no other one. */
static void
forget_announced(SubXactEvent event, SubTransactionId id, SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		announced = false;
}

bool
guard_is_own_process(void)
{
	return own_process;
}

bool
guard_is_code(void)
{
	return author == AUTHOR_CODE;
}

/* Which extensions are there before a script of the stream's. */
static void
note_script(Node *stmt)
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

static Author
author_of_statement(ProcessUtilityContext context)
{
	if (announced)
		return AUTHOR_STREAM;
	if (author == AUTHOR_STREAM && (context == PROCESS_UTILITY_SUBCOMMAND || creating_extension))
		return AUTHOR_STREAM;
	return AUTHOR_CODE;
}

int
guard_enter_statement(Node *stmt, ProcessUtilityContext context)
{
	Author		outer = author;

	author = author_of_statement(context);
	if (announced)
		note_script(stmt);
	announced = false;
	return outer;
}

void
guard_leave_statement(int outer)
{
	author = outer;
}

static bool
is_replicated(const RangeVar *name)
{
	Oid			relid = RangeVarGetRelid(name, NoLock, true);

	return OidIsValid(relid) && guard_stream_of(relid) != NULL;
}

bool
guard_leaves_out_utility(Node *stmt)
{
	ListCell   *lc;

	if (IsA(stmt, CopyStmt))
		return ((CopyStmt *) stmt)->is_from && is_replicated(((CopyStmt *) stmt)->relation);
	if (!IsA(stmt, TruncateStmt))
		return false;
	foreach(lc, ((TruncateStmt *) stmt)->relations)
	{
		if (!is_replicated(lfirst(lc)))
			return false;
	}
	return true;
}

/* ---------- rows ---------- */

/* An extension's script fills the extension's own tables: their rows don't come. */
bool
guard_fills_own(Oid relid)
{
	return own_process && creating_extension && extension_script_owns(relid, others);
}

bool
guard_leaves_out(PlannedStmt *stmt)
{
	ListCell   *lc;

	if (!own_process || stmt->resultRelations == NIL)
		return false;
	foreach(lc, stmt->resultRelations)
	{
		Oid			relid = rt_fetch(lfirst_int(lc), stmt->rtable)->relid;

		/* The stream writes the extension's tables all the time: no look at all tables for that. */
		if (get_rel_namespace(relid) == get_namespace_oid(FANOUT_SCHEMA, true) ||
			guard_stream_of(relid) == NULL || guard_fills_own(relid))
			return false;
	}
	return true;
}

/*
 * To run it without moving does all but execute the plan: whoever runs the statement finds that
 * it had no rows to do something to.  Data-modifying CTEs would be completed at the end nevertheless.
 */
static void
guard_executor_run(FANOUT_EXECUTOR_RUN_PARAMETERS)
{
	if (fanout_guard && guard_leaves_out(query->plannedstmt))
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
guard_allow_this_process(void)
{
	own_process = true;
	RegisterSubXactCallback(forget_announced, NULL);
	prev_executor_run = ExecutorRun_hook;
	ExecutorRun_hook = guard_executor_run;
}
