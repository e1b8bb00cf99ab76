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
#include "catalog/catalog.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "commands/tablecmds.h"
#include "miscadmin.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "compat.h"
#include "follower/apply_internal.h"

typedef struct Truncation
{
	List	   *rels;
	List	   *relids;
	List	   *logged;
} Truncation;

static void
add_relation(Truncation *truncation, Oid relid)
{
	Relation	rel;

	if (list_member_oid(truncation->relids, relid))
		return;
	CHECK_FOR_INTERRUPTS();
	rel = table_open(relid, AccessExclusiveLock);
	truncation->rels = lappend(truncation->rels, rel);
	truncation->relids = lappend_oid(truncation->relids, relid);
	if (RelationIsLogicallyLogged(rel))
		truncation->logged = lappend_oid(truncation->logged, relid);
}

static void
add_table(Truncation *truncation, Oid relid)
{
	ListCell   *lc;

	if (get_rel_relkind(relid) != RELKIND_PARTITIONED_TABLE)
	{
		add_relation(truncation, relid);
		return;
	}
	foreach(lc, find_all_inheritors(relid, AccessExclusiveLock, NULL))
		add_relation(truncation, lfirst_oid(lc));
}

void
apply_truncate(const Change *change, const LogTxn *txn)
{
	Truncation	truncation = {NIL, NIL, NIL};
	ListCell   *lc;

	/* It needs the tables to itself. */
	group_close_relations();
	for (int i = 0; i < change->nrels; i++)
	{
		ApplyRelation *relation = relation_map_get(change->relids[i]);

		if (!relation_wants(relation, txn))
			continue;
		add_table(&truncation, relation->relid);
		apply_count(relation);
	}
	if (truncation.rels == NIL)
		return;

	ExecuteTruncateGuts(truncation.rels, truncation.relids, truncation.logged, DROP_RESTRICT,
						(change->flags & TRUNCATE_RESTART_IDENTITY) != 0);
	foreach(lc, truncation.rels)
		table_close(lfirst(lc), NoLock);
}
