/*
 * guard_tables.c
 *		Which tables of this database are a stream's copies.
 *
 * Each session keeps the rows of fanout.followed_table in a hash by relid.  It is
 * loaded when first needed, and again when
 *
 *	- Fanout->guard_generation has moved: whoever changes the rows raises it, after
 *	  its commit is visible; or
 *	- the relation cache was told of a change to fanout.followed_table (it may have
 *	  been dropped) or to a table in the hash (it may have new partitions).
 *
 * Both counters are read before the rows are, so that a change in between is
 * noticed by the next look.  The rows are read without SPI, since it happens
 * inside of hooks, and with a catalog snapshot: the server takes a new one for
 * each scan of a table that is no catalog, so it is never older than the counters.
 *
 * A write to a partitioned table may end up in any of its partitions, and one to
 * a partition shows in the table.  So the ancestors of a replicated partition are
 * guarded like it, and so are the partitions of a replicated partitioned table.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "follower/guard.h"
#include "own_tables.h"

/* Columns of our tables, as the extension's script has them. */
#define Anum_followed_stream_id			1
#define Anum_followed_stream_stream		2
#define Anum_followed_stream_dboid		3
#define Anum_followed_stream_conninfo	5
#define Anum_followed_table_followed_id	1
#define Anum_followed_table_relid		2

typedef struct GuardedTable
{
	Oid			relid;			/* hash key */
	const GuardedStream *stream;
} GuardedTable;

/* The cache; all of it is in cache_context.  tables is NULL before the first load. */
static MemoryContext cache_context = NULL;
static HTAB *tables = NULL;
static Oid	followed_table_oid = InvalidOid;
static uint64 loaded_generation = 0;
static uint64 loaded_invalidations = 0;

static uint64 invalidations = 0;	/* raised by relcache_callback */
static bool loading = false;	/* stays set when a load fails; the next one clears it */

/*
 * While the hash is being built any relation may be one that belongs in it; and
 * one may be fanout.followed_table when that was not there (a DROP EXTENSION that
 * is rolled back).
 */
static void
relcache_callback(Datum arg, Oid relid)
{
	if (loading || !OidIsValid(followed_table_oid) || !OidIsValid(relid) ||
		relid == followed_table_oid || hash_search(tables, &relid, HASH_FIND, NULL) != NULL)
		invalidations++;
}

/* ---------- reading our tables ---------- */

/* NULL when the extension is not in this database. */
static Relation
open_own_table(const char *name)
{
	Oid			relid = own_table_oid(name);

	return OidIsValid(relid) ? try_table_open(relid, AccessShareLock) : NULL;
}

static Datum
column(HeapTuple tuple, Relation rel, AttrNumber number)
{
	bool		isnull;
	Datum		value = heap_getattr(tuple, number, RelationGetDescr(rel), &isnull);

	if (isnull)
		elog(ERROR, "unexpected null in column %d of \"%s\"", number, RelationGetRelationName(rel));
	return value;
}

static GuardedStream *
make_stream(HeapTuple tuple, Relation rel)
{
	GuardedStream *stream = palloc(sizeof(GuardedStream));
	char	   *conninfo = TextDatumGetCString(column(tuple, rel, Anum_followed_stream_conninfo));

	stream->id = DatumGetInt32(column(tuple, rel, Anum_followed_stream_id));
	stream->name = *DatumGetName(column(tuple, rel, Anum_followed_stream_stream));
	stream->leader = conninfo_without_password(conninfo);
	pfree(conninfo);
	return stream;
}

/* The followed streams, but for those that came with a copy of another database. */
static List *
read_streams(MemoryContext context)
{
	Relation	rel = open_own_table("followed_stream");
	List	   *streams = NIL;
	SysScanDesc scan;
	HeapTuple	tuple;

	if (rel == NULL)
		return NIL;
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		MemoryContext oldcontext = MemoryContextSwitchTo(context);

		if (DatumGetObjectId(column(tuple, rel, Anum_followed_stream_dboid)) == MyDatabaseId)
			streams = lappend(streams, make_stream(tuple, rel));
		MemoryContextSwitchTo(oldcontext);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return streams;
}

