/*
 * read_bound.c
 *		Reads that insist: fanout.max_staleness, fanout.read_after and
 *		fanout.stale_read_timeout.
 *
 * A statement that reads a replicated table while one of the first two is set
 * must run with a snapshot that is fresh enough.  When it has one already it
 * just runs.  Otherwise, in READ COMMITTED, it waits and then takes another
 * snapshot in place of the one the server took for it; that happens in ExecutorStart
 * (for COPY table TO in ProcessUtility), before anything was read.
 *
 * A snapshot that somebody else reads with must not be replaced: a query inside
 * a STABLE function shares its caller's snapshot, and one in REPEATABLE READ that of
 * its transaction.  Such a statement is checked, and fails at once when the
 * snapshot is too old.  For REPEATABLE READ and SERIALIZABLE it is BEGIN that waits,
 * since the snapshot is taken by the first statement after it.
 *
 * How fresh: as new as the leader was max_staleness before the statement began
 * (in REPEATABLE READ with 0: before the transaction began).  That is decided
 * by the proofs in the stream's record (positions.c), with regard to the
 * snapshot.  A token is different: a position can't be held against a snapshot, so it
 * counts as seen only by snapshots taken after the session found it applied.
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "commands/copy.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "tcop/pquery.h"
#include "tcop/utility.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"

#include "follower/follower.h"
#include "follower/wait.h"

static int	max_staleness = -1; /* ms */
static int	stale_read_timeout = 1000;	/* ms */
static char *read_after = NULL;

/* The session found read_after applied: snapshots taken from now on show it. */
static bool read_after_seen = false;

/* When the running REPEATABLE READ transaction's BEGIN came; 0: no explicit BEGIN. */
static int64 xact_begin_boot = 0;

static ExecutorStart_hook_type prev_executor_start = NULL;
static ProcessUtility_hook_type prev_process_utility = NULL;

static inline bool
token_wanted(void)
{
	return read_after != NULL && read_after[0] != '\0' && !read_after_seen;
}

static inline bool
bounded(void)
{
	return (max_staleness >= 0 || token_wanted()) &&
		Fanout != NULL && pg_atomic_read_u32(&Fanout->followed_streams) > 0;
}

static TimestampTz
read_deadline(void)
{
	return TimestampTzPlusMilliseconds(GetCurrentTimestamp(), stale_read_timeout);
}

/* ---------- errors ---------- */

static void
stale_read(FollowedStream *stream, Snapshot snapshot)
{
	int64		staleness = positions_staleness(stream, snapshot);
	bool		xact_snapshot = IsolationUsesXactSnapshot();

	ereport(ERROR,
			(errcode(FANOUT_ERRCODE_STALE_READ),
			 errmsg("the follower is too stale for this statement"),
			 staleness < 0 ?
			 errdetail("The staleness of stream \"%s\" is unknown; \"fanout.max_staleness\" is %d ms.",
					   NameStr(stream->stream), max_staleness) :
			 errdetail("The staleness of stream \"%s\" is %.3f ms; \"fanout.max_staleness\" is %d ms.",
					   NameStr(stream->stream), staleness / 1000.0, max_staleness),
			 xact_snapshot ?
			 errhint("In REPEATABLE READ and SERIALIZABLE only an explicit BEGIN can wait for a fresher state.") : 0));
}

static void
token_not_applied(void)
{
	ereport(ERROR,
			(errcode(FANOUT_ERRCODE_STALE_READ),
			 errmsg("the follower has not applied the token in \"fanout.read_after\""),
			 IsolationUsesXactSnapshot() ?
			 errhint("In REPEATABLE READ and SERIALIZABLE the token must be set before BEGIN.") : 0));
}

/* ---------- which streams a statement reads ---------- */

static List *
add_stream_of(List *streams, Oid relid)
{
	int32		id = guard_followed_id(relid);
	FollowedStream *stream = id == 0 ? NULL : followed_stream_find(MyDatabaseId, id);

	return stream == NULL ? streams : list_append_unique_ptr(streams, stream);
}

static List *
streams_read(PlannedStmt *stmt)
{
	List	   *streams = NIL;
	ListCell   *lc;

	foreach(lc, stmt->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

		if (rte->rtekind == RTE_RELATION)
			streams = add_stream_of(streams, rte->relid);
	}
	return streams;
}

