/*
 * upstream.c
 *		What a stream's tables themselves follow.
 *
 * A database may lead a stream of tables that it follows itself.  Its clock and its WAL say
 * nothing of how stale such tables are: their rows were acknowledged elsewhere.  So a
 * follower's question (sender_answer.c) is answered only when all streams that such tables come
 * by have proven that what was acknowledged there before the question came has arrived here.
 * So the proof that the follower makes of the answer holds from the first leader on.
 *
 * Which streams those are is asked of the tables when anything about tables or publications
 * has changed.  Nothing is, where the server follows nothing.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "leader/leader.h"
#include "leader/upstream.h"
#include "own_tables.h"

/* Of this process's stream: ids of followed streams; in TopMemoryContext. */
static List *upstream = NIL;
static bool known = false;
static uint64 known_generation;

static FollowedStream *wanting = NULL;

/* ---------- which streams ---------- */

static void
relation_changed(Datum arg, Oid relid)
{
	known = false;
}

static void
publication_changed(Datum arg, int cacheid, uint32 hash)
{
	known = false;
}

static void
watch(void)
{
	static bool registered = false;

	if (registered)
		return;
	CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(PUBLICATIONOID, publication_changed, (Datum) 0);
	registered = true;
}

/* Tables that share rows with a followed one count as that one. */
static const char *const query =
	"SELECT f.id FROM fanout.followed_stream f WHERE f.dboid = $1 AND EXISTS (SELECT"
	" FROM fanout.followed_table t WHERE t.followed_id = f.id AND ($2 IS NULL OR EXISTS (SELECT"
	" FROM pg_catalog.pg_publication p WHERE p.pubname = ANY ($2) AND (p.puballtables OR EXISTS (SELECT"
	" FROM (SELECT t.relid AS oid UNION SELECT a.relid FROM pg_catalog.pg_partition_ancestors(t.relid) a"
	" UNION SELECT a.relid FROM pg_catalog.pg_partition_tree(t.relid) a) o"
	" JOIN pg_catalog.pg_class c ON c.oid = o.oid"
	" WHERE EXISTS (SELECT FROM pg_catalog.pg_publication_rel r"
	" WHERE r.prpubid = p.oid AND r.prrelid = c.oid) OR EXISTS (SELECT"
	" FROM pg_catalog.pg_publication_namespace n"
	" WHERE n.pnpubid = p.oid AND n.pnnspid = c.relnamespace))))))";

/* The names of a stream's publications as a name[]. */
static Datum
name_array(List *names)
{
	Datum	   *elements = palloc(sizeof(Datum) * list_length(names));
	ListCell   *lc;

	foreach(lc, names)
		elements[foreach_current_index(lc)] =
			DirectFunctionCall1(namein, CStringGetDatum(lfirst(lc)));
	return PointerGetDatum(construct_array(elements, list_length(names), NAMEOID, NAMEDATALEN,
										   false, TYPALIGN_CHAR));
}

static void
look(const char *stream)
{
	StreamRow  *row = stream_row_require(stream);
	bool		all_tables = row->own_publication || row->publications == NIL;
	Oid			types[] = {OIDOID, NAMEARRAYOID};
	Datum		values[] = {ObjectIdGetDatum(MyDatabaseId),
	all_tables ? (Datum) 0 : name_array(row->publications)};
	const char	nulls[] = {' ', all_tables ? 'n' : ' ', '\0'};
	OwnTables	state;

	list_free(upstream);
	upstream = NIL;
	own_tables_begin(&state);
	if (SPI_execute_with_args(query, lengthof(types), types, values, nulls, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read which followed tables are published");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		MemoryContext oldcontext = MemoryContextSwitchTo(TopMemoryContext);
		bool		isnull;

		upstream = lappend_int(upstream,
							   DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[i],
														   SPI_tuptable->tupdesc, 1, &isnull)));
		MemoryContextSwitchTo(oldcontext);
	}
	own_tables_end(&state);
}

/* What changes meanwhile is noticed by the next look. */
static List *
upstream_of(const char *stream)
{
	uint64		generation;

	if (pg_atomic_read_u32(&Fanout->followed_streams) == 0)
		return NIL;
	watch();
	AcceptInvalidationMessages();
	generation = pg_atomic_read_u64(&Fanout->guard_generation);
	if (!known || generation != known_generation)
	{
		known = true;
		known_generation = generation;
		look(stream);
	}
	return upstream;
}

/* ---------- what they have proven ---------- */

static bool
has_proven(FollowedStream *stream, int64 boot_us)
{
	bool		proven;

	SpinLockAcquire(&stream->mutex);
	proven = stream->fine_next > 0 &&
		stream->fine[(stream->fine_next - 1) % AS_OF_FINE].boot_us >= boot_us;
	SpinLockRelease(&stream->mutex);
	return proven && pg_atomic_read_u64(&stream->settled_xid) != 0;
}

bool
upstream_covers(const char *stream, int64 boot_us)
{
	ListCell   *lc;

	foreach(lc, upstream_of(stream))
	{
		wanting = followed_stream_find(MyDatabaseId, lfirst_int(lc));
		if (wanting == NULL || !has_proven(wanting, boot_us))
			return false;
	}
	return true;
}

FollowedStream *
upstream_wanting(void)
{
	return wanting;
}

void
upstream_ask(void)
{
	int			procno;

	if (wanting == NULL)
		return;
	pg_atomic_write_u32(&wanting->ask_now, 1);
	SpinLockAcquire(&wanting->mutex);
	procno = wanting->worker.procno;
	SpinLockRelease(&wanting->mutex);
	fanout_wake(procno);
}
