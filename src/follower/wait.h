/*
 * wait.h
 *		Waiting until a followed stream is far enough.
 */
#ifndef FANOUT_WAIT_H
#define FANOUT_WAIT_H

#include "pg_fanout.h"

#include "nodes/pg_list.h"
#include "utils/snapshot.h"

#include "shmem.h"
#include "token.h"

/* Of an SQLSTATE class of our own: a read could not be as fresh as it must be. */
#define FANOUT_ERRCODE_STALE_READ	MAKE_SQLSTATE('F', 'O', '0', '0', '2')

/* Streams followed by this database, with that name unless it is NULL; may be NIL. */
extern List *followed_streams_here(const char *stream_name);

/*
 * The streams followed by this database that a token speaks of, a List of
 * FollowedStream.  stream_name NULL: all of the token's leader.  Fails when
 * there is none, and for a bare LSN when there are several.
 */
extern List *token_streams(const Token *token, const char *stream_name);

/* Wait until all of them have applied lsn, or the deadline; true: they have. */
extern bool wait_applied(List *streams, XLogRecPtr lsn, TimestampTz deadline);

/*
 * Wait until a new snapshot can be proven to show everything acknowledged on
 * the leader up to boot_us, or the deadline.
 */
extern bool wait_fresh(FollowedStream *stream, int64 boot_us, TimestampTz deadline);

/*
 * The same of all the streams, where they are such that the token speaks of (NULL: none), and
 * *boot_us (NULL: any will do): without an error, also where it can't come to that.
 */
extern void wait_quietly(List *streams, const Token *token, const int64 *boot_us,
						 TimestampTz deadline);

/* Wait until all its tables are in line with the stream, or the deadline. */
extern bool wait_settled(FollowedStream *stream, TimestampTz deadline);

#endif							/* FANOUT_WAIT_H */
