/*
 * row_hash.h
 *		Hashes of rows, by which leader and follower compare tables.
 */
#ifndef FANOUT_ROW_HASH_H
#define FANOUT_ROW_HASH_H

#include "executor/tuptable.h"
#include "lib/stringinfo.h"
#include "nodes/pg_list.h"

/* Columns of a row that are hashed together. */
typedef struct RowHash RowHash;

/*
 * Columns by their names, List of char *, and those of them that count in their text form; in
 * the current memory context.  Fails with ERRCODE_UNDEFINED_COLUMN.
 */
extern RowHash *row_hash_prepare(TupleDesc desc, List *columns, List *text_columns);

/* Leaves memory in the current context behind. */
extern uint64 row_hash(RowHash *row, TupleTableSlot *slot);

/* The columns and their values as a JSON object. */
extern void row_hash_json(RowHash *row, TupleTableSlot *slot, StringInfo json);

/* The columns' attribute numbers. */
extern List *row_hash_attnums(const RowHash *row);

/* One line of an answer: a group of rows. */
typedef struct HashLine
{
	char	   *key;			/* "", the number of a bucket, or a key as JSON */
	int64		rows;
	uint64		hash;			/* the sum of their hashes */
} HashLine;

/* What is asked of a table. */
typedef struct HashRequest
{
	List	   *columns;		/* of char *: what is hashed */
	List	   *text_columns;	/* those that count in their text form */
	List	   *key;			/* of char * */
	char	   *filter;			/* only rows that pass it; NULL: all */
	int			buckets;		/* by the key's hash, a power of two; 0: all rows in one line */
	List	   *chosen;			/* ints: list each row of these buckets by its key; NIL: none */
} HashRequest;

/*
 * Read a table under the active snapshot and call "put" for each line.  The table is locked,
 * and the caller has seen to it that whoever asks may read it.
 */
typedef void (*HashLinePut) (void *arg, const HashLine *line);
extern void table_hashes(Oid relid, const HashRequest *request, HashLinePut put, void *arg);

#endif							/* FANOUT_ROW_HASH_H */
