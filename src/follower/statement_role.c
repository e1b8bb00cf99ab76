/*
 * statement_role.c
 *		The role that a schema change runs as.
 *
 * It is the role of that name here as which it ran on the leader.  With
 * "fanout.superuser_schema_changes" off nothing that comes from the leader may have the rights of a
 * superuser, nor reach the operating system, nor make itself able to: the role may not be a
 * superuser, one that can give out roles, one that reads or writes files or runs programs of the
 * server, or a member of any such role.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_authid.h"
#include "utils/acl.h"
#include "utils/fmgroids.h"

#include "follower/apply_internal.h"
#include "log/statement.h"

static bool
gives_power(Form_pg_authid role)
{
	return role->rolsuper || role->rolcreaterole ||
		role->oid == ROLE_PG_EXECUTE_SERVER_PROGRAM ||
		role->oid == ROLE_PG_READ_SERVER_FILES ||
		role->oid == ROLE_PG_WRITE_SERVER_FILES;
}

/* The role, of itself and those that it is a member of, that may do too much; NULL: none. */
static char *
powerful_role_of(Oid member)
{
	Relation	roles = table_open(AuthIdRelationId, AccessShareLock);
	SysScanDesc scan = systable_beginscan(roles, InvalidOid, false, NULL, 0, NULL);
	char	   *found = NULL;
	HeapTuple	tuple;

	while (found == NULL && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_authid role = (Form_pg_authid) GETSTRUCT(tuple);

		if (gives_power(role) && is_member_of_role_nosuper(member, role->oid))
			found = pstrdup(NameStr(role->rolname));
	}
	systable_endscan(scan);
	table_close(roles, AccessShareLock);
	return found;
}

static void
refuse(const SchemaStatement *statement, const char *powerful)
{
	bool		itself = strcmp(powerful, statement->role) == 0;

	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("a schema change as role \"%s\" is refused", statement->role),
			 itself ? errdetail("It is a superuser or has CREATEROLE, and \"fanout.superuser_schema_changes\" is off.") :
			 errdetail("It is a member of \"%s\", and \"fanout.superuser_schema_changes\" is off.", powerful),
			 errhint("If the statement is right, turn the parameter on until it is made.")));
}

Oid
statement_role(const SchemaStatement *statement)
{
	Oid			role = get_role_oid(statement->role, true);
	char	   *powerful;

	if (!OidIsValid(role))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("role \"%s\" does not exist on this follower", statement->role),
				 errdetail("A schema change of the leader was made by that role."),
				 errhint("Create the role here; the stream then goes on by itself.")));
	powerful = fanout_superuser_schema_changes ? NULL : powerful_role_of(role);
	if (powerful != NULL)
		refuse(statement, powerful);
	return role;
}
