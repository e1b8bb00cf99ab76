/*
 * copy_rows.c
 *		Rows of the leader's binary COPY, straight into a table.
 *
 * The server's own COPY FROM calls the receive function of each column's type, and
 * much of what a copy costs is that.  Here the applier's means make rows of the bytes
 * (value.c), with the same checks as for changes, and store many at a time
 * (apply_insert.c).  That is for ordinary tables without triggers that fire here, whose columns
 * have the leader's types; all others are left to COPY FROM (copy_table.c).
 *
 * A message is one row: the number of columns (2 bytes), and for each column its length (4),
 * or -1 for a null, and its bytes.  Rows lie in their messages until they are stored.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/tableam.h"
#include "catalog/pg_type.h"
#include "commands/progress.h"
#include "utils/backend_progress.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "follower/apply_internal.h"
#include "follower/copy.h"
#include "follower/local_table.h"
#include "log/bytes.h"

/* So many rows are stored at a time, or when they have so many bytes. */
#define BATCH_ROWS	500
#define BATCH_BYTES	(64 * 1024)

typedef struct CopyRows
{
	ApplyRelation relation;
	BatchRow	rows[BATCH_ROWS];
	char	   *messages[BATCH_ROWS];
	int			count;
	Size		bytes;
	uint64		stored;			/* before these */
} CopyRows;

/* With its terminating zero. */
static const char signature[11] = "PGCOPY\n\377\r\n";

/* ---------- the table ---------- */

static RelationDesc *
describe(const CopyTable *table, Oid relid)
{
	RelationDesc *desc = palloc0(sizeof(RelationDesc));
	ListCell   *lc;

	desc->relid = table->relid;
	desc->nspname = table->nspname;
	desc->relname = table->relname;
	desc->columns = palloc0(Max(list_length(table->columns), 1) * sizeof(ColumnDesc));
	foreach(lc, table->columns)
	{
		ColumnDesc *column = &desc->columns[desc->natts++];
		Oid			collation;

		column->name = lfirst(lc);
		get_atttypetypmodcoll(relid, get_attnum(relid, column->name), &column->typid,
							  &column->typmod, &collation);
		column->typlen = get_typlen(column->typid);
		column->form = column_form_for_type(column->typid);
	}
	return desc;
}

/* A domain's constraints are checked by its input functions, which COPY FROM calls. */
bool
copy_rows_can(const CopyTable *table, Relation rel)
{
	ListCell   *lc;

	if (rel->rd_rel->relkind != RELKIND_RELATION || local_table_has_triggers(rel))
		return false;
	foreach(lc, table->columns)
	{
		if (get_typtype(get_atttype(RelationGetRelid(rel),
									get_attnum(RelationGetRelid(rel), lfirst(lc)))) == TYPTYPE_DOMAIN)
			return false;
	}
	return true;
}

/* ---------- a row ---------- */

/* Integers of all kinds come in network byte order; where that is ours, nothing is to do. */
static void
to_machine_order(const ColumnDesc *column, char *data, uint32 len)
{
#ifndef WORDS_BIGENDIAN
	if (column->typid == UUIDOID)
		return;
	for (uint32 i = 0; i < len / 2; i++)
	{
		char		c = data[i];

		data[i] = data[len - 1 - i];
		data[len - 1 - i] = c;
	}
#endif
}

static void
read_values(const RelationDesc *desc, ByteReader *reader, ColumnValue *row)
{
	for (int i = 0; i < desc->natts; i++)
	{
		ColumnValue *value = &row[i];
		int32		len = (int32) read_uint32(reader);

		value->kind = len == -1 ? VALUE_NULL : VALUE_PRESENT;
		value->len = len == -1 ? 0 : len;
		value->data = read_bytes(reader, value->len);
		if (desc->columns[i].form == COLUMN_FIXED)
			to_machine_order(&desc->columns[i], unconstify(char *, value->data), value->len);
	}
}

