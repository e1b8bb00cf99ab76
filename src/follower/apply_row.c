/*
 * apply_row.c
 *		One INSERT, UPDATE or DELETE of the leader on a local table.
 *
 * The table, its indexes and slots stay open for the whole local transaction
 * (apply_group.c).  A row to change is found by an index over columns that the
 * leader sends, or by a scan that compares all of them; a row that is not there is an
 * error, since leader and follower then differ.  In a partitioned table the steps are the
 * same, but it is apply_partition.c that takes them.
 *
 * The executor is called in the memory of its state, since it keeps there what it looks up for
 * the first row and uses for all others: the functions of triggers, and what these keep in turn.
 * Only values are made in the memory that is reset after each row (row_memory()).
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/sysattr.h"
#include "access/tableam.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/typcache.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "follower/apply_internal.h"

MemoryContext
row_memory(void)
{
	return GetPerTupleMemoryContext(group_estate());
}

/* ---------- rows to slots ---------- */

static void
put_columns(ApplyRelation *relation, const ColumnValue *row, TupleTableSlot *slot)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(row_memory());

	for (int i = 0; i < relation->desc->natts; i++)
	{
		ColumnInput *input = &relation->inputs[i];
		int			at = input->attnum - 1;

		if (row[i].kind == VALUE_UNCHANGED)
			continue;
		apply_position.column = &relation->desc->columns[i];
		slot->tts_isnull[at] = row[i].kind == VALUE_NULL;
		if (row[i].kind == VALUE_PRESENT)
			slot->tts_values[at] = column_input_value(input, &relation->desc->columns[i],
													  &row[i]);
	}
	apply_position.column = NULL;
	MemoryContextSwitchTo(oldcontext);
}

static void
clear_row(TupleTableSlot *slot)
{
	int			natts = slot->tts_tupleDescriptor->natts;

	ExecClearTuple(slot);
	memset(slot->tts_values, 0, natts * sizeof(Datum));
	memset(slot->tts_isnull, true, natts * sizeof(bool));
}

/* The row as the leader sent it; columns of our own get their defaults. */
void
row_put_new(ApplyRelation *relation, const ColumnValue *row, TupleTableSlot *slot)
{
	clear_row(slot);
	put_columns(relation, row, slot);
	group_put_defaults(relation, slot);
	ExecStoreVirtualTuple(slot);
}

TupleTableSlot *
row_inserted(ApplyRelation *relation, const ColumnValue *row)
{
	row_put_new(relation, row, relation->new_slot);
	return relation->new_slot;
}

/* Did the leader send all columns of the table? */
static bool
is_whole(const ApplyRelation *relation, const ColumnValue *row)
{
	for (int i = 0; i < relation->desc->natts; i++)
	{
		if (row[i].kind == VALUE_UNCHANGED)
			return false;
	}
	return !relation->has_extra;
}

/* The found row with what the leader sent. */
TupleTableSlot *
row_updated(ApplyRelation *relation, const ColumnValue *row)
{
	TupleTableSlot *slot = relation->new_slot;
	TupleTableSlot *found = relation->found_slot;
	int			natts = slot->tts_tupleDescriptor->natts;

	if (is_whole(relation, row))
		return row_inserted(relation, row);
	slot_getallattrs(found);
	ExecClearTuple(slot);
	memcpy(slot->tts_values, found->tts_values, natts * sizeof(Datum));
	memcpy(slot->tts_isnull, found->tts_isnull, natts * sizeof(bool));
	put_columns(relation, row, slot);
	ExecStoreVirtualTuple(slot);
	return slot;
}

/* ---------- finding rows ---------- */

/* Are values equal whose bytes differ?  Not of types that have no equality (json, point). */
static bool
equal_values(Form_pg_attribute attr, Datum a, Datum b)
{
	TypeCacheEntry *type = lookup_type_cache(attr->atttypid, TYPECACHE_EQ_OPR_FINFO);

	return OidIsValid(type->eq_opr_finfo.fn_oid) &&
		DatumGetBool(FunctionCall2Coll(&type->eq_opr_finfo, attr->attcollation, a, b));
}

