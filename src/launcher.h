/*
 * launcher.h
 *		The launcher and the life of the workers it starts.
 */
#ifndef FANOUT_LAUNCHER_H
#define FANOUT_LAUNCHER_H

#include "hints.h"

/* Register the launcher with the postmaster; from _PG_init. */
extern void launcher_register(void);

/* Ask the launcher to look at the hints again, at once or at this transaction's end. */
extern void launcher_wake(void);
extern void launcher_wake_at_end(void);

/*
 * What every worker of ours starts with: signal handlers, connection to the
 * database given in bgw_extra, its name in pg_stat_activity.  Returns the hint it
 * was started for.
 */
extern Hint worker_start(void);

/* database_commands.c: some commands first stop a database's workers. */
extern void database_commands_init(void);
extern bool database_is_reserved(Oid dboid);

/* discovery.c: make hints that are missing after a recovery; false: not done yet. */
extern long discover_streams(void);

/* Entry points, started by name. */
extern PGDLLEXPORT void fanout_launcher_main(Datum arg);
extern PGDLLEXPORT void fanout_decoder_main(Datum arg);
extern PGDLLEXPORT void fanout_follower_main(Datum arg);
extern PGDLLEXPORT void fanout_copy_main(Datum arg);
extern PGDLLEXPORT void fanout_discovery_main(Datum arg);

#endif							/* FANOUT_LAUNCHER_H */
