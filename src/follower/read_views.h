/*
 * read_views.h
 *		Materialized views over replicated tables.
 */
#ifndef FANOUT_READ_VIEWS_H
#define FANOUT_READ_VIEWS_H

#include "pg_fanout.h"

#include "nodes/pg_list.h"

/* The replicated tables that it is computed from, List of oids. */
extern List *view_tables(Oid relid);

/* Did the stream compute its rows last? */
extern bool view_is_of_stream(Oid relid);

/* A utility statement is done, by this stream's process or by somebody else. */
extern void view_note_statement(Node *stmt, bool of_stream);

/* Its tables are copied anew: what was computed from their old rows is as old as these. */
extern void views_forget_all(void);

#endif							/* FANOUT_READ_VIEWS_H */
