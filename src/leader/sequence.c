/*
 * sequence.c
 *		Values of sequences, into the stream.
 *
 * Logical decoding leaves sequences out: nextval() is not transactional.  But the
 * decoder reads every record of WAL, so it sees theirs (sequences_note()), and with
 * the next transaction that it writes to the log go the values that were seen
 * before that one's commit (sequences_take()).  A record names a file; which
 * sequence that is can only be told with the snapshot of a transaction, so records
 * wait for one.
 *
 * The server logs nextval() 32 values ahead (and what CACHE says), and that is
 * what the follower gets: at the moment a transaction is visible there, a
 * sequence is at or past every value the leader had handed out by its commit, and
 * no more than these 32 past what it has handed out or cached.
 *
 * What waits is in memory only.  So a decoder begins with the values of all
 * sequences as they are then; they may be ahead of the transaction they go with, and
 * decoding gets there.  For the same reason a copy takes values with the
 * logged ones added (fanout.stream_sequences()).
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/transam.h"
#include "access/xact.h"
#include "access/xlogreader.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_sequence.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "common/int.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "arrays.h"
#include "compat.h"
#include "leader/leader.h"
#include "leader/publication.h"
#include "leader/sequence.h"
#include "own_tables.h"
#include "transaction.h"

PG_FUNCTION_INFO_V1(fanout_stream_sequences);

/* The newest value of a sequence's file that is not in the log yet. */
typedef struct PendingSequence
{
	FanoutRelFile file;			/* hash key */
	int64		value;
	bool		is_called;
	TransactionId xid;			/* of the record; Invalid: read at the decoder's start */
	XLogRecPtr	lsn;
} PendingSequence;

/* Without the padding: a tuple does not have it. */
#define SEQUENCE_DATA_SIZE	(offsetof(FormData_pg_sequence_data, is_called) + sizeof(bool))

static HTAB *pending = NULL;	/* of PendingSequence; only a decoder has it */

static void
note_value(const FanoutRelFile *file, const FormData_pg_sequence_data *data,
		   TransactionId xid, XLogRecPtr lsn)
{
	PendingSequence *sequence = hash_search(pending, file, HASH_ENTER, NULL);

	sequence->value = data->last_value;
	sequence->is_called = data->is_called;
	sequence->xid = xid;
	sequence->lsn = lsn;
}

/* ---------- values as they are now ---------- */

/*
 * All sequences ($2), or those that belong to columns of the tables in these
 * publications ($1) and their partitions; publication_publishes() has the same rule.
 */
static const char *const sequences_query =
"WITH named AS ("
"    SELECT c.oid AS relid FROM pg_class c"
"    WHERE NOT $2 AND c.relkind IN ('r', 'p') AND EXISTS ("
"        SELECT FROM pg_publication p WHERE p.pubname = ANY ($1) AND (p.puballtables"
"            OR EXISTS (SELECT FROM pg_publication_rel r"
"                       WHERE r.prpubid = p.oid AND r.prrelid = c.oid)"
"            OR EXISTS (SELECT FROM pg_publication_namespace s"
"                       WHERE s.pnpubid = p.oid AND s.pnnspid = c.relnamespace)))"
"), tables AS ("
"    SELECT relid FROM named"
"    UNION SELECT t.relid FROM named, pg_partition_tree(named.relid) t"
") "
"SELECT c.oid, n.nspname, c.relname "
"FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
"WHERE c.relkind = 'S' AND c.relpersistence = 'p' AND n.nspname <> '" FANOUT_SCHEMA "'"
"  AND ($2 OR EXISTS (SELECT FROM pg_depend d JOIN tables t ON t.relid = d.refobjid"
"                     WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid"
"                       AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i'))) "
"ORDER BY n.nspname, c.relname";

