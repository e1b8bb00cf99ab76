/*
 * drop_database.c
 *		DROP DATABASE first stops the database's workers.
 *
 * A decoder holds its slot and every worker is a connection, and either makes
 * DROP DATABASE fail.  So before it runs, for somebody who may run it, the
 * launcher is told to start nothing there and the workers are ended.  Whether
 * the command then succeeds or fails, the launcher looks again: it removes the
 * hints of a database that is gone, and starts the workers of one that is not.
 */
#include "postgres.h"

#include <signal.h>

#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "tcop/utility.h"
#include "utils/acl.h"

#include "compat.h"
#include "launcher.h"
#include "shmem.h"

#define STOP_TIMEOUT_MS	5000
#define STOP_POLL_MS	10

static ProcessUtility_hook_type prev_process_utility = NULL;

/* End one worker if it runs; true if it does. */
static bool
stop_worker(slock_t *mutex, const WorkerInfo *info)
{
	pid_t		pid;

	SpinLockAcquire(mutex);
	pid = info->pid;
	SpinLockRelease(mutex);
	return pid != 0 && kill(pid, SIGTERM) == 0;
}

/* End all workers of the database; true while any runs. */
static bool
stop_workers(Oid dboid)
{
	bool		running = false;

	for (int i = 0; i < fanout_max_streams; i++)
	{
		LeaderStream *leader = &LeaderStreams[i];
		FollowedStream *followed = &FollowedStreams[i];

		if (leader->in_use && leader->dboid == dboid)
			running |= stop_worker(&leader->mutex, &leader->worker);
		if (followed->in_use && followed->dboid == dboid)
			running |= stop_worker(&followed->mutex, &followed->worker);
	}
	return running;
}

static void
stop_workers_and_wait(Oid dboid)
{
	for (int waited = 0; stop_workers(dboid) && waited < STOP_TIMEOUT_MS; waited += STOP_POLL_MS)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 STOP_POLL_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

static void
set_dropping(Oid dboid)
{
	SpinLockAcquire(&Fanout->mutex);
	Fanout->dropping_dboid = dboid;
	SpinLockRelease(&Fanout->mutex);
}

static void
drop_database_utility(PlannedStmt *pstmt, const char *query_string, bool read_only_tree,
					  ProcessUtilityContext context, ParamListInfo params,
					  QueryEnvironment *query_env, DestReceiver *dest, QueryCompletion *qc)
{
	ProcessUtility_hook_type next =
		prev_process_utility ? prev_process_utility : standard_ProcessUtility;
	Oid			dboid = InvalidOid;

	if (IsA(pstmt->utilityStmt, DropdbStmt) && Fanout != NULL)
		dboid = get_database_oid(((DropdbStmt *) pstmt->utilityStmt)->dbname, true);

	if (!OidIsValid(dboid) || dboid == MyDatabaseId || !fanout_owns_database(dboid, GetUserId()))
	{
		next(pstmt, query_string, read_only_tree, context, params, query_env, dest, qc);
		return;
	}

	PG_TRY();
	{
		set_dropping(dboid);
		stop_workers_and_wait(dboid);
		next(pstmt, query_string, read_only_tree, context, params, query_env, dest, qc);
	}
	PG_FINALLY();
	{
		set_dropping(InvalidOid);
		launcher_wake();
	}
	PG_END_TRY();
}

void
drop_database_init(void)
{
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = drop_database_utility;
}
