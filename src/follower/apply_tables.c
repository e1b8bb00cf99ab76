/*
 * apply_tables.c
 *		Tables that join or leave the publications of a stream that names some.
 *
 * The stream says which tables are published, whenever that changes, at the end of the
 * transaction that changed it (leader/published_tables.c).  In the local transaction of
 * that one
 *
 *	-	tables that are no longer listed lose their row in fanout.followed_table: the
 *		guard lets go of them, and they stay as they are;
 *	-	tables that are listed and have no row are noted in followed_stream.joining, and
 *		copy_state becomes "tables".
 *
 * Once that is committed, the worker makes and copies what joined (copy_join.c), and
 * goes on.  A table has its row from then on; changes of it that come before are in the
 * copy, since its snapshot is taken later.
 *
 * A list that the snapshot of a table's copy sees is older than what is known of that
 * table, and does not count for it.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/memutils.h"

#include "arrays.h"
#include "follower/apply_internal.h"
#include "log/table_list.h"
#include "own_tables.h"

static const FollowedRow *stream_row;
static List *joining;			/* oids on the leader */

static void
set_joining(List *relids)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(TopMemoryContext);

	list_free(joining);
	joining = list_copy(relids);
	MemoryContextSwitchTo(oldcontext);
}

void
apply_tables_init(const FollowedRow *row)
{
	stream_row = row;
	set_joining(row->joining);
}

bool
table_is_joining(Oid leader_relid)
{
	return list_member_oid(joining, leader_relid);
}

/* A table of the list that has a row.  One that a schema change just made has it by its name. */
static FollowedTable *
followed_as(const ListedTable *listed, List *followed)
{
	FollowedTable *by_name = NULL;
	ListCell   *lc;

	foreach(lc, followed)
	{
		FollowedTable *table = lfirst(lc);

		if (table->leader_relid == listed->relid)
			return table;
		if (!OidIsValid(table->leader_relid) &&
			strcmp(table->nspname, NameStr(listed->nspname)) == 0 &&
			strcmp(table->relname, NameStr(listed->relname)) == 0)
			by_name = table;
	}
	return by_name;
}

/* With the stream's id as $1 and oids as $2. */
static void
change_rows(const char *query, List *oids)
{
	OwnTables	state;
	Oid			types[] = {INT4OID, OIDARRAYOID};
	Datum		values[] = {Int32GetDatum(stream_row->id), oid_array_datum(oids)};

	own_tables_begin(&state);
	if (SPI_execute_with_args(query, lengthof(types), types, values, NULL, false, 0) < 0)
		elog(ERROR, "could not write which tables are followed");
	own_tables_end(&state);
}

static void
note_leader_relid(const FollowedTable *table, Oid leader_relid)
{
	change_rows(psprintf("UPDATE fanout.followed_table SET leader_relid = %u"
						 " WHERE followed_id = $1 AND relid = ANY ($2)", leader_relid),
				list_make1_oid(table->relid));
}

static void
note_joining(List *joined)
{
	change_rows(psprintf("UPDATE fanout.followed_stream SET joining = $2%s WHERE id = $1",
						 joined != NIL ? ", copy_state = '" COPY_TABLES "'" : ""), joined);
	if (joined != NIL)
		apply_needs_copy();
	set_joining(joined);
}

/* Tables of "followed" that are not in "listed" leave. */
static void
let_go(List *followed, List *listed, const LogTxn *txn)
{
	List	   *left = NIL;
	ListCell   *lc;

	foreach(lc, followed)
	{
		FollowedTable *table = lfirst(lc);

		if (!list_member_ptr(listed, table) && !relation_copied_after(table->relid, txn))
			left = lappend_oid(left, table->relid);
	}
	change_rows("DELETE FROM fanout.followed_table WHERE followed_id = $1 AND relid = ANY ($2)",
				left);
}

/* Returns true: the local transaction ends with the leader's. */
bool
apply_tables(const Change *change, const LogTxn *txn)
{
	List	   *followed = followed_tables(stream_row->id);
	List	   *listed = NIL;	/* those of followed */
	List	   *joined = NIL;
	ListCell   *lc;

	group_close_relations();
	followed_row_lock(stream_row->id);
	foreach(lc, table_list_decode(change->body, change->body_len))
	{
		ListedTable *table = lfirst(lc);
		FollowedTable *found = followed_as(table, followed);

		if (found == NULL)
			joined = lappend_oid(joined, table->relid);
		else
			listed = lappend(listed, found);
		if (found != NULL && found->leader_relid != table->relid)
			note_leader_relid(found, table->relid);
	}
	let_go(followed, listed, txn);
	note_joining(joined);
	followed_tables_changed();
	relation_map_reload();
	apply_tables_gone();
	return true;
}
