/*
 * made.c
 *		What a schema statement made, and the names that the server chose for it.
 *
 * A statement need not say how the index, constraint, sequence or statistics that it makes
 * are called: the server chooses a name that is not taken.  Which names are taken may be
 * another question on a follower, and which of two is the first, too: clones of indexes and
 * constraints are made in the order of oids.  So the names travel, and a follower gives them
 * to what it has made of the same statement.
 *
 * The hook of object access tells both sides what is made, or for types renamed, since the
 * types of arrays change their names with those of their elements.  What corresponds to what
 * is seen by the relation that it belongs to, and the definition without the name.
 *
 * Temporary objects, and what belongs to TOAST, are nobody's business.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/dependency.h"
#include "catalog/index.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_statistic_ext.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "made.h"

typedef struct NotedObject
{
	Oid			class_id;
	Oid			object_id;
} NotedObject;

List *
made_note(List *noted, ObjectAccessType access, Oid class_id, Oid object_id, int sub_id)
{
	bool		of_interest = class_id == RelationRelationId || class_id == ConstraintRelationId ||
		class_id == StatisticExtRelationId || class_id == TypeRelationId;
	NotedObject *object;

	if (!of_interest || sub_id != 0 ||
		!(access == OAT_POST_CREATE ||
		  (access == OAT_POST_ALTER && class_id == TypeRelationId)))
		return noted;
	object = palloc(sizeof(NotedObject));
	object->class_id = class_id;
	object->object_id = object_id;
	return lappend(noted, object);
}

/* ---------- saying what one is ---------- */

static bool
is_nobodys(Oid namespace)
{
	return namespace == PG_TOAST_NAMESPACE || isAnyTempNamespace(namespace);
}

static char *
qualified(Oid namespace, const char *name)
{
	return quote_qualified_identifier(get_namespace_name(namespace), name);
}

static char *
relation_name(Oid relid)
{
	return qualified(get_rel_namespace(relid), get_rel_name(relid));
}

static char *
type_name(Oid typid)
{
	HeapTuple	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(typid));
	Form_pg_type form;
	char	   *name;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for type %u", typid);
	form = (Form_pg_type) GETSTRUCT(tuple);
	name = qualified(form->typnamespace, NameStr(form->typname));
	ReleaseSysCache(tuple);
	return name;
}

static char *
hashed(const char *text)
{
	return psprintf(UINT64_FORMAT,
					hash_bytes_extended((const unsigned char *) text, strlen(text), 0));
}

/* What one of the server's functions says about an object. */
static char *
told_by(PGFunction function, Oid object)
{
	return TextDatumGetCString(DirectFunctionCall1(function, ObjectIdGetDatum(object)));
}

/* The index's definition around its name. */
static char *
index_definition(Oid index, const char *name)
{
	char	   *text = told_by(pg_get_indexdef, index);
	char	   *marker = psprintf(" INDEX %s ", quote_identifier(name));
	char	   *found = strstr(text, marker);

	if (found != NULL)
		text = psprintf("%.*s%s", (int) (found - text), text, found + strlen(marker));
	return hashed(text);
}

static bool
describe_relation(MadeObject *object, Form_pg_class form)
{
	Oid			relid = form->oid;
	Oid			table;
	int32		column;

	object->kind = MADE_RELATION;
	object->name = pstrdup(NameStr(form->relname));
	object->where = qualified(form->relnamespace, object->name);
	object->definition = "";
	switch (form->relkind)
	{
		case RELKIND_INDEX:
		case RELKIND_PARTITIONED_INDEX:
			object->kind = MADE_INDEX;
			object->where = relation_name(IndexGetRelation(relid, false));
			object->definition = index_definition(relid, object->name);
			return true;
		case RELKIND_SEQUENCE:
			if (!sequenceIsOwned(relid, DEPENDENCY_AUTO, &table, &column) &&
				!sequenceIsOwned(relid, DEPENDENCY_INTERNAL, &table, &column))
				return true;
			object->kind = MADE_SEQUENCE;
			object->where = relation_name(table);
			object->definition = get_attname(table, column, false);
			return true;
		default:
			return form->relkind == RELKIND_RELATION || form->relkind == RELKIND_MATVIEW ||
				form->relkind == RELKIND_FOREIGN_TABLE || form->relkind == RELKIND_PARTITIONED_TABLE;
	}
}

