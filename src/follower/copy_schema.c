/*
 * copy_schema.c
 *		Bringing the leader's schema: sections of pg_dump, run through SPI.
 *
 * The dump's statements (schema_dump.c) are run one by one in the caller's transaction.
 *
 * Left out: the extension itself and its schema; large objects; statements that give something to
 * a role which does not exist here, and is not to be made; foreign keys to tables that are not here;
 * parameters that a newer pg_dump sets and this server does not have.
 *
 * Both sections are brought at once, so that they are of one snapshot: from there on
 * the stream has every change of the schema.  The statements of post-data are put off until
 * the rows are here (deferred_statement.c).  To validate foreign keys and
 * to fill materialized views needs tables that are consistent, and those of
 * a copy that was interrupted come from different snapshots: then that waits until the
 * stream has caught up.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "commands/defrem.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/resowner.h"

#include "follower/copy.h"

#define MANY_TABLES		1000

/* ---------- which statements are run ---------- */

/* The extension is here already, and its being here is what runs this. */
static bool
is_own_extension(Node *stmt)
{
	if (IsA(stmt, CreateExtensionStmt))
		return strcmp(((CreateExtensionStmt *) stmt)->extname, FANOUT_LIBRARY) == 0;
	if (IsA(stmt, CommentStmt) && ((CommentStmt *) stmt)->objtype == OBJECT_EXTENSION)
		return strcmp(strVal(((CommentStmt *) stmt)->object), FANOUT_LIBRARY) == 0;
	return false;
}

/* The parameter has no meaning here, so neither has its value. */
static bool
sets_unknown_parameter(Node *stmt)
{
	return IsA(stmt, VariableSetStmt) && ((VariableSetStmt *) stmt)->name != NULL &&
		GetConfigOption(((VariableSetStmt *) stmt)->name, true, false) == NULL;
}

/* Blank an option in parentheses, with the comma that parts it from another. */
static void
blank_option(char *option)
{
	size_t		len = strcspn(option, ",)");

	if (option[len] == ',')
		len++;
	else
	{
		while (option[-1] != '(' && option[-1] != ',')
			option--, len++;
		if (option[-1] == ',')
			option--, len++;
	}
	memset(option, ' ', len);
}

/*
 * 15.20, 17.12 and their like keep a number of their own among a column's options.
 * pg_dump of an earlier minor release writes it down, and no server takes it.  Take it
 * out of the statement; false: nothing is left.
 */
static bool
take_out_column_version(Node *stmt, char *script)
{
	bool		any_left = false;
	ListCell   *lc;
	ListCell   *lc2;

	if (!IsA(stmt, AlterTableStmt))
		return true;
	foreach(lc, ((AlterTableStmt *) stmt)->cmds)
	{
		AlterTableCmd *cmd = lfirst_node(AlterTableCmd, lc);

		if (cmd->subtype != AT_SetOptions)
			return true;
		foreach(lc2, castNode(List, cmd->def))
		{
			DefElem    *option = lfirst_node(DefElem, lc2);

			if (strcmp(option->defname, "pg_attver") == 0)
				blank_option(script + option->location);
			else
				any_left = true;
		}
	}
	return any_left;
}

/* The foreign key that the statement adds; NULL: none. */
static Constraint *
added_foreign_key(Node *stmt)
{
	ListCell   *lc;

	foreach(lc, IsA(stmt, AlterTableStmt) ? ((AlterTableStmt *) stmt)->cmds : NIL)
	{
		AlterTableCmd *cmd = lfirst_node(AlterTableCmd, lc);

		if (cmd->subtype == AT_AddConstraint &&
			castNode(Constraint, cmd->def)->contype == CONSTR_FOREIGN)
			return (Constraint *) cmd->def;
	}
	return NULL;
}

