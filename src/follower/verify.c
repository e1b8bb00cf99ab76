/*
 * verify.c
 *		fanout.verify(): is this follower equal to its leader?
 *
 * Both sides are read under snapshots of one position of the stream, X, while writes
 * and the stream go on:
 *
 *	1. On the leader a REPEATABLE READ transaction locks the tables in ACCESS SHARE
 *	   mode, so that they are not altered or truncated; that takes no snapshot yet.
 *	2. The worker here is made to stand (hold.c), at some position before X.
 *	3. The leader's transaction takes its snapshot, and fanout.snapshot_position()
 *	   has it show exactly what committed up to X.  If the list of tables changed
 *	   meanwhile, all begins again.
 *	4. The worker goes on up to exactly X.  The tables are locked and a snapshot is taken
 *	   here; then the worker is let go.  It stood for some milliseconds.
 *	5. Tables are compared one after the other (verify_table.c).
 *
 * What is done at the moment is shown in pg_stat_activity.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "follower/follower.h"
#include "follower/hold.h"
#include "follower/local_table.h"
#include "follower/verify.h"

PG_FUNCTION_INFO_V1(fanout_verify);

#define MAX_TRIES		10
#define VERIFY_COLUMNS	5

typedef struct Verification
{
	FollowedRow *row;
	FollowedStream *stream;
	Oid			relid;			/* InvalidOid: all tables */
	PGconn	   *conn;
	List	   *tables;			/* of VerifyTable */
	Snapshot	snapshot;
} Verification;

static void
show_activity(const Verification *verification, const char *what)
{
	char	   *activity = psprintf("verifying stream \"%s\": %s",
									NameStr(verification->row->stream), what);

	pgstat_report_activity(STATE_RUNNING, activity);
	pfree(activity);
}

/* ---------- settings ---------- */

/* What the text of values depends on; our reads are nobody's bounded reads. */
static const char *const settings[][2] = {
	{"search_path", "pg_catalog, pg_temp"},
	{"DateStyle", "ISO, YMD"},
	{"IntervalStyle", "postgres"},
	{"TimeZone", "UTC"},
	{"extra_float_digits", "3"},
	{"bytea_output", "hex"},
	{"lc_monetary", "C"},
	{"quote_all_identifiers", "off"},
	{"row_security", "off"},
	{"fanout.max_staleness", "-1"},
	{"fanout.read_after", ""},
};

static void
set_here(void)
{
	for (int i = 0; i < lengthof(settings); i++)
		(void) set_config_option(settings[i][0], settings[i][1], PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
}

/* The leader also ends what it does for a session that is gone. */
static void
set_on_leader(PGconn *conn)
{
	for (int i = 0; i < lengthof(settings); i++)
		PQclear(leader_query(conn, "SELECT pg_catalog.set_config($1, $2, false)", 2, settings[i]));
	PQclear(leader_query(conn, "SET client_connection_check_interval = '1s'", 0, NULL));
}

/* ---------- the tables ---------- */

/* The tables of the leader's list that were asked for, as they are called here. */
static List *
chosen_tables(const Verification *verification, List *leader_list)
{
	List	   *chosen = NIL;
	ListCell   *lc;

	foreach(lc, leader_list)
	{
		CopyTable  *leader = lfirst(lc);
		Oid			relid = RangeVarGetRelid(makeRangeVar(leader->nspname, leader->relname, -1),
											 NoLock, true);

		if (OidIsValid(relid) &&
			(!OidIsValid(verification->relid) || relid == verification->relid))
			chosen = lappend(chosen, leader);
		else if (!OidIsValid(verification->relid))
			ereport(WARNING,
					(errcode(ERRCODE_UNDEFINED_TABLE),
					 errmsg("relation \"%s.%s\" does not exist on this follower",
							leader->nspname, leader->relname)));
	}
	if (OidIsValid(verification->relid) && chosen == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("table \"%s\" is not replicated by that stream",
						get_rel_name(verification->relid))));
	return chosen;
}

static char
table_state(List *followed, Oid relid)
{
	ListCell   *lc;

	foreach(lc, followed)
	{
		FollowedTable *table = lfirst(lc);

		if (table->relid == relid)
			return table->state;
	}
	return TABLE_COPIED;
}

/* Lock the tables here and note what is known of them; needs the active snapshot. */
static void
find_tables_here(Verification *verification, List *leader_list)
{
	List	   *followed = followed_tables(verification->row->id);
	ListCell   *lc;

	foreach(lc, leader_list)
	{
		CopyTable  *leader = lfirst(lc);
		VerifyTable *table = palloc0(sizeof(VerifyTable));

		table->leader = leader;
		table->relid = local_table_find(leader->nspname, leader->relname, NoLock, false);
		table->state = table_state(followed, table->relid);
		verification->tables = lappend(verification->tables, table);
	}
}

static void
lock_here(List *leader_list)
{
	ListCell   *lc;

	foreach(lc, leader_list)
	{
		CopyTable  *leader = lfirst(lc);
		Oid			relid = local_table_find(leader->nspname, leader->relname, AccessShareLock, false);
		char		relkind = get_rel_relkind(relid);

		if (relkind != RELKIND_RELATION && relkind != RELKIND_PARTITIONED_TABLE)
			ereport(ERROR,
					(errcode(ERRCODE_WRONG_OBJECT_TYPE),
					 errmsg("relation \"%s.%s\" is not a table on this follower",
							leader->nspname, leader->relname)));
	}
}

/* ---------- the position ---------- */

