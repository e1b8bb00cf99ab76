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
#define fanout_owns_relation(relid, roleid) \
	object_ownercheck(RelationRelationId, (relid), (roleid))
#else
#define fanout_owns_database(dboid, roleid) pg_database_ownercheck((dboid), (roleid))
#define fanout_owns_publication(puboid, roleid) pg_publication_ownercheck((puboid), (roleid))
#define fanout_owns_relation(relid, roleid) pg_class_ownercheck((relid), (roleid))
#endif

#include "access/attmap.h"
#include "replication/slot.h"

/* 16 lets the caller decide what a missing column means. */
#if PG_VERSION_NUM >= 160000
#define fanout_build_attrmap_if_req(indesc, outdesc) \
	build_attrmap_by_name_if_req((indesc), (outdesc), false)
#else
#define fanout_build_attrmap_if_req(indesc, outdesc) \
	build_attrmap_by_name_if_req((indesc), (outdesc))
#endif

/* 16 keeps the reason why a slot was invalidated instead of a position. */
#if PG_VERSION_NUM >= 160000
#define fanout_slot_invalidated(slot) ((slot)->data.invalidated != RS_INVAL_NONE)
#else
#define fanout_slot_invalidated(slot) (!XLogRecPtrIsInvalid((slot)->data.invalidated_at))
#endif

/* 17 added slots that are synchronized to standbys. */
#if PG_VERSION_NUM >= 170000
#define fanout_slot_create(name) \
	ReplicationSlotCreate((name), true, RS_EPHEMERAL, false, false, false)
#else
#define fanout_slot_create(name) ReplicationSlotCreate((name), true, RS_EPHEMERAL, false)
#endif

/* 18 can refuse an invalidated slot by itself; we replace such a slot. */
#if PG_VERSION_NUM >= 180000
#define fanout_slot_acquire(name) ReplicationSlotAcquire((name), false, false)
#else
#define fanout_slot_acquire(name) ReplicationSlotAcquire((name), false)
#endif

/* 17 did away with the buffer around a decoded tuple. */
#if PG_VERSION_NUM >= 170000
#define fanout_change_tuple(decoded) (decoded)
#else
#define fanout_change_tuple(decoded) (&(decoded)->tuple)
#endif

#include "utils/rel.h"

/* 16 calls the file of a relation by other names. */
#if PG_VERSION_NUM >= 160000
#include "utils/relfilenumbermap.h"

typedef RelFileLocator FanoutRelFile;
#define fanout_file_of(rel) ((rel)->rd_locator)
#define fanout_file_database(file) ((file).dbOid)
#define fanout_relid_of_file(file) RelidByRelfilenumber((file).spcOid, (file).relNumber)
#else
#include "utils/relfilenodemap.h"

typedef RelFileNode FanoutRelFile;
#define fanout_file_of(rel) ((rel)->rd_node)
#define fanout_file_database(file) ((file).dbNode)
#define fanout_relid_of_file(file) RelidByRelfilenode((file).spcNode, (file).relNode)
#endif

#include "lib/dshash.h"

/* 17 lets a shared hash table copy its keys in a way of its own. */
static inline dshash_parameters
fanout_dshash_parameters(size_t key_size, size_t entry_size, int tranche_id)
{
	dshash_parameters parameters = {
		.key_size = key_size,
		.entry_size = entry_size,
		.compare_function = dshash_memcmp,
		.hash_function = dshash_memhash,
#if PG_VERSION_NUM >= 170000
		.copy_function = dshash_memcpy,
#endif
		.tranche_id = tranche_id,
	};

	return parameters;
}

/*
 * What the other end of a libpq connection is: versions as PQserverVersion()
 * gives them.  Binary output of types may differ between major versions; 17
 * added transaction_timeout.
 */
#define fanout_same_major(version) ((version) / 10000 == PG_VERSION_NUM / 10000)
#define fanout_has_transaction_timeout(version) ((version) >= 170000)

#endif							/* FANOUT_COMPAT_H */
