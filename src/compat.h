/*
 * compat.h
 *		Every difference between server versions, in one place.
 *
 * Other files include this one and then use the newest server's names.
 */
#ifndef FANOUT_COMPAT_H
#define FANOUT_COMPAT_H

#include "postgres.h"

#include "access/xlog.h"

#if PG_VERSION_NUM < 150000
#error "pg_fanout needs PostgreSQL 15 or later"
#endif

#include "catalog/pg_database.h"
#include "catalog/pg_publication.h"
#include "storage/latch.h"
#include "utils/acl.h"

/* 16 replaced the ownership checks of each catalog by one. */
#if PG_VERSION_NUM >= 160000
#define fanout_owns_database(dboid, roleid) \
	object_ownercheck(DatabaseRelationId, (dboid), (roleid))
#define fanout_owns_publication(puboid, roleid) \
	object_ownercheck(PublicationRelationId, (puboid), (roleid))
#define fanout_owns_relation(relid, roleid) \
	object_ownercheck(RelationRelationId, (relid), (roleid))
#else
#define fanout_owns_database(dboid, roleid) pg_database_ownercheck((dboid), (roleid))
#define fanout_owns_publication(puboid, roleid) pg_publication_ownercheck((puboid), (roleid))
#define fanout_owns_relation(relid, roleid) pg_class_ownercheck((relid), (roleid))
#endif

#include "access/attmap.h"
#include "replication/slot.h"

/* 16 lets the caller decide what a missing column means. */
#if PG_VERSION_NUM >= 160000
#define fanout_build_attrmap_if_req(indesc, outdesc) \
	build_attrmap_by_name_if_req((indesc), (outdesc), false)
#else
#define fanout_build_attrmap_if_req(indesc, outdesc) \
	build_attrmap_by_name_if_req((indesc), (outdesc))
#endif

/* 18 can have constraints that are not enforced; a node says so unless it is told. */
#if PG_VERSION_NUM >= 180000
#define fanout_constraint_enforce(constraint) ((constraint)->is_enforced = true)
#else
#define fanout_constraint_enforce(constraint) ((void) 0)
#endif

#include "executor/executor.h"

/* 18 executes every query once. */
#if PG_VERSION_NUM >= 180000
#define FANOUT_EXECUTOR_RUN_PARAMETERS \
	QueryDesc *query, ScanDirection direction, uint64 count
#define FANOUT_EXECUTOR_RUN_ARGUMENTS query, direction, count
#else
#define FANOUT_EXECUTOR_RUN_PARAMETERS \
	QueryDesc *query, ScanDirection direction, uint64 count, bool once
#define FANOUT_EXECUTOR_RUN_ARGUMENTS query, direction, count, once
#endif

/* 16 tells summarizing indexes from others. */
#if PG_VERSION_NUM >= 160000
#define fanout_insert_index_entries(result, slot, estate) \
	ExecInsertIndexTuples((result), (slot), (estate), false, false, NULL, NIL, false)
#else
#define fanout_insert_index_entries(result, slot, estate) \
	ExecInsertIndexTuples((result), (slot), (estate), false, false, NULL, NIL)
#endif

/* 16 keeps the reason why a slot was invalidated instead of a position. */
#if PG_VERSION_NUM >= 160000
#define fanout_slot_invalidated(slot) ((slot)->data.invalidated != RS_INVAL_NONE)
#else
#define fanout_slot_invalidated(slot) (!XLogRecPtrIsInvalid((slot)->data.invalidated_at))
#endif

/* 17 added slots that are synchronized to standbys. */
#if PG_VERSION_NUM >= 170000
#define fanout_slot_create(name) \
	ReplicationSlotCreate((name), true, RS_EPHEMERAL, false, false, false)
#else
#define fanout_slot_create(name) ReplicationSlotCreate((name), true, RS_EPHEMERAL, false)
#endif

/* 18 can refuse an invalidated slot by itself; we replace such a slot. */
#if PG_VERSION_NUM >= 180000
#define fanout_slot_acquire(name) ReplicationSlotAcquire((name), false, false)
#else
#define fanout_slot_acquire(name) ReplicationSlotAcquire((name), false)
#endif

/* 16 moved what varlenas look like out of postgres.h. */
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

