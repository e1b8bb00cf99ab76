/*
 * segment.c
 *		Segment files of the change log; segment.h has format and invariants.
 *
 * Files are virtual ones (fd.h): a sender may stand in a segment for days, and
 * descriptors are scarce.  The price is that fd.c may close and reopen a file
 * behind our back, which fails once it was trimmed away.
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "port/pg_crc32c.h"

#include "log/segment.h"

#define SEGMENT_MAGIC	0x50674661	/* PgFa */
#define SEGMENT_VERSION 3

#define SCAN_BUFFER		(256 * 1024)

void
segment_path(char *path, const char *dir, uint64 segno)
{
	snprintf(path, MAXPGPATH, "%s/%016llX.seg", dir, (unsigned long long) segno);
}

static int
compare_segno(const void *a, const void *b)
{
	uint64		left = *(const uint64 *) a;
	uint64		right = *(const uint64 *) b;

	return left < right ? -1 : left > right;
}

uint64 *
segment_list(const char *dir, int *count)
{
	int			capacity = 16;
	uint64	   *segnos = palloc(capacity * sizeof(uint64));
	DIR		   *handle = AllocateDir(dir);
	struct dirent *entry;

	*count = 0;
	while ((entry = ReadDir(handle, dir)) != NULL)
	{
		if (strspn(entry->d_name, "0123456789ABCDEF") != 16 ||
			strcmp(entry->d_name + 16, ".seg") != 0)
			continue;
		if (*count == capacity)
		{
			capacity *= 2;
			segnos = repalloc(segnos, capacity * sizeof(uint64));
		}
		segnos[(*count)++] = strtou64(entry->d_name, NULL, 16);
	}
	FreeDir(handle);
	qsort(segnos, *count, sizeof(uint64), compare_segno);
	return segnos;
}

/* ---------- headers ---------- */

static pg_crc32c
header_crc(const char *bytes)
{
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, bytes, SEGMENT_HEADER_SIZE - 4);
	FIN_CRC32C(crc);
	return crc;
}

File
segment_create(const char *dir, const SegmentHeader *header)
{
	char		path[MAXPGPATH];
	char		bytes[SEGMENT_HEADER_SIZE];
	char	   *p = bytes;
	File		file;

	p = put_uint32(p, SEGMENT_MAGIC);
	p = put_uint32(p, SEGMENT_VERSION);
	p = put_uint64(p, header->identity.system_identifier);
	p = put_uint32(p, header->identity.timeline);
	p = put_uint32(p, header->identity.stream_id);
	p = put_uint64(p, header->segno);
	p = put_uint64(p, header->prev_end_lsn);
	p = put_uint64(p, header->prev_seq);
	p = put_uint64(p, header->prev_txn_lsn);
	put_uint32(p, header_crc(bytes));

	segment_path(path, dir, header->segno);
	file = PathNameOpenFile(path, O_RDWR | O_CREAT | O_EXCL | PG_BINARY);
	if (file < 0 && errno == ENOSPC)
		return -1;
	if (file < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create file \"%s\": %m", path)));
	if (FileWrite(file, bytes, sizeof(bytes), 0, PG_WAIT_EXTENSION) != sizeof(bytes))
	{
		int			save_errno = errno;

		FileClose(file);
		(void) unlink(path);
		errno = save_errno;
		if (errno == ENOSPC)
			return -1;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", path)));
	}
	if (FileSync(file, PG_WAIT_EXTENSION) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not fsync file \"%s\": %m", path)));
	fsync_fname(dir, true);
	return file;
}

File
segment_open(const char *path, int flags)
{
	File		file = PathNameOpenFile(path, flags | PG_BINARY);

	if (file < 0 && errno != ENOENT)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", path)));
	return file;
}

void
segment_removed(const char *path)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("change log segment \"%s\" has been removed", path)));
}

/* Read what there is, at most len bytes. */
static Size
read_segment(File file, const char *path, char *buf, Size len, uint64 offset)
{
	int			n = FileRead(file, buf, len, offset, PG_WAIT_EXTENSION);

	if (n < 0 && errno == ENOENT)
		segment_removed(path);
	if (n < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read file \"%s\": %m", path)));
	return n;
}

