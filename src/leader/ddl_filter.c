/*
 * ddl_filter.c
 *		Does a statement replicate, and what is it about?
 *
 * Everything that changes the schema of this database replicates, but for
 *
 *	-	what belongs to the whole server (databases, tablespaces, roles, parameters),
 *		and how replication itself is set up: publications and subscriptions;
 *	-	temporary objects, and views that become temporary since they use some;
 *	-	large objects, whose contents are not replicated either;
 *	-	this extension and its schema.
 *
 * Names are looked up before the statement runs, as it would look them up, but
 * without a lock: a lock here, and a stronger one in the statement, could
 * deadlock with another session doing the same.  A name that is not there is the
 * statement's business.
 */
#include "postgres.h"

#include "catalog/index.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "parser/parse_func.h"
#include "parser/parse_type.h"
#include "tcop/utility.h"
#include "rewrite/rewriteSupport.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "leader/ddl.h"
#include "log/statement.h"

static const char *const why_temporary = "Temporary objects are not replicated.";
static const char *const why_server = "It belongs to the whole server.";
static const char *const why_replication = "Publications and subscriptions are not replicated.";
static const char *const why_mapping = "Options of user mappings are nobody else's business.";
static const char *const why_large = "Large objects are not replicated.";

bool
is_schema_change(Node *stmt)
{
	return !IsA(stmt, ExecuteStmt) && GetCommandLogLevel(stmt) == LOGSTMT_DDL;
}

/* ---------- names ---------- */

static bool
is_temporary_schema(const char *name)
{
	return name != NULL && strncmp(name, "pg_temp", 7) == 0;
}

static void
note_namespace(SchemaChange *change, Oid namespace)
{
	if (isTempNamespace(namespace))
		change->why_not = why_temporary;
	else if (OidIsValid(namespace) && namespace == get_namespace_oid(FANOUT_SCHEMA, true))
		change->ours = true;
}

/* The schema of a list of names, as written. */
static void
note_qualification(SchemaChange *change, List *names)
{
	char	   *schema;

	if (list_length(names) < 2)
		return;
	schema = strVal(list_nth(names, list_length(names) - 2));
	if (is_temporary_schema(schema))
		change->why_not = why_temporary;
	else if (strcmp(schema, FANOUT_SCHEMA) == 0)
		change->ours = true;
}

static void
note_relation(SchemaChange *change, const RangeVar *relation)
{
	Oid			relid;
	char		relkind;

	if (relation == NULL)
		return;
	relid = RangeVarGetRelid(relation, NoLock, true);
	if (!OidIsValid(relid))
		return;
	note_namespace(change, get_rel_namespace(relid));
	if (get_rel_persistence(relid) == RELPERSISTENCE_TEMP)
		change->why_not = why_temporary;
	relkind = get_rel_relkind(relid);
	if ((relkind == RELKIND_VIEW || relkind == RELKIND_MATVIEW) &&
		part_needs_temporary(OBJECT_RULE, relid, ViewSelectRuleName))
		change->why_not = why_temporary;
	if (relkind == RELKIND_INDEX || relkind == RELKIND_PARTITIONED_INDEX)
		relid = IndexGetRelation(relid, true);
	change->relids = lappend_oid(change->relids, relid);
}

/* The table itself, when the relation is an index. */
static Oid
table_of(const RangeVar *relation)
{
	Oid			relid = RangeVarGetRelid(relation, NoLock, true);
	char		relkind = get_rel_relkind(relid);

	if (relkind == RELKIND_INDEX || relkind == RELKIND_PARTITIONED_INDEX)
		return IndexGetRelation(relid, true);
	return relid;
}

/* The statement changes what inherits from the relation, too, which may be all that is published. */
static void
note_inheritors(SchemaChange *change, const RangeVar *relation)
{
	Oid			relid = relation->inh ? table_of(relation) : InvalidOid;

	if (OidIsValid(relid))
		change->relids = list_concat_unique_oid(change->relids,
												find_all_inheritors(relid, NoLock, NULL));
}

