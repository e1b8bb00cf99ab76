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
#include "catalog/pg_opfamily.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "compat.h"
#include "follower/apply_internal.h"

/* A run has so many rows, and at most so many keys for each of them. */
#define MIN_RUN		16
#define MAX_GAPS	2

struct FindScan
{
	IndexScanDesc scan;
	SnapshotData snapshot;		/* what is committed, and what others are doing */
	int			nkeys;
	int			columns[INDEX_MAX_KEYS];	/* of the leader's description */
	ScanKeyData keys[INDEX_MAX_KEYS];

	/* Rows to come, in the order of their keys (find_expect) */
	Oid			integer_type;	/* of the only key: there may be runs */
	IndexScanDesc run;			/* NULL: none yet */
	ScanKeyData bounds[2];
	bool		in_run;
	TupleTableSlot *run_slot;	/* a row of the run that is not wanted yet */
	int64		run_key;		/* its key */
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
init_key(ScanKey key, int position, StrategyNumber strategy, Relation index, Oid opclass)
{
	Oid			family = get_opclass_family(opclass);
	Oid			type = get_opclass_input_type(opclass);
	Oid			operator = get_opfamily_member(family, type, type, strategy);

	if (!OidIsValid(operator))
		elog(ERROR, "index \"%s\" has no operator for strategy %d",
			 RelationGetRelationName(index), strategy);
	ScanKeyInit(key, position + 1, strategy, get_opcode(operator), (Datum) 0);
	key->sk_collation = index->rd_indcollation[position];
}

/* Where keys are integers, and in the usual order, runs of them can be told. */
static void
init_runs(FindScan *find, Relation index, Oid opclass)
{
	Oid			type = get_opclass_input_type(opclass);

	if (find->nkeys != 1 || find->columns[0] < 0 ||
		get_opclass_family(opclass) != INTEGER_BTREE_FAM_OID ||
		(type != INT2OID && type != INT4OID && type != INT8OID) ||
		(index->rd_indoption[0] & INDOPTION_DESC) != 0)
		return;
	find->integer_type = type;
	init_key(&find->bounds[0], 0, BTGreaterEqualStrategyNumber, index, opclass);
	init_key(&find->bounds[1], 0, BTLessEqualStrategyNumber, index, opclass);
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
		init_key(&find->keys[i], i, BTEqualStrategyNumber, index, opclass->values[i]);
	}
	init_runs(find, index, opclass->values[0]);
	InitDirtySnapshot(find->snapshot);
	find->scan = fanout_index_beginscan(relation->rel, index, &find->snapshot, find->nkeys);
	return find;
}

static FindScan *
open_scan(ApplyRelation *relation)
{
	if (relation->find == NULL)
		relation->find = begin_scan(relation);
	return relation->find;
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
		find->keys[i].sk_argument = column_input_value(&relation->inputs[column],
														   &relation->desc->columns[column],
														   &row[column]);
	}
	return true;
}

/* Somebody who is not finished has written the row that was looked at; Invalid: nobody. */
static TransactionId
other_writer(const FindScan *find)
{
	return TransactionIdIsValid(find->snapshot.xmin) ? find->snapshot.xmin : find->snapshot.xmax;
}

/* ---------- runs ---------- */

static int64
key_number(const FindScan *find, Datum key)
{
	switch (find->integer_type)
	{
		case INT2OID:
			return DatumGetInt16(key);
		case INT4OID:
			return DatumGetInt32(key);
		default:
			return DatumGetInt64(key);
	}
}

/* The next row of the run; where others write, rows are found one by one. */
static void
step_run(ApplyRelation *relation)
{
	FindScan   *find = relation->find;
	bool		isnull;
	Datum		key;

	find->in_run = index_getnext_slot(find->run, ForwardScanDirection, find->run_slot) &&
		!TransactionIdIsValid(other_writer(find));
	if (!find->in_run)
	{
		ExecClearTuple(find->run_slot);
		return;
	}
	key = slot_getattr(find->run_slot, relation->inputs[find->columns[0]].attnum, &isnull);
	find->run_key = key_number(find, key);
}

