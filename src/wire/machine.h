/*
 * machine.h
 *		What two servers must have in common to exchange raw datums.
 */
#ifndef FANOUT_MACHINE_H
#define FANOUT_MACHINE_H

#include "pg_fanout.h"

/*
 * A text that is equal on servers whose fixed-width types and varlenas have the
 * same bytes.  Encodings are not part of it.
 */
extern const char *machine_description(void);

#endif							/* FANOUT_MACHINE_H */
