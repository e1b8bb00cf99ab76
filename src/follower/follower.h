/*
 * follower.h
 *		What the files of the follower's side share.
 *
 * One background worker per followed stream (worker.c) does in turn: schema and
 * initial copy (copy.c), then receive (receiver.c) and apply (apply.c).  It
 * writes its progress to shared memory (positions.c), where views and waits
 * read it.
 */
#ifndef FANOUT_FOLLOWER_H
#define FANOUT_FOLLOWER_H

#include "pg_fanout.h"

#include "libpq-fe.h"
#include "nodes/pg_list.h"
#include "replication/origin.h"

#include "compat.h"
#include "log/change.h"
#include "log/log.h"
#include "shmem.h"

/* ---------- follow.c: fanout.followed_stream's rows ---------- */

/* followed_stream.copy_state */
#define COPY_SCHEMA			"schema"	/* nothing done yet */
#define COPY_TABLES			"tables"	/* tables have joined the publications */
#define COPY_DATA			"data"		/* schema is there, tables are copied */
#define COPY_INDEXES		"indexes"	/* all tables copied; post-data is to come */
#define COPY_DONE			"done"		/* streaming, perhaps behind */

typedef struct FollowedRow
{
	int32		id;
	NameData	stream;
	NameData	follower;
	char	   *conninfo;		/* with the password */
	pg_uuid_t	instance;
	bool		copy_schema;
	bool		copy_data;
	bool		make_roles;		/* those that are missing, with NOLOGIN */
	bool		paused;
	Oid			owner;
	char	   *copy_state;
	XLogRecPtr	start_lsn;		/* where streaming begins after a copy; Invalid before */
	bool		all_tables;		/* the stream names no publications */
	List	   *joining;		/* oids on the leader: joined them, and is not here yet */
	XLogRecPtr	copy_lsn;		/* tables copied beside the stream need it from here; Invalid: none */
	XLogRecPtr	skip_lsn;		/* the transaction that committed there is to be passed; Invalid: none */
	bool		schema_done;	/* indexes and constraints are there, too */
	uint64		leader_system;	/* which leader tokens must be from */
	Oid			leader_database;
	char	   *schema_snapshot;	/* schema changes that it sees came with the schema; NULL: none */
	XLogRecPtr	schema_until;	/* ... and none that committed from here on */
	char	   *era;			/* of the leader, when the newest of our data was there; as text */
	XLogRecPtr	copied_until;	/* nothing that was copied committed from here on */
} FollowedRow;

/* NULL when there is none; needs a transaction; result in the current context. */
extern FollowedRow *followed_row_by_id(int32 id);
extern FollowedRow *followed_row_by_name(const char *stream);

/* Same as by_name, but fails with ERRCODE_UNDEFINED_OBJECT. */
extern FollowedRow *followed_row_require(const char *stream);

/*
 * Run a statement on rows of a followed stream, whose id is $1; returns the number of rows.
 * Needs a transaction with an active snapshot.
 */
extern uint64 followed_execute(const char *query, int32 followed_id);

/* Where the leader is from now on, and who it is; needs a transaction. */
struct CheckedLeader;
extern void followed_row_set_leader(int32 id, const char *conninfo,
									const struct CheckedLeader *leader);

/* Note the leader's era, before anything of it is copied or applied; needs a transaction. */
extern void followed_row_set_era(int32 id, const char *era);

/* Name of the replication origin: fanout_<database oid>_<id>. */
extern void followed_origin_name(char *name, Oid dboid, int32 id);

/* ---------- followed_table.c: fanout.followed_table's rows ---------- */

/*
 * One row per replicated table.  Until applied_lsn passes filter_until, a
 * transaction is applied to the table only if its xid was not visible in
 * filter_snapshot (txid/pg_snapshot text "xmin:xmax:xip,...").  Schema changes of
 * a table that joined the stream are left out likewise, by schema_snapshot.
 */
