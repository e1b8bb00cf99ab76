/*
 * shim.h
 *		As much of a server as src/log and src/wire need, for fuzzing them.
 */
#ifndef SHIM_H
#define SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct ShimFile
{
	char		name[64];
	const uint8_t *data;
	size_t		size;
	bool		removed;
} ShimFile;

/* Call it; an error ends it.  What it allocated is freed. */
extern void shim_run(void (*function) (const uint8_t *, size_t), const uint8_t *data, size_t size);

/* The files there are, in every directory. */
extern void shim_set_files(ShimFile *files, int count);

/* libFuzzer's. */
extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif							/* SHIM_H */
