/*
 * wait.c
 *		Waiting until a followed stream is far enough: fanout.wait_for(), and
 *		what bounded reads (read_bound.c) wait with.
 *
 * All waits sleep on the condition variable "changed" of the stream's record, which
 * the worker broadcasts after each commit, each new proof of freshness and
 * each change of state.  A stream that is dropped meanwhile fails the wait, and so does one that
 * itself waits for a lock of this transaction's (blocked.c).
 * Waits take no lock and may be cancelled; nothing is left behind.
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

/* How often a wait looks whether it can end at all. */
#define LOOK_MS		100

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

/* What is waited for. */
typedef union WaitTarget
{
	XLogRecPtr	lsn;
	int64		boot_us;
} WaitTarget;

typedef bool (*WaitCondition) (FollowedStream *stream, WaitTarget target);

static bool
applied_reached(FollowedStream *stream, WaitTarget target)
{
	bool		reached;

	SpinLockAcquire(&stream->mutex);
	reached = stream->applied_lsn >= target.lsn;
	SpinLockRelease(&stream->mutex);
	return reached;
}

static bool
proof_reached(FollowedStream *stream, WaitTarget target)
{
	return positions_proven_since(stream, NULL, target.boot_us);
}

static bool
is_settled(FollowedStream *stream, WaitTarget target)
{
	return tables_are_settled(stream);
}

static bool
is_still_followed(FollowedStream *stream)
{
	return stream->in_use && stream->dboid == MyDatabaseId;
}

static void
check_still_followed(FollowedStream *stream)
{
	if (!is_still_followed(stream))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this database stopped following the stream")));
}

/* quietly: where it can't end well it ends, and nothing fails but for a cancel. */
static bool
wait_until(FollowedStream *stream, WaitCondition condition, WaitTarget target,
		   TimestampTz deadline, bool quietly)
{
	bool		of_copier = condition == is_settled;
	bool		reached;

	ConditionVariablePrepareToSleep(&stream->changed);
	while (!(reached = condition(stream, target)))
	{
		long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);

		if (quietly && (!is_still_followed(stream) || is_in_the_way(stream, of_copier)))
			break;
		check_still_followed(stream);
		if (left <= 0)
			break;
		check_not_in_the_way(stream, of_copier);
		ConditionVariableTimedSleep(&stream->changed, Min(left, LOOK_MS), PG_WAIT_EXTENSION);
	}
	ConditionVariableCancelSleep();
	return reached;
}

bool
wait_applied(List *streams, XLogRecPtr lsn, TimestampTz deadline)
{
	WaitTarget	target = {.lsn = lsn};
	ListCell   *lc;

	foreach(lc, streams)
	{
		if (!wait_until(lfirst(lc), applied_reached, target, deadline, false))
			return false;
	}
	return true;
}

/* The next heartbeat may be long away: have the worker ask at once. */
static void
ask_now(FollowedStream *stream)
{
	int			procno;

	pg_atomic_write_u32(&stream->ask_now, 1);
	SpinLockAcquire(&stream->mutex);
	procno = stream->worker.procno;
	SpinLockRelease(&stream->mutex);
	fanout_wake(procno);
}

bool
wait_fresh(FollowedStream *stream, int64 boot_us, TimestampTz deadline)
{
	WaitTarget	target = {.boot_us = boot_us};

	if (proof_reached(stream, target))
		return true;
	ask_now(stream);
	return wait_until(stream, proof_reached, target, deadline, false);
}

void
wait_quietly(List *streams, const Token *token, const int64 *boot_us, TimestampTz deadline)
{
	ListCell   *lc;

	foreach(lc, streams)
	{
		FollowedStream *stream = lfirst(lc);
		WaitTarget	target;

		if (token != NULL && token_matches(token, stream))
		{
			target.lsn = token->lsn;
			(void) wait_until(stream, applied_reached, target, deadline, true);
		}
		if (boot_us == NULL)
			continue;
		target.boot_us = *boot_us;
		if (!proof_reached(stream, target))
			ask_now(stream);
		(void) wait_until(stream, proof_reached, target, deadline, true);
	}
}

bool
wait_settled(FollowedStream *stream, TimestampTz deadline)
{
	WaitTarget	none = {0};

	return wait_until(stream, is_settled, none, deadline, false);
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

		if (!tables_are_settled(stream) && !all_tables_current(stream) &&
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
