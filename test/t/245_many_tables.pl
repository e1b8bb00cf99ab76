# Transactions of many tables, applied together or one alone, and tables that come and go.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use Test::More;

my ($tables, $indexes) = (250, 4);
my $leader = new_leader('leader');
$leader->safe_psql('postgres', qq{DO \$\$ BEGIN FOR i IN 1..$tables LOOP EXECUTE format('CREATE TABLE o%s (id int PRIMARY KEY, a int)', i);
	FOR j IN 1..$indexes LOOP EXECUTE format('CREATE INDEX ON o%s ((a + %s))', i, j); END LOOP; END LOOP; END \$\$});
my $follower = new_follower('follower', 'max_connections = 20', 'max_worker_processes = 8', 'max_wal_senders = 5', 'max_locks_per_transaction = 128', 'fanout.retry_interval = 200');
follow($follower, $leader);
wait_for_copy($follower);

sub room_for_locks
{
	my ($locks) = @_;
	$follower->append_conf('postgresql.conf', "max_locks_per_transaction = $locks");
	$follower->restart;
	return;
}

# ---------- many transactions of one table each ----------
# One transaction of them all has six locks for each table; there is room for some 600.
room_for_locks(16);
sub too_many { my @all = PostgreSQL::Test::Utils::slurp_file($follower->logfile) =~ /out of shared memory/g; return scalar @all }
$follower->safe_psql('postgres', q{SELECT fanout.pause('app')});
state_is($follower, 'paused');
$leader->safe_psql('postgres', join '', map { my $round = $_; map { "INSERT INTO o$_ VALUES ($round, 1);" } 1 .. $tables } 1 .. 4);
$follower->safe_psql('postgres', q{SELECT fanout.resume('app')});
wait_for_catchup($leader, $follower);
is(too_many(), 0, 'many tables in many transactions do not run out of locks');

# ---------- one transaction of them all ----------
$follower->safe_psql('postgres', q{SELECT fanout.pause('app')});
state_is($follower, 'paused');
$leader->safe_psql('postgres', 'INSERT INTO o1 VALUES (10, 1); INSERT INTO o2 VALUES (10, 1);');
$leader->safe_psql('postgres', join '', 'BEGIN;', (map { "INSERT INTO o$_ VALUES (5, 1);" } 1 .. $tables), 'COMMIT');
$follower->safe_psql('postgres', q{SELECT fanout.resume('app')});
wait_until('it to fail', sub { too_many() >= 2 });
like($follower->safe_psql('postgres', 'SELECT last_error FROM fanout.staleness'), qr/out of shared memory/, 'one transaction that needs more locks than there are fails clearly');
is($follower->safe_psql('postgres', 'SELECT count(*) FROM o1 WHERE id = 10'), '1', '... and what comes before it is applied');
room_for_locks(128);
wait_for_catchup($leader, $follower);
same_data('... and so is it, where there are enough', $leader, $follower);

$_->stop for $leader, $follower;
done_testing();