typedef struct FollowedTable
{
	Oid			relid;			/* local table */
	char	   *nspname;		/* on the leader */
	char	   *relname;
	Oid			leader_relid;	/* InvalidOid: not known */
	char		state;			/* TABLE_... */
	char	   *filter_snapshot;	/* NULL: apply everything */
	XLogRecPtr	filter_until;
	char	   *schema_snapshot;	/* NULL: it came with the stream's schema */
	XLogRecPtr	schema_until;
	int32		copy_number;	/* of the copy that is wanted; an older one does not count */
	int32		failures;		/* of that copy in a row */
} FollowedTable;

#define TABLE_PENDING	'p'		/* to be copied */
#define TABLE_BEHIND	'b'		/* copied beside the stream; changes that came meanwhile are missing */
#define TABLE_AHEAD		'a'		/* ... are there; the copy has more, up to filter_until */
#define TABLE_COPIED	'c'		/* copied, or never needed a copy */
#define TABLE_MISSING	'm'		/* not here any more, and not by the stream's doing */

/* All tables of a followed stream, List of FollowedTable in the current context. */
extern List *followed_tables(int32 followed_id);
extern List *followed_tables_of(int32 followed_id, List *relids);	/* these, in no order */

/* Insert or replace a row, without a filter of a copy; needs a transaction with an active snapshot. */
extern void followed_table_put(int32 followed_id, const FollowedTable *table);

/* Tell all sessions that the set of replicated tables changed (at commit). */
extern void followed_tables_changed(void);

/* ---------- leader_conn.c: libpq connections that heed interrupts ---------- */

/* How soon every connection to a leader notices that the leader is gone. */
#define KEEPALIVES_IDLE		"10"	/* s */
#define KEEPALIVES_INTERVAL	"5" /* s */
#define KEEPALIVES_COUNT	"3"
#define TCP_USER_TIMEOUT_MS	"30000"

/* How long to wait for a server that is the only one, unless the connection string says. */
#define CONNECT_TIMEOUT		"10"	/* s */

/*
 * Connect to a leader.  Adds application_name, the time-outs that must be off,
 * keepalives; client_encoding is the database's.  Of several servers it takes the
 * first that will do.  Waits on the latch; fails with ERRCODE_CONNECTION_FAILURE
 * and the leader's own words, never the password.
 */
extern PGconn *leader_connect(const char *conninfo, const char *appname);

/*
 * Where a connection leads, as a piece of a connection string without anything secret; "" when the
 * string that it was made with names no server.  And another connection to just there.
 */
extern const char *leader_address(PGconn *conn);
extern PGconn *leader_connect_to(const char *conninfo, const char *address, const char *appname);

/* Of the leader that this process connected to last; see PQserverVersion(). */
extern int	leader_version(void);

/* Run a query, wait interruptibly; fails with the leader's message, DETAIL, HINT and SQLSTATE. */
extern PGresult *leader_query(PGconn *conn, const char *query, int nparams,
							  const char *const *params);
/* The same in two steps: something else can be done meanwhile. */
extern void leader_query_start(PGconn *conn, const char *query, int nparams,
							   const char *const *params);
extern PGresult *leader_query_finish(PGconn *conn);
/* Wait for its last result, whatever that is. */
extern PGresult *leader_query_wait(PGconn *conn);
/* From now on, queries of the connection fail when they have no result after that time in all. */
extern void leader_set_timeout(PGconn *conn, int timeout_ms);
/* Same, for a single value; palloc'd, NULL for NULL or no row. */
extern char *leader_query_value(PGconn *conn, const char *query, int nparams,
								const char *const *params);
/* Same, for a position; fails when there is none. */
extern XLogRecPtr leader_query_lsn(PGconn *conn, const char *query, int nparams,
								   const char *const *params);
/* Fail with what res says, in the words of the leader; res is cleared. */
pg_noreturn extern void leader_raise(PGconn *conn, PGresult *res);
extern void leader_disconnect(PGconn *conn);

/* Wait for the socket, at most timeout_ms (-1: for ever), interruptibly; was it ready? */
extern bool leader_wait_for_socket(PGconn *conn, int events, long timeout_ms);
pg_noreturn extern void leader_connection_lost(PGconn *conn);

