/*
 * token.h
 *		Tokens: positions that clients carry from a leader to a follower.
 */
#ifndef FANOUT_TOKEN_H
#define FANOUT_TOKEN_H

#include "pg_fanout.h"

/* The database whose commits an LSN counts. */
typedef struct LeaderIdentity
{
	uint64		system_identifier;
	Oid			dboid;
} LeaderIdentity;

typedef struct Token
{
	bool		has_leader;		/* false: it was a bare LSN */
	LeaderIdentity leader;
	XLogRecPtr	lsn;
} Token;

/* Room for a token's text with its terminating zero. */
#define TOKEN_LEN	64

extern LeaderIdentity leader_identity_here(void);

/* Write the text of a position on that leader; buf has TOKEN_LEN bytes. */
extern void token_format(char *buf, const LeaderIdentity *leader, XLogRecPtr lsn);

/* Parse a token or a bare LSN; false when text is neither. */
extern bool token_parse(const char *text, Token *token);

/* Same, but fails with ERRCODE_INVALID_TEXT_REPRESENTATION. */
extern Token token_parse_or_fail(const char *text);

#endif							/* FANOUT_TOKEN_H */
