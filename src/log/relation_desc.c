/*
 * relation_desc.c
 *		Relation descriptions as bytes, and the form in which a type's values travel.
 *
 * A description is, in network byte order:
 *
 *	relid (4), nspname, relname, replident (1), number of columns (2), and for each
 *	column: name, typid (4), typmod (4), typlen (2), form (1), is_key (1)
 *
 * where a name is its length (2) and its bytes.
 *
 * Bytes of a COLUMN_FIXED value are taken into a datum as they are; so only
 * types whose bytes mean the same on every server of that kind are sent so, and
 * column_fixed_check() rejects the few bytes that are no value.  The types that
 * hold oids of the leader (reg*, composite types, enums) go as text, which
 * holds names.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_type.h"
#include "libpq/pqformat.h"
#include "utils/date.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/uuid.h"

#include "log/bytes.h"
#include "log/change.h"

/* ---------- encoding ---------- */

void
relation_desc_encode(StringInfo buf, const RelationDesc *desc)
{
	pq_sendint32(buf, desc->relid);
	put_name(buf, desc->nspname);
	put_name(buf, desc->relname);
	pq_sendint8(buf, desc->replident);
	pq_sendint16(buf, desc->natts);
	for (int i = 0; i < desc->natts; i++)
	{
		const ColumnDesc *column = &desc->columns[i];

		put_name(buf, column->name);
		pq_sendint32(buf, column->typid);
		pq_sendint32(buf, column->typmod);
		pq_sendint16(buf, column->typlen);
		pq_sendint8(buf, column->form);
		pq_sendint8(buf, column->is_key);
	}
}

/* ---------- decoding ---------- */

static char *
read_name_copy(ByteReader *reader)
{
	NameData	name;

	read_name(reader, &name);
	return pstrdup(NameStr(name));
}

static void
check_column(const ByteReader *reader, const ColumnDesc *column)
{
	switch (column->form)
	{
		case COLUMN_FIXED:
			if (column->typlen != 1 && column->typlen != 2 && column->typlen != 4 &&
				column->typlen != 8 && column->typlen != UUID_LEN)
				read_failed(reader, "The width of a column is not valid.");
			return;
		case COLUMN_VARLENA:
		case COLUMN_SEND:
		case COLUMN_TEXT:
			return;
		default:
			read_failed(reader, "The form of a column is unknown.");
	}
}

static void
read_column(ByteReader *reader, ColumnDesc *column)
{
	column->name = read_name_copy(reader);
	column->typid = read_uint32(reader);
	column->typmod = (int32) read_uint32(reader);
	column->typlen = (int16) read_uint16(reader);
	column->form = (char) read_uint8(reader);
	column->is_key = read_uint8(reader) != 0;
	check_column(reader, column);
}

RelationDesc *
relation_desc_decode(const char *data, Size len)
{
	ByteReader	reader = {
		.pos = data,
		.end = data + len,
		.message = "invalid relation description in change log frame"
	};
	RelationDesc *desc = palloc0(sizeof(RelationDesc));

	desc->relid = read_uint32(&reader);
	desc->nspname = read_name_copy(&reader);
	desc->relname = read_name_copy(&reader);
	desc->replident = (char) read_uint8(&reader);
	desc->natts = read_uint16(&reader);
	if (desc->natts > MaxTupleAttributeNumber)
		read_failed(&reader, "It has too many columns.");
	desc->columns = palloc0(Max(desc->natts, 1) * sizeof(ColumnDesc));
	for (int i = 0; i < desc->natts; i++)
		read_column(&reader, &desc->columns[i]);
	if (reader.pos != reader.end)
		read_failed(&reader, "There are bytes behind it.");
	return desc;
}

/* ---------- forms ---------- */

bool
type_names_object(Oid typid)
{
	switch (typid)
	{
		case REGPROCOID:
		case REGPROCEDUREOID:
		case REGOPEROID:
		case REGOPERATOROID:
		case REGCLASSOID:
		case REGCOLLATIONOID:
		case REGTYPEOID:
		case REGROLEOID:
		case REGNAMESPACEOID:
		case REGCONFIGOID:
		case REGDICTIONARYOID:
			return true;
		default:
			return false;
	}
}

/*
 * Whether the send function's output means the same on the follower.  Among the
 * built-in types that is so for base types, and ranges of them, without local oids.
 * Vectors and (before 15.19 and its like) tsquery are left out: their receive
 * functions refuse what their send functions make of an empty one.
 *
 * The forms are the same in every supported version: from 15 to 18 no send or receive
 * function has changed what it writes or reads.  But 17 gave two intervals a new
 * meaning, the infinite ones, which older versions would take for very long ones.
 */
static bool
can_send(Oid typid)
{
	HeapTuple	tuple;
	Form_pg_type type;
	bool		result;

	if (typid >= FirstGenbkiObjectId || type_names_object(typid) || typid == ACLITEMOID ||
		typid == INT2VECTOROID || typid == OIDVECTOROID || typid == TSQUERYOID ||
		typid == INTERVALOID)
		return false;
	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(typid));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for type %u", typid);
	type = (Form_pg_type) GETSTRUCT(tuple);
	result = OidIsValid(type->typsend) && OidIsValid(type->typreceive) &&
		(type->typtype == TYPTYPE_BASE || type->typtype == TYPTYPE_RANGE ||
		 type->typtype == TYPTYPE_MULTIRANGE);
	ReleaseSysCache(tuple);
	return result;
}

bool
column_type_is_xml(Oid typid)
{
	Oid			element;

	typid = getBaseType(typid);
	element = get_element_type(typid);
	return typid == XMLOID || (OidIsValid(element) && getBaseType(element) == XMLOID);
}

char
column_form_for_type(Oid typid)
{
	Oid			element;

	typid = getBaseType(typid);
	switch (typid)
	{
		case BOOLOID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case FLOAT4OID:
		case FLOAT8OID:
		case OIDOID:
		case UUIDOID:
		case DATEOID:
		case TIMEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			return COLUMN_FIXED;
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
		case BYTEAOID:
		case XMLOID:
			return COLUMN_VARLENA;
	}
	if (!can_send(typid))
		return COLUMN_TEXT;

	/* An array is what its elements are. */
	element = get_element_type(typid);
	if (OidIsValid(element) &&
		(column_form_for_type(element) == COLUMN_TEXT || column_type_is_xml(element)))
		return COLUMN_TEXT;
	return COLUMN_SEND;
}

static int64
get_int64(const char *data)
{
	int64		v;

	memcpy(&v, data, sizeof(v));
	return v;
}

static bool
is_valid_date(const char *data)
{
	DateADT		date;

	memcpy(&date, data, sizeof(date));
	return DATE_NOT_FINITE(date) || IS_VALID_DATE(date);
}

static bool
is_valid_timestamp(Timestamp timestamp)
{
	return TIMESTAMP_NOT_FINITE(timestamp) || IS_VALID_TIMESTAMP(timestamp);
}

void
column_fixed_check(Oid typid, const char *data)
{
	bool		valid = true;

	switch (typid)
	{
		case BOOLOID:
			valid = *data == 0 || *data == 1;
			break;
		case DATEOID:
			valid = is_valid_date(data);
			break;
		case TIMEOID:
			valid = get_int64(data) >= 0 && get_int64(data) <= USECS_PER_DAY;
			break;
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			valid = is_valid_timestamp(get_int64(data));
			break;
	}
	if (!valid)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("invalid value of type with OID %u in change log frame", typid)));
}