/* leader_hosts.c: the connection string without its password and other secrets, palloc'd. */
extern char *conninfo_without_password(const char *conninfo);

/* The era that the leader is in (leader/era.c there), as text. */
extern char *leader_era(PGconn *conn, const char *stream);

/* ---------- leader_check.c ---------- */

typedef struct CheckedLeader
{
	PGconn	   *conn;
	char	   *system;			/* its system identifier, in text form */
	Oid			database;
	char	   *followers;		/* names that the stream has: a name[], in text form */
} CheckedLeader;

/* Fail with ERRCODE_SYNTAX_ERROR unless libpq understands it. */
extern void leader_check_conninfo(const char *conninfo);

/*
 * Connect, and fail unless this database can follow the stream there; waits until the
 * stream is decoded.  The connection is the caller's to end; the rest is palloc'd.
 */
extern void leader_check(CheckedLeader *leader, const char *conninfo, const char *stream);

/* Fail with ERRCODE_DUPLICATE_OBJECT when the stream there has a follower of that name. */
extern void leader_check_name(const CheckedLeader *leader, const char *follower,
							  const char *stream);

/* leader_locale.c: a WARNING if strings may sort in another order there. */
extern void leader_warn_of_locale(PGconn *conn);

/* Fail with ERRCODE_INSUFFICIENT_PRIVILEGE when policies hide rows of the stream's tables. */
extern void leader_check_all_rows_visible(PGconn *conn, const char *stream);

/*
 * In PG_CATCH(): fail with the error in flight, but keep the statement, with its
 * password, out of the log.
 */
pg_noreturn extern void rethrow_without_statement(MemoryContext context);

/* ---------- make_way.c ---------- */

/*
 * Whoever changes rows of the stream's tables and may change the stream's own in the same
 * transaction, or several of the former, locks the latter first: there is no deadlock, then.
 */
extern void followed_row_lock(int32 id);

/* For sessions: against all other changes, without waiting for the worker, which is ended. */
extern void followed_row_take(int32 id);

/* End the worker; another one waits until it is allowed, at the end of the transaction. */
extern void worker_stop(FollowedStream *stream);
extern void worker_allow(FollowedStream *stream);
extern void worker_wait_until_allowed(FollowedStream *stream);

/* ---------- worker.c ---------- */

/* Settings of every process that writes to replicated tables. */
extern void follower_session_init(void);

/* ---------- receiver.c ---------- */

/*
 * Receive from the leader and apply until something ends it: an error (thrown), a
 * pause or unfollow request (returns).  Called outside a transaction with the
 * origin session set up.
 */
extern void receive_and_apply(FollowedStream *stream, const FollowedRow *row);

/* ---------- apply.c ---------- */

/*
 * The applier takes frames in order and keeps its own local transactions:
 * several transactions of the leader may go into one local one.  No call
 * is made inside a transaction of the caller's.
 */
extern void apply_start(FollowedStream *stream, const FollowedRow *row);

/* Apply one frame. */
extern void apply_frame(const Frame *frame);

/*
 * Commit what was applied, if any (only whole transactions: with a leader
 * transaction half way through, it does nothing).  Called when no more input
 * is at hand or the group is large.  Updates applied_lsn and friends in
 * shared memory.
 */
extern void apply_commit_group(void);

/*
 * In PG_CATCH(): the local transaction, if there is one, is to be undone.  Its transactions of the
 * leader are committed one by one when they come again.
 */
extern void apply_failed(void);

/* Is it time for apply_commit_group() although there is more input? */
extern bool apply_group_is_full(void);
extern bool apply_in_transaction(void); /* a leader transaction is half applied */
extern bool apply_in_change(void);	/* ... and one of its changes */

/*
 * The table that was being changed, if the error is of what differs between servers: a value names an
 * object of the leader's catalogs that is not here or gone there, or belongs to another partition here, as
 * the hash of an enum may or what another collation orders.  Else InvalidOid.
 */
extern Oid	apply_table_at_fault(const ErrorData *error);

/* What was applied can't be committed yet. */
extern bool apply_must_go_on(void);

