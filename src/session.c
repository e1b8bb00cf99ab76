/*
 * session.c
 *		How processes of ours connect to a database, and with which settings.
 *
 * The server applies what ALTER DATABASE and ALTER ROLE have set to every process that
 * connects.  That is for people who work there: a role that is taken on, bounds for reads, a
 * time limit, arrays without nulls would make our processes do something else, or fail for
 * ever.  So each setting that comes from there, whichever it is, gets the value back that it
 * had before: the server's own.
 *
 * What of the server's own configuration would end a process that lives long, or would change
 * what values look like, has one value for all processes of ours.
 *
 * All of that is set as by SET.  What RESET gives stays the database's: a script of an
 * extension may make that permanent.
 */
#include "postgres.h"

#include "catalog/pg_authid.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "postmaster/bgworker.h"
#include "utils/guc.h"
#include "utils/guc_tables.h"
#include "utils/memutils.h"

#include "compat.h"
#include "owner_code.h"
#include "session.h"
#include "transaction.h"

#define TIMEOUT_SUFFIX	"_timeout"

typedef struct SavedSetting
{
	const char *name;
	char	   *value;
} SavedSetting;

void
session_set(const char *name, const char *value)
{
	SetConfigOption(name, value, PGC_SUSET, PGC_S_SESSION);
}

/* Only these can ALTER DATABASE and ALTER ROLE set for a process that has connected. */
static bool
is_settable(const struct config_generic *setting)
{
	return (setting->context == PGC_SUSET || setting->context == PGC_USERSET) &&
		strcmp(setting->name, "session_authorization") != 0;
}

/* Settings that are there before the process connects: those of the server. */
static List *
server_settings(void)
{
	int			count;
	struct config_generic **settings = fanout_guc_variables(&count);
	List	   *saved = NIL;

	for (int i = 0; i < count; i++)
	{
		SavedSetting *setting;
		const char *value;

		if (!is_settable(settings[i]))
			continue;
		value = GetConfigOption(settings[i]->name, true, false);
		setting = palloc(sizeof(SavedSetting));
		setting->name = settings[i]->name;
		setting->value = value != NULL ? pstrdup(value) : NULL;
		saved = lappend(saved, setting);
	}
	return saved;
}

static bool
is_of_database_or_role(const struct config_generic *setting)
{
	return setting->source >= PGC_S_GLOBAL && setting->source <= PGC_S_DATABASE_USER;
}

/*
 * A setting that was not there before is of a module that is not loaded, for code that is
 * not ours: it stays.
 */
static void
restore(const struct config_generic *setting, List *saved)
{
	ListCell   *lc;

	foreach(lc, saved)
	{
		const SavedSetting *old = lfirst(lc);

		if (strcmp(old->name, setting->name) == 0)
		{
			if (old->value != NULL)
				session_set(old->name, old->value);
			return;
		}
	}
}

/* Is it one of the server's time limits that are off by default, for users to set? */
static bool
is_time_limit(const struct config_generic *setting)
{
	Size		len = strlen(setting->name);

	return len > strlen(TIMEOUT_SUFFIX) && strchr(setting->name, '.') == NULL &&
		strcmp(setting->name + len - strlen(TIMEOUT_SUFFIX), TIMEOUT_SUFFIX) == 0 &&
		setting->vartype == PGC_INT &&
		((const struct config_int *) setting)->boot_val == 0;
}

/* The role of a session is not given back like that. */
static void
become_superuser(void)
{
	char	   *name;

	if (GetSessionUserId() == BOOTSTRAP_SUPERUSERID)
		return;
	fanout_start_transaction();
	name = GetUserNameFromId(BOOTSTRAP_SUPERUSERID, false);
	session_set("session_authorization", name);
	CommitTransactionCommand();
}

static void
undo_settings_of_users(List *saved)
{
	int			count;
	struct config_generic **settings = fanout_guc_variables(&count);

	for (int i = 0; i < count; i++)
	{
		if (!is_settable(settings[i]))
			continue;
		if (is_of_database_or_role(settings[i]))
			restore(settings[i], saved);
		if (is_time_limit(settings[i]))
			session_set(settings[i]->name, "0");
	}
}

/* What the server's configuration may say, but not for us. */
static void
set_our_own(void)
{
	static const char *const settings[][2] = {
		{"search_path", "pg_catalog, pg_temp"},
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_deferrable", "off"},
		{"row_security", "off"},
		{"DateStyle", "ISO, YMD"},
		{"IntervalStyle", "postgres"},
		{"extra_float_digits", "3"},
		{"bytea_output", "hex"},
		{"lc_monetary", "C"},
		{"array_nulls", "on"},
		{"xmloption", "content"},
		{"standard_conforming_strings", "on"},
		{"transform_null_equals", "off"},
		{"quote_all_identifiers", "off"},
		{"fanout.max_staleness", "-1"},
		{"fanout.read_after", ""},
	};

	for (int i = 0; i < lengthof(settings); i++)
		session_set(settings[i][0], settings[i][1]);
	if (OidIsValid(MyDatabaseId))
		session_set("client_encoding", GetDatabaseEncodingName());
}

void
session_connect(Oid dboid)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "pg_fanout settings",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext oldcontext = MemoryContextSwitchTo(context);
	List	   *saved = server_settings();

	if (OidIsValid(dboid))
		BackgroundWorkerInitializeConnectionByOid(dboid, InvalidOid, 0);
	else
		BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	MemoryContextSwitchTo(context);
	undo_settings_of_users(saved);
	if (OidIsValid(dboid))
		become_superuser();
	set_our_own();
	owner_code_watch();
	MemoryContextSwitchTo(oldcontext);
	MemoryContextDelete(context);
}
