/*
 * change.h
 *		Row changes and relation descriptions as bytes: what frames carry.
 *
 * All integers are in network byte order; strings are length (2 bytes) and
 * bytes, without a zero.  relation_desc.c and change_encode.c have the exact
 * layout.
 *
 * A column's values travel in one of four forms, decided by the decoder once
 * per relation and told in its description:
 *
 *	COLUMN_FIXED	the bytes of a fixed-width datum, attlen of them (built-in types
 *					in which every bit pattern is a valid value)
 *	COLUMN_VARLENA	the contents of text, varchar, bpchar, bytea, xml: length and bytes,
 *					detoasted and without the varlena header
 *	COLUMN_SEND		the output of the type's send function: other built-in types
 *	COLUMN_TEXT		the output of the type's output function: everything else
 */
#ifndef FANOUT_CHANGE_H
#define FANOUT_CHANGE_H

#include "pg_fanout.h"

#include "lib/stringinfo.h"
#include "utils/relcache.h"

#define COLUMN_FIXED	'f'
#define COLUMN_VARLENA	'v'
#define COLUMN_SEND		's'
#define COLUMN_TEXT		't'

typedef struct ColumnDesc
{
	char	   *name;
	Oid			typid;			/* InvalidOid unless a built-in type */
	int32		typmod;
	int16		typlen;
	char		form;			/* COLUMN_... */
	bool		is_key;			/* part of the replica identity */
} ColumnDesc;

typedef struct RelationDesc
{
	Oid			relid;			/* on the leader: names the relation in changes */
	char	   *nspname;
	char	   *relname;
	char		replident;		/* pg_class.relreplident */
	int			natts;			/* published columns, in the leader's order */
	ColumnDesc *columns;
} RelationDesc;

extern void relation_desc_encode(StringInfo buf, const RelationDesc *desc);

/* Decode into the current memory context; fails with ERRCODE_DATA_CORRUPTED. */
extern RelationDesc *relation_desc_decode(const char *data, Size len);

/* ---------- one value of a decoded row ---------- */

typedef enum ValueKind
{
	VALUE_NULL,
	VALUE_UNCHANGED,			/* a TOASTed column that the UPDATE left alone */
	VALUE_PRESENT
} ValueKind;

typedef struct ColumnValue
{
	const char *data;			/* points into the frame, not aligned, no zero at the end */
	uint32		len;
	ValueKind	kind;
} ColumnValue;

typedef enum ChangeOp
{
	CHANGE_INSERT = 'I',
	CHANGE_UPDATE = 'U',
	CHANGE_DELETE = 'D',
	CHANGE_TRUNCATE = 'T',
	CHANGE_SEQUENCE = 'Q',		/* a sequence's value */
	CHANGE_STATEMENT = 'S',		/* a schema change; statement.h has what is in it */
	CHANGE_TABLES = 'P',		/* the stream's tables from here on; table_list.h */
	CHANGE_UNCARRIED = 'X'		/* a row can't be sent: the table must be copied again */
} ChangeOp;

typedef enum OldRowKind
{
	OLD_NONE = 0,
	OLD_KEY = 'K',				/* only replica identity columns are present */
	OLD_FULL = 'O'
} OldRowKind;

#define TRUNCATE_CASCADE		0x01
#define TRUNCATE_RESTART_IDENTITY 0x02
#define TRUNCATE_PARTS			0x04	/* not of the tables themselves, but of partitions published as them */

typedef struct SequenceValue
{
	NameData	nspname;
	NameData	relname;
	int64		value;
	bool		is_called;		/* else the value is the next one */
} SequenceValue;

/* ---------- encoding (decoder) ---------- */

/* One row to encode, in the order of desc->columns. */
typedef struct RowValues
{
	const Datum *values;
	const bool *isnull;
	const bool *unchanged;		/* NULL: none */
} RowValues;

/* No change of a row is larger, so that it fits into a frame. */
#define CHANGE_MAX_SIZE	(MaxAllocSize - 2048)

/* How to turn the values of one relation into bytes; made once per description. */
typedef struct RowEncoder RowEncoder;

extern RowEncoder *row_encoder_make(const RelationDesc *desc, const Oid *typids);

/* Does it call functions that may fail, or make of a small value a large one? */
extern bool row_encoder_may_fail(const RowEncoder *encoder);

/* After an error: free what functions had left. */
extern void row_encoder_reset(RowEncoder *encoder);
extern void change_encode_insert(StringInfo buf, RowEncoder *encoder, const RowValues *newrow);
extern void change_encode_update(StringInfo buf, RowEncoder *encoder, OldRowKind oldkind,
								 const RowValues *oldrow, const RowValues *newrow);
extern void change_encode_delete(StringInfo buf, RowEncoder *encoder, OldRowKind oldkind,
								 const RowValues *oldrow);
extern void change_encode_truncate(StringInfo buf, int nrels, const Oid *relids, uint8 flags);
extern void change_encode_sequence(StringInfo buf, const SequenceValue *sequence);

extern void change_encode_uncarried(StringInfo buf, Oid relid, const char *reason);

/* CHANGE_STATEMENT or CHANGE_TABLES, whose contents are encoded already. */
extern void change_encode_body(StringInfo buf, ChangeOp op, const char *body, uint32 len);

/* Are its values oids of the catalogs, reg*, which travel as names? */
extern bool type_names_object(Oid typid);

/*
 * The form for a column of that type.  For a domain it is the form of its base
 * type, and ColumnDesc.typid must be the base type then.
 */
extern char column_form_for_type(Oid typid);

/*
 * Is it xml, or an array of it?  Its send function makes a declaration of the encoding
 * part of the value, and its output function leaves out those that are one.
 */
extern bool column_type_is_xml(Oid typid);

/* ---------- decoding (applier) ---------- */

typedef struct Change
{
	ChangeOp	op;
	Oid			relid;			/* I, U, D, X */
	OldRowKind	oldkind;		/* U, D */
	int			natts;
	ColumnValue *oldrow;		/* natts entries, valid when oldkind != OLD_NONE */
	ColumnValue *newrow;		/* natts entries; I, U */
	uint8		flags;			/* T */
	int			nrels;			/* T */
	Oid		   *relids;			/* T */
	SequenceValue sequence;		/* Q */
	const char *body;			/* S, P, X: points into the frame */
	uint32		body_len;
	int			row_capacity;	/* private to change_decode() */
	int			rel_capacity;
} Change;

static inline bool
change_is_of_row(const Change *change)
{
	return change->op == CHANGE_INSERT || change->op == CHANGE_UPDATE ||
		change->op == CHANGE_DELETE;
}

/* Finds the description for a relation named in a change; NULL: never described. */
typedef const RelationDesc *(*RelationDescLookup) (void *arg, Oid relid);

/*
 * Decode the change at *pos of a frame's payload and advance *pos.  Arrays of
 * *change are kept and grown between calls (start with a zeroed Change; they
 * live in the context that was current at the first call that needed them).
 * Fails with ERRCODE_DATA_CORRUPTED; never reads past end.
 */
extern void change_decode(const char **pos, const char *end, RelationDescLookup lookup,
						  void *arg, Change *change);

/*
 * Check the bytes of a COLUMN_FIXED value: a few such types (boolean, dates and
 * times) have bytes that are no value.  Fails with ERRCODE_DATA_CORRUPTED.
 */
extern void column_fixed_check(Oid typid, const char *data);

#endif							/* FANOUT_CHANGE_H */
