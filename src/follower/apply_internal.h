/*
 * apply_internal.h
 *		What the files of the applier share.
 */
#ifndef FANOUT_APPLY_INTERNAL_H
#define FANOUT_APPLY_INTERNAL_H

#include "lib/ilist.h"
#include "nodes/execnodes.h"

#include "follower/follower.h"
#include "log/statement.h"

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
	bool		names_object;	/* of the leader's, which need not be here */
	Oid			element_domain; /* of an array of a domain's values */
} ColumnInput;

/* The open partitions of a local table (apply_partition.c). */
typedef struct Partitions Partitions;

/* The scan by which rows are found (apply_find.c), and changes to come (apply_batch.c). */
typedef struct FindScan FindScan;
typedef struct Batch Batch;

/* A relation of the leader and the local table that it is applied to. */
typedef struct ApplyRelation
{
	Oid			leader_relid;	/* hash key */
	MemoryContext desc_context; /* desc and its raw bytes */
	RelationDesc *desc;
	char	   *raw;
	Size		raw_len;

	/* The local table, and the mapping: valid until either side's definition changes. */
	bool		found;
	bool		mapped;
	MemoryContext map_context;
	Oid			relid;			/* InvalidOid: not followed */
	Oid			owner;			/* of it: whoever's code runs with its rows */
	ColumnInput *inputs;		/* desc->natts */
	bool		has_extra;		/* local columns that the leader does not have */
	Oid			find_index;		/* rows are found by it; InvalidOid: by a scan */
	char		state;			/* TABLE_..., zero when it is not followed */
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
	Partitions *partitions;		/* NULL: not partitioned */
	FindScan   *find;			/* NULL: nothing was looked for yet */
	Batch	   *batch;			/* NULL: changes are applied one by one */
	bool		triggers;		/* some fire for what is replicated */
	bool		plain_update;	/* see apply_update.c */
	TupleTableSlot **insert_slots;	/* of apply_insert.c */
	struct BulkInsertStateData *bulk;	/* of a copy; NULL: none */
} ApplyRelation;

/* What is being applied, for error messages. */
typedef struct ApplyPosition
{
	LogTxn		txn;
	const ApplyRelation *relation;	/* NULL: none */
	const Change *change;
	const ColumnDesc *column;	/* whose value is being made; NULL: none */
} ApplyPosition;

extern ApplyPosition apply_position;

/* relation_map.c */
extern void relation_map_init(const FollowedRow *row);
extern void relation_map_describe(const char *payload, Size len);
extern const RelationDesc *relation_map_desc(void *arg, Oid leader_relid);
extern ApplyRelation *relation_map_get(Oid leader_relid);
extern void relation_map_reload(void);
extern void relation_map_refresh(List *relids);	/* only these tables' rows changed */

/* The stream has dropped that local table, in a transaction that is committed. */
extern void relation_map_forget(Oid relid);

/* Map the relation's columns to those of rel, in the current memory context. */
extern void relation_map_columns(ApplyRelation *relation, Relation rel);

/* Which column of the leader's description goes to that local one?  -1: none. */
extern int	relation_sent_column(const ApplyRelation *relation, AttrNumber attnum);

/* Is the transaction applied to that table, or did its copy bring it already?  Maps it if so. */
extern bool relation_wants(ApplyRelation *relation, const LogTxn *txn);

/* Did the copy of a local table see what the transaction did? */
extern bool relation_copied_after(Oid relid, const LogTxn *txn);

/* Was the transaction visible in a snapshot "xmin:xmax:xip,xip,..."? */
extern bool snapshot_sees(const char *snapshot, uint64 xid);

/* table_map.c: the rows of fanout.followed_table */
extern void table_map_init(int32 id, MemoryContext context);
extern void table_map_read(void);
extern void table_map_read_some(List *relids);
extern void table_map_add(const FollowedTable *table);

/* The row of a table, by its oid here or on the leader; NULL: it is not followed. */
extern FollowedTable *relation_map_table(Oid relid);
extern FollowedTable *relation_map_leader_table(Oid leader_relid);
extern Oid	relation_map_known(Oid leader_relid);	/* the local table, without an error; or Invalid */

/* Oids of the local tables in that state, zero: in any; are all in line with the stream? */
extern List *relation_map_in_state(char state);

/*
 * dropped_tables.c: the tables that the leader's statement drops and that are missing here.  Leaves
 * their names out of it where they would mean another table.
 */
extern List *dropped_tables_leave(Node *stmt);
extern bool relation_map_all_current(void);

/* From here on no table is ahead of the stream; Invalid: none is. */
extern XLogRecPtr relation_map_ahead_until(void);

/* apply_group.c: executor state of the running local transaction */
extern EState *group_estate(void);

/* What the server would look again with at a row that others change: rows are locked before. */
extern EPQState *group_recheck(void);

extern ApplyRelation *group_open(Oid leader_relid);
extern void group_open_table(ApplyRelation *relation, Oid relid);
extern void group_close_relations(void);
extern void group_abandon(void);
extern void group_put_defaults(ApplyRelation *relation, TupleTableSlot *slot);

/* value.c */
extern void column_input_init(ColumnInput *input, const ColumnDesc *column,
							  Form_pg_attribute attr);
extern Datum column_input_value(ColumnInput *input, const ColumnDesc *column,
								const ColumnValue *value);

