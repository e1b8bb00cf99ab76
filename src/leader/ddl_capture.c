/*
 * ddl_capture.c
 *		Schema changes on a leader go into its streams.
 *
 * A ProcessUtility hook writes each statement that changes the schema into
 * fanout.schema_change, with what gives its text a meaning (role, search_path and
 * a few other parameters), in the transaction that it belongs to; the decoder's
 * output plugin finds the row in the WAL, in its place between the row changes.
 * The row is deleted at once: only the WAL needs it.  Rows of that table and not
 * logical messages, since anybody may write such messages.
 *
 * The row is written before the statement runs.  So what the statement does on
 * its way, be it rows (CREATE TABLE AS) or statements of event triggers, comes
 * after it, and if it fails the row is rolled back with it.  Only what commits inside
 * (CONCURRENTLY) is written down afterwards, in the transaction that it left; and what may use
 * something temporary, when that is known (ddl_temporary.c).
 *
 * Captured is what was written by somebody: statements of clients, functions and DO
 * blocks.  What a statement is broken down into (subcommands) comes with it, and
 * so does what an extension's script runs (ddl_script.c).  But IMPORT FOREIGN SCHEMA asks another server,
 * which may answer otherwise later: captured is what it is broken down into.
 *
 * Whether the database leads a stream is read from its table each time: shared
 * memory may not know yet, just after a start of the server.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "nodes/bitmapset.h"
#include "tcop/utility.h"
#include "utils/memutils.h"

#include "arrays.h"
#include "leader/ddl.h"
#include "log/statement.h"
#include "own_tables.h"
#include "shmem.h"

static ProcessUtility_hook_type prev_process_utility = NULL;

static bool importing = false;	/* an IMPORT FOREIGN SCHEMA runs */

/* ---------- is there anything to do? ---------- */

bool
ddl_is_led(void)
{
	ListCell   *lc;

	if (!OidIsValid(own_table_oid("schema_change")))
		return false;
	foreach(lc, stream_rows())
	{
		if (((StreamRow *) lfirst(lc))->ddl)
			return true;
	}
	return false;
}

static bool
is_captured(Node *stmt, ProcessUtilityContext context)
{
	bool		whole = context != PROCESS_UTILITY_SUBCOMMAND ||
		(importing && IsA(stmt, CreateForeignTableStmt));

	return whole && is_schema_change(stmt) &&
		!ddl_comes_with_script() && Fanout != NULL && OidIsValid(MyDatabaseId) &&
		IsTransactionState() && !XactReadOnly && !RecoveryInProgress() && ddl_is_led();
}

/* ---------- the hook ---------- */

/* Said once per session for each kind of statement, without its text: it may have a password. */
static void
say_not_replicated(Node *stmt, const char *why)
{
	static Bitmapset *said = NULL;
	CommandTag	tag = CreateCommandTag(stmt);
	MemoryContext oldcontext;

	if (bms_is_member(tag, said))
		return;
	oldcontext = MemoryContextSwitchTo(TopMemoryContext);
	said = bms_add_member(said, tag);
	MemoryContextSwitchTo(oldcontext);
	ereport(LOG,
			(errmsg("%s is not replicated to followers", GetCommandTagName(tag)),
			 errdetail_internal("%s", why),
			 errhidestmt(true), errhidecontext(true)));
}

static const char *const why_uses_temporary = "It uses temporary objects, which followers do not have.";

/* What is to be said of a statement that has run and made something of what is temporary. */
static void
leave_out_temporary(Node *stmt, SchemaChange *change, const MadeByStatement *made)
{
	char	   *bare;

	if (!change->may_use_temporary || !ddl_made_needs_temporary(made))
		return;
	say_not_replicated(stmt, why_uses_temporary);
	bare = ddl_made_bare(made);
	if (bare == NULL)
		change->why_not = why_uses_temporary;
	change->text = bare;
	change->flags |= STATEMENT_VALUES_DIFFER;
}

/*
 * Run the statement, which may have an extension's script; returns what it made.  The script makes
 * its own by itself, there too.
 */
