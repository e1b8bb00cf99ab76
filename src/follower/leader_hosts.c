/*
 * leader_hosts.c
 *		The servers that a connection string names, one by one.
 *
 * libpq tries the hosts of a connection string in turn by itself, but has only one deadline
 * for all of them when it connects asynchronously: one host that takes connections and
 * never answers keeps it from the others for ever.  So we go from one to the next, and
 * libpq gets one address at a time.
 *
 * What it is given is what it would have found out itself: hosts may come from the string, a
 * service file or the environment, a name may have several addresses, and
 * target_session_attrs and load_balance_hosts mean what they always do.  To look a name up
 * is the one thing that waits without heeding interrupts, as it does in libpq.
 */
#include "postgres.h"

#include <netdb.h>
#include <sys/socket.h>

#include "common/pg_prng.h"
#include "lib/stringinfo.h"
#include "libpq-fe.h"
#include "libpq/pqcomm.h"

#include "follower/follower.h"
#include "follower/leader_hosts.h"

/* ---------- options ---------- */

static const char *
option_value(const PQconninfoOption *options, const char *keyword)
{
	for (const PQconninfoOption *option = options; option->keyword != NULL; option++)
	{
		if (strcmp(option->keyword, keyword) == 0)
			return option->val;
	}
	return NULL;
}

/*
 * All options, as libpq takes them from the string, a service file and the environment.  It has
 * no function for that but to begin to connect.  One option more that is wrong, and is
 * looked at after the others, keeps it from doing so.
 */
