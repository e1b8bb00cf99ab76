/*
 * message.h
 *		Messages between a sender and a receiver, inside CopyData.
 *
 * Each message is one type byte and its fields, integers in network byte
 * order.  Errors and the end of the stream use the ordinary protocol
 * (ErrorResponse, CopyDone).
 *
 *	leader to follower
 *		MSG_FRAMES		change log frames, byte for byte, any number of whole ones
 *		MSG_PROGRESS	every transaction that committed up to decoded_lsn was sent
 *						before this message
 *		MSG_ANSWER		to a question: what was acknowledged on the leader before
 *						the question arrived committed at or before wal_end.  A
 *						question that a later one overtook gets no answer.
 *
 *	follower to leader
 *		MSG_QUESTION	numbered
 *		MSG_STATUS		how far the follower is
 */
#ifndef FANOUT_MESSAGE_H
#define FANOUT_MESSAGE_H

#include "pg_fanout.h"

#include "lib/stringinfo.h"

/* Raised with every change of these messages or of the log's format. */
#define FANOUT_WIRE_VERSION	2

/* The follower's position is no longer in the leader's log: it must copy again. */
#define FANOUT_ERRCODE_LOST MAKE_SQLSTATE('F', 'O', '0', '0', '1')

#define MSG_FRAMES		'F'
#define MSG_PROGRESS	'P'
#define MSG_ANSWER		'A'
#define MSG_QUESTION	'Q'
#define MSG_STATUS		'S'

typedef struct ProgressMessage
{
	XLogRecPtr	decoded_lsn;
	XLogRecPtr	wal_end;		/* end of the leader's WAL now */
	uint64		seq;			/* last transaction in the leader's log */
} ProgressMessage;

typedef struct AnswerMessage
{
	uint64		question;
	XLogRecPtr	wal_end;
} AnswerMessage;

typedef struct QuestionMessage
{
	uint64		question;
} QuestionMessage;

typedef struct StatusMessage
{
	XLogRecPtr	applied_lsn;
	XLogRecPtr	durable_lsn;
	uint64		applied_seq;
	uint64		proven;			/* newest question whose proof is complete; 0: none */
} StatusMessage;

/* Append a message, type byte included. */
extern void message_put_progress(StringInfo buf, const ProgressMessage *msg);
extern void message_put_answer(StringInfo buf, const AnswerMessage *msg);
extern void message_put_question(StringInfo buf, const QuestionMessage *msg);
extern void message_put_status(StringInfo buf, const StatusMessage *msg);

/*
 * Parse the message behind the type byte.  Fail with
 * ERRCODE_PROTOCOL_VIOLATION when it is not exactly of the right length.
 */
extern void message_get_progress(const char *data, Size len, ProgressMessage *msg);
extern void message_get_answer(const char *data, Size len, AnswerMessage *msg);
extern void message_get_question(const char *data, Size len, QuestionMessage *msg);
extern void message_get_status(const char *data, Size len, StatusMessage *msg);

#endif							/* FANOUT_MESSAGE_H */
