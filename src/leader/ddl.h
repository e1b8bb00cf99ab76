/*
 * ddl.h
 *		What the files of the capture of schema changes share.
 *
 * ddl_capture.c watches statements and has ddl_write.c write them down; ddl_text.c finds their
 * texts, ddl_made.c notes what they make, and ddl_script.c what runs within an extension's
 * script; ddl_filter.c says whether a
 * statement replicates and what it is about, and ddl_temporary.c what lives no longer
 * than something temporary; ddl_bare.c writes what is left of a table without it; ddl_deparse.c writes the text of those that must not be
 * repeated as they are, and ddl_bound.c that of partitions' bounds; ddl_values.c knows
 * which ALTER TABLE computes values that come out otherwise on a follower.
 */
#ifndef FANOUT_DDL_H
#define FANOUT_DDL_H

#include "leader/leader.h"

#include "nodes/parsenodes.h"
#include "nodes/plannodes.h"

/* Columns of fanout.schema_change, as the extension's script has them. */
enum
{
	Anum_schema_change_role = 1,
	Anum_schema_change_settings,
	Anum_schema_change_statement,
	Anum_schema_change_relations,
	Anum_schema_change_flags,
	Anum_schema_change_number,
	Anum_schema_change_made,
	Anum_schema_change_session_role,
	Anum_schema_change_transaction_at,
	Anum_schema_change_statement_at,
	Natts_schema_change = Anum_schema_change_statement_at
};

/* Flags of rows that are no statements and don't get into the log, see ddl_script.c. */
#define MARK_SCRIPT				0x20	/* an extension's script begins; its name is the text */
#define MARK_EVENT_TRIGGER		0x40	/* an event trigger's function begins, in a script */
#define MARK_END				0x80	/* what began last ends */
#define MARKS	(MARK_SCRIPT | MARK_EVENT_TRIGGER | MARK_END)

/* What is known of a statement before it runs. */
typedef struct SchemaChange
{
	bool		ours;			/* about this extension: never replicated */
	const char *why_not;		/* not replicated, and this is why; NULL: it is */
	bool		after;			/* written down after it has run, since it commits inside, */
	bool		may_use_temporary;	/* ... or what it made tells whether it replicates */
	uint8		flags;			/* STATEMENT_... */
	const char *extension;		/* whose script it runs; NULL: none */
	List	   *relids;			/* tables it is about, where that can be told */
	char	   *text;			/* to be repeated instead of the statement; NULL: itself */
	List	   *settings;		/* of char *: names and values that this statement needs */
} SchemaChange;

/* ddl_capture.c: is there a stream with schema changes? */
extern bool ddl_is_led(void);

/* ddl_write.c: rows for a statement and its end, by a number; a list of names and values. */
extern uint32 write_statement_down(const char *text, const SchemaChange *change);
extern void write_made_down(uint32 number, List *relids, List *made);
extern void write_mark_down(uint8 mark, const char *text);	/* unless the extension is gone */
extern List *add_setting(List *settings, const char *name, const char *value);

/* ddl_text.c */
extern char *statement_text(const PlannedStmt *pstmt, const char *query_string);
extern bool statement_text_conforms(const char *text, Node *stmt);

/* Whatever a statement makes or alters; sub_id is the number of a column, or zero. */
typedef struct TouchedObject
{
	Oid			class_id;
	Oid			object_id;
	int			sub_id;
	bool		created;
} TouchedObject;

/* ddl_made.c: what a statement makes is noted between begin and end; statements nest. */
typedef struct MadeByStatement
{
	List	   *noted;
	List	   *touched;		/* of TouchedObject */
	MemoryContext context;
	struct MadeByStatement *outer;
} MadeByStatement;

extern void ddl_made_begin(MadeByStatement *made);
extern List *ddl_made_strings(const MadeByStatement *made);	/* see made.h */
extern bool ddl_made_needs_temporary(const MadeByStatement *made);
extern char *ddl_made_bare(const MadeByStatement *made);	/* see deparse_bare() */
extern void ddl_made_end(MadeByStatement *made);
extern void ddl_made_init(void);

/* ddl_script.c; extension NULL: the statement has no script */
typedef enum ScriptState
{
	NO_SCRIPT,
	IN_SCRIPT,
	IN_EVENT_TRIGGER			/* called within a script */
} ScriptState;

extern void ddl_script_init(void);
extern ScriptState ddl_script_begin(const char *extension); /* returns the state before */
extern void ddl_script_restore(ScriptState before);
extern bool ddl_comes_with_script(void);

/* ddl_filter.c; the text of the statement begins at that place of the query string. */
extern bool is_schema_change(Node *stmt);
extern void ddl_examine(Node *stmt, char *text, int location, SchemaChange *change);

/* ddl_temporary.c */
extern bool names_temporary_type(const TypeName *name);
extern bool needs_temporary(Oid class_id, Oid object_id);
extern bool query_uses_temporary(Node *query);
extern bool is_temporary_type(Oid typid);
extern bool may_name_temporary(const char *text);
extern bool part_needs_temporary(ObjectType type, Oid relid, const char *name);
extern bool touched_needs_temporary(const TouchedObject *object);

/* ddl_deparse.c */
extern char *deparse_create_table_as(const CreateTableAsStmt *stmt);
extern char *deparse_drop(const DropStmt *stmt, List *objects);
extern char *deparse_cluster(const ClusterStmt *stmt, Oid relid);	/* NULL: nothing to repeat */
extern char *deparse_qualified(const char *text, const RangeVar *relation, int start);
extern char *deparse_column(const char *name, Oid typid, int32 typmod, Oid collation);
extern char *deparse_stand_ins(const CreateStmt *stmt, char *text);

/* ddl_bare.c: the tables and columns that were made, without all else; NULL: there are none. */
extern char *deparse_bare(List *touched);

/* ddl_grant.c */
extern char *deparse_grant_in_schemas(const GrantStmt *stmt);	/* NULL: nothing to repeat */

/* ddl_bound.c */
extern char *deparse_bound(const RangeVar *parent, const PartitionBoundSpec *bound,
						   const char *text, int location);

/* ddl_values.c */
extern bool names_a_moment(Node *node, void *context);
extern bool alter_table_values_differ(AlterTableStmt *stmt);

#endif							/* FANOUT_DDL_H */
