/*
 * adapt_statement.c
 *		A leader's schema statement, made fit to run here.
 *
 * A follower runs it in the middle of a transaction and in a server of its own.  So
 * CONCURRENTLY, which commits inside, is left out, and so are tablespaces; and a
 * DROP of what is not here is no error, since the result is the same.  Nor is it one to add to
 * an extension what belongs to it: with a table or a type, 17 adds the types that go with it.
 *
 * A partition that was detached concurrently keeps its partition constraint as a
 * check constraint, so it gets one here, too.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/heap.h"
#include "catalog/namespace.h"
#include "catalog/objectaddress.h"
#include "commands/extension.h"
#include "commands/tablecmds.h"
#include "nodes/makefuncs.h"
#include "nodes/parsenodes.h"
#include "utils/partcache.h"
#include "utils/rel.h"

#include "compat.h"
#include "follower/apply_internal.h"

static void
adapt_constraints(List *nodes)
{
	ListCell   *lc;

	foreach(lc, nodes)
	{
		if (IsA(lfirst(lc), Constraint))
			((Constraint *) lfirst(lc))->indexspace = NULL;
		else if (IsA(lfirst(lc), ColumnDef))
			adapt_constraints(((ColumnDef *) lfirst(lc))->constraints);
	}
}

/*
 * The same that the server adds in the first transaction of DETACH ... CONCURRENTLY: to
 * all but partitions by hash, whose constraint names the parent.
 */
static void
keep_partition_constraint(const RangeVar *parent_name, const RangeVar *name)
{
	Relation	parent = table_openrv(parent_name, AccessExclusiveLock);
	Relation	rel = table_openrv(name, AccessExclusiveLock);
	List	   *qual = RelationGetPartitionQual(rel);
	bool		by_hash = RelationGetPartitionKey(parent)->strategy == PARTITION_STRATEGY_HASH;
	Constraint *constraint = makeNode(Constraint);

	constraint->contype = CONSTR_CHECK;
	constraint->location = -1;
	constraint->cooked_expr = nodeToString(make_ands_explicit(qual));
	constraint->initially_valid = true;
	constraint->skip_validation = true;
	fanout_constraint_enforce(constraint);
	if (!by_hash && !PartConstraintImpliedByRelConstraint(rel, qual))
		AddRelationNewConstraints(rel, NIL, list_make1(constraint), false, true, false, NULL);
	table_close(rel, NoLock);
	table_close(parent, NoLock);
	CommandCounterIncrement();
}

static void
adapt_detach(const RangeVar *parent, AlterTableCmd *cmd)
{
	PartitionCmd *partition = castNode(PartitionCmd, cmd->def);

	if (partition->concurrent || cmd->subtype == AT_DetachPartitionFinalize)
		keep_partition_constraint(parent, partition->name);
	partition->concurrent = false;
	cmd->subtype = AT_DetachPartition;
}

static void
adapt_create_table(CreateStmt *stmt)
{
	stmt->tablespacename = NULL;
	adapt_constraints(stmt->tableElts);
	adapt_constraints(stmt->constraints);
}

/* Returns false when nothing is left of it. */
static bool
adapt_alter_table(AlterTableStmt *stmt)
{
	ListCell   *lc;

	foreach(lc, stmt->cmds)
	{
		AlterTableCmd *cmd = lfirst_node(AlterTableCmd, lc);

		switch (cmd->subtype)
		{
			case AT_SetTableSpace:
				stmt->cmds = foreach_delete_current(stmt->cmds, lc);
				break;
			case AT_AddColumn:
			case AT_AddConstraint:
				adapt_constraints(list_make1(cmd->def));
				break;
			case AT_DropConstraint:
				/* A foreign key of the initial copy may still be to come. */
				cmd->missing_ok = true;
				break;
			case AT_DetachPartition:
			case AT_DetachPartitionFinalize:
				adapt_detach(stmt->relation, cmd);
				break;
			default:
				break;
		}
	}
	return stmt->cmds != NIL;
}

static bool
adds_member(const AlterExtensionContentsStmt *stmt)
{
	Relation	rel = NULL;
	ObjectAddress object;

	if (stmt->action < 0)
		return false;
	object = get_object_address(stmt->objtype, stmt->object, &rel, ShareUpdateExclusiveLock, false);
	if (rel != NULL)
		relation_close(rel, NoLock);
	return getExtensionOfObject(object.classId, object.objectId) ==
		get_extension_oid(stmt->extname, false);
}

/* The relation that a statement changes along with what inherits from it; NULL: it is another one. */
static const RangeVar *
parent_of(Node *stmt)
{
	switch (nodeTag(stmt))
	{
		case T_AlterTableStmt:
			return ((AlterTableStmt *) stmt)->relation;
		case T_RenameStmt:
			return ((RenameStmt *) stmt)->relation;
		case T_IndexStmt:
			return ((IndexStmt *) stmt)->relation;
		case T_CreateTrigStmt:
			return ((CreateTrigStmt *) stmt)->relation;
		default:
			return NULL;
	}
}

/* A stream that names publications does not make the parents of what they publish. */
bool
names_missing_parent(Node *stmt)
{
	const RangeVar *relation = parent_of(stmt);

	return relation != NULL && !OidIsValid(RangeVarGetRelid(relation, NoLock, true));
}

/* Change the statement in place; false: there is nothing to run. */
bool
adapt_statement(Node *stmt)
{
	ListCell   *lc;

	switch (nodeTag(stmt))
	{
		case T_IndexStmt:
			((IndexStmt *) stmt)->concurrent = false;
			((IndexStmt *) stmt)->tableSpace = NULL;
			return true;
		case T_DropStmt:
			((DropStmt *) stmt)->concurrent = false;
			((DropStmt *) stmt)->missing_ok = true;
			return true;
		case T_CreateUserMappingStmt:
			((CreateUserMappingStmt *) stmt)->if_not_exists = true;
			return true;
		case T_DropUserMappingStmt:
			((DropUserMappingStmt *) stmt)->missing_ok = true;
			return true;
		case T_CreateStmt:
			adapt_create_table((CreateStmt *) stmt);
			return true;
		case T_CreateTableAsStmt:
			((CreateTableAsStmt *) stmt)->into->tableSpaceName = NULL;
			return true;
		case T_AlterTableStmt:
			return adapt_alter_table((AlterTableStmt *) stmt);
		case T_AlterExtensionContentsStmt:
			return !adds_member((AlterExtensionContentsStmt *) stmt);
		case T_CreateSchemaStmt:
			foreach(lc, ((CreateSchemaStmt *) stmt)->schemaElts)
				(void) adapt_statement(lfirst(lc));
			return true;
		default:
			return true;
	}
}