static void
note_relations(SchemaChange *change, List *relations)
{
	ListCell   *lc;

	foreach(lc, relations)
	{
		if (IsA(lfirst(lc), RangeVar))
			note_relation(change, lfirst(lc));
	}
}

/* A relation that the statement makes. */
static void
note_new_relation(SchemaChange *change, RangeVar *relation)
{
	RangeVar	copy = *relation;

	if (relation->relpersistence == RELPERSISTENCE_TEMP || is_temporary_schema(relation->schemaname))
		change->why_not = why_temporary;
	else
		note_namespace(change, RangeVarGetCreationNamespace(&copy));
}

static void
note_type(SchemaChange *change, const TypeName *name)
{
	Oid			typid = LookupTypeNameOid(NULL, name, true);
	HeapTuple	tuple;

	if (!OidIsValid(typid))
		return;
	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(typid));
	if (!HeapTupleIsValid(tuple))
		return;
	note_namespace(change, ((Form_pg_type) GETSTRUCT(tuple))->typnamespace);
	ReleaseSysCache(tuple);
}

/* What is made of temporary types lives no longer. */
static void
note_used_type(SchemaChange *change, const TypeName *name)
{
	if (names_temporary_type(name))
		change->why_not = why_temporary;
}

static void
note_function(SchemaChange *change, ObjectType type, ObjectWithArgs *object)
{
	Oid			function;

	note_qualification(change, object->objname);
	if (type == OBJECT_OPERATOR)
		return;
	function = LookupFuncWithArgs(type, object, true);
	if (OidIsValid(function) && needs_temporary(ProcedureRelationId, function))
		change->why_not = why_temporary;
}

/* SET ... FROM CURRENT: what that is here. */
static void
note_current_settings(SchemaChange *change, List *options)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);
		VariableSetStmt *set = (VariableSetStmt *) option->arg;
		const char *value;

		if (strcmp(option->defname, "set") != 0 || set->kind != VAR_SET_CURRENT)
			continue;
		value = GetConfigOption(set->name, true, false);
		if (value != NULL)
			change->settings = add_setting(change->settings, set->name, pstrdup(value));
	}
}

static void
examine_create_function(SchemaChange *change, const CreateFunctionStmt *stmt)
{
	ListCell   *lc;

	note_qualification(change, stmt->funcname);
	foreach(lc, stmt->parameters)
		note_used_type(change, lfirst_node(FunctionParameter, lc)->argType);
	note_used_type(change, stmt->returnType);
	note_current_settings(change, stmt->options);
}

/* As the grammar has it: a TypeName in some statements, the bare name in others. */
static void
note_type_object(SchemaChange *change, Node *object)
{
	note_type(change, IsA(object, List) ? makeTypeNameFromNameList((List *) object) :
			  castNode(TypeName, object));
}

/* An object as COMMENT, DROP, ALTER ... OWNER and their like name it. */
static void
note_object(SchemaChange *change, ObjectType type, Node *object)
{
	switch (type)
	{
		case OBJECT_DATABASE:
		case OBJECT_TABLESPACE:
		case OBJECT_ROLE:
		case OBJECT_PARAMETER_ACL:
			change->why_not = why_server;
			break;
		case OBJECT_PUBLICATION:
		case OBJECT_SUBSCRIPTION:
			change->why_not = why_replication;
			break;
		case OBJECT_LARGEOBJECT:
			change->why_not = why_large;
			break;
		case OBJECT_EXTENSION:
			change->ours |= strcmp(strVal(object), FANOUT_LIBRARY) == 0;
			break;
		case OBJECT_SCHEMA:
			change->ours |= strcmp(strVal(object), FANOUT_SCHEMA) == 0;
			break;
		case OBJECT_TABLE:
		case OBJECT_INDEX:
		case OBJECT_SEQUENCE:
		case OBJECT_VIEW:
		case OBJECT_MATVIEW:
		case OBJECT_FOREIGN_TABLE:
			note_relation(change, makeRangeVarFromNameList(castNode(List, object)));
			break;
		case OBJECT_COLUMN:
		case OBJECT_TABCONSTRAINT:
		case OBJECT_TRIGGER:
		case OBJECT_RULE:
		case OBJECT_POLICY:
			{
				List	   *names = list_copy_head(castNode(List, object),
												   list_length((List *) object) - 1);

				if (names != NIL)
					note_relation(change, makeRangeVarFromNameList(names));
				if (change->relids != NIL &&
					part_needs_temporary(type, llast_oid(change->relids),
										 strVal(llast((List *) object))))
					change->why_not = why_temporary;
				break;
			}
		case OBJECT_TYPE:
		case OBJECT_DOMAIN:
			note_type_object(change, object);
			break;
		case OBJECT_DOMCONSTRAINT:
			/* RENAME has the name of the domain only, others a list of both names. */
			if (!IsA(linitial(castNode(List, object)), String))
				object = linitial((List *) object);
			note_type_object(change, object);
			break;
		default:
			if (IsA(object, ObjectWithArgs))
				note_function(change, type, (ObjectWithArgs *) object);
			else if (IsA(object, List) && IsA(linitial((List *) object), String))
				note_qualification(change, (List *) object);
	}
}

