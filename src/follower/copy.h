/*
 * copy.h
 *		What the files of the initial copy share.
 */
#ifndef FANOUT_COPY_H
#define FANOUT_COPY_H

#include "storage/dsm.h"

#include "follower/follower.h"
#include "follower/program.h"

/*
 * How long another connection than the copy's own waits for a lock on the leader.
 * Behind somebody who wants to TRUNCATE what the copy has locked it would wait for
 * ever, and no server sees that deadlock: rather fail and begin again.
 */
#define COPY_LOCK_TIMEOUT	"3s"

/* A table of the stream as the leader describes it. */
typedef struct CopyTable
{
	char	   *nspname;
	char	   *relname;
	Oid			relid;			/* on the leader */
	List	   *columns;		/* of char *; names */
	char	   *row_filter;		/* NULL: all rows */
	int64		rows;			/* on the leader, as it estimates */
	int64		bytes;			/* on the leader; the order of the copy */
	int			position;		/* in that order */
	bool		may_read;		/* on the leader */
} CopyTable;

/* ---------- copy_snapshot.c: the leader's side ---------- */
typedef struct CopySession
{
	PGconn	   *conn;			/* in a REPEATABLE READ transaction */
	char	   *era;			/* that the leader was in before start_lsn was chosen */
	XLogRecPtr	start_lsn;		/* where streaming begins */
	char	   *snapshot;		/* pg_current_snapshot(): the filter */
	char	   *snapshot_id;	/* exported */
	List	   *tables;			/* of CopyTable, the largest first */
	List	   *listed_before;	/* the same before start_lsn, if the copy begins anew */
	bool		all_tables;		/* the stream names no publications */
	bool		ddl;			/* it has schema changes */
} CopySession;

extern CopySession *copy_session_begin(const FollowedRow *row);
extern PGconn *copy_session_join(const FollowedRow *row, const char *address,
								 const char *snapshot_id);
extern List *leader_tables(PGconn *conn, const char *stream);

/* Does the stream name no publications, and does it have schema changes? */
extern void ask_about_stream(PGconn *conn, const FollowedRow *row, bool *all_tables, bool *ddl);

/*
 * Wait until new snapshots of the leader see all that has committed, and all transactions that are
 * writing to these tables (oids there) have ended.
 */
extern void wait_for_writers(PGconn *conn, const FollowedRow *row, List *relids);

/* In ACCESS SHARE mode: nobody can alter, truncate or drop them.  Takes no snapshot. */
extern void lock_leader_tables(PGconn *conn, List *tables);

/* Are the two lists the same, but for their order and sizes? */
extern bool same_tables(List *a, List *b);

/* For list_sort(): by the oid on the leader. */
extern int	compare_copy_tables(const ListCell *a, const ListCell *b);

/* ---------- copy.c ---------- */

/* A transaction with a snapshot; the activity is what the process is said to do. */
extern void begin_step(const char *activity);
extern void end_step(void);

/* ---------- copy_empty.c ---------- */

/* In transactions of its own. */
extern void empty_pending_tables(const FollowedRow *row);

/* ---------- copy_pending.c ---------- */

/* A table that is to be copied. */
typedef struct PendingTable
{
	CopyTable  *leader;
	Oid			relid;			/* here */
	bool		joined;			/* never copied before */
	int			failures;		/* of its copy in a row */
} PendingTable;

/*
 * Those of the leader's list (of CopyTable) that are pending here, List of PendingTable in
 * the order in which they are to be copied; *missing, unless NULL, is one that is not on
 * that list.  Needs a transaction.
 */
extern List *pending_tables(const FollowedRow *row, List *leader_list,
							const FollowedTable **missing);

/* The same as CopyTable. */
extern List *pending_on_leader(List *pending);

/* Is it one of a table, or another object, and not of a connection or a server? */
extern bool error_is_of_object(const ErrorData *error);

/* Note how much there is to copy, for fanout.table_staleness and fanout.copy_progress. */
extern void copy_note_totals(const FollowedRow *row, List *pending);

/* ---------- copy_join.c ---------- */

/* Make the tables of row->joining that are not here, and have them copied.  Needs a transaction. */
extern void join_tables(const FollowedRow *row, const CopySession *session);

/* ---------- copy_schema.c: needs a transaction ---------- */

