/*
 * copy_check.c
 *		Rows of the leader that violate a check constraint which it has all the same.
 *
 * They are older than a constraint that is NOT VALID, or than what a function of it says now.  To
 * be copied they need the constraint out of the way, since one that is not valid holds for new
 * rows, too.  So it is dropped here when the copy of a table fails by it, and comes back as
 * NOT VALID when all tables are in line (deferred_statement.c).  A constraint that is no longer on
 * the leader is left alone: rows are newer than the schema then, and the stream will drop it.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "follower/copy.h"
#include "own_tables.h"

static bool
is_on_leader(const FollowedRow *row, const PendingTable *table, const char *constraint)
{
	PGconn	   *conn = leader_connect(row->conninfo, NameStr(row->follower));
	const char *params[] = {psprintf("%u", table->leader->relid), constraint};
	bool		found = leader_query_value(conn, "SELECT 1 FROM pg_catalog.pg_constraint"
										   " WHERE conrelid = $1::oid AND conname = $2 AND contype = 'c'",
										   2, params) != NULL;

	leader_disconnect(conn);
	return found;
}

/* Its definition as NOT VALID; NULL: the table has none of that name, or inherits it. */
static char *
definition(Oid relid, const char *constraint)
{
	OwnTables	state;
	Oid			types[] = {OIDOID, TEXTOID};
	Datum		values[] = {ObjectIdGetDatum(relid), CStringGetTextDatum(constraint)};
	char	   *result = NULL;

	own_tables_begin(&state);
	if (SPI_execute_with_args("SELECT pg_get_constraintdef(oid)"
							  " || CASE WHEN convalidated THEN ' NOT VALID' ELSE '' END"
							  " FROM pg_constraint WHERE conrelid = $1 AND conname = $2::name"
							  " AND contype = 'c' AND coninhcount = 0",
							  lengthof(types), types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read pg_constraint");
	if (SPI_processed > 0)
		result = MemoryContextStrdup(state.context,
									 SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1));
	own_tables_end(&state);
	return result;
}

void
set_check_aside(const FollowedRow *row, const PendingTable *table, const ErrorData *error)
{
	char	   *name;
	char	   *check;

	if (error->sqlerrcode != ERRCODE_CHECK_VIOLATION || error->constraint_name == NULL ||
		get_rel_name(table->relid) == NULL)
		return;
	check = definition(table->relid, error->constraint_name);
	if (check == NULL || !is_on_leader(row, table, error->constraint_name))
		return;
	name = quote_qualified_identifier(get_namespace_name(get_rel_namespace(table->relid)),
									  get_rel_name(table->relid));
	run_schema_statement(psprintf("ALTER TABLE %s DROP CONSTRAINT %s", name,
								  quote_identifier(error->constraint_name)));
	defer_statement(row, psprintf("ALTER TABLE %s ADD CONSTRAINT %s %s", name,
								  quote_identifier(error->constraint_name), check), true);
	note_failed_statement(row, psprintf("ALTER TABLE %s VALIDATE CONSTRAINT %s", name,
										quote_identifier(error->constraint_name)),
						  NOT_VALID, error);
}
