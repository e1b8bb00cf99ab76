/*
 * table_hash.c
 *		Hashes of a table's rows, for fanout.verify() on both sides.
 *
 * fanout.table_hashes() reads a table as its storage has it: no query is planned, so
 * nothing runs that the table's owner, or a partition's, has put there (constant parts of index
 * predicates, policies, casts).  What does run are output functions of types, and row filters
 * of publications, which may use built-in functions only.  Whoever calls it needs the
 * right to read these columns; a table whose policies would hide rows from the caller is refused.
 *
 * A partitioned table is read partition by partition, each row in the shape of the root.  Partitions
 * that are foreign tables have no rows here.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/tupconvert.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "executor/executor.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "parser/parse_clause.h"
#include "parser/parse_collate.h"
#include "parser/parse_relation.h"
#include "parser/parser.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"

#include "arrays.h"
#include "compat.h"
#include "pg_fanout.h"
#include "row_hash.h"

PG_FUNCTION_INFO_V1(fanout_table_hashes);

/* More would be a lot of memory for a small gain. */
#define MAX_BUCKETS		(1 << 20)

typedef struct TableHash
{
	const HashRequest *request;
	TupleDesc	desc;			/* of the root */
	TupleTableSlot *slot;		/* a partition's row in its shape */
	RowHash    *columns;
	RowHash    *key;
	ExprState  *filter;
	ExprContext *econtext;		/* per-tuple memory is reset with each row */
	HashLine   *lines;			/* of the buckets */
	Bitmapset  *chosen;
	HashLinePut put;
	void	   *arg;
} TableHash;

/* ---------- the filter ---------- */

/* As the text of a row filter says. */
static Node *
parse_filter(Relation rel, const char *filter)
{
	ParseState *pstate = make_parsestate(NULL);
	RawStmt    *raw = linitial_node(RawStmt, raw_parser(filter, RAW_PARSE_PLPGSQL_EXPR));
	SelectStmt *select = castNode(SelectStmt, raw->stmt);
	Node	   *qual;

	if (list_length(select->targetList) != 1 || select->fromClause != NIL ||
		select->whereClause != NULL || select->op != SETOP_NONE)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("a row filter must be an expression")));
	addNSItemToQuery(pstate,
					 addRangeTableEntryForRelation(pstate, rel, AccessShareLock, NULL, false, true),
					 false, true, true);
	qual = transformWhereClause(pstate, linitial_node(ResTarget, select->targetList)->val,
								EXPR_KIND_WHERE, "WHERE");
	assign_expr_collations(pstate, qual);
	if (contain_mutable_functions(qual) || contain_subplans(qual))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a row filter can use immutable functions only")));
	free_parsestate(pstate);
	return qual;
}

/* ---------- rights ---------- */

static void
check_columns(Relation rel, Bitmapset *attnums)
{
	int			attnum = -1;

	while ((attnum = bms_next_member(attnums, attnum)) >= 0)
	{
		AttrNumber	number = attnum + FirstLowInvalidHeapAttributeNumber;

		if (number <= 0 || pg_attribute_aclcheck(RelationGetRelid(rel), number, GetUserId(),
												 ACL_SELECT) != ACLCHECK_OK)
			aclcheck_error(ACLCHECK_NO_PRIV, get_relkind_objtype(rel->rd_rel->relkind),
						   RelationGetRelationName(rel));
	}
}

/* May the caller read all rows of the table, and of them what is asked for? */
static void
check_rights(Relation rel, const TableHash *state, Node *filter)
{
	Bitmapset  *attnums = NULL;
	List	   *numbers = list_concat(row_hash_attnums(state->columns),
									  row_hash_attnums(state->key));
	ListCell   *lc;

	if (check_enable_rls(RelationGetRelid(rel), InvalidOid, false) == RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("query would be affected by row-level security policy for table \"%s\"",
						RelationGetRelationName(rel))));
	if (pg_class_aclcheck(RelationGetRelid(rel), GetUserId(), ACL_SELECT) == ACLCHECK_OK)
		return;
	foreach(lc, numbers)
		attnums = bms_add_member(attnums, lfirst_int(lc) - FirstLowInvalidHeapAttributeNumber);
	pull_varattnos(filter, 1, &attnums);
	check_columns(rel, attnums);
}

/* ---------- rows ---------- */

static void
put_row(TableHash *state, TupleTableSlot *slot, uint64 hash)
{
	StringInfoData json;

	initStringInfo(&json);
	row_hash_json(state->key, slot, &json);
	state->put(state->arg, &(HashLine) {.key = json.data, .rows = 1, .hash = hash});
}

static void
hash_row(TableHash *state, TupleTableSlot *slot)
{
	int			buckets = Max(state->request->buckets, 1);
	int			bucket = buckets == 1 ? 0 : row_hash(state->key, slot) & (buckets - 1);

	if (state->request->chosen == NIL)
	{
		state->lines[bucket].rows++;
		state->lines[bucket].hash += row_hash(state->columns, slot);
	}
	else if (bms_is_member(bucket, state->chosen))
		put_row(state, slot, row_hash(state->columns, slot));
}

