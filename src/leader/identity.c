/*
 * identity.c
 *		Which tables of a stream lack a replica identity, and giving them one.
 *
 * The server refuses UPDATE and DELETE of a published table without a replica identity,
 * so a stream can break the application that it is made for: create_stream() tells which
 * tables these are, or gives them one.  That is the smallest unique index which the server
 * takes for it, else FULL.
 *
 * Rows of a partition that are published as those of an ancestor are found by the ancestor's
 * columns, so both need the same identity: the partition's index is the one that is a
 * part of the ancestor's.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/transam.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_publication.h"
#include "commands/event_trigger.h"
#include "commands/extension.h"
#include "commands/tablecmds.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "compat.h"
#include "leader/ddl.h"
#include "leader/identity.h"
#include "leader/publication.h"
#include "own_tables.h"

/* So many tables are named in a message. */
#define MAX_NAMED	10

typedef struct Identity
{
	char		type;			/* REPLICA_IDENTITY_... */
	Oid			index;			/* of REPLICA_IDENTITY_INDEX */
} Identity;

/* ---------- what a table has ---------- */

static bool
has_identity(Relation rel)
{
	if (rel->rd_rel->relreplident == REPLICA_IDENTITY_FULL)
		return fanout_full_identity_works(rel);
	return OidIsValid(RelationGetReplicaIndex(rel));
}

static bool
is_ours(Relation rel)
{
	return RelationGetNamespace(rel) == get_namespace_oid(FANOUT_SCHEMA, true);
}

/* What the stream publishes updated or deleted rows of the table as; InvalidOid: it does not. */
static Oid
published_as(Relation rel, const StreamRow *row)
{
	if (!is_publishable_relation(rel) || is_ours(rel))
		return InvalidOid;
	if (!row->own_publication)
		return publication_changed_as(rel, row->publications);
	return rel->rd_rel->relkind == RELKIND_RELATION ? RelationGetRelid(rel) : InvalidOid;
}

/* ---------- what it should have ---------- */

/* Does the server take the index for an identity, and the stream have its columns? */
static bool
identifies_rows(Relation rel, Relation index, AttrNumber avoid)
{
	Form_pg_index form = index->rd_index;

	if (!form->indisunique || form->indisexclusion || !form->indisvalid || !form->indimmediate ||
		RelationGetIndexExpressions(index) != NIL || RelationGetIndexPredicate(index) != NIL)
		return false;
	for (int i = 0; i < form->indnkeyatts; i++)
	{
		AttrNumber	number = form->indkey.values[i];
		Form_pg_attribute att;

		if (number <= 0 || number == avoid)
			return false;
		att = TupleDescAttr(RelationGetDescr(rel), number - 1);
		if (!fanout_never_null(rel, att) || att->attgenerated != '\0')
			return false;
	}
	return true;
}

/* The index with the fewest columns; avoid: not one with that column. */
static Oid
best_index(Relation rel, AttrNumber avoid)
{
	Oid			best = InvalidOid;
	int			best_columns = 0;
	ListCell   *lc;

	foreach(lc, RelationGetIndexList(rel))
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);
		int			columns = index->rd_index->indnkeyatts;

		if ((!OidIsValid(best) || columns < best_columns) && identifies_rows(rel, index, avoid))
		{
			best = lfirst_oid(lc);
			best_columns = columns;
		}
		index_close(index, AccessShareLock);
	}
	return best;
}

static Identity
identity_of_its_own(Relation rel, AttrNumber avoid)
{
	Identity	identity = {REPLICA_IDENTITY_INDEX, best_index(rel, avoid)};

	if (!OidIsValid(identity.index))
		identity.type = REPLICA_IDENTITY_FULL;
	return identity;
}

/* That of a partition whose rows are published as the ancestor's. */
static Identity
identity_like(Relation rel, Oid ancestor)
{
	Identity	identity = {REPLICA_IDENTITY_FULL, InvalidOid};
	Relation	root = table_open(ancestor, AccessShareLock);
	Oid			root_index = RelationGetReplicaIndex(root);

	if (OidIsValid(root_index))
		identity.index = index_get_partition(rel, root_index);
	if (OidIsValid(identity.index))
		identity.type = REPLICA_IDENTITY_INDEX;
	table_close(root, AccessShareLock);
	return identity;
}

/* Has the partition what rows of its ancestor need? */
static bool
is_like(Relation rel, Oid ancestor)
{
	Identity	wanted = identity_like(rel, ancestor);

	return wanted.type == REPLICA_IDENTITY_FULL ?
		rel->rd_rel->relreplident == REPLICA_IDENTITY_FULL :
		RelationGetReplicaIndex(rel) == wanted.index;
}

