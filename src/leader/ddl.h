/*
 * ddl.h
 *		What the files of the capture of schema changes share.
 *
 * ddl_capture.c watches statements and writes them down; ddl_filter.c says whether a
 * statement replicates and what it is about; ddl_deparse.c writes the text of
 * those that must not be repeated as they are; ddl_values.c knows which ALTER TABLE
 * computes values that come out otherwise on a follower.
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

/* ddl_filter.c */
extern bool is_schema_change(Node *stmt);
extern void ddl_examine(Node *stmt, SchemaChange *change);

/* ddl_deparse.c */
extern char *deparse_create_table_as(const CreateTableAsStmt *stmt);
extern char *deparse_drop(const DropStmt *stmt, List *objects);
extern char *deparse_cluster(const ClusterStmt *stmt);

/* ddl_values.c */
extern bool alter_table_values_differ(AlterTableStmt *stmt);

#endif							/* FANOUT_DDL_H */
