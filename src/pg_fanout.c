/*
 * pg_fanout.c
 *		What happens when the library is loaded: configuration parameters, shared
 *		memory, hooks and the launcher.
 *
 * Everything needs shared memory, so the library does its work only when it is
 * in shared_preload_libraries.  Loaded later (by a call of one of its functions)
 * it does nothing, and each function fails with an error that says what to set.
 */
#include "postgres.h"

#include <time.h>

#include "access/transam.h"
#include "miscadmin.h"
#include "utils/guc.h"

#include "follower/follower.h"
#include "launcher.h"
#include "leader/commit_token.h"
#include "leader/leader.h"
#include "owner_code.h"
#include "pg_fanout.h"
#include "shmem.h"
#include "version.h"

PG_MODULE_MAGIC;

int			fanout_max_streams = 16;
int			fanout_max_followers = 64;
int			fanout_max_retention = 10240;
int			fanout_segment_size = 16;
int			fanout_heartbeat_interval = 100;
int			fanout_retry_interval = 5000;
int			fanout_copy_workers = 2;
char	   *fanout_pg_dump = "";
bool		fanout_guard = true;
bool		fanout_superuser_schema_changes = true;

extern PGDLLEXPORT void _PG_init(void);

/*
 * Writing to a replicated table is for emergencies: one session of a superuser
 * may allow it to itself, but no file, role or database setting can.  Nor can one of a
 * function, which would be for everybody who calls it.
 */
static bool
check_guard(bool *newval, void **extra, GucSource source)
{
	if (*newval || source == PGC_S_INTERACTIVE || source == PGC_S_SESSION)
		return true;
	GUC_check_errdetail("\"fanout.guard\" can be turned off only by SET, for one session.");
	return false;
}

static void
define_server_parameters(void)
{
	DefineCustomIntVariable("fanout.max_streams",
							"Sets how many streams this server can lead, and how many it can follow.",
							"Each takes a record in shared memory.",
							&fanout_max_streams, 16, 1, 1024, PGC_POSTMASTER, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("fanout.max_followers",
							"Sets how many followers can be registered with this server's streams, in all.",
							"Each takes a record in shared memory.",
							&fanout_max_followers, 64, 1, 16384, PGC_POSTMASTER, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("fanout.retry_interval",
							"Sets the longest pause before a worker that failed is started again.",
							"The first pause is 100 ms; it doubles with each failure in a row.",
							&fanout_retry_interval, 5000, 100, 3600000, PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);
}

static void
define_leader_parameters(void)
{
	DefineCustomIntVariable("fanout.max_retention",
							"Sets how much change log is kept for followers, for each stream.",
							"A follower that needs older changes is lost and copies its tables again. -1 means no limit.",
							&fanout_max_retention, 10240, -1, MAX_KILOBYTES, PGC_SIGHUP, GUC_UNIT_MB,
							NULL, NULL, NULL);
	DefineCustomIntVariable("fanout.segment_size",
							"Sets the size at which a new segment of the change log is begun.",
							"A segment ends with a whole transaction, so it may become larger.",
							&fanout_segment_size, 16, 1, 1024, PGC_SIGHUP, GUC_UNIT_MB,
							NULL, NULL, NULL);
}

static void
define_follower_parameters(void)
{
	DefineCustomIntVariable("fanout.heartbeat_interval",
							"Sets how often a follower asks its leader for a proof of freshness.",
							NULL,
							&fanout_heartbeat_interval, 100, 1, 60000, PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomIntVariable("fanout.copy_workers",
							"Sets how many tables an initial copy copies at the same time.",
							"All but one need a background worker each; when none is free, fewer are copied at a time.",
							&fanout_copy_workers, 2, 1, 64, PGC_SIGHUP, 0,
							NULL, NULL, NULL);
	DefineCustomStringVariable("fanout.pg_dump",
							   "Sets the pg_dump program that brings a leader's schema.",
							   "If empty, it is the one next to the server's program. A leader of a newer major version needs one of that version.",
							   &fanout_pg_dump, "", PGC_SIGHUP, GUC_SUPERUSER_ONLY,
							   NULL, NULL, NULL);
	DefineCustomBoolVariable("fanout.superuser_schema_changes",
							 "Makes schema changes that a superuser made on the leader.",
							 "Off, the stream stops at one, with an error that shows it.",
							 &fanout_superuser_schema_changes, true, PGC_SIGHUP, 0,
							 NULL, NULL, NULL);
	DefineCustomBoolVariable("fanout.guard",
							 "Refuses changes of replicated tables by anybody but the stream.",
							 "A superuser may turn it off for one session, to repair a follower.",
							 &fanout_guard, true, PGC_SUSET, 0,
							 check_guard, NULL, NULL);
}

void
_PG_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;

	define_server_parameters();
	define_leader_parameters();
	define_follower_parameters();

	fanout_shmem_init();
	launcher_register();
	commit_hook_init();
	ddl_capture_init();
	identity_watch_init();
	drop_extension_init();
	commit_token_init();
	own_publication_init();
	guard_init();
	control_init();
	read_bound_init();
	database_commands_init();
	version_init();
	owner_code_init();
	MarkGUCPrefixReserved("fanout");
}

void
fanout_require_preload(void)
{
	if (Fanout == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("pg_fanout must be loaded via \"shared_preload_libraries\""),
				 errhint("Add pg_fanout to \"shared_preload_libraries\" and restart the server.")));
}

uint64
fanout_full_xid(TransactionId xid)
{
	FullTransactionId next = ReadNextFullTransactionId();
	uint64		epoch = EpochFromFullTransactionId(next);

	if (!TransactionIdIsNormal(xid))
		return xid;
	/* An xid that seems to lie in the future is of the epoch before. */
	if (xid > XidFromFullTransactionId(next))
		epoch--;
	return (epoch << 32) | xid;
}

int64
fanout_boottime_us(void)
{
	struct timespec now;

	if (clock_gettime(CLOCK_BOOTTIME, &now) != 0)
		elog(ERROR, "could not read the boot-time clock: %m");
	return (int64) now.tv_sec * USECS_PER_SEC + now.tv_nsec / 1000;
}
