/*
 * registry_file.c
 *		The file that holds a stream's registered followers over a restart.
 *
 * It is small and always written whole: to a temporary file, which then takes
 * its place.  registry.c sees to it that one process does so at a time.  It also holds
 * the eras that the followers' positions may be of (era.c), and which instances were dropped.
 */
#include "postgres.h"

#include <sys/stat.h>
#include <unistd.h>

#include "port/pg_crc32c.h"
#include "storage/fd.h"

#include "hints.h"
#include "leader/registry_file.h"

#define REGISTRY_MAGIC		0x46525247	/* "FRRG" */
#define REGISTRY_VERSION	4

/*
 * The file is a header, era_count eras, dropped_count instances and count entries, in the
 * server's byte order.
 */
typedef struct RegistryHeader
{
	uint32		magic;
	uint32		version;
	uint32		count;
	uint32		timeline;		/* which history the positions are of */
	uint64		system_identifier;
	uint32		era_count;
	uint32		dropped_count;
	pg_crc32c	crc;			/* of the header up to here and of what follows */
} RegistryHeader;

/* Where in the file's contents the parts behind the header are. */
typedef struct RegistryParts
{
	const Era  *eras;
	const pg_uuid_t *dropped;
	RegistryEntry *entries;
} RegistryParts;

static void
registry_path(char *path, const LeaderStream *stream, const char *suffix)
{
	char		dir[MAXPGPATH];

	hint_path(dir, HINT_STREAM, stream->dboid, stream->id);
	snprintf(path, MAXPGPATH, "%s/registry%s", dir, suffix);
}

static pg_crc32c
registry_crc(const RegistryHeader *header, const RegistryParts *parts)
{
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, header, offsetof(RegistryHeader, crc));
	COMP_CRC32C(crc, parts->eras, sizeof(Era) * header->era_count);
	COMP_CRC32C(crc, parts->dropped, sizeof(pg_uuid_t) * header->dropped_count);
	COMP_CRC32C(crc, parts->entries, sizeof(RegistryEntry) * header->count);
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
registry_file_write(const LeaderStream *stream, RegistryEntry *entries, uint32 count)
{
	RegistryHeader header = {
		.magic = REGISTRY_MAGIC,
		.version = REGISTRY_VERSION,
		.count = count,
		.timeline = stream->registry_timeline,
		.system_identifier = stream->registry_system,
		.era_count = stream->era_count,
		.dropped_count = stream->dropped_count
	};
	RegistryParts parts = {
		.eras = stream->eras, .dropped = stream->dropped, .entries = entries
	};
	char		path[MAXPGPATH];
	char		temp_path[MAXPGPATH];
	int			fd;

	header.crc = registry_crc(&header, &parts);
	registry_path(path, stream, "");
	registry_path(temp_path, stream, ".tmp");

	fd = OpenTransientFile(temp_path, O_CREAT | O_TRUNC | O_WRONLY | PG_BINARY);
	if (fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create file \"%s\": %m", temp_path)));
	write_or_fail(fd, &header, sizeof(header), temp_path);
	write_or_fail(fd, stream->eras, sizeof(Era) * header.era_count, temp_path);
	write_or_fail(fd, stream->dropped, sizeof(pg_uuid_t) * header.dropped_count, temp_path);
	write_or_fail(fd, entries, sizeof(RegistryEntry) * count, temp_path);
	if (CloseTransientFile(fd) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not close file \"%s\": %m", temp_path)));
	(void) durable_rename(temp_path, path, ERROR);
}

bool
registry_file_exists(const LeaderStream *stream)
{
	char		path[MAXPGPATH];

	registry_path(path, stream, "");
	return access(path, F_OK) == 0;
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

/* Find the parts; false when the contents are not what a file of ours has. */
static bool
parse_file(char *data, Size size, RegistryHeader *header, RegistryParts *parts)
{
	if (size < sizeof(*header))
		return false;
	memcpy(header, data, sizeof(*header));
	if (header->magic != REGISTRY_MAGIC || header->version != REGISTRY_VERSION ||
		header->era_count > MAX_ERAS || header->dropped_count > MAX_DROPPED ||
		size != sizeof(*header) + sizeof(Era) * header->era_count +
		sizeof(pg_uuid_t) * header->dropped_count + sizeof(RegistryEntry) * (Size) header->count)
		return false;
	parts->eras = (Era *) (data + sizeof(*header));
	parts->dropped = (pg_uuid_t *) (parts->eras + header->era_count);
	parts->entries = (RegistryEntry *) (parts->dropped + header->dropped_count);
	return EQ_CRC32C(header->crc, registry_crc(header, parts));
}

RegistryEntry *
registry_file_read(LeaderStream *stream, uint32 *count)
{
	char		path[MAXPGPATH];
	char	   *data;
	Size		size;
	RegistryHeader header;
	RegistryParts parts;

	*count = 0;
	registry_path(path, stream, "");
	data = read_whole_file(path, &size);
	if (data == NULL)
		return NULL;

	if (parse_file(data, size, &header, &parts))
	{
		*count = header.count;
		stream->era_count = header.era_count;
		memcpy(stream->eras, parts.eras, sizeof(Era) * header.era_count);
		stream->dropped_count = header.dropped_count;
		memcpy(stream->dropped, parts.dropped, sizeof(pg_uuid_t) * header.dropped_count);
		stream->registry_timeline = header.timeline;
		stream->registry_system = header.system_identifier;
		return parts.entries;
	}
	ereport(WARNING,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("file \"%s\" is damaged: the followers of stream \"%s\" are forgotten",
					path, NameStr(stream->name)),
			 errdetail("They copy again when they come back.")));
	return NULL;
}
