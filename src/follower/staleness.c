/*
 * staleness.c
 *		fanout.staleness and fanout.lag(): what users see of a followed stream.
 *
 * The numbers come from the stream's record.  The staleness is that of the
 * snapshot that the query reads with, see positions.c.  It holds for all tables,
 * so it is unknown while one of them is not in line with the stream, see
 * table_current.c; fanout.table_staleness has that of the others.
 */
#include "postgres.h"

#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "follower/follower.h"
#include "own_tables.h"

PG_FUNCTION_INFO_V1(fanout_staleness_state);
PG_FUNCTION_INFO_V1(fanout_lag);
PG_FUNCTION_INFO_V1(fanout_stream_staleness);

#define STALENESS_COLUMNS	15

static Snapshot
query_snapshot(void)
{
	return ActiveSnapshotSet() ? GetActiveSnapshot() : NULL;
}

/* False: unknown. */
static bool
staleness_of_all_tables(FollowedStream *stream, int64 *staleness)
{
	Snapshot	snapshot = query_snapshot();

	return tables_are_current(stream, snapshot) &&
		positions_staleness(stream, snapshot, staleness);
}

static Datum
interval_datum(int64 us)
{
	Interval   *interval = palloc0(sizeof(Interval));

	interval->time = us;
	return IntervalPGetDatum(interval);
}

static void
put_staleness(Datum *value, bool *isnull, bool known, int64 staleness)
{
	*isnull = !known;
	if (known)
		*value = interval_datum(staleness);
}

/* In bytes, and in transactions behind that. */
static void
put_lag(Datum *values, bool *nulls, const PositionsCopy *positions)
{
	uint64		bytes;

	nulls[0] = !positions_lag(positions, &bytes);
	nulls[1] = nulls[0] || positions->leader_seq == 0 || positions->applied_seq == 0;
	if (!nulls[0])
		values[0] = Int64GetDatum(bytes);
	if (!nulls[1])
		values[1] = Int64GetDatum(positions->leader_seq > positions->applied_seq ?
								  positions->leader_seq - positions->applied_seq : 0);
}

/* Followed streams of this database, List of FollowedRow. */
static List *
all_rows(void)
{
	OwnTables	state;
	Oid			types[] = {OIDOID};
	Datum		values[] = {ObjectIdGetDatum(MyDatabaseId)};
	List	   *names = NIL;
	List	   *rows = NIL;
	ListCell   *lc;

	own_tables_begin(&state);
	if (SPI_execute_with_args("SELECT stream FROM fanout.followed_stream WHERE dboid = $1"
							  " ORDER BY stream", 1, types, values, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read fanout.followed_stream");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		MemoryContext oldcontext = MemoryContextSwitchTo(state.context);

		names = lappend(names, SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1));
		MemoryContextSwitchTo(oldcontext);
	}
	own_tables_end(&state);

	foreach(lc, names)
	{
		FollowedRow *row = followed_row_by_name(lfirst(lc));

		if (row != NULL)
			rows = lappend(rows, row);
	}
	return rows;
}

static void
put_lsn(Datum *values, bool *nulls, int at, XLogRecPtr lsn)
{
	values[at] = LSNGetDatum(lsn);
	nulls[at] = XLogRecPtrIsInvalid(lsn);
}

/* An error may name the key of a row. */
static bool
may_see_errors(void)
{
	return has_privs_of_role(GetUserId(), ROLE_PG_MONITOR);
}

