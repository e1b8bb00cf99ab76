/*
 * ddl_script.c
 *		Scripts of extensions, and the event triggers that are called within them.
 *
 * What a script does, a follower's script does as well: its statements are not captured, and of
 * what it writes only the rows of other tables are in the stream.  An event
 * trigger is not part of the script: it may be called for each statement of it, writes to
 * tables of its user and changes the schema, and on a follower it is not called.
 * So in its function all is as outside of scripts.
 *
 * Only the session knows when such a function runs.  It tells the decoder with rows of
 * fanout.schema_change (MARK_...) around scripts, and around these functions within
 * them.  Marks are nested like what they mark; if an error ends that and is caught, the
 * rollback takes away what was marked with its mark.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "fmgr.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "leader/ddl.h"

/* A function of an event trigger that runs within a script. */
typedef struct TriggerCall
{
	const FmgrInfo *function;
	ScriptState outer;			/* state when it began */
	struct TriggerCall *caller;
} TriggerCall;

static ScriptState current_state = NO_SCRIPT;
static TriggerCall *current_call = NULL;

static needs_fmgr_hook_type prev_needs_fmgr_hook = NULL;
static fmgr_hook_type prev_fmgr_hook = NULL;

ScriptState
ddl_script_begin(const char *extension)
{
	ScriptState before = current_state;

	if (extension == NULL)
		return before;
	write_mark_down(MARK_SCRIPT, extension);
	current_state = IN_SCRIPT;
	return before;
}

void
ddl_script_restore(ScriptState before)
{
	current_state = before;
}

bool
ddl_comes_with_script(void)
{
	return creating_extension && current_state != IN_EVENT_TRIGGER;
}

/* ---------- event triggers ---------- */

static bool
is_event_trigger(Oid function)
{
	return get_func_rettype(function) == EVENT_TRIGGEROID;
}

static void
begin_call(const FmgrInfo *function)
{
	TriggerCall *call = MemoryContextAlloc(TopMemoryContext, sizeof(TriggerCall));

	call->function = function;
	call->outer = current_state;
	call->caller = current_call;
	current_call = call;
	write_mark_down(MARK_EVENT_TRIGGER, "");
	current_state = IN_EVENT_TRIGGER;
}

static void
end_call(void)
{
	TriggerCall *call = current_call;

	current_state = call->outer;
	current_call = call->caller;
	pfree(call);
}

static bool
script_needs_fmgr_hook(Oid function)
{
	return (prev_needs_fmgr_hook && prev_needs_fmgr_hook(function)) ||
		(current_state != NO_SCRIPT && is_event_trigger(function));
}

static void
script_fmgr_hook(FmgrHookEventType event, FmgrInfo *function, Datum *private)
{
	if (prev_fmgr_hook)
		prev_fmgr_hook(event, function, private);
	if (event == FHET_START)
	{
		if (current_state != NO_SCRIPT && is_event_trigger(function->fn_oid))
			begin_call(function);
	}
	else if (current_call != NULL && current_call->function == function)
	{
		end_call();
		if (event == FHET_END)
			write_mark_down(MARK_END, "");
	}
}

void
ddl_script_init(void)
{
	prev_needs_fmgr_hook = needs_fmgr_hook;
	needs_fmgr_hook = script_needs_fmgr_hook;
	prev_fmgr_hook = fmgr_hook;
	fmgr_hook = script_fmgr_hook;
}