static const GuardedStream *
find_stream(List *streams, int32 id)
{
	ListCell   *lc;

	foreach(lc, streams)
	{
		if (((GuardedStream *) lfirst(lc))->id == id)
			return lfirst(lc);
	}
	return NULL;
}

static void
add_table(HTAB *hash, Oid relid, const GuardedStream *stream)
{
	bool		found;
	GuardedTable *table = hash_search(hash, &relid, HASH_ENTER, &found);

	if (!found)
		table->stream = stream;
}

static void
add_tables(HTAB *hash, List *relids, const GuardedStream *stream)
{
	ListCell   *lc;

	foreach(lc, relids)
		add_table(hash, lfirst_oid(lc), stream);
	list_free(relids);
}

/* Add a table of fanout.followed_table, and what shares rows with it. */
static void
add_followed_table(HTAB *hash, Oid relid, const GuardedStream *stream)
{
	add_table(hash, relid, stream);
	if (get_rel_relkind(relid) == RELKIND_PARTITIONED_TABLE)
		add_tables(hash, find_all_inheritors(relid, NoLock, NULL), stream);
	if (get_rel_relispartition(relid))
		add_tables(hash, get_partition_ancestors(relid), stream);
}

/* Returns the oid of fanout.followed_table. */
static Oid
read_tables(HTAB *hash, List *streams)
{
	Relation	rel = open_own_table("followed_table");
	Oid			oid;
	SysScanDesc scan;
	HeapTuple	tuple;

	if (rel == NULL)
		return InvalidOid;
	oid = RelationGetRelid(rel);
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		const GuardedStream *stream =
			find_stream(streams, DatumGetInt32(column(tuple, rel, Anum_followed_table_followed_id)));

		if (stream != NULL)
			add_followed_table(hash,
							   DatumGetObjectId(column(tuple, rel, Anum_followed_table_relid)),
							   stream);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return oid;
}

/* ---------- the cache ---------- */

/* Build a new cache, then put it in the place of the old one: an error leaves that. */
static void
load(uint64 generation)
{
	static bool registered = false;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "pg_fanout guarded tables",
												  ALLOCSET_SMALL_SIZES);
	HASHCTL		ctl = {.keysize = sizeof(Oid), .entrysize = sizeof(GuardedTable), .hcxt = context};
	uint64		invalidations_before = invalidations;
	HTAB	   *hash;
	Oid			oid;

	if (!registered)
		CacheRegisterRelcacheCallback(relcache_callback, (Datum) 0);
	registered = true;
	loading = true;

	hash = hash_create("pg_fanout guarded tables", 128, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	oid = read_tables(hash, read_streams(context));

	MemoryContextSetParent(context, TopMemoryContext);
	if (cache_context != NULL)
		MemoryContextDelete(cache_context);
	cache_context = context;
	tables = hash;
	followed_table_oid = oid;
	loaded_generation = generation;
	loaded_invalidations = invalidations_before;
	loading = false;
}

/* Have the cache as it must be now; false: nothing is replicated, or it can't be asked. */
static bool
cache_is_valid(void)
{
	uint64		generation;

	if (!follows_anything() ||
		!OidIsValid(MyDatabaseId) || !IsTransactionState())
		return false;
	generation = pg_atomic_read_u64(&Fanout->guard_generation);
	if (tables == NULL || generation != loaded_generation || invalidations != loaded_invalidations)
		load(generation);
	return true;
}

const GuardedStream *
guard_stream_of(Oid relid)
{
	GuardedTable *table = cache_is_valid() ? hash_search(tables, &relid, HASH_FIND, NULL) : NULL;

	return table == NULL ? NULL : table->stream;
}

List *
guard_tables(void)
{
	List	   *relids = NIL;
	HASH_SEQ_STATUS status;
	GuardedTable *table;

	if (!cache_is_valid())
		return NIL;
	hash_seq_init(&status, tables);
	while ((table = hash_seq_search(&status)) != NULL)
		relids = lappend_oid(relids, table->relid);
	return relids;
}

int32
guard_followed_id(Oid relid)
{
	const GuardedStream *stream = guard_stream_of(relid);

	return stream == NULL ? 0 : stream->id;
}
