/*
 * made.h
 *		What a schema statement made, and the names that the server chose for it.
 */
#ifndef FANOUT_MADE_H
#define FANOUT_MADE_H

#include "pg_fanout.h"

#include "catalog/objectaccess.h"
#include "nodes/pg_list.h"

/* Kinds of what is made. */
#define MADE_RELATION	'r'		/* its own name is in the statement */
#define MADE_INDEX		'i'		/* with the constraint that it stands for */
#define MADE_SEQUENCE	's'		/* of a column */
#define MADE_CONSTRAINT	'c'
#define MADE_STATISTICS	't'
#define MADE_ARRAY		'a'		/* type of arrays */
#define MADE_MULTIRANGE	'm'

/* An object that a statement made, by what tells it from the others that it made. */
typedef struct MadeObject
{
	char		kind;			/* MADE_... */
	char	   *where;			/* what it belongs to, by its qualified name */
	char	   *definition;		/* whatever else it is, but its name; may be a hash */
	char	   *name;
	Oid			object_id;		/* in this database; invalid when it is of the leader */
	int			position;		/* as it was made */
} MadeObject;

/* The strings that say all but the last two of one. */
#define MADE_STRINGS	4

/* An oid of this catalog, as an object access hook is told; in the current memory context. */
extern List *made_note(List *noted, ObjectAccessType access, Oid class_id, Oid object_id,
					   int sub_id);

/* List of MadeObject for what was noted and is there still. */
extern List *made_describe(List *noted);

/* To a list of strings and back. */
extern List *made_to_strings(List *objects);
extern List *made_from_strings(List *strings);

#endif							/* FANOUT_MADE_H */