/* Run the query in SPI's hands; publications NIL: all sequences. */
static void
select_sequences(List *publications)
{
	Oid			types[] = {NAMEARRAYOID, BOOLOID};
	Datum		values[] = {name_array_datum(publications), BoolGetDatum(publications == NIL)};

	if (SPI_execute_with_args(sequences_query, lengthof(types), types, values, NULL,
							  true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the sequences");
}

/* What nextval() has logged: no restart of the server hands out less than the next. */
static void
add_logged_ahead(Oid relid, FormData_pg_sequence_data *data)
{
	HeapTuple	tuple = SearchSysCache1(SEQRELID, ObjectIdGetDatum(relid));
	Form_pg_sequence form;
	int64		ahead;
	int64		value;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for sequence %u", relid);
	form = (Form_pg_sequence) GETSTRUCT(tuple);
	/* It never logs past its end; what wraps around (CYCLE) stays there, too. */
	if (pg_mul_s64_overflow(data->log_cnt, form->seqincrement, &ahead) ||
		pg_add_s64_overflow(data->last_value, ahead, &value))
		value = form->seqincrement > 0 ? form->seqmax : form->seqmin;
	if (data->is_called)
		data->last_value = Max(form->seqmin, Min(form->seqmax, value));
	ReleaseSysCache(tuple);
}

/* Read a sequence, which the caller has locked; false: it is gone. */
static bool
read_sequence(Oid relid, FanoutRelFile *file, FormData_pg_sequence_data *data)
{
	Relation	rel = try_relation_open(relid, NoLock);
	Buffer		buffer;
	Page		page;
	HeapTupleHeader tuple;

	if (rel == NULL)
		return false;
	*file = fanout_file_of(rel);
	buffer = ReadBuffer(rel, 0);
	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	page = BufferGetPage(buffer);
	tuple = (HeapTupleHeader) PageGetItem(page, PageGetItemId(page, FirstOffsetNumber));
	memcpy(data, (char *) tuple + tuple->t_hoff, SEQUENCE_DATA_SIZE);
	UnlockReleaseBuffer(buffer);
	relation_close(rel, NoLock);
	add_logged_ahead(relid, data);
	return true;
}

/*
 * stream_sequences(stream name)
 *
 * Not as any snapshot sees them: a sequence has no older values.
 */
Datum
fanout_stream_sequences(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	StreamRow  *row;
	OwnTables	state;

	fanout_require_preload();
	row = stream_row_require_grant(NameStr(*PG_GETARG_NAME(0)));
	InitMaterializedSRF(fcinfo, 0);

	own_tables_begin(&state);
	select_sequences(row->own_publication ? NIL : row->publications);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		Datum		values[4];
		bool		nulls[4] = {false};
		Oid			relid = DatumGetObjectId(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 1, &nulls[0]));
		FanoutRelFile file;
		FormData_pg_sequence_data data;

		LockRelationOid(relid, AccessShareLock);
		if (!read_sequence(relid, &file, &data))
			continue;
		values[0] = SPI_getbinval(tuple, SPI_tuptable->tupdesc, 2, &nulls[0]);
		values[1] = SPI_getbinval(tuple, SPI_tuptable->tupdesc, 3, &nulls[1]);
		values[2] = Int64GetDatum(data.last_value);
		values[3] = BoolGetDatum(data.is_called);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	own_tables_end(&state);
	return (Datum) 0;
}

/* ---------- the decoder's side ---------- */

/* A sequence that somebody is about to alter or drop is not worth waiting for. */
static void
note_all_sequences(void)
{
	OwnTables	state;

	own_tables_begin(&state);
	select_sequences(NIL);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;
		Oid			relid = DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[i],
														   SPI_tuptable->tupdesc, 1, &isnull));
		FanoutRelFile file;
		FormData_pg_sequence_data data;

		CHECK_FOR_INTERRUPTS();
		if (!ConditionalLockRelationOid(relid, AccessShareLock))
			continue;
		if (read_sequence(relid, &file, &data))
			note_value(&file, &data, InvalidTransactionId, GetXLogInsertRecPtr());
		UnlockRelationOid(relid, AccessShareLock);
	}
	own_tables_end(&state);
}

