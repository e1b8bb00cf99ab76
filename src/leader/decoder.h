/*
 * decoder.h
 *		What the parts of a decoder process share: the loop (decoder.c), waiting
 *		for WAL (wal_reader.c), handing over to senders (publish.c), upkeep of
 *		log and slot (retention.c) and a new slot's first snapshot (early_commits.c).
 */
#ifndef FANOUT_DECODER_H
#define FANOUT_DECODER_H

#include "replication/logical.h"

#include "leader/leader.h"

/*
 * Positions, in the order in which they follow each other:
 *
 *	confirmed (in the slot) <= synced_lsn <= end.lsn <= decoded_lsn
 */
typedef struct Decoder
{
	DecoderState state;			/* what the output plugin sees; writer is NULL before the log is open */
	LogEnd		end;			/* of what was handed to the kernel */
	XLogRecPtr	decoded_lsn;	/* every record up to here was processed */

	/* publish.c; all times are those of fanout_boottime_us() */
	XLogRecPtr	published_lsn;	/* decoded_lsn as last stored in shared memory */
	int64		published_at;
	uint64		published_transactions;
	double		commit_rate;	/* per second */
	int64		rate_since;
	uint64		rate_transactions;	/* written before that */
	int64		publication_cost;	/* microseconds of credit */
	int64		credit_us;
	int64		credited_at;

	/* retention.c */
	XLogRecPtr	synced_lsn;
	XLogRecPtr	start_lsn;		/* of the log */
	uint64		kept_bytes;		/* size of the log after the last upkeep */
	int64		upkeep_at;		/* when the next one is due */
	int64		marked_at;
	bool		warned_of_space;
	LogTrust	trust;			/* with which the log was opened, until the slot moved on */
} Decoder;

/* This process's decoder; NULL in all other processes. */
extern Decoder *MyDecoder;

/*
 * Hand what was decoded to the kernel, tell senders and views how far that is, and
 * wake the senders, if there is anything new.  To be called between records only.
 */
extern void decoder_publish(Decoder *decoder);

/* The same if it is time; idle: there is no more WAL to read for now. */
extern void decoder_publish_if_due(Decoder *decoder, bool idle);

/* Milliseconds until there is credit to publish transactions; 0: none waits. */
extern long decoder_publish_wait(const Decoder *decoder);

/* Milliseconds until the position is published if there are none, at most limit. */
extern long decoder_progress_wait(const Decoder *decoder, long limit);

/*
 * Sync the log, confirm the slot, trim the log and save the registry, if it is
 * time (or by force).  To be called between records only.
 */
extern void retention_start(Decoder *decoder);
extern void retention_upkeep(Decoder *decoder, bool force);

/*
 * early_commits.c: before the server decodes the record that its reader is at.  Does nothing
 * once it has a snapshot.
 */
extern void early_commits_note(LogicalDecodingContext *ctx);

#endif							/* FANOUT_DECODER_H */
