/*
 * receiver.c
 *		Receiving from the leader: the follower's half of the protocol.
 *
 * The worker calls fanout.send_changes() on the leader and then gets messages
 * (wire/message.h) inside CopyData.  Frames go to the applier as they come.  What
 * is applied is committed when no more input is at hand, so that a follower
 * that keeps up shows each transaction at once and one that is behind puts
 * many into one local transaction.
 *
 * Proof of freshness.  A question is sent with every heartbeat, and at once when
 * a reader wants one; t0 is when it was sent.  The answer names a position X;
 * once everything that committed up to X is applied and committed here,
 * as the leader's progress says, the state as of t0 is proven.
 *
 * Only the worker calls in here, outside a transaction.
 */
#include "postgres.h"

#include "access/xact.h"
#include "libpq-fe.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/uuid.h"

#include "follower/follower.h"
#include "follower/hold.h"
#include "transaction.h"
#include "wire/message.h"

#define STATUS_INTERVAL_US	200000
#define SILENCE_US			INT64CONST(30000000)

/* Questions whose proof is not complete yet; a power of two. */
#define QUESTIONS			64

typedef struct Question
{
	uint64		number;
	int64		asked_at;
	XLogRecPtr	wal_end;		/* Invalid until answered */
} Question;

typedef struct Receiver
{
	FollowedStream *stream;
	const FollowedRow *row;
	PGconn	   *conn;
	WaitEventSet *events;		/* what ends a sleep */
	int			socket_event;
	StringInfoData out;
	MemoryContext message_context;

	uint64		asked;			/* number of the newest question */
	uint64		proven;			/* questions up to here are done with */
	Question	questions[QUESTIONS];
	int64		asked_at;

	ProgressMessage progress;	/* newest; covers what was received before it */
	bool		caught_up;		/* the state is "streaming" */
	XLogRecPtr	catch_up_lsn;	/* from here on it is */

	int64		heard_at;
	int64		reported_at;
	XLogRecPtr	reported_applied;
	XLogRecPtr	reported_durable;
	StatusMessage status;		/* newest in which all tables were in line with the stream */
} Receiver;

/* ---------- start ---------- */

/* The leader takes us for what we are: what comes now is of its era. */
static void
note_leader(Receiver *receiver, const char *era)
{
	MemoryContext oldcontext = CurrentMemoryContext;

	positions_sender(receiver->stream, PQbackendPID(receiver->conn));
	if (strcmp(era, receiver->row->era) == 0)
		return;
	/* How far beyond our transactions the leader's WAL went is not known of this life of it. */
	positions_rewind(receiver->stream, apply_last_lsn());
	fanout_start_transaction();
	PushActiveSnapshot(GetTransactionSnapshot());
	followed_row_set_era(receiver->row->id, era);
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(oldcontext);
}

static void
start_stream(Receiver *receiver, const FollowedRow *row)
{
	PGconn	   *conn = receiver->conn;
	char	   *stream = PQescapeLiteral(conn, NameStr(row->stream), strlen(NameStr(row->stream)));
	char	   *follower = PQescapeLiteral(conn, NameStr(row->follower),
										   strlen(NameStr(row->follower)));
	char	   *instance = DatumGetCString(DirectFunctionCall1(uuid_out,
															   UUIDPGetDatum(&row->instance)));
	char	   *era = leader_era(conn, NameStr(row->stream));
	pid_t		former;
	PGresult   *res;

	/* From now on it may be known there as the sender of this follower. */
	SpinLockAcquire(&receiver->stream->mutex);
	receiver->stream->sender_pid = PQbackendPID(conn);
	former = receiver->stream->former_sender_pid;
	SpinLockRelease(&receiver->stream->mutex);
	res = leader_query(conn,
					   psprintf("CALL fanout.send_changes(%s, %s, '%s', '%X/%X', '%s', '%X/%X', %d, %d)",
								stream, follower, instance, LSN_FORMAT_ARGS(apply_start_lsn()),
								row->era, LSN_FORMAT_ARGS(row->copied_until),
								FANOUT_WIRE_VERSION, (int) former),
					   0, NULL);
	PQfreemem(stream);
	PQfreemem(follower);
	if (PQresultStatus(res) != PGRES_COPY_BOTH)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("the leader did not start to stream")));
	PQclear(res);
	note_leader(receiver, era);
}

