/*
 * ddl_write.c
 *		Schema changes as rows of fanout.schema_change.
 *
 * A statement is one row, written before it runs or, when it commits inside, after that.
 * Another row may follow when it has run: what it made, or that an extension's script has
 * ended.  It has the statement's number, since what comes between may be rows of others,
 * which event triggers ran.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/rel.h"

#include "arrays.h"
#include "leader/ddl.h"
#include "log/statement.h"
#include "own_tables.h"

/*
 * Parameters that change what a statement means, or what a query computes that it runs.  Some
 * are not there in all versions.  With those that only change how it is read,
 * statement_text_conforms() deals.
 */
static const char *const captured_settings[] = {
	"search_path", "TimeZone", "timezone_abbreviations", "DateStyle", "IntervalStyle", "xmloption",
	"xmlbinary", "array_nulls", "transform_null_equals", "default_table_access_method",
	"default_toast_compression", "default_text_search_config", "extra_float_digits",
	"bytea_output", "row_security", "lc_monetary", "lc_numeric", "lc_time",
	"icu_validation_level",
};

static Datum
text_array_datum(List *strings)
{
	Datum	   *values = palloc(sizeof(Datum) * (list_length(strings) + 1));
	int			count = 0;
	ListCell   *lc;

	foreach(lc, strings)
		values[count++] = CStringGetTextDatum(lfirst(lc));
	return PointerGetDatum(construct_array(values, count, TEXTOID, -1, false, TYPALIGN_INT));
}

List *
add_setting(List *settings, const char *name, const char *value)
{
	settings = lappend(settings, unconstify(char *, name));
	return lappend(settings, unconstify(char *, value));
}

/* A text that was written here reads the same with any; others say with what they were read. */
static List *
settings_of_session(void)
{
	List	   *settings = add_setting(NIL, "standard_conforming_strings", "on");

	for (int i = 0; i < lengthof(captured_settings); i++)
	{
		const char *value = GetConfigOption(captured_settings[i], true, false);

		if (value != NULL)
			settings = add_setting(settings, captured_settings[i], pstrdup(value));
	}
	return settings;
}

static Datum
name_datum(const char *name)
{
	return DirectFunctionCall1(namein, CStringGetDatum(name));
}

/* It may have been dropped since the session began. */
static const char *
name_of_session(void)
{
	const char *name = GetUserNameFromId(GetSessionUserId(), true);

	return name != NULL ? name : "";
}

/* Whoever runs the statement has no right on the table, and needs none. */
static void
write_down(const SchemaStatement *statement)
{
	Relation	rel = table_open(own_table_oid("schema_change"), RowExclusiveLock);
	Datum		values[Natts_schema_change];
	bool		nulls[Natts_schema_change] = {0};
	HeapTuple	tuple;

	values[Anum_schema_change_role - 1] = name_datum(GetUserNameFromId(GetUserId(), false));
	values[Anum_schema_change_settings - 1] = text_array_datum(statement->settings);
	values[Anum_schema_change_statement - 1] = CStringGetTextDatum(statement->text);
	values[Anum_schema_change_relations - 1] = oid_array_datum(statement->relids);
	values[Anum_schema_change_flags - 1] = Int32GetDatum(statement->flags);
	values[Anum_schema_change_number - 1] = Int32GetDatum((int32) statement->number);
	values[Anum_schema_change_made - 1] = text_array_datum(statement->made);
	values[Anum_schema_change_session_role - 1] = name_datum(name_of_session());
	values[Anum_schema_change_transaction_at - 1] =
		TimestampTzGetDatum(GetCurrentTransactionStartTimestamp());
	values[Anum_schema_change_statement_at - 1] =
		TimestampTzGetDatum(GetCurrentStatementStartTimestamp());
	tuple = heap_form_tuple(RelationGetDescr(rel), values, nulls);
	simple_heap_insert(rel, tuple);
	CommandCounterIncrement();
	simple_heap_delete(rel, &tuple->t_self);
	CommandCounterIncrement();
	heap_freetuple(tuple);
	table_close(rel, RowExclusiveLock);
}

uint32
write_statement_down(const char *text, const SchemaChange *change)
{
	static uint32 last_number = 0;
	SchemaStatement statement = {
		.flags = change->flags,
		.number = ++last_number,
		.settings = list_concat(settings_of_session(), change->settings),
		.relids = change->relids,
		.text = unconstify(char *, text),
	};

	write_down(&statement);
	return statement.number;
}

void
write_made_down(uint32 number, List *relids, List *made)
{
	SchemaStatement statement = {
		.flags = STATEMENT_MADE,
		.number = number,
		.relids = relids,
		.made = made,
		.text = "",
	};

	write_down(&statement);
}

void
write_mark_down(uint8 mark, const char *text)
{
	SchemaStatement statement = {
		.flags = mark,
		.text = unconstify(char *, text),
	};

	if (OidIsValid(own_table_oid("schema_change")))
		write_down(&statement);
}
