/*
 * follow.c
 *		fanout.follow(): everything that can be checked before a follower starts.
 *
 * follow() connects to the leader and makes sure that following can work; what is
 * wrong is an error at the call, in the leader's words where they are the
 * leader's.  Then it only inserts a row and makes a hint, so that a rollback
 * leaves nothing but the hint, which the worker removes.
 *
 * It waits for the stream's decoder before it writes anything: leader and
 * follower may be databases of one server, and a slot is not made there while any
 * transaction that has written is open.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "commands/dbcommands.h"
#include "libpq-fe.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/uuid.h"

#include "follower/copy.h"
#include "follower/guard.h"
#include "launcher.h"
#include "own_tables.h"
#include "replication/slot.h"
#include "wire/machine.h"
#include "wire/message.h"

PG_FUNCTION_INFO_V1(fanout_follow);

#define STREAM_TIMEOUT_MS	30000
#define STREAM_POLL_MS		100

typedef struct FollowRequest
{
	char	   *stream;
	char	   *follower;
	char	   *conninfo;
	bool		copy_schema;
	bool		copy_data;
	char	   *leader_system;
	Oid			leader_database;
} FollowRequest;

/* ---------- here ---------- */

static void
check_arguments(FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(3) || PG_ARGISNULL(4))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("stream, leader, copy_schema and copy_data must not be null")));
	if (NameStr(*PG_GETARG_NAME(0))[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("stream name must not be empty")));
	if (!PG_ARGISNULL(2) && NameStr(*PG_GETARG_NAME(2))[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("follower name must not be empty")));
}

static void
check_server(const FollowRequest *request)
{
	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser to follow a stream")));
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("cannot follow a stream during recovery")));
	if (max_replication_slots == 0)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("cannot follow a stream when \"max_replication_slots\" is 0"),
				 errhint("A follower needs a replication origin, and this is their number, too.")));
	if (followed_row_by_name(request->stream) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("this database follows stream \"%s\" already", request->stream)));
}

static void
check_conninfo(const char *conninfo)
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

/* Fails unless names, an array in text form, lacks the follower's name. */
static void
check_name(const char *names, const char *follower, const char *stream)
{
	ArrayType  *array = DatumGetArrayTypeP(OidInputFunctionCall(F_ARRAY_IN,
																unconstify(char *, names),
																NAMEOID, -1));
	Datum	   *datums;
	bool	   *nulls;
	int			count;

	deconstruct_array(array, NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR, &datums, &nulls, &count);
	for (int i = 0; i < count; i++)
	{
		if (strcmp(NameStr(*DatumGetName(datums[i])), follower) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_OBJECT),
					 errmsg("stream \"%s\" has a follower named \"%s\" already", stream, follower),
					 errhint("Choose another name, or call fanout.drop_follower() on the leader if that follower is gone.")));
	}
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
wait_for_stream(PGconn *conn, const FollowRequest *request)
{
	const char *params[] = {request->stream, psprintf("%d", FANOUT_WIRE_VERSION)};

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
							request->stream, state),
					 errhint("See fanout.streams on the leader.")));
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 STREAM_POLL_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/* With the schema to come, no table of the stream may be here; without, all must be. */
static void
check_tables(PGconn *conn, const FollowRequest *request)
{
	const char *params[] = {request->stream};
	PGresult   *tables = leader_query(conn, "SELECT nspname, relname FROM fanout.stream_tables($1)",
									  1, params);
	List	   *subscribed = subscribed_tables();

	for (int i = 0; i < PQntuples(tables); i++)
	{
		char	   *nspname = pstrdup(PQgetvalue(tables, i, 0));
		char	   *relname = pstrdup(PQgetvalue(tables, i, 1));
		Oid			relid = RangeVarGetRelid(makeRangeVar(nspname, relname, -1), NoLock, true);
		bool		exists = OidIsValid(relid);

		if (exists && list_member_oid(subscribed, relid))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("relation \"%s.%s\" belongs to a subscription", nspname, relname)));
		if (exists == !request->copy_schema)
			continue;
		PQclear(tables);
		if (exists)
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_TABLE),
					 errmsg("relation \"%s.%s\" already exists", nspname, relname),
					 errhint("Follow into an empty database, or with copy_schema => false.")));
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"%s.%s\" does not exist here", nspname, relname),
				 errhint("Follow with copy_schema => true to have it made.")));
	}
	PQclear(tables);
}

