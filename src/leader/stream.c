/*
 * stream.c
 *		Streams as users make and drop them: create_stream() and drop_stream().
 *
 * A row of fanout.stream (stream_row.c) is the truth about a stream; its slot,
 * change log and shared-memory record follow it.  create_stream() inserts the
 * row and makes the hint directory that has the launcher start a decoder, which
 * makes the rest: a slot made inside a user's transaction would leak when that
 * rolls back.  Likewise drop_stream() only deletes the row and, once that is
 * committed, ends the decoder; its successor finds no row and removes what is
 * left.
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_publication.h"
#include "catalog/pg_type.h"
#include "commands/publicationcmds.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "arrays.h"
#include "compat.h"
#include "hints.h"
#include "launcher.h"
#include "leader/identity.h"
#include "leader/leader.h"
#include "own_tables.h"

PG_FUNCTION_INFO_V1(fanout_create_stream);
PG_FUNCTION_INFO_V1(fanout_drop_stream);

/* ---------- create_stream ---------- */

static void
check_can_lead(void)
{
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("cannot create a stream during recovery")));
	if (wal_level < WAL_LEVEL_LOGICAL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("creating a stream requires \"wal_level\" to be \"logical\""),
				 errhint("Set \"wal_level\" to \"logical\" in postgresql.conf and restart the server.")));
}

static void
check_new_name(const char *name)
{
	if (name[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("stream name must not be empty")));
	if (stream_row_by_name(name) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("stream \"%s\" already exists", name)));
}

/*
 * Whoever streams a table hands its rows to others, so he must own it.  That of a
 * publication is not enough: it can be given away.
 */
static void
check_published_tables(Oid oid, const char *name)
{
	ListCell   *lc;

	if (superuser())
		return;
	if (GetPublication(oid)->alltables || GetPublicationSchemas(oid) != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser to stream publication \"%s\"", name),
				 errdetail("It is of all tables, or of all tables in a schema.")));
	foreach(lc, GetPublicationRelations(oid, PUBLICATION_PART_ROOT))
	{
		if (!fanout_owns_relation(lfirst_oid(lc), GetUserId()))
			aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, get_rel_name(lfirst_oid(lc)));
	}
}

static void
check_publication(const char *name)
{
	Oid			oid = get_publication_oid(name, true);

	if (!OidIsValid(oid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("publication \"%s\" does not exist", name)));
	if (!fanout_owns_publication(oid, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_PUBLICATION, name);
	check_published_tables(oid, name);
}

/* The publications a user named, each once; the user must own them all. */
static List *
checked_publications(ArrayType *array)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, name_array_list(array))
	{
		char	   *name = lfirst(lc);

		check_publication(name);
		result = list_append_unique(result, makeString(name));
	}
	if (result == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("at least one publication is needed"),
				 errhint("Omit the publications to stream every table.")));

	foreach(lc, result)
		lfirst(lc) = strVal(lfirst(lc));
	return result;
}

static void
insert_row(const StreamRow *row)
{
	Oid			types[] = {INT4OID, NAMEOID, OIDOID, NAMEARRAYOID, BOOLOID, OIDOID, BOOLOID, BOOLOID};
	Datum		values[] = {
		Int32GetDatum(row->id),
		NameGetDatum(&row->name),
		ObjectIdGetDatum(MyDatabaseId),
		name_array_datum(row->publications),
		BoolGetDatum(row->own_publication),
		ObjectIdGetDatum(row->owner),
		BoolGetDatum(row->ddl),
		BoolGetDatum(row->identity)
	};
	OwnTables	state;

	own_tables_begin(&state);
	if (SPI_execute_with_args("INSERT INTO fanout.stream"
							  " (id, name, dboid, publications, own_publication, owner, ddl, identity)"
							  " VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
							  lengthof(types), types, values, NULL, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not insert into fanout.stream");
	own_tables_end(&state);
}

/* UPDATE and DELETE of these tables are refused by the server from now on. */
static void
see_to_identities(const StreamRow *row)
{
	ListCell   *lc;

	if (!row->identity)
	{
		identity_warn(row);
		return;
	}
	foreach(lc, identity_lacking(row))
		(void) identity_give(lfirst_oid(lc), list_make1((void *) row), true);
}

static void
check_arguments(FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("stream name must not be null")));
	if (PG_ARGISNULL(2) || PG_ARGISNULL(3))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", PG_ARGISNULL(2) ? "ddl" : "identity")));
}

