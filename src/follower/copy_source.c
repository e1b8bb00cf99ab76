/*
 * copy_source.c
 *		The rows that a COPY of the leader sends, as messages of its connection.
 *
 * A process has one such COPY at a time.  While it waits, and every now and then in between, it
 * calls what the caller wants checked.  A message is one row, as the protocol promises; the
 * first one of a binary COPY has its header, too.
 */
#include "postgres.h"

#include "storage/latch.h"

#include "compat.h"
#include "follower/copy.h"

static struct
{
	PGconn	   *conn;
	char	   *message;		/* of libpq; NULL: none */
	int			len;
	int			used;
	bool		ended;
	int64		bytes;
	CopyCheck	check;			/* NULL: none */
	int64		checked_at;
} source;

#define CHECK_MS	100

void
copy_source_init(PGconn *conn, CopyCheck check)
{
	memset(&source, 0, sizeof(source));
	source.conn = conn;
	source.check = check;
}

void
copy_source_check(void)
{
	int64		now;

	if (source.check == NULL)
		return;
	now = fanout_boottime_us();
	if (now - source.checked_at < CHECK_MS * 1000)
		return;
	source.checked_at = now;
	source.check();
}

/* The next message of the leader's COPY; false when it has not arrived, or at the end. */
static bool
take_message(void)
{
	int			len;

	if (source.message != NULL)
		PQfreemem(source.message);
	source.message = NULL;
	source.used = source.len = 0;
	if (source.ended)
		return false;

	len = PQgetCopyData(source.conn, &source.message, 1);
	if (len < -1)
		leader_connection_lost(source.conn);
	source.ended = len == -1;
	source.len = Max(len, 0);
	source.bytes += source.len;
	return len > 0;
}

/* Wait for it; false at the end. */
static bool
next_message(void)
{
	while (!take_message() && !source.ended)
	{
		/* What the TLS layer has read already does not make the socket readable. */
		if (!PQconsumeInput(source.conn))
			leader_connection_lost(source.conn);
		if (take_message() || source.ended)
			break;
		(void) leader_wait_for_socket(source.conn, WL_SOCKET_READABLE,
									  source.check != NULL ? CHECK_MS : -1);
		copy_source_check();
	}
	return !source.ended;
}

/* The server's copy_data_source_cb: as much as there is, but does not wait for more than it must. */
int
copy_source_read(void *outbuf, int minread, int maxread)
{
	int			done = 0;

	while (done < maxread)
	{
		int			n;

		copy_source_check();
		if (source.used == source.len && !(done < minread ? next_message() : take_message()))
			break;
		n = Min(source.len - source.used, maxread - done);
		memcpy((char *) outbuf + done, source.message + source.used, n);
		source.used += n;
		done += n;
	}
	return done;
}

/* The next message, which is the caller's to free; NULL: the end. */
char *
copy_source_message(int *len)
{
	char	   *message;

	copy_source_check();
	if (!take_message() && !next_message())
		return NULL;
	message = source.message;
	*len = source.len;
	source.message = NULL;
	return message;
}

int64
copy_source_bytes(void)
{
	return source.bytes;
}

/* An error of the leader's COPY comes after its rows. */
void
copy_source_end(void)
{
	while (next_message())
		;
	for (PGresult *res; (res = PQgetResult(source.conn)) != NULL; PQclear(res))
	{
		if (PQresultStatus(res) != PGRES_COMMAND_OK)
			leader_raise(source.conn, res);
	}
}
