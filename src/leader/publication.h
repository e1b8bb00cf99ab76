/*
 * publication.h
 *		What a stream's publications publish of a table, and how its rows are
 *		encoded.
 */
#ifndef FANOUT_PUBLICATION_H
#define FANOUT_PUBLICATION_H

#include "pg_fanout.h"

#include "access/attmap.h"
#include "catalog/pg_publication.h"
#include "executor/tuptable.h"
#include "lib/stringinfo.h"
#include "nodes/execnodes.h"
#include "utils/relcache.h"

#include "leader/leader.h"
#include "log/change.h"

/* Row filters may differ by what is done to the row. */
typedef enum RowAction
{
	ROW_INSERT,
	ROW_UPDATE,
	ROW_DELETE
} RowAction;

#define ROW_ACTIONS	(ROW_DELETE + 1)

/*
 * What is known of a table that changed.  A partition may be published as one of
 * its ancestors; slots, columns and filters are then those of the ancestor.
 *
 * Nothing after "actions" is set unless some action is published.
 */
typedef struct PublishedRelation
{
	Oid			relid;			/* hash key: the table itself */
	bool		valid;			/* false: to be built again before its next use */
	bool		described;		/* the log knows that it was built */
	PublicationActions actions;
	Oid			publish_as;		/* relid or an ancestor */
	uint32		schema_hash;	/* of the schema of that one */

	MemoryContext context;		/* holds all below */
	RelationDesc *desc;
	RowEncoder *encoder;
	AttrNumber *attnums;		/* of desc->columns, in the slots */
	TupleTableSlot *oldslot;	/* virtual, rows as the relation published as */
	TupleTableSlot *newslot;

	/* When rows have to be converted to the ancestor's columns; else NULL. */
	AttrMap    *map;
	Datum	   *raw_values;
	bool	   *raw_isnull;

	EState	   *estate;			/* NULL: no row filters */
	ExprState  *filters[ROW_ACTIONS];	/* NULL: all rows */
} PublishedRelation;

/*
 * Start and end of a decoding session for a stream, whose row stays; the cache lives in a
 * child of parent.
 */
extern void publication_start(MemoryContext parent, const StreamRow *stream);
extern void publication_stop(void);

/*
 * Look up a table that changed, as the stream's publications were at that
 * time.  The result is good until the next call.  May leave garbage in the
 * current memory context.
 */
extern PublishedRelation *publication_lookup(Relation relation);

/* Between transactions: tables that come and go leave nothing behind. */
extern void publication_forget_invalid(void);

/* The stream's publications, List of Publication; good until the next call. */
extern List *publication_list(void);

/* More than that are all. */
#define MAX_TOUCHED		256

/* What may have changed; oids and hashes may be there more than once. */
typedef struct Touched
{
	bool		all;
	int			count;
	Oid			relids[MAX_TOUCHED];
	int			nschemas;
	uint32		schema_hashes[MAX_TOUCHED];
} Touched;

/* What was touched since this was last asked; false: nothing. */
extern bool publication_touched(Touched *touched);

/* Schemas are known by that. */
extern uint32 publication_schema_hash(Oid schema);

/* Is any change of the table, or of the partitions of a partitioned one, published? */
extern bool publication_publishes(Relation relation);

/*
 * What these publications publish updated or deleted rows of the table as: itself or an
 * ancestor; InvalidOid: they don't publish such changes.  Works in any process.
 */
extern Oid	publication_changed_as(Relation relation, List *names);

/* ---------- publication_filter.c ---------- */

/* The columns of the table in any of the publications' lists; NULL: all. */
extern Bitmapset *published_columns(List *publications, Oid relid);

/* The filter of all the publications for that action; NULL: all rows. */
extern Expr *published_filter(List *publications, Oid relid, RowAction action);

/* ---------- published_tables.c ---------- */

/* Start of a decoding session; memory comes from parent. */
extern void published_tables_start(MemoryContext parent);

/* Start of a transaction. */
extern void published_tables_begin(void);

/* A change of that relation, or a statement about it, does not go into the stream. */
extern void published_tables_note_change(Relation rel);

/*
 * At the end of a transaction that is decoded: did it change which tables the publications
 * publish, or make them leave and join again?  Then the lists to be said, List of StringInfo;
 * NIL: none.
 */
extern List *published_tables_take(void);

/* A table with those that it is a part of and those that are parts of it, as oids. */
extern List *published_family(Oid relid);

#endif							/* FANOUT_PUBLICATION_H */
