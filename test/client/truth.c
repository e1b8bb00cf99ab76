/*
 * truth.c
 *		Does a follower ever claim to be fresher than it is?
 *
 * usage: truth MODE READS LEADER FOLLOWER ...
 *
 * A writer inserts 1, 2, 3, ... into table tick(n) on the leader, each in a
 * transaction of its own, and notes when each was acknowledged.  Readers select the
 * highest tick on a follower together with as_of and staleness, half of them in READ
 * COMMITTED, half in REPEATABLE READ transactions of up to two seconds.  For each
 * read, every tick acknowledged before as_of, and every tick acknowledged before
 * (time the read was sent - staleness), must be in it.  As ticks are acknowledged in
 * order, it is enough to look at the first one that is not.
 *
 * READS is the number of claims to check, by four readers per follower.  0: two
 * readers each go on until standard input ends, at a pace that leaves room for others, and
 * obey orders (client.h).
 * Servers may be killed meanwhile.
 *
 * MODE says where as_of comes from:
 *	bound			fanout.staleness, in the same statement
 *	commit-time		the usual guess: the commit time of the newest transaction applied,
 *					or the present when all that was received is applied
 *	other-snapshot	fanout.staleness, but in another session, just before
 *
 * Prints the number of reads that claimed something, of those that claimed nothing,
 * of lies, and the oldest claim in ms.
 */
#include "client.h"

#define MAX_TICKS	20000000
#define MAX_READERS	64
#define PACE_US		10000

#define BOUND_QUERY \
	"SELECT (SELECT coalesce(max(n), 0) FROM tick)," \
	" (extract(epoch FROM as_of) * 1000000)::bigint," \
	" (extract(epoch FROM staleness) * 1000000)::bigint FROM fanout.staleness"
#define COMMIT_TIME_QUERY \
	"SELECT n, (extract(epoch FROM as_of) * 1000000)::bigint," \
	" (extract(epoch FROM clock_timestamp() - as_of) * 1000000)::bigint" \
	" FROM (SELECT (SELECT coalesce(max(n), 0) FROM tick) AS n," \
	"  CASE WHEN received_lsn = applied_lsn THEN clock_timestamp()" \
	"       ELSE (pg_last_committed_xact()).timestamp END AS as_of FROM fanout.staleness) s"
#define TICK_QUERY	"SELECT coalesce(max(n), 0) FROM tick"
#define AS_OF_QUERY \
	"SELECT (extract(epoch FROM as_of) * 1000000)::bigint," \
	" (extract(epoch FROM staleness) * 1000000)::bigint FROM fanout.staleness"

typedef enum Mode
{
	MODE_BOUND,
	MODE_COMMIT_TIME,
	MODE_OTHER_SNAPSHOT
} Mode;

static Mode mode;
static const char *leader;
static char **followers;
static int	nfollowers;
static long wanted;

static _Atomic int64_t acked_at[MAX_TICKS + 1];	/* 0: not yet */
static atomic_long claims;
static atomic_long no_claims;
static atomic_long lies;
static _Atomic int64_t oldest;

static bool
finished(void)
{
	return wanted > 0 ? atomic_load(&claims) >= wanted : atomic_load(&input_ended);
}

static void
pace(void)
{
	if (wanted == 0)
		usleep(PACE_US);
}

/* ---------- writing ---------- */

/* Has that tick committed?  The connection broke, and *conn is to be another one. */
static bool
is_there(PGconn **conn, int64_t n)
{
	char		query[100];

	snprintf(query, sizeof(query), "SELECT count(*) FROM tick WHERE n = %lld", (long long) n);
	for (;;)
	{
		PGresult   *res;
		bool		answered;
		bool		there;

		PQfinish(*conn);
		*conn = connect_again(leader);
		res = PQexec(*conn, query);
		answered = PQresultStatus(res) == PGRES_TUPLES_OK;
		there = answered && strcmp(PQgetvalue(res, 0, 0), "1") == 0;
		PQclear(res);
		if (answered)
			return there;
	}
}

static void *
write_ticks(void *arg)
{
	PGconn	   *conn = connect_again(leader);

	(void) arg;
	for (int64_t n = 1; n <= MAX_TICKS && !finished(); n++)
	{
		char		text[30];
		const char *params[] = {text};
		PGresult   *res;
		bool		done = false;

		snprintf(text, sizeof(text), "%lld", (long long) n);
		begin_piece();
		while (!done)
		{
			res = PQexecParams(conn, "INSERT INTO tick VALUES ($1::bigint)", 1, NULL, params,
							   NULL, NULL, 0);
			done = succeeded(res);
			PQclear(res);
			if (!done)
				done = is_there(&conn, n);
		}
		atomic_store(&acked_at[n], wall_us());
		end_piece();
		pace();
	}
	PQfinish(conn);
	return NULL;
}

/* ---------- reading ---------- */

typedef struct Claim
{
	int64_t		sent_at;
	int64_t		tick;
	int64_t		as_of;			/* 0: none */
	int64_t		staleness;
} Claim;

