/*
 * GCC's libasan looks for this function, to print names with.  When there is none it asks for
 * the error's message, before the C library is ready to translate it: a lock of that stays
 * taken, and programs with translations, like the server, never get past their start.
 */
#include <stddef.h>

char *swift_demangle(const char *name, size_t length, char *buffer, size_t *size, unsigned flags);

char *
swift_demangle(const char *name, size_t length, char *buffer, size_t *size, unsigned flags)
{
	return NULL;
}
