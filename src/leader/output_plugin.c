/*
 * output_plugin.c
 *		The output plugin of the decoder: turns decoded changes into frames of the
 *		change log.
 *
 * The server calls it with whole transactions in commit order.  A transaction
 * that changed nothing that is published writes nothing: it is begun in the
 * log with its first change.  Publications, column lists and row filters are
 * publication.c's business.
 *
 * It works in a decoder only, with the DecoderState that this has put into
 * ctx->output_writer_private; called from anywhere else it refuses to start.
 *
 * Memory: each change is worked on in a context that is reset after it.  The server
 * spills large transactions to disk, and the log takes changes one by one, so none
 * is ever in memory as a whole.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "replication/logical.h"
#include "replication/output_plugin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "arrays.h"
#include "compat.h"
#include "leader/ddl.h"
#include "leader/decoder.h"
#include "leader/plugin.h"
#include "leader/publication.h"
#include "leader/sequence.h"
#include "own_tables.h"
#include "log/statement.h"

extern PGDLLEXPORT void _PG_output_plugin_init(OutputPluginCallbacks *cb);

/* The relation cache was told something about fanout.stream. */
static Oid	watched_table = InvalidOid;
static bool watched_table_touched = false;

/* ---------- the end of the extension ---------- */

static void
watch_callback(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || relid == watched_table)
		watched_table_touched = true;
}

/*
 * DROP EXTENSION takes the table with it, without deleting its rows.  Looked at with
 * the snapshot of a transaction: at its end it sees what the transaction did itself, and at
 * its begin what others did that had nothing to decode.
 */
static void
watch_extension(DecoderState *state)
{
	static bool registered = false;

	if (!registered)
	{
		CacheRegisterRelcacheCallback(watch_callback, (Datum) 0);
		registered = true;
	}
	watched_table = state->stream_table;
	if (!watched_table_touched)
		return;
	watched_table_touched = false;
	if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(watched_table)))
		state->extension_gone = true;
}

/* ---------- rows ---------- */

/* Store a decoded tuple of the relation as a row of what it is published as. */
static void
store_row(PublishedRelation *rel, TupleTableSlot *slot, Relation relation, HeapTuple tuple)
{
	TupleDesc	tupdesc = RelationGetDescr(relation);
	AttrMap    *map = rel->map;

	ExecClearTuple(slot);
	if (map == NULL)
		heap_deform_tuple(tuple, tupdesc, slot->tts_values, slot->tts_isnull);
	else
	{
		heap_deform_tuple(tuple, tupdesc, rel->raw_values, rel->raw_isnull);
		for (int i = 0; i < map->maplen; i++)
		{
			int			from = map->attnums[i] - 1;

			slot->tts_isnull[i] = from < 0 || rel->raw_isnull[from];
			slot->tts_values[i] = from < 0 ? (Datum) 0 : rel->raw_values[from];
		}
	}
	ExecStoreVirtualTuple(slot);
}

/* A TOASTed value that an UPDATE left alone is not in the WAL. */
static bool
is_unchanged_toast(TupleTableSlot *slot, int i)
{
	return !slot->tts_isnull[i] &&
		TupleDescAttr(slot->tts_tupleDescriptor, i)->attlen == -1 &&
		VARATT_IS_EXTERNAL_ONDISK(DatumGetPointer(slot->tts_values[i]));
}

/* But the old row has it, when the column is part of the replica identity. */
static void
complete_from_old_row(TupleTableSlot *newslot, TupleTableSlot *oldslot)
{
	for (int i = 0; i < newslot->tts_tupleDescriptor->natts; i++)
	{
		if (is_unchanged_toast(newslot, i) && !oldslot->tts_isnull[i] &&
			!is_unchanged_toast(oldslot, i))
			newslot->tts_values[i] = oldslot->tts_values[i];
	}
}

/* The published columns of a row, in the current memory context. */
static void
pick_columns(RowValues *row, PublishedRelation *rel, TupleTableSlot *slot)
{
	int			natts = rel->desc->natts;
	Datum	   *values = palloc(natts * sizeof(Datum));
	bool	   *isnull = palloc(natts * sizeof(bool));
	bool	   *unchanged = palloc(natts * sizeof(bool));

	for (int i = 0; i < natts; i++)
	{
		int			from = rel->attnums[i] - 1;

		values[i] = slot->tts_values[from];
		isnull[i] = slot->tts_isnull[from];
		unchanged[i] = is_unchanged_toast(slot, from);
	}
	row->values = values;
	row->isnull = isnull;
	row->unchanged = unchanged;
}

