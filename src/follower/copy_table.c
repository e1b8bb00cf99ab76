/*
 * copy_table.c
 *		Copying the rows of one table.
 *
 * A COPY of the leader sends them in binary form where both sides have the same types and the
 * types' binary form means the same on both (log/relation_desc.c), otherwise as text.  Binary rows
 * of ordinary tables are stored by copy_rows.c, all others by the server's COPY FROM.  They are
 * committed together with the table's row in fanout.followed_table, which
 * carries the snapshot they were read with; unless that says by then that a newer copy
 * is wanted.  Before that the leader flushes its WAL: a
 * snapshot sees asynchronous commits, which a crash of the leader could still undo.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/copy.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "nodes/makefuncs.h"
#include "parser/parse_node.h"
#include "parser/parse_relation.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/pg_lsn.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "follower/copy.h"
#include "follower/local_table.h"
#include "own_tables.h"
#include "transaction.h"

/* ---------- the query ---------- */

List *
leader_types(PGconn *conn, const CopyTable *table, char *relkind)
{
	const char *params[] = {quote_qualified_identifier(table->nspname, table->relname)};
	PGresult   *res = leader_query(conn,
								   "SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), c.relkind"
								   " FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid"
								   " WHERE c.oid = $1::pg_catalog.regclass AND a.attnum > 0 AND NOT a.attisdropped"
								   " ORDER BY a.attnum", 1, params);
	List	   *types = NIL;
	ListCell   *lc;

	*relkind = PQntuples(res) > 0 ? PQgetvalue(res, 0, 2)[0] : 'r';
	foreach(lc, table->columns)
	{
		char	   *type = "";

		for (int i = 0; i < PQntuples(res); i++)
		{
			if (strcmp(PQgetvalue(res, i, 0), lfirst(lc)) == 0)
				type = pstrdup(PQgetvalue(res, i, 1));
		}
		types = lappend(types, type);
	}
	PQclear(res);
	return types;
}

static bool
can_copy_binary(const CopyTable *table, Oid relid, List *types)
{
	ListCell   *lc;
	ListCell   *lc2;

	forboth(lc, table->columns, lc2, types)
	{
		AttrNumber	attnum = get_attnum(relid, lfirst(lc));
		Oid			typid;
		int32		typmod;
		Oid			collation;

		if (attnum == InvalidAttrNumber)
			return false;		/* COPY says it better */
		get_atttypetypmodcoll(relid, attnum, &typid, &typmod, &collation);
		if (column_form_for_type(typid) == COLUMN_TEXT || column_type_is_xml(typid) ||
			strcmp(format_type_with_typemod(typid, typmod), lfirst(lc2)) != 0)
			return false;
	}
	return true;
}

/*
 * The columns that are here, too.  In a copy before the stream, one that the leader has got
 * since is added by the stream, and then the table is copied again (apply_ddl.c).  Beside
 * the stream the copy fails and is tried again: the stream brings the column meanwhile, or nobody
 * does, and then the table must not be taken for equal.
 */
static List *
columns_here(const CopyTable *table, Oid relid, bool beside)
{
	List	   *columns = NIL;
	ListCell   *lc;

	foreach(lc, table->columns)
	{
		if (get_attnum(relid, lfirst(lc)) != InvalidAttrNumber)
			columns = lappend(columns, lfirst(lc));
		else if (beside)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" of relation \"%s.%s\" does not exist on this follower",
							(char *) lfirst(lc), table->nspname, table->relname)));
	}
	return columns;
}

/* xml as it is stored, see column_type_is_xml(): the type to cast it to; "" for others. */
static const char *
cast_of(Oid relid, const char *column)
{
	Oid			typid = get_atttype(relid, get_attnum(relid, column));

	if (!column_type_is_xml(typid))
		return "";
	return getBaseType(typid) == XMLOID ? "::pg_catalog.text" : "::pg_catalog.text[]";
}

