/*
 * apply_update.c
 *		An UPDATE of a table without triggers that fire here.
 *
 * As the server's ExecSimpleRelationUpdate(), but for the entry in a unique index whose
 * key stays as it was: nobody can have the same key, so that the index is not asked
 * for others.  The old version of the row, which has it, holds them off until the
 * local transaction ends.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/tableam.h"
#include "catalog/index.h"
#include "executor/executor.h"
#include "utils/datum.h"
#include "utils/rel.h"

#include "compat.h"
#include "follower/apply_internal.h"

/* Can it be done here?  What indexes of other kinds need is the server's business. */
bool
update_is_plain(const ApplyRelation *relation)
{
	for (int i = 0; i < relation->result->ri_NumIndices; i++)
	{
		IndexInfo  *info = relation->result->ri_IndexRelationInfo[i];
		Relation	index = relation->result->ri_IndexRelationDescs[i];

		if (info->ii_Expressions != NIL || info->ii_Predicate != NIL ||
			info->ii_ExclusionOps != NULL || !info->ii_ReadyForInserts ||
			(info->ii_Unique && !index->rd_index->indimmediate))
			return false;
	}
	return !relation->triggers;
}

/* Are the index's columns the same in both, and not null? */
static bool
same_key(const IndexInfo *info, TupleTableSlot *before, TupleTableSlot *after)
{
	for (int i = 0; i < info->ii_NumIndexAttrs; i++)
	{
		AttrNumber	attnum = info->ii_IndexAttrNumbers[i];
		Form_pg_attribute attr = TupleDescAttr(after->tts_tupleDescriptor, attnum - 1);
		bool		null_before;
		bool		null_after;
		Datum		a = slot_getattr(before, attnum, &null_before);
		Datum		b = slot_getattr(after, attnum, &null_after);

		if (null_before || null_after || !datumIsEqual(a, b, attr->attbyval, attr->attlen))
			return false;
	}
	return true;
}

static void
insert_entry(ApplyRelation *relation, int i, TupleTableSlot *row)
{
	IndexInfo  *info = relation->result->ri_IndexRelationInfo[i];
	bool		same = same_key(info, relation->found_slot, row);
	Datum		values[INDEX_MAX_KEYS];
	bool		isnull[INDEX_MAX_KEYS];

	FormIndexDatum(info, row, group_estate(), values, isnull);
	(void) index_insert(relation->result->ri_IndexRelationDescs[i], values, isnull,
						&row->tts_tid, relation->rel,
						info->ii_Unique && !same ? UNIQUE_CHECK_YES : UNIQUE_CHECK_NO,
						same, info);
}

/* The row in found_slot becomes this one. */
void
update_plainly(ApplyRelation *relation, TupleTableSlot *row)
{
	FanoutUpdateIndexes update;

	CheckCmdReplicaIdentity(relation->rel, CMD_UPDATE);
	row_prepare(relation, row);
	simple_table_tuple_update(relation->rel, &relation->found_slot->tts_tid, row,
							  group_estate()->es_snapshot, &update);
	for (int i = 0; i < relation->result->ri_NumIndices; i++)
	{
		if (fanout_needs_entry(update, relation->result->ri_IndexRelationInfo[i]))
			insert_entry(relation, i, row);
	}
}