/* ---------- row filters ---------- */

static bool
row_matches(PublishedRelation *rel, ExprState *filter, TupleTableSlot *slot)
{
	ExprContext *econtext = GetPerTupleExprContext(rel->estate);
	bool		isnull;
	Datum		result;

	econtext->ecxt_scantuple = slot;
	result = ExecEvalExprSwitchContext(filter, econtext, &isnull);
	ResetExprContext(econtext);
	return !isnull && DatumGetBool(result);
}

/*
 * Is the change published?  An UPDATE that takes a row across the border of the
 * filter becomes an INSERT or a DELETE.  A slot that the change does not have is
 * NULL; an UPDATE that left the key alone has no old row, and moves across no border.
 */
static bool
filter_change(PublishedRelation *rel, RowAction *action,
			  TupleTableSlot *oldslot, TupleTableSlot *newslot)
{
	ExprState  *filter = rel->filters[*action];
	bool		old_matches;
	bool		new_matches;

	if (filter == NULL)
		return true;
	if (oldslot == NULL || newslot == NULL)
		return row_matches(rel, filter, newslot ? newslot : oldslot);

	old_matches = row_matches(rel, filter, oldslot);
	new_matches = row_matches(rel, filter, newslot);
	if (new_matches && !old_matches)
		*action = ROW_INSERT;
	else if (old_matches && !new_matches)
		*action = ROW_DELETE;
	return old_matches || new_matches;
}

/* ---------- writing ---------- */

void
plugin_begin_in_log(Plugin *plugin, DecoderState *state, ReorderBufferTXN *txn)
{
	LogTxn		logtxn = {0};

	if (plugin->begun)
		return;
	logtxn.xid = fanout_full_xid(txn->xid);
	logtxn.commit_lsn = txn->final_lsn;
	logtxn.end_lsn = txn->end_lsn;
	logtxn.commit_time = txn->xact_time.commit_time;
	log_writer_begin(state->writer, &logtxn);
	plugin->begun = true;
}

void
plugin_describe_in_log(DecoderState *state, PublishedRelation *rel)
{
	Oid			relid = rel->desc->relid;
	StringInfoData buf;

	if (!rel->described)
		log_writer_forget_relation(state->writer, relid);
	rel->described = true;
	if (!log_writer_needs_relation(state->writer, relid))
		return;
	initStringInfo(&buf);
	relation_desc_encode(&buf, rel->desc);
	log_writer_put_relation(state->writer, relid, buf.data, buf.len);
}

/* A change of a row, from what was decoded to the bytes of the log. */
typedef struct RowChange
{
	PublishedRelation *rel;
	RowAction	action;
	OldRowKind	oldkind;
	TupleTableSlot *oldslot;	/* NULL: none */
	TupleTableSlot *newslot;
	bool		wanted;			/* no row filter keeps it out */
	StringInfoData buf;
} RowChange;

/* Everything that runs functions of types and filters. */
static void
encode_row(void *arg)
{
	RowChange  *row = arg;
	RowEncoder *encoder = row->rel->encoder;
	RowValues	oldrow;
	RowValues	newrow;

	row->wanted = filter_change(row->rel, &row->action, row->oldslot, row->newslot);
	if (!row->wanted)
		return;
	if (row->oldslot != NULL)
		pick_columns(&oldrow, row->rel, row->oldslot);
	if (row->newslot != NULL)
		pick_columns(&newrow, row->rel, row->newslot);

	initStringInfo(&row->buf);
	switch (row->action)
	{
		case ROW_INSERT:
			change_encode_insert(&row->buf, encoder, &newrow);
			break;
		case ROW_UPDATE:
			change_encode_update(&row->buf, encoder, row->oldslot ? row->oldkind : OLD_NONE,
								 row->oldslot ? &oldrow : NULL, &newrow);
			break;
		case ROW_DELETE:
			change_encode_delete(&row->buf, encoder, row->oldkind, &oldrow);
			break;
	}
}

/* Bytes of columns that go as they are can only be too many, which takes values out of line. */
static bool
may_fail(const RowChange *row, const ReorderBufferChange *change)
{
	return row->rel->estate != NULL || row_encoder_may_fail(row->rel->encoder) ||
		(row->oldslot != NULL &&
		 HeapTupleHasExternal(fanout_change_tuple(change->data.tp.oldtuple))) ||
		(row->newslot != NULL &&
		 HeapTupleHasExternal(fanout_change_tuple(change->data.tp.newtuple)));
}