static bool
any_is_cast(const CopyTable *table, Oid relid)
{
	ListCell   *lc;

	foreach(lc, table->columns)
	{
		if (cast_of(relid, lfirst(lc))[0] != '\0')
			return true;
	}
	return false;
}

static void
append_columns(StringInfo query, List *columns, Oid relid)
{
	ListCell   *lc;

	foreach(lc, columns)
		appendStringInfo(query, "%s%s%s", foreach_current_index(lc) > 0 ? ", " : "",
						 quote_identifier(lfirst(lc)), cast_of(relid, lfirst(lc)));
}

static char *
copy_query(const CopyTable *table, Oid relid, char relkind, bool binary)
{
	StringInfoData query;
	char	   *name = quote_qualified_identifier(table->nspname, table->relname);

	initStringInfo(&query);
	appendStringInfoString(&query, "COPY ");
	if (relkind == RELKIND_RELATION && table->row_filter == NULL && !any_is_cast(table, relid))
	{
		appendStringInfoString(&query, name);
		if (table->columns != NIL)
		{
			appendStringInfoString(&query, " (");
			append_columns(&query, table->columns, relid);
			appendStringInfoChar(&query, ')');
		}
	}
	else
	{
		appendStringInfoString(&query, "(SELECT ");
		append_columns(&query, table->columns, relid);
		appendStringInfo(&query, " FROM %s%s", relkind == RELKIND_RELATION ? "ONLY " : "", name);
		if (table->row_filter != NULL)
			appendStringInfo(&query, " WHERE %s", table->row_filter);
		appendStringInfoChar(&query, ')');
	}
	appendStringInfo(&query, " TO STDOUT%s", binary ? " (FORMAT binary)" : "");
	return query.data;
}

/* ---------- the rows ---------- */

CopyFromState
copy_from_begin(const CopyTable *table, Relation rel, bool binary)
{
	ParseState *pstate = make_parsestate(NULL);
	List	   *options = NIL;
	List	   *names = NIL;
	ListCell   *lc;

	foreach(lc, table->columns)
		names = lappend(names, makeString(lfirst(lc)));
	if (binary)
		options = list_make1(makeDefElem("format", (Node *) makeString("binary"), -1));
	(void) addRangeTableEntryForRelation(pstate, rel, AccessShareLock, NULL, false, false);

	return BeginCopyFrom(pstate, rel, NULL, NULL, false, copy_source_read, names, options);
}

static uint64
copy_from(const CopyTable *table, Relation rel, bool binary)
{
	CopyFromState state = copy_from_begin(table, rel, binary);
	uint64		rows = CopyFrom(state);

	EndCopyFrom(state);
	return rows;
}

/* ---------- the table ---------- */

/* The number of the copy that is wanted; -1: none is. */
static int32
wanted_copy(const FollowedRow *row, Oid relid)
{
	OwnTables	state;
	Oid			types[] = {INT4OID, OIDOID};
	Datum		values[] = {Int32GetDatum(row->id), ObjectIdGetDatum(relid)};
	int32		number = -1;
	bool		isnull;

	own_tables_begin(&state);
	if (SPI_execute_with_args("SELECT copy_number FROM fanout.followed_table"
							  " WHERE followed_id = $1 AND relid = $2 AND state = 'p'",
							  lengthof(types), types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read fanout.followed_table");
	if (SPI_processed > 0)
		number = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1,
											 &isnull));
	own_tables_end(&state);
	return number;
}

static void
note_copied(const FollowedRow *row, Oid relid, int32 number, char table_state, const char *snapshot,
			XLogRecPtr flushed, uint64 rows)
{
	OwnTables	state;
	Oid			types[] = {INT4OID, OIDOID, TEXTOID, LSNOID, INT8OID, INT8OID, INT4OID, CHAROID};
	Datum		values[] = {Int32GetDatum(row->id), ObjectIdGetDatum(relid),
		CStringGetTextDatum(snapshot), LSNGetDatum(flushed),
		Int64GetDatum(rows), Int64GetDatum(copy_source_bytes()), Int32GetDatum(number),
	CharGetDatum(table_state)};

	own_tables_begin(&state);
	if (SPI_execute_with_args("UPDATE fanout.followed_table SET state = $8, filter_snapshot = $3,"
							  " filter_until = $4, copied_rows = $5, copied_bytes = $6,"
							  " copied_at = pg_catalog.clock_timestamp(),"
							  " failures = 0, last_error = NULL, last_error_at = NULL"
							  " WHERE followed_id = $1 AND relid = $2 AND copy_number = $7",
							  lengthof(types), types, values, NULL, false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not write fanout.followed_table");
	if (SPI_processed == 0)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("another copy of the table has been wanted since this one began")));
	own_tables_end(&state);
}

