/*
 * own_writes.c
 *		Do sessions read their own writes, wherever they read?
 *
 * usage: own_writes token|none PAIRS SESSIONS LEADER [FOLLOWER ...]
 *
 * Each session owns a row of table own(session, value).  A pair is a write to
 * it on the leader and then a read of it on any of the servers, the leader too.  With
 * "token" the read waits for the token that the protocol reported with the write, in
 * turn by fanout.wait_for() and by fanout.read_after; with "none" it just reads.
 *
 * PAIRS 0: until standard input ends, at a pace that leaves room for others, and with
 * orders (client.h).
 *
 * Servers may be killed meanwhile, and followers stop to be followers.  A write is
 * repeated until it is acknowledged.  A read that fails, or whose wait gives up, goes
 * unanswered, and so does one of a database that follows nobody: only what was promised
 * counts.  After wait_for() the follower must still know how stale it is in the
 * statement that reads, since it may have begun to copy its tables again meanwhile.
 *
 * Prints the number of pairs, of reads that missed the write, and of those unanswered.
 */
#include "client.h"

#define MAX_SERVERS 10
#define MAX_SESSIONS 64
#define PACE_US		20000

static bool use_token;
static long wanted;
static const char *patience = "60s";
static int	servers;
static char **conninfos;
static atomic_long started;
static atomic_long answered;
static atomic_long missed;
static atomic_long unanswered;

static bool
next_pair(void)
{
	if (wanted > 0)
		return atomic_fetch_add(&started, 1) < wanted;
	usleep(PACE_US);
	atomic_fetch_add(&started, 1);
	return !atomic_load(&input_ended);
}

/* ---------- connections ---------- */

static PGconn *
connect_to(int server)
{
	char		query[100];

	for (;;)
	{
		PGconn	   *conn = connect_again(conninfos[server]);
		PGresult   *res;
		bool		ok;

		snprintf(query, sizeof(query), "SET fanout.stale_read_timeout = '%s'", patience);
		res = PQexec(conn, query);
		ok = succeeded(res);
		PQclear(res);
		if (ok)
			return conn;
		PQfinish(conn);
	}
}

/* Run it; false when the server ended the connection, other errors are fatal. */
static bool
try_write(PGconn *conn, const char *query)
{
	PGresult   *res = PQexec(conn, query);
	bool		ok = succeeded(res);
	const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);

	/* Class 57 is an operator's intervention; an error without a state is libpq's own. */
	if (!ok && state != NULL && strncmp(state, "57", 2) != 0)
		die("%s: %s", query, PQresultErrorMessage(res));
	PQclear(res);
	return ok;
}

/* ---------- a pair ---------- */

static bool
try_write_value(PGconn *conn, int session, long value)
{
	char		query[200];

	switch (random() % 3)
	{
		case 0:
			snprintf(query, sizeof(query), "UPDATE own SET value = %ld WHERE session = %d",
					 value, session);
			break;
		case 1:
			if (!try_write(conn, "BEGIN"))
				return false;
			snprintf(query, sizeof(query), "UPDATE own SET value = %ld WHERE session = %d; COMMIT",
					 value, session);
			break;
		default:
			snprintf(query, sizeof(query), "DELETE FROM own WHERE session = %d;"
					 " INSERT INTO own VALUES (%d, %ld)", session, session, value);
			break;
	}
	return try_write(conn, query);
}

/* Until it is acknowledged, whatever became of earlier attempts. */
static void
write_value(PGconn **conn, int session, long value)
{
	while (!try_write_value(*conn, session, value))
	{
		PQfinish(*conn);
		*conn = connect_to(0);
	}
}

