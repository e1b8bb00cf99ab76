/*
 * extension_script.h
 *		What of the rows that an extension's script writes is its own?
 */
#ifndef FANOUT_EXTENSION_SCRIPT_H
#define FANOUT_EXTENSION_SCRIPT_H

#include "nodes/pg_list.h"

/* Oids of the extensions that are there before the script of one of that name runs, but for itself. */
extern List *extension_script_others(const char *name);

/* Does the table belong to the extension of the script, or to one that it needed and that was made with it? */
extern bool extension_script_owns(Oid relid, List *others);

#endif							/* FANOUT_EXTENSION_SCRIPT_H */
