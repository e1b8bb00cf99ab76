/*
 * statement.c
 *		Schema changes to bytes and back.
 *
 * In network byte order:
 *
 *	flags (1), number (4), role, role of the session, start of its transaction and its own (8
 *	each), number of settings' names and values (4), each of them,
 *	number of tables (4), oid of each (4), number of strings about what was made (4),
 *	each of them, text
 *
 * where a string is its length (4) and bytes, without a zero.
 */
#include "postgres.h"

#include "libpq/pqformat.h"
#include "mb/pg_wchar.h"

#include "log/bytes.h"
#include "log/statement.h"
#include "made.h"

static void
put_string(StringInfo buf, const char *string)
{
	uint32		len = strlen(string);

	pq_sendint32(buf, len);
	appendBinaryStringInfo(buf, string, len);
}

static void
put_strings(StringInfo buf, const List *strings)
{
	ListCell   *lc;

	pq_sendint32(buf, list_length(strings));
	foreach(lc, strings)
		put_string(buf, lfirst(lc));
}

void
statement_encode(StringInfo buf, const SchemaStatement *statement)
{
	ListCell   *lc;

	pq_sendint8(buf, statement->flags);
	pq_sendint32(buf, statement->number);
	put_string(buf, statement->role);
	put_string(buf, statement->session_role);
	pq_sendint64(buf, statement->transaction_at);
	pq_sendint64(buf, statement->statement_at);
	put_strings(buf, statement->settings);
	pq_sendint32(buf, list_length(statement->relids));
	foreach(lc, statement->relids)
		pq_sendint32(buf, lfirst_oid(lc));
	put_strings(buf, statement->made);
	put_string(buf, statement->text);
}

static char *
read_string(ByteReader *reader)
{
	uint32		len = read_uint32(reader);
	const char *data = read_bytes(reader, len);

	if (!pg_verify_mbstr(GetDatabaseEncoding(), data, len, true))
		read_failed(reader, "A string is not valid in the database's encoding.");
	return pnstrdup(data, len);
}

static TimestampTz
read_timestamp(ByteReader *reader)
{
	TimestampTz timestamp = (TimestampTz) read_uint64(reader);

	if (!IS_VALID_TIMESTAMP(timestamp))
		read_failed(reader, "A time is out of range.");
	return timestamp;
}

static List *
read_strings(ByteReader *reader, int multiple, const char *wrong)
{
	List	   *strings = NIL;
	uint32		count = read_uint32(reader);

	if (count % multiple != 0)
		read_failed(reader, wrong);
	for (uint32 i = 0; i < count; i++)
		strings = lappend(strings, read_string(reader));
	return strings;
}

SchemaStatement *
statement_decode(const char *data, Size len)
{
	ByteReader	reader = {
		.pos = data,
		.end = data + len,
		.message = "invalid schema change in change log frame"
	};
	SchemaStatement *statement = palloc0(sizeof(SchemaStatement));
	uint32		relids;

	statement->flags = read_uint8(&reader);
	statement->number = read_uint32(&reader);
	statement->role = read_string(&reader);
	statement->session_role = read_string(&reader);
	statement->transaction_at = read_timestamp(&reader);
	statement->statement_at = read_timestamp(&reader);
	statement->settings = read_strings(&reader, 2, "A setting has no value.");
	relids = read_uint32(&reader);
	for (uint32 i = 0; i < relids; i++)
		statement->relids = lappend_oid(statement->relids, read_uint32(&reader));
	statement->made = read_strings(&reader, MADE_STRINGS, "What was made is not said whole.");
	statement->text = read_string(&reader);
	if (reader.pos != reader.end)
		read_failed(&reader, "It has bytes behind its end.");
	return statement;
}
