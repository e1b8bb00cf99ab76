/*
 * drop_extension.c
 *		The extension can't be dropped while followers are registered, just as a stream
 *		can't.
 *
 * It may go in many ways: by DROP EXTENSION, which pg_restore --clean begins with, by DROP
 * SCHEMA ... CASCADE or DROP OWNED.  All of them drop fanout.stream, which belongs to
 * the extension and can't go without it.  When the hook is called, the table and its rows are
 * still there; the extension itself is dropped after all that belongs to it.
 *
 * DROP DATABASE takes everything along and asks nobody, as always; connected followers
 * are connections, which it waits for or ends.
 */
#include "postgres.h"

#include "catalog/objectaccess.h"
#include "catalog/pg_class.h"
#include "miscadmin.h"

#include "leader/leader.h"
#include "own_tables.h"

static object_access_hook_type prev_object_access = NULL;

static void
refuse_with_followers(void)
{
	ListCell   *lc;

	foreach(lc, stream_rows())
	{
		StreamRow  *row = lfirst(lc);
		char	   *names = stream_follower_names(row);

		if (names != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("cannot drop extension \"%s\" because stream \"%s\" has followers",
							FANOUT_LIBRARY, NameStr(row->name)),
					 errdetail("Registered followers: %s.", names),
					 errhint("Call fanout.drop_follower() for each of them, or fanout.drop_stream() with force => true.")));
	}
}

static void
watch_drop(ObjectAccessType access, Oid class_id, Oid object_id, int sub_id, void *arg)
{
	if (prev_object_access)
		prev_object_access(access, class_id, object_id, sub_id, arg);
	if (access == OAT_DROP && class_id == RelationRelationId && sub_id == 0 &&
		leader_of_any_stream(MyDatabaseId) && object_id == own_table_oid("stream"))
		refuse_with_followers();
}

void
drop_extension_init(void)
{
	prev_object_access = object_access_hook;
	object_access_hook = watch_drop;
}
