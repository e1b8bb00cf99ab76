/*
 * change_decode.c
 *		Bytes to row changes, in the applier; change_encode.c has the layout.
 *
 * The bytes come from another server.  A frame's checksum says that they are what was
 * written, not that it was written by somebody sane; so every length is held
 * against what is left.  Nothing is copied: values point into the frame.
 */
#include "postgres.h"

#include "log/bytes.h"
#include "log/change.h"
#include "log/row_format.h"

static uint32
read_length(ByteReader *reader)
{
	uint64		len = 0;

	for (int shift = 0; shift < 35; shift += 7)
	{
		uint8		byte = read_uint8(reader);

		len |= (uint64) (byte & 0x7f) << shift;
		if ((byte & 0x80) == 0)
		{
			if (len > PG_UINT32_MAX)
				break;
			return (uint32) len;
		}
	}
	read_failed(reader, "The length of a value is out of range.");
	return 0;
}

static void
read_value(ByteReader *reader, const ColumnDesc *column, ColumnValue *value)
{
	value->kind = VALUE_PRESENT;
	value->len = column->form == COLUMN_FIXED ? column->typlen : read_length(reader);
	value->data = read_bytes(reader, value->len);
}

static inline bool
bit_is_set(const char *bitmap, int i)
{
	return bitmap != NULL && (bitmap[i / 8] & (1 << (i % 8))) != 0;
}

static int
count_columns(const RelationDesc *desc, bool key_only)
{
	int			count = 0;

	if (!key_only)
		return desc->natts;
	for (int i = 0; i < desc->natts; i++)
		count += desc->columns[i].is_key;
	return count;
}

/* Columns that a row of key columns leaves out are given as null. */
static void
read_row(ByteReader *reader, const RelationDesc *desc, bool key_only, ColumnValue *row)
{
	uint8		flags = read_uint8(reader);
	int			bitmap_len = (count_columns(desc, key_only) + 7) / 8;
	const char *nulls = NULL;
	const char *unchanged = NULL;
	int			position = 0;

	if ((flags & ~(ROW_HAS_NULLS | ROW_HAS_UNCHANGED)) != 0)
		read_failed(reader, "Unknown flags of a row are set.");
	if ((flags & ROW_HAS_NULLS) != 0)
		nulls = read_bytes(reader, bitmap_len);
	if ((flags & ROW_HAS_UNCHANGED) != 0)
		unchanged = read_bytes(reader, bitmap_len);

	for (int i = 0; i < desc->natts; i++)
	{
		ColumnValue *value = &row[i];
		bool		absent = key_only && !desc->columns[i].is_key;

		value->data = NULL;
		value->len = 0;
		if (absent || bit_is_set(nulls, position))
			value->kind = VALUE_NULL;
		else if (bit_is_set(unchanged, position))
			value->kind = VALUE_UNCHANGED;
		else
			read_value(reader, &desc->columns[i], value);
		position += !absent;
	}
}

/* Resize an array, which stays in the context it was first made in. */
static void *
grow_array(void *array, Size size)
{
	return array == NULL ? palloc(size) : repalloc(array, size);
}

static void
need_rows(Change *change, int natts)
{
	if (natts < change->row_capacity)
		return;
	change->row_capacity = natts + 1;
	change->oldrow = grow_array(change->oldrow, change->row_capacity * sizeof(ColumnValue));
	change->newrow = grow_array(change->newrow, change->row_capacity * sizeof(ColumnValue));
}

static void
read_old_row(ByteReader *reader, const RelationDesc *desc, Change *change)
{
	change->oldkind = read_uint8(reader);
	switch (change->oldkind)
	{
		case OLD_NONE:
			return;
		case OLD_KEY:
		case OLD_FULL:
			read_row(reader, desc, change->oldkind == OLD_KEY, change->oldrow);
			return;
	}
	read_failed(reader, "The kind of an old row is unknown.");
}

static void
read_row_change(ByteReader *reader, RelationDescLookup lookup, void *arg, Change *change)
{
	const RelationDesc *desc;

	change->relid = read_uint32(reader);
	change->oldkind = OLD_NONE;
	desc = lookup(arg, change->relid);
	if (desc == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg_internal("%s", reader->message),
				 errdetail("Relation %u was not described.", change->relid)));
	change->natts = desc->natts;
	need_rows(change, desc->natts);
	if (change->op != CHANGE_INSERT)
		read_old_row(reader, desc, change);
	if (change->op != CHANGE_DELETE)
		read_row(reader, desc, false, change->newrow);
}

static void
read_truncate(ByteReader *reader, Change *change)
{
	uint32		nrels;

	change->flags = read_uint8(reader);
	nrels = read_uint32(reader);
	if (nrels > (Size) (reader->end - reader->pos) / sizeof(Oid))
		read_failed(reader, "It ends too early.");
	if (nrels >= change->rel_capacity)
	{
		change->rel_capacity = nrels + 1;
		change->relids = grow_array(change->relids, change->rel_capacity * sizeof(Oid));
	}
	change->nrels = nrels;
	for (uint32 i = 0; i < nrels; i++)
		change->relids[i] = read_uint32(reader);
}

static void
read_sequence(ByteReader *reader, SequenceValue *sequence)
{
	read_name(reader, &sequence->nspname);
	read_name(reader, &sequence->relname);
	sequence->value = (int64) read_uint64(reader);
	sequence->is_called = read_uint8(reader) != 0;
}

void
change_decode(const char **pos, const char *end, RelationDescLookup lookup, void *arg,
			  Change *change)
{
	ByteReader	reader = {
		.pos = *pos,
		.end = end,
		.message = "invalid change in change log frame"
	};

	change->op = read_uint8(&reader);
	switch (change->op)
	{
		case CHANGE_INSERT:
		case CHANGE_UPDATE:
		case CHANGE_DELETE:
			read_row_change(&reader, lookup, arg, change);
			break;
		case CHANGE_TRUNCATE:
			read_truncate(&reader, change);
			break;
		case CHANGE_SEQUENCE:
			read_sequence(&reader, &change->sequence);
			break;
		case CHANGE_STATEMENT:
		case CHANGE_TABLES:
			change->body_len = read_uint32(&reader);
			change->body = read_bytes(&reader, change->body_len);
			break;
		case CHANGE_UNCARRIED:
			change->relid = read_uint32(&reader);
			change->body_len = read_uint32(&reader);
			change->body = read_bytes(&reader, change->body_len);
			break;
		default:
			read_failed(&reader, "The kind of change is unknown.");
	}
	*pos = reader.pos;
}
