/*
 * decoder.c
 *		The decoder: decodes the WAL of one stream's database into its change log.
 *
 * One background worker per stream, started by the launcher for a hint.  It owns
 * the stream's slot (slot.c) and its log, runs the server's logical decoding with
 * our output plugin (output_plugin.c), and tells in shared memory how far the log
 * may be read.
 *
 * The log is its own authority: what the slot has confirmed may lie far behind it
 * after a crash.  So the log is cut at its last whole transaction when it is opened,
 * and that end is where decoding goes on; transactions before it are skipped by
 * the server.
 *
 * A process that decodes is left out when others compute which rows may still be
 * seen.  So all reading of tables happens before the decoding begins, and the
 * process never gets an xid: a row that it wrote would be taken for a dead one.
 *
 * What ends a decoder: an error, which is kept for fanout.streams and retried by
 * the launcher; SIGTERM; or the end of the stream, after which its slot, hint and
 * shared-memory record are removed.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlogreader.h"
#include "access/xlogutils.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "replication/decode.h"
#include "replication/logical.h"
#include "replication/slot.h"
#include "storage/ipc.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "launcher.h"
#include "leader/decoder.h"
#include "leader/sequence.h"
#include "own_tables.h"
#include "session.h"
#include "transaction.h"

/* Handed to the kernel at the latest when so much waits for it. */
#define PUBLISH_BYTES	(64 * 1024)

/* Without any progress, before what can't be decoded may be given up. */
#define MAX_FAILURES	5

Decoder    *MyDecoder = NULL;

bool
decoding_in_progress(void)
{
	return MyDecoder != NULL;
}

static void
set_state(LeaderStream *stream, LeaderStreamState state)
{
	SpinLockAcquire(&stream->mutex);
	stream->state = state;
	SpinLockRelease(&stream->mutex);
}

/* ---------- the stream's row ---------- */

/* The row as of now; NULL when there is none, or no extension either. */
static StreamRow *
read_row(int32 id)
{
	StreamRow  *row = NULL;
	MemoryContext oldcontext = CurrentMemoryContext;

	fanout_start_transaction();
	PushActiveSnapshot(GetTransactionSnapshot());
	MyDecoder->state.stream_table = own_table_oid("stream");
	MyDecoder->state.schema_change_table = own_table_oid("schema_change");
	if (OidIsValid(MyDecoder->state.stream_table))
	{
		MemoryContextSwitchTo(oldcontext);
		row = stream_row_by_id(id);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(oldcontext);
	return row;
}

/* The row; NULL when there is none, nor one to come. */
static StreamRow *
find_row(int32 id)
{
	StreamRow  *row = read_row(id);

	if (row == NULL)
	{
		own_table_wait_for_writers("stream");
		row = read_row(id);
	}
	return row;
}

/* ---------- start and end ---------- */

static void
decoder_gone(int code, Datum arg)
{
	LeaderStream *stream = MyDecoder->state.stream;

	if (stream == NULL)
		return;
	pg_atomic_write_u32(&stream->decoder_asleep, 0);
	worker_info_stopped(&stream->mutex, &stream->worker);
}

static void
decoder_init(const Hint *hint)
{
	LeaderStream *stream;
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "pg_fanout decoder",
												  ALLOCSET_DEFAULT_SIZES);

	MemoryContextSwitchTo(context);
	stream = leader_stream_claim(hint->dboid, hint->id);
	MyDecoder = palloc0(sizeof(Decoder));
	MyDecoder->state.stream = stream;
	before_shmem_exit(decoder_gone, (Datum) 0);
	if (stream != NULL)
		worker_info_started(&stream->mutex, &stream->worker);
}

/* The stream is gone: remove what is left of it. */
static void
forget_stream(LeaderStream *stream, const Hint *hint)
{
	slot_drop(hint->dboid, hint->id);
	hint_remove(HINT_STREAM, hint->dboid, hint->id);
	if (stream == NULL)
		return;

	/* From here on the record may be another stream's. */
	worker_info_stopped(&stream->mutex, &stream->worker);
	MyDecoder->state.stream = NULL;
	leader_stream_release(stream);
}

