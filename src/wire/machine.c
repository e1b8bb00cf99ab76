/*
 * machine.c
 *		What two servers must have in common to exchange raw datums.
 *
 * Byte order and word size decide how integers, floats and varlena headers
 * lie in memory, alignment how composite values do, and NAMEDATALEN how long a
 * name is.  Date and time types are integers in every supported version.
 */
#include "postgres.h"

#include "wire/machine.h"

const char *
machine_description(void)
{
#ifdef WORDS_BIGENDIAN
	const char *byte_order = "big-endian";
#else
	const char *byte_order = "little-endian";
#endif

	return psprintf("%s, %d-bit, alignment %d, names of %d bytes",
					byte_order, (int) sizeof(Datum) * 8, MAXIMUM_ALIGNOF, NAMEDATALEN);
}
