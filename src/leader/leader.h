/*
 * leader.h
 *		What the files of the leader's side share.
 */
#ifndef FANOUT_LEADER_H
#define FANOUT_LEADER_H

#include "pg_fanout.h"

#include "nodes/pg_list.h"

#include "log/log.h"
#include "shmem.h"

/* ---------- stream_row.c: the rows of fanout.stream ---------- */

typedef struct StreamRow
{
	int32		id;
	NameData	name;
	List	   *publications;	/* of char *, names */
	Oid			owner;
	List	   *granted;		/* of Oid: roles that may follow it */
	bool		own_publication;	/* the only publication was made for the stream */
	bool		ddl;			/* schema changes are in the stream */
	bool		identity;		/* its tables get a replica identity, see identity.h */
} StreamRow;

/*
 * Read a stream's row, by id or by name, with the transaction's snapshot; NULL
 * when there is none.  Rows that came with a copy of another database count as
 * absent.  Needs a transaction; result in the current memory context.
 */
extern StreamRow *stream_row_by_id(int32 id);
extern StreamRow *stream_row_by_name(const char *name);
extern List *stream_rows(void);	/* all of this database */

/* The row's record in shared memory; NULL: there is none yet. */
extern LeaderStream *stream_record(const StreamRow *row);

/* By name, or fail with ERRCODE_UNDEFINED_OBJECT. */
extern StreamRow *stream_row_require(const char *name);

/* Has the user the rights of the stream's owner?  Superusers have. */
extern bool stream_is_owner(const StreamRow *row);

/* Fail unless the user may alter the stream: its owner and superusers. */
extern void stream_check_owner(const StreamRow *row);

/* May the user see how the stream does: its owner and members of pg_monitor? */
extern bool stream_is_visible(const StreamRow *row);

/* A reader of the stream's log, whose end was published. */
extern LogReader *stream_log_reader(const LeaderStream *stream);

/* Name of the stream's logical slot: fanout_<database oid>_<id>; slot has NAMEDATALEN bytes. */
extern void stream_slot_name(char *slot, Oid dboid, int32 id);

/* ---------- stream.c ---------- */

/* End the stream's decoder, so that the launcher starts another one; does not fail. */
extern void stream_restart_decoder(int32 id);

/* The registered followers' names for a message; NULL: there are none. */
extern char *stream_follower_names(const StreamRow *row);

/* ---------- drop_extension.c ---------- */

extern void drop_extension_init(void);

/* ---------- own_publication.c: that of a stream of every table ---------- */

extern void own_publication_init(void);

/* Make it, for a superuser; returns its name. */
extern char *own_publication_create(const char *stream);

/* The stream's row is gone by now. */
extern void own_publication_drop(const char *publication);

/* ---------- stream_grant.c ---------- */

/* By name, or fail unless the user may follow it. */
extern StreamRow *stream_row_require_grant(const char *name);

/* May the user still follow it, if it is there? */
extern bool stream_may_follow(const char *name);

/* Fail unless the user may follow some stream of this database. */
extern void stream_require_any_grant(void);

/* ---------- registry.c: followers known to this leader ---------- */

/*
 * Registrations live in shared memory and, so that a restart keeps the log for
 * them, in the file "registry" in the stream's directory.
 */

/* Read the file into shared memory; the decoder does, before it trims anything. */
extern void registry_load(LeaderStream *stream);

/*
 * Register a follower, as the current user, that needs the log from lsn on.  The same
 * name with the same instance takes over its entry, and so does another instance of
 * the same role, or of the stream's owner, if the entry's is lost or copying, and not
 * connected; else a name that is in use fails with ERRCODE_DUPLICATE_OBJECT.
 */
extern Registration *registry_add(LeaderStream *stream, const char *name,
								  const pg_uuid_t *instance, XLogRecPtr lsn);
extern Registration *registry_find(LeaderStream *stream, const char *name);

/* Forget a follower, if it is registered; dropped: and tell it so when it comes again. */
extern void registry_remove(LeaderStream *stream, const char *name, bool dropped);


/* Write the file, if a position changed enough since it was written; force: always. */
extern void registry_save(LeaderStream *stream, bool force);

/* Oldest LSN any follower that is not lost needs; InvalidXLogRecPtr: no followers. */
extern XLogRecPtr registry_needed_lsn(LeaderStream *stream);

