/*
 * relation_map.c
 *		Which local table a relation of the leader is applied to, and how its
 *		columns map.
 *
 * An entry is made by the leader's description (FRAME_RELATION).  Its local table is found
 * when a change for it comes first: by the leader's oid in fanout.followed_table, or
 * else by its schema and name.  Columns are mapped when a change is to be applied.
 * Both is done again when either side's definition changes: a different description, or an
 * invalidation of the local table.
 *
 * Tables that a stream replicates into have a row in fanout.followed_table.  In a
 * stream of all tables, one that has none yet, made by hand after the first copy, gets
 * one here, so that the guard covers it.  In a stream that names publications it is
 * apply_tables.c that says which tables are followed: changes of others are of a
 * table that joins at the end of the transaction, or has left by the time that it
 * would have been copied.  They are ignored.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/syscache.h"

#include "compat.h"
#include "follower/apply_internal.h"
#include "follower/local_table.h"

/* By its oid here; what a local table is no more finds nothing to invalidate. */
typedef struct LocalRelation
{
	Oid			relid;			/* hash key */
	ApplyRelation *relation;
} LocalRelation;

static HTAB *relations = NULL;
static HTAB *by_relid = NULL;	/* of LocalRelation */
static ApplyRelation *last_described = NULL;	/* the last one that was looked for */
static MemoryContext relations_context = NULL;
static int32 followed_id;
static bool all_tables;		/* the stream names no publications */

/* ---------- the table ---------- */

static void
look_again(ApplyRelation *relation)
{
	relation->found = relation->mapped = false;
}

static void
invalidate_relation(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS status;
	ApplyRelation *relation;
	LocalRelation *local;

	if (relations == NULL)
		return;
	if (OidIsValid(relid))
	{
		local = hash_search(by_relid, &relid, HASH_FIND, NULL);
		if (local != NULL)
			look_again(local->relation);
		return;
	}
	hash_seq_init(&status, relations);
	while ((relation = hash_seq_search(&status)) != NULL)
		look_again(relation);
}

/* From here on, invalidations of the local table are the relation's.  It had another one, perhaps. */
static void
note_local(ApplyRelation *relation)
{
	bool		found;
	LocalRelation *local = hash_search(by_relid, &relation->relid, HASH_ENTER, &found);

	if (found && local->relation != relation)
		look_again(local->relation);
	local->relation = relation;
}

