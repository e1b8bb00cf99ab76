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
 * snapshot is too old; a query that shares its caller's snapshot must be as fresh
 * as its caller had to be.  For REPEATABLE READ and SERIALIZABLE it is BEGIN that waits,
 * since the snapshot is taken by the first statement after it.
 *
 * A table that is copied beside the stream is older than the others: until it is in line
 * again (table_current.c) such a statement must not read it, however fresh the stream is.
 *
 * How fresh: as new as the leader was max_staleness before the statement began
 * (in REPEATABLE READ with 0: before the transaction began), and with all that the token covers.
 * Both is decided by what the stream's record says (positions.c), with regard to the snapshot.

 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "commands/copy.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "tcop/pquery.h"
#include "tcop/utility.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "follower/follower.h"
#include "follower/read_planning.h"
#include "follower/read_running.h"
#include "follower/read_tables.h"
#include "follower/wait.h"

static int	max_staleness = -1; /* ms */
static int	stale_read_timeout = 1000;	/* ms */
static char *read_after = NULL;

/* Where the session found read_after applied: List in TopMemoryContext. */
typedef struct FoundToken
{
	FollowedStream *stream;
	PositionFound found;
} FoundToken;

static List *found_tokens = NIL;

/* When the running REPEATABLE READ transaction's BEGIN came; 0: no explicit BEGIN. */
static int64 xact_begin_boot = 0;

/* The same of the transaction that follows this one by AND CHAIN, if it ends so; 0: none. */
static int64 chain_begin_boot = 0;
static XactEvent chain_event;

/*
 * While EXECUTE runs: the snapshot that its portal holds on to for the sake of the
 * rows it returns.  It need not be the one that they are read with.
 */
static Snapshot execute_hold_snapshot = NULL;

static ExecutorStart_hook_type prev_executor_start = NULL;
static ExecutorRun_hook_type prev_executor_run = NULL;
static ExecutorEnd_hook_type prev_executor_end = NULL;
static ProcessUtility_hook_type prev_process_utility = NULL;

static inline bool
token_given(void)
{
	return read_after != NULL && read_after[0] != '\0';
}

bool
read_is_bounded(void)
{
	return (max_staleness >= 0 || token_given()) && follows_anything();
}

static TimestampTz
read_deadline(void)
{
	return TimestampTzPlusMilliseconds(GetCurrentTimestamp(), stale_read_timeout);
}

/* ---------- errors ---------- */

/* inherits: the query reads with its caller's snapshot. */
static void
stale_read(FollowedStream *stream, Snapshot snapshot, bool inherits)
{
	int64		staleness;
	bool		known = positions_staleness(stream, snapshot, &staleness);

	ereport(ERROR,
			(errcode(FANOUT_ERRCODE_STALE_READ),
			 errmsg("the follower is too stale for this statement"),
			 !known ?
			 errdetail("The staleness of stream \"%s\" is unknown; \"fanout.max_staleness\" is %d ms.",
					   NameStr(stream->stream), max_staleness) :
			 errdetail("The staleness of stream \"%s\" is %.3f ms; \"fanout.max_staleness\" is %d ms.",
					   NameStr(stream->stream), staleness / 1000.0, max_staleness),
			 IsolationUsesXactSnapshot() ?
			 errhint("In REPEATABLE READ and SERIALIZABLE only an explicit BEGIN can wait for a fresher state.") :
			 inherits ?
			 errhint("A query in a STABLE function reads with its caller's snapshot and can't wait. Let the calling statement read a replicated table, or make the function VOLATILE.") : 0));
}

static void
token_not_shown(bool inherits)
{
	ereport(ERROR,
			(errcode(FANOUT_ERRCODE_STALE_READ),
			 errmsg("the follower has not applied the token in \"fanout.read_after\""),
			 inherits ? errdetail("The snapshot that the statement must read with does not show it.") : 0,
			 IsolationUsesXactSnapshot() ?
			 errhint("In REPEATABLE READ and SERIALIZABLE the token must be set before BEGIN.") : 0));
}

static void
table_behind(Oid relid)
{
	ereport(ERROR,
			(errcode(FANOUT_ERRCODE_STALE_READ),
			 errmsg("table \"%s\" is being copied from the leader", get_rel_name(relid)),
			 errdetail("How stale it is, is unknown until then.")));
}

/* ---------- checking and waiting ---------- */

static int64
bound_from(int64 boot_us)
{
	return boot_us - (int64) Max(max_staleness, 0) * 1000;
}

/* Up to when a statement that began then must see the leader's commits, if there is a bound. */
static int64
required_boot(int64 began_boot)
{
	if (max_staleness == 0 && IsolationUsesXactSnapshot() && xact_begin_boot > 0)
		return xact_begin_boot;
	return bound_from(began_boot);
}

