/*
 * sender.c
 *		CALL fanout.send_changes(): turn a connection into a stream of changes.
 *
 * The sender is an ordinary backend.  The procedure drops its snapshot by a
 * commit, answers the CALL with CopyBothResponse and from then on moves frames
 * from the change log to the socket, and messages (wire/message.h) both ways,
 * until the follower sends CopyDone.
 *
 * It reads the log up to the end that is published in the stream's record,
 * and says MSG_PROGRESS when it has sent all of it.  With nothing to do it
 * sleeps on its latch and the socket; whoever moves the published end wakes
 * senders that have announced their sleep (sender_asleep).  It does not care
 * who that is or whether a decoder runs: without one the end stands still.
 *
 * When the log was cut (a new generation), the same transactions come again
 * but not the same bytes.  A sender that stood at the end, between two
 * transactions, looks for its place again; one that stood in the middle fails, and
 * the follower comes back with the position it has applied.  When the log was given up
 * (no generation), all senders fail, within a second: the segments that they have open
 * take space on a disk that is full, and the new log may be waiting for that.
 *
 * The output buffer holds one chunk at most, and nothing here waits inside a
 * write: only pq_putmessage_noblock() and pq_flush_if_writable() are used.  Who waits
 * there heeds no barrier, and has every DROP DATABASE of the server wait.  The server
 * writes its reports so, and those of errors with interrupts held.  So they go to the log
 * alone while the sender streams; an error that ends the stream goes to the follower, too,
 * as that of any statement, if it can't block (end_with_error).  A commit once a second
 * keeps the transaction young.
 *
 * The sender owns its follower's entry (Registration) from sender_attach() to
 * sender_detach(), see sender_entry.c.
 */
#include "postgres.h"

#include <poll.h>

#include "access/xlog.h"
#include "executor/spi.h"
#include "libpq/libpq-be.h"
#include "libpq/libpq.h"
#include "libpq/pqformat.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/condition_variable.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/pidfile.h"
#include "utils/uuid.h"

#include "compat.h"
#include "leader/leader.h"
#include "leader/sender.h"
#include "wire/message.h"

#define CHUNK_SIZE		(128 * 1024)
#define TICK_MS			1000
#define INPUT_TURNS		16

PG_FUNCTION_INFO_V1(fanout_send_changes);

/* What the stream's record says of the log, read at one moment. */
typedef struct LogView
{
	LogEnd		end;
	XLogRecPtr	decoded_lsn;
	bool		exists;			/* the record is still that of our stream */
} LogView;

/* ---------- start ---------- */

static void
check_call(FunctionCallInfo fcinfo)
{
	for (int i = 0; i < PG_NARGS(); i++)
	{
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("arguments of fanout.send_changes() must not be null")));
	}
	if (fcinfo->context == NULL || !IsA(fcinfo->context, CallContext) ||
		castNode(CallContext, fcinfo->context)->atomic)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_TERMINATION),
				 errmsg("fanout.send_changes() cannot run in a transaction block or a function")));
	if (whereToSendOutput != DestRemote || MyProcPort == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("fanout.send_changes() needs a client connection")));
}

/* Instead of the call, which names the instance: who knows that can take the follower's place. */
static void
report_activity(const Sender *sender)
{
	char	   *activity = psprintf("sending stream \"%s\" to follower \"%s\"",
									NameStr(sender->stream_name), NameStr(sender->follower));

	pgstat_report_activity(STATE_RUNNING, activity);
	pfree(activity);
}

/* Everything of the sender lives in SPI's context, which outlasts commits. */
static Sender *
make_sender(FunctionCallInfo fcinfo)
{
	Sender	   *sender = palloc0(sizeof(Sender));
	StreamRow  *row;

	sender->context = CurrentMemoryContext;
	sender->stream_name = *PG_GETARG_NAME(0);
	sender->follower = *PG_GETARG_NAME(1);
	sender->instance = *PG_GETARG_UUID_P(2);
	sender->sent_lsn = PG_GETARG_LSN(3);
	sender->era = *PG_GETARG_UUID_P(4);
	sender->reached_lsn = PG_GETARG_LSN(5);
	report_activity(sender);
	check_wire_version(PG_GETARG_INT32(6));
	sender->former_pid = PG_GETARG_INT32(7);

	row = stream_row_require_grant(NameStr(sender->stream_name));
	sender->stream_id = row->id;
	sender->stream = stream_record(row);
	if (sender->stream == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("stream \"%s\" is not streaming yet", NameStr(sender->stream_name))));

	initStringInfo(&sender->in);
	initStringInfo(&sender->out);
	sender->loop_context = AllocSetContextCreate(CurrentMemoryContext, "pg_fanout sender loop",
												 ALLOCSET_SMALL_SIZES);
	return sender;
}

