/*
 * deferred_statement.c
 *		Statements of the leader's schema that are put off until the rows are here: indexes,
 *		constraints, triggers, materialized views.
 *
 * They are rows of fanout.deferred_statement, and go with the transaction that runs them.  There
 * may be thousands, whose locks must not fill the server's lock table, and some take hours: so a
 * few are run in a transaction, and whatever interrupts them, it goes on with the rest.  Those
 * that only set parameters are run in each transaction, before what follows them, and go last.
 *
 * What the leader has need not be possible: there are rows that violate its constraints, when
 * those were off or what a function says has changed, and rows that a broken index does not find.
 * A statement that fails for such a reason keeps no other, nor the stream.  A constraint is made
 * NOT VALID then; anything else is left out.  Both go to fanout.failed_statement, for
 * fanout.schema_problems.
 *
 * To validate a constraint, and to plan the query for that, can run functions of the table's
 * owner, so it is done with his rights.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "compat.h"
#include "follower/copy.h"
#include "follower/local_table.h"
#include "own_tables.h"

/* A transaction ends with so many, or when it has lasted so long. */
#define STATEMENTS_PER_TRANSACTION	20
#define TRANSACTION_US				INT64CONST(1000000)

typedef struct DeferredStatement
{
	int32		position;
	char	   *text;
	Node	   *parsed;
} DeferredStatement;

/* ---------- rows ---------- */

