/*
 * shmem.h
 *		The shared memory of pg_fanout: who works on what, and how far it is.
 *
 * There are three fixed arrays:
 *
 *	LeaderStream	one per stream that is decoded on this server.  Written by its
 *					decoder; senders and views read it.
 *	Registration	one per follower registered with a stream of this server.
 *					Written by src/leader/registry.c and the follower's sender.
 *					Files are its durable form, see registry.c.
 *	FollowedStream	one per stream that a database of this server follows.
 *					Written by the follower's worker; views and waits read it.
 *
 * Entries are claimed and given up under FanoutShmem->lock (exclusive), looked
 * up under it (shared).  The fields of an entry are protected by its own
 * spinlock "mutex", but for those of an atomic type.  An entry found under the
 * lock may be reused once the lock is released: a holder of a bare pointer is
 * either the worker that owns it or checks (dboid, id) under the spinlock.
 */
#ifndef FANOUT_SHMEM_H
#define FANOUT_SHMEM_H

#include "pg_fanout.h"

#include "lib/dshash.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "storage/lwlock.h"
#include "storage/spin.h"
#include "utils/uuid.h"

#include "log/log.h"

/* What launcher, views and errors need to know of any worker of ours. */
typedef struct WorkerInfo
{
	pid_t		pid;			/* 0: not running */
	int			procno;			/* index into ProcGlobal->allProcs, -1: none */
	int			failures;		/* failed starts in a row, for the back-off */
	int			pause_ms;		/* after this failure at least so long */
	TimestampTz stopped_at;		/* when it last ended */
	TimestampTz last_error_at;	/* 0: never */
	char		last_error[FANOUT_ERROR_LEN];
} WorkerInfo;

typedef enum LeaderStreamState
{
	STREAM_STARTING,			/* no slot yet, or the decoder is on its way */
	STREAM_STREAMING,			/* decoding */
	STREAM_FAILED				/* stopped on an error, will be retried */
} LeaderStreamState;

/* How much of the change log is kept when it is opened. */
typedef enum LogTrust
{
	LOG_TRUSTED,				/* all; only its end can be damaged */
	LOG_VERIFY,					/* a sender found damage: what lies behind it */
	LOG_DISCARD,				/* the disk is full: nothing, decode again */
	LOG_NEW_SLOT				/* nor can the WAL be decoded: go on with what comes now */
} LogTrust;

/* Instances that drop_follower() forgot, which are told so: so many are remembered. */
#define MAX_DROPPED	64

/* A life of the server and the WAL that it wrote, see leader/era.c. */
typedef struct Era
{
	pg_uuid_t	name;
	XLogRecPtr	start_lsn;
} Era;

#define MAX_ERAS	64

typedef struct LeaderStream
{
	bool		in_use;
	Oid			dboid;
	int32		id;				/* fanout.stream.id */
	VirtualTransactionId maker; /* the transaction that claimed the record, if it was one */
	slock_t		mutex;
	NameData	name;
	WorkerInfo	worker;			/* the decoder */
	LeaderStreamState state;

	/*
	 * What senders may read: the log up to "end" (only whole transactions),
	 * which holds everything that committed up to decoded_lsn.  The decoder
	 * stores end first and decoded_lsn after it, both under the mutex.
	 */
	LogEnd		end;
	XLogRecPtr	decoded_lsn;
	XLogRecPtr	log_start_lsn;	/* a follower may start from here or later */
	XLogRecPtr	synced_lsn;		/* transactions up to here are on disk */
	uint64		log_bytes;
	uint64		transactions;	/* decoded since the decoder's start */
	uint64		changes;

	/* Protected by registry_lock; the history is the one that followers' positions are of. */
	bool		registry_loaded;
	uint64		registry_system;
	uint32		registry_timeline;	/* 0: none yet */
	bool		era_begun;		/* the last one is that of this life of the server */
	int			era_count;
	Era			eras[MAX_ERAS]; /* in order */
	int			dropped_count;
	pg_uuid_t	dropped[MAX_DROPPED];	/* in order */

	pg_atomic_uint32 log_trust;	/* a LogTrust, for the decoder that opens the log next */

	/* Of decoders, one after the other: how many failed with the slot confirmed up to there. */
	XLogRecPtr	failed_lsn;
	int			failures;

	/* WAL that somebody wants flushed so that it gets decoded; the decoder does. */
	pg_atomic_uint64 flush_request;

	/* End of the newest commit that did not wait for its flush. */
	pg_atomic_uint64 async_commit_lsn;

	/* Broadcast by a sender whenever its follower's applied_lsn moves. */
	ConditionVariable follower_applied;

	/*
	 * Not 0 while the decoder waits for WAL and wants its latch set: 1 at any
	 * commit, 2 only at one that is flushed (for the others it looks often).
	 */
	pg_atomic_uint32 decoder_asleep;
} LeaderStream;

