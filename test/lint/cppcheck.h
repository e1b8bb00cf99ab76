/*
 * cppcheck.h
 *		What cppcheck must know of the server's macros; it does not read the server's
 *		headers.
 */
#define foreach(cell, list) for (int foreach_i = 0; (cell = list_nth_cell(list, foreach_i)) != NULL; foreach_i++)
#define ereport(elevel, ...) do { if ((elevel) >= 21) abort(); } while (0)
#define elog(elevel, ...) ereport(elevel, __VA_ARGS__)
#define ERROR 21
#define FATAL 22
#define PANIC 23
#define LOG 15
#define WARNING 19
#define DEBUG1 14
#define NOTICE 18
#define PG_TRY() do { if (1)
#define PG_CATCH() else
#define PG_FINALLY()
#define PG_END_TRY() } while (0)
#define PG_RE_THROW() abort()
#define LSN_FORMAT_ARGS(lsn) (uint32) ((lsn) >> 32), (uint32) (lsn)
#define XL_ROUTINE(...) &(XLogReaderRoutine){__VA_ARGS__}
#define FLEXIBLE_ARRAY_MEMBER
#define PG_FUNCTION_INFO_V1(name)
#define PG_MODULE_MAGIC

#include <stdint.h>
typedef uint8_t uint8;
typedef uint16_t uint16;
typedef uint32_t uint32;
typedef uint64_t uint64;
typedef int64_t int64;
typedef size_t Size;
typedef struct ErrorContextCallback
{
	struct ErrorContextCallback *previous;
	void		(*callback) (void *arg);
	void	   *arg;
} ErrorContextCallback;
