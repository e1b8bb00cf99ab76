/*
 * made_names.c
 *		What a statement made here gets the names that the leader's server chose.
 *
 * Both sides made the same of it, but perhaps in another order and under other names
 * (made.c).  An object here and one of the leader correspond when they belong to the same
 * relation or type and have the same definition; versions of the server may write that
 * differently, so of what is left the same names correspond, and then the same places in
 * the order.  What one version makes and the other does not, such as constraints for NOT
 * NULL, has no counterpart and keeps its name.
 *
 * Names may have been swapped: all that change theirs first get one that nobody has.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_statistic_ext.h"
#include "catalog/pg_type.h"
#include "commands/alter.h"
#include "commands/tablecmds.h"
#include "nodes/makefuncs.h"
#include "nodes/parsenodes.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "follower/apply_internal.h"
#include "made.h"

/* ---------- what corresponds ---------- */

/* To order objects by their keys, so that equal ones of both sides stand side by side. */
typedef int (*CompareKeys) (const MadeObject *a, const MadeObject *b);

static int
compare_places(const MadeObject *a, const MadeObject *b)
{
	return a->kind != b->kind ? a->kind - b->kind : strcmp(a->where, b->where);
}

static int
compare_definitions(const MadeObject *a, const MadeObject *b)
{
	int			result = compare_places(a, b);

	return result != 0 ? result : strcmp(a->definition, b->definition);
}

static int
compare_names(const MadeObject *a, const MadeObject *b)
{
	int			result = compare_places(a, b);

	return result != 0 ? result : strcmp(a->name, b->name);
}

static CompareKeys compare_keys;	/* for list_sort() */

static int
compare_cells(const ListCell *a, const ListCell *b)
{
	const MadeObject *one = lfirst(a);
	const MadeObject *other = lfirst(b);
	int			result = compare_keys(one, other);

	return result != 0 ? result : one->position - other->position;
}

typedef struct Renaming
{
	const MadeObject *object;
	const char *name;
} Renaming;

/* Those with equal keys correspond, and are taken out of both lists. */
static List *
pair_off(List *renamings, List **here, List **theirs, CompareKeys compare)
{
	List	   *left_here = NIL;
	List	   *left_there = NIL;
	int			i = 0;
	int			j = 0;

	compare_keys = compare;
	list_sort(*here, compare_cells);
	list_sort(*theirs, compare_cells);
	while (i < list_length(*here) || j < list_length(*theirs))
	{
		MadeObject *mine = i < list_length(*here) ? list_nth(*here, i) : NULL;
		MadeObject *other = j < list_length(*theirs) ? list_nth(*theirs, j) : NULL;
		int			order = mine == NULL ? 1 : other == NULL ? -1 : compare(mine, other);

		if (order == 0)
		{
			Renaming   *renaming = palloc(sizeof(Renaming));

			renaming->object = mine;
			renaming->name = other->name;
			if (strcmp(mine->name, other->name) != 0)
				renamings = lappend(renamings, renaming);
		}
		if (order < 0)
			left_here = lappend(left_here, mine);
		if (order > 0)
			left_there = lappend(left_there, other);
		i += order <= 0;
		j += order >= 0;
	}
	*here = left_here;
	*theirs = left_there;
	return renamings;
}

/* ---------- renaming ---------- */

static void
rename_constraint(Oid constraint, const char *name)
{
	HeapTuple	tuple = SearchSysCache1(CONSTROID, ObjectIdGetDatum(constraint));
	Oid			relid;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for constraint %u", constraint);
	relid = ((Form_pg_constraint) GETSTRUCT(tuple))->conrelid;
	ReleaseSysCache(tuple);
	RenameConstraintById(constraint, name);
	if (OidIsValid(relid))
		CacheInvalidateRelcacheByRelid(relid);
}

static void
rename_type(Oid typid, const char *name)
{
	HeapTuple	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(typid));
	Oid			namespace;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for type %u", typid);
	namespace = ((Form_pg_type) GETSTRUCT(tuple))->typnamespace;
	ReleaseSysCache(tuple);
	RenameTypeInternal(typid, name, namespace);
}

static void
rename_statistics(Oid statistics, const char *name)
{
	HeapTuple	tuple = SearchSysCache1(STATEXTOID, ObjectIdGetDatum(statistics));
	Form_pg_statistic_ext form;
	RenameStmt *stmt = makeNode(RenameStmt);

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for statistics object %u", statistics);
	form = (Form_pg_statistic_ext) GETSTRUCT(tuple);
	stmt->renameType = OBJECT_STATISTIC_EXT;
	stmt->object = (Node *) list_make2(makeString(get_namespace_name(form->stxnamespace)),
									   makeString(pstrdup(NameStr(form->stxname))));
	stmt->newname = unconstify(char *, name);
	ReleaseSysCache(tuple);
	(void) ExecRenameStmt(stmt);
}

static void
rename_object(const MadeObject *object, const char *name)
{
	switch (object->kind)
	{
		case MADE_INDEX:
		case MADE_SEQUENCE:
			RenameRelationInternal(object->object_id, name, true, object->kind == MADE_INDEX);
			break;
		case MADE_CONSTRAINT:
			rename_constraint(object->object_id, name);
			break;
		case MADE_ARRAY:
		case MADE_MULTIRANGE:
			rename_type(object->object_id, name);
			break;
		case MADE_STATISTICS:
			rename_statistics(object->object_id, name);
			break;
		default:
			elog(ERROR, "unexpected kind of object: %d", object->kind);
	}
	CommandCounterIncrement();
}

/* A relation that is named in the statement was there already, and IF NOT EXISTS left it alone. */
static void
check_relations(List *theirs)
{
	ListCell   *lc;

	foreach(lc, theirs)
	{
		MadeObject *object = lfirst(lc);

		if (object->kind == MADE_RELATION)
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_TABLE),
					 errmsg("relation %s already exists on this follower", object->where),
					 errdetail("The leader made it just now."),
					 errhint("Drop or rename it here; the stream then goes on by itself.")));
	}
}

void
made_take_names(List *here, List *theirs)
{
	List	   *renamings = NIL;
	ListCell   *lc;

	renamings = pair_off(renamings, &here, &theirs, compare_definitions);
	check_relations(theirs);
	renamings = pair_off(renamings, &here, &theirs, compare_names);
	renamings = pair_off(renamings, &here, &theirs, compare_places);
	foreach(lc, renamings)
	{
		Renaming   *renaming = lfirst(lc);

		rename_object(renaming->object, psprintf("pg_fanout_%u", renaming->object->object_id));
	}
	foreach(lc, renamings)
	{
		Renaming   *renaming = lfirst(lc);

		rename_object(renaming->object, renaming->name);
	}
}