typedef enum RegistrationState
{
	FOLLOWER_COPYING,			/* registered, initial copy under way */
	FOLLOWER_STREAMING,
	FOLLOWER_AWAY,				/* not connected */
	FOLLOWER_LOST				/* its position is no longer in the log */
} RegistrationState;

typedef struct Registration
{
	bool		in_use;
	Oid			dboid;
	int32		stream_id;
	slock_t		mutex;
	NameData	name;
	pg_uuid_t	instance;		/* only the follower and its copies know it */
	Oid			role;			/* the login that registered it or connected last */
	RegistrationState state;
	pid_t		sender_pid;		/* 0: not connected */
	int			sender_procno;
	pg_atomic_uint32 sender_asleep; /* 1: the sender wants its latch set when the log grows */
	pg_atomic_uint32 sender_challenged; /* 1: another connection wants the sender's place */
	char		client_addr[64];
	XLogRecPtr	sent_lsn;
	XLogRecPtr	applied_lsn;
	XLogRecPtr	durable_lsn;	/* needs the log from here on */
	XLogRecPtr	saved_lsn;		/* durable_lsn in the registry file: the log is kept from here on */
	uint64		applied_seq;	/* LogTxn.seq of the last applied transaction */
	int64		proven_at;		/* fanout_boottime_us() of the newest question that was proven; 0: unknown */
	TimestampTz connected_at;
	TimestampTz last_seen_at;
} Registration;

typedef enum FollowState
{
	FOLLOW_STARTING,			/* worker not connected yet */
	FOLLOW_COPYING,				/* schema and initial copy */
	FOLLOW_CATCHING_UP,			/* applying what came while it copied */
	FOLLOW_STREAMING,
	FOLLOW_PAUSED,
	FOLLOW_FAILED,				/* stopped on an error, will be retried */
	FOLLOW_LOST					/* position gone on the leader, copies again */
} FollowState;

/*
 * One proof of freshness: every transaction acknowledged on the leader before
 * boot_us is visible to a snapshot that sees xid (and all before it) finished.
 */
typedef struct AsOf
{
	int64		boot_us;		/* fanout_boottime_us() when the question was sent */
	uint64		xid;			/* last local transaction it needs */
	XLogRecPtr	lsn;			/* such a snapshot shows all that committed up to there */
} AsOf;

/*
 * The newest proofs, and of older ones one a second: a transaction may read
 * with its snapshot for an hour and still know how stale it is.
 */
#define AS_OF_FINE		64
#define AS_OF_COARSE	3600
#define AS_OF_COARSE_US	INT64CONST(1000000)

typedef struct FollowedStream
{
	bool		in_use;
	Oid			dboid;
	int32		id;				/* fanout.followed_stream.id */
	VirtualTransactionId maker; /* the transaction that claimed the record, if it was one */
	slock_t		mutex;
	NameData	stream;
	NameData	follower;
	char		leader[512];	/* connection string without password */
	uint64		leader_system;	/* which leader tokens must be from; 0: not known yet */
	Oid			leader_dboid;
	WorkerInfo	worker;
	pid_t		sender_pid;		/* the leader's process that sends to the worker or will; 0: none */
	pid_t		former_sender_pid;	/* the last one that did; 0: none in this server's life */
	FollowState state;
	bool		forgotten;		/* the leader does not know this follower, it says */

	/* See follower/make_way.c. */
	pid_t		row_holder;		/* the worker that locks the stream's row; 0: it does not */
	pid_t		stopped_by;		/* the session that keeps workers from their work; 0: none */

	XLogRecPtr	received_lsn;
	XLogRecPtr	applied_lsn;
	uint64		applied_xid;	/* a snapshot that sees it finished shows all up to applied_lsn */
	XLogRecPtr	durable_lsn;
	bool		leader_heard;	/* leader_lsn and leader_seq came by the connection that stands now */
	XLogRecPtr	leader_lsn;		/* end of the leader's WAL, as last heard */
	uint64		leader_seq;		/* last transaction in the leader's log; 0: not heard yet */
	uint64		applied_seq;	/* last one applied here; 0: not known */
	uint64		applied_transactions;	/* since the server's start */
	TimestampTz last_applied_at;

	/* Raised when tables are emptied: what was said of snapshots taken before holds no more. */
	uint64		generation;

	/* Rings: fine[(fine_next - 1) % AS_OF_FINE] is the newest proof of all. */
	uint64		fine_next;
	uint64		coarse_next;
	AsOf		fine[AS_OF_FINE];
	AsOf		coarse[AS_OF_COARSE];

	/* What the last error took back: see apply_failed(). */
	XLogRecPtr	alone_until;	/* up to here, transactions are committed one by one */
	XLogRecPtr	failed_after;	/* what had been applied by then */
	XLogRecPtr	failing_lsn;	/* commit of the transaction that failed; Invalid: not known */

	/* Somebody has the follower stand still: see follower/hold.c. */
	pid_t		hold_pid;		/* 0: nobody */
	XLogRecPtr	hold_lsn;		/* nothing that ends later is applied; Invalid: nothing at all */
	bool		held;			/* the worker stands there */

	/* The process that copies tables beside the stream: see follower/copy_beside.c. */
	pid_t		copier_pid;		/* 0: none */
	pid_t		copier_owner;	/* the worker that started it */
	bool		copier_wanted;	/* ... and found more to copy since */

	/*
	 * A snapshot that sees this local transaction finished finds all tables in line with
	 * the stream; 0: some are not.  See follower/table_current.c.
	 */
	pg_atomic_uint64 settled_xid;

	/* Broadcast whenever applied_lsn, as_of, state, settled_xid or the hold changes. */
	ConditionVariable changed;
	/* A reader that needs a fresher proof sets it and the worker's latch. */
	pg_atomic_uint32 ask_now;
	/* 1: the worker must look at its row again (pause, resume, resync). */
	pg_atomic_uint32 reread;
} FollowedStream;