static void
check(const Claim *claim)
{
	int64_t		acked = atomic_load(&acked_at[claim->tick + 1]);

	if (claim->as_of == 0)
	{
		atomic_fetch_add(&no_claims, 1);
		return;
	}
	atomic_fetch_add(&claims, 1);
	if (claim->staleness > atomic_load(&oldest))
		atomic_store(&oldest, claim->staleness);
	if (acked != 0 && (acked < claim->as_of || acked < claim->sent_at - claim->staleness))
	{
		if (atomic_fetch_add(&lies, 1) < 5)
			fprintf(stderr, "tick %lld, acknowledged %lld us before as_of, is missing\n",
					(long long) claim->tick + 1, (long long) (claim->as_of - acked));
	}
}

static int64_t
number(const PGresult *res, int column)
{
	return PQgetisnull(res, 0, column) ? 0 : strtoll(PQgetvalue(res, 0, column), NULL, 10);
}

static bool
run(PGconn *conn, const char *query, PGresult **res)
{
	*res = PQexecParams(conn, query, 0, NULL, NULL, NULL, NULL, 0);
	if (PQresultStatus(*res) == PGRES_TUPLES_OK && PQntuples(*res) == 1)
		return true;
	PQclear(*res);
	return false;
}

static bool
read_together(PGconn *conn, Claim *claim)
{
	PGresult   *res;

	claim->sent_at = wall_us();
	if (!run(conn, mode == MODE_BOUND ? BOUND_QUERY : COMMIT_TIME_QUERY, &res))
		return false;
	claim->tick = number(res, 0);
	claim->as_of = number(res, 1);
	claim->staleness = number(res, 2);
	PQclear(res);
	return true;
}

static bool
read_apart(PGconn *conn, PGconn *other, Claim *claim)
{
	PGresult   *res;

	claim->sent_at = wall_us();
	if (!run(other, AS_OF_QUERY, &res))
		return false;
	claim->as_of = number(res, 0);
	claim->staleness = number(res, 1);
	PQclear(res);
	if (!run(conn, TICK_QUERY, &res))
		return false;
	claim->tick = number(res, 0);
	PQclear(res);
	return true;
}

/* Some reads, in one transaction when it is to be REPEATABLE READ; false: the connection broke. */
static bool
read_some(PGconn *conn, PGconn *other, bool repeatable)
{
	int64_t		end = steady_us() + 100000 + random() % 1900000;
	bool		ok = true;

	if (repeatable)
		PQclear(PQexec(conn, "BEGIN ISOLATION LEVEL REPEATABLE READ"));
	while (ok && !finished() && steady_us() < end)
	{
		Claim		claim;

		ok = mode == MODE_OTHER_SNAPSHOT ? read_apart(conn, other, &claim)
			: read_together(conn, &claim);
		if (ok)
			check(&claim);
		pace();
	}
	if (repeatable)
		PQclear(PQexec(conn, "COMMIT"));
	return ok;
}

static void *
read_ticks(void *arg)
{
	int			number = *(int *) arg;
	const char *follower = followers[number % nfollowers];
	bool		repeatable = number / nfollowers % 2 == 1;

	while (!finished())
	{
		PGconn	   *conn = connect_again(follower);
		PGconn	   *other = connect_again(follower);

		bool		ok = true;

		while (ok && !finished())
		{
			begin_piece();
			ok = read_some(conn, other, repeatable);
			end_piece();
		}
		pace();
		PQfinish(conn);
		PQfinish(other);
	}
	return NULL;
}

int
main(int argc, char **argv)
{
	pthread_t	writer;
	pthread_t	readers[MAX_READERS];
	int			numbers[MAX_READERS];
	int			nreaders;

	nfollowers = argc - 4;
	if (nfollowers < 1 || nfollowers * 4 > MAX_READERS)
		die("usage: truth bound|commit-time|other-snapshot READS LEADER FOLLOWER ...");
	mode = strcmp(argv[1], "bound") == 0 ? MODE_BOUND :
		strcmp(argv[1], "commit-time") == 0 ? MODE_COMMIT_TIME : MODE_OTHER_SNAPSHOT;
	wanted = atol(argv[2]);
	leader = argv[3];
	followers = argv + 4;
	nreaders = nfollowers * (wanted > 0 ? 4 : 2);

	init_orders();
	start_thread(&writer, write_ticks, NULL);
	for (int i = 0; i < nreaders; i++)
	{
		numbers[i] = i;
		start_thread(&readers[i], read_ticks, &numbers[i]);
	}
	if (wanted == 0)
		obey_orders();
	pthread_join(writer, NULL);
	for (int i = 0; i < nreaders; i++)
		pthread_join(readers[i], NULL);

	printf("%ld %ld %ld %lld\n", atomic_load(&claims), atomic_load(&no_claims),
		   atomic_load(&lies), (long long) atomic_load(&oldest) / 1000);
	return 0;
}
