/*
 * copy_snapshot.c
 *		The leader's side of an initial copy: a snapshot to copy with, and the position
 *		from which, with it as a filter, the stream completes the copy.
 *
 * The order is what makes it right (see leader/copy_point.c for the position P):
 *
 *	1. In a transaction of its own the follower registers and gets P: every
 *	   snapshot taken later sees all that committed before P.
 *	   In a stream that names publications it waits for those who write to its tables
 *	   at that moment.
 *	2. A REPEATABLE READ transaction locks the tables; that takes no snapshot yet.
 *	   From here on nobody can alter or drop them.
 *	3. Its first query takes the snapshot, which is exported for others to share.
 *	4. If the list of tables has changed since it was read, all begins again.
 *
 * Then a transaction that ends after P belongs to the stream's part exactly if
 * the snapshot does not see it.
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/uuid.h"

#include "arrays.h"
#include "follower/copy.h"
#include "wire/message.h"

#define MAX_TRIES	10

/* ---------- the list of tables ---------- */

/* The query returns a row for each column; a table's rows stand together. */
List *
leader_tables(PGconn *conn, const char *stream)
{
	const char *params[] = {stream};
	PGresult   *res = leader_query(conn,
								   "SELECT t.nspname, t.relname, t.row_filter, t.bytes, c.name, t.rows, t.relid,"
								   "  pg_catalog.has_table_privilege(t.relid, 'SELECT')"
								   " FROM fanout.stream_tables($1) t"
								   " LEFT JOIN LATERAL pg_catalog.unnest(t.columns)"
								   "  WITH ORDINALITY AS c (name, n) ON true"
								   " ORDER BY t.bytes DESC, t.nspname, t.relname, c.n",
								   1, params);
	List	   *tables = NIL;
	CopyTable  *table = NULL;

	for (int i = 0; i < PQntuples(res); i++)
	{
		if (table == NULL || strcmp(table->nspname, PQgetvalue(res, i, 0)) != 0 ||
			strcmp(table->relname, PQgetvalue(res, i, 1)) != 0)
		{
			table = palloc0(sizeof(CopyTable));
			table->nspname = pstrdup(PQgetvalue(res, i, 0));
			table->relname = pstrdup(PQgetvalue(res, i, 1));
			table->row_filter = PQgetisnull(res, i, 2) ? NULL : pstrdup(PQgetvalue(res, i, 2));
			table->bytes = strtoll(PQgetvalue(res, i, 3), NULL, 10);
			table->rows = strtoll(PQgetvalue(res, i, 5), NULL, 10);
			table->relid = atooid(PQgetvalue(res, i, 6));
			table->may_read = PQgetvalue(res, i, 7)[0] == 't';
			table->position = list_length(tables);
			tables = lappend(tables, table);
		}
		if (!PQgetisnull(res, i, 4))
			table->columns = lappend(table->columns, pstrdup(PQgetvalue(res, i, 4)));
	}
	PQclear(res);
	return tables;
}

static bool
same_table(const CopyTable *a, const CopyTable *b)
{
	ListCell   *lc;
	ListCell   *lc2;

	if (a->relid != b->relid ||
		strcmp(a->nspname, b->nspname) != 0 || strcmp(a->relname, b->relname) != 0 ||
		list_length(a->columns) != list_length(b->columns) ||
		(a->row_filter == NULL) != (b->row_filter == NULL) ||
		(a->row_filter != NULL && strcmp(a->row_filter, b->row_filter) != 0))
		return false;
	forboth(lc, a->columns, lc2, b->columns)
	{
		if (strcmp(lfirst(lc), lfirst(lc2)) != 0)
			return false;
	}
	return true;
}

int
compare_copy_tables(const ListCell *a, const ListCell *b)
{
	Oid			first = ((const CopyTable *) lfirst(a))->relid;
	Oid			second = ((const CopyTable *) lfirst(b))->relid;

	return first < second ? -1 : first > second;
}

bool
same_tables(List *a, List *b)
{
	List	   *first = list_copy(a);
	List	   *second = list_copy(b);
	bool		same = list_length(a) == list_length(b);
	ListCell   *lc;
	ListCell   *lc2;

	list_sort(first, compare_copy_tables);
	list_sort(second, compare_copy_tables);
	forboth(lc, first, lc2, second)
		same = same && same_table(lfirst(lc), lfirst(lc2));
	list_free(first);
	list_free(second);
	return same;
}

/* ---------- the session ---------- */

static XLogRecPtr
register_here(PGconn *conn, const FollowedRow *row)
{
	bool		anew = XLogRecPtrIsInvalid(row->start_lsn);
	const char *params[5];

	params[0] = NameStr(row->stream);
	params[1] = NameStr(row->follower);
	params[2] = DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&row->instance)));
	params[3] = anew ? NULL : row->era;
	params[4] = anew ? NULL : psprintf("%X/%X", LSN_FORMAT_ARGS(row->copied_until));
	return leader_query_lsn(conn, "SELECT fanout.register_follower($1, $2, $3, $4, $5)", 5, params);
}

