/*
 * shim.c
 *		As much of a server as src/log and src/wire need, for fuzzing them.
 *
 * Memory is malloc's, so that the address sanitizer watches each piece, and all of it is
 * freed after an execution; asking for much more than the input is large is a
 * failure.  An error is a jump back to shim_run().  Files are bytes in memory.  Checksums
 * are always 0, so that the fuzzer gets past them: inputs have zeroes there.
 */
#include "postgres.h"

#include <dirent.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "libpq/pqformat.h"
#include "nodes/pg_list.h"
#include "port/pg_crc32c.h"
#include "storage/fd.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "shim.h"

/* ---------- running ---------- */

static jmp_buf on_error;
static size_t input_size;

static void free_all(void);

void
shim_run(void (*function) (const uint8_t *, size_t), const uint8_t *data, size_t size)
{
	input_size = size;
	if (setjmp(on_error) == 0)
		function(data, size);
	free_all();
}

/* ---------- errors ---------- */

volatile sig_atomic_t InterruptPending = 0;

void
ProcessInterrupts(void)
{
	abort();
}

bool
errstart(int elevel, const char *domain)
{
	return elevel >= ERROR;
}

bool
errstart_cold(int elevel, const char *domain)
{
	return errstart(elevel, domain);
}

void
errfinish(const char *filename, int lineno, const char *funcname)
{
	longjmp(on_error, 1);
}

int
errcode(int sqlerrcode)
{
	return 0;
}

int
errcode_for_file_access(void)
{
	return 0;
}

int
errmsg(const char *fmt,...)
{
	return 0;
}

int
errmsg_internal(const char *fmt,...)
{
	return 0;
}

int
errdetail(const char *fmt,...)
{
	return 0;
}

int
errdetail_internal(const char *fmt,...)
{
	return 0;
}

/* ---------- memory ---------- */

MemoryContext CurrentMemoryContext = NULL;

typedef struct Piece
{
	struct Piece *prev;
	struct Piece *next;
	size_t		size;
	size_t		padding;
} Piece;

static Piece pieces = {&pieces, &pieces, 0, 0};
static size_t allocated = 0;

void *
palloc(Size size)
{
	Piece	   *piece;

	allocated += size;
	if (size > 1024 * 1024 + 64 * input_size || allocated > 64 * 1024 * 1024)
		abort();
	piece = malloc(sizeof(Piece) + size);
	piece->size = size;
	piece->prev = &pieces;
	piece->next = pieces.next;
	piece->next->prev = piece;
	pieces.next = piece;
	return piece + 1;
}

void
pfree(void *pointer)
{
	Piece	   *piece = (Piece *) pointer - 1;

	allocated -= piece->size;
	piece->prev->next = piece->next;
	piece->next->prev = piece->prev;
	free(piece);
}

static void
free_all(void)
{
	while (pieces.next != &pieces)
		pfree(pieces.next + 1);
}

void *
palloc0(Size size)
{
	return memset(palloc(size), 0, size);
}

void *
repalloc(void *pointer, Size size)
{
	void	   *result = palloc(size);

	memcpy(result, pointer, Min(size, ((Piece *) pointer - 1)->size));
	pfree(pointer);
	return result;
}

char *
pnstrdup(const char *in, Size len)
{
	char	   *result = palloc(len + 1);

	memcpy(result, in, len);
	result[len] = '\0';
	return result;
}

char *
pstrdup(const char *in)
{
	return pnstrdup(in, strlen(in));
}

void *
MemoryContextAlloc(MemoryContext context, Size size)
{
	return palloc(size);
}

MemoryContext
AllocSetContextCreateInternal(MemoryContext parent, const char *name, Size minContextSize,
							  Size initBlockSize, Size maxBlockSize)
{
	return NULL;
}

void
MemoryContextDelete(MemoryContext context)
{
}

/* ---------- lists and messages ---------- */

List *
lcons(void *datum, List *list)
{
	int			length = list_length(list) + 1;
	List	   *result = palloc0(sizeof(List));

	result->type = T_List;
	result->length = result->max_length = length;
	result->elements = palloc(sizeof(ListCell) * length);
	if (length > 1)
		memcpy(result->elements + 1, list->elements, sizeof(ListCell) * (length - 1));
	result->elements[0].ptr_value = datum;
	return result;
}