/* End LSN and number of the last transaction applied and committed here. */
extern XLogRecPtr apply_last_lsn(void);
extern uint64 apply_last_seq(void);

/* Local xid whose end covers everything applied so far. */
extern uint64 apply_last_local_xid(void);

/*
 * Local WAL flush covers everything up to this LSN of the leader, and no table that was
 * copied beside the stream needs what is before it.
 */
extern XLogRecPtr apply_durable_lsn(void);

/* Up to here, nothing that the stream has is needed again. */
extern XLogRecPtr apply_start_lsn(void);

/* Everything up to lsn was handed to apply_frame(). */
extern void apply_received(XLogRecPtr lsn);

/* ---------- copy.c ---------- */

/*
 * Do whatever is left of the initial copy, from row->copy_state on, in
 * transactions of its own; on return copy_state is "done" and the origin
 * stands at start_lsn.  Can be called again after any failure or crash.
 */
extern void initial_copy(FollowedStream *stream, FollowedRow *row);

/*
 * Schedule a copy: of one table (relid), beside the stream, or of all (InvalidOid).  The
 * worker begins it when it looks at its row next.
 */
extern void schedule_copy(int32 followed_id, Oid relid);
extern void schedule_copy_of_all(int32 followed_id);

/* The same of all tables that a crash may have emptied. */
extern void schedule_copies_of_unlogged(int32 followed_id);

/* Statements put off until the data is consistent (foreign keys); no-op when none is left. */
extern void finish_schema(const FollowedRow *row);

/* ---------- copy_beside.c ---------- */

/*
 * Have pending tables copied beside the stream.  The worker calls it before it streams,
 * with the origin set up; false: they have to be copied before.
 */
extern bool copy_beside(FollowedStream *stream, FollowedRow *row);

/* Has the process that does that ended although tables are pending, for long enough to try again? */
extern bool copier_is_due(FollowedStream *stream);

/* End the process that does that; it is gone when copier_end() returns. */
extern void copier_signal(FollowedStream *stream);
extern void copier_end(FollowedStream *stream);

/*
 * The stream fails on something that copying pending tables first may mend: those whose copy
 * has not failed yet.
 */
extern void copy_before_streaming(int32 followed_id);

/* An initial copy fails on something that schema changes of the stream may mend. */
extern void stream_before_copying(int32 followed_id);

/* ---------- blocked.c ---------- */

/* Does that process wait for a lock that this one has, or for one that waits for it? */
extern bool waits_for_us(pid_t pid);

/* Does the stream's worker, or its copier: to wait for it would never end.  Fail if so. */
extern bool is_in_the_way(FollowedStream *stream, bool of_copier);
extern void check_not_in_the_way(FollowedStream *stream, bool of_copier);

/* ---------- table_current.c ---------- */

/* Does the snapshot show the table in line with the stream? */
struct SnapshotData;
extern bool table_is_current(FollowedStream *stream, Oid relid, struct SnapshotData *snapshot);

/* The same of all its tables. */
extern bool tables_are_current(FollowedStream *stream, struct SnapshotData *snapshot);

/* Are all tables in line with the stream now, and is none to be copied again? */
extern bool all_tables_current(FollowedStream *stream);

/*
 * What the stream's worker last said of that in shared memory: all tables were in line
 * after local transaction xid; 0: not all are.
 */
extern void tables_settled(FollowedStream *stream, uint64 xid);
extern bool tables_are_settled(FollowedStream *stream);

/*
 * Tables that were behind have what the others have, and may have more; returns whether
 * no copy needs the leader's log any more.  Then: the stream has passed all that.
 */
extern bool tables_replayed(int32 followed_id, List *relids);
extern void tables_in_line(int32 followed_id);

/*
 * Tables that are gone are missing from now on; returns how many.  Needs a transaction with an
 * active snapshot.
 */
extern uint64 tables_note_missing(int32 followed_id);

/* ---------- dropped_tables.c ---------- */

/* A table is dropped, by a session that the guard does not look at. */
extern void dropped_table_note(Oid relid);

