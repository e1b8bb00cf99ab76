/*
 * ddl_grant.c
 *		GRANT and REVOKE for all objects of a schema.
 *
 * They are about what is in the schema at that moment.  A follower has other objects
 * there, too, which are none of the leader's business; so it gets a statement that names
 * the leader's.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_proc.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/regproc.h"
#include "utils/rel.h"

#include "leader/ddl.h"

/* ---------- which ones ---------- */

static bool
is_meant_relation(ObjectType type, char relkind)
{
	if (type == OBJECT_SEQUENCE)
		return relkind == RELKIND_SEQUENCE;
	return relkind == RELKIND_RELATION || relkind == RELKIND_PARTITIONED_TABLE ||
		relkind == RELKIND_FOREIGN_TABLE || relkind == RELKIND_VIEW ||
		relkind == RELKIND_MATVIEW;
}

static bool
is_meant_routine(ObjectType type, char prokind)
{
	return type == OBJECT_ROUTINE || (type == OBJECT_PROCEDURE) == (prokind == PROKIND_PROCEDURE);
}

/* The name of an object of that kind; NULL: it is of another one. */
static char *
meant_name(ObjectType type, const char *schema, HeapTuple tuple)
{
	if (type == OBJECT_TABLE || type == OBJECT_SEQUENCE)
	{
		Form_pg_class relation = (Form_pg_class) GETSTRUCT(tuple);

		return is_meant_relation(type, relation->relkind) ?
			quote_qualified_identifier(schema, NameStr(relation->relname)) : NULL;
	}
	else
	{
		Form_pg_proc routine = (Form_pg_proc) GETSTRUCT(tuple);

		return is_meant_routine(type, routine->prokind) ?
			format_procedure_qualified(routine->oid) : NULL;
	}
}

static void
append_objects(StringInfo buf, ObjectType type, const char *schema, Oid namespace)
{
	bool		relations = type == OBJECT_TABLE || type == OBJECT_SEQUENCE;
	Relation	catalog = table_open(relations ? RelationRelationId : ProcedureRelationId,
									 AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, relations ? Anum_pg_class_relnamespace : Anum_pg_proc_pronamespace,
				BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(namespace));
	scan = systable_beginscan(catalog, InvalidOid, false, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		char	   *name = meant_name(type, schema, tuple);

		if (name != NULL)
			appendStringInfo(buf, "%s%s", buf->len > 0 ? ", " : "", name);
	}
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
}

/* ---------- the statement ---------- */

static void
append_privilege(StringInfo buf, const AccessPriv *privilege)
{
	ListCell   *lc;

	appendStringInfoString(buf, privilege->priv_name ? privilege->priv_name : "ALL");
	foreach(lc, privilege->cols)
		appendStringInfo(buf, "%s%s", lc == list_head(privilege->cols) ? " (" : ", ",
						 quote_identifier(strVal(lfirst(lc))));
	if (privilege->cols != NIL)
		appendStringInfoChar(buf, ')');
}

static const char *
role_name(const RoleSpec *role)
{
	switch (role->roletype)
	{
		case ROLESPEC_CURRENT_ROLE:
			return "CURRENT_ROLE";
		case ROLESPEC_CURRENT_USER:
			return "CURRENT_USER";
		case ROLESPEC_SESSION_USER:
			return "SESSION_USER";
		case ROLESPEC_PUBLIC:
			return "PUBLIC";
		default:
			return quote_identifier(role->rolename);
	}
}

static const char *
kind_name(ObjectType type)
{
	switch (type)
	{
		case OBJECT_TABLE:
			return "TABLE";
		case OBJECT_SEQUENCE:
			return "SEQUENCE";
		case OBJECT_FUNCTION:
			return "FUNCTION";
		case OBJECT_PROCEDURE:
			return "PROCEDURE";
		default:
			return "ROUTINE";
	}
}

static char *
statement_on(const GrantStmt *stmt, const char *objects)
{
	StringInfoData buf;
	ListCell   *lc;

	initStringInfo(&buf);
	appendStringInfoString(&buf, stmt->is_grant ? "GRANT " : "REVOKE ");
	if (stmt->grant_option && !stmt->is_grant)
		appendStringInfoString(&buf, "GRANT OPTION FOR ");
	if (stmt->privileges == NIL)
		appendStringInfoString(&buf, "ALL");
	foreach(lc, stmt->privileges)
	{
		if (lc != list_head(stmt->privileges))
			appendStringInfoString(&buf, ", ");
		append_privilege(&buf, lfirst_node(AccessPriv, lc));
	}
	appendStringInfo(&buf, " ON %s %s %s", kind_name(stmt->objtype), objects,
					 stmt->is_grant ? "TO" : "FROM");
	foreach(lc, stmt->grantees)
		appendStringInfo(&buf, "%s %s", lc == list_head(stmt->grantees) ? "" : ",",
						 role_name(lfirst_node(RoleSpec, lc)));
	if (stmt->grant_option && stmt->is_grant)
		appendStringInfoString(&buf, " WITH GRANT OPTION");
	if (stmt->grantor != NULL)
		appendStringInfo(&buf, " GRANTED BY %s", role_name(stmt->grantor));
	if (!stmt->is_grant && stmt->behavior == DROP_CASCADE)
		appendStringInfoString(&buf, " CASCADE");
	return buf.data;
}

/* NULL: no schema has any; temporary ones don't count, nor that of the extension. */
char *
deparse_grant_in_schemas(const GrantStmt *stmt)
{
	StringInfoData objects;
	ListCell   *lc;

	initStringInfo(&objects);
	foreach(lc, stmt->objects)
	{
		const char *schema = strVal(lfirst(lc));
		Oid			namespace = get_namespace_oid(schema, true);

		if (OidIsValid(namespace) && !isAnyTempNamespace(namespace) &&
			strcmp(schema, FANOUT_SCHEMA) != 0)
			append_objects(&objects, stmt->objtype, schema, namespace);
	}
	return objects.len > 0 ? statement_on(stmt, objects.data) : NULL;
}
