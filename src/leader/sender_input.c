/*
 * sender_input.c
 *		What a follower sends to its sender: questions, status, the end.
 *
 * Everything that has arrived is handled before the sender goes on.  A question is
 * answered with the end of the WAL as it is when the question is read; the answer goes
 * out when the output buffer is empty next (sender.c), and only the newest question
 * gets one.  A question also has the decoder flush and decode up to there.
 *
 * The follower is another server: what it says is checked (sender_entry.c holds a status
 * against what is known of it), and no message may be large.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "libpq/libpq.h"
#include "libpq/pqformat.h"
#include "storage/ipc.h"

#include "compat.h"
#include "leader/leader.h"
#include "leader/sender.h"
#include "wire/message.h"

/* Numbers rise by one; a follower that skips some is not believed those between. */
static void
note_question(Sender *sender, uint64 number)
{
	if (number <= sender->newest_question)
		return;
	if (number != sender->newest_question + 1)
		memset(sender->questions_came, 0, sizeof(sender->questions_came));
	sender->newest_question = number;
	sender->questions_came[number % SENDER_QUESTIONS] = fanout_boottime_us();
}

int64
sender_question_came(const Sender *sender, uint64 question)
{
	if (question == 0 || question > sender->newest_question ||
		sender->newest_question - question >= SENDER_QUESTIONS)
		return 0;
	return sender->questions_came[question % SENDER_QUESTIONS];
}

/* Only the newest question is answered, when the output buffer is empty next. */
static void
receive_question(Sender *sender, const char *data, Size len)
{
	QuestionMessage question;

	message_get_question(data, len, &question);
	note_question(sender, question.question);
	sender->answer.question = question.question;
	sender->answer.wal_end = GetXLogInsertEndRecPtr();
	sender->answer_due = true;
	commit_hook_request(sender->stream, sender->answer.wal_end);
}

static void
receive_data(Sender *sender)
{
	const char *data = sender->in.data + 1;
	Size		len = sender->in.len - 1;
	StatusMessage status;

	switch (sender->in.len > 0 ? sender->in.data[0] : '\0')
	{
		case MSG_QUESTION:
			receive_question(sender, data, len);
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
					 errmsg("follower \"%s\" ended the stream: %s",
							NameStr(sender->follower), pq_getmsgstring(&sender->in))));
			break;
		case 'H':				/* Flush and Sync, as COPY does */
		case 'S':
			break;
		case 'X':				/* Terminate */
			proc_exit(0);
		default:
			ereport(FATAL,
					(errcode(ERRCODE_PROTOCOL_VIOLATION),
					 errmsg("invalid message type %d from follower \"%s\"",
							type, NameStr(sender->follower))));
	}
}

/*
 * Handle whatever has arrived.  All of it: what the TLS layer has read already
 * does not make the socket readable again.
 */
void
sender_receive(Sender *sender)
{
	while (!sender->done && sender->may_have_input)
	{
		unsigned char type;
		int			result;

		pq_startmsgread();
		result = pq_getbyte_if_available(&type);
		if (result < 0)
			sender_connection_lost(sender);
		if (result == 0)
		{
			pq_endmsgread();
			break;
		}
		if (pq_getmessage(&sender->in, PQ_SMALL_MESSAGE_LIMIT) != 0)
			sender_connection_lost(sender);
		receive_message(sender, type);
		sender_check_interrupts();
	}
}
