/*
 * leader_conn.c
 *		Connections to a leader: libpq, but waiting on the latch.
 *
 * Every wait here can be cancelled and ends with the postmaster.  The servers that the
 * connection string names (leader_hosts.c) are tried in turn, each with a deadline of its own: one
 * that takes connections and never answers keeps nobody from the next.  A connection
 * belongs to the memory context that was current when it was made: it is closed
 * when that context is reset, so that no error leaves one open, or earlier by
 * leader_disconnect().
 *
 * What the leader says is passed on in its own words, with its SQLSTATE.  No
 * message contains the connection string.
 */
#include "postgres.h"

#include "libpq-fe.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"

#include "compat.h"
#include "follower/follower.h"
#include "follower/leader_hosts.h"
#include "wire/message.h"

/* For one of several addresses, when the connection string has no connect_timeout. */
#define NEXT_ADDRESS_MS		2000

/* Ties a PGconn to a memory context. */
typedef struct ConnectionHold
{
	MemoryContextCallback callback;
	PGconn	   *conn;			/* NULL: closed already */
	char	   *address;		/* see leader_address() */
	TimestampTz deadline;		/* of queries; 0: none */
	struct ConnectionHold *next;
} ConnectionHold;

static ConnectionHold *holds = NULL;

/* Of the server that was connected to last; 0: none was. */
static int	last_version = 0;

static void
release_hold(void *arg)
{
	ConnectionHold *hold = arg;
	ConnectionHold **link = &holds;

	while (*link != NULL && *link != hold)
		link = &(*link)->next;
	if (*link != NULL)
		*link = hold->next;
	if (hold->conn != NULL)
		PQfinish(hold->conn);
	hold->conn = NULL;
}

static void
hold_connection(PGconn *conn, char *address)
{
	ConnectionHold *hold = palloc0(sizeof(ConnectionHold));

	hold->conn = conn;
	hold->address = address;
	hold->next = holds;
	holds = hold;
	hold->callback.func = release_hold;
	hold->callback.arg = hold;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &hold->callback);
}

static ConnectionHold *
hold_of(PGconn *conn)
{
	for (ConnectionHold *hold = holds; hold != NULL; hold = hold->next)
	{
		if (hold->conn == conn)
			return hold;
	}
	elog(ERROR, "unknown connection");
}

void
leader_disconnect(PGconn *conn)
{
	hold_of(conn)->conn = NULL;
	PQfinish(conn);
}

/* ---------- waiting ---------- */

bool
leader_wait_for_socket(PGconn *conn, int events, long timeout_ms)
{
	int			flags = WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | events;
	int			result;

	if (timeout_ms >= 0)
		flags |= WL_TIMEOUT;
	result = WaitLatchOrSocket(MyLatch, flags, PQsocket(conn), timeout_ms, PG_WAIT_EXTENSION);
	if (result & WL_LATCH_SET)
	{
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	return (result & events) != 0;
}

void
leader_connection_lost(PGconn *conn)
{
	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("the connection to the leader was lost"),
			 errdetail_internal("%s", pchomp(PQerrorMessage(conn)))));
}

/* ---------- connecting ---------- */

/*
 * The settings of a session with the leader.  What ALTER DATABASE and ALTER ROLE have set there
 * is for people, whatever it is: each such setting gets its default, but the role, which may be
 * what gives this login its rights.  Then go the time limits that users may set, of every
 * version.  The rest is what a server's configuration might say otherwise.
 *
 * The keepalives are for a session that would stand with all its locks for hours after this host
 * died.  There is no tcp_user_timeout among them: on the leader's side it would also end a
 * connection whose follower lives, but reads nothing for that long, since it waits for a lock.
 *
 * Without row_security a query fails that would else miss the rows that a policy hides.  The
 * login may be a superuser; with fanout.owner_code it runs nobody's functions as one.
 */