/* Why the statement can't be run here; NULL: it can. */
static const char *
why_left_out(Node *stmt)
{
	Constraint *foreign_key = added_foreign_key(stmt);

	if (missing_roles(stmt) != NIL)
		return "a role it names does not exist here";
	if (foreign_key != NULL && !OidIsValid(RangeVarGetRelid(foreign_key->pktable, NoLock, true)))
		return "a table it references does not exist here";
	return NULL;
}

/* ---------- running statements ---------- */

static void
statement_context(void *arg)
{
	const char *statement = arg;

	errcontext("running the leader's schema statement: %.*s",
			   pg_mbcliplen(statement, strlen(statement), 200), statement);
}

void
run_schema_statement(char *statement)
{
	ErrorContextCallback callback = {error_context_stack, statement_context, statement};

	error_context_stack = &callback;
	guard_announce(true);
	if (SPI_connect() != SPI_OK_CONNECT || SPI_execute(statement, false, 0) < 0 ||
		SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "could not run a statement");
	guard_announce(false);
	CommandCounterIncrement();
	error_context_stack = callback.previous;
}

/*
 * Nobody else sees what the statement has made before all is committed, so its locks are given
 * back at once.  Thousands of tables would have their places in the server's lock table
 * until then, which the transaction, or other sessions, would lack.
 */
static void
run_without_keeping_locks(char *statement)
{
	ResourceOwner former = CurrentResourceOwner;
	ResourceOwner owner = ResourceOwnerCreate(former, "pg_fanout schema statement");

	CurrentResourceOwner = owner;
	run_schema_statement(statement);
	CurrentResourceOwner = former;
	ResourceOwnerRelease(owner, RESOURCE_RELEASE_BEFORE_LOCKS, false, false);
	ResourceOwnerRelease(owner, RESOURCE_RELEASE_LOCKS, false, false);
	ResourceOwnerRelease(owner, RESOURCE_RELEASE_AFTER_LOCKS, false, false);
	ResourceOwnerDelete(owner);
}

/* Its text, which may have a password, stands in no error. */
static void
make_user_mapping(CreateUserMappingStmt *stmt)
{
	(void) CreateUserMapping(stmt);
	CommandCounterIncrement();
}

/* The line of the script that the parser stopped at. */
static void
script_context(void *arg)
{
	const char *script = arg;
	int			position = geterrposition();
	const char *line = script;

	/* Positions count characters, from 1. */
	for (const char *p = script; position > 1 && *p != '\0'; p += pg_mblen(p), position--)
	{
		if (*p == '\n')
			line = p + 1;
	}
	errposition(0);
	errcontext("parsing the leader's schema: %.*s", (int) strcspn(line, "\n"), line);
}

static List *
parse_script(char *script)
{
	ErrorContextCallback callback = {error_context_stack, script_context, script};
	List	   *statements;

	error_context_stack = &callback;
	statements = pg_parse_query(script);
	error_context_stack = callback.previous;
	return statements;
}

/*
 * The constraint itself is made with the indexes, so that the stream can change it;
 * only looking at all rows needs consistency.  Partitioned tables can't have the two apart.
 */
static void
defer_foreign_key(const FollowedRow *row, const RangeVar *table, const Constraint *constraint,
				  const char *statement)
{
	if (get_rel_relkind(RangeVarGetRelid(table, NoLock, false)) == RELKIND_PARTITIONED_TABLE)
	{
		defer_statement(row, statement, true);
		return;
	}
	defer_statement(row, psprintf("%s NOT VALID", statement), false);
	if (!constraint->skip_validation)
		defer_statement(row, psprintf("ALTER TABLE ONLY %s VALIDATE CONSTRAINT %s",
									  quote_qualified_identifier(table->schemaname, table->relname),
									  quote_identifier(constraint->conname)), true);
}

static void
defer(const FollowedRow *row, Node *stmt, const char *statement)
{
	Constraint *foreign_key = added_foreign_key(stmt);

	if (foreign_key != NULL)
		defer_foreign_key(row, ((AlterTableStmt *) stmt)->relation, foreign_key, statement);
	else
		defer_statement(row, statement, IsA(stmt, RefreshMatViewStmt));
}

