# While the copy waits for something here, it holds up nobody that it need not: not the leader,
# and not those who want to stop it.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Cluster;
use Test::More;

# The index is not built while somebody on the follower holds the lock.
my $leader = new_leader('leader');
$leader->safe_psql('postgres', q{
	CREATE FUNCTION stop(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
		'BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN $1; END';
	CREATE TABLE a (id int PRIMARY KEY);
	CREATE INDEX slow ON a (stop(id));
	INSERT INTO a SELECT generate_series(1, 100)});
my $follower = new_follower('follower', 'fanout.retry_interval = 100');
my $holder = $follower->background_psql('postgres');
$holder->query_safe('SELECT pg_advisory_lock(1)');

# The process that builds the index and waits.
sub waits
{
	return wait_until('an index to be built', sub {
			$follower->safe_psql('postgres', q{SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted}) });
}

sub leader_is_free
{
	my ($when) = @_;
	is($leader->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity
			WHERE application_name = 'follower' AND (xact_start IS NOT NULL OR backend_xmin IS NOT NULL)}), 1,
		"$when: no transaction is open on the leader");
	is($leader->psql('postgres', q{SET lock_timeout = '3s'; TRUNCATE a; INSERT INTO a SELECT generate_series(1, 200)}),
		0, "$when: nothing is locked there");
	return;
}

follow($follower, $leader);
my $pid = waits();
leader_is_free('an index is built');
$follower->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
wait_until('another worker', sub { waits() ne $pid });
leader_is_free('an index is built by a new worker');
$holder->query_safe('SELECT pg_advisory_unlock(1)');
all_equal('the index is built', $leader, $follower);

# Whoever wants it to end does not wait for it either.
sub comes_back
{
	my ($statement, $when) = @_;
	is($follower->psql('postgres', "SET statement_timeout = '5s'; $statement"), 0, "$when: $statement");
	return;
}

sub worker_is_gone
{
	ok($follower->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'pg_fanout follower'}),
		'the worker is gone');
	$follower->safe_psql('postgres', 'DROP TABLE IF EXISTS b, a; DROP FUNCTION IF EXISTS stop');
	return;
}

for my $statement (q{SELECT fanout.unfollow('app')}, 'DROP EXTENSION pg_fanout')
{
	$follower->safe_psql('postgres', q{SELECT fanout.unfollow('app')});
	worker_is_gone();
	$holder->query_safe('SELECT pg_advisory_lock(1)');
	follow($follower, $leader);
	waits();
	comes_back($_, 'an index is built') for q{SELECT fanout.pause('app')}, q{SELECT fanout.resume('app')}, $statement;
	worker_is_gone();
	$holder->query_safe('SELECT pg_advisory_unlock(1)');
	$follower->safe_psql('postgres', 'CREATE EXTENSION IF NOT EXISTS pg_fanout');
	$leader->safe_psql('postgres', q{SELECT fanout.drop_follower('app', follower) FROM fanout.followers});
	follow($follower, $leader);
	all_equal("after $statement", $leader, $follower);
}

# The same for a table that is to be emptied, while somebody reads it.
$holder->query_safe('BEGIN; SELECT count(*) FROM a');
$follower->safe_psql('postgres', q{SELECT fanout.resync('app')});
wait_until('the worker to wait for the reader', sub {
		$follower->safe_psql('postgres', q{SELECT count(*) FROM pg_locks WHERE relation = 'a'::regclass AND NOT granted}) });
comes_back($_, 'a table is to be emptied')
  for q{SELECT fanout.pause('app')}, q{SELECT fanout.resume('app')}, q{SELECT fanout.unfollow('app')};
$holder->query_safe('COMMIT');
worker_is_gone();

$holder->quit;
$_->stop for $follower, $leader;
done_testing();
