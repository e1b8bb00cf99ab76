/*
 * leader_locale.c
 *		Do strings sort here as they do on the leader?
 *
 * That depends on the database's locale and on the collations of columns: on their
 * provider, and on the version of its library.  Rows are right all the same, but queries
 * give another order, and a range of strings may belong to another partition, which
 * keeps the table from being in line (copy_pending.c).  follow() warns.
 */
#include "postgres.h"

#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"

#include "follower/follower.h"
#include "own_tables.h"

/*
 * Names and values.  A column of pg_database has another name from 17 on.  Of collations only
 * those count that come with the server, since others are made like the leader's.  A closing
 * parenthesis is left to the caller.
 */
static const char *const locale_query =
"WITH d AS (SELECT oid, pg_catalog.to_jsonb(d) AS facts FROM pg_catalog.pg_database d"
"           WHERE datname = pg_catalog.current_database()) "
"SELECT f.name, coalesce(f.value, '')"
" FROM d, LATERAL (VALUES ('LC_COLLATE', facts->>'datcollate'), ('LC_CTYPE', facts->>'datctype'),"
"  ('provider', facts->>'datlocprovider'),"
"  ('locale', coalesce(facts->>'datlocale', facts->>'daticulocale')),"
"  ('version', pg_catalog.pg_database_collation_actual_version(oid))) f (name, value) "
"UNION ALL "
"SELECT 'version of collation ' || collname, coalesce(pg_catalog.pg_collation_actual_version(oid), '')"
" FROM pg_catalog.pg_collation"
" WHERE oid < 16384 AND collprovider IN ('c', 'i') AND (oid IN (SELECT a.attcollation"
"  FROM pg_catalog.pg_attribute a WHERE a.attrelid >= 16384)";

/* The leader's value of that name, or NULL. */
static const char *
find_value(PGresult *facts, const char *name)
{
	for (int i = 0; i < PQntuples(facts); i++)
	{
		if (strcmp(PQgetvalue(facts, i, 0), name) == 0)
			return PQgetvalue(facts, i, 1);
	}
	return NULL;
}

static void
compare(StringInfo differences, PGresult *facts, const char *name, const char *here)
{
	const char *there = find_value(facts, name);

	if (there != NULL && strcmp(there, here) != 0)
		appendStringInfo(differences, "%sThe %s there is \"%s\" and here \"%s\".",
						 differences->len > 0 ? " " : "", name, there, here);
}

/* Also a collation that no column here has yet. */
static char *
here_query(PGresult *facts)
{
	StringInfoData names;

	initStringInfo(&names);
	for (int i = 0; i < PQntuples(facts); i++)
		appendStringInfo(&names, "%s%s", i > 0 ? ", " : "",
						 quote_literal_cstr(PQgetvalue(facts, i, 0)));
	return psprintf("%s OR 'version of collation ' || collname = ANY (ARRAY[%s]::text[]))",
					locale_query, names.data);
}

void
leader_warn_of_locale(PGconn *conn)
{
	PGresult   *facts = leader_query(conn, psprintf("%s)", locale_query), 0, NULL);
	StringInfoData differences;
	OwnTables	state;

	initStringInfo(&differences);
	own_tables_begin(&state);
	if (SPI_execute(here_query(facts), true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the database's locale");
	for (uint64 i = 0; i < SPI_processed; i++)
		compare(&differences, facts,
				SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1),
				SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2));
	own_tables_end(&state);
	PQclear(facts);
	if (differences.len > 0)
		ereport(WARNING,
				(errmsg("strings may sort in another order here than on the leader"),
				 errdetail_internal("%s", differences.data),
				 errhint("Tables that are partitioned by ranges of strings may not be replicated.")));
}
