/*
 * statement.h
 *		A schema change as the change log carries it: a statement's text and what
 *		gives the text its meaning.
 */
#ifndef FANOUT_STATEMENT_H
#define FANOUT_STATEMENT_H

#include "pg_fanout.h"

#include "lib/stringinfo.h"
#include "nodes/pg_list.h"

/*
 * The statement is an ALTER TABLE that computes values which may come out
 * otherwise elsewhere: the table has to be copied again after it.
 */
#define STATEMENT_VALUES_DIFFER	0x01

/* Says what the statement of that number made, and has no text. */
#define STATEMENT_MADE			0x02

/* The relation that it names is not in the stream, but some that inherit from it are. */
#define STATEMENT_OF_PARTS		0x04

typedef struct SchemaStatement
{
	uint8		flags;			/* STATEMENT_... */
	uint32		number;			/* tells it from others of the transaction */
	char	   *role;			/* who ran it */
	char	   *session_role;	/* SESSION_USER then */
	TimestampTz transaction_at; /* now() then, */
	TimestampTz statement_at;	/* and statement_timestamp() */
	List	   *settings;		/* of char *: name, value, name, value... */
	List	   *relids;			/* of a stream that names publications: the tables it is about */
	List	   *made;			/* of char *: what STATEMENT_MADE is about; see made.h */
	char	   *text;
} SchemaStatement;

extern void statement_encode(StringInfo buf, const SchemaStatement *statement);

/* Decode into the current memory context; fails with ERRCODE_DATA_CORRUPTED. */
extern SchemaStatement *statement_decode(const char *data, Size len);

#endif							/* FANOUT_STATEMENT_H */
