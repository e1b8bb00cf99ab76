/*
 * verify_table.c
 *		Comparing one table of the leader with its copy here.
 *
 * First both sides count their rows and add up the rows' hashes (table_hash.c).
 * Only if these differ is more done, under the same snapshots: rows are put into
 * buckets by their key's hash, counts and sums of the buckets are compared, and of those
 * that differ, as many as it takes, the rows' keys and hashes are fetched.
 *
 * The key is the leader's primary key or replica identity, as far as it is published;
 * else the whole row.  Columns that have the same type on both sides are hashed as
 * they are, others as text.  Columns that only this follower has do not count.
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "arrays.h"
#include "follower/verify.h"
#include "row_hash.h"

#define ROWS_PER_BUCKET	64
#define MAX_BUCKETS		(1 << 18)

typedef struct Lines
{
	HashLine   *lines;
	int			count;
	int			allocated;
	MemoryContext context;		/* of the lines and their keys */
} Lines;

/* ---------- columns ---------- */

/* Those of the table's published columns that have another type here. */
static List *
columns_of_other_types(const VerifyTable *table, List *types)
{
	List	   *result = NIL;
	ListCell   *lc;
	ListCell   *lc2;

	forboth(lc, table->leader->columns, lc2, types)
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
		if (strcmp(format_type_with_typemod(typid, typmod), lfirst(lc2)) != 0)
			result = lappend(result, lfirst(lc));
	}
	return result;
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

static void
make_request(PGconn *conn, const VerifyTable *table, HashRequest *request)
{
	char		relkind;

	request->columns = table->leader->columns;
	request->text_columns = columns_of_other_types(table,
												   leader_types(conn, table->leader, &relkind));
	request->key = leader_key(conn, table->leader);
	if (request->key == NIL)
		request->key = request->columns;
}

/* ---------- asking both sides ---------- */

static void
add_line(void *arg, const HashLine *line)
{
	Lines	   *lines = arg;
	MemoryContext oldcontext = MemoryContextSwitchTo(lines->context);

	if (lines->lines == NULL || lines->count == lines->allocated)
	{
		lines->allocated = Max(lines->allocated * 2, 64);
		lines->lines = lines->lines == NULL ? palloc(sizeof(HashLine) * lines->allocated)
			: repalloc_huge(lines->lines, sizeof(HashLine) * lines->allocated);
	}
	lines->lines[lines->count] = *line;
	lines->lines[lines->count++].key = pstrdup(line->key);
	MemoryContextSwitchTo(oldcontext);
}

static void
ask_leader(PGconn *conn, const CopyTable *table, const HashRequest *request)
{
	const char *params[] = {
		quote_qualified_identifier(table->nspname, table->relname),
		name_array_text(request->columns),
		name_array_text(request->text_columns),
		name_array_text(request->key),
		table->row_filter,
		psprintf("%d", request->buckets),
		int_array_text(request->chosen),
	};

	leader_query_start(conn, "SELECT key_or_bucket, rows, hash FROM fanout.table_hashes($1, $2, $3, $4, $5, $6, $7)",
					   lengthof(params), params);
}

static void
lines_of_leader(PGconn *conn, Lines *lines)
{
	PGresult   *res = leader_query_finish(conn);

	for (int i = 0; i < PQntuples(res); i++)
	{
		HashLine	line = {
			.key = PQgetvalue(res, i, 0),
			.rows = strtoll(PQgetvalue(res, i, 1), NULL, 10),
			.hash = (uint64) strtoll(PQgetvalue(res, i, 2), NULL, 10),
		};

		CHECK_FOR_INTERRUPTS();
		add_line(lines, &line);
	}
	PQclear(res);
}

static int
compare_lines(const void *a, const void *b)
{
	const HashLine *x = a;
	const HashLine *y = b;
	int			result = strcmp(x->key, y->key);

	if (result == 0)
		result = x->hash < y->hash ? -1 : x->hash > y->hash;
	if (result == 0)
		result = x->rows < y->rows ? -1 : x->rows > y->rows;
	return result;
}

static void
sort_lines(Lines *lines)
{
	if (lines->count > 0)
		qsort(lines->lines, lines->count, sizeof(HashLine), compare_lines);
}

/* Both sides at the same time; each answer is in order. */
static void
ask_both(PGconn *conn, const VerifyTable *table, const HashRequest *request,
		 Lines *of_leader, Lines *here)
{
	HashRequest all = *request;

	/* The rows that the leader's filter lets through are all that there are here. */
	all.filter = NULL;
	*of_leader = *here = (Lines) {.context = CurrentMemoryContext};
	ask_leader(conn, table->leader, request);
	table_hashes(table->relid, &all, add_line, here);
	lines_of_leader(conn, of_leader);
	sort_lines(of_leader);
	sort_lines(here);
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
compare_whole(PGconn *conn, const VerifyTable *table, const HashRequest *request,
			  VerifyResult *result)
{
	Lines		of_leader;
	Lines		here;

	ask_both(conn, table, request, &of_leader, &here);
	if (of_leader.count != 1)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("unexpected answer from the leader")));
	result->rows_on_leader = of_leader.lines[0].rows;
	result->rows_here = here.lines[0].rows;
	result->equal = compare_lines(&of_leader.lines[0], &here.lines[0]) == 0;
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
differing_buckets(PGconn *conn, const VerifyTable *table, const HashRequest *request)
{
	Lines		of_leader;
	Lines		here;
	List	   *buckets = NIL;
	ListCell   *lc;

	ask_both(conn, table, request, &of_leader, &here);
	foreach(lc, differing_keys(&of_leader, &here, VERIFY_MAX_KEYS))
		buckets = lappend_int(buckets, atoi(lfirst(lc)));
	return buckets;
}

static void
find_keys(PGconn *conn, const VerifyTable *table, HashRequest *request, VerifyResult *result)
{
	Lines		of_leader;
	Lines		here;

	request->buckets = bucket_count(result);
	request->chosen = differing_buckets(conn, table, request);
	ask_both(conn, table, request, &of_leader, &here);
	result->keys = differing_keys(&of_leader, &here, VERIFY_MAX_KEYS);
}

void
verify_compare(PGconn *conn, const VerifyTable *table, VerifyResult *result)
{
	HashRequest request = {0};

	make_request(conn, table, &request);
	compare_whole(conn, table, &request, result);
	if (!result->equal)
		find_keys(conn, table, &request, result);
}