static char *
session_settings(void)
{
	static const char *const settings[] = {
		"SET search_path = pg_catalog, pg_temp",
		"SELECT count(set_config(name, boot_val, false)) FROM pg_settings"
		" WHERE context = 'user' AND source IN ('global', 'database', 'user', 'database user')",
		"SET search_path = pg_catalog, pg_temp",
		"SELECT count(set_config(name, '0', false)) FROM pg_settings WHERE context = 'user'"
		" AND vartype = 'integer' AND boot_val = '0' AND name ~ '^[^.]*_timeout$'",
		"SET tcp_keepalives_idle = " KEEPALIVES_IDLE,
		"SET tcp_keepalives_interval = " KEEPALIVES_INTERVAL,
		"SET tcp_keepalives_count = " KEEPALIVES_COUNT,
		"SET datestyle = ISO",
		"SET intervalstyle = postgres",
		"SET extra_float_digits = 3",
		"SET bytea_output = hex",
		"SET quote_all_identifiers = off",
		"SET default_transaction_isolation = 'read committed'",
		"SET default_transaction_read_only = off",
		"SET default_transaction_deferrable = off",
		"SET row_security = off",
		"SET fanout.max_staleness = -1",
		"SET fanout.read_after = ''",
		"SET fanout.owner_code = on",
	};
	StringInfoData query;

	initStringInfo(&query);
	for (int i = 0; i < lengthof(settings); i++)
		appendStringInfo(&query, "%s;", settings[i]);
	return query.data;
}

typedef enum AttemptResult
{
	ATTEMPT_DONE,
	ATTEMPT_FAILED,				/* libpq has a message */
	ATTEMPT_TIMED_OUT,
} AttemptResult;

static TimestampTz
deadline_in(int timeout_ms)
{
	return TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout_ms);
}

/* Until the socket is ready; false: the deadline has passed. */
static bool
wait_until_deadline(PGconn *conn, int events, TimestampTz deadline)
{
	long		left;

	do
	{
		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);
		if (left <= 0)
			return false;
	} while (!leader_wait_for_socket(conn, events, left));
	return true;
}

static AttemptResult
poll_connection(PGconn *conn, TimestampTz deadline)
{
	PostgresPollingStatusType status = PGRES_POLLING_WRITING;

	if (PQstatus(conn) == CONNECTION_BAD)
		return ATTEMPT_FAILED;
	while (status == PGRES_POLLING_READING || status == PGRES_POLLING_WRITING)
	{
		if (!wait_until_deadline(conn, status == PGRES_POLLING_READING ? WL_SOCKET_READABLE
						: WL_SOCKET_WRITEABLE, deadline))
			return ATTEMPT_TIMED_OUT;
		status = PQconnectPoll(conn);
	}
	return status == PGRES_POLLING_OK ? ATTEMPT_DONE : ATTEMPT_FAILED;
}

static AttemptResult
set_session(PGconn *conn, TimestampTz deadline)
{
	PGresult   *res;
	bool		ok = true;

	if (!PQsendQuery(conn, session_settings()))
		return ATTEMPT_FAILED;
	for (;;)
	{
		while (PQisBusy(conn))
		{
			if (!wait_until_deadline(conn, WL_SOCKET_READABLE, deadline))
				return ATTEMPT_TIMED_OUT;
			if (!PQconsumeInput(conn))
				return ATTEMPT_FAILED;
		}
		res = PQgetResult(conn);
		if (res == NULL)
			return ok ? ATTEMPT_DONE : ATTEMPT_FAILED;
		ok &= PQresultStatus(res) == PGRES_COMMAND_OK || PQresultStatus(res) == PGRES_TUPLES_OK;
		PQclear(res);
	}
}

/* ---------- one address ---------- */

/* A connection that is to be made. */
typedef struct Connecting
{
	PQconninfoOption *options;	/* of the connection string */
	const char *appname;
	StringInfoData failures;	/* what became of each address */
} Connecting;

/* What libpq is given. */
typedef struct Parameters
{
	const char *keys[64];
	const char *values[64];
	int			count;
} Parameters;

static void
add_parameter(Parameters *parameters, const char *key, const char *value)
{
	/* The last place is the terminator's. */
	if (parameters->count >= lengthof(parameters->keys) - 1)
		elog(ERROR, "too many connection parameters");
	parameters->keys[parameters->count] = key;
	parameters->values[parameters->count++] = value;
}

