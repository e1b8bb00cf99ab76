/*
 * table_activity.h
 *		How much was applied to each table.
 */
#ifndef FANOUT_TABLE_ACTIVITY_H
#define FANOUT_TABLE_ACTIVITY_H

#include "pg_fanout.h"

/*
 * Add committed changes of a table of this database.  Makes the shared memory at
 * its first call, outside a transaction or in one.
 */
extern void table_activity_add(int32 followed_id, Oid relid, uint64 changes, TimestampTz at);

extern void table_activity_forget_table(int32 followed_id, Oid relid);

/* Forget all tables of a followed stream of this database. */
extern void table_activity_forget(int32 followed_id);

#endif							/* FANOUT_TABLE_ACTIVITY_H */
