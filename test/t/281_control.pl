# pause(), resume(), resync(), set_leader() and unfollow() while the worker is busy: behind a
# schema change that waits for a reader, while it connects, while it copies, and with a leader that
# answers nothing.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Utils;
use Proxy;
use Test::More;
use Time::HiRes qw(sleep);

my $leader = new_leader('leader');
$leader->safe_psql('postgres', 'CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 1000);
	CREATE TABLE u (id int PRIMARY KEY); INSERT INTO u VALUES (1)');
my $follower = new_follower('follower', 'fanout.retry_interval = 200ms');
my $proxy = Proxy->new($leader);
my $conninfo = $proxy->conninfo . ' connect_timeout=1';

sub follows { return $follower->safe_psql('postgres', 'SELECT count(*) FROM fanout.staleness'); }
sub registered { return $leader->safe_psql('postgres', 'SELECT count(*) FROM fanout.followers'); }

# Would it wait, it would fail.
sub call
{
	my ($sql, $what) = @_;
	my ($rc, $out, $err) = $follower->psql('postgres', "SET statement_timeout = '20s'; $sql");
	is($err, '', $what // $sql);
	return;
}

sub nothing_left
{
	my ($what) = @_;
	wait_until("$what: the follower's end",
		sub {
			$follower->safe_psql('postgres', q{SELECT (SELECT count(*) FROM pg_replication_origin)
				+ (SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'pg_fanout %' AND backend_type <> 'pg_fanout launcher')}) eq '0'
			  && !(my @found = glob($follower->data_dir . '/pg_fanout/*/*')) });
	is(follows() . registered(), '00', "$what: nothing is left on either side");
	return;
}

follow($follower, $leader);
wait_for_copy($follower);

# ---------- behind a schema change ----------

# The follower's transaction has made a table, and waits for a reader of another one.
my $number = 0;
sub behind_schema_change
{
	my ($sql) = @_;
	my $reader = $follower->background_psql('postgres');
	$reader->query_safe('BEGIN; SELECT count(*) FROM t');
	$number++;
	$leader->safe_psql('postgres', "BEGIN; CREATE TABLE made$number (id int PRIMARY KEY); ALTER TABLE t ADD COLUMN c$number int; COMMIT");
	wait_until('the worker to wait',
		sub { $follower->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_fanout follower' AND wait_event_type = 'Lock'}) eq '1' });
	call($sql);
	$reader->query_safe('COMMIT');
	$reader->quit;
	return;
}

behind_schema_change(q{SELECT fanout.pause('app')});
state_is($follower, 'paused');
call(q{SELECT fanout.resume('app')});
all_equal('paused behind a schema change', $leader, $follower);
for my $sql (q{SELECT fanout.resume('app')},
	"SELECT fanout.set_leader('app', '$conninfo')",
	q{BEGIN; SELECT fanout.pause('app'); ROLLBACK}, q{BEGIN; SELECT fanout.unfollow('app'); ROLLBACK},
	q{BEGIN; SAVEPOINT s; SELECT fanout.unfollow('app'); ROLLBACK TO s; SELECT fanout.pause('app'); SELECT fanout.resume('app'); COMMIT})
{
	behind_schema_change($sql);
	all_equal($sql, $leader, $follower);
}
behind_schema_change(q{SELECT fanout.unfollow('app')});
nothing_left('behind a schema change');

# ---------- while it connects, copies and is told twice ----------

sub follow_again
{
	$follower->safe_psql('postgres', q{DO $$ DECLARE t regclass; BEGIN
		FOR t IN SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' LOOP
			EXECUTE 'DROP TABLE ' || t;
		END LOOP; END $$});
	$follower->safe_psql('postgres', "SELECT fanout.follow('app', '$conninfo', follower => 'f')");
	return;
}

# The leader knows of the connection long before the follower hears that it does.
follow_again();
wait_for_copy($follower);
$proxy->order('delay 100');
my $elsewhere = conninfo($leader) =~ s/'//gr;
for my $sql ("BEGIN; SELECT fanout.set_leader('app', '$elsewhere'); ROLLBACK", q{SELECT fanout.unfollow('app')})
{
	my $before = $leader->safe_psql('postgres', 'SELECT coalesce(sender_pid, 0) FROM fanout.followers');
	$follower->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'pg_fanout follower'});
	wait_until('a sender', sub { $leader->safe_psql('postgres', "SELECT sender_pid <> $before FROM fanout.followers") eq 't' });
	call($sql, 'while it connects');
}
$proxy->order('pass');
nothing_left('while it connects');

# At any moment of the copy and its beginning.
for my $try (0 .. 7)
{
	follow_again();
	sleep 0.06 * $try;
	call(q{SELECT fanout.unfollow('app')}, "$try: while it copies");
	nothing_left("$try: while it copies");
}

# Two at once, and twice.
follow_again();
my ($first, $second) = map { $follower->background_psql('postgres', on_error_stop => 0) } 1 .. 2;
$first->query_safe(q{BEGIN; SELECT fanout.unfollow('app')});
$second->query_until(qr/begin/, qq{\\echo begin\nSELECT fanout.unfollow('app');\n\\echo end\n});
wait_until('the second to wait',
	sub { $follower->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%unfollow%'}) eq '1' });
$first->query_safe('COMMIT');
$second->query_until(qr/end/, '');
like($second->{stderr}, qr/this database does not follow stream "app"/, 'the second of two finds nothing to end');
$_->quit for $first, $second;
nothing_left('two at once');

follow_again();
my ($rc, $out, $err) = $follower->psql('postgres', q{BEGIN; SELECT fanout.unfollow('app'); SELECT fanout.pause('app')});
like($err, qr/this database does not follow stream "app"/, 'it has ended within the transaction');
call(q{BEGIN; SELECT fanout.pause('app'); SELECT fanout.pause('app'); SELECT fanout.resume('app'); SELECT fanout.unfollow('app'); COMMIT}, 'several in one transaction');
nothing_left('several in one transaction');

# ---------- a leader that answers nothing ----------

follow_again();
wait_for_copy($follower);
$proxy->order('hold');
call("SELECT fanout.$_") for q{pause('app')}, q{resume('app')}, q{resync('app', 'u')};
($rc, $out, $err) = $follower->psql('postgres', q{BEGIN; SELECT fanout.unfollow('app'); ROLLBACK});
is($err, '', 'what is rolled back asks the leader nothing');
($rc, $out, $err) = $follower->psql('postgres', q{SELECT fanout.unfollow('app')});
like($err, qr/WARNING:  could not tell the leader that follower "f" is gone: could not connect to the leader/, 'a leader that answers nothing is not waited for');
wait_until('the end', sub { follows() eq '0' && $follower->safe_psql('postgres', 'SELECT count(*) FROM pg_replication_origin') eq '0' });
$leader->safe_psql('postgres', q{SELECT fanout.drop_follower('app', 'f')});
nothing_left('without the leader');
$proxy->stop;

done_testing();
