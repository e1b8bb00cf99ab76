/*
 * token.c
 *		The text of tokens: which leader, and the end LSN of a commit there.
 *
 * A token reads "<system identifier>.<database oid>.<LSN>", the first two in
 * hexadecimal.  Clients should not look into it.  It says which leader it is
 * from, so that one carried to a follower of something else is refused and never
 * compared with positions that mean nothing to it.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "miscadmin.h"

#include "token.h"

LeaderIdentity
leader_identity_here(void)
{
	LeaderIdentity identity = {
		.system_identifier = GetSystemIdentifier(),
		.dboid = MyDatabaseId,
	};

	return identity;
}

void
token_format(char *buf, const LeaderIdentity *leader, XLogRecPtr lsn)
{
	snprintf(buf, TOKEN_LEN, "%llX.%X.%X/%X",
			 (unsigned long long) leader->system_identifier, leader->dboid, LSN_FORMAT_ARGS(lsn));
}

/* Parse hexadecimal digits, at most max of them, up to the terminator. */
static bool
parse_hex(const char **pos, int max, char terminator, uint64 *value)
{
	const char *start = *pos;
	int			digits = strspn(start, "0123456789abcdefABCDEF");

	if (digits < 1 || digits > max || start[digits] != terminator)
		return false;
	*value = strtou64(start, NULL, 16);
	*pos = start + digits + (terminator != '\0' ? 1 : 0);
	return true;
}

static bool
parse_lsn(const char *pos, XLogRecPtr *lsn)
{
	uint64		high;
	uint64		low;

	if (!parse_hex(&pos, 8, '/', &high) || !parse_hex(&pos, 8, '\0', &low))
		return false;
	*lsn = (high << 32) | low;
	return true;
}

bool
token_parse(const char *text, Token *token)
{
	uint64		dboid;

	token->has_leader = false;
	if (parse_lsn(text, &token->lsn))
		return true;

	token->has_leader = true;
	if (!parse_hex(&text, 16, '.', &token->leader.system_identifier) ||
		!parse_hex(&text, 8, '.', &dboid))
		return false;
	token->leader.dboid = (Oid) dboid;
	return parse_lsn(text, &token->lsn);
}

Token
token_parse_or_fail(const char *text)
{
	Token		token;

	if (!token_parse(text, &token))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("invalid token: \"%s\"", text),
				 errhint("A token comes from fanout.token() or fanout.commit_token on the leader; an LSN is accepted too.")));
	return token;
}