/* Those that stand on an index are called like it; constraint triggers are named by the user. */
static bool
describe_constraint(MadeObject *object, Form_pg_constraint form)
{
	if (form->contype == CONSTRAINT_PRIMARY || form->contype == CONSTRAINT_UNIQUE ||
		form->contype == CONSTRAINT_EXCLUSION || form->contype == CONSTRAINT_TRIGGER)
		return false;
	object->kind = MADE_CONSTRAINT;
	object->name = pstrdup(NameStr(form->conname));
	object->where = psprintf("%s %c", OidIsValid(form->conrelid) ?
							 relation_name(form->conrelid) : type_name(form->contypid),
							 form->contype);
	object->definition = hashed(told_by(pg_get_constraintdef, form->oid));
	return true;
}

static bool
describe_type(MadeObject *object, Form_pg_type form)
{
	bool		multirange = form->typtype == TYPTYPE_MULTIRANGE;

	if (!multirange && !IsTrueArrayType(form))
		return false;
	object->kind = multirange ? MADE_MULTIRANGE : MADE_ARRAY;
	object->name = pstrdup(NameStr(form->typname));
	object->where = type_name(multirange ? get_multirange_range(form->oid) : form->typelem);
	object->definition = "";
	return true;
}

static bool
describe_statistics(MadeObject *object, Form_pg_statistic_ext form)
{
	object->kind = MADE_STATISTICS;
	object->name = pstrdup(NameStr(form->stxname));
	object->where = relation_name(form->stxrelid);
	object->definition = hashed(told_by(pg_get_statisticsobjdef_columns, form->oid));
	return true;
}

static bool
describe_tuple(MadeObject *object, Oid class_id, const void *form)
{
	switch (class_id)
	{
		case RelationRelationId:
			return !is_nobodys(((Form_pg_class) form)->relnamespace) &&
				describe_relation(object, (Form_pg_class) form);
		case ConstraintRelationId:
			return !is_nobodys(((Form_pg_constraint) form)->connamespace) &&
				describe_constraint(object, (Form_pg_constraint) form);
		case TypeRelationId:
			return !is_nobodys(((Form_pg_type) form)->typnamespace) &&
				describe_type(object, (Form_pg_type) form);
		default:
			return !is_nobodys(((Form_pg_statistic_ext) form)->stxnamespace) &&
				describe_statistics(object, (Form_pg_statistic_ext) form);
	}
}

static int
cache_of(Oid class_id)
{
	switch (class_id)
	{
		case RelationRelationId:
			return RELOID;
		case ConstraintRelationId:
			return CONSTROID;
		case TypeRelationId:
			return TYPEOID;
		default:
			return STATEXTOID;
	}
}

List *
made_describe(List *noted)
{
	List	   *objects = NIL;
	ListCell   *lc;

	foreach(lc, noted)
	{
		NotedObject *note = lfirst(lc);
		MadeObject *object = palloc0(sizeof(MadeObject));
		HeapTuple	tuple = SearchSysCache1(cache_of(note->class_id),
											ObjectIdGetDatum(note->object_id));

		if (!HeapTupleIsValid(tuple))
			continue;
		object->object_id = note->object_id;
		object->position = list_length(objects);
		if (describe_tuple(object, note->class_id, GETSTRUCT(tuple)))
			objects = lappend(objects, object);
		ReleaseSysCache(tuple);
	}
	return objects;
}

/* ---------- as strings ---------- */

List *
made_to_strings(List *objects)
{
	List	   *strings = NIL;
	ListCell   *lc;

	foreach(lc, objects)
	{
		MadeObject *object = lfirst(lc);

		strings = lappend(strings, psprintf("%c", object->kind));
		strings = lappend(strings, object->where);
		strings = lappend(strings, object->definition);
		strings = lappend(strings, object->name);
	}
	return strings;
}

List *
made_from_strings(List *strings)
{
	List	   *objects = NIL;

	for (int i = 0; i + MADE_STRINGS <= list_length(strings); i += MADE_STRINGS)
	{
		MadeObject *object = palloc0(sizeof(MadeObject));

		object->kind = ((char *) list_nth(strings, i))[0];
		object->where = list_nth(strings, i + 1);
		object->definition = list_nth(strings, i + 2);
		object->name = list_nth(strings, i + 3);
		object->position = list_length(objects);
		objects = lappend(objects, object);
	}
	return objects;
}
