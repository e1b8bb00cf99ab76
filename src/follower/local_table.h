/*
 * local_table.h
 *		The tables here that a stream writes to, and with whose rights it does.
 */
#ifndef FANOUT_LOCAL_TABLE_H
#define FANOUT_LOCAL_TABLE_H

#include "follower/follower.h"
#include "utils/relcache.h"

/* Is it the server's or the extension's, which no leader may write to? */
extern bool local_relation_is_system(Oid relid, const char *nspname);

/*
 * The table that a name of the leader's means here.  When there is none, fails with
 * ERRCODE_UNDEFINED_TABLE, or returns InvalidOid if that may be: the leader's schema
 * may be ahead of the stream.  Fails with ERRCODE_INSUFFICIENT_PRIVILEGE for one that
 * no leader may write to.
 */
extern Oid	local_table_find(const char *nspname, const char *relname, int lockmode,
							 bool missing_ok);

/* Fail if a crash would empty it.  Of a partitioned table it is the partitions that count. */
extern void local_table_require_permanent(Relation rel);

/* Who one was before local_table_become(). */
typedef struct FormerUser
{
	Oid			userid;
	int			sec_context;
	int			guc_nestlevel;	/* 0: none was made */
} FormerUser;

/*
 * Go on with the rights of a table's owner, and back.  Nothing need be undone on an
 * error: the abort of the transaction does.
 */
extern void local_table_become(Oid owner, FormerUser *former);
extern void local_table_become_former(const FormerUser *former);

/* Does any trigger of the table fire for what is replicated? */
extern bool local_table_has_triggers(Relation rel);

/*
 * Have deferred triggers of this transaction fire with their statements, if that table has
 * any that fire here: at commit they would have the wrong rights.
 */
extern void local_table_fire_deferred(Relation rel);

/*
 * Open and lock a table, and its partitions if it has any here, and append those that the
 * list does not have yet.
 */
extern List *local_table_open_all(List *rels, Oid relid, int lockmode);

/* Empty tables, which are open, as their owners. */
extern void local_tables_truncate(List *rels, bool restart_sequences);

/*
 * Delete all rows of an open table, but for those in partitions; no trigger fires.
 * each_row, if any, is called before each.
 */
extern void local_table_delete_all(Relation rel, void (*each_row) (void));

#endif							/* FANOUT_LOCAL_TABLE_H */