static bool
lacks_identity(Relation rel, const StreamRow *row)
{
	Oid			as = published_as(rel, row);

	if (!OidIsValid(as))
		return false;
	return !has_identity(rel) || (as != RelationGetRelid(rel) && !is_like(rel, as));
}

/* ---------- giving it ---------- */

void
identity_write_down(Oid relid)
{
	SchemaChange change = {.relids = list_make1_oid(relid)};
	Relation	rel;
	char	   *name;
	char	   *statement;
	Oid			user;
	int			sec_context;

	if (!ddl_is_led())
		return;
	rel = table_open(relid, AccessShareLock);
	name = quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
									  RelationGetRelationName(rel));
	statement = psprintf("ALTER TABLE ONLY %s REPLICA IDENTITY FULL", name);
	if (rel->rd_rel->relreplident == REPLICA_IDENTITY_INDEX)
		statement = psprintf("ALTER TABLE ONLY %s REPLICA IDENTITY USING INDEX %s", name,
							 quote_identifier(get_rel_name(RelationGetReplicaIndex(rel))));

	/* Whoever made it necessary may do it himself, but for what an extension's script made. */
	GetUserIdAndSecContext(&user, &sec_context);
	if (!fanout_owns_relation(relid, user))
		SetUserIdAndSecContext(rel->rd_rel->relowner, sec_context | SECURITY_LOCAL_USERID_CHANGE);
	(void) write_statement_down(statement, &change);
	SetUserIdAndSecContext(user, sec_context);
	table_close(rel, AccessShareLock);
}

/* The server's own way, without the checks and triggers of a statement that somebody wrote. */
static void
set_identity(Relation rel, const Identity *identity)
{
	ReplicaIdentityStmt *stmt = makeNode(ReplicaIdentityStmt);
	AlterTableCmd *cmd = makeNode(AlterTableCmd);

	stmt->identity_type = identity->type;
	if (OidIsValid(identity->index))
		stmt->name = get_rel_name(identity->index);
	cmd->subtype = AT_ReplicaIdentity;
	cmd->def = (Node *) stmt;
	EventTriggerInhibitCommandCollection();
	AlterTableInternal(RelationGetRelid(rel), list_make1(cmd), false);
	EventTriggerUndoInhibitCommandCollection();
	CommandCounterIncrement();
}

/* Followers run an extension's script themselves; see identity_watch.c. */
static void
give(Relation rel, const Identity *identity)
{
	set_identity(rel, identity);
	if (!creating_extension)
		identity_write_down(RelationGetRelid(rel));
}

static bool
lock_table(Oid relid, bool wait)
{
	if (wait)
		LockRelationOid(relid, AccessExclusiveLock);
	else if (!ConditionalLockRelationOid(relid, AccessExclusiveLock))
	{
		char	   *name = get_rel_name(relid);

		if (name != NULL)
			ereport(WARNING,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 errmsg("could not give table \"%s\" a replica identity", name),
					 errdetail("It is in use, and so could not be locked."),
					 errhint("Use ALTER TABLE ... REPLICA IDENTITY, or its rows can't be updated or deleted.")));
		return false;
	}
	return true;
}

/* Does what is published of the table need another identity, for any of the streams? */
static bool
needs_identity(Oid relid, List *rows, Oid *as)
{
	Relation	rel = RelationIdGetRelation(relid);
	bool		needs = false;
	ListCell   *lc;

	if (!RelationIsValid(rel))
		return false;
	foreach(lc, rows)
	{
		if (needs || !lacks_identity(rel, lfirst(lc)))
			continue;
		needs = true;
		*as = published_as(rel, lfirst(lc));
	}
	RelationClose(rel);
	return needs;
}

/* What is published as the table has to be like it. */
static void
give_to_partitions(Oid relid, List *rows, bool wait)
{
	ListCell   *lc;

	foreach(lc, find_all_inheritors(relid, NoLock, NULL))
	{
		if (lfirst_oid(lc) != relid)
			(void) identity_give(lfirst_oid(lc), rows, wait);
	}
}

