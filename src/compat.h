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

#include "catalog/pg_database.h"
#include "catalog/pg_publication.h"
#include "utils/acl.h"

/* 16 replaced the ownership checks of each catalog by one. */
#if PG_VERSION_NUM >= 160000
#define fanout_owns_database(dboid, roleid) \
	object_ownercheck(DatabaseRelationId, (dboid), (roleid))
#define fanout_owns_publication(puboid, roleid) \
	object_ownercheck(PublicationRelationId, (puboid), (roleid))
#else
#define fanout_owns_database(dboid, roleid) pg_database_ownercheck((dboid), (roleid))
#define fanout_owns_publication(puboid, roleid) pg_publication_ownercheck((puboid), (roleid))
#endif

#endif							/* FANOUT_COMPAT_H */
