/*
 * plugin.h
 *		What the files of the output plugin share: its callbacks and rows (output_plugin.c),
 *		TRUNCATE (decode_truncate.c), schema changes (decode_ddl.c) and rows that can't be
 *		sent (uncarried.c).
 */
#ifndef FANOUT_PLUGIN_H
#define FANOUT_PLUGIN_H

#include "replication/reorderbuffer.h"

#include "leader/leader.h"
#include "leader/publication.h"

typedef struct Plugin
{
	MemoryContext change_context;
	MemoryContext transaction_context;	/* reset when one begins; has the lists */
	List	   *set_aside;		/* oids: nothing more of them in this transaction */
	bool		begun;			/* the current transaction is in the log */
	List	   *running;		/* scripts of extensions and event triggers, see decode_ddl.c */
} Plugin;

/* ---------- output_plugin.c ---------- */

/* Begin the transaction in the log if that was not done. */
extern void plugin_begin_in_log(Plugin *plugin, DecoderState *state, ReorderBufferTXN *txn);

/* In a transaction that is begun: describe what the relation is published as, if the log needs it. */
extern void plugin_describe_in_log(DecoderState *state, PublishedRelation *rel);

/* Write a change that is not of rows. */
extern void plugin_write_body(Plugin *plugin, DecoderState *state, ReorderBufferTXN *txn,
							  ChangeOp op, const StringInfoData *body);

/* A change of that relation does not go into the stream. */
extern void plugin_leave_out(const DecoderState *state, Relation relation);

/* ---------- uncarried.c ---------- */

/*
 * Call a function that may fail for a reason that is not the process's own; returns the error,
 * in the current memory context, or NULL.
 */
extern ErrorData *plugin_try(void (*function) (void *), void *arg);

/* Say in the log that a row of the relation can't be sent. */
extern void plugin_set_aside(Plugin *plugin, DecoderState *state, ReorderBufferTXN *txn,
							 PublishedRelation *rel, const ErrorData *error);

/* ---------- decode_ddl.c ---------- */

extern void decode_schema_change(Plugin *plugin, DecoderState *state, ReorderBufferTXN *txn,
								 Relation relation, ReorderBufferChange *change);

/* Does the table get its rows from a follower's own script? */
extern bool decode_ddl_skips(const Plugin *plugin, Oid relid);

/* ---------- decode_truncate.c ---------- */

extern void decode_truncate(Plugin *plugin, DecoderState *state, ReorderBufferTXN *txn,
							int nrelations, Relation *relations, ReorderBufferChange *change);

#endif							/* FANOUT_PLUGIN_H */
