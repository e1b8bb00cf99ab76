/*
 * hints.c
 *		Making, removing and listing the directories described in hints.h.
 *
 * Hints are made by create_stream() and follow(), removed by the workers that
 * find their database knows nothing of them, and read by the launcher.  All
 * paths are relative to the data directory.
 */
#include "postgres.h"

#include <sys/stat.h>
#include <unistd.h>

#include "common/file_perm.h"
#include "miscadmin.h"
#include "storage/fd.h"

#include "hints.h"

static const char *const hint_prefix[] = {
	[HINT_STREAM] = "stream",
	[HINT_FOLLOWED] = "followed",
};

static void
database_path(char *path, Oid dboid)
{
	snprintf(path, MAXPGPATH, HINT_ROOT "/%u", dboid);
}

void
hint_path(char *path, HintKind kind, Oid dboid, int32 id)
{
	snprintf(path, MAXPGPATH, HINT_ROOT "/%u/%s-%d", dboid, hint_prefix[kind], id);
}

int32
hint_new_id(HintKind kind)
{
	Hint		hint = {.kind = kind, .dboid = MyDatabaseId};

	do
	{
		if (!pg_strong_random(&hint.id, sizeof(hint.id)))
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate a random number")));
		hint.id &= PG_INT32_MAX;
	} while (hint.id == 0 || hint_exists(&hint));
	return hint.id;
}

/* Returns false when the parent is not there. */
static bool
make_directory(const char *path)
{
	if (MakePGDirectory(path) == 0 || errno == EEXIST)
		return true;
	if (errno == ENOENT)
		return false;
	ereport(ERROR,
			(errcode_for_file_access(),
			 errmsg("could not create directory \"%s\": %m", path)));
}

/*
 * The database's directory may be removed as empty by another process until ours is in
 * it.  All are synced, so that they survive a crash.
 */
void
hint_create(HintKind kind, Oid dboid, int32 id)
{
	char		database[MAXPGPATH];
	char		path[MAXPGPATH];

	database_path(database, dboid);
	hint_path(path, kind, dboid, id);
	while (!make_directory(path))
	{
		CHECK_FOR_INTERRUPTS();
		if (!make_directory(database))
			(void) make_directory(HINT_ROOT);
	}
	fsync_fname(path, true);
	fsync_fname(database, true);
	fsync_fname(HINT_ROOT, true);
	fsync_fname(".", true);
}

static void
remove_tree(const char *path)
{
	struct stat st;

	if (stat(path, &st) != 0 && errno == ENOENT)
		return;
	if (!rmtree(path, true))
		ereport(WARNING,
				(errmsg("could not remove directory \"%s\" with all its files", path)));
}

void
hint_remove(HintKind kind, Oid dboid, int32 id)
{
	char		path[MAXPGPATH];

	hint_path(path, kind, dboid, id);
	remove_tree(path);

	/* The database's own directory goes with its last hint. */
	database_path(path, dboid);
	if (rmdir(path) != 0 && errno != ENOTEMPTY && errno != EEXIST && errno != ENOENT)
		ereport(WARNING,
				(errcode_for_file_access(),
				 errmsg("could not remove directory \"%s\": %m", path)));
}

bool
hint_exists(const Hint *hint)
{
	char		path[MAXPGPATH];

	hint_path(path, hint->kind, hint->dboid, hint->id);
	return access(path, F_OK) == 0 || errno != ENOENT;
}

void
hint_remove_database(Oid dboid)
{
	char		path[MAXPGPATH];

	database_path(path, dboid);
	remove_tree(path);
}

/* Parse "stream-5" or "followed-7"; false for anything else. */
static bool
parse_hint_name(const char *name, Hint *hint)
{
	char		rest;

	hint->kind = HINT_STREAM;
	if (sscanf(name, "stream-%d%c", &hint->id, &rest) == 1)
		return true;
	hint->kind = HINT_FOLLOWED;
	return sscanf(name, "followed-%d%c", &hint->id, &rest) == 1;
}

static List *
database_hints(List *hints, const char *name)
{
	char		path[MAXPGPATH];
	DIR		   *dir;
	struct dirent *entry;
	Hint		hint;
	char		rest;

	if (sscanf(name, "%u%c", &hint.dboid, &rest) != 1)
		return hints;
	database_path(path, hint.dboid);

	/* A database's directory may go away at any moment. */
	dir = AllocateDir(path);
	if (dir == NULL && errno == ENOENT)
		return hints;
	while ((entry = ReadDirExtended(dir, path, LOG)) != NULL)
	{
		if (parse_hint_name(entry->d_name, &hint))
		{
			Hint	   *copy = palloc(sizeof(Hint));

			*copy = hint;
			hints = lappend(hints, copy);
		}
	}
	FreeDir(dir);
	return hints;
}

List *
hint_list(void)
{
	List	   *hints = NIL;
	DIR		   *dir;
	struct dirent *entry;

	dir = AllocateDir(HINT_ROOT);
	if (dir == NULL && errno == ENOENT)
		return NIL;
	while ((entry = ReadDirExtended(dir, HINT_ROOT, LOG)) != NULL)
		hints = database_hints(hints, entry->d_name);
	FreeDir(dir);
	return hints;
}
