/*
 * uncarried.c
 *		Rows that the stream can't carry: their table is set aside, and the rest goes on.
 *
 * A row may be stored that can't be sent: its columns have more than 1 GB together, a value has
 * more than that in text form, a type's output function fails, or the expression of a row filter.
 * Any role that may write to a published table can make such a row.  A decoder that ended
 * with the error would find the same row again, for ever.
 *
 * So what can fail for a reason of the row's is done in a subtransaction, which gives back
 * whatever the failing function held.  The log then has a CHANGE_UNCARRIED in the place of the
 * row, with the reason; followers take the table out of line with the stream and copy it
 * again, as long as it takes until that can be done.  What comes of the table
 * in the same transaction is left out: they would ignore it.
 *
 * An error that is not the row's but the process's (it is to end, the disk is full, files
 * are damaged) ends the decoder as ever.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "leader/plugin.h"

static bool
is_of_process(const ErrorData *error)
{
	int			category = ERRCODE_TO_CATEGORY(error->sqlerrcode);

	return category == ERRCODE_OPERATOR_INTERVENTION || category == ERRCODE_SYSTEM_ERROR ||
		error->sqlerrcode == ERRCODE_DISK_FULL ||
		error->sqlerrcode == ERRCODE_DATA_CORRUPTED ||
		error->sqlerrcode == ERRCODE_INDEX_CORRUPTED;
}

ErrorData *
plugin_try(void (*function) (void *), void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		function(arg);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;

	if (error != NULL && is_of_process(error))
		ReThrowError(error);
	return error;
}

/* What the server says of something too large reads as if it had no memory. */
static const char *
reason_of(const ErrorData *error)
{
	if (error->sqlerrcode == ERRCODE_PROGRAM_LIMIT_EXCEEDED ||
		(error->sqlerrcode == ERRCODE_INTERNAL_ERROR &&
		 strncmp(error->message, "invalid memory alloc", strlen("invalid memory alloc")) == 0))
		return "it has more than 1 GB in the form in which it is sent";
	return error->message;
}

void
plugin_set_aside(Plugin *plugin, DecoderState *state, ReorderBufferTXN *txn,
				 PublishedRelation *rel, const ErrorData *error)
{
	StringInfoData buf;
	MemoryContext oldcontext;
	char	   *text = psprintf("a row of table \"%s.%s\" can't be sent, followers copy the table again: %s",
								rel->desc->nspname, rel->desc->relname, reason_of(error));

	row_encoder_reset(rel->encoder);
	ereport(LOG,
			(errmsg_internal("stream \"%s\": %s", NameStr(state->row->name), text)));
	worker_info_error(&state->stream->mutex, &state->stream->worker, text);

	initStringInfo(&buf);
	change_encode_uncarried(&buf, rel->desc->relid, reason_of(error));
	plugin_begin_in_log(plugin, state, txn);
	plugin_describe_in_log(state, rel);
	log_writer_put_change(state->writer, buf.data, buf.len);
	state->changes++;

	oldcontext = MemoryContextSwitchTo(plugin->transaction_context);
	plugin->set_aside = lappend_oid(plugin->set_aside, rel->desc->relid);
	MemoryContextSwitchTo(oldcontext);
}
