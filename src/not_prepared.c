/*
 * not_prepared.c
 *		Transactions that can't be prepared, since not all that they do is in tables.
 *
 * What our functions do outside of tables at a commit (waking the launcher, ending a
 * decoder or worker, telling a leader that its follower is gone) the session remembers that
 * called them.  COMMIT PREPARED may come from any other session, or after a crash: nobody would do it.
 * So PREPARE TRANSACTION is refused, as the server does for NOTIFY and temporary tables.
 *
 * A call in a subtransaction that was rolled back does not count.
 */
#include "postgres.h"

#include "access/xact.h"

#include "pg_fanout.h"

/* The subtransaction that it holds since; InvalidSubTransactionId: it can be prepared. */
static SubTransactionId not_prepared_since = InvalidSubTransactionId;

static void
not_prepared_xact_callback(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_PRE_PREPARE && not_prepared_since != InvalidSubTransactionId)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot PREPARE a transaction that makes, changes or drops a stream of pg_fanout")));
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT)
		not_prepared_since = InvalidSubTransactionId;
}

static void
not_prepared_subxact_callback(SubXactEvent event, SubTransactionId subid,
							  SubTransactionId parent, void *arg)
{
	if (subid != not_prepared_since)
		return;
	if (event == SUBXACT_EVENT_ABORT_SUB)
		not_prepared_since = InvalidSubTransactionId;
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
		not_prepared_since = parent;
}

void
fanout_not_prepared(void)
{
	static bool registered = false;

	if (!registered)
	{
		RegisterXactCallback(not_prepared_xact_callback, NULL);
		RegisterSubXactCallback(not_prepared_subxact_callback, NULL);
	}
	registered = true;
	if (not_prepared_since == InvalidSubTransactionId)
		not_prepared_since = GetCurrentSubTransactionId();
}
