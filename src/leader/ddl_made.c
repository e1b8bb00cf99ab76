/*
 * ddl_made.c
 *		Noting what the statements make that are written down.
 *
 * What is made while one of them runs is its own, unless another one that is written down
 * runs within it, in an event trigger or a function: then it is that one's.  A statement may
 * commit inside, so the notes outlive transactions.
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "leader/ddl.h"
#include "made.h"

static MadeByStatement *innermost = NULL;

static object_access_hook_type prev_object_access = NULL;

static void
note_object(ObjectAccessType access, Oid class_id, Oid object_id, int sub_id, void *arg)
{
	MemoryContext oldcontext;
	TouchedObject *touched;

	if (prev_object_access)
		prev_object_access(access, class_id, object_id, sub_id, arg);
	if (innermost == NULL || (access != OAT_POST_CREATE && access != OAT_POST_ALTER))
		return;
	oldcontext = MemoryContextSwitchTo(innermost->context);
	innermost->noted = made_note(innermost->noted, access, class_id, object_id, sub_id);
	touched = palloc(sizeof(TouchedObject));
	touched->class_id = class_id;
	touched->object_id = object_id;
	touched->sub_id = sub_id;
	touched->created = access == OAT_POST_CREATE;
	innermost->touched = lappend(innermost->touched, touched);
	MemoryContextSwitchTo(oldcontext);
}

void
ddl_made_init(void)
{
	prev_object_access = object_access_hook;
	object_access_hook = note_object;
}

void
ddl_made_begin(MadeByStatement *made)
{
	made->context = AllocSetContextCreate(TopMemoryContext, "pg_fanout made objects",
										  ALLOCSET_SMALL_SIZES);
	made->noted = NIL;
	made->touched = NIL;
	made->outer = innermost;
	innermost = made;
}

List *
ddl_made_strings(const MadeByStatement *made)
{
	return made_to_strings(made_describe(made->noted));
}

bool
ddl_made_needs_temporary(const MadeByStatement *made)
{
	ListCell   *lc;

	foreach(lc, made->touched)
	{
		if (touched_needs_temporary(lfirst(lc)))
			return true;
	}
	return false;
}

char *
ddl_made_bare(const MadeByStatement *made)
{
	return deparse_bare(made->touched);
}

void
ddl_made_end(MadeByStatement *made)
{
	innermost = made->outer;
	MemoryContextDelete(made->context);
}
