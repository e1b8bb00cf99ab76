/*
 * snapshot_position.c
 *		fanout.snapshot_position(): have a snapshot show exactly what a follower at some
 *		position of the stream shows.
 *
 * A follower shows the transactions whose commit records end at or before a position.
 * A snapshot shows those that had left the ProcArray, which a transaction does some
 * time after its commit record was written: after its flush, and with
 * synchronous replication possibly long after.  So there are always transactions that
 * are before any position one may choose and that the snapshot does not show.
 *
 * Here X, the end of the WAL, is taken after the snapshot: whatever the snapshot
 * shows is before X.  What it does not show but is before X is made visible in it:
 *
 *	1. wait until the commit log knows all commits before X (copy_point.c);
 *	2. the candidates are the transactions that the snapshot does not show and
 *	   the commit log calls committed;
 *	3. have the change log reach the end of WAL as it is then.  Candidates that are
 *	   found there behind X stay invisible.  All others are before X, or have
 *	   changed nothing that is published, and then it does not matter.
 *
 * Nothing becomes visible that the commit log does not call committed, so
 * reading with the snapshot sets no wrong hint bits.
 *
 * The transactions that ran are listed without their subtransactions in the new
 * snapshot, as in one that overflowed: pg_subtrans leads from those to these.
 */
#include "postgres.h"

#include "access/subtrans.h"
#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "leader/leader.h"

PG_FUNCTION_INFO_V1(fanout_snapshot_position);

/* Of the change log, to look at in one go. */
#define READ_BYTES	(256 * 1024)

typedef struct XidSet
{
	TransactionId *xids;
	int			count;
	int			size;
} XidSet;

static XidSet
empty_set(void)
{
	XidSet		set = {.size = 64};

	set.xids = palloc(sizeof(TransactionId) * set.size);
	return set;
}

static void
add_xid(XidSet *set, TransactionId xid)
{
	if (set->count == set->size)
	{
		set->size *= 2;
		set->xids = repalloc(set->xids, sizeof(TransactionId) * set->size);
	}
	set->xids[set->count++] = xid;
}

/* What is in the one and not in the other, which gets sorted: both may be large. */
static XidSet
difference(const XidSet *set, XidSet *other)
{
	XidSet		rest = empty_set();

	qsort(other->xids, other->count, sizeof(TransactionId), xidComparator);
	for (int i = 0; i < set->count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (bsearch(&set->xids[i], other->xids, other->count, sizeof(TransactionId),
					xidComparator) == NULL)
			add_xid(&rest, set->xids[i]);
	}
	return rest;
}

/* The top-level transactions before "next" that the snapshot does not show. */
static XidSet
not_shown(Snapshot snapshot, TransactionId next)
{
	XidSet		set = empty_set();
	TransactionId xid = snapshot->xmax;

	for (uint32 i = 0; i < snapshot->xcnt; i++)
		add_xid(&set, snapshot->xip[i]);
	while (TransactionIdPrecedes(xid, next))
	{
		CHECK_FOR_INTERRUPTS();
		if (SubTransGetTopmostTransaction(xid) == xid)
			add_xid(&set, xid);
		TransactionIdAdvance(xid);
	}
	return set;
}

static XidSet
committed_of(const XidSet *set)
{
	XidSet		committed = empty_set();

	for (int i = 0; i < set->count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (TransactionIdDidCommit(set->xids[i]))
			add_xid(&committed, set->xids[i]);
	}
	return committed;
}

/* ---------- the change log ---------- */

/* Wait until everything that is in the WAL now is decoded; returns the log's end then. */
static LogEnd
wait_for_decoder(LeaderStream *stream)
{
	XLogRecPtr	target = GetXLogInsertEndRecPtr();

	for (;;)
	{
		LogEnd		end;
		XLogRecPtr	decoded;

		SpinLockAcquire(&stream->mutex);
		end = stream->end;
		decoded = stream->decoded_lsn;
		SpinLockRelease(&stream->mutex);
		if (decoded >= target)
			return end;
		commit_hook_request(stream, target);
		pause_cancellably();
	}
}

