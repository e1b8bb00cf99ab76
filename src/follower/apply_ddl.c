/*
 * apply_ddl.c
 *		A schema change of the leader, made here.
 *
 * The statement runs within the local transaction, in its place among the row
 * changes, as the role that ran it on the leader, at the time and with the parameters that
 * it had there.
 * The group of transactions ends with the leader's transaction: values of an enum may
 * not be used before they are committed.
 *
 * Schema and data may come from different snapshots of the leader:
 *
 *	-	A change that the schema's snapshot sees came with the schema: it is left out.
 *		So is one of a table that joined the stream since and was made here from a
 *		newer schema, or is yet to be made.
 *	-	A change of a table whose rows were copied with a later snapshot finds
 *		them without the values of the column that it adds: the table is copied
 *		again.  So it is when the statement's values come out otherwise here.
 *
 * While the statement runs, an object access hook tells which relations it makes,
 * alters and drops, by whatever way.  Afterwards fanout.followed_table is brought
 * up to date, so that the guard covers a new table at once.
 *
 * What it made may have got other names here than on the leader.  Those follow in a change of
 * their own (STATEMENT_MADE), when the leader has run it; until then, at most to the end of the
 * leader's transaction, what was made is remembered.
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "tcop/cmdtag.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "arrays.h"
#include "compat.h"
#include "follower/apply_internal.h"
#include "follower/copy.h"
#include "log/statement.h"
#include "made.h"
#include "own_tables.h"

static struct
{
	const FollowedRow *row;
	MemoryContext context;		/* reset with every statement */
	bool		running;		/* the hook watches */
	List	   *created;		/* oids of relations */
	List	   *altered;		/* oids of relations with a new or altered column */
	List	   *touched;		/* oids of relations that were altered at all */
	List	   *missing;		/* oids of tables that were to be dropped and were missing */
	bool		schemas_touched;	/* one was altered */
	List	   *noted;			/* see made.h; in made_context */

	/* Statements of the leader's transaction whose names may be to come. */
	MemoryContext made_context;
	uint64		made_xid;
	List	   *ran;			/* of RanStatement */
} ddl;

typedef struct RanStatement
{
	uint32		number;
	char	   *role;
	char	   *text;
	List	   *noted;
} RanStatement;

static object_access_hook_type prev_object_access = NULL;

/* ---------- what a statement does ---------- */

static void
note_relation(ObjectAccessType access, Oid relid, int column)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(ddl.context);

	if (access == OAT_POST_CREATE && column == 0)
		ddl.created = lappend_oid(ddl.created, relid);
	else
		ddl.touched = list_append_unique_oid(ddl.touched, relid);
	if (access != OAT_DROP && column != 0)
		ddl.altered = list_append_unique_oid(ddl.altered, relid);
	MemoryContextSwitchTo(oldcontext);
}

static void
watch_objects(ObjectAccessType access, Oid class_id, Oid object_id, int sub_id, void *arg)
{
	MemoryContext oldcontext;

	if (prev_object_access)
		prev_object_access(access, class_id, object_id, sub_id, arg);
	if (!ddl.running ||
		(access != OAT_POST_CREATE && access != OAT_POST_ALTER && access != OAT_DROP))
		return;
	if (class_id == NamespaceRelationId && access == OAT_POST_ALTER)
		ddl.schemas_touched = true;
	if (class_id == RelationRelationId)
		note_relation(access, object_id, sub_id);
	oldcontext = MemoryContextSwitchTo(ddl.made_context);
	ddl.noted = made_note(ddl.noted, access, class_id, object_id, sub_id);
	MemoryContextSwitchTo(oldcontext);
}

void
apply_ddl_init(const FollowedRow *row)
{
	if (ddl.context == NULL)
	{
		ddl.context = AllocSetContextCreate(TopMemoryContext, "pg_fanout schema change",
											ALLOCSET_DEFAULT_SIZES);
		ddl.made_context = AllocSetContextCreate(TopMemoryContext, "pg_fanout made objects",
												 ALLOCSET_DEFAULT_SIZES);
		prev_object_access = object_access_hook;
		object_access_hook = watch_objects;
	}
	ddl.row = row;
}

/* ---------- running it ---------- */

