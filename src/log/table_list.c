/*
 * table_list.c
 *		Lists of tables to bytes and back.
 *
 * In network byte order, for each table: oid (4), name of the schema, name of the table.
 */
#include "postgres.h"

#include "log/bytes.h"
#include "log/table_list.h"

void
table_list_encode(StringInfo buf, const List *tables)
{
	ListCell   *lc;

	foreach(lc, tables)
	{
		const ListedTable *table = lfirst(lc);

		pq_sendint32(buf, table->relid);
		put_name(buf, NameStr(table->nspname));
		put_name(buf, NameStr(table->relname));
	}
}

List *
table_list_decode(const char *data, Size len)
{
	ByteReader	reader = {
		.pos = data,
		.end = data + len,
		.message = "invalid list of tables in change log frame"
	};
	List	   *tables = NIL;

	while (reader.pos < reader.end)
	{
		ListedTable *table = palloc(sizeof(ListedTable));

		table->relid = read_uint32(&reader);
		read_name(&reader, &table->nspname);
		read_name(&reader, &table->relname);
		tables = lappend(tables, table);
	}
	return tables;
}
