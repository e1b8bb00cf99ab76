/*
 * guard.h
 *		What the files of the guard share.
 *
 * guard.c refuses, and watches rows and utility statements; guard_objects.c
 * watches the objects that make up a table, guard_types.c knows which types and schemas do;
 * guard_tables.c knows which tables are replicated; guard_code.c whose statements run in
 * the stream's own processes.
 */
#ifndef FANOUT_GUARD_H
#define FANOUT_GUARD_H

#include "nodes/plannodes.h"
#include "tcop/utility.h"

#include "follower/follower.h"

/* A followed stream, as an error shows it. */
typedef struct GuardedStream
{
	int32		id;				/* fanout.followed_stream.id */
	NameData	name;
	char	   *leader;			/* connection string without secrets */
} GuardedStream;

/*
 * The stream that replicates into a table, NULL: none.  The result lives until
 * the next call.
 */
extern const GuardedStream *guard_stream_of(Oid relid);

/* All replicated tables, List of oids. */
extern List *guard_tables(void);

/* A replicated table with values of that type, or in that schema; InvalidOid: none. */
extern Oid guard_table_of_type(Oid type);
extern Oid guard_table_in_schema(Oid schema);

/* Is the guard to look at what this process does? */
extern bool guard_is_active(void);

/* Does this session change tables past the guard, which is off? */
extern bool guard_is_passed(void);

/* Fail with ERRCODE_READ_ONLY_SQL_TRANSACTION if the table is replicated. */
extern void guard_check_table(Oid relid, const char *command);

/* Tag of the utility command that runs now. */
extern const char *guard_current_command(void);

/* The table that an index or a sequence belongs to; any other relation is its own. */
extern Oid guard_table_of_relation(Oid relid);

extern void guard_objects_init(void);

/* guard_code.c: is this process the stream's own, and does code of others run in it? */
extern bool guard_is_own_process(void);
extern bool guard_is_code(void);

/* Around each utility statement; the first returns what the second needs. */
extern int	guard_enter_statement(Node *stmt, ProcessUtilityContext context);
extern void guard_leave_statement(int outer);

/* Is nothing to come of this statement in such a process, since the stream brings it? */
extern bool guard_leaves_out(PlannedStmt *stmt);
extern bool guard_fills_own(Oid relid);
extern bool guard_leaves_out_utility(Node *stmt);

/* subscribed.c: tables of this database that built-in subscriptions write to, List of oids. */
extern List *subscribed_tables(void);

#endif							/* FANOUT_GUARD_H */
