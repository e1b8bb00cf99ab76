/*
 * register.c
 *		The history of one register, written on the leader and read on followers by
 *		concurrent clients.
 *
 * usage: register MAX_STALENESS OPERATIONS LEADER FOLLOWER [FOLLOWER ...]
 *
 * Two writers each add one to table register(value) on the leader.  Two readers on
 * each follower read it with fanout.max_staleness set.  Prints a line for each
 * operation: "w" or "r", the value written or read, and when it was called and when it
 * had returned, in microseconds of one clock.
 */
#include <stdatomic.h>

#include "client.h"

#define MAX_THREADS 64

typedef struct Client
{
	bool		writes;
	const char *conninfo;
} Client;

static const char *max_staleness;
static long operations;
static atomic_long done;
static pthread_mutex_t output = PTHREAD_MUTEX_INITIALIZER;

static void *
run_client(void *arg)
{
	Client	   *client = arg;
	PGconn	   *conn = connect_again(client->conninfo);
	char		query[100];

	snprintf(query, sizeof(query), "SET fanout.max_staleness = '%s'", max_staleness);
	must(conn, query);
	must(conn, "SET fanout.stale_read_timeout = '60s'");
	while (atomic_fetch_add(&done, 1) < operations)
	{
		int64_t		called = steady_us();
		PGresult   *res = PQexec(conn, client->writes ?
								 "UPDATE register SET value = value + 1 RETURNING value" :
								 "SELECT value FROM register");
		int64_t		returned = steady_us();

		if (PQresultStatus(res) != PGRES_TUPLES_OK || PQntuples(res) != 1)
			die("%s", PQerrorMessage(conn));
		pthread_mutex_lock(&output);
		printf("%s %s %lld %lld\n", client->writes ? "w" : "r", PQgetvalue(res, 0, 0),
			   (long long) called, (long long) returned);
		pthread_mutex_unlock(&output);
		PQclear(res);
	}
	PQfinish(conn);
	return NULL;
}

int
main(int argc, char **argv)
{
	pthread_t	threads[MAX_THREADS];
	Client		clients[MAX_THREADS];
	int			count = 2 * (argc - 3);

	if (argc < 5 || count > MAX_THREADS)
		die("usage: register MAX_STALENESS OPERATIONS LEADER FOLLOWER [FOLLOWER ...]");
	max_staleness = argv[1];
	operations = atol(argv[2]);
	for (int i = 0; i < count; i++)
	{
		clients[i].writes = i < 2;
		clients[i].conninfo = argv[3 + i / 2];
		start_thread(&threads[i], run_client, &clients[i]);
	}
	for (int i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
	return 0;
}
