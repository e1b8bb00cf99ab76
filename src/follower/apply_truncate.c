/*
 * apply_truncate.c
 *		TRUNCATE of the leader on local tables.
 *
 * The leader's list has every table that its TRUNCATE emptied, those of a
 * CASCADE included, so nothing is cascaded here.  A table that is partitioned
 * here is emptied with all partitions that it has here.
 */
#include "postgres.h"

#include "access/table.h"

#include "follower/apply_internal.h"
#include "follower/local_table.h"

void
apply_truncate(const Change *change, const LogTxn *txn)
{
	List	   *rels = NIL;
	ListCell   *lc;

	/* It needs the tables to itself. */
	group_close_relations();
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

	local_tables_truncate(rels, (change->flags & TRUNCATE_RESTART_IDENTITY) != 0);
	foreach(lc, rels)
		table_close(lfirst(lc), NoLock);
}