static void
write_change(Plugin *plugin, DecoderState *state, ReorderBufferTXN *txn, RowChange *row,
			 const ReorderBufferChange *change)
{
	ErrorData  *error = NULL;

	if (list_member_oid(plugin->set_aside, row->rel->desc->relid))
		return;
	if (may_fail(row, change))
		error = plugin_try(encode_row, row);
	else
		encode_row(row);
	if (error != NULL)
		plugin_set_aside(plugin, state, txn, row->rel, error);
	if (error != NULL || !row->wanted)
		return;

	plugin_begin_in_log(plugin, state, txn);
	plugin_describe_in_log(state, row->rel);
	log_writer_put_change(state->writer, row->buf.data, row->buf.len);
	state->changes++;
}

void
plugin_write_body(Plugin *plugin, DecoderState *state, ReorderBufferTXN *txn,
				  ChangeOp op, const StringInfoData *body)
{
	StringInfoData buf;

	initStringInfo(&buf);
	change_encode_body(&buf, op, body->data, body->len);
	plugin_begin_in_log(plugin, state, txn);
	log_writer_put_change(state->writer, buf.data, buf.len);
	state->changes++;
}

/* Which of the actions it is; false when that one is not published. */
static bool
row_action(const PublishedRelation *rel, ReorderBufferChangeType type, RowAction *action)
{
	switch (type)
	{
		case REORDER_BUFFER_CHANGE_INSERT:
			*action = ROW_INSERT;
			return rel->actions.pubinsert;
		case REORDER_BUFFER_CHANGE_UPDATE:
			*action = ROW_UPDATE;
			return rel->actions.pubupdate;
		case REORDER_BUFFER_CHANGE_DELETE:
			*action = ROW_DELETE;
			return rel->actions.pubdelete;
		default:
			elog(ERROR, "unexpected kind of row change: %d", (int) type);
	}
	return false;
}

/* A stream that names publications has to know of it if the table joins in the same transaction. */
void
plugin_leave_out(const DecoderState *state, Relation relation)
{
	if (!state->row->own_publication)
		published_tables_note_change(relation);
}

static void
decode_row(Plugin *plugin, DecoderState *state, ReorderBufferTXN *txn,
		   Relation relation, ReorderBufferChange *change)
{
	PublishedRelation *rel = publication_lookup(relation);
	RowChange	row = {.rel = rel};

	if (!row_action(rel, change->action, &row.action))
	{
		plugin_leave_out(state, relation);
		return;
	}
	if (row.action != ROW_INSERT && change->data.tp.oldtuple != NULL)
	{
		row.oldslot = rel->oldslot;
		store_row(rel, row.oldslot, relation, fanout_change_tuple(change->data.tp.oldtuple));
	}
	if (row.action != ROW_DELETE)
	{
		row.newslot = rel->newslot;
		store_row(rel, row.newslot, relation, fanout_change_tuple(change->data.tp.newtuple));
	}
	else if (row.oldslot == NULL)
	{
		/* Deleted before the table was published, when it needed no key. */
		elog(DEBUG1, "skipping a DELETE from table \"%s\" without the old row's key",
			 RelationGetRelationName(relation));
		return;
	}
	if (row.oldslot != NULL && row.newslot != NULL)
		complete_from_old_row(row.newslot, row.oldslot);

	row.oldkind = relation->rd_rel->relreplident == REPLICA_IDENTITY_FULL ? OLD_FULL : OLD_KEY;
	write_change(plugin, state, txn, &row, change);
}

/* ---------- callbacks ---------- */

static void
plugin_startup(LogicalDecodingContext *ctx, OutputPluginOptions *options, bool is_init)
{
	Plugin	   *plugin;

	if (!decoding_in_progress())
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("output plugin \"%s\" can be used by the decoders of pg_fanout only",
						FANOUT_LIBRARY),
				 errhint("Use fanout.create_stream() to decode changes.")));

	options->output_type = OUTPUT_PLUGIN_BINARY_OUTPUT;
	options->receive_rewrites = false;

	plugin = palloc0(sizeof(Plugin));
	plugin->change_context = AllocSetContextCreate(ctx->context, "pg_fanout change",
												   ALLOCSET_DEFAULT_SIZES);
	plugin->transaction_context = AllocSetContextCreate(ctx->context, "pg_fanout transaction",
														ALLOCSET_SMALL_SIZES);
	ctx->output_plugin_private = plugin;
	publication_start(ctx->context, MyDecoder->state.row);
	published_tables_start(ctx->context);
}

