/*
 * history.c
 *		The last hour of each followed stream: fanout.staleness_history.
 *
 * The launcher, which runs also while a follower's worker does not, samples
 * the staleness and the lag in bytes of every followed stream ten times a second.
 * At the end of a second it writes one row, the median, the 95th percentile and
 * the maximum of the samples, into a ring in shared memory.
 *
 * Only the launcher writes; it holds history->lock exclusively for the copy of
 * one row.  Readers copy a ring under the shared lock.  A ring is told by
 * (dboid, id) of its stream, and starts anew when its record is taken by
 * another.
 */
#include "postgres.h"

#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "follower/follower.h"
#include "follower/history.h"

PG_FUNCTION_INFO_V1(fanout_history_state);

#define HISTORY_SECONDS		3600
#define SAMPLES_PER_SECOND	(1000 / HISTORY_TICK_MS)

/* What is unknown is worse than any other. */
#define UNKNOWN		PG_INT64_MAX

typedef struct Summary
{
	int64		p50;
	int64		p95;
	int64		max;
} Summary;

typedef struct HistoryRow
{
	TimestampTz at;				/* end of the second */
	Summary		staleness_us;
	Summary		lag_bytes;
} HistoryRow;

typedef struct HistoryRing
{
	Oid			dboid;
	int32		id;
	uint64		next;			/* rows written so far */
	HistoryRow	rows[HISTORY_SECONDS];
} HistoryRing;

typedef struct History
{
	LWLock		lock;
	HistoryRing rings[FLEXIBLE_ARRAY_MEMBER];	/* as FollowedStreams */
} History;

static History *history;

/* The launcher's samples of the running second. */
typedef struct Samples
{
	int			count;
	int64		staleness_us[SAMPLES_PER_SECOND];
	int64		lag_bytes[SAMPLES_PER_SECOND];
} Samples;

static Samples *samples;

Size
history_shmem_size(void)
{
	return add_size(offsetof(History, rings), mul_size(sizeof(HistoryRing), fanout_max_streams));
}

void
history_shmem_init(void)
{
	bool		found;

	history = ShmemInitStruct("pg_fanout history", history_shmem_size(), &found);
	if (!found)
	{
		LWLockInitialize(&history->lock, Fanout->lock->tranche);
		for (int i = 0; i < fanout_max_streams; i++)
		{
			history->rings[i].dboid = InvalidOid;
			history->rings[i].next = 0;
		}
	}
}

/* ---------- writing ---------- */

static int
compare_int64(const void *a, const void *b)
{
	int64		left = *(const int64 *) a;
	int64		right = *(const int64 *) b;

	return (left > right) - (left < right);
}

/* Summarize count values; sorts them. */
static Summary
summarize(int64 *values, int count)
{
	Summary		summary;

	qsort(values, count, sizeof(int64), compare_int64);
	summary.p50 = values[(count - 1) / 2];
	summary.p95 = values[(count - 1) * 95 / 100];
	summary.max = values[count - 1];
	return summary;
}

static void
write_row(int index, Samples *sample)
{
	HistoryRing *ring = &history->rings[index];
	FollowedStream *stream = &FollowedStreams[index];
	HistoryRow	row;

	row.at = GetCurrentTimestamp();
	row.staleness_us = summarize(sample->staleness_us, sample->count);
	row.lag_bytes = summarize(sample->lag_bytes, sample->count);

	LWLockAcquire(&history->lock, LW_EXCLUSIVE);
	if (ring->dboid != stream->dboid || ring->id != stream->id)
	{
		ring->dboid = stream->dboid;
		ring->id = stream->id;
		ring->next = 0;
	}
	ring->rows[ring->next++ % HISTORY_SECONDS] = row;
	LWLockRelease(&history->lock);
}

static void
take_sample(int index)
{
	Samples    *sample = &samples[index];
	PositionsCopy positions;
	FollowedStream *stream = &FollowedStreams[index];
	int64		staleness;
	uint64		lag;
	bool		known = tables_are_settled(stream) &&
		positions_staleness(stream, NULL, &staleness);

	positions_read(stream, &positions);
	sample->staleness_us[sample->count] = known ? staleness : UNKNOWN;
	sample->lag_bytes[sample->count] = positions_lag(&positions, &lag) ? lag : UNKNOWN;
	if (++sample->count == SAMPLES_PER_SECOND)
	{
		write_row(index, sample);
		sample->count = 0;
	}
}

void
history_tick(void)
{
	if (samples == NULL)
		samples = MemoryContextAllocZero(TopMemoryContext,
										 sizeof(Samples) * fanout_max_streams);
	for (int i = 0; i < fanout_max_streams; i++)
	{
		if (FollowedStreams[i].in_use)
			take_sample(i);
		else
			samples[i].count = 0;
	}
}

/* ---------- reading ---------- */

static Datum
interval_from_us(int64 us, bool *isnull)
{
	Interval   *interval = palloc0(sizeof(Interval));

	*isnull = us == UNKNOWN;
	interval->time = *isnull ? 0 : us;
	return IntervalPGetDatum(interval);
}

static Datum
bytes_datum(int64 bytes, bool *isnull)
{
	*isnull = bytes == UNKNOWN;
	return Int64GetDatum(bytes);
}

#define HISTORY_COLUMNS	8

static void
put_row(ReturnSetInfo *rsinfo, const NameData *stream, const HistoryRow *row)
{
	Datum		values[HISTORY_COLUMNS];
	bool		nulls[HISTORY_COLUMNS] = {false};

	values[0] = NameGetDatum(stream);
	values[1] = TimestampTzGetDatum(row->at);
	values[2] = interval_from_us(row->staleness_us.p50, &nulls[2]);
	values[3] = interval_from_us(row->staleness_us.p95, &nulls[3]);
	values[4] = interval_from_us(row->staleness_us.max, &nulls[4]);
	values[5] = bytes_datum(row->lag_bytes.p50, &nulls[5]);
	values[6] = bytes_datum(row->lag_bytes.p95, &nulls[6]);
	values[7] = bytes_datum(row->lag_bytes.max, &nulls[7]);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

static void
put_ring(ReturnSetInfo *rsinfo, const NameData *stream, const HistoryRing *ring)
{
	uint64		first = ring->next > HISTORY_SECONDS ? ring->next - HISTORY_SECONDS : 0;

	for (uint64 i = first; i < ring->next; i++)
		put_row(rsinfo, stream, &ring->rows[i % HISTORY_SECONDS]);
}

/* history_state() RETURNS SETOF record: the rows of fanout.staleness_history */
Datum
fanout_history_state(PG_FUNCTION_ARGS)
{
	HistoryRing *copy;

	fanout_require_preload();
	InitMaterializedSRF(fcinfo, 0);
	copy = palloc(sizeof(HistoryRing));

	for (int i = 0; i < fanout_max_streams; i++)
	{
		FollowedStream *stream = &FollowedStreams[i];
		NameData	name;

		SpinLockAcquire(&stream->mutex);
		name = stream->stream;
		SpinLockRelease(&stream->mutex);

		LWLockAcquire(&history->lock, LW_SHARED);
		memcpy(copy, &history->rings[i], sizeof(HistoryRing));
		LWLockRelease(&history->lock);

		if (stream->in_use && stream->dboid == MyDatabaseId &&
			copy->dboid == stream->dboid && copy->id == stream->id)
			put_ring((ReturnSetInfo *) fcinfo->resultinfo, &name, copy);
	}
	return (Datum) 0;
}
