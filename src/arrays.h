/*
 * arrays.h
 *		Arrays of SQL as lists, and the other way.
 */
#ifndef FANOUT_ARRAYS_H
#define FANOUT_ARRAYS_H

#include "nodes/pg_list.h"
#include "utils/array.h"

/* Elements of an array, in the current memory context; fail when one is null. */
extern List *name_array_list(ArrayType *array);	/* of char * */
extern List *oid_array_list(ArrayType *array);
extern List *int_array_list(ArrayType *array);

extern Datum name_array_datum(List *names);
extern Datum oid_array_datum(List *oids);

/* Their text form, for a parameter of a query; that of names needs a transaction. */
extern char *name_array_text(List *names);
extern char *oid_array_text(List *oids);
extern char *int_array_text(List *numbers);

#endif							/* FANOUT_ARRAYS_H */