bool
identity_give(Oid relid, List *rows, bool wait)
{
	Identity	identity;
	Relation	rel;
	Oid			as;

	if (!OidIsValid(relid) || get_rel_name(relid) == NULL || !needs_identity(relid, rows, &as) ||
		!lock_table(relid, wait))
		return false;
	/* It may be another one by now, or gone. */
	rel = try_table_open(relid, NoLock);
	if (rel == NULL || !needs_identity(relid, rows, &as))
	{
		if (rel != NULL)
			table_close(rel, NoLock);
		return false;
	}
	if (as != relid && identity_give(as, rows, wait))
	{
		/* With the ancestor its partitions got theirs. */
		table_close(rel, NoLock);
		return true;
	}
	identity = as == relid ? identity_of_its_own(rel, InvalidAttrNumber) : identity_like(rel, as);
	give(rel, &identity);
	if (rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
		give_to_partitions(relid, rows, wait);
	table_close(rel, NoLock);
	return true;
}

static bool
index_has_column(Oid index_oid, AttrNumber column)
{
	Relation	index = index_open(index_oid, AccessShareLock);
	bool		has = false;

	for (int i = 0; i < index->rd_index->indnkeyatts; i++)
		has |= index->rd_index->indkey.values[i] == column;
	index_close(index, AccessShareLock);
	return has;
}

static bool
any_publishes(Relation rel, List *rows)
{
	ListCell   *lc;

	foreach(lc, rows)
	{
		if (OidIsValid(published_as(rel, lfirst(lc))))
			return true;
	}
	return false;
}

void
identity_avoid(Oid relid, AttrNumber column, List *rows)
{
	Relation	rel = table_open(relid, NoLock);

	if (rel->rd_rel->relreplident == REPLICA_IDENTITY_INDEX &&
		OidIsValid(RelationGetReplicaIndex(rel)) &&
		index_has_column(RelationGetReplicaIndex(rel), column) && any_publishes(rel, rows))
	{
		Identity	identity = identity_of_its_own(rel, column);

		give(rel, &identity);
	}
	table_close(rel, NoLock);
}

/* ---------- a stream's tables ---------- */

static List *
tables_by_name(void)
{
	List	   *relids = NIL;
	OwnTables	state;

	own_tables_begin(&state);
	if (SPI_execute("SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
					" WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND c.oid >= 16384"
					" AND n.nspname <> '" FANOUT_SCHEMA "' ORDER BY n.nspname, c.relname",
					false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the tables");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;
		Datum		relid = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull);
		MemoryContext oldcontext = MemoryContextSwitchTo(state.context);

		relids = lappend_oid(relids, DatumGetObjectId(relid));
		MemoryContextSwitchTo(oldcontext);
	}
	own_tables_end(&state);
	return relids;
}

List *
identity_lacking(const StreamRow *row)
{
	List	   *lacking = NIL;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "pg_fanout identities",
												  ALLOCSET_DEFAULT_SIZES);
	ListCell   *lc;

	foreach(lc, tables_by_name())
	{
		Relation	rel;
		bool		lacks;
		MemoryContext oldcontext;

		CHECK_FOR_INTERRUPTS();
		oldcontext = MemoryContextSwitchTo(context);
		rel = RelationIdGetRelation(lfirst_oid(lc));
		lacks = RelationIsValid(rel) && lacks_identity(rel, row);
		if (RelationIsValid(rel))
			RelationClose(rel);
		MemoryContextSwitchTo(oldcontext);
		MemoryContextReset(context);
		if (lacks)
			lacking = lappend_oid(lacking, lfirst_oid(lc));
	}
	MemoryContextDelete(context);
	return lacking;
}

void
identity_warn(const StreamRow *row)
{
	List	   *lacking = identity_lacking(row);
	StringInfoData names;
	ListCell   *lc;

	if (lacking == NIL)
		return;
	initStringInfo(&names);
	foreach(lc, lacking)
	{
		char	   *name = get_rel_name(lfirst_oid(lc));
		char	   *schema = get_namespace_name(get_rel_namespace(lfirst_oid(lc)));

		if (foreach_current_index(lc) >= MAX_NAMED || name == NULL || schema == NULL)
			break;
		appendStringInfo(&names, "%s%s", names.len > 0 ? ", " : "",
						 quote_qualified_identifier(schema, name));
	}
	if (list_length(lacking) > MAX_NAMED)
		appendStringInfo(&names, " and %d more", list_length(lacking) - MAX_NAMED);
	ereport(WARNING,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg_plural("rows of %d table of stream \"%s\" can't be updated or deleted, since it has no replica identity",
						   "rows of %d tables of stream \"%s\" can't be updated or deleted, since they have no replica identity",
						   list_length(lacking), list_length(lacking), NameStr(row->name)),
			 errdetail("Tables without a replica identity: %s.", names.data),
			 errhint("Give them a primary key, use ALTER TABLE ... REPLICA IDENTITY, or create the stream with identity => true.")));
}

List *
identity_streams(void)
{
	List	   *rows = stream_rows();
	ListCell   *lc;

	foreach(lc, rows)
	{
		if (!((StreamRow *) lfirst(lc))->identity)
			rows = foreach_delete_current(rows, lc);
	}
	return rows;
}
