/*
 * published_tables.c
 *		Which tables a stream's publications publish, told to the followers whenever
 *		that changes.
 *
 * A follower must notice when a table joins the publications: it copies the rows that
 * are there.  It may happen in many ways (ALTER PUBLICATION, a table made in or moved into
 * a published schema, a partition attached...), so statements are not looked at.
 * Instead, at the end of each transaction that touched a publication, or a table or schema
 * such that another list may come out, the list is made anew as the catalogs are then, and
 * when it is not the one before, it goes into the log as the transaction's last change.
 *
 * To make it takes time by the number of tables and partitions, and most transactions that touch
 * anything touch what is not published, as temporary tables, or change nothing about the
 * list: so each table that was touched is looked at first.
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
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "leader/publication.h"
#include "log/table_list.h"

/* What was said last; NULL: nothing yet.  And the same by oid, with the hashes of its schemas. */
static MemoryContext last_context;
static StringInfo last = NULL;
static HTAB *listed;			/* of ListedTable */
static HTAB *listed_schemas;	/* of uint32 */

void
published_tables_start(MemoryContext parent)
{
	last_context = AllocSetContextCreate(parent, "pg_fanout published tables",
										 ALLOCSET_DEFAULT_SIZES);
	last = NULL;
}

/* ---------- the list ---------- */

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

	elog(DEBUG1, "listing the published tables");
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

/* ---------- what was touched ---------- */

static bool
has_listed_ancestor(Oid relid)
{
	ListCell   *lc;

	if (!get_rel_relispartition(relid))
		return false;
	foreach(lc, get_partition_ancestors(relid))
	{
		if (hash_search(listed, &lfirst_oid(lc), HASH_FIND, NULL) != NULL)
			return true;
	}
	return false;
}

static bool
has_name_of(const ListedTable *table, Relation rel)
{
	return strcmp(NameStr(table->relname), RelationGetRelationName(rel)) == 0 &&
		strcmp(NameStr(table->nspname), get_namespace_name(RelationGetNamespace(rel))) == 0;
}

/* May the relation be listed otherwise than it was?  Partitions come and go with their parent. */
static bool
changes_list(Oid relid)
{
	ListedTable *table = hash_search(listed, &relid, HASH_FIND, NULL);
	Relation	rel = RelationIdGetRelation(relid);
	bool		changes;

	if (!RelationIsValid(rel))
		return table != NULL;
	if (!publication_publishes(rel))
		changes = table != NULL;
	else if (rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
		changes = true;
	else if (table != NULL)
		changes = !has_name_of(table, rel);
	else
		changes = !has_listed_ancestor(relid);
	RelationClose(rel);
	return changes;
}

static bool
may_change_list(const Touched *touched)
{
	if (last == NULL || touched->all)
		return true;
	for (int i = 0; i < touched->nschemas; i++)
	{
		if (hash_search(listed_schemas, &touched->schema_hashes[i], HASH_FIND, NULL) != NULL)
			return true;
	}
	for (int i = 0; i < touched->count; i++)
	{
		if (changes_list(touched->relids[i]))
			return true;
	}
	return false;
}

/* ---------- saying it ---------- */

static HTAB *
make_table(const char *name, Size keysize, Size entrysize)
{
	HASHCTL		ctl = {.keysize = keysize, .entrysize = entrysize, .hcxt = last_context};

	return hash_create(name, 128, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

static void
remember(const StringInfoData *said, List *tables)
{
	MemoryContext oldcontext;
	ListCell   *lc;

	MemoryContextReset(last_context);
	oldcontext = MemoryContextSwitchTo(last_context);
	last = makeStringInfo();
	appendBinaryStringInfo(last, said->data, said->len);
	listed = make_table("pg_fanout listed tables", sizeof(Oid), sizeof(ListedTable));
	listed_schemas = make_table("pg_fanout listed schemas", sizeof(uint32), sizeof(uint32));
	foreach(lc, tables)
	{
		ListedTable *table = lfirst(lc);
		uint32		schema_hash = publication_schema_hash(get_rel_namespace(table->relid));

		*(ListedTable *) hash_search(listed, &table->relid, HASH_ENTER, NULL) = *table;
		(void) hash_search(listed_schemas, &schema_hash, HASH_ENTER, NULL);
	}
	MemoryContextSwitchTo(oldcontext);
}

bool
published_tables_take(StringInfo buf)
{
	Touched		touched;
	List	   *tables;

	if (!publication_touched(&touched) || !may_change_list(&touched))
		return false;
	tables = published_tables();
	table_list_encode(buf, tables);
	if (last != NULL && last->len == buf->len && memcmp(last->data, buf->data, buf->len) == 0)
		return false;
	remember(buf, tables);
	return true;
}

List *
published_family(Oid relid)
{
	List	   *family = find_all_inheritors(relid, NoLock, NULL);

	return get_rel_relispartition(relid) ?
		list_concat(family, get_partition_ancestors(relid)) : family;
}
