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

#include "libpq-fe.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"

#include "compat.h"
#include "follower/copy.h"
#include "follower/leader_hosts.h"

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
program_major(char *program)
{
	Program    *run = program_start(list_make2(program, "--version"), NIL);
	char	   *errors;
	int			status;
	int			major;

	return sscanf(program_finish(run, &status, &errors), "pg_dump (PostgreSQL) %d",
				  &major) == 1 ? major : -1;
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

/*
 * The connection string's options as variables of an environment.  Which of several servers it is
 * about, pg_dump is told by an argument, unless the address is empty.
 */
static List *
connection_environment(const char *conninfo, const char *address)
{
	PQconninfoOption *options = PQconninfoParse(conninfo, NULL);
	bool		elsewhere = address[0] != '\0';
	bool		timeout = getenv("PGCONNECT_TIMEOUT") != NULL;
	List	   *variables = elsewhere ? list_make1("PGHOSTADDR=") : NIL;

	if (options == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("invalid connection string")));
	for (PQconninfoOption *option = options; option->keyword != NULL; option++)
	{
		if (option->envvar == NULL || option->val == NULL ||
			(elsewhere && option_names_server(option->keyword)))
			continue;
		timeout |= strcmp(option->keyword, "connect_timeout") == 0;
		variables = lappend(variables, psprintf("%s=%s", option->envvar, option->val));
	}
	PQconninfoFree(options);
	return timeout ? variables : lappend(variables, "PGCONNECT_TIMEOUT=" CONNECT_TIMEOUT);
}

/* The environment has the rest, but has no names for these. */
#define KEEPALIVES	"keepalives_idle=" KEEPALIVES_IDLE " keepalives_interval=" KEEPALIVES_INTERVAL \
	" keepalives_count=" KEEPALIVES_COUNT " tcp_user_timeout=" TCP_USER_TIMEOUT_MS

Program *
schema_dump_start(const FollowedRow *row, List *what, const CopySession *session)
{
	const char *address = leader_address(session->conn);
	List	   *arguments = list_make1(dump_program());

	arguments = lappend(arguments, psprintf("--dbname=" KEEPALIVES " %s", address));
	arguments = list_concat(arguments, what);
	arguments = lappend(arguments, psprintf("--snapshot=%s", session->snapshot_id));
	arguments = lappend(arguments, psprintf("--encoding=%s", GetDatabaseEncodingName()));
	arguments = lappend(arguments, "--exclude-schema=" FANOUT_SCHEMA);
	arguments = lappend(arguments, "--no-publications");
	arguments = lappend(arguments, "--no-subscriptions");
	arguments = lappend(arguments, "--no-tablespaces");
	arguments = lappend(arguments, "--no-blobs");
	arguments = lappend(arguments, "--lock-wait-timeout=" COPY_LOCK_TIMEOUT);
	arguments = lappend(arguments, "--no-password");
	return program_start(arguments, connection_environment(row->conninfo, address));
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

char *
schema_dump_finish(Program *dump)
{
	int			status;
	char	   *errors;
	char	   *script = program_finish(dump, &status, &errors);

	if (status != 0)
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("pg_dump of the leader's schema failed"),
				 errdetail_internal("%s", errors)));
	blank_psql_lines(script);
	return script;
}