static void
statement_context(void *arg)
{
	const SchemaStatement *statement = arg;

	errcontext("running a statement of the leader, PostgreSQL %d, as role \"%s\": %.*s",
			   fanout_major(leader_version()), statement->role,
			   pg_mbcliplen(statement->text, strlen(statement->text), 400), statement->text);
}

/* What a server has of these depends on its system and its version. */
static bool
may_be_missing(const char *name)
{
	static const char *const names[] = {"lc_monetary", "lc_numeric", "lc_time",
	"timezone_abbreviations", "icu_validation_level"};

	for (int i = 0; i < lengthof(names); i++)
	{
		if (strcmp(name, names[i]) == 0)
			return true;
	}
	return false;
}

/* A function may be given what a superuser had set. */
static void
set_parameter(const char *name, const char *value)
{
	(void) set_config_option(name, value, superuser() ? PGC_SUSET : PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, may_be_missing(name) ? DEBUG1 : ERROR, false);
}

/*
 * What now() and 'now' mean.  Some constants are read once, and kept in the schema: defaults and
 * checks, bounds of partitions, views.  The server has such a function for its parallel workers.
 */
static void
set_time(TimestampTz transaction, TimestampTz statement)
{
	int			worker_number = ParallelWorkerNumber;

	ParallelWorkerNumber = 0;
	SetParallelStartTimestamps(transaction, statement);
	ParallelWorkerNumber = worker_number;
}

/*
 * Bodies of functions were checked on the leader if they were to be; here they may
 * name what is not there, such as temporary tables.
 */
static void
set_parameters(const SchemaStatement *statement)
{
	List	   *settings = statement->settings;

	for (int i = 0; i + 1 < list_length(settings); i += 2)
		set_parameter(list_nth(settings, i), list_nth(settings, i + 1));
	set_parameter("check_function_bodies", "off");
	set_parameter("backslash_quote", "on");
}

/*
 * A leader captures nothing else, and of what is explained only what then makes a table or
 * a materialized view.  What a command of the whole server, COPY or DO could do
 * here is none of its business; nor is what planning a query could run.
 */
static void
check_schema_change(Node *raw)
{
	bool		select_into = IsA(raw, SelectStmt) && ((SelectStmt *) raw)->intoClause != NULL;
	bool		explained = IsA(raw, ExplainStmt) && IsA(((ExplainStmt *) raw)->query, CreateTableAsStmt);
	CommandTag	tag = CreateCommandTag(explained ? ((ExplainStmt *) raw)->query : raw);

	if (!select_into && !command_tag_event_trigger_ok(tag) &&
		tag != CMDTAG_CREATE_EVENT_TRIGGER && tag != CMDTAG_ALTER_EVENT_TRIGGER &&
		tag != CMDTAG_DROP_EVENT_TRIGGER && tag != CMDTAG_CLUSTER &&
		tag != CMDTAG_REASSIGN_OWNED)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("the leader sent a statement that is no schema change")));
}

/* The table that an ALTER TABLE is about, and what inherits from it. */
static List *
altered_tree(Node *stmt)
{
	Oid			relid;

	if (!IsA(stmt, AlterTableStmt))
		return NIL;
	relid = RangeVarGetRelid(((AlterTableStmt *) stmt)->relation, NoLock, true);
	return OidIsValid(relid) ? find_all_inheritors(relid, NoLock, NULL) : NIL;
}

/*
 * While a statement runs as a role, its code can neither SET ROLE nor leave anything that
 * is run later, when this process is a superuser again: deferred triggers, cursors WITH
 * HOLD, temporary objects that hide others.
 *
 * A statement that plans nothing runs code, too: a literal is read by the checks of its type's domain.
 * So all are restricted, as a whole, but for two.  A refresh may need a temporary table, and runs its query
 * restricted; the script of an extension may need one, and is the extension's, which was installed here.
 */
static int
restrictions_lifted(Node *stmt)
{
	switch (nodeTag(stmt))
	{
		case T_RefreshMatViewStmt:
			return ((RefreshMatViewStmt *) stmt)->concurrent ? SECURITY_RESTRICTED_OPERATION : 0;
		case T_CreateExtensionStmt:
		case T_AlterExtensionStmt:
			return SECURITY_RESTRICTED_OPERATION;
		default:
			return 0;
	}
}

