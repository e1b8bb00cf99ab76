/*
 * followed_row.c
 *		The rows of fanout.followed_stream and fanout.followed_table.
 *
 * Functions called by users and the workers of this database write them, in
 * ordinary transactions.  Rows that came here with a copy of another database
 * (its oid is in dboid) do not count.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/pg_lsn.h"
#include "utils/uuid.h"

#include "follower/follower.h"
#include "own_tables.h"
#include "version.h"

void
followed_origin_name(char *name, Oid dboid, int32 id)
{
	snprintf(name, NAMEDATALEN, "fanout_%u_%d", dboid, id);
}

/* ---------- fanout.followed_stream ---------- */

#define ROW_QUERY \
	"SELECT id, stream, follower, conninfo, instance, copy_schema, copy_data, paused, owner," \
	"       copy_state, start_lsn, schema_done, leader_system, leader_database," \
	"       schema_snapshot, schema_until, coalesce(era, '00000000-0000-0000-0000-000000000000')::text," \
	"       greatest(start_lsn, schema_until, (SELECT max(filter_until)" \
	"        FROM fanout.followed_table WHERE followed_id = id))" \
	" FROM fanout.followed_stream WHERE dboid = $1 AND "

static Datum
column(SPITupleTable *table, int number)
{
	bool		isnull;
	Datum		value = SPI_getbinval(table->vals[0], table->tupdesc, number, &isnull);

	return isnull ? (Datum) 0 : value;
}

/* The first row of SPI's result, made in the given context. */
static FollowedRow *
make_row(MemoryContext context)
{
	SPITupleTable *table = SPI_tuptable;
	MemoryContext oldcontext = MemoryContextSwitchTo(context);
	FollowedRow *row = palloc0(sizeof(FollowedRow));

	row->id = DatumGetInt32(column(table, 1));
	row->stream = *DatumGetName(column(table, 2));
	row->follower = *DatumGetName(column(table, 3));
	row->conninfo = TextDatumGetCString(column(table, 4));
	row->instance = *DatumGetUUIDP(column(table, 5));
	row->copy_schema = DatumGetBool(column(table, 6));
	row->copy_data = DatumGetBool(column(table, 7));
	row->paused = DatumGetBool(column(table, 8));
	row->owner = DatumGetObjectId(column(table, 9));
	row->copy_state = TextDatumGetCString(column(table, 10));
	row->start_lsn = DatumGetLSN(column(table, 11));
	row->schema_done = DatumGetBool(column(table, 12));
	row->leader_system = strtou64(TextDatumGetCString(column(table, 13)), NULL, 10);
	row->leader_database = DatumGetObjectId(column(table, 14));
	if (column(table, 15) != (Datum) 0)
		row->schema_snapshot = TextDatumGetCString(column(table, 15));
	row->schema_until = DatumGetLSN(column(table, 16));
	row->era = TextDatumGetCString(column(table, 17));
	row->copied_until = DatumGetLSN(column(table, 18));
	MemoryContextSwitchTo(oldcontext);
	return row;
}

