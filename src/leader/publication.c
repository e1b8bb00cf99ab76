/*
 * publication.c
 *		What a stream's publications publish of a table.
 *
 * Answers are cached by table and thrown away when the server invalidates the
 * table, its schema, what it is published as, or any publication.  All catalogs are read with the historic snapshot of
 * the transaction that is decoded, so an answer is that of the time of the change.
 *
 * The rules are those of the server's own logical replication:
 *
 *	-	A table is published when a publication names it, its schema, all tables, or one
 *		of its ancestors.
 *	-	With publish_via_partition_root, changes of a partition are published as
 *		those of its topmost published ancestor; when publications differ in that,
 *		the topmost of all wins, and only the filters and column lists of publications
 *		that want it count.
 *	-	Row filters of several publications are combined by OR, for each
 *		action; a publication without a filter publishes all rows.
 *
 * But column lists of several publications add up, where the server raises an
 * error: an ALTER PUBLICATION must not be able to stop the stream for good.  For the
 * same reason a publication that is gone publishes nothing, with a warning.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "executor/executor.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "compat.h"
#include "leader/decoder.h"
#include "leader/publication.h"

/*
 * The session's cache.  Invalidation callbacks can't be unregistered, so they
 * find it here; relations is NULL outside of a session.
 */
static struct
{
	const StreamRow *stream;
	MemoryContext context;
	HTAB	   *relations;		/* of PublishedRelation */
	int			invalid;		/* how many of them are not valid */
	HTAB	   *ancestors;		/* oids: some table is or was published as that */

	MemoryContext list_context;
	List	   *publications;	/* of Publication */
	bool		list_valid;
	Touched		touched;		/* see publication_touched() */
} cache;

/* So many entries that are not valid are kept: most are of tables that will be used again. */
#define MAX_INVALID	100

/* ---------- invalidation ---------- */

static void
invalidate(PublishedRelation *rel)
{
	if (rel->valid)
		cache.invalid++;
	rel->valid = false;
}

/*
 * Callbacks come at any time in which catalogs are read, so they only mark what is
 * to be built again.
 */
static void
invalidate_all(void)
{
	HASH_SEQ_STATUS status;
	PublishedRelation *rel;

	hash_seq_init(&status, cache.relations);
	while ((rel = hash_seq_search(&status)) != NULL)
		invalidate(rel);
}

/* A change of an ancestor is one of every table that is published as it. */
static void
invalidate_published_as(Oid relid)
{
	HASH_SEQ_STATUS status;
	PublishedRelation *rel;

	hash_seq_init(&status, cache.relations);
	while ((rel = hash_seq_search(&status)) != NULL)
	{
		if (rel->publish_as == relid)
			invalidate(rel);
	}
}

static void
touch_relation(Oid relid)
{
	Touched    *touched = &cache.touched;

	/* One statement often does so several times in a row. */
	if (touched->count > 0 && touched->relids[touched->count - 1] == relid)
		return;
	if (touched->count < MAX_TOUCHED)
		touched->relids[touched->count++] = relid;
	else
		touched->all = true;
}

/* By the hash of its oid, which is all that is known; 0: any. */
static void
touch_schema(uint32 hash)
{
	Touched    *touched = &cache.touched;

	if (hash != 0 && touched->nschemas < MAX_TOUCHED)
		touched->schema_hashes[touched->nschemas++] = hash;
	else
		touched->all = true;
}

static void
relation_callback(Datum arg, Oid relid)
{
	PublishedRelation *rel;

	if (cache.relations == NULL)
		return;
	if (!OidIsValid(relid))
	{
		cache.touched.all = true;
		invalidate_all();
		return;
	}
	touch_relation(relid);
	rel = hash_search(cache.relations, &relid, HASH_FIND, NULL);
	if (rel != NULL)
		invalidate(rel);
	if (hash_search(cache.ancestors, &relid, HASH_FIND, NULL) != NULL)
		invalidate_published_as(relid);
}

/* Which publication, or table in it, does not come with it. */
static void
publication_callback(Datum arg, int cacheid, uint32 hashvalue)
{
	if (cache.relations == NULL || cache.stream->own_publication)
		return;
	invalidate_all();
	cache.list_valid = false;
	cache.touched.all = true;
}

/* Descriptions hold the names of schemas. */
static void
schema_callback(Datum arg, int cacheid, uint32 hashvalue)
{
	HASH_SEQ_STATUS status;
	PublishedRelation *rel;

	if (cache.relations == NULL)
		return;
	touch_schema(hashvalue);
	hash_seq_init(&status, cache.relations);
	while ((rel = hash_seq_search(&status)) != NULL)
	{
		if (hashvalue == 0 || rel->schema_hash == hashvalue)
			invalidate(rel);
	}
}