static LogView
view_log(Sender *sender)
{
	LeaderStream *stream = sender->stream;
	LogView		view;

	SpinLockAcquire(&stream->mutex);
	view.exists = stream->in_use && stream->dboid == MyDatabaseId &&
		stream->id == sender->stream_id;
	view.end = stream->end;
	view.decoded_lsn = stream->decoded_lsn;
	SpinLockRelease(&stream->mutex);
	return view;
}

static LogView
require_log(Sender *sender)
{
	LogView		view = view_log(sender);

	if (view.end.generation == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("stream \"%s\" is not streaming yet", NameStr(sender->stream_name))));
	return view;
}

/*
 * Open the log behind the last transaction sent.  The follower may be ahead of the log's
 * end, since that is not synced before it is sent: then it waits.
 */
static void
open_log(Sender *sender, const LogEnd *end)
{
	MemoryContext oldcontext;

	if (sender->reader != NULL)
		log_reader_close(sender->reader);

	sender->generation = end->generation;

	/* It must outlive the loop's context, in which a cut log is opened again. */
	oldcontext = MemoryContextSwitchTo(sender->context);
	sender->reader = stream_log_reader(sender->stream);
	MemoryContextSwitchTo(oldcontext);
	if (!log_reader_seek(sender->reader, sender->sent_lsn, end))
		sender_lost(sender);
	sender->at_end = false;
}

static void
start_copy_both(void)
{
	StringInfoData buf;

	pq_beginmessage(&buf, 'W');
	pq_sendbyte(&buf, 0);		/* text, as far as COPY is concerned */
	pq_sendint16(&buf, 0);		/* no columns */
	pq_endmessage(&buf);
}

/* ---------- output ---------- */

/*
 * Could what is sent now wait for the follower to read?  The kernel calls a socket
 * writable when a good part of its buffer is free, which has room for a report.
 */
static bool
output_may_block(void)
{
	struct pollfd out = {.fd = MyProcPort->sock, .events = POLLOUT};

	return pq_is_send_pending() || poll(&out, 1, 0) != 1;
}

void
sender_allow_report(void)
{
	whereToSendOutput = output_may_block() ? DestNone : DestRemote;
}

void
sender_check_interrupts(void)
{
	if (ProcDiePending)
		sender_allow_report();
	CHECK_FOR_INTERRUPTS();
}

/*
 * Rethrow an error of the stream.  If its report could block, end the connection without
 * one: the follower learns the reason when it connects again.
 */
static void
end_with_error(Sender *sender)
{
	ErrorData  *error;

	if (whereToSendOutput == DestRemote)
		PG_RE_THROW();			/* from before the stream */
	MemoryContextSwitchTo(sender->context);
	error = CopyErrorData();
	FlushErrorState();
	sender_allow_report();
	if (whereToSendOutput == DestNone)
	{
		error->elevel = FATAL;
		ThrowErrorData(error);
	}
	error->output_to_client = true;
	ReThrowError(error);
}

void
sender_connection_lost(const Sender *sender)
{
	ereport(FATAL,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("connection to follower \"%s\" was lost", NameStr(sender->follower))));
}

static void
put_message(Sender *sender)
{
	pq_putmessage_noblock('d', sender->out.data, sender->out.len);
	resetStringInfo(&sender->out);
}

static void
flush_output(const Sender *sender)
{
	if (pq_flush_if_writable() != 0)
		sender_connection_lost(sender);
}

static void
put_answer(Sender *sender)
{
	message_put_answer(&sender->out, &sender->answer);
	put_message(sender);
	sender->answer_due = false;
}

/* Every transaction up to lsn is in the output now. */
static void
note_sent(Sender *sender, XLogRecPtr lsn)
{
	if (lsn <= sender->sent_lsn)
		return;
	sender->sent_lsn = lsn;
	sender_note_sent(sender);
}

static void
put_frames(Sender *sender, const LogView *view)
{
	XLogRecPtr	lsn = sender->sent_lsn;
	Size		len;
	const char *data = log_reader_next(sender->reader, &view->end, CHUNK_SIZE, &len, &lsn);

	sender->at_end = data == NULL || log_reader_at_end(sender->reader, &view->end);
	if (data == NULL)
		return;

	appendStringInfoChar(&sender->out, MSG_FRAMES);
	appendBinaryStringInfo(&sender->out, data, len);
	put_message(sender);
	note_sent(sender, lsn);
}