/* ---------- statements ---------- */

static void
examine_create_table(SchemaChange *change, CreateStmt *stmt, char *text, int location)
{
	note_new_relation(change, stmt->relation);
	if (stmt->partbound != NULL)
		note_relations(change, stmt->inhRelations);
	if (change->ours || change->why_not != NULL)
		return;
	if (stmt->partbound != NULL)
		change->text = deparse_bound(linitial_node(RangeVar, stmt->inhRelations),
									 stmt->partbound, text, location);
	change->text = deparse_stand_ins(stmt, change->text != NULL ? change->text : text);
}

/* IMPORT FOREIGN SCHEMA puts the schema into the statement, not into its text. */
static void
examine_create_foreign_table(SchemaChange *change, CreateForeignTableStmt *stmt, char *text,
							 int location)
{
	RangeVar   *relation = stmt->base.relation;

	examine_create_table(change, &stmt->base, text, location);
	if (change->why_not == NULL && !change->ours && relation->schemaname != NULL)
		change->text = deparse_qualified(change->text, relation, relation->location - location);
}

/* A view of a temporary relation is a temporary one. */
static void
examine_view(SchemaChange *change, ViewStmt *stmt)
{
	note_new_relation(change, stmt->view);
	if (change->why_not == NULL && query_uses_temporary(stmt->query))
		change->why_not = why_temporary;
}

static void
examine_create_table_as(SchemaChange *change, CreateTableAsStmt *stmt)
{
	note_new_relation(change, stmt->into->rel);
	if (stmt->objtype == OBJECT_TABLE && !change->ours && change->why_not == NULL)
		change->text = deparse_create_table_as(stmt);
}

static void
examine_explain(SchemaChange *change, ExplainStmt *stmt)
{
	Query	   *query = castNode(Query, stmt->query);

	if (query->commandType == CMD_UTILITY && IsA(query->utilityStmt, CreateTableAsStmt))
		examine_create_table_as(change, (CreateTableAsStmt *) query->utilityStmt);
	else
		change->ours = true;
}

static void
examine_alter_table(SchemaChange *change, AlterTableStmt *stmt, const char *text, int location)
{
	ListCell   *lc;

	note_relation(change, stmt->relation);
	note_inheritors(change, stmt->relation);
	foreach(lc, stmt->cmds)
	{
		AlterTableCmd *cmd = lfirst_node(AlterTableCmd, lc);

		if (cmd->subtype == AT_AttachPartition)
			note_relation(change, ((PartitionCmd *) cmd->def)->name);
		if (cmd->subtype == AT_DetachPartition)
			change->after |= ((PartitionCmd *) cmd->def)->concurrent;
		if (cmd->subtype == AT_DetachPartitionFinalize)
			change->after = true;
		if (cmd->subtype == AT_AttachPartition && ((PartitionCmd *) cmd->def)->bound != NULL)
			change->text = deparse_bound(stmt->relation, ((PartitionCmd *) cmd->def)->bound,
										 text, location);
	}
	if (!change->ours && change->why_not == NULL && alter_table_values_differ(stmt))
		change->flags |= STATEMENT_VALUES_DIFFER;
}

