/*
 * follower_calls.c
 *		The functions that a follower calls on its leader before it streams.
 *
 * They run as the follower's login, which has no rights on anything but these
 * functions (and on the tables it copies), and with them only reaches streams that
 * were granted to it (stream_grant.c).  What register_follower() and
 * unregister_follower() do is not undone by a rollback: registrations are
 * not in tables (registry.c).
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xlog.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/syscache.h"
#include "utils/uuid.h"

#include "arrays.h"
#include "compat.h"
#include "leader/leader.h"
#include "own_tables.h"
#include "wire/machine.h"
#include "wire/message.h"

PG_FUNCTION_INFO_V1(fanout_stream_info);
PG_FUNCTION_INFO_V1(fanout_stream_tables);
PG_FUNCTION_INFO_V1(fanout_wait_for_writers);
PG_FUNCTION_INFO_V1(fanout_register_follower);
PG_FUNCTION_INFO_V1(fanout_unregister_follower);
PG_FUNCTION_INFO_V1(fanout_flush_wal);

void
check_wire_version(int wire_version)
{
	if (wire_version != FANOUT_WIRE_VERSION)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the follower speaks version %d of pg_fanout's protocol, but the leader speaks version %d",
						wire_version, FANOUT_WIRE_VERSION),
				 errhint("Install the same version of pg_fanout on both servers.")));
}

/* ---------- stream_info ---------- */

static LeaderStreamState
stream_state(LeaderStream *stream, char *last_error)
{
	LeaderStreamState state;

	last_error[0] = '\0';
	if (stream == NULL)
		return STREAM_STARTING;
	SpinLockAcquire(&stream->mutex);
	state = stream->state;
	if (stream->worker.last_error_at != 0)
		memcpy(last_error, stream->worker.last_error, FANOUT_ERROR_LEN);
	SpinLockRelease(&stream->mutex);
	return state;
}

static Datum
follower_names(LeaderStream *stream)
{
	List	   *names = NIL;
	ListCell   *lc;

	foreach(lc, stream != NULL ? registry_list(stream) : NIL)
		names = lappend(names, NameStr(((Registration *) lfirst(lc))->name));
	return name_array_datum(names);
}

/*
 * stream_info(stream name, wire_version int)
 *
 * state is "starting", "streaming" or "failed"; all_tables: it names no publications.
 */