void
defer_statement(const FollowedRow *row, const char *statement, bool needs_consistency)
{
	OwnTables	state;
	Oid			types[] = {INT4OID, BOOLOID, TEXTOID};
	Datum		values[] = {Int32GetDatum(row->id), BoolGetDatum(needs_consistency),
	CStringGetTextDatum(statement)};

	own_tables_begin(&state);
	if (SPI_execute_with_args("INSERT INTO fanout.deferred_statement"
							  " (followed_id, position, needs_consistency, statement)"
							  " SELECT $1, coalesce(max(position), 0) + 1, $2, $3"
							  " FROM fanout.deferred_statement WHERE followed_id = $1",
							  3, types, values, NULL, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not write fanout.deferred_statement");
	own_tables_end(&state);
}

static Node *
parse_one(const char *text)
{
	List	   *statements = pg_parse_query(text);

	return statements == NIL ? NULL : linitial_node(RawStmt, statements)->stmt;
}

/* List of DeferredStatement in the given context. */
static List *
read_statements(const FollowedRow *row, bool consistent, MemoryContext context)
{
	OwnTables	state;
	Oid			types[] = {INT4OID, BOOLOID};
	Datum		values[] = {Int32GetDatum(row->id), BoolGetDatum(consistent)};
	List	   *statements = NIL;
	MemoryContext oldcontext;

	own_tables_begin(&state);
	if (SPI_execute_with_args("SELECT position, statement FROM fanout.deferred_statement"
							  " WHERE followed_id = $1 AND (NOT needs_consistency OR $2)"
							  " ORDER BY position",
							  lengthof(types), types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read fanout.deferred_statement");
	oldcontext = MemoryContextSwitchTo(context);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		DeferredStatement *statement = palloc(sizeof(DeferredStatement));
		bool		isnull;

		statement->position = DatumGetInt32(SPI_getbinval(tuple, desc, 1, &isnull));
		statement->text = SPI_getvalue(tuple, desc, 2);
		statement->parsed = parse_one(statement->text);
		statements = lappend(statements, statement);
	}
	MemoryContextSwitchTo(oldcontext);
	own_tables_end(&state);
	return statements;
}

static void
forget(const FollowedRow *row, int32 position)
{
	followed_execute(psprintf("DELETE FROM fanout.deferred_statement"
							  " WHERE followed_id = $1 AND position = %d", position), row->id);
}

/* That a statement failed, which was the last time, too, is one row. */
void
note_failed_statement(const FollowedRow *row, const char *statement, const char *outcome,
					  const ErrorData *error)
{
	OwnTables	state;
	Oid			types[] = {INT4OID, TEXTOID, TEXTOID, TEXTOID};
	char	   *text = error->detail == NULL ? pstrdup(error->message) :
		psprintf("%s: %s", error->message, error->detail);
	Datum		values[] = {Int32GetDatum(row->id), CStringGetTextDatum(statement),
	CStringGetTextDatum(outcome), CStringGetTextDatum(text)};

	ereport(WARNING,
			(errcode(error->sqlerrcode),
			 strcmp(outcome, LEFT_OUT) == 0 ?
			 errmsg("a statement of the leader's schema is left out: %s", error->message) :
			 errmsg("a constraint of the leader is not valid here: %s", error->message),
			 error->detail != NULL ? errdetail_internal("%s", error->detail) : 0,
			 errcontext("statement: %s", statement)));
	own_tables_begin(&state);
	if (SPI_execute_with_args("DELETE FROM fanout.failed_statement"
							  " WHERE followed_id = $1 AND statement = $2",
							  lengthof(types), types, values, NULL, false, 0) != SPI_OK_DELETE ||
		SPI_execute_with_args("INSERT INTO fanout.failed_statement"
							  " (followed_id, position, statement, outcome, error, failed_at)"
							  " SELECT $1, coalesce(max(position), 0) + 1, $2, $3, $4, clock_timestamp()"
							  " FROM fanout.failed_statement WHERE followed_id = $1",
							  lengthof(types), types, values, NULL, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not write fanout.failed_statement");
	own_tables_end(&state);
}

/* ---------- one statement ---------- */

static bool
only_sets_parameters(const DeferredStatement *statement)
{
	return statement->parsed != NULL &&
		(IsA(statement->parsed, VariableSetStmt) || IsA(statement->parsed, SelectStmt));
}

/* The command of an ALTER TABLE that adds or validates a foreign key or a check; else NULL. */
static AlterTableCmd *
constraint_command(const DeferredStatement *statement)
{
	AlterTableCmd *cmd;
	ConstrType	type;

	if (statement->parsed == NULL || !IsA(statement->parsed, AlterTableStmt) ||
		list_length(((AlterTableStmt *) statement->parsed)->cmds) != 1)
		return NULL;
	cmd = linitial_node(AlterTableCmd, ((AlterTableStmt *) statement->parsed)->cmds);
	if (cmd->subtype == AT_ValidateConstraint)
		return cmd;
	if (cmd->subtype != AT_AddConstraint)
		return NULL;
	type = castNode(Constraint, cmd->def)->contype;
	return type == CONSTR_FOREIGN || type == CONSTR_CHECK ? cmd : NULL;
}

static Oid
owner_of(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid			owner = InvalidOid;

	if (HeapTupleIsValid(tuple))
	{
		owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
		ReleaseSysCache(tuple);
	}
	return owner;
}

/* With the rights of the table's owner, if it looks at rows. */
static void
run(const DeferredStatement *statement, char *text)
{
	Oid			owner = InvalidOid;
	FormerUser	former;

	if (constraint_command(statement) != NULL)
		owner = owner_of(RangeVarGetRelid(((AlterTableStmt *) statement->parsed)->relation,
										  NoLock, true));
	if (!OidIsValid(owner))
	{
		run_schema_statement(text);
		return;
	}
	local_table_become(owner, &former);
	run_schema_statement(text);
	local_table_become_former(&former);
}

/* Is it by chance, or by what others do, that the statement fails now? */
static bool
may_pass(const ErrorData *error)
{
	switch (ERRCODE_TO_CATEGORY(error->sqlerrcode))
	{
		case ERRCODE_TRANSACTION_ROLLBACK:
		case ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE:
			return true;
		default:
			return !error_is_of_object(error);
	}
}

/* Why it can't be run; NULL: it was. */
static ErrorData *
try(const DeferredStatement *statement, char *text)
{
	MemoryContext oldcontext = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *error = NULL;

	BeginInternalSubTransaction(NULL);
	PG_TRY();
	{
		run(statement, text);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(oldcontext);
		error = CopyErrorData();
		if (may_pass(error))
			PG_RE_THROW();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(oldcontext);
	CurrentResourceOwner = owner;
	return error;
}

/* The statement that validates what was added NOT VALID. */
static char *
validation(const DeferredStatement *statement, const Constraint *constraint)
{
	const RangeVar *table = ((AlterTableStmt *) statement->parsed)->relation;

	return psprintf("ALTER TABLE ONLY %s VALIDATE CONSTRAINT %s",
					quote_qualified_identifier(table->schemaname, table->relname),
					quote_identifier(constraint->conname));
}

/* The stream may have dropped or renamed what the statement is about. */
static bool
says_gone(const ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_UNDEFINED_SCHEMA ||
		error->sqlerrcode == ERRCODE_UNDEFINED_TABLE ||
		error->sqlerrcode == ERRCODE_UNDEFINED_OBJECT ||
		error->sqlerrcode == ERRCODE_WRONG_OBJECT_TYPE;
}

static void
run_or_note(const FollowedRow *row, const DeferredStatement *statement)
{
	AlterTableCmd *cmd = constraint_command(statement);
	ErrorData  *error = try(statement, statement->text);

	if (error == NULL)
		return;
	if (row->schema_done && says_gone(error))
		ereport(LOG,
				(errmsg("a statement of the leader's schema is left out, since what it is about has changed"),
				 errdetail_internal("%s", statement->text)));
	else if (cmd != NULL && cmd->subtype == AT_ValidateConstraint)
		note_failed_statement(row, statement->text, NOT_VALID, error);
	else if (cmd != NULL && !castNode(Constraint, cmd->def)->skip_validation &&
			 try(statement, psprintf("%s NOT VALID", statement->text)) == NULL)
		note_failed_statement(row, validation(statement, castNode(Constraint, cmd->def)),
							  NOT_VALID, error);
	else
		note_failed_statement(row, statement->text, LEFT_OUT, error);
}

/* ---------- all of them ---------- */

static List *
append_in(MemoryContext context, List *list, void *item)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(context);

	list = lappend(list, item);
	MemoryContextSwitchTo(oldcontext);
	return list;
}

/* Some, from a place in the list on; returns where to go on. */
static int
run_some(const FollowedRow *row, List *statements, int from, List **settings)
{
	int64		began = fanout_boottime_us();
	int			nestlevel = NewGUCNestLevel();
	List	   *done = NIL;
	int			i;
	ListCell   *lc;

	foreach(lc, *settings)
		run_schema_statement(((DeferredStatement *) lfirst(lc))->text);
	for (i = from; i < list_length(statements) &&
		 list_length(done) < STATEMENTS_PER_TRANSACTION &&
		 fanout_boottime_us() - began < TRANSACTION_US; i++)
	{
		DeferredStatement *statement = list_nth(statements, i);

		CHECK_FOR_INTERRUPTS();
		if (only_sets_parameters(statement))
		{
			run_schema_statement(statement->text);
			*settings = append_in(GetMemoryChunkContext(statement), *settings, statement);
			continue;
		}
		run_or_note(row, statement);
		done = lappend(done, statement);
	}
	AtEOXact_GUC(false, nestlevel);

	/* Last, since unfollow() waits for the lock of a row. */
	foreach(lc, done)
		forget(row, ((DeferredStatement *) lfirst(lc))->position);
	return i;
}

/* What is left are the settings. */
static void
forget_all(const FollowedRow *row, bool consistent)
{
	followed_execute(psprintf("DELETE FROM fanout.deferred_statement WHERE followed_id = $1%s",
							  consistent ? "" : " AND NOT needs_consistency"), row->id);
}

void
run_deferred_statements(const FollowedRow *row, bool consistent)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "pg_fanout deferred statements",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext oldcontext = MemoryContextSwitchTo(context);
	List	   *settings = NIL;
	List	   *statements;
	int			next = 0;

	begin_step("looking for indexes and constraints to be made");
	statements = read_statements(row, consistent, context);
	end_step();
	while (next < list_length(statements))
	{
		begin_step("making indexes and constraints");
		next = run_some(row, statements, next, &settings);
		end_step();
	}
	if (settings != NIL)
	{
		begin_step("making indexes and constraints");
		forget_all(row, consistent);
		end_step();
	}
	MemoryContextSwitchTo(oldcontext);
	MemoryContextDelete(context);
}

/* The stream has caught up: what is left can be run. */
void
finish_schema(const FollowedRow *row)
{
	run_deferred_statements(row, true);
}
