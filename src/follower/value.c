/*
 * value.c
 *		A value of the leader as a datum of a local column.
 *
 * Where the column has the leader's type, a value is taken as it comes (fixed
 * width, text and the like) or goes through the type's receive function.
 * Where it has another, or another type modifier, the value takes the way
 * through text: the output function of the leader's type and the input function
 * of the local one, which then checks what it has to.
 *
 * The bytes come from another server: nothing here trusts them.
 */
#include "postgres.h"

#include "access/transam.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/lsyscache.h"

#include "follower/apply_internal.h"

/* Raw bytes become a datum only of types for which any are good, or checked here. */
static void
check_form(const ColumnDesc *column)
{
	if (!OidIsValid(column->typid) || column->typid >= FirstGenbkiObjectId)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the leader sent column \"%s\" in a form that needs a built-in type, but not its type",
						column->name)));
	if (column->form != COLUMN_SEND && column->form != column_form_for_type(column->typid))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the leader sent column \"%s\" in a form that its type does not have",
						column->name)));
}

/*
 * A domain's constraints are not checked: the leader has done so, and rows that are older than a
 * constraint need not hold to it.  So a value is made as one of the type below, and so are the
 * elements of an array.
 */
static Oid
type_to_make(Oid typid, int32 *typmod, Oid *element_domain)
{
	Oid			type = getBaseTypeAndTypmod(typid, typmod);
	Oid			element = get_element_type(type);

	*element_domain = InvalidOid;
	if (!OidIsValid(element) || get_typtype(element) != TYPTYPE_DOMAIN)
		return type;
	*element_domain = element;
	return get_array_type(getBaseTypeAndTypmod(element, typmod));
}

/* Also of an array, or a domain over either. */
static bool
names_object(Oid typid)
{
	Oid			base = getBaseType(typid);
	Oid			element = get_element_type(base);

	return type_names_object(OidIsValid(element) ? getBaseType(element) : base);
}

void
column_input_init(ColumnInput *input, const ColumnDesc *column, Form_pg_attribute attr)
{
	Oid			function;
	Oid			type;
	bool		varlena;

	input->attnum = attr->attnum;
	input->typmod = attr->atttypmod;
	input->leader_type = column->typid;
	input->names_object = names_object(attr->atttypid);
	type = type_to_make(attr->atttypid, &input->typmod, &input->element_domain);
	input->direct = column->form != COLUMN_TEXT && type == column->typid &&
		(input->typmod == -1 || input->typmod == column->typmod);

	getTypeInputInfo(type, &function, &input->input_ioparam);
	fmgr_info(function, &input->input);
	if (column->form == COLUMN_TEXT)
		return;

	check_form(column);
	get_typlenbyval(column->typid, &input->typlen, &input->typbyval);
	if (column->form == COLUMN_SEND)
	{
		getTypeBinaryInputInfo(column->typid, &function, &input->receive_ioparam);
		fmgr_info(function, &input->receive);
	}
	if (!input->direct)
	{
		getTypeOutputInfo(column->typid, &function, &varlena);
		fmgr_info(function, &input->output);
	}
}

static Datum
fixed_value(ColumnInput *input, const ColumnValue *value)
{
	char	   *copy;

	if (value->len != input->typlen)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("a value of the leader has the wrong size")));
	column_fixed_check(input->leader_type, value->data);
	if (input->typbyval)
	{
		Datum		datum = 0;

		switch (value->len)
		{
			case 1:
				return CharGetDatum(*value->data);
			case 2:
				{
					int16		v;

					memcpy(&v, value->data, sizeof(v));
					return Int16GetDatum(v);
				}
			case 4:
				{
					int32		v;

					memcpy(&v, value->data, sizeof(v));
					return Int32GetDatum(v);
				}
			default:
				memcpy(&datum, value->data, Min(value->len, sizeof(datum)));
				return datum;
		}
	}
	copy = palloc(value->len);
	memcpy(copy, value->data, value->len);
	return PointerGetDatum(copy);
}

/* The column's length holds here, too, whatever the leader says of its own. */
static void
check_length(const ColumnInput *input, const ColumnValue *value)
{
	int			limit = input->typmod - VARHDRSZ;
	int			len = value->len;

	if (len > limit)
		len = pg_mbstrlen_with_len(value->data, value->len);
	if (len > limit)
		ereport(ERROR,
				(errcode(ERRCODE_STRING_DATA_RIGHT_TRUNCATION),
				 errmsg("a value of the leader is too long for a column of %d characters", limit)));
}

static Datum
varlena_value(ColumnInput *input, const ColumnValue *value)
{
	struct varlena *result;

	if (input->leader_type != BYTEAOID)
		(void) pg_verify_mbstr(GetDatabaseEncoding(), value->data, value->len, false);
	if (input->direct && input->typmod >= (int32) VARHDRSZ)
		check_length(input, value);
	result = palloc(value->len + VARHDRSZ);
	SET_VARSIZE(result, value->len + VARHDRSZ);
	memcpy(VARDATA(result), value->data, value->len);
	return PointerGetDatum(result);
}

static Datum
received_value(ColumnInput *input, const ColumnValue *value)
{
	StringInfoData buf = {.len = value->len, .maxlen = value->len + 1};
	Datum		result;

	/* Receive functions may rely on the terminating zero of a StringInfo. */
	buf.data = memcpy(palloc(value->len + 1), value->data, value->len);
	buf.data[value->len] = '\0';
	result = ReceiveFunctionCall(&input->receive, &buf, input->receive_ioparam,
								 input->direct ? input->typmod : -1);
	if (buf.cursor != buf.len)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
				 errmsg("incorrect binary data format in a value of the leader")));
	return result;
}

static Datum
leader_value(ColumnInput *input, const ColumnDesc *column, const ColumnValue *value)
{
	switch (column->form)
	{
		case COLUMN_FIXED:
			return fixed_value(input, value);
		case COLUMN_VARLENA:
			return varlena_value(input, value);
		default:
			return received_value(input, value);
	}
}

Datum
column_input_value(ColumnInput *input, const ColumnDesc *column, const ColumnValue *value)
{
	char	   *text;
	Datum		datum;

	if (input->direct)
		return leader_value(input, column, value);
	if (column->form == COLUMN_TEXT)
	{
		text = pnstrdup(value->data, value->len);
		(void) pg_verify_mbstr(GetDatabaseEncoding(), text, value->len, false);
	}
	else
		text = OutputFunctionCall(&input->output, leader_value(input, column, value));
	datum = InputFunctionCall(&input->input, text, input->input_ioparam, input->typmod);
	if (OidIsValid(input->element_domain))
		DatumGetArrayTypeP(datum)->elemtype = input->element_domain;
	return datum;
}