/* apply.c: count a change of the running local transaction, and its locks on relations. */
extern void apply_count(ApplyRelation *relation);
extern void apply_count_locks(int locks);

/* Once it is committed, the worker has to look for tables to copy. */
extern void apply_needs_copy(void);

/* Have these local tables copied again, once it is committed. */
extern void apply_copy_again(List *relids);

/* Tables may have gone: the last of those that were not in line was one of them, perhaps. */
extern void apply_tables_gone(void);

/* The running local transaction drops that table, and the leader changes it no more. */
extern void apply_dropped(Oid relid);

/* Is what comes now applied already, but for tables that were copied beside the stream? */
extern bool apply_is_replaying(void);

/* The next change must see what the last one did. */
extern void apply_next_command(void);

/* apply_row.c */
extern void apply_row_change(ApplyRelation *relation, const Change *change);

/* Memory for the values of one row, or of some that are stored together. */
extern MemoryContext row_memory(void);

/* How well a row fits the one that the leader changed. */
typedef enum RowMatch
{
	ROW_NONE,
	ROW_EQUAL,					/* to the operators of its types */
	ROW_IDENTICAL				/* byte by byte */
} RowMatch;

/* Its steps.  Slots returned are the relation's own. */
extern void row_put_new(ApplyRelation *relation, const ColumnValue *row, TupleTableSlot *slot);
extern TupleTableSlot *row_inserted(ApplyRelation *relation, const ColumnValue *row);
extern TupleTableSlot *row_updated(ApplyRelation *relation, const ColumnValue *row);
extern TupleTableSlot *row_searched(ApplyRelation *relation, const Change *change);
extern RowMatch row_find(ApplyRelation *relation, const Change *change);	/* into found_slot */
pg_noreturn extern void row_not_found(const ApplyRelation *relation, const Change *change);
extern void row_insert(ApplyRelation *relation, TupleTableSlot *row);
extern void row_update(ApplyRelation *relation, TupleTableSlot *row);	/* of found_slot */
extern void row_delete(ApplyRelation *relation);
extern void row_clear(ApplyRelation *relation);

/* apply_find.c */
extern bool find_by_index(ApplyRelation *relation, const ColumnValue *row); /* into found_slot */
extern void find_end(ApplyRelation *relation);
extern void find_expect(ApplyRelation *relation, const ColumnValue *first,
						const ColumnValue *last, int count);
extern void find_expected(ApplyRelation *relation);
extern Relation find_open_index(const ApplyRelation *relation);

/* apply_batch.c: changes that are collected first */

/* Nothing is left of the changes of that key. */
#define BATCH_NOTHING	'-'

/* The net effect of a key's changes, or one INSERT. */
typedef struct BatchRow
{
	uint8		op;				/* a ChangeOp or BATCH_NOTHING */
	OldRowKind	oldkind;
	ColumnValue *oldrow;		/* of the first change */
	ColumnValue *newrow;		/* of the last one */
	Size		len;			/* bytes of values */
	uint64		sort;			/* order of the key */
	const LogTxn *txn;			/* of the first change */
} BatchRow;

extern void batch_open(ApplyRelation *relation);
extern bool batch_add(ApplyRelation *relation, const Change *change);
extern void batch_flush(ApplyRelation *relation);
extern void batch_flush_all(void);
extern void batch_note(const ApplyRelation *relation, const BatchRow *row);

/* apply_insert.c */
extern void row_prepare(ApplyRelation *relation, TupleTableSlot *slot);
extern void insert_rows(ApplyRelation *relation, const BatchRow *rows, int count);

/* apply_update.c */
extern bool update_is_plain(const ApplyRelation *relation);
extern void update_plainly(ApplyRelation *relation, TupleTableSlot *row);

/* apply_partition.c: changes of a partitioned table */
extern void partitions_open(ApplyRelation *root);
extern void partitions_close(ApplyRelation *root);
extern void partitions_change(ApplyRelation *root, const Change *change);

/* apply_truncate.c */
extern bool apply_truncate(const Change *change, const LogTxn *txn);

/* apply_tables.c: tables that join or leave a stream that names publications */
extern void apply_tables_init(const FollowedRow *row);
extern bool apply_tables(const Change *change, const LogTxn *txn);

/* Is that table of the leader to be made here from a schema that is newer than all that was applied? */
extern bool table_is_joining(Oid leader_relid);

/* apply_ddl.c, adapt_statement.c */
extern void apply_ddl_init(const FollowedRow *row);
extern bool apply_statement(const Change *change, const LogTxn *txn);
extern bool names_missing_parent(Node *stmt);
extern bool adapt_statement(Node *stmt);

/* statement_roles.c: SESSION_USER in it means that role. */
extern void adapt_roles(Node *stmt, char *session_role);

/* statement_role.c: an error when there is none, or when it may do too much. */
extern Oid	statement_role(const SchemaStatement *statement);

/* adapt_function.c */
extern AlterFunctionStmt *adapt_function(Node *stmt);
extern void adapt_function_settings(AlterFunctionStmt *alter);

/* made_names.c: what was made here gets the names of what the leader made of the same; lists of MadeObject. */
extern void made_take_names(List *here, List *theirs);

/* apply_error.c */
extern void apply_error_context(void *arg);
extern char *apply_describe_key(const ApplyRelation *relation, const Change *change);

#endif							/* FANOUT_APPLY_INTERNAL_H */
