/*
 * schema_dump.c
 *		Running pg_dump on a leader.
 *
 * pg_dump connects to the leader with what is in its environment, so that no
 * password stands in an argument list, and writes plain SQL, with the snapshot
 * that the tables are copied with.
 *
 * It reads servers of its own major version and older ones.  So a follower of a newer
 * leader needs a newer pg_dump than its own, which fanout.pg_dump names; follow() tells.
 */
#include "postgres.h"

#include <sys/stat.h>
#include <unistd.h>

#include "libpq-fe.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/fd.h"

#include "compat.h"
#include "follower/copy.h"
#include "follower/program.h"
#include "hints.h"

/* ---------- the program ---------- */

/* The one that is set, else the server's own. */
static char *
dump_program(void)
{
	char		dir[MAXPGPATH];
	char	   *program;
	struct stat st;

	strlcpy(dir, my_exec_path, sizeof(dir));
	get_parent_directory(dir);
	program = fanout_pg_dump[0] != '\0' ? pstrdup(fanout_pg_dump) : psprintf("%s/pg_dump", dir);
	if (stat(program, &st) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not find program \"%s\": %m", program),
				 errhint("Install the client programs, or follow with copy_schema => false.")));
	return program;
}

/* What "pg_dump --version" says; -1: something else. */
static int
program_major(const char *program)
{
	Program		run;
	int			status;
	int			major;

	program_start(&run, psprintf("\"%s\" --version", program));
	return sscanf(program_finish(&run, &status), "pg_dump (PostgreSQL) %d", &major) == 1 ? major : -1;
}

void
schema_dump_check(PGconn *conn)
{
	char	   *program = dump_program();
	int			major = program_major(program);
	int			leader_major = fanout_major(PQserverVersion(conn));

	if (major < 0)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("\"%s\" is not a pg_dump", program)));
	if (major < leader_major)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("pg_dump of PostgreSQL %d cannot copy the schema of a leader of version %d",
						major, leader_major),
				 errhint("Install the client programs of PostgreSQL %d here and set \"fanout.pg_dump\" to their pg_dump, or follow with copy_schema => false.",
						 leader_major)));
}

/* ---------- running it ---------- */

struct SchemaDump
{
	Program		program;
	char		error_path[MAXPGPATH];
};

/* Put the connection string's options into the environment, or take them out. */
static void
set_environment(const char *conninfo, bool set)
{
	PQconninfoOption *options = PQconninfoParse(conninfo, NULL);

	if (options == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("invalid connection string")));
	for (PQconninfoOption *option = options; option->keyword != NULL; option++)
	{
		if (option->envvar == NULL || option->val == NULL)
			continue;
		if (set)
			setenv(option->envvar, option->val, 1);
		else
			unsetenv(option->envvar);
	}
	PQconninfoFree(options);
}

/* The environment has the rest, but has no names for these. */
#define KEEPALIVES	"keepalives_idle=" KEEPALIVES_IDLE " keepalives_interval=" KEEPALIVES_INTERVAL \
	" keepalives_count=" KEEPALIVES_COUNT " tcp_user_timeout=" TCP_USER_TIMEOUT_MS

static char *
dump_command(const char *what, const char *snapshot_id, const char *error_path)
{
	return psprintf("\"%s\" --dbname=\"" KEEPALIVES "\" %s --snapshot=%s --encoding=%s"
					" --exclude-schema=%s"
					" --no-publications --no-subscriptions --no-tablespaces --no-blobs"
					" --lock-wait-timeout=" COPY_LOCK_TIMEOUT " --no-password 2>\"%s\"",
					dump_program(), what, snapshot_id, GetDatabaseEncodingName(), FANOUT_SCHEMA, error_path);
}

/* The first of them. */
static char *
read_errors(const char *path)
{
	FILE	   *file = AllocateFile(path, "r");
	char		text[8192];
	size_t		len = file != NULL ? fread(text, 1, sizeof(text) - 1, file) : 0;

	if (file != NULL)
		FreeFile(file);
	text[len] = '\0';
	return pchomp(text);
}

/* Blank the lines that are commands of psql; only the dump's first and last are. */
static void
blank_psql_lines(char *script)
{
	for (char *line = script; line != NULL && *line != '\0';)
	{
		char	   *end = strchr(line, '\n');

		if (strncmp(line, "\\restrict ", 10) == 0 || strncmp(line, "\\unrestrict ", 12) == 0)
			memset(line, ' ', end != NULL ? end - line : strlen(line));
		line = end != NULL ? end + 1 : NULL;
	}
}

SchemaDump *
schema_dump_start(const FollowedRow *row, const char *what, const char *snapshot_id)
{
	static uint32 count = 0;		/* the two have files of their own */
	SchemaDump *dump = palloc(sizeof(SchemaDump));
	char	   *command;

	hint_path(dump->error_path, HINT_FOLLOWED, MyDatabaseId, row->id);
	strlcat(dump->error_path, psprintf("/pg_dump.%u.err", count++ % 2), sizeof(dump->error_path));
	command = dump_command(what, snapshot_id, dump->error_path);

	set_environment(row->conninfo, true);
	program_start(&dump->program, command);
	set_environment(row->conninfo, false);
	return dump;
}

char *
schema_dump_finish(SchemaDump *dump)
{
	int			status;
	char	   *script = program_finish(&dump->program, &status);
	char	   *errors = read_errors(dump->error_path);

	(void) unlink(dump->error_path);
	if (status != 0)
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("pg_dump of the leader's schema failed"),
				 errdetail_internal("%s", errors)));
	blank_psql_lines(script);
	return script;
}
