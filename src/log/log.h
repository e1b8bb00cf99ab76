/*
 * log.h
 *		The change log: what the decoder writes once and every sender reads.
 *
 * A log is a directory of segment files, named by a rising number.  A segment
 * starts with a SegmentHeader and continues with frames.  A frame is a header
 * with a CRC-32C and a payload (see format.h for the bytes); it is either
 *
 *	FRAME_RELATION		a relation description (change.h), needed by changes after it
 *	FRAME_CHANGES		changes of one transaction (change.h); the first frame of a
 *						transaction has FRAME_FIRST and starts with a LogTxn, the
 *						last one has FRAME_LAST (a small transaction is one frame
 *						with both)
 *	FRAME_MARK			everything up to this LSN was decoded: written and synced before
 *						the slot is confirmed past the last transaction, so that a
 *						log whose end lies before the slot's position is known to be
 *						damaged
 *
 * The frames of a transaction are contiguous (but for relation frames between
 * them), transactions stand in commit order, and a transaction never spans two
 * segments.  Each segment describes the relations it uses anew, so that a
 * reader can begin at any segment.  Positions are end LSNs of commits, never
 * byte offsets; (segment, offset) pairs exist only between the decoder and
 * the senders of one server.
 *
 * Who has the last transaction before a segment has all that is before it, marks or not: a
 * follower's own position is the end of the last transaction that it has, and stays where it
 * is as long as no other comes.
 *
 * The log knows neither leader nor follower: whoever has frames may write
 * one, whoever has the directory may read it.
 */
#ifndef FANOUT_LOG_H
#define FANOUT_LOG_H

#include "pg_fanout.h"

#include "lib/stringinfo.h"

/* Up to where a log may be read. */
typedef struct LogEnd
{
	uint32		generation;		/* changes when the log was cut or made anew; 0: no log */
	uint64		segno;
	uint64		offset;			/* bytes of that segment */
	XLogRecPtr	lsn;			/* end LSN of the last transaction or mark, or where the log began */
	XLogRecPtr	txn_lsn;		/* end LSN of the last transaction, or where the log began */
	uint64		seq;			/* LogTxn.seq of the last transaction */
} LogEnd;

/* What a transaction's first frame starts with. */
typedef struct LogTxn
{
	uint64		xid;			/* 64-bit top-level xid on the leader */
	XLogRecPtr	commit_lsn;
	XLogRecPtr	end_lsn;		/* the transaction's address */
	TimestampTz commit_time;
	uint64		seq;			/* 1, 2, 3... in this log */
} LogTxn;

#define FRAME_RELATION	'R'
#define FRAME_CHANGES	'C'
#define FRAME_MARK		'M'		/* payload: the LSN, 8 bytes */

#define FRAME_FIRST		0x01
#define FRAME_LAST		0x02

/* Whose log it is; a log with another identity is discarded. */
typedef struct LogIdentity
{
	uint64		system_identifier;
	uint32		timeline;
	uint32		stream_id;
} LogIdentity;

/* ---------- frames in memory (format.c) ---------- */

typedef struct Frame
{
	char		type;			/* FRAME_... */
	uint8		flags;			/* FRAME_FIRST | FRAME_LAST */
	LogTxn		txn;			/* when FRAME_FIRST */
	const char *payload;		/* behind the LogTxn, if any */
	uint32		len;
} Frame;

/*
 * Parse the frame at the start of data.  Returns its whole size in bytes, or
 * 0 when data does not hold all of it yet.  Fails with ERRCODE_DATA_CORRUPTED
 * when the header or the checksum is wrong.
 */
extern Size frame_parse(const char *data, Size avail, Frame *frame);


/* ---------- writer ---------- */

typedef struct LogWriter LogWriter;

/*
 * Open the log in directory dir for writing.  A log with the right identity
 * that ends at confirmed_lsn or later is cut at its last valid whole transaction
 * or mark; any other (always, when discard) is removed and a new one begun
 * that starts at confirmed_lsn, the position from which the slot can decode.  A crash can
 * only damage the end, so only the last segment is read; verify: all are, and the log
 * begins behind the last one that is damaged.
 * *end gets its end.  The generation is new with every open.  The writer
 * lives in the current memory context.
 */
extern LogWriter *log_writer_open(const char *dir, const LogIdentity *identity,
								  XLogRecPtr confirmed_lsn, bool discard, bool verify,
								  LogEnd *end);

/* True when nothing described the relation in this segment since the last cut. */
extern bool log_writer_needs_relation(LogWriter *writer, Oid relid);
extern void log_writer_put_relation(LogWriter *writer, Oid relid, const char *payload, Size len);
/* The relation changed (InvalidOid: all may have): describe it again before its next use. */
extern void log_writer_forget_relation(LogWriter *writer, Oid relid);

/* One transaction: begin, changes, commit.  txn->seq is filled in by begin. */
extern void log_writer_begin(LogWriter *writer, LogTxn *txn);
extern void log_writer_put_change(LogWriter *writer, const char *payload, Size len);
extern void log_writer_commit(LogWriter *writer);
/* Between transactions: note that everything up to lsn was decoded. */
extern void log_writer_mark(LogWriter *writer, XLogRecPtr lsn);

/*
 * Hand what was committed to the kernel and say where the log ends now: from
 * here on it may be read.  Returns false when there was nothing new.
 */
extern bool log_writer_flush(LogWriter *writer, LogEnd *end);
extern Size log_writer_buffered(LogWriter *writer);

/* Fail with ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE when the file that is written is gone. */
extern void log_writer_check_file(LogWriter *writer);

/* Sync the log to disk; returns the LSN up to which it is. */
extern XLogRecPtr log_writer_sync(LogWriter *writer);

/*
 * Remove whole segments from the start: those in which no transaction is newer
 * than needed_lsn, and beyond that as many as it takes to keep no more than
 * max_bytes (0: no limit) besides the largest one, which may be one large transaction.
 * The last segment always stays.  Returns the new start: the end LSN of the last
 * transaction that is gone.
 */
extern XLogRecPtr log_writer_trim(LogWriter *writer, XLogRecPtr needed_lsn, uint64 max_bytes);
extern XLogRecPtr log_writer_start_lsn(LogWriter *writer);
extern uint64 log_writer_bytes(LogWriter *writer);


/* ---------- reader ---------- */

typedef struct LogReader LogReader;

/* A reader of the log in dir, which must be that log, in the current memory context. */
extern LogReader *log_reader_open(const char *dir, const LogIdentity *identity);

/*
 * Position the reader so that the first transaction it returns is the first
 * one with end_lsn > after.  end is the published end of the log.  Returns
 * false when the log starts later than that: the position is gone.
 */
extern bool log_reader_seek(LogReader *reader, XLogRecPtr after, const LogEnd *end);

/*
 * Return the next run of whole, checked frames before end: a pointer into the
 * reader's buffer, valid until the next call, *len bytes, about max_bytes at
 * most (a larger frame comes alone).  *lsn is the end LSN of the last
 * transaction that is complete with it (unchanged when none is).  Returns NULL
 * at the end.  After log_reader_seek, transactions up to "after" are left
 * out but their relation descriptions are not.  Fails with
 * ERRCODE_DATA_CORRUPTED on a bad frame, and with
 * ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE when a segment was trimmed away.
 */
extern const char *log_reader_next(LogReader *reader, const LogEnd *end, Size max_bytes,
								   Size *len, XLogRecPtr *lsn);

/* Has everything before end been returned? */
extern bool log_reader_at_end(const LogReader *reader, const LogEnd *end);

extern void log_reader_close(LogReader *reader);

#endif							/* FANOUT_LOG_H */