/* Add the transactions that these bytes of the log begin and that end after lsn. */
static void
add_begun(XidSet *set, const char *data, Size len, XLogRecPtr lsn)
{
	while (len > 0)
	{
		Frame		frame;
		Size		size = frame_parse(data, len, &frame);

		if (size == 0)
			break;
		if ((frame.flags & FRAME_FIRST) != 0 && frame.txn.end_lsn > lsn)
			add_xid(set, (TransactionId) frame.txn.xid);
		data += size;
		len -= size;
	}
}

static void
read_later_than(XidSet *set, LogReader *reader, LeaderStream *stream, XLogRecPtr lsn,
				const LogEnd *end)
{
	const char *data;
	Size		len;
	XLogRecPtr	last = lsn;

	if (!log_reader_seek(reader, lsn, end))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the change log of stream \"%s\" no longer reaches back to %X/%X",
						NameStr(stream->name), LSN_FORMAT_ARGS(lsn))));
	while ((data = log_reader_next(reader, end, READ_BYTES, &len, &last)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		add_begun(set, data, len, lsn);
	}
}

/* The transactions in the log that end after lsn.  No one else closes the reader's file. */
static XidSet
later_than(LeaderStream *stream, XLogRecPtr lsn, const LogEnd *end)
{
	XidSet		later = empty_set();
	LogReader  *reader;

	if (end->lsn <= lsn)
		return later;
	reader = stream_log_reader(stream);
	PG_TRY();
	{
		read_later_than(&later, reader, stream, lsn, end);
	}
	PG_FINALLY();
	{
		log_reader_close(reader);
	}
	PG_END_TRY();
	return later;
}

/* ---------- the snapshot ---------- */

/* All before "next" is shown but what is in hidden. */
static void
rewrite_snapshot(Snapshot snapshot, TransactionId next, const XidSet *hidden)
{
	Size		size = sizeof(TransactionId) * hidden->count;

	snapshot->xip = MemoryContextAlloc(TopTransactionContext, Max(size, 1));
	memcpy(snapshot->xip, hidden->xids, size);
	snapshot->xcnt = hidden->count;
	snapshot->subxcnt = 0;
	snapshot->suboverflowed = true;
	snapshot->xmax = next;
}

/*
 * snapshot_position(stream name) RETURNS pg_lsn
 *
 * The statement that calls it runs with its own copy of the snapshot; those after
 * it use what was made here.
 */
Datum
fanout_snapshot_position(PG_FUNCTION_ARGS)
{
	LeaderStream *stream;
	Snapshot	snapshot;
	XLogRecPtr	position;
	TransactionId next;
	XidSet		not_yet;		/* shown */
	XidSet		committed;
	XidSet		later;
	XidSet		shown;
	XidSet		hidden;
	LogEnd		end;

	fanout_require_preload();
	if (XactIsoLevel != XACT_REPEATABLE_READ || !IsTransactionBlock())
		ereport(ERROR,
				(errcode(ERRCODE_NO_ACTIVE_SQL_TRANSACTION),
				 errmsg("fanout.snapshot_position() needs a transaction block of isolation level REPEATABLE READ")));
	stream = require_streaming(NameStr(*PG_GETARG_NAME(0)));

	snapshot = GetTransactionSnapshot();
	position = GetXLogInsertEndRecPtr();
	next = XidFromFullTransactionId(ReadNextFullTransactionId());
	wait_for_critical_sections();

	not_yet = not_shown(snapshot, next);
	committed = committed_of(&not_yet);
	end = wait_for_decoder(stream);
	later = later_than(stream, position, &end);
	shown = difference(&committed, &later);
	hidden = difference(&not_yet, &shown);
	rewrite_snapshot(snapshot, next, &hidden);
	PG_RETURN_LSN(position);
}
