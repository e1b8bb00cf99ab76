/*
 * recovery.c
 *		What of an existing change log can be used, when it is opened for writing.
 *
 * The log may have been left by a crash of the decoder, of the server or of
 * the machine, or come with a copy of the data directory.  Kept is the longest
 * run of segments that fit together and end with the last readable one.  A crash
 * can bring back segments that were trimmed away, with a gap behind them,
 * and leave the newest with half a header: both lie outside the run.
 *
 * Only the last segment of the run is read whole: the others were synced before
 * they got a successor (segment.h), and readers check every frame anyway.
 * It is cut behind its last whole transaction or mark.  The slot is confirmed
 * only up to what is synced; so a log that ends before the confirmed position has lost
 * something that can't be decoded again, and is of no use.
 *
 * Nobody else writes here; senders of an earlier generation may still read.
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pgstat.h"

#include "log/segment.h"

static void
remove_segment(const char *dir, uint64 segno)
{
	char		path[MAXPGPATH];

	segment_path(path, dir, segno);
	if (unlink(path) != 0 && errno != ENOENT)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not remove file \"%s\": %m", path)));
}

/* Whether a segment is readable and ours. */
static bool
check_segment(const char *dir, uint64 segno, const LogIdentity *identity, SegmentHeader *header)
{
	char		path[MAXPGPATH];
	const char *problem;
	File		file;

	segment_path(path, dir, segno);
	file = segment_open(path, O_RDONLY);
	if (file < 0)
		return false;
	problem = segment_read_header(file, path, header);
	FileClose(file);

	if (problem == NULL && header->segno != segno)
		problem = "Its number is not that of its name.";
	if (problem == NULL && !identity_equal(&header->identity, identity))
		problem = "It belongs to another server, timeline or stream.";
	if (problem != NULL)
		ereport(LOG,
				(errmsg("change log segment \"%s\" cannot be used", path),
				 errdetail_internal("%s", problem)));
	return problem == NULL;
}

static SegmentInfo *
make_info(const char *dir, const SegmentHeader *header)
{
	SegmentInfo *info = palloc(sizeof(SegmentInfo));
	char		path[MAXPGPATH];
	struct stat st;

	segment_path(path, dir, header->segno);
	if (stat(path, &st) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not stat file \"%s\": %m", path)));
	info->segno = header->segno;
	info->prev_txn_lsn = header->prev_txn_lsn;
	info->bytes = st.st_size;
	return info;
}

/* Find the end of a segment's last whole transaction or mark; returns why it is there. */
static const char *
find_end(SegmentScan *scan, const SegmentHeader *header, uint64 size, LogEnd *end)
{
	LogCursor	cursor = log_cursor_start(header);
	const char *problem;
	Frame		frame;

	end->segno = header->segno;
	end->offset = SEGMENT_HEADER_SIZE;
	end->lsn = cursor.lsn;
	end->txn_lsn = cursor.txn_lsn;
	end->seq = cursor.seq;
	for (;;)
	{
		Size		len = frame_check(scan->buf + scan->pos, scan->len - scan->pos, &frame,
									  &problem);

		if (len == 0 && problem == NULL && segment_scan_fill(scan, size, &problem))
			continue;
		if (len > 0)
			problem = log_cursor_advance(&cursor, &frame);
		if (len == 0 || problem != NULL)
			return problem;

		scan->pos += len;
		if (!cursor.in_txn && frame.type != FRAME_RELATION)
		{
			end->offset = scan->offset + scan->pos;
			end->lsn = cursor.lsn;
			end->txn_lsn = cursor.txn_lsn;
			end->seq = cursor.seq;
		}
	}
}

/* Open a segment to be scanned; returns its size. */
static uint64
start_scan(SegmentScan *scan, const char *dir, uint64 segno, int flags)
{
	char		path[MAXPGPATH];
	File		file;
	off_t		size;

	segment_path(path, dir, segno);
	file = segment_open(path, flags);
	if (file < 0)
		segment_removed(path);
	segment_scan_init(scan);
	segment_scan_start(scan, file, path);
	size = FileSize(file);
	if (size < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not determine size of file \"%s\": %m", path)));
	return size;
}

