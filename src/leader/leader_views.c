/*
 * leader_views.c
 *		The rows of fanout.streams and fanout.followers, and fanout.drop_follower().
 *
 * Which streams there are is read from fanout.stream; how they do, from shared
 * memory.  A stream whose decoder has not started yet has a row all the same.
 * Who is neither a stream's owner nor in pg_monitor sees nothing of it.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

#include "arrays.h"
#include "compat.h"
#include "leader/leader.h"

PG_FUNCTION_INFO_V1(fanout_streams_state);
PG_FUNCTION_INFO_V1(fanout_followers_state);
PG_FUNCTION_INFO_V1(fanout_drop_follower);

#define STREAMS_COLUMNS		13
#define FOLLOWERS_COLUMNS	14

/* A row under construction: columns are appended in order. */
typedef struct ViewRow
{
	int			count;
	Datum		values[FOLLOWERS_COLUMNS];
	bool		nulls[FOLLOWERS_COLUMNS];
} ViewRow;

const char *
leader_stream_state_name(LeaderStreamState state)
{
	switch (state)
	{
		case STREAM_STARTING:
			return "starting";
		case STREAM_STREAMING:
			return "streaming";
		case STREAM_FAILED:
			return "failed";
	}
	return "unknown";
}

static const char *
registration_state_name(RegistrationState state)
{
	switch (state)
	{
		case FOLLOWER_COPYING:
			return "copying";
		case FOLLOWER_STREAMING:
			return "streaming";
		case FOLLOWER_AWAY:
			return "away";
		case FOLLOWER_LOST:
			return "lost";
	}
	return "unknown";
}

/* ---------- columns ---------- */

static void
put(ViewRow *row, Datum value)
{
	row->nulls[row->count] = false;
	row->values[row->count++] = value;
}

static void
put_null(ViewRow *row)
{
	row->nulls[row->count] = true;
	row->values[row->count++] = (Datum) 0;
}

static void
put_lsn(ViewRow *row, XLogRecPtr lsn)
{
	if (XLogRecPtrIsInvalid(lsn))
		put_null(row);
	else
		put(row, LSNGetDatum(lsn));
}

static void
put_text(ViewRow *row, const char *text)
{
	if (text[0] == '\0')
		put_null(row);
	else
		put(row, CStringGetTextDatum(text));
}

static void
put_pid(ViewRow *row, pid_t pid)
{
	if (pid == 0)
		put_null(row);
	else
		put(row, Int32GetDatum(pid));
}

static void
put_time(ViewRow *row, TimestampTz at)
{
	if (at == 0)
		put_null(row);
	else
		put(row, TimestampTzGetDatum(at));
}

static void
put_interval(ViewRow *row, int64 microseconds)
{
	Interval   *interval;

	if (microseconds < 0)
	{
		put_null(row);
		return;
	}
	interval = palloc0(sizeof(Interval));
	interval->time = microseconds;
	put(row, IntervalPGetDatum(interval));
}

/* How far position is behind end; 0 when it is not. */
static int64
distance(uint64 end, uint64 position)
{
	return end > position ? (int64) (end - position) : 0;
}

/* ---------- fanout.streams ---------- */

/* A copy of the stream's record; zeroes, which mean "starting", when there is none. */
static LeaderStream *
copy_stream(const StreamRow *row, int *followers)
{
	LeaderStream *stream = stream_record(row);
	LeaderStream *copy = palloc0(sizeof(LeaderStream));

	*followers = 0;
	if (stream != NULL)
	{
		registry_load(stream);
		*followers = registry_count(stream);
		SpinLockAcquire(&stream->mutex);
		memcpy(copy, stream, sizeof(LeaderStream));
		SpinLockRelease(&stream->mutex);
	}
	return copy;
}

static void
fill_stream_row(ViewRow *row, StreamRow *stream)
{
	int			followers;
	LeaderStream *copy = copy_stream(stream, &followers);
	bool		has_error = copy->worker.last_error_at != 0;

	put(row, NameGetDatum(&stream->name));
	put(row, name_array_datum(stream->publications));
	put(row, CStringGetTextDatum(leader_stream_state_name(copy->state)));
	put_pid(row, copy->worker.pid);
	put_lsn(row, copy->decoded_lsn);
	put_lsn(row, copy->log_start_lsn);
	put_lsn(row, copy->end.lsn);
	put(row, Int64GetDatum(copy->log_bytes));
	put(row, Int32GetDatum(followers));
	put(row, Int64GetDatum(copy->transactions));
	put(row, Int64GetDatum(copy->changes));
	put_text(row, has_error ? copy->worker.last_error : "");
	put_time(row, copy->worker.last_error_at);
	Assert(row->count == STREAMS_COLUMNS);
}

