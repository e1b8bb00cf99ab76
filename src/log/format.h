/*
 * format.h
 *		The bytes of a frame; internal to src/log.
 *
 * All integers are in network byte order.
 *
 *	 0	4	CRC-32C of everything behind it: the rest of the header and the payload
 *	 4	4	length of the payload, with the LogTxn of a first frame
 *	 8	1	type: FRAME_RELATION, FRAME_CHANGES or FRAME_MARK
 *	 9	1	flags: FRAME_FIRST, FRAME_LAST; only FRAME_CHANGES has any
 *	10	2	zero
 *	12		payload
 *
 * The payload of a frame with FRAME_FIRST starts with a LogTxn:
 *
 *	 0	8	xid
 *	 8	8	end LSN
 *	16	4	how far before that the commit LSN lies: the length of the commit record.
 *			It always fits, since the server reads a record into one palloc'd buffer
 *	20	8	commit time
 *	28	8	seq
 */
#ifndef FANOUT_FORMAT_H
#define FANOUT_FORMAT_H

#include "log/bytes.h"
#include "log/change.h"
#include "log/log.h"

#include "utils/memutils.h"

#define FRAME_HEADER_SIZE	12
#define LOG_TXN_SIZE		36
#define MARK_SIZE			8

/* A whole frame, and a message around it, must fit into one palloc'd buffer. */
#define FRAME_MAX_PAYLOAD	(MaxAllocSize - 1024)
StaticAssertDecl(CHANGE_MAX_SIZE <= FRAME_MAX_PAYLOAD - LOG_TXN_SIZE,
				 "a change must fit into a frame");

/*
 * As frame_parse(), but for bytes that may be damaged: says in *problem, as a
 * whole sentence, what is wrong (NULL: nothing) and then returns 0.
 */
extern Size frame_check(const char *data, Size avail, Frame *frame, const char **problem);

/* Whole size of the frame with that header, which was checked. */
static inline Size
frame_size(const char *header)
{
	return FRAME_HEADER_SIZE + (Size) get_uint32(header + 4);
}

/*
 * Write a frame up to where its payload goes; dest has FRAME_HEADER_SIZE +
 * LOG_TXN_SIZE bytes.  Returns how many were written.
 */
extern Size frame_put_header(char *dest, char type, uint8 flags, const LogTxn *txn,
							 const char *payload, Size len);

#endif							/* FANOUT_FORMAT_H */
