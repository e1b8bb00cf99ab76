/*
 * commit_hook.c
 *		Commits wake the decoders of their database; so does who waits for one.
 *
 * A decoder sleeps until WAL that it may decode was flushed.  Instead of looking
 * for it a thousand times a second, it announces its sleep in decoder_asleep and
 * the committing backend sets its latch.  A commit that did not wait for its flush
 * also leaves its position, so that the decoder looks often until the WAL writer has
 * flushed it.
 *
 * The order matters: a backend first flushes (or notes its position), then reads
 * decoder_asleep; the decoder first sets decoder_asleep, then reads the flush
 * position; each with a full barrier in between.  So one of them sees the other.
 *
 * All this happens after the commit record was written, where an error would be a
 * PANIC: nothing here allocates, takes a lock that can be held for long, or
 * fails.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "tcop/utility.h"

#include "leader/commit_token.h"
#include "leader/leader.h"

static ProcessUtility_hook_type prev_process_utility = NULL;

static void
advance(pg_atomic_uint64 *position, XLogRecPtr lsn)
{
	uint64		current = pg_atomic_read_u64(position);

	while (current < lsn && !pg_atomic_compare_exchange_u64(position, &current, lsn))
		;
}

/*
 * The records are read without any lock.  An entry that is being claimed or
 * released meanwhile costs at worst a latch set in vain; a decoder that starts at
 * this moment reads the WAL before it sleeps.
 */
static void
wake_decoders(XLogRecPtr commit_end)
{
	bool		flushed = commit_end <= GetFlushRecPtr(NULL);

	for (int i = 0; i < fanout_max_streams; i++)
	{
		LeaderStream *stream = &LeaderStreams[i];
		uint32		asleep;

		if (!stream->in_use || stream->dboid != MyDatabaseId)
			continue;
		if (!flushed)
			advance(&stream->async_commit_lsn, commit_end);
		pg_memory_barrier();
		asleep = pg_atomic_read_u32(&stream->decoder_asleep);
		if (asleep == 1 || (asleep != 0 && flushed))
			fanout_wake(stream->worker.procno);
	}
}

/* Not from a commit: have the decoder flush and decode up to lsn, if it has not. */
void
commit_hook_request(LeaderStream *stream, XLogRecPtr lsn)
{
	XLogRecPtr	decoded;
	int			procno;

	advance(&stream->flush_request, lsn);
	SpinLockAcquire(&stream->mutex);
	decoded = stream->decoded_lsn;
	procno = stream->worker.procno;
	SpinLockRelease(&stream->mutex);
	if (decoded < lsn)
		fanout_wake(procno);
}

static void
commit_hook_xact_callback(XactEvent event, void *arg)
{
	static XLogRecPtr last_seen = InvalidXLogRecPtr;

	/* XactLastCommitEnd moves only with transactions that wrote WAL. */
	if (event != XACT_EVENT_COMMIT || XactLastCommitEnd == last_seen)
		return;
	last_seen = XactLastCommitEnd;
	if (pg_atomic_read_u32(&Fanout->leader_streams) > 0)
		wake_decoders(last_seen);
}

/*
 * COMMIT PREPARED commits somebody else's transaction in the middle of one of
 * our own that has no xid, so that no transaction callback tells of it in time.
 * Its commit record is the last record that this backend wrote, and flushed.
 */
static void
commit_hook_utility(PlannedStmt *pstmt, const char *query_string, bool read_only_tree,
					ProcessUtilityContext context, ParamListInfo params,
					QueryEnvironment *query_env, DestReceiver *dest, QueryCompletion *qc)
{
	ProcessUtility_hook_type next =
		prev_process_utility ? prev_process_utility : standard_ProcessUtility;
	Node	   *stmt = pstmt->utilityStmt;
	bool		commit_prepared = IsA(stmt, TransactionStmt) &&
		((TransactionStmt *) stmt)->kind == TRANS_STMT_COMMIT_PREPARED;

	next(pstmt, query_string, read_only_tree, context, params, query_env, dest, qc);

	if (commit_prepared && pg_atomic_read_u32(&Fanout->leader_streams) > 0)
	{
		wake_decoders(XactLastRecEnd);
		commit_token_note(XactLastRecEnd);
	}
}

void
commit_hook_init(void)
{
	RegisterXactCallback(commit_hook_xact_callback, NULL);
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = commit_hook_utility;
}
