/*
 * apply_partition.c
 *		Changes for a local table that is partitioned.
 *
 * The leader may send them for a plain table, or for a partitioned one that is
 * published as a whole (publish_via_partition_root): how the table is partitioned
 * here is then this follower's own business.  A new row goes to the partition that its
 * values say.  A row to change is looked for in the partition that its key says;
 * when the key does not decide that, in all of them.  An UPDATE may take a row
 * to another partition: then it is deleted here and inserted there.
 *
 * A partition that got a change is opened as an ApplyRelation of its own, mapped to
 * the same description, and then takes the ordinary way of a row.  It stays open with
 * the partitioned table, until the end of the local transaction (apply_group.c).
 */
#include "postgres.h"

#include "access/table.h"
#include "access/sysattr.h"
#include "access/tupconvert.h"
#include "catalog/partition.h"
#include "executor/execPartition.h"
#include "executor/executor.h"
#include "nodes/makefuncs.h"
#include "optimizer/optimizer.h"
#include "partitioning/partdesc.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/partcache.h"
#include "utils/rel.h"

#include "compat.h"
#include "follower/apply_internal.h"

/* A partition that is open. */
typedef struct OpenPartition
{
	Oid			relid;			/* hash key */
	ApplyRelation *relation;
	AttrMap    *from_root;		/* of rows; NULL: they are the same */
	AttrMap    *to_root;
} OpenPartition;

struct Partitions
{
	ModifyTableState *mtstate;	/* what the server's routing wants to know */
	PartitionTupleRouting *routing;
	HTAB	   *open;			/* of OpenPartition */
	bool		key_decides;	/* the leader's key says which partition */
};

/* ---------- which partition ---------- */

static bool
is_key_column(const RelationDesc *desc, const char *name)
{
	for (int i = 0; i < desc->natts; i++)
	{
		if (strcmp(desc->columns[i].name, name) == 0)
			return desc->replident == REPLICA_IDENTITY_FULL || desc->columns[i].is_key;
	}
	return false;
}

/* Does the leader's key hold all columns of that table's partition key? */
static bool
has_partition_key(const RelationDesc *desc, Relation rel)
{
	PartitionKey key = RelationGetPartitionKey(rel);
	Bitmapset  *columns = NULL;
	int			column = -1;

	pull_varattnos((Node *) key->partexprs, 1, &columns);
	for (int i = 0; i < key->partnatts; i++)
	{
		if (key->partattrs[i] != InvalidAttrNumber)
			columns = bms_add_member(columns,
									 key->partattrs[i] - FirstLowInvalidHeapAttributeNumber);
	}
	while ((column = bms_next_member(columns, column)) >= 0)
	{
		AttrNumber	attnum = column + FirstLowInvalidHeapAttributeNumber;

		if (attnum <= 0 ||
			!is_key_column(desc, get_attname(RelationGetRelid(rel), attnum, false)))
			return false;
	}
	return true;
}

static bool
relid_has_partition_key(const RelationDesc *desc, Oid relid)
{
	Relation	rel = table_open(relid, AccessShareLock);
	bool		result = has_partition_key(desc, rel);

	table_close(rel, NoLock);
	return result;
}

/* The leaves below a partitioned table; the others go to *branches. */
static List *
leaf_partitions(Relation rel, List **branches)
{
	PartitionDesc partdesc = RelationGetPartitionDesc(rel, true);
	List	   *leaves = NIL;

	for (int i = 0; i < partdesc->nparts; i++)
	{
		Relation	branch;

		if (partdesc->is_leaf[i])
		{
			leaves = lappend_oid(leaves, partdesc->oids[i]);
			continue;
		}
		*branches = lappend_oid(*branches, partdesc->oids[i]);
		branch = table_open(partdesc->oids[i], AccessShareLock);
		leaves = list_concat(leaves, leaf_partitions(branch, branches));
		table_close(branch, NoLock);
	}
	return leaves;
}

/* The keys of the tables above count, too: routing checks that the row belongs here. */
static bool
key_decides_partition(const RelationDesc *desc, Relation rel)
{
	List	   *others = NIL;
	ListCell   *lc;

	list_free(leaf_partitions(rel, &others));
	if (rel->rd_rel->relispartition)
		others = list_concat(others, get_partition_ancestors(RelationGetRelid(rel)));
	foreach(lc, others)
	{
		if (!relid_has_partition_key(desc, lfirst_oid(lc)))
			return false;
	}
	return has_partition_key(desc, rel);
}

