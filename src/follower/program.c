/*
 * program.c
 *		Running another program and reading what it says.
 *
 * No shell is between: arguments are passed as they are, whatever is in them, and variables
 * of its environment, which may be passwords, are in no other process's.
 *
 * A program may hang, as pg_dump does on a leader that does not answer, and its caller must
 * heed interrupts all the same.  So its output is waited for with the latch.  A program
 * ends with the transaction or subtransaction that started it; one that a subtransaction
 * started which commits goes to its parent, as the server's own resources do.
 */
#include "postgres.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "access/xact.h"
#include "lib/ilist.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "utils/memutils.h"

#include "follower/program.h"

struct Program
{
	dlist_node	node;
	pid_t		pid;
	int			output;			/* the pipe's end to read from */
	File		errors;			/* temporary; closed by the server when the program is given up */
	SubTransactionId subid;
};

static dlist_head running = DLIST_STATIC_INIT(running);

extern char **environ;

/* ---------- what runs ---------- */

/* Forget one; returns its exit status. */
static int
reap(Program *program)
{
	int			status = -1;

	(void) close(program->output);
	while (waitpid(program->pid, &status, 0) < 0 && errno == EINTR)
		;
	ReleaseExternalFD();
	dlist_delete(&program->node);
	pfree(program);
	return status;
}

/* End those that a subtransaction started; InvalidSubTransactionId: all. */
static void
end_programs(SubTransactionId subid)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &running)
	{
		Program    *program = dlist_container(Program, node, iter.cur);

		if (subid != InvalidSubTransactionId && program->subid != subid)
			continue;
		(void) kill(program->pid, SIGKILL);
		(void) reap(program);
	}
}

static void
program_xact_callback(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		end_programs(InvalidSubTransactionId);
}

static void
program_subxact_callback(SubXactEvent event, SubTransactionId subid,
						 SubTransactionId parent, void *arg)
{
	dlist_iter	iter;

	if (event == SUBXACT_EVENT_ABORT_SUB)
		end_programs(subid);
	if (event != SUBXACT_EVENT_COMMIT_SUB)
		return;
	dlist_foreach(iter, &running)
	{
		Program    *program = dlist_container(Program, node, iter.cur);

		if (program->subid == subid)
			program->subid = parent;
	}
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

/* ---------- starting one ---------- */

static char **
string_array(List *strings)
{
	char	  **array = palloc0((list_length(strings) + 1) * sizeof(char *));
	ListCell   *lc;

	foreach(lc, strings)
		array[foreach_current_index(lc)] = lfirst(lc);
	return array;
}

/* Is the variable, "NAME=value", among those? */
static bool
is_set(const char *variable, List *variables)
{
	size_t		len = strcspn(variable, "=");
	ListCell   *lc;

	foreach(lc, variables)
	{
		const char *other = lfirst(lc);

		if (strcspn(other, "=") == len && strncmp(variable, other, len) == 0)
			return true;
	}
	return false;
}

static char **
make_environment(List *variables)
{
	List	   *all = list_copy(variables);

	for (char **variable = environ; *variable != NULL; variable++)
	{
		if (!is_set(*variable, variables))
			all = lappend(all, *variable);
	}
	return string_array(all);
}

/* Its standard output is the pipe; signals are as in a process that nobody has changed. */
static int
spawn(pid_t *pid, char **arguments, char **environment, const int *output, int errors)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t	signals;
	int			error;

	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&actions, output[1], STDOUT_FILENO);
	posix_spawn_file_actions_adddup2(&actions, errors, STDERR_FILENO);
	posix_spawn_file_actions_addclose(&actions, output[0]);
	posix_spawn_file_actions_addclose(&actions, output[1]);

	posix_spawnattr_init(&attributes);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
	sigemptyset(&signals);
	posix_spawnattr_setsigmask(&attributes, &signals);
	sigfillset(&signals);
	posix_spawnattr_setsigdefault(&attributes, &signals);

	error = posix_spawn(pid, arguments[0], &actions, &attributes, arguments, environment);
	posix_spawnattr_destroy(&attributes);
	posix_spawn_file_actions_destroy(&actions);
	return error;
}

Program *
program_start(List *arguments, List *environment)
{
	char	  **argv = string_array(arguments);
	char	  **env = make_environment(environment);
	Program    *program;
	int			output[2];

	File		errors = OpenTemporaryFile(false);

	register_callbacks();
	ReserveExternalFD();
	program = MemoryContextAllocZero(TopMemoryContext, sizeof(Program));
	program->errors = errors;
	errno = pipe(output) == 0 ? 0 : errno;
	if (errno == 0)
	{
		errno = spawn(&program->pid, argv, env, output, FileGetRawDesc(errors));
		(void) close(output[1]);
		if (errno != 0)
			(void) close(output[0]);
	}
	if (errno != 0)
	{
		ReleaseExternalFD();
		pfree(program);
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not run program \"%s\": %m", argv[0])));
	}
	program->output = output[0];
	(void) fcntl(program->output, F_SETFD, FD_CLOEXEC);
	program->subid = GetCurrentSubTransactionId();
	dlist_push_tail(&running, &program->node);
	return program;
}

/* ---------- reading ---------- */

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

/* The first of them. */
static char *
read_errors(File file)
{
	char		text[8192];
	int			len = FileRead(file, text, sizeof(text) - 1, 0, PG_WAIT_EXTENSION);

	FileClose(file);
	text[Max(len, 0)] = '\0';
	return pchomp(text);
}

char *
program_finish(Program *program, int *status, char **errors)
{
	StringInfoData text;
	char		buf[8192];
	ssize_t		n;

	initStringInfo(&text);
	while ((n = read_some(program->output, buf, sizeof(buf))) != 0)
	{
		if (n > 0)
			appendBinaryStringInfo(&text, buf, n);
		else if (errno != EINTR)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not read what a program writes: %m")));
	}
	*errors = read_errors(program->errors);
	*status = reap(program);
	return text.data;
}