void
relation_map_init(const FollowedRow *row)
{
	HASHCTL		ctl = {.keysize = sizeof(Oid), .entrysize = sizeof(ApplyRelation)};
	HASHCTL		local_ctl = {.keysize = sizeof(Oid), .entrysize = sizeof(LocalRelation)};
	static bool registered = false;

	if (relations_context != NULL)
		MemoryContextDelete(relations_context);
	relations_context = AllocSetContextCreate(TopMemoryContext, "pg_fanout relations",
											  ALLOCSET_DEFAULT_SIZES);
	ctl.hcxt = relations_context;
	relations = hash_create("pg_fanout relations", 128, &ctl,
							HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	local_ctl.hcxt = relations_context;
	by_relid = hash_create("pg_fanout local relations", 128, &local_ctl,
						   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	last_described = NULL;
	if (!registered)
		CacheRegisterRelcacheCallback(invalidate_relation, (Datum) 0);
	registered = true;

	followed_id = row->id;
	all_tables = row->all_tables;
	table_map_init(row->id, relations_context);
	relation_map_reload();
}

/* The rows of fanout.followed_table have changed. */
void
relation_map_reload(void)
{
	invalidate_relation((Datum) 0, InvalidOid);
	table_map_read();
}

/* Those of some tables have.  What had no table may have one now. */
void
relation_map_refresh(List *relids)
{
	HASH_SEQ_STATUS status;
	ApplyRelation *relation;
	ListCell   *lc;

	foreach(lc, relids)
		invalidate_relation((Datum) 0, lfirst_oid(lc));
	hash_seq_init(&status, relations);
	while ((relation = hash_seq_search(&status)) != NULL)
	{
		if (!OidIsValid(relation->relid))
			relation->found = relation->mapped = false;
	}
	table_map_read_some(relids);
}

void
relation_map_describe(const char *payload, Size len)
{
	MemoryContext context = AllocSetContextCreate(relations_context, "pg_fanout relation",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext oldcontext = MemoryContextSwitchTo(context);
	RelationDesc *desc = relation_desc_decode(payload, len);
	bool		found;
	ApplyRelation *relation = hash_search(relations, &desc->relid, HASH_ENTER, &found);

	if (found && relation->raw_len == len && memcmp(relation->raw, payload, len) == 0)
	{
		MemoryContextSwitchTo(oldcontext);
		MemoryContextDelete(context);
		return;
	}
	if (!found)
		memset((char *) relation + sizeof(Oid), 0, sizeof(ApplyRelation) - sizeof(Oid));
	else if (relation->rel != NULL)
		group_close_relations();
	if (relation->desc_context != NULL)
		MemoryContextDelete(relation->desc_context);
	relation->desc_context = context;
	relation->desc = desc;
	relation->raw = memcpy(palloc(Max(len, 1)), payload, len);
	relation->raw_len = len;
	relation->found = relation->mapped = false;
	MemoryContextSwitchTo(oldcontext);
}

void
relation_map_forget(Oid relid)
{
	LocalRelation *local = hash_search(by_relid, &relid, HASH_FIND, NULL);
	ApplyRelation *relation;

	if (local == NULL)
		return;
	relation = local->relation;
	if (relation->relid == relid)
	{
		if (relation->map_context != NULL)
			MemoryContextDelete(relation->map_context);
		MemoryContextDelete(relation->desc_context);
		(void) hash_search(relations, &relation->leader_relid, HASH_REMOVE, NULL);
		last_described = NULL;
	}
	(void) hash_search(by_relid, &relid, HASH_REMOVE, NULL);
}

/* Entries stay where they are; changes of one relation often come in a row. */
static ApplyRelation *
described_relation(Oid leader_relid)
{
	if (last_described == NULL || last_described->leader_relid != leader_relid)
		last_described = hash_search(relations, &leader_relid, HASH_FIND, NULL);
	return last_described;
}

const RelationDesc *
relation_map_desc(void *arg, Oid leader_relid)
{
	ApplyRelation *relation = described_relation(leader_relid);

	return relation == NULL ? NULL : relation->desc;
}

/* ---------- mapping ---------- */

static void
map_columns(ApplyRelation *relation, Relation rel)
{
	TupleDesc	tupdesc = RelationGetDescr(rel);
	int			mapped = 0;
	int			live = 0;

	relation->inputs = palloc0(sizeof(ColumnInput) * Max(relation->desc->natts, 1));
	for (int i = 0; i < relation->desc->natts; i++)
	{
		const ColumnDesc *column = &relation->desc->columns[i];
		AttrNumber	attnum = get_attnum(RelationGetRelid(rel), column->name);

		if (attnum <= 0 || TupleDescAttr(tupdesc, attnum - 1)->attgenerated)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" of relation \"%s.%s\" does not exist on this follower",
							column->name, relation->desc->nspname, relation->desc->relname)));
		column_input_init(&relation->inputs[i], column, TupleDescAttr(tupdesc, attnum - 1));
		mapped++;
	}
	for (int i = 0; i < tupdesc->natts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(tupdesc, i);

		live += attr->attisdropped || attr->attgenerated ? 0 : 1;
	}
	relation->has_extra = live > mapped;
}

int
relation_sent_column(const ApplyRelation *relation, AttrNumber attnum)
{
	for (int i = 0; i < relation->desc->natts; i++)
	{
		if (relation->inputs[i].attnum == attnum)
			return i;
	}
	return -1;
}

/* Does the leader send that local column for a row to be found? */
static bool
is_sent(const ApplyRelation *relation, AttrNumber attnum)
{
	int			column = relation_sent_column(relation, attnum);

	return column >= 0 && (relation->desc->replident == REPLICA_IDENTITY_FULL ||
						   relation->desc->columns[column].is_key);
}

