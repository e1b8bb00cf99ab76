/*
 * writer.c
 *		Writing the change log: what the decoder does with what it decoded.
 *
 * There is one writer per log.  It gathers a transaction's changes into
 * frames of about 64 kB and frames into writes of about 256 kB, so a large
 * transaction goes to the file as it comes, while the end of the log, which says
 * how far readers may go, moves over whole transactions only.
 *
 * Segments are switched between transactions, when the current one has reached
 * fanout.segment_size, and lazily: a full segment gets its successor when there is
 * something to write to it.  The same happens after a start, see segment.h.
 * Before the switch the old segment is synced.
 *
 * An fsync that failed is not tried again: the kernel may have dropped the pages and
 * would call the next one a success.  What was not synced before is cut
 * off then, so that it can't pass for durable after the log was opened again.
 *
 * When the disk is full the oldest segments go, whoever needs them, so that decoding goes on
 * and the WAL is let go of.
 *
 * After any error the writer must not be used any more; whoever had it opens
 * the log again.
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "common/pg_prng.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "log/segment.h"

#define FRAME_TARGET	(64 * 1024)
#define WRITE_TARGET	(256 * 1024)

struct LogWriter
{
	MemoryContext context;
	char	   *dir;
	LogIdentity identity;

	SegmentInfo *segments;		/* oldest first; the last one is being written */
	int			nsegments;
	int			capacity;

	File		file;			/* the last segment */
	uint64		written;		/* bytes of it that the kernel has */
	StringInfoData out;			/* whole frames behind those */
	bool		switch_due;		/* the next frame goes to a new segment */
	HTAB	   *described;		/* oids of relations that the segment describes */

	bool		in_txn;
	bool		first_written;	/* the transaction's first frame was made */
	LogTxn		txn;
	StringInfoData changes;		/* gathered for the next frame */

	LogEnd		end;			/* behind the last whole transaction or mark */
	LogEnd		flushed;		/* what readers were told */
	XLogRecPtr	synced_lsn;
	uint64		synced_offset;	/* of the last segment */
};

/* ---------- bytes ---------- */

static SegmentInfo *
last_segment(LogWriter *writer)
{
	return &writer->segments[writer->nsegments - 1];
}

/* Remove the oldest segments. */
static void
remove_segments(LogWriter *writer, int count)
{
	char		path[MAXPGPATH];

	for (int i = 0; i < count; i++)
	{
		segment_path(path, writer->dir, writer->segments[i].segno);
		if (unlink(path) != 0 && errno != ENOENT)
			ereport(WARNING,
					(errcode_for_file_access(),
					 errmsg("could not remove file \"%s\": %m", path)));
	}
	writer->nsegments -= count;
	memmove(writer->segments, writer->segments + count, writer->nsegments * sizeof(SegmentInfo));
}

/*
 * The disk is full: remove the oldest quarter of the segments, but not the one with the
 * published end.  Returns false when there is none to remove.
 */
static bool
make_room(LogWriter *writer)
{
	int			old = 0;
	int			count;

	while (old < writer->nsegments && writer->segments[old].segno < writer->flushed.segno)
		old++;
	if (old == 0)
		return false;
	count = (old + 3) / 4;
	ereport(LOG,
			(errmsg("removing %d of %d change log segments in \"%s\", since the disk is full",
					count, writer->nsegments, writer->dir)));
	remove_segments(writer, count);
	return true;
}

/* Append to the file. */
static void
write_bytes(LogWriter *writer, const char *data, Size len)
{
	while (len > 0)
	{
		int			written = FileWrite(writer->file, unconstify(char *, data), len,
										writer->written, PG_WAIT_EXTENSION);

		if (written != len && (errno != ENOSPC || !make_room(writer)))
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not write file \"%s\": %m", FilePathName(writer->file))));
		written = Max(written, 0);
		data += written;
		len -= written;
		writer->written += written;
	}
}

static void
write_out(LogWriter *writer)
{
	if (writer->out.len == 0)
		return;
	write_bytes(writer, writer->out.data, writer->out.len);
	resetStringInfo(&writer->out);
}

