/*
 * pg_fanout.h
 *		What every file of pg_fanout may use: configuration parameters, limits
 *		and the check that the library was preloaded.
 *
 * Data flows leader -> log -> wire -> follower.  A file in src/leader may not
 * include anything of src/follower and the other way round; both may use
 * src/log, src/wire and the files at the top.
 */
#ifndef PG_FANOUT_H
#define PG_FANOUT_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "fmgr.h"
#include "utils/timestamp.h"

#define FANOUT_SCHEMA		"fanout"
#define FANOUT_LIBRARY		"pg_fanout"

/* Longest error text kept for the views, with its terminating zero. */
#define FANOUT_ERROR_LEN	1024

/* Configuration parameters; each is described where it is defined, in pg_fanout.c. */
extern int	fanout_max_streams;			/* shared-memory records, each kind */
extern int	fanout_max_followers;		/* shared-memory records */
extern int	fanout_max_retention;		/* MB of change log, -1: no limit */
extern int	fanout_segment_size;		/* MB */
extern int	fanout_heartbeat_interval;	/* ms */
extern int	fanout_retry_interval;		/* ms, longest pause between retries */
extern int	fanout_copy_workers;
extern char *fanout_pg_dump;		/* empty: the server's own */
extern bool fanout_guard;
extern bool fanout_superuser_schema_changes;

/*
 * Fail unless pg_fanout is in shared_preload_libraries.  Every SQL function
 * calls it first: without the preload there is no shared memory.
 */
extern void fanout_require_preload(void);

/* not_prepared.c: from here on this transaction can't be prepared, unless a rollback goes back behind it. */
extern void fanout_not_prepared(void);

/* 64-bit form of an xid that is running or finished recently. */
extern uint64 fanout_full_xid(TransactionId xid);

/* Microseconds of CLOCK_BOOTTIME: what all ages are measured with. */
extern int64 fanout_boottime_us(void);

#endif							/* PG_FANOUT_H */
