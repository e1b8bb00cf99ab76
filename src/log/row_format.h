/*
 * row_format.h
 *		Flags of an encoded row (change_encode.c has the layout); internal to src/log.
 */
#ifndef FANOUT_ROW_FORMAT_H
#define FANOUT_ROW_FORMAT_H

#define ROW_HAS_NULLS		0x01
#define ROW_HAS_UNCHANGED	0x02

#endif							/* FANOUT_ROW_FORMAT_H */