static void
plugin_shutdown(LogicalDecodingContext *ctx)
{
	publication_stop();
}

static void
plugin_begin(LogicalDecodingContext *ctx, ReorderBufferTXN *txn)
{
	Plugin	   *plugin = ctx->output_plugin_private;

	plugin->begun = false;
	plugin->running = NIL;
	plugin->set_aside = NIL;
	MemoryContextReset(plugin->transaction_context);
	publication_forget_invalid();
	published_tables_begin();
	watch_extension(ctx->output_writer_private);
}

static void
plugin_change(LogicalDecodingContext *ctx, ReorderBufferTXN *txn, Relation relation,
			  ReorderBufferChange *change)
{
	Plugin	   *plugin = ctx->output_plugin_private;
	DecoderState *state = ctx->output_writer_private;
	MemoryContext oldcontext;

	CHECK_FOR_INTERRUPTS();
	oldcontext = MemoryContextSwitchTo(plugin->change_context);
	if (RelationGetRelid(relation) == state->schema_change_table)
		decode_schema_change(plugin, state, txn, relation, change);
	else if (!decode_ddl_skips(plugin, RelationGetRelid(relation)))
		decode_row(plugin, state, txn, relation, change);
	MemoryContextSwitchTo(oldcontext);
	MemoryContextReset(plugin->change_context);
}

static void
plugin_truncate(LogicalDecodingContext *ctx, ReorderBufferTXN *txn, int nrelations,
				Relation relations[], ReorderBufferChange *change)
{
	Plugin	   *plugin = ctx->output_plugin_private;
	MemoryContext oldcontext = MemoryContextSwitchTo(plugin->change_context);

	decode_truncate(plugin, ctx->output_writer_private, txn, nrelations, relations, change);
	MemoryContextSwitchTo(oldcontext);
	MemoryContextReset(plugin->change_context);
}

/* What sequences were at by the transaction's commit goes with it. */
static void
write_sequences(Plugin *plugin, DecoderState *state, ReorderBufferTXN *txn)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(plugin->change_context);
	ListCell   *lc;

	foreach(lc, sequences_take(state->row, txn->base_snapshot->xmin, txn->end_lsn))
	{
		StringInfoData buf;

		initStringInfo(&buf);
		change_encode_sequence(&buf, lfirst(lc));
		plugin_begin_in_log(plugin, state, txn);
		log_writer_put_change(state->writer, buf.data, buf.len);
	}
	MemoryContextSwitchTo(oldcontext);
	MemoryContextReset(plugin->change_context);
}

/* Tables have joined or left the publications that the stream names. */
static void
write_tables(Plugin *plugin, DecoderState *state, ReorderBufferTXN *txn)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(plugin->change_context);
	ListCell   *lc;

	foreach(lc, state->row->own_publication ? NIL : published_tables_take())
		plugin_write_body(plugin, state, txn, CHANGE_TABLES, lfirst(lc));
	MemoryContextSwitchTo(oldcontext);
	MemoryContextReset(plugin->change_context);
}

static void
plugin_commit(LogicalDecodingContext *ctx, ReorderBufferTXN *txn, XLogRecPtr commit_lsn)
{
	Plugin	   *plugin = ctx->output_plugin_private;
	DecoderState *state = ctx->output_writer_private;

	watch_extension(state);
	write_sequences(plugin, state, txn);
	write_tables(plugin, state, txn);
	if (!plugin->begun)
		return;
	log_writer_commit(state->writer);
	state->transactions++;
	plugin->begun = false;
}

/*
 * Without callbacks for streaming and two-phase commit, the server hands over only
 * whole transactions, prepared ones at COMMIT PREPARED; without one for origins,
 * also those that came here by replication.
 */
void
_PG_output_plugin_init(OutputPluginCallbacks *cb)
{
	cb->startup_cb = plugin_startup;
	cb->begin_cb = plugin_begin;
	cb->change_cb = plugin_change;
	cb->truncate_cb = plugin_truncate;
	cb->commit_cb = plugin_commit;
	cb->shutdown_cb = plugin_shutdown;
}
