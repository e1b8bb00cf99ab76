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

# ---------- tables that come and go ----------
# The worker and what all sessions share keep nothing of those that are gone.
$leader->safe_psql('postgres', 'CREATE TABLE stays (id int PRIMARY KEY); INSERT INTO stays VALUES (1)');
sub come_and_go
{
	$leader->safe_psql('postgres', q{DO $$ BEGIN FOR i IN 1..300 LOOP EXECUTE 'CREATE TABLE x (id int PRIMARY KEY, a text)'; INSERT INTO x VALUES (1, 'x'); EXECUTE 'DROP TABLE x'; COMMIT; END LOOP; END $$});
	wait_for_catchup($leader, $follower);
	return;
}
sub kept { return $follower->safe_psql('postgres', 'SELECT count(*) FROM fanout.table_activity()') }
wait_for_catchup($leader, $follower);
my $kept = kept();
come_and_go();
is(kept(), $kept, 'nothing is kept of tables that are gone');
my $contexts = q{SELECT pg_log_backend_memory_contexts(pid) FROM pg_stat_activity WHERE backend_type = 'pg_fanout follower'};
sub contexts
{
	my $before = -s $follower->logfile;
	my $log;
	$follower->safe_psql('postgres', $contexts);
	wait_until('the memory contexts', sub {
			# It answers between two things to do.
			$log = substr PostgreSQL::Test::Utils::slurp_file($follower->logfile), $before;
			$log =~ /Grand total/ });
	my @all = $log =~ /pg_fanout (?:relation|mapping)(?: \d+)?: \d+ total/g;
	my ($more) = $log =~ /(\d+) more child contexts/;
	return @all + ($more // 0);
}
my $worker = worker_pid($follower);
my $first = contexts();
come_and_go() for 1 .. 2;
cmp_ok(contexts(), '<=', $first + 5, '... nor by the worker');
is(worker_pid($follower), $worker, '... which is the same');
$leader->safe_psql('postgres', q{INSERT INTO stays VALUES (2); BEGIN; SAVEPOINT s; DROP TABLE stays; ROLLBACK TO s; INSERT INTO stays VALUES (3); COMMIT;
	DO $$ BEGIN BEGIN DROP TABLE stays; RAISE 'no'; EXCEPTION WHEN raise_exception THEN NULL; END; INSERT INTO stays VALUES (4); END $$;
	BEGIN; DROP TABLE stays; CREATE TABLE stays (id bigint PRIMARY KEY, v int); INSERT INTO stays VALUES (5, 5); COMMIT});
wait_for_catchup($leader, $follower);
is($follower->safe_psql('postgres', 'SELECT * FROM stays'), '5|5', 'a table that is dropped and made again');
is($follower->safe_psql('postgres', 'SELECT changes_applied FROM fanout.table_staleness WHERE relation = $$stays$$::regclass'), '1', '... is another one');

$_->stop for $leader, $follower;
done_testing();