/*
 * create_stream(stream name, publications name[], ddl boolean, identity boolean)
 */
Datum
fanout_create_stream(PG_FUNCTION_ARGS)
{
	StreamRow	row = {0};

	fanout_require_preload();
	check_arguments(fcinfo);
	row.id = hint_new_id(HINT_STREAM);
	row.name = *PG_GETARG_NAME(0);
	row.own_publication = PG_ARGISNULL(1);
	row.owner = GetUserId();
	row.ddl = PG_GETARG_BOOL(2);
	row.identity = PG_GETARG_BOOL(3);
	check_can_lead();
	check_new_name(NameStr(row.name));
	launcher_wake_at_end();
	/* Before the lock: the worker that gives a record back waits for those who have that. */
	leader_stream_reserve(row.id);
	own_table_lock_for_insert("stream");

	if (row.own_publication)
		row.publications = list_make1(own_publication_create(NameStr(row.name)));
	else
		row.publications = checked_publications(PG_GETARG_ARRAYTYPE_P(1));

	/* The hint must be on disk when the row commits, see hints.h. */
	insert_row(&row);
	hint_create(HINT_STREAM, MyDatabaseId, row.id);
	see_to_identities(&row);
	PG_RETURN_VOID();
}

/* ---------- drop_stream ---------- */

/* Streams dropped in this transaction; in TopTransactionContext. */
static List *dropped_streams = NIL;

void
stream_restart_decoder(int32 id)
{
	LeaderStream *stream = leader_stream_find(MyDatabaseId, id);
	pid_t		pid;

	if (stream == NULL)
		return;
	SpinLockAcquire(&stream->mutex);
	pid = stream->worker.pid;
	stream->worker.failures = 0;
	SpinLockRelease(&stream->mutex);
	if (pid != 0)
		(void) kill(pid, SIGTERM);
}

/*
 * A drop in a subtransaction that rolled back is on the list as well: that
 * decoder is restarted for nothing.
 */
static void
drop_xact_callback(XactEvent event, void *arg)
{
	ListCell   *lc;

	if (event == XACT_EVENT_COMMIT)
	{
		foreach(lc, dropped_streams)
			stream_restart_decoder(lfirst_int(lc));
	}
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		dropped_streams = NIL;
}

static void
end_decoder_at_commit(int32 id)
{
	static bool registered = false;
	MemoryContext oldcontext;

	if (!registered)
	{
		RegisterXactCallback(drop_xact_callback, NULL);
		registered = true;
	}
	oldcontext = MemoryContextSwitchTo(TopTransactionContext);
	dropped_streams = lappend_int(dropped_streams, id);
	MemoryContextSwitchTo(oldcontext);
	launcher_wake_at_end();
}

char *
stream_follower_names(const StreamRow *row)
{
	LeaderStream *stream = stream_record(row);
	StringInfoData names;
	ListCell   *lc;

	initStringInfo(&names);
	foreach(lc, stream != NULL ? registry_list(stream) : NIL)
		appendStringInfo(&names, "%s\"%s\"", names.len > 0 ? ", " : "",
						 NameStr(((Registration *) lfirst(lc))->name));
	return names.len > 0 ? names.data : NULL;
}

static void
check_no_followers(const StreamRow *row)
{
	char	   *names = stream_follower_names(row);

	if (names != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("stream \"%s\" has followers", NameStr(row->name)),
				 errdetail("Registered followers: %s.", names),
				 errhint("Drop them first, or force it.")));
}

static void
delete_row(int32 id)
{
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(id)};
	OwnTables	state;

	own_tables_begin(&state);
	if (SPI_execute_with_args("DELETE FROM fanout.stream WHERE id = $1",
							  lengthof(types), types, values, NULL, false, 0) != SPI_OK_DELETE)
		elog(ERROR, "could not delete from fanout.stream");
	own_tables_end(&state);
}

/*
 * drop_stream(stream name, force boolean)
 */
Datum
fanout_drop_stream(PG_FUNCTION_ARGS)
{
	bool		force = PG_GETARG_BOOL(1);
	StreamRow  *row;

	fanout_require_preload();
	row = stream_row_require(NameStr(*PG_GETARG_NAME(0)));
	stream_check_owner(row);
	if (!force)
		check_no_followers(row);

	delete_row(row->id);
	if (row->own_publication)
		own_publication_drop(linitial(row->publications));
	end_decoder_at_commit(row->id);
	PG_RETURN_VOID();
}
