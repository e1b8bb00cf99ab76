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
 * (CONCURRENTLY) is written down afterwards, in the transaction that it left.
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

/* Said once per session for each kind of statement. */
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
			 errdetail_internal("%s", why)));
}

/*
 * Run the statement, which may have an extension's script; returns what it made.  The script makes
 * its own by itself, there too.
 */
static List *
run_noting(const char *extension, PlannedStmt *pstmt, const char *query_string, bool read_only_tree,
		   ProcessUtilityContext context, ParamListInfo params, QueryEnvironment *query_env,
		   DestReceiver *dest, QueryCompletion *qc, ProcessUtility_hook_type next)
{
	MadeByStatement made;
	List	   *volatile strings = NIL;
	ScriptState before = ddl_script_begin(extension);

	ddl_made_begin(&made);
	PG_TRY();
	{
		next(pstmt, query_string, read_only_tree, context, params, query_env, dest, qc);
		if (extension == NULL)
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
	if (change.text != NULL)
		text = change.text;
	if (!change.after)
		number = write_statement_down(text, &change);
	made = run_noting(change.extension, pstmt, query_string, read_only_tree, context, params,
					  query_env, dest, qc, next);
	if (change.after)
		number = write_statement_down(text, &change);
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
