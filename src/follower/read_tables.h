/*
 * read_tables.h
 *		Which replicated tables a statement reads.
 */
#ifndef FANOUT_READ_TABLES_H
#define FANOUT_READ_TABLES_H

#include "pg_fanout.h"

#include "nodes/plannodes.h"
#include "utils/snapshot.h"

#include "shmem.h"

typedef struct ReadTable
{
	Oid			relid;
	FollowedStream *stream;
} ReadTable;

/* List of ReadTable.  Fails when nothing can be known of one. */
extern List *read_tables(const PlannedStmt *stmt);
extern List *read_tables_add(List *tables, Oid relid, char relkind);

/* While a materialized view is computed, others that it reads are not looked at. */
extern void read_tables_skip_views(bool skip);

/* Their streams, each once: List of FollowedStream. */
extern List *read_streams(const List *tables);

/* The first of them that the snapshot does not show in line with its stream; InvalidOid: none. */
extern Oid	read_first_behind(const List *tables, Snapshot snapshot);

#endif							/* FANOUT_READ_TABLES_H */
