/*
 * copy.c
 *		The initial copy, step by step; each step is committed, so that it can go on
 *		after any failure.
 *
 * followed_stream.copy_state says what is done:
 *
 *	schema		nothing.  The schema is brought from the leader, and each table of the
 *				stream gets a row in fanout.followed_table, pending.
 *	tables		tables have joined the publications that the stream names.  Those that are
 *				not here are made, and all are pending: they are copied beside the stream
 *				(copy_beside.c).
 *	data		pending tables are emptied and copied, each in a transaction of its
 *				own that also notes the snapshot it was copied with.  One that can't
 *				be copied stays pending, and is tried again beside the stream.
 *	indexes		what was put off of the schema: indexes, constraints, triggers.
 *	done		streaming begins or goes on.
 *
 * start_lsn is where the stream takes over.  NULL means that everything is copied
 * anew: the follower registers at a new position, to which its origin is set.  Not
 * NULL, the registration and the origin stand, and only pending tables are
 * copied: after an interruption, or when a table could not be copied beside the stream.
 * Rows may not fit a schema that is older than they are, then: such tables stay pending until
 * the stream has brought what was changed.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "replication/origin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/snapmgr.h"

#include "follower/copy.h"
#include "follower/local_table.h"
#include "follower/read_views.h"
#include "transaction.h"

/* ---------- transactions and rows ---------- */

static MemoryContext step_context;

void
begin_step(const char *activity)
{
	pgstat_report_activity(STATE_RUNNING, activity);
	step_context = CurrentMemoryContext;
	fanout_start_transaction();
	PushActiveSnapshot(GetTransactionSnapshot());
}

void
end_step(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(step_context);
}

static void
set_copy_state(FollowedRow *row, char *copy_state)
{
	followed_execute(psprintf("UPDATE fanout.followed_stream SET copy_state = '%s' WHERE id = $1",
							  copy_state), row->id);
	row->copy_state = copy_state;
}

/* ---------- steps ---------- */

/* Everything is copied anew from this position on. */
static void
set_start(FollowedRow *row, const CopySession *session)
{
	char		name[NAMEDATALEN];
	RepOriginId node;

	followed_origin_name(name, MyDatabaseId, row->id);
	node = replorigin_by_name(name, true);
	if (node == InvalidRepOriginId)
		node = replorigin_create(name);
	replorigin_advance(node, session->start_lsn, InvalidXLogRecPtr, true, true);
	followed_execute(psprintf("UPDATE fanout.followed_stream SET start_lsn = '%X/%X',"
							  " all_tables = %s, joining = '{}', copy_lsn = NULL WHERE id = $1",
							  LSN_FORMAT_ARGS(session->start_lsn),
							  session->all_tables ? "true" : "false"), row->id);
	row->start_lsn = session->start_lsn;
	row->all_tables = session->all_tables;
	row->joining = NIL;
}

/* A row for each table of the stream that is here; returns the oids of the others. */
static List *
list_tables(const FollowedRow *row, const CopySession *session, bool missing_ok)
{
	List	   *missing = NIL;
	ListCell   *lc;

	followed_row_lock(row->id);
	followed_execute("DELETE FROM fanout.followed_table WHERE followed_id = $1", row->id);
	foreach(lc, session->tables)
	{
		CopyTable  *table = lfirst(lc);
		FollowedTable followed = {
			.nspname = table->nspname,
			.relname = table->relname,
			.leader_relid = table->relid,
			.state = row->copy_data ? TABLE_PENDING : TABLE_COPIED,
		};

		followed.relid = local_table_find(table->nspname, table->relname, NoLock, missing_ok);
		if (OidIsValid(followed.relid))
			followed_table_put(row->id, &followed);
		else
			missing = lappend_oid(missing, table->relid);
	}
	followed_tables_changed();
	return missing;
}

/* Schema changes that the snapshot sees are here with the schema: the stream leaves them out. */
static void
note_schema(FollowedRow *row, const CopySession *session)
{
	char	   *until = leader_query_value(session->conn, "SELECT fanout.flush_wal()", 0, NULL);

	followed_execute(psprintf("UPDATE fanout.followed_stream SET schema_snapshot = %s, schema_until = %s"
							  " WHERE id = $1", quote_literal_cstr(session->snapshot),
							  quote_literal_cstr(until)), row->id);
}

static void
step_schema(FollowedRow *row, CopySession *session)
{
	begin_step("copying the schema");
	if (row->copy_schema)
		copy_schema(row, session);
	(void) list_tables(row, session, false);
	note_schema(row, session);
	set_start(row, session);
	set_copy_state(row, COPY_DATA);
	end_step();
}

/*
 * A new copy into a schema that is there; where that came from means nothing from here on.
 * Tables that are not here are made: the stream begins after they were.  One of a stream of all
 * tables that may have been made or altered since would come with that, too.
 */
static void
step_restart(FollowedRow *row, CopySession *session)
{
	List	   *missing;

	begin_step("preparing to copy again");
	missing = list_tables(row, session, true);
	views_forget_all();
	followed_execute("UPDATE fanout.followed_stream SET schema_snapshot = NULL, schema_until = NULL"
					 " WHERE id = $1", row->id);
	set_start(row, session);
	if (missing != NIL && session->all_tables && !same_tables(session->listed_before, session->tables))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("tables of stream \"%s\" changed while the copy began",
						NameStr(row->stream))));
	row->joining = missing;
	join_tables(row, session);
	row->joining = NIL;
	end_step();
}

