/*
 * upstream.h
 *		What a stream's tables themselves follow.
 */
#ifndef FANOUT_UPSTREAM_H
#define FANOUT_UPSTREAM_H

#include "pg_fanout.h"

#include "shmem.h"

/*
 * Is all that the leaders had acknowledged at boot_us, whose streams this database follows
 * into tables that the stream of that name publishes, in the WAL here?  True where it
 * follows none.  Needs a transaction.
 */
extern bool upstream_covers(const char *stream, int64 boot_us);

/* The first stream that upstream_covers() found wanting; NULL: it has no record. */
extern FollowedStream *upstream_wanting(void);

/* Have that stream's worker ask its leader at once. */
extern void upstream_ask(void);

#endif							/* FANOUT_UPSTREAM_H */
