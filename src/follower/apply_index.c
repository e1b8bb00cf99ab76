/*
 * apply_index.c
 *		Finding the row to change by a unique index.
 *
 * The server's own RelationFindReplTupleByIndex() will not do: from 16 on it
 * compares all columns unless the index is the table's identity, but here any unique
 * index over columns that the leader sends is good.
 *
 * Others may be writing to the row: superusers with the guard off, or triggers.  The
 * search waits for such a transaction to end and then looks again, and the row that
 * was found is locked.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relscan.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "follower/apply_internal.h"

static void
init_keys(ScanKey keys, Relation index, TupleTableSlot *row)
{
	for (int i = 0; i < IndexRelationGetNumberOfKeyAttributes(index); i++)
	{
		int			at = index->rd_index->indkey.values[i] - 1;
		Oid			type = index->rd_opcintype[i];
		Oid			equal = get_opfamily_member(index->rd_opfamily[i], type, type,
												BTEqualStrategyNumber);

		if (!OidIsValid(equal))
			elog(ERROR, "missing equality operator for type %u in operator family %u",
				 type, index->rd_opfamily[i]);
		ScanKeyEntryInitialize(&keys[i], row->tts_isnull[at] ? SK_ISNULL : 0, i + 1,
							   BTEqualStrategyNumber, InvalidOid, index->rd_indcollation[i],
							   get_opcode(equal), row->tts_values[at]);
	}
}

/* The row's newest version; a transaction that writes to it is waited for. */
static bool
search(IndexScanDesc scan, SnapshotData *dirty, ScanKey keys, int nkeys, TupleTableSlot *found)
{
	for (;;)
	{
		TransactionId writer;

		CHECK_FOR_INTERRUPTS();
		index_rescan(scan, keys, nkeys, NULL, 0);
		if (!index_getnext_slot(scan, ForwardScanDirection, found))
			return false;
		ExecMaterializeSlot(found);
		writer = TransactionIdIsValid(dirty->xmin) ? dirty->xmin : dirty->xmax;
		if (!TransactionIdIsValid(writer))
			return true;
		XactLockTableWait(writer, NULL, NULL, XLTW_None);
	}
}

/* False: it was changed in between. */
static bool
lock_row(Relation rel, TupleTableSlot *found)
{
	TM_FailureData failure;
	TM_Result	result;

	PushActiveSnapshot(GetLatestSnapshot());
	result = table_tuple_lock(rel, &found->tts_tid, GetActiveSnapshot(), found,
							  GetCurrentCommandId(false), LockTupleExclusive, LockWaitBlock,
							  0, &failure);
	PopActiveSnapshot();
	if (result == TM_Invisible || result == TM_SelfModified)
		elog(ERROR, "could not lock the row to change: result %d", (int) result);
	return result == TM_Ok;
}

/* Look for the row with the search_slot's key; leaves it, locked, in found_slot. */
bool
find_by_index(ApplyRelation *relation)
{
	Relation	index = index_open(relation->find_index, RowExclusiveLock);
	int			nkeys = IndexRelationGetNumberOfKeyAttributes(index);
	ScanKeyData keys[INDEX_MAX_KEYS];
	SnapshotData dirty;
	IndexScanDesc scan;
	bool		found;

	init_keys(keys, index, relation->search_slot);
	InitDirtySnapshot(dirty);
	scan = fanout_index_beginscan(relation->rel, index, &dirty, nkeys);
	do
	{
		found = search(scan, &dirty, keys, nkeys, relation->found_slot);
	} while (found && !lock_row(relation->rel, relation->found_slot));
	index_endscan(scan);
	index_close(index, NoLock);
	return found;
}