static void
run_utility(PlannedStmt *planned, const char *text)
{
	AlterFunctionStmt *settings = adapt_function(planned->utilityStmt);
	Oid			user;
	int			sec_context;

	GetUserIdAndSecContext(&user, &sec_context);
	SetUserIdAndSecContext(user, sec_context & ~restrictions_lifted(planned->utilityStmt));
	guard_announce(true);
	ProcessUtility(planned, text, false, PROCESS_UTILITY_QUERY, NULL, NULL, None_Receiver, NULL);
	guard_announce(false);
	SetUserIdAndSecContext(user, sec_context);
	CommandCounterIncrement();
	if (settings == NULL)
		return;
	adapt_function_settings(settings);
	CommandCounterIncrement();
}

/* Returns the tables whose values are not the leader's. */
static List *
run_planned(const SchemaStatement *statement, PlannedStmt *planned)
{
	List	   *differing = NIL;

	if ((statement->flags & STATEMENT_VALUES_DIFFER) != 0)
		differing = altered_tree(planned->utilityStmt);
	if ((statement->flags & STATEMENT_OF_PARTS) != 0 && names_missing_parent(planned->utilityStmt))
		return NIL;
	if (!adapt_statement(planned->utilityStmt))
		return NIL;
	adapt_roles(planned->utilityStmt, statement->session_role);
	if (ddl.row->make_roles)
		make_roles(missing_roles(planned->utilityStmt));
	ddl.missing = list_concat(ddl.missing, dropped_tables_leave(planned->utilityStmt));
	run_utility(planned, statement->text);
	return differing;
}

static List *
run_text(const SchemaStatement *statement)
{
	List	   *differing = NIL;
	ListCell   *lc;

	foreach(lc, pg_parse_query(statement->text))
	{
		RawStmt    *raw = lfirst_node(RawStmt, lc);
		List	   *queries;
		ListCell   *lc2;

		check_schema_change(raw->stmt);
		queries = pg_analyze_and_rewrite_fixedparams(raw, statement->text, NULL, 0, NULL);
		foreach(lc2, pg_plan_queries(queries, statement->text, 0, NULL))
			differing = list_concat(differing,
									run_planned(statement, lfirst_node(PlannedStmt, lc2)));
	}
	return differing;
}

static void
become_role(Oid role, int sec_context)
{
	sec_context |= SECURITY_LOCAL_USERID_CHANGE;
	if (!superuser_arg(role))
		sec_context |= SECURITY_RESTRICTED_OPERATION;
	SetUserIdAndSecContext(role, sec_context);
}

/* An error ends the worker, which restores everything. */
static List *
run_statement(SchemaStatement *statement)
{
	ErrorContextCallback callback = {error_context_stack, statement_context, statement};
	Oid			user;
	int			sec_context;
	int			nestlevel;
	TimestampTz transaction_at = GetCurrentTransactionStartTimestamp();
	TimestampTz statement_at = GetCurrentStatementStartTimestamp();
	List	   *differing;

	error_context_stack = &callback;
	GetUserIdAndSecContext(&user, &sec_context);
	nestlevel = NewGUCNestLevel();
	if (ddl.row->make_roles)
		make_roles(list_make1(statement->role));
	become_role(statement_role(statement), sec_context);
	set_parameters(statement);
	set_time(statement->transaction_at, statement->statement_at);

	ddl.running = true;
	differing = run_text(statement);
	ddl.running = false;

	set_time(transaction_at, statement_at);
	SetUserIdAndSecContext(user, sec_context);
	/* What the statement's code has set goes, too. */
	AtEOXact_GUC(false, nestlevel);
	error_context_stack = callback.previous;
	return differing;
}

/* ---------- afterwards ---------- */

/*
 * New tables, and those of ours that were altered or dropped.  A schema's tables don't say so
 * when it is renamed.
 */
static List *
tables_to_update(void)
{
	List	   *relids = ddl.schemas_touched ? relation_map_in_state('\0') : NIL;
	ListCell   *lc;

	foreach(lc, ddl.created)
	{
		if (get_rel_relkind(lfirst_oid(lc)) == RELKIND_RELATION &&
			get_rel_persistence(lfirst_oid(lc)) == RELPERSISTENCE_PERMANENT)
			relids = lappend_oid(relids, lfirst_oid(lc));
	}
	foreach(lc, ddl.touched)
	{
		if (relation_map_table(lfirst_oid(lc)) != NULL)
			relids = lappend_oid(relids, lfirst_oid(lc));
	}
	return list_concat(relids, ddl.missing);
}

