/*
 * receiver.c
 *		A follower that reads and discards: what a benchmark of the leader's side
 *		attaches any number of.
 *
 * usage: receiver CONNINFO STREAM FOLLOWER [SECONDS]
 *
 * Registers with the stream, receives, and reports everything it has heard of
 * as applied and durable.  Ends after SECONDS (0: never), on SIGTERM, or with the
 * connection, and prints how many bytes and messages came.
 */
#include <arpa/inet.h>
#include <endian.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "libpq-fe.h"

static volatile sig_atomic_t stopped = 0;

static void
stop(int sig)
{
	(void) sig;
	stopped = 1;
}

static void
fail(PGconn *conn, const char *what)
{
	fprintf(stderr, "receiver: %s: %s", what, PQerrorMessage(conn));
	exit(1);
}

static int64_t
now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t) now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static uint64_t
get_uint64(const char *data)
{
	uint64_t	value;

	memcpy(&value, data, sizeof(value));
	return be64toh(value);
}

/* Report a position of the leader as applied and durable. */
static void
send_status(PGconn *conn, uint64_t lsn, uint64_t seq)
{
	char		message[33];
	uint64_t	fields[4] = {htobe64(lsn), htobe64(lsn), htobe64(seq), htobe64((uint64_t) -1)};

	message[0] = 'S';
	memcpy(message + 1, fields, sizeof(fields));
	if (PQputCopyData(conn, message, sizeof(message)) != 1 || PQflush(conn) < 0)
		fail(conn, "could not send");
}

/* Register; returns the position to start after, as text. */
static char *
register_follower(PGconn *conn, const char *stream, const char *follower)
{
	const char *params[2] = {stream, follower};
	PGresult   *res = PQexecParams(conn,
								   "SELECT fanout.register_follower($1, $2::text::name, md5($2::text)::uuid, NULL, NULL)",
								   2, NULL, params, NULL, NULL, 0);
	char	   *lsn;

	if (PQresultStatus(res) != PGRES_TUPLES_OK)
		fail(conn, "could not register");
	lsn = strdup(PQgetvalue(res, 0, 0));
	PQclear(res);
	return lsn;
}

static void
start_stream(PGconn *conn, const char *stream, const char *follower, const char *after)
{
	char		query[1024];
	PGresult   *res;

	snprintf(query, sizeof(query),
			 "CALL fanout.send_changes('%s', '%s', md5('%s')::uuid, '%s',"
			 " (fanout.stream_info('%s', 2)).era, '%s', 2)",
			 stream, follower, follower, after, stream, after);
	res = PQexec(conn, query);
	if (PQresultStatus(res) != PGRES_COPY_BOTH)
		fail(conn, "could not start");
	PQclear(res);
}

static void
wait_for_data(PGconn *conn, int64_t end)
{
	struct pollfd fd = {.fd = PQsocket(conn), .events = POLLIN};
	int64_t		left = end > 0 ? (end - now_us()) / 1000 + 1 : 1000;

	poll(&fd, 1, left < 0 ? 0 : left > 1000 ? 1000 : (int) left);
	if (!PQconsumeInput(conn))
		fail(conn, "connection lost");
}

static void
receive(PGconn *conn, int64_t end)
{
	uint64_t	bytes = 0;
	uint64_t	messages = 0;
	int64_t		reported_at = 0;

	while (!stopped && (end == 0 || now_us() < end))
	{
		char	   *data;
		int			len = PQgetCopyData(conn, &data, 1);

		if (len < 0)
			fail(conn, "stream ended");
		if (len == 0)
		{
			wait_for_data(conn, end);
			continue;
		}
		bytes += len;
		messages++;
		if (data[0] == 'P' && now_us() - reported_at > 100000)
		{
			send_status(conn, get_uint64(data + 1), get_uint64(data + 17));
			reported_at = now_us();
		}
		PQfreemem(data);
	}
	printf("%llu bytes in %llu messages\n", (unsigned long long) bytes,
		   (unsigned long long) messages);
}

int
main(int argc, char **argv)
{
	PGconn	   *conn;
	int			seconds;

	if (argc < 4)
	{
		fprintf(stderr, "usage: receiver CONNINFO STREAM FOLLOWER [SECONDS]\n");
		return 2;
	}
	seconds = argc > 4 ? atoi(argv[4]) : 0;
	signal(SIGTERM, stop);
	signal(SIGINT, stop);

	conn = PQconnectdb(argv[1]);
	if (PQstatus(conn) != CONNECTION_OK)
		fail(conn, "could not connect");
	start_stream(conn, argv[2], argv[3], register_follower(conn, argv[2], argv[3]));
	receive(conn, seconds > 0 ? now_us() + (int64_t) seconds * 1000000 : 0);
	PQfinish(conn);
	return 0;
}