/* The next decoder begins a new log.  Until then there is none, and senders let go of the old one. */
static void
give_up_log(LeaderStream *stream, LogTrust trust)
{
	pg_atomic_write_u32(&stream->log_trust, trust);
	SpinLockAcquire(&stream->mutex);
	stream->end.generation = 0;
	SpinLockRelease(&stream->mutex);
}

/*
 * The disk is full, although the writer has removed all old segments.  The WAL must not
 * wait for it to be otherwise: the next decoder begins a new log, and if there is no
 * room for what it has to decode either, the one after that begins with a new slot.
 */
static void
disk_is_full(LeaderStream *stream)
{
	give_up_log(stream, MyDecoder->trust >= LOG_DISCARD ? LOG_NEW_SLOT : LOG_DISCARD);
}

/*
 * The decoder has failed.  If it does so again and again without getting any further, what
 * its slot holds back is bounded as the log is: past that, the next decoder begins with a
 * new slot, and the followers copy again.
 */
static void
limit_failures(LeaderStream *stream)
{
	XLogRecPtr	confirmed;
	uint64		wal_mb;

	if (MyReplicationSlot == NULL)
		return;
	confirmed = MyReplicationSlot->data.confirmed_flush;
	stream->failures = confirmed == stream->failed_lsn ? stream->failures + 1 : 1;
	stream->failed_lsn = confirmed;
	if (stream->failures < MAX_FAILURES || fanout_max_retention < 0)
		return;
	wal_mb = (GetFlushRecPtr(NULL) - MyReplicationSlot->data.restart_lsn) / (1024 * 1024);
	if (wal_mb < Max(fanout_max_retention, 1))
		return;
	ereport(WARNING,
			(errmsg("stream \"%s\" goes on without what can't be decoded, and its followers copy again",
					NameStr(stream->name)),
			 errdetail("Decoding the changes after %X/%X has failed %d times in a row, and holds back "
					   UINT64_FORMAT " MB of WAL, as much as \"fanout.max_retention\" allows.",
					   LSN_FORMAT_ARGS(confirmed), stream->failures, wal_mb)));
	give_up_log(stream, LOG_NEW_SLOT);
	stream->failures = 0;
}

/* Keep the error for the views; it goes on to the server log. */
static void
keep_error(LeaderStream *stream)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(TopMemoryContext);
	ErrorData  *error = CopyErrorData();
	char	   *text = error->message ? error->message : "unknown error";

	if (error->detail)
		text = psprintf("%s: %s", text, error->detail);
	worker_info_error(&stream->mutex, &stream->worker, text);
	set_state(stream, STREAM_FAILED);
	if (error->sqlerrcode == ERRCODE_DISK_FULL)
		disk_is_full(stream);
	limit_failures(stream);
	MemoryContextSwitchTo(oldcontext);
}

static void
check_server(void)
{
	if (wal_level < WAL_LEVEL_LOGICAL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("decoding a stream requires \"wal_level\" to be \"logical\""),
				 errhint("Set \"wal_level\" to \"logical\" and restart the server.")));
	CheckLogicalDecodingRequirements();
}

/* Values in text form must name their types and functions in full. */
static void
prepare_session(void)
{
	session_set("search_path", "");

	/* Newer minor releases load only the output plugins that are named there. */
	if (GetConfigOption("output_plugin_libraries", true, false) != NULL)
		session_set("output_plugin_libraries", FANOUT_LIBRARY);
}

/* ---------- decoding ---------- */

