/*
 * restricted_types.c
 *		Code of a role leaves no type in the temporary schema of a follower's process.
 *
 * These processes run code of table owners, and of the roles of schema changes, within a
 * security-restricted operation, and afterwards statements of others.  A type without a
 * schema is looked for in the temporary schema first, whatever search_path says, and a domain
 * comes with code in its constraint.  The server keeps temporary relations from being made in
 * such an operation, types only from its newer minor releases on.
 *
 * The hook is there in the follower's processes only.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"

#include "follower/follower.h"

static object_access_hook_type prev_object_access = NULL;

/*
 * Row types come with relations, which the server looks after, and base types need a superuser,
 * or are arrays of others.
 */
static bool
is_temporary(Form_pg_type type)
{
	return type->typtype != TYPTYPE_COMPOSITE && type->typtype != TYPTYPE_BASE &&
		isTempNamespace(type->typnamespace);
}

/* Its row has just been made: SnapshotSelf sees it. */
static bool
is_temporary_type(Oid type)
{
	Relation	catalog = table_open(TypeRelationId, AccessShareLock);
	bool		temporary;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_type_oid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(type));
	scan = systable_beginscan(catalog, TypeOidIndexId, true, SnapshotSelf, 1, &key);
	tuple = systable_getnext(scan);
	temporary = HeapTupleIsValid(tuple) && is_temporary((Form_pg_type) GETSTRUCT(tuple));
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	return temporary;
}

static void
check_new_type(ObjectAccessType access, Oid class_id, Oid object_id, int sub_id, void *arg)
{
	if (access == OAT_POST_CREATE && class_id == TypeRelationId &&
		InSecurityRestrictedOperation() && is_temporary_type(object_id))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("cannot create a type in a temporary schema within security-restricted operation")));
	if (prev_object_access)
		prev_object_access(access, class_id, object_id, sub_id, arg);
}

/* From here on, in this process. */
void
restricted_types_init(void)
{
	prev_object_access = object_access_hook;
	object_access_hook = check_new_type;
}
