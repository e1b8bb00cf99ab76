/*
 * session.h
 *		How processes of ours connect to a database, and with which settings.
 */
#ifndef FANOUT_SESSION_H
#define FANOUT_SESSION_H

#include "pg_fanout.h"

/*
 * What every process of ours calls instead of the server's own functions, with signals
 * unblocked: connect to that database, or to none (InvalidOid).
 */
extern void session_connect(Oid dboid);

/* A setting of this session, as with SET: it may be changed, and functions may have their own. */
extern void session_set(const char *name, const char *value);

#endif							/* FANOUT_SESSION_H */
