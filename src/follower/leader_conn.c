/*
 * leader_conn.c
 *		Connections to a leader: libpq, but waiting on the latch.
 *
 * Every wait here can be cancelled and ends with the postmaster.  A connection
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
#include "wire/message.h"

#define CONNECT_TIMEOUT_MS	10000

/* Ties a PGconn to a memory context. */
typedef struct ConnectionHold
{
	MemoryContextCallback callback;
	PGconn	   *conn;			/* NULL: closed already */
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
hold_connection(PGconn *conn)
{
	ConnectionHold *hold = palloc0(sizeof(ConnectionHold));

	hold->conn = conn;
	hold->next = holds;
	holds = hold;
	hold->callback.func = release_hold;
	hold->callback.arg = hold;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &hold->callback);
}

void
leader_disconnect(PGconn *conn)
{
	for (ConnectionHold *hold = holds; hold != NULL; hold = hold->next)
	{
		if (hold->conn == conn)
			hold->conn = NULL;
	}
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

static void
connection_failed(PGconn *conn)
{
	char	   *message = pchomp(PQerrorMessage(conn));

	leader_disconnect(conn);
	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("could not connect to the leader"),
			 errdetail_internal("%s", message)));
}

/* The connection string's connect_timeout, unless it has none. */
static int
connect_timeout_ms(PGconn *conn)
{
	PQconninfoOption *options = PQconninfo(conn);
	int			seconds = 0;

	for (PQconninfoOption *option = options; option != NULL && option->keyword != NULL; option++)
	{
		if (strcmp(option->keyword, "connect_timeout") == 0 && option->val != NULL)
			seconds = atoi(option->val);
	}
	PQconninfoFree(options);
	return seconds > 0 ? Min(seconds, INT_MAX / 1000) * 1000 : CONNECT_TIMEOUT_MS;
}

static void
poll_connection(PGconn *conn)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													   connect_timeout_ms(conn));
	PostgresPollingStatusType status = PGRES_POLLING_WRITING;

	while (status == PGRES_POLLING_READING || status == PGRES_POLLING_WRITING)
	{
		long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);
		int			events = status == PGRES_POLLING_READING ? WL_SOCKET_READABLE
			: WL_SOCKET_WRITEABLE;

		if (left <= 0)
		{
			leader_disconnect(conn);
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("could not connect to the leader"),
					 errdetail("The leader did not answer in time.")));
		}
		if (leader_wait_for_socket(conn, events, left))
			status = PQconnectPoll(conn);
	}
	if (status != PGRES_POLLING_OK)
		connection_failed(conn);
}

/* ---------- connecting ---------- */

/*
 * Settings of the leader or its roles that would end a long-lived connection, or would let it
 * stand with all its locks for hours after this host died.  There is no tcp_user_timeout among
 * them: on the leader's side it would also end a connection whose follower lives, but reads
 * nothing for that long, since it waits for a lock.
 *
 * Without row_security a query fails that would else miss the rows that a policy hides.
 */
static void
set_session(PGconn *conn)
{
	static const char *const settings[] = {
		"SET search_path = pg_catalog, pg_temp",
		"SET statement_timeout = 0",
		"SET lock_timeout = 0",
		"SET idle_in_transaction_session_timeout = 0",
		"SET idle_session_timeout = 0",
		"SET tcp_keepalives_idle = " KEEPALIVES_IDLE,
		"SET tcp_keepalives_interval = " KEEPALIVES_INTERVAL,
		"SET tcp_keepalives_count = " KEEPALIVES_COUNT,
		"SET datestyle = ISO",
		"SET intervalstyle = postgres",
		"SET extra_float_digits = 3",
		"SET bytea_output = hex",
		"SET default_transaction_isolation = 'read committed'",
		"SET default_transaction_read_only = off",
		"SET row_security = off",
	};

	for (int i = 0; i < lengthof(settings); i++)
		PQclear(leader_query(conn, settings[i], 0, NULL));
	if (fanout_has_transaction_timeout(PQserverVersion(conn)))
		PQclear(leader_query(conn, "SET transaction_timeout = 0", 0, NULL));
}

PGconn *
leader_connect(const char *conninfo, const char *appname)
{
	const char *keys[] = {"keepalives_idle", "keepalives_interval", "keepalives_count",
	"tcp_user_timeout", "dbname", "fallback_application_name", "client_encoding", NULL};
	const char *values[] = {KEEPALIVES_IDLE, KEEPALIVES_INTERVAL, KEEPALIVES_COUNT,
	TCP_USER_TIMEOUT_MS, conninfo, appname, GetDatabaseEncodingName(), NULL};
	PGconn	   *conn = PQconnectStartParams(keys, values, 1);

	if (conn == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory")));
	hold_connection(conn);
	if (PQstatus(conn) == CONNECTION_BAD)
		connection_failed(conn);
	poll_connection(conn);
	last_version = PQserverVersion(conn);
	set_session(conn);
	return conn;
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

/* The last result of the query under way. */
static PGresult *
wait_for_result(PGconn *conn)
{
	PGresult   *last = NULL;

	for (;;)
	{
		PGresult   *res;

		while (PQisBusy(conn))
		{
			(void) leader_wait_for_socket(conn, WL_SOCKET_READABLE, -1);
			if (!PQconsumeInput(conn))
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
	PGresult   *res = wait_for_result(conn);

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

/* ---------- connection strings ---------- */

static bool
is_secret(const PQconninfoOption *option)
{
	return strchr(option->dispchar, '*') != NULL || strcmp(option->keyword, "sslpassword") == 0;
}

char *
conninfo_without_password(const char *conninfo)
{
	char	   *error = NULL;
	PQconninfoOption *options = PQconninfoParse(conninfo, &error);
	StringInfoData result;

	initStringInfo(&result);
	if (options == NULL)
		return result.data;
	for (PQconninfoOption *option = options; option->keyword != NULL; option++)
	{
		if (option->val == NULL || is_secret(option))
			continue;
		appendStringInfo(&result, "%s%s=", result.len > 0 ? " " : "", option->keyword);
		if (strpbrk(option->val, " '\\") == NULL && option->val[0] != '\0')
			appendStringInfoString(&result, option->val);
		else
		{
			appendStringInfoChar(&result, '\'');
			for (const char *p = option->val; *p != '\0'; p++)
			{
				if (*p == '\'' || *p == '\\')
					appendStringInfoChar(&result, '\\');
				appendStringInfoChar(&result, *p);
			}
			appendStringInfoChar(&result, '\'');
		}
	}
	PQconninfoFree(options);
	return result.data;
}
