/*
 * apply.c
 *		The applier: frames of the change log into local transactions.
 *
 * Transactions of the leader come whole and in commit order.  They are applied in
 * that order; several may go into one local transaction (a group), which the
 * receiver ends by apply_commit_group() when no more input is at hand.  So what
 * a reader here sees is always a prefix of the leader's commit order.
 *
 * A group commits under the stream's replication origin: data and position are
 * durable together.  It commits asynchronously; a list of (local commit, leader's
 * position) tells what the local WAL flush covers.
 *
 * Tables that were copied beside the stream (copy_beside.c) are behind.  Then the leader
 * sends what was applied already once more, and of that only changes of these tables are
 * applied, in a local transaction that ends where the last group did.  What their copy saw
 * may be newer than that: until the stream has passed it they are ahead.
 *
 * All changes of a group see one snapshot's rows and those of the commands before
 * them.  Any error ends the worker, and with it the group.  The transactions of that group are
 * then committed one by one, so that those before the one that fails are applied, once, and it alone
 * is tried again.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/twophase.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "lib/ilist.h"
#include "datatype/timestamp.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "replication/origin.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "follower/apply_internal.h"
#include "follower/local_table.h"
#include "follower/table_activity.h"
#include "log/statement.h"
#include "own_tables.h"
#include "transaction.h"

ApplyPosition apply_position;

/* A local commit whose flush makes the leader's position durable. */
typedef struct LocalCommit
{
	dlist_node	node;
	XLogRecPtr	local_end;
	XLogRecPtr	leader_lsn;
} LocalCommit;

/* A group is committed at the latest when it has so many, or so much of the server's locks. */
#define GROUP_CHANGES		20000
#define GROUP_TRANSACTIONS	1000
#define LOCK_SHARE			8

/*
 * A transaction that fails again is not tried before so many times as long as it took have passed,
 * but after MAX_PAUSE_MS at the latest: what it wrote each time is left to VACUUM.
 */
#define PAUSE_FACTOR	10
#define MAX_PAUSE_MS	600000

/* More commits than this are waiting for their flush: the newest are merged. */
#define MAX_LOCAL_COMMITS	1024

static struct
{
	FollowedStream *stream;
	int32		followed_id;
	bool		in_group;		/* a local transaction is open */
	bool		in_txn;			/* a leader transaction is half applied */
	bool		passing;		/* ... which was applied before */
	bool		skipping;		/* ... which somebody wants to be passed */
	XLogRecPtr	skip_lsn;		/* commit of that one; Invalid: none */
	List	   *skipped;		/* oids of the tables that it changes */
	bool		committing;		/* the group is being committed */
	XLogRecPtr	received_lsn;	/* end of the newest one that the leader sent */
	bool		ends_group;		/* ... which changed the schema: the group ends with it */
	bool		reread;			/* once the group is committed the worker looks at its row */
	uint64		changes;		/* in the group */
	uint64		locks;			/* on relations */
	uint64		transactions;
	LogTxn		last;			/* the last whole transaction in the group */
	slist_head	changed;		/* relations that the group changed */
	List	   *dropped;		/* oids of tables that it dropped */
	Change		change;

	XLogRecPtr	applied_lsn;	/* committed here */
	XLogRecPtr	alone_until;	/* up to here each transaction is a group of its own */
	uint64		applied_seq;
	uint64		local_xid;

	List	   *behind;			/* oids of tables to be put in line with the stream */
	bool		replaying;		/* the half applied transaction is applied for these only */
	XLogRecPtr	copy_lsn;		/* the log is needed from here; Invalid: as far as applied */

	dlist_head	commits;
	int			ncommits;
	XLogRecPtr	durable_lsn;
} applier;

static MemoryContext applier_context = NULL;

/* What is committed by now has all tables in line with the stream, or not. */
static void
tell_settled(void)
{
	tables_settled(applier.stream, relation_map_all_current() ? applier.local_xid : 0);
}