void
partitions_open(ApplyRelation *root)
{
	EState	   *estate = group_estate();
	HASHCTL		ctl = {.keysize = sizeof(Oid), .entrysize = sizeof(OpenPartition),
	.hcxt = CurrentMemoryContext};
	Partitions *partitions = palloc0(sizeof(Partitions));

	partitions->mtstate = makeNode(ModifyTableState);
	partitions->mtstate->ps.state = estate;
	partitions->mtstate->operation = CMD_INSERT;
	partitions->mtstate->resultRelInfo = root->result;
	partitions->routing = ExecSetupPartitionTupleRouting(estate, root->rel);
	partitions->open = hash_create("pg_fanout open partitions", 32, &ctl,
								   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	partitions->key_decides = key_decides_partition(root->desc, root->rel);
	root->partitions = partitions;
}

/* The partitions themselves are closed like all tables of the local transaction. */
void
partitions_close(ApplyRelation *root)
{
	ExecCleanupTupleRouting(root->partitions->mtstate, root->partitions->routing);
	root->partitions = NULL;
}

static OpenPartition *
open_partition(ApplyRelation *root, Oid relid)
{
	bool		found;
	OpenPartition *partition = hash_search(root->partitions->open, &relid, HASH_ENTER, &found);
	MemoryContext oldcontext;
	ApplyRelation *relation;

	if (found)
		return partition;
	oldcontext = MemoryContextSwitchTo(group_estate()->es_query_cxt);
	relation = palloc0(sizeof(ApplyRelation));
	relation->leader_relid = root->leader_relid;
	relation->desc = root->desc;
	group_open_table(relation, relid);
	partition->relation = relation;
	partition->from_root = fanout_build_attrmap_if_req(RelationGetDescr(root->rel),
														RelationGetDescr(relation->rel));
	partition->to_root = fanout_build_attrmap_if_req(RelationGetDescr(relation->rel),
													  RelationGetDescr(root->rel));
	MemoryContextSwitchTo(oldcontext);
	return partition;
}

/* The partition for a row that has the columns of the partitioned table. */
static OpenPartition *
route(ApplyRelation *root, TupleTableSlot *row)
{
	Partitions *partitions = root->partitions;
	ResultRelInfo *result = ExecFindPartition(partitions->mtstate, root->result,
											  partitions->routing, row, group_estate());

	return open_partition(root, RelationGetRelid(result->ri_RelationDesc));
}

/* Search all partitions for the row that fits best; NULL: nowhere. */
static OpenPartition *
search(ApplyRelation *root, const Change *change)
{
	List	   *branches = NIL;
	MemoryContext oldcontext = MemoryContextSwitchTo(row_memory());
	List	   *leaves = leaf_partitions(root->rel, &branches);
	OpenPartition *equal = NULL;
	ListCell   *lc;

	MemoryContextSwitchTo(oldcontext);
	foreach(lc, leaves)
	{
		OpenPartition *partition = open_partition(root, lfirst_oid(lc));
		RowMatch	match = row_find(partition->relation, change);

		if (match == ROW_IDENTICAL && equal != NULL)
			row_clear(equal->relation);
		if (match == ROW_IDENTICAL)
			return partition;
		if (match == ROW_EQUAL && equal == NULL)
			equal = partition;
		else if (match == ROW_EQUAL)
			row_clear(partition->relation);
	}
	return equal;
}

/* The partition that has the row, which is in its found_slot. */
static OpenPartition *
find(ApplyRelation *root, const Change *change)
{
	OpenPartition *partition;

	if (!root->partitions->key_decides)
		partition = search(root, change);
	else
	{
		partition = route(root, row_searched(root, change));
		if (row_find(partition->relation, change) == ROW_NONE)
			partition = NULL;
	}
	if (partition == NULL)
		row_not_found(root, change);
	return partition;
}

/* ---------- changes ---------- */

static void
insert_into(OpenPartition *partition, TupleTableSlot *root_row)
{
	ApplyRelation *relation = partition->relation;

	if (partition->from_root != NULL)
		root_row = execute_attr_map_slot(partition->from_root, root_row, relation->new_slot);
	row_insert(relation, root_row);
}

static void
update(ApplyRelation *root, const Change *change)
{
	OpenPartition *from = find(root, change);
	OpenPartition *to;
	TupleTableSlot *row = row_updated(from->relation, change->newrow);
	TupleTableSlot *root_row = row;

	if (from->to_root != NULL)
		root_row = execute_attr_map_slot(from->to_root, row, root->new_slot);
	to = route(root, root_row);
	if (to == from)
		row_update(from->relation, row);
	else
	{
		row_delete(from->relation);
		insert_into(to, root_row);
		row_clear(to->relation);
	}
	row_clear(from->relation);
}

static void
delete(ApplyRelation *root, const Change *change)
{
	OpenPartition *partition = find(root, change);

	row_delete(partition->relation);
	row_clear(partition->relation);
}

void
partitions_change(ApplyRelation *root, const Change *change)
{
	TupleTableSlot *row;
	OpenPartition *partition;

	switch (change->op)
	{
		case CHANGE_INSERT:
			row = row_inserted(root, change->newrow);
			partition = route(root, row);
			insert_into(partition, row);
			row_clear(partition->relation);
			break;
		case CHANGE_UPDATE:
			update(root, change);
			break;
		default:
			delete(root, change);
			break;
	}
}
