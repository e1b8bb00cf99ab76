/*
 * table_map.c
 *		The tables that the stream replicates into, as the applier knows them.
 *
 * It keeps the rows of fanout.followed_table in memory, by the oid of the table here and by
 * that on the leader.  There can be many thousands, as with a schema for each tenant, and a
 * schema change is about few: it has the rows of those read again, not all, and nothing that
 * is asked with each transaction looks at all of them.
 */
#include "postgres.h"

#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "follower/apply_internal.h"

typedef struct LeaderTable
{
	Oid			leader_relid;	/* hash key */
	FollowedTable *table;		/* entries stay where they are */
} LeaderTable;

static MemoryContext tables_context = NULL; /* in that of the relations */
static HTAB *by_relid;			/* of FollowedTable */
static HTAB *by_leader_relid;	/* of LeaderTable */
static int32 followed_id;
static int	not_current;		/* how many are pending, behind or missing */
static XLogRecPtr ahead_until;	/* see relation_map_ahead_until() */

static HTAB *
make_hash(Size entry_size)
{
	HASHCTL		ctl = {.keysize = sizeof(Oid), .entrysize = entry_size, .hcxt = tables_context};

	return hash_create("pg_fanout followed tables", 256, &ctl,
					   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

static void
make_empty(void)
{
	MemoryContextReset(tables_context);
	by_relid = make_hash(sizeof(FollowedTable));
	by_leader_relid = make_hash(sizeof(LeaderTable));
	not_current = 0;
	ahead_until = InvalidXLogRecPtr;
}

/* ---------- entries ---------- */

static bool
is_not_current(const FollowedTable *table)
{
	return table->state == TABLE_PENDING || table->state == TABLE_BEHIND ||
		table->state == TABLE_MISSING;
}

static char *
copy_string(const char *string)
{
	return string == NULL ? NULL : MemoryContextStrdup(tables_context, string);
}

static void
put_table(const FollowedTable *source)
{
	FollowedTable *table = hash_search(by_relid, &source->relid, HASH_ENTER, NULL);

	*table = *source;
	table->nspname = copy_string(source->nspname);
	table->relname = copy_string(source->relname);
	table->filter_snapshot = copy_string(source->filter_snapshot);
	table->schema_snapshot = copy_string(source->schema_snapshot);
	not_current += is_not_current(table);
	if (table->state == TABLE_AHEAD)
		ahead_until = Max(ahead_until, table->filter_until);
	if (OidIsValid(table->leader_relid))
	{
		LeaderTable *entry = hash_search(by_leader_relid, &table->leader_relid, HASH_ENTER, NULL);

		entry->table = table;
	}
}

static void
free_string(char *string)
{
	if (string != NULL)
		pfree(string);
}

static void
remove_table(FollowedTable *table)
{
	LeaderTable *entry = hash_search(by_leader_relid, &table->leader_relid, HASH_FIND, NULL);

	if (entry != NULL && entry->table == table)
		hash_search(by_leader_relid, &table->leader_relid, HASH_REMOVE, NULL);
	not_current -= is_not_current(table);
	free_string(table->nspname);
	free_string(table->relname);
	free_string(table->filter_snapshot);
	free_string(table->schema_snapshot);
	hash_search(by_relid, &table->relid, HASH_REMOVE, NULL);
}

/* ---------- reading ---------- */

static void
put_tables(List *tables)
{
	ListCell   *lc;

	foreach(lc, tables)
		put_table(lfirst(lc));
	list_free_deep(tables);
}

void
table_map_init(int32 id, MemoryContext context)
{
	followed_id = id;
	tables_context = AllocSetContextCreate(context, "pg_fanout followed tables",
										   ALLOCSET_DEFAULT_SIZES);
	make_empty();
}

void
table_map_read(void)
{
	make_empty();
	put_tables(followed_tables(followed_id));
}

void
table_map_read_some(List *relids)
{
	bool		was_ahead = false;
	ListCell   *lc;

	foreach(lc, relids)
	{
		FollowedTable *table = relation_map_table(lfirst_oid(lc));

		if (table == NULL)
			continue;
		was_ahead |= table->state == TABLE_AHEAD;
		remove_table(table);
	}
	if (was_ahead)
		table_map_read();
	else
		put_tables(followed_tables_of(followed_id, relids));
}

/* A table that has just got a row. */
void
table_map_add(const FollowedTable *table)
{
	put_table(table);
}

/* ---------- asking ---------- */

FollowedTable *
relation_map_table(Oid relid)
{
	return hash_search(by_relid, &relid, HASH_FIND, NULL);
}

FollowedTable *
relation_map_leader_table(Oid leader_relid)
{
	LeaderTable *entry = hash_search(by_leader_relid, &leader_relid, HASH_FIND, NULL);

	return entry == NULL ? NULL : entry->table;
}

/* Those in that state; zero: all. */
List *
relation_map_in_state(char state)
{
	List	   *relids = NIL;
	HASH_SEQ_STATUS status;
	FollowedTable *table;

	if ((state == TABLE_PENDING || state == TABLE_BEHIND || state == TABLE_MISSING) &&
		not_current == 0)
		return NIL;
	hash_seq_init(&status, by_relid);
	while ((table = hash_seq_search(&status)) != NULL)
	{
		if (table->state == state || state == '\0')
			relids = lappend_oid(relids, table->relid);
	}
	return relids;
}

bool
relation_map_all_current(void)
{
	return not_current == 0 && XLogRecPtrIsInvalid(ahead_until);
}

XLogRecPtr
relation_map_ahead_until(void)
{
	return ahead_until;
}
