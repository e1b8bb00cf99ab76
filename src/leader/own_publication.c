/*
 * own_publication.c
 *		The publication of a stream of every table: made, kept as it is, and dropped.
 *
 * Such a stream does not need it to know what it decodes: that is everything (publication.c).
 * It is there for the server, which refuses to change rows that have no key only
 * when a publication has them.  Without it, or with one that does not publish
 * such changes, they could not be told to followers.
 *
 * So nobody, not even a superuser, can alter or drop it while its stream is there.  All
 * ways to alter it end in the object access hook.  It is owned by the bootstrap superuser,
 * whose objects DROP OWNED and REASSIGN OWNED don't touch; what is left is DROP PUBLICATION.
 * One that came with a copy of the database belongs to no stream of this one.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_publication.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "compat.h"
#include "leader/leader.h"
#include "own_tables.h"
#include "shmem.h"

#define OWN_PUBLICATION_PREFIX	"fanout_"

static ProcessUtility_hook_type prev_process_utility = NULL;
static object_access_hook_type prev_object_access = NULL;

/* ---------- making and dropping it ---------- */

static void
execute_utility(const char *command)
{
	OwnTables	state;

	own_tables_begin(&state);
	if (SPI_execute(command, false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not execute \"%s\"", command);
	own_tables_end(&state);
}

/*
 * Is it there already, as we would make it?  It came with a copy of the database, then:
 * pg_dump has publications, but no streams.
 */
static bool
own_publication_exists(const char *publication)
{
	Oid			oid = get_publication_oid(publication, true);
	Publication *pub = OidIsValid(oid) ? GetPublication(oid) : NULL;

	return pub != NULL && pub->alltables && !pub->pubviaroot && pub->pubactions.pubinsert &&
		pub->pubactions.pubupdate && pub->pubactions.pubdelete && pub->pubactions.pubtruncate;
}

/* DROP EXTENSION takes it along. */
static void
depend_on_extension(const char *publication)
{
	ObjectAddress extension = {ExtensionRelationId, get_extension_oid(FANOUT_LIBRARY, false), 0};
	ObjectAddress object = {PublicationRelationId, get_publication_oid(publication, false), 0};

	recordDependencyOn(&object, &extension, DEPENDENCY_AUTO);
}

char *
own_publication_create(const char *stream)
{
	char	   *publication = psprintf(OWN_PUBLICATION_PREFIX "%s", stream);

	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser to stream every table"),
				 errhint("Name publications that you own.")));
	if (strlen(publication) >= NAMEDATALEN)
		ereport(ERROR,
				(errcode(ERRCODE_NAME_TOO_LONG),
				 errmsg("stream name \"%s\" is too long", stream),
				 errdetail("The name of its publication, \"%s\", would exceed %d bytes.",
						   publication, NAMEDATALEN - 1)));
	if (!own_publication_exists(publication))
		execute_utility(psprintf("CREATE PUBLICATION %s FOR ALL TABLES" FANOUT_ALL_COLUMNS,
								 quote_identifier(publication)));
	depend_on_extension(publication);
	return publication;
}

/* Once the stream's row is gone. */
void
own_publication_drop(const char *publication)
{
	if (OidIsValid(get_publication_oid(publication, true)))
		execute_utility(psprintf("DROP PUBLICATION %s", quote_identifier(publication)));
}

/* ---------- keeping it ---------- */

/* The row of the stream whose own publication has that name; NULL: none. */
static StreamRow *
stream_of_publication(const char *publication)
{
	ListCell   *lc;

	foreach(lc, stream_rows())
	{
		StreamRow  *row = lfirst(lc);

		if (row->own_publication && strcmp(linitial(row->publications), publication) == 0)
			return row;
	}
	return NULL;
}

static void
check_not_own(const char *publication, const char *command)
{
	StreamRow  *row = stream_of_publication(publication);

	if (row == NULL)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("cannot %s publication \"%s\"", command, publication),
			 errdetail("It belongs to stream \"%s\", which is of every table.", NameStr(row->name)),
			 errhint("fanout.drop_stream() drops it with the stream. "
					 "To stream some tables only, name publications of them in fanout.create_stream().")));
}

/* The catalog is read as it was before the command. */
static void
own_publication_object_access(ObjectAccessType access, Oid class_id, Oid object_id, int sub_id,
							  void *arg)
{
	if (prev_object_access)
		prev_object_access(access, class_id, object_id, sub_id, arg);
	if (access == OAT_POST_ALTER && class_id == PublicationRelationId)
		check_not_own(get_publication_name(object_id, false), "alter");
}

static void
own_publication_utility(PlannedStmt *pstmt, const char *query_string, bool read_only_tree,
						ProcessUtilityContext context, ParamListInfo params,
						QueryEnvironment *query_env, DestReceiver *dest, QueryCompletion *qc)
{
	ProcessUtility_hook_type next =
		prev_process_utility ? prev_process_utility : standard_ProcessUtility;
	DropStmt   *drop = (DropStmt *) pstmt->utilityStmt;
	ListCell   *lc;

	if (IsA(drop, DropStmt) && drop->removeType == OBJECT_PUBLICATION)
	{
		foreach(lc, drop->objects)
			check_not_own(strVal(lfirst(lc)), "drop");
	}
	next(pstmt, query_string, read_only_tree, context, params, query_env, dest, qc);
}

void
own_publication_init(void)
{
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = own_publication_utility;
	prev_object_access = object_access_hook;
	object_access_hook = own_publication_object_access;
}