/* What goes from the parts of a table with it. */
static void
note_dropped_of_inheritors(SchemaChange *change, ObjectType type, Node *object)
{
	List	   *names = type == OBJECT_INDEX || type == OBJECT_TRIGGER ? castNode(List, object) : NIL;

	if (type == OBJECT_TRIGGER)
		names = list_copy_head(names, list_length(names) - 1);
	if (names != NIL)
		note_inheritors(change, makeRangeVarFromNameList(names));
}

/* Objects that don't replicate are taken out of the list. */
static void
examine_drop(SchemaChange *change, DropStmt *stmt)
{
	List	   *kept = NIL;
	ListCell   *lc;

	change->after = stmt->concurrent;
	foreach(lc, stmt->objects)
	{
		SchemaChange one = {0};

		note_object(&one, stmt->removeType, lfirst(lc));
		note_dropped_of_inheritors(&one, stmt->removeType, lfirst(lc));
		change->relids = list_concat(change->relids, one.relids);
		if (one.ours || one.why_not != NULL)
		{
			change->ours |= one.ours;
			change->why_not = one.why_not;
		}
		else
			kept = lappend(kept, lfirst(lc));
	}
	if (kept == NIL || (!change->ours && change->why_not == NULL))
		return;
	/* Names of what is not replicated mean nothing on a follower, or worse. */
	change->ours = false;
	change->why_not = NULL;
	if (stmt->removeType != OBJECT_FUNCTION && stmt->removeType != OBJECT_PROCEDURE &&
		stmt->removeType != OBJECT_ROUTINE && stmt->removeType != OBJECT_AGGREGATE &&
		stmt->removeType != OBJECT_OPERATOR)
		change->text = deparse_drop(stmt, kept);
}

static void
examine_rename(SchemaChange *change, RenameStmt *stmt)
{
	if (stmt->relation != NULL)
	{
		note_relation(change, stmt->relation);
		note_inheritors(change, stmt->relation);
	}
	else if (stmt->object != NULL)
		note_object(change, stmt->renameType, stmt->object);
	else if (stmt->renameType == OBJECT_SCHEMA)
		change->ours = strcmp(stmt->subname, FANOUT_SCHEMA) == 0;
	else
		note_object(change, stmt->renameType, (Node *) makeString(stmt->subname));
}

static void
examine_grant(SchemaChange *change, GrantStmt *stmt)
{
	ListCell   *lc;

	if (stmt->targtype == ACL_TARGET_ALL_IN_SCHEMA)
	{
		change->text = deparse_grant_in_schemas(stmt);
		change->ours = change->text == NULL;
	}
	if (stmt->targtype != ACL_TARGET_OBJECT)
		return;
	foreach(lc, stmt->objects)
	{
		if (IsA(lfirst(lc), RangeVar))
			note_relation(change, lfirst(lc));
		else
			note_object(change, stmt->objtype, lfirst(lc));
	}
}

static void
examine_extension(SchemaChange *change, const char *name)
{
	change->ours = strcmp(name, FANOUT_LIBRARY) == 0;
	change->extension = name;
}

