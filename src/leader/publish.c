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
 *	- When it has read all of it, it publishes new transactions at once as long as it has
 *	  credit.  Credit is time: it grows as time passes, up to a limit, and a publication
 *	  uses WAKE_COST_US of it for each sender.  Commits that come now and then are
 *	  published one by one; when they come fast, there is one publication for several.
 *	- Faster than CALM_RATE, commits need the machine themselves, and a publication costs
 *	  more with the square of their rate: then each carries many transactions.
 *	- That nothing but the position has moved is published every few milliseconds: no
 *	  transaction waits for it.
 *	- What somebody waits for (flush_request) is published at once.
 *
 * While the decoder waits for credit it need not hear of commits, and does not
 * announce its sleep: that spares the committing backends its wake-up, too.
 */
#include "postgres.h"

#include "leader/decoder.h"

#define PUBLISH_INTERVAL_US	5000	/* while there is WAL to read */
#define PROGRESS_INTERVAL_US 10000	/* while there are no transactions */
#define WAKE_COST_US		60		/* time that must pass for each sender that is woken */
#define COST_LIMIT_US		5000	/* for all of them */
#define CREDIT_LIMIT		20		/* publications */
#define CALM_RATE			1250	/* commits per second */
#define RATE_WINDOW_US		100000

/* How fast commits come, as seen in the last window. */
static void
measure_rate(Decoder *decoder, int64 now)
{
	int64		elapsed = now - decoder->rate_since;

	if (elapsed < RATE_WINDOW_US)
		return;
	decoder->commit_rate = (decoder->state.transactions - decoder->rate_transactions) *
		1000000.0 / elapsed;
	decoder->rate_transactions = decoder->state.transactions;
	decoder->rate_since = now;
}

/* No sender alone makes it cost more: that one is there for low latency. */
static int64
publication_cost(const Decoder *decoder, int senders)
{
	double		haste = decoder->commit_rate / CALM_RATE;
	double		factor = Min(Max(haste * haste, 1.0), Max(senders, 1));

	return Min((int64) (Max(senders, 1) * WAKE_COST_US * factor), COST_LIMIT_US);
}

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
	decoder->published_transactions = decoder->state.transactions;
	decoder->publication_cost = publication_cost(decoder, registry_wake_senders(stream));
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

/* There is no more WAL: is it time? */
static bool
is_due(const Decoder *decoder, int64 now)
{
	if (decoder->state.transactions != decoder->published_transactions)
		return decoder->credit_us >= decoder->publication_cost || somebody_waits(decoder);
	return now - decoder->published_at >= PROGRESS_INTERVAL_US || somebody_waits(decoder);
}

void
decoder_publish_if_due(Decoder *decoder, bool idle)
{
	int64		now = fanout_boottime_us();

	measure_rate(decoder, now);
	add_credit(decoder, now);
	if (idle ? is_due(decoder, now) : now - decoder->published_at >= PUBLISH_INTERVAL_US)
		decoder_publish(decoder);
}

static long
milliseconds(int64 us)
{
	return Max((us + 999) / 1000, 1);
}

long
decoder_publish_wait(const Decoder *decoder)
{
	if (decoder->state.writer == NULL ||
		decoder->state.transactions == decoder->published_transactions)
		return 0;
	return milliseconds(decoder->publication_cost - decoder->credit_us);
}

long
decoder_progress_wait(const Decoder *decoder, long limit)
{
	if (decoder->state.writer == NULL || decoder->decoded_lsn == decoder->published_lsn)
		return limit;
	return Min(limit, milliseconds(decoder->published_at + PROGRESS_INTERVAL_US -
								   fanout_boottime_us()));
}
