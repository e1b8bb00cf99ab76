/*
 * verify_table.c
 *		Comparing one table of the leader with its copy here.
 *
 * First both sides count their rows and add up the rows' hashes (fanout.row_hash()).
 * Only if these differ is more done, under the same snapshots: rows are put into
 * buckets by their key's hash, counts and sums of the buckets are compared, and of those
 * that differ, as many as it takes, the rows' keys and hashes are fetched.
 *
 * The key is the leader's primary key or replica identity, as far as it is published;
 * else the whole row.  Columns that have the same type on both sides are hashed as
 * they are, others as text.  Columns that only this follower has do not count.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_class.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "follower/verify.h"

#define ROWS_PER_BUCKET	64
#define MAX_BUCKETS		(1 << 18)

/* The parts of the queries; they differ in "from" only. */
typedef struct Queries
{
	char	   *columns;		/* what is hashed of a row */
	char	   *key;			/* the key's columns */
	char	   *from_leader;
	char	   *from_here;
} Queries;

/* A row of a result, as text. */
typedef struct Line
{
	char	   *key;			/* a bucket, or a key in JSON */
	char	   *count;
	char	   *sum;
} Line;

typedef struct Lines
{
	Line	   *lines;
	int			count;
} Lines;

/* ---------- parts of queries ---------- */

/* Columns, separated by commas, each as text when the types differ. */
static char *
column_list(const VerifyTable *table, List *columns, List *types)
{
	StringInfoData list;
	ListCell   *lc;
	ListCell   *lc2;

	initStringInfo(&list);
	forboth(lc, columns, lc2, types)
	{
		AttrNumber	attnum = get_attnum(table->relid, lfirst(lc));
		Oid			typid;
		int32		typmod;
		Oid			collation;

		if (attnum == InvalidAttrNumber)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" of relation \"%s.%s\" does not exist on this follower",
							(char *) lfirst(lc), table->leader->nspname,
							table->leader->relname)));
		get_atttypetypmodcoll(table->relid, attnum, &typid, &typmod, &collation);
		appendStringInfo(&list, "%st.%s%s", foreach_current_index(lc) > 0 ? ", " : "",
						 quote_identifier(lfirst(lc)),
						 strcmp(format_type_with_typemod(typid, typmod), lfirst(lc2)) == 0
						 ? "" : "::pg_catalog.text");
	}
	return list.data;
}

/* The names of the leader's key; NIL: none, or not all of it is published. */
static List *
leader_key(PGconn *conn, const CopyTable *table)
{
	const char *params[] = {quote_qualified_identifier(table->nspname, table->relname)};
	PGresult   *res = leader_query(conn,
								   "SELECT a.attname FROM (SELECT indrelid, indkey, indnkeyatts FROM pg_catalog.pg_index"
								   "  WHERE indrelid = $1::pg_catalog.regclass AND (indisprimary OR indisreplident)"
								   "  ORDER BY indisprimary DESC LIMIT 1) i,"
								   " LATERAL pg_catalog.generate_series(0, indnkeyatts - 1) n"
								   " JOIN pg_catalog.pg_attribute a ON true"
								   " WHERE a.attrelid = indrelid AND a.attnum = indkey[n] ORDER BY n",
								   1, params);
	List	   *key = NIL;

	for (int i = 0; i < PQntuples(res); i++)
	{
		ListCell   *lc;
		bool		published = false;

		foreach(lc, table->columns)
			published |= strcmp(lfirst(lc), PQgetvalue(res, i, 0)) == 0;
		if (!published)
		{
			key = NIL;
			break;
		}
		key = lappend(key, pstrdup(PQgetvalue(res, i, 0)));
	}
	PQclear(res);
	return key;
}

static List *
types_of(List *names, List *columns, List *types)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, names)
	{
		ListCell   *lc2;
		ListCell   *lc3;

		forboth(lc2, columns, lc3, types)
		{
			if (strcmp(lfirst(lc), lfirst(lc2)) == 0)
				result = lappend(result, lfirst(lc3));
		}
	}
	return result;
}

