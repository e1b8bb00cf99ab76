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
 * Prints the number of pairs and of reads that missed the write.
 */
#include <stdatomic.h>

#include "client.h"

#define MAX_SERVERS 10
#define MAX_SESSIONS 64

static bool use_token;
static long pairs;
static int	servers;
static char **conninfos;
static atomic_long done;
static atomic_long missed;

static void
write_value(PGconn *conn, int session, long value)
{
	char		query[200];

	switch (random() % 3)
	{
		case 0:
			snprintf(query, sizeof(query), "UPDATE own SET value = %ld WHERE session = %d",
					 value, session);
			break;
		case 1:
			must(conn, "BEGIN");
			snprintf(query, sizeof(query), "UPDATE own SET value = %ld WHERE session = %d; COMMIT",
					 value, session);
			break;
		default:
			snprintf(query, sizeof(query), "DELETE FROM own WHERE session = %d;"
					 " INSERT INTO own VALUES (%d, %ld)", session, session, value);
			break;
	}
	must(conn, query);
}

/* See to it that the next read on that connection shows the write. */
static void
wait_for_token(PGconn *conn, const char *token)
{
	char		query[200];

	if (random() % 2)
	{
		PGresult   *res;

		must(conn, "RESET fanout.read_after");
		snprintf(query, sizeof(query), "SELECT fanout.wait_for('%s', '60s')", token);
		res = PQexec(conn, query);
		if (PQntuples(res) != 1 || strcmp(PQgetvalue(res, 0, 0), "t") != 0)
			die("%s: %s", query, PQerrorMessage(conn));
		PQclear(res);
	}
	else
	{
		snprintf(query, sizeof(query), "SET fanout.read_after = '%s'", token);
		must(conn, query);
	}
}

static long
read_value(PGconn *conn, int session)
{
	char		query[200];
	PGresult   *res;
	long		value;

	snprintf(query, sizeof(query), "SELECT value FROM own WHERE session = %d", session);
	res = random() % 2 ? PQexec(conn, query)
		: PQexecParams(conn, query, 0, NULL, NULL, NULL, NULL, 0);
	if (PQresultStatus(res) != PGRES_TUPLES_OK)
		die("%s: %s", query, PQerrorMessage(conn));
	value = PQntuples(res) == 1 ? atol(PQgetvalue(res, 0, 0)) : -1;
	PQclear(res);
	return value;
}

static void *
run_session(void *arg)
{
	int			session = *(int *) arg;
	PGconn	   *conns[MAX_SERVERS];

	for (int i = 0; i < servers; i++)
	{
		conns[i] = connect_again(conninfos[i]);
		must(conns[i], "SET fanout.stale_read_timeout = '60s'");
	}
	for (long value = 1; atomic_fetch_add(&done, 1) < pairs; value++)
	{
		PGconn	   *reader = conns[random() % servers];

		write_value(conns[0], session, value);
		if (use_token)
			wait_for_token(reader, PQparameterStatus(conns[0], "fanout.commit_token"));
		if (read_value(reader, session) != value)
			atomic_fetch_add(&missed, 1);
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
	pairs = atol(argv[2]);
	servers = argc - 4;
	conninfos = argv + 4;

	for (int i = 0; i < sessions; i++)
	{
		numbers[i] = i;
		start_thread(&threads[i], run_session, &numbers[i]);
	}
	for (int i = 0; i < sessions; i++)
		pthread_join(threads[i], NULL);
	printf("%ld %ld\n", pairs, atomic_load(&missed));
	return 0;
}