void
list_free_deep(List *list)
{
}

int64
pq_getmsgint64(StringInfo msg)
{
	uint64		value;

	if (msg->len - msg->cursor < sizeof(value))
		longjmp(on_error, 1);
	memcpy(&value, msg->data + msg->cursor, sizeof(value));
	msg->cursor += sizeof(value);
	return pg_ntoh64(value);
}

void
pq_getmsgend(StringInfo msg)
{
	if (msg->cursor != msg->len)
		longjmp(on_error, 1);
}

/* ---------- checksums ---------- */

static pg_crc32c
no_checksum(pg_crc32c crc, const void *data, size_t len)
{
	/* The sanitizer looks at the range. */
	for (size_t i = 0; i < len; i += 64)
		(void) ((const volatile char *) data)[i];
	if (len > 0)
		(void) ((const volatile char *) data)[len - 1];
	return crc;
}

pg_crc32c	(*pg_comp_crc32c) (pg_crc32c crc, const void *data, size_t len) = no_checksum;

/* ---------- files ---------- */

static ShimFile *files;
static int	file_count;

void
shim_set_files(ShimFile *new_files, int count)
{
	files = new_files;
	file_count = count;
}

static ShimFile *
find_file(const char *path)
{
	const char *name = strrchr(path, '/');

	for (int i = 0; i < file_count; i++)
	{
		if (!files[i].removed && strcmp(files[i].name, name != NULL ? name + 1 : path) == 0)
			return &files[i];
	}
	return NULL;
}

File
PathNameOpenFile(const char *fileName, int fileFlags)
{
	ShimFile   *file = find_file(fileName);

	errno = ENOENT;
	return file != NULL ? file - files : -1;
}

void
FileClose(File file)
{
}

int
FileRead(File file, char *buffer, int amount, off_t offset, uint32 wait_event_info)
{
	int			n = offset >= files[file].size ? 0 : Min(amount, files[file].size - offset);

	if (amount < 0 || offset < 0)
		abort();
	memcpy(buffer, files[file].data + offset, n);
	return n;
}

off_t
FileSize(File file)
{
	return files[file].size;
}

int
FileTruncate(File file, off_t offset, uint32 wait_event_info)
{
	if (offset < 0 || offset > files[file].size)
		abort();
	files[file].size = offset;
	return 0;
}

int
FileSync(File file, uint32 wait_event_info)
{
	return 0;
}

int
FileWrite(File file, char *buffer, int amount, off_t offset, uint32 wait_event_info)
{
	abort();
}

void
fsync_fname(const char *fname, bool isdir)
{
}

int
stat(const char *path, struct stat *st)
{
	ShimFile   *file = find_file(path);

	if (file == NULL)
		return -1;
	st->st_size = file->size;
	return 0;
}

int
unlink(const char *path)
{
	ShimFile   *file = find_file(path);

	if (file != NULL)
		file->removed = true;
	return 0;
}

static int	next_entry;

DIR *
AllocateDir(const char *dirname)
{
	next_entry = 0;
	return (DIR *) &next_entry;
}

struct dirent *
ReadDir(DIR *dir, const char *dirname)
{
	static struct dirent entry;

	while (next_entry < file_count && files[next_entry].removed)
		next_entry++;
	if (next_entry >= file_count)
		return NULL;
	strlcpy(entry.d_name, files[next_entry++].name, sizeof(entry.d_name));
	return &entry;
}

int
FreeDir(DIR *dir)
{
	return 0;
}

/* ---------- what only the leader's half of a file needs ---------- */

Oid
getBaseType(Oid typid)
{
	abort();
}

Oid
get_element_type(Oid typid)
{
	abort();
}

HeapTuple
SearchSysCache1(int cacheId, Datum key1)
{
	abort();
}

void
ReleaseSysCache(HeapTuple tuple)
{
	abort();
}

void
appendBinaryStringInfo(StringInfo str, const char *data, int datalen)
{
	abort();
}

void
appendStringInfoChar(StringInfo str, char ch)
{
	abort();
}

void
enlargeStringInfo(StringInfo str, int needed)
{
	abort();
}