static void
put_positions(FollowedStream *stream, Datum *values, bool *nulls)
{
	PositionsCopy positions;
	/* The clock is read first: whatever comes in between makes as_of older, never newer. */
	TimestampTz now = GetCurrentTimestamp();
	int64		staleness = 0;
	bool		known = staleness_of_all_tables(stream, &staleness);
	char	   *error = palloc(FANOUT_ERROR_LEN);
	TimestampTz error_at;

	positions_read(stream, &positions);
	SpinLockAcquire(&stream->mutex);
	memcpy(error, stream->worker.last_error, FANOUT_ERROR_LEN);
	error_at = stream->worker.last_error_at;
	SpinLockRelease(&stream->mutex);

	values[3] = CStringGetTextDatum(follow_state_name(positions.state));
	put_staleness(&values[4], &nulls[4], known, staleness);
	values[5] = TimestampTzGetDatum(now - staleness);
	nulls[5] = !known;
	put_lsn(values, nulls, 6, positions.applied_lsn);
	put_lsn(values, nulls, 7, positions.received_lsn);
	put_lsn(values, nulls, 8, positions.leader_lsn);
	put_lag(&values[9], &nulls[9], &positions);
	values[11] = Int64GetDatum(positions.applied_transactions);
	values[12] = TimestampTzGetDatum(positions.last_applied_at);
	nulls[12] = positions.last_applied_at == 0;
	values[13] = CStringGetTextDatum(error);
	values[14] = TimestampTzGetDatum(error_at);
	nulls[13] = error_at == 0 || !may_see_errors();
	nulls[14] = error_at == 0;
}

/* staleness_state() RETURNS SETOF record: the rows of fanout.staleness */
Datum
fanout_staleness_state(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	ListCell   *lc;

	fanout_require_preload();
	InitMaterializedSRF(fcinfo, 0);
	foreach(lc, all_rows())
	{
		FollowedRow *row = lfirst(lc);
		FollowedStream *stream = followed_stream_find(MyDatabaseId, row->id);
		Datum		values[STALENESS_COLUMNS] = {0};
		bool		nulls[STALENESS_COLUMNS];

		memset(nulls, stream == NULL, sizeof(nulls));
		values[0] = NameGetDatum(&row->stream);
		values[1] = CStringGetTextDatum(conninfo_without_password(row->conninfo));
		values[2] = NameGetDatum(&row->follower);
		values[3] = CStringGetTextDatum(follow_state_name(FOLLOW_STARTING));
		nulls[0] = nulls[1] = nulls[2] = nulls[3] = false;
		if (stream != NULL)
			put_positions(stream, values, nulls);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* The one stream that is meant; NULL: it is the only one. */
static FollowedRow *
the_stream(const char *name)
{
	List	   *rows;

	if (name != NULL)
		return followed_row_require(name);
	rows = all_rows();
	if (rows == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("this database does not follow any stream")));
	if (list_length(rows) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_AMBIGUOUS_PARAMETER),
				 errmsg("this database follows several streams"),
				 errhint("Name the one that is meant.")));
	return linitial(rows);
}

/* lag(stream name) RETURNS record (lag_bytes, lag_transactions, staleness) */
Datum
fanout_lag(PG_FUNCTION_ARGS)
{
	FollowedRow *row;
	FollowedStream *stream;
	TupleDesc	desc;
	Datum		values[3] = {0};
	bool		nulls[3] = {true, true, true};

	fanout_require_preload();
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	row = the_stream(PG_ARGISNULL(0) ? NULL : NameStr(*PG_GETARG_NAME(0)));
	stream = followed_stream_find(MyDatabaseId, row->id);
	if (stream != NULL)
	{
		PositionsCopy positions;
		int64		staleness;
		bool		known = staleness_of_all_tables(stream, &staleness);

		positions_read(stream, &positions);
		put_lag(values, nulls, &positions);
		put_staleness(&values[2], &nulls[2], known, staleness);
	}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/* stream_staleness(followed_id integer) RETURNS interval: of the tables in line with the stream */
Datum
fanout_stream_staleness(PG_FUNCTION_ARGS)
{
	FollowedStream *stream;
	int64		staleness;

	fanout_require_preload();
	stream = followed_stream_find(MyDatabaseId, PG_GETARG_INT32(0));
	if (stream == NULL || !positions_staleness(stream, query_snapshot(), &staleness))
		PG_RETURN_NULL();
	PG_RETURN_DATUM(interval_datum(staleness));
}
