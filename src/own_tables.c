/*
 * own_tables.c
 *		Access to the tables of the extension, whoever the caller is.
 *
 * The tables of schema fanout belong to superusers; users come to them through
 * our functions, which have checked by then what the caller may do.  Between
 * own_tables_begin() and own_tables_end() the functions work as the bootstrap
 * superuser, like a SECURITY DEFINER function with a search_path of its own.  The path
 * names pg_temp, last: a session's temporary relations and types would otherwise be found
 * first, and those may be the caller's, with code in them.
 *
 * Nothing here is undone on an error: the abort of the (sub)transaction
 * restores user id, security context and parameters, and ends SPI.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/procarray.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

#include "own_tables.h"
#include "transaction.h"

/*
 * The oid of one of our tables; InvalidOid when the extension is not in this database.  A
 * table of that name which is somebody else's may have any columns, or be a view with code
 * of his: it does not count.
 */
Oid
own_table_oid(const char *name)
{
	Oid			schema = get_namespace_oid(FANOUT_SCHEMA, true);
	Oid			extension = get_extension_oid(FANOUT_LIBRARY, true);
	Oid			relid;

	if (!OidIsValid(schema) || !OidIsValid(extension))
		return InvalidOid;
	relid = get_relname_relid(name, schema);
	if (OidIsValid(relid) && getExtensionOfObject(RelationRelationId, relid) != extension)
		return InvalidOid;
	return relid;
}

/* Is this transaction still running? */
static bool
is_running(VirtualTransactionId vxid)
{
	bool		ended;

	fanout_start_transaction();
	ended = VirtualXactLock(vxid, false);
	CommitTransactionCommand();
	return !ended;
}

/*
 * Wait for all transactions that run in this database now.  Two workers that do so
 * at a time must not wait for each other: neither is in a transaction meanwhile.
 */
static void
wait_for_transactions(void)
{
	int			count;
	VirtualTransactionId *vxids = GetCurrentVirtualXIDs(InvalidTransactionId, false, false, 0,
														&count);

	for (int i = 0; i < count; i++)
	{
		while (is_running(vxids[i]))
		{
			CHECK_FOR_INTERRUPTS();
			(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 100,
							 PG_WAIT_EXTENSION);
			ResetLatch(MyLatch);
		}
	}
	pfree(vxids);
}

/*
 * A hint is there before its row is: a transaction that is still open may have inserted
 * it.  Such a one holds a lock on the table; when the table is not to be seen either, it
 * may be any transaction.
 */
void
own_table_wait_for_writers(const char *name)
{
	MemoryContext oldcontext = CurrentMemoryContext;
	Oid			relid;

	fanout_start_transaction();
	relid = own_table_oid(name);
	if (OidIsValid(relid))
		LockRelationOid(relid, ShareLock);
	CommitTransactionCommand();
	if (!OidIsValid(relid))
		wait_for_transactions();
	MemoryContextSwitchTo(oldcontext);
}

void
own_table_lock_for_insert(const char *name)
{
	LockRelationOid(own_table_oid(name), RowExclusiveLock);
}

/* Connect to SPI with the right to use our own tables. */
void
own_tables_begin(OwnTables *state)
{
	state->context = CurrentMemoryContext;
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");

	GetUserIdAndSecContext(&state->userid, &state->sec_context);
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID,
						   state->sec_context | SECURITY_LOCAL_USERID_CHANGE);

	state->guc_nestlevel = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

/* Back to the caller's rights, parameters and memory context. */
void
own_tables_end(OwnTables *state)
{
	AtEOXact_GUC(true, state->guc_nestlevel);
	SetUserIdAndSecContext(state->userid, state->sec_context);
	if (SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "SPI_finish failed");
	MemoryContextSwitchTo(state->context);
}