/* Without an address: as the string has it. */
static PGconn *
start_connection(const Connecting *connecting, const LeaderHost *host, const char *attrs)
{
	Parameters	parameters = {0};
	PGconn	   *conn;

	add_parameter(&parameters, "keepalives_idle", KEEPALIVES_IDLE);
	add_parameter(&parameters, "keepalives_interval", KEEPALIVES_INTERVAL);
	add_parameter(&parameters, "keepalives_count", KEEPALIVES_COUNT);
	add_parameter(&parameters, "tcp_user_timeout", TCP_USER_TIMEOUT_MS);
	for (PQconninfoOption *option = connecting->options; option->keyword != NULL; option++)
	{
		if (option->val != NULL && (host == NULL || !option_names_server(option->keyword)))
			add_parameter(&parameters, option->keyword, option->val);
	}
	if (host != NULL)
	{
		add_parameter(&parameters, "host", host->host);
		add_parameter(&parameters, "hostaddr", host->hostaddr);
		add_parameter(&parameters, "port", host->port);
		add_parameter(&parameters, "target_session_attrs", attrs);
	}
	add_parameter(&parameters, "fallback_application_name", connecting->appname);
	add_parameter(&parameters, "client_encoding", GetDatabaseEncodingName());
	conn = PQconnectStartParams(parameters.keys, parameters.values, 0);
	if (conn == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory")));
	hold_connection(conn, host != NULL ? leader_host_text(host) : "");
	return conn;
}

static void
note_failure(Connecting *connecting, PGconn *conn, const LeaderHost *host, AttemptResult result)
{
	StringInfo	failures = &connecting->failures;

	if (failures->len > 0)
		appendStringInfoChar(failures, '\n');
	if (result == ATTEMPT_FAILED)
		appendStringInfoString(failures, pchomp(PQerrorMessage(conn)));
	else if (host == NULL)
		appendStringInfoString(failures, "The leader did not answer in time.");
	else
		appendStringInfo(failures, "The server at \"%s\", port %s, did not answer in time.",
						 host->host[0] != '\0' ? host->host : host->hostaddr, host->port);
}

/* NULL: it could not be reached there. */
static PGconn *
try_address(Connecting *connecting, const LeaderHost *host, const char *attrs, int timeout_ms)
{
	PGconn	   *conn;
	AttemptResult result;

	CHECK_FOR_INTERRUPTS();
	conn = start_connection(connecting, host, attrs);
	result = poll_connection(conn, deadline_in(timeout_ms));
	if (result == ATTEMPT_DONE)
		result = set_session(conn, deadline_in(timeout_ms));
	if (result == ATTEMPT_DONE)
		return conn;
	note_failure(connecting, conn, host, result);
	leader_disconnect(conn);
	return NULL;
}

/* ---------- all addresses ---------- */

static int
timeout_ms(const LeaderHosts *hosts, bool others)
{
	if (hosts->timeout_ms > 0)
		return hosts->timeout_ms;
	return others ? NEXT_ADDRESS_MS : atoi(CONNECT_TIMEOUT) * 1000;
}

static PGconn *
try_host(Connecting *connecting, const LeaderHosts *hosts, LeaderHost *host, const char *attrs)
{
	List	   *addresses = leader_addresses(hosts, host);
	bool		others = list_length(hosts->hosts) > 1 || list_length(addresses) > 1;
	PGconn	   *conn = NULL;
	ListCell   *lc;

	foreach(lc, addresses)
	{
		conn = try_address(connecting, lfirst(lc), attrs, timeout_ms(hosts, others));
		if (conn != NULL)
			break;
	}
	return conn;
}

/* NULL: there is none that will do. */
static PGconn *
try_hosts(Connecting *connecting, const LeaderHosts *hosts)
{
	ListCell   *attrs;

	if (hosts->hosts == NIL)
		return try_address(connecting, NULL, NULL, timeout_ms(hosts, false));
	foreach(attrs, hosts->attrs)
	{
		ListCell   *lc;

		foreach(lc, hosts->hosts)
		{
			PGconn	   *conn = try_host(connecting, hosts, lfirst(lc), lfirst(attrs));

			if (conn != NULL)
				return conn;
		}
	}
	return NULL;
}

static void
free_options(void *options)
{
	PQconninfoFree(options);
}

/* The options live as long as the current memory context. */
static PQconninfoOption *
parse_conninfo(const char *conninfo)
{
	MemoryContextCallback *callback = palloc0(sizeof(MemoryContextCallback));
	PQconninfoOption *options = PQconninfoParse(conninfo, NULL);

	if (options == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("invalid connection string")));
	callback->func = free_options;
	callback->arg = options;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, callback);
	return options;
}

static PGconn *
connect_to(const char *conninfo, const LeaderHosts *hosts, const char *appname)
{
	Connecting	connecting = {parse_conninfo(conninfo), appname};
	PGconn	   *conn;

	initStringInfo(&connecting.failures);
	conn = try_hosts(&connecting, hosts);
	if (conn == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("could not connect to the leader"),
				 errdetail_internal("%s", connecting.failures.data)));
	last_version = PQserverVersion(conn);
	return conn;
}

PGconn *
leader_connect(const char *conninfo, const char *appname)
{
	return connect_to(conninfo, leader_hosts(conninfo), appname);
}

