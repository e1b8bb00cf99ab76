/*
 * apply_group.c
 *		The executor's state for one local transaction.
 *
 * Opening a table, its indexes and slots for each row is what costs most in
 * applying one, so it is done once per local transaction, which may hold many
 * transactions of the leader.  Everything lives in the EState's memory and is given up
 * before the local commit, or for TRUNCATE, which needs the tables unused.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_class.h"
#include "executor/executor.h"
#include "nodes/makefuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_relation.h"
#include "rewrite/rewriteHandler.h"
#include "utils/rel.h"

#include "compat.h"
#include "follower/apply_internal.h"
#include "follower/local_table.h"

/* A local column that the leader does not have, and its default. */
typedef struct DefaultColumn
{
	AttrNumber	attnum;
	ExprState  *expr;
} DefaultColumn;

/* On a table's TOAST table and the index of that, at the most. */
#define TOAST_LOCKS	2

static EState *estate = NULL;
static EPQState recheck;		/* valid while estate is */
static List *open_relations = NIL;	/* of ApplyRelation; list lives in estate */

EState *
group_estate(void)
{
	if (estate == NULL)
	{
		MemoryContext oldcontext = MemoryContextSwitchTo(TopTransactionContext);

		estate = CreateExecutorState();
		MemoryContextSwitchTo(estate->es_query_cxt);
		fanout_eval_plan_qual_init(&recheck, estate);
		MemoryContextSwitchTo(oldcontext);
	}
	return estate;
}

EPQState *
group_recheck(void)
{
	return &recheck;
}

static List *
prepare_defaults(const ApplyRelation *relation)
{
	TupleDesc	tupdesc = RelationGetDescr(relation->rel);
	List	   *defaults = NIL;

	if (!relation->has_extra)
		return NIL;
	for (int i = 0; i < tupdesc->natts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(tupdesc, i);
		DefaultColumn *column;
		Expr	   *expr;

		if (attr->attisdropped || attr->attgenerated ||
			relation_sent_column(relation, attr->attnum) >= 0)
			continue;
		expr = (Expr *) build_column_default(relation->rel, attr->attnum);
		if (expr == NULL)
			continue;
		column = palloc(sizeof(DefaultColumn));
		column->attnum = attr->attnum;
		column->expr = ExecInitExpr(expression_planner(expr), NULL);
		defaults = lappend(defaults, column);
	}
	return defaults;
}

void
group_put_defaults(ApplyRelation *relation, TupleTableSlot *slot)
{
	ListCell   *lc;

	foreach(lc, relation->defaults)
	{
		DefaultColumn *column = lfirst(lc);
		int			at = column->attnum - 1;

		slot->tts_values[at] = ExecEvalExprSwitchContext(column->expr,
														 GetPerTupleExprContext(estate),
														 &slot->tts_isnull[at]);
	}
}

/*
 * Rows may be older than a constraint that is not valid.  The server prepares the checks when there are
 * none yet, and one that is empty always holds.
 */
static void
leave_out_checks(const ApplyRelation *relation)
{
	TupleConstr *constr = RelationGetDescr(relation->rel)->constr;
	ExprState **checks;
	bool		valid = true;

	for (int i = 0; constr != NULL && i < constr->num_check; i++)
		valid &= constr->check[i].ccvalid;
	if (valid)
		return;
	checks = palloc0(constr->num_check * sizeof(ExprState *));
	for (int i = 0; i < constr->num_check; i++)
	{
		if (constr->check[i].ccvalid)
			checks[i] = ExecPrepareExpr(fanout_check_expression(&constr->check[i], relation->rel),
										estate);
	}
	fanout_check_states(relation->result) = checks;
}

static void
open_relation(ApplyRelation *relation)
{
	RangeTblEntry *rte = makeNode(RangeTblEntry);
	TupleDesc	tupdesc;

	relation->rel = table_open(relation->relid, RowExclusiveLock);
	tupdesc = RelationGetDescr(relation->rel);

	rte->rtekind = RTE_RELATION;
	rte->relid = relation->relid;
	rte->relkind = relation->rel->rd_rel->relkind;
	rte->rellockmode = AccessShareLock;
	fanout_add_to_range_table(estate, rte);

	relation->result = makeNode(ResultRelInfo);
	InitResultRelInfo(relation->result, relation->rel, list_length(estate->es_range_table),
					  NULL, 0);
	estate->es_opened_result_relations =
		lappend(estate->es_opened_result_relations, relation->result);
	ExecOpenIndices(relation->result, false);
	apply_count_locks(1 + relation->result->ri_NumIndices +
					  (OidIsValid(relation->rel->rd_rel->reltoastrelid) ? TOAST_LOCKS : 0));

	relation->new_slot = ExecInitExtraTupleSlot(estate, tupdesc, &TTSOpsVirtual);
	relation->search_slot = ExecInitExtraTupleSlot(estate, tupdesc, &TTSOpsVirtual);
	relation->found_slot = ExecInitExtraTupleSlot(estate, tupdesc,
												  table_slot_callbacks(relation->rel));
	relation->defaults = prepare_defaults(relation);
	leave_out_checks(relation);
	local_table_fire_deferred(relation->rel);
	relation->triggers = local_table_has_triggers(relation->rel);
	relation->plain_update = update_is_plain(relation);
	/* Rows differ in what changes, so an UPDATE computes all generated columns. */
	if (relation->triggers)
		(void) ExecGetExtraUpdatedCols(relation->result, estate);
	relation->find = NULL;
	relation->insert_slots = NULL;
	open_relations = lappend(open_relations, relation);
	if (rte->relkind == RELKIND_PARTITIONED_TABLE)
		partitions_open(relation);
}

/*
 * A table that has its description from elsewhere: a partition, or one that is copied.  Only
 * those that are tables can take a row; a lock comes before their columns are read.
 */
void
group_open_table(ApplyRelation *relation, Oid relid)
{
	Relation	rel = table_open(relid, RowExclusiveLock);

	if (rel->rd_rel->relkind != RELKIND_RELATION)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("cannot replicate into partition \"%s\"", RelationGetRelationName(rel)),
				 errdetail("It is not an ordinary table on this follower.")));
	local_table_require_permanent(rel);
	relation_map_columns(relation, rel);
	open_relation(relation);
	table_close(rel, NoLock);
}

ApplyRelation *
group_open(Oid leader_relid)
{
	ApplyRelation *relation = relation_map_get(leader_relid);
	MemoryContext oldcontext;

	if (relation->rel != NULL)
		return relation;
	oldcontext = MemoryContextSwitchTo(group_estate()->es_query_cxt);
	open_relation(relation);
	batch_open(relation);
	MemoryContextSwitchTo(oldcontext);
	return relation;
}

/* After an error: the transaction that everything belonged to is over. */
void
group_abandon(void)
{
	estate = NULL;
	open_relations = NIL;
	memset(&apply_position, 0, sizeof(apply_position));
}

void
group_close_relations(void)
{
	ListCell   *lc;

	if (estate == NULL)
		return;
	batch_flush_all();
	foreach(lc, open_relations)
	{
		ApplyRelation *relation = lfirst(lc);

		if (relation->partitions != NULL)
			partitions_close(relation);
		find_end(relation);
		ExecCloseIndices(relation->result);
		table_close(relation->rel, NoLock);
		relation->rel = NULL;
	}
	open_relations = NIL;
	EvalPlanQualEnd(&recheck);
	ExecResetTupleTable(estate->es_tupleTable, false);
	FreeExecutorState(estate);
	estate = NULL;
}