void
apply_start(FollowedStream *stream, const FollowedRow *row)
{
	if (applier_context != NULL)
		MemoryContextDelete(applier_context);
	applier_context = AllocSetContextCreate(TopMemoryContext, "pg_fanout applier",
											ALLOCSET_DEFAULT_SIZES);
	memset(&applier, 0, sizeof(applier));
	dlist_init(&applier.commits);
	slist_init(&applier.changed);
	applier.stream = stream;
	applier.followed_id = row->id;
	applier.applied_lsn = replorigin_session_get_progress(true);
	applier.copy_lsn = row->copy_lsn;
	applier.skip_lsn = row->skip_lsn;
	applier.durable_lsn = applier.applied_lsn;
	SpinLockAcquire(&stream->mutex);
	applier.alone_until = stream->alone_until;
	SpinLockRelease(&stream->mutex);

	/*
	 * The xid is a barrier: a snapshot that sees it finished sees all that the copy
	 * and earlier workers did.
	 */
	fanout_start_transaction();
	applier.local_xid = fanout_full_xid(GetTopTransactionId());
	PushActiveSnapshot(GetTransactionSnapshot());
	relation_map_init(row);
	apply_ddl_init(row);
	apply_tables_init(row);
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(applier_context);
	applier.behind = relation_map_in_state(TABLE_BEHIND);
	tell_settled();
}

/* ---------- groups ---------- */

static void
begin_group(void)
{
	fanout_start_transaction();
	PushActiveSnapshot(GetTransactionSnapshot());
	applier.in_group = true;
	applier.changes = 0;
	applier.locks = 0;
	applier.transactions = 0;
}

void
apply_next_command(void)
{
	CommandCounterIncrement();
	UpdateActiveSnapshotCommandId();
}

static void
note_local_commit(XLogRecPtr local_end, XLogRecPtr leader_lsn)
{
	LocalCommit *commit;

	if (applier.ncommits >= MAX_LOCAL_COMMITS)
		commit = dlist_tail_element(LocalCommit, node, &applier.commits);
	else
	{
		commit = MemoryContextAlloc(applier_context, sizeof(LocalCommit));
		dlist_push_tail(&applier.commits, &commit->node);
		applier.ncommits++;
	}
	commit->local_end = local_end;
	commit->leader_lsn = leader_lsn;
}

/*
 * Commit the local transaction under the origin.  It takes an xid even if it
 * changed nothing, since only a commit record makes the origin's position durable.
 */
static void
commit_local(void)
{
	TransactionId xid = GetTopTransactionId();

	replorigin_session_origin_lsn = applier.last.end_lsn;
	replorigin_session_origin_timestamp = applier.last.commit_time;
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(applier_context);
	applier.local_xid = fanout_full_xid(xid);
	note_local_commit(XactLastCommitEnd, applier.last.end_lsn);
}

/* There will be tables to copy. */
void
apply_needs_copy(void)
{
	tables_settled(applier.stream, 0);
	applier.reread = true;
}

void
apply_copy_again(List *relids)
{
	ListCell   *lc;

	if (relids == NIL)
		return;
	foreach(lc, relids)
		schedule_copy(applier.followed_id, lfirst_oid(lc));
	relation_map_reload();
	apply_needs_copy();
}

void
apply_tables_gone(void)
{
	if (!tables_are_settled(applier.stream) && relation_map_all_current())
		applier.reread = true;
}

void
apply_count_locks(int locks)
{
	applier.locks += locks;
}

void
apply_count(ApplyRelation *relation)
{
	if (relation->changes++ == 0)
		slist_push_head(&applier.changed, &relation->changed);
}

/* The group is committed: tell what it changed. */
static void
report_changes(void)
{
	TimestampTz now = GetCurrentTimestamp();

	while (!slist_is_empty(&applier.changed))
	{
		ApplyRelation *relation = slist_container(ApplyRelation, changed,
												  slist_pop_head_node(&applier.changed));

		table_activity_add(applier.followed_id, relation->relid, relation->changes, now);
		relation->changes = 0;
	}
	while (applier.dropped != NIL)
	{
		Oid			relid = llast_oid(applier.dropped);

		applier.dropped = list_delete_last(applier.dropped);
		table_activity_forget_table(applier.followed_id, relid);
		relation_map_forget(relid);
		apply_position.relation = NULL;
	}
}

void
apply_dropped(Oid relid)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(applier_context);

	applier.dropped = lappend_oid(applier.dropped, relid);
	MemoryContextSwitchTo(oldcontext);
}

/* The stream has passed what copies saw ahead of it, when it gets to lsn. */
static bool
passes_copies(XLogRecPtr lsn)
{
	XLogRecPtr	until = relation_map_ahead_until();

	return !XLogRecPtrIsInvalid(until) && lsn >= until;
}

static void
put_in_line(void)
{
	tables_in_line(applier.followed_id);
	relation_map_reload();
}