/* Steps 3 and 4 above; false when the tables changed.  The worker stands. */
static bool
take_snapshots(Verification *verification, List *leader_list)
{
	const char *params[] = {NameStr(verification->row->stream)};
	XLogRecPtr	lsn = leader_query_lsn(verification->conn,
									   "SELECT fanout.snapshot_position($1)", 1, params);
	List	   *now = chosen_tables(verification, leader_tables(verification->conn, params[0]));

	if (!same_tables(leader_list, now))
		return false;
	show_activity(verification, "waiting for this follower to reach the leader's position");
	hold_move(verification->stream, lsn);
	lock_here(leader_list);
	verification->snapshot = RegisterSnapshot(GetLatestSnapshot());
	return true;
}

/* One try at all but the comparison. */
static bool
try_position(Verification *verification)
{
	FollowedStream *stream = verification->stream;
	PGconn	   *conn = verification->conn;
	List	   *list = chosen_tables(verification,
									 leader_tables(conn, NameStr(verification->row->stream)));
	bool		done;

	PQclear(leader_query(conn, "BEGIN ISOLATION LEVEL REPEATABLE READ", 0, NULL));
	lock_leader_tables(conn, list);
	hold_take(stream);
	PG_ENSURE_ERROR_CLEANUP(hold_release_callback, PointerGetDatum(stream));
	{
		done = take_snapshots(verification, list);
	}
	PG_END_ENSURE_ERROR_CLEANUP(hold_release_callback, PointerGetDatum(stream));
	hold_release(stream);
	if (done)
	{
		PushActiveSnapshot(verification->snapshot);
		find_tables_here(verification, list);
	}
	else
		PQclear(leader_query(conn, "ROLLBACK", 0, NULL));
	return done;
}

static void
find_position(Verification *verification)
{
	show_activity(verification, "waiting for a position of the leader");
	for (int i = 0; i < MAX_TRIES; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (try_position(verification))
			return;
	}
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the tables of stream \"%s\" change too often to be compared",
					NameStr(verification->row->stream))));
}

/* ---------- results ---------- */

static Datum
keys_datum(List *keys)
{
	StringInfoData array;
	ListCell   *lc;

	initStringInfo(&array);
	appendStringInfoChar(&array, '[');
	foreach(lc, keys)
		appendStringInfo(&array, "%s%s", foreach_current_index(lc) > 0 ? ", " : "",
						 (char *) lfirst(lc));
	appendStringInfoChar(&array, ']');
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(array.data));
}

/* A table that is being copied has no result yet. */
static void
put_result(ReturnSetInfo *rsinfo, const VerifyTable *table, const VerifyResult *result)
{
	Datum		values[VERIFY_COLUMNS] = {0};
	bool		nulls[VERIFY_COLUMNS] = {false, true, true, true, true};

	values[0] = ObjectIdGetDatum(table->relid);
	if (result != NULL)
	{
		values[1] = Int64GetDatum(result->rows_on_leader);
		values[2] = Int64GetDatum(result->rows_here);
		values[3] = BoolGetDatum(result->equal);
		nulls[1] = nulls[2] = nulls[3] = false;
	}
	if (result != NULL && !result->equal)
	{
		values[4] = keys_datum(result->keys);
		nulls[4] = false;
	}
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

static void
compare_tables(Verification *verification, ReturnSetInfo *rsinfo)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "pg_fanout verify",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext oldcontext = MemoryContextSwitchTo(context);
	ListCell   *lc;

	foreach(lc, verification->tables)
	{
		VerifyTable *table = lfirst(lc);
		VerifyResult result = {0};

		MemoryContextReset(context);

		show_activity(verification,
					  psprintf("comparing %s, table %d of %d",
							   quote_qualified_identifier(table->leader->nspname,
														  table->leader->relname),
							   foreach_current_index(lc) + 1, list_length(verification->tables)));
		if (table->state != TABLE_COPIED)
		{
			put_result(rsinfo, table, NULL);
			continue;
		}
		verify_compare(verification->conn, table, &result);
		put_result(rsinfo, table, &result);
	}
	MemoryContextSwitchTo(oldcontext);
	MemoryContextDelete(context);
}

static Verification *
begin_verification(FunctionCallInfo fcinfo)
{
	Verification *verification = palloc0(sizeof(Verification));

	fanout_require_preload();
	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser to verify a stream")));
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("stream must not be null")));
	verification->row = followed_row_require(NameStr(*PG_GETARG_NAME(0)));
	verification->relid = PG_ARGISNULL(1) ? InvalidOid : PG_GETARG_OID(1);
	verification->stream = followed_stream_find(MyDatabaseId, verification->row->id);
	if (verification->stream == NULL || strcmp(verification->row->copy_state, COPY_DONE) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("stream \"%s\" is being copied", NameStr(verification->row->stream))));
	return verification;
}

/* verify(stream name, relation regclass) RETURNS SETOF record */
Datum
fanout_verify(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Verification *verification = begin_verification(fcinfo);
	int			guc_nestlevel = NewGUCNestLevel();

	InitMaterializedSRF(fcinfo, 0);
	set_here();
	verification->conn = leader_connect(verification->row->conninfo, "pg_fanout verify");
	set_on_leader(verification->conn);
	find_position(verification);

	compare_tables(verification, rsinfo);

	leader_disconnect(verification->conn);
	PopActiveSnapshot();
	UnregisterSnapshot(verification->snapshot);
	AtEOXact_GUC(true, guc_nestlevel);
	pgstat_report_activity(STATE_RUNNING, debug_query_string);
	return (Datum) 0;
}
