# Every kind of change, value and identity arrives as it was.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use Types;
use Test::More;

my $leader = new_leader('leader', 'max_prepared_transactions = 5',
	'logical_decoding_work_mem = 1MB');
my $follower = new_follower('follower');

my ($tables, $inserts) = types_as_sql();
$leader->safe_psql('postgres', $tables);
$leader->safe_psql('postgres', $inserts->(0));		# copied
$leader->safe_psql('postgres', q{
	CREATE TABLE toasted (id int PRIMARY KEY, n int, big text, big2 bytea);
	ALTER TABLE toasted ALTER big SET STORAGE EXTERNAL;
	CREATE TABLE keys (a int, b text, c int, PRIMARY KEY (b, a));
	CREATE TABLE by_index (id int NOT NULL, other int NOT NULL UNIQUE, v text);
	ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_other_key;
	CREATE TABLE by_full (id int, v text, x numeric);
	ALTER TABLE by_full REPLICA IDENTITY FULL;
	CREATE TABLE by_nothing (id int);
	CREATE TABLE ordered (id serial PRIMARY KEY, a int, b text, c int);
	CREATE TABLE parent (id int PRIMARY KEY);
	CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent);
	CREATE TABLE counted (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v int, twice int GENERATED ALWAYS AS (v * 2) STORED);
	CREATE TABLE parts (id int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
	CREATE TABLE parts_low PARTITION OF parts FOR VALUES FROM (0) TO (100);
	CREATE TABLE parts_high PARTITION OF parts FOR VALUES FROM (100) TO (1000);
	CREATE TABLE empty_row ();
	CREATE TABLE bulk (id int PRIMARY KEY, v text);
	CREATE UNLOGGED TABLE unlogged (id int);
	CREATE TABLE "Quo""ted" ("a b" int PRIMARY KEY)});
follow($follower, $leader);
wait_for_copy($follower);
same_data('copy of all types', $leader, $follower);

sub check
{
	my ($what, $sql) = @_;
	$leader->safe_psql('postgres', $sql);
	wait_for_catchup($leader, $follower);
	same_data($what, $leader, $follower);
	return;
}

check('stream of all types', $inserts->(10));
check('TOASTed columns that do not change', q{
	INSERT INTO toasted SELECT g, 0, repeat(md5(g::text), 1000), decode(repeat('00ff', 5000), 'hex') FROM generate_series(1, 20) g;
	UPDATE toasted SET n = n + 1;
	UPDATE toasted SET id = id + 100 WHERE id < 5;
	UPDATE toasted SET big2 = NULL WHERE id % 2 = 0;
	ALTER TABLE toasted REPLICA IDENTITY FULL;
	UPDATE toasted SET n = n + 1;
	DELETE FROM toasted WHERE id = 7});
check('keys that change', q{
	INSERT INTO keys SELECT g, 'k' || g, g FROM generate_series(1, 50) g;
	UPDATE keys SET b = b || 'x' WHERE a < 10; UPDATE keys SET a = a + 1000; DELETE FROM keys WHERE c % 3 = 0});
check('REPLICA IDENTITY USING INDEX', q{
	INSERT INTO by_index SELECT g, g * 10, 'v' FROM generate_series(1, 50) g;
	UPDATE by_index SET v = 'w' WHERE id < 10; UPDATE by_index SET other = other + 5 WHERE id > 40; DELETE FROM by_index WHERE id = 20});
check('REPLICA IDENTITY FULL, equal rows and NULLs', q{
	INSERT INTO by_full VALUES (1, NULL, 1.0), (1, NULL, 1.0), (2, 'x', NULL), (NULL, NULL, NULL);
	UPDATE by_full SET v = 'y' WHERE id = 2; DELETE FROM by_full WHERE ctid = (SELECT min(ctid) FROM by_full);
	UPDATE by_full SET x = 2 WHERE id IS NULL});
