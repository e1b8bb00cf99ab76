/*
 * table_list.h
 *		The tables that a stream's publications publish, as the change log carries them.
 */
#ifndef FANOUT_TABLE_LIST_H
#define FANOUT_TABLE_LIST_H

#include "pg_fanout.h"

#include "lib/stringinfo.h"
#include "nodes/pg_list.h"

typedef struct ListedTable
{
	Oid			relid;			/* on the leader */
	NameData	nspname;
	NameData	relname;
} ListedTable;

extern void table_list_encode(StringInfo buf, const List *tables);

/* Decode into the current memory context; fails with ERRCODE_DATA_CORRUPTED. */
extern List *table_list_decode(const char *data, Size len);

#endif							/* FANOUT_TABLE_LIST_H */
