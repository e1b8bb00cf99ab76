/*
 * sender_input.c
 *		What a follower sends to its sender: questions, status, the end.
 *
 * Everything that has arrived is handled before the sender goes on.
 *
 * A message is collected byte by byte as it comes, without ever waiting for the rest:
 * there are only a few of them in a second, and they are short.
 *
 * The follower is another server: what it says is checked (sender_entry.c holds a status
 * against what is known of it), and no message may be large.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "libpq/libpq.h"
#include "libpq/pqformat.h"
#include "port/pg_bswap.h"
#include "storage/ipc.h"

#include "compat.h"
#include "leader/leader.h"
#include "leader/sender.h"
#include "wire/message.h"

/* Of a message of the protocol: its type, and its length, which counts itself. */
#define HEADER_SIZE		(1 + sizeof(uint32))

static void
receive_data(Sender *sender)
{
	char		kind = pq_getmsgbyte(&sender->in);
	const char *data = sender->in.data + sender->in.cursor;
	Size		len = sender->in.len - sender->in.cursor;
	QuestionMessage question;
	StatusMessage status;

	switch (kind)
	{
		case MSG_QUESTION:
			message_get_question(data, len, &question);
			sender_question(sender, question.question);
			break;
		case MSG_STATUS:
			message_get_status(data, len, &status);
			sender_note_status(sender, &status);
			break;
		default:
			ereport(ERROR,
					(errcode(ERRCODE_PROTOCOL_VIOLATION),
					 errmsg("unexpected message from follower \"%s\"",
							NameStr(sender->follower))));
	}
}

static void
receive_message(Sender *sender, unsigned char type)
{
	switch (type)
	{
		case 'd':				/* CopyData */
			receive_data(sender);
			break;
		case 'c':				/* CopyDone */
			pq_putmessage_noblock('c', NULL, 0);
			sender->done = true;
			break;
		case 'f':				/* CopyFail */
			ereport(ERROR,
					(errcode(ERRCODE_QUERY_CANCELED),
					 errmsg("follower \"%s\" ended the stream", NameStr(sender->follower)),
					 errdetail_log("%s", pq_getmsgstring(&sender->in))));
			break;
		case 'H':				/* Flush and Sync, as COPY does */
		case 'S':
			break;
		case 'X':				/* Terminate */
			proc_exit(0);
		default:
			sender_allow_report();
			ereport(FATAL,
					(errcode(ERRCODE_PROTOCOL_VIOLATION),
					 errmsg("invalid message type %d from follower \"%s\"",
							type, NameStr(sender->follower))));
	}
}

/* Add a byte to the message that is coming; false: none has arrived. */
static bool
receive_byte(Sender *sender)
{
	unsigned char byte;
	int			result;

	if (sender->in.len == 0)
		pq_startmsgread();
	result = pq_getbyte_if_available(&byte);
	if (result < 0)
		sender_connection_lost(sender);
	if (result > 0)
		appendStringInfoChar(&sender->in, (char) byte);
	else if (sender->in.len == 0)
		pq_endmsgread();
	return result > 0;
}

static bool
message_is_whole(const Sender *sender)
{
	uint32		len;

	if (sender->in.len < HEADER_SIZE)
		return false;
	memcpy(&len, sender->in.data + 1, sizeof(len));
	len = pg_ntoh32(len);
	if (len < sizeof(len) || len > PQ_SMALL_MESSAGE_LIMIT)
	{
		sender_allow_report();
		ereport(FATAL,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("invalid message length %u from follower \"%s\"",
						len, NameStr(sender->follower))));
	}
	return sender->in.len == len + 1;
}

/*
 * Handle whatever has arrived.  All of it: what the TLS layer has read already
 * does not make the socket readable again.
 */
void
sender_receive(Sender *sender)
{
	while (!sender->done && sender->may_have_input && receive_byte(sender))
	{
		if (!message_is_whole(sender))
			continue;
		pq_endmsgread();
		sender->in.cursor = HEADER_SIZE;
		receive_message(sender, sender->in.data[0]);
		resetStringInfo(&sender->in);
		sender_check_interrupts();
	}
}