/* ---------- output ---------- */

static void
send_message(Receiver *receiver)
{
	if (PQputCopyData(receiver->conn, receiver->out.data, receiver->out.len) < 0 ||
		PQflush(receiver->conn) < 0)
		leader_connection_lost(receiver->conn);
	resetStringInfo(&receiver->out);
}

static void
new_question(Receiver *receiver, int64 now)
{
	Question   *question;

	receiver->asked++;
	question = &receiver->questions[receiver->asked % QUESTIONS];
	*question = (Question)
	{
		.number = receiver->asked, .asked_at = now
	};
}

/*
 * One question more than can be kept would push out the oldest, which is proven first.  So
 * when the leader's decoder gets no further for long, the newest one is asked again: the
 * answer shows that the leader is there.
 */
static void
ask(Receiver *receiver, int64 now)
{
	QuestionMessage message;

	if (receiver->asked - receiver->proven < QUESTIONS)
		new_question(receiver, now);
	receiver->asked_at = now;
	message.question = receiver->asked;
	message_put_question(&receiver->out, &message);
	send_message(receiver);
}

/*
 * While a table is not in line with the stream, the leader hears of nothing as applied or
 * proven: it is not, there.
 */
static void
report_status(Receiver *receiver, int64 now)
{
	PositionsCopy positions;
	XLogRecPtr	durable = apply_durable_lsn();

	positions_read(receiver->stream, &positions);
	/* Nothing committed between the last transaction and the progress after it. */
	if (durable >= apply_last_lsn())
		durable = Max(durable, positions.applied_lsn);
	if (durable != positions.durable_lsn)
		positions_durable(receiver->stream, durable);

	if (tables_are_settled(receiver->stream))
	{
		receiver->status.applied_lsn = positions.applied_lsn;
		receiver->status.applied_seq = positions.applied_seq;
		receiver->status.proven = receiver->proven;
	}
	receiver->status.durable_lsn = durable;
	message_put_status(&receiver->out, &receiver->status);
	send_message(receiver);
	receiver->reported_at = now;
	receiver->reported_applied = positions.applied_lsn;
	receiver->reported_durable = durable;
}

/* ---------- proofs and progress ---------- */

/* Everything up to applied is applied: which questions does that prove? */
static void
prove(Receiver *receiver, XLogRecPtr applied)
{
	const Question *newest = NULL;

	while (receiver->proven < receiver->asked)
	{
		Question   *question = &receiver->questions[(receiver->proven + 1) % QUESTIONS];

		if (XLogRecPtrIsInvalid(question->wal_end) || question->wal_end > applied)
			break;
		newest = question;
		receiver->proven++;
	}
	if (newest != NULL)
		positions_as_of(receiver->stream, newest->asked_at, apply_last_local_xid(), applied);
}

/* Nothing is half applied: what the leader's progress says is true here, too. */
static void
note_applied(Receiver *receiver)
{
	XLogRecPtr	applied = Max(receiver->progress.decoded_lsn, apply_last_lsn());
	PositionsCopy positions;

	uint64		seq = Max(receiver->progress.seq, apply_last_seq());

	apply_received(receiver->progress.decoded_lsn);
	positions_read(receiver->stream, &positions);
	if (applied > positions.applied_lsn || seq > positions.applied_seq)
		positions_applied(receiver->stream, applied, apply_last_local_xid(), seq, 0);
	prove(receiver, applied);
	hold_reached(receiver->stream, applied);

	if (!receiver->caught_up && !XLogRecPtrIsInvalid(receiver->catch_up_lsn) &&
		applied >= receiver->catch_up_lsn)
	{
		receiver->caught_up = true;
		if (tables_are_settled(receiver->stream))
			finish_schema(receiver->row);
		if (pg_atomic_read_u32(&receiver->stream->reread) == 0)
			positions_state(receiver->stream, FOLLOW_STREAMING);
	}
}

/* ---------- input ---------- */

