# Streams that name publications: tables that leave and join again within one transaction, and
# schema changes that come to a published table by way of a parent that is not published.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use Test::More;

my $leader = new_server('leader', 'fanout.heartbeat_interval = 100ms');
my $tables = q{
	CREATE SCHEMA shop;
	CREATE TABLE parted (id int PRIMARY KEY, v text) PARTITION BY LIST (id);
	CREATE TABLE part PARTITION OF parted FOR VALUES IN (1, 2, 3, 4);
	CREATE TABLE rooted (id int PRIMARY KEY, v text) PARTITION BY LIST (id);
	CREATE TABLE root_part PARTITION OF rooted FOR VALUES IN (1, 2, 3, 4);
	CREATE TABLE named (id int PRIMARY KEY, v text);
	CREATE TABLE shop.moves (id int PRIMARY KEY, v text);
	CREATE TABLE still (id int PRIMARY KEY, v text);
	CREATE TABLE parent (id int, v text) PARTITION BY LIST (id);
	CREATE TABLE child PARTITION OF parent FOR VALUES IN (1, 2, 3, 4);
	ALTER TABLE child REPLICA IDENTITY FULL;
	CREATE TABLE father (id int, v text);
	CREATE TABLE son (PRIMARY KEY (id)) INHERITS (father)};
$leader->safe_psql('postgres', $tables);
$leader->safe_psql('postgres', "INSERT INTO $_ VALUES (1, 'a'), (2, 'b')")
	for qw(parted rooted named shop.moves still parent son);
$leader->safe_psql('postgres', q{
	CREATE PUBLICATION named FOR TABLE parted, named, still, child, son;
	CREATE PUBLICATION roots FOR TABLE rooted WITH (publish_via_partition_root);
	CREATE PUBLICATION shop FOR TABLES IN SCHEMA shop;
	CREATE EXTENSION pg_fanout; SELECT fanout.create_stream('app', '{named, roots, shop}')});
my $follower = new_follower('follower', 'fanout.retry_interval = 200ms');
follow($follower, $leader);
wait_for_copy($follower);

sub rows
{
	my ($node, $table) = @_;
	return $node->safe_psql('postgres', "SELECT string_agg(t::text, ' ' ORDER BY t::text) FROM $table t");
}

sub settled
{
	my ($node) = @_;
	wait_for_catchup($leader, $node);
	wait_until('tables to be in line', sub { $node->safe_psql('postgres',
				q{SELECT count(*) = 0 AND (SELECT state = 'streaming' FROM fanout.staleness)
				  FROM fanout.table_staleness WHERE state <> 'streaming'}) eq 't' });
	return;
}

sub same_rows
{
	my ($what, @names) = @_;
	settled($follower);
	is(rows($follower, $_), rows($leader, $_), "$what: rows of $_") for @names;
	return;
}

# ---------- away and back in one transaction ----------

sub changes { return "DELETE FROM $_[0] WHERE id = 1; UPDATE $_[0] SET v = 'z' WHERE id = 2; INSERT INTO $_[0] VALUES (3, 'c');" }

my %away = (
	parted => [ 'ALTER TABLE parted DETACH PARTITION part', changes('part'), 'ALTER TABLE parted ATTACH PARTITION part FOR VALUES IN (1, 2, 3, 4)' ],
	rooted => [ 'ALTER TABLE rooted DETACH PARTITION root_part', changes('root_part'), 'ALTER TABLE rooted ATTACH PARTITION root_part FOR VALUES IN (1, 2, 3, 4)' ],
	named => [ 'ALTER PUBLICATION named DROP TABLE named', changes('named'), 'ALTER PUBLICATION named ADD TABLE named' ],
	'shop.moves' => [ 'ALTER TABLE shop.moves SET SCHEMA public', changes('moves'), 'ALTER TABLE moves SET SCHEMA shop' ]);
