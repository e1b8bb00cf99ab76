# A copy of several tables at a time, of which the worker, or one that helps it, is ended:
# no table is copied twice, and none is left out.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Cluster;
use Test::More;

my $leader = new_leader('leader');
$leader->safe_psql('postgres', q{
	CREATE TABLE a (id int, v text);
	CREATE TABLE b (id int, v text);
	CREATE TABLE c (id int);
	INSERT INTO a SELECT g, repeat('a', 50) FROM generate_series(1, 600000) g;
	INSERT INTO b SELECT g, repeat('b', 50) FROM generate_series(1, 500000) g;
	INSERT INTO c SELECT generate_series(1, 1000)});
my $follower = new_follower('follower', 'fanout.copy_workers = 2', 'fanout.retry_interval = 100');
follow($follower, $leader);

# Two tables are being copied: end a process of that type.
sub end_process
{
	my ($type) = @_;
	wait_until("two tables to be copied", sub {
			$follower->safe_psql('postgres', 'SELECT count(*) FROM fanout.copies_under_way()') eq '2' });
	my $ended = $follower->safe_psql('postgres', "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE backend_type = '$type'");
	is($ended, 't', "$type ended");
	all_equal("after $type was ended", $leader, $follower);
	return;
}

for my $type ('pg_fanout follower', 'pg_fanout copy', 'pg_fanout follower')
{
	end_process($type);
	$follower->safe_psql('postgres', q{SELECT fanout.resync('app')});
}
wait_for_copy($follower);
is($follower->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_fanout copy'}), '0',
	'no process is left that copies');
$_->stop for $follower, $leader;
done_testing();