check('a table without identity takes INSERTs', 'INSERT INTO by_nothing VALUES (1), (2)');
my ($rc, $out, $err) = $leader->psql('postgres', 'UPDATE by_nothing SET id = 3');
like($err, qr/cannot update table "by_nothing" because it does not have a replica identity/,
	'... and its UPDATE fails on the leader');
check('savepoints', q{BEGIN; INSERT INTO keys VALUES (1, 'a', 1); SAVEPOINT s1; INSERT INTO keys VALUES (2, 'b', 1);
	SAVEPOINT s2; DELETE FROM keys WHERE a = 1; ROLLBACK TO s2; UPDATE keys SET c = 9 WHERE a = 2; RELEASE s1;
	SAVEPOINT s3; TRUNCATE keys; ROLLBACK TO s3; COMMIT});
check('identity and generated columns', q{INSERT INTO counted (v) SELECT g FROM generate_series(1, 10) g;
	UPDATE counted SET v = v + 1 WHERE id < 5});
check('partitions', q{INSERT INTO parts SELECT g, 'v' FROM generate_series(1, 200) g; UPDATE parts SET id = id + 500 WHERE id < 20;
	DELETE FROM parts WHERE id = 50; TRUNCATE parts_high});
check('quoted names and rows without columns', q{INSERT INTO "Quo""ted" VALUES (1); UPDATE "Quo""ted" SET "a b" = 2; INSERT INTO empty_row DEFAULT VALUES});
check('schema of a table changes its column order in one transaction', q{INSERT INTO ordered (a, b) VALUES (1, 'x')});

$leader->safe_psql('postgres', q{INSERT INTO parent SELECT generate_series(1, 10); INSERT INTO child SELECT g, g FROM generate_series(1, 10) g;
	INSERT INTO ordered (a) SELECT generate_series(1, 10)});
wait_for_catchup($leader, $follower);
check('TRUNCATE CASCADE', 'TRUNCATE parent CASCADE');
check('TRUNCATE of several tables', 'TRUNCATE keys, by_full, parts');
check('TRUNCATE RESTART IDENTITY', 'TRUNCATE ordered RESTART IDENTITY; INSERT INTO ordered (a) VALUES (5)');
check('COMMIT PREPARED', q{BEGIN; INSERT INTO parent VALUES (1); PREPARE TRANSACTION 'a'; BEGIN; INSERT INTO parent VALUES (2);
	PREPARE TRANSACTION 'b'; COMMIT PREPARED 'a'; ROLLBACK PREPARED 'b'});
check('many subtransactions', q{DO $$ BEGIN FOR i IN 1..300 LOOP BEGIN INSERT INTO keys VALUES (i, 'sub', i);
	IF i % 2 = 0 THEN RAISE 'no'; END IF; EXCEPTION WHEN raise_exception THEN NULL; END; END LOOP; END $$});
is($follower->safe_psql('postgres', 'SELECT count(*) FROM keys'), '150', '... of which half rolled back');

# One transaction of a million rows; the processes must not grow with it.
sub anonymous_mb
{
	my ($pid) = @_;
	my $status = PostgreSQL::Test::Utils::slurp_file("/proc/$pid/status");
	return $status =~ /RssAnon:\s+(\d+) kB/ ? $1 / 1024 : 0;
}
my $worker = worker_pid($follower);
my $decoder = $leader->safe_psql('postgres', 'SELECT decoder_pid FROM fanout.streams');
my $peak = 0;
$leader->safe_psql('postgres', q{INSERT INTO bulk SELECT g, md5(g::text) FROM generate_series(1, 1000000) g});
wait_until('the rows to arrive', sub {
		return 1 if worker_pid($follower) ne $worker;
		my ($w, $d) = (anonymous_mb($worker), anonymous_mb($decoder));
		$peak = $w if $w > $peak;
		$peak = $d if $d > $peak;
		return $follower->safe_psql('postgres', 'SELECT EXISTS (SELECT FROM bulk)') eq 't';
	});
