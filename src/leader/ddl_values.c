/*
 * ddl_values.c
 *		Which ALTER TABLE computes values that come out otherwise on a follower.
 *
 * An ALTER TABLE that fills a column is repeated by each follower on its own rows.
 * With expressions that depend on the rows alone the values are the same; with
 * clocks, sequences or random numbers they are not, and the followers copy the
 * table again.  So they do when a table
 * that was not logged, whose rows never were in the stream, becomes a logged one.
 *
 * The expressions are analyzed as ALTER TABLE will.  One that can't be is left to the
 * statement itself, which then fails.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/transam.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_proc.h"
#include "commands/tablecmds.h"
#include "nodes/nodeFuncs.h"
#include "parser/parse_expr.h"
#include "parser/parse_relation.h"
#include "parser/parse_type.h"
#include "storage/bufmgr.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/typcache.h"

#include "leader/ddl.h"

/* 'now' and its like are read as constants, but not the same ones elsewhere.  A tree walker. */
bool
names_a_moment(Node *node, void *context)
{
	static const char *const words[] = {"now", "today", "tomorrow", "yesterday"};

	if (node == NULL)
		return false;
	if (IsA(node, A_Const) && nodeTag(&((A_Const *) node)->val) == T_String)
	{
		for (int i = 0; i < lengthof(words); i++)
		{
			if (pg_strncasecmp(strVal(&((A_Const *) node)->val), words[i], strlen(words[i])) == 0)
				return true;
		}
	}
	return raw_expression_tree_walker(node, names_a_moment, context);
}

/*
 * Stable functions of the server that stand behind operators and casts depend on
 * parameters, which a follower sets alike; what others depend on nobody knows.
 */
static bool
function_differs(Oid funcid, void *context)
{
	char		volatility = func_volatile(funcid);

	return volatility == PROVOLATILE_VOLATILE ||
		(volatility == PROVOLATILE_STABLE && funcid >= FirstUnpinnedObjectId);
}

static bool
node_differs(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, SQLValueFunction) || IsA(node, NextValueExpr))
		return true;
	if (IsA(node, FuncExpr) && ((FuncExpr *) node)->funcformat == COERCE_EXPLICIT_CALL &&
		func_volatile(((FuncExpr *) node)->funcid) != PROVOLATILE_IMMUTABLE)
		return true;
	return check_functions_in_node(node, function_differs, NULL) ||
		expression_tree_walker(node, node_differs, NULL);
}

static bool
expression_differs(Relation rel, Node *raw, ParseExprKind kind)
{
	ParseState *pstate = make_parsestate(NULL);
	Node	   *expr;

	if (names_a_moment(raw, NULL))
		return true;
	addNSItemToQuery(pstate,
					 addRangeTableEntryForRelation(pstate, rel, AccessShareLock, NULL, false, true),
					 false, true, true);
	expr = transformExpr(pstate, copyObject(raw), kind);
	return node_differs(expr, NULL);
}

/* Does the type itself bring a default? */
static bool
type_default_differs(TypeName *name)
{
	Oid			typid;
	Node	   *expr;

	if (name == NULL)
		return false;
	typid = typenameTypeId(NULL, name);
	expr = get_typdefault(typid);
	return node_differs(expr, NULL);
}

static bool
is_serial(const TypeName *name)
{
	static const char *const serials[] = {"serial", "serial2", "serial4", "serial8",
	"smallserial", "bigserial"};

	if (name == NULL || list_length(name->names) != 1)
		return false;
	for (int i = 0; i < lengthof(serials); i++)
	{
		if (strcmp(strVal(linitial(name->names)), serials[i]) == 0)
			return true;
	}
	return false;
}

static bool
new_column_differs(Relation rel, ColumnDef *column)
{
	bool		has_default = column->raw_default != NULL;
	ListCell   *lc;

	if (is_serial(column->typeName))
		return true;
	foreach(lc, column->constraints)
	{
		Constraint *constraint = lfirst_node(Constraint, lc);

		if (constraint->contype == CONSTR_IDENTITY)
			return true;
		if (constraint->contype == CONSTR_DEFAULT && constraint->raw_expr != NULL)
		{
			has_default = true;
			if (expression_differs(rel, constraint->raw_expr, EXPR_KIND_COLUMN_DEFAULT))
				return true;
		}
	}
	return !has_default && type_default_differs(column->typeName);
}

static bool
command_differs(Relation rel, AlterTableCmd *cmd)
{
	ColumnDef  *column = (ColumnDef *) cmd->def;

	switch (cmd->subtype)
	{
		case AT_AddColumn:
			return new_column_differs(rel, column);
		case AT_AlterColumnType:
			return column->raw_default != NULL &&
				expression_differs(rel, column->raw_default, EXPR_KIND_ALTER_COL_TRANSFORM);
		case AT_SetLogged:
			return true;
		default:
			return false;
	}
}

static bool
may_differ(const AlterTableStmt *stmt)
{
	ListCell   *lc;

	if (stmt->objtype != OBJECT_TABLE)
		return false;
	foreach(lc, stmt->cmds)
	{
		AlterTableType type = lfirst_node(AlterTableCmd, lc)->subtype;

		if (type == AT_AddColumn || type == AT_AlterColumnType || type == AT_SetLogged)
			return true;
	}
	return false;
}

/* Has neither the table nor one that inherits from it any rows? */
static bool
tree_is_empty(Oid relid, LOCKMODE lockmode)
{
	List	   *relids = find_all_inheritors(relid, lockmode, NULL);
	bool		empty = true;
	ListCell   *lc;

	foreach(lc, relids)
	{
		Relation	rel = table_open(lfirst_oid(lc), NoLock);

		if (RELKIND_HAS_STORAGE(rel->rd_rel->relkind) && RelationGetNumberOfBlocks(rel) > 0)
			empty = false;
		table_close(rel, NoLock);
	}
	return empty;
}

/* Takes the locks that the statement is about to take. */
bool
alter_table_values_differ(AlterTableStmt *stmt)
{
	LOCKMODE	lockmode;
	Oid			relid;
	Relation	rel;
	bool		differs = false;
	ListCell   *lc;

	if (!may_differ(stmt))
		return false;
	lockmode = AlterTableGetLockLevel(stmt->cmds);
	relid = AlterTableLookupRelation(stmt, lockmode);
	if (!OidIsValid(relid) || tree_is_empty(relid, lockmode))
		return false;
	rel = table_open(relid, NoLock);
	foreach(lc, stmt->cmds)
		differs |= command_differs(rel, lfirst_node(AlterTableCmd, lc));
	table_close(rel, NoLock);
	return differs;
}