static void
open_log(Decoder *decoder, bool discard)
{
	LeaderStream *stream = decoder->state.stream;
	LogIdentity identity = {
		.system_identifier = GetSystemIdentifier(),
		.timeline = GetWALInsertionTimeLine(),
		.stream_id = stream->id,
	};
	char		dir[MAXPGPATH];

	registry_set_history(stream, identity.system_identifier, identity.timeline);
	hint_path(dir, HINT_STREAM, stream->dboid, stream->id);
	decoder->state.writer = log_writer_open(dir, &identity,
											MyReplicationSlot->data.confirmed_flush,
											discard || decoder->trust >= LOG_DISCARD,
											decoder->trust == LOG_VERIFY, &decoder->end);
	decoder->decoded_lsn = decoder->end.lsn;
	retention_start(decoder);
	decoder_publish(decoder);
}

/* Decoding starts before the end of the log, so at first records are old ones. */
static void
note_decoded(Decoder *decoder, XLogRecPtr lsn)
{
	Assert(!TransactionIdIsValid(GetTopTransactionIdIfAny()));

	if (lsn > decoder->decoded_lsn)
		decoder->decoded_lsn = lsn;
	if (log_writer_buffered(decoder->state.writer) >= PUBLISH_BYTES)
		decoder_publish(decoder);
}

/* Decode until the extension is dropped. */
static void
decode(Decoder *decoder)
{
	LogicalDecodingContext *ctx;
	MemoryContext context = CurrentMemoryContext;

	ctx = CreateDecodingContext(decoder->end.lsn, NIL, false,
								XL_ROUTINE(.page_read = decoder_read_page,
										   .segment_open = wal_segment_open,
										   .segment_close = wal_segment_close),
								NULL, NULL, NULL);
	ctx->output_writer_private = &decoder->state;
	/* What was read until now is of this moment, not of the one that is decoded. */
	InvalidateSystemCaches();
	set_state(decoder->state.stream, STREAM_STREAMING);

	XLogBeginRead(ctx->reader, MyReplicationSlot->data.restart_lsn);
	while (!decoder->state.extension_gone)
	{
		char	   *error = NULL;
		XLogRecord *record = XLogReadRecord(ctx->reader, &error);

		if (record == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("could not read WAL at %X/%X: %s",
							LSN_FORMAT_ARGS(ctx->reader->EndRecPtr),
							error ? error : "no record")));
		sequences_note(ctx->reader);
		early_commits_note(ctx);
		LogicalDecodingProcessRecord(ctx, ctx->reader);

		/* The reader's buffers live in the current context; decoding changes it. */
		MemoryContextSwitchTo(context);
		note_decoded(decoder, ctx->reader->EndRecPtr);
	}
	FreeDecodingContext(ctx);
}

static void
run_stream(Decoder *decoder, const Hint *hint)
{
	LeaderStream *stream = decoder->state.stream;

	decoder->state.row = find_row(hint->id);
	if (decoder->state.row == NULL)
	{
		forget_stream(stream, hint);
		return;
	}
	if (stream == NULL)
		return;					/* one too many: the launcher has said so */
	SpinLockAcquire(&stream->mutex);
	stream->name = decoder->state.row->name;
	stream->state = STREAM_STARTING;
	SpinLockRelease(&stream->mutex);

	check_server();
	prepare_session();
	sequences_start();
	decoder->trust = pg_atomic_exchange_u32(&stream->log_trust, LOG_TRUSTED);
	if (decoder->trust == LOG_NEW_SLOT)
		slot_drop(stream->dboid, stream->id);
	open_log(decoder, slot_acquire_or_create(stream));
	decode(decoder);
}

/*
 * Entry point.  When the extension was dropped the worker just ends; its successor
 * finds no row.
 */
void
fanout_decoder_main(Datum arg)
{
	Hint		hint = worker_start();

	decoder_init(&hint);
	PG_TRY();
	{
		run_stream(MyDecoder, &hint);
	}
	PG_CATCH();
	{
		if (MyDecoder->state.stream != NULL)
			keep_error(MyDecoder->state.stream);
		PG_RE_THROW();
	}
	PG_END_TRY();
	proc_exit(0);
}
