# Tables that join and leave the publications of a running stream, and the schema changes
# of a stream that names publications.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use Test::More;

my $leader = new_server('leader', 'max_prepared_transactions = 5', 'fanout.heartbeat_interval = 100ms');
$leader->safe_psql('postgres', q{
	CREATE EXTENSION pg_fanout;
	CREATE ROLE alice;
	CREATE SCHEMA shop; CREATE SCHEMA other;
	CREATE TABLE first (id int PRIMARY KEY, v text); INSERT INTO first SELECT g, 'v' FROM generate_series(1, 100) g;
	CREATE TABLE second (id int PRIMARY KEY, v text); INSERT INTO second SELECT g, 'v' FROM generate_series(1, 100) g;
	CREATE TABLE shop.goods (id int PRIMARY KEY, v text); INSERT INTO shop.goods VALUES (1, 'x');
	CREATE TABLE other.moves (id int PRIMARY KEY, v text); INSERT INTO other.moves VALUES (1, 'moves');
	CREATE TABLE parts (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
	CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (100);
	CREATE TABLE rooted (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
	CREATE TABLE rooted_1 PARTITION OF rooted FOR VALUES FROM (0) TO (100);
	CREATE PUBLICATION named FOR TABLE first, parts;
	CREATE PUBLICATION goods FOR TABLES IN SCHEMA shop;
	CREATE PUBLICATION roots FOR TABLE rooted WITH (publish_via_partition_root);
	SELECT fanout.create_stream('app', '{named, goods, roots}');
	SELECT fanout.create_stream('rows', '{named}', ddl => false)});
my $follower = new_follower('follower', 'fanout.retry_interval = 200ms');
my $plain = new_follower('plain', 'fanout.retry_interval = 200ms');
$_->safe_psql('postgres', 'CREATE ROLE alice') for $follower, $plain;
follow($follower, $leader);
wait_for_copy($follower);

# What the follower follows, once it has caught up and copied.
sub followed
{
	my ($node) = @_;
	return $node->safe_psql('postgres', q{SELECT string_agg(replace(relation::text, ' ', '_'), ' ' ORDER BY relation::text) FROM fanout.table_staleness});
}

sub settled
{
	wait_for_catchup($leader, $follower);
	wait_until('copies to end', sub { $follower->safe_psql('postgres',
				q{SELECT count(*) = 0 AND (SELECT state = 'streaming' FROM fanout.staleness)
				  FROM fanout.table_staleness WHERE state <> 'streaming'}) eq 't' });
	wait_for_catchup($leader, $follower);
	return;
}

# Those of the leader's tables that are followed are equal, and which are is as expected.
sub followed_is
{
	my ($what, $expected) = @_;
	settled();
	is(followed($follower), $expected, "$what: the tables that are followed");
	for my $table (split / /, $expected)
	{
		$table =~ s/_""/ ""/;	# no blank in the list
		my $query = "SELECT count(*), sum(hashtextextended(t::text, 0)::numeric) FROM $table t";
		is($follower->safe_psql('postgres', $query), $leader->safe_psql('postgres', $query), "$what: $table");
	}
	return;
}

sub guarded
{
	my ($table) = @_;
	my ($rc, $out, $err) = $follower->psql('postgres', "DELETE FROM $table WHERE false");
	return $err =~ /replicated table/;
}

followed_is('at first', 'first parts_1 rooted shop.goods');
ok(!guarded('second'), 'a table that is not published is not guarded');
$follower->safe_psql('postgres', 'DROP TABLE second, other.moves');

# ---------- joining ----------
$leader->safe_psql('postgres', q{ALTER PUBLICATION named ADD TABLE second; INSERT INTO second VALUES (101, 'later')});
followed_is('ADD TABLE of one that is not here', 'first parts_1 rooted second shop.goods');
ok(guarded('second'), 'it is guarded');
is($follower->safe_psql('postgres', q{SELECT indexdef FROM pg_indexes WHERE tablename = 'second'}),
	'CREATE UNIQUE INDEX second_pkey ON public.second USING btree (id)', 'and has its index');
$leader->safe_psql('postgres', q{UPDATE second SET v = 'changed' WHERE id > 50; DELETE FROM second WHERE id = 7});
followed_is('changes after it joined', 'first parts_1 rooted second shop.goods');

$leader->safe_psql('postgres', q{ALTER PUBLICATION named DROP TABLE second; INSERT INTO second VALUES (102, 'unseen')});
followed_is('DROP TABLE', 'first parts_1 rooted shop.goods');
is($follower->safe_psql('postgres', 'INSERT INTO second VALUES (-1); SELECT count(*) FROM second'), '101',
	'its rows stay and it may be written to');
$leader->safe_psql('postgres', q{BEGIN; UPDATE second SET v = 'before'; ALTER PUBLICATION named ADD TABLE second;
	UPDATE second SET v = v || ', after'; INSERT INTO second VALUES (103, 'in the transaction'); COMMIT; UPDATE second SET v = v || ', later' WHERE id < 10});
followed_is('it joins again, and what was written here goes', 'first parts_1 rooted second shop.goods');

# Schema changes of a table that has just joined come with it or with the stream, never twice.
$leader->safe_psql('postgres', q{CREATE TABLE third (id int PRIMARY KEY); INSERT INTO third VALUES (1);
	ALTER PUBLICATION named ADD TABLE third; ALTER TABLE third ADD v text DEFAULT 'new'; INSERT INTO third VALUES (2, 'x');
	ALTER TABLE third RENAME TO fourth; ALTER TABLE fourth DROP v; INSERT INTO fourth VALUES (3)});
followed_is('ALTER TABLE right after it joined', 'first fourth parts_1 rooted second shop.goods');
$leader->safe_psql('postgres', q{ALTER PUBLICATION named DROP TABLE fourth; DROP TABLE fourth;
	CREATE TABLE fourth (id int PRIMARY KEY, w text); INSERT INTO fourth VALUES (1, 'another')});
followed_is('dropped after it left', 'first parts_1 rooted second shop.goods');
$follower->safe_psql('postgres', 'DROP TABLE fourth');
$leader->safe_psql('postgres', q{ALTER PUBLICATION named ADD TABLE fourth; ALTER PUBLICATION named DROP TABLE fourth;
	ALTER TABLE fourth ADD x int; ALTER PUBLICATION named ADD TABLE fourth; ALTER TABLE fourth ADD y int; INSERT INTO fourth VALUES (2, 'w', 3, 4)});
followed_is('joined, left and joined at once', 'first fourth parts_1 rooted second shop.goods');
$leader->safe_psql('postgres', q{CREATE TABLE gone (id int PRIMARY KEY); INSERT INTO gone VALUES (1); ALTER PUBLICATION named ADD TABLE gone;
	ALTER TABLE gone ADD v text; INSERT INTO gone VALUES (2, 'x'); DROP TABLE gone; ALTER PUBLICATION named DROP TABLE fourth; DROP TABLE fourth});
followed_is('joined and dropped at once', 'first parts_1 rooted second shop.goods');

# A table that is here must have the leader's columns.
$follower->safe_psql('postgres', 'DROP TABLE IF EXISTS fourth; CREATE TABLE odd (id int PRIMARY KEY)');
$leader->safe_psql('postgres', q{CREATE TABLE odd (id int PRIMARY KEY, v text); INSERT INTO odd VALUES (1, 'odd'); ALTER PUBLICATION named ADD TABLE odd});
state_is($follower, 'failed');
like($follower->safe_psql('postgres', 'SELECT last_error FROM fanout.staleness'),
	qr/column "v" of relation "public.odd" does not exist on this follower/, 'a table that is here with other columns stops it');
$follower->safe_psql('postgres', 'DROP TABLE odd');
followed_is('once it was dropped', 'first odd parts_1 rooted second shop.goods');
$leader->safe_psql('postgres', 'DROP TABLE odd');
followed_is('DROP TABLE of a published table', 'first parts_1 rooted second shop.goods');
is($follower->safe_psql('postgres', q{SELECT to_regclass('odd')}), '', 'it is dropped here, too');

# ---------- schemas ----------
$leader->safe_psql('postgres', q{CREATE TABLE shop.made AS SELECT g AS id FROM generate_series(1, 50) g; INSERT INTO shop.made VALUES (51)});
followed_is('a table made in a published schema', 'first parts_1 rooted second shop.goods shop.made');
$leader->safe_psql('postgres', q{ALTER TABLE other.moves SET SCHEMA shop; UPDATE shop.moves SET v = 'moved'});
followed_is('SET SCHEMA into it', 'first parts_1 rooted second shop.goods shop.made shop.moves');
$leader->safe_psql('postgres', q{BEGIN; ALTER TABLE shop.goods SET SCHEMA other; INSERT INTO other.goods VALUES (2, 'out'); COMMIT});
settled();
is(followed($follower), 'first parts_1 rooted second shop.made shop.moves', 'SET SCHEMA out of it');
$leader->safe_psql('postgres', q{CREATE SCHEMA fresh; CREATE TABLE fresh."It's ""$1""" (id int PRIMARY KEY); INSERT INTO fresh."It's ""$1""" VALUES (1);
	ALTER PUBLICATION goods ADD TABLES IN SCHEMA fresh});
followed_is('ADD TABLES IN SCHEMA, of a schema that is not here', 'first fresh."It\'s_""$1""" parts_1 rooted second shop.made shop.moves');
$leader->safe_psql('postgres', q{DROP PUBLICATION goods});
followed_is('DROP PUBLICATION', 'first parts_1 rooted second');
$leader->safe_psql('postgres', q{CREATE PUBLICATION goods FOR TABLE shop.moves WHERE (id > 0); INSERT INTO shop.moves VALUES (-1, 'filtered')});
settled();
is($follower->safe_psql('postgres', 'SELECT * FROM shop.moves'), '1|moved', 'CREATE PUBLICATION of that name again');
$leader->safe_psql('postgres', 'DROP PUBLICATION goods');

# ---------- partitions ----------
$leader->safe_psql('postgres', q{CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (100) TO (200); INSERT INTO parts VALUES (1, 'p'), (101, 'p')});
followed_is('a new partition', 'first parts_1 parts_2 rooted second');
$leader->safe_psql('postgres', q{ALTER TABLE parts DETACH PARTITION parts_1; INSERT INTO parts_1 VALUES (2, 'detached')});
followed_is('DETACH PARTITION', 'first parts_2 rooted second');
ok(!guarded('parts_1'), 'it is guarded no more');
$leader->safe_psql('postgres', q{DELETE FROM parts_1 WHERE id = 1; ALTER TABLE parts ATTACH PARTITION parts_1 FOR VALUES FROM (0) TO (100)});
followed_is('ATTACH PARTITION', 'first parts_1 parts_2 rooted second');
$leader->safe_psql('postgres', q{CREATE TABLE rooted_2 PARTITION OF rooted FOR VALUES FROM (100) TO (200); INSERT INTO rooted VALUES (1, 'r'), (101, 'r');
	CREATE TABLE joins_whole (id int PRIMARY KEY, v text) PARTITION BY RANGE (id); CREATE TABLE joins_whole_1 PARTITION OF joins_whole FOR VALUES FROM (0) TO (100);
	INSERT INTO joins_whole SELECT g, 'v' FROM generate_series(1, 50) g; ALTER PUBLICATION roots ADD TABLE joins_whole; INSERT INTO joins_whole VALUES (99, 'v')});
followed_is('a partitioned table as a whole', 'first joins_whole parts_1 parts_2 rooted second');
$leader->safe_psql('postgres', q{CREATE TABLE joins_parts (id int PRIMARY KEY, v text) PARTITION BY RANGE (id); CREATE TABLE joins_parts_1 PARTITION OF joins_parts FOR VALUES FROM (0) TO (100);
	INSERT INTO joins_parts VALUES (1, 'v'); ALTER PUBLICATION named ADD TABLE joins_parts; INSERT INTO joins_parts VALUES (2, 'v')});
followed_is('a partitioned table by its partitions', 'first joins_parts_1 joins_whole parts_1 parts_2 rooted second');
$leader->safe_psql('postgres', q{ALTER PUBLICATION named DROP TABLE joins_parts; ALTER PUBLICATION roots DROP TABLE joins_whole});

# ---------- transactions that were open when a table joined ----------
my $writer = $leader->background_psql('postgres');
$writer->query_safe(q{BEGIN; INSERT INTO other.goods VALUES (10, 'open when it joined')});
$leader->safe_psql('postgres', q{ALTER PUBLICATION named ADD TABLE other.goods; INSERT INTO other.goods VALUES (11, 'behind it')});
wait_until('the copy to wait for the writer', sub { $leader->safe_psql('postgres',
			q{SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%wait_for_writers%' AND wait_event_type = 'Lock'}) ne '0' });
$writer->query_safe(q{INSERT INTO other.goods VALUES (12, 'and after'); COMMIT});
$writer->quit;
followed_is('a writer that was open', 'first other.goods parts_1 parts_2 rooted second');

# ---------- whose schema changes ----------
$leader->safe_psql('postgres', q{ALTER TABLE first ADD w int DEFAULT 3; CREATE INDEX first_w ON first (w); COMMENT ON TABLE first IS 'published'; GRANT SELECT ON first TO alice;
	CREATE TABLE hidden (id int PRIMARY KEY); ALTER TABLE hidden ADD v text; COMMENT ON TABLE hidden IS 'not published'; CREATE VIEW v AS SELECT 1;
	ALTER TABLE parts ADD more text DEFAULT 'm'; ALTER TABLE rooted ADD more text DEFAULT 'm'; CREATE INDEX ON rooted_1 (v);
	ALTER TABLE first RENAME v TO vv; UPDATE first SET w = id});
followed_is('schema changes', 'first other.goods parts_1 parts_2 rooted second');
is($follower->safe_psql('postgres', q{SELECT obj_description('first'::regclass), has_table_privilege('alice', 'first', 'SELECT'),
	to_regclass('first_w') IS NOT NULL, to_regclass('rooted_1_v_idx') IS NOT NULL}), 'published|t|t|t', 'those of published tables are here');
is($follower->safe_psql('postgres', q{SELECT to_regclass('hidden') IS NULL, to_regclass('v') IS NULL}), 't|t', '... and no others');

# ---------- a stream without schema changes ----------
my $conninfo = conninfo($leader) =~ s/'/''/gr;
$plain->safe_psql('postgres', "SELECT fanout.follow('rows', '$conninfo', follower => 'plain'); SELECT fanout.wait_for_copy('rows')");
$leader->safe_psql('postgres', q{CREATE TABLE byhand (id int PRIMARY KEY, v text); INSERT INTO byhand VALUES (1, 'x'); ALTER PUBLICATION named ADD TABLE byhand});
state_is($plain, 'failed');
like($plain->safe_psql('postgres', 'SELECT last_error FROM fanout.staleness'), qr/relation "public.byhand" does not exist/, 'ddl => false: a table that joins must be made by hand');
$plain->safe_psql('postgres', 'CREATE TABLE byhand (id int PRIMARY KEY, v text)');
wait_until('the copy', sub { $plain->safe_psql('postgres', 'SELECT * FROM byhand') eq '1|x' });
$leader->safe_psql('postgres', q{ALTER TABLE byhand ADD w int; COMMENT ON TABLE byhand IS 'c'; INSERT INTO first (id) VALUES (1000)});
wait_until('a row', sub { $plain->safe_psql('postgres', 'SELECT count(*) FROM first WHERE id = 1000') eq '1' });
is($plain->safe_psql('postgres', q{SELECT count(*) FROM pg_attribute WHERE attrelid = 'byhand'::regclass AND attname = 'w'}), '0', '... and follows no schema change');
$leader->safe_psql('postgres', 'ALTER PUBLICATION named DROP TABLE byhand');
wait_until('it to leave', sub { followed($plain) !~ /byhand/ });
is($plain->safe_psql('postgres', q{INSERT INTO byhand VALUES (2, 'mine'); SELECT count(*) FROM byhand}), '2', '... until it leaves');

# ---------- crashes of either side while tables come and go, and there are writes ----------
$leader->safe_psql('postgres', join ';', map { "CREATE TABLE c$_ (id int PRIMARY KEY, n int); INSERT INTO c$_ SELECT g, 0 FROM generate_series(1, 20000) g" } 1 .. 4);
my @expected = qw(first other.goods parts_1 parts_2 rooted second);
for my $round (1 .. 4)
{
	my $table = "c$round";
	$leader->safe_psql('postgres', "UPDATE $table SET n = n + 1 WHERE id % 10 = $round; ALTER PUBLICATION named ADD TABLE $table; UPDATE $table SET n = n + 1 WHERE id % 7 = 0; ALTER TABLE $table ADD r$round int DEFAULT 5");
	sleep 0.1 * $round;
	$follower->stop('immediate') if $round % 2;
	$leader->stop('immediate') if $round > 2;
	$leader->start if $round > 2;
	$leader->safe_psql('postgres', "UPDATE $table SET n = n + 1 WHERE id % 3 = 0");
	if ($round == 2)
	{
		wait_until('c1 to be copied', sub { $follower->safe_psql('postgres', 'SELECT count(*) FROM c1') eq '20000' });
		$leader->safe_psql('postgres', 'ALTER PUBLICATION named DROP TABLE c1');
	}
	$follower->start if $round % 2;
}
followed_is('after crashes', 'c2 c3 c4 first other.goods parts_1 parts_2 rooted second');
is($follower->safe_psql('postgres', 'SELECT count(*) FROM c1'), '20000', 'a table that left keeps its rows');

$_->stop for $leader, $follower, $plain;
done_testing();