static char *
from_clause(const CopyTable *table, bool only, const char *filter)
{
	return psprintf("FROM %s%s t WHERE (%s)", only ? "ONLY " : "",
					quote_qualified_identifier(table->nspname, table->relname),
					filter != NULL ? filter : "true");
}

static void
make_queries(PGconn *conn, const VerifyTable *table, Queries *queries)
{
	CopyTable  *leader = table->leader;
	char		relkind;
	List	   *types = leader_types(conn, leader, &relkind);
	List	   *key = leader_key(conn, leader);

	if (key == NIL)
		key = leader->columns;
	queries->columns = column_list(table, leader->columns, types);
	queries->key = column_list(table, key, types_of(key, leader->columns, types));
	queries->from_leader = from_clause(leader, relkind == RELKIND_RELATION, leader->row_filter);
	queries->from_here = from_clause(leader, get_rel_relkind(table->relid) == RELKIND_RELATION,
									 NULL);
}

/* ---------- running them on both sides ---------- */

static int
compare_lines(const void *a, const void *b)
{
	const Line *x = a;
	const Line *y = b;
	int			result = strcmp(x->key, y->key);

	if (result == 0)
		result = strcmp(x->sum, y->sum);
	return result != 0 ? result : strcmp(x->count, y->count);
}

static Lines
lines_of_leader(PGconn *conn)
{
	PGresult   *res = leader_query_finish(conn);
	Lines		result = {.count = PQntuples(res)};

	result.lines = palloc_extended(sizeof(Line) * Max(result.count, 1), MCXT_ALLOC_HUGE);
	for (int i = 0; i < result.count; i++)
	{
		result.lines[i].key = pstrdup(PQgetvalue(res, i, 0));
		result.lines[i].count = pstrdup(PQgetvalue(res, i, 1));
		result.lines[i].sum = pstrdup(PQgetvalue(res, i, 2));
	}
	PQclear(res);
	return result;
}

static Lines
lines_of_here(const char *query, MemoryContext context)
{
	MemoryContext oldcontext;
	Lines		result;

	if (SPI_execute(query, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the table");
	oldcontext = MemoryContextSwitchTo(context);
	result.count = SPI_processed;
	result.lines = palloc_extended(sizeof(Line) * Max(result.count, 1), MCXT_ALLOC_HUGE);
	for (int i = 0; i < result.count; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];

		result.lines[i].key = SPI_getvalue(tuple, SPI_tuptable->tupdesc, 1);
		result.lines[i].count = SPI_getvalue(tuple, SPI_tuptable->tupdesc, 2);
		result.lines[i].sum = SPI_getvalue(tuple, SPI_tuptable->tupdesc, 3);
	}
	MemoryContextSwitchTo(oldcontext);
	SPI_freetuptable(SPI_tuptable);
	return result;
}

/* Both sides at the same time; each result is in order. */
static void
run_queries(PGconn *conn, const char *on_leader, const char *here, Lines *leader_lines,
			Lines *lines_here)
{
	MemoryContext context = CurrentMemoryContext;

	leader_query_start(conn, on_leader, 0, NULL);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	*lines_here = lines_of_here(here, context);
	if (SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "SPI_finish failed");
	*leader_lines = lines_of_leader(conn);

	qsort(leader_lines->lines, leader_lines->count, sizeof(Line), compare_lines);
	qsort(lines_here->lines, lines_here->count, sizeof(Line), compare_lines);
}

/* Keys of lines that are on one side only, each once, no more than max. */
static List *
differing_keys(const Lines *a, const Lines *b, int max)
{
	List	   *keys = NIL;
	int			i = 0;
	int			j = 0;

	while ((i < a->count || j < b->count) && list_length(keys) < max)
	{
		int			order = i >= a->count ? 1 : j >= b->count ? -1 :
			compare_lines(&a->lines[i], &b->lines[j]);
		const char *key = order <= 0 ? a->lines[i].key : b->lines[j].key;

		i += order <= 0 ? 1 : 0;
		j += order >= 0 ? 1 : 0;
		if (order != 0 && (keys == NIL || strcmp(llast(keys), key) != 0))
			keys = lappend(keys, unconstify(char *, key));
	}
	return keys;
}

/* ---------- what is compared ---------- */

static void
compare_whole(PGconn *conn, const Queries *queries, VerifyResult *result)
{
	char	   *select = psprintf("SELECT '' AS key, pg_catalog.count(*),"
								  " coalesce(pg_catalog.sum(fanout.row_hash(ROW(%s))), 0)",
								  queries->columns);
	Lines		leader_lines;
	Lines		lines_here;

	run_queries(conn, psprintf("%s %s", select, queries->from_leader),
				psprintf("%s %s", select, queries->from_here), &leader_lines, &lines_here);
	if (leader_lines.count != 1)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("unexpected answer from the leader")));
	result->rows_on_leader = strtoll(leader_lines.lines[0].count, NULL, 10);
	result->rows_here = strtoll(lines_here.lines[0].count, NULL, 10);
	result->equal = compare_lines(&leader_lines.lines[0], &lines_here.lines[0]) == 0;
}

