/*
 * hold.c
 *		Having a follower stand still at an exact position of its stream.
 *
 * A session that must see the follower's tables as of a position of the leader takes
 * the hold: the worker finishes what it is applying, commits, and stands.  The
 * session finds out which position it wants, which lies ahead of where the
 * worker stands, has the worker go on up to exactly there, takes a snapshot,
 * and lets it run.  Meanwhile the worker goes on talking to the leader, and its
 * staleness grows.
 *
 * The fields are in the stream's record: hold_pid is who has the hold, hold_lsn up to
 * where the worker may apply (Invalid: nothing), held is the worker's answer that
 * it stands there.  One process at a time has it.  A worker that is replaced
 * changes nothing: its successor obeys the same record, and what was applied stays.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"

#include "follower/follower.h"
#include "follower/hold.h"

#define LOOK_MS		100

static void
wake_worker(FollowedStream *stream)
{
	int			procno;

	SpinLockAcquire(&stream->mutex);
	procno = stream->worker.procno;
	SpinLockRelease(&stream->mutex);
	fanout_wake(procno);
}

/* ---------- for whoever wants it to stand ---------- */

static bool
try_take(FollowedStream *stream)
{
	bool		taken;

	SpinLockAcquire(&stream->mutex);
	taken = stream->hold_pid == 0;
	if (taken)
	{
		stream->hold_pid = MyProcPid;
		stream->hold_lsn = InvalidXLogRecPtr;
		stream->held = false;
	}
	SpinLockRelease(&stream->mutex);
	return taken;
}

static void
check_applying(FollowedStream *stream)
{
	PositionsCopy positions;

	positions_read(stream, &positions);
	if (!stream->in_use || (positions.state != FOLLOW_STREAMING &&
							positions.state != FOLLOW_CATCHING_UP &&
							positions.state != FOLLOW_STARTING))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("stream \"%s\" is not being applied", NameStr(stream->stream)),
				 errdetail("Its state is \"%s\".", follow_state_name(positions.state))));
}

static bool
is_held(FollowedStream *stream)
{
	bool		held;

	SpinLockAcquire(&stream->mutex);
	held = stream->held && stream->hold_pid == MyProcPid;
	SpinLockRelease(&stream->mutex);
	return held;
}

static void
wait_until_held(FollowedStream *stream)
{
	wake_worker(stream);
	ConditionVariablePrepareToSleep(&stream->changed);
	while (!is_held(stream))
	{
		check_applying(stream);
		check_not_in_the_way(stream, false);
		(void) ConditionVariableTimedSleep(&stream->changed, LOOK_MS, PG_WAIT_EXTENSION);
	}
	ConditionVariableCancelSleep();
}

void
hold_take(FollowedStream *stream)
{
	ConditionVariablePrepareToSleep(&stream->changed);
	while (!try_take(stream))
	{
		check_applying(stream);
		check_not_in_the_way(stream, false);
		(void) ConditionVariableTimedSleep(&stream->changed, LOOK_MS, PG_WAIT_EXTENSION);
	}
	ConditionVariableCancelSleep();

	PG_ENSURE_ERROR_CLEANUP(hold_release_callback, PointerGetDatum(stream));
	{
		wait_until_held(stream);
	}
	PG_END_ENSURE_ERROR_CLEANUP(hold_release_callback, PointerGetDatum(stream));
}

void
hold_move(FollowedStream *stream, XLogRecPtr lsn)
{
	SpinLockAcquire(&stream->mutex);
	Assert(stream->hold_pid == MyProcPid);
	stream->hold_lsn = lsn;
	stream->held = false;
	SpinLockRelease(&stream->mutex);
	wait_until_held(stream);
}

void
hold_release(FollowedStream *stream)
{
	bool		ours;

	SpinLockAcquire(&stream->mutex);
	ours = stream->hold_pid == MyProcPid;
	if (ours)
	{
		stream->hold_pid = 0;
		stream->held = false;
	}
	SpinLockRelease(&stream->mutex);
	if (!ours)
		return;
	wake_worker(stream);
	ConditionVariableBroadcast(&stream->changed);
}

void
hold_release_callback(int code, Datum stream)
{
	hold_release((FollowedStream *) DatumGetPointer(stream));
}

/* ---------- for the worker ---------- */

/* The first look is without the lock: one that comes too late is noticed by the next. */
bool
hold_stops(FollowedStream *stream, XLogRecPtr end_lsn)
{
	bool		stops;

	if (stream->hold_pid == 0)
		return false;
	SpinLockAcquire(&stream->mutex);
	stops = stream->hold_pid != 0 && end_lsn > stream->hold_lsn;
	SpinLockRelease(&stream->mutex);
	return stops;
}

void
hold_reached(FollowedStream *stream, XLogRecPtr applied)
{
	bool		reached;

	if (stream->hold_pid == 0)
		return;
	SpinLockAcquire(&stream->mutex);
	reached = stream->hold_pid != 0 && !stream->held && applied >= stream->hold_lsn;
	if (reached)
		stream->held = true;
	SpinLockRelease(&stream->mutex);
	if (reached)
		ConditionVariableBroadcast(&stream->changed);
}
