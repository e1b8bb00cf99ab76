/*
 * guard_tables.c
 *		Which tables of this database are a stream's copies.
 *
 * Each session keeps the rows of fanout.followed_table in a hash by relid.  It is
 * loaded when first needed and again when Fanout->guard_generation has moved;
 * whoever changes the rows raises that after its commit.  The rows are read with
 * the newest catalog snapshot, without SPI, since it happens inside of hooks.
 *
 * A partitioned table whose partitions are replicated is guarded like them.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_inherits.h"
#include "miscadmin.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "follower/follower.h"

typedef struct GuardedTable
{
	Oid			relid;			/* hash key */
	int32		followed_id;
} GuardedTable;

static HTAB *guarded = NULL;
static MemoryContext guarded_context = NULL;
static uint64 loaded_generation = 0;	/* 0: never */

static void
add_guarded(Oid relid, int32 followed_id)
{
	bool		found;
	GuardedTable *table = hash_search(guarded, &relid, HASH_ENTER, &found);

	if (!found)
		table->followed_id = followed_id;
}

/* A write to an ancestor may end up in the partition. */
static void
add_with_ancestors(Oid relid, int32 followed_id)
{
	ListCell   *lc;

	add_guarded(relid, followed_id);
	if (!get_rel_relispartition(relid))
		return;
	foreach(lc, get_partition_ancestors(relid))
		add_guarded(lfirst_oid(lc), followed_id);
}

/* Rows of streams of this database; those of a copied database do not count. */
static bool
is_followed_here(int32 followed_id)
{
	return followed_stream_find(MyDatabaseId, followed_id) != NULL;
}

static void
load_tables(Oid table_oid)
{
	Relation	rel = table_open(table_oid, AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;
		int32		id = DatumGetInt32(heap_getattr(tuple, 1, RelationGetDescr(rel), &isnull));
		Oid			relid = DatumGetObjectId(heap_getattr(tuple, 2, RelationGetDescr(rel), &isnull));

		if (is_followed_here(id))
			add_with_ancestors(relid, id);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
}

static void
load(uint64 generation)
{
	HASHCTL		ctl = {.keysize = sizeof(Oid), .entrysize = sizeof(GuardedTable)};
	Oid			nspid = get_namespace_oid(FANOUT_SCHEMA, true);
	Oid			table_oid = OidIsValid(nspid) ? get_relname_relid("followed_table", nspid)
		: InvalidOid;

	loaded_generation = 0;
	if (guarded_context == NULL)
		guarded_context = AllocSetContextCreate(TopMemoryContext, "pg_fanout guarded tables",
												ALLOCSET_SMALL_SIZES);
	MemoryContextReset(guarded_context);
	ctl.hcxt = guarded_context;
	guarded = hash_create("pg_fanout guarded tables", 128, &ctl,
						  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	if (OidIsValid(table_oid))
		load_tables(table_oid);
	loaded_generation = generation;
}

int32
guard_followed_id(Oid relid)
{
	uint64		generation;
	GuardedTable *table;

	if (Fanout == NULL || pg_atomic_read_u32(&Fanout->followed_streams) == 0 ||
		!OidIsValid(MyDatabaseId) || !IsTransactionState())
		return 0;
	generation = pg_atomic_read_u64(&Fanout->guard_generation);
	if (generation != loaded_generation)
		load(generation);
	table = hash_search(guarded, &relid, HASH_FIND, NULL);
	return table == NULL ? 0 : table->followed_id;
}

bool
guard_is_replicated(Oid relid)
{
	return guard_followed_id(relid) != 0;
}
