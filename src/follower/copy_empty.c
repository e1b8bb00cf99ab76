/*
 * copy_empty.c
 *		Emptying the tables that are to be copied.
 *
 * They may be thousands, and whoever locks a table has a place in the server's lock table for it
 * until his transaction ends, which other sessions then lack.  So it takes several
 * transactions.  Only tables that foreign keys tie to each other are truncated in one, as
 * they must be.  When there are too many of those, or one that stays references them, their
 * rows are deleted.
 *
 * The locks may come late, and nobody who wants to stop following or to pause waits for a
 * row that was changed before.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/rel.h"

#include "follower/copy.h"
#include "follower/local_table.h"
#include "own_tables.h"

#define TABLES_PER_TRANSACTION	20
#define MAX_TIED				1000

/* ---------- which ---------- */

/* The pending tables: those that no foreign key concerns, and the others. */
static void
read_pending(const FollowedRow *row, List **single, List **tied)
{
	OwnTables	state;
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(row->id)};
	MemoryContext oldcontext;

	own_tables_begin(&state);
	if (SPI_execute_with_args("SELECT relid, relid IN (SELECT unnest(ARRAY[conrelid, confrelid])"
							  "                        FROM pg_constraint WHERE contype = 'f')"
							  " FROM fanout.followed_table WHERE followed_id = $1 AND state = 'p'"
							  " ORDER BY relid",
							  lengthof(types), types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read fanout.followed_table");
	oldcontext = MemoryContextSwitchTo(state.context);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		isnull;
		Oid			relid = DatumGetObjectId(SPI_getbinval(tuple, desc, 1, &isnull));

		if (DatumGetBool(SPI_getbinval(tuple, desc, 2, &isnull)))
			*tied = lappend_oid(*tied, relid);
		else
			*single = lappend_oid(*single, relid);
	}
	MemoryContextSwitchTo(oldcontext);
	own_tables_end(&state);
}

/* Does a table that stays reference one that is emptied? */
static bool
referenced_from_outside(const FollowedRow *row)
{
	return followed_execute("SELECT 1 FROM pg_catalog.pg_constraint c"
							" JOIN fanout.followed_table t ON t.relid = c.confrelid"
							" WHERE c.contype = 'f' AND t.followed_id = $1 AND t.state = 'p'"
							" AND NOT EXISTS (SELECT FROM fanout.followed_table o"
							" WHERE o.followed_id = $1 AND o.state = 'p' AND o.relid = c.conrelid)",
							row->id) > 0;
}

/* ---------- emptying ---------- */

/* After a wait: whoever stopped following meanwhile keeps his rows. */
static void
check_still_followed(const FollowedRow *row)
{
	if (followed_execute("SELECT 1 FROM fanout.followed_stream WHERE id = $1", row->id) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this database stopped following the stream")));
}

/* The tables, opened and locked, with their partitions. */
static List *
open_tables(const FollowedRow *row, List *relids, LOCKMODE lockmode)
{
	List	   *rels = NIL;
	ListCell   *lc;

	foreach(lc, relids)
		rels = local_table_open_all(rels, lfirst_oid(lc), lockmode);
	check_still_followed(row);
	return rels;
}

static void
close_tables(List *rels)
{
	ListCell   *lc;

	foreach(lc, rels)
		table_close(lfirst(lc), NoLock);
}

static bool
has_pages(Relation rel)
{
	return RELKIND_HAS_STORAGE(rel->rd_rel->relkind) && RelationGetNumberOfBlocks(rel) > 0;
}

/* A table that was just made has no rows, nor need it get another file. */
static List *
with_pages(List *rels)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, rels)
	{
		if (has_pages(lfirst(lc)))
			result = lappend(result, lfirst(lc));
	}
	return result;
}

static void
truncate_single(const FollowedRow *row, List *relids)
{
	List	   *rels;
	List	   *to_empty;

	begin_step("emptying the tables to be copied");
	rels = open_tables(row, relids, AccessExclusiveLock);
	to_empty = with_pages(rels);
	if (to_empty != NIL)
		local_tables_truncate(to_empty, false);
	close_tables(rels);
	end_step();
}

static void
truncate_tied(const FollowedRow *row, List *relids)
{
	List	   *rels;

	begin_step("emptying the tables to be copied");
	rels = open_tables(row, relids, AccessExclusiveLock);
	local_tables_truncate(rels, false);
	close_tables(rels);
	end_step();
}

static void
delete_rows(const FollowedRow *row, List *relids)
{
	List	   *rels;
	ListCell   *lc;

	begin_step("emptying the tables to be copied");
	rels = open_tables(row, relids, RowExclusiveLock);
	foreach(lc, rels)
		local_table_delete_all(lfirst(lc), NULL);
	close_tables(rels);
	end_step();
}

static void
some_at_a_time(const FollowedRow *row, List *relids,
			   void (*empty) (const FollowedRow *, List *))
{
	for (int i = 0; i < list_length(relids); i += TABLES_PER_TRANSACTION)
	{
		CHECK_FOR_INTERRUPTS();
		empty(row, list_copy_head(list_copy_tail(relids, i), TABLES_PER_TRANSACTION));
	}
}

void
empty_pending_tables(const FollowedRow *row)
{
	MemoryContext context = CurrentMemoryContext;
	List	   *single = NIL;
	List	   *tied = NIL;
	bool		to_delete;

	begin_step("looking for tables to be emptied");
	MemoryContextSwitchTo(context);
	read_pending(row, &single, &tied);
	to_delete = list_length(tied) > MAX_TIED || referenced_from_outside(row);
	end_step();

	some_at_a_time(row, single, truncate_single);
	if (to_delete)
		some_at_a_time(row, tied, delete_rows);
	else if (tied != NIL)
		truncate_tied(row, tied);
}
