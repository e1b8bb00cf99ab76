# How often the decoder reads what is published: when something published was touched, however many partitions there are.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Utils;
use Test::More;

my $leader = new_server('leader', 'log_min_messages = debug2', 'autovacuum = off', 'max_locks_per_transaction = 500');
my $follower = new_follower('follower', 'shared_buffers = 16MB');
$leader->safe_psql('postgres', q{
	CREATE EXTENSION pg_fanout;
	CREATE SCHEMA s; CREATE SCHEMA other;
	CREATE TABLE s.t (id int PRIMARY KEY);
	CREATE TABLE root (id int PRIMARY KEY) PARTITION BY RANGE (id);
	CREATE TABLE whole (id int PRIMARY KEY) PARTITION BY RANGE (id);
	DO $$ BEGIN FOR i IN 0 .. 99 LOOP
		EXECUTE format('CREATE TABLE root_%s PARTITION OF root FOR VALUES FROM (%s) TO (%s)', i, i, i + 1);
		EXECUTE format('CREATE TABLE whole_%s PARTITION OF whole FOR VALUES FROM (%s) TO (%s)', i, i, i + 1);
	END LOOP; END $$;
	CREATE TABLE unpublished (id int PRIMARY KEY);
	CREATE PUBLICATION parts FOR TABLE root, TABLES IN SCHEMA s;
	CREATE PUBLICATION whole FOR TABLE whole WITH (publish_via_partition_root);
	SELECT fanout.create_stream('app', '{parts, whole}');
	SELECT fanout.create_stream('all')});
follow($follower, $leader);
wait_for_copy($follower);
$follower->safe_psql('postgres', 'CREATE SCHEMA IF NOT EXISTS other');

sub decoded
{
	my $lsn = $leader->safe_psql('postgres', 'SELECT fanout.flush_wal()');
	wait_until('the decoders', sub { $leader->safe_psql('postgres', "SELECT bool_and(decoded_lsn >= '$lsn') FROM fanout.streams") eq 't' });
	return;
}

# How many messages of that there are until all is decoded that the statements did.
sub counts
{
	my (@sql) = @_;
	decoded();
	my $from = -s $leader->logfile;
	$leader->safe_psql('postgres', $_) for @sql;
	decoded();
	my $log = slurp_file($leader->logfile, $from);
	return (scalar(() = $log =~ /listing the published tables/g), scalar(() = $log =~ /reading what is published of relation/g));
}

my $write = q{INSERT INTO root SELECT generate_series(0, 99) ON CONFLICT (id) DO NOTHING; INSERT INTO whole SELECT generate_series(0, 99) ON CONFLICT (id) DO NOTHING;
	DELETE FROM root; DELETE FROM whole;
	INSERT INTO root SELECT generate_series(0, 99); INSERT INTO whole SELECT generate_series(0, 99)};
counts($write, 'ALTER TABLE s.t ADD v int', 'INSERT INTO s.t VALUES (0)');

# What is not published, or changes nothing about what is.
for my $sql (q{BEGIN; CREATE TEMP TABLE x (a int PRIMARY KEY, b text) ON COMMIT DROP; INSERT INTO s.t VALUES ((random() * 1e9)::int); COMMIT},
	q{CREATE TEMP TABLE x (a int PRIMARY KEY); INSERT INTO x VALUES (1); INSERT INTO s.t VALUES ((random() * 1e9)::int); DROP TABLE x},
	q{CREATE SCHEMA new; DROP SCHEMA new; INSERT INTO s.t VALUES ((random() * 1e9)::int)},
	q{ALTER SCHEMA other RENAME TO others; ALTER SCHEMA others RENAME TO other; INSERT INTO s.t VALUES ((random() * 1e9)::int)},
	q{CREATE TABLE other.made (id int PRIMARY KEY); ALTER TABLE other.made ADD v int; DROP TABLE other.made; INSERT INTO s.t VALUES ((random() * 1e9)::int)},
	q{ALTER TABLE unpublished ADD COLUMN v int; ALTER TABLE unpublished DROP COLUMN v; ANALYZE unpublished; INSERT INTO s.t VALUES ((random() * 1e9)::int)},
	q{CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'; DROP FUNCTION f(); CREATE VIEW v AS TABLE s.t; DROP VIEW v; INSERT INTO s.t VALUES ((random() * 1e9)::int)})
{
	my ($listed, $read) = counts($sql, $sql, $sql, $write);
	is($listed, 0, "no list is made after $sql");
	cmp_ok($read, '<', 20, '... and what is known of published tables stays');
}

# A stream of all tables has nothing to do with publications.
my ($listed, $read) = counts($write, 'CREATE PUBLICATION p FOR TABLE s.t', 'ALTER PUBLICATION p SET TABLE unpublished', 'DROP PUBLICATION p', $write);
cmp_ok($read, '<=', 250, 'a publication of others makes the stream that names some read once, and not the one of all tables');

# What is published, but does not change the list.
($listed, $read) = counts('ALTER TABLE s.t ADD w int; INSERT INTO s.t VALUES (-1); ALTER TABLE root_7 SET (fillfactor = 50); ALTER TABLE whole_7 SET (fillfactor = 50)', $write);
is($listed, 0, 'nor after a change of published tables');
cmp_ok($read, '<', 30, '... of which only those are read again');

# And what does.
sub makes_list
{
	my ($sql) = @_;
	my ($made) = counts($sql);
	cmp_ok($made, '>', 0, "a list is made after $sql");
	cmp_ok($made, '<=', 2, '... once');
	return;
}
for my $sql ('CREATE TABLE s.new (id int PRIMARY KEY)', 'ALTER TABLE s.new RENAME TO newer', 'ALTER TABLE s.newer SET SCHEMA other', 'ALTER TABLE other.newer SET SCHEMA s',
	'DROP TABLE s.newer', 'CREATE TABLE root_100 PARTITION OF root FOR VALUES FROM (100) TO (101)', 'ALTER TABLE root DETACH PARTITION root_100',
	'ALTER TABLE root ATTACH PARTITION root_100 FOR VALUES FROM (100) TO (101)', 'DROP TABLE root_100', 'ALTER PUBLICATION parts ADD TABLE unpublished',
	'ALTER PUBLICATION parts DROP TABLE unpublished', 'ALTER PUBLICATION parts ADD TABLES IN SCHEMA other')
{
	makes_list($sql);
}
$leader->safe_psql('postgres', $write);
wait_for_catchup($leader, $follower);
wait_for_copy($follower);
my $tables = q{SELECT string_agg(nspname || '.' || relname, ',' ORDER BY nspname, relname) FROM };
is($follower->safe_psql('postgres', $tables . 'fanout.followed_table'), $leader->safe_psql('postgres', $tables . q{fanout.stream_tables('app')}),
	'the follower has the tables of the publications');

makes_list($_) for 'ALTER SCHEMA s RENAME TO s2', 'ALTER SCHEMA s2 RENAME TO s';

$_->stop for $leader, $follower;
done_testing();
