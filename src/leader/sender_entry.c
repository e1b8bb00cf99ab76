/*
 * sender_entry.c
 *		A sender's hold on its follower's entry in the registry.
 *
 * A follower has one sender at a time: the one whose pid is in the entry.
 * While it holds the entry it may be taken from it (the follower is dropped,
 * copies again, is lost), so it looks with every turn of its loop.
 *
 * A new connection of the same instance is most often the follower coming
 * back before its old sender has noticed that it left, so it waits for that to
 * end.  But if the old one's follower is alive, then two databases think they are the
 * same follower, one a copy of the other: the second is refused.  That the old one says
 * nothing does not tell which it is: it may wait for a lock, or apply for long.  So
 *
 *	- a follower whose worker comes back names the sender that it had before, in this
 *	  life of its server; no copy knows it.  That one is ended.
 *	- otherwise the old sender is asked to look whether the network still hears from
 *	  the other end (sender_heed_challenge()).  A host that is there answers for a
 *	  process that is busy.
 */
#include "postgres.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/socket.h>

#include "libpq/libpq-be.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/uuid.h"

#include "compat.h"
#include "leader/leader.h"
#include "leader/sender.h"

#define ATTACH_TIMEOUT_MS	10000
#define UNREACHABLE_MS		3000
#define POLL_MS				10

typedef enum AttachResult
{
	ATTACHED,
	NOT_REGISTERED,
	OTHER_INSTANCE,
	HAS_SENDER
} AttachResult;

static void fail_lost(const Sender *sender);

/* ---------- attaching ---------- */

/* Numeric address of the client; empty for a local socket. */
static void
copy_client_addr(char *addr, Size size)
{
	if (MyProcPort->raddr.addr.ss_family == AF_UNIX || MyProcPort->remote_host == NULL)
		addr[0] = '\0';
	else
		strlcpy(addr, MyProcPort->remote_host, size);
}

/*
 * Caller holds the entry's mutex.  A follower that was restored, or has crashed, has less
 * than it had.  One that is marked as lost may have its place all the same, when the
 * entry is older than the follower: in the log, that shows.
 */
static void
take_entry(Sender *sender, Registration *registration, const char *client_addr,
		   TimestampTz now)
{
	registration->sender_pid = MyProcPid;
	registration->role = GetUserId();
	registration->sender_procno = GetNumberFromPGProc(MyProc);
	strlcpy(registration->client_addr, client_addr, sizeof(registration->client_addr));
	registration->connected_at = now;
	registration->last_seen_at = now;
	pg_atomic_write_u32(&registration->sender_challenged, 0);
	registration->sent_lsn = sender->sent_lsn;
	registration->applied_lsn = Min(registration->applied_lsn, sender->sent_lsn);
	registration->state = FOLLOWER_STREAMING;
}

/* One try; *entry is then the entry, perhaps with a sender that is in the way. */
static AttachResult
try_attach(Sender *sender, Registration **entry)
{
	Registration *registration = registry_find(sender->stream, NameStr(sender->follower));
	pid_t		old_pid;
	TimestampTz now = GetCurrentTimestamp();
	char		client_addr[sizeof(registration->client_addr)];
	AttachResult result;

	*entry = registration;
	if (registration == NULL)
		return NOT_REGISTERED;
	copy_client_addr(client_addr, sizeof(client_addr));

	SpinLockAcquire(&registration->mutex);
	old_pid = registration->sender_pid;
	if (!registration->in_use || registration->stream_id != sender->stream_id ||
		registration->dboid != MyDatabaseId)
		result = NOT_REGISTERED;
	else if (memcmp(&registration->instance, &sender->instance, sizeof(pg_uuid_t)) != 0)
		result = OTHER_INSTANCE;
	else if (registration->sender_pid != 0)
		result = HAS_SENDER;
	else
	{
		take_entry(sender, registration, client_addr, now);
		result = ATTACHED;
	}
	SpinLockRelease(&registration->mutex);

	if (result == ATTACHED)
		sender->registration = registration;
	if (result == HAS_SENDER && old_pid == sender->former_pid)
		(void) kill(old_pid, SIGTERM);
	return result;
}

