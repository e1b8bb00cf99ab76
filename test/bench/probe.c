/*
 * probe.c
 *		How long a commit on the leader takes to be visible on a follower.
 *
 * usage: probe LEADER FOLLOWER SECONDS PAUSE_US
 *
 * Sets bench_probe.n on the leader, and from the moment its commit is
 * acknowledged asks the follower for it until it is there; then waits a
 * random time of PAUSE_US on average.  Prints, one a line, how long that took in
 * microseconds, from the acknowledgement and from the start of the statement.  What
 * the asking itself takes is part of each; it is the same for all systems.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "libpq-fe.h"

static int64_t
now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t) now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static PGconn *
connect_and_prepare(const char *conninfo, const char *query)
{
	PGconn	   *conn = PQconnectdb(conninfo);
	PGresult   *res = PQprepare(conn, "q", query, 0, NULL);

	if (PQresultStatus(res) != PGRES_COMMAND_OK)
	{
		fprintf(stderr, "probe: %s", PQerrorMessage(conn));
		exit(1);
	}
	PQclear(res);
	return conn;
}

/* The single value of the prepared query. */
static int64_t
ask(PGconn *conn)
{
	PGresult   *res = PQexecPrepared(conn, "q", 0, NULL, NULL, NULL, 0);
	int64_t		value;

	if (PQresultStatus(res) != PGRES_TUPLES_OK || PQntuples(res) != 1)
	{
		fprintf(stderr, "probe: %s", PQerrorMessage(conn));
		exit(1);
	}
	value = atoll(PQgetvalue(res, 0, 0));
	PQclear(res);
	return value;
}

int
main(int argc, char **argv)
{
	PGconn	   *leader;
	PGconn	   *follower;
	int64_t		end;

	if (argc != 5)
	{
		fprintf(stderr, "usage: probe LEADER FOLLOWER SECONDS PAUSE_US\n");
		return 2;
	}
	leader = connect_and_prepare(argv[1], "UPDATE bench_probe SET n = n + 1 RETURNING n");
	follower = connect_and_prepare(argv[2], "SELECT n FROM bench_probe");
	end = now_us() + atoll(argv[3]) * 1000000;
	while (now_us() < end)
	{
		int64_t		begun = now_us();
		int64_t		n = ask(leader);
		int64_t		committed = now_us();

		while (ask(follower) < n)
		{
			if (now_us() > committed + 30000000)
			{
				fprintf(stderr, "probe: not there after 30 seconds\n");
				return 1;
			}
		}
		printf("%lld %lld\n", (long long) (now_us() - committed), (long long) (now_us() - begun));
		usleep(atoi(argv[4]) / 2 + random() % atoi(argv[4]));
	}
	PQfinish(leader);
	PQfinish(follower);
	return 0;
}