/* Keys WITHOUT OVERLAPS are no btrees: others than the row itself may match. */
static bool
index_is_usable(const ApplyRelation *relation, Oid index_oid)
{
	Relation	index = index_open(index_oid, AccessShareLock);
	Form_pg_index form = index->rd_index;
	bool		usable = form->indisunique && form->indimmediate && form->indisvalid &&
		index->rd_rel->relam == BTREE_AM_OID &&
		RelationGetIndexPredicate(index) == NIL && RelationGetIndexExpressions(index) == NIL;

	for (int i = 0; i < form->indnkeyatts && usable; i++)
		usable = is_sent(relation, form->indkey.values[i]);
	index_close(index, AccessShareLock);
	return usable;
}

/* The index by which rows are found: the identity, the key, or any other that will do. */
static Oid
choose_index(const ApplyRelation *relation, Relation rel)
{
	Oid			identity = RelationGetReplicaIndex(rel);
	Oid			primary = fanout_primary_key_index(rel);
	ListCell   *lc;

	if (OidIsValid(identity) && index_is_usable(relation, identity))
		return identity;
	if (OidIsValid(primary) && index_is_usable(relation, primary))
		return primary;
	if (relation->desc->replident == REPLICA_IDENTITY_FULL)
		return InvalidOid;		/* other unique keys may be NULL */
	foreach(lc, RelationGetIndexList(rel))
	{
		if (index_is_usable(relation, lfirst_oid(lc)))
			return lfirst_oid(lc);
	}
	return InvalidOid;
}

void
relation_map_columns(ApplyRelation *relation, Relation rel)
{
	relation->relid = RelationGetRelid(rel);
	map_columns(relation, rel);
	relation->find_index = choose_index(relation, rel);
}

static void
add_table(const ApplyRelation *relation)
{
	FollowedTable table = {
		.relid = relation->relid,
		.nspname = relation->desc->nspname,
		.relname = relation->desc->relname,
		.leader_relid = relation->desc->relid,
		.state = TABLE_COPIED,
	};

	table_map_add(&table);
	followed_table_put(followed_id, &table);
	followed_tables_changed();
}

/* Was the local table dropped by somebody else? */
static bool
is_missing(const RelationDesc *desc)
{
	ListCell   *lc;

	foreach(lc, relation_map_in_state(TABLE_MISSING))
	{
		FollowedTable *table = relation_map_table(lfirst_oid(lc));

		if (OidIsValid(table->leader_relid) ? table->leader_relid == desc->relid :
			strcmp(table->nspname, desc->nspname) == 0 &&
			strcmp(table->relname, desc->relname) == 0)
			return true;
	}
	return false;
}

/*
 * The local table, by its row, or else by its name; InvalidOid: the table is not followed,
 * although the leader sends its changes, or is missing.
 */
static Oid
find_local(const RelationDesc *desc)
{
	FollowedTable *table = relation_map_leader_table(desc->relid);
	Oid			relid;

	if (table != NULL && SearchSysCacheExists1(RELOID, ObjectIdGetDatum(table->relid)))
		return table->relid;
	/* One that was made in its place lacks the rows. */
	if (is_missing(desc))
		return InvalidOid;
	/* What comes once more may be of a table that has been dropped since. */
	relid = local_table_find(desc->nspname, desc->relname, NoLock,
							 apply_is_replaying() || (!all_tables && table == NULL));
	if (!all_tables && OidIsValid(relid) && relation_map_table(relid) == NULL)
		relid = InvalidOid;
	return relid;
}

Oid
relation_map_known(Oid leader_relid)
{
	FollowedTable *table = relation_map_leader_table(leader_relid);
	ApplyRelation *relation = described_relation(leader_relid);
	Oid			relid = InvalidOid;

	if (table != NULL)
		relid = table->relid;
	else if (relation != NULL && !is_missing(relation->desc))
		relid = local_table_find(relation->desc->nspname, relation->desc->relname, NoLock, true);
	return relation_map_table(relid) != NULL && SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)) ?
		relid : InvalidOid;
}

