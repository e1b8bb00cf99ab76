/*
 * slot.c
 *		The one logical slot of a stream: made, acquired and dropped by its decoder.
 *
 * Slots belong to the whole server, so a name carries the database's oid and the
 * stream's id (stream_slot_name()).  A slot is made by the decoder after the
 * stream's row was committed, and never inside a user's transaction; so a slot whose
 * row can't be found by a later snapshot belongs to a stream that is gone.
 *
 * Until a new slot has found a consistent point it is ephemeral: an error or a
 * crash removes it.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlogutils.h"
#include "miscadmin.h"
#include "replication/logical.h"
#include "replication/slot.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "leader/decoder.h"
#include "transaction.h"

static bool
slot_exists(const char *name)
{
	return SearchNamedReplicationSlot(name, true) != NULL;
}

/*
 * Make the slot and find the position from which all can be decoded.  That waits
 * for all transactions that run now.
 */
static void
create_slot(const char *name)
{
	LogicalDecodingContext *ctx;

	fanout_slot_create(name);
	ctx = CreateInitDecodingContext(FANOUT_LIBRARY, NIL, false, InvalidXLogRecPtr,
									XL_ROUTINE(.page_read = decoder_read_page,
											   .segment_open = wal_segment_open,
											   .segment_close = wal_segment_close),
									NULL, NULL, NULL);
	DecodingContextFindStartpoint(ctx);
	FreeDecodingContext(ctx);
	ReplicationSlotPersist();
}

/* Somebody else may have made a slot with our name. */
static void
check_slot(const char *name)
{
	ReplicationSlot *slot = MyReplicationSlot;

	if (slot->data.database != MyDatabaseId ||
		strcmp(NameStr(slot->data.plugin), FANOUT_LIBRARY) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("replication slot \"%s\" was not made by pg_fanout", name),
				 errhint("Drop the slot.")));
}

/*
 * Acquire a slot that exists.  Returns false, and drops it, when the server has
 * removed WAL that it needs: decoding then begins anew with another.
 */
static bool
acquire_slot(const char *name)
{
	fanout_slot_acquire(name);
	check_slot(name);
	if (!fanout_slot_invalidated(MyReplicationSlot))
		return true;

	ereport(LOG,
			(errmsg("replacing replication slot \"%s\", which was invalidated", name),
			 errhint("You might need to increase \"max_slot_wal_keep_size\".")));
	ReplicationSlotRelease();
	ReplicationSlotDrop(name, true);
	return false;
}

bool
slot_acquire_or_create(LeaderStream *stream)
{
	char		name[NAMEDATALEN];

	slot_drop_orphans();

	stream_slot_name(name, stream->dboid, stream->id);
	if (slot_exists(name) && acquire_slot(name))
		return false;
	create_slot(name);
	return true;
}

/* If name is that of an inactive slot of ours, set *id and return true. */
static bool
is_our_idle_slot(ReplicationSlot *slot, int32 *id)
{
	char		name[NAMEDATALEN];
	Oid			dboid;
	bool		idle;

	if (!slot->in_use || slot->data.database != MyDatabaseId ||
		sscanf(NameStr(slot->data.name), "fanout_%u_%d", &dboid, id) != 2 ||
		dboid != MyDatabaseId)
		return false;
	stream_slot_name(name, dboid, *id);

	SpinLockAcquire(&slot->mutex);
	idle = slot->active_pid == 0;
	SpinLockRelease(&slot->mutex);
	return idle && strcmp(name, NameStr(slot->data.name)) == 0;
}

/* The ids of this database's streams that have a slot which nobody uses. */
static int
idle_slots(int32 *ids)
{
	int			count = 0;

	LWLockAcquire(ReplicationSlotControlLock, LW_SHARED);
	for (int i = 0; i < max_replication_slots; i++)
	{
		if (is_our_idle_slot(&ReplicationSlotCtl->replication_slots[i], &ids[count]))
			count++;
	}
	LWLockRelease(ReplicationSlotControlLock);
	return count;
}

void
slot_drop_orphans(void)
{
	MemoryContext oldcontext = CurrentMemoryContext;
	int32	   *ids = palloc(max_replication_slots * sizeof(int32));
	int			count = idle_slots(ids);

	/* The snapshot must be newer than the list: see above. */
	for (int i = 0; i < count; i++)
	{
		bool		orphan;

		fanout_start_transaction();
		PushActiveSnapshot(GetTransactionSnapshot());
		orphan = stream_row_by_id(ids[i]) == NULL;
		PopActiveSnapshot();
		CommitTransactionCommand();
		if (orphan)
			slot_drop(MyDatabaseId, ids[i]);
	}
	MemoryContextSwitchTo(oldcontext);
	pfree(ids);
}

/* Drop a stream's slot; one that is not there is fine. */
void
slot_drop(Oid dboid, int32 id)
{
	char		name[NAMEDATALEN];

	stream_slot_name(name, dboid, id);
	if (!slot_exists(name))
		return;
	ereport(LOG,
			(errmsg("dropping replication slot \"%s\"", name)));
	ReplicationSlotDrop(name, true);
}
