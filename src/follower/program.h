/*
 * program.h
 *		Running another program and reading what it says, see program.c.
 */
#ifndef FANOUT_PROGRAM_H
#define FANOUT_PROGRAM_H

#include <stdio.h>

typedef struct Program
{
	FILE	   *pipe;
	pid_t		pid;
} Program;

/*
 * Start a command of the shell's; it ends with the (sub)transaction at the latest.  Two can
 * run at a time.
 */
extern void program_start(Program *program, const char *command);

/*
 * All that it writes to its standard output, palloc'd, and its exit status, see wait(2).
 * Waits until it has ended; can be cancelled.
 */
extern char *program_finish(Program *program, int *status);

#endif
