/*
 * read_views.c
 *		Materialized views over replicated tables.
 *
 * How fresh their rows are depends on who computed them, and when.  Those that a statement
 * of the stream computed are as fresh as the stream: what the leader refreshed since is a
 * statement that is yet to come.  So a bounded read of such a view is a read of its tables
 * (read_tables.c).  Of a view that was made or refreshed by somebody else here nobody knows
 * that, and a bounded read of it fails.
 *
 * fanout.followed_view lists the former.  A view is put there by the stream's process that
 * computes it while all tables are in line, and is taken away by whoever else does so, in
 * the same transaction.  A copy of all tables takes all away: statements of the leader may have
 * been lost.
 *
 * What a view's functions read is not known.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "nodes/parsenodes.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "follower/follower.h"
#include "follower/read_views.h"
#include "own_tables.h"

/* ---------- what it is computed from ---------- */

/* Add the relations that a query reads to the List of oids at context. */
static bool
add_relations(Node *node, void *context)
{
	List	  **relids = context;
	ListCell   *lc;

	if (node == NULL)
		return false;
	if (!IsA(node, Query))
		return expression_tree_walker(node, add_relations, context);
	foreach(lc, ((Query *) node)->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

		if (rte->rtekind == RTE_RELATION)
			*relids = list_append_unique_oid(*relids, rte->relid);
	}
	return query_tree_walker((Query *) node, add_relations, context, 0);
}

/* What a view's query reads. */
static List *
add_of_view(List *relids, Oid relid)
{
	Relation	view = try_relation_open(relid, AccessShareLock);

	if (view == NULL)
		return relids;
	for (int i = 0; view->rd_rules != NULL && i < view->rd_rules->numLocks; i++)
	{
		RewriteRule *rule = view->rd_rules->rules[i];

		if (rule->event == CMD_SELECT)
			(void) expression_tree_walker((Node *) rule->actions, add_relations, &relids);
	}
	relation_close(view, AccessShareLock);
	return relids;
}

List *
view_tables(Oid relid)
{
	List	   *relids = list_make1_oid(relid);
	List	   *tables = NIL;

	/* It grows while we go through it: each relation is there once. */
	for (int i = 0; i < list_length(relids); i++)
	{
		Oid			each = list_nth_oid(relids, i);
		char		relkind = get_rel_relkind(each);

		CHECK_FOR_INTERRUPTS();
		if (relkind == RELKIND_VIEW || relkind == RELKIND_MATVIEW)
			relids = add_of_view(relids, each);
		else if (guard_followed_id(each) != 0)
			tables = lappend_oid(tables, each);
		else if (relkind == RELKIND_RELATION && has_subclass(each))
			relids = list_concat_unique_oid(relids, find_all_inheritors(each, NoLock, NULL));
	}
	list_free(relids);
	return tables;
}

/* ---------- who computed it ---------- */

bool
view_is_of_stream(Oid relid)
{
	Oid			own = own_table_oid("followed_view");
	Relation	rel;
	ScanKeyData key;
	SysScanDesc scan;
	bool		found;

	if (!OidIsValid(own))
		return false;
	rel = table_open(own, AccessShareLock);
	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relid));
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 1, &key);
	found = HeapTupleIsValid(systable_getnext(scan));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

static void
execute(const char *query, Oid relid)
{
	OwnTables	state;
	Oid			types[] = {OIDOID};
	Datum		values[] = {ObjectIdGetDatum(relid)};

	own_tables_begin(&state);
	if (SPI_execute_with_args(query, 1, types, values, NULL, false, 0) < 0)
		elog(ERROR, "could not write which materialized views follow");
	own_tables_end(&state);
}

static void
note_view(Oid relid)
{
	execute("DELETE FROM fanout.followed_view v WHERE NOT EXISTS (SELECT"
			" FROM pg_catalog.pg_class c WHERE c.oid = v.relid)", relid);
	execute("INSERT INTO fanout.followed_view VALUES ($1) ON CONFLICT DO NOTHING", relid);
}

static void
forget_view(Oid relid)
{
	if (view_is_of_stream(relid))
		execute("DELETE FROM fanout.followed_view WHERE relid = $1", relid);
}

void
views_forget_all(void)
{
	execute("DELETE FROM fanout.followed_view WHERE $1 IS NOT NULL", InvalidOid);
}

/* Do the tables show what they should?  During a copy of all they do. */
static bool
all_in_line(void)
{
	for (int i = 0; i < fanout_max_streams; i++)
	{
		FollowedStream *stream = &FollowedStreams[i];

		if (stream->in_use && stream->dboid == MyDatabaseId &&
			stream->state != FOLLOW_COPYING && !tables_are_settled(stream))
			return false;
	}
	return true;
}

/* The materialized view whose rows a statement computes, or takes away; NULL: none. */
static RangeVar *
computed_view(Node *stmt, bool *skip_data)
{
	CreateTableAsStmt *made = (CreateTableAsStmt *) stmt;
	RefreshMatViewStmt *refreshed = (RefreshMatViewStmt *) stmt;

	if (IsA(stmt, CreateTableAsStmt) && made->objtype == OBJECT_MATVIEW)
	{
		*skip_data = made->into->skipData;
		return made->into->rel;
	}
	if (!IsA(stmt, RefreshMatViewStmt))
		return NULL;
	*skip_data = refreshed->skipData;
	return refreshed->relation;
}

void
view_note_statement(Node *stmt, bool of_stream)
{
	bool		skip_data;
	RangeVar   *name = computed_view(stmt, &skip_data);
	Oid			relid;

	if (name == NULL || !OidIsValid(own_table_oid("followed_view")))
		return;
	CommandCounterIncrement();
	relid = RangeVarGetRelid(name, NoLock, true);
	if (!OidIsValid(relid))
		return;
	if (of_stream && !skip_data && all_in_line())
		note_view(relid);
	else
		forget_view(relid);
}