/*
 * Do both have the same in all columns that the leader sent?  Values that are equal may still
 * differ, as 1.0 and 1.00, and so may rows.
 */
static RowMatch
match_rows(ApplyRelation *relation, const ColumnValue *row,
		   TupleTableSlot *search, TupleTableSlot *candidate)
{
	RowMatch	match = ROW_IDENTICAL;

	slot_getallattrs(candidate);
	for (int i = 0; i < relation->desc->natts; i++)
	{
		int			at = relation->inputs[i].attnum - 1;
		Form_pg_attribute attr = TupleDescAttr(candidate->tts_tupleDescriptor, at);

		if (row[i].kind == VALUE_UNCHANGED ||
			(relation->desc->replident != REPLICA_IDENTITY_FULL &&
			 !relation->desc->columns[i].is_key))
			continue;
		if (search->tts_isnull[at] != candidate->tts_isnull[at])
			return ROW_NONE;
		if (search->tts_isnull[at] ||
			datum_image_eq(search->tts_values[at], candidate->tts_values[at],
						   attr->attbyval, attr->attlen))
			continue;
		if (!equal_values(attr, search->tts_values[at], candidate->tts_values[at]))
			return ROW_NONE;
		match = ROW_EQUAL;
	}
	return match;
}

/* Leaves the row in found_slot: an identical one if there is any, or else the first that is equal. */
static RowMatch
find_by_scan(ApplyRelation *relation, const ColumnValue *row)
{
	TupleTableSlot *slot = relation->found_slot;
	TableScanDesc scan = table_beginscan(relation->rel, GetActiveSnapshot(), 0, NULL);
	MemoryContext context = AllocSetContextCreate(row_memory(), "pg_fanout row looked at",
												  ALLOCSET_SMALL_SIZES);
	RowMatch	best = ROW_NONE;
	ItemPointerData equal;

	while (best != ROW_IDENTICAL && table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		MemoryContext oldcontext = MemoryContextSwitchTo(context);
		RowMatch	match = match_rows(relation, row, relation->search_slot, slot);

		CHECK_FOR_INTERRUPTS();
		if (match == ROW_EQUAL && best == ROW_NONE)
			equal = slot->tts_tid;
		best = Max(best, match);
		MemoryContextSwitchTo(oldcontext);
		MemoryContextReset(context);
	}
	if (best == ROW_IDENTICAL)
		ExecMaterializeSlot(slot);
	table_endscan(scan);
	MemoryContextDelete(context);
	if (best == ROW_EQUAL &&
		!table_tuple_fetch_row_version(relation->rel, &equal, GetActiveSnapshot(), slot))
		elog(ERROR, "could not fetch a row that was found");
	return best;
}

/* The columns by which the row to change is found. */
TupleTableSlot *
row_searched(ApplyRelation *relation, const Change *change)
{
	TupleTableSlot *slot = relation->search_slot;

	clear_row(slot);
	put_columns(relation, change->oldkind != OLD_NONE ? change->oldrow : change->newrow, slot);
	ExecStoreVirtualTuple(slot);
	return slot;
}

/*
 * Before BEFORE triggers run, the server locks the row.  Were it another version by then, it would
 * look into the plan, of which there is none, whether that one is wanted, too.
 */
static void
lock_found(ApplyRelation *relation)
{
	TM_FailureData failure;

	if (table_tuple_lock(relation->rel, &relation->found_slot->tts_tid, GetActiveSnapshot(),
						 relation->found_slot, GetCurrentCommandId(false), LockTupleExclusive,
						 LockWaitBlock, 0, &failure) != TM_Ok)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("a row of relation \"%s.%s\" was changed on this follower at the same time",
						relation->desc->nspname, relation->desc->relname)));
}

/* What an index finds is the only row that is equal. */
RowMatch
row_find(ApplyRelation *relation, const Change *change)
{
	const ColumnValue *row = change->oldkind != OLD_NONE ? change->oldrow : change->newrow;
	RowMatch	found;

	if (OidIsValid(relation->find_index))
		found = find_by_index(relation, row) ? ROW_IDENTICAL : ROW_NONE;
	else
	{
		(void) row_searched(relation, change);
		found = find_by_scan(relation, row);
	}
	if (found != ROW_NONE && relation->triggers)
		lock_found(relation);
	return found;
}

