/*
 * sender_answer.c
 *		A follower's questions, and the answers to them.
 *
 * An answer names the end of the WAL, behind everything that was acknowledged before the
 * question came; the decoder flushes and decodes up to there.  It goes out when the output
 * buffer is empty next, and only the newest question that can be answered gets one.
 *
 * Where the stream has tables that this database itself follows, a question waits until what
 * was acknowledged there by then is here, too (upstream.c).  The follower is told the progress
 * once more meanwhile, so that it hears something.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "storage/condition_variable.h"

#include "compat.h"
#include "leader/leader.h"
#include "leader/sender.h"
#include "leader/upstream.h"

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

/* The newest question that can be answered and has not been; 0: none. */
static uint64
answerable(const Sender *sender)
{
	for (uint64 n = sender->newest_question; n > sender->answered; n--)
	{
		int64		came = sender_question_came(sender, n);

		if (came == 0)
			break;
		if (upstream_covers(NameStr(sender->stream_name), came))
			return n;
	}
	return 0;
}

static void
try_to_answer(Sender *sender)
{
	uint64		question = answerable(sender);

	if (question == 0)
		return;
	sender->answered = question;
	sender->answer.question = question;
	sender->answer.wal_end = GetXLogInsertEndRecPtr();
	sender->answer_due = true;
	commit_hook_request(sender->stream, sender->answer.wal_end);
}

void
sender_question(Sender *sender, uint64 number)
{
	note_question(sender, number);
	/* One that comes again wants to hear that somebody is here. */
	if (number > 0 && number <= sender->answered)
		sender->answered = number - 1;
	try_to_answer(sender);
	if (!sender_has_question(sender))
		return;
	upstream_ask();
	sender->progress_again = true;
}

bool
sender_has_question(const Sender *sender)
{
	return sender->answered < sender->newest_question;
}

void
sender_look_upstream(Sender *sender)
{
	if (sender_has_question(sender))
		try_to_answer(sender);
}

bool
sender_sleep_upstream(Sender *sender)
{
	FollowedStream *stream = upstream_wanting();

	if (!sender_has_question(sender) || stream == NULL)
		return true;
	ConditionVariablePrepareToSleep(&stream->changed);
	return answerable(sender) == 0;
}