static PositionFound *
found_in(FollowedStream *stream)
{
	MemoryContext oldcontext;
	FoundToken *token;
	ListCell   *lc;

	foreach(lc, found_tokens)
	{
		token = lfirst(lc);
		if (token->stream == stream)
			return &token->found;
	}
	oldcontext = MemoryContextSwitchTo(TopMemoryContext);
	token = palloc0(sizeof(FoundToken));
	token->stream = stream;
	found_tokens = lappend(found_tokens, token);
	MemoryContextSwitchTo(oldcontext);
	return &token->found;
}

/* Does the snapshot show what read_after covers, if anything? */
static bool
shows_token(Snapshot snapshot)
{
	Token		token;
	ListCell   *lc;

	if (!token_given())
		return true;
	token = token_parse_or_fail(read_after);
	foreach(lc, token_streams(&token, NULL))
	{
		FollowedStream *stream = lfirst(lc);

		if (!positions_show(stream, snapshot, token.lsn, found_in(stream)))
			return false;
	}
	return true;
}

/* The first of the streams that the snapshot does not show as of boot_us; NULL: none. */
static FollowedStream *
first_stale(List *streams, Snapshot snapshot, int64 boot_us)
{
	ListCell   *lc;

	if (max_staleness < 0)
		return NULL;
	foreach(lc, streams)
	{
		if (!positions_proven_since(lfirst(lc), snapshot, boot_us))
			return lfirst(lc);
	}
	return NULL;
}

/*
 * Wait until snapshots taken from now on are fresh enough, or the time is over.  behind: some
 * table is not in line with its stream.
 */
static void
wait_for_bounds(List *streams, int64 boot_us, bool behind)
{
	TimestampTz deadline = read_deadline();
	ListCell   *lc;

	if (token_given())
	{
		Token		token = token_parse_or_fail(read_after);

		(void) wait_applied(token_streams(&token, NULL), token.lsn, deadline);
	}
	foreach(lc, streams)
	{
		if (behind)
			(void) wait_settled(lfirst(lc), deadline);
		if (max_staleness >= 0)
			(void) wait_fresh(lfirst(lc), boot_us, deadline);
	}
}

/* Is this the only use of the statement's snapshot, so that it may be replaced? */
static bool
may_replace(QueryDesc *query)
{
	Snapshot	snapshot = query->snapshot;
	int			uses = snapshot == execute_hold_snapshot ? 2 : 1;

	return !IsolationUsesXactSnapshot() &&
		ActiveSnapshotSet() && snapshot == GetActiveSnapshot() &&
		snapshot->regd_count == uses;
}

static void
replace_snapshot(QueryDesc *query)
{
	PopActiveSnapshot();
	PushActiveSnapshot(GetTransactionSnapshot());
	UnregisterSnapshot(query->snapshot);
	query->snapshot = RegisterSnapshot(GetActiveSnapshot());
}

/* The statement reads with this snapshot: is that good enough? */
static void
check_snapshot(List *tables, Snapshot snapshot, int64 boot_us, bool inherits)
{
	FollowedStream *stale = first_stale(read_streams(tables), snapshot, boot_us);
	Oid			behind;

	if (!shows_token(snapshot))
		token_not_shown(inherits);
	if (stale != NULL)
		stale_read(stale, snapshot, inherits);
	behind = read_first_behind(tables, snapshot);
	if (OidIsValid(behind))
		table_behind(behind);
}

static void
bound_query(QueryDesc *query)
{
	List	   *tables = read_tables(query->plannedstmt);
	List	   *streams = read_streams(tables);
	bool		inherits = !may_replace(query);
	bool		behind;
	int64		began_boot;
	int64		boot_us;

	if (tables == NIL)
		return;
	began_boot = inherits ? running_began(query->snapshot) : fanout_boottime_us();
	boot_us = required_boot(began_boot);
	behind = OidIsValid(read_first_behind(tables, query->snapshot));

	if (!inherits &&
		(behind || !shows_token(query->snapshot) ||
		 first_stale(streams, query->snapshot, boot_us) != NULL))
	{
		wait_for_bounds(streams, boot_us, behind);
		replace_snapshot(query);
	}
	check_snapshot(tables, query->snapshot, boot_us, inherits);
	running_remember(query, began_boot);
}

static void
bound_executor_start(QueryDesc *query, int eflags)
{
	if (read_is_bounded() && (eflags & EXEC_FLAG_EXPLAIN_ONLY) == 0 &&
		query->snapshot != InvalidSnapshot && !is_of_planner(query->snapshot))
	{
		if (running_is_of_leader(query))
			running_join(query);
		else
			bound_query(query);
	}

	if (prev_executor_start)
		prev_executor_start(query, eflags);
	else
		standard_ExecutorStart(query, eflags);
}

static void
run(FANOUT_EXECUTOR_RUN_PARAMETERS)
{
	if (prev_executor_run)
		prev_executor_run(FANOUT_EXECUTOR_RUN_ARGUMENTS);
	else
		standard_ExecutorRun(FANOUT_EXECUTOR_RUN_ARGUMENTS);
}