static List *
all_streams_here(void)
{
	List	   *streams = NIL;

	LWLockAcquire(Fanout->lock, LW_SHARED);
	for (int i = 0; i < fanout_max_streams; i++)
	{
		if (FollowedStreams[i].in_use && FollowedStreams[i].dboid == MyDatabaseId)
			streams = lappend(streams, &FollowedStreams[i]);
	}
	LWLockRelease(Fanout->lock);
	return streams;
}

/* ---------- checking and waiting ---------- */

/* Up to when a statement that begins now must see the leader's commits. */
static int64
required_boot(void)
{
	if (max_staleness == 0 && IsolationUsesXactSnapshot() && xact_begin_boot > 0)
		return xact_begin_boot;
	return fanout_boottime_us() - (int64) max_staleness * 1000;
}

/* The first of the streams that the snapshot does not show as of boot_us; NULL: none. */
static FollowedStream *
first_stale(List *streams, Snapshot snapshot, int64 boot_us)
{
	ListCell   *lc;

	foreach(lc, streams)
	{
		if (positions_proven_boot(lfirst(lc), snapshot) < boot_us)
			return lfirst(lc);
	}
	return NULL;
}

/* Wait until snapshots taken from now on are fresh enough, or the time is over. */
static void
wait_for_bounds(List *streams, int64 boot_us)
{
	TimestampTz deadline = read_deadline();
	ListCell   *lc;

	if (token_wanted())
	{
		Token		token = token_parse_or_fail(read_after);

		read_after_seen = wait_applied(token_streams(&token, NULL), token.lsn, deadline);
	}
	if (max_staleness < 0)
		return;
	foreach(lc, streams)
		(void) wait_fresh(lfirst(lc), boot_us, deadline);
}

/* Is this the only use of the statement's snapshot, so that it may be replaced? */
static bool
may_replace(QueryDesc *query)
{
	return !IsolationUsesXactSnapshot() &&
		ActiveSnapshotSet() && query->snapshot == GetActiveSnapshot() &&
		query->snapshot->regd_count == 1;
}

static void
replace_snapshot(QueryDesc *query)
{
	PopActiveSnapshot();
	PushActiveSnapshot(GetTransactionSnapshot());
	UnregisterSnapshot(query->snapshot);
	query->snapshot = RegisterSnapshot(GetActiveSnapshot());
}

static void
bound_query(QueryDesc *query)
{
	List	   *streams = streams_read(query->plannedstmt);
	bool		check_token = token_wanted();
	int64		boot_us;

	if (streams == NIL)
		return;
	boot_us = max_staleness >= 0 ? required_boot() : -1;

	if (!check_token && first_stale(streams, query->snapshot, boot_us) == NULL)
		return;
	if (may_replace(query))
	{
		wait_for_bounds(streams, boot_us);
		replace_snapshot(query);
		check_token = token_wanted();
	}

	if (check_token)
		token_not_applied();
	if (max_staleness >= 0)
	{
		FollowedStream *stale = first_stale(streams, query->snapshot, boot_us);

		if (stale != NULL)
			stale_read(stale, query->snapshot);
	}
}

static void
bound_executor_start(QueryDesc *query, int eflags)
{
	if (bounded() && (eflags & EXEC_FLAG_EXPLAIN_ONLY) == 0 && !IsParallelWorker() &&
		query->snapshot != InvalidSnapshot)
		bound_query(query);

	if (prev_executor_start)
		prev_executor_start(query, eflags);
	else
		standard_ExecutorStart(query, eflags);
}

/* ---------- utility statements ---------- */

/* Replace the snapshot a utility statement runs with; its portal may remember it. */
static void
replace_utility_snapshot(void)
{
	bool		of_portal = ActivePortal != NULL &&
		ActivePortal->portalSnapshot == GetActiveSnapshot();

	PopActiveSnapshot();
	if (of_portal)
	{
		PushActiveSnapshotWithLevel(GetTransactionSnapshot(), ActivePortal->createLevel);
		ActivePortal->portalSnapshot = GetActiveSnapshot();
	}
	else
		PushActiveSnapshot(GetTransactionSnapshot());
}

