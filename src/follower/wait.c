/*
 * wait.c
 *		Waiting until a followed stream is far enough: fanout.wait_for(), and
 *		what bounded reads (read_bound.c) wait with.
 *
 * All waits sleep on the condition variable "changed" of the stream's record, which
 * the worker broadcasts after each commit, each new proof of freshness and
 * each change of state.  A stream that is dropped meanwhile fails the wait.
 * Waits hold no lock and may be cancelled; nothing is left behind.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

#include "follower/follower.h"
#include "follower/wait.h"

PG_FUNCTION_INFO_V1(fanout_wait_for);

/* Does the token speak of this stream? */
static bool
token_matches(const Token *token, FollowedStream *stream)
{
	bool		matches;

	if (!token->has_leader)
		return true;
	SpinLockAcquire(&stream->mutex);
	matches = token->leader.system_identifier == stream->leader_system &&
		token->leader.dboid == stream->leader_dboid;
	SpinLockRelease(&stream->mutex);
	return matches;
}

List *
followed_streams_here(const char *stream_name)
{
	List	   *streams = NIL;

	LWLockAcquire(Fanout->lock, LW_SHARED);
	for (int i = 0; i < fanout_max_streams; i++)
	{
		FollowedStream *stream = &FollowedStreams[i];

		if (stream->in_use && stream->dboid == MyDatabaseId &&
			(stream_name == NULL || strcmp(NameStr(stream->stream), stream_name) == 0))
			streams = lappend(streams, stream);
	}
	LWLockRelease(Fanout->lock);
	return streams;
}

static List *
require_followed_streams(const char *stream_name)
{
	List	   *streams = followed_streams_here(stream_name);

	if (streams == NIL && stream_name != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("this database does not follow stream \"%s\"", stream_name)));
	if (streams == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this database does not follow any stream")));
	return streams;
}

List *
token_streams(const Token *token, const char *stream_name)
{
	List	   *streams = require_followed_streams(stream_name);
	ListCell   *lc;

	if (!token->has_leader && list_length(streams) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_AMBIGUOUS_PARAMETER),
				 errmsg("an LSN needs the name of a stream, since this database follows several")));

	foreach(lc, streams)
	{
		if (!token_matches(token, lfirst(lc)))
			streams = foreach_delete_current(streams, lc);
	}
	if (streams == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the token is not from the leader that this database follows"),
				 errdetail("It was taken on database %u of the server with system identifier " UINT64_FORMAT ".",
						   token->leader.dboid, token->leader.system_identifier)));
	return streams;
}

/* Is the position reached?  Fails when the stream is no longer followed. */
typedef bool (*WaitCondition) (FollowedStream *stream, uint64 target);

static bool
applied_reached(FollowedStream *stream, uint64 target)
{
	bool		reached;

	SpinLockAcquire(&stream->mutex);
	reached = stream->applied_lsn >= target;
	SpinLockRelease(&stream->mutex);
	return reached;
}

static bool
proof_reached(FollowedStream *stream, uint64 target)
{
	int64		newest = -1;

	SpinLockAcquire(&stream->mutex);
	if (stream->fine_next > 0)
		newest = stream->fine[(stream->fine_next - 1) % AS_OF_FINE].boot_us;
	SpinLockRelease(&stream->mutex);
	return newest >= (int64) target;
}

static bool
is_settled(FollowedStream *stream, uint64 target)
{
	return tables_are_settled(stream);
}

static void
check_still_followed(FollowedStream *stream)
{
	if (!stream->in_use || stream->dboid != MyDatabaseId)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this database stopped following the stream")));
}

static bool
wait_until(FollowedStream *stream, WaitCondition condition, uint64 target, TimestampTz deadline)
{
	bool		reached;

	ConditionVariablePrepareToSleep(&stream->changed);
	while (!(reached = condition(stream, target)))
	{
		long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);

		check_still_followed(stream);
		if (left <= 0)
			break;
		ConditionVariableTimedSleep(&stream->changed, Min(left, 1000), PG_WAIT_EXTENSION);
	}
	ConditionVariableCancelSleep();
	return reached;
}

bool
wait_applied(List *streams, XLogRecPtr lsn, TimestampTz deadline)
{
	ListCell   *lc;

	foreach(lc, streams)
	{
		if (!wait_until(lfirst(lc), applied_reached, lsn, deadline))
			return false;
	}
	return true;
}

bool
wait_fresh(FollowedStream *stream, int64 boot_us, TimestampTz deadline)
{
	int			procno;

	if (proof_reached(stream, boot_us))
		return true;

	/* The next heartbeat may be long away: have the worker ask at once. */
	pg_atomic_write_u32(&stream->ask_now, 1);
	SpinLockAcquire(&stream->mutex);
	procno = stream->worker.procno;
	SpinLockRelease(&stream->mutex);
	fanout_wake(procno);

	return wait_until(stream, proof_reached, boot_us, deadline);
}

bool
wait_settled(FollowedStream *stream, TimestampTz deadline)
{
	return wait_until(stream, is_settled, 0, deadline);
}

/*
 * A token that comes back to the leader it was taken on has nothing to wait for.
 * A copy of the leader's files that became a follower has the leader's identity, too:
 * there the stream counts.
 */
static bool
is_own_commit(const Token *token)
{
	LeaderIdentity here = leader_identity_here();

	return token->has_leader &&
		token->leader.system_identifier == here.system_identifier &&
		token->leader.dboid == here.dboid &&
		token->lsn <= GetXLogInsertRecPtr() &&
		leader_of_any_stream(MyDatabaseId) && followed_streams_here(NULL) == NIL;
}

/* What is applied is in all tables only if they are in line with the stream. */
static bool
wait_all_settled(List *streams, TimestampTz deadline)
{
	ListCell   *lc;

	foreach(lc, streams)
	{
		FollowedStream *stream = lfirst(lc);

		if (!is_settled(stream, 0) && !all_tables_current(stream) &&
			!wait_settled(stream, deadline))
			return false;
	}
	return true;
}

/*
 * wait_for(token text, timeout interval, stream name) RETURNS boolean
 *
 * True: what the token covers is visible to the next statement.  False: the
 * timeout (0: just look) passed first.
 */
Datum
fanout_wait_for(PG_FUNCTION_ARGS)
{
	Token		token;
	Interval   *timeout;
	TimestampTz deadline;
	List	   *streams;

	fanout_require_preload();
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("token and timeout must not be null")));
	token = token_parse_or_fail(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	timeout = PG_GETARG_INTERVAL_P(1);
	if (PG_ARGISNULL(2) && is_own_commit(&token))
		PG_RETURN_BOOL(true);
	streams = token_streams(&token, PG_ARGISNULL(2) ? NULL : NameStr(*PG_GETARG_NAME(2)));

	/* The snapshot of such a transaction stands: waiting would show it nothing new. */
	if (IsolationUsesXactSnapshot() && IsTransactionBlock())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("fanout.wait_for() must be called before a transaction of isolation level REPEATABLE READ or SERIALIZABLE begins")));

	deadline = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
													   TimestampTzGetDatum(GetCurrentTimestamp()),
													   IntervalPGetDatum(timeout)));
	PG_RETURN_BOOL(wait_applied(streams, token.lsn, deadline) &&
				   wait_all_settled(streams, deadline));
}