/* 18 must be told that a deferrable key does not identify rows. */
#if PG_VERSION_NUM >= 180000
#define fanout_primary_key_index(rel) RelationGetPrimaryKeyIndex((rel), false)
#else
#define fanout_primary_key_index(rel) RelationGetPrimaryKeyIndex(rel)
#endif

/* 17 did away with the buffer around a decoded tuple. */
#if PG_VERSION_NUM >= 170000
#define fanout_change_tuple(decoded) (decoded)
#else
#define fanout_change_tuple(decoded) (&(decoded)->tuple)
#endif

#include "access/xact.h"
#include "replication/snapbuild.h"

/* 16 also says what the commit record has. */
#if PG_VERSION_NUM >= 160000
#define fanout_snapbuild_commit(builder, lsn, xid, xinfo) \
	SnapBuildCommitTxn((builder), (lsn), (xid), 0, NULL, (xinfo))
#else
#define fanout_snapbuild_commit(builder, lsn, xid, xinfo) \
	SnapBuildCommitTxn((builder), (lsn), (xid), 0, NULL)
#endif

#include "utils/rel.h"

/* 16 calls the file of a relation by other names. */
#if PG_VERSION_NUM >= 160000
#include "utils/relfilenumbermap.h"

typedef RelFileLocator FanoutRelFile;
#define fanout_file_of(rel) ((rel)->rd_locator)
#define fanout_file_database(file) ((file).dbOid)
#define fanout_relid_of_file(file) RelidByRelfilenumber((file).spcOid, (file).relNumber)
#else
#include "utils/relfilenodemap.h"

typedef RelFileNode FanoutRelFile;
#define fanout_file_of(rel) ((rel)->rd_node)
#define fanout_file_database(file) ((file).dbNode)
#define fanout_relid_of_file(file) RelidByRelfilenode((file).spcNode, (file).relNode)
#endif

/* 18 spells it so, in front of the declaration. */
#ifndef pg_noreturn
#define pg_noreturn pg_attribute_noreturn()
#endif

#include "access/tableam.h"

/* 16 can update summarizing indexes alone. */
#if PG_VERSION_NUM >= 160000
typedef TU_UpdateIndexes FanoutUpdateIndexes;
#define fanout_needs_entry(update, info) \
	((update) == TU_All || ((update) == TU_Summarizing && (info)->ii_Summarizing))
#else
typedef bool FanoutUpdateIndexes;
#define fanout_needs_entry(update, info) (update)
#endif

#include "rewrite/rewriteHandler.h"

/* 18 has another name for the prepared check constraints, and columns that are computed in them. */
#if PG_VERSION_NUM >= 180000
#define fanout_check_states(result) ((result)->ri_CheckConstraintExprs)
#define fanout_check_expression(check, rel) \
	((Expr *) expand_generated_columns_in_expr(stringToNode((check)->ccbin), (rel), 1))
#else
#define fanout_check_states(result) ((result)->ri_ConstraintExprs)
#define fanout_check_expression(check, rel) ((Expr *) stringToNode((check)->ccbin))
#endif

#include "storage/proc.h"

/* 17 computes a process's number from its place. */
#ifndef GetNumberFromPGProc
#define GetNumberFromPGProc(proc) ((proc)->pgprocno)
#endif

#include "commands/tablecmds.h"
#include "executor/executor.h"
#include "parser/parse_relation.h"
#include "replication/origin.h"

/*
 * 16 keeps the permissions that are to be checked apart from the range table, and 18
 * wants to know which relations are left after pruning.  Unlike ExecInitRangeTable() this adds to
 * what there is; es_relations stays empty, since nothing is opened by its number.
 */
static inline void
fanout_add_to_range_table(EState *estate, RangeTblEntry *rte)
{
	estate->es_range_table = lappend(estate->es_range_table, rte);
	estate->es_range_table_size = list_length(estate->es_range_table);
#if PG_VERSION_NUM >= 160000
	addRTEPermissionInfo(&estate->es_rteperminfos, rte);
#endif
#if PG_VERSION_NUM >= 180000
	estate->es_unpruned_relids = bms_add_member(estate->es_unpruned_relids,
												estate->es_range_table_size);
#endif
}

