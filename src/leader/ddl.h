/*
 * ddl.h
 *		What the files of the capture of schema changes share.
 *
 * ddl_capture.c watches statements and writes them down; ddl_filter.c says whether a
 * statement replicates and what it is about, and ddl_temporary.c what lives no longer
 * than something temporary; ddl_deparse.c writes the text of those that must not be
 * repeated as they are, and ddl_bound.c that of partitions' bounds; ddl_values.c knows
 * which ALTER TABLE computes values that come out otherwise on a follower.
 */
#ifndef FANOUT_DDL_H
#define FANOUT_DDL_H

#include "leader/leader.h"

#include "nodes/parsenodes.h"

/* Columns of fanout.schema_change, as the extension's script has them. */
enum
{
	Anum_schema_change_role = 1,
	Anum_schema_change_settings,
	Anum_schema_change_statement,
	Anum_schema_change_relations,
	Anum_schema_change_flags,
	Natts_schema_change = Anum_schema_change_flags
};

/* What is known of a statement before it runs. */
typedef struct SchemaChange
{
	bool		ours;			/* about this extension: never replicated */
	const char *why_not;		/* not replicated, and this is why; NULL: it is */
	bool		after;			/* written down after it has run, since it commits inside */
	uint8		flags;			/* STATEMENT_... */
	List	   *relids;			/* tables it is about, where that can be told */
	char	   *text;			/* to be repeated instead of the statement; NULL: itself */
} SchemaChange;

/* ddl_filter.c; the text of the statement begins at that place of the query string. */
extern bool is_schema_change(Node *stmt);
extern void ddl_examine(Node *stmt, char *text, int location, SchemaChange *change);

/* ddl_temporary.c */
extern bool names_temporary_type(const TypeName *name);
extern bool needs_temporary(Oid class_id, Oid object_id);
extern bool query_uses_temporary(Node *query);

/* ddl_deparse.c */
extern char *deparse_create_table_as(const CreateTableAsStmt *stmt);
extern char *deparse_drop(const DropStmt *stmt, List *objects);
extern char *deparse_cluster(const ClusterStmt *stmt, Oid relid);	/* NULL: nothing to repeat */
extern char *deparse_stand_ins(const CreateStmt *stmt, char *text);

/* ddl_bound.c */
extern char *deparse_bound(const RangeVar *parent, const PartitionBoundSpec *bound,
						   const char *text, int location);

/* ddl_values.c */
extern bool names_a_moment(Node *node, void *context);
extern bool alter_table_values_differ(AlterTableStmt *stmt);

#endif							/* FANOUT_DDL_H */