void
apply_commit_group(void)
{
	ErrorContextCallback callback = {
		.previous = error_context_stack,
		.callback = apply_error_context,
	};
	bool		in_line;

	if (!applier.in_group || applier.in_txn || applier.behind != NIL)
		return;
	applier.committing = true;
	error_context_stack = &callback;
	group_close_relations();
	error_context_stack = callback.previous;
	in_line = passes_copies(applier.last.end_lsn);
	if (in_line)
		put_in_line();
	commit_local();
	applier.committing = false;
	if (in_line)
		tell_settled();
	applier.in_group = false;
	applier.applied_lsn = applier.last.end_lsn;
	applier.applied_seq = applier.last.seq;
	positions_applied(applier.stream, applier.applied_lsn, applier.local_xid, applier.applied_seq,
					  applier.transactions);
	report_changes();
	if (applier.reread)
		pg_atomic_write_u32(&applier.stream->reread, 1);
	applier.reread = false;
	applier.changes = 0;
	applier.locks = 0;
	applier.transactions = 0;
	pgstat_report_stat(false);
}

/* Which transaction failed, if it was one: an error may be the connection's, or of a whole group. */
static XLogRecPtr
failing_transaction(void)
{
	bool		only = applier.committing && applier.transactions == 1;

	return apply_in_change() || only ? apply_position.txn.commit_lsn : InvalidXLogRecPtr;
}

void
apply_failed(void)
{
	FollowedStream *stream = applier.stream;
	long		spent;

	if (!applier.in_group)
		return;
	spent = TimestampDifferenceMilliseconds(GetCurrentTransactionStartTimestamp(),
											GetCurrentTimestamp());
	SpinLockAcquire(&stream->mutex);
	if (applier.transactions == 0 && stream->failed_after == applier.applied_lsn)
		stream->worker.pause_ms = Min(Min(spent, MAX_PAUSE_MS) * PAUSE_FACTOR, MAX_PAUSE_MS);
	stream->failed_after = applier.applied_lsn;
	stream->failing_lsn = failing_transaction();
	stream->alone_until = Max(stream->alone_until, applier.received_lsn);
	SpinLockRelease(&stream->mutex);
}

/* ---------- tables that are behind ---------- */

bool
apply_is_replaying(void)
{
	return applier.replaying;
}

XLogRecPtr
apply_start_lsn(void)
{
	return applier.behind == NIL ? applier.applied_lsn :
		Min(applier.applied_lsn, applier.copy_lsn);
}

/* A local transaction that leaves the stream where it is. */
static void
commit_states(void)
{
	applier.last.end_lsn = applier.applied_lsn;
	commit_local();
	applier.in_group = false;
	tell_settled();
}

/* All is applied to them that was applied to the others. */
static void
finish_replay(void)
{
	ErrorContextCallback callback = {
		.previous = error_context_stack,
		.callback = apply_error_context,
	};

	if (!applier.in_group)
		begin_group();
	error_context_stack = &callback;
	group_close_relations();
	error_context_stack = callback.previous;
	if (tables_replayed(applier.followed_id, applier.behind))
		applier.copy_lsn = InvalidXLogRecPtr;
	relation_map_reload();
	if (passes_copies(applier.applied_lsn))
		put_in_line();
	list_free(applier.behind);
	applier.behind = NIL;
	commit_states();
	report_changes();
}

void
apply_received(XLogRecPtr lsn)
{
	if (applier.in_txn)
		return;
	if (applier.behind != NIL && lsn >= applier.applied_lsn)
		finish_replay();
	if (applier.in_group || !passes_copies(lsn))
		return;
	begin_group();
	put_in_line();
	commit_states();
}

/* ---------- frames ---------- */

/* Open the table as its owner, whose code its defaults are. */
static void
open_table(ApplyRelation *relation)
{
	FormerUser	former;

	if (relation->rel != NULL)
		return;
	local_table_become(relation->owner, &former);
	(void) group_open(relation->leader_relid);
	local_table_become_former(&former);
}

/* Apply a change behind what was collected and must come before it. */
static void
apply_at_once(ApplyRelation *relation, const Change *change)
{
	FormerUser	former;

	if (relation->batch != NULL)
		batch_flush(relation);
	else
		batch_flush_all();
	local_table_become(relation->owner, &former);
	apply_row_change(relation, change);
	local_table_become_former(&former);
	apply_next_command();
}

/*
 * The leader could not send a row of the table: from here on its changes are ignored, until a
 * copy has brought what is missing.
 */