/* Unless the follower has heard of this progress, and does not wait to hear anything. */
static void
put_progress(Sender *sender, const LogView *view)
{
	ProgressMessage progress = {
		.decoded_lsn = view->decoded_lsn,
		.seq = view->end.seq
	};

	if (view->decoded_lsn <= sender->progress_lsn && !sender->progress_again)
		return;
	sender->progress_again = false;
	progress.wal_end = GetXLogInsertEndRecPtr();
	message_put_progress(&sender->out, &progress);
	put_message(sender);
	sender->progress_lsn = view->decoded_lsn;
	note_sent(sender, view->decoded_lsn);
}

/*
 * Put what there is to send into the output buffer if that is empty, answers first,
 * and the progress together with the last frames.
 */
static void
put_more(Sender *sender, const LogView *view)
{
	if (pq_is_send_pending())
		return;
	sender_look_upstream(sender);
	if (sender->answer_due)
		put_answer(sender);
	put_frames(sender, view);
	if (sender->at_end)
		put_progress(sender, view);
}

/* ---------- the loop ---------- */

/* In a smart shutdown the postmaster waits for us, and shows that only in its file. */
static bool
server_is_stopping(void)
{
	FILE	   *file = AllocateFile("postmaster.pid", "r");
	char		line[MAXPGPATH];
	bool		stopping = false;

	if (file == NULL)
		return false;
	for (int i = 1; fgets(line, sizeof(line), file) != NULL; i++)
	{
		if (i == LOCK_FILE_LINE_PM_STATUS)
			stopping = strncmp(line, PM_STATUS_STOPPING, strlen(PM_STATUS_STOPPING)) == 0;
	}
	FreeFile(file);
	return stopping;
}

/* What is due once in a while. */
static void
tick(Sender *sender)
{
	TimestampTz now = GetCurrentTimestamp();

	if (!TimestampDifferenceExceeds(sender->ticked_at, now, TICK_MS))
		return;
	sender->ticked_at = now;
	if (!stream_may_follow(NameStr(sender->stream_name)))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission for stream \"%s\" was revoked", NameStr(sender->stream_name))));
	SPI_commit();
	sender_heed_challenge(sender);
	if (!server_is_stopping())
		return;
	sender_allow_report();
	ereport(FATAL,
			(errcode(ERRCODE_ADMIN_SHUTDOWN),
			 errmsg("the sender to follower \"%s\" ends because the server is shutting down",
					NameStr(sender->follower))));
}

static LogView
check_log(Sender *sender)
{
	LogView		view = view_log(sender);
	bool		other = view.end.generation != sender->generation;

	if (!view.exists)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("stream \"%s\" was dropped", NameStr(sender->stream_name))));
	if (view.end.generation == 0 || (other && !sender->at_end))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the change log of stream \"%s\" was restarted",
						NameStr(sender->stream_name)),
				 errhint("The follower will connect again.")));
	if (other)
		open_log(sender, &view.end);
	return view;
}

/* Announce the sleep, then look again: who moves the end does it the other way round. */
static bool
may_sleep(Sender *sender, const LogView *view)
{
	LogView		now;

	(void) pg_atomic_exchange_u32(&sender->registration->sender_asleep, 1);
	now = view_log(sender);
	return now.exists &&
		now.decoded_lsn == view->decoded_lsn &&
		now.end.generation == view->end.generation &&
		now.end.segno == view->end.segno &&
		now.end.offset == view->end.offset;
}

/* Wait a second at most; returns whether there may be something to read. */
static bool
wait_for_events(void)
{
	WaitEvent	events[3];
	int			count = WaitEventSetWait(FeBeWaitSet, TICK_MS, events, lengthof(events),
										 PG_WAIT_EXTENSION);
	bool		readable = count == 0;

	for (int i = 0; i < count; i++)
	{
		if ((events[i].events & WL_POSTMASTER_DEATH) != 0)
			proc_exit(1);
		readable |= (events[i].events & WL_SOCKET_READABLE) != 0;
	}
	return readable;
}

/* There is more to send: do so without a sleep, and look only now and then for input. */
static void
go_on(Sender *sender)
{
	sender->may_have_input = ++sender->turns % INPUT_TURNS == 0;
}

