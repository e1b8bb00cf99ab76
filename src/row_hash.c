/*
 * row_hash.c
 *		A 64-bit hash of a row's bytes.
 *
 * Leader and follower compare tables by it (table_hash.c).  Two rows have the same hash if
 * their columns have, one by one, the same value in exactly the same form: numeric 1.0
 * and 1.00 differ, and so do strings that are equal only to a collation.
 *
 * Fixed-width types and strings are hashed as they are; so it is only good
 * between machines of one kind, which followers are anyway.  All other types go through
 * their output functions, so the caller sets what these depend on (DateStyle
 * and the like) to the same on both sides.  Nothing else of a type is called, so
 * no code runs but that of superusers: output functions can't be made by others.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "common/jsonapi.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/lsyscache.h"

#include "log/change.h"
#include "row_hash.h"

typedef struct HashedColumn
{
	AttrNumber	attnum;
	char	   *name;
	Oid			typid;			/* the base type of a domain */
	bool		as_text;		/* the other side has another type */
	char		form;			/* COLUMN_FIXED, COLUMN_VARLENA, or COLUMN_TEXT for all others */
	int16		typlen;
	bool		typbyval;
	FmgrInfo	output;
} HashedColumn;

struct RowHash
{
	int			natts;
	HashedColumn columns[FLEXIBLE_ARRAY_MEMBER];
};

static bool
list_has(List *names, const char *name)
{
	ListCell   *lc;

	foreach(lc, names)
	{
		if (strcmp(lfirst(lc), name) == 0)
			return true;
	}
	return false;
}

static Form_pg_attribute
find_column(TupleDesc desc, const char *name)
{
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(desc, i);

		if (!attr->attisdropped && strcmp(NameStr(attr->attname), name) == 0)
			return attr;
	}
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_COLUMN),
			 errmsg("column \"%s\" does not exist", name)));
}

static void
prepare_column(HashedColumn *column, Form_pg_attribute attr, bool as_text)
{
	char		form = column_form_for_type(attr->atttypid);
	Oid			output;
	bool		isvarlena;

	column->attnum = attr->attnum;
	column->name = pstrdup(NameStr(attr->attname));
	column->typid = getBaseType(attr->atttypid);
	column->as_text = as_text;
	column->typlen = attr->attlen;
	column->typbyval = attr->attbyval;
	column->form = !as_text && (form == COLUMN_FIXED || form == COLUMN_VARLENA) ? form
		: COLUMN_TEXT;
	getTypeOutputInfo(attr->atttypid, &output, &isvarlena);
	fmgr_info(output, &column->output);
}

RowHash *
row_hash_prepare(TupleDesc desc, List *columns, List *text_columns)
{
	RowHash    *row = palloc0(offsetof(RowHash, columns) +
							  sizeof(HashedColumn) * list_length(columns));
	ListCell   *lc;

	foreach(lc, columns)
		prepare_column(&row->columns[row->natts++], find_column(desc, lfirst(lc)),
					   list_has(text_columns, lfirst(lc)));
	return row;
}

List *
row_hash_attnums(const RowHash *row)
{
	List	   *attnums = NIL;

	for (int i = 0; i < row->natts; i++)
		attnums = lappend_int(attnums, row->columns[i].attnum);
	return attnums;
}

/* As a cast to text has it: without the blanks that fill up a character(n). */
static char *
column_text(HashedColumn *column, Datum value)
{
	char	   *text = OutputFunctionCall(&column->output, value);

	if (column->as_text && column->typid == BPCHAROID)
		text[bpchartruelen(text, strlen(text))] = '\0';
	return text;
}

static uint64
hash_column(HashedColumn *column, Datum value, uint64 seed)
{
	if (column->form == COLUMN_FIXED && column->typbyval)
		return DatumGetUInt64(hash_bytes_extended((unsigned char *) &value, sizeof(Datum), seed));
	if (column->form == COLUMN_FIXED)
		return hash_bytes_extended((unsigned char *) DatumGetPointer(value), column->typlen, seed);
	if (column->form == COLUMN_VARLENA)
	{
		struct varlena *bytes = PG_DETOAST_DATUM_PACKED(value);

		return hash_bytes_extended((unsigned char *) VARDATA_ANY(bytes),
								   VARSIZE_ANY_EXHDR(bytes), seed);
	}
	else
	{
		char	   *text = column_text(column, value);

		return hash_bytes_extended((unsigned char *) text, strlen(text), seed);
	}
}

/* Each column's hash is the seed of the next one's, so that order and borders count. */
uint64
row_hash(RowHash *row, TupleTableSlot *slot)
{
	uint64		hash = 0;

	for (int i = 0; i < row->natts; i++)
	{
		HashedColumn *column = &row->columns[i];
		bool		isnull;
		Datum		value = slot_getattr(slot, column->attnum, &isnull);

		if (isnull)
			hash = hash_combine64(hash, i + 1);
		else
			hash = hash_column(column, value, hash + 1);
	}
	return hash;
}

/* Numbers are numbers in JSON, too, but for those that it does not know. */
static bool
is_json_as_it_is(const HashedColumn *column, const char *text)
{
	if (column->as_text)
		return false;
	switch (column->typid)
	{
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case FLOAT4OID:
		case FLOAT8OID:
		case NUMERICOID:
			return IsValidJsonNumber(text, strlen(text));
		case JSONBOID:
			return true;
		default:
			return false;
	}
}

static void
column_json(HashedColumn *column, Datum value, StringInfo json)
{
	if (column->typid == BOOLOID && !column->as_text)
		appendStringInfoString(json, DatumGetBool(value) ? "true" : "false");
	else
	{
		char	   *text = column_text(column, value);

		if (is_json_as_it_is(column, text))
			appendStringInfoString(json, text);
		else
			escape_json(json, text);
	}
}

void
row_hash_json(RowHash *row, TupleTableSlot *slot, StringInfo json)
{
	appendStringInfoChar(json, '{');
	for (int i = 0; i < row->natts; i++)
	{
		HashedColumn *column = &row->columns[i];
		bool		isnull;
		Datum		value = slot_getattr(slot, column->attnum, &isnull);

		if (i > 0)
			appendStringInfoString(json, ", ");
		escape_json(json, column->name);
		appendStringInfoString(json, ": ");
		if (isnull)
			appendStringInfoString(json, "null");
		else
			column_json(column, value, json);
	}
	appendStringInfoChar(json, '}');
}
