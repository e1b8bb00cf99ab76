/*
 * apply_truncate.c
 *		TRUNCATE of the leader on local tables.
 *
 * The leader's list has every table that its TRUNCATE emptied, those of a
 * CASCADE included, so nothing is cascaded here.  A table that is partitioned
 * here is emptied with all partitions that it has here.
 *
 * Partitioned tables themselves are not on the leader's list, but foreign keys belong to
 * them, too.  So one whose partitions are all on the list is added to it.
 *
 * When the leader has emptied only partitions of what it publishes as one table, nobody knows
 * here which rows those were: the table is copied again.  One that is being copied is
 * copied anew, as after a schema change.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/partition.h"
#include "catalog/pg_inherits.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "follower/apply_internal.h"
#include "follower/local_table.h"

static bool
all_partitions_listed(Oid root, List *listed)
{
	ListCell   *lc;

	foreach(lc, find_all_inheritors(root, NoLock, NULL))
	{
		if (get_rel_relkind(lfirst_oid(lc)) != RELKIND_PARTITIONED_TABLE &&
			!list_member_oid(listed, lfirst_oid(lc)))
			return false;
	}
	return true;
}

/* The partitioned tables that are emptied with their last partition. */
static List *
add_partitioned(List *rels)
{
	List	   *listed = NIL;
	List	   *ancestors = NIL;
	ListCell   *lc;

	foreach(lc, rels)
	{
		Relation	rel = lfirst(lc);

		listed = lappend_oid(listed, RelationGetRelid(rel));
		if (rel->rd_rel->relispartition)
			ancestors = list_concat_unique_oid(ancestors,
											   get_partition_ancestors(RelationGetRelid(rel)));
	}
	foreach(lc, ancestors)
	{
		if (all_partitions_listed(lfirst_oid(lc), listed))
			rels = local_table_open_all(rels, lfirst_oid(lc), AccessExclusiveLock);
	}
	return rels;
}

/* Copy the tables again, but for those whose copy has seen the change; true: there are some. */
static bool
copy_again(const Change *change, const LogTxn *txn)
{
	List	   *relids = NIL;

	if (apply_is_replaying())
		return false;
	for (int i = 0; i < change->nrels; i++)
	{
		ApplyRelation *relation = relation_map_get(change->relids[i]);

		if (relation_wants(relation, txn) ||
			relation->state == TABLE_PENDING || relation->state == TABLE_BEHIND)
			relids = lappend_oid(relids, relation->relid);
	}
	apply_copy_again(relids);
	return relids != NIL;
}

static void
truncate_tables(const Change *change, const LogTxn *txn)
{
	List	   *rels = NIL;
	ListCell   *lc;

	for (int i = 0; i < change->nrels; i++)
	{
		ApplyRelation *relation = relation_map_get(change->relids[i]);

		if (!relation_wants(relation, txn))
			continue;
		rels = local_table_open_all(rels, relation->relid, AccessExclusiveLock);
		apply_count(relation);
	}
	if (rels == NIL)
		return;

	rels = add_partitioned(rels);
	local_tables_truncate(rels, (change->flags & TRUNCATE_RESTART_IDENTITY) != 0);
	foreach(lc, rels)
		table_close(lfirst(lc), NoLock);
}

/* Returns true: the local transaction ends with the leader's. */
bool
apply_truncate(const Change *change, const LogTxn *txn)
{
	/* It needs the tables to itself. */
	group_close_relations();
	if ((change->flags & TRUNCATE_PARTS) != 0)
		return copy_again(change, txn);
	truncate_tables(change, txn);
	return false;
}
