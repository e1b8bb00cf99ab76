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
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/pg_lsn.h"
#include "utils/uuid.h"

#include "arrays.h"
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
	"       greatest(start_lsn, schema_until, (SELECT max(greatest(filter_until, schema_until))" \
	"        FROM fanout.followed_table WHERE followed_id = id))," \
	"       all_tables, joining, copy_lsn, make_roles, skip_lsn" \
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

	/* NOLINTBEGIN(clang-analyzer-core.NullDereference): these columns are never null */
	row->id = DatumGetInt32(column(table, 1));
	row->stream = *DatumGetName(column(table, 2));
	row->follower = *DatumGetName(column(table, 3));
	row->conninfo = TextDatumGetCString(column(table, 4));
	row->instance = *DatumGetUUIDP(column(table, 5));
	/* NOLINTEND(clang-analyzer-core.NullDereference) */
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
	row->all_tables = DatumGetBool(column(table, 19));
	row->joining = oid_array_list(DatumGetArrayTypeP(column(table, 20)));
	row->copy_lsn = DatumGetLSN(column(table, 21));
	row->make_roles = DatumGetBool(column(table, 22));
	row->skip_lsn = DatumGetLSN(column(table, 23));
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

uint64
followed_execute(const char *query, int32 followed_id)
{
	OwnTables	state;
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(followed_id)};
	uint64		count;

	own_tables_begin(&state);
	if (SPI_execute_with_args(query, 1, types, values, NULL, false, 0) < 0)
		elog(ERROR, "could not execute statement on rows of a followed stream");
	count = SPI_processed;
	own_tables_end(&state);
	return count;
}

void
followed_row_set_leader(int32 id, const char *conninfo, const CheckedLeader *leader)
{
	OwnTables	state;
	Oid			types[] = {INT4OID, TEXTOID, TEXTOID, OIDOID};
	Datum		values[] = {Int32GetDatum(id), CStringGetTextDatum(conninfo),
		CStringGetTextDatum(leader->system), ObjectIdGetDatum(leader->database)};

	own_tables_begin(&state);
	if (SPI_execute_with_args("UPDATE fanout.followed_stream"
							  " SET conninfo = $2, leader_system = $3, leader_database = $4"
							  " WHERE id = $1",
							  lengthof(types), types, values, NULL, false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not write fanout.followed_stream");
	own_tables_end(&state);
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

/* A value of a row; 0 when it is null. */
static Datum
value_of(HeapTuple tuple, TupleDesc desc, int number)
{
	bool		isnull;
	Datum		value = SPI_getbinval(tuple, desc, number, &isnull);

	return isnull ? (Datum) 0 : value;
}

static char *
text_of(Datum value)
{
	return value == (Datum) 0 ? NULL : TextDatumGetCString(value);
}

static FollowedTable *
make_table(HeapTuple tuple, TupleDesc desc)
{
	FollowedTable *table = palloc0(sizeof(FollowedTable));

	table->relid = DatumGetObjectId(value_of(tuple, desc, 1));
	table->nspname = pstrdup(NameStr(*DatumGetName(value_of(tuple, desc, 2))));
	table->relname = pstrdup(NameStr(*DatumGetName(value_of(tuple, desc, 3))));
	table->leader_relid = DatumGetObjectId(value_of(tuple, desc, 4));
	table->state = DatumGetChar(value_of(tuple, desc, 5));
	table->filter_snapshot = text_of(value_of(tuple, desc, 6));
	table->filter_until = DatumGetLSN(value_of(tuple, desc, 7));
	table->schema_snapshot = text_of(value_of(tuple, desc, 8));
	table->schema_until = DatumGetLSN(value_of(tuple, desc, 9));
	table->copy_number = DatumGetInt32(value_of(tuple, desc, 10));
	table->failures = DatumGetInt32(value_of(tuple, desc, 11));
	return table;
}

#define TABLES_QUERY \
	"SELECT relid, nspname, relname, leader_relid, state," \
	"       filter_snapshot, filter_until, schema_snapshot, schema_until, copy_number," \
	"       failures" \
	" FROM fanout.followed_table WHERE followed_id = $1"

static List *
read_tables(const char *query, int nargs, int32 followed_id, List *relids)
{
	OwnTables	state;
	Oid			types[] = {INT4OID, OIDARRAYOID};
	Datum		values[] = {Int32GetDatum(followed_id), oid_array_datum(relids)};
	List	   *tables = NIL;
	MemoryContext spi_context;

	own_tables_begin(&state);
	if (SPI_execute_with_args(query, nargs, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read fanout.followed_table");

	spi_context = MemoryContextSwitchTo(state.context);
	for (uint64 i = 0; i < SPI_processed; i++)
		tables = lappend(tables, make_table(SPI_tuptable->vals[i], SPI_tuptable->tupdesc));
	MemoryContextSwitchTo(spi_context);
	own_tables_end(&state);
	return tables;
}

List *
followed_tables(int32 followed_id)
{
	return read_tables(TABLES_QUERY " ORDER BY nspname, relname", 1, followed_id, NIL);
}

List *
followed_tables_of(int32 followed_id, List *relids)
{
	return read_tables(TABLES_QUERY " AND relid = ANY ($2)", 2, followed_id, relids);
}

void
followed_table_put(int32 followed_id, const FollowedTable *table)
{
	OwnTables	state;
	Oid			types[] = {INT4OID, OIDOID, NAMEOID, NAMEOID, OIDOID, CHAROID, TEXTOID, LSNOID};
	NameData	nspname;
	NameData	relname;
	char		nulls[] = "        ";
	Datum		values[lengthof(types)];

	namestrcpy(&nspname, table->nspname);
	namestrcpy(&relname, table->relname);
	values[0] = Int32GetDatum(followed_id);
	values[1] = ObjectIdGetDatum(table->relid);
	values[2] = NameGetDatum(&nspname);
	values[3] = NameGetDatum(&relname);
	values[4] = ObjectIdGetDatum(table->leader_relid);
	values[5] = CharGetDatum(table->state);
	values[6] = table->schema_snapshot ? CStringGetTextDatum(table->schema_snapshot) : (Datum) 0;
	values[7] = LSNGetDatum(table->schema_until);
	if (!OidIsValid(table->leader_relid))
		nulls[4] = 'n';
	if (table->schema_snapshot == NULL)
		nulls[6] = nulls[7] = 'n';

	own_tables_begin(&state);
	if (SPI_execute_with_args("INSERT INTO fanout.followed_table"
							  " (followed_id, relid, nspname, relname, leader_relid, state,"
							  "  schema_snapshot, schema_until)"
							  " VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"
							  " ON CONFLICT (followed_id, relid) DO UPDATE SET"
							  "  nspname = excluded.nspname, relname = excluded.relname,"
							  "  leader_relid = excluded.leader_relid, state = excluded.state,"
							  "  filter_snapshot = NULL, filter_until = NULL, failures = 0,"
							  "  schema_snapshot = excluded.schema_snapshot,"
							  "  schema_until = excluded.schema_until",
							  lengthof(types), types, values, nulls, false, 0) != SPI_OK_INSERT)
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
