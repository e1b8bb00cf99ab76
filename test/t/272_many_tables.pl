# What a schema change costs a follower does not grow with the number of its tables.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use Test::More;

my @settings = ('max_locks_per_transaction = 1000', 'autovacuum = off', 'fsync = off');
my $leader = new_leader('leader', @settings);
my $follower = new_follower('follower', @settings);
follow($follower, $leader);
wait_for_copy($follower);

# Nobody but the worker does anything in the follower's database: its progress is asked of the leader.
sub wait_for_worker
{
	my $lsn = $leader->safe_psql('postgres', 'SELECT fanout.flush_wal()');
	wait_until("the follower to reach $lsn", sub {
			$leader->safe_psql('postgres', "SELECT applied_lsn >= '$lsn' FROM fanout.followers") eq 't';
		});
	return;
}

# Buffers that were used so far; the worker tells that once a second.
sub buffers
{
	my ($before, $same) = (-1, 0);
	while ($same < 3)
	{
		sleep 1;
		$leader->safe_psql('postgres', 'SELECT pg_logical_emit_message(true, \'x\', \'x\')');
		$leader->safe_psql('postgres', 'UPDATE tick SET n = n + 1');
		wait_for_worker();
		my $now = $follower->safe_psql('template1', q{SELECT blks_hit + blks_read FROM pg_stat_database WHERE datname = 'postgres'});
		$same = $now - $before < 200 ? $same + 1 : 0;
		$before = $now;
	}
	return $before;
}

sub make_tables
{
	my ($name, $count) = @_;
	$leader->safe_psql('postgres', "DO \$\$ BEGIN FOR i IN 1 .. $count LOOP EXECUTE format('CREATE TABLE ${name}_%s (a int PRIMARY KEY)', i); END LOOP; END \$\$");
	return;
}

# What a group of schema changes takes, each with a transaction of its own.
sub cost
{
	my ($name) = @_;
	my $before = buffers();
	for my $i (1 .. 10)
	{
		$leader->safe_psql('postgres', $_)
		  for "CREATE TABLE $name$i (a int PRIMARY KEY)", "ALTER TABLE $name$i ADD b text", "ALTER TABLE $name$i RENAME TO $name${i}_renamed",
		  "CREATE INDEX ON $name${i}_renamed (b)", "INSERT INTO $name${i}_renamed VALUES (1)", "CREATE SCHEMA $name$i", "COMMENT ON TABLE $name${i}_renamed IS 'x'",
		  "DROP TABLE $name${i}_renamed", "DROP SCHEMA $name$i";
	}
	wait_for_worker();
	return buffers() - $before;
}

$leader->safe_psql('postgres', 'CREATE TABLE tick (id int PRIMARY KEY, n int); INSERT INTO tick VALUES (1, 0)');
make_tables('few', 20);
cost('first');
my $few = cost('few');
make_tables('many', 1500);
my $many = cost('many');
note("$few buffers beside 20 tables, $many beside 1,500");
cmp_ok($many, '<', 1.5 * $few, 'schema changes take about as many buffers beside many tables as beside few');
is($follower->safe_psql('postgres', q{SELECT count(*) FROM fanout.followed_table t JOIN pg_class c ON c.oid = t.relid AND c.relname = t.relname}),
	$leader->safe_psql('postgres', q{SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace}), 'the list of tables is right');
$leader->safe_psql('postgres', 'CREATE SCHEMA s; ALTER TABLE few_1 SET SCHEMA s; ALTER TABLE few_2 SET SCHEMA s; ALTER SCHEMA s RENAME TO t; DROP TABLE few_3');
wait_for_catchup($leader, $follower);
is($follower->safe_psql('postgres', q{SELECT string_agg(nspname || '.' || relname, ' ' ORDER BY relname) FROM fanout.followed_table WHERE relname IN ('few_1', 'few_2', 'few_3')}),
	't.few_1 t.few_2', '... also when a schema was renamed');
same_data('in the end', $leader, $follower);

$_->stop for $leader, $follower;
done_testing();
