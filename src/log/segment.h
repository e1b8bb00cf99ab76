/*
 * segment.h
 *		Segment files: what writer, recovery and reader share; internal to src/log.
 *
 * A segment is the file <segno as 16 hexadecimal digits>.seg, a header and
 * frames.  The header, in network byte order:
 *
 *	 0	4	magic
 *	 4	4	version of the format
 *	 8	8	system identifier
 *	16	4	timeline
 *	20	4	stream id
 *	24	8	segno
 *	32	8	end LSN of the last transaction or mark before this segment
 *	40	8	seq of the last transaction before this segment
 *	48	8	end LSN of that transaction, or where the log began: a follower that has
 *			everything up to there can begin here
 *	56	4	CRC-32C of the bytes before it
 *
 * Invariants:
 *
 *	A segment is complete and synced before the next one is created.  So only
 *	the last one can be torn by a crash, and one that has a successor is as long
 *	as its file.
 *
 *	What was published of a segment is never overwritten, only cut off: a writer that
 *	opens an old log goes on in a new segment.  A reader that missed the cut finds a
 *	file that is too short, not other bytes.
 *
 *	Numbers are not used twice for different logs, so a reader of a discarded
 *	log finds no file rather than a wrong one.
 */
#ifndef FANOUT_SEGMENT_H
#define FANOUT_SEGMENT_H

#include "compat.h"
#include "log/format.h"

#include "nodes/pg_list.h"
#include "storage/fd.h"

#define SEGMENT_HEADER_SIZE 60
#define FIRST_SEGNO			1

typedef struct SegmentHeader
{
	LogIdentity identity;
	uint64		segno;
	XLogRecPtr	prev_end_lsn;
	uint64		prev_seq;
	XLogRecPtr	prev_txn_lsn;
} SegmentHeader;

/* path has MAXPGPATH bytes. */
extern void segment_path(char *path, const char *dir, uint64 segno);

/* Numbers of the segments in dir, ascending, palloc'd; other files don't count. */
extern uint64 *segment_list(const char *dir, int *count);

/* Create a segment with its header, synced; returns it open for writing, -1 if the disk is full. */
extern File segment_create(const char *dir, const SegmentHeader *header);

/* Open an existing segment; -1 when there is none. */
extern File segment_open(const char *path, int flags);

/* Read the header; returns what is wrong with it, a whole sentence, or NULL. */
extern const char *segment_read_header(File file, const char *path, SegmentHeader *header);

extern bool identity_equal(const LogIdentity *a, const LogIdentity *b);

/* Fail: a segment that a reader needs is gone. */
pg_noreturn extern void segment_removed(const char *path);

/* ---------- the order of frames ---------- */

/* Where in the log one stands, between two frames. */
typedef struct LogCursor
{
	XLogRecPtr	lsn;			/* end of the last transaction or mark */
	uint64		seq;			/* of the last transaction */
	XLogRecPtr	txn_lsn;		/* its end, or where the log began */
	bool		in_txn;
	LogTxn		txn;			/* the current transaction, or the last one */
} LogCursor;

/* Before the first frame of a segment. */
extern LogCursor log_cursor_start(const SegmentHeader *header);

/* Step over a frame; returns why it can't come here, a whole sentence, or NULL. */
extern const char *log_cursor_advance(LogCursor *cursor, const Frame *frame);

/* ---------- reading frames ---------- */

/* A window on a segment's bytes: buf[pos .. len) was read and not yet consumed. */
typedef struct SegmentScan
{
	MemoryContext context;		/* of buf */
	File		file;			/* -1: none */
	char		path[MAXPGPATH];
	uint64		offset;			/* of buf[0] in the file */
	char	   *buf;
	Size		size;
	Size		pos;
	Size		len;
} SegmentScan;

extern void segment_scan_init(SegmentScan *scan);

/* Start behind the header of an open file; the scan owns it from then on. */
extern void segment_scan_start(SegmentScan *scan, File file, const char *path);

/*
 * Get more bytes than there are at buf[pos], of those before offset limit of
 * the file, after frame_check() said that there is no whole frame.  May move buf.
 * Returns false when all up to limit is consumed, or with *problem set when
 * the segment ends inside a frame.
 */
extern bool segment_scan_fill(SegmentScan *scan, uint64 limit, const char **problem);
extern void segment_scan_end(SegmentScan *scan);

/* ---------- recovery (recovery.c) ---------- */

/* What the writer knows of a segment. */
typedef struct SegmentInfo
{
	uint64		segno;
	XLogRecPtr	prev_txn_lsn;
	uint64		bytes;			/* final but for the last segment */
} SegmentInfo;

typedef struct LogRecovery
{
	List	   *segments;		/* of SegmentInfo, ascending; NIL: no usable log */
	LogEnd		end;			/* of the log, but for the generation */
	uint64		next_segno;		/* for the first segment of a new log */
} LogRecovery;

/*
 * Find what is usable of the log in dir and remove or cut off the rest; see
 * log_writer_open().  What is left is synced.
 */
extern void log_recover(const char *dir, const LogIdentity *identity, XLogRecPtr confirmed_lsn,
						bool discard, bool verify, LogRecovery *recovery);

#endif							/* FANOUT_SEGMENT_H */
