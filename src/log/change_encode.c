/*
 * change_encode.c
 *		Row changes to bytes, in the decoder.
 *
 * A change is, in network byte order:
 *
 *	'I' relid (4), new row
 *	'U' relid (4), kind of old row (1), old row unless OLD_NONE, new row
 *	'D' relid (4), kind of old row (1), old row unless OLD_NONE
 *	'T' flags (1), number of relations (4), relids (4 each)
 *	'Q' schema, name, value (8), is_called (1); names as in relation_desc.c
 *	'S' length (4), that many bytes of a statement (statement.c)
 *	'X' relid (4), length (4), that many bytes that say why
 *
 * and a row is a byte of flags; with ROW_HAS_NULLS a bitmap of the columns that are
 * null; with ROW_HAS_UNCHANGED one of those that are unchanged; and the other
 * columns' values, one behind the other: the bytes of a COLUMN_FIXED, else length and
 * bytes.  The length is in groups of seven bits, lowest first, with the high bit
 * set in all bytes but the last.  A row of kind OLD_KEY is made of the key columns
 * only.  In bitmaps, bit i % 8 of byte i / 8 belongs to the row's column i.
 *
 * Output functions leak what they detoast; they run in a context of
 * the encoder's own that is reset after every change: there may be many encoders, and
 * what they leave large.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/tupmacs.h"
#include "catalog/pg_type.h"
#include "libpq/pqformat.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "compat.h"
#include "log/bytes.h"
#include "log/change.h"
#include "log/row_format.h"

typedef struct ColumnEncoder
{
	char		form;
	bool		is_key;
	bool		typbyval;
	int16		typlen;
	FmgrInfo	output;			/* send or output function */
} ColumnEncoder;

struct RowEncoder
{
	Oid			relid;
	MemoryContext context;		/* reset after every change */
	int			natts;
	bool		may_fail;
	ColumnEncoder columns[FLEXIBLE_ARRAY_MEMBER];
};

static void
make_column_encoder(ColumnEncoder *encoder, const ColumnDesc *column, Oid typid)
{
	Oid			function;
	bool		is_varlena;

	encoder->form = column->form;
	encoder->is_key = column->is_key;
	get_typlenbyval(typid, &encoder->typlen, &encoder->typbyval);
	if (column->form == COLUMN_SEND)
		getTypeBinaryOutputInfo(typid, &function, &is_varlena);
	else if (column->form == COLUMN_TEXT)
		getTypeOutputInfo(typid, &function, &is_varlena);
	else
		return;
	fmgr_info(function, &encoder->output);
}

/*
 * Of the types that are not sent as they are, these print no more than a few times what is
 * stored, and all that is stored.
 */
static bool
type_may_fail(const ColumnDesc *column)
{
	switch (column->form)
	{
		case COLUMN_FIXED:
		case COLUMN_VARLENA:
			return false;
		case COLUMN_SEND:
			return column->typid != NUMERICOID && column->typid != INTERVALOID &&
				column->typid != INETOID && column->typid != CIDROID &&
				column->typid != BITOID && column->typid != VARBITOID &&
				column->typid != JSONOID;
		default:
			return true;
	}
}

/* typids are the columns' types on this server.  The result lives in the current context. */
RowEncoder *
row_encoder_make(const RelationDesc *desc, const Oid *typids)
{
	RowEncoder *encoder = palloc0(offsetof(RowEncoder, columns) +
								  desc->natts * sizeof(ColumnEncoder));

	encoder->relid = desc->relid;
	encoder->natts = desc->natts;
	encoder->context = AllocSetContextCreate(CurrentMemoryContext, "pg_fanout row encoder",
											 ALLOCSET_SMALL_SIZES);
	for (int i = 0; i < desc->natts; i++)
	{
		make_column_encoder(&encoder->columns[i], &desc->columns[i], typids[i]);
		encoder->may_fail |= type_may_fail(&desc->columns[i]);
	}
	return encoder;
}

bool
row_encoder_may_fail(const RowEncoder *encoder)
{
	return encoder->may_fail;
}

void
row_encoder_reset(RowEncoder *encoder)
{
	MemoryContextReset(encoder->context);
}

/* ---------- values ---------- */

static void
put_length(StringInfo buf, uint32 len)
{
	while (len >= 0x80)
	{
		appendStringInfoCharMacro(buf, (char) (len | 0x80));
		len >>= 7;
	}
	appendStringInfoCharMacro(buf, (char) len);
}

/* Before anything is made in memory for it. */
static void
check_size(StringInfo buf, Size len)
{
	if (buf->len + len > CHANGE_MAX_SIZE)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("row is too large to be sent")));
}

static void
put_bytes(StringInfo buf, const char *data, Size len)
{
	check_size(buf, len);
	put_length(buf, len);
	appendBinaryStringInfo(buf, data, len);
}

static void
put_fixed(StringInfo buf, const ColumnEncoder *column, Datum value)
{
	Datum		aligned;
	char	   *bytes = DatumGetPointer(value);

	if (column->typbyval)
	{
		store_att_byval(&aligned, value, column->typlen);
		bytes = (char *) &aligned;
	}
	appendBinaryStringInfo(buf, bytes, column->typlen);
}

