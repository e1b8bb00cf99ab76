/*
 * read_tables.c
 *		Which replicated tables a statement reads.
 *
 * All that a plan reads is in its range table: also what comes by a view, a policy, an
 * inlined function or a sub-query, and what the planner found that it need not look at.
 * What its functions read is in the plans of these, which get to the executor, too.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "utils/lsyscache.h"

#include "follower/follower.h"
#include "follower/read_tables.h"
#include "follower/wait.h"

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

List *
read_tables_add(List *tables, Oid relid)
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

List *
read_tables(const PlannedStmt *stmt)
{
	List	   *tables = NIL;
	ListCell   *lc;

	foreach(lc, stmt->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

		if (rte->rtekind == RTE_RELATION)
			tables = read_tables_add(tables, rte->relid);
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