/*
 * streams_state(): the rows of fanout.streams.  The last error stays until the
 * next one; its time and the state tell whether it is over.
 */
Datum
fanout_streams_state(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	ListCell   *lc;

	fanout_require_preload();
	InitMaterializedSRF(fcinfo, 0);
	foreach(lc, stream_rows())
	{
		ViewRow		row = {0};

		if (!stream_is_visible(lfirst(lc)))
			continue;
		fill_stream_row(&row, lfirst(lc));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, row.values, row.nulls);
	}
	return (Datum) 0;
}

/* ---------- fanout.followers ---------- */

/* Where the leader is, to compare followers with. */
typedef struct LeaderPosition
{
	XLogRecPtr	wal_end;		/* invalid on a standby */
	LogEnd		end;
	uint64		log_bytes;
} LeaderPosition;

static LeaderPosition
leader_position(LeaderStream *stream)
{
	LeaderPosition position;

	SpinLockAcquire(&stream->mutex);
	position.end = stream->end;
	position.log_bytes = stream->log_bytes;
	SpinLockRelease(&stream->mutex);
	position.wal_end = RecoveryInProgress() ? InvalidXLogRecPtr : GetXLogInsertEndRecPtr();
	return position;
}

/*
 * What the follower holds the log for, in bytes of WAL between its durable
 * position and the log's end; at most the log's size, which is what it really
 * takes.
 */
static int64
retained_bytes(const Registration *follower, const LeaderPosition *leader)
{
	if (follower->state == FOLLOWER_LOST)
		return 0;
	return Min(distance(leader->end.lsn, follower->durable_lsn), (int64) leader->log_bytes);
}

/*
 * What was acknowledged here before a question came is on the follower when the question is
 * proven: no clock but our own, and no time on the wire, counts.  -1: unknown.
 */
static int64
current_staleness(const Registration *follower)
{
	return follower->proven_at == 0 ? -1 : fanout_boottime_us() - follower->proven_at;
}

static void
fill_follower_row(ViewRow *row, StreamRow *stream, Registration *follower,
				  const LeaderPosition *leader)
{
	put(row, NameGetDatum(&stream->name));
	put(row, NameGetDatum(&follower->name));
	put(row, CStringGetTextDatum(registration_state_name(follower->state)));
	put_text(row, follower->client_addr);
	put_pid(row, follower->sender_pid);
	put_lsn(row, follower->sent_lsn);
	put_lsn(row, follower->applied_lsn);
	put_lsn(row, follower->durable_lsn);
	if (XLogRecPtrIsInvalid(leader->wal_end) || XLogRecPtrIsInvalid(follower->applied_lsn))
		put_null(row);
	else
		put(row, Int64GetDatum(distance(leader->wal_end, follower->applied_lsn)));
	put(row, Int64GetDatum(distance(leader->end.seq, follower->applied_seq)));
	put_interval(row, current_staleness(follower));
	put(row, Int64GetDatum(retained_bytes(follower, leader)));
	put_time(row, follower->connected_at);
	put_time(row, follower->last_seen_at);
	Assert(row->count == FOLLOWERS_COLUMNS);
}

static void
put_followers_of(ReturnSetInfo *rsinfo, StreamRow *stream_row)
{
	LeaderStream *stream = stream_record(stream_row);
	LeaderPosition leader;
	List	   *followers;
	ListCell   *lc;

	if (stream == NULL)
		return;
	/* Followers first: they can only have applied what the leader has written. */
	followers = registry_list(stream);
	leader = leader_position(stream);
	foreach(lc, followers)
	{
		ViewRow		row = {0};

		fill_follower_row(&row, stream_row, lfirst(lc), &leader);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, row.values, row.nulls);
	}
}

/*
 * followers_state(): the rows of fanout.followers
 */
Datum
fanout_followers_state(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	ListCell   *lc;

	fanout_require_preload();
	InitMaterializedSRF(fcinfo, 0);
	foreach(lc, stream_rows())
	{
		if (stream_is_visible(lfirst(lc)))
			put_followers_of(rsinfo, lfirst(lc));
	}
	return (Datum) 0;
}

/* ---------- fanout.drop_follower ---------- */

/*
 * drop_follower(stream name, follower name)
 */
Datum
fanout_drop_follower(PG_FUNCTION_ARGS)
{
	char	   *follower = NameStr(*PG_GETARG_NAME(1));
	StreamRow  *row;
	LeaderStream *stream;

	fanout_require_preload();
	row = stream_row_require(NameStr(*PG_GETARG_NAME(0)));
	stream_check_owner(row);
	stream = stream_record(row);
	if (stream == NULL || registry_find(stream, follower) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("follower \"%s\" is not registered with stream \"%s\"",
						follower, NameStr(row->name))));
	registry_remove(stream, follower, true);
	PG_RETURN_VOID();
}