static void
put_value(StringInfo buf, ColumnEncoder *column, Datum value)
{
	struct varlena *bytes;
	char	   *text;

	switch (column->form)
	{
		case COLUMN_FIXED:
			put_fixed(buf, column, value);
			break;
		case COLUMN_VARLENA:
			check_size(buf, toast_raw_datum_size(value));
			bytes = PG_DETOAST_DATUM_PACKED(value);
			put_bytes(buf, VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
			if (bytes != (struct varlena *) DatumGetPointer(value))
				pfree(bytes);
			break;
		case COLUMN_SEND:
			bytes = SendFunctionCall(&column->output, value);
			put_bytes(buf, VARDATA(bytes), VARSIZE(bytes) - VARHDRSZ);
			pfree(bytes);
			break;
		default:
			text = OutputFunctionCall(&column->output, value);
			put_bytes(buf, text, strlen(text));
			pfree(text);
	}
}

/* ---------- rows ---------- */

static ValueKind
value_kind(const RowValues *row, int i)
{
	if (row->unchanged != NULL && row->unchanged[i])
		return VALUE_UNCHANGED;
	return row->isnull[i] ? VALUE_NULL : VALUE_PRESENT;
}

/* Append the bitmap of columns of that kind, if there are any. */
static bool
put_bitmap(StringInfo buf, const RowEncoder *encoder, const RowValues *row, bool key_only,
		   ValueKind kind)
{
	int			start = buf->len;
	int			position = 0;
	bool		any = false;

	for (int i = 0; i < encoder->natts; i++)
	{
		if (key_only && !encoder->columns[i].is_key)
			continue;
		if (position % 8 == 0)
			appendStringInfoCharMacro(buf, '\0');
		if (value_kind(row, i) == kind)
		{
			buf->data[start + position / 8] |= 1 << (position % 8);
			any = true;
		}
		position++;
	}
	if (!any)
		buf->len = start;
	return any;
}

static void
put_row(StringInfo buf, RowEncoder *encoder, const RowValues *row, bool key_only)
{
	int			flags_at = buf->len;
	uint8		flags = 0;

	appendStringInfoCharMacro(buf, '\0');
	if (put_bitmap(buf, encoder, row, key_only, VALUE_NULL))
		flags |= ROW_HAS_NULLS;
	if (row->unchanged != NULL && put_bitmap(buf, encoder, row, key_only, VALUE_UNCHANGED))
		flags |= ROW_HAS_UNCHANGED;
	buf->data[flags_at] = (char) flags;

	for (int i = 0; i < encoder->natts; i++)
	{
		if (key_only && !encoder->columns[i].is_key)
			continue;
		if (value_kind(row, i) == VALUE_PRESENT)
			put_value(buf, &encoder->columns[i], row->values[i]);
	}
}

static void
put_old_row(StringInfo buf, RowEncoder *encoder, OldRowKind kind, const RowValues *row)
{
	pq_sendint8(buf, kind);
	if (kind != OLD_NONE)
		put_row(buf, encoder, row, kind == OLD_KEY);
}

/* ---------- changes ---------- */

/* Start a change; returns the context to go back to. */
static MemoryContext
begin_change(StringInfo buf, RowEncoder *encoder, ChangeOp op)
{
	pq_sendint8(buf, op);
	pq_sendint32(buf, encoder->relid);
	return MemoryContextSwitchTo(encoder->context);
}

static void
end_change(RowEncoder *encoder, MemoryContext oldcontext)
{
	MemoryContextSwitchTo(oldcontext);
	MemoryContextReset(encoder->context);
}

void
change_encode_insert(StringInfo buf, RowEncoder *encoder, const RowValues *newrow)
{
	MemoryContext oldcontext = begin_change(buf, encoder, CHANGE_INSERT);

	put_row(buf, encoder, newrow, false);
	end_change(encoder, oldcontext);
}

void
change_encode_update(StringInfo buf, RowEncoder *encoder, OldRowKind oldkind,
					 const RowValues *oldrow, const RowValues *newrow)
{
	MemoryContext oldcontext = begin_change(buf, encoder, CHANGE_UPDATE);

	put_old_row(buf, encoder, oldkind, oldrow);
	put_row(buf, encoder, newrow, false);
	end_change(encoder, oldcontext);
}

void
change_encode_delete(StringInfo buf, RowEncoder *encoder, OldRowKind oldkind,
					 const RowValues *oldrow)
{
	MemoryContext oldcontext = begin_change(buf, encoder, CHANGE_DELETE);

	put_old_row(buf, encoder, oldkind, oldrow);
	end_change(encoder, oldcontext);
}

void
change_encode_truncate(StringInfo buf, int nrels, const Oid *relids, uint8 flags)
{
	pq_sendint8(buf, CHANGE_TRUNCATE);
	pq_sendint8(buf, flags);
	pq_sendint32(buf, nrels);
	for (int i = 0; i < nrels; i++)
		pq_sendint32(buf, relids[i]);
}

void
change_encode_sequence(StringInfo buf, const SequenceValue *sequence)
{
	pq_sendint8(buf, CHANGE_SEQUENCE);
	put_name(buf, NameStr(sequence->nspname));
	put_name(buf, NameStr(sequence->relname));
	pq_sendint64(buf, sequence->value);
	pq_sendint8(buf, sequence->is_called);
}

void
change_encode_uncarried(StringInfo buf, Oid relid, const char *reason)
{
	uint32		len = strlen(reason);

	pq_sendint8(buf, CHANGE_UNCARRIED);
	pq_sendint32(buf, relid);
	pq_sendint32(buf, len);
	appendBinaryStringInfo(buf, reason, len);
}

void
change_encode_body(StringInfo buf, ChangeOp op, const char *body, uint32 len)
{
	pq_sendint8(buf, op);
	pq_sendint32(buf, len);
	appendBinaryStringInfo(buf, body, len);
}
