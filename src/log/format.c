/*
 * format.c
 *		Frames to bytes and back; format.h has the layout.
 *
 * Frames are parsed where nothing else vouches for them: in files that a crash
 * may have left half written, and in messages from another server.  So the
 * length is held against its limit before anybody allocates for it, and
 * nothing of a frame is returned before its checksum was found right.
 */
#include "postgres.h"

#include "port/pg_crc32c.h"

#include "log/format.h"

/* Whether a header can be one; returns what is wrong with it, or NULL. */
static const char *
check_header(const char *data)
{
	uint32		len = get_uint32(data + 4);
	char		type = data[8];
	uint8		flags = (uint8) data[9];

	if (data[10] != 0 || data[11] != 0)
		return "Reserved bytes of the header are not zero.";
	if (len > FRAME_MAX_PAYLOAD)
		return "The length is out of range.";
	switch (type)
	{
		case FRAME_RELATION:
			return flags == 0 ? NULL : "A relation description has flags.";
		case FRAME_MARK:
			return flags == 0 && len == MARK_SIZE ? NULL : "A mark has the wrong form.";
		case FRAME_CHANGES:
			if ((flags & ~(FRAME_FIRST | FRAME_LAST)) != 0)
				return "Unknown flags are set.";
			if ((flags & FRAME_FIRST) != 0 && len < LOG_TXN_SIZE)
				return "The start of a transaction is too short.";
			return NULL;
		default:
			return "The type is unknown.";
	}
}

/* Returns what is wrong with it, or NULL. */
static const char *
get_txn(const char *p, LogTxn *txn)
{
	uint32		record_len = get_uint32(p + 16);

	txn->xid = get_uint64(p);
	txn->end_lsn = get_uint64(p + 8);
	txn->commit_lsn = txn->end_lsn - record_len;
	txn->commit_time = (TimestampTz) get_uint64(p + 20);
	txn->seq = get_uint64(p + 28);
	return record_len > 0 && record_len <= txn->end_lsn ? NULL :
		"The length of the commit record is out of range.";
}

static void
put_txn(char *p, const LogTxn *txn)
{
	p = put_uint64(p, txn->xid);
	p = put_uint64(p, txn->end_lsn);
	p = put_uint32(p, txn->end_lsn - txn->commit_lsn);
	p = put_uint64(p, (uint64) txn->commit_time);
	put_uint64(p, txn->seq);
}

Size
frame_check(const char *data, Size avail, Frame *frame, const char **problem)
{
	Size		size;
	pg_crc32c	crc;

	*problem = NULL;
	if (avail < FRAME_HEADER_SIZE)
		return 0;
	*problem = check_header(data);
	size = frame_size(data);
	if (*problem != NULL || avail < size)
		return 0;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, data + 4, size - 4);
	FIN_CRC32C(crc);
	if (!EQ_CRC32C(crc, get_uint32(data)))
	{
		*problem = "The checksum is wrong.";
		return 0;
	}

	frame->type = data[8];
	frame->flags = (uint8) data[9];
	frame->payload = data + FRAME_HEADER_SIZE;
	frame->len = size - FRAME_HEADER_SIZE;
	if ((frame->flags & FRAME_FIRST) != 0)
	{
		*problem = get_txn(frame->payload, &frame->txn);
		frame->payload += LOG_TXN_SIZE;
		frame->len -= LOG_TXN_SIZE;
	}
	return *problem == NULL ? size : 0;
}

Size
frame_parse(const char *data, Size avail, Frame *frame)
{
	const char *problem;
	Size		size = frame_check(data, avail, frame, &problem);

	if (problem != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("invalid change log frame"),
				 errdetail_internal("%s", problem)));
	return size;
}

Size
frame_put_header(char *dest, char type, uint8 flags, const LogTxn *txn,
				 const char *payload, Size len)
{
	Size		size = FRAME_HEADER_SIZE;
	pg_crc32c	crc;

	if ((flags & FRAME_FIRST) != 0)
	{
		put_txn(dest + size, txn);
		size += LOG_TXN_SIZE;
	}
	if (len > FRAME_MAX_PAYLOAD - LOG_TXN_SIZE)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("change of %zu bytes is too large for the change log", len)));
	put_uint32(dest + 4, size - FRAME_HEADER_SIZE + len);
	dest[8] = type;
	dest[9] = (char) flags;
	dest[10] = dest[11] = 0;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, dest + 4, size - 4);
	COMP_CRC32C(crc, payload, len);
	FIN_CRC32C(crc);
	put_uint32(dest, crc);
	return size;
}