Datum
fanout_stream_info(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Datum		values[8];
	bool		nulls[8] = {0};
	char		last_error[FANOUT_ERROR_LEN];
	pg_uuid_t	era;
	StreamRow  *row;
	LeaderStream *stream;

	fanout_require_preload();
	check_wire_version(PG_GETARG_INT32(1));
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");

	row = stream_row_require_grant(NameStr(*PG_GETARG_NAME(0)));
	stream = stream_record(row);
	values[0] = CStringGetTextDatum(leader_stream_state_name(stream_state(stream, last_error)));
	values[1] = CStringGetTextDatum(psprintf(UINT64_FORMAT, GetSystemIdentifier()));
	values[2] = CStringGetTextDatum(GetDatabaseEncodingName());
	values[3] = CStringGetTextDatum(machine_description());
	values[4] = follower_names(stream);
	values[5] = UUIDPGetDatum(&era);
	nulls[5] = stream == NULL || !era_current(stream, &era);
	values[6] = BoolGetDatum(row->own_publication);
	values[7] = BoolGetDatum(row->ddl);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/* ---------- stream_tables ---------- */

/*
 * One row per table of the publications in $1, or per table if $2: such a stream
 * does not go by its publication.  A table that several of them
 * publish has the columns of all, and a row filter only when all have one.  A
 * partition goes under the name of its topmost ancestor that is published
 * itself.  Generated columns are not sent.  Rows and bytes of a partitioned
 * table are those of its partitions.
 */
static const char *const stream_tables_query =
"WITH published AS ("
"    SELECT c.oid AS relid, n.nspname, c.relname, c.reltuples, p.attnames, p.rowfilter"
"    FROM pg_publication_tables p"
"    JOIN pg_namespace n ON n.nspname = p.schemaname"
"    JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename"
"    WHERE NOT $2 AND p.pubname = ANY ($1) AND n.nspname <> '" FANOUT_SCHEMA "'"
"    UNION ALL"
"    SELECT c.oid, n.nspname, c.relname, c.reltuples, NULL, NULL"
"    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
"    WHERE $2 AND pg_relation_is_publishable(c.oid) AND c.relkind = 'r'"
"      AND n.nspname <> '" FANOUT_SCHEMA "'"
"), merged AS ("
"    SELECT relid, nspname, relname, max(reltuples) AS reltuples,"
"           CASE WHEN count(*) = count(rowfilter)"
"                THEN string_agg(DISTINCT '(' || rowfilter || ')', ' OR ') END AS row_filter"
"    FROM published GROUP BY relid, nspname, relname"
"), listed AS ("
"    SELECT relid, array_agg(DISTINCT a.name) AS names"
"    FROM published, unnest(attnames) AS a (name) GROUP BY relid"
") "
"SELECT nspname, relname, relid,"
"       ARRAY(SELECT a.attname FROM pg_attribute a"
"             WHERE a.attrelid = relid AND a.attnum > 0"
"               AND NOT a.attisdropped AND a.attgenerated = ''"
"               AND ($2 OR a.attname = ANY (listed.names))"
"             ORDER BY a.attnum),"
"       row_filter,"
"       coalesce(leaf.rows, greatest(reltuples, 0)::bigint),"
"       coalesce(leaf.bytes, pg_table_size(relid), 0)::bigint "
"FROM merged LEFT JOIN listed USING (relid),"
"     LATERAL (SELECT sum(greatest(c.reltuples, 0))::bigint AS rows,"
"                     sum(pg_table_size(t.relid))::bigint AS bytes"
"              FROM pg_partition_tree(merged.relid) t JOIN pg_class c ON c.oid = t.relid"
"              WHERE t.isleaf) leaf "
"WHERE NOT EXISTS (SELECT FROM pg_partition_ancestors(merged.relid) a"
"                  WHERE a.relid <> merged.relid AND a.relid IN (SELECT relid FROM published)) "
"ORDER BY nspname, relname";

/*
 * stream_tables(stream name)
 */
Datum
fanout_stream_tables(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Oid			types[] = {NAMEARRAYOID, BOOLOID};
	Datum		values[2];
	OwnTables	state;
	StreamRow  *row;

	fanout_require_preload();
	row = stream_row_require_grant(NameStr(*PG_GETARG_NAME(0)));
	InitMaterializedSRF(fcinfo, 0);

	values[0] = name_array_datum(row->publications);
	values[1] = BoolGetDatum(row->own_publication);
	own_tables_begin(&state);
	if (SPI_execute_with_args(stream_tables_query, lengthof(types), types, values, NULL,
							  false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the publications");
	for (uint64 i = 0; i < SPI_processed; i++)
		tuplestore_puttuple(rsinfo->setResult, SPI_tuptable->vals[i]);
	own_tables_end(&state);
	return (Datum) 0;
}

/*
 * wait_for_writers(stream name, relations oid[])
 *
 * A transaction that wrote to a table before that joined a publication has its rows not in
 * the stream, wherever it commits.  A copy has them if its snapshot is taken after this
 * returns: it waits until all have ended that hold a writer's lock on the tables now.
 * Nobody waits for it.  Such a snapshot sees also all that has committed before the call.
 */
Datum
fanout_wait_for_writers(PG_FUNCTION_ARGS)
{
	List	   *relids;
	List	   *tags = NIL;
	ListCell   *lc;

	fanout_require_preload();
	(void) stream_row_require_grant(NameStr(*PG_GETARG_NAME(0)));
	relids = oid_array_list(PG_GETARG_ARRAYTYPE_P(1));
	list_sort(relids, list_oid_cmp);
	list_deduplicate_oid(relids);
	foreach(lc, relids)
	{
		ListCell   *lc2;

		CHECK_FOR_INTERRUPTS();
		if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(lfirst_oid(lc))))
			continue;			/* it left by being dropped */
		foreach(lc2, find_all_inheritors(lfirst_oid(lc), NoLock, NULL))
		{
			LOCKTAG    *tag = palloc(sizeof(LOCKTAG));

			SET_LOCKTAG_RELATION(*tag, MyDatabaseId, lfirst_oid(lc2));
			tags = lappend(tags, tag);
		}
	}
	wait_for_critical_sections();
	wait_for_commits_to_show();
	WaitForLockersMultiple(tags, ShareLock, false);
	PG_RETURN_VOID();
}

/* ---------- registration ---------- */

LeaderStream *
require_streaming(const char *name)
{
	StreamRow  *row = stream_row_require_grant(name);
	LeaderStream *stream = stream_record(row);
	char		last_error[FANOUT_ERROR_LEN];
	LeaderStreamState state = stream_state(stream, last_error);

	if (state != STREAM_STREAMING)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("stream \"%s\" is not streaming but %s", name,
						leader_stream_state_name(state)),
				 last_error[0] != '\0' ?
				 errdetail("Its last error was: %s", last_error) : 0));
	return stream;
}