static FollowedRow *
read_row(const char *query, Oid type, Datum value)
{
	OwnTables	state;
	Oid			types[] = {OIDOID, type};
	Datum		values[] = {ObjectIdGetDatum(MyDatabaseId), value};
	FollowedRow *row = NULL;

	version_check();
	own_tables_begin(&state);
	if (SPI_execute_with_args(query, 2, types, values, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read fanout.followed_stream");
	if (SPI_processed > 0)
		row = make_row(state.context);
	own_tables_end(&state);
	return row;
}

FollowedRow *
followed_row_by_id(int32 id)
{
	return read_row(ROW_QUERY "id = $2", INT4OID, Int32GetDatum(id));
}

FollowedRow *
followed_row_by_name(const char *stream)
{
	NameData	name;

	namestrcpy(&name, stream);
	return read_row(ROW_QUERY "stream = $2", NAMEOID, NameGetDatum(&name));
}

FollowedRow *
followed_row_require(const char *stream)
{
	FollowedRow *row = followed_row_by_name(stream);

	if (row == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("this database does not follow stream \"%s\"", stream)));
	return row;
}

void
followed_row_set_era(int32 id, const char *era)
{
	OwnTables	state;
	Oid			types[] = {INT4OID, TEXTOID};
	Datum		values[] = {Int32GetDatum(id), CStringGetTextDatum(era)};

	own_tables_begin(&state);
	if (SPI_execute_with_args("UPDATE fanout.followed_stream SET era = $2::uuid WHERE id = $1",
							  2, types, values, NULL, false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not write fanout.followed_stream");
	own_tables_end(&state);
}

/* ---------- fanout.followed_table ---------- */

static FollowedTable *
make_table(HeapTuple tuple, TupleDesc desc)
{
	FollowedTable *table = palloc0(sizeof(FollowedTable));
	bool		isnull;
	Datum		value;

	table->relid = DatumGetObjectId(SPI_getbinval(tuple, desc, 1, &isnull));
	table->nspname = pstrdup(NameStr(*DatumGetName(SPI_getbinval(tuple, desc, 2, &isnull))));
	table->relname = pstrdup(NameStr(*DatumGetName(SPI_getbinval(tuple, desc, 3, &isnull))));
	table->state = DatumGetChar(SPI_getbinval(tuple, desc, 4, &isnull));
	value = SPI_getbinval(tuple, desc, 5, &isnull);
	table->filter_snapshot = isnull ? NULL : TextDatumGetCString(value);
	value = SPI_getbinval(tuple, desc, 6, &isnull);
	table->filter_until = isnull ? InvalidXLogRecPtr : DatumGetLSN(value);
	return table;
}

List *
followed_tables(int32 followed_id)
{
	OwnTables	state;
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(followed_id)};
	List	   *tables = NIL;
	MemoryContext spi_context;

	own_tables_begin(&state);
	if (SPI_execute_with_args("SELECT relid, nspname, relname, state, filter_snapshot, filter_until"
							  " FROM fanout.followed_table WHERE followed_id = $1"
							  " ORDER BY nspname, relname",
							  1, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read fanout.followed_table");

	spi_context = MemoryContextSwitchTo(state.context);
	for (uint64 i = 0; i < SPI_processed; i++)
		tables = lappend(tables, make_table(SPI_tuptable->vals[i], SPI_tuptable->tupdesc));
	MemoryContextSwitchTo(spi_context);
	own_tables_end(&state);
	return tables;
}

void
followed_table_put(int32 followed_id, const FollowedTable *table)
{
	OwnTables	state;
	Oid			types[] = {INT4OID, OIDOID, NAMEOID, NAMEOID, CHAROID, TEXTOID, LSNOID};
	NameData	nspname;
	NameData	relname;
	char		nulls[] = "       ";
	Datum		values[7];

	namestrcpy(&nspname, table->nspname);
	namestrcpy(&relname, table->relname);
	values[0] = Int32GetDatum(followed_id);
	values[1] = ObjectIdGetDatum(table->relid);
	values[2] = NameGetDatum(&nspname);
	values[3] = NameGetDatum(&relname);
	values[4] = CharGetDatum(table->state);
	values[5] = table->filter_snapshot ? CStringGetTextDatum(table->filter_snapshot) : (Datum) 0;
	values[6] = LSNGetDatum(table->filter_until);
	if (table->filter_snapshot == NULL)
		nulls[5] = 'n';
	if (XLogRecPtrIsInvalid(table->filter_until))
		nulls[6] = 'n';

	own_tables_begin(&state);
	if (SPI_execute_with_args("INSERT INTO fanout.followed_table"
							  " (followed_id, relid, nspname, relname, state, filter_snapshot, filter_until)"
							  " VALUES ($1, $2, $3, $4, $5, $6, $7)"
							  " ON CONFLICT (followed_id, relid) DO UPDATE SET"
							  "  nspname = excluded.nspname, relname = excluded.relname,"
							  "  state = excluded.state, filter_snapshot = excluded.filter_snapshot,"
							  "  filter_until = excluded.filter_until",
							  7, types, values, nulls, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not write fanout.followed_table");
	own_tables_end(&state);
}

/* ---------- telling the guard ---------- */

static bool changed = false;

static void
changed_xact_callback(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT && changed)
		pg_atomic_fetch_add_u64(&Fanout->guard_generation, 1);
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT)
		changed = false;
}

void
followed_tables_changed(void)
{
	static bool registered = false;
	Oid			relid = get_relname_relid("followed_table",
										  get_namespace_oid(FANOUT_SCHEMA, false));

	if (!registered)
		RegisterXactCallback(changed_xact_callback, NULL);
	registered = true;
	changed = true;
	CacheInvalidateRelcacheByRelid(relid);
}