/* The next transaction, which ends at next_end, has to wait: stand before it. */
static void
stand_still(Receiver *receiver, XLogRecPtr next_end)
{
	apply_commit_group();
	while (hold_stops(receiver->stream, next_end))
	{
		hold_reached(receiver->stream, next_end - 1);
		CHECK_FOR_INTERRUPTS();
		if (fanout_boottime_us() - receiver->reported_at >= STATUS_INTERVAL_US)
			report_status(receiver, fanout_boottime_us());
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 100,
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}

static void
receive_frames(Receiver *receiver, const char *data, Size len)
{
	while (len > 0)
	{
		Frame		frame;
		Size		size = frame_parse(data, len, &frame);

		CHECK_FOR_INTERRUPTS();
		if (size == 0)
			ereport(ERROR,
					(errcode(ERRCODE_PROTOCOL_VIOLATION),
					 errmsg("a message of the leader ends in the middle of a frame")));
		if ((frame.flags & FRAME_FIRST) != 0 &&
			hold_stops(receiver->stream, frame.txn.end_lsn))
			stand_still(receiver, frame.txn.end_lsn);
		apply_frame(&frame);
		data += size;
		len -= size;
		if (apply_group_is_full())
			apply_commit_group();
	}
}

static void
receive_progress(Receiver *receiver, const char *data, Size len)
{
	XLogRecPtr	before = receiver->progress.decoded_lsn;

	message_get_progress(data, len, &receiver->progress);
	if (receiver->progress.decoded_lsn < before ||
		receiver->progress.decoded_lsn > receiver->progress.wal_end || apply_in_transaction())
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("the leader reported an impossible position"),
				 errdetail("It has decoded up to %X/%X, after %X/%X, of a WAL that ends at %X/%X.",
						   LSN_FORMAT_ARGS(receiver->progress.decoded_lsn), LSN_FORMAT_ARGS(before),
						   LSN_FORMAT_ARGS(receiver->progress.wal_end))));
	positions_received(receiver->stream, receiver->progress.decoded_lsn,
					   receiver->progress.wal_end, receiver->progress.seq);
	/* The leader was here when the copy had ended: from here on, nothing is missing. */
	if (XLogRecPtrIsInvalid(receiver->catch_up_lsn))
		receiver->catch_up_lsn = receiver->progress.wal_end;
}

static void
receive_answer(Receiver *receiver, const char *data, Size len)
{
	AnswerMessage answer;

	message_get_answer(data, len, &answer);
	positions_leader_end(receiver->stream, answer.wal_end);
	/* It answers all questions before it as well: they were asked earlier. */
	for (uint64 n = receiver->proven + 1; n <= Min(answer.question, receiver->asked); n++)
	{
		Question   *question = &receiver->questions[n % QUESTIONS];

		if (XLogRecPtrIsInvalid(question->wal_end))
			question->wal_end = answer.wal_end;
	}
}

static void
receive_message(Receiver *receiver, const char *data, Size len)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(receiver->message_context);

	switch (len > 0 ? data[0] : '\0')
	{
		case MSG_FRAMES:
			receive_frames(receiver, data + 1, len - 1);
			break;
		case MSG_PROGRESS:
			receive_progress(receiver, data + 1, len - 1);
			break;
		case MSG_ANSWER:
			receive_answer(receiver, data + 1, len - 1);
			break;
		default:
			ereport(ERROR,
					(errcode(ERRCODE_PROTOCOL_VIOLATION),
					 errmsg("unexpected message from the leader")));
	}
	MemoryContextSwitchTo(oldcontext);
	MemoryContextReset(receiver->message_context);
}

/* The stream ended: in an error, which is raised, or just so. */
static void
stream_ended(Receiver *receiver)
{
	PGresult   *res = PQgetResult(receiver->conn);

	if (res != NULL && PQresultStatus(res) == PGRES_FATAL_ERROR)
		leader_raise(receiver->conn, res);
	PQclear(res);
	leader_connection_lost(receiver->conn);
}

