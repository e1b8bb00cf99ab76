/*
 * row_hash.c
 *		fanout.row_hash(): a 64-bit hash of a row's bytes.
 *
 * Leader and follower compare tables by it.  Two rows have the same hash if their
 * columns have, one by one, the same value in exactly the same form: numeric 1.0
 * and 1.00 differ, and so do strings that are equal only to a collation.
 *
 * Fixed-width types and strings are hashed as they are; so it is only good
 * between machines of one kind, which followers are anyway.  All other types go through
 * their output functions, so the caller sets what these depend on (DateStyle
 * and the like) to the same on both sides.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "common/hashfn.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

#include "log/change.h"

PG_FUNCTION_INFO_V1(fanout_row_hash);

typedef struct HashedColumn
{
	char		form;			/* COLUMN_FIXED, COLUMN_VARLENA, or by its output */
	int16		typlen;
	bool		typbyval;
	FmgrInfo	output;
} HashedColumn;

/* What is known of the type of the rows; kept in fn_extra. */
typedef struct HashedRow
{
	Oid			typid;
	int32		typmod;
	TupleDesc	desc;
	HashedColumn *columns;
	Datum	   *values;
	bool	   *isnull;
	MemoryContext context;		/* reset with each row */
} HashedRow;

static void
prepare_column(HashedColumn *column, Form_pg_attribute attr, MemoryContext context)
{
	Oid			output;
	bool		isvarlena;

	column->form = column_form_for_type(attr->atttypid);
	column->typlen = attr->attlen;
	column->typbyval = attr->attbyval;
	if (column->form == COLUMN_FIXED || column->form == COLUMN_VARLENA)
		return;
	getTypeOutputInfo(attr->atttypid, &output, &isvarlena);
	fmgr_info_cxt(output, &column->output, context);
}

static HashedRow *
prepare_row(Oid typid, int32 typmod, MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(parent, "pg_fanout row hash",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext oldcontext = MemoryContextSwitchTo(context);
	HashedRow  *row = palloc0(sizeof(HashedRow));
	int			natts;

	row->typid = typid;
	row->typmod = typmod;
	row->desc = lookup_rowtype_tupdesc_copy(typid, typmod);
	natts = row->desc->natts;
	row->columns = palloc0(sizeof(HashedColumn) * Max(natts, 1));
	row->values = palloc(sizeof(Datum) * Max(natts, 1));
	row->isnull = palloc(sizeof(bool) * Max(natts, 1));
	for (int i = 0; i < natts; i++)
	{
		if (!TupleDescAttr(row->desc, i)->attisdropped)
			prepare_column(&row->columns[i], TupleDescAttr(row->desc, i), context);
	}
	row->context = AllocSetContextCreate(context, "pg_fanout hashed row",
										 ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(oldcontext);
	return row;
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
		char	   *text = OutputFunctionCall(&column->output, value);

		return hash_bytes_extended((unsigned char *) text, strlen(text), seed);
	}
}

/* Each column's hash is the seed of the next one's, so that order and borders count. */
static uint64
hash_columns(HashedRow *row)
{
	uint64		hash = 0;

	for (int i = 0; i < row->desc->natts; i++)
	{
		if (TupleDescAttr(row->desc, i)->attisdropped)
			continue;
		if (row->isnull[i])
			hash = hash_combine64(hash, i + 1);
		else
			hash = hash_column(&row->columns[i], row->values[i], hash + 1);
	}
	return hash;
}

/* row_hash(row record) RETURNS bigint */
Datum
fanout_row_hash(PG_FUNCTION_ARGS)
{
	HeapTupleHeader header = PG_GETARG_HEAPTUPLEHEADER(0);
	Oid			typid = HeapTupleHeaderGetTypeId(header);
	int32		typmod = HeapTupleHeaderGetTypMod(header);
	HashedRow  *row = fcinfo->flinfo->fn_extra;
	HeapTupleData tuple = {.t_len = HeapTupleHeaderGetDatumLength(header), .t_data = header};
	MemoryContext oldcontext;
	uint64		hash;

	check_stack_depth();
	if (row == NULL || row->typid != typid || row->typmod != typmod)
	{
		row = prepare_row(typid, typmod, fcinfo->flinfo->fn_mcxt);
		fcinfo->flinfo->fn_extra = row;
	}

	oldcontext = MemoryContextSwitchTo(row->context);
	heap_deform_tuple(&tuple, row->desc, row->values, row->isnull);
	hash = hash_columns(row);
	MemoryContextSwitchTo(oldcontext);
	MemoryContextReset(row->context);
	PG_RETURN_INT64((int64) hash);
}