/* What the follower has was not written by this leader, or not in this history of it. */
static bool
is_of_other_history(const Sender *sender)
{
	return !era_has(sender->stream, &sender->era, Max(sender->reached_lsn, sender->sent_lsn));
}

/*
 * A follower that nobody dropped and that is not registered is one that only another
 * leader knew, or this one before its registry was lost: a standby that was promoted, a
 * backup, files that are gone.  It copies again, without anybody's help.  One that was
 * dropped waits for somebody to say what is to become of it.
 */
static void
attach_failed(const Sender *sender, AttachResult result)
{
	const char *follower = NameStr(sender->follower);
	const char *stream = NameStr(sender->stream_name);

	if (result == NOT_REGISTERED && !dropped_has(sender->stream, &sender->instance))
		fail_lost(sender);
	if (result == NOT_REGISTERED)
		follower_was_dropped(follower, stream);
	if (result == OTHER_INSTANCE)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("follower \"%s\" of stream \"%s\" is registered by another database",
						follower, stream),
				 errhint("Follow under another name, or copy again after fanout.drop_follower() on the leader.")));
	follower_is_connected(follower, stream);
}

void
follower_was_dropped(const char *follower, const char *stream)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("follower \"%s\" was dropped from stream \"%s\"", follower, stream),
			 errhint("Call fanout.resync() to copy it again, or fanout.unfollow().")));
}

void
follower_is_connected(const char *follower, const char *stream)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("follower \"%s\" of stream \"%s\" is already connected",
					follower, stream),
			 errhint("If this database is a copy of that follower, follow under another name.")));
}

TimestampTz
old_sender_deadline(void)
{
	return TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ATTACH_TIMEOUT_MS);
}

bool
wait_for_old_sender(Registration *registration, TimestampTz deadline)
{
	if (GetCurrentTimestamp() >= deadline)
		return false;
	pg_atomic_write_u32(&registration->sender_challenged, 1);
	CHECK_FOR_INTERRUPTS();
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 POLL_MS, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	return true;
}

void
sender_attach(Sender *sender)
{
	TimestampTz deadline = old_sender_deadline();
	Registration *registration;
	AttachResult result;

	while ((result = try_attach(sender, &registration)) != ATTACHED)
	{
		if (result != HAS_SENDER || !wait_for_old_sender(registration, deadline))
			attach_failed(sender, result);
	}
	if (is_of_other_history(sender))
		sender_lost(sender);
	/* A follower that streams is not one that copies, after a restart either. */
	registry_save(sender->stream, true);
}

/* Caller holds the entry's mutex. */
static bool
is_ours(const Sender *sender, const Registration *registration)
{
	return registration->in_use &&
		registration->sender_pid == MyProcPid &&
		registration->stream_id == sender->stream_id &&
		registration->dboid == MyDatabaseId;
}

void
sender_detach(Sender *sender)
{
	Registration *registration = sender->registration;

	if (registration == NULL)
		return;
	SpinLockAcquire(&registration->mutex);
	if (is_ours(sender, registration))
	{
		registration->sender_pid = 0;
		registration->sender_procno = -1;
		if (registration->state == FOLLOWER_STREAMING)
			registration->state = FOLLOWER_AWAY;
		pg_atomic_write_u32(&registration->sender_asleep, 0);
	}
	SpinLockRelease(&registration->mutex);
	sender->registration = NULL;
}

/* ---------- while sending ---------- */

/*
 * Has the other end of the connection not answered for a while, although it was asked?  What
 * was sent is acknowledged by its host, and so are the questions of one that takes no more.
 */
