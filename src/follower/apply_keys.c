/*
 * apply_keys.c
 *		Which of the collected changes are of the same row: by the bytes of its key.
 *
 * Each key has a sort number, by which keys come as in the index, as far as 64 bits
 * tell.  Only speed depends on it, unless it is exact: equal numbers are equal keys.
 *
 * Changes of many rows mostly come in the order of a key.  As long as they do, and the
 * number is exact, a row is known to be the first of its key by being behind the
 * last one, and one that is there is found by bisection.  The hash table is made
 * when they don't.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "follower/apply_batch.h"

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

/* ---------- columns ---------- */

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

bool
keys_init(Batch *batch, const ApplyRelation *relation)
{
	Relation	index = OidIsValid(relation->find_index) ? find_open_index(relation) : NULL;
	Size		size = 0;

	if (index == NULL)
		return false;
	batch->nkeys = IndexRelationGetNumberOfKeyAttributes(index);
	batch->exact = true;
	for (int i = 0; i < batch->nkeys; i++)
	{
		int			column = relation_sent_column(relation, index->rd_index->indkey.values[i]);

		if (column < 0 || !is_equal_by_bytes(&relation->inputs[column],
											 &relation->desc->columns[column],
											 index->rd_indcollation[i]))
			return false;
		batch->keys[i] = column;
		size += relation->desc->columns[column].typlen;
		batch->exact &= relation->desc->columns[column].form == COLUMN_FIXED &&
			size <= sizeof(uint64);
	}
	return true;
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

static bool
is_whole_key(const Batch *batch, const ColumnValue *row)
{
	for (int i = 0; i < batch->nkeys; i++)
	{
		if (row[batch->keys[i]].kind != VALUE_PRESENT)
			return false;
	}
	return true;
}

/* The bytes of a whole key: as they are when it is one column, otherwise each with its length. */
static BatchKey
make_key(const Batch *batch, const ColumnValue *row)
{
	const ColumnValue *first = &row[batch->keys[0]];
	BatchKey	key = {.data = first->data, .len = first->len};
	char	   *pos;

	if (batch->nkeys == 1)
		return key;
	key.len = 0;
	for (int i = 0; i < batch->nkeys; i++)
		key.len += sizeof(uint32) + row[batch->keys[i]].len;
	key.data = pos = batch_alloc(key.len);
	for (int i = 0; i < batch->nkeys; i++)
	{
		const ColumnValue *value = &row[batch->keys[i]];

		memcpy(pos, &value->len, sizeof(uint32));
		memcpy(pos + sizeof(uint32), value->data, value->len);
		pos += sizeof(uint32) + value->len;
	}
	return key;
}

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

/* ---------- finding ---------- */

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

static void
enter_key(Batch *batch, int row)
{
	BatchKey	key = make_key(batch, row_with_key(&batch->rows[row]));
	KeyEntry   *entry;

	entry = hash_search(key_table(batch), &key, HASH_ENTER, NULL);
	entry->row = row;
}

void
keys_note(Batch *batch)
{
	int			last = batch->count - 1;

	if (last == 0)
		batch->ordered = batch->exact;
	else if (batch->ordered && batch->rows[last].sort < batch->rows[last - 1].sort)
	{
		batch->ordered = false;
		for (int i = 0; i < last; i++)
			enter_key(batch, i);
	}
	if (!batch->ordered)
		enter_key(batch, last);
}

static BatchRow *
find_in_order(const Batch *batch, uint64 sort)
{
	int			low = 0;
	int			high = batch->count - 1;

	if (batch->rows[high].sort < sort)
		return NULL;
	while (low < high)
	{
		int			middle = low + (high - low) / 2;

		if (batch->rows[middle].sort < sort)
			low = middle + 1;
		else
			high = middle;
	}
	return batch->rows[low].sort == sort ? &batch->rows[low] : NULL;
}

bool
keys_find(Batch *batch, const ColumnValue *row, BatchRow **found, uint64 *sort)
{
	BatchKey	key;
	KeyEntry   *entry;

	*found = NULL;
	if (!is_whole_key(batch, row))
		return false;
	*sort = sort_number(batch, row);
	if (batch->count > 0 && batch->ordered)
		*found = find_in_order(batch, *sort);
	else if (batch->count > 0)
	{
		key = make_key(batch, row);
		entry = hash_search(key_table(batch), &key, HASH_FIND, NULL);
		*found = entry != NULL ? &batch->rows[entry->row] : NULL;
	}
	return true;
}

void
keys_forget(Batch *batch)
{
	batch->by_key = NULL;
}
