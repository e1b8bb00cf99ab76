/*
 * apply_error.c
 *		Saying what was being applied when it went wrong.
 *
 * Values are shown from the bytes the leader sent, without calling any type's
 * output function: an error is being handled already.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "port/pg_bswap.h"

#include "follower/apply_internal.h"

#define MAX_SHOWN	64

static void
show_bytes(StringInfo buf, const ColumnValue *value)
{
	appendStringInfoString(buf, "\\x");
	for (uint32 i = 0; i < Min(value->len, MAX_SHOWN / 2); i++)
		appendStringInfo(buf, "%02x", (uint8) value->data[i]);
	if (value->len > MAX_SHOWN / 2)
		appendStringInfoString(buf, "...");
}

static void
show_text(StringInfo buf, const ColumnValue *value)
{
	int			len;

	if (!pg_verify_mbstr(GetDatabaseEncoding(), value->data, value->len, true))
	{
		show_bytes(buf, value);
		return;
	}
	len = pg_mbcliplen(value->data, value->len, MAX_SHOWN);
	appendBinaryStringInfo(buf, value->data, len);
	if (len < value->len)
		appendStringInfoString(buf, "...");
}

/* What the value's length is, not what the type's should be, says how much there is. */
static void
show_fixed(StringInfo buf, const ColumnDesc *column, const ColumnValue *value)
{
	int16		int2;
	int32		int4;
	int64		int8;

	if (column->typid == INT2OID && value->len == sizeof(int2))
	{
		memcpy(&int2, value->data, sizeof(int2));
		appendStringInfo(buf, "%d", int2);
	}
	else if (column->typid == INT4OID && value->len == sizeof(int4))
	{
		memcpy(&int4, value->data, sizeof(int4));
		appendStringInfo(buf, "%d", int4);
	}
	else if (column->typid == INT8OID && value->len == sizeof(int8))
	{
		memcpy(&int8, value->data, sizeof(int8));
		appendStringInfo(buf, INT64_FORMAT, int8);
	}
	else
		show_bytes(buf, value);
}

static void
show_value(StringInfo buf, const ColumnDesc *column, const ColumnValue *value)
{
	if (value->kind == VALUE_NULL)
		appendStringInfoString(buf, "null");
	else if (value->kind == VALUE_UNCHANGED)
		appendStringInfoString(buf, "unchanged");
	else if (column->form == COLUMN_FIXED)
		show_fixed(buf, column, value);
	else if (column->form == COLUMN_TEXT ||
			 (column->form == COLUMN_VARLENA && column->typid != BYTEAOID))
		show_text(buf, value);
	else
		show_bytes(buf, value);
}

/* Rows are found by the replica identity, or without one by all columns. */
static bool
has_key(const RelationDesc *desc)
{
	for (int i = 0; i < desc->natts; i++)
	{
		if (desc->columns[i].is_key)
			return true;
	}
	return false;
}

/* "(a, b)=(1, x)": the replica identity, or the first columns without one; palloc'd. */
char *
apply_describe_key(const ApplyRelation *relation, const Change *change)
{
	const RelationDesc *desc = relation->desc;
	const ColumnValue *row = change->oldkind != OLD_NONE ? change->oldrow : change->newrow;
	StringInfoData names;
	StringInfoData values;
	bool		any_key = has_key(desc);
	int			shown = 0;

	initStringInfo(&names);
	initStringInfo(&values);
	for (int i = 0; i < desc->natts && shown < 8; i++)
	{
		if (any_key && !desc->columns[i].is_key)
			continue;
		appendStringInfo(&names, "%s%s", shown > 0 ? ", " : "", desc->columns[i].name);
		appendStringInfoString(&values, shown > 0 ? ", " : "");
		show_value(&values, &desc->columns[i], &row[i]);
		shown++;
	}
	return psprintf("(%s)=(%s)", names.data, values.data);
}

static const char *
operation_name(ChangeOp op)
{
	switch (op)
	{
		case CHANGE_INSERT:
			return "INSERT";
		case CHANGE_UPDATE:
			return "UPDATE";
		case CHANGE_DELETE:
			return "DELETE";
		case CHANGE_TRUNCATE:
			return "TRUNCATE";
		case CHANGE_SEQUENCE:
			return "a sequence's value";
		case CHANGE_STATEMENT:
			return "a schema change";
		case CHANGE_TABLES:
			return "a change of the publications";
		case CHANGE_UNCARRIED:
			return "what stands for a row that can't be sent";
	}
	return "change";
}

/* Is the value that was being made the name of an object? */
static bool
makes_name(const ApplyRelation *relation)
{
	for (int i = 0; i < relation->desc->natts; i++)
	{
		if (&relation->desc->columns[i] == apply_position.column)
			return relation->inputs[i].names_object;
	}
	return false;
}

/* It has a table, but no constraint that could be named. */
static bool
is_of_partition(const ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_CHECK_VIOLATION && error->table_name != NULL &&
		error->constraint_name == NULL;
}

/*
 * Was a row not found that was looked for by the name of an object?  When that is gone on the
 * leader, a number is left there, and another one here.
 */
static bool
misses_name(const ApplyRelation *relation, const ErrorData *error)
{
	const RelationDesc *desc = relation->desc;
	bool		any_key = has_key(desc);

	if (error->sqlerrcode != ERRCODE_NO_DATA_FOUND || error->table_name == NULL)
		return false;
	for (int i = 0; i < desc->natts; i++)
	{
		if ((desc->columns[i].is_key || !any_key) && relation->inputs[i].names_object)
			return true;
	}
	return false;
}

/* That was found as the table was being mapped. */
static bool
lacks_column(const ApplyRelation *relation, const ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_UNDEFINED_COLUMN && relation->rel == NULL;
}

Oid
apply_table_at_fault(const ErrorData *error)
{
	const ApplyRelation *relation = apply_position.relation;

	if (apply_position.change == NULL || relation == NULL || !relation->mapped)
		return InvalidOid;
	return lacks_column(relation, error) || makes_name(relation) ||
		misses_name(relation, error) || is_of_partition(error) ? relation->relid : InvalidOid;
}

/* Error context callback while a frame is applied. */
void
apply_error_context(void *arg)
{
	const Change *change = apply_position.change;
	const ApplyRelation *relation = apply_position.relation;

	if (change == NULL || !change_is_of_row(change) ||
		relation == NULL || relation->leader_relid != change->relid)
		errcontext("applying %s of the leader's transaction committed at %X/%X",
				   change != NULL ? operation_name(change->op) : "a change",
				   LSN_FORMAT_ARGS(apply_position.txn.commit_lsn));
	else
		errcontext("applying %s to relation \"%s.%s\", key %s, of the leader's transaction committed at %X/%X",
				   operation_name(change->op), relation->desc->nspname, relation->desc->relname,
				   apply_describe_key(relation, change),
				   LSN_FORMAT_ARGS(apply_position.txn.commit_lsn));
}