static bool
peer_is_gone(void)
{
#ifdef __linux__
	struct tcp_info info;
	socklen_t	len = sizeof(info);

	/* A local socket ends with the process. */
	if (getsockopt(MyProcPort->sock, IPPROTO_TCP, TCP_INFO, &info, &len) != 0)
		return false;
	return (info.tcpi_retransmits > 0 || info.tcpi_probes > 0) &&
		info.tcpi_last_ack_recv > UNREACHABLE_MS;
#else
	return false;				/* keepalives end it, later */
#endif
}

void
sender_heed_challenge(const Sender *sender)
{
	if (pg_atomic_exchange_u32(&sender->registration->sender_challenged, 0) != 0 &&
		peer_is_gone())
		sender_connection_lost(sender);
}

static void
fail_lost(const Sender *sender)
{
	ereport(ERROR,
			(errcode(FANOUT_ERRCODE_LOST),
			 errmsg("follower \"%s\" has lost its position in stream \"%s\"",
					NameStr(sender->follower), NameStr(sender->stream_name)),
			 errdetail("The leader does not have the changes after %X/%X.",
					   LSN_FORMAT_ARGS(sender->sent_lsn))));
}

void
sender_check_entry(Sender *sender)
{
	Registration *registration = sender->registration;
	bool		ours;
	bool		lost;

	SpinLockAcquire(&registration->mutex);
	ours = is_ours(sender, registration) &&
		memcmp(&registration->instance, &sender->instance, sizeof(pg_uuid_t)) == 0;
	lost = registration->state == FOLLOWER_LOST;
	SpinLockRelease(&registration->mutex);

	if (!ours)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("follower \"%s\" was dropped from stream \"%s\" or registered again",
						NameStr(sender->follower), NameStr(sender->stream_name))));
	if (lost)
		fail_lost(sender);
}

void
sender_lost(Sender *sender)
{
	Registration *registration = sender->registration;

	SpinLockAcquire(&registration->mutex);
	if (is_ours(sender, registration))
		registration->state = FOLLOWER_LOST;
	SpinLockRelease(&registration->mutex);
	registry_save(sender->stream, true);
	fail_lost(sender);
	pg_unreachable();
}

void
sender_note_sent(Sender *sender)
{
	Registration *registration = sender->registration;

	SpinLockAcquire(&registration->mutex);
	if (is_ours(sender, registration))
		registration->sent_lsn = sender->sent_lsn;
	SpinLockRelease(&registration->mutex);
}

static uint64
log_end_seq(const Sender *sender)
{
	uint64		seq;

	SpinLockAcquire(&sender->stream->mutex);
	seq = sender->stream->end.seq;
	SpinLockRelease(&sender->stream->mutex);
	return seq;
}

/*
 * Positions never go back: the log before them may be gone already.  A log
 * that was begun anew counts from 1 again, so applied_seq may.  Nobody can have applied what
 * was not sent to him: a follower that comes back may know that nothing came after its last
 * transaction, and is believed when it was sent that again.
 */
void
sender_note_status(Sender *sender, const StatusMessage *status)
{
	Registration *registration = sender->registration;
	TimestampTz now = GetCurrentTimestamp();
	int64		proven_at = sender_question_came(sender, status->proven);
	XLogRecPtr	applied_lsn = Min(status->applied_lsn, sender->sent_lsn);
	XLogRecPtr	durable_lsn = Min(status->durable_lsn, sender->sent_lsn);
	uint64		sent_seq = log_end_seq(sender);
	bool		applied = false;

	SpinLockAcquire(&registration->mutex);
	if (is_ours(sender, registration))
	{
		if (applied_lsn >= registration->applied_lsn)
		{
			applied = applied_lsn > registration->applied_lsn;
			registration->applied_lsn = applied_lsn;
			registration->applied_seq = Min(status->applied_seq, sent_seq);
		}
		registration->durable_lsn = Max(registration->durable_lsn, durable_lsn);
		if (proven_at > registration->proven_at)
			registration->proven_at = proven_at;
		registration->last_seen_at = now;
	}
	SpinLockRelease(&registration->mutex);

	if (applied)
		ConditionVariableBroadcast(&sender->stream->follower_applied);
}
