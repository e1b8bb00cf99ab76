/*
 * session.c
 *		One session, told line by line what to send; prints what comes back.
 *
 * usage: session CONNINFO < lines
 *
 *	simple SQL		a query message; may hold several statements
 *	extended SQL	parse, bind, execute
 *	prepare SQL		a named prepared statement
 *	execute			run the one that was prepared last
 *
 * For each line it prints the last command's tag or "ERROR <sqlstate>", the
 * first value of its result, and the parameter fanout.commit_token as it stands
 * when the server is ready for the next query, with tabs in between.
 */
#include "client.h"

static PGresult *
send_line(PGconn *conn, char *line)
{
	char	   *rest = strchr(line, ' ');

	if (strcmp(line, "execute") == 0)
		return PQexecPrepared(conn, "statement", 0, NULL, NULL, NULL, 0);
	if (rest == NULL)
		die("cannot understand: %s", line);
	*rest++ = '\0';
	if (strcmp(line, "simple") == 0)
		return PQexec(conn, rest);
	if (strcmp(line, "extended") == 0)
		return PQexecParams(conn, rest, 0, NULL, NULL, NULL, NULL, 0);
	if (strcmp(line, "prepare") == 0)
		return PQprepare(conn, "statement", rest, 0, NULL);
	die("cannot understand: %s", line);
}

/* Read a COPY to its end; its last line stays in value. */
static PGresult *
read_copy(PGconn *conn, PGresult *res, char *value, size_t size)
{
	char	   *data;
	PGresult   *end;

	PQclear(res);
	while (PQgetCopyData(conn, &data, 0) > 0)
	{
		data[strcspn(data, "\n")] = '\0';
		snprintf(value, size, "%s", data);
		PQfreemem(data);
	}
	res = PQgetResult(conn);
	while ((end = PQgetResult(conn)) != NULL)
		PQclear(end);
	return res;
}

static void
print_result(PGconn *conn, PGresult *res)
{
	char		value[1000] = "";
	const char *token;

	if (PQresultStatus(res) == PGRES_COPY_OUT)
		res = read_copy(conn, res, value, sizeof(value));
	else if (PQntuples(res) > 0 && PQnfields(res) > 0)
		snprintf(value, sizeof(value), "%s", PQgetvalue(res, 0, 0));

	token = PQparameterStatus(conn, "fanout.commit_token");
	if (succeeded(res))
		printf("%s", PQcmdStatus(res));
	else
		printf("ERROR %s", PQresultErrorField(res, PG_DIAG_SQLSTATE) ?
			   PQresultErrorField(res, PG_DIAG_SQLSTATE) : "connection");
	printf("\t%s\t%s\n", value, token ? token : "");
	fflush(stdout);
	PQclear(res);
}

int
main(int argc, char **argv)
{
	char		line[10000];
	PGconn	   *conn;

	if (argc != 2)
		die("usage: session CONNINFO");
	conn = connect_again(argv[1]);
	while (fgets(line, sizeof(line), stdin) != NULL)
	{
		line[strcspn(line, "\n")] = '\0';
		print_result(conn, send_line(conn, line));
	}
	PQfinish(conn);
	return 0;
}
