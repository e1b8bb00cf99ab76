/*
 * guard_objects.c
 *		The guard's object access hook: schema changes of replicated tables.
 *
 * Commands reach a table by many ways: CASCADE, DROP OWNED, DROP of a function
 * that a default uses, ALTER of a parent.  All of them end in the object access
 * hook, with the object that changes: the table, a column of it, a part of it
 * that has a row in a catalog of its own, or a type or schema of it (guard_types.c).
 *
 * The server marks as internal what one command does on behalf of another, which
 * has been looked at already, and what maintenance does (CLUSTER and VACUUM FULL
 * swap files, REINDEX CONCURRENTLY drops the old index).  So internal changes are
 * let through.  The creation of an index is not looked at here: REINDEX
 * CONCURRENTLY is one, and not marked.
 *
 * A foreign key of a local table may point to a replicated one.  It lives in
 * internal triggers on both, which are let through as well.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_attrdef.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_policy.h"
#include "catalog/pg_rewrite.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "follower/guard.h"

/* A catalog whose rows belong to a table each. */
typedef struct PartCatalog
{
	Oid			catalog;
	Oid			oid_index;
	AttrNumber	oid_column;
	AttrNumber	table_column;
	AttrNumber	type_column;	/* of parts of types; 0: none are */
} PartCatalog;

static const PartCatalog part_catalogs[] = {
	{TriggerRelationId, TriggerOidIndexId, Anum_pg_trigger_oid, Anum_pg_trigger_tgrelid},
	{RewriteRelationId, RewriteOidIndexId, Anum_pg_rewrite_oid, Anum_pg_rewrite_ev_class},
	{PolicyRelationId, PolicyOidIndexId, Anum_pg_policy_oid, Anum_pg_policy_polrelid},
	{ConstraintRelationId, ConstraintOidIndexId, Anum_pg_constraint_oid, Anum_pg_constraint_conrelid,
	Anum_pg_constraint_contypid},
	{AttrDefaultRelationId, AttrDefaultOidIndexId, Anum_pg_attrdef_oid, Anum_pg_attrdef_adrelid},
};

static object_access_hook_type prev_object_access = NULL;

static bool
is_internal_trigger(const PartCatalog *part, HeapTuple tuple)
{
	return part->catalog == TriggerRelationId &&
		((Form_pg_trigger) GETSTRUCT(tuple))->tgisinternal;
}

static Oid
oid_column(HeapTuple tuple, Relation catalog, AttrNumber number)
{
	bool		isnull;

	return DatumGetObjectId(heap_getattr(tuple, number, RelationGetDescr(catalog), &isnull));
}

/* The row may have been made by the command that is running: SnapshotSelf sees it. */
static Oid
table_of_part(const PartCatalog *part, Oid object_id)
{
	Relation	catalog = table_open(part->catalog, AccessShareLock);
	Oid			relid = InvalidOid;
	Oid			type = InvalidOid;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, part->oid_column, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(object_id));
	scan = systable_beginscan(catalog, part->oid_index, true, SnapshotSelf, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple) && !is_internal_trigger(part, tuple))
	{
		relid = oid_column(tuple, catalog, part->table_column);
		if (part->type_column != 0)
			type = oid_column(tuple, catalog, part->type_column);
	}
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	return OidIsValid(type) ? guard_table_of_type(type) : relid;
}

/* A composite type is altered as a relation. */
static Oid
table_of_relation(Oid relid)
{
	if (get_rel_relkind(relid) == RELKIND_COMPOSITE_TYPE)
		return guard_table_of_type(get_rel_type_id(relid));
	return guard_table_of_relation(relid);
}

/* The table that an object is, or is a part of; InvalidOid: none. */
static Oid
table_of_object(Oid class_id, Oid object_id)
{
	if (class_id == RelationRelationId)
		return table_of_relation(object_id);
	if (class_id == TypeRelationId)
		return guard_table_of_type(object_id);
	if (class_id == NamespaceRelationId)
		return guard_table_in_schema(object_id);
	for (int i = 0; i < lengthof(part_catalogs); i++)
	{
		if (part_catalogs[i].catalog == class_id)
			return table_of_part(&part_catalogs[i], object_id);
	}
	return InvalidOid;
}

static void
check_object(Oid class_id, Oid object_id)
{
	Oid			relid = table_of_object(class_id, object_id);

	if (OidIsValid(relid))
		guard_check_table(relid, guard_current_command());
}

static void
check_created(Oid class_id, Oid object_id, int sub_id, const ObjectAccessPostCreate *created)
{
	bool		new_relation = class_id == RelationRelationId && sub_id == 0;

	/* Nothing depends on what is new, but on what it is a part of. */
	if (!created->is_internal && !new_relation && class_id != TypeRelationId &&
		class_id != NamespaceRelationId)
		check_object(class_id, object_id);
}

/* A new child shows its rows in the parent, one that leaves takes them away. */
static void
check_altered(Oid class_id, Oid object_id, const ObjectAccessPostAlter *altered)
{
	if (altered->is_internal)
		return;
	if (class_id == InheritsRelationId)
	{
		check_object(RelationRelationId, altered->auxiliary_id);
		check_object(RelationRelationId, object_id);
	}
	else
		check_object(class_id, object_id);
}

static void
check_access(ObjectAccessType access, Oid class_id, Oid object_id, int sub_id, void *arg)
{
	switch (access)
	{
		case OAT_POST_CREATE:
			check_created(class_id, object_id, sub_id, arg);
			break;
		case OAT_POST_ALTER:
			check_altered(class_id, object_id, arg);
			break;
		case OAT_DROP:
			if ((((ObjectAccessDrop *) arg)->dropflags & PERFORM_DELETION_INTERNAL) == 0)
				check_object(class_id, object_id);
			break;
		case OAT_TRUNCATE:
			guard_check_table(object_id, "TRUNCATE");
			break;
		default:
			break;
	}
}

static void
guard_object_access(ObjectAccessType access, Oid class_id, Oid object_id, int sub_id, void *arg)
{
	if (guard_is_active())
		check_access(access, class_id, object_id, sub_id, arg);
	else if (access == OAT_DROP && class_id == RelationRelationId && sub_id == 0 &&
			 guard_is_passed())
		dropped_table_note(object_id);
	if (prev_object_access)
		prev_object_access(access, class_id, object_id, sub_id, arg);
}

void
guard_objects_init(void)
{
	prev_object_access = object_access_hook;
	object_access_hook = guard_object_access;
}