/* False at the end of the rows. */
static bool
read_row(CopyRows *copy, ByteReader *reader)
{
	const RelationDesc *desc = copy->relation.desc;
	BatchRow   *row = &copy->rows[copy->count];
	int16		natts = (int16) read_uint16(reader);

	if (natts == -1)
		return false;
	if (natts != desc->natts)
		read_failed(reader, "It has another number of columns.");
	if (row->newrow == NULL)
		row->newrow = palloc(Max(natts, 1) * sizeof(ColumnValue));
	row->len = reader->end - reader->pos;
	read_values(desc, reader, row->newrow);
	if (reader->pos != reader->end)
		read_failed(reader, "There are bytes behind it.");
	return true;
}

static void
read_header(ByteReader *reader)
{
	if (memcmp(read_bytes(reader, sizeof(signature)), signature, sizeof(signature)) != 0)
		read_failed(reader, "There is no signature.");
	if (read_uint32(reader) != 0)
		read_failed(reader, "There are unknown flags.");
	(void) read_bytes(reader, read_uint32(reader));
}

/* ---------- all rows ---------- */

/* For pg_stat_progress_copy, as COPY FROM does. */
static void
begin_progress(Oid relid)
{
	pgstat_progress_start_command(PROGRESS_COMMAND_COPY, relid);
	pgstat_progress_update_param(PROGRESS_COPY_COMMAND, PROGRESS_COPY_COMMAND_FROM);
	pgstat_progress_update_param(PROGRESS_COPY_TYPE, PROGRESS_COPY_TYPE_CALLBACK);
}

static void
store_rows(CopyRows *copy)
{
	insert_rows(&copy->relation, copy->rows, copy->count);
	apply_position.relation = NULL;
	for (int i = 0; i < copy->count; i++)
		PQfreemem(copy->messages[i]);
	copy->stored += copy->count;
	copy->count = 0;
	copy->bytes = 0;
	pgstat_progress_update_param(PROGRESS_COPY_BYTES_PROCESSED, copy_source_bytes());
	pgstat_progress_update_param(PROGRESS_COPY_TUPLES_PROCESSED, copy->stored);
}

static void
store_all(CopyRows *copy)
{
	bool		first = true;
	char	   *message;
	int			len;

	while ((message = copy_source_message(&len)) != NULL)
	{
		ByteReader	reader = {
			.pos = message,
			.end = message + len,
			.message = "invalid row in the leader's COPY"
		};

		if (first)
			read_header(&reader);
		first = false;
		copy->messages[copy->count] = message;
		if (!read_row(copy, &reader))
		{
			PQfreemem(message);
			break;
		}
		copy->count++;
		copy->bytes += len;
		if (copy->count == BATCH_ROWS || copy->bytes >= BATCH_BYTES)
			store_rows(copy);
	}
	store_rows(copy);
}

/* Which row, if it is one that is being stored. */
static void
row_context(void *arg)
{
	const CopyRows *copy = arg;

	if (apply_position.relation != &copy->relation)
		return;
	if (apply_position.column != NULL)
		errcontext("column \"%s\"", apply_position.column->name);
	errcontext("row %s", apply_describe_key(&copy->relation, apply_position.change));
}

static void
begin(CopyRows *copy, const CopyTable *table, Relation rel)
{
	static const LogTxn no_txn = {0};

	for (int i = 0; i < BATCH_ROWS; i++)
	{
		copy->rows[i].op = CHANGE_INSERT;
		copy->rows[i].txn = &no_txn;
	}
	copy->relation.leader_relid = table->relid;
	copy->relation.desc = describe(table, RelationGetRelid(rel));
	(void) group_estate();
	group_open_table(&copy->relation, RelationGetRelid(rel));
	copy->relation.bulk = GetBulkInsertState();
	begin_progress(RelationGetRelid(rel));
}

uint64
copy_rows(const CopyTable *table, Relation rel)
{
	CopyRows   *copy = palloc0(sizeof(CopyRows));
	ErrorContextCallback callback = {error_context_stack, row_context, copy};

	error_context_stack = &callback;
	begin(copy, table, rel);
	store_all(copy);
	pgstat_progress_end_command();
	FreeBulkInsertState(copy->relation.bulk);
	table_finish_bulk_insert(rel, 0);
	group_close_relations();
	error_context_stack = callback.previous;
	return copy->stored;
}
