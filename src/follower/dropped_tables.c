/*
 * dropped_tables.c
 *		Replicated tables that are dropped here past the guard.
 *
 * A superuser may turn the guard off.  When that session drops a table of a stream, the
 * stream goes on without it: its row in fanout.followed_table says that it is missing, its
 * changes are ignored, fanout.staleness is unknown and has an error with its name.  A copy of
 * all tables (fanout.resync()) makes it again.
 *
 * The object access hook sees which table is dropped, but can't write there.  So that is
 * done when the command is over.
 *
 * When the leader drops such a table, too, by its name or with its schema, nothing is missing any more.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "nodes/parsenodes.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "follower/apply_internal.h"
#include "own_tables.h"

/* Streams of tables that were dropped by the command that runs; in TopMemoryContext. */
static List *followed_ids = NIL;

void
dropped_table_note(Oid relid)
{
	int32		id = guard_followed_id(relid);
	MemoryContext oldcontext;

	if (id == 0)
		return;
	oldcontext = MemoryContextSwitchTo(TopMemoryContext);
	followed_ids = list_append_unique_int(followed_ids, id);
	MemoryContextSwitchTo(oldcontext);
}

/* What a command noted that failed does no harm: only tables that are gone count. */
void
dropped_tables_finish(void)
{
	List	   *ids = followed_ids;
	ListCell   *lc;

	if (ids == NIL)
		return;
	followed_ids = NIL;
	if (!IsTransactionState())
		return;
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	foreach(lc, ids)
	{
		if (OidIsValid(own_table_oid("followed_table")) && tables_note_missing(lfirst_int(lc)) > 0)
		{
			followed_tables_changed();
			control_tables_missing(lfirst_int(lc));
		}
	}
	PopActiveSnapshot();
	list_free(ids);
}

/* ---------- the leader drops them, too ---------- */

/* All that are missing in that schema, or the one with that name. */
static List *
missing_in(const char *nspname, const char *relname)
{
	List	   *found = NIL;
	ListCell   *lc;

	foreach(lc, relation_map_in_state(TABLE_MISSING))
	{
		FollowedTable *table = relation_map_table(lfirst_oid(lc));

		if (strcmp(table->nspname, nspname) == 0 &&
			(relname == NULL || strcmp(table->relname, relname) == 0))
			found = lappend_oid(found, table->relid);
	}
	return found;
}

/* As on the leader, the first one in the search path is meant. */
static List *
missing_by_name(const RangeVar *name)
{
	ListCell   *lc;

	if (name->schemaname != NULL)
		return missing_in(name->schemaname, name->relname);
	foreach(lc, fetch_search_path(false))
	{
		List	   *found = missing_in(get_namespace_name(lfirst_oid(lc)), name->relname);

		if (found != NIL ||
			relation_map_table(get_relname_relid(name->relname, lfirst_oid(lc))) != NULL)
			return found;
	}
	return NIL;
}

/* Is what has the name here not in the place of the missing table, but further down the path? */
static bool
is_another(Oid relid, Oid missing)
{
	return OidIsValid(relid) &&
		strcmp(get_namespace_name(get_rel_namespace(relid)),
			   relation_map_table(missing)->nspname) != 0;
}

static List *
leave_table_names(DropStmt *stmt)
{
	List	   *gone = NIL;
	ListCell   *lc;

	foreach(lc, stmt->objects)
	{
		RangeVar   *name = makeRangeVarFromNameList(lfirst(lc));
		List	   *found = missing_by_name(name);

		gone = list_concat(gone, found);
		if (found != NIL &&
			is_another(RangeVarGetRelid(name, NoLock, true), linitial_oid(found)))
			stmt->objects = foreach_delete_current(stmt->objects, lc);
	}
	return gone;
}

List *
dropped_tables_leave(Node *stmt)
{
	DropStmt   *drop = (DropStmt *) stmt;
	List	   *gone = NIL;
	ListCell   *lc;

	if (!IsA(stmt, DropStmt) || relation_map_in_state(TABLE_MISSING) == NIL)
		return NIL;
	if (drop->removeType == OBJECT_TABLE)
		return leave_table_names(drop);
	if (drop->removeType != OBJECT_SCHEMA)
		return NIL;
	foreach(lc, drop->objects)
		gone = list_concat(gone, missing_in(strVal(lfirst(lc)), NULL));
	return gone;
}
