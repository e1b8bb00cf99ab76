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
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "follower/apply_internal.h"
#include "follower/local_table.h"

#define BATCH_BYTES		(16 * 1024 * 1024)

struct Batch
{
	ApplyRelation *relation;
	bool		keyed;			/* has a net effect; otherwise inserts only */
	int			nkeys;
	int			keys[INDEX_MAX_KEYS];	/* columns of the key, in the index's order */
	BatchRow   *rows;
	int			count;
	int			capacity;
	HTAB	   *by_key;			/* of KeyEntry; NULL: none yet */
};

/* A key is its bytes; they lie in the batch's memory, or in the change being added. */
typedef struct BatchKey
{
	const char *data;
	uint32		len;
} BatchKey;

typedef struct KeyEntry
{
	BatchKey	key;
	int			row;			/* of Batch.rows */
} KeyEntry;

static List *batches = NIL;		/* of the running local transaction, that have rows */
static MemoryContext batch_context = NULL;	/* all that was collected */
static Size batch_bytes = 0;

/* ---------- what may be collected ---------- */

/* Are equal values of that local column always equal bytes of the leader's? */
static bool
is_equal_by_bytes(const ColumnInput *input, const ColumnDesc *column, Oid collation)
{
	if (!input->direct)
		return false;
	switch (column->typid)
	{
		case BOOLOID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case OIDOID:
		case UUIDOID:
		case DATEOID:
		case TIMEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			return column->form == COLUMN_FIXED;
		case TEXTOID:
		case VARCHAROID:
			return column->form == COLUMN_VARLENA && get_collation_isdeterministic(collation);
		case BYTEAOID:
			return column->form == COLUMN_VARLENA;
	}
	return false;
}

/* The columns of the key; false when its bytes do not tell which row it is. */
static bool
find_keys(Batch *batch, const ApplyRelation *relation)
{
	Relation	index = OidIsValid(relation->find_index) ? find_open_index(relation) : NULL;

	if (index == NULL)
		return false;
	batch->nkeys = IndexRelationGetNumberOfKeyAttributes(index);
	for (int i = 0; i < batch->nkeys; i++)
	{
		int			column = relation_sent_column(relation, index->rd_index->indkey.values[i]);

		if (column < 0 || !is_equal_by_bytes(&relation->inputs[column],
											 &relation->desc->columns[column],
											 index->rd_indcollation[i]))
			return false;
		batch->keys[i] = column;
	}
	return true;
}

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
	batch->keyed = find_keys(batch, relation) && !has_other_unique_index(relation);
	relation->batch = batch;
}

/* ---------- keys ---------- */

static uint32
key_hash(const void *key, Size size)
{
	const BatchKey *k = key;

	return hash_bytes((const unsigned char *) k->data, k->len);
}

static int
key_compare(const void *a, const void *b, Size size)
{
	const BatchKey *x = a;
	const BatchKey *y = b;

	return x->len == y->len ? memcmp(x->data, y->data, x->len) : 1;
}

/*
 * The bytes of a row's key: as they are when it is one column, otherwise each
 * with its length.  False when a part of it is null.
 */
static bool
make_key(const Batch *batch, const ColumnValue *row, BatchKey *key)
{
	Size		size = 0;
	char	   *pos;

	for (int i = 0; i < batch->nkeys; i++)
	{
		if (row[batch->keys[i]].kind != VALUE_PRESENT)
			return false;
		size += sizeof(uint32) + row[batch->keys[i]].len;
	}
	if (batch->nkeys == 1)
	{
		key->data = row[batch->keys[0]].data;
		key->len = row[batch->keys[0]].len;
		return true;
	}
	pos = MemoryContextAlloc(batch_context, size);
	batch_bytes += size;
	key->data = pos;
	key->len = size;
	for (int i = 0; i < batch->nkeys; i++)
	{
		const ColumnValue *value = &row[batch->keys[i]];

		memcpy(pos, &value->len, sizeof(uint32));
		memcpy(pos + sizeof(uint32), value->data, value->len);
		pos += sizeof(uint32) + value->len;
	}
	return true;
}

