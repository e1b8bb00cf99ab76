/*
 * hold.h
 *		Having a follower stand still at an exact position of its stream.
 */
#ifndef FANOUT_HOLD_H
#define FANOUT_HOLD_H

#include "pg_fanout.h"

#include "shmem.h"

/* ---------- for whoever wants it to stand ---------- */

/*
 * Take the hold and return when the follower stands, wherever that is.  From here on
 * the caller must make sure that hold_release() is called, whatever happens:
 *
 *	PG_ENSURE_ERROR_CLEANUP(hold_release_callback, PointerGetDatum(stream));
 *
 * Waits while somebody else has the hold.  Fails when the stream is not being
 * applied: paused, failed, copying.
 */
extern void hold_take(FollowedStream *stream);

/* Let it go on and return when it has applied all that committed up to lsn, and no more. */
extern void hold_move(FollowedStream *stream, XLogRecPtr lsn);

/* Let it run; does nothing when this process does not have the hold. */
extern void hold_release(FollowedStream *stream);
extern void hold_release_callback(int code, Datum stream);

/* ---------- for the worker ---------- */

/* Must a transaction that ends there wait? */
extern bool hold_stops(FollowedStream *stream, XLogRecPtr end_lsn);

/* All that committed up to applied is applied and committed here, and nothing else. */
extern void hold_reached(FollowedStream *stream, XLogRecPtr applied);

#endif							/* FANOUT_HOLD_H */