const char *
segment_read_header(File file, const char *path, SegmentHeader *header)
{
	char		bytes[SEGMENT_HEADER_SIZE];

	if (read_segment(file, path, bytes, sizeof(bytes), 0) != sizeof(bytes))
		return "Its header is not complete.";
	if (get_uint32(bytes) != SEGMENT_MAGIC)
		return "It is not a change log segment.";
	if (get_uint32(bytes + 4) != SEGMENT_VERSION)
		return "It has another format version.";
	if (!EQ_CRC32C(header_crc(bytes), get_uint32(bytes + SEGMENT_HEADER_SIZE - 4)))
		return "The checksum of its header is wrong.";

	header->identity.system_identifier = get_uint64(bytes + 8);
	header->identity.timeline = get_uint32(bytes + 16);
	header->identity.stream_id = get_uint32(bytes + 20);
	header->segno = get_uint64(bytes + 24);
	header->prev_end_lsn = get_uint64(bytes + 32);
	header->prev_seq = get_uint64(bytes + 40);
	header->prev_txn_lsn = get_uint64(bytes + 48);
	return NULL;
}

bool
identity_equal(const LogIdentity *a, const LogIdentity *b)
{
	return a->system_identifier == b->system_identifier &&
		a->timeline == b->timeline && a->stream_id == b->stream_id;
}

/* ---------- the order of frames ---------- */

LogCursor
log_cursor_start(const SegmentHeader *header)
{
	LogCursor	cursor = {
		.lsn = header->prev_end_lsn,
		.seq = header->prev_seq,
		.txn_lsn = header->prev_txn_lsn
	};

	return cursor;
}

static const char *
advance_mark(LogCursor *cursor, XLogRecPtr lsn)
{
	if (cursor->in_txn)
		return "A mark is inside a transaction.";
	if (lsn < cursor->lsn)
		return "A mark is out of order.";
	cursor->lsn = lsn;
	return NULL;
}

const char *
log_cursor_advance(LogCursor *cursor, const Frame *frame)
{
	if (frame->type == FRAME_RELATION)
		return NULL;
	if (frame->type == FRAME_MARK)
		return advance_mark(cursor, get_uint64(frame->payload));

	if (((frame->flags & FRAME_FIRST) != 0) == cursor->in_txn)
		return "The frames of a transaction are not together.";
	if ((frame->flags & FRAME_FIRST) != 0)
	{
		if (frame->txn.seq != cursor->seq + 1 || frame->txn.end_lsn <= cursor->lsn)
			return "A transaction is out of order.";
		cursor->txn = frame->txn;
		cursor->in_txn = true;
	}
	if ((frame->flags & FRAME_LAST) != 0)
	{
		cursor->in_txn = false;
		cursor->lsn = cursor->txn_lsn = cursor->txn.end_lsn;
		cursor->seq = cursor->txn.seq;
	}
	return NULL;
}

/* ---------- reading frames ---------- */

void
segment_scan_init(SegmentScan *scan)
{
	memset(scan, 0, sizeof(SegmentScan));
	scan->context = CurrentMemoryContext;
	scan->file = -1;
	scan->size = SCAN_BUFFER;
	scan->buf = palloc(SCAN_BUFFER);
}

void
segment_scan_start(SegmentScan *scan, File file, const char *path)
{
	if (scan->file >= 0)
		FileClose(scan->file);
	scan->file = file;
	strlcpy(scan->path, path, MAXPGPATH);
	scan->offset = SEGMENT_HEADER_SIZE;
	scan->pos = scan->len = 0;
}

/* Move what is left to the front of a buffer of the usual size, or as large as needed. */
static void
make_room(SegmentScan *scan, Size need)
{
	Size		size = Max(need, SCAN_BUFFER);
	Size		left = scan->len - scan->pos;
	char	   *buf = scan->buf;

	if (size != scan->size)
		buf = MemoryContextAlloc(scan->context, size);
	memmove(buf, scan->buf + scan->pos, left);
	if (buf != scan->buf)
		pfree(scan->buf);
	scan->buf = buf;
	scan->size = size;
	scan->offset += scan->pos;
	scan->pos = 0;
	scan->len = left;
}

bool
segment_scan_fill(SegmentScan *scan, uint64 limit, const char **problem)
{
	Size		left = scan->len - scan->pos;
	Size		need = FRAME_HEADER_SIZE;
	uint64		unread;
	Size		got;

	CHECK_FOR_INTERRUPTS();
	*problem = NULL;
	if (left >= FRAME_HEADER_SIZE)
		need = frame_size(scan->buf + scan->pos);
	if (scan->offset + scan->pos >= limit)
		return false;
	if (scan->offset + scan->pos + need > limit)
	{
		*problem = "It ends inside a frame.";
		return false;
	}

	make_room(scan, need);
	unread = limit - (scan->offset + left);
	got = read_segment(scan->file, scan->path, scan->buf + left,
					   Min(unread, scan->size - left), scan->offset + left);
	if (got == 0)
		*problem = "It is shorter than expected.";
	scan->len += got;
	return got > 0;
}

void
segment_scan_end(SegmentScan *scan)
{
	if (scan->file >= 0)
		FileClose(scan->file);
	scan->file = -1;
	pfree(scan->buf);
	scan->buf = NULL;
}
