/*
 * stream_row.c
 *		The rows of fanout.stream, read, and what goes by a row: its stream's record,
 *		slot and change log.
 *
 * The table is read with a snapshot of its own that is always the newest, so
 * that readers need neither an active snapshot nor rights on the table.  Rows are
 * written by stream.c and stream_grant.c.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"

#include "arrays.h"
#include "hints.h"
#include "leader/leader.h"
#include "own_tables.h"
#include "version.h"

/* Columns of fanout.stream, as the extension script has them. */
enum
{
	Anum_stream_id = 1,
	Anum_stream_name,
	Anum_stream_dboid,
	Anum_stream_publications,
	Anum_stream_own_publication,
	Anum_stream_owner,
	Anum_stream_granted,
	Anum_stream_ddl,
	Anum_stream_identity,
	Natts_stream_read = Anum_stream_identity
};

static StreamRow *
row_from_tuple(HeapTuple tuple, TupleDesc desc)
{
	StreamRow  *row = palloc0(sizeof(StreamRow));
	Datum		values[Natts_stream_read];

	for (int i = 0; i < Natts_stream_read; i++)
	{
		bool		isnull;

		values[i] = heap_getattr(tuple, i + 1, desc, &isnull);
		if (isnull)
			elog(ERROR, "unexpected null in column %d of fanout.stream", i + 1);
	}
	row->id = DatumGetInt32(values[Anum_stream_id - 1]);
	row->name = *DatumGetName(values[Anum_stream_name - 1]);
	row->publications =
		name_array_list(DatumGetArrayTypePCopy(values[Anum_stream_publications - 1]));
	row->own_publication = DatumGetBool(values[Anum_stream_own_publication - 1]);
	row->owner = DatumGetObjectId(values[Anum_stream_owner - 1]);
	row->granted = oid_array_list(DatumGetArrayTypePCopy(values[Anum_stream_granted - 1]));
	row->ddl = DatumGetBool(values[Anum_stream_ddl - 1]);
	row->identity = DatumGetBool(values[Anum_stream_identity - 1]);
	return row;
}

/*
 * Rows of this database that satisfy one more condition (NULL: all).  The
 * extension may be missing: then there are none.
 */
static List *
scan_rows(const ScanKeyData *condition)
{
	List	   *rows = NIL;
	Oid			relid = own_table_oid("stream");
	ScanKeyData keys[2];
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tuple;

	if (!OidIsValid(relid))
		return NIL;

	ScanKeyInit(&keys[0], Anum_stream_dboid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(MyDatabaseId));
	if (condition != NULL)
		keys[1] = *condition;

	rel = table_open(relid, AccessShareLock);
	scan = systable_beginscan(rel, InvalidOid, false, NULL, condition != NULL ? 2 : 1, keys);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		rows = lappend(rows, row_from_tuple(tuple, RelationGetDescr(rel)));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return rows;
}

StreamRow *
stream_row_by_id(int32 id)
{
	ScanKeyData key;
	List	   *rows;

	version_check();
	ScanKeyInit(&key, Anum_stream_id, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(id));
	rows = scan_rows(&key);
	return rows != NIL ? linitial(rows) : NULL;
}

/*
 * Who claims a record after a start knows the stream's number only, so it gets its name from
 * whoever comes first with the row.
 */
LeaderStream *
stream_record(const StreamRow *row)
{
	LeaderStream *stream = leader_stream_find(MyDatabaseId, row->id);

	if (stream != NULL)
	{
		SpinLockAcquire(&stream->mutex);
		if (stream->dboid == MyDatabaseId && stream->id == row->id)
			stream->name = row->name;
		SpinLockRelease(&stream->mutex);
	}
	return stream;
}

StreamRow *
stream_row_by_name(const char *name)
{
	ScanKeyData key;
	NameData	namedata;
	List	   *rows;

	version_check();
	namestrcpy(&namedata, name);
	ScanKeyInit(&key, Anum_stream_name, BTEqualStrategyNumber, F_NAMEEQ,
				NameGetDatum(&namedata));
	rows = scan_rows(&key);
	return rows != NIL ? linitial(rows) : NULL;
}

List *
stream_rows(void)
{
	return scan_rows(NULL);
}

StreamRow *
stream_row_require(const char *name)
{
	StreamRow  *row = stream_row_by_name(name);

	if (row == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("stream \"%s\" does not exist", name)));
	return row;
}

bool
stream_is_owner(const StreamRow *row)
{
	return superuser() || has_privs_of_role(GetUserId(), row->owner);
}

void
stream_check_owner(const StreamRow *row)
{
	if (!stream_is_owner(row))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of stream \"%s\"", NameStr(row->name))));
}

bool
stream_is_visible(const StreamRow *row)
{
	return has_privs_of_role(GetUserId(), ROLE_PG_MONITOR) ||
		has_privs_of_role(GetUserId(), row->owner);
}

/* The decoder noted whose history the log is of before it published the log's end. */
LogReader *
stream_log_reader(const LeaderStream *stream)
{
	LogIdentity identity = {
		.system_identifier = stream->registry_system,
		.timeline = stream->registry_timeline,
		.stream_id = stream->id,
	};
	char		path[MAXPGPATH];

	hint_path(path, HINT_STREAM, stream->dboid, stream->id);
	return log_reader_open(path, &identity);
}

void
stream_slot_name(char *slot, Oid dboid, int32 id)
{
	snprintf(slot, NAMEDATALEN, "fanout_%u_%d", dboid, id);
}