static void
scan_relation(TableHash *state, Oid relid)
{
	Relation	rel = table_open(relid, AccessShareLock);
	TupleTableSlot *stored = table_slot_create(rel, NULL);
	TupleConversionMap *map = convert_tuples_by_name(RelationGetDescr(rel), state->desc);
	TableScanDesc scan = table_beginscan(rel, GetActiveSnapshot(), 0, NULL);

	while (table_scan_getnextslot(scan, ForwardScanDirection, stored))
	{
		TupleTableSlot *slot = map == NULL ? stored
			: execute_attr_map_slot(map->attrMap, stored, state->slot);
		MemoryContext oldcontext;

		CHECK_FOR_INTERRUPTS();
		ResetExprContext(state->econtext);
		oldcontext = MemoryContextSwitchTo(state->econtext->ecxt_per_tuple_memory);
		state->econtext->ecxt_scantuple = slot;
		if (ExecQual(state->filter, state->econtext))
			hash_row(state, slot);
		MemoryContextSwitchTo(oldcontext);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(stored);
	table_close(rel, NoLock);
}

static void
scan_all(TableHash *state, Relation root)
{
	ListCell   *lc;

	if (root->rd_rel->relkind == RELKIND_RELATION)
	{
		scan_relation(state, RelationGetRelid(root));
		return;
	}
	foreach(lc, find_all_inheritors(RelationGetRelid(root), AccessShareLock, NULL))
	{
		if (get_rel_relkind(lfirst_oid(lc)) == RELKIND_RELATION)
			scan_relation(state, lfirst_oid(lc));
	}
}

/* ---------- a request ---------- */

static void
check_request(Relation rel, const HashRequest *request)
{
	char		relkind = rel->rd_rel->relkind;

	if (relkind != RELKIND_RELATION && relkind != RELKIND_PARTITIONED_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a table", RelationGetRelationName(rel))));
	if (request->buckets < 0 || request->buckets > MAX_BUCKETS ||
		(request->buckets & (request->buckets - 1)) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("number of buckets must be a power of two up to %d", MAX_BUCKETS)));
}

static void
prepare(TableHash *state, Relation rel, EState *estate)
{
	const HashRequest *request = state->request;
	Node	   *filter = request->filter != NULL ? parse_filter(rel, request->filter) : NULL;
	ListCell   *lc;

	state->desc = RelationGetDescr(rel);
	state->columns = row_hash_prepare(state->desc, request->columns, request->text_columns);
	state->key = row_hash_prepare(state->desc, request->key, request->text_columns);
	check_rights(rel, state, filter);

	state->slot = MakeSingleTupleTableSlot(state->desc, &TTSOpsVirtual);
	state->econtext = GetPerTupleExprContext(estate);
	state->filter = ExecPrepareQual(filter != NULL ? make_ands_implicit((Expr *) filter) : NIL,
									estate);
	state->lines = palloc0(sizeof(HashLine) * Max(request->buckets, 1));
	foreach(lc, request->chosen)
	{
		if (lfirst_int(lc) >= 0)
			state->chosen = bms_add_member(state->chosen, lfirst_int(lc));
	}
}

static void
put_buckets(TableHash *state)
{
	const HashRequest *request = state->request;

	if (request->chosen != NIL)
		return;
	for (int i = 0; i < Max(request->buckets, 1); i++)
	{
		if (request->buckets > 0 && state->lines[i].rows == 0)
			continue;
		state->lines[i].key = request->buckets > 0 ? psprintf("%d", i) : "";
		state->put(state->arg, &state->lines[i]);
	}
}

void
table_hashes(Oid relid, const HashRequest *request, HashLinePut put, void *arg)
{
	TableHash	state = {.request = request, .put = put, .arg = arg};
	Relation	rel = try_relation_open(relid, AccessShareLock);
	EState	   *estate = CreateExecutorState();

	if (rel == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid)));
	check_request(rel, request);
	prepare(&state, rel, estate);
	scan_all(&state, rel);
	put_buckets(&state);
	ExecDropSingleTupleTableSlot(state.slot);
	FreeExecutorState(estate);
	relation_close(rel, NoLock);
}

/* ---------- the SQL function ---------- */

static void
put_line(void *arg, const HashLine *line)
{
	ReturnSetInfo *rsinfo = arg;
	Datum		values[] = {
		CStringGetTextDatum(line->key),
		Int64GetDatum(line->rows),
		Int64GetDatum((int64) line->hash),
	};
	bool		nulls[lengthof(values)] = {false};

	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/*
 * table_hashes(relation regclass, columns name[], text_columns name[], key name[], filter text,
 * buckets int, chosen int[]) RETURNS SETOF record (key text, rows bigint, hash bigint)
 */
Datum
fanout_table_hashes(PG_FUNCTION_ARGS)
{
	HashRequest request = {0};

	fanout_require_preload();
	for (int i = 0; i < 4; i++)
	{
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("relation, columns and key must not be null")));
	}
	request.columns = name_array_list(PG_GETARG_ARRAYTYPE_P(1));
	request.text_columns = name_array_list(PG_GETARG_ARRAYTYPE_P(2));
	request.key = name_array_list(PG_GETARG_ARRAYTYPE_P(3));
	request.filter = PG_ARGISNULL(4) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(4));
	request.buckets = PG_ARGISNULL(5) ? 0 : PG_GETARG_INT32(5);
	request.chosen = PG_ARGISNULL(6) ? NIL : int_array_list(PG_GETARG_ARRAYTYPE_P(6));

	InitMaterializedSRF(fcinfo, 0);
	table_hashes(PG_GETARG_OID(0), &request, put_line, fcinfo->resultinfo);
	return (Datum) 0;
}
