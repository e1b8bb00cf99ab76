/*
 * verify.h
 *		What the files of fanout.verify() share.
 */
#ifndef FANOUT_VERIFY_H
#define FANOUT_VERIFY_H

#include "follower/copy.h"

/* Keys listed of a table that is not equal, at most. */
#define VERIFY_MAX_KEYS		100

/* A table of the stream on both sides. */
typedef struct VerifyTable
{
	CopyTable  *leader;
	Oid			relid;			/* here */
	char		state;			/* TABLE_... */
} VerifyTable;

typedef struct VerifyResult
{
	int64		rows_on_leader;
	int64		rows_here;
	bool		equal;
	List	   *keys;			/* of char *, JSON objects */
} VerifyResult;

/*
 * Compare one table: conn is in a transaction on the leader and this process has an
 * active snapshot, both of the same position.
 */
extern void verify_compare(PGconn *conn, const VerifyTable *table, VerifyResult *result);

#endif							/* FANOUT_VERIFY_H */
