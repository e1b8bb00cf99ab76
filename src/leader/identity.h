/*
 * identity.h
 *		Replica identities of the tables that streams publish.
 *
 * identity.c finds the tables that lack one, and gives one; identity_watch.c sees to it
 * that tables get one when they come to need it.
 */
#ifndef FANOUT_IDENTITY_H
#define FANOUT_IDENTITY_H

#include "leader/leader.h"

#include "utils/relcache.h"

/*
 * The tables of which the stream publishes UPDATE or DELETE, and whose rows could not be
 * found by it: oids, in the order of their names.
 */
extern List *identity_lacking(const StreamRow *row);

/* Tell of them in a warning, if there are any. */
extern void identity_warn(const StreamRow *row);

/*
 * Give the table a replica identity if it lacks one for any of the streams; returns whether
 * it has been altered.  Locks it; with wait false only if that is possible at once, else
 * with a warning.
 */
extern bool identity_give(Oid relid, List *rows, bool wait);

/* Have the identity that one of the streams needs not use the column, which may become null. */
extern void identity_avoid(Oid relid, AttrNumber column, List *rows);

/* The statement that gives the table the replica identity it has; as the role that may do so. */
extern void identity_write_down(Oid relid);

/* The streams of this database that give replica identities, List of StreamRow. */
extern List *identity_streams(void);

#endif							/* FANOUT_IDENTITY_H */