/* The command that may have done so is over. */
extern void dropped_tables_finish(void);

/* ---------- sequence.c ---------- */

extern void sequence_set(const SequenceValue *sequence);

/* ---------- positions.c ---------- */

/* Setters for the worker; each broadcasts "changed". */
extern void positions_received(FollowedStream *stream, XLogRecPtr received, XLogRecPtr leader_lsn,
							   uint64 leader_seq);
extern void positions_leader_end(FollowedStream *stream, XLogRecPtr lsn);
/* The process of the leader that sends from now on, 0: none; what the last one said is old. */
extern void positions_sender(FollowedStream *stream, pid_t sender_pid);
/* A snapshot that sees local transaction xid finished shows all up to applied. */
extern void positions_applied(FollowedStream *stream, XLogRecPtr applied, uint64 xid, uint64 seq,
							  uint64 transactions);
extern void positions_durable(FollowedStream *stream, XLogRecPtr durable);
extern void positions_state(FollowedStream *stream, FollowState state);
extern void positions_as_of(FollowedStream *stream, int64 boot_us, uint64 xid, XLogRecPtr lsn);
/* The leader's history is another one: this is where it is known to be. */
extern void positions_rewind(FollowedStream *stream, XLogRecPtr lsn);
extern void positions_reset(FollowedStream *stream, FollowState state);

/* A consistent copy of an entry's numbers for a view. */
typedef struct PositionsCopy
{
	FollowState state;
	XLogRecPtr	received_lsn,
				applied_lsn,
				durable_lsn,
				leader_lsn;
	bool		leader_heard;	/* leader_lsn and leader_seq are of the connection that stands */
	uint64		leader_seq,
				applied_seq,
				applied_transactions;
	TimestampTz last_applied_at;
} PositionsCopy;
extern void positions_read(FollowedStream *stream, PositionsCopy *copy);

/* WAL of the leader that is not applied; false: unknown, since the leader is not heard. */
extern bool positions_lag(const PositionsCopy *positions, uint64 *bytes);

/*
 * Age in microseconds of the snapshot (NULL: of what a new snapshot would see):
 * an upper bound of its staleness.  False: unknown.
 */
struct SnapshotData;
extern bool positions_staleness(FollowedStream *stream, struct SnapshotData *snapshot,
								int64 *staleness);

/* Does it show for sure what the leader had acknowledged by boot_us (fanout_boottime_us())? */
extern bool positions_proven_since(FollowedStream *stream, struct SnapshotData *snapshot,
								   int64 boot_us);

/* Where positions_show() found a position; all zero at first. */
typedef struct PositionFound
{
	bool		known;
	uint64		generation;		/* of the stream's record */
	uint64		xid;			/* whoever sees it finished sees all up to that position */
} PositionFound;

/* Does it show for sure all that had committed on the leader up to lsn?  Asked again, it is cheap. */
extern bool positions_show(FollowedStream *stream, struct SnapshotData *snapshot, XLogRecPtr lsn,
						   PositionFound *found);

/* Does the snapshot (NULL: a new one) see that local transaction as finished? */
extern bool snapshot_sees_finished(struct SnapshotData *snapshot, uint64 full_xid);

extern const char *follow_state_name(FollowState state);

/* ---------- control.c ---------- */

extern void control_init(void);

/* Tables of the stream are missing as soon as this is committed: its worker has to know. */
extern void control_tables_missing(int32 followed_id);

/* ---------- guard.c ---------- */

extern void guard_init(void);

/* The applier and the copy workers may write to replicated tables. */
extern void guard_allow_this_process(void);

/*
 * In such a process: the next utility statement is the stream's, not somebody's code; or
 * none is any more.
 */
extern void guard_announce(bool statement);

/* restricted_types.c: no code of a role leaves types in this process's temporary schema. */
extern void restricted_types_init(void);

/* Which stream of this database (fanout.followed_stream.id) replicates into it?  0: none. */
extern int32 guard_followed_id(Oid relid);

/* ---------- read_bound.c ---------- */

extern void read_bound_init(void);

#endif							/* FANOUT_FOLLOWER_H */