/* Whether a segment that has a successor is good to its end, and goes up to there. */
static bool
check_frames(const char *dir, const SegmentHeader *header, const SegmentHeader *next)
{
	SegmentScan scan;
	LogEnd		end;
	uint64		size = start_scan(&scan, dir, header->segno, O_RDONLY);
	const char *problem = find_end(&scan, header, size, &end);

	if (problem == NULL &&
		(end.offset != size || end.lsn != next->prev_end_lsn ||
		 end.txn_lsn != next->prev_txn_lsn || end.seq != next->prev_seq))
		problem = "Its end is missing.";
	if (problem != NULL)
		ereport(LOG,
				(errmsg("change log segment \"%s\" cannot be used", scan.path),
				 errdetail_internal("%s", problem)));
	segment_scan_end(&scan);
	return problem == NULL;
}

/*
 * Find the run of segments to keep, and the header of its last one; the others
 * are removed.
 */
static List *
find_run(const char *dir, const LogIdentity *identity, const uint64 *segnos, int count,
		 bool verify, SegmentHeader *last)
{
	List	   *run = NIL;
	SegmentHeader next = {{0}};
	bool		ended = false;

	for (int i = count - 1; i >= 0; i--)
	{
		SegmentHeader header;

		if (!ended && check_segment(dir, segnos[i], identity, &header) &&
			(run == NIL || (header.segno + 1 == next.segno &&
							header.prev_end_lsn <= next.prev_end_lsn &&
							header.prev_txn_lsn <= next.prev_txn_lsn &&
							header.prev_seq <= next.prev_seq &&
							(!verify || check_frames(dir, &header, &next)))))
		{
			if (run == NIL)
				*last = header;
			run = lcons(make_info(dir, &header), run);
			next = header;
			continue;
		}
		ended = run != NIL;
		remove_segment(dir, segnos[i]);
	}
	return run;
}

/* Cut the last segment at the end that was found, and sync it. */
static void
cut_segment(File file, const char *path, uint64 size, const LogEnd *end, const char *problem)
{
	if (size > end->offset)
	{
		ereport(LOG,
				(errmsg("cutting %llu bytes off change log segment \"%s\"",
						(unsigned long long) (size - end->offset), path),
				 errdetail("%s The log ends at %X/%X now.",
						   problem ? problem : "A transaction is not complete.",
						   LSN_FORMAT_ARGS(end->lsn))));
		if (FileTruncate(file, end->offset, PG_WAIT_EXTENSION) != 0)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not truncate file \"%s\": %m", path)));
	}
	if (FileSync(file, PG_WAIT_EXTENSION) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not fsync file \"%s\": %m", path)));
}

/*
 * Find the end of the log in its last segment and cut the rest off; returns false,
 * and touches nothing, when the log ends before confirmed_lsn.
 */
static bool
recover_last(const char *dir, const SegmentHeader *header, XLogRecPtr confirmed_lsn, LogEnd *end)
{
	SegmentScan scan;
	uint64		size = start_scan(&scan, dir, header->segno, O_RDWR);
	const char *problem;
	bool		usable;

	problem = find_end(&scan, header, size, end);
	usable = end->lsn >= confirmed_lsn;
	if (usable)
		cut_segment(scan.file, scan.path, size, end, problem);
	else
		ereport(LOG,
				(errmsg("discarding the change log in \"%s\"", dir),
				 errdetail("It ends at %X/%X, but was confirmed up to %X/%X.",
						   LSN_FORMAT_ARGS(end->lsn), LSN_FORMAT_ARGS(confirmed_lsn))));
	segment_scan_end(&scan);
	return usable;
}

void
log_recover(const char *dir, const LogIdentity *identity, XLogRecPtr confirmed_lsn,
			bool discard, bool verify, LogRecovery *recovery)
{
	int			count;
	uint64	   *segnos = segment_list(dir, &count);
	SegmentHeader last = {{0}};

	memset(recovery, 0, sizeof(LogRecovery));
	recovery->next_segno = count > 0 ? segnos[count - 1] + 1 : FIRST_SEGNO;
	if (discard && count > 0)
		ereport(LOG,
				(errmsg("discarding the change log in \"%s\"", dir)));
	if (!discard)
		recovery->segments = find_run(dir, identity, segnos, count, verify, &last);

	if (recovery->segments != NIL &&
		recover_last(dir, &last, confirmed_lsn, &recovery->end))
		((SegmentInfo *) llast(recovery->segments))->bytes = recovery->end.offset;
	else
	{
		for (int i = 0; i < count; i++)
			remove_segment(dir, segnos[i]);
		list_free_deep(recovery->segments);
		recovery->segments = NIL;
	}
	fsync_fname(dir, true);
	pfree(segnos);
}
