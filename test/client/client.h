/*
 * client.h
 *		What the test programs that talk to servers through libpq share.
 *
 * Times are microseconds.  wall_us() is the clock that servers on the same machine
 * read; steady_us() never steps.
 */
#ifndef FANOUT_TEST_CLIENT_H
#define FANOUT_TEST_CLIENT_H

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "libpq-fe.h"

static inline int64_t
clock_us(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (int64_t) ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

static inline int64_t
wall_us(void)
{
	return clock_us(CLOCK_REALTIME);
}

static inline int64_t
steady_us(void)
{
	return clock_us(CLOCK_MONOTONIC);
}

__attribute__((noreturn, format(printf, 1, 2)))
static inline void
die(const char *format, ...)
{
	va_list		args;

	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	exit(2);
}

static inline void
ignore_notice(void *arg, const char *message)
{
	(void) arg;
	(void) message;
}

/* Until it works: servers restart while tests run. */
static inline PGconn *
connect_again(const char *conninfo)
{
	for (int i = 0; i < 600; i++)
	{
		PGconn	   *conn = PQconnectdb(conninfo);

		PQsetNoticeProcessor(conn, ignore_notice, NULL);
		if (PQstatus(conn) == CONNECTION_OK)
			return conn;
		PQfinish(conn);
		usleep(100000);
	}
	die("could not connect to %s", conninfo);
}

static inline bool
succeeded(const PGresult *res)
{
	return PQresultStatus(res) == PGRES_COMMAND_OK || PQresultStatus(res) == PGRES_TUPLES_OK;
}

/* Run it or die. */
static inline void
must(PGconn *conn, const char *query)
{
	PGresult   *res = PQexec(conn, query);

	if (!succeeded(res))
		die("%s: %s", query, PQerrorMessage(conn));
	PQclear(res);
}

/*
 * Orders, for programs that work until standard input ends: "rest" lets every thread
 * finish its piece of work, says "resting", and lets none begin another until "go on".
 */
static pthread_rwlock_t working;
static atomic_bool input_ended;

static inline void
begin_piece(void)
{
	pthread_rwlock_rdlock(&working);
}

static inline void
end_piece(void)
{
	pthread_rwlock_unlock(&working);
}

static inline void
init_orders(void)
{
	pthread_rwlockattr_t attr;

	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&working, &attr);
}

static inline void
obey_orders(void)
{
	char		line[100];

	while (fgets(line, sizeof(line), stdin) != NULL)
	{
		if (strcmp(line, "rest\n") == 0)
		{
			pthread_rwlock_wrlock(&working);
			puts("resting");
			fflush(stdout);
		}
		else
			pthread_rwlock_unlock(&working);
	}
	atomic_store(&input_ended, true);
}

static inline void
start_thread(pthread_t *thread, void *(*run) (void *), void *arg)
{
	if (pthread_create(thread, NULL, run, arg) != 0)
		die("could not start a thread");
}

#endif							/* FANOUT_TEST_CLIENT_H */
