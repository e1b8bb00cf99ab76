/*
 * early_commits.c
 *		Schema changes that committed while the server was finding its first snapshot.
 *
 * A slot that is new has no saved snapshot of the catalogs, so the server makes one in
 * two steps.  It first waits for the transactions that it finds running; those that begin from
 * then on it sees whole.  When these too have ended that ran at the end of that wait, all
 * that commits is decoded, with what was begun since the first step.  As long as decoding starts
 * where it did at first, the same steps are taken again.
 *
 * In the first step the server (15 to 18) reads no record of transactions.  A schema change that
 * commits in it, or is made in it and commits in the second, is missing in the snapshots that
 * are handed out before the oldest running transaction is a younger one: what is decoded
 * with those has the table's old columns, lacks tables or takes them for not published, with an
 * error or without.
 *
 * So each commit of that time is looked at here before the server looks at it.  One
 * that carries invalidations has changed the catalogs: that is noted as the server notes it
 * itself when it sees the changes.  Subtransactions are noted one by one: one may belong
 * to the second step's snapshots although its parent began too early for them.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlogreader.h"
#include "replication/reorderbuffer.h"
#include "replication/snapbuild.h"

#include "compat.h"
#include "leader/decoder.h"

/* In the first step the server does not take note of the commit itself. */
static void
note_catalog_change(LogicalDecodingContext *ctx, TransactionId xid, uint32 xinfo)
{
	XLogRecPtr	lsn = ctx->reader->ReadRecPtr;

	ReorderBufferXidSetCatalogChanges(ctx->reorder, xid, lsn);
	if (SnapBuildCurrentState(ctx->snapshot_builder) == SNAPBUILD_BUILDING_SNAPSHOT)
		fanout_snapbuild_commit(ctx->snapshot_builder, lsn, xid, xinfo);
}

static void
note_commit(LogicalDecodingContext *ctx)
{
	xl_xact_parsed_commit commit;
	TransactionId xid;

	ParseCommitRecord(XLogRecGetInfo(ctx->reader),
					  (xl_xact_commit *) XLogRecGetData(ctx->reader), &commit);
	if ((commit.xinfo & XACT_XINFO_HAS_INVALS) == 0)
		return;
	xid = TransactionIdIsValid(commit.twophase_xid) ? commit.twophase_xid
		: XLogRecGetXid(ctx->reader);
	if (!TransactionIdIsValid(xid))
		return;
	for (int i = 0; i < commit.nsubxacts; i++)
		note_catalog_change(ctx, commit.subxacts[i], commit.xinfo);
	note_catalog_change(ctx, xid, commit.xinfo);
}

void
early_commits_note(LogicalDecodingContext *ctx)
{
	SnapBuildState state = SnapBuildCurrentState(ctx->snapshot_builder);
	uint8		info = XLogRecGetInfo(ctx->reader) & XLOG_XACT_OPMASK;

	if ((state == SNAPBUILD_BUILDING_SNAPSHOT || state == SNAPBUILD_FULL_SNAPSHOT) &&
		XLogRecGetRmid(ctx->reader) == RM_XACT_ID &&
		(info == XLOG_XACT_COMMIT || info == XLOG_XACT_COMMIT_PREPARED))
		note_commit(ctx);
}