/* With the stream's id as $1 and the tables as $2; returns the number of rows. */
static uint64
change_followed_tables(const char *query, List *relids)
{
	Oid			types[] = {INT4OID, OIDARRAYOID};
	Datum		values[] = {Int32GetDatum(ddl.row->id), oid_array_datum(relids)};

	if (SPI_execute_with_args(query, lengthof(types), types, values, NULL, false, 0) < 0)
		elog(ERROR, "could not write fanout.followed_table");
	return SPI_processed;
}

/*
 * Tables that are gone lose their row, and so do those that the statement made unlogged: their changes
 * are not in the stream.  Renamed ones have the new name, new ones get one.  This takes no longer
 * for there being many tables.
 */
static void
update_followed_tables(void)
{
	List	   *relids = tables_to_update();
	OwnTables	state;
	uint64		rows;

	if (relids == NIL)
		return;
	followed_row_lock(ddl.row->id);
	own_tables_begin(&state);
	rows = change_followed_tables("DELETE FROM fanout.followed_table t"
								  " WHERE t.followed_id = $1 AND t.relid = ANY ($2)"
								  " AND t.state <> 'm'"
								  " AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = t.relid)",
								  relids);
	rows += change_followed_tables("DELETE FROM fanout.followed_table t"
								   " WHERE t.followed_id = $1 AND t.relid = ANY ($2)",
								   ddl.missing);
	rows += change_followed_tables("DELETE FROM fanout.followed_table t"
								   " WHERE t.followed_id = $1 AND t.relid = ANY ($2)"
								   " AND EXISTS (SELECT FROM pg_class c"
								   " WHERE c.oid = t.relid AND c.relpersistence <> 'p')",
								   ddl.touched);
	rows += change_followed_tables("UPDATE fanout.followed_table t"
								   " SET nspname = n.nspname, relname = c.relname"
								   " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
								   " WHERE t.followed_id = $1 AND t.relid = ANY ($2)"
								   " AND c.oid = t.relid"
								   " AND (t.nspname <> n.nspname OR t.relname <> c.relname)",
								   relids);
	rows += change_followed_tables("INSERT INTO fanout.followed_table"
								   " (followed_id, relid, nspname, relname, state)"
								   " SELECT $1, c.oid, n.nspname, c.relname, 'c'"
								   " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
								   " WHERE c.oid = ANY ($2) AND c.relkind = 'r'"
								   " AND c.relpersistence = 'p' ON CONFLICT DO NOTHING",
								   relids);
	own_tables_end(&state);
	if (rows == 0)
		return;
	followed_tables_changed();
	relation_map_refresh(relids);
	apply_tables_gone();
}

/*
 * Tables that are not in line with the stream: what is being copied, or was, is older or
 * newer than the change, or could not be found by the name that it had.
 */
static List *
touched_and_not_current(void)
{
	List	   *relids = NIL;
	ListCell   *lc;

	if (ddl.schemas_touched)
		return list_concat(relation_map_in_state(TABLE_PENDING),
						   relation_map_in_state(TABLE_BEHIND));
	foreach(lc, ddl.touched)
	{
		FollowedTable *table = relation_map_table(lfirst_oid(lc));

		if (table != NULL && (table->state == TABLE_PENDING || table->state == TABLE_BEHIND))
			relids = lappend_oid(relids, table->relid);
	}
	return relids;
}

static void
schedule_copies(List *differing, const LogTxn *txn)
{
	List	   *relids = touched_and_not_current();
	ListCell   *lc;

	foreach(lc, differing)
	{
		if (relation_map_table(lfirst_oid(lc)) != NULL)
			relids = list_append_unique_oid(relids, lfirst_oid(lc));
	}
	foreach(lc, ddl.altered)
	{
		if (relation_copied_after(lfirst_oid(lc), txn))
			relids = list_append_unique_oid(relids, lfirst_oid(lc));
	}
	apply_copy_again(relids);
}

