# Too few workers or slots: it says so, does what it can, and goes on once there are more.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use Test::More;

# Room for the server's own launcher and ours, but not for a decoder; one slot, taken.
my $leader = new_server('leader', 'max_worker_processes = 2', 'max_replication_slots = 1');
$leader->safe_psql('postgres', q{CREATE EXTENSION pg_fanout;
	CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY);
	INSERT INTO t SELECT generate_series(1, 1000); INSERT INTO u SELECT generate_series(1, 1000);
	SELECT pg_create_physical_replication_slot('taken');
	SELECT fanout.create_stream('app')});

sub stream_says
{
	my ($what, $pattern) = @_;
	my $error = wait_until($what, sub {
			my $e = $leader->safe_psql('postgres', q{SELECT coalesce(last_error, '') FROM fanout.streams});
			return $e =~ $pattern ? $e : undef; });
	like($error, $pattern, $what);
	return;
}
stream_says('no worker for the decoder', qr/raise "max_worker_processes"/);
like(PostgreSQL::Test::Utils::slurp_file($leader->logfile), qr/HINT:  Raise "max_worker_processes" and restart/,
	'the log says it, too');

$leader->append_conf('postgresql.conf', 'max_worker_processes = 8');
$leader->restart;
stream_says('no slot for the decoder', qr/all replication slots are in use/);
$leader->safe_psql('postgres', q{SELECT pg_drop_replication_slot('taken')});
wait_until('the stream', sub {
		$leader->safe_psql('postgres', 'SELECT state FROM fanout.streams') eq 'streaming' });
pass('the stream starts once there is room');

# The follower's worker, but none to help it copy.
my $follower = new_follower('follower', 'max_worker_processes = 3');
follow($follower, $leader);
wait_for_copy($follower);
same_data('copied by one worker', $leader, $follower);
like(PostgreSQL::Test::Utils::slurp_file($follower->logfile), qr/Raise "max_worker_processes" to have it go faster/,
	'the log says that there could have been more');

# An UPDATE without a key fails where it is made.
$leader->safe_psql('postgres', q{CREATE TABLE keyless (a int); INSERT INTO keyless VALUES (1);
	CREATE TABLE nothing (id int PRIMARY KEY); ALTER TABLE nothing REPLICA IDENTITY NOTHING;
	INSERT INTO nothing VALUES (1)});
for my $statement ('UPDATE keyless SET a = 2', 'DELETE FROM keyless', 'UPDATE nothing SET id = 2', 'DELETE FROM nothing')
{
	my ($rc, $out, $err) = $leader->psql('postgres', $statement);
	like($err, qr/does not have a replica identity/, "$statement fails on the leader");
}

$_->stop for $leader, $follower;
done_testing();