/* Handle all messages that have arrived. */
static void
receive(Receiver *receiver)
{
	for (;;)
	{
		char	   *data;
		int			len = PQgetCopyData(receiver->conn, &data, 1);

		CHECK_FOR_INTERRUPTS();
		if (len == 0)
			return;
		if (len < 0)
			stream_ended(receiver);
		PG_TRY();
		{
			receive_message(receiver, data, len);
		}
		PG_FINALLY();
		{
			PQfreemem(data);
		}
		PG_END_TRY();
		/* Not when it arrived: applying may have waited for a lock. */
		receiver->heard_at = fanout_boottime_us();
	}
}

/* ---------- the loop ---------- */

static void
send_what_is_due(Receiver *receiver)
{
	int64		now = fanout_boottime_us();
	PositionsCopy positions;

	if (now - receiver->asked_at >= (int64) fanout_heartbeat_interval * 1000 ||
		pg_atomic_exchange_u32(&receiver->stream->ask_now, 0) != 0)
		ask(receiver, now);

	positions_read(receiver->stream, &positions);
	if (positions.applied_lsn != receiver->reported_applied ||
		apply_durable_lsn() > receiver->reported_durable ||
		now - receiver->reported_at >= STATUS_INTERVAL_US)
		report_status(receiver, now);
}

static void
check_silence(Receiver *receiver)
{
	if (fanout_boottime_us() - receiver->heard_at >
		Max(SILENCE_US, (int64) fanout_heartbeat_interval * 10000))
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("nothing was heard from the leader for too long")));
}

/* Made once: to make it for each sleep would take more calls of the kernel than all the rest. */
static void
make_event_set(Receiver *receiver)
{
	receiver->events = fanout_event_set(3);
	AddWaitEventToSet(receiver->events, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(receiver->events, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	receiver->socket_event = AddWaitEventToSet(receiver->events, WL_SOCKET_READABLE,
											   PQsocket(receiver->conn), NULL, NULL);
}

static void
sleep_for_input(Receiver *receiver)
{
	uint32		events = WL_SOCKET_READABLE;
	int			flush = PQflush(receiver->conn);
	WaitEvent	event;

	if (flush < 0)
		leader_connection_lost(receiver->conn);
	if (flush > 0)
		events |= WL_SOCKET_WRITEABLE;
	ModifyWaitEvent(receiver->events, receiver->socket_event, events, NULL);
	(void) WaitEventSetWait(receiver->events, Min(fanout_heartbeat_interval, 100), &event, 1,
							PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
}

/* That may wait for a lock, or look at all rows of a table: nobody listens meanwhile. */
static void
commit_and_note(Receiver *receiver)
{
	int64		began = fanout_boottime_us();

	apply_commit_group();
	note_applied(receiver);
	receiver->heard_at += fanout_boottime_us() - began;
}

static void
receive_loop(Receiver *receiver)
{
	while (pg_atomic_read_u32(&receiver->stream->reread) == 0 || apply_must_go_on())
	{
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		if (!PQconsumeInput(receiver->conn))
			leader_connection_lost(receiver->conn);
		receive(receiver);
		if (!apply_in_transaction())
			commit_and_note(receiver);
		send_what_is_due(receiver);
		check_silence(receiver);
		if (copier_is_due(receiver->stream))
			pg_atomic_write_u32(&receiver->stream->reread, 1);
		sleep_for_input(receiver);
	}
	apply_commit_group();
}

void
receive_and_apply(FollowedStream *stream, const FollowedRow *row)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "pg_fanout receiver",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext oldcontext = MemoryContextSwitchTo(context);
	Receiver   *receiver = palloc0(sizeof(Receiver));

	receiver->stream = stream;
	receiver->row = row;
	receiver->conn = leader_connect(row->conninfo, NameStr(row->follower));
	receiver->message_context = AllocSetContextCreate(context, "pg_fanout message",
													  ALLOCSET_DEFAULT_SIZES);
	receiver->heard_at = fanout_boottime_us();
	initStringInfo(&receiver->out);

	start_stream(receiver, row);
	make_event_set(receiver);
	receive_loop(receiver);
	FreeWaitEventSet(receiver->events);

	positions_sender(stream, 0);
	leader_disconnect(receiver->conn);
	MemoryContextSwitchTo(oldcontext);
	MemoryContextDelete(context);
}
