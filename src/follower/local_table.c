/*
 * local_table.c
 *		The tables here that a stream writes to, and with whose rights it does.
 *
 * Workers are superusers, since they write our own tables, and the leader says which
 * tables they change.  Two things follow from that.
 *
 * A leader that is not to be trusted must not reach the catalogs, nor the
 * extension's tables: those are never a stream's.
 *
 * A table's triggers, defaults, generated columns, constraints and index
 * expressions are code of its owner, who may be anybody here.  So whatever runs
 * it does so as the owner, and, unless that is a superuser anyway, restricted as maintenance
 * commands are: it can't change the session, and its settings are undone.  Deferred
 * triggers would run at commit, as the worker; they are made to fire with their
 * statements.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "catalog/catalog.h"
#include "catalog/dependency.h"
#include "catalog/heap.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "commands/sequence.h"
#include "commands/tablecmds.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/parsenodes.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "follower/local_table.h"

/* ---------- which tables ---------- */

bool
local_relation_is_system(Oid relid, const char *nspname)
{
	return relid < FirstNormalObjectId || strcmp(nspname, FANOUT_SCHEMA) == 0;
}

Oid
local_table_find(const char *nspname, const char *relname, int lockmode, bool missing_ok)
{
	RangeVar   *name = makeRangeVar(pstrdup(nspname), pstrdup(relname), -1);
	Oid			relid = RangeVarGetRelid(name, lockmode, true);

	if (!OidIsValid(relid) && missing_ok)
		return InvalidOid;
	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"%s.%s\" does not exist on this follower",
						nspname, relname)));
	if (local_relation_is_system(relid, nspname))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("cannot replicate into relation \"%s.%s\"", nspname, relname),
				 errdetail("It belongs to the system.")));
	return relid;
}

void
local_table_require_permanent(Relation rel)
{
	if (rel->rd_rel->relpersistence == RELPERSISTENCE_PERMANENT ||
		rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot replicate into relation \"%s.%s\"",
					get_namespace_name(RelationGetNamespace(rel)), RelationGetRelationName(rel)),
			 errdetail("It is not logged on this follower: after a crash it would be empty."),
			 errhint("Use ALTER TABLE ... SET LOGGED with \"fanout.guard\" off; it is copied again, then.")));
}

/* ---------- whose rights ---------- */

void
local_table_become(Oid owner, FormerUser *former)
{
	GetUserIdAndSecContext(&former->userid, &former->sec_context);
	former->guc_nestlevel = 0;
	if (owner == former->userid)
		return;
	if (superuser_arg(owner))
	{
		SetUserIdAndSecContext(owner, former->sec_context);
		return;
	}
	SetUserIdAndSecContext(owner, former->sec_context | SECURITY_RESTRICTED_OPERATION);
	former->guc_nestlevel = NewGUCNestLevel();
}

void
local_table_become_former(const FormerUser *former)
{
	if (former->guc_nestlevel > 0)
		AtEOXact_GUC(false, former->guc_nestlevel);
	SetUserIdAndSecContext(former->userid, former->sec_context);
}

/* ---------- triggers ---------- */

/* Does it fire although session_replication_role is "replica"? */
static bool
fires_here(const Trigger *trigger)
{
	return trigger->tgenabled == TRIGGER_FIRES_ALWAYS ||
		trigger->tgenabled == TRIGGER_FIRES_ON_REPLICA;
}

bool
local_table_has_triggers(Relation rel)
{
	TriggerDesc *triggers = rel->trigdesc;

	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
	{
		if (fires_here(&triggers->triggers[i]))
			return true;
	}
	return false;
}

void
local_table_fire_deferred(Relation rel)
{
	ConstraintsSetStmt all_immediate = {.type = T_ConstraintsSetStmt};
	TriggerDesc *triggers = rel->trigdesc;

	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
	{
		if (triggers->triggers[i].tginitdeferred && fires_here(&triggers->triggers[i]))
		{
			AfterTriggerSetState(&all_immediate);
			return;
		}
	}
}

static bool
has_truncate_trigger(Relation rel)
{
	TriggerDesc *triggers = rel->trigdesc;

	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
	{
		if (TRIGGER_FOR_TRUNCATE(triggers->triggers[i].tgtype) &&
			fires_here(&triggers->triggers[i]))
			return true;
	}
	return false;
}

/* ---------- emptying ---------- */

static bool
is_open(List *rels, Oid relid)
{
	ListCell   *lc;

	foreach(lc, rels)
	{
		if (RelationGetRelid((Relation) lfirst(lc)) == relid)
			return true;
	}
	return false;
}

List *
local_table_open_all(List *rels, Oid relid, int lockmode)
{
	List	   *relids = list_make1_oid(relid);
	ListCell   *lc;

	if (get_rel_relkind(relid) == RELKIND_PARTITIONED_TABLE)
		relids = find_all_inheritors(relid, lockmode, NULL);
	foreach(lc, relids)
	{
		CHECK_FOR_INTERRUPTS();
		if (!is_open(rels, lfirst_oid(lc)))
			rels = lappend(rels, table_open(lfirst_oid(lc), lockmode));
	}
	return rels;
}

