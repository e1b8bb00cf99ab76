/*
 * read_running.c
 *		Bounded queries that are being executed, and when each began.
 *
 * A query inside another one, in a STABLE function, reads with that one's snapshot and so
 * must be as fresh as that one had to be.  A snapshot lives as long as its query, so
 * its address tells whose it is.
 *
 * Such a query may run in a parallel worker, and only the process that leads knows when its
 * own began.  So it says so in shared memory, at the place of its process, while it runs a
 * query that may have workers; a worker reads that when it starts.
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "tcop/dest.h"
#include "utils/memutils.h"

#include "compat.h"
#include "follower/read_running.h"

/* The list lives in TopTransactionContext. */
typedef struct RunningQuery
{
	QueryDesc  *query;
	int64		began_boot;
	int			nest_level;		/* of the subtransaction that began it */
} RunningQuery;

static List *running_queries = NIL;

/* By the number of a process: when the query began that its parallel workers work on; 0: no bound. */
static pg_atomic_uint64 *published;

/* ---------- this process's queries ---------- */

void
running_remember(QueryDesc *query, int64 began_boot)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(TopTransactionContext);
	RunningQuery *running = palloc(sizeof(RunningQuery));

	running->query = query;
	running->began_boot = began_boot;
	running->nest_level = GetCurrentTransactionNestLevel();
	running_queries = lcons(running, running_queries);
	MemoryContextSwitchTo(oldcontext);
}

void
running_forget(QueryDesc *query)
{
	ListCell   *lc;

	foreach(lc, running_queries)
	{
		RunningQuery *running = lfirst(lc);

		if (running->query != query)
			continue;
		running_queries = foreach_delete_current(running_queries, lc);
		pfree(running);
	}
}

int64
running_began(Snapshot snapshot)
{
	ListCell   *lc;

	foreach(lc, running_queries)
	{
		RunningQuery *running = lfirst(lc);

		if (running->query->snapshot == snapshot)
			return running->began_boot;
	}
	return fanout_boottime_us();
}

void
running_forget_all(void)
{
	running_queries = NIL;
}

/* Queries that fail have no end: what the subtransaction began is gone. */
void
running_forget_sub(void)
{
	ListCell   *lc;

	foreach(lc, running_queries)
	{
		RunningQuery *running = lfirst(lc);

		if (running->nest_level < GetCurrentTransactionNestLevel())
			continue;
		running_queries = foreach_delete_current(running_queries, lc);
		pfree(running);
	}
}

/* ---------- parallel workers ---------- */

Size
read_running_shmem_size(void)
{
	return mul_size(sizeof(pg_atomic_uint64), MaxBackends);
}

void
read_running_shmem_init(void)
{
	bool		found;

	published = ShmemInitStruct("pg_fanout running queries", read_running_shmem_size(), &found);
	for (int i = 0; !found && i < MaxBackends; i++)
		pg_atomic_init_u64(&published[i], 0);
}

static pg_atomic_uint64 *
published_by(PGPROC *process)
{
	int			number = GetNumberFromPGProc(process);

	Assert(number < MaxBackends);
	return &published[number];
}

int64
running_publish(const QueryDesc *query)
{
	ListCell   *lc;
	int64		before = pg_atomic_read_u64(published_by(MyProc));
	int64		began_boot = 0;

	foreach(lc, running_queries)
	{
		RunningQuery *running = lfirst(lc);

		if (running->query == query)
			began_boot = running->began_boot;
	}
	running_put_back(began_boot);
	return before;
}

void
running_put_back(int64 began_boot)
{
	pg_atomic_write_u64(published_by(MyProc), began_boot);
}

/* Its rows go to the process that leads. */
bool
running_is_of_leader(const QueryDesc *query)
{
	return IsParallelWorker() && query->dest->mydest == DestTupleQueue;
}

void
running_join(QueryDesc *query)
{
	int64		began_boot = pg_atomic_read_u64(published_by(MyProc->lockGroupLeader));

	if (began_boot != 0)
		running_remember(query, began_boot);
}
