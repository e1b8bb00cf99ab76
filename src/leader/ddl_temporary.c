/*
 * ddl_temporary.c
 *		Which objects live no longer than what is temporary?
 *
 * A view of a temporary table is temporary itself.  A function or domain of a temporary
 * table's row type is not, but it is dropped with the table, without a statement.  A follower
 * has neither.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_type.h"
#include "parser/analyze.h"
#include "parser/parse_relation.h"
#include "parser/parse_type.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "leader/ddl.h"

static bool
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

/* Does the object need a temporary one?  Then it will be gone with that. */
bool
needs_temporary(Oid class_id, Oid object_id)
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

		found = (form->refclassid == TypeRelationId && is_temporary_type(form->refobjid)) ||
			(form->refclassid == RelationRelationId &&
			 get_rel_persistence(form->refobjid) == RELPERSISTENCE_TEMP);
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