for my $table (sort keys %away)
{
	my ($leaves, $changes, $joins) = @{ $away{$table} };
	$leader->safe_psql('postgres', "BEGIN; $leaves; $changes $joins; COMMIT");
	same_rows("$table changed while it was away", $table);
	$leader->safe_psql('postgres', "INSERT INTO $table VALUES (1, 'again'); DELETE FROM $table WHERE id = 3");
	same_rows("$table goes on", $table);
}
$leader->safe_psql('postgres', 'BEGIN; ALTER PUBLICATION named DROP TABLE named; TRUNCATE named; ALTER PUBLICATION named ADD TABLE named; COMMIT');
same_rows('TRUNCATE while it was away', 'named');
$leader->safe_psql('postgres', q{INSERT INTO named VALUES (1, 'a'); BEGIN; ALTER PUBLICATION named DROP TABLE named;
	SAVEPOINT s; DELETE FROM named; ROLLBACK TO s; ALTER TABLE named ADD COLUMN n int; ALTER TABLE named DROP COLUMN n;
	ALTER PUBLICATION named ADD TABLE named; COMMIT});
same_rows('schema changes while it was away', 'named');

# What was not changed is not copied.
my $copies = sub { $follower->safe_psql('postgres', q{SELECT sum(copy_number) FROM fanout.followed_table WHERE relid = 'still'::regclass}) };
my $before = $copies->();
$leader->safe_psql('postgres', 'BEGIN; ALTER PUBLICATION named DROP TABLE still; ALTER PUBLICATION named ADD TABLE still; COMMIT');
same_rows('away and back', 'still');
is($copies->(), $before, 'one that was not changed meanwhile is not copied');

# ---------- parents ----------

my $alone = new_follower('alone', 'fanout.retry_interval = 200ms');
$alone->safe_psql('postgres', $tables);
$alone->safe_psql('postgres', 'ALTER TABLE parent DETACH PARTITION child; ALTER TABLE son NO INHERIT father; DROP TABLE parent, father;
	ALTER TABLE child ADD COLUMN n int DEFAULT 7; ALTER TABLE son ADD COLUMN n bigint DEFAULT 7');
follow($alone, $leader, 'copy_schema => false');
wait_for_copy($alone);

$leader->safe_psql('postgres', $_) for
	q{ALTER TABLE parent ADD COLUMN n int DEFAULT 7},
	q{INSERT INTO parent VALUES (3, 'c', 8)},
	q{ALTER TABLE father ADD COLUMN n int DEFAULT 7},
	q{INSERT INTO son VALUES (3, 'c', 8)},
	q{CREATE INDEX ON parent (v)},
	q{ALTER TABLE parent ADD CONSTRAINT positive CHECK (n > 0)},
	q{CREATE TRIGGER none BEFORE UPDATE ON parent FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()},
	q{DROP TRIGGER none ON parent},
	q{DROP INDEX parent_v_idx},
	q{ALTER TABLE father ALTER n TYPE bigint},
	q{UPDATE son SET n = 5000000000 WHERE id = 1};
same_rows('schema changes of parents', 'child', 'son');
settled($alone);
is(rows($alone, $_), rows($leader, $_), "where there is no parent, they are left out: rows of $_") for 'child', 'son';
$alone->stop;

$leader->safe_psql('postgres', $_) for
	q{ALTER TABLE parent RENAME COLUMN v TO w},
	q{UPDATE parent SET w = 'd' WHERE id = 1};
same_rows('a renamed column', 'child');
$leader->safe_psql('postgres', q{ALTER TABLE parent DETACH PARTITION child; ALTER TABLE child ADD COLUMN own int; INSERT INTO child VALUES (4, 'e', 1, 2)});
same_rows('a part that has left its parent', 'child');
is($follower->safe_psql('postgres', q{SELECT count(*) FROM pg_inherits WHERE inhrelid = 'child'::regclass}), 0, '... also on the follower');

done_testing();
