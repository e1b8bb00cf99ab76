/*
 * guard.h
 *		What the files of the guard share.
 *
 * guard.c refuses, and watches rows and utility statements; guard_objects.c
 * watches the objects that make up a table; guard_tables.c knows which tables
 * are replicated.
 */
#ifndef FANOUT_GUARD_H
#define FANOUT_GUARD_H

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

/* Is the guard to look at what this process does? */
extern bool guard_is_active(void);

/* Does this session change tables past the guard, which is off? */
extern bool guard_is_passed(void);

/* Fail with ERRCODE_READ_ONLY_SQL_TRANSACTION if the table is replicated. */
extern void guard_check_table(Oid relid, const char *command);

/* Tag of the utility command that runs now. */
extern const char *guard_current_command(void);

/* The table that an index belongs to; any other relation is its own. */
extern Oid guard_table_of_relation(Oid relid);

extern void guard_objects_init(void);

/* subscribed.c: tables of this database that built-in subscriptions write to, List of oids. */
extern List *subscribed_tables(void);

#endif							/* FANOUT_GUARD_H */
