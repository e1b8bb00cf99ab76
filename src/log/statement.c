/*
 * statement.c
 *		Schema changes to bytes and back.
 *
 * In network byte order:
 *
 *	flags (1), role, number of settings' names and values (2), each of them,
 *	number of tables (4), oid of each (4), text
 *
 * where a string is its length (4) and bytes, without a zero.
 */
#include "postgres.h"

#include "libpq/pqformat.h"
#include "mb/pg_wchar.h"

#include "log/bytes.h"
#include "log/statement.h"

static void
put_string(StringInfo buf, const char *string)
{
	uint32		len = strlen(string);

	pq_sendint32(buf, len);
	appendBinaryStringInfo(buf, string, len);
}

void
statement_encode(StringInfo buf, const SchemaStatement *statement)
{
	ListCell   *lc;

	pq_sendint8(buf, statement->flags);
	put_string(buf, statement->role);
	pq_sendint16(buf, list_length(statement->settings));
	foreach(lc, statement->settings)
		put_string(buf, lfirst(lc));
	pq_sendint32(buf, list_length(statement->relids));
	foreach(lc, statement->relids)
		pq_sendint32(buf, lfirst_oid(lc));
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

SchemaStatement *
statement_decode(const char *data, Size len)
{
	ByteReader	reader = {
		.pos = data,
		.end = data + len,
		.message = "invalid schema change in change log frame"
	};
	SchemaStatement *statement = palloc0(sizeof(SchemaStatement));
	uint16		settings;
	uint32		relids;

	statement->flags = read_uint8(&reader);
	statement->role = read_string(&reader);
	settings = read_uint16(&reader);
	if (settings % 2 != 0)
		read_failed(&reader, "A setting has no value.");
	for (uint16 i = 0; i < settings; i++)
		statement->settings = lappend(statement->settings, read_string(&reader));
	relids = read_uint32(&reader);
	for (uint32 i = 0; i < relids; i++)
		statement->relids = lappend_oid(statement->relids, read_uint32(&reader));
	statement->text = read_string(&reader);
	if (reader.pos != reader.end)
		read_failed(&reader, "It has bytes behind its end.");
	return statement;
}
