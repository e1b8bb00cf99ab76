/*
 * ddl_temporary.c
 *		Which objects live no longer than what is temporary?
 *
 * A view of a temporary table is temporary itself.  A function or domain of a temporary
 * table's row type is not, but it is dropped with the table, without a statement.  A follower
 * has neither.
 *
 * A permanent object may use a temporary one in many more ways: a default, a check, an index,
 * a trigger, a rule, a policy, the query of a view, the type of a column.  It, or that part of it,
 * goes with the session.  To find out, one would have to parse what the statement says,
 * as it does itself; afterwards the server's own records of what depends on what tell.
 * So a statement whose text may name something temporary is run first.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_attrdef.h"
#include "catalog/pg_class.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_policy.h"
#include "catalog/pg_rewrite.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/policy.h"
#include "commands/trigger.h"
#include "parser/analyze.h"
#include "parser/parse_relation.h"
#include "parser/parse_type.h"
#include "rewrite/rewriteSupport.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "leader/ddl.h"

#define ANY_PART	(-1)

bool
is_temporary_type(Oid typid)
{
	HeapTuple	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(typid));
	bool		result;

	if (!HeapTupleIsValid(tuple))
		return false;
	result = isAnyTempNamespace(((Form_pg_type) GETSTRUCT(tuple))->typnamespace);
	ReleaseSysCache(tuple);
	return result;
}

/* To look up a %TYPE would say something to the client. */
bool
names_temporary_type(const TypeName *name)
{
	return name != NULL && !name->pct_type &&
		is_temporary_type(LookupTypeNameOid(NULL, name, true));
}

static bool
is_temporary(Oid class_id, Oid object_id, int sub_id)
{
	ObjectAddress address;

	if (class_id == RelationRelationId)
		return get_rel_persistence(object_id) == RELPERSISTENCE_TEMP;
	if (class_id == NamespaceRelationId)
		return isAnyTempNamespace(object_id);
	ObjectAddressSubSet(address, class_id, object_id, sub_id);
	return is_objectclass_supported(class_id) && isAnyTempNamespace(get_object_namespace(&address));
}

/* Does the object need a temporary one?  A part of it, or, with -1, any. */
static bool
depends_on_temporary(Oid class_id, Oid object_id, int sub_id)
{
	Relation	depend = table_open(DependRelationId, AccessShareLock);
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found = false;

	ScanKeyInit(&keys[0], Anum_pg_depend_classid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(class_id));
	ScanKeyInit(&keys[1], Anum_pg_depend_objid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(object_id));
	scan = systable_beginscan(depend, DependDependerIndexId, true, NULL, 2, keys);
	while (!found && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_depend form = (Form_pg_depend) GETSTRUCT(tuple);

		found = (sub_id == ANY_PART || form->objsubid == sub_id) &&
			is_temporary(form->refclassid, form->refobjid, form->refobjsubid);
	}
	systable_endscan(scan);
	table_close(depend, AccessShareLock);
	return found;
}

/* Then it will be gone with that. */
bool
needs_temporary(Oid class_id, Oid object_id)
{
	return depends_on_temporary(class_id, object_id, ANY_PART);
}

/* A rule, trigger or policy of the relation, or the query of a view. */
bool
part_needs_temporary(ObjectType type, Oid relid, const char *name)
{
	switch (type)
	{
		case OBJECT_RULE:
			return needs_temporary(RewriteRelationId, get_rewrite_oid(relid, name, true));
		case OBJECT_TRIGGER:
			return needs_temporary(TriggerRelationId, get_trigger_oid(relid, name, true));
		case OBJECT_POLICY:
			return needs_temporary(PolicyRelationId, get_relation_policy_oid(relid, name, true));
		default:
			return false;
	}
}

/*
 * What is temporary itself needs others.  An older column does not count when another part of
 * the table is altered.
 */
bool
touched_needs_temporary(const TouchedObject *object)
{
	bool		whole = object->created && object->sub_id == 0;

	/* The server says which column a default is of. */
	if (object->class_id == AttrDefaultRelationId)
		return get_rel_persistence(object->object_id) != RELPERSISTENCE_TEMP &&
			needs_temporary(AttrDefaultRelationId,
							GetAttrDefaultOid(object->object_id, object->sub_id));
	return !is_temporary(object->class_id, object->object_id, object->sub_id) &&
		depends_on_temporary(object->class_id, object->object_id,
							 whole ? ANY_PART : object->sub_id);
}

static const char *
name_of(Oid class_id, Oid object_id)
{
	if (class_id == RelationRelationId)
		return get_rel_name(object_id);
	if (class_id == TypeRelationId)
		return format_type_extended(object_id, -1, FORMAT_TYPE_ALLOW_INVALID);
	return NULL;
}

/* Its last part, without quotes. */
static char *
bare_name(const char *name)
{
	const char *dot = strrchr(name, '.');
	char	   *bare = pstrdup(dot != NULL ? dot + 1 : name);
	Size		len;

	if (bare[0] == '"')
		bare++;
	len = strlen(bare);
	if (len > 0 && bare[len - 1] == '"')
		bare[len - 1] = '\0';
	return bare;
}

/*
 * Relations and types are found without their schema; all else has to say pg_temp.  An
 * identifier with escapes, or quotes in it, may be anything.
 */
bool
may_name_temporary(const char *text)
{
	Oid			temporary;
	Oid			temporary_toast;
	Relation	depend;
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found;

	GetTempNamespaceState(&temporary, &temporary_toast);
	if (!OidIsValid(temporary))
		return false;
	found = strcasestr(text, "pg_temp") != NULL || strcasestr(text, "u&\"") != NULL ||
		strstr(text, "\"\"") != NULL;
	depend = table_open(DependRelationId, AccessShareLock);
	ScanKeyInit(&keys[0], Anum_pg_depend_refclassid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(NamespaceRelationId));
	ScanKeyInit(&keys[1], Anum_pg_depend_refobjid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(temporary));
	scan = systable_beginscan(depend, DependReferenceIndexId, true, NULL, 2, keys);
	while (!found && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_depend form = (Form_pg_depend) GETSTRUCT(tuple);
		const char *name = name_of(form->classid, form->objid);

		found = name != NULL && strcasestr(text, bare_name(name)) != NULL;
	}
	systable_endscan(scan);
	table_close(depend, AccessShareLock);
	return found;
}

/* A query as it was parsed. */
bool
query_uses_temporary(Node *query)
{
	Oid			temporary;
	Oid			temporary_toast;
	RawStmt    *raw;

	GetTempNamespaceState(&temporary, &temporary_toast);
	if (!OidIsValid(temporary))
		return false;
	raw = makeNode(RawStmt);
	raw->stmt = copyObject(query);
	raw->stmt_location = -1;
	return isQueryUsingTempRelation(parse_analyze_fixedparams(raw, "", NULL, 0, NULL));
}
