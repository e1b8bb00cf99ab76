/*
 * statement_roles.c
 *		The roles that a leader's schema statement names.
 *
 * A statement can name a role by who is connected.  CURRENT_USER and CURRENT_ROLE are the role
 * that the statement runs as, here too; but the session is the leader's, not ours, whose user is
 * a superuser.
 *
 * Roles belong to the whole server, and a stream does not carry them.  One that is missing is
 * made if follow() was told so: it can't log in, is in no other role and has no attribute,
 * whatever it may do on the leader.  Names that the server keeps for itself are never made.
 */
#include "postgres.h"

#include "catalog/catalog.h"
#include "executor/spi.h"
#include "nodes/parsenodes.h"
#include "utils/acl.h"
#include "utils/builtins.h"

#include "follower/apply_internal.h"
#include "follower/copy.h"
#include "own_tables.h"

/* ---------- which they are ---------- */

static List *
with_role(List *roles, RoleSpec *role)
{
	return role == NULL ? roles : lappend(roles, role);
}

static List *
roles_of_grant(GrantStmt *stmt)
{
	return with_role(list_copy(stmt->grantees), stmt->grantor);
}

static List *
roles_of_default_privileges(AlterDefaultPrivilegesStmt *stmt)
{
	List	   *roles = roles_of_grant(stmt->action);
	ListCell   *lc;

	foreach(lc, stmt->options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (strcmp(option->defname, "roles") == 0)
			roles = list_concat(roles, (List *) option->arg);
	}
	return roles;
}

static List *
roles_of_alter_table(AlterTableStmt *stmt)
{
	List	   *roles = NIL;
	ListCell   *lc;

	foreach(lc, stmt->cmds)
		roles = with_role(roles, lfirst_node(AlterTableCmd, lc)->newowner);
	return roles;
}

/* List of RoleSpec, which are parts of the statement. */
static List *
statement_roles(Node *stmt)
{
	List	   *roles = NIL;
	ListCell   *lc;

	switch (nodeTag(stmt))
	{
		case T_GrantStmt:
			return roles_of_grant((GrantStmt *) stmt);
		case T_AlterDefaultPrivilegesStmt:
			return roles_of_default_privileges((AlterDefaultPrivilegesStmt *) stmt);
		case T_AlterOwnerStmt:
			return with_role(NIL, ((AlterOwnerStmt *) stmt)->newowner);
		case T_AlterTableStmt:
			return roles_of_alter_table((AlterTableStmt *) stmt);
		case T_CreatePolicyStmt:
			return list_copy(((CreatePolicyStmt *) stmt)->roles);
		case T_AlterPolicyStmt:
			return list_copy(((AlterPolicyStmt *) stmt)->roles);
		case T_DropOwnedStmt:
			return list_copy(((DropOwnedStmt *) stmt)->roles);
		case T_ReassignOwnedStmt:
			return with_role(list_copy(((ReassignOwnedStmt *) stmt)->roles),
							 ((ReassignOwnedStmt *) stmt)->newrole);
		case T_CreateUserMappingStmt:
			return with_role(NIL, ((CreateUserMappingStmt *) stmt)->user);
		case T_AlterUserMappingStmt:
			return with_role(NIL, ((AlterUserMappingStmt *) stmt)->user);
		case T_DropUserMappingStmt:
			return with_role(NIL, ((DropUserMappingStmt *) stmt)->user);
		case T_CreateSchemaStmt:
			roles = with_role(NIL, ((CreateSchemaStmt *) stmt)->authrole);
			foreach(lc, ((CreateSchemaStmt *) stmt)->schemaElts)
				roles = list_concat(roles, statement_roles(lfirst(lc)));
			return roles;
		default:
			return NIL;
	}
}

void
adapt_roles(Node *stmt, char *session_role)
{
	ListCell   *lc;

	foreach(lc, statement_roles(stmt))
	{
		RoleSpec   *role = lfirst_node(RoleSpec, lc);

		if (role->roletype != ROLESPEC_SESSION_USER)
			continue;
		role->roletype = ROLESPEC_CSTRING;
		role->rolename = session_role;
	}
}

/* ---------- those that are missing ---------- */

List *
missing_roles(Node *stmt)
{
	List	   *missing = NIL;
	ListCell   *lc;

	foreach(lc, statement_roles(stmt))
	{
		RoleSpec   *role = lfirst_node(RoleSpec, lc);

		if (role->roletype == ROLESPEC_CSTRING && !OidIsValid(get_role_oid(role->rolename, true)))
			missing = lappend(missing, role->rolename);
	}
	return missing;
}

void
make_roles(List *names)
{
	OwnTables	state;
	ListCell   *lc;

	foreach(lc, names)
	{
		const char *name = lfirst(lc);
		char	   *command = psprintf("CREATE ROLE %s NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE"
									   " NOREPLICATION NOBYPASSRLS", quote_identifier(name));

		/* A statement may name it twice. */
		if (OidIsValid(get_role_oid(name, true)) || IsReservedName(name))
			continue;
		own_tables_begin(&state);
		if (SPI_execute(command, false, 0) != SPI_OK_UTILITY)
			elog(ERROR, "could not make a role");
		own_tables_end(&state);
		ereport(LOG,
				(errmsg("role \"%s\" of the leader is made here, with NOLOGIN", name)));
	}
}
