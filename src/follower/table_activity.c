/*
 * table_activity.c
 *		Changes applied to each table, and when: the part of
 *		fanout.table_staleness that no table holds.
 *
 * A hash table in dynamic shared memory, since nobody knows how many tables there
 * will be.  The first worker that has something to add makes it; it lives until
 * the server stops, and begins anew after a crash.  Workers add once for each
 * local transaction and table; the view reads.
 */
#include "postgres.h"

#include "funcapi.h"
#include "lib/dshash.h"
#include "miscadmin.h"
#include "utils/dsa.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "follower/table_activity.h"
#include "shmem.h"

PG_FUNCTION_INFO_V1(fanout_table_activity);

typedef struct ActivityKey
{
	Oid			dboid;
	int32		followed_id;
	Oid			relid;
} ActivityKey;

typedef struct ActivityEntry
{
	ActivityKey key;			/* must be first */
	uint64		changes;
	TimestampTz last_changed_at;
} ActivityEntry;

static dsa_area *area = NULL;
static dshash_table *activity = NULL;

static dshash_parameters
parameters(void)
{
	return fanout_dshash_parameters(sizeof(ActivityKey), sizeof(ActivityEntry),
									Fanout->lock->tranche);
}

static void
create(void)
{
	dshash_parameters params = parameters();

	area = dsa_create(Fanout->lock->tranche);
	dsa_pin(area);
	dsa_pin_mapping(area);
	activity = dshash_create(area, &params, NULL);
	Fanout->activity_area = dsa_get_handle(area);
	Fanout->activity_table = dshash_get_hash_table_handle(activity);
}

static void
attach(void)
{
	dshash_parameters params = parameters();

	area = dsa_attach(Fanout->activity_area);
	dsa_pin_mapping(area);
	activity = dshash_attach(area, &params, Fanout->activity_table, NULL);
}

/* Be attached; false: there is no table yet and none is to be made. */
static bool
attached(bool may_create)
{
	MemoryContext oldcontext;

	if (activity != NULL)
		return true;
	oldcontext = MemoryContextSwitchTo(TopMemoryContext);
	LWLockAcquire(Fanout->activity_lock, LW_EXCLUSIVE);
	if (Fanout->activity_area != DSM_HANDLE_INVALID)
		attach();
	else if (may_create)
		create();
	LWLockRelease(Fanout->activity_lock);
	MemoryContextSwitchTo(oldcontext);
	return activity != NULL;
}

void
table_activity_add(int32 followed_id, Oid relid, uint64 changes, TimestampTz at)
{
	ActivityKey key = {.dboid = MyDatabaseId, .followed_id = followed_id, .relid = relid};
	ActivityEntry *entry;
	bool		found;

	(void) attached(true);
	entry = dshash_find_or_insert(activity, &key, &found);
	entry->changes = (found ? entry->changes : 0) + changes;
	entry->last_changed_at = at;
	dshash_release_lock(activity, entry);
}

void
table_activity_forget(int32 followed_id)
{
	dshash_seq_status status;
	ActivityEntry *entry;

	if (!attached(false))
		return;
	dshash_seq_init(&status, activity, true);
	while ((entry = dshash_seq_next(&status)) != NULL)
	{
		if (entry->key.dboid == MyDatabaseId && entry->key.followed_id == followed_id)
			dshash_delete_current(&status);
	}
	dshash_seq_term(&status);
}

void
table_activity_forget_table(int32 followed_id, Oid relid)
{
	ActivityKey key = {.dboid = MyDatabaseId, .followed_id = followed_id, .relid = relid};

	if (attached(false))
		(void) dshash_delete_key(activity, &key);
}

#define ACTIVITY_COLUMNS	4

/* table_activity() RETURNS SETOF (followed_id, relid, changes_applied, last_changed_at) */
Datum
fanout_table_activity(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	dshash_seq_status status;
	ActivityEntry *entry;

	fanout_require_preload();
	InitMaterializedSRF(fcinfo, 0);
	if (!attached(false))
		return (Datum) 0;
	dshash_seq_init(&status, activity, false);
	while ((entry = dshash_seq_next(&status)) != NULL)
	{
		Datum		values[ACTIVITY_COLUMNS];
		bool		nulls[ACTIVITY_COLUMNS] = {false};

		if (entry->key.dboid != MyDatabaseId)
			continue;
		values[0] = Int32GetDatum(entry->key.followed_id);
		values[1] = ObjectIdGetDatum(entry->key.relid);
		values[2] = Int64GetDatum(entry->changes);
		values[3] = TimestampTzGetDatum(entry->last_changed_at);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	dshash_seq_term(&status);
	return (Datum) 0;
}