/* COPY table TO reads with the utility statement's snapshot and has no executor. */
static void
bound_copy(CopyStmt *stmt)
{
	Oid			relid = RangeVarGetRelid(stmt->relation, NoLock, true);
	List	   *streams = OidIsValid(relid) ? add_stream_of(NIL, relid) : NIL;
	int64		boot_us;
	FollowedStream *stale;

	if (streams == NIL || !ActiveSnapshotSet())
		return;
	boot_us = max_staleness >= 0 ? required_boot() : -1;
	if (!IsolationUsesXactSnapshot())
	{
		wait_for_bounds(streams, boot_us);
		replace_utility_snapshot();
	}
	if (token_wanted())
		token_not_applied();
	stale = max_staleness >= 0 ? first_stale(streams, GetActiveSnapshot(), boot_us) : NULL;
	if (stale != NULL)
		stale_read(stale, GetActiveSnapshot());
}

/* BEGIN, or SET TRANSACTION before the first statement: wait while it helps. */
static void
bound_begin(void)
{
	if (!IsolationUsesXactSnapshot() || FirstSnapshotSet)
		return;
	xact_begin_boot = fanout_boottime_us();
	if (bounded())
		wait_for_bounds(all_streams_here(),
						xact_begin_boot - (int64) Max(max_staleness, 0) * 1000);
}

static bool
begins_transaction(Node *stmt)
{
	if (IsA(stmt, TransactionStmt))
		return ((TransactionStmt *) stmt)->kind == TRANS_STMT_BEGIN ||
			((TransactionStmt *) stmt)->kind == TRANS_STMT_START;
	if (IsA(stmt, VariableSetStmt))
		return ((VariableSetStmt *) stmt)->kind == VAR_SET_MULTI &&
			strcmp(((VariableSetStmt *) stmt)->name, "TRANSACTION") == 0;
	return false;
}

static void
bound_process_utility(PlannedStmt *pstmt, const char *query_string, bool read_only_tree,
					  ProcessUtilityContext context, ParamListInfo params,
					  QueryEnvironment *query_env, DestReceiver *dest, QueryCompletion *qc)
{
	ProcessUtility_hook_type next =
		prev_process_utility ? prev_process_utility : standard_ProcessUtility;
	Node	   *stmt = pstmt->utilityStmt;
	bool		begins = begins_transaction(stmt);

	if (IsA(stmt, CopyStmt) && !((CopyStmt *) stmt)->is_from &&
		((CopyStmt *) stmt)->relation != NULL && bounded())
		bound_copy((CopyStmt *) stmt);

	next(pstmt, query_string, read_only_tree, context, params, query_env, dest, qc);

	if (begins)
		bound_begin();
}

static void
bound_xact_callback(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		xact_begin_boot = 0;
}

/* ---------- parameters ---------- */

static bool
check_read_after(char **newval, void **extra, GucSource source)
{
	Token		token;

	if (*newval == NULL || (*newval)[0] == '\0' || token_parse(*newval, &token))
		return true;
	GUC_check_errdetail("It must be a token from fanout.token() or fanout.commit_token on the leader, or an LSN.");
	return false;
}

static void
assign_read_after(const char *newval, void *extra)
{
	read_after_seen = false;
}

void
read_bound_init(void)
{
	DefineCustomIntVariable("fanout.max_staleness",
							"Sets how stale the replicated tables that a statement reads may be.",
							"A statement waits up to fanout.stale_read_timeout for a fresher state. 0: at least as new as the leader was when the statement began. -1: any staleness.",
							&max_staleness, -1, -1, INT_MAX, PGC_USERSET, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomIntVariable("fanout.stale_read_timeout",
							"Sets how long a statement waits for the freshness it must have before it fails.",
							NULL,
							&stale_read_timeout, 1000, 0, INT_MAX, PGC_USERSET, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomStringVariable("fanout.read_after",
							   "Sets a token; statements that read replicated tables wait until it is applied.",
							   "It comes from fanout.token() or fanout.commit_token on the leader. Empty: do not wait.",
							   &read_after, "", PGC_USERSET, 0,
							   check_read_after, assign_read_after, NULL);

	prev_executor_start = ExecutorStart_hook;
	ExecutorStart_hook = bound_executor_start;
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = bound_process_utility;
	RegisterXactCallback(bound_xact_callback, NULL);
}