/* Sync the last segment; everything up to lsn is in it or before it. */
static void
sync_segment(LogWriter *writer, XLogRecPtr lsn)
{
	if (FileSync(writer->file, PG_WAIT_EXTENSION) != 0)
	{
		int			save_errno = errno;

		(void) FileTruncate(writer->file, writer->synced_offset, PG_WAIT_EXTENSION);
		errno = save_errno;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not fsync file \"%s\": %m", FilePathName(writer->file))));
	}
	writer->synced_lsn = lsn;
	writer->synced_offset = writer->written;
}

/* Append a frame; a large payload goes to the file without being copied. */
static void
put_frame(LogWriter *writer, char type, uint8 flags, const char *payload, Size len)
{
	char		header[FRAME_HEADER_SIZE + LOG_TXN_SIZE];
	Size		size = frame_put_header(header, type, flags, &writer->txn, payload, len);

	CHECK_FOR_INTERRUPTS();
	appendBinaryStringInfo(&writer->out, header, size);
	if (len >= WRITE_TARGET)
	{
		write_out(writer);
		write_bytes(writer, payload, len);
		return;
	}
	appendBinaryStringInfo(&writer->out, payload, len);
	if (writer->out.len >= WRITE_TARGET)
		write_out(writer);
}

/* ---------- segments ---------- */