PGconn *
leader_connect_to(const char *conninfo, const char *address, const char *appname)
{
	LeaderHosts *hosts = leader_hosts(conninfo);

	hosts->hosts = leader_hosts(address)->hosts;
	return connect_to(conninfo, hosts, appname);
}

const char *
leader_address(PGconn *conn)
{
	return hold_of(conn)->address;
}

int
leader_version(void)
{
	return last_version;
}

/* ---------- queries ---------- */

void
leader_raise(PGconn *conn, PGresult *res)
{
	const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);
	const char *primary = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);
	const char *detail = PQresultErrorField(res, PG_DIAG_MESSAGE_DETAIL);
	const char *hint = PQresultErrorField(res, PG_DIAG_MESSAGE_HINT);
	int			sqlstate = state != NULL ?
		MAKE_SQLSTATE(state[0], state[1], state[2], state[3], state[4]) :
		ERRCODE_CONNECTION_FAILURE;
	char	   *message = pstrdup(primary != NULL ? primary : pchomp(PQerrorMessage(conn)));

	detail = detail != NULL ? pstrdup(detail) : NULL;
	hint = hint != NULL ? pstrdup(hint) : NULL;
	PQclear(res);
	ereport(ERROR,
			(errcode(sqlstate),
			 errmsg("the leader reported: %s", message),
			 detail != NULL ? errdetail_internal("%s", detail) : 0,
			 hint != NULL ? errhint("%s", hint) : 0));
	pg_unreachable();
}

void
leader_set_timeout(PGconn *conn, int timeout_ms)
{
	hold_of(conn)->deadline = deadline_in(timeout_ms);
}

/* False: the connection is lost. */
static bool
wait_for_input(PGconn *conn)
{
	TimestampTz deadline = hold_of(conn)->deadline;

	if (deadline == 0)
		(void) leader_wait_for_socket(conn, WL_SOCKET_READABLE, -1);
	else if (!wait_until_deadline(conn, WL_SOCKET_READABLE, deadline))
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("the leader did not answer in time")));
	return PQconsumeInput(conn) != 0;
}

PGresult *
leader_query_wait(PGconn *conn)
{
	PGresult   *last = NULL;

	for (;;)
	{
		PGresult   *res;

		while (PQisBusy(conn))
		{
			if (!wait_for_input(conn))
			{
				PQclear(last);
				leader_connection_lost(conn);
			}
		}
		res = PQgetResult(conn);
		if (res == NULL)
			return last;
		PQclear(last);
		last = res;
		if (PQresultStatus(last) == PGRES_COPY_OUT || PQresultStatus(last) == PGRES_COPY_BOTH)
			return last;
	}
}

void
leader_query_start(PGconn *conn, const char *query, int nparams, const char *const *params)
{
	int			sent = nparams > 0 ?
		PQsendQueryParams(conn, query, nparams, NULL, params, NULL, NULL, 0) :
		PQsendQuery(conn, query);

	if (!sent)
		leader_connection_lost(conn);
}

PGresult *
leader_query_finish(PGconn *conn)
{
	PGresult   *res = leader_query_wait(conn);

	switch (PQresultStatus(res))
	{
		case PGRES_COMMAND_OK:
		case PGRES_TUPLES_OK:
		case PGRES_COPY_OUT:
		case PGRES_COPY_BOTH:
			return res;
		default:
			leader_raise(conn, res);
	}
}

PGresult *
leader_query(PGconn *conn, const char *query, int nparams, const char *const *params)
{
	leader_query_start(conn, query, nparams, params);
	return leader_query_finish(conn);
}

char *
leader_query_value(PGconn *conn, const char *query, int nparams, const char *const *params)
{
	PGresult   *res = leader_query(conn, query, nparams, params);
	char	   *value = NULL;

	if (PQntuples(res) > 0 && !PQgetisnull(res, 0, 0))
		value = pstrdup(PQgetvalue(res, 0, 0));
	PQclear(res);
	return value;
}

XLogRecPtr
leader_query_lsn(PGconn *conn, const char *query, int nparams, const char *const *params)
{
	char	   *value = leader_query_value(conn, query, nparams, params);

	if (value == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("the leader sent no position")));
	return DatumGetLSN(DirectFunctionCall1(pg_lsn_in, CStringGetDatum(value)));
}

char *
leader_era(PGconn *conn, const char *stream)
{
	const char *params[] = {stream, psprintf("%d", FANOUT_WIRE_VERSION)};
	char	   *era = leader_query_value(conn, "SELECT era FROM fanout.stream_info($1, $2)",
										 2, params);

	if (era == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("stream \"%s\" is not streaming yet", stream)));
	return era;
}
