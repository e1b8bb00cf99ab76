/*
 * sender.h
 *		What the files of the sender share.
 */
#ifndef FANOUT_SENDER_H
#define FANOUT_SENDER_H

#include "compat.h"
#include "leader/leader.h"
#include "wire/message.h"

/* Of so many questions it is remembered when they came; a power of two. */
#define SENDER_QUESTIONS	128

typedef struct Sender
{
	NameData	stream_name;
	int32		stream_id;
	LeaderStream *stream;
	NameData	follower;
	pg_uuid_t	instance;
	pg_uuid_t	era;			/* of reached_lsn, see era.c */
	XLogRecPtr	reached_lsn;	/* the newest that the follower has anything of */
	pid_t		former_pid;		/* the follower's last sender, as it says; 0: it knows of none */
	Registration *registration; /* NULL: not attached */
	LogReader  *reader;
	uint32		generation;		/* of the log that reader reads */
	bool		at_end;			/* reader is between two transactions, all before were sent */
	XLogRecPtr	sent_lsn;		/* all transactions up to here were sent, or not asked for */
	XLogRecPtr	progress_lsn;	/* as last told by MSG_PROGRESS */
	bool		answer_due;
	AnswerMessage answer;
	int64		questions_came[SENDER_QUESTIONS];	/* fanout_boottime_us(), by number */
	uint64		newest_question;
	uint64		answered;		/* the newest one that has been */
	bool		progress_again; /* tell it although there is none */
	bool		may_have_input; /* bytes of the follower may have arrived */
	uint32		turns;			/* of the loop without a sleep */
	bool		done;			/* the follower sent CopyDone */
	TimestampTz ticked_at;
	StringInfoData in;			/* what has come of a message, header included */
	StringInfoData out;
	MemoryContext context;		/* of everything here */
	MemoryContext loop_context; /* reset with every turn */
} Sender;

/* sender.c: while it streams, have the report of a FATAL error go out if it can't block. */
extern void sender_allow_report(void);
extern void sender_check_interrupts(void);
pg_noreturn extern void sender_connection_lost(const Sender *sender);

/* sender_input.c: handle whatever the follower has sent. */
extern void sender_receive(Sender *sender);

/* ---------- sender_answer.c ---------- */

/* A question has come. */
extern void sender_question(Sender *sender, uint64 number);

/* When did the question of that number come?  0: not known, or there was none. */
extern int64 sender_question_came(const Sender *sender, uint64 question);

/* Does one wait for what this database follows itself?  Look whether it still has to. */
extern bool sender_has_question(const Sender *sender);
extern void sender_look_upstream(Sender *sender);

/* Before a sleep: have it end when such a question can be answered; false: it can be now. */
extern bool sender_sleep_upstream(Sender *sender);

/* ---------- sender_entry.c: the sender's follower in the registry ---------- */

/*
 * Become the follower's one sender.  An older one is ended first if the follower says that
 * it was its own, or if nothing answers at its other end.  Fails when the follower is not registered (ERRCODE_UNDEFINED_OBJECT),
 * is registered by another instance (ERRCODE_DUPLICATE_OBJECT), is connected
 * (ERRCODE_OBJECT_IN_USE) or is lost (FANOUT_ERRCODE_LOST).
 */
extern void sender_attach(Sender *sender);

/*
 * A new connection is most often the follower coming back before its old sender has
 * noticed that it left: have that look, and pause.  false: the deadline has passed.
 */
extern bool wait_for_old_sender(Registration *registration, TimestampTz deadline);
extern TimestampTz old_sender_deadline(void);

/* End if somebody wants our place and nothing answers at the other end of the connection. */
extern void sender_heed_challenge(const Sender *sender);
pg_noreturn extern void follower_is_connected(const char *follower, const char *stream);
pg_noreturn extern void follower_was_dropped(const char *follower, const char *stream);

/* Give the entry back; no-op when not attached.  Does not fail. */
extern void sender_detach(Sender *sender);

/* Fail unless the entry is still ours and not lost. */
extern void sender_check_entry(Sender *sender);

/* Mark the follower as lost and fail with FANOUT_ERRCODE_LOST. */
pg_noreturn extern void sender_lost(Sender *sender);

/* Note in the entry what was sent, or what the follower reported. */
extern void sender_note_sent(Sender *sender);
extern void sender_note_status(Sender *sender, const StatusMessage *status);

#endif							/* FANOUT_SENDER_H */
