# Publications of whole schemas, and filters and column lists of partitions and of
# tables that several publications hold.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use Test::More;

my $leader = new_server('leader');
$leader->safe_psql('postgres', q{
	CREATE EXTENSION pg_fanout;
	CREATE SCHEMA whole; CREATE SCHEMA "Other ""S"; CREATE SCHEMA rest;
	CREATE TABLE whole.plain (id int PRIMARY KEY, v text); CREATE TABLE whole.filtered (id int PRIMARY KEY, v text); CREATE TABLE whole.listed (id int PRIMARY KEY, a int, b int);
	CREATE UNLOGGED TABLE whole.unlogged (id int); CREATE TABLE "Other ""S"."T ""1" ("I d" int PRIMARY KEY); CREATE TABLE rest.outside (id int PRIMARY KEY);
	CREATE TABLE whole.parts (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
	CREATE TABLE whole.parts_in PARTITION OF whole.parts FOR VALUES FROM (0) TO (100); CREATE TABLE rest.parts_out PARTITION OF whole.parts FOR VALUES FROM (100) TO (200);
	CREATE PUBLICATION schemas FOR TABLES IN SCHEMA whole, "Other ""S", TABLE rest.parts_out WHERE (id > 150);
	CREATE PUBLICATION schema_filter FOR TABLE whole.filtered WHERE (id > 10);
	CREATE PUBLICATION schema_list FOR TABLE whole.listed (id, a, b);

	CREATE TABLE child_filter (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
	CREATE TABLE child_filter_low PARTITION OF child_filter FOR VALUES FROM (0) TO (100); CREATE TABLE child_filter_high PARTITION OF child_filter FOR VALUES FROM (100) TO (200);
	CREATE PUBLICATION child_filters FOR TABLE child_filter WHERE (id % 2 = 0) WITH (publish_via_partition_root);
	ALTER PUBLICATION child_filters ADD TABLE child_filter_low WHERE (id < 50);
	CREATE TABLE either (id int PRIMARY KEY, v text) PARTITION BY RANGE (id); CREATE TABLE either_1 PARTITION OF either FOR VALUES FROM (0) TO (100);
	CREATE PUBLICATION either_parent FOR TABLE either; CREATE PUBLICATION either_child FOR TABLE either_1 WHERE (id > 50);
	CREATE TABLE root_wins (id int PRIMARY KEY, v text) PARTITION BY RANGE (id); CREATE TABLE root_wins_1 PARTITION OF root_wins FOR VALUES FROM (0) TO (100);
	CREATE PUBLICATION root_wins_parent FOR TABLE root_wins WHERE (id > 15) WITH (publish_via_partition_root); CREATE PUBLICATION root_wins_child FOR TABLE root_wins_1 WHERE (id < 15);
	CREATE TABLE ancestor (id int PRIMARY KEY, v text); CREATE TABLE heir (more int, PRIMARY KEY (id)) INHERITS (ancestor);
	CREATE PUBLICATION inherited FOR TABLE ancestor WHERE (id > 10);
	CREATE TABLE turned (id int PRIMARY KEY, v text) PARTITION BY RANGE (id); CREATE TABLE turned_1 PARTITION OF turned FOR VALUES FROM (0) TO (100);
	CREATE PUBLICATION turning FOR TABLE turned; ALTER PUBLICATION turning ADD TABLE turned_1 WHERE (id > 30);

	CREATE TABLE root_list (id int PRIMARY KEY, a int, b int) PARTITION BY RANGE (id); CREATE TABLE root_list_1 PARTITION OF root_list FOR VALUES FROM (0) TO (100);
	CREATE TABLE root_list_2 (b int, id int NOT NULL, a int); ALTER TABLE root_list ATTACH PARTITION root_list_2 FOR VALUES FROM (100) TO (200);
	CREATE PUBLICATION root_lists FOR TABLE root_list (id, a) WITH (publish_via_partition_root); ALTER PUBLICATION root_lists ADD TABLE root_list_1 (id, b);
	CREATE TABLE leaf_list (id int, a int, b int) PARTITION BY RANGE (id);
	CREATE TABLE leaf_list_1 PARTITION OF leaf_list (PRIMARY KEY (id)) FOR VALUES FROM (0) TO (100); CREATE TABLE leaf_list_2 PARTITION OF leaf_list (PRIMARY KEY (a)) FOR VALUES FROM (100) TO (200);
	CREATE PUBLICATION leaf_lists FOR TABLE leaf_list_1 (id, b), leaf_list_2 (id, a);
	CREATE TABLE changing (id int PRIMARY KEY, a int, b int, c text);
	CREATE PUBLICATION changing_list FOR TABLE changing (id, a);
	CREATE TABLE rekeyed (id int PRIMARY KEY, k int NOT NULL, v text, secret text);
	CREATE PUBLICATION rekeyed_list FOR TABLE rekeyed (id, k, v);
	CREATE TABLE inserted (id int PRIMARY KEY);
	CREATE PUBLICATION inserts FOR TABLE inserted WITH (publish = 'insert, update, delete');

	CREATE TABLE anything (id int PRIMARY KEY, a int, b int);
	CREATE PUBLICATION everything_part FOR TABLE anything (id, a) WHERE (id > 10);
	INSERT INTO whole.plain VALUES (1, 'copied'); INSERT INTO whole.filtered VALUES (1, 'copied'), (20, 'copied'); INSERT INTO whole.listed VALUES (1, 2, 3); INSERT INTO "Other ""S"."T ""1" VALUES (1);
	INSERT INTO whole.unlogged VALUES (1); INSERT INTO rest.outside VALUES (1); INSERT INTO whole.parts SELECT g, 'copied' FROM generate_series(95, 190, 5) g;
	INSERT INTO child_filter SELECT g, 'copied' FROM generate_series(45, 110, 5) g; INSERT INTO either SELECT g, 'copied' FROM generate_series(40, 60, 5) g; INSERT INTO root_wins SELECT g, 'copied' FROM generate_series(5, 30, 5) g;
	INSERT INTO ancestor SELECT g, 'copied' FROM generate_series(5, 15, 5) g; INSERT INTO heir SELECT g, 'copied', g FROM generate_series(6, 16, 5) g; INSERT INTO turned SELECT g, 'copied' FROM generate_series(10, 50, 10) g;
	INSERT INTO root_list SELECT g, g, g FROM generate_series(90, 110, 10) g; INSERT INTO leaf_list SELECT g, g, g FROM generate_series(90, 110, 10) g;
	INSERT INTO changing VALUES (1, 1, 1, 'c'); INSERT INTO rekeyed VALUES (1, 10, 'copied', 's'); INSERT INTO inserted VALUES (1), (2); INSERT INTO anything SELECT g, g, g FROM generate_series(5, 15, 5) g;
	SELECT fanout.create_stream('app', '{schemas, schema_filter, schema_list, child_filters, either_parent, either_child, root_wins_parent, root_wins_child, inherited, turning, root_lists, leaf_lists, changing_list, rekeyed_list, inserts}');
	CREATE PUBLICATION everything FOR ALL TABLES;
	SELECT fanout.create_stream('everything', '{everything_part, everything}')});
my $follower = new_follower('follower');
follow($follower, $leader);
wait_for_copy($follower);
$follower->safe_psql('postgres', 'CREATE DATABASE everything');
my $conninfo = conninfo($leader) =~ s/'/''/gr;
$follower->safe_psql('everything', "CREATE EXTENSION pg_fanout; SELECT fanout.follow('everything', '$conninfo')");
$follower->safe_psql('everything', q{SELECT fanout.wait_for_copy('everything')});

# What the follower has of a table is what a query says of the leader's.
my %queries = (
	'whole.plain' => 'TABLE whole.plain', 'whole.filtered' => 'TABLE whole.filtered', 'whole.listed' => 'TABLE whole.listed', '"Other ""S"."T ""1"' => 'TABLE "Other ""S"."T ""1"',
	'whole.parts' => 'SELECT * FROM whole.parts WHERE id < 100 OR id > 150',
	'child_filter' => 'SELECT * FROM child_filter WHERE id % 2 = 0', 'either' => 'TABLE either', 'root_wins' => 'SELECT * FROM root_wins WHERE id > 15',
	'ancestor' => 'SELECT * FROM ancestor WHERE id > 10', 'heir' => 'SELECT * FROM heir WHERE id > 10', 'turned' => 'SELECT * FROM turned WHERE id > 30',
	'root_list' => 'SELECT id, a, NULL::int AS b FROM root_list', 'leaf_list_1' => 'SELECT id, NULL, b FROM leaf_list_1', 'leaf_list_2' => 'SELECT id, a, NULL FROM leaf_list_2',
	'changing' => 'SELECT id, a, NULL, NULL FROM changing', 'rekeyed' => 'SELECT id, k, v, NULL FROM rekeyed', 'inserted' => 'TABLE inserted');

sub published
{
	my ($what, $sql, @tables) = @_;
	$leader->safe_psql('postgres', $sql) if defined $sql;
	wait_for_catchup($leader, $follower);
	for my $table (@tables ? @tables : sort keys %queries)
	{
		is( $follower->safe_psql('postgres', "SELECT * FROM (TABLE $table) t ORDER BY t"),
			$leader->safe_psql('postgres', "SELECT * FROM ($queries{$table}) t ORDER BY t"), "$what: $table");
	}
	return;
}
published('copy');
published('INSERT', q{
	INSERT INTO whole.plain VALUES (2, 'in'); INSERT INTO whole.filtered VALUES (2, 'in'), (30, 'in'); INSERT INTO whole.listed VALUES (2, 3, 4); INSERT INTO "Other ""S"."T ""1" VALUES (2);
	INSERT INTO whole.unlogged VALUES (2); INSERT INTO rest.outside VALUES (2); INSERT INTO whole.parts VALUES (1, 'in'), (101, 'out'), (151, 'in');
	INSERT INTO child_filter VALUES (1, 'out'), (2, 'in'), (66, 'in'), (67, 'out'), (150, 'in'); INSERT INTO either VALUES (1, 'in'), (99, 'in'); INSERT INTO root_wins VALUES (1, 'out'), (16, 'in');
	INSERT INTO ancestor VALUES (1, 'out'), (21, 'in'); INSERT INTO heir VALUES (2, 'out', 1), (22, 'in', 2); INSERT INTO turned VALUES (1, 'out'), (31, 'in');
	INSERT INTO root_list VALUES (1, 2, 3), (101, 2, 3); INSERT INTO leaf_list VALUES (1, 2, 3), (101, 102, 103);
	INSERT INTO changing VALUES (2, 2, 2, 'c'); INSERT INTO rekeyed VALUES (2, 20, 'in', 's'); INSERT INTO inserted VALUES (3)});
published('UPDATE', q{
	UPDATE whole.plain SET v = 'u'; UPDATE whole.filtered SET v = 'u'; UPDATE whole.filtered SET id = id + 2 WHERE id = 2; UPDATE whole.listed SET a = 9, b = 9; UPDATE "Other ""S"."T ""1" SET "I d" = 3 WHERE "I d" = 2;
	UPDATE rest.outside SET id = 3 WHERE id = 2; UPDATE whole.parts SET v = 'u'; UPDATE whole.parts SET id = id + 41 WHERE id IN (101, 120, 125); UPDATE whole.parts SET id = 103 WHERE id = 151; UPDATE whole.parts SET id = 170 + 1 WHERE id = 1;
	UPDATE child_filter SET v = 'u'; UPDATE child_filter SET id = id + 13 WHERE id IN (1, 66); UPDATE child_filter SET id = 160 WHERE id = 2; UPDATE either SET v = 'u', id = id + 2 WHERE id IN (1, 60); UPDATE root_wins SET v = 'u'; UPDATE root_wins SET id = 17 WHERE id = 1; UPDATE root_wins SET id = 2 WHERE id = 16;
	UPDATE ancestor SET v = 'u'; UPDATE ancestor SET id = id + 30 WHERE id IN (1, 2); UPDATE turned SET v = 'u'; UPDATE turned SET id = 33 WHERE id = 1;
	UPDATE root_list SET a = a + 1, b = b + 1; UPDATE root_list SET id = 102 WHERE id = 1; UPDATE leaf_list SET b = b + 1; UPDATE leaf_list_1 SET id = 2 WHERE id = 1; UPDATE leaf_list_2 SET a = 777 WHERE a = 102;
	UPDATE changing SET a = a * 10, b = b * 10, c = 'd'; UPDATE rekeyed SET v = 'u', secret = 'x'; UPDATE inserted SET id = 4 WHERE id = 3});
published('DELETE', q{
	DELETE FROM whole.plain WHERE id = 1; DELETE FROM whole.filtered WHERE id IN (1, 20); DELETE FROM whole.parts WHERE id % 10 = 5; DELETE FROM child_filter WHERE id % 3 = 0; DELETE FROM either WHERE id < 50; DELETE FROM root_wins WHERE id % 2 = 0;
	DELETE FROM ancestor WHERE id % 2 = 1; DELETE FROM turned WHERE id IN (10, 50); DELETE FROM root_list WHERE id > 100; DELETE FROM leaf_list WHERE id % 100 = 0});
is($follower->safe_psql('postgres', q{SELECT (SELECT count(*) FROM whole.unlogged), (SELECT count(*) FROM rest.outside)}), '0|0', 'what is in no publication is not here');
is($follower->safe_psql('postgres', q{SELECT count(*) FROM fanout.table_staleness WHERE relation IN ('whole.unlogged'::regclass, 'rest.outside'::regclass)}), '0', '... and not listed');

my $count = q{SELECT transactions FROM fanout.streams WHERE stream = 'app'};
my $before = $leader->safe_psql('postgres', $count);
$leader->safe_psql('postgres', $_) for 'INSERT INTO rest.outside VALUES (4)', 'UPDATE whole.unlogged SET id = id + 1', 'BEGIN; SELECT txid_current(); COMMIT', 'BEGIN; INSERT INTO inserted VALUES (9); DELETE FROM inserted WHERE id = 9; COMMIT';
wait_for_catchup($leader, $follower);
is($leader->safe_psql('postgres', $count), $before + 1, 'transactions without a published change are left out');

# ---------- what FOR ALL TABLES adds up to ----------
$leader->safe_psql('postgres', q{INSERT INTO anything VALUES (1, 1, 1), (20, 20, 20); UPDATE anything SET b = b + 1; DELETE FROM anything WHERE id = 5});
my $lsn = $leader->safe_psql('postgres', 'SELECT fanout.flush_wal()');
wait_until('the other stream', sub { $follower->safe_psql('everything', "SELECT applied_lsn >= '$lsn' FROM fanout.staleness") eq 't' });
is($follower->safe_psql('everything', 'SELECT * FROM anything ORDER BY id'), $leader->safe_psql('postgres', 'SELECT * FROM anything ORDER BY id'),
	'with FOR ALL TABLES neither filter nor column list counts');

# ---------- publications that change ----------
published('TRUNCATE that is not published', 'INSERT INTO inserted VALUES (5)', 'inserted');
$leader->safe_psql('postgres', 'TRUNCATE inserted; INSERT INTO inserted VALUES (6)');
wait_for_catchup($leader, $follower);
is($follower->safe_psql('postgres', 'SELECT string_agg(id::text, NULL ORDER BY id) FROM inserted'), '12456', '... leaves the rows');

$leader->safe_psql('postgres', q{ALTER PUBLICATION turning SET (publish_via_partition_root = true); INSERT INTO turned VALUES (3, 'root'), (66, 'root'); UPDATE turned SET v = 'root' WHERE id = 33});
wait_for_catchup($leader, $follower);
# The parent joins the stream: its rows come with a copy.
wait_for_copy($follower);
is($follower->safe_psql('postgres', q{SELECT id FROM turned WHERE v = 'root' ORDER BY id}), "3\n33\n66", 'a partition that is published as its parent from now on has its filter');

$leader->safe_psql('postgres', $_) for
	q{ALTER PUBLICATION changing_list SET TABLE changing (id, a, b)}, q{INSERT INTO changing VALUES (3, 3, 3, 'c'); UPDATE changing SET b = 5 WHERE id = 1},
	q{ALTER PUBLICATION changing_list SET TABLE changing (id, c)}, q{INSERT INTO changing VALUES (4, 4, 4, 'c'); UPDATE changing SET a = -1, c = 'e' WHERE id = 3},
	q{BEGIN; UPDATE changing SET c = 'f' WHERE id = 2; ALTER PUBLICATION changing_list SET TABLE changing; UPDATE changing SET b = -2 WHERE id = 4; COMMIT};
wait_for_catchup($leader, $follower);
is($follower->safe_psql('postgres', 'SELECT * FROM changing ORDER BY id'), "1|10|5|\n2|20||f\n3|3|3|e\n4|4|-2|c", 'a column list that changes counts from then on');

published('another key in the list', q{ALTER TABLE rekeyed DROP CONSTRAINT rekeyed_pkey; ALTER TABLE rekeyed ADD PRIMARY KEY (k);
	INSERT INTO rekeyed VALUES (3, 30, 'in', 's'); UPDATE rekeyed SET v = 'k', id = id + 100; UPDATE rekeyed SET k = 31 WHERE k = 30; DELETE FROM rekeyed WHERE k = 20}, 'rekeyed');
published('a key of two columns', q{ALTER TABLE rekeyed DROP CONSTRAINT rekeyed_pkey; INSERT INTO rekeyed VALUES (4, 40, 'in', 's'); ALTER TABLE rekeyed ADD PRIMARY KEY (k, id);
	UPDATE rekeyed SET v = 'both', secret = 'y'; UPDATE rekeyed SET k = k + 1 WHERE id = 4; DELETE FROM rekeyed WHERE id = 101}, 'rekeyed');
$leader->safe_psql('postgres', q{ALTER PUBLICATION rekeyed_list SET TABLE rekeyed (id, v)});
my ($rc, $out, $err) = $leader->psql('postgres', q{UPDATE rekeyed SET v = 'no'});
like($err, qr/cannot update table "rekeyed".*does not cover the replica identity/s, 'a key outside of the list is refused on the leader');
is($follower->safe_psql('postgres', 'SELECT last_error FROM fanout.staleness'), '', 'all that without an error');

$_->stop for $leader, $follower;
done_testing();
