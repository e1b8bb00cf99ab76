/*
 * log.c
 *		Fuzz the reader and the recovery of the change log: the input is the bytes of a
 *		segment, of two when the first byte says where the second begins.
 */
#include "postgres.h"

#include "log/segment.h"

#include "shim.h"

/* A system identifier, timeline and stream id that fit on a page. */
static const LogIdentity identity = {.system_identifier = 1, .timeline = 1, .stream_id = 1};

static ShimFile segments[2];

static void
make_segments(const uint8_t *data, size_t size)
{
	size_t		first = size > 0 ? Min((size_t) data[0] * 8, size - 1) : 0;

	shim_set_files(segments, 2);
	for (int i = 0; i < 2; i++)
		snprintf(segments[i].name, sizeof(segments[i].name), "%016X.seg", i + 1);
	segments[0].data = data + Min(size, 1);
	segments[0].size = first;
	segments[1].data = segments[0].data + first;
	segments[1].size = size > 0 ? size - 1 - first : 0;
	segments[0].removed = segments[1].removed = false;
}

static void
read_log(const uint8_t *data, size_t size)
{
	LogEnd		end = {.generation = 1, .segno = 2, .offset = segments[1].size};
	LogReader  *reader = log_reader_open("log", &identity);
	XLogRecPtr	lsn = 0;
	const char *run;
	Size		len;

	if (!log_reader_seek(reader, 16, &end))
		return;
	while ((run = log_reader_next(reader, &end, 4096, &len, &lsn)) != NULL)
	{
		for (Size at = 0; at < len; at++)
			(void) ((const volatile char *) run)[at];
	}
	log_reader_close(reader);
}

static void
recover(const uint8_t *data, size_t size)
{
	LogRecovery recovery;

	log_recover("log", &identity, 16, false, size % 2 == 0, &recovery);
	if (recovery.segments != NIL && recovery.end.lsn < 16)
		abort();
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	make_segments(data, size);
	shim_run(read_log, data, size);
	make_segments(data, size);
	shim_run(recover, data, size);
	return 0;
}
