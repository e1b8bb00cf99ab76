/*
 * read_planning.h
 *		Reads of the planner's.
 */
#ifndef FANOUT_READ_PLANNING_H
#define FANOUT_READ_PLANNING_H

#include "pg_fanout.h"

#include "utils/snapshot.h"

/* Does the planner read with that snapshot, for its estimates only? */
extern bool is_of_planner(Snapshot snapshot);

extern void read_planning_init(void);

/* read_bound.c: do reads of this session have to be fresh? */
extern bool read_is_bounded(void);

#endif							/* FANOUT_READ_PLANNING_H */
