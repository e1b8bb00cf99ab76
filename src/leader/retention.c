/*
 * retention.c
 *		Upkeep of the change log and of the slot: what is made durable, what the
 *		slot need not keep any longer, and which part of the log may go.
 *
 * Only the decoder does this, between two WAL records, about once a second.  The
 * order is what makes it safe:
 *
 *	1.	When nothing but empty transactions came by for some time, a mark notes in
 *		the log how far the WAL was decoded.  Without it the slot could only be
 *		confirmed up to the last transaction, and WAL and catalog_xmin would stay.
 *	2.	The log is synced.
 *	3.	The slot is confirmed up to what is synced, never further: what it has
 *		confirmed can not be decoded again.
 *	4.	Old segments go: those that no follower needs, and those beyond
 *		fanout.max_retention, whoever needs them.  Followers that needed them are
 *		lost from here on.
 *
 * When the disk is full the writer removes old segments by itself, to go on (writer.c);
 * step 4 then notices where the log starts.
 *
 * Somebody may have removed the log under the decoder's feet: before all that it looks
 * whether it is there, and fails, so that its successor begins another.
 *
 * A decoder that is stopped between any two steps finds a log whose end lies at or
 * after the confirmed position.
 */
#include "postgres.h"

#include <sys/statvfs.h>

#include "replication/logical.h"
#include "replication/slot.h"

#include "hints.h"
#include "leader/decoder.h"

#define UPKEEP_INTERVAL_US	1000000
#define UPKEEP_BYTES		(16 * 1024 * 1024)	/* of log: at the latest */
#define FREE_SPACE_SHARE	5
#define MARK_INTERVAL_US	10000000
#define MARK_BYTES			(1024 * 1024)	/* of WAL without a transaction */

static void
mark_progress(Decoder *decoder, int64 now)
{
	XLogRecPtr	decoded = decoder->decoded_lsn;

	/* What was committed to the log since then counts, published or not. */
	decoder_publish(decoder);
	if (decoded <= decoder->end.lsn)
		return;
	if (decoded - decoder->end.lsn < MARK_BYTES && now - decoder->marked_at < MARK_INTERVAL_US)
		return;

	log_writer_mark(decoder->state.writer, decoded);
	decoder->marked_at = now;
	decoder_publish(decoder);
}

static void
sync_log(Decoder *decoder)
{
	LeaderStream *stream = decoder->state.stream;

	if (decoder->end.lsn <= decoder->synced_lsn)
		return;
	decoder->synced_lsn = log_writer_sync(decoder->state.writer);

	SpinLockAcquire(&stream->mutex);
	stream->synced_lsn = decoder->synced_lsn;
	SpinLockRelease(&stream->mutex);
}

static void
confirm_slot(Decoder *decoder)
{
	if (decoder->synced_lsn <= MyReplicationSlot->data.confirmed_flush)
		return;
	LogicalConfirmReceivedLocation(decoder->synced_lsn);
	decoder->trust = LOG_TRUSTED;

	/* The server only does this when catalog_xmin moves, too. */
	ReplicationSlotsComputeRequiredLSN();
}

static void
trim_log(Decoder *decoder)
{
	LeaderStream *stream = decoder->state.stream;
	LogWriter  *writer = decoder->state.writer;
	XLogRecPtr	needed = registry_needed_lsn(stream);
	uint64		max_bytes = 0;
	XLogRecPtr	start;

	/* Without followers, only what the next one might start from is kept. */
	if (XLogRecPtrIsInvalid(needed) || needed > decoder->synced_lsn)
		needed = decoder->synced_lsn;
	if (fanout_max_retention >= 0)
		max_bytes = Max((uint64) fanout_max_retention * 1024 * 1024, 1);

	start = log_writer_trim(writer, needed, max_bytes);
	if (start == decoder->start_lsn)
		return;
	decoder->start_lsn = start;

	SpinLockAcquire(&stream->mutex);
	stream->log_start_lsn = start;
	SpinLockRelease(&stream->mutex);
	(void) registry_mark_lost(stream, start);
}

/*
 * Warn when the log takes more than a fifth of the space that would be free without it;
 * once, until it takes less again.
 */
static void
check_free_space(Decoder *decoder)
{
	LeaderStream *stream = decoder->state.stream;
	uint64		bytes = log_writer_bytes(decoder->state.writer);
	char		path[MAXPGPATH];
	struct statvfs st;
	uint64		available;

	hint_path(path, HINT_STREAM, stream->dboid, stream->id);
	if (statvfs(path, &st) != 0)
		return;
	available = (uint64) st.f_bavail * st.f_frsize + bytes;
	if (bytes > available / FREE_SPACE_SHARE && !decoder->warned_of_space)
		ereport(WARNING,
				(errmsg("the change log of stream \"%s\" takes more than a fifth of the free disk space",
						NameStr(stream->name)),
				 errdetail("It has " UINT64_FORMAT " MB, with " UINT64_FORMAT " MB left on that disk.",
						   bytes / (1024 * 1024), (available - bytes) / (1024 * 1024)),
				 errhint("Look for followers in fanout.followers that are away, or lower \"fanout.max_retention\".")));
	decoder->warned_of_space = bytes > available / FREE_SPACE_SHARE;
}

/* The log was just opened: note what it holds, and who can't go on with it. */
void
retention_start(Decoder *decoder)
{
	LogWriter  *writer = decoder->state.writer;
	int64		now = fanout_boottime_us();

	decoder->synced_lsn = log_writer_sync(writer);
	decoder->start_lsn = log_writer_start_lsn(writer);
	decoder->kept_bytes = log_writer_bytes(writer);
	decoder->marked_at = now;
	decoder->upkeep_at = now + UPKEEP_INTERVAL_US;
	(void) registry_mark_lost(decoder->state.stream, decoder->start_lsn);
}

void
retention_upkeep(Decoder *decoder, bool force)
{
	LogWriter  *writer = decoder->state.writer;
	int64		now = fanout_boottime_us();

	if (!force && now < decoder->upkeep_at &&
		log_writer_bytes(writer) < decoder->kept_bytes + UPKEEP_BYTES)
		return;

	log_writer_check_file(writer);
	mark_progress(decoder, now);
	sync_log(decoder);
	confirm_slot(decoder);
	trim_log(decoder);
	check_free_space(decoder);
	registry_save(decoder->state.stream, false);

	decoder->kept_bytes = log_writer_bytes(writer);
	decoder->upkeep_at = fanout_boottime_us() + UPKEEP_INTERVAL_US;
}
