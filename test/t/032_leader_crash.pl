# The leader crashes in the middle of writes, twenty times in a row with random
# pauses; two followers, one of which is stopped now and then, end equal to it.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use Time::HiRes qw(sleep);
use Test::More;

my $seed = $ENV{FANOUT_TEST_SEED} // time();
srand($seed);
note("seed $seed");

my $leader = new_leader('leader');
$leader->command_ok([ 'pgbench', '-i', '-q', '-s', '2', 'postgres' ], 'pgbench -i');
my @followers = (new_follower('follower1'), new_follower('follower2'));
follow($_, $leader) for @followers;
wait_for_copy($_) for @followers;

# Half of the commits do not wait for their flush.
my $dir = PostgreSQL::Test::Utils::tempdir();
PostgreSQL::Test::Utils::append_to_file("$dir/async.sql", <<'SQL');
\set aid random(1, 200000)
BEGIN;
SET LOCAL synchronous_commit = off;
UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :aid;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (1, 1, :aid, 1, now());
COMMIT;
SQL

for my $crash (1 .. 20)
{
	local $ENV{PGHOST} = $leader->host;
	local $ENV{PGPORT} = $leader->port;
	my $out = '';
	my $pgbench = IPC::Run::start(
		[ 'pgbench', '-n', '-c', '4', '-T', '60', '-b', 'tpcb-like', '-f', "$dir/async.sql", 'postgres' ],
		'>', \$out, '2>', \$out);
	$followers[1]->stop('immediate') if $crash % 5 == 2;
	sleep 0.2 + rand(1.0);
	$leader->stop('immediate');
	$pgbench->finish;
	$leader->start;
	$followers[1]->start if $crash % 5 == 2;
}

wait_for_catchup($leader, @followers);
same_data('after twenty crashes', $leader, @followers);
my $rows = $leader->safe_psql('postgres', 'SELECT count(*) FROM pgbench_history');
cmp_ok($rows, '>', 200, "there were writes ($rows)");
is( $leader->safe_psql('postgres', q{SELECT count(*) FROM fanout.followers WHERE state = 'lost'}),
	'0', 'no follower was lost');

$_->stop for $leader, @followers;
done_testing();
