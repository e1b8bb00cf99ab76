/*
 * guard_types.c
 *		Replicated tables that are changed without being touched: by their types and schemas.
 *
 * Rows show other values when a label of their enum is renamed, and the stream stops at a
 * domain's new constraint, or at a type or schema of another name.  A table depends on the
 * types of its columns, and those on others: a domain, array, range or composite type on what
 * it is made of.  pg_depend has all of that.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/pg_class.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"

#include "follower/guard.h"

static Oid	table_of_type(Oid type, List **seen);

/* A replicated table that is that object, or has values of it; InvalidOid: none. */
static Oid
table_of_dependent(Form_pg_depend depend, List **seen)
{
	Oid			row_type;

	if (depend->classid == TypeRelationId)
		return table_of_type(depend->objid, seen);
	if (depend->classid != RelationRelationId)
		return InvalidOid;
	if (guard_stream_of(depend->objid) != NULL)
		return depend->objid;
	row_type = get_rel_type_id(depend->objid);
	return OidIsValid(row_type) ? table_of_type(row_type, seen) : InvalidOid;
}

static Oid
table_of_type(Oid type, List **seen)
{
	Oid			relid = InvalidOid;
	Relation	catalog;
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;

	check_stack_depth();
	if (list_member_oid(*seen, type))
		return InvalidOid;
	*seen = lappend_oid(*seen, type);

	ScanKeyInit(&keys[0], Anum_pg_depend_refclassid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(TypeRelationId));
	ScanKeyInit(&keys[1], Anum_pg_depend_refobjid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(type));
	catalog = table_open(DependRelationId, AccessShareLock);
	scan = systable_beginscan(catalog, DependReferenceIndexId, true, NULL, lengthof(keys), keys);
	while (!OidIsValid(relid) && HeapTupleIsValid(tuple = systable_getnext(scan)))
		relid = table_of_dependent((Form_pg_depend) GETSTRUCT(tuple), seen);
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	return relid;
}

Oid
guard_table_of_type(Oid type)
{
	List	   *seen = NIL;
	Oid			relid = table_of_type(type, &seen);

	list_free(seen);
	return relid;
}

Oid
guard_table_in_schema(Oid schema)
{
	List	   *relids = guard_tables();
	Oid			found = InvalidOid;
	ListCell   *lc;

	foreach(lc, relids)
	{
		if (get_rel_namespace(lfirst_oid(lc)) == schema)
		{
			found = lfirst_oid(lc);
			break;
		}
	}
	list_free(relids);
	return found;
}
