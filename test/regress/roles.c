/*
 * roles.c
 *		Roles of the regression suite, also on the follower.
 *
 * Roles don't replicate, but the suite makes and drops them as it goes, and what it
 * does depends on their rights, which are those on databases, too.  So the leader of script/test --regress loads this
 * module, which notes each statement about roles in a table, in the transaction
 * of the statement.  The table replicates, and a trigger of the follower runs
 * the statement: in its place among the schema changes.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

static ProcessUtility_hook_type prev_process_utility = NULL;

static bool
is_about_roles(Node *stmt)
{
	switch (nodeTag(stmt))
	{
		case T_CreateRoleStmt:
		case T_AlterRoleStmt:
		case T_AlterRoleSetStmt:
		case T_DropRoleStmt:
		case T_GrantRoleStmt:
			return true;
		case T_RenameStmt:
			return ((RenameStmt *) stmt)->renameType == OBJECT_ROLE;
		case T_GrantStmt:
			return ((GrantStmt *) stmt)->objtype == OBJECT_DATABASE;
		default:
			return false;
	}
}

static bool
database_has_table(void)
{
	Oid			namespace = get_namespace_oid("core_suite", true);

	return OidIsValid(namespace) && OidIsValid(get_relname_relid("role_statement", namespace));
}

static void
note_statement(PlannedStmt *pstmt, const char *query_string)
{
	int			start = Max(pstmt->stmt_location, 0);
	int			len = pstmt->stmt_len > 0 ? pstmt->stmt_len : strlen(query_string) - start;
	Oid			types[] = {TEXTOID};
	Datum		values[] = {PointerGetDatum(cstring_to_text_with_len(query_string + start, len))};
	Oid			user;
	int			sec_context;

	GetUserIdAndSecContext(&user, &sec_context);
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, sec_context | SECURITY_LOCAL_USERID_CHANGE);
	SPI_connect();
	SPI_execute_with_args("INSERT INTO core_suite.role_statement VALUES ($1)", 1, types, values,
						  NULL, false, 0);
	SPI_finish();
	SetUserIdAndSecContext(user, sec_context);
}

static void
roles_utility(PlannedStmt *pstmt, const char *query_string, bool read_only_tree,
			  ProcessUtilityContext context, ParamListInfo params, QueryEnvironment *query_env,
			  DestReceiver *dest, QueryCompletion *qc)
{
	bool		noted = is_about_roles(pstmt->utilityStmt);

	(prev_process_utility ? prev_process_utility : standard_ProcessUtility)
		(pstmt, query_string, read_only_tree, context, params, query_env, dest, qc);
	if (noted && database_has_table())
		note_statement(pstmt, query_string);
}

void
_PG_init(void)
{
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = roles_utility;
}