bool
publication_touched(Touched *touched)
{
	if (cache.touched.count == 0 && cache.touched.nschemas == 0 && !cache.touched.all)
		return false;
	*touched = cache.touched;
	cache.touched.count = cache.touched.nschemas = 0;
	cache.touched.all = false;
	return true;
}

static void
register_callbacks(void)
{
	static bool registered = false;

	if (registered)
		return;
	CacheRegisterRelcacheCallback(relation_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(PUBLICATIONOID, publication_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(PUBLICATIONRELMAP, publication_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(PUBLICATIONNAMESPACEMAP, publication_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, schema_callback, (Datum) 0);
	registered = true;
}

void
publication_start(MemoryContext parent, const StreamRow *stream)
{
	HASHCTL		ctl;

	cache.stream = stream;
	cache.context = AllocSetContextCreate(parent, "pg_fanout published relations",
										  ALLOCSET_DEFAULT_SIZES);
	cache.list_context = AllocSetContextCreate(cache.context, "pg_fanout publications",
											   ALLOCSET_SMALL_SIZES);
	cache.list_valid = false;
	memset(&cache.touched, 0, sizeof(cache.touched));
	cache.invalid = 0;
	ctl.keysize = sizeof(Oid);
	ctl.entrysize = sizeof(PublishedRelation);
	ctl.hcxt = cache.context;
	cache.relations = hash_create("pg_fanout published relations", 128, &ctl,
								  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	ctl.entrysize = sizeof(Oid);
	cache.ancestors = hash_create("pg_fanout published ancestors", 16, &ctl,
								  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	register_callbacks();
}

void
publication_stop(void)
{
	cache.relations = NULL;
	if (cache.context != NULL)
		MemoryContextDelete(cache.context);
	cache.context = NULL;
}

/* ---------- which publications ---------- */

/* What a stream of every table publishes does not depend on the object that it has made. */
static Publication *
of_every_table(void)
{
	Publication *publication = palloc0(sizeof(Publication));

	publication->alltables = true;
	publication->pubactions.pubinsert = true;
	publication->pubactions.pubupdate = true;
	publication->pubactions.pubdelete = true;
	publication->pubactions.pubtruncate = true;
	return publication;
}

/* The stream goes on; fanout.streams says it, too. */
static void
report_missing(const char *publication)
{
	LeaderStream *stream = MyDecoder->state.stream;

	worker_info_error(&stream->mutex, &stream->worker,
					  psprintf("publication \"%s\" does not exist", publication));
	ereport(WARNING,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("publication \"%s\" does not exist", publication),
			 errdetail("The stream goes on without what it published.")));
}

static List *
named_publications(void)
{
	List	   *publications = NIL;
	ListCell   *lc;

	foreach(lc, cache.stream->publications)
	{
		Publication *publication = GetPublicationByName(lfirst(lc), true);

		if (publication != NULL)
			publications = lappend(publications, publication);
		else
			report_missing(lfirst(lc));
	}
	return publications;
}

List *
publication_list(void)
{
	MemoryContext oldcontext;

	if (cache.list_valid)
		return cache.publications;

	MemoryContextReset(cache.list_context);
	cache.publications = NIL;
	cache.list_valid = true;	/* an invalidation from here on counts */
	oldcontext = MemoryContextSwitchTo(cache.list_context);
	cache.publications = cache.stream->own_publication ? list_make1(of_every_table())
		: named_publications();
	MemoryContextSwitchTo(oldcontext);
	return cache.publications;
}

/* What decides whether a publication holds a table. */
typedef struct RelationFacts
{
	Oid			relid;
	char		relkind;
	List	   *ancestors;		/* of a partition, parent first */
	List	   *publications;	/* oids: those that name it or its schema */
} RelationFacts;

static void
gather_facts(RelationFacts *facts, Relation relation)
{
	facts->relid = RelationGetRelid(relation);
	facts->relkind = relation->rd_rel->relkind;
	facts->ancestors = NIL;
	if (relation->rd_rel->relispartition)
		facts->ancestors = get_partition_ancestors(facts->relid);
	facts->publications = list_concat(GetRelationPublications(facts->relid),
									  GetSchemaPublications(RelationGetNamespace(relation)));
}

/*
 * As which ancestor the publication publishes the table: 1 is its parent, 2 its
 * grandparent..., 0 the table itself, -1: not at all.
 */
static int
published_level(const Publication *publication, const RelationFacts *facts)
{
	int			level = 0;

	/* Rows of a partitioned table are rows of its partitions. */
	if (facts->relkind == RELKIND_PARTITIONED_TABLE && !publication->pubviaroot)
		return -1;
	if (publication->alltables)
		return publication->pubviaroot ? list_length(facts->ancestors) : 0;
	if (facts->ancestors != NIL &&
		OidIsValid(GetTopMostAncestorInPublication(publication->oid, facts->ancestors, &level)))
		return publication->pubviaroot ? level : 0;
	return list_member_oid(facts->publications, publication->oid) ? 0 : -1;
}

static void
add_actions(PublicationActions *to, const PublicationActions *from)
{
	to->pubinsert |= from->pubinsert;
	to->pubupdate |= from->pubupdate;
	to->pubdelete |= from->pubdelete;
	to->pubtruncate |= from->pubtruncate;
}

/*
 * Set rel->actions and rel->publish_as; returns the publications whose filters
 * and column lists count.
 */
static List *
choose_publications(PublishedRelation *rel, const RelationFacts *facts, List *publications)
{
	List	   *chosen = NIL;
	int			top = 0;
	ListCell   *lc;

	foreach(lc, publications)
	{
		Publication *publication = lfirst(lc);
		int			level = published_level(publication, facts);

		if (level < 0)
			continue;
		add_actions(&rel->actions, &publication->pubactions);
		if (level < top)
			continue;
		if (level > top)
			chosen = NIL;
		top = level;
		chosen = lappend(chosen, publication);
	}
	Assert(top <= list_length(facts->ancestors));
	rel->publish_as = top == 0 ? facts->relid : list_nth_oid(facts->ancestors, top - 1);
	return chosen;
}

/* ---------- descriptions ---------- */

static void
build_filters(PublishedRelation *rel, List *publications)
{
	for (int action = 0; action < ROW_ACTIONS; action++)
	{
		Expr	   *filter = published_filter(publications, rel->publish_as, action);

		if (filter == NULL)
			continue;
		if (rel->estate == NULL)
			rel->estate = CreateExecutorState();
		rel->filters[action] = ExecPrepareExpr(filter, rel->estate);
	}
}

static void
describe_column(ColumnDesc *column, Form_pg_attribute att, bool is_key)
{
	int32		typmod = att->atttypmod;
	Oid			typid = getBaseTypeAndTypmod(att->atttypid, &typmod);

	column->name = pstrdup(NameStr(att->attname));
	/* Only the oids of hand-assigned types are the same everywhere. */
	column->typid = typid < FirstGenbkiObjectId ? typid : InvalidOid;
	column->typmod = typmod;
	column->typlen = att->attlen;
	column->form = column_form_for_type(att->atttypid);
	column->is_key = is_key;
}

/* Describe the relation that rows are published as; columns NULL: all. */
static void
build_description(PublishedRelation *rel, Relation target, const Bitmapset *columns)
{
	TupleDesc	tupdesc = RelationGetDescr(target);
	RelationDesc *desc = palloc0(sizeof(RelationDesc));
	bool		all_key = target->rd_rel->relreplident == REPLICA_IDENTITY_FULL;
	Bitmapset  *key = RelationGetIdentityKeyBitmap(target);
	Oid		   *typids = palloc(tupdesc->natts * sizeof(Oid));

	desc->relid = RelationGetRelid(target);
	desc->nspname = get_namespace_name(RelationGetNamespace(target));
	desc->relname = pstrdup(RelationGetRelationName(target));
	desc->replident = target->rd_rel->relreplident;
	desc->columns = palloc0(tupdesc->natts * sizeof(ColumnDesc));
	rel->attnums = palloc(tupdesc->natts * sizeof(AttrNumber));

	for (int i = 0; i < tupdesc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(tupdesc, i);
		bool		is_key = all_key ||
			bms_is_member(att->attnum - FirstLowInvalidHeapAttributeNumber, key);

		if (att->attisdropped || att->attgenerated ||
			(columns != NULL && !bms_is_member(att->attnum, columns)))
			continue;
		describe_column(&desc->columns[desc->natts], att, is_key);
		rel->attnums[desc->natts] = att->attnum;
		typids[desc->natts] = att->atttypid;
		desc->natts++;
	}
	rel->desc = desc;
	rel->encoder = row_encoder_make(desc, typids);
}

/* Slots have the columns of target; rows of relation may have to be converted. */
static void
build_slots(PublishedRelation *rel, Relation relation, Relation target)
{
	TupleDesc	tupdesc = CreateTupleDescCopy(RelationGetDescr(target));
	int			natts = RelationGetNumberOfAttributes(relation);

	rel->oldslot = MakeSingleTupleTableSlot(tupdesc, &TTSOpsVirtual);
	rel->newslot = MakeSingleTupleTableSlot(tupdesc, &TTSOpsVirtual);
	if (relation == target)
		return;
	rel->map = fanout_build_attrmap_if_req(RelationGetDescr(relation), RelationGetDescr(target));
	if (rel->map == NULL)
		return;
	rel->raw_values = palloc(natts * sizeof(Datum));
	rel->raw_isnull = palloc(natts * sizeof(bool));
}

/* ---------- the cache ---------- */

static void
reset_entry(PublishedRelation *rel)
{
	MemoryContext context = rel->context;
	Oid			relid = rel->relid;

	memset(rel, 0, sizeof(*rel));
	rel->relid = relid;
	if (context != NULL)
		MemoryContextDelete(context);
}

/* Our own tables hold what is of this database alone. */
static bool
is_own_table(Relation relation)
{
	return RelationGetNamespace(relation) == get_namespace_oid(FANOUT_SCHEMA, true);
}

static void
build_published(PublishedRelation *rel, Relation relation, List *publications)
{
	Relation	target = relation;
	MemoryContext oldcontext;

	if (rel->publish_as != rel->relid)
		target = RelationIdGetRelation(rel->publish_as);
	if (!RelationIsValid(target))
		elog(ERROR, "could not open relation with OID %u", rel->publish_as);

	rel->context = AllocSetContextCreate(cache.context, "pg_fanout published relation",
										 ALLOCSET_SMALL_SIZES);
	elog(DEBUG2, "reading what is published of relation %u", rel->relid);
	oldcontext = MemoryContextSwitchTo(rel->context);
	MemoryContextCopyAndSetIdentifier(rel->context, RelationGetRelationName(target));
	rel->schema_hash = publication_schema_hash(RelationGetNamespace(target));
	build_description(rel, target, published_columns(publications, rel->publish_as));
	build_slots(rel, relation, target);
	build_filters(rel, publications);
	MemoryContextSwitchTo(oldcontext);

	if (target != relation)
		RelationClose(target);
}

static void
build_entry(PublishedRelation *rel, Relation relation)
{
	RelationFacts facts;
	List	   *publications;
	const PublicationActions *actions = &rel->actions;

	reset_entry(rel);
	/* An invalidation that comes while the entry is built is not lost. */
	rel->valid = true;
	cache.invalid--;
	rel->publish_as = rel->relid;
	if (!is_publishable_relation(relation) || is_own_table(relation))
		return;

	gather_facts(&facts, relation);
	publications = choose_publications(rel, &facts, publication_list());
	if (rel->publish_as != rel->relid)
		(void) hash_search(cache.ancestors, &rel->publish_as, HASH_ENTER, NULL);
	if (actions->pubinsert || actions->pubupdate || actions->pubdelete || actions->pubtruncate)
		build_published(rel, relation, publications);
}

PublishedRelation *
publication_lookup(Relation relation)
{
	Oid			relid = RelationGetRelid(relation);
	PublishedRelation *rel;
	bool		found;

	rel = hash_search(cache.relations, &relid, HASH_ENTER, &found);
	if (!found)
	{
		memset(rel, 0, sizeof(*rel));
		rel->relid = relid;
		cache.invalid++;
	}
	if (!rel->valid)
		build_entry(rel, relation);
	return rel;
}

uint32
publication_schema_hash(Oid schema)
{
	return GetSysCacheHashValue1(NAMESPACEOID, ObjectIdGetDatum(schema));
}

void
publication_forget_invalid(void)
{
	HASH_SEQ_STATUS status;
	PublishedRelation *rel;

	if (cache.invalid <= MAX_INVALID)
		return;
	hash_seq_init(&status, cache.relations);
	while ((rel = hash_seq_search(&status)) != NULL)
	{
		if (rel->valid)
			continue;
		reset_entry(rel);
		(void) hash_search(cache.relations, &rel->relid, HASH_REMOVE, NULL);
	}
	cache.invalid = 0;
}

bool
publication_publishes(Relation relation)
{
	RelationFacts facts;
	ListCell   *lc;

	if (!is_publishable_relation(relation) || is_own_table(relation))
		return false;
	gather_facts(&facts, relation);
	foreach(lc, publication_list())
	{
		Publication *publication = lfirst(lc);

		if (publication->alltables || list_member_oid(facts.publications, publication->oid) ||
			published_level(publication, &facts) >= 0)
			return true;
	}
	return false;
}

Oid
publication_changed_as(Relation relation, List *names)
{
	PublishedRelation rel = {.relid = RelationGetRelid(relation)};
	RelationFacts facts;
	List	   *publications = NIL;
	ListCell   *lc;

	foreach(lc, names)
	{
		Publication *publication = GetPublicationByName(lfirst(lc), true);

		if (publication != NULL &&
			(publication->pubactions.pubupdate || publication->pubactions.pubdelete))
			publications = lappend(publications, publication);
	}
	gather_facts(&facts, relation);
	(void) choose_publications(&rel, &facts, publications);
	return rel.actions.pubupdate || rel.actions.pubdelete ? rel.publish_as : InvalidOid;
}