static void
forget_all_relations(LogWriter *writer)
{
	HASHCTL		ctl = {
		.keysize = sizeof(Oid),
		.entrysize = sizeof(Oid),
		.hcxt = writer->context
	};

	if (writer->described != NULL)
		hash_destroy(writer->described);
	writer->described = hash_create("relations described in change log segment", 128, &ctl,
									HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

static void
add_segment(LogWriter *writer, const SegmentInfo *info)
{
	if (writer->nsegments == writer->capacity)
	{
		writer->capacity *= 2;
		writer->segments = repalloc(writer->segments, writer->capacity * sizeof(SegmentInfo));
	}
	writer->segments[writer->nsegments++] = *info;
}

/* Create a segment that begins where the log ends, and write to it from now on. */
static void
begin_segment(LogWriter *writer, uint64 segno)
{
	SegmentHeader header = {
		.identity = writer->identity,
		.segno = segno,
		.prev_end_lsn = writer->end.lsn,
		.prev_seq = writer->end.seq,
		.prev_txn_lsn = writer->end.txn_lsn
	};
	SegmentInfo info = {
		.segno = segno,
		.prev_txn_lsn = writer->end.txn_lsn,
		.bytes = SEGMENT_HEADER_SIZE
	};

	while ((writer->file = segment_create(writer->dir, &header)) < 0)
	{
		if (!make_room(writer))
			ereport(ERROR,
					(errcode(ERRCODE_DISK_FULL),
					 errmsg("could not begin a new change log segment in \"%s\": %s",
							writer->dir, strerror(ENOSPC))));
	}
	writer->written = writer->synced_offset = SEGMENT_HEADER_SIZE;
	add_segment(writer, &info);
	forget_all_relations(writer);
	writer->switch_due = false;
}

/* Before a frame between two transactions: go to a new segment when one is due. */
static void
switch_if_due(LogWriter *writer)
{
	if (!writer->switch_due)
		return;
	write_out(writer);
	if (writer->written > writer->synced_offset)
		sync_segment(writer, writer->end.lsn);
	last_segment(writer)->bytes = writer->written;
	FileClose(writer->file);
	begin_segment(writer, last_segment(writer)->segno + 1);
}

/* The log ends here now. */
static void
move_end(LogWriter *writer, XLogRecPtr lsn, uint64 seq)
{
	writer->end.segno = last_segment(writer)->segno;
	writer->end.offset = writer->written + writer->out.len;
	writer->end.lsn = lsn;
	if (seq != writer->end.seq)
		writer->end.txn_lsn = lsn;
	writer->end.seq = seq;
	if (writer->end.offset >= (uint64) fanout_segment_size * 1024 * 1024)
	{
		writer->switch_due = true;
		forget_all_relations(writer);
	}
}

/* ---------- opening and closing ---------- */

/*
 * Any number but 0 that is not likely to be the last one: what senders
 * compare it with is what they saw before.
 */
static uint32
new_generation(void)
{
	uint32		generation;

	do
	{
		generation = pg_prng_uint32(&pg_global_prng_state);
	} while (generation == 0);
	return generation;
}

/* Go on with the log that recovery left. */
static void
continue_log(LogWriter *writer, const LogRecovery *recovery)
{
	char		path[MAXPGPATH];
	ListCell   *lc;

	foreach(lc, recovery->segments)
		add_segment(writer, (SegmentInfo *) lfirst(lc));
	writer->end = recovery->end;
	segment_path(path, writer->dir, writer->end.segno);
	writer->file = segment_open(path, O_RDWR);
	if (writer->file < 0)
		segment_removed(path);
	writer->written = writer->synced_offset = writer->end.offset;
	writer->switch_due = writer->written > SEGMENT_HEADER_SIZE;
	forget_all_relations(writer);
}

static void
begin_log(LogWriter *writer, uint64 segno, XLogRecPtr start_lsn)
{
	writer->end.segno = segno;
	writer->end.offset = SEGMENT_HEADER_SIZE;
	writer->end.lsn = writer->end.txn_lsn = start_lsn;
	writer->end.seq = 0;
	begin_segment(writer, segno);
}

LogWriter *
log_writer_open(const char *dir, const LogIdentity *identity, XLogRecPtr confirmed_lsn,
				bool discard, bool verify, LogEnd *end)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "change log writer",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext oldcontext = MemoryContextSwitchTo(context);
	LogWriter  *writer = palloc0(sizeof(LogWriter));
	LogRecovery recovery;

	writer->context = context;
	writer->dir = pstrdup(dir);
	writer->identity = *identity;
	writer->capacity = 16;
	writer->segments = palloc(writer->capacity * sizeof(SegmentInfo));
	initStringInfo(&writer->out);
	initStringInfo(&writer->changes);

	log_recover(dir, identity, confirmed_lsn, discard, verify, &recovery);
	if (recovery.segments != NIL)
		continue_log(writer, &recovery);
	else
		begin_log(writer, recovery.next_segno, confirmed_lsn);
	list_free_deep(recovery.segments);

	writer->end.generation = new_generation();
	writer->flushed = writer->end;
	writer->synced_lsn = writer->end.lsn;
	*end = writer->end;
	MemoryContextSwitchTo(oldcontext);
	return writer;
}

/* ---------- relations ---------- */

bool
log_writer_needs_relation(LogWriter *writer, Oid relid)
{
	return hash_search(writer->described, &relid, HASH_FIND, NULL) == NULL;
}

static void
put_changes(LogWriter *writer, uint8 flags, const char *payload, Size len)
{
	if (!writer->first_written)
		flags |= FRAME_FIRST;
	put_frame(writer, FRAME_CHANGES, flags, payload, len);
	writer->first_written = true;
}

static void
put_gathered_changes(LogWriter *writer)
{
	if (writer->changes.len == 0)
		return;
	put_changes(writer, 0, writer->changes.data, writer->changes.len);
	resetStringInfo(&writer->changes);
}

void
log_writer_put_relation(LogWriter *writer, Oid relid, const char *payload, Size len)
{
	if (writer->in_txn)
		put_gathered_changes(writer);
	else
		switch_if_due(writer);
	put_frame(writer, FRAME_RELATION, 0, payload, len);
	(void) hash_search(writer->described, &relid, HASH_ENTER, NULL);
}

void
log_writer_forget_relation(LogWriter *writer, Oid relid)
{
	if (OidIsValid(relid))
		(void) hash_search(writer->described, &relid, HASH_REMOVE, NULL);
	else
		forget_all_relations(writer);
}

/* ---------- transactions and marks ---------- */

void
log_writer_begin(LogWriter *writer, LogTxn *txn)
{
	if (writer->in_txn)
		elog(ERROR, "a transaction is being written to the change log already");
	if (txn->end_lsn <= writer->end.lsn)
		elog(ERROR, "transaction that ends at %X/%X is out of order: the change log ends at %X/%X",
			 LSN_FORMAT_ARGS(txn->end_lsn), LSN_FORMAT_ARGS(writer->end.lsn));
	if (txn->commit_lsn >= txn->end_lsn || txn->end_lsn - txn->commit_lsn > PG_UINT32_MAX)
		elog(ERROR, "transaction that commits at %X/%X cannot end at %X/%X",
			 LSN_FORMAT_ARGS(txn->commit_lsn), LSN_FORMAT_ARGS(txn->end_lsn));
	switch_if_due(writer);
	txn->seq = writer->end.seq + 1;
	writer->txn = *txn;
	writer->in_txn = true;
	writer->first_written = false;
}

void
log_writer_put_change(LogWriter *writer, const char *payload, Size len)
{
	Assert(writer->in_txn);
	if (writer->changes.len + len > FRAME_TARGET)
		put_gathered_changes(writer);
	if (len > FRAME_TARGET)
		put_changes(writer, 0, payload, len);
	else
		appendBinaryStringInfo(&writer->changes, payload, len);
}

void
log_writer_commit(LogWriter *writer)
{
	Assert(writer->in_txn);
	put_changes(writer, FRAME_LAST, writer->changes.data, writer->changes.len);
	resetStringInfo(&writer->changes);
	writer->in_txn = false;
	move_end(writer, writer->txn.end_lsn, writer->txn.seq);
}

void
log_writer_mark(LogWriter *writer, XLogRecPtr lsn)
{
	char		payload[MARK_SIZE];

	Assert(!writer->in_txn);
	if (lsn <= writer->end.lsn)
		return;
	switch_if_due(writer);
	put_uint64(payload, lsn);
	put_frame(writer, FRAME_MARK, 0, payload, MARK_SIZE);
	move_end(writer, lsn, writer->end.seq);
}

/* ---------- flushing and syncing ---------- */

bool
log_writer_flush(LogWriter *writer, LogEnd *end)
{
	if (writer->end.segno == writer->flushed.segno &&
		writer->end.offset == writer->flushed.offset)
		return false;
	write_out(writer);
	writer->flushed = writer->end;
	*end = writer->end;
	return true;
}

Size
log_writer_buffered(LogWriter *writer)
{
	return writer->out.len + writer->changes.len;
}

XLogRecPtr
log_writer_sync(LogWriter *writer)
{
	if (writer->synced_lsn < writer->flushed.lsn)
		sync_segment(writer, writer->flushed.lsn);
	return writer->synced_lsn;
}

/* What is written to a file that has no name any more is lost with the process. */
void
log_writer_check_file(LogWriter *writer)
{
	char		path[MAXPGPATH];

	segment_path(path, writer->dir, last_segment(writer)->segno);
	if (access(path, F_OK) != 0 && errno == ENOENT)
		segment_removed(path);
}

/* ---------- trimming ---------- */

static uint64
segment_bytes(LogWriter *writer, int i)
{
	return i < writer->nsegments - 1 ? writer->segments[i].bytes
		: writer->written + writer->out.len;
}

uint64
log_writer_bytes(LogWriter *writer)
{
	uint64		bytes = 0;

	for (int i = 0; i < writer->nsegments; i++)
		bytes += segment_bytes(writer, i);
	return bytes;
}

XLogRecPtr
log_writer_start_lsn(LogWriter *writer)
{
	return writer->segments[0].prev_txn_lsn;
}

/*
 * How many of the oldest segments make the log larger than it may be.  The largest of those
 * that stay does not count: it may be one transaction, which no follower can have taken
 * before it was there.
 */
static int
count_beyond(LogWriter *writer, uint64 max_bytes)
{
	uint64		bytes = 0;
	uint64		largest = 0;
	int			count = writer->nsegments;

	while (count > 0)
	{
		uint64		size = segment_bytes(writer, count - 1);

		bytes += size;
		largest = Max(largest, size);
		if (bytes - largest > max_bytes)
			break;
		count--;
	}
	return count;
}

/*
 * How many segments to remove; each one's successor says where it ends.  The one
 * with the published end stays, as senders look for it, even while a transaction
 * that nobody may read yet has begun the next.
 */
static int
count_removable(LogWriter *writer, XLogRecPtr needed_lsn, uint64 max_bytes)
{
	int			beyond = max_bytes > 0 ? count_beyond(writer, max_bytes) : 0;
	int			count = 0;

	while (writer->segments[count].segno < writer->flushed.segno &&
		   (writer->segments[count + 1].prev_txn_lsn <= needed_lsn || count < beyond))
		count++;
	return count;
}

/*
 * Nothing is synced here: a file that a crash brings back lies before a gap, or is as
 * good as it was.
 */
XLogRecPtr
log_writer_trim(LogWriter *writer, XLogRecPtr needed_lsn, uint64 max_bytes)
{
	remove_segments(writer, count_removable(writer, needed_lsn, max_bytes));
	return log_writer_start_lsn(writer);
}
