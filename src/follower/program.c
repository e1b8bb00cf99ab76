/*
 * program.c
 *		Running another program and reading what it says.
 *
 * A program may hang, as pg_dump does on a leader that does not answer, and its caller must
 * heed interrupts all the same.  So its output is waited for with the latch.  An error ends
 * the transaction, at whose end the server closes the pipe and waits for the program to end:
 * so it is killed first.
 */
#include "postgres.h"

#include <signal.h>
#include <unistd.h>

#include "access/xact.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/fd.h"
#include "storage/latch.h"

#include "follower/program.h"

#define MAX_PROGRAMS	2

static pid_t running[MAX_PROGRAMS]; /* 0: none */

/* ---------- what runs ---------- */

static void
kill_all(void)
{
	for (int i = 0; i < MAX_PROGRAMS; i++)
	{
		if (running[i] != 0)
			(void) kill(running[i], SIGKILL);
		running[i] = 0;
	}
}

static void
program_xact_callback(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT)
		kill_all();
}

static void
program_subxact_callback(SubXactEvent event, SubTransactionId subid,
						 SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		kill_all();
}

static void
register_callbacks(void)
{
	static bool registered = false;

	if (!registered)
	{
		RegisterXactCallback(program_xact_callback, NULL);
		RegisterSubXactCallback(program_subxact_callback, NULL);
	}
	registered = true;
}

/* The entry that holds pid; 0: a free one. */
static pid_t *
entry_of(pid_t pid)
{
	for (int i = 0; i < MAX_PROGRAMS; i++)
	{
		if (running[i] == pid)
			return &running[i];
	}
	elog(ERROR, "too many programs");
}

/* ---------- running one ---------- */

/* The first line: a number.  Whoever writes it does so before anything that can hang. */
static pid_t
read_pid(int fd)
{
	pid_t		pid = 0;
	char		c = '\0';
	ssize_t		n;

	while ((n = read(fd, &c, 1)) == 1 ? c != '\n' : n < 0 && errno == EINTR)
	{
		if (n == 1)
			pid = pid * 10 + (c - '0');
	}
	return pid;
}

void
program_start(Program *program, const char *command)
{
	pid_t	   *entry;

	register_callbacks();
	entry = entry_of(0);

	/* It is the shell's process that becomes the program. */
	program->pipe = OpenPipeStream(psprintf("echo $$; exec %s", command), "r");
	if (program->pipe == NULL)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not run %s: %m", command)));
	program->pid = *entry = read_pid(fileno(program->pipe));
	if (program->pid == 0)
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("could not run %s", command)));
}

/* As read(2), but waits with the latch. */
static ssize_t
read_some(int fd, char *buf, size_t size)
{
	int			events;

	do
	{
		CHECK_FOR_INTERRUPTS();
		events = WaitLatchOrSocket(MyLatch, WL_LATCH_SET | WL_SOCKET_READABLE |
								   WL_EXIT_ON_PM_DEATH, fd, -1, PG_WAIT_EXTENSION);
		if (events & WL_LATCH_SET)
			ResetLatch(MyLatch);
	} while (!(events & WL_SOCKET_READABLE));
	return read(fd, buf, size);
}

char *
program_finish(Program *program, int *status)
{
	StringInfoData text;
	char		buf[8192];
	ssize_t		n;

	initStringInfo(&text);
	while ((n = read_some(fileno(program->pipe), buf, sizeof(buf))) != 0)
	{
		if (n > 0)
			appendBinaryStringInfo(&text, buf, n);
		else if (errno != EINTR)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not read what a program writes: %m")));
	}
	*status = ClosePipeStream(program->pipe);
	*entry_of(program->pid) = 0;
	return text.data;
}
