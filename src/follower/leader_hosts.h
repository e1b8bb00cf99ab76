/*
 * leader_hosts.h
 *		The servers that a connection string names, see leader_hosts.c.
 */
#ifndef FANOUT_LEADER_HOSTS_H
#define FANOUT_LEADER_HOSTS_H

#include "nodes/pg_list.h"

/* One of them, as options of libpq; "" for those that it does not need. */
typedef struct LeaderHost
{
	char	   *host;
	char	   *hostaddr;
	char	   *port;
} LeaderHost;

typedef struct LeaderHosts
{
	List	   *hosts;			/* of LeaderHost; NIL: none is named, or they make no sense */
	List	   *attrs;			/* target_session_attrs to try all of them with, one after another */
	int			timeout_ms;		/* connect_timeout; 0: none is set */
	bool		random;			/* in no order */
} LeaderHosts;

/* All palloc'd.  The string is one that libpq understands. */
extern LeaderHosts *leader_hosts(const char *conninfo);

/* The addresses of a host, List of LeaderHost: one, unless it is a name that has several. */
extern List *leader_addresses(const LeaderHosts *hosts, LeaderHost *host);

/* Does an option of libpq say which server it is to connect to? */
extern bool option_names_server(const char *keyword);

/* As a connection string, palloc'd. */
extern char *leader_host_text(const LeaderHost *host);

#endif
