/*
 * commit_token.h
 *		Tokens of this session's own commits.
 */
#ifndef FANOUT_COMMIT_TOKEN_H
#define FANOUT_COMMIT_TOKEN_H

#include "pg_fanout.h"

/* Called from _PG_init: defines fanout.commit_token. */
extern void commit_token_init(void);

/* End LSN of this session's last commit that wrote something; Invalid: none yet. */
extern XLogRecPtr commit_token_lsn(void);

/* A commit that the transaction callbacks do not see (COMMIT PREPARED) ended here. */
extern void commit_token_note(XLogRecPtr lsn);

#endif							/* FANOUT_COMMIT_TOKEN_H */
