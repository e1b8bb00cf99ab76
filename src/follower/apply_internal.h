/*
 * apply_internal.h
 *		What the files of the applier share.
 */
#ifndef FANOUT_APPLY_INTERNAL_H
#define FANOUT_APPLY_INTERNAL_H

#include "lib/ilist.h"
#include "nodes/execnodes.h"

#include "follower/follower.h"

/* A function call prepared for one column's values. */
typedef struct ColumnInput
{
	AttrNumber	attnum;			/* local column */
	bool		direct;			/* the form's own conversion gives the local type */
	FmgrInfo	receive;		/* COLUMN_SEND */
	Oid			receive_ioparam;
	FmgrInfo	output;			/* not direct: leader's type to text */
	FmgrInfo	input;			/* COLUMN_TEXT, or not direct */
	Oid			input_ioparam;
	int32		typmod;			/* of the local column */
	Oid			leader_type;	/* InvalidOid for COLUMN_TEXT of other types */
	int16		typlen;			/* of the leader's type */
	bool		typbyval;
} ColumnInput;

/* A relation of the leader and the local table that it is applied to. */
typedef struct ApplyRelation
{
	Oid			leader_relid;	/* hash key */
	MemoryContext desc_context; /* desc and its raw bytes */
	RelationDesc *desc;
	char	   *raw;
	Size		raw_len;

	/* The mapping: valid until either side's definition changes. */
	bool		mapped;
	MemoryContext map_context;
	Oid			relid;			/* local table */
	ColumnInput *inputs;		/* desc->natts */
	bool		has_extra;		/* local columns that the leader does not have */
	Oid			find_index;		/* rows are found by it; InvalidOid: by a scan */
	char	   *filter_snapshot;	/* NULL: none */
	XLogRecPtr	filter_until;

	/* Changes of the running local transaction, and the list of those that have any. */
	uint64		changes;
	slist_node	changed;

	/* Open for the running local transaction only. */
	Relation	rel;			/* NULL: not open */
	ResultRelInfo *result;
	TupleTableSlot *new_slot;
	TupleTableSlot *search_slot;
	TupleTableSlot *found_slot;
	List	   *defaults;		/* of DefaultColumn */
} ApplyRelation;

/* What is being applied, for error messages. */
typedef struct ApplyPosition
{
	LogTxn		txn;
	const ApplyRelation *relation;	/* NULL: none */
	const Change *change;
} ApplyPosition;

extern ApplyPosition apply_position;

/* relation_map.c */
extern void relation_map_init(const FollowedRow *row);
extern void relation_map_describe(const char *payload, Size len);
extern const RelationDesc *relation_map_desc(void *arg, Oid leader_relid);
extern ApplyRelation *relation_map_get(Oid leader_relid);	/* mapped */

/* Is the transaction applied to that table, or did its copy bring it already? */
extern bool relation_wants(ApplyRelation *relation, const LogTxn *txn);

/* apply_group.c: executor state of the running local transaction */
extern EState *group_estate(void);
extern ApplyRelation *group_open(Oid leader_relid);
extern void group_close_relations(void);
extern void group_put_defaults(ApplyRelation *relation, TupleTableSlot *slot);

/* value.c */
extern void column_input_init(ColumnInput *input, const ColumnDesc *column,
							  Form_pg_attribute attr);
extern Datum column_input_value(ColumnInput *input, const ColumnDesc *column,
								const ColumnValue *value);

/* apply.c: count a change of the running local transaction. */
extern void apply_count(ApplyRelation *relation);

/* apply_row.c, apply_truncate.c */
extern void apply_row_change(ApplyRelation *relation, const Change *change);
extern void apply_truncate(const Change *change, const LogTxn *txn);

/* apply_error.c */
extern void apply_error_context(void *arg);
extern char *apply_describe_key(const ApplyRelation *relation, const Change *change);

#endif							/* FANOUT_APPLY_INTERNAL_H */