check('a million rows', 'UPDATE bulk SET v = v || id WHERE id % 10 = 0');
is(worker_pid($follower), $worker, 'all that by one worker');
$peak = anonymous_mb($worker) if anonymous_mb($worker) > $peak;
cmp_ok($peak, '<', 150, sprintf('memory stays bounded (%.0f MB)', $peak));
is($follower->safe_psql('postgres', 'SELECT last_error FROM fanout.staleness'), '', '... and without an error');

# Columns in another order, more of them, and wider types.
my $other = new_follower('other');
$other->safe_psql('postgres', q{CREATE TABLE ordered (extra text DEFAULT 'mine', c bigint, b varchar(20), id int PRIMARY KEY, a numeric, more int)});
$leader->safe_psql('postgres', q{SELECT fanout.drop_stream('app', true);
	CREATE PUBLICATION one FOR TABLE ordered; SELECT fanout.create_stream('app', '{one}')});
$leader->safe_psql('postgres', q{INSERT INTO ordered (a, b, c) VALUES (1, 'copied', 2)});
follow($other, $leader, 'copy_schema => false');
wait_for_copy($other);
$leader->safe_psql('postgres', q{INSERT INTO ordered (a, b, c) VALUES (3, 'streamed', 4); UPDATE ordered SET c = 5 WHERE b = 'copied'});
wait_for_catchup($leader, $other);
is( $other->safe_psql('postgres', q{SELECT a, b, c, extra, more FROM ordered WHERE b IS NOT NULL ORDER BY a}),
	"1|copied|5|mine|\n3|streamed|4|mine|", 'columns in another order, extra columns, other types');

# A copy that fails says which row and column it is, and goes on once the cause is gone.
my $failing = new_follower('failing', 'fanout.retry_interval = 200');
$leader->safe_psql('postgres', q{
	CREATE TABLE bad (id int PRIMARY KEY, v text); CREATE CAST (bytea AS text) WITHOUT FUNCTION;
	INSERT INTO bad SELECT g, 'good' FROM generate_series(1, 2000) g; UPDATE bad SET v = '\xff'::bytea::text WHERE id = 1500;
	ALTER PUBLICATION one ADD TABLE bad});
$failing->safe_psql('postgres', q{
	CREATE TABLE ordered (id int PRIMARY KEY, a int, b text, c int, own int DEFAULT 7 NOT NULL, computed int GENERATED ALWAYS AS (a + 1) STORED);
	CREATE TABLE bad (id int CHECK (id <> 700), v text)});
follow($failing, $leader, 'copy_schema => false');

sub fails_with
{
	my ($what, $error) = @_;
	wait_until($what, sub { $failing->safe_psql('postgres', 'SELECT last_error FROM fanout.staleness') =~ $error });
	pass($what);
	return;
}

fails_with('a constraint of the follower that a copied row violates', qr/violates check constraint.*row \(id, v\)=\(700, good\).*copying table "public.bad"/s);
$failing->safe_psql('postgres', 'SET fanout.guard = off; ALTER TABLE bad DROP CONSTRAINT bad_id_check');
fails_with('bytes that are no text in a copied row', qr/invalid byte sequence.*column "v".*row \(id, v\)=\(1500, \\xff\).*copying table "public.bad"/s);
is($failing->safe_psql('postgres', 'SELECT count(*) FROM bad'), '0', '... and nothing of the table is there');
$leader->safe_psql('postgres', q{UPDATE bad SET v = 'good' WHERE id = 1500});
wait_for_copy($failing);
is($failing->safe_psql('postgres', 'SELECT count(*), count(DISTINCT v) FROM bad'), '2000|1', '... until it is');
is($failing->safe_psql('postgres', q{SELECT a, b, c, own, computed FROM ordered WHERE b IS NOT NULL ORDER BY a}),
	"1|copied|5|7|2\n3|streamed|4|7|4", 'columns of the follower get their values in a copy');

$_->stop for $leader, $follower, $other, $failing;
done_testing();
