/*
 * copy_pending.c
 *		The tables that are to be copied: which they are on the leader, and what keeps one
 *		from being copied.
 *
 * Each table is copied by itself.  An error that is one of the table, and not of the connection
 * or of a server, is noted in its row of fanout.followed_table; then the others
 * are copied, and the stream goes on.  A table that failed comes last the next time, so that it
 * keeps no other waiting.
 *
 * A table of the leader is known by its oid, since it may have another name by the time that an
 * interrupted copy goes on, and another table its old one.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "arrays.h"
#include "follower/apply_internal.h"
#include "follower/copy.h"
#include "own_tables.h"
#include "transaction.h"

/* ---------- which ---------- */

static int
compare_names(const char *nspname, const char *relname, const CopyTable *table)
{
	int			result = strcmp(nspname, table->nspname);

	return result != 0 ? result : strcmp(relname, table->relname);
}

static int
by_name(const ListCell *a, const ListCell *b)
{
	const CopyTable *table = lfirst(a);

	return compare_names(table->nspname, table->relname, lfirst(b));
}

/* How the table stands to one of the leader's, in the order of a sorted list. */
static int
compare_followed(const FollowedTable *followed, const CopyTable *table)
{
	if (!OidIsValid(followed->leader_relid))
		return compare_names(followed->nspname, followed->relname, table);
	return followed->leader_relid < table->relid ? -1 : followed->leader_relid > table->relid;
}

static CopyTable *
find_in(List *sorted, const FollowedTable *followed)
{
	int			low = 0;
	int			high = list_length(sorted);

	while (low < high)
	{
		int			middle = (low + high) / 2;
		CopyTable  *table = list_nth(sorted, middle);
		int			order = compare_followed(followed, table);

		if (order == 0)
			return table;
		if (order < 0)
			high = middle;
		else
			low = middle + 1;
	}
	return NULL;
}

/* Those that failed last; then in the leader's order, which is that of their position. */
static int
by_failures(const ListCell *a, const ListCell *b)
{
	const PendingTable *first = lfirst(a);
	const PendingTable *second = lfirst(b);

	if (first->failures != second->failures)
		return first->failures < second->failures ? -1 : 1;
	return first->leader->position - second->leader->position;
}

static PendingTable *
make_pending(CopyTable *leader, const FollowedTable *followed)
{
	PendingTable *table = palloc(sizeof(PendingTable));

	table->leader = leader;
	table->relid = followed->relid;
	table->joined = followed->filter_snapshot == NULL;
	table->failures = followed->failures;
	return table;
}

List *
pending_tables(const FollowedRow *row, List *leader_list, const FollowedTable **missing)
{
	List	   *oids = list_copy(leader_list);
	List	   *names = list_copy(leader_list);
	List	   *pending = NIL;
	ListCell   *lc;

	list_sort(oids, compare_copy_tables);
	list_sort(names, by_name);
	if (missing != NULL)
		*missing = NULL;
	foreach(lc, followed_tables(row->id))
	{
		FollowedTable *followed = lfirst(lc);
		CopyTable  *leader;

		if (followed->state != TABLE_PENDING)
			continue;
		leader = find_in(OidIsValid(followed->leader_relid) ? oids : names, followed);
		if (leader != NULL)
			pending = lappend(pending, make_pending(leader, followed));
		else if (missing != NULL)
			*missing = followed;
	}
	list_free(oids);
	list_free(names);
	list_sort(pending, by_failures);
	return pending;
}

List *
pending_on_leader(List *pending)
{
	List	   *list = NIL;
	ListCell   *lc;

	foreach(lc, pending)
		list = lappend(list, ((PendingTable *) lfirst(lc))->leader);
	return list;
}

/* ---------- how much ---------- */