/*
 * register_follower(stream name, follower name, instance uuid, era uuid, reached pg_lsn)
 *
 * Returns the copy point, see copy_point.c.  era and reached are those of a copy that is
 * to go on (era.c); null for a new one.
 */
Datum
fanout_register_follower(PG_FUNCTION_ARGS)
{
	char	   *follower;
	LeaderStream *stream;
	pg_uuid_t  *era = NULL;

	fanout_require_preload();
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("stream, follower and instance must not be null")));
	follower = NameStr(*PG_GETARG_NAME(1));
	if (follower[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("follower name must not be empty")));
	stream = require_streaming(NameStr(*PG_GETARG_NAME(0)));
	if (!PG_ARGISNULL(3) && !PG_ARGISNULL(4))
		era = PG_GETARG_UUID_P(3);
	PG_RETURN_LSN(copy_point_register(stream, follower, PG_GETARG_UUID_P(2), era,
									  era != NULL ? PG_GETARG_LSN(4) : InvalidXLogRecPtr));
}

/* Whether the entry is that of the instance; *pid gets the sender it has. */
static bool
is_of_instance(Registration *registration, const pg_uuid_t *instance, pid_t *pid)
{
	bool		same;

	SpinLockAcquire(&registration->mutex);
	same = memcmp(&registration->instance, instance, sizeof(pg_uuid_t)) == 0;
	*pid = registration->sender_pid;
	SpinLockRelease(&registration->mutex);
	return same;
}

/*
 * unregister_follower(stream name, follower name, instance uuid, sender_pid integer)
 *
 * Does nothing when the stream is gone, or the follower, or when its name belongs to
 * another instance by now.  A copy of a follower is the same instance; so the caller
 * says which sender is its own (0: none).
 */
Datum
fanout_unregister_follower(PG_FUNCTION_ARGS)
{
	char	   *follower = NameStr(*PG_GETARG_NAME(1));
	pg_uuid_t  *instance = PG_GETARG_UUID_P(2);
	StreamRow  *row;
	LeaderStream *stream;
	Registration *registration;
	pid_t		pid;

	fanout_require_preload();
	if (stream_row_by_name(NameStr(*PG_GETARG_NAME(0))) == NULL)
		PG_RETURN_VOID();
	row = stream_row_require_grant(NameStr(*PG_GETARG_NAME(0)));
	stream = stream_record(row);
	registration = stream != NULL ? registry_find(stream, follower) : NULL;
	if (registration == NULL || !is_of_instance(registration, instance, &pid))
		PG_RETURN_VOID();
	if (pid != 0 && pid != PG_GETARG_INT32(3))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("another database is connected as follower \"%s\" of stream \"%s\"",
						follower, NameStr(row->name))));
	registry_remove(stream, follower, false);
	PG_RETURN_VOID();
}

/*
 * flush_wal()
 */
Datum
fanout_flush_wal(PG_FUNCTION_ARGS)
{
	XLogRecPtr	end;

	fanout_require_preload();
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("recovery is in progress"),
				 errhint("Follow the leader, not a standby of it.")));
	stream_require_any_grant();
	end = GetXLogInsertEndRecPtr();
	XLogFlush(end);
	PG_RETURN_LSN(end);
}
