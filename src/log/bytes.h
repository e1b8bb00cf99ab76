/*
 * bytes.h
 *		Integers and names as bytes.
 *
 * Everything the log stores, and what COPY sends, is in network byte order and not aligned.  A
 * ByteReader walks over bytes that nobody has checked yet: each read fails
 * with ERRCODE_DATA_CORRUPTED instead of leaving [pos, end).
 */
#ifndef FANOUT_BYTES_H
#define FANOUT_BYTES_H

#include "postgres.h"

#include "libpq/pqformat.h"
#include "port/pg_bswap.h"

static inline uint32
get_uint32(const char *p)
{
	uint32		v;

	memcpy(&v, p, sizeof(v));
	return pg_ntoh32(v);
}

static inline uint64
get_uint64(const char *p)
{
	uint64		v;

	memcpy(&v, p, sizeof(v));
	return pg_ntoh64(v);
}

/* The put functions return the byte behind what they wrote. */
static inline char *
put_uint32(char *p, uint32 v)
{
	v = pg_hton32(v);
	memcpy(p, &v, sizeof(v));
	return p + sizeof(v);
}

static inline char *
put_uint64(char *p, uint64 v)
{
	v = pg_hton64(v);
	memcpy(p, &v, sizeof(v));
	return p + sizeof(v);
}

typedef struct ByteReader
{
	const char *pos;
	const char *end;
	const char *message;		/* primary message of the error */
} ByteReader;

/* Fail; detail is a whole sentence. */
static inline void
read_failed(const ByteReader *reader, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg_internal("%s", reader->message),
			 errdetail_internal("%s", detail)));
}

static inline const char *
read_bytes(ByteReader *reader, Size len)
{
	const char *data = reader->pos;

	if (unlikely((Size) (reader->end - data) < len))
		read_failed(reader, "It ends too early.");
	reader->pos += len;
	return data;
}

static inline uint8
read_uint8(ByteReader *reader)
{
	return (uint8) *read_bytes(reader, 1);
}

static inline uint16
read_uint16(ByteReader *reader)
{
	uint16		v;

	memcpy(&v, read_bytes(reader, sizeof(v)), sizeof(v));
	return pg_ntoh16(v);
}

static inline uint32
read_uint32(ByteReader *reader)
{
	return get_uint32(read_bytes(reader, sizeof(uint32)));
}

static inline uint64
read_uint64(ByteReader *reader)
{
	return get_uint64(read_bytes(reader, sizeof(uint64)));
}

/* A name is its length (2) and its bytes. */
static inline void
put_name(StringInfo buf, const char *name)
{
	Size		len = strlen(name);

	pq_sendint16(buf, len);
	appendBinaryStringInfo(buf, name, len);
}

static inline void
read_name(ByteReader *reader, Name name)
{
	uint16		len = read_uint16(reader);
	const char *data = read_bytes(reader, len);

	if (len == 0 || len >= NAMEDATALEN || memchr(data, '\0', len) != NULL)
		read_failed(reader, "A name is not valid.");
	memset(name, 0, sizeof(NameData));
	memcpy(NameStr(*name), data, len);
}

#endif							/* FANOUT_BYTES_H */