typedef struct FanoutShmem
{
	LWLock	   *lock;			/* claims and look-ups of entries */
	LWLock	   *registry_lock;	/* writing a registry file */
	LWLock	   *activity_lock;	/* making and finding the hash table of table_activity.c */
	dsa_handle	activity_area;	/* DSM_HANDLE_INVALID: not made yet */
	dshash_table_handle activity_table;
	slock_t		mutex;
	XLogRecPtr	shutdown_lsn;	/* the checkpoint before this start; Invalid unless shut down */
	int			launcher_procno;	/* -1: not running */

	/*
	 * Number of leader streams and of followed streams of the whole server:
	 * hooks read it first, so that an idle extension costs one read.
	 */
	pg_atomic_uint32 leader_streams;
	pg_atomic_uint32 followed_streams;

	/* 1: every database was looked into, and no stream is without a record for want of a hint. */
	pg_atomic_uint32 discovered;
	pg_atomic_uint32 looked_into;	/* oid of the database that discovery has read last */

	/* Raised whenever the set of replicated tables of any follower changes. */
	pg_atomic_uint64 guard_generation;
} FanoutShmem;

extern FanoutShmem *Fanout;	/* NULL without the preload */
extern LeaderStream *LeaderStreams;		/* [fanout_max_streams] */
extern Registration *Registrations;		/* [fanout_max_followers] */
extern FollowedStream *FollowedStreams; /* [fanout_max_streams] */

/* Called from _PG_init: reserve and set up the memory. */
extern void fanout_shmem_init(void);

/*
 * Find or claim an entry.  find returns NULL when there is none; claim returns
 * the existing entry when there is one, and NULL when all are taken by others.
 */
extern LeaderStream *leader_stream_find(Oid dboid, int32 id);
extern bool leader_of_any_stream(Oid dboid);
extern LeaderStream *leader_stream_claim(Oid dboid, int32 id);
extern void leader_stream_release(LeaderStream *stream);

/*
 * The streams that have records now: a List of palloc'd Hint.  One that is being made has no hint
 * yet, and is not among them.
 */
struct List;
extern struct List *streams_with_records(void);
extern FollowedStream *followed_stream_find(Oid dboid, int32 id);

/*
 * May any database of this server follow a stream?  On a standby nobody claims records, and
 * after a start those of streams without a hint come late (discovery.c): the tables know.
 */
extern bool follows_anything(void);
extern FollowedStream *followed_stream_claim(Oid dboid, int32 id);
extern void followed_stream_release(FollowedStream *stream);

/*
 * Take a record for a stream of this database that is being made; the caller wakes the launcher
 * at the end of the transaction, however it ends.  Fail with
 * ERRCODE_CONFIGURATION_LIMIT_EXCEEDED when all stay taken.
 */
extern void leader_stream_reserve(int32 id);
extern void followed_stream_reserve(int32 id);

/* Set the latch of the process with that procno; -1 is ignored. */
extern void fanout_wake(int procno);

/* Record an error, or a worker's start and end, under the entry's mutex. */
extern void worker_info_error(slock_t *mutex, WorkerInfo *info, const char *message);
extern void worker_info_started(slock_t *mutex, WorkerInfo *info);
extern void worker_info_stopped(slock_t *mutex, WorkerInfo *info);

#endif							/* FANOUT_SHMEM_H */