static List *
run_noting(SchemaChange *change, PlannedStmt *pstmt, const char *query_string, bool read_only_tree,
		   ProcessUtilityContext context, ParamListInfo params, QueryEnvironment *query_env,
		   DestReceiver *dest, QueryCompletion *qc, ProcessUtility_hook_type next)
{
	MadeByStatement made;
	List	   *volatile strings = NIL;
	ScriptState before = ddl_script_begin(change->extension);

	ddl_made_begin(&made);
	PG_TRY();
	{
		next(pstmt, query_string, read_only_tree, context, params, query_env, dest, qc);
		leave_out_temporary(pstmt->utilityStmt, change, &made);
		if (change->extension == NULL && change->why_not == NULL)
			strings = ddl_made_strings(&made);
	}
	PG_FINALLY();
	{
		ddl_made_end(&made);
		ddl_script_restore(before);
	}
	PG_END_TRY();
	return strings;
}

/* They come behind the table. */
static bool
makes_rows(Node *stmt)
{
	return IsA(stmt, ExplainStmt) ||
		(IsA(stmt, CreateTableAsStmt) && ((CreateTableAsStmt *) stmt)->objtype == OBJECT_TABLE);
}

static void
run_captured(PlannedStmt *pstmt, const char *query_string, bool read_only_tree,
			 ProcessUtilityContext context, ParamListInfo params,
			 QueryEnvironment *query_env, DestReceiver *dest, QueryCompletion *qc,
			 ProcessUtility_hook_type next)
{
	SchemaChange change;
	List	   *made;
	uint32		number = 0;
	char	   *text;

	text = statement_text(pstmt, query_string);
	ddl_examine(pstmt->utilityStmt, text, Max(pstmt->stmt_location, 0), &change);
	if (change.why_not != NULL && !change.ours)
		say_not_replicated(pstmt->utilityStmt, change.why_not);
	if (change.ours || change.why_not != NULL)
	{
		next(pstmt, query_string, read_only_tree, context, params, query_env, dest, qc);
		return;
	}

	change.settings = add_setting(change.settings, "standard_conforming_strings",
								  statement_text_conforms(text, pstmt->utilityStmt) ? "on" : "off");
	change.may_use_temporary = change.extension == NULL &&
		!makes_rows(pstmt->utilityStmt) && may_name_temporary(text);
	change.after |= change.may_use_temporary;
	if (!change.after)
		number = write_statement_down(change.text != NULL ? change.text : text, &change);
	made = run_noting(&change, pstmt, query_string, read_only_tree, context, params, query_env,
					  dest, qc, next);
	if (change.why_not != NULL)
		return;
	if (change.after)
		number = write_statement_down(change.text != NULL ? change.text : text, &change);
	if (change.extension != NULL)
		write_mark_down(MARK_END, "");
	else if (made != NIL)
		write_made_down(number, change.relids, made);
}

/* Its subcommands come by here, too. */
static void
run_import(PlannedStmt *pstmt, const char *query_string, bool read_only_tree,
		   ProcessUtilityContext context, ParamListInfo params, QueryEnvironment *query_env,
		   DestReceiver *dest, QueryCompletion *qc, ProcessUtility_hook_type next)
{
	bool		outer = importing;

	importing = true;
	PG_TRY();
	{
		next(pstmt, query_string, read_only_tree, context, params, query_env, dest, qc);
	}
	PG_FINALLY();
	{
		importing = outer;
	}
	PG_END_TRY();
}

static void
ddl_capture_utility(PlannedStmt *pstmt, const char *query_string, bool read_only_tree,
					ProcessUtilityContext context, ParamListInfo params,
					QueryEnvironment *query_env, DestReceiver *dest, QueryCompletion *qc)
{
	ProcessUtility_hook_type next =
		prev_process_utility ? prev_process_utility : standard_ProcessUtility;

	if (IsA(pstmt->utilityStmt, ImportForeignSchemaStmt))
		run_import(pstmt, query_string, read_only_tree, context, params, query_env, dest, qc,
				   next);
	else if (is_captured(pstmt->utilityStmt, context))
		run_captured(pstmt, query_string, read_only_tree, context, params, query_env, dest, qc,
					 next);
	else
		next(pstmt, query_string, read_only_tree, context, params, query_env, dest, qc);
}

void
ddl_capture_init(void)
{
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = ddl_capture_utility;
	ddl_made_init();
	ddl_script_init();
}
