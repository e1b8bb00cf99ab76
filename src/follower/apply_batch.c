/*
 * apply_batch.c
 *		Changes that are collected before they are applied.
 *
 * Within a local transaction nobody sees in which order its rows changed.  So the
 * changes of a table may wait until the transaction's end, and then only
 * their net effect is applied: for each key what its row was and what it became.
 * Deletes come first, then updates, then inserts, each in the order of the
 * keys, so that neighbours in the index are touched one after the other.
 *
 * What may wait:
 *
 *	inserts		into any table without triggers that fire here
 *	all			when the only unique index is the one by which rows are found, and equal
 *				keys have equal bytes.  With another unique index the order of
 *				changes could matter, as when two rows swap their values.
 *
 * Everything else is applied at once (apply_row.c), after what was collected for
 * its table; after all that was collected, when it may run triggers or is for a
 * partitioned table.  So do TRUNCATE and changes of descriptions, as they close the
 * tables.  A change that does not fit what was collected for its key, as
 * an INSERT of a key that is there, also makes the collected changes be applied first;
 * the error, if it is one, then comes as if all had been applied one by one.
 *
 * The collected bytes are limited; a large transaction is applied in several steps.
 * Their memory stays with the process: to give it back and get it again would take
 * longer than to fill it.
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "follower/apply_batch.h"
#include "follower/local_table.h"

#define BATCH_BYTES		(4 * 1024 * 1024)
#define RUN_ROWS		512		/* are found together, if they can be */

static List *batches = NIL;		/* of the running local transaction, that have rows */
MemoryContext batch_context = NULL; /* all that was collected and is not in space */
static Size batch_bytes = 0;	/* of all */
static char *space = NULL;		/* BATCH_BYTES, kept */
static Size space_used = 0;
static LogTxn *batch_txn = NULL;	/* the newest one of which something was collected */

/* ---------- what may be collected ---------- */

static bool
has_other_unique_index(const ApplyRelation *relation)
{
	for (int i = 0; i < relation->result->ri_NumIndices; i++)
	{
		Relation	index = relation->result->ri_IndexRelationDescs[i];

		if (RelationGetRelid(index) != relation->find_index &&
			(index->rd_index->indisunique || index->rd_index->indisexclusion))
			return true;
	}
	return false;
}

/* The relation was opened: may its changes wait?  Called in the executor state's memory. */
void
batch_open(ApplyRelation *relation)
{
	Batch	   *batch;

	relation->batch = NULL;
	if (relation->triggers || relation->partitions != NULL)
		return;
	batch = palloc0(sizeof(Batch));
	batch->relation = relation;
	batch->keyed = keys_init(batch, relation) && !has_other_unique_index(relation);
	relation->batch = batch;
}

/* ---------- collecting ---------- */

void *
batch_alloc(Size size)
{
	char	   *result = space + space_used;

	size = MAXALIGN(size);
	batch_bytes += size;
	if (size > BATCH_BYTES - space_used)
		return MemoryContextAlloc(batch_context, size);
	space_used += size;
	return result;
}

static ColumnValue *
keep_row(const ColumnValue *row, int natts, Size *len)
{
	Size		size = natts * sizeof(ColumnValue);
	Size		bytes = 0;
	ColumnValue *copy;
	char	   *pos;

	for (int i = 0; i < natts; i++)
		bytes += row[i].len;
	copy = batch_alloc(size + bytes);
	pos = (char *) copy + size;
	for (int i = 0; i < natts; i++)
	{
		copy[i] = row[i];
		if (row[i].kind != VALUE_PRESENT)
			continue;
		copy[i].data = memcpy(pos, row[i].data, row[i].len);
		pos += row[i].len;
	}
	*len += bytes;
	return copy;
}

/* The transaction being applied, kept once for all its rows. */
static const LogTxn *
keep_txn(void)
{
	if (batch_txn == NULL || batch_txn->seq != apply_position.txn.seq)
	{
		batch_txn = batch_alloc(sizeof(LogTxn));
		*batch_txn = apply_position.txn;
	}
	return batch_txn;
}

