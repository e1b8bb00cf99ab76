/*
 * sequence.c
 *		Values of the leader's sequences, into local ones.
 *
 * The leader gives values that it has logged ahead (leader/sequence.c).  They are
 * taken as they are, whether higher or lower than what is here: the stream has
 * them in order, so a setval() or RESTART of the leader comes as well.  A value
 * is not undone with the local transaction; then it comes again.
 *
 * A sequence that this follower does not have is left out: a stream of some tables
 * may be followed into tables without.  So are those of the system and of the
 * extension, whatever the leader says.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "commands/sequence.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"

#include "follower/copy.h"
#include "follower/local_table.h"

void
sequence_set(const SequenceValue *sequence)
{
	RangeVar   *name = makeRangeVar(pstrdup(NameStr(sequence->nspname)),
									pstrdup(NameStr(sequence->relname)), -1);
	Oid			relid = RangeVarGetRelid(name, RowExclusiveLock, true);

	if (!OidIsValid(relid) || local_relation_is_system(relid, NameStr(sequence->nspname)) ||
		get_rel_relkind(relid) != RELKIND_SEQUENCE)
	{
		elog(DEBUG1, "sequence \"%s.%s\" of the leader is not here",
			 NameStr(sequence->nspname), NameStr(sequence->relname));
		return;
	}
	DirectFunctionCall3(setval3_oid, ObjectIdGetDatum(relid), Int64GetDatum(sequence->value),
						BoolGetDatum(sequence->is_called));
}

/* The values as they are now, from a connection to the leader.  Needs a transaction. */
void
copy_sequences(const FollowedRow *row, PGconn *conn)
{
	const char *params[] = {NameStr(row->stream)};
	PGresult   *res = leader_query(conn, "SELECT nspname, relname, last_value, is_called"
								   " FROM fanout.stream_sequences($1)", 1, params);

	for (int i = 0; i < PQntuples(res); i++)
	{
		SequenceValue sequence;

		namestrcpy(&sequence.nspname, PQgetvalue(res, i, 0));
		namestrcpy(&sequence.relname, PQgetvalue(res, i, 1));
		sequence.value = strtoi64(PQgetvalue(res, i, 2), NULL, 10);
		sequence.is_called = PQgetvalue(res, i, 3)[0] == 't';
		sequence_set(&sequence);
	}
	PQclear(res);
}