/* What the statement dropped, and did not bring back by a rollback of its own. */
static void
tell_dropped(void)
{
	ListCell   *lc;

	foreach(lc, ddl.touched)
	{
		if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(lfirst_oid(lc))))
			apply_dropped(lfirst_oid(lc));
	}
}

/* ---------- from the applier ---------- */

static bool
sees_change(const char *snapshot, XLogRecPtr until, const LogTxn *txn)
{
	return snapshot != NULL && txn->commit_lsn < until && snapshot_sees(snapshot, txn->xid);
}

/*
 * Is the change here already, or will it come with what is yet to be made?  A stream that
 * names publications says which tables a statement is about; what one of them lacks
 * has to be done.
 */
static bool
came_with_schema(const SchemaStatement *statement, const LogTxn *txn)
{
	bool		came = false;
	bool		lacks = false;
	ListCell   *lc;

	if (sees_change(ddl.row->schema_snapshot, ddl.row->schema_until, txn))
		return true;
	foreach(lc, statement->relids)
	{
		FollowedTable *table = relation_map_leader_table(lfirst_oid(lc));

		if (table == NULL)
			came |= table_is_joining(lfirst_oid(lc));
		else if (sees_change(table->schema_snapshot, table->schema_until, txn))
			came = true;
		else
			lacks = true;
	}
	return came && !lacks;
}

/* What was made of a statement is remembered until its names come. */
static void
remember_made(const SchemaStatement *statement)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(ddl.made_context);
	RanStatement *ran = palloc(sizeof(RanStatement));

	ran->number = statement->number;
	ran->role = pstrdup(statement->role);
	ran->text = pstrdup(statement->text);
	ran->noted = ddl.noted;
	ddl.ran = lappend(ddl.ran, ran);
	MemoryContextSwitchTo(oldcontext);
}

/* Those of an earlier transaction will not come any more. */
static void
forget_made(uint64 xid)
{
	if (ddl.made_xid == xid && ddl.ran != NIL)
		return;
	MemoryContextReset(ddl.made_context);
	ddl.ran = NIL;
	ddl.made_xid = xid;
}

/* It was often the last one; a statement that came with the schema is not found. */
static RanStatement *
take_ran(uint32 number)
{
	for (int i = list_length(ddl.ran) - 1; i >= 0; i--)
	{
		RanStatement *ran = list_nth(ddl.ran, i);

		if (ran->number == number)
		{
			ddl.ran = list_delete_nth_cell(ddl.ran, i);
			return ran;
		}
	}
	return NULL;
}

static void
take_names(const SchemaStatement *statement)
{
	RanStatement *ran = take_ran(statement->number);
	SchemaStatement named = *statement;
	ErrorContextCallback callback = {error_context_stack, statement_context, &named};

	if (ran == NULL)
		return;
	group_close_relations();
	named.role = ran->role;
	named.text = ran->text;
	error_context_stack = &callback;
	made_take_names(made_describe(ran->noted), made_from_strings(statement->made));
	error_context_stack = callback.previous;
}

/* Returns false when there was nothing to do. */
bool
apply_statement(const Change *change, const LogTxn *txn)
{
	MemoryContext oldcontext;
	SchemaStatement *statement;
	List	   *differing;

	MemoryContextReset(ddl.context);
	oldcontext = MemoryContextSwitchTo(ddl.context);
	statement = statement_decode(change->body, change->body_len);
	forget_made(txn->xid);
	if (statement->flags & STATEMENT_MADE)
		take_names(statement);
	if ((statement->flags & STATEMENT_MADE) || came_with_schema(statement, txn))
	{
		MemoryContextSwitchTo(oldcontext);
		return false;
	}
	/* It needs the tables to itself. */
	group_close_relations();
	ddl.created = NIL;
	ddl.altered = NIL;
	ddl.touched = NIL;
	ddl.missing = NIL;
	ddl.schemas_touched = false;
	ddl.noted = NIL;

	differing = run_statement(statement);
	remember_made(statement);
	/* A table that was not logged until now has no row yet. */
	ddl.created = list_concat(ddl.created, differing);
	update_followed_tables();
	schedule_copies(differing, txn);
	tell_dropped();
	MemoryContextSwitchTo(oldcontext);
	return true;
}