/* Until there is something to read, to write or to send; a second at most. */
static void
sender_sleep(Sender *sender, const LogView *view)
{
	uint32		events = WL_SOCKET_READABLE;

	if (pq_is_send_pending())
		events |= WL_SOCKET_WRITEABLE;
	if ((events & WL_SOCKET_WRITEABLE) != 0 ||
		(may_sleep(sender, view) && sender_sleep_upstream(sender)))
	{
		ModifyWaitEvent(FeBeWaitSet, FeBeWaitSetSocketPos, events, NULL);
		sender->may_have_input = wait_for_events();
		ResetLatch(MyLatch);
	}
	else
		go_on(sender);
	ConditionVariableCancelSleep();
	pg_atomic_write_u32(&sender->registration->sender_asleep, 0);
}

static void
sender_loop(Sender *sender)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(sender->loop_context);

	for (;;)
	{
		LogView		view;

		sender_check_interrupts();
		MemoryContextReset(sender->loop_context);
		sender_receive(sender);
		if (sender->done)
			break;
		sender_check_entry(sender);
		view = check_log(sender);
		put_more(sender, &view);
		flush_output(sender);
		tick(sender);
		if (sender->at_end || pq_is_send_pending())
			sender_sleep(sender, &view);
		else
			go_on(sender);
	}
	MemoryContextSwitchTo(oldcontext);
}

/* The follower has said CopyDone: the server's answer to that may not block either. */
static void
finish_output(Sender *sender)
{
	while (output_may_block())
	{
		sender_check_interrupts();
		sender_check_entry(sender);
		flush_output(sender);
		tick(sender);
		ModifyWaitEvent(FeBeWaitSet, FeBeWaitSetSocketPos, WL_SOCKET_WRITEABLE, NULL);
		(void) wait_for_events();
		ResetLatch(MyLatch);
	}
}

/*
 * The log is not what the decoder wrote: have another decoder look at all of it.  What it
 * can't keep or decode again is gone then, and with it the place of the followers that
 * needed it, who copy again.  Nothing is wrong with a log that was cut or trimmed meanwhile.
 */
static void
check_damage(Sender *sender, int sqlerrcode)
{
	XLogRecPtr	start_lsn;
	uint32		generation;

	if (sender->reader == NULL ||
		(sqlerrcode != ERRCODE_DATA_CORRUPTED &&
		 sqlerrcode != ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE))
		return;
	SpinLockAcquire(&sender->stream->mutex);
	start_lsn = sender->stream->log_start_lsn;
	generation = sender->stream->end.generation;
	SpinLockRelease(&sender->stream->mutex);
	if (generation != sender->generation || start_lsn > sender->sent_lsn)
		return;
	pg_atomic_write_u32(&sender->stream->log_trust, LOG_VERIFY);
	stream_restart_decoder(sender->stream_id);
}

static void
end_sender(int code, Datum arg)
{
	Sender	   *sender = (Sender *) DatumGetPointer(arg);

	sender_detach(sender);
	if (sender->reader != NULL)
		log_reader_close(sender->reader);
	sender->reader = NULL;
}

/* From the CopyBothResponse to the follower's CopyDone. */
static void
send_changes(Sender *sender)
{
	LogView		view;

	/* The decoder begins its era before it publishes anything. */
	(void) require_log(sender);
	sender_attach(sender);
	sender->may_have_input = true;
	view = require_log(sender);
	PG_TRY();
	{
		open_log(sender, &view.end);
		start_copy_both();
		whereToSendOutput = DestNone;
		sender_loop(sender);
		finish_output(sender);
		whereToSendOutput = DestRemote;
	}
	PG_CATCH();
	{
		check_damage(sender, geterrcode());
		end_with_error(sender);
	}
	PG_END_TRY();
}

/*
 * send_changes(stream name, follower name, instance uuid, after pg_lsn, era uuid,
 *				reached pg_lsn, wire_version int, former_sender int)
 */
Datum
fanout_send_changes(PG_FUNCTION_ARGS)
{
	Sender	   *sender;

	fanout_require_preload();
	check_call(fcinfo);
	if (SPI_connect_ext(SPI_OPT_NONATOMIC) != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	sender = make_sender(fcinfo);
	SPI_commit();

	PG_ENSURE_ERROR_CLEANUP(end_sender, PointerGetDatum(sender));
	send_changes(sender);
	PG_END_ENSURE_ERROR_CLEANUP(end_sender, PointerGetDatum(sender));
	end_sender(0, PointerGetDatum(sender));

	if (SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "SPI_finish failed");
	PG_RETURN_VOID();
}
