/*
 * published_tables.c
 *		Which tables a stream's publications publish, told to the followers whenever
 *		that changes.
 *
 * A follower must notice when a table joins the publications: it copies the rows that
 * are there.  It may happen in many ways (ALTER PUBLICATION, a table made in or moved into
 * a published schema, a partition attached...), so statements are not looked at.
 * Instead, at the end of each transaction that touched any table or publication, the list
 * is made anew as the catalogs are then, and when it is not the one before, it goes into
 * the log as the transaction's last change.
 *
 * At the end, since only there all that committed before is seen: while it ran, the
 * transaction was decoded with the catalogs of its time.  Rows that it wrote to a table
 * that joins with it come before the list; the copy, which is made later, has them.
 *
 * The list is the one of fanout.stream_tables() (follower_calls.c).  A decoder that was
 * restarted does not know what the last one said, so it may say it once more.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_inherits.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "leader/publication.h"
#include "log/table_list.h"

/* What was said last; NULL: nothing yet. */
static MemoryContext last_context;
static StringInfo last = NULL;

void
published_tables_start(MemoryContext parent)
{
	last_context = AllocSetContextCreate(parent, "pg_fanout published tables",
										 ALLOCSET_DEFAULT_SIZES);
	last = NULL;
}

static List *
tables_of(Publication *publication)
{
	PublicationPartOpt parts = publication->pubviaroot ? PUBLICATION_PART_ROOT
		: PUBLICATION_PART_LEAF;

	if (publication->alltables)
		return GetAllTablesPublicationRelations(publication->pubviaroot);
	return list_concat(GetPublicationRelations(publication->oid, parts),
					   GetAllSchemaPublicationRelations(publication->oid, parts));
}

/* The oids in order, each once. */
static Oid *
all_tables(int *count)
{
	List	   *relids = NIL;
	Oid		   *sorted;
	ListCell   *lc;

	foreach(lc, publication_list())
		relids = list_concat(relids, tables_of(lfirst(lc)));
	list_sort(relids, list_oid_cmp);
	list_deduplicate_oid(relids);
	*count = list_length(relids);
	sorted = palloc(sizeof(Oid) * Max(*count, 1));
	foreach(lc, relids)
		sorted[foreach_current_index(lc)] = lfirst_oid(lc);
	return sorted;
}

/* Rows of a partition whose ancestor is published go under that one's name. */
static bool
goes_as_ancestor(Oid relid, const Oid *relids, int count)
{
	ListCell   *lc;

	if (!get_rel_relispartition(relid))
		return false;
	foreach(lc, get_partition_ancestors(relid))
	{
		if (bsearch(&lfirst_oid(lc), relids, count, sizeof(Oid), oid_cmp) != NULL)
			return true;
	}
	return false;
}

static List *
published_tables(void)
{
	Oid			own_schema = get_namespace_oid(FANOUT_SCHEMA, true);
	List	   *tables = NIL;
	int			count;
	Oid		   *relids = all_tables(&count);

	for (int i = 0; i < count; i++)
	{
		Oid			schema = get_rel_namespace(relids[i]);
		ListedTable *table;

		if (!OidIsValid(schema) || schema == own_schema ||
			goes_as_ancestor(relids[i], relids, count))
			continue;
		table = palloc(sizeof(ListedTable));
		table->relid = relids[i];
		namestrcpy(&table->nspname, get_namespace_name(schema));
		namestrcpy(&table->relname, get_rel_name(relids[i]));
		tables = lappend(tables, table);
	}
	return tables;
}

bool
published_tables_take(StringInfo buf)
{
	MemoryContext oldcontext;

	if (!publication_touched())
		return false;
	table_list_encode(buf, published_tables());
	if (last != NULL && last->len == buf->len && memcmp(last->data, buf->data, buf->len) == 0)
		return false;

	oldcontext = MemoryContextSwitchTo(last_context);
	if (last == NULL)
		last = makeStringInfo();
	resetStringInfo(last);
	appendBinaryStringInfo(last, buf->data, buf->len);
	MemoryContextSwitchTo(oldcontext);
	return true;
}

List *
published_family(Oid relid)
{
	List	   *family = find_all_inheritors(relid, NoLock, NULL);

	return get_rel_relispartition(relid) ?
		list_concat(family, get_partition_ancestors(relid)) : family;
}
