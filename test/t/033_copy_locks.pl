# TRUNCATE on the leader while a follower copies: it waits for the copy, and what the copy
# does with further connections must not wait for it.  That deadlock no server sees.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Cluster;
use Test::More;

my $leader = new_leader('leader');
my $tables = 'CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY);';
$leader->safe_psql('postgres', "$tables INSERT INTO a SELECT generate_series(1, 1000); INSERT INTO b SELECT 1");

# Connections of the follower take their time to begin, so that there is time to come between.
for my $copy_schema ('true', 'false')
{
	my $follower = new_follower("follower_$copy_schema", 'fanout.retry_interval = 500');
	$follower->safe_psql('postgres', $tables) if $copy_schema eq 'false';
	my $conninfo = (conninfo($leader) . q{ options='-c post_auth_delay=2'}) =~ s/'/''/gr;
	$follower->safe_psql('postgres', "SELECT fanout.follow('app', '$conninfo', copy_schema => $copy_schema)");
	wait_until('the copy to lock the tables', sub { $leader->safe_psql('postgres', q{
		SELECT count(*) > 0 FROM pg_locks WHERE relation = 'a'::regclass AND mode = 'AccessShareLock' AND granted}) eq 't' });
	my $truncate = IPC::Run::start([ 'psql', '-Xq', '-d', conninfo($leader), '-c', 'TRUNCATE a; INSERT INTO a VALUES (1)' ],
		'>', \my $out, '2>', \my $err);
	wait_for_copy($follower);
	$truncate->finish;
	wait_for_catchup($leader, $follower);
	same_data("copy_schema => $copy_schema", $leader, $follower);
	$follower->safe_psql('postgres', q{SELECT fanout.unfollow('app')});
	$follower->stop;
}
$leader->stop;
done_testing();
