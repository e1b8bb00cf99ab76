/*
 * ddl_script.c
 *		Scripts of extensions, and the event triggers that are called within them.
 *
 * What a script does, a follower's script does as well: its statements are not captured, and of
 * what it writes only the rows of other tables are in the stream.  An event
 * trigger is not part of the script: it may be called for each statement of it, writes to
 * tables of its user and changes the schema, and on a follower it is not called.
 * So in its function all is as outside of scripts.  But what it makes there belongs to the
 * extension, as everything that is made meanwhile; followers are told that by an
 * ALTER EXTENSION.
 *
 * Only the session knows when such a function runs.  It tells the decoder with rows of
 * fanout.schema_change (MARK_...) around scripts, and around these functions within
 * them.  Marks are nested like what they mark; if an error ends that and is caught, the
 * rollback takes away what was marked with its mark.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/objectaccess.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "leader/ddl.h"

/* A function of an event trigger that runs within a script. */
typedef struct TriggerCall
{
	const FmgrInfo *function;
	ScriptState outer;			/* state when it began */
	MemoryContext context;		/* has this, and what it made: List of ObjectAddress */
	List	   *made;
	struct TriggerCall *caller;
} TriggerCall;

static ScriptState current_state = NO_SCRIPT;
static TriggerCall *current_call = NULL;

static object_access_hook_type prev_object_access = NULL;
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

/* ---------- what event triggers make ---------- */

static void
note_made(ObjectAccessType access, Oid class_id, Oid object_id, int sub_id, void *arg)
{
	MemoryContext oldcontext;
	ObjectAddress *object;

	if (prev_object_access)
		prev_object_access(access, class_id, object_id, sub_id, arg);
	if (access != OAT_POST_CREATE || sub_id != 0 || !creating_extension ||
		current_state != IN_EVENT_TRIGGER)
		return;
	oldcontext = MemoryContextSwitchTo(current_call->context);
	object = palloc(sizeof(ObjectAddress));
	ObjectAddressSet(*object, class_id, object_id);
	current_call->made = lappend(current_call->made, object);
	MemoryContextSwitchTo(oldcontext);
}

/* Of parts of an object nothing is said: only the whole belongs to an extension. */
static void
tell_members(List *made)
{
	SchemaChange change = {0};
	ListCell   *lc;

	CommandCounterIncrement();
	foreach(lc, made)
	{
		ObjectAddress *object = lfirst(lc);

		if (getExtensionOfObject(object->classId, object->objectId) == CurrentExtensionObject)
			write_statement_down(psprintf("ALTER EXTENSION %s ADD %s %s",
										  quote_identifier(get_extension_name(CurrentExtensionObject)),
										  getObjectTypeDescription(object, true),
										  getObjectIdentity(object, true)), &change);
	}
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
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "pg_fanout event trigger",
												  ALLOCSET_SMALL_SIZES);
	TriggerCall *call = MemoryContextAllocZero(context, sizeof(TriggerCall));

	call->function = function;
	call->outer = current_state;
	call->context = context;
	call->caller = current_call;
	current_call = call;
	write_mark_down(MARK_EVENT_TRIGGER, "");
	current_state = IN_EVENT_TRIGGER;
}

static void
end_call(bool failed)
{
	TriggerCall *call = current_call;

	current_state = call->outer;
	current_call = call->caller;
	if (!failed && call->made != NIL && ddl_is_led())
		tell_members(call->made);
	if (!failed)
		write_mark_down(MARK_END, "");
	MemoryContextDelete(call->context);
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
		end_call(event == FHET_ABORT);
}

void
ddl_script_init(void)
{
	prev_needs_fmgr_hook = needs_fmgr_hook;
	needs_fmgr_hook = script_needs_fmgr_hook;
	prev_fmgr_hook = fmgr_hook;
	fmgr_hook = script_fmgr_hook;
	prev_object_access = object_access_hook;
	object_access_hook = note_made;
}
