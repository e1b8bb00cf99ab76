/*
 * commit_token.c
 *		The position of this session's last commit: fanout.token(), and
 *		fanout.commit_token, which the protocol reports with the commit itself.
 *
 * fanout.commit_token is a parameter with GUC_REPORT: before each
 * ReadyForQuery the server sends the text of those that were marked changed
 * and whose text differs from what it sent last.  Its text comes from a show hook
 * and is the token of last_commit_lsn; its value only serves to mark it.  It is a
 * string for the sake of those who read pg_settings: they parse what claims to be
 * a number.
 *
 * Marking may allocate and fail, so it is done before the commit record is
 * written; an error then is an ordinary rollback.  After the record was written an
 * error would be a PANIC: there, only a variable is stored.  The value of the
 * parameter itself rolls back with the transaction, which is fine: an abort
 * leaves last_commit_lsn alone, so the text is the same and nothing is sent.
 *
 * A transaction without an xid committed nothing that a follower could see,
 * and is no commit here.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "leader/commit_token.h"
#include "leader/leader.h"
#include "token.h"

PG_FUNCTION_INFO_V1(fanout_token);

static char *commit_token_mark = NULL;
static XLogRecPtr last_commit_lsn = InvalidXLogRecPtr;
static bool commit_under_way = false;

XLogRecPtr
commit_token_lsn(void)
{
	return last_commit_lsn;
}

/* Make the server look at the parameter's text before the next ReadyForQuery. */
static void
mark_changed(void)
{
	static uint64 marks = 0;
	char		value[32];

	snprintf(value, sizeof(value), UINT64_FORMAT, ++marks);
	SetConfigOption("fanout.commit_token", value, PGC_INTERNAL, PGC_S_OVERRIDE);
}

void
commit_token_note(XLogRecPtr lsn)
{
	if (!leader_of_any_stream(MyDatabaseId))
		return;
	mark_changed();
	last_commit_lsn = lsn;
}

static void
token_xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			commit_under_way = TransactionIdIsValid(GetTopTransactionIdIfAny()) &&
				leader_of_any_stream(MyDatabaseId);
			if (commit_under_way)
				mark_changed();
			break;
		case XACT_EVENT_COMMIT:
			if (commit_under_way)
				last_commit_lsn = XactLastCommitEnd;
			commit_under_way = false;
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			commit_under_way = false;
			break;
		default:
			break;
	}
}

static const char *
show_commit_token(void)
{
	static char text[TOKEN_LEN];
	LeaderIdentity here;

	if (XLogRecPtrIsInvalid(last_commit_lsn))
		return "";
	here = leader_identity_here();
	token_format(text, &here, last_commit_lsn);
	return text;
}

void
commit_token_init(void)
{
	DefineCustomStringVariable("fanout.commit_token",
							   "Shows the token of this session's last commit.",
							   "It is reported to the client with each commit; hand it to fanout.wait_for() or fanout.read_after on a follower. Empty before the first commit.",
							   &commit_token_mark, "", PGC_INTERNAL,
							   GUC_REPORT | GUC_NOT_IN_SAMPLE | GUC_DISALLOW_IN_FILE,
							   NULL, NULL, show_commit_token);
	RegisterXactCallback(token_xact_callback, NULL);
}

/*
 * token() RETURNS text
 *
 * A session that has not committed anything yet gets the token of LSN 0/0,
 * which every follower of this leader has reached.
 */
Datum
fanout_token(PG_FUNCTION_ARGS)
{
	char		text[TOKEN_LEN];
	LeaderIdentity here = leader_identity_here();

	fanout_require_preload();
	if (!leader_of_any_stream(MyDatabaseId))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this database is not the leader of any stream"),
				 errhint("Tokens are taken on the leader, after fanout.create_stream().")));
	token_format(text, &here, last_commit_lsn);
	PG_RETURN_TEXT_P(cstring_to_text(text));
}
