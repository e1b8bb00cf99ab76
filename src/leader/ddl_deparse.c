/*
 * ddl_deparse.c
 *		Texts of statements that a follower must not repeat as they are.
 *
 * The rows that CREATE TABLE AS and SELECT INTO write come as row changes, so a
 * follower only makes the table.  Of a DROP that names temporary objects, too, it
 * gets the rest.  CLUSTER is maintenance, but it also notes an index in the schema.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_collation.h"
#include "commands/defrem.h"
#include "commands/prepare.h"
#include "nodes/nodeFuncs.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "leader/ddl.h"

static const char *
relation_name(const RangeVar *relation)
{
	return quote_qualified_identifier(relation->schemaname, relation->relname);
}

/* ---------- CREATE TABLE AS ---------- */

typedef struct ColumnList
{
	StringInfo	buf;
	ListCell   *next_name;		/* of the names given in the statement */
	List	   *names;
	int			count;
} ColumnList;

static char *
collation_name(Oid collation)
{
	HeapTuple	tuple = SearchSysCache1(COLLOID, ObjectIdGetDatum(collation));
	Form_pg_collation form;
	char	   *name;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for collation %u", collation);
	form = (Form_pg_collation) GETSTRUCT(tuple);
	name = quote_qualified_identifier(get_namespace_name(form->collnamespace),
									  NameStr(form->collname));
	ReleaseSysCache(tuple);
	return name;
}

static void
add_column(ColumnList *list, const char *name, Oid typid, int32 typmod, Oid collation)
{
	if (list->next_name != NULL)
	{
		name = strVal(lfirst(list->next_name));
		list->next_name = lnext(list->names, list->next_name);
	}
	appendStringInfo(list->buf, "%s%s %s", list->count++ > 0 ? ", " : "",
					 quote_identifier(name),
					 format_type_extended(typid, typmod,
										  FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY));
	if (OidIsValid(collation) && collation != get_typcollation(typid))
		appendStringInfo(list->buf, " COLLATE %s", collation_name(collation));
}

static void
add_query_columns(ColumnList *list, const Query *query)
{
	ListCell   *lc;

	foreach(lc, query->targetList)
	{
		TargetEntry *entry = lfirst_node(TargetEntry, lc);
		Node	   *expr = (Node *) entry->expr;

		if (!entry->resjunk)
			add_column(list, entry->resname, exprType(expr), exprTypmod(expr),
					   exprCollation(expr));
	}
}

static void
add_prepared_columns(ColumnList *list, const ExecuteStmt *execute)
{
	PreparedStatement *prepared = FetchPreparedStatement(execute->name, true);
	TupleDesc	desc = FetchPreparedStatementResultDesc(prepared);

	for (int i = 0; desc != NULL && i < desc->natts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(desc, i);

		add_column(list, NameStr(attr->attname), attr->atttypid, attr->atttypmod,
				   attr->attcollation);
	}
}

static void
append_options(StringInfo buf, List *options)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		appendStringInfoString(buf, lc == list_head(options) ? " WITH (" : ", ");
		if (option->defnamespace != NULL)
			appendStringInfo(buf, "%s.", quote_identifier(option->defnamespace));
		appendStringInfoString(buf, quote_identifier(option->defname));
		if (option->arg != NULL)
			appendStringInfo(buf, " = %s", quote_literal_cstr(defGetString(option)));
	}
	if (options != NIL)
		appendStringInfoChar(buf, ')');
}

/* CREATE TABLE with the columns that the query gives. */
char *
deparse_create_table_as(const CreateTableAsStmt *stmt)
{
	const IntoClause *into = stmt->into;
	Query	   *query = castNode(Query, stmt->query);
	StringInfoData buf;
	ColumnList	list = {&buf, list_head(into->colNames), into->colNames, 0};

	initStringInfo(&buf);
	appendStringInfo(&buf, "CREATE %sTABLE %s%s (",
					 into->rel->relpersistence == RELPERSISTENCE_UNLOGGED ? "UNLOGGED " : "",
					 stmt->if_not_exists ? "IF NOT EXISTS " : "", relation_name(into->rel));
	if (query->commandType == CMD_UTILITY)
		add_prepared_columns(&list, castNode(ExecuteStmt, query->utilityStmt));
	else if (query->commandType == CMD_SELECT)
		add_query_columns(&list, query);
	else
	{
		ListCell   *lc;

		foreach(lc, query->returningList)
		{
			TargetEntry *entry = lfirst_node(TargetEntry, lc);
			Node	   *expr = (Node *) entry->expr;

			add_column(&list, entry->resname, exprType(expr), exprTypmod(expr),
					   exprCollation(expr));
		}
	}
	appendStringInfoChar(&buf, ')');
	if (into->accessMethod != NULL)
		appendStringInfo(&buf, " USING %s", quote_identifier(into->accessMethod));
	append_options(&buf, into->options);
	return buf.data;
}

/* ---------- DROP ---------- */

static char *
object_name(ObjectType type, Node *object)
{
	if (type == OBJECT_TYPE || type == OBJECT_DOMAIN)
		return NameListToQuotedString(castNode(TypeName, object)->names);
	if (IsA(object, String))
		return unconstify(char *, quote_identifier(strVal(object)));
	return NameListToQuotedString(castNode(List, object));
}

/* DROP of some of the objects that the statement names. */
char *
deparse_drop(const DropStmt *stmt, List *objects)
{
	StringInfoData buf;
	ListCell   *lc;

	initStringInfo(&buf);
	appendStringInfo(&buf, "%s IF EXISTS ",
					 GetCommandTagName(CreateCommandTag((Node *) unconstify(DropStmt *, stmt))));
	foreach(lc, objects)
		appendStringInfo(&buf, "%s%s", lc == list_head(objects) ? "" : ", ",
						 object_name(stmt->removeType, lfirst(lc)));
	if (stmt->behavior == DROP_CASCADE)
		appendStringInfoString(&buf, " CASCADE");
	return buf.data;
}

/* ---------- CLUSTER ---------- */

/* What CLUSTER ... USING changes in the schema. */
char *
deparse_cluster(const ClusterStmt *stmt)
{
	return psprintf("ALTER TABLE %s CLUSTER ON %s", relation_name(stmt->relation),
					quote_identifier(stmt->indexname));
}