/* Leaves the row in found_slot, if the run has it. */
static bool
find_in_run(ApplyRelation *relation)
{
	FindScan   *find = relation->find;
	int64		wanted = key_number(find, find->keys[0].sk_argument);
	TupleTableSlot *slot = find->run_slot;

	while (find->in_run && find->run_key < wanted)
		step_run(relation);
	if (!find->in_run || find->run_key != wanted)
		return false;
	find->run_slot = relation->found_slot;
	relation->found_slot = slot;
	find->run_key = PG_INT64_MIN;
	return true;
}

static void
begin_run(ApplyRelation *relation)
{
	FindScan   *find = relation->find;

	if (find->run == NULL)
	{
		find->run = fanout_index_beginscan(relation->rel, find_open_index(relation),
										   &find->snapshot, lengthof(find->bounds));
		find->run_slot = ExecInitExtraTupleSlot(group_estate(), RelationGetDescr(relation->rel),
												table_slot_callbacks(relation->rel));
	}
	index_rescan(find->run, find->bounds, lengthof(find->bounds), NULL, 0);
	step_run(relation);
}

/*
 * So many rows with different keys will be looked for next, in the order of their keys: from
 * that of the first row to that of the last one.  If few keys between them are left out, they
 * are read in one scan of that range.
 */
void
find_expect(ApplyRelation *relation, const ColumnValue *first, const ColumnValue *last, int count)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(group_estate()->es_query_cxt);
	FindScan   *find = open_scan(relation);
	int64		low;
	int64		high;

	find->in_run = false;
	if (OidIsValid(find->integer_type) && set_keys(relation, first))
	{
		find->bounds[0].sk_argument = find->keys[0].sk_argument;
		(void) set_keys(relation, last);
		find->bounds[1].sk_argument = find->keys[0].sk_argument;
		low = key_number(find, find->bounds[0].sk_argument);
		high = key_number(find, find->bounds[1].sk_argument);
		if (count >= MIN_RUN && (uint64) high - (uint64) low < MAX_GAPS * (uint64) count)
			begin_run(relation);
	}
	MemoryContextSwitchTo(oldcontext);
}

/* They were looked for.  What was read ahead may be changed from here on. */
void
find_expected(ApplyRelation *relation)
{
	FindScan   *find = relation->find;

	find->in_run = false;
	if (find->run_slot != NULL)
		ExecClearTuple(find->run_slot);
}

/* ---------- one row ---------- */

/* By the keys that are set. */
static bool
look_up(ApplyRelation *relation)
{
	FindScan   *find = relation->find;

	for (;;)
	{
		TransactionId other;

		CHECK_FOR_INTERRUPTS();
		index_rescan(find->scan, find->keys, find->nkeys, NULL, 0);
		if (!index_getnext_slot(find->scan, ForwardScanDirection, relation->found_slot))
			return false;
		other = other_writer(find);
		if (!TransactionIdIsValid(other))
			return true;
		ExecClearTuple(relation->found_slot);
		XactLockTableWait(other, NULL, NULL, XLTW_None);
	}
}

/* Leaves the row in found_slot. */
bool
find_by_index(ApplyRelation *relation, const ColumnValue *row)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(group_estate()->es_query_cxt);
	FindScan   *find = open_scan(relation);
	bool		found;

	MemoryContextSwitchTo(oldcontext);
	if (!set_keys(relation, row))
		return false;

	MemoryContextSwitchTo(group_estate()->es_query_cxt);
	found = (find->in_run && find_in_run(relation)) || look_up(relation);
	MemoryContextSwitchTo(oldcontext);
	return found;
}

/* Give up the scan: it holds pins. */
void
find_end(ApplyRelation *relation)
{
	if (relation->find != NULL && relation->find->run != NULL)
		index_endscan(relation->find->run);
	if (relation->find != NULL)
		index_endscan(relation->find->scan);
	relation->find = NULL;
}
