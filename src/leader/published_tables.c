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
 * A table that left and joined again within one transaction is on the list before and after it,
 * but what was changed in between is not in the stream.  So tables that were changed while they
 * were not published are noted; those that are on the list in the end have left first, as a list
 * without them says.
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

/* What this transaction has changed while it was not published, of Oid; NULL: nothing. */
static MemoryContext missed_context;
static HTAB *missed = NULL;

void
published_tables_start(MemoryContext parent)
{
	last_context = AllocSetContextCreate(parent, "pg_fanout published tables",
										 ALLOCSET_DEFAULT_SIZES);
	last = NULL;
	missed_context = AllocSetContextCreate(parent, "pg_fanout missed tables",
										   ALLOCSET_SMALL_SIZES);
	missed = NULL;
}

/* ---------- what is not in the stream ---------- */

static HTAB *
make_table(MemoryContext context, const char *name, Size keysize, Size entrysize)
{
	HASHCTL		ctl = {.keysize = keysize, .entrysize = entrysize, .hcxt = context};

	return hash_create(name, 128, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

void
published_tables_begin(void)
{
	if (missed == NULL)
		return;
	missed = NULL;
	MemoryContextReset(missed_context);
}

void
published_tables_note_change(Relation rel)
{
	Oid			relid = RelationGetRelid(rel);

	if ((missed != NULL && hash_search(missed, &relid, HASH_FIND, NULL) != NULL) ||
		publication_publishes(rel))
		return;
	if (missed == NULL)
		missed = make_table(missed_context, "pg_fanout missed tables", sizeof(Oid), sizeof(Oid));
	(void) hash_search(missed, &relid, HASH_ENTER, NULL);
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

static void
remember(const StringInfoData *said, List *tables)
{
	MemoryContext oldcontext;
	ListCell   *lc;

	MemoryContextReset(last_context);
	oldcontext = MemoryContextSwitchTo(last_context);
	last = makeStringInfo();
	appendBinaryStringInfo(last, said->data, said->len);
	listed = make_table(last_context, "pg_fanout listed tables", sizeof(Oid), sizeof(ListedTable));
	listed_schemas = make_table(last_context, "pg_fanout listed schemas", sizeof(uint32),
								sizeof(uint32));
	foreach(lc, tables)
	{
		ListedTable *table = lfirst(lc);
		uint32		schema_hash = publication_schema_hash(get_rel_namespace(table->relid));

		*(ListedTable *) hash_search(listed, &table->relid, HASH_ENTER, NULL) = *table;
		(void) hash_search(listed_schemas, &schema_hash, HASH_ENTER, NULL);
	}
	MemoryContextSwitchTo(oldcontext);
}

/* As what a table's rows go: itself, or the ancestor that is listed; InvalidOid: neither is. */
static Oid
listed_as(Oid relid)
{
	ListCell   *lc;

	if (hash_search(listed, &relid, HASH_FIND, NULL) != NULL)
		return relid;
	if (!get_rel_relispartition(relid))
		return InvalidOid;
	foreach(lc, get_partition_ancestors(relid))
	{
		if (hash_search(listed, &lfirst_oid(lc), HASH_FIND, NULL) != NULL)
			return lfirst_oid(lc);
	}
	return InvalidOid;
}

/* Those of the list, which was just made, that have left and joined again. */
static List *
rejoined_tables(void)
{
	List	   *relids = NIL;
	HASH_SEQ_STATUS seq;
	Oid		   *relid;

	if (missed == NULL)
		return NIL;
	hash_seq_init(&seq, missed);
	while ((relid = hash_seq_search(&seq)) != NULL)
	{
		Oid			as = listed_as(*relid);

		if (OidIsValid(as))
			relids = list_append_unique_oid(relids, as);
	}
	return relids;
}

static StringInfo
encode_without(List *tables, List *relids)
{
	StringInfo	buf = makeStringInfo();
	List	   *others = NIL;
	ListCell   *lc;

	foreach(lc, tables)
	{
		if (!list_member_oid(relids, ((ListedTable *) lfirst(lc))->relid))
			others = lappend(others, lfirst(lc));
	}
	table_list_encode(buf, others);
	return buf;
}

static bool
is_published(Oid relid)
{
	Relation	rel = RelationIdGetRelation(relid);
	bool		published;

	if (!RelationIsValid(rel))
		return false;
	published = publication_publishes(rel);
	RelationClose(rel);
	return published;
}

/* Is any table published now that has missed something? */
static bool
any_missed(void)
{
	HASH_SEQ_STATUS seq;
	Oid		   *relid;

	if (missed == NULL)
		return false;
	hash_seq_init(&seq, missed);
	while ((relid = hash_seq_search(&seq)) != NULL)
	{
		if (is_published(*relid))
		{
			hash_seq_term(&seq);
			return true;
		}
	}
	return false;
}

List *
published_tables_take(void)
{
	Touched		touched;
	List	   *tables;
	List	   *rejoined;
	StringInfo	now;
	bool		same;

	if (!publication_touched(&touched) || (!may_change_list(&touched) && !any_missed()))
		return NIL;
	tables = published_tables();
	now = encode_without(tables, NIL);
	same = last != NULL && last->len == now->len && memcmp(last->data, now->data, now->len) == 0;
	if (!same)
		remember(now, tables);
	rejoined = rejoined_tables();
	if (rejoined != NIL)
		return list_make2(encode_without(tables, rejoined), now);
	return same ? NIL : list_make1(now);
}

List *
published_family(Oid relid)
{
	List	   *family = find_all_inheritors(relid, NoLock, NULL);

	return get_rel_relispartition(relid) ?
		list_concat(family, get_partition_ancestors(relid)) : family;
}