static void
find_relation(ApplyRelation *relation)
{
	FollowedTable *table;

	relation->relid = find_local(relation->desc);
	relation->found = true;
	relation->state = '\0';
	if (!OidIsValid(relation->relid))
		return;
	note_local(relation);
	if (relation_map_table(relation->relid) == NULL)
		add_table(relation);
	table = relation_map_table(relation->relid);
	relation->state = table->state;
	relation->filter_snapshot = table->filter_snapshot;
	relation->filter_until = table->filter_until;
}

static void
map_relation(ApplyRelation *relation)
{
	Relation	rel = table_open(relation->relid, RowExclusiveLock);
	FormerUser	former;
	MemoryContext oldcontext;

	relation->owner = rel->rd_rel->relowner;
	if (rel->rd_rel->relkind != RELKIND_RELATION &&
		rel->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("cannot replicate into relation \"%s.%s\"",
						relation->desc->nspname, relation->desc->relname),
				 errdetail("It is neither an ordinary nor a partitioned table on this follower.")));
	local_table_require_permanent(rel);

	if (relation->map_context == NULL)
		relation->map_context = AllocSetContextCreate(relations_context, "pg_fanout mapping",
													  ALLOCSET_SMALL_SIZES);
	MemoryContextReset(relation->map_context);
	relation->mapped = true;	/* an invalidation from here on counts */
	oldcontext = MemoryContextSwitchTo(relation->map_context);
	local_table_become(relation->owner, &former);
	relation_map_columns(relation, rel);
	local_table_become_former(&former);
	MemoryContextSwitchTo(oldcontext);
	table_close(rel, NoLock);
}

ApplyRelation *
relation_map_get(Oid leader_relid)
{
	ApplyRelation *relation = described_relation(leader_relid);

	if (relation == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the leader sent a change of a relation that it never described")));
	return relation;
}

/* ---------- the filter of a copy ---------- */

/* Was it visible in the snapshot "xmin:xmax:xip,xip,..."? */
bool
snapshot_sees(const char *snapshot, uint64 xid)
{
	char	   *pos;
	uint64		xmin = strtou64(snapshot, &pos, 10);
	uint64		xmax = strtou64(pos + 1, &pos, 10);

	if (xid < xmin || xid >= xmax)
		return xid < xmin;
	while (*pos != '\0' && pos[1] != '\0')
	{
		if (strtou64(pos + 1, &pos, 10) == xid)
			return false;
	}
	return true;
}

/*
 * Did the copy of the table bring the transaction already, or will it?  Or does it come once more,
 * for tables that were copied beside the stream, and this is another one?
 */
static bool
comes_with_copy(ApplyRelation *relation, const LogTxn *txn)
{
	if ((relation->state == TABLE_BEHIND) != apply_is_replaying() ||
		relation->state == TABLE_PENDING || relation->state == '\0')
		return true;
	if (relation->filter_snapshot == NULL)
		return false;
	if (txn->commit_lsn >= relation->filter_until)
	{
		/* The copy saw nothing that committed so late, nor later. */
		relation->filter_snapshot = NULL;
		return false;
	}
	return snapshot_sees(relation->filter_snapshot, txn->xid);
}

/* What comes with the copy may be of columns that the table has no more: it is not mapped. */
bool
relation_wants(ApplyRelation *relation, const LogTxn *txn)
{
	while (!relation->found || !relation->mapped)
	{
		if (!relation->found)
			find_relation(relation);
		if (comes_with_copy(relation, txn))
			return false;
		if (!relation->mapped)
			map_relation(relation);
	}
	return !comes_with_copy(relation, txn);
}

bool
relation_copied_after(Oid relid, const LogTxn *txn)
{
	FollowedTable *table = relation_map_table(relid);

	return table != NULL && table->filter_snapshot != NULL &&
		txn->commit_lsn < table->filter_until && snapshot_sees(table->filter_snapshot, txn->xid);
}
