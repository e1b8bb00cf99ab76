/*
 * compat.h
 *		Every difference between server versions, in one place.
 *
 * Other files include this one and then use the newest server's names.
 */
#ifndef FANOUT_COMPAT_H
#define FANOUT_COMPAT_H

#include "postgres.h"

#include "access/xlog.h"

#if PG_VERSION_NUM < 150000
#error "pg_fanout needs PostgreSQL 15 or later"
#endif

#endif							/* FANOUT_COMPAT_H */
