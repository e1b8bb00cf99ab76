/*
 * wait_followers.c
 *		fanout.wait_for_followers(): wait until so many followers have applied a
 *		position.
 *
 * A wait reads the followers' records (Registration.applied_lsn, set by their
 * senders from what they report) and sleeps on the stream's condition variable
 * "follower_applied".  It leaves nothing behind when it is cancelled or times out.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "leader/commit_token.h"
#include "leader/leader.h"
#include "token.h"

PG_FUNCTION_INFO_V1(fanout_wait_for_followers);

/* The position that a token given to the leader names. */
static XLogRecPtr
token_position(const char *text)
{
	Token		token = token_parse_or_fail(text);
	LeaderIdentity here = leader_identity_here();

	if (token.has_leader &&
		(token.leader.system_identifier != here.system_identifier ||
		 token.leader.dboid != here.dboid))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the token is not from this leader")));
	return token.lsn;
}

/*
 * Followers of any of this database's streams that have applied lsn.  One that is away may
 * have lost what was not durable.
 */
static int
count_applied(XLogRecPtr lsn)
{
	int			count = 0;

	LWLockAcquire(Fanout->lock, LW_SHARED);
	for (int i = 0; i < fanout_max_followers; i++)
	{
		Registration *registration = &Registrations[i];

		SpinLockAcquire(&registration->mutex);
		if (registration->in_use && registration->dboid == MyDatabaseId &&
			registration->state != FOLLOWER_LOST && registration->state != FOLLOWER_COPYING &&
			(registration->state == FOLLOWER_STREAMING ? registration->applied_lsn :
			 registration->durable_lsn) >= lsn)
			count++;
		SpinLockRelease(&registration->mutex);
	}
	LWLockRelease(Fanout->lock);
	return count;
}

/* Any stream of this database: its followers' reports end the sleep. */
static LeaderStream *
stream_here(void)
{
	LeaderStream *result = NULL;

	LWLockAcquire(Fanout->lock, LW_SHARED);
	for (int i = 0; i < fanout_max_streams && result == NULL; i++)
	{
		if (LeaderStreams[i].in_use && LeaderStreams[i].dboid == MyDatabaseId)
			result = &LeaderStreams[i];
	}
	LWLockRelease(Fanout->lock);
	if (result == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this database is not the leader of any stream")));
	return result;
}

/*
 * With several streams, reports of the others are seen at the latest after
 * this many milliseconds.
 */
#define RECHECK_MS	100

static int
wait_for_count(int wanted, XLogRecPtr lsn, TimestampTz deadline)
{
	LeaderStream *stream = stream_here();
	int			count;

	ConditionVariablePrepareToSleep(&stream->follower_applied);
	while ((count = count_applied(lsn)) < wanted)
	{
		long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);

		if (left <= 0)
			break;
		ConditionVariableTimedSleep(&stream->follower_applied, Min(left, RECHECK_MS),
									PG_WAIT_EXTENSION);
	}
	ConditionVariableCancelSleep();
	return count;
}

/*
 * wait_for_followers(followers int, token text, timeout interval) RETURNS int
 *
 * How many have applied the token when enough have or the time is over.
 */
Datum
fanout_wait_for_followers(PG_FUNCTION_ARGS)
{
	XLogRecPtr	lsn;
	TimestampTz deadline;

	fanout_require_preload();
	if (PG_ARGISNULL(0) || PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("number of followers and timeout must not be null")));
	if (PG_GETARG_INT32(0) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("number of followers must not be negative")));

	lsn = PG_ARGISNULL(1) ? commit_token_lsn() :
		token_position(text_to_cstring(PG_GETARG_TEXT_PP(1)));
	deadline = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
													   TimestampTzGetDatum(GetCurrentTimestamp()),
													   PG_GETARG_DATUM(2)));
	PG_RETURN_INT32(wait_for_count(PG_GETARG_INT32(0), lsn, deadline));
}