static Datum
int8_array_datum(const Datum *values, int count)
{
	return PointerGetDatum(construct_array(unconstify(Datum *, values), count, INT8OID,
										   sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

void
copy_note_totals(const FollowedRow *row, List *pending)
{
	int			count = list_length(pending);
	Datum	   *rows = palloc(Max(count, 1) * sizeof(Datum));
	Datum	   *bytes = palloc(Max(count, 1) * sizeof(Datum));
	List	   *relids = NIL;
	OwnTables	state;
	Oid			types[] = {INT4OID, OIDARRAYOID, INT8ARRAYOID, INT8ARRAYOID};
	Datum		values[lengthof(types)];
	ListCell   *lc;

	followed_execute("UPDATE fanout.followed_stream SET copy_started_at = pg_catalog.clock_timestamp()"
					 " WHERE id = $1", row->id);
	foreach(lc, pending)
	{
		PendingTable *table = lfirst(lc);

		relids = lappend_oid(relids, table->relid);
		rows[foreach_current_index(lc)] = Int64GetDatum(table->leader->rows);
		bytes[foreach_current_index(lc)] = Int64GetDatum(table->leader->bytes);
	}
	values[0] = Int32GetDatum(row->id);
	values[1] = oid_array_datum(relids);
	values[2] = int8_array_datum(rows, count);
	values[3] = int8_array_datum(bytes, count);
	own_tables_begin(&state);
	if (SPI_execute_with_args("UPDATE fanout.followed_table t SET total_rows = n.rows, total_bytes = n.bytes,"
							  " copied_rows = NULL, copied_bytes = NULL, copied_at = NULL"
							  " FROM unnest($2, $3, $4) AS n (relid, rows, bytes)"
							  " WHERE t.followed_id = $1 AND t.relid = n.relid AND t.state = 'p'",
							  lengthof(types), types, values, NULL, false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not write fanout.followed_table");
	own_tables_end(&state);
}

/* ---------- what keeps one from being copied ---------- */

bool
error_is_of_object(const ErrorData *error)
{
	switch (ERRCODE_TO_CATEGORY(error->sqlerrcode))
	{
		case ERRCODE_CONNECTION_EXCEPTION:
		case ERRCODE_INSUFFICIENT_RESOURCES:
		case ERRCODE_OPERATOR_INTERVENTION:
		case ERRCODE_SYSTEM_ERROR:
			return false;
		default:
			return true;
	}
}

static void
note_failure(const FollowedRow *row, const PendingTable *table, const char *text)
{
	OwnTables	state;
	Oid			types[] = {INT4OID, OIDOID, TEXTOID};
	Datum		values[] = {Int32GetDatum(row->id), ObjectIdGetDatum(table->relid),
	CStringGetTextDatum(text)};

	own_tables_begin(&state);
	if (SPI_execute_with_args("UPDATE fanout.followed_table SET failures = failures + 1,"
							  " last_error = $3, last_error_at = pg_catalog.clock_timestamp()"
							  " WHERE followed_id = $1 AND relid = $2 AND state = 'p'",
							  lengthof(types), types, values, NULL, false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not write fanout.followed_table");
	own_tables_end(&state);
}

/* In the table's row, and as the stream's last error, which names it. */
static void
tell_failure(const FollowedRow *row, const PendingTable *table, const ErrorData *error)
{
	MemoryContext oldcontext = CurrentMemoryContext;
	FollowedStream *stream = followed_stream_find(MyDatabaseId, row->id);
	char	   *text = error->message != NULL ? error->message : "unknown error";

	if (error->detail != NULL)
		text = psprintf("%s: %s", text, error->detail);
	if (error->context != NULL)
		text = psprintf("%s (%s)", text, error->context);
	if (stream != NULL)
		worker_info_error(&stream->mutex, &stream->worker,
						  psprintf("table \"%s.%s\" could not be copied: %s",
								   table->leader->nspname, table->leader->relname, text));
	fanout_start_transaction();
	PushActiveSnapshot(GetTransactionSnapshot());
	note_failure(row, table, text);
	set_check_aside(row, table, error);
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(oldcontext);
}

bool
copy_table_by_itself(const FollowedRow *row, PGconn *conn, const PendingTable *table,
					 const char *snapshot, CopyCheck check)
{
	MemoryContext oldcontext = CurrentMemoryContext;
	ErrorData  *error = NULL;

	PG_TRY();
	{
		copy_table(row, conn, table->leader, table->relid, snapshot, check);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(oldcontext);
		error = CopyErrorData();
		if (!error_is_of_object(error))
			PG_RE_THROW();
		EmitErrorReport();
		FlushErrorState();
		AbortOutOfAnyTransaction();
		MemoryContextSwitchTo(oldcontext);
		group_abandon();
	}
	PG_END_TRY();
	if (error == NULL)
		return true;
	/* The table has no fault when another copy of it is wanted. */
	if (error->sqlerrcode != ERRCODE_T_R_SERIALIZATION_FAILURE)
		tell_failure(row, table, error);
	return false;
}
