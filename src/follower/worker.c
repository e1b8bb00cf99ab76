/*
 * worker.c
 *		The follower's worker: one background process per followed stream.
 *
 * In turn: wait while paused; whatever is left of the initial copy (copy.c);
 * then receive and apply (receiver.c) until an error or a request ends it.  A
 * request (pause, resume, resync) is a change of the stream's row that raises
 * "reread" in its record and sets the worker's latch.
 *
 * An error ends the process; it is kept for the views, and the launcher starts
 * another one after a pause.  A worker that finds no row removes what is left of
 * the stream: origin, hint and record.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "replication/origin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "follower/follower.h"
#include "follower/table_activity.h"
#include "launcher.h"
#include "own_tables.h"
#include "session.h"
#include "transaction.h"
#include "wire/message.h"

static FollowedStream *my_stream = NULL;
static MemoryContext worker_context;

/* ---------- start ---------- */

static void
worker_gone(int code, Datum arg)
{
	if (my_stream == NULL)
		return;
	copier_signal(my_stream);
	SpinLockAcquire(&my_stream->mutex);
	if (my_stream->state != FOLLOW_FAILED && my_stream->state != FOLLOW_LOST)
		my_stream->state = FOLLOW_STARTING;
	SpinLockRelease(&my_stream->mutex);
	positions_sender(my_stream, 0);
	worker_info_stopped(&my_stream->mutex, &my_stream->worker);
}

/* What every process that writes to replicated tables needs, besides what session.c sets. */
void
follower_session_init(void)
{
	session_set("session_replication_role", "replica");
	session_set("synchronous_commit", "off");
	session_set("check_function_bodies", "off");
	guard_allow_this_process();
	restricted_types_init();
}