/* Decoding has no changes of them, so a copy would be wrong soon. */
static void
warn_of_large_objects(PGconn *conn)
{
	char	   *any = leader_query_value(conn, "SELECT 1 FROM pg_catalog.pg_largeobject_metadata LIMIT 1",
										 0, NULL);

	if (any != NULL)
		ereport(WARNING,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the leader's large objects are not replicated"),
				 errdetail("Columns that refer to them hold OIDs that mean nothing here.")));
}

static void
check_leader(FollowRequest *request)
{
	PGconn	   *conn = leader_connect(request->conninfo, "pg_fanout follow");
	PGresult   *info;

	check_extension(conn);
	info = wait_for_stream(conn, request);
	request->leader_system = pstrdup(PQgetvalue(info, 0, 1));
	request->leader_database =
		atooid(leader_query_value(conn, "SELECT oid FROM pg_catalog.pg_database"
								  " WHERE datname = pg_catalog.current_database()", 0, NULL));
	if (strtou64(request->leader_system, NULL, 10) == GetSystemIdentifier() &&
		request->leader_database == MyDatabaseId)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a database cannot follow itself")));
	check_like_machine(info);
	check_name(PQgetvalue(info, 0, 4), request->follower, request->stream);
	PQclear(info);
	if (request->copy_schema)
		schema_dump_check(conn);
	check_tables(conn, request);
	warn_of_large_objects(conn);
	leader_disconnect(conn);
}

/* ---------- the row ---------- */

static int32
insert_row(const FollowRequest *request)
{
	OwnTables	state;
	Oid			types[] = {NAMEOID, OIDOID, NAMEOID, TEXTOID, BOOLOID, BOOLOID, OIDOID, TEXTOID, OIDOID};
	Datum		values[lengthof(types)];
	bool		isnull;
	int32		id;

	values[0] = DirectFunctionCall1(namein, CStringGetDatum(request->stream));
	values[1] = ObjectIdGetDatum(MyDatabaseId);
	values[2] = DirectFunctionCall1(namein, CStringGetDatum(request->follower));
	values[3] = CStringGetTextDatum(request->conninfo);
	values[4] = BoolGetDatum(request->copy_schema);
	values[5] = BoolGetDatum(request->copy_data);
	values[6] = ObjectIdGetDatum(GetUserId());
	values[7] = CStringGetTextDatum(request->leader_system);
	values[8] = ObjectIdGetDatum(request->leader_database);

	own_tables_begin(&state);
	if (SPI_execute_with_args("INSERT INTO fanout.followed_stream"
							  " (stream, dboid, follower, conninfo, instance, copy_schema, copy_data, owner,"
							  "  leader_system, leader_database)"
							  " VALUES ($1, $2, $3, $4, gen_random_uuid(), $5, $6, $7, $8, $9)"
							  " RETURNING id",
							  lengthof(types), types, values, NULL, false, 0) != SPI_OK_INSERT_RETURNING)
		elog(ERROR, "could not insert into fanout.followed_stream");
	id = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	own_tables_end(&state);
	return id;
}

static void
follow(FollowRequest *request)
{
	check_conninfo(request->conninfo);
	check_server(request);
	check_leader(request);
	hint_create(HINT_FOLLOWED, MyDatabaseId, insert_row(request));
	launcher_wake_at_commit();
}

/* Fail with the error in flight, but keep the statement, with its password, out of the log. */
static void
rethrow_without_statement(MemoryContext context)
{
	ErrorData  *error;

	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	FlushErrorState();
	error->hide_stmt = true;
	ReThrowError(error);
}

/*
 * follow(stream name, leader text, follower name, copy_schema bool, copy_data bool)
 *
 * The follower's name is by default that of the database.
 */
Datum
fanout_follow(PG_FUNCTION_ARGS)
{
	MemoryContext context = CurrentMemoryContext;
	FollowRequest request = {0};

	fanout_require_preload();
	check_arguments(fcinfo);
	request.stream = NameStr(*PG_GETARG_NAME(0));
	request.conninfo = text_to_cstring(PG_GETARG_TEXT_PP(1));
	request.follower = PG_ARGISNULL(2) ? get_database_name(MyDatabaseId)
		: NameStr(*PG_GETARG_NAME(2));
	request.copy_schema = PG_GETARG_BOOL(3);
	request.copy_data = PG_GETARG_BOOL(4);

	PG_TRY();
	{
		follow(&request);
	}
	PG_CATCH();
	{
		rethrow_without_statement(context);
	}
	PG_END_TRY();
	PG_RETURN_VOID();
}
