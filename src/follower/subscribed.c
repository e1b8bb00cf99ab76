/*
 * subscribed.c
 *		Tables that subscriptions of built-in logical replication write to.
 *
 * Their workers change rows without the executor, where no hook of the guard sees it.  So a
 * table is either a subscription's or a stream's: the guard looks when a subscription gets
 * tables, fanout.follow() when it takes some over.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_subscription_rel.h"
#include "utils/rel.h"

#include "follower/guard.h"

/* Of this database, List of oids. */
List *
subscribed_tables(void)
{
	Relation	rel = table_open(SubscriptionRelRelationId, AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	List	   *relids = NIL;
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		relids = lappend_oid(relids, ((Form_pg_subscription_rel) GETSTRUCT(tuple))->srrelid);
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return relids;
}