static void
table_context(void *arg)
{
	const CopyTable *table = arg;

	errcontext("copying table \"%s.%s\"", table->nspname, table->relname);
}

static void
require_permanent(Oid relid)
{
	ListCell   *lc;

	foreach(lc, local_table_open_all(NIL, relid, RowExclusiveLock))
	{
		local_table_require_permanent(lfirst(lc));
		table_close(lfirst(lc), NoLock);
	}
}

/* Readers go on seeing the old rows, and nobody waits for a lock that they have. */
static void
empty_beside(Oid relid)
{
	ListCell   *lc;

	foreach(lc, local_table_open_all(NIL, relid, RowExclusiveLock))
	{
		Relation	rel = lfirst(lc);

		local_table_delete_all(rel, copy_source_check);
		table_close(rel, NoLock);
	}
}

static uint64
copy_all_rows(PGconn *conn, CopyTable *table, Relation rel, bool beside)
{
	Oid			relid = RelationGetRelid(rel);
	FormerUser	former;
	char		relkind;
	bool		binary;
	uint64		rows;

	/* The lock is given back with the savepoint: there may be thousands of tables. */
	PQclear(leader_query(conn, psprintf("SAVEPOINT one_table; LOCK TABLE %s IN ACCESS SHARE MODE NOWAIT",
										quote_qualified_identifier(table->nspname, table->relname)),
						 0, NULL));
	table->columns = columns_here(table, relid, beside);
	binary = can_copy_binary(table, relid, leader_types(conn, table, &relkind));
	PQclear(leader_query(conn, copy_query(table, relid, relkind, binary), 0, NULL));
	local_table_fire_deferred(rel);
	local_table_become(rel->rd_rel->relowner, &former);
	if (copy_rows_can(rel))
		rows = copy_rows(table, rel, binary);
	else
		rows = copy_from(table, rel, binary);
	copy_source_end();
	PQclear(leader_query(conn, "ROLLBACK TO one_table; RELEASE one_table", 0, NULL));
	local_table_become_former(&former);
	return rows;
}

void
copy_table(const FollowedRow *row, PGconn *conn, CopyTable *table, Oid relid,
		   const char *snapshot, CopyCheck check)
{
	ErrorContextCallback callback = {error_context_stack, table_context, table};
	MemoryContext oldcontext = CurrentMemoryContext;
	Relation	rel;
	int32		number;
	uint64		rows;

	error_context_stack = &callback;
	copy_source_init(conn, check);
	fanout_start_transaction();
	rel = try_table_open(relid, RowExclusiveLock);
	PushActiveSnapshot(GetTransactionSnapshot());
	number = wanted_copy(row, relid);	/* not of a table that the stream has dropped */
	if (number >= 0)
	{
		if (rel == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_TABLE),
					 errmsg("relation \"%s.%s\" was dropped while it was to be copied",
							table->nspname, table->relname)));
		require_permanent(relid);
		if (check != NULL)
			empty_beside(relid);
		rows = copy_all_rows(conn, table, rel, check != NULL);
		note_copied(row, relid, number, check != NULL ? TABLE_BEHIND : TABLE_COPIED, snapshot,
					leader_query_lsn(conn, "SELECT fanout.flush_wal()", 0, NULL), rows);
	}
	if (rel != NULL)
		table_close(rel, NoLock);
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(oldcontext);
	error_context_stack = callback.previous;
}