void
sequences_start(void)
{
	HASHCTL		ctl = {.keysize = sizeof(FanoutRelFile), .entrysize = sizeof(PendingSequence),
	.hcxt = CurrentMemoryContext};
	MemoryContext context = CurrentMemoryContext;

	pending = hash_create("pg_fanout sequences", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	fanout_start_transaction();
	PushActiveSnapshot(GetTransactionSnapshot());
	note_all_sequences();
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
}

void
sequences_note(XLogReaderState *record)
{
	const char *data = XLogRecGetData(record);
	Size		len = XLogRecGetDataLen(record);
	const char *tuple = data + sizeof(xl_seq_rec);
	FormData_pg_sequence_data value;
	FanoutRelFile file;
	uint8		hoff;

	if (XLogRecGetRmid(record) != RM_SEQ_ID ||
		(XLogRecGetInfo(record) & ~XLR_INFO_MASK) != XLOG_SEQ_LOG)
		return;
	XLogRecGetBlockTag(record, 0, &file, NULL, NULL);
	if (fanout_file_database(file) != MyDatabaseId || len < sizeof(xl_seq_rec) + SizeofHeapTupleHeader)
		return;

	/* The tuple is not aligned. */
	memcpy(&hoff, tuple + offsetof(HeapTupleHeaderData, t_hoff), sizeof(hoff));
	if (len < sizeof(xl_seq_rec) + hoff + SEQUENCE_DATA_SIZE)
		elog(ERROR, "WAL record of a sequence is too short at %X/%X",
			 LSN_FORMAT_ARGS(record->ReadRecPtr));
	memcpy(&value, tuple + hoff, SEQUENCE_DATA_SIZE);
	note_value(&file, &value, XLogRecGetXid(record), record->ReadRecPtr);
}

/* Is it of a table that the publications publish? */
static bool
is_owned_by_published(Oid relid)
{
	Oid			owner;
	int32		column;
	Relation	rel;
	bool		result;

	if (!sequenceIsOwned(relid, DEPENDENCY_AUTO, &owner, &column) &&
		!sequenceIsOwned(relid, DEPENDENCY_INTERNAL, &owner, &column))
		return false;
	rel = RelationIdGetRelation(owner);
	if (!RelationIsValid(rel))
		return false;
	result = publication_publishes(rel);
	RelationClose(rel);
	return result;
}

/* NULL: it is not in the stream. */
static SequenceValue *
describe_sequence(const PendingSequence *sequence, Oid relid, const StreamRow *stream)
{
	SequenceValue *value;
	Oid			schema = get_rel_namespace(relid);

	if (get_rel_relkind(relid) != RELKIND_SEQUENCE ||
		get_rel_persistence(relid) != RELPERSISTENCE_PERMANENT ||
		schema == get_namespace_oid(FANOUT_SCHEMA, true))
		return NULL;
	if (!stream->own_publication && !is_owned_by_published(relid))
		return NULL;
	value = palloc(sizeof(SequenceValue));
	namestrcpy(&value->nspname, get_namespace_name(schema));
	namestrcpy(&value->relname, get_rel_name(relid));
	value->value = sequence->value;
	value->is_called = sequence->is_called;
	return value;
}

/*
 * A file that no snapshot will show any more: it was replaced or dropped, or the
 * transaction that made it was undone.
 */
static bool
is_gone(const PendingSequence *sequence, TransactionId xmin, XLogRecPtr lsn)
{
	if (!TransactionIdIsValid(sequence->xid))
		return sequence->lsn < lsn;
	return TransactionIdPrecedes(sequence->xid, xmin);
}

List *
sequences_take(const StreamRow *stream, TransactionId xmin, XLogRecPtr lsn)
{
	List	   *values = NIL;
	HASH_SEQ_STATUS status;
	PendingSequence *sequence;

	if (hash_get_num_entries(pending) == 0)
		return NIL;
	hash_seq_init(&status, pending);
	while ((sequence = hash_seq_search(&status)) != NULL)
	{
		Oid			relid = fanout_relid_of_file(sequence->file);
		SequenceValue *value;

		if (!OidIsValid(relid) && !is_gone(sequence, xmin, lsn))
			continue;
		value = OidIsValid(relid) ? describe_sequence(sequence, relid, stream) : NULL;
		if (value != NULL)
			values = lappend(values, value);
		hash_search(pending, &sequence->file, HASH_REMOVE, NULL);
	}
	return values;
}
