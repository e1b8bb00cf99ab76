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
 *
 * There may be no such proof.  Unknown is no number: whoever asks gets false for it, and
 * compares nothing.
 *
 * A position (a token's) is held against a snapshot likewise: a transaction after which all
 * up to there was applied must be finished for it.
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
	stream->leader_heard = true;
	stream->forgotten = false;
	SpinLockRelease(&stream->mutex);
}

void
positions_leader_end(FollowedStream *stream, XLogRecPtr lsn)
{
	SpinLockAcquire(&stream->mutex);
	stream->leader_lsn = Max(stream->leader_lsn, lsn);
	SpinLockRelease(&stream->mutex);
}

void
positions_sender(FollowedStream *stream, pid_t sender_pid)
{
	SpinLockAcquire(&stream->mutex);
	stream->sender_pid = sender_pid;
	if (sender_pid != 0)
		stream->former_sender_pid = sender_pid;
	stream->leader_heard = false;
	SpinLockRelease(&stream->mutex);
}

void
positions_applied(FollowedStream *stream, XLogRecPtr applied, uint64 xid, uint64 seq,
				  uint64 transactions)
{
	TimestampTz now = transactions > 0 ? GetCurrentTimestamp() : 0;

	SpinLockAcquire(&stream->mutex);
	stream->applied_lsn = applied;
	stream->applied_xid = xid;
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
positions_as_of(FollowedStream *stream, int64 boot_us, uint64 xid, XLogRecPtr lsn)
{
	AsOf		proof = {.boot_us = boot_us,.xid = xid,.lsn = lsn};
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

/*
 * Tables are about to be emptied: nothing that was said of them holds, nor of snapshots that
 * are there.
 */
void
positions_reset(FollowedStream *stream, FollowState state)
{
	SpinLockAcquire(&stream->mutex);
	stream->state = state;
	stream->applied_lsn = InvalidXLogRecPtr;
	stream->applied_xid = 0;
	stream->applied_seq = 0;
	stream->leader_heard = false;
	stream->generation++;
	stream->fine_next = 0;
	stream->coarse_next = 0;
	stream->alone_until = InvalidXLogRecPtr;
	stream->failed_after = InvalidXLogRecPtr;
	stream->failing_lsn = InvalidXLogRecPtr;
	SpinLockRelease(&stream->mutex);
	tables_settled(stream, 0);
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
	copy->leader_heard = stream->leader_heard;
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
 * The newest proof that the snapshot (NULL: a new one) has; false: none.  Newest first;
 * nearly always the first one fits.  Proofs that are added meanwhile make it look at some
 * twice, which does no harm.
 */
static bool
proof_of(FollowedStream *stream, Snapshot snapshot, AsOf *proof)
{
	for (uint64 i = 0; read_proof(stream, true, i, proof); i++)
	{
		if (snapshot_sees_finished(snapshot, proof->xid))
			return true;
	}
	for (uint64 i = 0; read_proof(stream, false, i, proof); i++)
	{
		if (snapshot_sees_finished(snapshot, proof->xid))
			return true;
	}
	return false;
}

bool
positions_proven_since(FollowedStream *stream, Snapshot snapshot, int64 boot_us)
{
	AsOf		proof;

	return proof_of(stream, snapshot, &proof) && proof.boot_us >= boot_us;
}

bool
positions_staleness(FollowedStream *stream, Snapshot snapshot, int64 *staleness)
{
	AsOf		proof;

	if (!proof_of(stream, snapshot, &proof))
		return false;
	*staleness = fanout_boottime_us() - proof.boot_us;
	return true;
}

bool
positions_lag(const PositionsCopy *positions, uint64 *bytes)
{
	if (!positions->leader_heard || XLogRecPtrIsInvalid(positions->applied_lsn))
		return false;
	*bytes = positions->leader_lsn > positions->applied_lsn ?
		positions->leader_lsn - positions->applied_lsn : 0;
	return true;
}

bool
positions_show(FollowedStream *stream, Snapshot snapshot, XLogRecPtr lsn, PositionFound *found)
{
	AsOf		proof;

	SpinLockAcquire(&stream->mutex);
	if (found->generation != stream->generation)
		found->known = false;
	if (!found->known && stream->applied_lsn >= lsn)
	{
		found->known = true;
		found->generation = stream->generation;
		found->xid = stream->applied_xid;
	}
	SpinLockRelease(&stream->mutex);

	/* It may have been applied before it was looked for. */
	return found->known &&
		(snapshot_sees_finished(snapshot, found->xid) ||
		 (proof_of(stream, snapshot, &proof) && proof.lsn >= lsn));
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
