/*
 * transaction.h
 *		Beginning a transaction in a process that no client gives statements.
 *
 * What now() answers within a transaction is when the statement that began it came.  A
 * background process has none, and would stay for ever where it was started: each of its
 * transactions says when it begins.
 */
#ifndef FANOUT_TRANSACTION_H
#define FANOUT_TRANSACTION_H

#include "access/xact.h"

static inline void
fanout_start_transaction(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
}

#endif							/* FANOUT_TRANSACTION_H */