extern void copy_schema(const FollowedRow *row, const CopySession *session);
extern void run_schema_statement(char *statement);

/* The schema of some tables of the leader, List of CopyTable. */
extern void copy_schema_of(const FollowedRow *row, List *tables, const CopySession *session);

/* ---------- statement_roles.c ---------- */

/* Names of roles that the statement names and that do not exist here. */
extern List *missing_roles(Node *stmt);

/* Make those of them that are still missing, without any rights; needs a transaction. */
extern void make_roles(List *names);

/* ---------- deferred_statement.c ---------- */

/* Put a statement off; needs a transaction. */
extern void defer_statement(const FollowedRow *row, const char *statement, bool needs_consistency);

/*
 * Run those that were put off, in transactions of its own, all or but those that need tables
 * that are consistent.
 */
extern void run_deferred_statements(const FollowedRow *row, bool consistent);

/* For fanout.schema_problems, and a WARNING; needs a transaction. */
#define NOT_VALID	"not valid"
#define LEFT_OUT	"left out"
extern void note_failed_statement(const FollowedRow *row, const char *statement,
								  const char *outcome, const ErrorData *error);

/* ---------- copy_check.c ---------- */

/*
 * If the error is that rows of the leader violate a check constraint which it has: take the
 * constraint away until they are here.  Needs a transaction.
 */
extern void set_check_aside(const FollowedRow *row, const PendingTable *table,
							const ErrorData *error);

/* ---------- schema_dump.c ---------- */

/*
 * Several may run at the same time, with the session's snapshot.  "what" are options that say
 * what to dump, List of char *; the result is plain SQL, palloc'd.
 */
extern Program *schema_dump_start(const FollowedRow *row, List *what, const CopySession *session);
extern char *schema_dump_finish(Program *dump);

/* Fail unless pg_dump is new enough for this leader. */
extern void schema_dump_check(PGconn *conn);

/* ---------- copy_source.c: the rows of a COPY of the leader ---------- */

/* Called every now and then; may end the process. */
typedef void (*CopyCheck) (void);

/* A COPY is to begin on that connection; check may be NULL. */
extern void copy_source_init(PGconn *conn, CopyCheck check);
extern void copy_source_check(void);

/* Take all rows by one of these: the server's copy_data_source_cb, or message by message. */
extern int	copy_source_read(void *outbuf, int minread, int maxread);
extern char *copy_source_message(int *len);	/* for PQfreemem(); NULL: the end */

extern void copy_source_end(void);
extern int64 copy_source_bytes(void);	/* received so far */

/* ---------- copy_table.c ---------- */

/* The server's COPY FROM of what copy_source_read() gives. */
extern struct CopyFromStateData *copy_from_begin(const CopyTable *table, Relation rel, bool binary);

/* ---------- copy_rows.c ---------- */

/* Can the table's rows be stored without COPY FROM?  Do so; returns their number. */
extern bool copy_rows_can(Relation rel);
extern uint64 copy_rows(const CopyTable *table, Relation rel, bool binary);

/* ---------- copy_table.c ---------- */

/* Types of the columns on the leader, in order, as text; and what the table is there. */
extern List *leader_types(PGconn *conn, const CopyTable *table, char *relkind);

/*
 * In a local transaction of its own; conn is in the copy's transaction.  Does nothing when the
 * table is not pending.  Without "check" it has been emptied.  With it, the stream goes on
 * meanwhile: the same transaction empties it, and the table is then behind the stream; check
 * is called every now and then.
 */
extern void copy_table(const FollowedRow *row, PGconn *conn, CopyTable *table, Oid relid,
					   const char *snapshot, CopyCheck check);

/*
 * The same, but false when it fails for a reason of the table's own, which is noted.  Then the
 * connection is of no use any more.
 */
extern bool copy_table_by_itself(const FollowedRow *row, PGconn *conn, const PendingTable *table,
								 const char *snapshot, CopyCheck check);

/* ---------- sequence.c ---------- */
extern void copy_sequences(const FollowedRow *row, PGconn *conn);

/* ---------- copy_worker.c ---------- */

/* Those of the session's tables that are pending; one that can't be copied stays so. */
extern void copy_pending_tables(const FollowedRow *row, CopySession *session);

/* Until no process copies for an earlier worker of the stream. */
extern void copy_wait_for_helpers(int32 followed_id);

#endif							/* FANOUT_COPY_H */