static int
bucket_count(const VerifyResult *result)
{
	int64		rows = Max(result->rows_on_leader, result->rows_here);
	int			buckets = 1;

	while (buckets < MAX_BUCKETS && buckets < rows / ROWS_PER_BUCKET)
		buckets *= 2;
	return buckets;
}

/* Buckets that differ, enough to find so many keys. */
static List *
differing_buckets(PGconn *conn, const Queries *queries, const char *bucket)
{
	char	   *select = psprintf("SELECT %s, pg_catalog.count(*),"
								  " pg_catalog.sum(fanout.row_hash(ROW(%s)))",
								  bucket, queries->columns);
	Lines		leader_lines;
	Lines		lines_here;

	run_queries(conn, psprintf("%s %s GROUP BY 1", select, queries->from_leader),
				psprintf("%s %s GROUP BY 1", select, queries->from_here),
				&leader_lines, &lines_here);
	return differing_keys(&leader_lines, &lines_here, VERIFY_MAX_KEYS);
}

static void
find_keys(PGconn *conn, const Queries *queries, VerifyResult *result)
{
	char	   *bucket = psprintf("fanout.row_hash(ROW(%s)) & %d", queries->key,
								  bucket_count(result) - 1);
	List	   *buckets = differing_buckets(conn, queries, bucket);
	char	   *select = psprintf("SELECT (SELECT pg_catalog.to_jsonb(k) FROM (SELECT %s) k)::pg_catalog.text AS key,"
								  " pg_catalog.count(*), fanout.row_hash(ROW(%s)) AS hash",
								  queries->key, queries->columns);
	StringInfoData rows;
	Lines		leader_lines;
	Lines		lines_here;
	ListCell   *lc;

	initStringInfo(&rows);
	appendStringInfo(&rows, "AND (%s) = ANY ('{", bucket);
	/* They come from the other server: nothing but a number gets into our query. */
	foreach(lc, buckets)
		appendStringInfo(&rows, "%s%d", foreach_current_index(lc) > 0 ? "," : "",
						 atoi(lfirst(lc)));
	appendStringInfoString(&rows, "}'::pg_catalog.int8[]) GROUP BY 1, 3");

	run_queries(conn, psprintf("%s %s %s", select, queries->from_leader, rows.data),
				psprintf("%s %s %s", select, queries->from_here, rows.data),
				&leader_lines, &lines_here);
	result->keys = differing_keys(&leader_lines, &lines_here, VERIFY_MAX_KEYS);
}

void
verify_compare(PGconn *conn, const VerifyTable *table, VerifyResult *result)
{
	Queries		queries;

	make_queries(conn, table, &queries);
	compare_whole(conn, &queries, result);
	if (!result->equal)
		find_keys(conn, &queries, result);
}
