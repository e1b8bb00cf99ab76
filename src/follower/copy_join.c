/*
 * copy_join.c
 *		Tables that joined the publications of a stream are made here and get their row
 *		in fanout.followed_table, pending: the copy goes on with their rows.
 *
 * apply_tables.c has noted which ones.  Those that are not here are dumped from the leader
 * with the snapshot of the copy; a partition comes with all of its partitioned table
 * that is not here.  Those that are here must have the leader's columns.  All that may be
 * newer than the position at which the table joined, so its row carries the snapshot: changes
 * of its schema that this sees are left out (apply_ddl.c).
 *
 * Without copy_schema, or when the stream has no schema changes, a table must have been made
 * here by hand.
 *
 * A table that the leader does not list any more stays noted, so that what the stream
 * still says of it is ignored, until the stream says that it has left.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "arrays.h"
#include "follower/copy.h"
#include "follower/local_table.h"

/* As many names fit onto a command line. */
#define TABLES_PER_DUMP		200

static CopyTable *
find_listed(const CopySession *session, Oid leader_relid)
{
	ListCell   *lc;

	foreach(lc, session->tables)
	{
		if (((CopyTable *) lfirst(lc))->relid == leader_relid)
			return lfirst(lc);
	}
	return NULL;
}

static bool
is_here(const CopyTable *table)
{
	return OidIsValid(local_table_find(table->nspname, table->relname, NoLock, true));
}

/* Those of the tables, and of what they are partitions of, that are not here; List of CopyTable. */
static List *
missing_tables(const CopySession *session, List *relids)
{
	const char *params[] = {oid_array_text(relids)};
	PGresult   *res = leader_query(session->conn,
								   "SELECT n.nspname, c.relname, min(coalesce(t.level, 0))"
								   " FROM pg_catalog.unnest($1::pg_catalog.oid[]) AS joined (relid)"
								   " LEFT JOIN LATERAL pg_catalog.pg_partition_tree("
								   "  pg_catalog.pg_partition_root(joined.relid)) t ON true"
								   " JOIN pg_catalog.pg_class c ON c.oid = coalesce(t.relid, joined.relid)"
								   " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
								   " GROUP BY c.oid, n.nspname, c.relname"
								   " ORDER BY 3, 1, 2", 1, params);
	List	   *missing = NIL;

	for (int i = 0; i < PQntuples(res); i++)
	{
		CopyTable  *table = palloc0(sizeof(CopyTable));

		table->nspname = pstrdup(PQgetvalue(res, i, 0));
		table->relname = pstrdup(PQgetvalue(res, i, 1));
		if (!is_here(table))
			missing = lappend(missing, table);
	}
	PQclear(res);
	return missing;
}

static void
make_schemas(List *tables)
{
	ListCell   *lc;

	foreach(lc, tables)
	{
		CopyTable  *table = lfirst(lc);

		if (OidIsValid(get_namespace_oid(table->nspname, true)))
			continue;
		if (SPI_connect() != SPI_OK_CONNECT ||
			SPI_execute(psprintf("CREATE SCHEMA %s",
								 quote_identifier(table->nspname)), false, 0) != SPI_OK_UTILITY ||
			SPI_finish() != SPI_OK_FINISH)
			elog(ERROR, "could not create schema \"%s\"", table->nspname);
		CommandCounterIncrement();
	}
}

static void
make_tables(const FollowedRow *row, const CopySession *session, List *missing)
{
	make_schemas(missing);
	for (int i = 0; i < list_length(missing); i += TABLES_PER_DUMP)
		copy_schema_of(row, list_copy_head(list_copy_tail(missing, i), TABLES_PER_DUMP), session);
}

/* The table is here by now, and is as the leader's; or this fails. */
static Oid
find_here(const CopyTable *table)
{
	Oid			relid = local_table_find(table->nspname, table->relname, NoLock, false);
	ListCell   *lc;

	foreach(lc, table->columns)
	{
		if (get_attnum(relid, lfirst(lc)) == InvalidAttrNumber)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" of relation \"%s.%s\" does not exist on this follower",
							(char *) lfirst(lc), table->nspname, table->relname),
					 errdetail("The table joined the stream and was here already."),
					 errhint("Alter it to be like the leader's, or drop it.")));
	}
	return relid;
}

static void
add_row(const FollowedRow *row, const CopySession *session, const CopyTable *table)
{
	FollowedTable followed = {
		.relid = find_here(table),
		.nspname = table->nspname,
		.relname = table->relname,
		.leader_relid = table->relid,
		.state = row->copy_data ? TABLE_PENDING : TABLE_COPIED,
		.schema_snapshot = session->snapshot,
		.schema_until = leader_query_lsn(session->conn, "SELECT fanout.flush_wal()", 0, NULL)
	};

	followed_table_put(row->id, &followed);
}

void
join_tables(const FollowedRow *row, const CopySession *session)
{
	List	   *gone = NIL;
	ListCell   *lc;

	if (row->joining == NIL)
		return;
	if (row->copy_schema && session->ddl)
		make_tables(row, session, missing_tables(session, row->joining));
	followed_row_lock(row->id);
	foreach(lc, row->joining)
	{
		CopyTable  *table = find_listed(session, lfirst_oid(lc));

		if (table != NULL)
			add_row(row, session, table);
		else
			gone = lappend_oid(gone, lfirst_oid(lc));
	}
	followed_execute(psprintf("UPDATE fanout.followed_stream SET joining = '%s' WHERE id = $1",
							  oid_array_text(gone)), row->id);
	followed_tables_changed();
}