/* Mark as lost all that need something before start_lsn; returns how many it marked. */
extern int	registry_mark_lost(LeaderStream *stream, XLogRecPtr start_lsn);

/* The decoder writes this history of WAL now; begins the era if that was not done. */
extern void registry_set_history(LeaderStream *stream, uint64 system_identifier,
								 uint32 timeline);

/* Set the latch of every sender of the stream that sleeps; returns how many senders there are. */
extern int	registry_wake_senders(LeaderStream *stream);

extern int	registry_count(LeaderStream *stream);

/* Copies of the stream's entries (List of palloc'd Registration), in order of name. */
extern List *registry_list(LeaderStream *stream);

/* ---------- dropped.c ---------- */

/* Remember that instance as dropped on purpose, or not any more: under registry_lock, exclusive. */
extern void dropped_note(LeaderStream *stream, const pg_uuid_t *instance);
extern void dropped_forget(LeaderStream *stream, const pg_uuid_t *instance);
extern bool dropped_has(LeaderStream *stream, const pg_uuid_t *instance);

/* ---------- era.c ---------- */

extern bool era_begin(LeaderStream *stream);

/* The name of the era that is now; false: the decoder has not begun it yet. */
extern bool era_current(LeaderStream *stream, pg_uuid_t *name);

/* Is a position, reached in the era of that name, one of this history? */
extern bool era_has(LeaderStream *stream, const pg_uuid_t *name, XLogRecPtr lsn);

/* ---------- copy_point.c ---------- */

/*
 * Register a follower at a position P, and return P when everything that
 * committed before it is visible to every snapshot taken from now on.  Waits
 * for transactions that are past their commit record; can be cancelled.
 */
extern XLogRecPtr copy_point_register(LeaderStream *stream, const char *follower,
									  const pg_uuid_t *instance, const pg_uuid_t *era,
									  XLogRecPtr reached);

/*
 * Wait until the commit log knows every commit whose record has been written by
 * now; and the pause of such waits.
 */
extern void wait_for_critical_sections(void);

/* After that: until snapshots see all these commits. */
extern void wait_for_commits_to_show(void);
extern void pause_cancellably(void);

/* ---------- follower_calls.c ---------- */

/* Fail with ERRCODE_FEATURE_NOT_SUPPORTED unless the follower speaks our version. */
extern void check_wire_version(int wire_version);

/* The stream's record, or an error that says why it can't be followed now. */
extern LeaderStream *require_streaming(const char *name);

/* ---------- leader_views.c ---------- */

extern const char *leader_stream_state_name(LeaderStreamState state);

/* ---------- commit_hook.c ---------- */

extern void commit_hook_init(void);

/* Have the stream's decoder flush WAL and decode up to lsn, and publish that at once. */
extern void commit_hook_request(LeaderStream *stream, XLogRecPtr lsn);

/* ---------- ddl_capture.c ---------- */

extern void ddl_capture_init(void);

/* ---------- identity_watch.c ---------- */

extern void identity_watch_init(void);

/* ---------- output_plugin.c ---------- */

/*
 * What the decoder hands the output plugin, in ctx->output_writer_private; the
 * plugin refuses to run without it (decoding_in_progress() is false elsewhere).
 */
typedef struct DecoderState
{
	LeaderStream *stream;
	StreamRow  *row;
	LogWriter  *writer;
	uint64		transactions;	/* written since the start */
	uint64		changes;
	Oid			stream_table;	/* fanout.stream */
	Oid			schema_change_table;	/* fanout.schema_change */
	bool		extension_gone; /* set by the plugin: stream_table was dropped */
} DecoderState;

extern bool decoding_in_progress(void);	/* decoder.c: this process is a decoder */

/* ---------- slot.c ---------- */

/*
 * Acquire the stream's slot, made first when it is not there; returns true when
 * it was made.  Also drops slots of this database whose stream is gone.
 */
extern bool slot_acquire_or_create(LeaderStream *stream);
extern void slot_drop_orphans(void);
extern void slot_drop(Oid dboid, int32 id);

/* decoder.c: stock page reader that waits on the latch and does the decoder's chores. */
struct XLogReaderState;
extern int	decoder_read_page(struct XLogReaderState *state, XLogRecPtr page, int reqlen,
							  XLogRecPtr target, char *buf);

#endif							/* FANOUT_LEADER_H */