void
local_table_delete_all(Relation rel, void (*each_row) (void))
{
	Snapshot	snapshot = GetActiveSnapshot();
	TupleTableSlot *slot;
	TableScanDesc scan;

	if (rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
		return;
	slot = table_slot_create(rel, NULL);
	scan = table_beginscan(rel, snapshot, 0, NULL);
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		CHECK_FOR_INTERRUPTS();
		if (each_row != NULL)
			each_row();
		simple_table_tuple_delete(rel, &slot->tts_tid, snapshot);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
}

/* Those that a foreign key of a table refers to that is not one of them. */
static List *
referred_from_outside(List *rels)
{
	List	   *relids = NIL;
	List	   *referring;
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, rels)
	{
		if (((Relation) lfirst(lc))->rd_rel->relhastriggers)
			relids = lappend_oid(relids, RelationGetRelid((Relation) lfirst(lc)));
	}
	referring = relids == NIL ? NIL : heap_truncate_find_FKs(relids);
	if (referring == NIL)
		return NIL;
	foreach(lc, rels)
	{
		List	   *from = heap_truncate_find_FKs(list_make1_oid(RelationGetRelid((Relation) lfirst(lc))));

		if (list_length(list_difference_oid(from, referring)) < list_length(from))
			result = lappend(result, lfirst(lc));
	}
	return result;
}

/* As TRUNCATE does it, but row by row. */
static void
delete_instead(Relation rel, bool restart_sequences)
{
	EState	   *estate = CreateExecutorState();
	ResultRelInfo *result = makeNode(ResultRelInfo);
	ListCell   *lc;

	ereport(LOG,
			(errmsg("rows of relation \"%s\" are deleted one by one where the leader emptied it",
					RelationGetRelationName(rel)),
			 errdetail("A foreign key of a table of this follower refers to it.")));
	InitResultRelInfo(result, rel, 0, NULL, 0);
	estate->es_opened_result_relations = list_make1(result);
	AfterTriggerBeginQuery();
	ExecBSTruncateTriggers(estate, result);
	local_table_delete_all(rel, NULL);
	ExecASTruncateTriggers(estate, result);
	AfterTriggerEndQuery(estate);
	FreeExecutorState(estate);
	if (!restart_sequences)
		return;
	foreach(lc, getOwnedSequences(RelationGetRelid(rel)))
		ResetSequence(lfirst_oid(lc));
}

static void
truncate_all(List *rels, bool restart_sequences)
{
	List	   *relids = NIL;
	List	   *logged = NIL;
	ListCell   *lc;

	foreach(lc, rels)
	{
		Relation	rel = lfirst(lc);

		relids = lappend_oid(relids, RelationGetRelid(rel));
		if (RelationIsLogicallyLogged(rel))
			logged = lappend_oid(logged, RelationGetRelid(rel));
	}
	fanout_truncate(rels, relids, logged, restart_sequences);
}

/*
 * The leader's word is that the tables are empty.  Where a foreign key of this follower's own refers
 * to one of them, TRUNCATE would refuse, or empty the other table, too: rows are deleted, then, and what
 * refers to them stays as it is, as it does when the leader deletes rows.
 */
static void
truncate_as(Oid owner, List *rels, bool restart_sequences)
{
	List	   *referred;
	FormerUser	former;
	ListCell   *lc;

	local_table_become(owner, &former);
	while ((referred = referred_from_outside(rels)) != NIL)
	{
		foreach(lc, referred)
			delete_instead(lfirst(lc), restart_sequences);
		rels = list_difference_ptr(rels, referred);
	}
	if (rels != NIL)
		truncate_all(rels, restart_sequences);
	local_table_become_former(&former);
}

/*
 * Without triggers nobody's code runs, and tables that reference each other are
 * emptied together; with some, each owner's tables go by themselves.
 */
void
local_tables_truncate(List *rels, bool restart_sequences)
{
	bool		triggers = false;
	List	   *left = list_copy(rels);
	ListCell   *lc;

	foreach(lc, rels)
		triggers |= has_truncate_trigger(lfirst(lc));
	if (!triggers)
	{
		truncate_as(GetUserId(), rels, restart_sequences);
		return;
	}
	while (left != NIL)
	{
		Oid			owner = ((Relation) linitial(left))->rd_rel->relowner;
		List	   *owned = NIL;

		foreach(lc, left)
		{
			Relation	rel = lfirst(lc);

			if (rel->rd_rel->relowner != owner)
				continue;
			local_table_fire_deferred(rel);
			owned = lappend(owned, rel);
			left = foreach_delete_current(left, lc);
		}
		truncate_as(owner, owned, restart_sequences);
	}
}
