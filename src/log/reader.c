/*
 * reader.c
 *		Reading the change log: what a sender does.
 *
 * A reader begins at the start of a segment, the last one with no transaction before it that
 * is later than the position it is asked for, and leaves out the transactions that its
 * follower has; so it comes by every relation description that what it
 * returns may need.  From there on it hands out the log's bytes as they are.
 *
 * It takes the end of the log as an argument and never reads past that: what
 * lies behind is half written, or will be cut off.  Any number of readers
 * work beside the writer, without locks: bytes before the end don't change.  What
 * can happen is that a segment is trimmed away or cut under a reader; a file that
 * is open stays readable, and everything else ends in an error, after which the
 * follower comes back with its position.
 *
 * Every frame is checked before it is returned, and so is the order of
 * transactions, also from one segment to the next.
 */
#include "postgres.h"

#include <fcntl.h>

#include "miscadmin.h"

#include "log/segment.h"

struct LogReader
{
	MemoryContext context;
	char	   *dir;
	LogIdentity identity;
	XLogRecPtr	after;			/* leave out transactions up to here */
	SegmentHeader header;		/* of the current segment */
	LogCursor	cursor;			/* behind the last frame consumed */
	SegmentScan scan;
};

LogReader *
log_reader_open(const char *dir, const LogIdentity *identity)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "change log reader",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext oldcontext = MemoryContextSwitchTo(context);
	LogReader  *reader = palloc0(sizeof(LogReader));

	reader->context = context;
	reader->dir = pstrdup(dir);
	reader->identity = *identity;
	segment_scan_init(&reader->scan);
	MemoryContextSwitchTo(oldcontext);
	return reader;
}

void
log_reader_close(LogReader *reader)
{
	segment_scan_end(&reader->scan);
	MemoryContextDelete(reader->context);
}

static void
segment_damaged(const char *path, uint64 offset, const char *problem)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("change log segment \"%s\" is damaged at offset %llu",
					path, (unsigned long long) offset),
			 errdetail_internal("%s", problem)));
}

static void
check_frame_problem(LogReader *reader, const char *problem)
{
	if (problem != NULL)
		segment_damaged(reader->scan.path, reader->scan.offset + reader->scan.pos, problem);
}

/* Make a segment the current one; returns false when there is none of that number. */
static bool
open_segment(LogReader *reader, uint64 segno)
{
	char		path[MAXPGPATH];
	File		file;
	const char *problem;

	segment_path(path, reader->dir, segno);
	file = segment_open(path, O_RDONLY);
	if (file < 0)
		return false;

	/* The scan owns the file from here on, also when the header is bad. */
	segment_scan_start(&reader->scan, file, path);
	problem = segment_read_header(file, path, &reader->header);
	if (problem == NULL && reader->header.segno != segno)
		problem = "Its number is not that of its name.";
	if (problem == NULL && !identity_equal(&reader->header.identity, &reader->identity))
		problem = "It belongs to another server, timeline or stream.";
	if (problem != NULL)
		segment_damaged(path, 0, problem);
	return true;
}

/* ---------- finding a position ---------- */

bool
log_reader_seek(LogReader *reader, XLogRecPtr after, const LogEnd *end)
{
	uint64		segno = end->segno;

	/* Most readers want something near the end. */
	while (open_segment(reader, segno))
	{
		CHECK_FOR_INTERRUPTS();
		if (reader->header.prev_txn_lsn <= after)
		{
			reader->cursor = log_cursor_start(&reader->header);
			reader->after = after;
			return true;
		}
		if (segno == FIRST_SEGNO)
			return false;
		segno--;
	}

	/* The last segment is never trimmed: the log was made anew just now. */
	if (segno == end->segno)
	{
		char		path[MAXPGPATH];

		segment_path(path, reader->dir, segno);
		segment_removed(path);
	}
	return false;
}

/* ---------- reading ---------- */

/* Go on to the segment behind the current one, which is read to its end. */
static void
next_segment(LogReader *reader)
{
	SegmentHeader prev = reader->header;
	char		path[MAXPGPATH];

	if (!open_segment(reader, prev.segno + 1))
	{
		segment_path(path, reader->dir, prev.segno + 1);
		segment_removed(path);
	}
	if (reader->cursor.in_txn || reader->header.prev_end_lsn != reader->cursor.lsn ||
		reader->header.prev_seq != reader->cursor.seq ||
		reader->header.prev_txn_lsn != reader->cursor.txn_lsn)
		segment_damaged(reader->scan.path, 0, "It does not continue the segment before it.");
}

/* How far the current segment may be read: one that has a successor as far as it goes. */
static uint64
segment_limit(LogReader *reader, const LogEnd *end)
{
	off_t		size;

	if (reader->header.segno >= end->segno)
		return reader->header.segno == end->segno ? end->offset : 0;
	size = FileSize(reader->scan.file);
	if (size < 0 && errno == ENOENT)
		segment_removed(reader->scan.path);
	if (size < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not determine size of file \"%s\": %m", reader->scan.path)));
	return size;
}

/* Get more bytes, from the next segment if need be; returns false at the end of the log. */
static bool
fetch_more(LogReader *reader, const LogEnd *end)
{
	SegmentScan *scan = &reader->scan;
	const char *problem;

	for (;;)
	{
		uint64		limit = segment_limit(reader, end);

		if (segment_scan_fill(scan, limit, &problem))
			return true;
		if (problem == NULL && scan->offset + scan->pos > limit)
			problem = "It was cut.";
		check_frame_problem(reader, problem);
		if (reader->header.segno >= end->segno)
			return false;
		next_segment(reader);
	}
}

/* Whether the follower needs the frame just stepped over. */
static bool
is_wanted(const LogReader *reader, const Frame *frame)
{
	if (frame->type == FRAME_CHANGES)
		return reader->cursor.txn.end_lsn > reader->after;
	return frame->type == FRAME_RELATION;
}

/*
 * What is returned is one run of bytes in the buffer, so it ends before a frame
 * that is left out, and where the buffer ends.
 */
const char *
log_reader_next(LogReader *reader, const LogEnd *end, Size max_bytes, Size *len, XLogRecPtr *lsn)
{
	SegmentScan *scan = &reader->scan;
	Size		run = 0;

	for (;;)
	{
		const char *problem;
		Frame		frame;
		Size		size = frame_check(scan->buf + scan->pos, scan->len - scan->pos, &frame,
									   &problem);

		check_frame_problem(reader, problem);
		if (size == 0 && run == 0)
		{
			if (!fetch_more(reader, end))
				return NULL;
			continue;
		}
		if (size == 0 || (run > 0 && run + size > max_bytes))
			break;

		check_frame_problem(reader, log_cursor_advance(&reader->cursor, &frame));
		scan->pos += size;
		if (is_wanted(reader, &frame))
		{
			run += size;
			if ((frame.flags & FRAME_LAST) != 0)
				*lsn = reader->cursor.lsn;
		}
		else if (run > 0)
		{
			*len = run;
			return scan->buf + scan->pos - size - run;
		}
	}
	*len = run;
	return scan->buf + scan->pos - run;
}

bool
log_reader_at_end(const LogReader *reader, const LogEnd *end)
{
	return reader->header.segno == end->segno &&
		reader->scan.offset + reader->scan.pos >= end->offset;
}
