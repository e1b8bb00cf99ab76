/*
 * arrays.c
 *		Arrays of SQL as lists, and the other way.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"

#include "arrays.h"

/* The elements of an array whose elements are of that type. */
static Datum *
elements(ArrayType *array, Oid type, int16 len, bool byval, char align, int *count)
{
	Datum	   *datums;

	if (array_contains_nulls(array))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("array must not contain nulls")));
	deconstruct_array(array, type, len, byval, align, &datums, NULL, count);
	return datums;
}

List *
name_array_list(ArrayType *array)
{
	List	   *names = NIL;
	int			count;
	Datum	   *datums = elements(array, NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR, &count);

	for (int i = 0; i < count; i++)
		names = lappend(names, pstrdup(NameStr(*DatumGetName(datums[i]))));
	return names;
}

List *
oid_array_list(ArrayType *array)
{
	List	   *oids = NIL;
	int			count;
	Datum	   *datums = elements(array, OIDOID, sizeof(Oid), true, TYPALIGN_INT, &count);

	for (int i = 0; i < count; i++)
		oids = lappend_oid(oids, DatumGetObjectId(datums[i]));
	return oids;
}

List *
int_array_list(ArrayType *array)
{
	List	   *numbers = NIL;
	int			count;
	Datum	   *datums = elements(array, INT4OID, sizeof(int32), true, TYPALIGN_INT, &count);

	for (int i = 0; i < count; i++)
		numbers = lappend_int(numbers, DatumGetInt32(datums[i]));
	return numbers;
}

Datum
name_array_datum(List *names)
{
	Datum	   *datums = palloc(sizeof(Datum) * (list_length(names) + 1));
	int			count = 0;
	ListCell   *lc;

	foreach(lc, names)
		datums[count++] = DirectFunctionCall1(namein, CStringGetDatum(lfirst(lc)));
	return PointerGetDatum(construct_array(datums, count, NAMEOID, NAMEDATALEN, false,
										   TYPALIGN_CHAR));
}

Datum
oid_array_datum(List *oids)
{
	Datum	   *datums = palloc(sizeof(Datum) * (list_length(oids) + 1));
	int			count = 0;
	ListCell   *lc;

	foreach(lc, oids)
		datums[count++] = ObjectIdGetDatum(lfirst_oid(lc));
	return PointerGetDatum(construct_array(datums, count, OIDOID, sizeof(Oid), true,
										   TYPALIGN_INT));
}

char *
name_array_text(List *names)
{
	return OidOutputFunctionCall(F_ARRAY_OUT, name_array_datum(names));
}

/* No transaction is needed for numbers. */
char *
oid_array_text(List *oids)
{
	StringInfoData text;
	ListCell   *lc;

	initStringInfo(&text);
	appendStringInfoChar(&text, '{');
	foreach(lc, oids)
		appendStringInfo(&text, "%s%u", foreach_current_index(lc) > 0 ? "," : "", lfirst_oid(lc));
	appendStringInfoChar(&text, '}');
	return text.data;
}

char *
int_array_text(List *numbers)
{
	StringInfoData text;
	ListCell   *lc;

	initStringInfo(&text);
	appendStringInfoChar(&text, '{');
	foreach(lc, numbers)
		appendStringInfo(&text, "%s%d", foreach_current_index(lc) > 0 ? "," : "", lfirst_int(lc));
	appendStringInfoChar(&text, '}');
	return text.data;
}
