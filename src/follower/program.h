/*
 * program.h
 *		Running another program and reading what it says, see program.c.
 */
#ifndef FANOUT_PROGRAM_H
#define FANOUT_PROGRAM_H

#include "nodes/pg_list.h"

typedef struct Program Program;

/*
 * Start a program with these arguments (List of char *, the first is its path) and with these
 * variables, each "NAME=value", in its environment besides our own.  It ends with the
 * (sub)transaction at the latest.
 */
extern Program *program_start(List *arguments, List *environment);

/*
 * All that it writes to its standard output, and what it writes to its standard error, both
 * palloc'd; and its exit status, see wait(2).  Waits until it has ended; can be cancelled.
 */
extern char *program_finish(Program *program, int *status, char **errors);

#endif