static void
set_aside(const Change *change)
{
	ApplyRelation *relation = relation_map_get(change->relid);
	char	   *error;

	if (!relation_wants(relation, &apply_position.txn))
		return;
	error = psprintf("a row of table \"%s.%s\" can't be sent by the leader, the table is to be copied again: %s",
					 relation->desc->nspname, relation->desc->relname,
					 pnstrdup(change->body, change->body_len));
	ereport(LOG,
			(errmsg_internal("%s", error)));
	worker_info_error(&applier.stream->mutex, &applier.stream->worker, error);
	group_close_relations();
	apply_copy_again(list_make1_oid(relation->relid));
	applier.ends_group = true;
}

/* ---------- a transaction that is passed ---------- */

static void
note_skipped(Oid leader_relid)
{
	Oid			relid = relation_map_known(leader_relid);
	MemoryContext oldcontext = MemoryContextSwitchTo(applier_context);

	if (OidIsValid(relid))
		applier.skipped = list_append_unique_oid(applier.skipped, relid);
	MemoryContextSwitchTo(oldcontext);
}

static void
skip_change(const Change *change)
{
	if (change_is_of_row(change) || change->op == CHANGE_UNCARRIED)
		note_skipped(change->relid);
	else if (change->op == CHANGE_TRUNCATE)
	{
		for (int i = 0; i < change->nrels; i++)
			note_skipped(change->relids[i]);
	}
	else if (change->op == CHANGE_STATEMENT)
	{
		ListCell   *lc;

		foreach(lc, statement_decode(change->body, change->body_len)->relids)
			note_skipped(lfirst_oid(lc));
	}
}

static char *
names_of(List *relids)
{
	StringInfoData buf;
	ListCell   *lc;

	initStringInfo(&buf);
	foreach(lc, relids)
		appendStringInfo(&buf, "%s%s", buf.len > 0 ? ", " : "",
						 quote_qualified_identifier(get_namespace_name(get_rel_namespace(lfirst_oid(lc))),
													get_rel_name(lfirst_oid(lc))));
	return buf.data;
}

/* With the position, in one local transaction: the tables are not in line until they are copied. */
static void
finish_skip(void)
{
	ereport(WARNING,
			(errmsg("passed the leader's transaction committed at %X/%X, which is not applied",
					LSN_FORMAT_ARGS(apply_position.txn.commit_lsn)),
			 applier.skipped != NIL ?
			 errdetail("Tables to be copied again: %s.", names_of(applier.skipped)) : 0,
			 errhint("Compare with fanout.verify(); schema changes have to be made by hand.")));
	(void) followed_execute("UPDATE fanout.followed_stream SET skip_lsn = NULL WHERE id = $1",
							applier.followed_id);
	apply_copy_again(applier.skipped);
	list_free(applier.skipped);
	applier.skipped = NIL;
	applier.skip_lsn = InvalidXLogRecPtr;
	applier.skipping = false;
	applier.ends_group = true;
}

/* What is not a change of a row comes after all that was collected before it. */
static void
apply_other(const Change *change)
{
	if (applier.replaying && change->op != CHANGE_TRUNCATE && change->op != CHANGE_UNCARRIED)
		return;
	batch_flush_all();
	if (change->op == CHANGE_TRUNCATE)
		applier.ends_group |= apply_truncate(change, &apply_position.txn);
	else if (change->op == CHANGE_UNCARRIED)
		set_aside(change);
	else if (change->op == CHANGE_SEQUENCE)
		sequence_set(&change->sequence);
	else if (change->op == CHANGE_TABLES)
		applier.ends_group |= apply_tables(change, &apply_position.txn);
	else
		applier.ends_group |= apply_statement(change, &apply_position.txn);
	apply_next_command();
}

static void
apply_change(const Change *change)
{
	ApplyRelation *relation;

	applier.changes++;
	apply_position.change = change;
	if (applier.skipping)
	{
		skip_change(change);
		return;
	}
	if (!change_is_of_row(change))
	{
		apply_other(change);
		return;
	}
	apply_position.relation = NULL;
	relation = relation_map_get(change->relid);
	apply_position.relation = relation;
	if (!relation_wants(relation, &apply_position.txn))
		return;
	open_table(relation);
	if (!batch_add(relation, change))
		apply_at_once(relation, change);
	apply_count(relation);
}

