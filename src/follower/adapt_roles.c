/*
 * adapt_roles.c
 *		SESSION_USER in a leader's schema statement.
 *
 * A statement can name a role by who is connected.  CURRENT_USER and CURRENT_ROLE are the role
 * that the statement runs as, here too; but the session is the leader's, not ours, whose user is
 * a superuser.
 */
#include "postgres.h"

#include "nodes/parsenodes.h"

#include "follower/apply_internal.h"

static void
adapt_role(RoleSpec *role, char *session_role)
{
	if (role == NULL || role->roletype != ROLESPEC_SESSION_USER)
		return;
	role->roletype = ROLESPEC_CSTRING;
	role->rolename = session_role;
}

static void
adapt_list(List *roles, char *session_role)
{
	ListCell   *lc;

	foreach(lc, roles)
		adapt_role(lfirst_node(RoleSpec, lc), session_role);
}

static void
adapt_grant(GrantStmt *stmt, char *session_role)
{
	adapt_list(stmt->grantees, session_role);
	adapt_role(stmt->grantor, session_role);
}

static void
adapt_default_privileges(AlterDefaultPrivilegesStmt *stmt, char *session_role)
{
	ListCell   *lc;

	adapt_grant(stmt->action, session_role);
	foreach(lc, stmt->options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (strcmp(option->defname, "roles") == 0)
			adapt_list((List *) option->arg, session_role);
	}
}

void
adapt_roles(Node *stmt, char *session_role)
{
	ListCell   *lc;

	switch (nodeTag(stmt))
	{
		case T_GrantStmt:
			adapt_grant((GrantStmt *) stmt, session_role);
			break;
		case T_AlterDefaultPrivilegesStmt:
			adapt_default_privileges((AlterDefaultPrivilegesStmt *) stmt, session_role);
			break;
		case T_AlterOwnerStmt:
			adapt_role(((AlterOwnerStmt *) stmt)->newowner, session_role);
			break;
		case T_AlterTableStmt:
			foreach(lc, ((AlterTableStmt *) stmt)->cmds)
				adapt_role(lfirst_node(AlterTableCmd, lc)->newowner, session_role);
			break;
		case T_CreatePolicyStmt:
			adapt_list(((CreatePolicyStmt *) stmt)->roles, session_role);
			break;
		case T_AlterPolicyStmt:
			adapt_list(((AlterPolicyStmt *) stmt)->roles, session_role);
			break;
		case T_DropOwnedStmt:
			adapt_list(((DropOwnedStmt *) stmt)->roles, session_role);
			break;
		case T_ReassignOwnedStmt:
			adapt_list(((ReassignOwnedStmt *) stmt)->roles, session_role);
			adapt_role(((ReassignOwnedStmt *) stmt)->newrole, session_role);
			break;
		case T_CreateUserMappingStmt:
			adapt_role(((CreateUserMappingStmt *) stmt)->user, session_role);
			break;
		case T_AlterUserMappingStmt:
			adapt_role(((AlterUserMappingStmt *) stmt)->user, session_role);
			break;
		case T_DropUserMappingStmt:
			adapt_role(((DropUserMappingStmt *) stmt)->user, session_role);
			break;
		case T_CreateSchemaStmt:
			adapt_role(((CreateSchemaStmt *) stmt)->authrole, session_role);
			foreach(lc, ((CreateSchemaStmt *) stmt)->schemaElts)
				adapt_roles(lfirst(lc), session_role);
			break;
		default:
			break;
	}
}
