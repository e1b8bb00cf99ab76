/*
 * read_tables.c
 *		Which replicated tables a statement reads.
 *
 * All that a plan reads is in its range table: also what comes by a view, a policy, an
 * inlined function or a sub-query, and what the planner found that it need not look at.
 * What its functions read is in the plans of these, which get to the executor, too.  A
 * materialized view is as fresh as its tables, or nobody knows (read_views.c).
 */
#include "postgres.h"

#include "access/xlog.h"
#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "utils/lsyscache.h"

#include "follower/follower.h"
#include "follower/read_tables.h"
#include "follower/read_views.h"
#include "follower/wait.h"

static bool skip_views = false;

/* Its stream has no record: no worker was started since the server was. */
static void
nothing_known(Oid relid)
{
	ereport(ERROR,
			(errcode(FANOUT_ERRCODE_STALE_READ),
			 errmsg("the follower is too stale for this statement"),
			 errdetail("Nothing is known about the stream of table \"%s\".", get_rel_name(relid)),
			 RecoveryInProgress() ?
			 errhint("This server is a standby of the follower: read there, or reset \"fanout.max_staleness\" and \"fanout.read_after\".") : 0));
}

static List *
add_table(List *tables, Oid relid)
{
	int32		id = guard_followed_id(relid);
	ReadTable  *table;

	if (id == 0)
		return tables;
	table = palloc(sizeof(ReadTable));
	table->relid = relid;
	table->stream = followed_stream_find(MyDatabaseId, id);
	if (table->stream == NULL)
		nothing_known(relid);
	return lappend(tables, table);
}

static void
view_not_of_stream(Oid relid, Oid table)
{
	ereport(ERROR,
			(errcode(FANOUT_ERRCODE_STALE_READ),
			 errmsg("it is not known how stale materialized view \"%s\" is", get_rel_name(relid)),
			 errdetail("It is computed from replicated table \"%s\", and was computed last by somebody else than the stream.",
					   get_rel_name(table)),
			 errhint("Read the tables, or reset \"fanout.max_staleness\" and \"fanout.read_after\".")));
}

static List *
add_view(List *tables, Oid relid)
{
	List	   *relids = view_tables(relid);
	ListCell   *lc;

	if (relids != NIL && !view_is_of_stream(relid))
		view_not_of_stream(relid, linitial_oid(relids));
	foreach(lc, relids)
		tables = add_table(tables, lfirst_oid(lc));
	return tables;
}

List *
read_tables_add(List *tables, Oid relid, char relkind)
{
	if (relkind != RELKIND_MATVIEW)
		return add_table(tables, relid);
	return skip_views ? tables : add_view(tables, relid);
}

void
read_tables_skip_views(bool skip)
{
	skip_views = skip;
}

List *
read_tables(const PlannedStmt *stmt)
{
	List	   *tables = NIL;
	ListCell   *lc;

	foreach(lc, stmt->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

		if (rte->rtekind == RTE_RELATION)
			tables = read_tables_add(tables, rte->relid, rte->relkind);
	}
	return tables;
}

List *
read_streams(const List *tables)
{
	List	   *streams = NIL;
	ListCell   *lc;

	foreach(lc, tables)
		streams = list_append_unique_ptr(streams, ((ReadTable *) lfirst(lc))->stream);
	return streams;
}

Oid
read_first_behind(const List *tables, Snapshot snapshot)
{
	ListCell   *lc;

	foreach(lc, tables)
	{
		ReadTable  *table = lfirst(lc);

		if (!table_is_current(table->stream, table->relid, snapshot))
			return table->relid;
	}
	return InvalidOid;
}
