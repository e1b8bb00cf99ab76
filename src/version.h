/*
 * version.h
 *		The library and the extension's SQL objects must be of one version.
 */
#ifndef FANOUT_VERSION_H
#define FANOUT_VERSION_H

/* Fail when this database's extension is of another version than the library. */
extern void version_check(void);

extern void version_init(void);

#endif							/* FANOUT_VERSION_H */
