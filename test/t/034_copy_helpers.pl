# A copy of several tables at a time, of which the worker, or one that helps it, is ended:
# no table is copied twice, and none is left out.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Cluster;
use Test::More;

# A copy stops in the middle of the table while somebody on the follower holds the lock.
my $leader = new_leader('leader');
$leader->safe_psql('postgres', q{
	CREATE FUNCTION stop() RETURNS bool LANGUAGE plpgsql AS 'BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN true; END';
	CREATE TABLE a (id int CHECK (id <> 30000 OR stop()), v text);
	CREATE TABLE b (id int CHECK (id <> 20000 OR stop()), v text);
	CREATE TABLE c (id int);
	INSERT INTO a SELECT g, repeat('a', 50) FROM generate_series(1, 60000) g;
	INSERT INTO b SELECT g, repeat('b', 50) FROM generate_series(1, 50000) g;
	INSERT INTO c SELECT generate_series(1, 1000)});
my $follower = new_follower('follower', 'fanout.copy_workers = 2', 'fanout.retry_interval = 100');
my $holder = $follower->background_psql('postgres');
$holder->query_safe('SELECT pg_advisory_lock(1)');
follow($follower, $leader);

# Two tables are being copied: end a process of that type.
sub end_process
{
	my ($type) = @_;
	wait_until("two tables to be copied", sub {
			$follower->safe_psql('postgres', q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted}) eq '2' });
	is($follower->safe_psql('postgres', 'SELECT count(*) FROM fanout.copies_under_way()'), '2', 'two copies are shown');
	my $ended = $follower->safe_psql('postgres', "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE backend_type = '$type'");
	is($ended, 't', "$type ended");
	$holder->query_safe('SELECT pg_advisory_unlock(1)');
	all_equal("after $type was ended", $leader, $follower);
	$holder->query_safe('SELECT pg_advisory_lock(1)');
	return;
}

for my $type ('pg_fanout follower', 'pg_fanout copy', 'pg_fanout follower')
{
	end_process($type);
	$follower->safe_psql('postgres', q{SELECT fanout.resync('app')});
}
$holder->quit;
wait_for_copy($follower);
is($follower->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_fanout copy'}), '0',
	'no process is left that copies');
$_->stop for $follower, $leader;
done_testing();
