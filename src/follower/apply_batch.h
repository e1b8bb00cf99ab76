/*
 * apply_batch.h
 *		Changes collected for one table: what apply_batch.c and apply_keys.c share.
 */
#ifndef FANOUT_APPLY_BATCH_H
#define FANOUT_APPLY_BATCH_H

#include "utils/hsearch.h"

#include "follower/apply_internal.h"

struct Batch
{
	ApplyRelation *relation;
	BatchRow   *rows;
	int			count;
	int			capacity;

	/* apply_keys.c */
	bool		keyed;			/* has a net effect; otherwise inserts only */
	int			nkeys;
	int			keys[INDEX_MAX_KEYS];	/* columns of the key, in the index's order */
	bool		exact;			/* equal sort numbers are equal keys */
	bool		ordered;		/* exact, and the rows came in rising order of their keys */
	HTAB	   *by_key;			/* unless ordered; NULL: none yet */
};

/* Memory until everything collected is applied. */
extern void *batch_alloc(Size size);
extern MemoryContext batch_context;

/* The version of the row that has the key it is found by. */
static inline const ColumnValue *
row_with_key(const BatchRow *row)
{
	return row->oldrow != NULL ? row->oldrow : row->newrow;
}

/* ---------- apply_keys.c ---------- */

/* Set keys and exact; false when the bytes of the key don't tell which row it is. */
extern bool keys_init(Batch *batch, const ApplyRelation *relation);

/*
 * What was collected for that row's key (NULL: nothing), and its sort number.  Returns false
 * when part of the key is null.
 */
extern bool keys_find(Batch *batch, const ColumnValue *row, BatchRow **found, uint64 *sort);

/* The last of batch->rows is new: it is to be found by its key. */
extern void keys_note(Batch *batch);

/* Nothing is collected any more. */
extern void keys_forget(Batch *batch);

#endif							/* FANOUT_APPLY_BATCH_H */
