/*
 * read_running.h
 *		Bounded queries that are being executed, and when each began.
 */
#ifndef FANOUT_READ_RUNNING_H
#define FANOUT_READ_RUNNING_H

#include "pg_fanout.h"

#include "executor/execdesc.h"
#include "utils/snapshot.h"

/* Shared memory that this takes, and its set-up. */
extern Size read_running_shmem_size(void);
extern void read_running_shmem_init(void);

/* A query that was found, or made, fresh enough for a statement that began then (boot time). */
extern void running_remember(QueryDesc *query, int64 began_boot);
extern void running_forget(QueryDesc *query);

/* When did the query that this snapshot was taken for begin?  Now, when it is not known. */
extern int64 running_began(Snapshot snapshot);

/* Is that what a parallel worker was started for?  Then it is the leading process's query. */
extern bool running_is_of_leader(const QueryDesc *query);

/* In a parallel worker: remember that query as begun when it was there. */
extern void running_join(QueryDesc *query);

/* While the query runs, its parallel workers can learn when it began; returns what to put back. */
extern int64 running_publish(const QueryDesc *query);
extern void running_put_back(int64 began_boot);

/* The transaction ended; a subtransaction was rolled back. */
extern void running_forget_all(void);
extern void running_forget_sub(void);

#endif							/* FANOUT_READ_RUNNING_H */
