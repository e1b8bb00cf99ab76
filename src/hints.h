/*
 * hints.h
 *		Directories that tell the launcher which databases need a worker.
 *
 * pg_fanout/<database oid>/stream-<id>		a stream decoded here; holds its change log
 *											and registry
 * pg_fanout/<database oid>/followed-<id>	a stream followed here; empty
 *
 * A hint is made and synced before the transaction that needs it commits, and is a
 * superset of the truth: a worker started for one that its database's tables
 * know nothing of removes it.  One that somebody else has removed, with or without the rest
 * of the directory, is made again: by the launcher while the server runs, and after a start
 * when discovery.c finds the row that it was for.
 *
 * Slot, log, registry, origin and record go by the id, and outlive the stream until a worker
 * has removed them.  So ids are random: numbers that are counted begin again with
 * the extension, and a stream made right after that would take over those of an old one.
 */
#ifndef FANOUT_HINTS_H
#define FANOUT_HINTS_H

#include "pg_fanout.h"

#include "nodes/pg_list.h"

typedef enum HintKind
{
	HINT_STREAM,				/* a decoder is needed */
	HINT_FOLLOWED				/* a follower worker is needed */
} HintKind;

typedef struct Hint
{
	HintKind	kind;
	Oid			dboid;
	int32		id;
} Hint;

#define HINT_ROOT	"pg_fanout"

/* Path of the hint's directory, relative to the data directory; path has MAXPGPATH bytes. */
extern void hint_path(char *path, HintKind kind, Oid dboid, int32 id);

/* The id of a new stream of this database. */
extern int32 hint_new_id(HintKind kind);

/* Make the directory and sync it and its parents; one that exists is fine. */
extern void hint_create(HintKind kind, Oid dboid, int32 id);

/* Remove the directory with all in it; one that is not there is fine. */
extern void hint_remove(HintKind kind, Oid dboid, int32 id);

/* Remove all of a database's hints (the database is gone). */
extern void hint_remove_database(Oid dboid);

extern bool hint_exists(const Hint *hint);

/* All hints, a List of palloc'd Hint. */
extern List *hint_list(void);

#endif							/* FANOUT_HINTS_H */
