/*
 * message.c
 *		Messages between a sender and a receiver to bytes and back.
 *
 * A message's fields stand in the order of its struct.  The functions of
 * pqformat.c fail with ERRCODE_PROTOCOL_VIOLATION where a message is too short or
 * too long.
 */
#include "postgres.h"

#include "libpq/pqformat.h"

#include "wire/message.h"

void
message_put_progress(StringInfo buf, const ProgressMessage *msg)
{
	pq_sendint8(buf, MSG_PROGRESS);
	pq_sendint64(buf, msg->decoded_lsn);
	pq_sendint64(buf, msg->wal_end);
	pq_sendint64(buf, msg->seq);
}

void
message_put_answer(StringInfo buf, const AnswerMessage *msg)
{
	pq_sendint8(buf, MSG_ANSWER);
	pq_sendint64(buf, msg->question);
	pq_sendint64(buf, msg->wal_end);
}

void
message_put_question(StringInfo buf, const QuestionMessage *msg)
{
	pq_sendint8(buf, MSG_QUESTION);
	pq_sendint64(buf, msg->question);
}

void
message_put_status(StringInfo buf, const StatusMessage *msg)
{
	pq_sendint8(buf, MSG_STATUS);
	pq_sendint64(buf, msg->applied_lsn);
	pq_sendint64(buf, msg->durable_lsn);
	pq_sendint64(buf, msg->applied_seq);
	pq_sendint64(buf, msg->proven);
}

/* Bytes of somebody else as a StringInfo to read from. */
static StringInfoData
message_reader(const char *data, Size len)
{
	StringInfoData buf = {
		.data = unconstify(char *, data),
		.len = len,
		.maxlen = len
	};

	return buf;
}

void
message_get_progress(const char *data, Size len, ProgressMessage *msg)
{
	StringInfoData buf = message_reader(data, len);

	msg->decoded_lsn = pq_getmsgint64(&buf);
	msg->wal_end = pq_getmsgint64(&buf);
	msg->seq = pq_getmsgint64(&buf);
	pq_getmsgend(&buf);
}

void
message_get_answer(const char *data, Size len, AnswerMessage *msg)
{
	StringInfoData buf = message_reader(data, len);

	msg->question = pq_getmsgint64(&buf);
	msg->wal_end = pq_getmsgint64(&buf);
	pq_getmsgend(&buf);
}

void
message_get_question(const char *data, Size len, QuestionMessage *msg)
{
	StringInfoData buf = message_reader(data, len);

	msg->question = pq_getmsgint64(&buf);
	pq_getmsgend(&buf);
}

void
message_get_status(const char *data, Size len, StatusMessage *msg)
{
	StringInfoData buf = message_reader(data, len);

	msg->applied_lsn = pq_getmsgint64(&buf);
	msg->durable_lsn = pq_getmsgint64(&buf);
	msg->applied_seq = pq_getmsgint64(&buf);
	msg->proven = pq_getmsgint64(&buf);
	pq_getmsgend(&buf);
}
