/*
 * wal_reader.c
 *		How a decoder gets pages of WAL, and what it does while there is none.
 *
 * Only flushed WAL is read.  When there is none the decoder publishes what it
 * has, does its upkeep and sleeps on its latch; commit_hook.c tells how it is
 * woken.  Nobody tells when WAL of an asynchronous commit is flushed, so while one is
 * known the decoder looks every few milliseconds.
 *
 * Others may ask for WAL to be flushed (flush_request): records of a transaction
 * that is still open would otherwise stay unflushed for long, and with them the
 * proof that nothing committed in between.  One flush serves all that asked.
 *
 * The server's reader calls in here between records, never in the middle of one that
 * is being processed; that makes this the place for all that has to happen now
 * and then.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "access/xlogreader.h"
#include "access/xlogutils.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"
#include "utils/guc.h"

#include "leader/decoder.h"

#define SLEEP_MS			100
#define SLEEP_ASYNC_MS		2	/* while an asynchronous commit is not flushed */

/*
 * A decoder that is told to end leaves everything synced and confirmed, so that
 * its successor has little to do.
 */
static void
heed_signals(void)
{
	if (ProcDiePending && MyDecoder->state.writer != NULL)
		retention_upkeep(MyDecoder, true);
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}

/* There is no log to look after while the slot is being made. */
static void
look_after_log(bool idle)
{
	Decoder    *decoder = MyDecoder;

	if (decoder->state.writer == NULL)
		return;
	decoder_publish_if_due(decoder, idle);
	retention_upkeep(decoder, false);
}

/* How far somebody wants WAL flushed that exists and is not: Invalid if nobody. */
static XLogRecPtr
wanted_flush(LeaderStream *stream, XLogRecPtr flushed)
{
	XLogRecPtr	request = pg_atomic_read_u64(&stream->flush_request);

	if (request <= flushed)
		return InvalidXLogRecPtr;
	request = Min(request, GetXLogInsertEndRecPtr());
	return request > flushed ? request : InvalidXLogRecPtr;
}

static void
sleep_ms(long timeout)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 timeout, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
}

/* Sleep unless WAL up to loc was flushed or is to be flushed now. */
static void
sleep_for_wal(LeaderStream *stream, XLogRecPtr loc)
{
	XLogRecPtr	flushed;
	long		timeout = decoder_progress_wait(MyDecoder, SLEEP_MS);

	pg_atomic_write_u32(&stream->decoder_asleep, 1);
	pg_memory_barrier();

	flushed = GetFlushRecPtr(NULL);
	if (pg_atomic_read_u64(&stream->async_commit_lsn) > flushed)
	{
		pg_atomic_write_u32(&stream->decoder_asleep, 2);
		timeout = Min(timeout, SLEEP_ASYNC_MS);
	}
	if (flushed < loc && XLogRecPtrIsInvalid(wanted_flush(stream, flushed)))
		sleep_ms(timeout);
	pg_atomic_write_u32(&stream->decoder_asleep, 0);
}

static void
wait_for_wal(XLogRecPtr loc, XLogRecPtr flushed)
{
	LeaderStream *stream = MyDecoder->state.stream;
	XLogRecPtr	wanted;
	long		publish_wait;

	look_after_log(true);
	wanted = wanted_flush(stream, flushed);
	publish_wait = decoder_publish_wait(MyDecoder);
	if (!XLogRecPtrIsInvalid(wanted))
		XLogFlush(wanted);
	else if (publish_wait > 0)
		sleep_ms(publish_wait);
	else
		sleep_for_wal(stream, loc);
	heed_signals();
}

/*
 * Wait until reqlen bytes of the page can be read.  Returns the end of what can be,
 * and the timeline to read it from.
 */
static XLogRecPtr
wait_for_page(XLogReaderState *state, XLogRecPtr page, int reqlen, TimeLineID *tli)
{
	for (;;)
	{
		XLogRecPtr	flushed = GetFlushRecPtr(tli);

		XLogReadDetermineTimeline(state, page, reqlen, *tli);
		if (state->currTLI != *tli)
		{
			/* A timeline of the past is complete up to where it was left. */
			*tli = state->currTLI;
			return state->currTLIValidUntil;
		}
		if (page + reqlen <= flushed)
			return flushed;
		wait_for_wal(page + reqlen, flushed);
	}
}

/*
 * The XLogReaderRoutine.page_read of a decoder.  Returns how many bytes of the page
 * are valid; it does not return before that are reqlen.
 */
int
decoder_read_page(XLogReaderState *state, XLogRecPtr page, int reqlen,
				  XLogRecPtr target, char *buf)
{
	TimeLineID	tli;
	XLogRecPtr	upto;
	int			count;
	WALReadError error;

	look_after_log(false);
	heed_signals();

	upto = wait_for_page(state, page, reqlen, &tli);
	count = Min(upto - page, XLOG_BLCKSZ);
	if (count < reqlen)
		return -1;
	if (!WALRead(state, buf, page, count, tli, &error))
		WALReadRaiseError(&error);
	return count;
}
