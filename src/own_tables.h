/*
 * own_tables.h
 *		Access to the tables of the extension, whoever the caller is.
 */
#ifndef FANOUT_OWN_TABLES_H
#define FANOUT_OWN_TABLES_H

#include "pg_fanout.h"

#include "nodes/pg_list.h"
#include "utils/array.h"

typedef struct OwnTables
{
	Oid			userid;			/* as before own_tables_begin() */
	int			sec_context;
	int			guc_nestlevel;
	MemoryContext context;		/* the caller's memory context */
} OwnTables;

/*
 * Between begin and end, SPI is connected, names resolve in pg_catalog only
 * and the tables of schema fanout may be read and written.  The current memory
 * context in between is SPI's: results that are to survive own_tables_end() go
 * into state->context.  Needs a transaction and does not nest; SPI takes the
 * snapshots its statements need, but a background worker pushes an active one
 * first for statements that fire triggers.
 */
extern void own_tables_begin(OwnTables *state);
extern void own_tables_end(OwnTables *state);

/* One of our tables; InvalidOid when the extension is not in this database. */
extern Oid	own_table_oid(const char *name);

/*
 * Wait for the transactions that may have inserted rows into one of our tables by now,
 * the extension itself perhaps being one that such a transaction makes.  Not within a
 * transaction.
 */
extern void own_table_wait_for_writers(const char *name);

/*
 * Have that wait for this transaction, which will insert a row: not before there is a record
 * for it, since a worker that gives one back waits like that.
 */
extern void own_table_lock_for_insert(const char *name);

#endif							/* FANOUT_OWN_TABLES_H */
