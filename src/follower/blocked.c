/*
 * blocked.c
 *		Does a process of the stream wait for a lock that this process has?
 *
 * Who waits for such a process other than by a lock has to ask: the server's search for
 * deadlocks knows only those that wait for locks.  The process may wait for another one that
 * waits for this one, and so on.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/array.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

#include "follower/follower.h"

/* The first look, which is nearly always enough, is without a lock. */
static bool
waits_for_a_lock(pid_t pid)
{
	PGPROC	   *proc = BackendPidGetProc(pid);

	return proc != NULL && proc->waitLock != NULL;
}

/* Add the processes that this one waits for to the list. */
static List *
add_blockers(List *pids, pid_t pid)
{
	ArrayType  *blockers;

	if (!waits_for_a_lock(pid))
		return pids;
	blockers = DatumGetArrayTypeP(DirectFunctionCall1(pg_blocking_pids, Int32GetDatum(pid)));
	for (int i = 0; i < ArrayGetNItems(ARR_NDIM(blockers), ARR_DIMS(blockers)); i++)
		pids = list_append_unique_int(pids, ((int32 *) ARR_DATA_PTR(blockers))[i]);
	return pids;
}

bool
waits_for_us(pid_t pid)
{
	MemoryContext context;
	MemoryContext oldcontext;
	List	   *pids;
	bool		waits;

	if (!waits_for_a_lock(pid))
		return false;

	/* It allocates in proportion to the number of connections, and callers ask again and again. */
	context = AllocSetContextCreate(CurrentMemoryContext, "pg_fanout blockers",
									ALLOCSET_DEFAULT_SIZES);
	oldcontext = MemoryContextSwitchTo(context);
	pids = list_make1_int(pid);
	for (int i = 0; i < list_length(pids) && !list_member_int(pids, MyProcPid); i++)
		pids = add_blockers(pids, list_nth_int(pids, i));
	waits = list_member_int(pids, MyProcPid);
	MemoryContextSwitchTo(oldcontext);
	MemoryContextDelete(context);
	return waits;
}

bool
is_in_the_way(FollowedStream *stream, bool of_copier)
{
	pid_t		worker;
	pid_t		copier;

	SpinLockAcquire(&stream->mutex);
	worker = stream->worker.pid;
	copier = stream->copier_pid;
	SpinLockRelease(&stream->mutex);
	return waits_for_us(worker) || (of_copier && waits_for_us(copier));
}

void
check_not_in_the_way(FollowedStream *stream, bool of_copier)
{
	if (!is_in_the_way(stream, of_copier))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_T_R_DEADLOCK_DETECTED),
			 errmsg("stream \"%s\" waits for a lock that this transaction holds",
					NameStr(stream->stream)),
			 errhint("Wait for the stream before the transaction reads or locks a table.")));
}