/* A number by which keys sort as in the index, as far as 64 bits tell; only speed depends on it. */
static uint64
sort_number(const Batch *batch, const ColumnValue *row)
{
	uint64		number = 0;
	int			left = 64;

	for (int i = 0; i < batch->nkeys && left > 0; i++)
	{
		const ColumnValue *value = &row[batch->keys[i]];
		int			bytes = Min(value->len, left / 8);
		bool		is_integer = batch->relation->desc->columns[batch->keys[i]].form == COLUMN_FIXED
			&& value->len <= sizeof(uint64);

		for (int b = 0; b < bytes; b++)
		{
			uint8		byte;

#ifdef WORDS_BIGENDIAN
			byte = (uint8) value->data[b];
#else
			byte = (uint8) value->data[is_integer ? value->len - 1 - b : b];
#endif
			if (is_integer && b == 0)
				byte ^= 0x80;
			number = number << 8 | byte;
		}
		left -= bytes * 8;
	}
	return left < 64 ? number << left : 0;
}

/* ---------- collecting ---------- */

static ColumnValue *
keep_row(const ColumnValue *row, int natts, Size *len)
{
	ColumnValue *copy = MemoryContextAlloc(batch_context, natts * sizeof(ColumnValue));
	char	   *pos;

	for (int i = 0; i < natts; i++)
		*len += row[i].len;
	pos = MemoryContextAlloc(batch_context, Max(*len, 1));
	for (int i = 0; i < natts; i++)
	{
		copy[i] = row[i];
		if (row[i].kind != VALUE_PRESENT)
			continue;
		copy[i].data = memcpy(pos, row[i].data, row[i].len);
		pos += row[i].len;
	}
	batch_bytes += *len + natts * sizeof(ColumnValue);
	return copy;
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
			.txn = apply_position.txn
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

static HTAB *
key_table(Batch *batch)
{
	HASHCTL		ctl = {.keysize = sizeof(BatchKey), .entrysize = sizeof(KeyEntry),
	.hash = key_hash, .match = key_compare, .hcxt = batch_context};

	if (batch->by_key == NULL)
		batch->by_key = hash_create("pg_fanout collected keys", 256, &ctl,
									HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
	return batch->by_key;
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
	BatchKey	key;
	KeyEntry   *entry;
	BatchRow   *row;
	bool		found;

	if (change->op == CHANGE_UPDATE && change->oldkind != OLD_NONE && !keeps_key(batch, change))
		return false;
	if (!make_key(batch, change->op == CHANGE_INSERT || change->oldkind == OLD_NONE ?
				  change->newrow : change->oldrow, &key))
		return false;

	if (batch->count > 0)
	{
		entry = hash_search(key_table(batch), &key, HASH_FIND, NULL);
		if (entry != NULL && merge(batch, &batch->rows[entry->row], change))
			return true;
		if (entry != NULL)
			batch_flush(batch->relation);
	}
	row = add_row(batch, change);
	/* The same bytes, but kept. */
	(void) make_key(batch, row->oldrow != NULL ? row->oldrow : row->newrow, &key);
	row->sort = sort_number(batch, row->oldrow != NULL ? row->oldrow : row->newrow);
	entry = hash_search(key_table(batch), &key, HASH_ENTER, &found);
	entry->row = batch->count - 1;
	return true;
}

/* Collect the change; false: it must be applied at once. */
bool
batch_add(ApplyRelation *relation, const Change *change)
{
	Batch	   *batch = relation->batch;

	if (batch == NULL)
		return false;
	if (batch_context == NULL)
		batch_context = AllocSetContextCreate(TopMemoryContext, "pg_fanout collected changes",
											  ALLOCSET_DEFAULT_SIZES);
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
	static Change change;

	change = (Change)
	{
		.op = row->op,
			.relid = relation->leader_relid,
			.oldkind = row->oldkind,
			.natts = relation->desc->natts,
			.oldrow = row->oldrow,
			.newrow = row->newrow
	};
	apply_position.relation = relation;
	apply_position.change = &change;
	apply_position.txn = row->txn;
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

static void
apply_rows(Batch *batch)
{
	ApplyRelation *relation = batch->relation;
	int			i = 0;
	int			inserts = 0;

	if (batch->keyed)
		qsort(batch->rows, batch->count, sizeof(BatchRow), row_compare);
	for (; i < batch->count && row_rank(&batch->rows[i]) < 2; i++)
	{
		CHECK_FOR_INTERRUPTS();
		batch_note(relation, &batch->rows[i]);
		apply_row_change(relation, apply_position.change);
	}
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
	batch->by_key = NULL;
}

/* Afterwards nothing is collected, and its memory is free. */
void
batch_flush_all(void)
{
	while (batches != NIL)
		batch_flush(((Batch *) linitial(batches))->relation);
	if (batch_context != NULL)
		MemoryContextReset(batch_context);
	batch_bytes = 0;
}
