/*
 * follow.c
 *		fanout.follow(): everything that can be checked before a follower starts.
 *
 * follow() connects to the leader and makes sure that following can work (see
 * leader_check.c).  Then it only inserts a row and makes a hint, so that a rollback
 * leaves nothing but the hint, which the worker removes.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "follower/copy.h"
#include "follower/guard.h"
#include "launcher.h"
#include "own_tables.h"
#include "replication/slot.h"
#include "wire/message.h"

PG_FUNCTION_INFO_V1(fanout_follow);

typedef struct FollowRequest
{
	char	   *stream;
	char	   *follower;
	char	   *conninfo;
	bool		copy_schema;
	bool		copy_data;
	bool		make_roles;
} FollowRequest;

/* ---------- here ---------- */

static void
check_arguments(FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(3) || PG_ARGISNULL(4) ||
		PG_ARGISNULL(5))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("stream, leader, copy_schema, copy_data and make_roles must not be null")));
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

/* ---------- the leader ---------- */

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

/*
 * Roles that objects of the stream belong to or name in their rights and policies.  The server does not
 * note of what its bootstrap superuser owns.
 */
static const char *const roles_query =
"WITH stream AS ("
"    SELECT all_tables FROM fanout.stream_info($1, $2)"
"), tables AS ("
"    SELECT relid FROM fanout.stream_tables($1)"
"), parts (classid, objid) AS ("
"    SELECT 'pg_catalog.pg_class'::pg_catalog.regclass::oid, relid FROM tables"
"    UNION ALL"
"    SELECT 'pg_catalog.pg_policy'::pg_catalog.regclass::oid, p.oid"
"    FROM pg_catalog.pg_policy p JOIN tables ON relid = p.polrelid"
"), named (role) AS ("
"    SELECT d.refobjid FROM pg_catalog.pg_shdepend d, stream"
"    WHERE d.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass"
"      AND d.dbid = (SELECT oid FROM pg_catalog.pg_database"
"                    WHERE datname = pg_catalog.current_database())"
"      AND (all_tables OR (d.classid, d.objid) IN (SELECT classid, objid FROM parts))"
"    UNION"
"    SELECT c.relowner FROM pg_catalog.pg_class c JOIN tables ON relid = c.oid"
"    UNION"
"    SELECT p.proowner FROM pg_catalog.pg_proc p, stream"
"    WHERE all_tables AND p.oid >= 16384"
"      AND p.pronamespace <> '" FANOUT_SCHEMA "'::pg_catalog.regnamespace"
") "
"SELECT rolname FROM pg_catalog.pg_roles"
" WHERE oid IN (SELECT role FROM named) AND rolname !~ '^pg_' ORDER BY rolname";

/* Names of those that do not exist here. */
static List *
leader_roles_missing(PGconn *conn, const char *stream)
{
	const char *params[] = {stream, psprintf("%d", FANOUT_WIRE_VERSION)};
	PGresult   *roles = leader_query(conn, roles_query, 2, params);
	List	   *missing = NIL;

	for (int i = 0; i < PQntuples(roles); i++)
	{
		const char *role = PQgetvalue(roles, i, 0);

		if (!OidIsValid(get_role_oid(role, true)))
			missing = lappend(missing, pstrdup(role));
	}
	PQclear(roles);
	return missing;
}

/*
 * What would belong to them, or be granted to them, belongs to the follower's owner, or is
 * not granted; and a statement that names one, or is run by one, stops the stream.  Unless they
 * are made: then all that later ones need is made as well (statement_roles.c).
 */
static void
see_to_missing_roles(PGconn *conn, const FollowRequest *request)
{
	List	   *names = leader_roles_missing(conn, request->stream);
	int			count = list_length(names);
	StringInfoData missing;
	ListCell   *lc;

	initStringInfo(&missing);
	foreach(lc, names)
		appendStringInfo(&missing, "%s\"%s\"", missing.len > 0 ? ", " : "", (char *) lfirst(lc));
	if (count > 0 && request->make_roles)
	{
		make_roles(names);
		ereport(NOTICE,
				(errmsg_plural("%d role of the leader is made here, with NOLOGIN",
							   "%d roles of the leader are made here, with NOLOGIN", count, count),
				 errdetail_plural("New role: %s.", "New roles: %s.", count, missing.data)));
	}
	else if (count > 0)
		ereport(WARNING,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg_plural("%d role of the leader does not exist here",
							   "%d roles of the leader do not exist here", count, count),
				 errdetail_plural("Missing role: %s.", "Missing roles: %s.", count, missing.data),
				 errhint("Follow with make_roles => true, or create them before the schema is copied: what is theirs is left to the follower's owner otherwise, and their later schema changes stop the stream.")));
}

static void
check_leader(const FollowRequest *request, CheckedLeader *leader)
{
	leader_check(leader, request->conninfo, request->stream);
	leader_check_name(leader, request->follower, request->stream);
	if (request->copy_schema)
		schema_dump_check(leader->conn);
	check_tables(leader->conn, request);
	if (request->copy_data)
		leader_check_all_rows_visible(leader->conn, request->stream);
	leader_warn_of_locale(leader->conn);
	warn_of_large_objects(leader->conn);
	see_to_missing_roles(leader->conn, request);
	leader_disconnect(leader->conn);
}

/* ---------- the row ---------- */

static void
insert_row(int32 id, const FollowRequest *request, const CheckedLeader *leader)
{
	OwnTables	state;
	Oid			types[] = {NAMEOID, OIDOID, NAMEOID, TEXTOID, BOOLOID, BOOLOID, OIDOID, TEXTOID,
	OIDOID, INT4OID, BOOLOID};
	Datum		values[lengthof(types)];

	values[0] = DirectFunctionCall1(namein, CStringGetDatum(request->stream));
	values[1] = ObjectIdGetDatum(MyDatabaseId);
	values[2] = DirectFunctionCall1(namein, CStringGetDatum(request->follower));
	values[3] = CStringGetTextDatum(request->conninfo);
	values[4] = BoolGetDatum(request->copy_schema);
	values[5] = BoolGetDatum(request->copy_data);
	values[6] = ObjectIdGetDatum(GetUserId());
	values[7] = CStringGetTextDatum(leader->system);
	values[8] = ObjectIdGetDatum(leader->database);
	values[9] = Int32GetDatum(id);
	values[10] = BoolGetDatum(request->make_roles);

	own_tables_begin(&state);
	if (SPI_execute_with_args("INSERT INTO fanout.followed_stream"
							  " (stream, dboid, follower, conninfo, instance, copy_schema, copy_data, owner,"
							  "  leader_system, leader_database, id, make_roles)"
							  " VALUES ($1, $2, $3, $4, gen_random_uuid(), $5, $6, $7, $8, $9, $10, $11)",
							  lengthof(types), types, values, NULL, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not insert into fanout.followed_stream");
	own_tables_end(&state);
}

static void
follow(const FollowRequest *request)
{
	CheckedLeader leader;
	int32		id;

	leader_check_conninfo(request->conninfo);
	check_server(request);
	id = hint_new_id(HINT_FOLLOWED);
	launcher_wake_at_end();
	/* Before the lock: the worker that gives a record back waits for those who have that. */
	followed_stream_reserve(id);
	check_leader(request, &leader);

	own_table_lock_for_insert("followed_stream");
	insert_row(id, request, &leader);
	hint_create(HINT_FOLLOWED, MyDatabaseId, id);
}

/*
 * follow(stream name, leader text, follower name, copy_schema bool, copy_data bool, make_roles bool)
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
	request.make_roles = PG_GETARG_BOOL(5);

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