/* Its text without the comments that stand before it. */
static char *
statement_text(const RawStmt *raw, char *script)
{
	char	   *text = script + raw->stmt_location;
	char	   *end = raw->stmt_len > 0 ? text + raw->stmt_len : text + strlen(text);

	for (;;)
	{
		text += strspn(text, " \t\r\n");
		if (strncmp(text, "--", 2) != 0)
			break;
		text += strcspn(text, "\n");
	}
	return pnstrdup(text, end - text);
}

static void
handle_statement(const FollowedRow *row, RawStmt *raw, char *script, bool put_off)
{
	char	   *statement;
	const char *why;

	CHECK_FOR_INTERRUPTS();
	if (is_own_extension(raw->stmt) || sets_unknown_parameter(raw->stmt) ||
		!take_out_column_version(raw->stmt, script))
		return;
	statement = statement_text(raw, script);
	if (row->make_roles)
		make_roles(missing_roles(raw->stmt));
	why = why_left_out(raw->stmt);
	if (why != NULL)
	{
		ereport(LOG,
				(errmsg("a statement of the leader's schema is left out, since %s", why),
				 IsA(raw->stmt, CreateUserMappingStmt) ? errdetail("It is a user mapping.") :
				 errdetail_internal("%s", statement)));
		return;
	}
	if (IsA(raw->stmt, CreateUserMappingStmt))
		make_user_mapping((CreateUserMappingStmt *) raw->stmt);
	else if (put_off || IsA(raw->stmt, RefreshMatViewStmt) || added_foreign_key(raw->stmt) != NULL)
		defer(row, raw->stmt, statement);
	else
		run_without_keeping_locks(statement);
}

static void
copy_part(const FollowedRow *row, Program *dump, bool put_off)
{
	char	   *script = schema_dump_finish(dump);
	int			nestlevel = NewGUCNestLevel();
	ListCell   *lc;

	foreach(lc, parse_script(script))
		handle_statement(row, lfirst_node(RawStmt, lc), script, put_off);

	/* The script's SETs are for the script. */
	AtEOXact_GUC(false, nestlevel);
}

/* Both at a time, unless there are many tables: each pg_dump locks all of them on the leader. */
void
copy_schema(const FollowedRow *row, const CopySession *session)
{
	List	   *before_data = list_make1("--section=pre-data");
	List	   *after_data = list_make1("--section=post-data");
	bool		many = list_length(session->tables) > MANY_TABLES;
	Program    *before = schema_dump_start(row, before_data, session);
	Program    *after = many ? NULL : schema_dump_start(row, after_data, session);

	copy_part(row, before, false);
	if (many)
		after = schema_dump_start(row, after_data, session);
	copy_part(row, after, true);
}

/* Within double quotes pg_dump takes a name literally. */
static void
append_quoted(StringInfo buf, const char *name)
{
	appendStringInfoChar(buf, '"');
	for (const char *p = name; *p != '\0'; p++)
	{
		if (*p == '"')
			appendStringInfoChar(buf, '"');
		appendStringInfoChar(buf, *p);
	}
	appendStringInfoChar(buf, '"');
}

void
copy_schema_of(const FollowedRow *row, List *tables, const CopySession *session)
{
	List	   *what = list_make1("--schema-only");
	ListCell   *lc;

	foreach(lc, tables)
	{
		CopyTable  *table = lfirst(lc);
		StringInfoData option;

		initStringInfo(&option);
		appendStringInfoString(&option, "--table=");
		append_quoted(&option, table->nspname);
		appendStringInfoChar(&option, '.');
		append_quoted(&option, table->relname);
		what = lappend(what, option.data);
	}
	copy_part(row, schema_dump_start(row, what, session), false);
}
