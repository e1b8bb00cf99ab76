/*
 * owner_code.h
 *		Functions of others in our processes, and in a follower's sessions on its leader.
 */
#ifndef FANOUT_OWNER_CODE_H
#define FANOUT_OWNER_CODE_H

#include "pg_fanout.h"

extern void owner_code_init(void);

/* This process is one of ours. */
extern void owner_code_watch(void);

#endif							/* FANOUT_OWNER_CODE_H */