/* Statements that make or change one thing with a name. */
static void
examine_named(SchemaChange *change, Node *stmt)
{
	switch (nodeTag(stmt))
	{
		case T_CreateFunctionStmt:
			examine_create_function(change, (CreateFunctionStmt *) stmt);
			break;
		case T_AlterFunctionStmt:
			note_function(change, ((AlterFunctionStmt *) stmt)->objtype,
						  ((AlterFunctionStmt *) stmt)->func);
			note_current_settings(change, ((AlterFunctionStmt *) stmt)->actions);
			break;
		case T_DefineStmt:
			note_qualification(change, ((DefineStmt *) stmt)->defnames);
			break;
		case T_CreateEnumStmt:
			note_qualification(change, ((CreateEnumStmt *) stmt)->typeName);
			break;
		case T_CreateRangeStmt:
			note_qualification(change, ((CreateRangeStmt *) stmt)->typeName);
			break;
		case T_CreateDomainStmt:
			note_qualification(change, ((CreateDomainStmt *) stmt)->domainname);
			note_used_type(change, ((CreateDomainStmt *) stmt)->typeName);
			break;
		case T_AlterEnumStmt:
			note_type(change, makeTypeNameFromNameList(((AlterEnumStmt *) stmt)->typeName));
			break;
		case T_AlterTypeStmt:
			note_type(change, makeTypeNameFromNameList(((AlterTypeStmt *) stmt)->typeName));
			break;
		case T_AlterDomainStmt:
			note_type(change, makeTypeNameFromNameList(((AlterDomainStmt *) stmt)->typeName));
			break;
		case T_CompositeTypeStmt:
			note_new_relation(change, ((CompositeTypeStmt *) stmt)->typevar);
			break;
		case T_CreateSchemaStmt:
			change->ours = ((CreateSchemaStmt *) stmt)->schemaname != NULL &&
				strcmp(((CreateSchemaStmt *) stmt)->schemaname, FANOUT_SCHEMA) == 0;
			break;
		case T_CreateExtensionStmt:
			examine_extension(change, ((CreateExtensionStmt *) stmt)->extname);
			break;
		case T_AlterExtensionStmt:
			examine_extension(change, ((AlterExtensionStmt *) stmt)->extname);
			break;
		case T_AlterExtensionContentsStmt:
			change->ours = strcmp(((AlterExtensionContentsStmt *) stmt)->extname,
								  FANOUT_LIBRARY) == 0;
			break;
		default:
			break;
	}
}

/* Without an index it changes nothing that is in the schema. */
static void
examine_cluster(SchemaChange *change, ClusterStmt *stmt)
{
	note_relation(change, stmt->relation);
	if (stmt->indexname == NULL || change->relids == NIL)
		change->ours = true;
	if (change->ours || change->why_not != NULL)
		return;
	change->text = deparse_cluster(stmt, linitial_oid(change->relids));
	change->ours = change->text == NULL;
	change->after = get_rel_relkind(linitial_oid(change->relids)) == RELKIND_PARTITIONED_TABLE;
}

/* Statements on a relation that exists, and on its parts; false: it is another one. */
static bool
examine_relation(SchemaChange *change, Node *stmt)
{
	switch (nodeTag(stmt))
	{
		case T_IndexStmt:
			note_relation(change, ((IndexStmt *) stmt)->relation);
			note_inheritors(change, ((IndexStmt *) stmt)->relation);
			change->after = ((IndexStmt *) stmt)->concurrent;
			return true;
		case T_AlterSeqStmt:
			note_relation(change, ((AlterSeqStmt *) stmt)->sequence);
			return true;
		case T_CreateTrigStmt:
			note_relation(change, ((CreateTrigStmt *) stmt)->relation);
			note_inheritors(change, ((CreateTrigStmt *) stmt)->relation);
			return true;
		case T_RuleStmt:
			note_relation(change, ((RuleStmt *) stmt)->relation);
			return true;
		case T_CreatePolicyStmt:
			note_relation(change, ((CreatePolicyStmt *) stmt)->table);
			return true;
		case T_AlterPolicyStmt:
			note_relation(change, ((AlterPolicyStmt *) stmt)->table);
			return true;
		case T_CreateStatsStmt:
			note_relations(change, ((CreateStatsStmt *) stmt)->relations);
			return true;
		case T_RefreshMatViewStmt:
			note_relation(change, ((RefreshMatViewStmt *) stmt)->relation);
			return true;
		case T_ClusterStmt:
			examine_cluster(change, (ClusterStmt *) stmt);
			return true;
		default:
			return false;
	}
}