/* See to it that the next read on that connection shows the write; false: it won't. */
static bool
wait_for_token(PGconn *conn, const char *token, bool by_function)
{
	char		query[200];
	PGresult   *res;
	bool		ok;

	if (by_function)
	{
		PQclear(PQexec(conn, "RESET fanout.read_after"));
		snprintf(query, sizeof(query), "SELECT fanout.wait_for('%s', '%s')", token, patience);
		res = PQexec(conn, query);
		ok = PQresultStatus(res) == PGRES_TUPLES_OK && strcmp(PQgetvalue(res, 0, 0), "t") == 0;
	}
	else
	{
		snprintf(query, sizeof(query), "SET fanout.read_after = '%s'", token);
		res = PQexec(conn, query);
		ok = succeeded(res);
	}
	PQclear(res);
	return ok;
}

static void
read_value(PGconn *conn, int session, long value, const char *promised)
{
	char		query[300];
	PGresult   *res;

	snprintf(query, sizeof(query), "SELECT (SELECT value FROM own WHERE session = %d), %s",
			 session, promised);
	res = random() % 2 ? PQexec(conn, query)
		: PQexecParams(conn, query, 0, NULL, NULL, NULL, NULL, 0);
	if (PQresultStatus(res) != PGRES_TUPLES_OK || strcmp(PQgetvalue(res, 0, 1), "t") != 0)
		atomic_fetch_add(&unanswered, 1);
	else
	{
		atomic_fetch_add(&answered, 1);
		if (PQgetisnull(res, 0, 0) || atol(PQgetvalue(res, 0, 0)) != value)
		{
			atomic_fetch_add(&missed, 1);
			if (use_token)
				fprintf(stderr, "session %d wrote %ld and read %s from %s\n", session, value,
						PQgetvalue(res, 0, 0), PQhost(conn));
		}
	}
	PQclear(res);
}

static void
run_pair(PGconn **conns, int session, long value)
{
	int			server = random() % servers;
	bool		by_function = random() % 2;
	const char *promised = server == 0 || !use_token ? "true"
		: by_function ? "EXISTS (SELECT FROM fanout.staleness WHERE staleness IS NOT NULL)"
		: "EXISTS (SELECT FROM fanout.staleness)";
	char		token[100];

	write_value(&conns[0], session, value);
	snprintf(token, sizeof(token), "%s", PQparameterStatus(conns[0], "fanout.commit_token"));
	if (PQstatus(conns[server]) != CONNECTION_OK)
	{
		PQfinish(conns[server]);
		conns[server] = connect_to(server);
	}
	if (use_token && !wait_for_token(conns[server], token, by_function))
		atomic_fetch_add(&unanswered, 1);
	else
		read_value(conns[server], session, value, promised);
}

static void *
run_session(void *arg)
{
	int			session = *(int *) arg;
	PGconn	   *conns[MAX_SERVERS];

	for (int i = 0; i < servers; i++)
		conns[i] = connect_to(i);
	for (long value = 1; next_pair(); value++)
	{
		begin_piece();
		run_pair(conns, session, value);
		end_piece();
	}
	for (int i = 0; i < servers; i++)
		PQfinish(conns[i]);
	return NULL;
}

int
main(int argc, char **argv)
{
	pthread_t	threads[MAX_SESSIONS];
	int			numbers[MAX_SESSIONS];
	int			sessions;

	if (argc < 5 || argc - 4 > MAX_SERVERS || (sessions = atoi(argv[3])) > MAX_SESSIONS)
		die("usage: own_writes token|none PAIRS SESSIONS LEADER [FOLLOWER ...]");
	use_token = strcmp(argv[1], "token") == 0;
	wanted = atol(argv[2]);
	servers = argc - 4;
	conninfos = argv + 4;
	if (wanted == 0)
		patience = "2s";

	init_orders();
	for (int i = 0; i < sessions; i++)
	{
		numbers[i] = i;
		start_thread(&threads[i], run_session, &numbers[i]);
	}
	if (wanted == 0)
		obey_orders();
	for (int i = 0; i < sessions; i++)
		pthread_join(threads[i], NULL);
	printf("%ld %ld %ld\n", atomic_load(&answered), atomic_load(&missed), atomic_load(&unanswered));
	return 0;
}
