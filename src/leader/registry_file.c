/*
 * registry_file.c
 *		The file that holds a stream's registered followers over a restart.
 *
 * It is small and always written whole: to a temporary file, which then takes
 * its place.  registry.c sees to it that one process does so at a time.  It also holds
 * the eras that the followers' positions may be of (era.c).
 */
#include "postgres.h"

#include <sys/stat.h>
#include <unistd.h>

#include "port/pg_crc32c.h"
#include "storage/fd.h"

#include "hints.h"
#include "leader/registry_file.h"

#define REGISTRY_MAGIC		0x46525247	/* "FRRG" */
#define REGISTRY_VERSION	3

/* The file is a header, era_count eras and count entries, in the server's byte order. */
typedef struct RegistryHeader
{
	uint32		magic;
	uint32		version;
	uint32		count;
	uint32		timeline;		/* which history the positions are of */
	uint64		system_identifier;
	uint32		era_count;
	pg_crc32c	crc;			/* of the header up to here and of what follows */
} RegistryHeader;

static void
registry_path(char *path, const LeaderStream *stream, const char *suffix)
{
	char		dir[MAXPGPATH];

	hint_path(dir, HINT_STREAM, stream->dboid, stream->id);
	snprintf(path, MAXPGPATH, "%s/registry%s", dir, suffix);
}

static pg_crc32c
registry_crc(const RegistryHeader *header, const Era *eras, const RegistryEntry *entries)
{
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, header, offsetof(RegistryHeader, crc));
	COMP_CRC32C(crc, eras, sizeof(Era) * header->era_count);
	COMP_CRC32C(crc, entries, sizeof(RegistryEntry) * header->count);
	FIN_CRC32C(crc);
	return crc;
}

static void
write_or_fail(int fd, const void *data, Size len, const char *path)
{
	errno = 0;
	if (write(fd, data, len) != len)
	{
		if (errno == 0)
			errno = ENOSPC;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", path)));
	}
}

/* The rename makes the new file durable. */
void
registry_file_write(const LeaderStream *stream, const RegistryEntry *entries, uint32 count)
{
	RegistryHeader header = {
		.magic = REGISTRY_MAGIC,
		.version = REGISTRY_VERSION,
		.count = count,
		.timeline = stream->registry_timeline,
		.system_identifier = stream->registry_system,
		.era_count = stream->era_count
	};
	char		path[MAXPGPATH];
	char		temp_path[MAXPGPATH];
	int			fd;

	header.crc = registry_crc(&header, stream->eras, entries);
	registry_path(path, stream, "");
	registry_path(temp_path, stream, ".tmp");

	fd = OpenTransientFile(temp_path, O_CREAT | O_TRUNC | O_WRONLY | PG_BINARY);
	if (fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create file \"%s\": %m", temp_path)));
	write_or_fail(fd, &header, sizeof(header), temp_path);
	write_or_fail(fd, stream->eras, sizeof(Era) * header.era_count, temp_path);
	write_or_fail(fd, entries, sizeof(RegistryEntry) * count, temp_path);
	if (CloseTransientFile(fd) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not close file \"%s\": %m", temp_path)));
	(void) durable_rename(temp_path, path, ERROR);
}

/* Whole contents of the file; NULL when there is none. */
static char *
read_whole_file(const char *path, Size *size)
{
	int			fd = OpenTransientFile(path, O_RDONLY | PG_BINARY);
	struct stat st;
	char	   *data;

	if (fd < 0 && errno == ENOENT)
		return NULL;
	if (fd < 0 || fstat(fd, &st) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", path)));
	data = palloc(st.st_size + 1);
	*size = st.st_size;
	if (read(fd, data, *size) != *size)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read file \"%s\": %m", path)));
	CloseTransientFile(fd);
	return data;
}

RegistryEntry *
registry_file_read(LeaderStream *stream, uint32 *count)
{
	char		path[MAXPGPATH];
	char	   *data;
	Size		size;
	RegistryHeader header;

	*count = 0;
	registry_path(path, stream, "");
	data = read_whole_file(path, &size);
	if (data == NULL)
		return NULL;

	if (size >= sizeof(header))
	{
		Era		   *eras = (Era *) (data + sizeof(header));
		RegistryEntry *entries;

		memcpy(&header, data, sizeof(header));
		entries = (RegistryEntry *) (eras + Min(header.era_count, MAX_ERAS));
		if (header.magic == REGISTRY_MAGIC && header.version == REGISTRY_VERSION &&
			header.era_count <= MAX_ERAS &&
			size == sizeof(header) + sizeof(Era) * header.era_count +
			sizeof(RegistryEntry) * (Size) header.count &&
			EQ_CRC32C(header.crc, registry_crc(&header, eras, entries)))
		{
			*count = header.count;
			stream->era_count = header.era_count;
			memcpy(stream->eras, eras, sizeof(Era) * header.era_count);
			stream->registry_timeline = header.timeline;
			stream->registry_system = header.system_identifier;
			return entries;
		}
	}
	ereport(WARNING,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("file \"%s\" is damaged: the followers of stream \"%s\" are forgotten",
					path, NameStr(stream->name)),
			 errdetail("They copy again when they come back.")));
	return NULL;
}
