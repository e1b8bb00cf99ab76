/*
 * ddl_deparse.c
 *		Texts of statements that a follower must not repeat as they are.
 *
 * The rows that CREATE TABLE AS and SELECT INTO write come as row changes, so a
 * follower only makes the table.  Of a DROP that names temporary objects, too, it
 * gets the rest.  CREATE TABLE (LIKE ...) can copy a table that is temporary.  What IMPORT
 * FOREIGN SCHEMA makes has another schema than its text says.  CLUSTER is maintenance, but
 * it also notes an index in the schema.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/catalog.h"
#include "catalog/index.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_inherits.h"
#include "commands/defrem.h"
#include "commands/prepare.h"
#include "common/keywords.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "parser/scanner.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "compat.h"
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

/* NULL: a column of a temporary type, which goes with it; followers do not have it. */
char *
deparse_column(const char *name, Oid typid, int32 typmod, Oid collation)
{
	StringInfoData buf;

	if (is_temporary_type(typid))
		return NULL;
	initStringInfo(&buf);
	appendStringInfo(&buf, "%s %s", quote_identifier(name),
					 format_type_extended(typid, typmod,
										  FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY));
	if (OidIsValid(collation) && collation != get_typcollation(typid))
		appendStringInfo(&buf, " COLLATE %s", collation_name(collation));
	return buf.data;
}

static void
add_column(ColumnList *list, const char *name, Oid typid, int32 typmod, Oid collation,
		   const char *not_null)
{
	char	   *column;

	if (list->next_name != NULL)
	{
		name = strVal(lfirst(list->next_name));
		list->next_name = lnext(list->names, list->next_name);
	}
	column = deparse_column(name, typid, typmod, collation);
	if (column != NULL)
		appendStringInfo(list->buf, "%s%s%s", list->count++ > 0 ? ", " : "", column, not_null);
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
					   exprCollation(expr), "");
	}
}

static void
add_described_columns(ColumnList *list, TupleDesc desc)
{
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(desc, i);

		if (attr->attisdropped)
			continue;
		add_column(list, NameStr(attr->attname), attr->atttypid, attr->atttypmod,
				   attr->attcollation, attr->attnotnull ? " NOT NULL" : "");
	}
}

static void
add_prepared_columns(ColumnList *list, const ExecuteStmt *execute)
{
	PreparedStatement *prepared = FetchPreparedStatement(execute->name, true);
	TupleDesc	desc = FetchPreparedStatementResultDesc(prepared);

	if (desc != NULL)
		add_described_columns(list, desc);
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
					   exprCollation(expr), "");
		}
	}
	appendStringInfoChar(&buf, ')');
	if (into->accessMethod != NULL)
		appendStringInfo(&buf, " USING %s", quote_identifier(into->accessMethod));
	append_options(&buf, into->options);
	return buf.data;
}

/* ---------- CREATE TABLE (LIKE ...) ---------- */

static char *
add_stand_in(const RangeVar *relation, Oid relid, const char *text)
{
	StringInfoData buf;
	ColumnList	list = {&buf, NULL, NIL, 0};
	Relation	rel = table_open(relid, AccessShareLock);

	initStringInfo(&buf);
	appendStringInfo(&buf, "CREATE TEMPORARY TABLE %s (", relation_name(relation));
	add_described_columns(&list, RelationGetDescr(rel));
	table_close(rel, AccessShareLock);
	appendStringInfo(&buf, ");\n%s\n;\nDROP TABLE %s", text, relation_name(relation));
	return buf.data;
}

/*
 * A temporary table whose definition is copied is not on a follower: there, one with its
 * columns stands in for it.
 */
char *
deparse_stand_ins(const CreateStmt *stmt, char *text)
{
	ListCell   *lc;

	foreach(lc, stmt->tableElts)
	{
		TableLikeClause *like = lfirst(lc);
		Oid			relid;

		if (!IsA(like, TableLikeClause))
			continue;
		relid = RangeVarGetRelid(like->relation, NoLock, true);
		if (OidIsValid(relid) && get_rel_persistence(relid) == RELPERSISTENCE_TEMP)
			text = add_stand_in(like->relation, relid, text);
	}
	return text;
}

/* ---------- the schema of what a statement makes ---------- */

/* Where does the last of the names begin that a text begins with, "a.b.c"? */
static int
last_name(const char *text)
{
	core_yy_extra_type extra;
	core_yyscan_t scanner = scanner_init(text, &extra, &ScanKeywords, ScanKeywordTokens);
	core_YYSTYPE value;
	YYLTYPE		location = 0;
	int			last;

	do
	{
		(void) core_yylex(&value, &location, scanner);
		last = location;
	} while (core_yylex(&value, &location, scanner) == '.');
	scanner_finish(scanner);
	return last;
}

/* The text with the relation's schema, whatever it names itself; its name is at that place. */
char *
deparse_qualified(const char *text, const RangeVar *relation, int start)
{
	return psprintf("%.*s%s.%s", start, text, quote_identifier(relation->schemaname),
					text + start + last_name(text + start));
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

static char *
qualified_name(Oid relid)
{
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)),
									  get_rel_name(relid));
}

/* A partitioned table is marked nowhere, but its partitions are, of those that the user owns. */
static char *
deparse_cluster_partitions(Oid index)
{
	StringInfoData buf;
	ListCell   *lc;

	initStringInfo(&buf);
	foreach(lc, find_all_inheritors(index, NoLock, NULL))
	{
		Oid			part = lfirst_oid(lc);
		Oid			table = IndexGetRelation(part, true);

		if (get_rel_relkind(part) != RELKIND_INDEX || !OidIsValid(table) ||
			!fanout_owns_relation(table, GetUserId()))
			continue;
		appendStringInfo(&buf, "%sALTER TABLE %s CLUSTER ON %s", buf.len > 0 ? "; " : "",
						 qualified_name(table), quote_identifier(get_rel_name(part)));
	}
	return buf.len > 0 ? buf.data : NULL;
}

/* What CLUSTER ... USING changes in the schema. */
char *
deparse_cluster(const ClusterStmt *stmt, Oid relid)
{
	Oid			index = get_relname_relid(stmt->indexname, get_rel_namespace(relid));

	if (IsCatalogRelationOid(relid))
		return NULL;
	if (get_rel_relkind(relid) == RELKIND_PARTITIONED_TABLE)
		return OidIsValid(index) ? deparse_cluster_partitions(index) : NULL;
	return psprintf("ALTER TABLE %s CLUSTER ON %s", relation_name(stmt->relation),
					quote_identifier(stmt->indexname));
}