/* The copy of one that may not be read fails by itself. */
void
lock_leader_tables(PGconn *conn, List *tables)
{
	StringInfoData names;
	ListCell   *lc;

	initStringInfo(&names);
	foreach(lc, tables)
	{
		CopyTable  *table = lfirst(lc);

		if (table->may_read)
			appendStringInfo(&names, "%s%s", names.len > 0 ? ", " : "",
							 quote_qualified_identifier(table->nspname, table->relname));
	}
	if (names.len > 0)
		PQclear(leader_query(conn, psprintf("LOCK TABLE %s IN ACCESS SHARE MODE", names.data),
							 0, NULL));
}

/* One try at steps 2 to 4; false when the list of tables changed meanwhile. */
static bool
take_snapshot(CopySession *session, const FollowedRow *row)
{
	PGconn	   *conn = session->conn;
	List	   *before = leader_tables(conn, NameStr(row->stream));
	PGresult   *res;

	PQclear(leader_query(conn, "BEGIN ISOLATION LEVEL REPEATABLE READ", 0, NULL));
	lock_leader_tables(conn, before);
	res = leader_query(conn, "SELECT pg_catalog.pg_current_snapshot()::text,"
					   " pg_catalog.pg_export_snapshot()", 0, NULL);
	session->snapshot = pstrdup(PQgetvalue(res, 0, 0));
	session->snapshot_id = pstrdup(PQgetvalue(res, 0, 1));
	PQclear(res);

	session->tables = leader_tables(conn, NameStr(row->stream));
	if (row->copy_data)
		leader_check_all_rows_visible(conn, NameStr(row->stream));
	if (same_tables(before, session->tables))
		return true;
	PQclear(leader_query(conn, "ROLLBACK", 0, NULL));
	return false;
}

void
ask_about_stream(PGconn *conn, const FollowedRow *row, bool *all_tables, bool *ddl)
{
	const char *params[] = {NameStr(row->stream), psprintf("%d", FANOUT_WIRE_VERSION)};
	PGresult   *info = leader_query(conn, "SELECT all_tables, ddl FROM fanout.stream_info($1, $2)",
									2, params);

	*all_tables = strcmp(PQgetvalue(info, 0, 0), "t") == 0;
	*ddl = strcmp(PQgetvalue(info, 0, 1), "t") == 0;
	PQclear(info);
}

void
wait_for_writers(PGconn *conn, const FollowedRow *row, List *relids)
{
	const char *params[] = {NameStr(row->stream), oid_array_text(relids)};

	PQclear(leader_query(conn, "SELECT fanout.wait_for_writers($1, $2)", 2, params));
}

/*
 * What wrote to a table before that joined the publications is not in the stream: the snapshot
 * must see it.  A copy that goes on has waited for them.
 */
static void
wait_for_all_writers(CopySession *session, const FollowedRow *row)
{
	List	   *relids = NIL;
	ListCell   *lc;

	if (session->all_tables || !XLogRecPtrIsInvalid(row->start_lsn))
		return;
	foreach(lc, leader_tables(session->conn, NameStr(row->stream)))
		relids = lappend_oid(relids, ((CopyTable *) lfirst(lc))->relid);
	wait_for_writers(session->conn, row, relids);
}

CopySession *
copy_session_begin(const FollowedRow *row)
{
	CopySession *session = palloc0(sizeof(CopySession));

	session->conn = leader_connect(row->conninfo, NameStr(row->follower));
	session->era = leader_era(session->conn, NameStr(row->stream));
	ask_about_stream(session->conn, row, &session->all_tables, &session->ddl);
	if (XLogRecPtrIsInvalid(row->start_lsn))
		session->listed_before = leader_tables(session->conn, NameStr(row->stream));
	session->start_lsn = register_here(session->conn, row);
	wait_for_all_writers(session, row);
	for (int i = 0; i < MAX_TRIES; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (take_snapshot(session, row))
			return session;
	}
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the tables of stream \"%s\" change too often to be copied",
					NameStr(row->stream))));
}

/* Another connection that sees the same: to the same server, of those that the string names. */
PGconn *
copy_session_join(const FollowedRow *row, const char *address, const char *snapshot_id)
{
	PGconn	   *conn = leader_connect_to(row->conninfo, address, NameStr(row->follower));

	PQclear(leader_query(conn, "SET lock_timeout = '" COPY_LOCK_TIMEOUT "'", 0, NULL));
	PQclear(leader_query(conn, "BEGIN ISOLATION LEVEL REPEATABLE READ", 0, NULL));
	PQclear(leader_query(conn, psprintf("SET TRANSACTION SNAPSHOT %s",
										quote_literal_cstr(snapshot_id)), 0, NULL));
	return conn;
}
