/*
 * decode_ddl.c
 *		Schema changes, into the change log; and what is left out of it since it comes with one.
 *
 * A schema change is a row of fanout.schema_change, which the session that made it has
 * written (ddl_capture.c).  Other rows of that table mark where scripts of extensions, and
 * within them functions of event triggers, begin and end (ddl_script.c).  While the innermost
 * of these is a script, rows of the tables that are its own are left out
 * (extension_script.c): a follower's script writes them.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/rel.h"

#include "arrays.h"
#include "compat.h"
#include "extension_script.h"
#include "leader/ddl.h"
#include "leader/plugin.h"
#include "log/statement.h"
#include "own_tables.h"

/* A script or a function of an event trigger that has begun and not ended. */
typedef struct Running
{
	bool		script;
	List	   *others;			/* see extension_script_others() */
} Running;

/* ---------- scripts ---------- */

static void
note_mark(Plugin *plugin, uint8 flags, const char *text)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(plugin->transaction_context);

	if ((flags & MARK_END) != 0)
		plugin->running = list_delete_first(plugin->running);
	else
	{
		Running    *running = palloc0(sizeof(Running));

		running->script = (flags & MARK_SCRIPT) != 0;
		if (running->script)
			running->others = extension_script_others(text);
		plugin->running = lcons(running, plugin->running);
	}
	MemoryContextSwitchTo(oldcontext);
}

bool
decode_ddl_skips(const Plugin *plugin, Oid relid)
{
	Running    *running = plugin->running == NIL ? NULL : linitial(plugin->running);

	return running != NULL && running->script && extension_script_owns(relid, running->others);
}

/* ---------- statements ---------- */

/*
 * Those of the tables that a stream's publications publish, with their families.  The first one
 * is the one that the statement names.
 */
static List *
published_of(ArrayType *relations, uint8 *flags)
{
	List	   *relids = oid_array_list(relations);
	List	   *published = NIL;
	ListCell   *lc;

	foreach(lc, relids)
	{
		Relation	rel = RelationIdGetRelation(lfirst_oid(lc));

		if (!RelationIsValid(rel))
			continue;
		if (publication_publishes(rel))
			published = list_concat_unique_oid(published, published_family(lfirst_oid(lc)));
		else if (foreach_current_index(lc) == 0)
			*flags |= STATEMENT_OF_PARTS;
		RelationClose(rel);
	}
	return published;
}

/* They are about tables that are not published now, but may be by the end of the transaction. */
static void
leave_out(const DecoderState *state, ArrayType *relations)
{
	ListCell   *lc;

	foreach(lc, oid_array_list(relations))
	{
		Relation	rel = RelationIdGetRelation(lfirst_oid(lc));

		if (!RelationIsValid(rel))
			continue;
		plugin_leave_out(state, rel);
		RelationClose(rel);
	}
}

static List *
string_list(Datum array)
{
	List	   *strings = NIL;
	Datum	   *values;
	bool	   *nulls;
	int			count;

	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT, &values, &nulls,
					  &count);
	for (int i = 0; i < count; i++)
		strings = lappend(strings, nulls[i] ? "" : TextDatumGetCString(values[i]));
	return strings;
}

static void
write_statement(Plugin *plugin, DecoderState *state, ReorderBufferTXN *txn, const Datum *values,
				uint8 flags, List *relids)
{
	SchemaStatement statement = {
		.flags = flags,
		.number = (uint32) DatumGetInt32(values[Anum_schema_change_number - 1]),
		.relids = relids,
		.role = NameStr(*DatumGetName(values[Anum_schema_change_role - 1])),
		.session_role = NameStr(*DatumGetName(values[Anum_schema_change_session_role - 1])),
		.transaction_at = DatumGetTimestampTz(values[Anum_schema_change_transaction_at - 1]),
		.statement_at = DatumGetTimestampTz(values[Anum_schema_change_statement_at - 1]),
		.settings = string_list(values[Anum_schema_change_settings - 1]),
		.made = string_list(values[Anum_schema_change_made - 1]),
		.text = TextDatumGetCString(values[Anum_schema_change_statement - 1]),
	};
	StringInfoData encoded;

	initStringInfo(&encoded);
	statement_encode(&encoded, &statement);
	plugin_write_body(plugin, state, txn, CHANGE_STATEMENT, &encoded);
}

/*
 * A row of fanout.schema_change.  Nothing but its INSERT means anything.  A stream of all
 * tables has all schema changes, others those of their tables.  These don't have
 * extensions, but what their scripts write.
 */
void
decode_schema_change(Plugin *plugin, DecoderState *state, ReorderBufferTXN *txn,
					 Relation relation, ReorderBufferChange *change)
{
	Datum		values[Natts_schema_change];
	bool		nulls[Natts_schema_change];
	uint8		flags;
	List	   *relids = NIL;

	if (change->action != REORDER_BUFFER_CHANGE_INSERT || !state->row->ddl)
		return;
	heap_deform_tuple(fanout_change_tuple(change->data.tp.newtuple), RelationGetDescr(relation),
					  values, nulls);
	flags = (uint8) DatumGetInt32(values[Anum_schema_change_flags - 1]);
	if ((flags & MARKS) != 0)
	{
		if (state->row->own_publication)
			note_mark(plugin, flags,
					  TextDatumGetCString(values[Anum_schema_change_statement - 1]));
		return;
	}
	if (!state->row->own_publication)
		relids = published_of(DatumGetArrayTypeP(values[Anum_schema_change_relations - 1]), &flags);
	if (state->row->own_publication || relids != NIL)
		write_statement(plugin, state, txn, values, flags, relids);
	else
		leave_out(state, DatumGetArrayTypeP(values[Anum_schema_change_relations - 1]));
}