void
row_not_found(const ApplyRelation *relation, const Change *change)
{
	ereport(ERROR,
			(errcode(ERRCODE_NO_DATA_FOUND),
			 errmsg("the row to %s was not found in relation \"%s.%s\"",
					change->op == CHANGE_UPDATE ? "update" : "delete",
					relation->desc->nspname, relation->desc->relname),
			 errdetail("Key %s.", apply_describe_key(relation, change)),
			 errtable(relation->rel)));
}

/* ---------- changes ---------- */

void
row_insert(ApplyRelation *relation, TupleTableSlot *row)
{
	ExecSimpleRelationInsert(relation->result, group_estate(), row);
}

/*
 * The columns in which the row differs from the one that was found.  Which
 * ones the leader's UPDATE named is not known; this is what changed.
 */
static Bitmapset *
changed_columns(ApplyRelation *relation, TupleTableSlot *row)
{
	TupleTableSlot *found = relation->found_slot;
	TupleDesc	tupdesc = RelationGetDescr(relation->rel);
	Bitmapset  *columns = NULL;
	MemoryContext oldcontext = MemoryContextSwitchTo(row_memory());

	slot_getallattrs(found);
	slot_getallattrs(row);
	for (int i = 0; i < tupdesc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(tupdesc, i);

		if (att->attisdropped || att->attgenerated)
			continue;
		if (found->tts_isnull[i] != row->tts_isnull[i] ||
			(!row->tts_isnull[i] && !datum_image_eq(found->tts_values[i], row->tts_values[i],
													att->attbyval, att->attlen)))
			columns = bms_add_member(columns, att->attnum - FirstLowInvalidHeapAttributeNumber);
	}
	MemoryContextSwitchTo(oldcontext);
	return columns;
}

/* Triggers for UPDATE OF some columns want to know which ones change. */
void
row_update(ApplyRelation *relation, TupleTableSlot *row)
{
	EState	   *estate = group_estate();
	Bitmapset **updated = fanout_updated_columns(estate, relation->result->ri_RangeTableIndex);

	if (relation->plain_update)
	{
		update_plainly(relation, row);
		return;
	}
	if (relation->triggers)
		*updated = changed_columns(relation, row);
	ExecSimpleRelationUpdate(relation->result, estate, group_recheck(), relation->found_slot, row);
	*updated = NULL;
}

void
row_delete(ApplyRelation *relation)
{
	ExecSimpleRelationDelete(relation->result, group_estate(), group_recheck(),
							 relation->found_slot);
}

void
row_clear(ApplyRelation *relation)
{
	ExecClearTuple(relation->new_slot);
	ExecClearTuple(relation->search_slot);
	ExecClearTuple(relation->found_slot);
}

static void
change_row(ApplyRelation *relation, const Change *change)
{
	if (change->op == CHANGE_INSERT)
	{
		row_insert(relation, row_inserted(relation, change->newrow));
		return;
	}
	if (row_find(relation, change) == ROW_NONE)
		row_not_found(relation, change);
	if (change->op == CHANGE_UPDATE)
		row_update(relation, row_updated(relation, change->newrow));
	else
		row_delete(relation);
}

void
apply_row_change(ApplyRelation *relation, const Change *change)
{
	EState	   *estate = group_estate();
	/* A partition may have triggers of its own. */
	bool		triggers = relation->result->ri_TrigDesc != NULL || relation->partitions != NULL;
	MemoryContext oldcontext = MemoryContextSwitchTo(estate->es_query_cxt);

	estate->es_output_cid = GetCurrentCommandId(true);
	if (triggers)
		AfterTriggerBeginQuery();
	if (relation->partitions != NULL)
		partitions_change(relation, change);
	else
		change_row(relation, change);
	if (triggers)
		AfterTriggerEndQuery(estate);
	MemoryContextSwitchTo(oldcontext);

	row_clear(relation);
	ResetPerTupleExprContext(estate);
}
