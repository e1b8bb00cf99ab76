/*
 * decode_truncate.c
 *		TRUNCATE, into the change log.
 *
 * The server's list has all tables that were emptied, partitions and those of a
 * CASCADE included.  A partition that is published as an ancestor goes with that one if it is on
 * the list, too.  If it is not, some rows of the ancestor have gone, and followers, whose
 * table may be partitioned otherwise, can't tell which: a change of its own says so, and
 * they copy the table again.
 */
#include "postgres.h"

#include "utils/rel.h"

#include "leader/plugin.h"

static bool
is_listed(Oid relid, int nrelations, Relation *relations)
{
	for (int i = 0; i < nrelations; i++)
	{
		if (RelationGetRelid(relations[i]) == relid)
			return true;
	}
	return false;
}

/* Was the table emptied itself (parts: or only some of what is published as it)? */
static bool
is_truncated(const PublishedRelation *rel, bool parts, int nrelations, Relation *relations)
{
	if (!rel->actions.pubtruncate)
		return false;
	if (rel->publish_as == rel->relid)
		return !parts;
	return parts && !is_listed(rel->publish_as, nrelations, relations);
}

static void
write_truncate(DecoderState *state, List *truncated, uint8 flags)
{
	Oid		   *relids = palloc(list_length(truncated) * sizeof(Oid));
	StringInfoData buf;
	ListCell   *lc;

	foreach(lc, truncated)
		relids[foreach_current_index(lc)] = lfirst_oid(lc);
	initStringInfo(&buf);
	change_encode_truncate(&buf, list_length(truncated), relids, flags);
	log_writer_put_change(state->writer, buf.data, buf.len);
	state->changes++;
}

static void
decode_truncated(Plugin *plugin, DecoderState *state, ReorderBufferTXN *txn, int nrelations,
				 Relation *relations, bool parts, uint8 flags)
{
	List	   *truncated = NIL;

	for (int i = 0; i < nrelations; i++)
	{
		PublishedRelation *rel = publication_lookup(relations[i]);

		if (!rel->actions.pubtruncate)
			plugin_leave_out(state, relations[i]);
		if (decode_ddl_skips(plugin, rel->relid) ||
			!is_truncated(rel, parts, nrelations, relations) ||
			(parts && list_member_oid(truncated, rel->publish_as)))
			continue;
		plugin_begin_in_log(plugin, state, txn);
		plugin_describe_in_log(state, rel);
		truncated = lappend_oid(truncated, rel->publish_as);
	}
	if (truncated != NIL)
		write_truncate(state, truncated, flags);
}

void
decode_truncate(Plugin *plugin, DecoderState *state, ReorderBufferTXN *txn,
				int nrelations, Relation *relations, ReorderBufferChange *change)
{
	uint8		flags = 0;

	if (change->data.truncate.cascade)
		flags |= TRUNCATE_CASCADE;
	if (change->data.truncate.restart_seqs)
		flags |= TRUNCATE_RESTART_IDENTITY;
	decode_truncated(plugin, state, txn, nrelations, relations, false, flags);
	decode_truncated(plugin, state, txn, nrelations, relations, true, flags | TRUNCATE_PARTS);
}
