/*
 * ddl_text.c
 *		The text of a statement, and what it takes to read it as the server has.
 *
 * A string of statements is read whole before the first of them runs, and the text of a
 * function when it is called first.  So standard_conforming_strings may be another one by the time
 * that a statement is written down, and with it the text would be another statement.  What
 * counts is the setting with which the text reads as the statement that runs.
 */
#include "postgres.h"

#include "nodes/parsenodes.h"
#include "parser/parser.h"

#include "leader/ddl.h"

/* The statement as it stands in the query string, which may hold several. */
char *
statement_text(const PlannedStmt *pstmt, const char *query_string)
{
	int			start = Max(pstmt->stmt_location, 0);
	int			len = pstmt->stmt_len;

	if (len == 0)
		len = strlen(query_string) - start;
	return pnstrdup(query_string + start, len);
}

/* The statement that the text is with that setting; NULL: it is none, or several. */
static Node *
read_text(const char *text, bool conforming)
{
	MemoryContext context = CurrentMemoryContext;
	bool		was_conforming = standard_conforming_strings;
	int			was_quote = backslash_quote;
	bool		was_warning = escape_string_warning;
	List	   *volatile statements = NIL;

	standard_conforming_strings = conforming;
	backslash_quote = BACKSLASH_QUOTE_ON;
	escape_string_warning = false;
	PG_TRY();
	{
		statements = raw_parser(text, RAW_PARSE_DEFAULT);
	}
	PG_CATCH();
	{
		/* Nothing but memory was used: the text can't be read so. */
		MemoryContextSwitchTo(context);
		FlushErrorState();
	}
	PG_END_TRY();
	standard_conforming_strings = was_conforming;
	backslash_quote = was_quote;
	escape_string_warning = was_warning;
	return list_length(statements) == 1 ? linitial_node(RawStmt, statements)->stmt : NULL;
}

/*
 * Is the statement that one?  Queries that have been analyzed can't be compared; for a materialized
 * view the kind of statement must do.
 */
static bool
is_read_as(Node *read, Node *stmt)
{
	bool		analyzed = IsA(stmt, CreateTableAsStmt) || IsA(stmt, ExplainStmt);

	return read != NULL && nodeTag(read) == nodeTag(stmt) && (analyzed || equal(read, stmt));
}

/* With what standard_conforming_strings is the text the statement? */
bool
statement_text_conforms(const char *text, Node *stmt)
{
	bool		current = standard_conforming_strings;

	if (strchr(text, '\\') == NULL || is_read_as(read_text(text, current), stmt))
		return current;
	return is_read_as(read_text(text, !current), stmt) ? !current : current;
}
