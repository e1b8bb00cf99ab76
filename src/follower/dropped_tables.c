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
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "follower/follower.h"
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
