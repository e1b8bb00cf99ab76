/*
 * make_way.c
 *		Having a stream's worker make way for whoever changes how the stream is followed.
 *
 * The worker locks the stream's row (followed_row_lock()) for as long as a local transaction
 * with a schema change lasts, or with a copied schema: until the leader's transaction is
 * applied to its end, or a lock is free that some reader has.  Whoever wants to pause or end
 * all that does not wait for it: the worker is ended, its transaction is undone, and what it
 * did comes again when it goes on.  It says in the stream's record, as row_holder, that it has
 * or wants the lock.
 *
 * Whoever tells a leader that the follower is gone must not be overtaken by a worker that
 * registers anew.  So the worker is ended before, and until that transaction ends, too
 * (stopped_by is the session's process), no other one does anything.
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "storage/latch.h"
#include "utils/timestamp.h"

#include "follower/follower.h"

#define POLL_MS			10
#define END_TIMEOUT_MS	5000

static void
pause_cancellably(void)
{
	CHECK_FOR_INTERRUPTS();
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, POLL_MS,
					 PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
}

/* ---------- the row ---------- */

static FollowedStream *held_stream = NULL;	/* its row_holder is this process */

static void
holder_xact_callback(XactEvent event, void *arg)
{
	if (held_stream == NULL || (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT))
		return;
	SpinLockAcquire(&held_stream->mutex);
	if (held_stream->row_holder == MyProcPid)
		held_stream->row_holder = 0;
	SpinLockRelease(&held_stream->mutex);
	held_stream = NULL;
}

/* Said before the lock is there: whoever finds it taken then knows by whom. */
static void
note_holder(int32 id)
{
	static bool registered = false;
	FollowedStream *stream = followed_stream_find(MyDatabaseId, id);

	if (!registered)
		RegisterXactCallback(holder_xact_callback, NULL);
	registered = true;
	if (stream == NULL)
		return;
	held_stream = stream;
	SpinLockAcquire(&stream->mutex);
	if (stream->worker.pid == MyProcPid)
		stream->row_holder = MyProcPid;
	SpinLockRelease(&stream->mutex);
}

void
followed_row_lock(int32 id)
{
	if (MyBgworkerEntry != NULL)
		note_holder(id);
	(void) followed_execute("SELECT FROM fanout.followed_stream WHERE id = $1 FOR NO KEY UPDATE",
							id);
}

/* The worker that has the row, or is next to have it; 0: somebody else has, for short. */
static pid_t
row_holder(int32 id)
{
	FollowedStream *stream = followed_stream_find(MyDatabaseId, id);
	pid_t		pid = 0;

	if (stream == NULL)
		return 0;
	SpinLockAcquire(&stream->mutex);
	pid = stream->row_holder;
	/* It ends for this, which is no failure. */
	stream->worker.failures = 0;
	SpinLockRelease(&stream->mutex);
	return pid;
}

void
followed_row_take(int32 id)
{
	pid_t		holder;

	while (followed_execute("SELECT FROM fanout.followed_stream WHERE id = $1 FOR UPDATE SKIP LOCKED",
							id) == 0)
	{
		holder = row_holder(id);
		if (holder == 0)
		{
			/* Another session, whose turn it is; or the row is gone. */
			(void) followed_execute("SELECT FROM fanout.followed_stream WHERE id = $1 FOR UPDATE",
									id);
			return;
		}
		(void) kill(holder, SIGTERM);
		pause_cancellably();
	}
}

/* ---------- the worker ---------- */

void
worker_stop(FollowedStream *stream)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), END_TIMEOUT_MS);
	pid_t		pid;

	SpinLockAcquire(&stream->mutex);
	stream->stopped_by = MyProcPid;
	pid = stream->worker.pid;
	SpinLockRelease(&stream->mutex);
	if (pid == 0 || kill(pid, SIGTERM) != 0)
		return;

	/*
	 * Until the process is gone, and with it its connection.  One that waits for a name server
	 * ends later; but it does nothing more.
	 */
	while (kill(pid, 0) == 0 && GetCurrentTimestamp() < deadline)
		pause_cancellably();
}

void
worker_allow(FollowedStream *stream)
{
	SpinLockAcquire(&stream->mutex);
	if (stream->stopped_by == MyProcPid)
		stream->stopped_by = 0;
	SpinLockRelease(&stream->mutex);
}

void
worker_wait_until_allowed(FollowedStream *stream)
{
	pid_t		stopped_by;

	for (;;)
	{
		SpinLockAcquire(&stream->mutex);
		stopped_by = stream->stopped_by;
		SpinLockRelease(&stream->mutex);
		if (stopped_by == 0)
			return;
		pause_cancellably();
	}
}
