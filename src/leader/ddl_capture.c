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
 * so does what an extension's script runs.
 *
 * Whether the database leads a stream is read from its table each time: shared
 * memory may not know yet, just after a start of the server.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "nodes/bitmapset.h"
#include "tcop/utility.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "arrays.h"
#include "leader/ddl.h"
#include "log/statement.h"
#include "own_tables.h"
#include "shmem.h"

static ProcessUtility_hook_type prev_process_utility = NULL;

/* Parameters that change what a statement means. */
static const char *const captured_settings[] = {
	"search_path", "TimeZone", "DateStyle", "IntervalStyle", "standard_conforming_strings",
	"backslash_quote", "xmloption", "array_nulls", "transform_null_equals",
	"default_table_access_method", "default_toast_compression", "default_text_search_config",
	"extra_float_digits", "bytea_output", "row_security",
};

/* ---------- is there anything to do? ---------- */

static bool
leads_ddl(void)
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
	return context != PROCESS_UTILITY_SUBCOMMAND && is_schema_change(stmt) &&
		!creating_extension && Fanout != NULL && OidIsValid(MyDatabaseId) &&
		IsTransactionState() && !XactReadOnly && !RecoveryInProgress() && leads_ddl();
}

/* ---------- writing it down ---------- */

static Datum
settings_datum(void)
{
	Datum		values[2 * lengthof(captured_settings)];

	for (int i = 0; i < lengthof(captured_settings); i++)
	{
		const char *value = GetConfigOption(captured_settings[i], false, false);

		values[2 * i] = CStringGetTextDatum(captured_settings[i]);
		values[2 * i + 1] = CStringGetTextDatum(value);
	}
	return PointerGetDatum(construct_array(values, lengthof(values), TEXTOID, -1, false,
										   TYPALIGN_INT));
}

/* Whoever runs the statement has no right on the table, and needs none. */
static void
write_down(const char *text, List *relids, uint8 flags)
{
	Relation	rel = table_open(own_table_oid("schema_change"), RowExclusiveLock);
	Datum		values[Natts_schema_change];
	bool		nulls[Natts_schema_change] = {0};
	HeapTuple	tuple;

	values[Anum_schema_change_role - 1] =
		DirectFunctionCall1(namein, CStringGetDatum(GetUserNameFromId(GetUserId(), false)));
	values[Anum_schema_change_settings - 1] = settings_datum();
	values[Anum_schema_change_statement - 1] = CStringGetTextDatum(text);
	values[Anum_schema_change_relations - 1] = oid_array_datum(relids);
	values[Anum_schema_change_flags - 1] = Int32GetDatum(flags);
	tuple = heap_form_tuple(RelationGetDescr(rel), values, nulls);
	simple_heap_insert(rel, tuple);
	CommandCounterIncrement();
	simple_heap_delete(rel, &tuple->t_self);
	CommandCounterIncrement();
	heap_freetuple(tuple);
	table_close(rel, RowExclusiveLock);
}

/* The statement as it stands in the query string, which may hold several. */
static char *
statement_text(const PlannedStmt *pstmt, const char *query_string)
{
	int			start = Max(pstmt->stmt_location, 0);
	int			len = pstmt->stmt_len;

	if (len == 0)
		len = strlen(query_string) - start;
	return pnstrdup(query_string + start, len);
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

static void
run_captured(PlannedStmt *pstmt, const char *query_string, bool read_only_tree,
			 ProcessUtilityContext context, ParamListInfo params,
			 QueryEnvironment *query_env, DestReceiver *dest, QueryCompletion *qc,
			 ProcessUtility_hook_type next)
{
	SchemaChange change;
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

	if (change.text != NULL)
		text = change.text;
	if (!change.after)
		write_down(text, change.relids, change.flags);
	next(pstmt, query_string, read_only_tree, context, params, query_env, dest, qc);
	if (change.after)
		write_down(text, change.relids, change.flags);
	if (change.flags & STATEMENT_SCRIPT)
		write_down("", NIL, STATEMENT_SCRIPT_END);
}

static void
ddl_capture_utility(PlannedStmt *pstmt, const char *query_string, bool read_only_tree,
					ProcessUtilityContext context, ParamListInfo params,
					QueryEnvironment *query_env, DestReceiver *dest, QueryCompletion *qc)
{
	ProcessUtility_hook_type next =
		prev_process_utility ? prev_process_utility : standard_ProcessUtility;

	if (is_captured(pstmt->utilityStmt, context))
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
}
