/*
 * history.h
 *		The last hour of each followed stream's staleness, one row a second.
 */
#ifndef FANOUT_HISTORY_H
#define FANOUT_HISTORY_H

#include "pg_fanout.h"

/* How often history_tick() wants to be called, in milliseconds. */
#define HISTORY_TICK_MS		100

/* Shared memory that the history takes, and its set-up. */
extern Size history_shmem_size(void);
extern void history_shmem_init(void);

/* Called by the launcher only: sample all followed streams. */
extern void history_tick(void);

#endif							/* FANOUT_HISTORY_H */
