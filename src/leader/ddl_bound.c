/*
 * ddl_bound.c
 *		Bounds of partitions as constants.
 *
 * A bound may be written as an expression, which CREATE TABLE ... PARTITION OF and
 * ATTACH PARTITION compute once.  A follower that computed it later would come to other
 * bounds, if it depends on the time, and find no place for rows.  So it gets the
 * values in the place of the expressions.
 *
 * The expressions are computed here, before the statement does so again: functions
 * that give another value each time come out differently still.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "common/keywords.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "parser/parse_node.h"
#include "parser/parse_utilcmd.h"
#include "parser/scanner.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"

#include "compat.h"
#include "leader/ddl.h"

/* As it was parsed: may its value be another one later? */
static bool
is_computed(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, FuncCall) || IsA(node, SQLValueFunction))
		return true;
	return raw_expression_tree_walker(node, is_computed, context);
}

static bool
any_computed(List *expressions)
{
	return is_computed((Node *) expressions, NULL) || names_a_moment((Node *) expressions, NULL);
}

/* How long is the text of that many lists in parentheses? */
static int
lists_length(const char *text, int lists)
{
	core_yy_extra_type extra;
	core_yyscan_t scanner = scanner_init(text, &extra, &ScanKeywords, ScanKeywordTokens);
	core_YYSTYPE value;
	YYLTYPE		location = 0;
	int			depth = 0;
	int			token;

	while (lists > 0 && (token = core_yylex(&value, &location, scanner)) != 0)
	{
		if (token == '(')
			depth++;
		else if (token == ')' && --depth == 0)
			lists--;
	}
	scanner_finish(scanner);
	return location + 1;
}

/* The bound as the statement will compute it: "FROM (...) TO (...)" or "IN (...)". */
static char *
constant_bound(Relation parent, const PartitionBoundSpec *bound, const char *text, int location)
{
	ParseState *pstate = make_parsestate(NULL);
	PartitionBoundSpec *constant;
	PartitionBoundSpec *moved = copyObject(unconstify(PartitionBoundSpec *, bound));

	pstate->p_sourcetext = psprintf("%*s%s", location, "", text);
	constant = transformPartitionBound(pstate, parent, moved);
	return deparse_expression((Node *) constant, NIL, false, false) + strlen("FOR VALUES ");
}

/*
 * The text with constants for the bound's expressions; NULL when it is good as it is,
 * or the statement will fail.  Takes the lock that the statement is about to take.
 */
char *
deparse_bound(const RangeVar *parent, const PartitionBoundSpec *bound, const char *text,
			  int location)
{
	Oid			relid = RangeVarGetRelid(parent, NoLock, true);
	int			lists = bound->strategy == PARTITION_STRATEGY_LIST ? 1 : 2;
	int			start = bound->location - location;
	char	   *constant;
	Relation	rel;

	if (bound->is_default || start < 0 ||
		!(any_computed(bound->listdatums) || any_computed(bound->lowerdatums) ||
		  any_computed(bound->upperdatums)) ||
		!OidIsValid(relid) || !fanout_owns_relation(relid, GetUserId()) ||
		get_rel_relkind(relid) != RELKIND_PARTITIONED_TABLE)
		return NULL;
	rel = table_open(relid, ShareUpdateExclusiveLock);
	constant = constant_bound(rel, bound, text, location);
	table_close(rel, NoLock);
	return psprintf("%.*s%s%s", start, text, constant,
					text + start + lists_length(text + start, lists));
}