static void
apply_changes(const Frame *frame)
{
	const char *pos = frame->payload;
	const char *end = pos + frame->len;
	MemoryContext oldcontext;

	while (pos < end)
	{
		CHECK_FOR_INTERRUPTS();
		apply_position.change = NULL;
		/* The arrays of the change outlive this frame. */
		oldcontext = MemoryContextSwitchTo(applier_context);
		change_decode(&pos, end, relation_map_desc, NULL, &applier.change);
		MemoryContextSwitchTo(oldcontext);
		apply_change(&applier.change);
	}
	apply_position.change = NULL;
}

/* The leader must send whole transactions in commit order. */
static void
check_order(const LogTxn *txn)
{
	if (applier.in_txn || txn->end_lsn <= applier.received_lsn)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("the leader sent transactions out of order"),
				 errdetail("One ends at %X/%X and the one before it at %X/%X.",
						   LSN_FORMAT_ARGS(txn->end_lsn),
						   LSN_FORMAT_ARGS(applier.received_lsn))));
	if (!IS_VALID_TIMESTAMP(txn->commit_time))
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("the leader sent a commit time out of range")));
}

static void
begin_transaction(const LogTxn *txn)
{
	check_order(txn);
	if (applier.behind != NIL && txn->end_lsn > applier.applied_lsn)
		finish_replay();
	applier.received_lsn = txn->end_lsn;
	applier.in_txn = true;
	applier.replaying = applier.behind != NIL;
	applier.passing = !applier.replaying &&
		txn->end_lsn <= Max(applier.applied_lsn, applier.last.end_lsn);
	applier.skipping = !applier.passing && !applier.replaying &&
		txn->commit_lsn == applier.skip_lsn;
	apply_position.txn = *txn;
	if (!applier.passing && !applier.in_group)
		begin_group();
}

static void
end_transaction(void)
{
	applier.in_txn = false;
	if (applier.passing || applier.replaying)
	{
		applier.replaying = false;
		return;
	}
	applier.last = apply_position.txn;
	applier.transactions++;
	if (applier.skipping)
	{
		batch_flush_all();
		finish_skip();
	}
	/* What the schema change made may not be used before it is committed (enum values). */
	if (applier.ends_group || applier.last.end_lsn <= applier.alone_until)
		apply_commit_group();
	applier.ends_group = false;
}

void
apply_frame(const Frame *frame)
{
	ErrorContextCallback callback = {
		.previous = error_context_stack,
		.callback = apply_error_context,
	};

	if (frame->type == FRAME_RELATION)
		relation_map_describe(frame->payload, frame->len);
	if (frame->type != FRAME_CHANGES)
		return;

	if (frame->flags & FRAME_FIRST)
		begin_transaction(&frame->txn);
	else if (!applier.in_txn)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("the leader sent changes outside a transaction")));
	error_context_stack = &callback;
	if (!applier.passing)
		apply_changes(frame);
	error_context_stack = callback.previous;
	if (frame->flags & FRAME_LAST)
		end_transaction();
}

/* ---------- positions ---------- */

/* What one process may well take of the locks that the server has room for. */
static uint64
lock_share(void)
{
	uint64		all = (uint64) max_locks_per_xact * (MaxBackends + max_prepared_xacts);

	return Max(max_locks_per_xact, all / LOCK_SHARE);
}

bool
apply_group_is_full(void)
{
	return applier.changes >= GROUP_CHANGES || applier.transactions >= GROUP_TRANSACTIONS ||
		applier.locks >= lock_share();
}

bool
apply_in_transaction(void)
{
	return applier.in_txn;
}

bool
apply_in_change(void)
{
	return apply_position.change != NULL;
}

bool
apply_must_go_on(void)
{
	return applier.in_txn || (applier.in_group && applier.behind != NIL);
}

XLogRecPtr
apply_last_lsn(void)
{
	return applier.applied_lsn;
}

uint64
apply_last_seq(void)
{
	return applier.applied_seq;
}

uint64
apply_last_local_xid(void)
{
	return applier.local_xid;
}

XLogRecPtr
apply_durable_lsn(void)
{
	XLogRecPtr	flushed = GetFlushRecPtr(NULL);

	while (!dlist_is_empty(&applier.commits))
	{
		LocalCommit *commit = dlist_head_element(LocalCommit, node, &applier.commits);

		if (commit->local_end > flushed)
			break;
		applier.durable_lsn = commit->leader_lsn;
		dlist_delete(&commit->node);
		pfree(commit);
		applier.ncommits--;
	}
	return XLogRecPtrIsInvalid(applier.copy_lsn) ? applier.durable_lsn :
		Min(applier.durable_lsn, applier.copy_lsn);
}
