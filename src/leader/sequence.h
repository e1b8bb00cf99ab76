/*
 * sequence.h
 *		Values of sequences between the decoder, which sees their WAL, and the
 *		output plugin, which knows what they are called.
 */
#ifndef FANOUT_SEQUENCE_H
#define FANOUT_SEQUENCE_H

#include "access/xlogreader.h"

#include "leader/leader.h"
#include "log/change.h"

/*
 * Begin with the values of all sequences of the database.  Before the slot is
 * acquired; needs to be outside of a transaction.
 */
extern void sequences_start(void);

/* A record was read; to be called for each, before it is decoded. */
extern void sequences_note(XLogReaderState *record);

/*
 * Values (List of SequenceValue, in the current memory context) that the stream has
 * not been given yet.  Called with the snapshot of a transaction that is decoded;
 * xmin is that snapshot's, lsn where its commit record ends.
 */
extern List *sequences_take(const StreamRow *stream, TransactionId xmin, XLogRecPtr lsn);

#endif							/* FANOUT_SEQUENCE_H */
