/*
 * owner_code.c
 *		Functions of others in our processes, and in a follower's sessions on its leader.
 *
 * To parse and to plan a statement is to run code: checks of domains, constant parts of index predicates
 * and statistics, casts.  What plans or runs anything on the tables of others does so as their owners,
 * restricted (local_table.c, apply_ddl.c).  This here holds for what those miss: where our processes
 * are superusers, a function of anybody who isn't one runs with his rights, in a security-restricted
 * operation, wherever it is called.  So it does, with whatever rights, in the sessions of a
 * follower on its leader, which only read, and say so by "fanout.owner_code".
 *
 * A function that such a function calls in turn has the rights that the first one has: they are not
 * those of its owner, who need not have wanted to be called by that one.
 *
 * The hook sees functions of the catalog only; those of the server and of extensions that superusers made
 * do what they always do.  It also keeps functions of others from being inlined.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_proc.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "owner_code.h"

/* A call that has begun. */
typedef struct Call
{
	Oid			user;			/* whose rights come back at its end; InvalidOid: nothing to do */
	int			sec_context;
} Call;

static bool own_process = false;
static bool followers_session = false;	/* once it is, it stays one */
static bool owner_code = false;
static Call *calls = NULL;
static int	call_count = 0;
static int	max_calls = 0;

static needs_fmgr_hook_type prev_needs_hook = NULL;
static fmgr_hook_type prev_hook = NULL;

static bool
is_watched(void)
{
	return own_process || followers_session;
}

/* Whose function is it, and does it run with his rights anyway? */
static Oid
function_owner(Oid function, bool *is_definer)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		return InvalidOid;
	owner = ((Form_pg_proc) GETSTRUCT(tuple))->proowner;
	*is_definer = ((Form_pg_proc) GETSTRUCT(tuple))->prosecdef;
	ReleaseSysCache(tuple);
	return owner;
}

static bool
needs_hook(Oid function)
{
	bool		is_definer;

	if (prev_needs_hook && prev_needs_hook(function))
		return true;
	return is_watched() && !superuser_arg(function_owner(function, &is_definer));
}

static Call *
push_call(void)
{
	if (call_count == max_calls)
	{
		max_calls = Max(max_calls * 2, 16);
		calls = calls == NULL ? MemoryContextAlloc(TopMemoryContext, max_calls * sizeof(Call))
			: repalloc(calls, max_calls * sizeof(Call));
	}
	return &calls[call_count++];
}

/* The rights of a SECURITY DEFINER function are the server's to give and to take. */
static void
begin_call(Oid function)
{
	Call	   *call = push_call();
	bool		is_definer = false;
	Oid			owner = function_owner(function, &is_definer);

	call->user = InvalidOid;
	if (!is_watched() || !OidIsValid(owner) || superuser_arg(owner))
		return;
	if (!superuser() && (!followers_session || InSecurityRestrictedOperation()) && !is_definer)
		return;
	GetUserIdAndSecContext(&call->user, &call->sec_context);
	SetUserIdAndSecContext(owner, call->sec_context | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION);
	if (is_definer)
		call->user = InvalidOid;
}

/* After an error the end of the transaction, or savepoint, brings the rights back. */
static void
end_call(bool failed)
{
	Call	   *call = &calls[--call_count];

	if (!failed && OidIsValid(call->user))
		SetUserIdAndSecContext(call->user, call->sec_context);
}

static void
call_hook(FmgrHookEventType event, FmgrInfo *flinfo, Datum *arg)
{
	switch (event)
	{
		case FHET_START:
			begin_call(flinfo->fn_oid);
			break;
		case FHET_END:
		case FHET_ABORT:
			end_call(event == FHET_ABORT);
			break;
	}
	if (prev_hook)
		prev_hook(event, flinfo, arg);
}

/* Code can't take it back. */
static void
assign_owner_code(bool newval, void *extra)
{
	followers_session |= newval;
}

void
owner_code_watch(void)
{
	own_process = true;
}

void
owner_code_init(void)
{
	DefineCustomBoolVariable("fanout.owner_code",
							 "Runs functions with the rights of those who own them.",
							 "Followers turn it on in their sessions on a leader. It can't be turned off again.",
							 &owner_code, false, PGC_USERSET, GUC_NOT_IN_SAMPLE,
							 NULL, assign_owner_code, NULL);
	prev_needs_hook = needs_fmgr_hook;
	needs_fmgr_hook = needs_hook;
	prev_hook = fmgr_hook;
	fmgr_hook = call_hook;
}
