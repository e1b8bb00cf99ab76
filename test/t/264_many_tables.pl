# More tables than a transaction may lock: with the server's defaults, none of the steps of a copy takes places in the
# lock table by their number, on the follower, where others find room all the time.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Utils;
use Test::More;

# Few places: (10 + 8 + 3 + 2) * 10, and some; on the leader pg_dump locks all tables in one transaction.
my $tables = 400;
my @few = ('max_connections = 12', 'max_wal_senders = 2', 'max_locks_per_transaction = 10', 'fsync = off');
my $leader = new_leader('leader', 'fsync = off');
my $follower = new_follower('follower', @few, 'fanout.retry_interval = 100ms');
sub value { return $follower->safe_psql('postgres', $_[0]) }

$leader->safe_psql('postgres', "DO \$\$ BEGIN FOR i IN $_ * 100 + 1 .. $_ * 100 + 100 LOOP
	EXECUTE format('CREATE TABLE t%s (id int PRIMARY KEY, v text UNIQUE); INSERT INTO t%s VALUES (%s)', i, i, i); END LOOP; END \$\$") for 0 .. $tables / 100 - 1;
$leader->safe_psql('postgres', 'CREATE VIEW v AS ' . join(' UNION ALL ', map { "SELECT * FROM t$_" } 1 .. 50));
follow($follower, $leader);

# Somebody who needs as many locks as he may have.
my $failed = 0;
wait_until('the copy', sub {
		$failed++ if !defined Fanout::try_value($follower, 'BEGIN; ' . join('', map { "SELECT pg_advisory_xact_lock_shared($_);" } 1 .. 40) . 'COMMIT');
		my $state = Fanout::try_value($follower, 'SELECT state FROM fanout.staleness') // '';
		return $state eq 'streaming' });
is($failed, 0, 'others have their places');
wait_for_copy($follower);
is(value('SELECT count(*) FROM fanout.table_staleness WHERE copied_rows = 1'), $tables, 'all tables are copied');
is(value(q{SELECT count(*) FROM pg_index WHERE indisunique AND indrelid::regclass::text ~ '^t\d+$'}), 2 * $tables, '... with their indexes');
is(value('SELECT count(*) FROM v'), '50', '... and views');
unlike(slurp_file($follower->logfile), qr/out of shared memory/, '... at the first try');

value(q{SELECT fanout.resync('app')});
wait_for_copy($follower);
is(value('SELECT count(*) FROM fanout.table_staleness WHERE copied_rows = 1'), $tables, 'all are copied again');
unlike(slurp_file($follower->logfile), qr/out of shared memory/, '... at the first try');

$_->stop for $leader, $follower;
done_testing();