/* The columns that an UPDATE of that relation of the range table changes; 16 has them elsewhere. */
static inline Bitmapset **
fanout_updated_columns(EState *estate, Index rtindex)
{
	RangeTblEntry *rte = exec_rt_fetch(rtindex, estate);

#if PG_VERSION_NUM >= 160000
	return &getRTEPermissionInfo(estate->es_rteperminfos, rte)->updatedCols;
#else
	return &rte->updatedCols;
#endif
}

/* 16 wants the relations whose rows are to be checked again; we have none. */
#if PG_VERSION_NUM >= 160000
#define fanout_eval_plan_qual_init(epqstate, estate) \
	EvalPlanQualInit((epqstate), (estate), NULL, NIL, -1, NIL)
#else
#define fanout_eval_plan_qual_init(epqstate, estate) \
	EvalPlanQualInit((epqstate), (estate), NULL, NIL, -1)
#endif

/* 16 can run the triggers as each table's owner. */
#if PG_VERSION_NUM >= 160000
#define fanout_truncate(rels, relids, relids_logged, restart_seqs) \
	ExecuteTruncateGuts((rels), (relids), (relids_logged), DROP_RESTRICT, (restart_seqs), false)
#else
#define fanout_truncate(rels, relids, relids_logged, restart_seqs) \
	ExecuteTruncateGuts((rels), (relids), (relids_logged), DROP_RESTRICT, (restart_seqs))
#endif

#include "access/genam.h"

/* 18 can count what an index scan does. */
#if PG_VERSION_NUM >= 180000
#define fanout_index_beginscan(rel, index, snapshot, nkeys) \
	index_beginscan((rel), (index), (snapshot), NULL, (nkeys), 0)
#else
#define fanout_index_beginscan(rel, index, snapshot, nkeys) \
	index_beginscan((rel), (index), (snapshot), (nkeys), 0)
#endif

/* 16 lets several processes share an origin. */
#if PG_VERSION_NUM >= 160000
#define fanout_origin_session_setup(node) replorigin_session_setup((node), 0)
#else
#define fanout_origin_session_setup(node) replorigin_session_setup(node)
#endif

#include "lib/dshash.h"

/* 17 lets a shared hash table copy its keys in a way of its own. */
static inline dshash_parameters
fanout_dshash_parameters(size_t key_size, size_t entry_size, int tranche_id)
{
	dshash_parameters parameters = {
		.key_size = key_size,
		.entry_size = entry_size,
		.compare_function = dshash_memcmp,
		.hash_function = dshash_memhash,
#if PG_VERSION_NUM >= 170000
		.copy_function = dshash_memcpy,
#endif
		.tranche_id = tranche_id,
	};

	return parameters;
}

/*
 * What the other end of a libpq connection is: versions as PQserverVersion()
 * gives them.
 */
#define fanout_major(version) ((version) / 10000)

/*
 * 18 lets constraints NOT NULL be not valid, and refuses REPLICA IDENTITY FULL where a generated
 * column is not published.
 */
#if PG_VERSION_NUM >= 180000
#define fanout_never_null(rel, att) \
	(TupleDescCompactAttr(RelationGetDescr(rel), (att)->attnum - 1)->attnullability == \
	 ATTNULLABLE_VALID)
#define fanout_full_identity_works(rel) \
	(RelationGetDescr(rel)->constr == NULL || \
	 !RelationGetDescr(rel)->constr->has_generated_virtual)
#define FANOUT_ALL_COLUMNS	" WITH (publish_generated_columns = stored)"
#else
#define fanout_never_null(rel, att) ((att)->attnotnull)
#define fanout_full_identity_works(rel) true
#define FANOUT_ALL_COLUMNS	""
#endif

/* 16 keeps settings in a hash and makes a list of it. */
#if PG_VERSION_NUM >= 160000
#define fanout_guc_variables(count) get_guc_variables(count)
#else
#define fanout_guc_variables(count) (*(count) = GetNumConfigOptions(), get_guc_variables())
#endif

/* 17 ties a set of events to a resource owner; without one it stays until it is freed. */
#if PG_VERSION_NUM >= 170000
#define fanout_event_set(nevents) CreateWaitEventSet(NULL, (nevents))
#else
#define fanout_event_set(nevents) CreateWaitEventSet(CurrentMemoryContext, (nevents))
#endif

#endif							/* FANOUT_COMPAT_H */
