/*
 * registry_file.h
 *		The file that holds a stream's registered followers over a restart.
 */
#ifndef FANOUT_REGISTRY_FILE_H
#define FANOUT_REGISTRY_FILE_H

#include "leader/leader.h"

typedef struct RegistryEntry
{
	NameData	name;
	pg_uuid_t	instance;
	uint32		state;			/* RegistrationState, where streaming is stored as away */
	Oid			role;
	XLogRecPtr	applied_lsn;
	XLogRecPtr	durable_lsn;
	uint64		applied_seq;
	TimestampTz last_seen_at;
} RegistryEntry;

/* Replace the file's contents, durably; one process at a time. */
extern void registry_file_write(const LeaderStream *stream, RegistryEntry *entries, uint32 count);

extern bool registry_file_exists(const LeaderStream *stream);

/*
 * The file's entries, in the current memory context; none when there is no
 * file or, with a warning, when it is damaged.
 */
extern RegistryEntry *registry_file_read(LeaderStream *stream, uint32 *count);

#endif							/* FANOUT_REGISTRY_FILE_H */
