/*
 * apply_insert.c
 *		Many new rows for one table at a time.
 *
 * Rows go to the table by its own means for many, which fills a page under one lock
 * and with one WAL record, and then each gets its index entries.  Only for tables
 * without triggers that fire here.
 */
#include "postgres.h"

#include "access/tableam.h"
#include "access/xact.h"
#include "executor/executor.h"
#include "executor/nodeModifyTable.h"
#include "miscadmin.h"
#include "utils/rel.h"

#include "compat.h"
#include "follower/apply_internal.h"

/* So many at a time, or when they have so many bytes. */
#define MAX_ROWS	500
#define MAX_BYTES	(64 * 1024)

/* The slots for them, made as they are needed. */
static TupleTableSlot *
slot_for(ApplyRelation *relation, int i)
{
	EState	   *estate = group_estate();
	MemoryContext oldcontext = MemoryContextSwitchTo(estate->es_query_cxt);

	if (relation->insert_slots == NULL)
		relation->insert_slots = palloc0(MAX_ROWS * sizeof(TupleTableSlot *));
	if (relation->insert_slots[i] == NULL)
		relation->insert_slots[i] = ExecInitExtraTupleSlot(estate,
														   RelationGetDescr(relation->rel),
														   &TTSOpsVirtual);
	MemoryContextSwitchTo(oldcontext);
	return relation->insert_slots[i];
}

/* What the server does with a row before it is stored. */
void
row_prepare(ApplyRelation *relation, TupleTableSlot *slot)
{
	TupleConstr *constr = RelationGetDescr(relation->rel)->constr;

	if (constr != NULL && constr->has_generated_stored)
		ExecComputeStoredGenerated(relation->result, group_estate(), slot, CMD_INSERT);
	if (constr != NULL)
		ExecConstraints(relation->result, slot, group_estate());
	if (relation->rel->rd_rel->relispartition)
		ExecPartitionCheck(relation->result, slot, group_estate(), true);
}

/*
 * Store what was gathered; the error of a unique index names the row.  Unlike the executor, the
 * table's means leave memory behind.
 */
static void
store_rows(ApplyRelation *relation, const BatchRow *rows, int count)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(row_memory());

	table_multi_insert(relation->rel, relation->insert_slots, count,
					   GetCurrentCommandId(true), 0, relation->bulk);
	MemoryContextSwitchTo(oldcontext);
	if (relation->result->ri_NumIndices == 0)
		return;
	for (int i = 0; i < count; i++)
	{
		batch_note(relation, &rows[i]);
		list_free(fanout_insert_index_entries(relation->result, relation->insert_slots[i],
											  group_estate()));
	}
}

void
insert_rows(ApplyRelation *relation, const BatchRow *rows, int count)
{
	CheckCmdReplicaIdentity(relation->rel, CMD_INSERT);
	for (int done = 0; done < count;)
	{
		Size		bytes = 0;
		int			n = 0;
		MemoryContext oldcontext = MemoryContextSwitchTo(group_estate()->es_query_cxt);

		CHECK_FOR_INTERRUPTS();
		for (; n < MAX_ROWS && done + n < count && bytes < MAX_BYTES; n++)
		{
			const BatchRow *row = &rows[done + n];
			TupleTableSlot *slot = slot_for(relation, n);

			batch_note(relation, row);
			row_put_new(relation, row->newrow, slot);
			row_prepare(relation, slot);
			bytes += row->len;
		}
		store_rows(relation, rows + done, n);
		for (int i = 0; i < n; i++)
			ExecClearTuple(relation->insert_slots[i]);
		MemoryContextSwitchTo(oldcontext);
		ResetPerTupleExprContext(group_estate());
		done += n;
	}
}