static BatchRow *
new_row(Batch *batch)
{
	if (batch->count == 0)
	{
		MemoryContext oldcontext = MemoryContextSwitchTo(batch_context);

		batches = lappend(batches, batch);
		batch->capacity = 16;
		batch->rows = palloc(batch->capacity * sizeof(BatchRow));
		MemoryContextSwitchTo(oldcontext);
	}
	else if (batch->count == batch->capacity)
	{
		batch->capacity *= 2;
		batch->rows = repalloc_huge(batch->rows, batch->capacity * sizeof(BatchRow));
	}
	batch_bytes += sizeof(BatchRow);
	return &batch->rows[batch->count++];
}

/* The first change of its key. */
static BatchRow *
add_row(Batch *batch, const Change *change)
{
	int			natts = batch->relation->desc->natts;
	BatchRow   *row = new_row(batch);

	*row = (BatchRow)
	{
		.op = change->op,
			.txn = keep_txn()
	};
	if (change->op != CHANGE_DELETE)
		row->newrow = keep_row(change->newrow, natts, &row->len);
	if (change->op != CHANGE_INSERT && change->oldkind != OLD_NONE)
	{
		row->oldkind = change->oldkind;
		row->oldrow = keep_row(change->oldrow, natts, &row->len);
	}
	return row;
}

/* Put a later version over an earlier one; what it left unchanged stays. */
static void
overlay(BatchRow *row, const ColumnValue *newrow, int natts)
{
	ColumnValue *before = row->newrow;

	row->newrow = keep_row(newrow, natts, &row->len);
	for (int i = 0; before != NULL && i < natts; i++)
	{
		if (newrow[i].kind == VALUE_UNCHANGED)
			row->newrow[i] = before[i];
	}
}

/*
 * Add a change to what was collected for its key.  False when it does not follow from
 * that: the collected changes are to be applied first.
 */
static bool
merge(Batch *batch, BatchRow *row, const Change *change)
{
	int			natts = batch->relation->desc->natts;

	switch (change->op)
	{
		case CHANGE_INSERT:
			/* A row in the place of a deleted one: columns of our own would start anew. */
			if ((row->op != CHANGE_DELETE && row->op != BATCH_NOTHING) ||
				(row->op == CHANGE_DELETE && batch->relation->has_extra))
				return false;
			row->op = row->op == CHANGE_DELETE ? CHANGE_UPDATE : CHANGE_INSERT;
			row->newrow = NULL;
			overlay(row, change->newrow, natts);
			return true;
		case CHANGE_UPDATE:
			if (row->op != CHANGE_INSERT && row->op != CHANGE_UPDATE)
				return false;
			overlay(row, change->newrow, natts);
			return true;
		default:
			if (row->op != CHANGE_INSERT && row->op != CHANGE_UPDATE)
				return false;
			row->op = row->op == CHANGE_INSERT ? BATCH_NOTHING : CHANGE_DELETE;
			return true;
	}
}

/* Does the UPDATE leave the key as it was? */
static bool
keeps_key(const Batch *batch, const Change *change)
{
	for (int i = 0; i < batch->nkeys; i++)
	{
		const ColumnValue *before = &change->oldrow[batch->keys[i]];
		const ColumnValue *after = &change->newrow[batch->keys[i]];

		if (after->kind == VALUE_UNCHANGED)
			continue;
		if (before->kind != after->kind || before->len != after->len ||
			memcmp(before->data, after->data, before->len) != 0)
			return false;
	}
	return true;
}

static bool
add_keyed(Batch *batch, const Change *change)
{
	const ColumnValue *keyed = change->op == CHANGE_INSERT || change->oldkind == OLD_NONE ?
		change->newrow : change->oldrow;
	BatchRow   *row;
	uint64		sort;

	if (change->op == CHANGE_UPDATE && change->oldkind != OLD_NONE && !keeps_key(batch, change))
		return false;
	if (!keys_find(batch, keyed, &row, &sort))
		return false;
	if (row != NULL && merge(batch, row, change))
		return true;
	if (row != NULL)
		batch_flush(batch->relation);
	row = add_row(batch, change);
	row->sort = sort;
	keys_note(batch);
	return true;
}

