/*
 * table_current.c
 *		Is a table in line with its stream?
 *
 * While a table is copied beside the stream (copy_beside.c) it is older than the stream's
 * other tables, and then newer: the leader's snapshot that it was copied with may have
 * seen what the stream has not brought yet.  Its row in fanout.followed_table says so, to
 * each snapshot what was true for it: the row changes in the transaction that puts the
 * table in line.
 *
 * Looking there takes time, so the stream's record has a short cut: settled_xid, a local
 * transaction after which all tables were in line, or 0.  The worker sets it to 0 before it
 * ignores any change.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "arrays.h"
#include "follower/follower.h"
#include "own_tables.h"

/* Columns of fanout.followed_stream and followed_table, as the extension's script has them. */
#define Anum_followed_stream_id			1
#define Anum_followed_stream_copy_state	11
#define Anum_followed_table_followed_id	1
#define Anum_followed_table_relid		2
#define Anum_followed_table_state		6

void
tables_settled(FollowedStream *stream, uint64 xid)
{
	pg_atomic_write_u64(&stream->settled_xid, xid);
	ConditionVariableBroadcast(&stream->changed);
}

bool
tables_are_settled(FollowedStream *stream)
{
	return pg_atomic_read_u64(&stream->settled_xid) != 0;
}

/* The table, what it is a partition of and what are its partitions. */
static List *
family_of(Oid relid)
{
	List	   *family = find_all_inheritors(relid, NoLock, NULL);

	return get_rel_relispartition(relid) ?
		list_concat(family, get_partition_ancestors(relid)) : family;
}

/* Does any row of a followed stream's, in a table of ours and for the snapshot, fulfil the condition? */
typedef bool (*RowCondition) (HeapTuple tuple, TupleDesc desc, List *relids);

static bool
any_row(const char *table, AttrNumber id_column, int32 followed_id, Snapshot snapshot,
		RowCondition condition, List *relids)
{
	Relation	rel = table_open(get_relname_relid(table,
												   get_namespace_oid(FANOUT_SCHEMA, false)),
								 AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found = false;

	ScanKeyInit(&key, id_column, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(followed_id));
	scan = systable_beginscan(rel, InvalidOid, false, snapshot, 1, &key);
	while (!found && HeapTupleIsValid(tuple = systable_getnext(scan)))
		found = condition(tuple, RelationGetDescr(rel), relids);
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

static bool
is_out_of_line(HeapTuple tuple, TupleDesc desc, List *relids)
{
	bool		isnull;
	Datum		relid = heap_getattr(tuple, Anum_followed_table_relid, desc, &isnull);
	Datum		state = heap_getattr(tuple, Anum_followed_table_state, desc, &isnull);

	return DatumGetChar(state) != TABLE_COPIED &&
		(relids == NIL || list_member_oid(relids, DatumGetObjectId(relid)));
}

/* A table that joins the stream has no row of its own yet. */
static bool
is_copying(HeapTuple tuple, TupleDesc desc, List *relids)
{
	bool		isnull;
	Datum		state = heap_getattr(tuple, Anum_followed_stream_copy_state, desc, &isnull);

	return strcmp(TextDatumGetCString(state), COPY_DONE) != 0;
}

/* Is any of these tables (NIL: any table) not in line for the snapshot? */
static bool
any_out_of_line(int32 followed_id, List *relids, Snapshot snapshot)
{
	return any_row("followed_table", Anum_followed_table_followed_id, followed_id, snapshot,
				   is_out_of_line, relids) ||
		(relids == NIL && any_row("followed_stream", Anum_followed_stream_id, followed_id,
								  snapshot, is_copying, NIL));
}

/* The short cut.  False: who wants to know must look. */
static bool
is_settled_for(FollowedStream *stream, Snapshot snapshot)
{
	uint64		settled = pg_atomic_read_u64(&stream->settled_xid);

	return settled != 0 && snapshot_sees_finished(snapshot, settled);
}

bool
table_is_current(FollowedStream *stream, Oid relid, Snapshot snapshot)
{
	return is_settled_for(stream, snapshot) ||
		!any_out_of_line(stream->id, family_of(relid), snapshot);
}

bool
tables_are_current(FollowedStream *stream, Snapshot snapshot)
{
	return is_settled_for(stream, snapshot) || !any_out_of_line(stream->id, NIL, snapshot);
}

/* Without the short cut: a copy counts from the moment it is wanted. */
bool
all_tables_current(FollowedStream *stream)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	bool		current = !any_out_of_line(stream->id, NIL, snapshot);

	UnregisterSnapshot(snapshot);
	return current;
}

/* ---------- the applier's side ---------- */

/* A table that is to be copied again by now stays as it is, and needs the log still. */
bool
tables_replayed(int32 followed_id, List *relids)
{
	OwnTables	state;
	Oid			types[] = {INT4OID, OIDARRAYOID};
	Datum		values[] = {Int32GetDatum(followed_id), oid_array_datum(relids)};
	bool		all;

	followed_row_lock(followed_id);
	own_tables_begin(&state);
	if (SPI_execute_with_args("UPDATE fanout.followed_table SET state = 'a'"
							  " WHERE followed_id = $1 AND relid = ANY ($2) AND state = 'b'",
							  lengthof(types), types, values, NULL, false, 0) != SPI_OK_UPDATE ||
		SPI_execute_with_args("UPDATE fanout.followed_stream SET copy_lsn = NULL"
							  " WHERE id = $1 AND NOT EXISTS (SELECT FROM fanout.followed_table"
							  " WHERE followed_id = $1 AND state IN ('p', 'b'))",
							  1, types, values, NULL, false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not write which tables are replayed");
	all = SPI_processed > 0;
	own_tables_end(&state);
	return all;
}

/* What the stream drops loses its row with the statement that does it. */
uint64
tables_note_missing(int32 followed_id)
{
	followed_row_lock(followed_id);
	return followed_execute("UPDATE fanout.followed_table t SET state = 'm'"
							" WHERE t.followed_id = $1 AND t.state <> 'm' AND NOT EXISTS (SELECT"
							" FROM pg_catalog.pg_class c WHERE c.oid = t.relid)", followed_id);
}

void
tables_in_line(int32 followed_id)
{
	(void) followed_execute("UPDATE fanout.followed_table SET state = 'c'"
							" WHERE followed_id = $1 AND state = 'a'", followed_id);
}
