/*
 * apply_find.c
 *		Finding the row that a change is for, by an index.
 *
 * The scan and its keys are made for the first row that is looked for and kept
 * until the local transaction's end; for each row only the values of the key
 * change.  What the scan allocates lives in the executor state's memory, in which
 * it must be called: a btree scan allocates when it is first used.
 *
 * No lock is taken on the row.  While the guard holds nobody else writes to the
 * table; who does so all the same, with the guard off, is waited for here, and if he
 * changes the row between the look and the write, the write fails and is tried again.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/stratnum.h"
#include "access/tableam.h"
#include "catalog/pg_index.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "compat.h"
#include "follower/apply_internal.h"

struct FindScan
{
	IndexScanDesc scan;
	SnapshotData snapshot;		/* what is committed, and what others are doing */
	int			nkeys;
	int			columns[INDEX_MAX_KEYS];	/* of the leader's description */
	ScanKeyData keys[INDEX_MAX_KEYS];
};

/* The index by which rows are found, which the executor has open; NULL: there is none. */
Relation
find_open_index(const ApplyRelation *relation)
{
	for (int i = 0; i < relation->result->ri_NumIndices; i++)
	{
		Relation	index = relation->result->ri_IndexRelationDescs[i];

		if (RelationGetRelid(index) == relation->find_index)
			return index;
	}
	return NULL;
}

static void
init_key(FindScan *find, int position, Relation index, const oidvector *opclass)
{
	Oid			family = get_opclass_family(opclass->values[position]);
	Oid			type = get_opclass_input_type(opclass->values[position]);
	Oid			equal = get_opfamily_member(family, type, type, BTEqualStrategyNumber);

	if (!OidIsValid(equal))
		elog(ERROR, "index \"%s\" has no operator for equality", RelationGetRelationName(index));
	ScanKeyInit(&find->keys[position], position + 1, BTEqualStrategyNumber, get_opcode(equal),
				(Datum) 0);
	find->keys[position].sk_collation = index->rd_indcollation[position];
}

static FindScan *
begin_scan(ApplyRelation *relation)
{
	FindScan   *find = palloc0(sizeof(FindScan));
	Relation	index = find_open_index(relation);
	oidvector  *opclass;
	bool		isnull;

	if (index == NULL)
		elog(ERROR, "index %u of relation \"%s\" is not open", relation->find_index,
			 RelationGetRelationName(relation->rel));
	opclass = (oidvector *) DatumGetPointer(SysCacheGetAttr(INDEXRELID, index->rd_indextuple,
															Anum_pg_index_indclass, &isnull));
	find->nkeys = IndexRelationGetNumberOfKeyAttributes(index);
	for (int i = 0; i < find->nkeys; i++)
	{
		find->columns[i] = relation_sent_column(relation, index->rd_index->indkey.values[i]);
		init_key(find, i, index, opclass);
	}
	InitDirtySnapshot(find->snapshot);
	find->scan = fanout_index_beginscan(relation->rel, index, &find->snapshot, find->nkeys);
	return find;
}

/* Does the row have a whole key?  NULL equals nothing. */
static bool
set_keys(ApplyRelation *relation, const ColumnValue *row)
{
	FindScan   *find = relation->find;

	for (int i = 0; i < find->nkeys; i++)
	{
		int			column = find->columns[i];

		if (column < 0 || row[column].kind != VALUE_PRESENT)
			return false;
		find->keys[i].sk_argument = column_search_value(&relation->inputs[column],
														&relation->desc->columns[column],
														&row[column]);
	}
	return true;
}

/* Leaves the row in found_slot. */
bool
find_by_index(ApplyRelation *relation, const ColumnValue *row)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(group_estate()->es_query_cxt);
	FindScan   *find;
	bool		found = false;

	if (relation->find == NULL)
		relation->find = begin_scan(relation);
	find = relation->find;
	MemoryContextSwitchTo(oldcontext);
	if (!set_keys(relation, row))
		return false;

	MemoryContextSwitchTo(group_estate()->es_query_cxt);
	for (;;)
	{
		TransactionId other;

		CHECK_FOR_INTERRUPTS();
		index_rescan(find->scan, find->keys, find->nkeys, NULL, 0);
		found = index_getnext_slot(find->scan, ForwardScanDirection, relation->found_slot);
		if (!found)
			break;
		other = TransactionIdIsValid(find->snapshot.xmin) ? find->snapshot.xmin : find->snapshot.xmax;
		if (!TransactionIdIsValid(other))
			break;
		ExecClearTuple(relation->found_slot);
		XactLockTableWait(other, NULL, NULL, XLTW_None);
	}
	MemoryContextSwitchTo(oldcontext);
	return found;
}

/* Give up the scan: it holds pins. */
void
find_end(ApplyRelation *relation)
{
	if (relation->find != NULL)
		index_endscan(relation->find->scan);
	relation->find = NULL;
}