static PQconninfoOption *
complete_options(const char *conninfo)
{
	const char *keys[] = {"dbname", "ssl_min_protocol_version", NULL};
	const char *values[] = {conninfo, "none", NULL};
	PGconn	   *conn = PQconnectStartParams(keys, values, 1);
	PQconninfoOption *options = conn != NULL ? PQconninfo(conn) : NULL;

	PQfinish(conn);
	if (options == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory")));
	return options;
}

bool
option_names_server(const char *keyword)
{
	return strcmp(keyword, "host") == 0 || strcmp(keyword, "hostaddr") == 0 ||
		strcmp(keyword, "port") == 0 || strcmp(keyword, "target_session_attrs") == 0;
}

/* Elements between commas, List of char *; an option without a value has none. */
static List *
split(const char *value)
{
	List	   *elements = NIL;

	if (value == NULL || value[0] == '\0')
		return NIL;
	for (;;)
	{
		const char *comma = strchrnul(value, ',');

		elements = lappend(elements, pnstrdup(value, comma - value));
		if (*comma == '\0')
			return elements;
		value = comma + 1;
	}
}

/* ---------- hosts ---------- */

/* An empty element means the default; a single one is for all. */
static char *
element(List *list, int i, const char *none)
{
	char	   *value = NULL;

	if (list != NIL)
		value = list_nth(list, list_length(list) == 1 ? 0 : i);
	return value != NULL && value[0] != '\0' ? value : pstrdup(none);
}

static LeaderHost *
make_host(char *host, char *hostaddr, char *port)
{
	LeaderHost *result = palloc(sizeof(LeaderHost));

	if (host[0] == '\0' && hostaddr[0] == '\0')
		host = DEFAULT_PGSOCKET_DIR[0] != '\0' ? DEFAULT_PGSOCKET_DIR : "localhost";
	result->host = host;
	result->hostaddr = hostaddr;
	result->port = port;
	return result;
}

/* NIL when they don't go together, which libpq has a message for. */
static List *
list_hosts(List *hosts, List *hostaddrs, List *ports)
{
	int			count = list_length(hostaddrs != NIL ? hostaddrs : hosts);
	List	   *result = NIL;

	if ((hostaddrs != NIL && hosts != NIL && list_length(hosts) != count) ||
		(list_length(ports) > 1 && list_length(ports) != Max(count, 1)))
		return NIL;
	for (int i = 0; i < count; i++)
		result = lappend(result, make_host(element(hosts, i, ""), element(hostaddrs, i, ""),
										   element(ports, i, DEF_PGPORT_STR)));
	return result;
}

static void
shuffle(List *list)
{
	for (int i = list_length(list) - 1; i > 0; i--)
	{
		int			j = (int) pg_prng_uint64_range(&pg_global_prng_state, 0, i);
		ListCell	cell = list->elements[i];

		list->elements[i] = list->elements[j];
		list->elements[j] = cell;
	}
}

/* Whoever likes a standby better takes another server when there is none. */
static List *
list_attempts(const char *attrs)
{
	if (attrs == NULL)
		return list_make1("any");
	if (strcmp(attrs, "prefer-standby") == 0)
		return list_make2("standby", "any");
	return list_make1(pstrdup(attrs));
}

LeaderHosts *
leader_hosts(const char *conninfo)
{
	PQconninfoOption *options = complete_options(conninfo);
	LeaderHosts *result = palloc0(sizeof(LeaderHosts));
	const char *timeout = option_value(options, "connect_timeout");
	const char *balance = option_value(options, "load_balance_hosts");

	result->hosts = list_hosts(split(option_value(options, "host")),
							   split(option_value(options, "hostaddr")),
							   split(option_value(options, "port")));
	result->attrs = list_attempts(option_value(options, "target_session_attrs"));
	result->timeout_ms = timeout != NULL ? Max(0, Min(atoi(timeout), INT_MAX / 1000)) * 1000 : 0;
	result->random = balance != NULL && strcmp(balance, "random") == 0;
	PQconninfoFree(options);
	if (result->random)
		shuffle(result->hosts);
	return result;
}

/* ---------- addresses ---------- */

static List *
look_up(const LeaderHost *host)
{
	struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
	struct addrinfo *found;
	List	   *addresses = NIL;

	if (getaddrinfo(host->host, NULL, &hints, &found) != 0)
		return NIL;
	for (struct addrinfo *info = found; info != NULL; info = info->ai_next)
	{
		char		text[NI_MAXHOST];

		if (getnameinfo(info->ai_addr, info->ai_addrlen, text, sizeof(text), NULL, 0,
						NI_NUMERICHOST) == 0)
			addresses = lappend(addresses, make_host(host->host, pstrdup(text), host->port));
	}
	freeaddrinfo(found);
	return addresses;
}

List *
leader_addresses(const LeaderHosts *hosts, LeaderHost *host)
{
	List	   *addresses;

	if (host->hostaddr[0] != '\0' || is_unixsock_path(host->host))
		return list_make1(host);
	addresses = look_up(host);
	if (hosts->random)
		shuffle(addresses);
	/* libpq has words for a name that is not known. */
	return addresses != NIL ? addresses : list_make1(host);
}

/* ---------- connection strings ---------- */

static void
append_option(StringInfo buf, const char *keyword, const char *value)
{
	appendStringInfo(buf, "%s%s=", buf->len > 0 ? " " : "", keyword);
	if (strpbrk(value, " '\\") == NULL && value[0] != '\0')
	{
		appendStringInfoString(buf, value);
		return;
	}
	appendStringInfoChar(buf, '\'');
	for (const char *p = value; *p != '\0'; p++)
	{
		if (*p == '\'' || *p == '\\')
			appendStringInfoChar(buf, '\\');
		appendStringInfoChar(buf, *p);
	}
	appendStringInfoChar(buf, '\'');
}

char *
leader_host_text(const LeaderHost *host)
{
	StringInfoData text;

	initStringInfo(&text);
	if (host->host[0] != '\0')
		append_option(&text, "host", host->host);
	if (host->hostaddr[0] != '\0')
		append_option(&text, "hostaddr", host->hostaddr);
	append_option(&text, "port", host->port);
	return text.data;
}

static bool
is_secret(const PQconninfoOption *option)
{
	return strchr(option->dispchar, '*') != NULL || strcmp(option->keyword, "sslpassword") == 0;
}

char *
conninfo_without_password(const char *conninfo)
{
	char	   *error = NULL;
	PQconninfoOption *options = PQconninfoParse(conninfo, &error);
	StringInfoData result;

	initStringInfo(&result);
	if (options == NULL)
		return result.data;
	for (PQconninfoOption *option = options; option->keyword != NULL; option++)
	{
		if (option->val == NULL || is_secret(option))
			continue;
		append_option(&result, option->keyword, option->val);
	}
	PQconninfoFree(options);
	return result.data;
}