static void
step_tables(FollowedRow *row, CopySession *session)
{
	begin_step("making tables that joined the stream");
	join_tables(row, session);
	set_copy_state(row, COPY_DONE);
	end_step();
}

static void
step_data(FollowedRow *row, CopySession *session)
{
	begin_step("preparing to copy tables");
	copy_note_totals(row, pending_tables(row, session->tables, NULL));
	end_step();
	empty_pending_tables(row);
	pgstat_report_activity(STATE_RUNNING, "copying tables");
	copy_pending_tables(row, session);

	begin_step("noting that the tables are copied");
	copy_sequences(row, session->conn);
	set_copy_state(row, row->copy_schema && !row->schema_done ? COPY_INDEXES : COPY_DONE);
	end_step();
}

/* Were all tables copied with the snapshot of the schema? */
static bool
is_consistent(const FollowedRow *row)
{
	return followed_execute("SELECT 1 FROM fanout.followed_table t"
							" JOIN fanout.followed_stream s ON s.id = t.followed_id"
							" WHERE s.id = $1 AND t.filter_snapshot IS DISTINCT FROM s.schema_snapshot",
							row->id) == 0;
}

static void
step_indexes(FollowedRow *row)
{
	bool		consistent;

	begin_step("making indexes and constraints");
	consistent = is_consistent(row);
	end_step();
	run_deferred_statements(row, consistent);
	begin_step("making indexes and constraints");
	followed_execute("UPDATE fanout.followed_stream SET schema_done = true WHERE id = $1", row->id);
	set_copy_state(row, COPY_DONE);
	end_step();
}

/* All steps that need the leader, in a transaction there that holds locks and a snapshot. */
static void
copy_from_leader(FollowedRow *row)
{
	CopySession *session = copy_session_begin(row);

	begin_step("preparing to copy");
	followed_row_set_era(row->id, session->era);
	end_step();
	if (strcmp(row->copy_state, COPY_SCHEMA) == 0)
		step_schema(row, session);
	else if (XLogRecPtrIsInvalid(row->start_lsn))
		step_restart(row, session);
	if (strcmp(row->copy_state, COPY_TABLES) == 0)
		step_tables(row, session);
	if (strcmp(row->copy_state, COPY_DATA) == 0)
		step_data(row, session);
	leader_disconnect(session->conn);
}

/* Indexes may take hours: nothing is open on the leader meanwhile. */
void
initial_copy(FollowedStream *stream, FollowedRow *row)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "pg_fanout initial copy",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext oldcontext = MemoryContextSwitchTo(context);

	copier_end(stream);
	copy_wait_for_helpers(row->id);
	MemoryContextSwitchTo(context);
	if (strcmp(row->copy_state, COPY_INDEXES) != 0)
		copy_from_leader(row);
	if (strcmp(row->copy_state, COPY_INDEXES) == 0)
		step_indexes(row);

	MemoryContextSwitchTo(oldcontext);
	MemoryContextDelete(context);
}

/* ---------- copying again ---------- */

void
schedule_copy(int32 followed_id, Oid relid)
{
	const char *pending = "UPDATE fanout.followed_table SET state = 'p', copy_number = copy_number + 1"
		", failures = 0 WHERE followed_id = $1";

	followed_row_lock(followed_id);
	if (!OidIsValid(relid))
	{
		followed_execute(pending, followed_id);
		followed_execute("UPDATE fanout.followed_stream SET copy_state = 'data', copy_data = true,"
						 " start_lsn = NULL, skip_lsn = NULL WHERE id = $1 AND copy_state <> 'schema'", followed_id);
		return;
	}
	if (followed_execute(psprintf("%s AND relid = %u", pending, relid), followed_id) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("table \"%s\" is not replicated by that stream", get_rel_name(relid))));
	followed_execute("UPDATE fanout.followed_stream SET copy_data = true WHERE id = $1", followed_id);
}

/*
 * All tables, into the schema that is here.  The stream goes on from where it stands, since it has yet
 * to bring what was changed of the schema.  Everything is copied anew only if tables are missing
 * here, or can't be copied, which may be no longer in the stream.
 */
void
schedule_copy_of_all(int32 followed_id)
{
	followed_row_lock(followed_id);
	followed_execute("UPDATE fanout.followed_stream s SET start_lsn = NULL WHERE id = $1"
					 " AND (copy_state = 'tables' OR EXISTS (SELECT FROM fanout.followed_table t"
					 " WHERE t.followed_id = s.id AND (t.state = 'm' OR t.last_error IS NOT NULL)))",
					 followed_id);
	followed_execute("UPDATE fanout.followed_table SET state = 'p', copy_number = copy_number + 1"
					 ", failures = 0 WHERE followed_id = $1", followed_id);
	followed_execute("UPDATE fanout.followed_stream SET copy_state = 'data', copy_data = true"
					 " WHERE id = $1 AND copy_state <> 'schema'", followed_id);
}

/*
 * Tables that are not logged, nor those with such a partition, are not in line with the stream: a crash
 * may have emptied them.  Their copy fails until they are logged.
 */
void
schedule_copies_of_unlogged(int32 followed_id)
{
	followed_execute("UPDATE fanout.followed_table t SET state = 'p', copy_number = copy_number + 1"
					 " WHERE followed_id = $1 AND state <> 'p' AND EXISTS"
					 " (SELECT FROM pg_class c WHERE c.relpersistence = 'u' AND c.relkind = 'r'"
					 " AND (c.oid = t.relid OR c.relispartition AND t.relid IN"
					 " (SELECT a.relid FROM pg_partition_ancestors(c.oid) a)))", followed_id);
}
