/*
 * stream_grant.c
 *		Who may follow a stream: fanout.grant_stream() and revoke_stream().
 *
 * A follower's login needs two things: membership in the role fanout_follower, which
 * may execute the functions that a follower calls, and a grant of the stream.  The
 * grants are oids of roles in the stream's row; members of such a role have it, too.
 * The stream's owner and superusers need none.
 *
 * Oids of roles that were dropped stay in a row until the next grant or revoke, which
 * leaves them out.
 */
#include "postgres.h"

#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/syscache.h"

#include "leader/leader.h"
#include "own_tables.h"

PG_FUNCTION_INFO_V1(fanout_grant_stream);
PG_FUNCTION_INFO_V1(fanout_revoke_stream);

static bool
may_follow(const StreamRow *row)
{
	ListCell   *lc;

	if (stream_is_owner(row))
		return true;
	foreach(lc, row->granted)
	{
		if (has_privs_of_role(GetUserId(), lfirst_oid(lc)))
			return true;
	}
	return false;
}

bool
stream_may_follow(const char *name)
{
	StreamRow  *row = stream_row_by_name(name);

	return row == NULL || may_follow(row);
}

StreamRow *
stream_row_require_grant(const char *name)
{
	StreamRow  *row = stream_row_require(name);

	if (!may_follow(row))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for stream \"%s\"", name),
				 errhint("Its owner can call fanout.grant_stream('%s', '%s').",
						 name, GetUserNameFromId(GetUserId(), false))));
	return row;
}

void
stream_require_any_grant(void)
{
	ListCell   *lc;

	if (superuser())
		return;
	foreach(lc, stream_rows())
	{
		if (may_follow(lfirst(lc)))
			return;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("no stream of this database is granted to role \"%s\"",
					GetUserNameFromId(GetUserId(), false))));
}

/* ---------- granting ---------- */

static void
write_grants(const StreamRow *row, List *granted)
{
	Oid			types[] = {INT4OID, OIDARRAYOID};
	Datum	   *oids = palloc(sizeof(Datum) * (list_length(granted) + 1));
	Datum		values[2];
	OwnTables	state;
	ListCell   *lc;

	foreach(lc, granted)
		oids[foreach_current_index(lc)] = ObjectIdGetDatum(lfirst_oid(lc));
	values[0] = Int32GetDatum(row->id);
	values[1] = PointerGetDatum(construct_array(oids, list_length(granted), OIDOID,
												sizeof(Oid), true, TYPALIGN_INT));
	own_tables_begin(&state);
	if (SPI_execute_with_args("UPDATE fanout.stream SET granted = $2 WHERE id = $1",
							  lengthof(types), types, values, NULL, false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not write fanout.stream");
	own_tables_end(&state);
}

/* Grant or revoke; of the row's roles those that still exist stay. */
static void
change_grant(FunctionCallInfo fcinfo, bool grant)
{
	StreamRow  *row;
	List	   *granted = NIL;
	ListCell   *lc;
	Oid			role;

	fanout_require_preload();
	row = stream_row_require(NameStr(*PG_GETARG_NAME(0)));
	stream_check_owner(row);
	role = get_role_oid(NameStr(*PG_GETARG_NAME(1)), false);

	foreach(lc, row->granted)
	{
		if (lfirst_oid(lc) != role &&
			SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(lfirst_oid(lc))))
			granted = lappend_oid(granted, lfirst_oid(lc));
	}
	if (grant)
		granted = lappend_oid(granted, role);
	write_grants(row, granted);
}

/* grant_stream(stream name, role name) */
Datum
fanout_grant_stream(PG_FUNCTION_ARGS)
{
	change_grant(fcinfo, true);
	PG_RETURN_VOID();
}

/*
 * revoke_stream(stream name, role name)
 *
 * Senders look now and then, and end.
 */
Datum
fanout_revoke_stream(PG_FUNCTION_ARGS)
{
	change_grant(fcinfo, false);
	PG_RETURN_VOID();
}
