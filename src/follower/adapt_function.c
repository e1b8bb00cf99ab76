/*
 * adapt_function.c
 *		The settings of a function that a schema change makes or alters.
 *
 * To write down in a function that it sets the role counts as setting it, and so is refused in a
 * security-restricted operation.  But the rest of such a statement can run code: literals of defaults are
 * read by the checks of their types' domains.  So the settings are taken out of the statement, and
 * given to the function afterwards, without restrictions and event triggers.  That runs
 * nobody's code.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/parsenodes.h"
#include "utils/lsyscache.h"

#include "follower/apply_internal.h"

/* Takes the SET and RESET clauses out of a list of options. */
static List *
take_settings(List **options)
{
	List	   *settings = NIL;
	ListCell   *lc;

	foreach(lc, *options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (strcmp(option->defname, "set") != 0)
			continue;
		settings = lappend(settings, option);
		*options = foreach_delete_current(*options, lc);
	}
	return settings;
}

/* As it is called once it is made; another one may come first in the search path. */
static List *
qualified_name(List *name)
{
	char	   *function;
	Oid			namespace = QualifiedNameGetCreationNamespace(name, &function);

	return list_make2(makeString(get_namespace_name(namespace)), makeString(function));
}

static List *
input_types(List *parameters)
{
	List	   *types = NIL;
	ListCell   *lc;

	foreach(lc, parameters)
	{
		FunctionParameter *parameter = lfirst_node(FunctionParameter, lc);

		if (parameter->mode != FUNC_PARAM_OUT && parameter->mode != FUNC_PARAM_TABLE)
			types = lappend(types, copyObject(parameter->argType));
	}
	return types;
}

static AlterFunctionStmt *
alter_made_function(CreateFunctionStmt *create)
{
	AlterFunctionStmt *alter = makeNode(AlterFunctionStmt);
	List	   *settings = take_settings(&create->options);

	if (settings == NIL)
		return NULL;
	alter->objtype = create->is_procedure ? OBJECT_PROCEDURE : OBJECT_FUNCTION;
	alter->func = makeNode(ObjectWithArgs);
	alter->func->objname = qualified_name(create->funcname);
	alter->func->objargs = input_types(create->parameters);
	alter->actions = settings;
	return alter;
}

/* The statement that gives the function its settings, which are left out of the other one; NULL: there are none. */
AlterFunctionStmt *
adapt_function(Node *stmt)
{
	AlterFunctionStmt *alter;
	AlterFunctionStmt *original;

	if (IsA(stmt, CreateFunctionStmt))
		return alter_made_function((CreateFunctionStmt *) stmt);
	if (!IsA(stmt, AlterFunctionStmt))
		return NULL;
	original = (AlterFunctionStmt *) stmt;
	alter = makeNode(AlterFunctionStmt);
	alter->objtype = original->objtype;
	alter->func = original->func;
	alter->actions = take_settings(&original->actions);
	return alter->actions == NIL ? NULL : alter;
}

void
adapt_function_settings(AlterFunctionStmt *alter)
{
	Oid			user;
	int			sec_context;

	GetUserIdAndSecContext(&user, &sec_context);
	SetUserIdAndSecContext(user, sec_context &
						   ~(SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION));
	(void) AlterFunction(NULL, alter);
	SetUserIdAndSecContext(user, sec_context);
}
