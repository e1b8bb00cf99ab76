/*
 * positions.c
 *		How far a followed stream is: writing and reading its record.
 *
 * The follower's worker is the only writer of a record (FollowedStream in
 * shmem.h); each setter stores under the record's spinlock and then wakes
 * whoever waits on "changed".  Views and waits read nothing else.
 *
 * Freshness.  A proof (AsOf) says: every transaction acknowledged on the leader
 * before boot_us is visible to a snapshot that sees the local transaction xid
 * finished.  The worker commits its transactions one after the other, so a
 * snapshot that sees one sees all before it, and the newest proof whose xid the
 * snapshot sees gives the snapshot's staleness.
 */
#include "postgres.h"

#include "access/transam.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "follower/follower.h"

/* ---------- setters ---------- */

void
positions_received(FollowedStream *stream, XLogRecPtr received, XLogRecPtr leader_lsn,
				   uint64 leader_seq)
{
	SpinLockAcquire(&stream->mutex);
	stream->received_lsn = Max(stream->received_lsn, received);
	stream->leader_lsn = Max(stream->leader_lsn, leader_lsn);
	stream->leader_seq = leader_seq;
	SpinLockRelease(&stream->mutex);
}

void
positions_applied(FollowedStream *stream, XLogRecPtr applied, uint64 seq, uint64 transactions)
{
	TimestampTz now = transactions > 0 ? GetCurrentTimestamp() : 0;

	SpinLockAcquire(&stream->mutex);
	stream->applied_lsn = applied;
	stream->received_lsn = Max(stream->received_lsn, applied);
	stream->leader_lsn = Max(stream->leader_lsn, applied);
	stream->applied_seq = seq;
	stream->applied_transactions += transactions;
	if (transactions > 0)
		stream->last_applied_at = now;
	SpinLockRelease(&stream->mutex);
	ConditionVariableBroadcast(&stream->changed);
}

void
positions_durable(FollowedStream *stream, XLogRecPtr durable)
{
	SpinLockAcquire(&stream->mutex);
	stream->durable_lsn = durable;
	SpinLockRelease(&stream->mutex);
	ConditionVariableBroadcast(&stream->changed);
}

void
positions_state(FollowedStream *stream, FollowState state)
{
	SpinLockAcquire(&stream->mutex);
	stream->state = state;
	SpinLockRelease(&stream->mutex);
	ConditionVariableBroadcast(&stream->changed);
}

/*
 * Add a proof.  One that needs no transaction more than the newest one takes its
 * place: every snapshot that the old one served, the new one serves better.
 */
void
positions_as_of(FollowedStream *stream, int64 boot_us, uint64 xid)
{
	AsOf		proof = {.boot_us = boot_us,.xid = xid};
	AsOf	   *newest;

	SpinLockAcquire(&stream->mutex);
	newest = &stream->fine[(stream->fine_next - 1) % AS_OF_FINE];
	if (stream->fine_next > 0 && newest->xid == xid)
		*newest = proof;
	else
	{
		AsOf	   *coarse = &stream->coarse[(stream->coarse_next - 1) % AS_OF_COARSE];

		if (stream->fine_next > 0 &&
			(stream->coarse_next == 0 || newest->boot_us - coarse->boot_us >= AS_OF_COARSE_US))
			stream->coarse[stream->coarse_next++ % AS_OF_COARSE] = *newest;
		stream->fine[stream->fine_next++ % AS_OF_FINE] = proof;
	}
	SpinLockRelease(&stream->mutex);
	ConditionVariableBroadcast(&stream->changed);
}

void
positions_rewind(FollowedStream *stream, XLogRecPtr lsn)
{
	SpinLockAcquire(&stream->mutex);
	stream->received_lsn = lsn;
	stream->applied_lsn = lsn;
	stream->leader_lsn = lsn;
	stream->applied_seq = 0;
	SpinLockRelease(&stream->mutex);
}

/* Tables are about to be emptied: nothing that was said of them holds. */
void
positions_reset(FollowedStream *stream, FollowState state)
{
	SpinLockAcquire(&stream->mutex);
	stream->state = state;
	stream->applied_lsn = InvalidXLogRecPtr;
	stream->applied_seq = 0;
	stream->fine_next = 0;
	stream->coarse_next = 0;
	stream->alone_until = InvalidXLogRecPtr;
	stream->failed_after = InvalidXLogRecPtr;
	SpinLockRelease(&stream->mutex);
	ConditionVariableBroadcast(&stream->changed);
}

/* ---------- readers ---------- */

void
positions_read(FollowedStream *stream, PositionsCopy *copy)
{
	SpinLockAcquire(&stream->mutex);
	copy->state = stream->state;
	copy->received_lsn = stream->received_lsn;
	copy->applied_lsn = stream->applied_lsn;
	copy->durable_lsn = stream->durable_lsn;
	copy->leader_lsn = stream->leader_lsn;
	copy->leader_seq = stream->leader_seq;
	copy->applied_seq = stream->applied_seq;
	copy->applied_transactions = stream->applied_transactions;
	copy->last_applied_at = stream->last_applied_at;
	SpinLockRelease(&stream->mutex);
}

bool
snapshot_sees_finished(Snapshot snapshot, uint64 full_xid)
{
	TransactionId xid = (TransactionId) full_xid;

	if (snapshot == NULL)
		return true;
	if (TransactionIdPrecedes(xid, snapshot->xmin))
		return true;
	if (TransactionIdFollowsOrEquals(xid, snapshot->xmax))
		return false;
	return !XidInMVCCSnapshot(xid, snapshot);
}

/* The count-th newest entry of a ring, from 0; false: there is none. */
static bool
read_proof(FollowedStream *stream, bool fine, uint64 count, AsOf *proof)
{
	uint64		next;
	bool		found;

	SpinLockAcquire(&stream->mutex);
	next = fine ? stream->fine_next : stream->coarse_next;
	found = count < Min(next, fine ? AS_OF_FINE : AS_OF_COARSE);
	if (found)
		*proof = fine ? stream->fine[(next - 1 - count) % AS_OF_FINE] :
			stream->coarse[(next - 1 - count) % AS_OF_COARSE];
	SpinLockRelease(&stream->mutex);
	return found;
}

/*
 * Newest first; nearly always the first one fits.  Proofs that are added meanwhile
 * make it look at some twice, which does no harm.
 */
int64
positions_proven_boot(FollowedStream *stream, Snapshot snapshot)
{
	AsOf		proof;

	for (uint64 i = 0; read_proof(stream, true, i, &proof); i++)
	{
		if (snapshot_sees_finished(snapshot, proof.xid))
			return proof.boot_us;
	}
	for (uint64 i = 0; read_proof(stream, false, i, &proof); i++)
	{
		if (snapshot_sees_finished(snapshot, proof.xid))
			return proof.boot_us;
	}
	return -1;
}

int64
positions_staleness(FollowedStream *stream, Snapshot snapshot)
{
	int64		boot_us = positions_proven_boot(stream, snapshot);

	return boot_us < 0 ? -1 : fanout_boottime_us() - boot_us;
}

const char *
follow_state_name(FollowState state)
{
	switch (state)
	{
		case FOLLOW_STARTING:
			return "starting";
		case FOLLOW_COPYING:
			return "copying";
		case FOLLOW_CATCHING_UP:
			return "catching up";
		case FOLLOW_STREAMING:
			return "streaming";
		case FOLLOW_PAUSED:
			return "paused";
		case FOLLOW_FAILED:
			return "failed";
		case FOLLOW_LOST:
			return "lost";
	}
	return "unknown";
}