static void
prepare_memory(void)
{
	batch_context = AllocSetContextCreate(TopMemoryContext, "pg_fanout collected changes",
										  ALLOCSET_DEFAULT_SIZES);
	space = MemoryContextAlloc(TopMemoryContext, BATCH_BYTES);
}

/* Collect the change; false: it must be applied at once. */
bool
batch_add(ApplyRelation *relation, const Change *change)
{
	Batch	   *batch = relation->batch;

	if (batch == NULL)
		return false;
	if (batch_context == NULL)
		prepare_memory();
	if (batch->keyed)
	{
		if (!add_keyed(batch, change))
			return false;
	}
	else if (change->op == CHANGE_INSERT)
		(void) add_row(batch, change);
	else
		return false;
	if (batch_bytes >= BATCH_BYTES)
		batch_flush_all();
	return true;
}

/* ---------- applying ---------- */

/* The row that is being applied, for error messages. */
void
batch_note(const ApplyRelation *relation, const BatchRow *row)
{
	static Change change;		/* what is not set here stays zero */

	change.op = row->op;
	change.relid = relation->leader_relid;
	change.oldkind = row->oldkind;
	change.natts = relation->desc->natts;
	change.oldrow = row->oldrow;
	change.newrow = row->newrow;
	apply_position.relation = relation;
	apply_position.change = &change;
	if (apply_position.txn.seq != row->txn->seq)
		apply_position.txn = *row->txn;
}

/* Deletes, updates, inserts; each by key. */
static int
row_rank(const BatchRow *row)
{
	switch (row->op)
	{
		case CHANGE_DELETE:
			return 0;
		case CHANGE_UPDATE:
			return 1;
		case CHANGE_INSERT:
			return 2;
		default:
			return 3;
	}
}

static int
row_compare(const void *a, const void *b)
{
	const BatchRow *x = a;
	const BatchRow *y = b;
	int			rank = row_rank(x) - row_rank(y);

	if (rank != 0)
		return rank;
	return x->sort < y->sort ? -1 : x->sort > y->sort;
}

/* Changes of one kind to rows that are there, from that one on; returns where it stopped. */
static int
apply_run(Batch *batch, int from)
{
	BatchRow   *rows = batch->rows;
	int			end = from + 1;

	while (end < batch->count && end - from < RUN_ROWS && rows[end].op == rows[from].op)
		end++;
	find_expect(batch->relation, row_with_key(&rows[from]), row_with_key(&rows[end - 1]),
				end - from);
	for (int i = from; i < end; i++)
	{
		CHECK_FOR_INTERRUPTS();
		batch_note(batch->relation, &rows[i]);
		apply_row_change(batch->relation, apply_position.change);
	}
	find_expected(batch->relation);
	return end;
}

static void
apply_rows(Batch *batch)
{
	ApplyRelation *relation = batch->relation;
	int			i = 0;
	int			inserts = 0;

	if (batch->keyed)
		qsort(batch->rows, batch->count, sizeof(BatchRow), row_compare);
	while (i < batch->count && row_rank(&batch->rows[i]) < 2)
		i = apply_run(batch, i);
	while (i + inserts < batch->count && row_rank(&batch->rows[i + inserts]) == 2)
		inserts++;
	if (inserts > 0)
		insert_rows(relation, batch->rows + i, inserts);
}

void
batch_flush(ApplyRelation *relation)
{
	Batch	   *batch = relation->batch;
	ApplyPosition position = apply_position;
	FormerUser	former;

	if (batch == NULL || batch->count == 0)
		return;
	local_table_become(relation->owner, &former);
	apply_rows(batch);
	local_table_become_former(&former);
	apply_position = position;
	apply_next_command();

	batches = list_delete_ptr(batches, batch);
	batch->count = 0;
	batch->rows = NULL;
	keys_forget(batch);
}

/* Afterwards nothing is collected, and its memory is free. */
void
batch_flush_all(void)
{
	while (batches != NIL)
		batch_flush(((Batch *) linitial(batches))->relation);
	if (batch_context != NULL)
		MemoryContextReset(batch_context);
	batch_bytes = space_used = 0;
	batch_txn = NULL;
}
