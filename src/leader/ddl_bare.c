/*
 * ddl_bare.c
 *		Tables and columns that were made with the help of something temporary.
 *
 * A table whose default or check uses a temporary function stays when that is gone, and has
 * rows.  A follower gets it with its columns and keys, and without all else.  Columns of
 * temporary types, which go with them, are left out; while they are there the
 * follower has no place for the table's rows, and sets it aside.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "leader/ddl.h"

/* NULL: followers don't have it.  Nor is a generated column sent that they could not compute. */
static char *
column_of(Form_pg_attribute attr)
{
	if (attr->attisdropped || attr->attgenerated != '\0')
		return NULL;
	return deparse_column(NameStr(attr->attname), attr->atttypid, attr->atttypmod,
						  attr->attcollation);
}

static void
append_keys(StringInfo buf, Oid relid)
{
	Relation	catalog = table_open(ConstraintRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_constraint_conrelid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relid));
	scan = systable_beginscan(catalog, ConstraintRelidTypidNameIndexId, true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_constraint form = (Form_pg_constraint) GETSTRUCT(tuple);

		if (form->contype != CONSTRAINT_PRIMARY && form->contype != CONSTRAINT_UNIQUE)
			continue;
		appendStringInfo(buf, ", CONSTRAINT %s %s", quote_identifier(NameStr(form->conname)),
						 TextDatumGetCString(DirectFunctionCall1(pg_get_constraintdef,
																 ObjectIdGetDatum(form->oid))));
	}
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
}

static void
append_table(StringInfo buf, const char *name, Relation rel)
{
	TupleDesc	desc = RelationGetDescr(rel);
	int			count = 0;

	appendStringInfo(buf, "CREATE %sTABLE %s (",
					 rel->rd_rel->relpersistence == RELPERSISTENCE_UNLOGGED ? "UNLOGGED " : "", name);
	for (int i = 0; i < desc->natts; i++)
	{
		char	   *column = column_of(TupleDescAttr(desc, i));

		if (column == NULL)
			continue;
		appendStringInfo(buf, "%s%s%s", count++ > 0 ? ", " : "", column,
						 TupleDescAttr(desc, i)->attnotnull ? " NOT NULL" : "");
	}
	if (count == desc->natts)
		append_keys(buf, RelationGetRelid(rel));
	appendStringInfoString(buf, ")");
}

static void
append_made(StringInfo buf, const TouchedObject *object)
{
	Relation	rel = try_table_open(object->object_id, AccessShareLock);
	char	   *name;
	char	   *column;

	if (rel == NULL)
		return;
	name = quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
									  RelationGetRelationName(rel));
	if (rel->rd_rel->relkind != RELKIND_RELATION || rel->rd_rel->relispartition ||
		rel->rd_rel->relpersistence == RELPERSISTENCE_TEMP)
		column = NULL;
	else if (object->sub_id > 0)
		column = column_of(TupleDescAttr(RelationGetDescr(rel), object->sub_id - 1));
	else
		column = "";
	if (column != NULL && buf->len > 0)
		appendStringInfoString(buf, "; ");
	if (column != NULL && object->sub_id > 0)
		appendStringInfo(buf, "ALTER TABLE %s ADD COLUMN IF NOT EXISTS %s", name, column);
	else if (column != NULL)
		append_table(buf, name, rel);
	table_close(rel, NoLock);
}

char *
deparse_bare(List *touched)
{
	StringInfoData buf;
	ListCell   *lc;

	initStringInfo(&buf);
	foreach(lc, touched)
	{
		TouchedObject *object = lfirst(lc);
		char		relkind = object->class_id == RelationRelationId && object->created ?
			get_rel_relkind(object->object_id) : '\0';

		if (relkind == RELKIND_RELATION && object->sub_id >= 0)
			append_made(&buf, object);
	}
	return buf.len > 0 ? buf.data : NULL;
}
