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
#include "utils/lsyscache.h"
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

/*
 * Bounded queries that are being executed, and when each began: for queries
 * inside them that read with their snapshot.  It is alive as long as the query, so its
 * address tells it.  The list lives in TopTransactionContext.
 */
typedef struct RunningQuery
{
	QueryDesc  *query;
	int64		began_boot;
	int			nest_level;		/* of the subtransaction that began it */
} RunningQuery;

static List *running_queries = NIL;

/*
 * While EXECUTE runs: the snapshot that its portal holds on to for the sake of the
 * rows it returns.  It need not be the one that they are read with.
 */
static Snapshot execute_hold_snapshot = NULL;

static ExecutorStart_hook_type prev_executor_start = NULL;
static ExecutorEnd_hook_type prev_executor_end = NULL;
static ProcessUtility_hook_type prev_process_utility = NULL;

static inline bool
token_given(void)
{
	return read_after != NULL && read_after[0] != '\0';
}

static inline bool
token_wanted(void)
{
	return token_given() && !read_after_seen;
}

/* A token that was seen may not be seen in a table that is copied again. */
static inline bool
bounded(void)
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
	int64		staleness = positions_staleness(stream, snapshot);

	ereport(ERROR,
			(errcode(FANOUT_ERRCODE_STALE_READ),
			 errmsg("the follower is too stale for this statement"),
			 staleness < 0 ?
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
token_not_applied(void)
{
	ereport(ERROR,
			(errcode(FANOUT_ERRCODE_STALE_READ),
			 errmsg("the follower has not applied the token in \"fanout.read_after\""),
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

/* Its stream has no record: no worker was started since the server was. */
static void
nothing_known(Oid relid)
{
	ereport(ERROR,
			(errcode(FANOUT_ERRCODE_STALE_READ),
			 errmsg("the follower is too stale for this statement"),
			 errdetail("Nothing is known about the stream of table \"%s\".", get_rel_name(relid)),
			 RecoveryInProgress() ?
			 errhint("This server is a standby of the follower: read there, or reset \"fanout.max_staleness\" and \"fanout.read_after\".") : 0));
}

/* ---------- which tables of which streams a statement reads ---------- */

typedef struct ReadTable
{
	Oid			relid;
	FollowedStream *stream;
} ReadTable;

static List *
add_table(List *tables, Oid relid)
{
	int32		id = guard_followed_id(relid);
	ReadTable  *table;

	if (id == 0)
		return tables;
	table = palloc(sizeof(ReadTable));
	table->relid = relid;
	table->stream = followed_stream_find(MyDatabaseId, id);
	if (table->stream == NULL)
		nothing_known(relid);
	return lappend(tables, table);
}

static List *
tables_read(PlannedStmt *stmt)
{
	List	   *tables = NIL;
	ListCell   *lc;

	foreach(lc, stmt->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

		if (rte->rtekind == RTE_RELATION)
			tables = add_table(tables, rte->relid);
	}
	return tables;
}

static List *
streams_of(List *tables)
{
	List	   *streams = NIL;
	ListCell   *lc;

	foreach(lc, tables)
		streams = list_append_unique_ptr(streams, ((ReadTable *) lfirst(lc))->stream);
	return streams;
}

/* ---------- checking and waiting ---------- */

/* Up to when a statement that began then must see the leader's commits; -1: no bound. */
static int64
required_boot(int64 began_boot)
{
	if (max_staleness < 0)
		return -1;
	if (max_staleness == 0 && IsolationUsesXactSnapshot() && xact_begin_boot > 0)
		return xact_begin_boot;
	return began_boot - (int64) max_staleness * 1000;
}

/* When did the query that this snapshot was taken for begin?  Now, when it is not known. */
static int64
snapshot_began(Snapshot snapshot)
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

static void
remember_query(QueryDesc *query, int64 began_boot)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(TopTransactionContext);
	RunningQuery *running = palloc(sizeof(RunningQuery));

	running->query = query;
	running->began_boot = began_boot;
	running->nest_level = GetCurrentTransactionNestLevel();
	running_queries = lcons(running, running_queries);
	MemoryContextSwitchTo(oldcontext);
}

static void
forget_query(QueryDesc *query)
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

/* The first of the streams that the snapshot does not show as of boot_us; NULL: none. */
static FollowedStream *
first_stale(List *streams, Snapshot snapshot, int64 boot_us)
{
	ListCell   *lc;

	if (max_staleness < 0)
		return NULL;
	foreach(lc, streams)
	{
		if (positions_proven_boot(lfirst(lc), snapshot) < boot_us)
			return lfirst(lc);
	}
	return NULL;
}

/* The first of the tables that the snapshot does not show in line with its stream; InvalidOid: none. */
static Oid
first_behind(List *tables, Snapshot snapshot)
{
	ListCell   *lc;

	foreach(lc, tables)
	{
		ReadTable  *table = lfirst(lc);

		if (!table_is_current(table->stream, table->relid, snapshot))
			return table->relid;
	}
	return InvalidOid;
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

	if (token_wanted())
	{
		Token		token = token_parse_or_fail(read_after);

		read_after_seen = wait_applied(token_streams(&token, NULL), token.lsn, deadline);
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
	FollowedStream *stale = first_stale(streams_of(tables), snapshot, boot_us);
	Oid			behind;

	if (stale != NULL)
		stale_read(stale, snapshot, inherits);
	behind = first_behind(tables, snapshot);
	if (OidIsValid(behind))
		table_behind(behind);
}

static void
bound_query(QueryDesc *query)
{
	List	   *tables = tables_read(query->plannedstmt);
	List	   *streams = streams_of(tables);
	bool		check_token = token_wanted();
	bool		inherits = !may_replace(query);
	bool		behind;
	int64		began_boot;
	int64		boot_us;

	if (tables == NIL)
		return;
	began_boot = inherits ? snapshot_began(query->snapshot) : fanout_boottime_us();
	boot_us = required_boot(began_boot);
	behind = OidIsValid(first_behind(tables, query->snapshot));

	if (!inherits &&
		(check_token || behind || first_stale(streams, query->snapshot, boot_us) != NULL))
	{
		wait_for_bounds(streams, boot_us, behind);
		replace_snapshot(query);
		check_token = token_wanted();
	}
	if (check_token)
		token_not_applied();
	check_snapshot(tables, query->snapshot, boot_us, inherits);
	remember_query(query, began_boot);
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

static void
bound_executor_end(QueryDesc *query)
{
	if (running_queries != NIL)
		forget_query(query);

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
	List	   *tables = OidIsValid(relid) ? add_table(NIL, relid) : NIL;
	int64		boot_us;

	if (tables == NIL || !ActiveSnapshotSet())
		return;
	boot_us = required_boot(fanout_boottime_us());
	if (!IsolationUsesXactSnapshot())
	{
		wait_for_bounds(streams_of(tables), boot_us,
						OidIsValid(first_behind(tables, GetActiveSnapshot())));
		replace_utility_snapshot();
	}
	if (token_wanted())
		token_not_applied();
	check_snapshot(tables, GetActiveSnapshot(), boot_us, false);
}

/* BEGIN, or SET TRANSACTION before the first statement: wait while it helps. */
static void
bound_begin(void)
{
	if (!IsolationUsesXactSnapshot() || FirstSnapshotSet)
		return;
	xact_begin_boot = fanout_boottime_us();
	if (bounded())
		wait_for_bounds(followed_streams_here(NULL),
						xact_begin_boot - (int64) Max(max_staleness, 0) * 1000, false);
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
	Snapshot	outer_hold_snapshot = execute_hold_snapshot;

	if (IsA(stmt, CopyStmt) && !((CopyStmt *) stmt)->is_from &&
		((CopyStmt *) stmt)->relation != NULL && bounded())
		bound_copy((CopyStmt *) stmt);
	if (IsA(stmt, ExecuteStmt) && ActivePortal != NULL)
		execute_hold_snapshot = ActivePortal->holdSnapshot;

	next(pstmt, query_string, read_only_tree, context, params, query_env, dest, qc);

	execute_hold_snapshot = outer_hold_snapshot;
	if (begins)
		bound_begin();
}

static void
bound_xact_callback(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE)
		return;
	xact_begin_boot = 0;
	running_queries = NIL;
	execute_hold_snapshot = NULL;
}

/* Queries that fail have no end: what the subtransaction began is gone. */
static void
bound_subxact_callback(SubXactEvent event, SubTransactionId subid,
					   SubTransactionId parent, void *arg)
{
	ListCell   *lc;

	if (event != SUBXACT_EVENT_ABORT_SUB)
		return;
	execute_hold_snapshot = NULL;
	foreach(lc, running_queries)
	{
		RunningQuery *running = lfirst(lc);

		if (running->nest_level < GetCurrentTransactionNestLevel())
			continue;
		running_queries = foreach_delete_current(running_queries, lc);
		pfree(running);
	}
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
	prev_executor_end = ExecutorEnd_hook;
	ExecutorEnd_hook = bound_executor_end;
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = bound_process_utility;
	RegisterXactCallback(bound_xact_callback, NULL);
	RegisterSubXactCallback(bound_subxact_callback, NULL);
}