static void
bound_executor_run(FANOUT_EXECUTOR_RUN_PARAMETERS)
{
	int64		before;

	if (!query->plannedstmt->parallelModeNeeded || !read_is_bounded())
	{
		run(FANOUT_EXECUTOR_RUN_ARGUMENTS);
		return;
	}
	before = running_publish(query);
	PG_TRY();
	{
		run(FANOUT_EXECUTOR_RUN_ARGUMENTS);
	}
	PG_FINALLY();
	{
		running_put_back(before);
	}
	PG_END_TRY();
}

static void
bound_executor_end(QueryDesc *query)
{
	running_forget(query);

	if (prev_executor_end)
		prev_executor_end(query);
	else
		standard_ExecutorEnd(query);
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
	List	   *tables = OidIsValid(relid) ? read_tables_add(NIL, relid, get_rel_relkind(relid)) : NIL;
	int64		boot_us;

	if (tables == NIL || !ActiveSnapshotSet())
		return;
	boot_us = required_boot(fanout_boottime_us());
	if (!IsolationUsesXactSnapshot())
	{
		wait_for_bounds(read_streams(tables), boot_us,
						OidIsValid(read_first_behind(tables, GetActiveSnapshot())));
		replace_utility_snapshot();
	}
	check_snapshot(tables, GetActiveSnapshot(), boot_us, false);
}

/*
 * AND CHAIN: a transaction of the same isolation level begins when this one has ended, before
 * anybody could wait for it.  So wait now; that this one ends well must not depend on it.
 */
static void
bound_chain(const TransactionStmt *stmt)
{
	Token		token;
	int64		boot_us;

	chain_begin_boot = 0;
	if ((stmt->kind != TRANS_STMT_COMMIT && stmt->kind != TRANS_STMT_ROLLBACK) || !stmt->chain ||
		!IsolationUsesXactSnapshot())
		return;
	chain_begin_boot = fanout_boottime_us();
	boot_us = bound_from(chain_begin_boot);
	chain_event = stmt->kind == TRANS_STMT_COMMIT ? XACT_EVENT_COMMIT : XACT_EVENT_ABORT;
	if (token_given())
		token = token_parse_or_fail(read_after);
	if (read_is_bounded())
		wait_quietly(followed_streams_here(NULL), token_given() ? &token : NULL,
					 max_staleness >= 0 ? &boot_us : NULL, read_deadline());
}

/* BEGIN, or SET TRANSACTION before the first statement: wait while it helps. */
static void
bound_begin(void)
{
	if (!IsolationUsesXactSnapshot() || FirstSnapshotSet)
		return;
	xact_begin_boot = fanout_boottime_us();
	if (read_is_bounded())
		wait_for_bounds(followed_streams_here(NULL), bound_from(xact_begin_boot), false);
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
	bool		aborted = IsAbortedTransactionBlockState();
	Snapshot	outer_hold_snapshot = execute_hold_snapshot;

	if (IsA(stmt, CopyStmt) && !((CopyStmt *) stmt)->is_from &&
		((CopyStmt *) stmt)->relation != NULL && read_is_bounded())
		bound_copy((CopyStmt *) stmt);
	if (IsA(stmt, ExecuteStmt) && ActivePortal != NULL)
		execute_hold_snapshot = ActivePortal->holdSnapshot;
	if (IsA(stmt, RefreshMatViewStmt))
		read_tables_skip_views(true);
	if (IsA(stmt, TransactionStmt))
		bound_chain((TransactionStmt *) stmt);

	next(pstmt, query_string, read_only_tree, context, params, query_env, dest, qc);

	execute_hold_snapshot = outer_hold_snapshot;
	if (IsA(stmt, RefreshMatViewStmt))
		read_tables_skip_views(false);
	if (begins)
		bound_begin();
	/* That transaction's end was told when it failed. */
	if (aborted && chain_begin_boot > 0)
	{
		xact_begin_boot = chain_begin_boot;
		chain_begin_boot = 0;
	}
}

static void
bound_xact_callback(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE)
		return;
	xact_begin_boot = event == chain_event ? chain_begin_boot : 0;
	chain_begin_boot = 0;
	running_forget_all();
	read_tables_skip_views(false);
	execute_hold_snapshot = NULL;
}

static void
bound_subxact_callback(SubXactEvent event, SubTransactionId subid,
					   SubTransactionId parent, void *arg)
{
	if (event != SUBXACT_EVENT_ABORT_SUB)
		return;
	execute_hold_snapshot = NULL;
	running_forget_sub();
	read_tables_skip_views(false);
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
	list_free_deep(found_tokens);
	found_tokens = NIL;
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
	prev_executor_run = ExecutorRun_hook;
	ExecutorRun_hook = bound_executor_run;
	prev_executor_end = ExecutorEnd_hook;
	ExecutorEnd_hook = bound_executor_end;
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = bound_process_utility;
	read_planning_init();
	RegisterXactCallback(bound_xact_callback, NULL);
	RegisterSubXactCallback(bound_subxact_callback, NULL);
}
