/*
 * publish.c
 *		When what the decoder has decoded is handed to the senders.
 *
 * To publish is to hand the log's new bytes to the kernel, to store its end in the
 * stream's record and to wake the senders.  Each sender then reads and sends the
 * same bytes; with many of them, and a publication for each commit, that would
 * take more of the machine than the commits do.  So:
 *
 *	- While there is WAL to read, the decoder publishes every few milliseconds.
 *	- When it has read all of it, it publishes at once as long as it has credit.
 *	  Credit is time: it grows as time passes, up to a limit, and a publication
 *	  uses as much of it as it has senders to wake, WAKE_COST_US each.  Commits that
 *	  come now and then are published one by one; when they come fast, there is one
 *	  publication for several.
 *	- What somebody waits for (flush_request) is published at once.
 *
 * While the decoder waits for credit it need not hear of commits, and does not
 * announce its sleep: that spares the committing backends its wake-up, too.
 */
#include "postgres.h"

#include "leader/decoder.h"

#define PUBLISH_INTERVAL_US	5000	/* while there is WAL to read */
#define WAKE_COST_US		80		/* time that must pass for each sender that is woken */
#define CREDIT_LIMIT		20		/* publications */

void
decoder_publish(Decoder *decoder)
{
	LeaderStream *stream = decoder->state.stream;
	LogWriter  *writer = decoder->state.writer;
	bool		grown = log_writer_flush(writer, &decoder->end);
	uint64		bytes;

	decoder->published_at = fanout_boottime_us();
	if (!grown && decoder->decoded_lsn == decoder->published_lsn)
		return;
	bytes = log_writer_bytes(writer);

	SpinLockAcquire(&stream->mutex);
	stream->end = decoder->end;
	stream->decoded_lsn = decoder->decoded_lsn;
	stream->synced_lsn = decoder->synced_lsn;
	stream->log_start_lsn = decoder->start_lsn;
	stream->log_bytes = bytes;
	stream->transactions = decoder->state.transactions;
	stream->changes = decoder->state.changes;
	SpinLockRelease(&stream->mutex);

	decoder->published_lsn = decoder->decoded_lsn;
	decoder->publication_cost = Max(registry_wake_senders(stream), 1) * WAKE_COST_US;
	decoder->credit_us = Max(decoder->credit_us - decoder->publication_cost, 0);
}

static void
add_credit(Decoder *decoder, int64 now)
{
	decoder->credit_us = Min(decoder->credit_us + now - decoder->credited_at,
							 CREDIT_LIMIT * decoder->publication_cost);
	decoder->credited_at = now;
}

/* Does a sender need to know that we are as far as we are? */
static bool
somebody_waits(const Decoder *decoder)
{
	XLogRecPtr	request = pg_atomic_read_u64(&decoder->state.stream->flush_request);

	return request > decoder->published_lsn && request <= decoder->decoded_lsn;
}

void
decoder_publish_if_due(Decoder *decoder, bool idle)
{
	int64		now = fanout_boottime_us();

	add_credit(decoder, now);
	if (idle ? decoder->credit_us >= decoder->publication_cost || somebody_waits(decoder) :
		now - decoder->published_at >= PUBLISH_INTERVAL_US)
		decoder_publish(decoder);
}

/* Milliseconds until there is credit to publish what is decoded; 0: nothing waits. */
long
decoder_publish_wait(const Decoder *decoder)
{
	if (decoder->state.writer == NULL || decoder->decoded_lsn == decoder->published_lsn)
		return 0;
	return Max((decoder->publication_cost - decoder->credit_us + 999) / 1000, 1);
}
