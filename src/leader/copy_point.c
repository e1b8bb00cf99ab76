/*
 * copy_point.c
 *		The position from which an initial copy can be completed.
 *
 * A follower copies its tables with an ordinary snapshot and then applies, from
 * a position P on, the transactions that this snapshot did not see.  That is
 * complete if everything that committed before P is visible to the snapshot.  A
 * commit record before P does not yet make it so: the transaction is visible
 * only when it has left the ProcArray.  So, with P the end of the WAL now,
 *
 *	1. wait for the backends that are between the writing of a commit record and
 *	   the update of the commit log.  They announce that as a reason to delay
 *	   checkpoints, which wait for the same.  From here on the commit log knows
 *	   all commits before P;
 *	2. for every transaction in the ProcArray, prepared ones included, that the
 *	   commit log calls committed, wait until it has left.  That can take long:
 *	   synchronous replication holds transactions there.
 *
 * Nobody waits for transactions that are merely open.  Snapshots taken after
 * this returns are good; that of the calling transaction may not be.
 *
 * The follower is registered at P before the waiting, so that the log is kept
 * for it meanwhile.  The decoder may have begun to trim the log just before;
 * if the log then starts after P, another P is taken.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xlog.h"
#include "libpq/libpq.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "storage/standby.h"

#include "compat.h"
#include "leader/leader.h"
#include "leader/sender.h"
#include "wire/message.h"

#define POLL_MS		5

void
pause_cancellably(void)
{
	CHECK_FOR_INTERRUPTS();
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 POLL_MS, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
}

/* Step 1 above. */
void
wait_for_critical_sections(void)
{
	int			count;
	VirtualTransactionId *vxids = GetVirtualXIDsDelayingChkpt(&count, DELAY_CHKPT_START);

	while (count > 0 && HaveVirtualXIDsDelayingChkpt(vxids, count, DELAY_CHKPT_START))
		pause_cancellably();
	pfree(vxids);
}

/*
 * Top-level xids in the ProcArray that the commit log calls committed.  The
 * server's list lies in memory of this process, so it can be read after the
 * locks were released.
 */
static TransactionId *
committed_but_running(int *count)
{
	RunningTransactions running = GetRunningTransactionData();
	TransactionId *xids;

	LWLockRelease(ProcArrayLock);
	LWLockRelease(XidGenLock);

	*count = 0;
	xids = palloc(sizeof(TransactionId) * Max(running->xcnt, 1));
	for (int i = 0; i < running->xcnt; i++)
	{
		if (TransactionIdDidCommit(running->xids[i]))
			xids[(*count)++] = running->xids[i];
	}
	return xids;
}

/* Step 2 above. */
void
wait_for_commits_to_show(void)
{
	int			count;
	TransactionId *xids = committed_but_running(&count);

	for (int i = 0; i < count; i++)
	{
		while (TransactionIdIsInProgress(xids[i]))
			pause_cancellably();
	}
	pfree(xids);
}

static XLogRecPtr
read_log_start(LeaderStream *stream)
{
	XLogRecPtr	result;

	SpinLockAcquire(&stream->mutex);
	result = stream->log_start_lsn;
	SpinLockRelease(&stream->mutex);
	return result;
}

/*
 * The position of a follower that goes on with a copy.  What committed before it
 * did so before now, too: after the same waiting, a new snapshot is as good as the
 * first one was.
 */
static XLogRecPtr
registered_position(LeaderStream *stream, const char *follower, const pg_uuid_t *instance,
					const pg_uuid_t *era, XLogRecPtr reached)
{
	Registration *registration = registry_find(stream, follower);
	XLogRecPtr	position = InvalidXLogRecPtr;

	if (registration != NULL && era_has(stream, era, reached))
	{
		SpinLockAcquire(&registration->mutex);
		if (registration->in_use && registration->state != FOLLOWER_LOST &&
			memcmp(&registration->instance, instance, sizeof(pg_uuid_t)) == 0)
			position = registration->durable_lsn;
		SpinLockRelease(&registration->mutex);
	}
	if (XLogRecPtrIsInvalid(position) && dropped_has(stream, instance))
		follower_was_dropped(follower, NameStr(stream->name));
	if (XLogRecPtrIsInvalid(position))
		ereport(ERROR,
				(errcode(FANOUT_ERRCODE_LOST),
				 errmsg("follower \"%s\" has lost its position in stream \"%s\"",
						follower, NameStr(stream->name))));
	return position;
}

/*
 * A follower that copies anew does not stream.  If it does all the same, this caller is a
 * copy of it and the same instance, which must not take its place.
 */
static void
wait_until_disconnected(LeaderStream *stream, const char *follower, const pg_uuid_t *instance)
{
	Registration *registration = registry_find(stream, follower);
	TimestampTz deadline = old_sender_deadline();

	while (registration != NULL)
	{
		pid_t		pid = 0;

		SpinLockAcquire(&registration->mutex);
		if (registration->in_use &&
			memcmp(&registration->instance, instance, sizeof(pg_uuid_t)) == 0)
			pid = registration->sender_pid;
		SpinLockRelease(&registration->mutex);
		if (pid == 0)
			return;
		if (!wait_for_old_sender(registration, deadline))
			follower_is_connected(follower, NameStr(stream->name));
	}
}

/*
 * A follower that gave up meanwhile may have been unregistered already, and is not to come
 * back.
 */
static void
check_client(void)
{
	if (MyProcPort != NULL && !pq_check_connection())
	{
		ClientConnectionLost = true;
		InterruptPending = true;
	}
	CHECK_FOR_INTERRUPTS();
}

/*
 * Returns the position.  Without an era it is a new one; otherwise the follower has
 * copied something already, which holds what was committed up to reached in that era: it
 * keeps its position, or the call fails with FANOUT_ERRCODE_LOST.
 */
XLogRecPtr
copy_point_register(LeaderStream *stream, const char *follower, const pg_uuid_t *instance,
					const pg_uuid_t *era, XLogRecPtr reached)
{
	XLogRecPtr	point;

	if (era != NULL)
	{
		point = registered_position(stream, follower, instance, era, reached);
		wait_for_critical_sections();
		wait_for_commits_to_show();
		return point;
	}
	wait_until_disconnected(stream, follower, instance);
	do
	{
		check_client();
		point = GetXLogInsertEndRecPtr();
		registry_add(stream, follower, instance, point);
		wait_for_critical_sections();
		wait_for_commits_to_show();
	} while (read_log_start(stream) > point);

	XLogFlush(point);
	return point;
}
