/*
 * leader_check.c
 *		Can this database follow a stream of that leader?
 *
 * Whoever is given a connection string by a user asks that before he takes it: what
 * is wrong is an error at the call, in the leader's words where they are the leader's.
 *
 * The stream's decoder is waited for before anything is written: leader and
 * follower may be databases of one server, and a slot is not made there while any
 * transaction that has written is open.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "libpq-fe.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"

#include "arrays.h"
#include "follower/follower.h"
#include "wire/machine.h"
#include "wire/message.h"

#define STREAM_TIMEOUT_MS	30000
#define STREAM_POLL_MS		100

/* ---------- the connection string ---------- */

void
leader_check_conninfo(const char *conninfo)
{
	char	   *error = NULL;
	PQconninfoOption *options = PQconninfoParse(conninfo, &error);
	char	   *detail;

	if (options != NULL)
	{
		PQconninfoFree(options);
		return;
	}
	/* It may hold a piece of a password: for the user's eyes, not for the log. */
	detail = error != NULL ? pchomp(error) : "out of memory";
	PQfreemem(error);
	ereport(ERROR,
			(errcode(ERRCODE_SYNTAX_ERROR),
			 errmsg("invalid connection string"),
			 errdetail_internal("%s", detail),
			 errdetail_log("The reason is told to the client only.")));
}

void
rethrow_without_statement(MemoryContext context)
{
	ErrorData  *error;

	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	FlushErrorState();
	error->hide_stmt = true;
	ReThrowError(error);
}

/* ---------- the leader ---------- */

static void
check_extension(PGconn *conn)
{
	if (leader_query_value(conn, "SELECT 1 FROM pg_catalog.pg_extension WHERE extname = 'pg_fanout'",
						   0, NULL) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("extension \"pg_fanout\" is not installed in the leader's database"),
				 errhint("Run CREATE EXTENSION pg_fanout there, then fanout.create_stream().")));
	if (strcmp(leader_query_value(conn, "SHOW wal_level", 0, NULL), "logical") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("\"wal_level\" of the leader is not \"logical\"")));
	if (strcmp(leader_query_value(conn, "SELECT pg_catalog.pg_is_in_recovery()", 0, NULL), "t") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the leader is a standby, which can not be followed")));
}

static void
check_like_machine(PGresult *info)
{
	const char *encoding = PQgetvalue(info, 0, 2);
	const char *machine = PQgetvalue(info, 0, 3);

	if (strcmp(encoding, GetDatabaseEncodingName()) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the leader's encoding is %s, but this database's is %s",
						encoding, GetDatabaseEncodingName())));
	if (strcmp(machine, machine_description()) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the leader runs on another kind of machine"),
				 errdetail("It is \"%s\", but this one is \"%s\".", machine, machine_description())));
}

/* The stream's info once its decoder runs. */
static PGresult *
wait_for_stream(PGconn *conn, const char *stream)
{
	const char *params[] = {stream, psprintf("%d", FANOUT_WIRE_VERSION)};

	for (int waited = 0;; waited += STREAM_POLL_MS)
	{
		PGresult   *info = leader_query(conn, "SELECT * FROM fanout.stream_info($1, $2)", 2, params);
		char	   *state = pstrdup(PQgetvalue(info, 0, 0));

		if (strcmp(state, "streaming") == 0)
			return info;
		PQclear(info);
		if (waited >= STREAM_TIMEOUT_MS)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("stream \"%s\" of the leader is not streaming but %s",
							stream, state),
					 errhint("See fanout.streams on the leader.")));
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 STREAM_POLL_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

static void
check_not_here(const CheckedLeader *leader)
{
	if (strtou64(leader->system, NULL, 10) == GetSystemIdentifier() &&
		leader->database == MyDatabaseId)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a database cannot follow itself")));
}

void
leader_check(CheckedLeader *leader, const char *conninfo, const char *stream)
{
	PGresult   *info;

	leader->conn = leader_connect(conninfo, "pg_fanout follow");
	check_extension(leader->conn);
	info = wait_for_stream(leader->conn, stream);
	leader->system = pstrdup(PQgetvalue(info, 0, 1));
	leader->followers = pstrdup(PQgetvalue(info, 0, 4));
	leader->database =
		atooid(leader_query_value(leader->conn, "SELECT oid FROM pg_catalog.pg_database"
								  " WHERE datname = pg_catalog.current_database()", 0, NULL));
	check_not_here(leader);
	check_like_machine(info);
	PQclear(info);
}

void
leader_check_name(const CheckedLeader *leader, const char *follower, const char *stream)
{
	Datum		names = OidInputFunctionCall(F_ARRAY_IN, leader->followers, NAMEOID, -1);
	ListCell   *lc;

	foreach(lc, name_array_list(DatumGetArrayTypeP(names)))
	{
		if (strcmp(lfirst(lc), follower) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_OBJECT),
					 errmsg("stream \"%s\" has a follower named \"%s\" already", stream, follower),
					 errhint("Choose another name, or call fanout.drop_follower() on the leader if that follower is gone.")));
	}
}

/* A copy without the rows that policies hide would be taken for one of all. */
void
leader_check_all_rows_visible(PGconn *conn, const char *stream)
{
	const char *params[] = {stream};
	char	   *hidden = leader_query_value(conn,
											"SELECT pg_catalog.string_agg(pg_catalog.format('\"%s.%s\"', nspname, relname), ', '"
											"  ORDER BY nspname, relname)"
											" FROM fanout.stream_tables($1)"
											" WHERE pg_catalog.row_security_active(relid)",
											1, params);

	if (hidden != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("row-level security of the leader would hide rows from the follower's role"),
				 errdetail("Tables with policies that apply to the role: %s.", hidden),
				 errhint("Give the role BYPASSRLS on the leader.")));
}