/* The row, in the worker's memory; NULL: none. */
static FollowedRow *
read_row(int32 id)
{
	FollowedRow *row = NULL;

	fanout_start_transaction();
	PushActiveSnapshot(GetTransactionSnapshot());
	if (OidIsValid(own_table_oid("followed_stream")))
	{
		MemoryContextSwitchTo(worker_context);
		row = followed_row_by_id(id);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(worker_context);
	return row;
}

static void
forget_stream(const Hint *hint)
{
	FollowedStream *stream = my_stream;
	char		origin[NAMEDATALEN];

	if (stream != NULL)
		copier_end(stream);
	followed_origin_name(origin, hint->dboid, hint->id);
	fanout_start_transaction();
	replorigin_drop_by_name(origin, true, false);
	/* Without the hint nobody would look for it again after a crash. */
	ForceSyncCommit();
	CommitTransactionCommand();
	hint_remove(HINT_FOLLOWED, hint->dboid, hint->id);
	table_activity_forget(hint->id);
	if (stream == NULL)
		return;

	/* From here on the record may be another stream's. */
	worker_info_stopped(&stream->mutex, &stream->worker);
	my_stream = NULL;
	followed_stream_release(stream);
}

static void
fill_record(const FollowedRow *row)
{
	char	   *leader = conninfo_without_password(row->conninfo);

	/* What is known of another leader's positions must not answer for this one's. */
	if (my_stream->leader_system != row->leader_system ||
		my_stream->leader_dboid != row->leader_database)
		positions_reset(my_stream, FOLLOW_STARTING);
	SpinLockAcquire(&my_stream->mutex);
	my_stream->stream = row->stream;
	my_stream->follower = row->follower;
	strlcpy(my_stream->leader, leader, sizeof(my_stream->leader));
	my_stream->leader_system = row->leader_system;
	my_stream->leader_dboid = row->leader_database;
	SpinLockRelease(&my_stream->mutex);
	pfree(leader);
}

/* ---------- work ---------- */

static void
setup_origin(const FollowedRow *row)
{
	char		name[NAMEDATALEN];
	RepOriginId node;

	if (replorigin_session_origin != InvalidRepOriginId)
		return;
	followed_origin_name(name, MyDatabaseId, row->id);
	fanout_start_transaction();
	node = replorigin_by_name(name, true);
	if (node == InvalidRepOriginId)
		node = replorigin_create(name);
	fanout_origin_session_setup(node);
	CommitTransactionCommand();
	MemoryContextSwitchTo(worker_context);
	replorigin_session_origin = node;
}

static void
release_origin(void)
{
	if (replorigin_session_origin == InvalidRepOriginId)
		return;
	replorigin_session_reset();
	replorigin_session_origin = InvalidRepOriginId;
	replorigin_session_origin_lsn = InvalidXLogRecPtr;
	replorigin_session_origin_timestamp = 0;
}

static void
wait_while_paused(void)
{
	positions_state(my_stream, FOLLOW_PAUSED);
	pgstat_report_activity(STATE_IDLE, "paused");
	while (pg_atomic_read_u32(&my_stream->reread) == 0)
	{
		CHECK_FOR_INTERRUPTS();
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH, -1, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}

/* The number of the last transaction is known if it is the one of an earlier worker. */
static void
note_start(FollowedStream *stream, XLogRecPtr applied)
{
	PositionsCopy positions;

	positions_read(stream, &positions);
	positions_applied(stream, Max(applied, positions.applied_lsn), apply_last_local_xid(),
					  applied <= positions.applied_lsn ? positions.applied_seq : 0, 0);
}

/* The stream goes on without them, and somebody has to know. */
static void
tell_missing_tables(const FollowedRow *row)
{
	List	   *names = NIL;
	ListCell   *lc;

	fanout_start_transaction();
	PushActiveSnapshot(GetTransactionSnapshot());
	(void) tables_note_missing(row->id);
	foreach(lc, followed_tables(row->id))
	{
		FollowedTable *table = lfirst(lc);

		if (table->state == TABLE_MISSING)
			names = lappend(names, quote_qualified_identifier(table->nspname, table->relname));
	}
	if (names != NIL)
		worker_info_error(&my_stream->mutex, &my_stream->worker,
						  psprintf(list_length(names) == 1 ?
								   "table \"%s\" was dropped on this follower: fanout.resync() of the stream brings it back" :
								   "table \"%s\" and others were dropped on this follower: fanout.resync() of the stream brings them back",
								   (char *) linitial(names)));
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(worker_context);
}

static void
stream(FollowedRow *row)
{
	char	   *activity = psprintf("following stream \"%s\"", NameStr(row->stream));

	pgstat_report_activity(STATE_RUNNING, activity);
	setup_origin(row);
	positions_state(my_stream, FOLLOW_CATCHING_UP);
	tell_missing_tables(row);
	if (!copy_beside(my_stream, row))
		return;
	apply_start(my_stream, row);
	note_start(my_stream, apply_last_lsn());
	receive_and_apply(my_stream, row);
}

/* One round: until the row must be read again. */
static void
work(FollowedRow *row)
{
	if (row->paused)
		wait_while_paused();
	else if (strcmp(row->copy_state, COPY_DONE) != 0)
	{
		release_origin();
		positions_reset(my_stream, FOLLOW_COPYING);
		initial_copy(my_stream, row);
	}
	else
		stream(row);
}

/* ---------- errors ---------- */

/* Another way that the next worker may begin, after an error. */
typedef void (*NextTry) (int32 id);

static void
copy_all_again(int32 id)
{
	schedule_copy(id, InvalidOid);
}

static Oid	table_at_fault;

/* Until it can be copied it is not in line with the stream, which goes on. */
static void
copy_table_at_fault(int32 id)
{
	schedule_copy(id, table_at_fault);
}

/* Rows do not fit the table that is here. */
static bool
is_of_rows(const ErrorData *error)
{
	int			category = ERRCODE_TO_CATEGORY(error->sqlerrcode);

	return category == ERRCODE_DATA_EXCEPTION ||
		category == ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION ||
		(category == ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION &&
		 error->sqlerrcode != ERRCODE_INSUFFICIENT_PRIVILEGE);
}

/*
 * The leader's word that our position is gone has the tables copied again by the next
 * worker.  An error of a change may come from a table that is not in line with the
 * stream: the next worker copies such tables first.  An error of a copy may come from
 * a schema that is older than the rows: the next worker lets the stream bring what has
 * changed.  A row that can't be here keeps its table from being in line, and no other.
 * NULL: as before.
 */
static NextTry
after_error(const ErrorData *error)
{
	PositionsCopy positions;

	positions_read(my_stream, &positions);
	if (error->sqlerrcode == FANOUT_ERRCODE_LOST)
		return copy_all_again;
	if (positions.state == FOLLOW_COPYING)
		return is_of_rows(error) ? stream_before_copying : NULL;
	table_at_fault = apply_table_at_fault(error);
	if (OidIsValid(table_at_fault) &&
		(is_of_rows(error) || error->sqlerrcode == ERRCODE_NO_DATA_FOUND))
		return copy_table_at_fault;
	if (!tables_are_settled(my_stream) && apply_in_change())
		return copy_before_streaming;
	return NULL;
}

static void
change_next_try(int32 id, NextTry next)
{
	fanout_start_transaction();
	PushActiveSnapshot(GetTransactionSnapshot());
	next(id);
	PopActiveSnapshot();
	CommitTransactionCommand();
}

/* Keep the error for the views. */
static void
keep_error(int32 id)
{
	ErrorData  *error;
	StringInfoData text;
	NextTry		next;
	bool		forgotten;

	MemoryContextSwitchTo(TopMemoryContext);
	error = CopyErrorData();
	next = after_error(error);
	forgotten = error->sqlerrcode == ERRCODE_UNDEFINED_OBJECT && !apply_in_change();
	apply_failed();
	initStringInfo(&text);
	appendStringInfoString(&text, error->message ? error->message : "unknown error");
	if (error->detail)
		appendStringInfo(&text, ": %s", error->detail);
	if (error->context)
		appendStringInfo(&text, " (%s)", error->context);
	worker_info_error(&my_stream->mutex, &my_stream->worker, text.data);
	SpinLockAcquire(&my_stream->mutex);
	my_stream->forgotten = forgotten;
	SpinLockRelease(&my_stream->mutex);
	positions_state(my_stream, error->sqlerrcode == FANOUT_ERRCODE_LOST ? FOLLOW_LOST
					: FOLLOW_FAILED);

	if (next != NULL)
	{
		EmitErrorReport();
		FlushErrorState();
		AbortOutOfAnyTransaction();
		change_next_try(id, next);
		proc_exit(1);
	}
}

/* The row; NULL when there is none, nor one to come. */
static FollowedRow *
find_row(int32 id)
{
	FollowedRow *row = read_row(id);

	if (row == NULL)
	{
		own_table_wait_for_writers("followed_stream");
		row = read_row(id);
	}
	return row;
}

static void
follow_stream(const Hint *hint)
{
	for (;;)
	{
		FollowedRow *row;

		CHECK_FOR_INTERRUPTS();
		pg_atomic_write_u32(&my_stream->reread, 0);
		MemoryContextReset(worker_context);
		row = find_row(hint->id);
		if (row == NULL)
		{
			release_origin();
			forget_stream(hint);
			return;
		}
		fill_record(row);
		work(row);
	}
}

/* There is no record for this stream: the launcher has said so. */
static void
one_too_many(const Hint *hint)
{
	if (find_row(hint->id) == NULL)
		forget_stream(hint);
	proc_exit(0);
}

void
fanout_follower_main(Datum arg)
{
	Hint		hint = worker_start();

	worker_context = AllocSetContextCreate(TopMemoryContext, "pg_fanout follower",
										   ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(worker_context);
	my_stream = followed_stream_claim(hint.dboid, hint.id);
	if (my_stream == NULL)
		one_too_many(&hint);
	before_shmem_exit(worker_gone, (Datum) 0);
	worker_info_started(&my_stream->mutex, &my_stream->worker);
	worker_wait_until_allowed(my_stream);
	follower_session_init();

	PG_TRY();
	{
		follow_stream(&hint);
	}
	PG_CATCH();
	{
		if (my_stream != NULL)
			keep_error(hint.id);
		PG_RE_THROW();
	}
	PG_END_TRY();
	proc_exit(0);
}