/* Statements that name objects of any kind; false: it is another one. */
static bool
examine_any_object(SchemaChange *change, Node *stmt)
{
	switch (nodeTag(stmt))
	{
		case T_DropStmt:
			examine_drop(change, (DropStmt *) stmt);
			return true;
		case T_RenameStmt:
			examine_rename(change, (RenameStmt *) stmt);
			return true;
		case T_AlterObjectSchemaStmt:
			if (((AlterObjectSchemaStmt *) stmt)->relation != NULL)
				note_relation(change, ((AlterObjectSchemaStmt *) stmt)->relation);
			else
				note_object(change, ((AlterObjectSchemaStmt *) stmt)->objectType,
							((AlterObjectSchemaStmt *) stmt)->object);
			return true;
		case T_AlterObjectDependsStmt:
			note_relation(change, ((AlterObjectDependsStmt *) stmt)->relation);
			return true;
		case T_AlterOwnerStmt:
			note_object(change, ((AlterOwnerStmt *) stmt)->objectType,
						((AlterOwnerStmt *) stmt)->object);
			return true;
		case T_CommentStmt:
			note_object(change, ((CommentStmt *) stmt)->objtype, ((CommentStmt *) stmt)->object);
			return true;
		case T_SecLabelStmt:
			note_object(change, ((SecLabelStmt *) stmt)->objtype, ((SecLabelStmt *) stmt)->object);
			return true;
		case T_GrantStmt:
			examine_grant(change, (GrantStmt *) stmt);
			return true;
		default:
			return false;
	}
}

/* Why a kind of statement is never replicated; NULL: it is. */
static const char *
why_never(Node *stmt)
{
	switch (nodeTag(stmt))
	{
		case T_CreatedbStmt:
		case T_DropdbStmt:
		case T_AlterDatabaseStmt:
		case T_AlterDatabaseRefreshCollStmt:
		case T_AlterDatabaseSetStmt:
		case T_CreateTableSpaceStmt:
		case T_DropTableSpaceStmt:
		case T_AlterTableSpaceOptionsStmt:
		case T_AlterTableMoveAllStmt:
		case T_CreateRoleStmt:
		case T_AlterRoleStmt:
		case T_AlterRoleSetStmt:
		case T_DropRoleStmt:
		case T_GrantRoleStmt:
		case T_AlterSystemStmt:
			return why_server;
		case T_CreatePublicationStmt:
		case T_AlterPublicationStmt:
		case T_CreateSubscriptionStmt:
		case T_AlterSubscriptionStmt:
		case T_DropSubscriptionStmt:
			return why_replication;
		case T_CreateUserMappingStmt:
			return ((CreateUserMappingStmt *) stmt)->options != NIL ? why_mapping : NULL;
		case T_AlterUserMappingStmt:
			return why_mapping;
		default:
			return NULL;
	}
}

void
ddl_examine(Node *stmt, char *text, int location, SchemaChange *change)
{
	memset(change, 0, sizeof(*change));
	change->why_not = why_never(stmt);
	if (change->why_not != NULL || examine_any_object(change, stmt) || examine_relation(change, stmt))
		return;
	switch (nodeTag(stmt))
	{
		case T_CreateStmt:
			examine_create_table(change, (CreateStmt *) stmt, text, location);
			break;
		case T_CreateForeignTableStmt:
			examine_create_foreign_table(change, (CreateForeignTableStmt *) stmt, text, location);
			break;
		case T_AlterTableStmt:
			examine_alter_table(change, (AlterTableStmt *) stmt, text, location);
			break;
		case T_CreateTableAsStmt:
			examine_create_table_as(change, (CreateTableAsStmt *) stmt);
			break;
		case T_ExplainStmt:
			examine_explain(change, (ExplainStmt *) stmt);
			break;
		case T_ViewStmt:
			examine_view(change, (ViewStmt *) stmt);
			break;
		case T_CreateSeqStmt:
			note_new_relation(change, ((CreateSeqStmt *) stmt)->sequence);
			break;
		default:
			examine_named(change, stmt);
	}
}
