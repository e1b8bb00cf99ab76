/*
 * copy_rows.c
 *		Rows of the leader's COPY, straight into a table.
 *
 * The server's own COPY FROM calls the receive function of each column's type, and
 * much of what a copy costs is that; and it holds rows to constraints that they are older than.
 * Here the applier's means make rows of the bytes (value.c), with the same checks as for changes,
 * and store many at a time (apply_insert.c).  That is for ordinary tables without triggers that
 * fire here; all others are left to COPY FROM (copy_table.c).
 *
 * In binary form a message is one row: the number of columns (2 bytes), and for each column its
 * length (4), or -1 for a null, and its bytes.  Rows lie in their messages until they are stored.
 * Text is taken apart by COPY FROM, and kept until then.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/tableam.h"
#include "catalog/pg_type.h"
#include "commands/copy.h"
#include "commands/progress.h"
#include "miscadmin.h"
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
describe(const CopyTable *table, Oid relid, bool binary)
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
		column->typid = getBaseTypeAndTypmod(column->typid, &column->typmod);
		column->typlen = get_typlen(column->typid);
		column->form = binary ? column_form_for_type(column->typid) : COLUMN_TEXT;
	}
	return desc;
}

bool
copy_rows_can(Relation rel)
{
	return rel->rd_rel->relkind == RELKIND_RELATION && !local_table_has_triggers(rel);
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

/* The next one to be read. */
static BatchRow *
next_row(CopyRows *copy)
{
	BatchRow   *row = &copy->rows[copy->count];

	if (row->newrow == NULL)
		row->newrow = palloc(Max(copy->relation.desc->natts, 1) * sizeof(ColumnValue));
	return row;
}

/* False at the end of the rows. */
static bool
read_row(CopyRows *copy, ByteReader *reader)
{
	const RelationDesc *desc = copy->relation.desc;
	BatchRow   *row = next_row(copy);
	int16		natts = (int16) read_uint16(reader);

	if (natts == -1)
		return false;
	if (natts != desc->natts)
		read_failed(reader, "It has another number of columns.");
	row->len = reader->end - reader->pos;
	read_values(desc, reader, row->newrow);
	if (reader->pos != reader->end)
		read_failed(reader, "There are bytes behind it.");
	return true;
}

/* A row of text, whose fields are COPY FROM's until the next one. */
static void
keep_fields(CopyRows *copy, char **fields, int count)
{
	BatchRow   *row = next_row(copy);

	if (count != copy->relation.desc->natts)
		ereport(ERROR,
				(errcode(ERRCODE_BAD_COPY_FILE_FORMAT),
				 errmsg("a row of the leader's COPY has another number of columns")));
	row->len = 0;
	for (int i = 0; i < count; i++)
	{
		ColumnValue *value = &row->newrow[i];

		value->kind = fields[i] == NULL ? VALUE_NULL : VALUE_PRESENT;
		value->len = fields[i] == NULL ? 0 : strlen(fields[i]);
		value->data = fields[i] == NULL ? NULL : pnstrdup(fields[i], value->len);
		row->len += value->len;
	}
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

static void
store_all_text(CopyRows *copy, const CopyTable *table, Relation rel)
{
	CopyFromState state = copy_from_begin(table, rel, false);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "pg_fanout rows of text",
												  ALLOCSET_DEFAULT_SIZES);
	char	  **fields;
	int			count;

	while (NextCopyFromRawFields(state, &fields, &count))
	{
		MemoryContext oldcontext;

		CHECK_FOR_INTERRUPTS();
		(void) next_row(copy);
		oldcontext = MemoryContextSwitchTo(context);
		keep_fields(copy, fields, count);
		MemoryContextSwitchTo(oldcontext);
		copy->bytes += copy->rows[copy->count++].len;
		if (copy->count < BATCH_ROWS && copy->bytes < BATCH_BYTES)
			continue;
		store_rows(copy);
		MemoryContextReset(context);
	}
	store_rows(copy);
	MemoryContextDelete(context);
	EndCopyFrom(state);
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
begin(CopyRows *copy, const CopyTable *table, Relation rel, bool binary)
{
	static const LogTxn no_txn = {0};

	for (int i = 0; i < BATCH_ROWS; i++)
	{
		copy->rows[i].op = CHANGE_INSERT;
		copy->rows[i].txn = &no_txn;
	}
	copy->relation.leader_relid = table->relid;
	copy->relation.desc = describe(table, RelationGetRelid(rel), binary);
	(void) group_estate();
	group_open_table(&copy->relation, RelationGetRelid(rel));
	copy->relation.bulk = GetBulkInsertState();
	begin_progress(RelationGetRelid(rel));
}

uint64
copy_rows(const CopyTable *table, Relation rel, bool binary)
{
	CopyRows   *copy = palloc0(sizeof(CopyRows));
	ErrorContextCallback callback = {error_context_stack, row_context, copy};

	error_context_stack = &callback;
	begin(copy, table, rel, binary);
	if (binary)
		store_all(copy);
	else
		store_all_text(copy, table, rel);
	pgstat_progress_end_command();
	FreeBulkInsertState(copy->relation.bulk);
	table_finish_bulk_insert(rel, 0);
	group_close_relations();
	error_context_stack = callback.previous;
	return copy->stored;
}
