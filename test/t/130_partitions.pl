# Tables that are partitioned in one way on the leader and in another, or not at all, on a follower.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use Test::More;

my $leader = new_server('leader');
$leader->safe_psql('postgres', q{
	CREATE EXTENSION pg_fanout;
	CREATE TABLE plain (id int PRIMARY KEY, region text, v text);
	CREATE TABLE whole (id int, region text, v text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
	CREATE TABLE whole_eu PARTITION OF whole FOR VALUES IN ('eu');
	CREATE TABLE whole_us PARTITION OF whole FOR VALUES IN ('us');
	CREATE TABLE whole_rest PARTITION OF whole DEFAULT PARTITION BY RANGE (id);
	CREATE TABLE whole_rest_low (v text, region text NOT NULL, id int NOT NULL);
	ALTER TABLE whole_rest ATTACH PARTITION whole_rest_low FOR VALUES FROM (0) TO (1000);
	CREATE TABLE whole_rest_high PARTITION OF whole_rest FOR VALUES FROM (1000) TO (100000);
	CREATE TABLE to_plain (id int PRIMARY KEY, v text) PARTITION BY HASH (id);
	CREATE TABLE to_plain_0 PARTITION OF to_plain FOR VALUES WITH (MODULUS 2, REMAINDER 0);
	CREATE TABLE to_plain_1 PARTITION OF to_plain FOR VALUES WITH (MODULUS 2, REMAINDER 1);
	CREATE TABLE fully (a int, b text, c int);
	ALTER TABLE fully REPLICA IDENTITY FULL;
	CREATE TABLE leaf (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
	CREATE TABLE leaf_low PARTITION OF leaf FOR VALUES FROM (0) TO (100);
	CREATE TABLE leaf_high PARTITION OF leaf FOR VALUES FROM (100) TO (1000);
	CREATE TABLE referenced (id int PRIMARY KEY);
	CREATE PUBLICATION tables FOR TABLE plain, fully, leaf, referenced;
	CREATE PUBLICATION roots FOR TABLE whole, to_plain WITH (publish_via_partition_root);
	INSERT INTO plain SELECT g, (ARRAY['eu','us','asia'])[g % 3 + 1], 'v' || g FROM generate_series(1, 60) g;
	INSERT INTO whole SELECT g, (ARRAY['eu','us','asia'])[g % 3 + 1], 'v' || g FROM generate_series(1, 60) g;
	INSERT INTO to_plain SELECT g, 'v' || g FROM generate_series(1, 60) g;
	INSERT INTO fully SELECT g % 10, 'b' || g % 3, g FROM generate_series(1, 30) g;
	INSERT INTO leaf SELECT g * 9, 'v' FROM generate_series(1, 60) g;
	SELECT fanout.create_stream('app', '{tables, roots}')});

# One follower has the leader's schema, the other its own: it partitions by what is in no key,
# by an expression and in two levels, with the columns of partitions in another order.
my $same = new_follower('same');
my $other = new_follower('other');
$other->safe_psql('postgres', q{
	CREATE TABLE plain (v text, extra int DEFAULT 7, region text, id int) PARTITION BY LIST (region);
	CREATE TABLE plain_eu PARTITION OF plain FOR VALUES IN ('eu');
	CREATE TABLE plain_rest PARTITION OF plain DEFAULT PARTITION BY RANGE (id);
	CREATE TABLE plain_low (id int, dropped int, v text, region text, extra int);
	ALTER TABLE plain_low DROP dropped;
	ALTER TABLE plain_rest ATTACH PARTITION plain_low FOR VALUES FROM (0) TO (50);
	CREATE TABLE plain_high PARTITION OF plain_rest FOR VALUES FROM (50) TO (10000);
	CREATE UNIQUE INDEX ON plain_eu (id); CREATE UNIQUE INDEX ON plain_high (id);
	CREATE TABLE whole (id int, region text, v text) PARTITION BY HASH ((id / 2));
	CREATE TABLE whole_0 PARTITION OF whole FOR VALUES WITH (MODULUS 2, REMAINDER 0);
	CREATE TABLE whole_1 (v text, id int, region text, len int GENERATED ALWAYS AS (length(v)) STORED);
	ALTER TABLE whole ADD len int GENERATED ALWAYS AS (length(v)) STORED;
	ALTER TABLE whole ATTACH PARTITION whole_1 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
	CREATE UNIQUE INDEX ON whole_0 (id, region); CREATE UNIQUE INDEX ON whole_1 (id, region);
	CREATE TABLE to_plain (id int PRIMARY KEY, v text);
	CREATE TABLE fully (a int, b text, c int) PARTITION BY LIST (b);
	CREATE TABLE fully_0 PARTITION OF fully FOR VALUES IN ('b0');
	CREATE TABLE fully_1 PARTITION OF fully FOR VALUES IN ('b1', 'b2', NULL);
	CREATE TABLE leaf_low (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
	CREATE TABLE leaf_low_a PARTITION OF leaf_low FOR VALUES FROM (0) TO (50);
	CREATE TABLE leaf_low_b PARTITION OF leaf_low FOR VALUES FROM (50) TO (100);
	CREATE TABLE leaf_high (id int PRIMARY KEY, v text);
	CREATE TABLE referenced (id int PRIMARY KEY);
	CREATE TABLE log (op text, tab name, id int);
	CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		INSERT INTO public.log VALUES (TG_OP, TG_TABLE_NAME, coalesce(NEW.id, OLD.id)); RETURN NULL; END $$;
	CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON plain FOR EACH ROW EXECUTE FUNCTION note();
	ALTER TABLE plain_eu ENABLE ALWAYS TRIGGER note;
	ALTER TABLE plain_low ENABLE REPLICA TRIGGER note});
follow($same, $leader);
follow($other, $leader, 'copy_schema => false');
wait_for_copy($_) for $same, $other;

my %queries = (
	plain => 'SELECT id, region, v FROM plain ORDER BY id',
	whole => 'SELECT id, region, v FROM whole ORDER BY id, region',
	to_plain => 'SELECT id, v FROM to_plain ORDER BY id',
	fully => 'SELECT a, b, c FROM fully ORDER BY a, b, c',
	leaf => 'SELECT * FROM (TABLE leaf_low UNION ALL TABLE leaf_high) l ORDER BY id');

sub check
{
	my ($what, $sql) = @_;
	$leader->safe_psql('postgres', $sql) if defined $sql;
	wait_for_catchup($leader, $same, $other);
	for my $table (sort keys %queries)
	{
		my $expected = $leader->safe_psql('postgres', $queries{$table});
		is($_->safe_psql('postgres', $queries{$table}), $expected, "$what: $table of " . $_->name)
		  for $same, $other;
	}
	return;
}
check('copy');
is($other->safe_psql('postgres', 'SELECT DISTINCT extra FROM plain'), '7', 'a column of the follower has its default');
$other->safe_psql('postgres', 'SET fanout.guard = off; TRUNCATE log');

check('INSERT', q{
	INSERT INTO plain VALUES (101, 'eu', 'x'), (102, 'us', 'y'), (13000 % 100, 'us', 'z') ON CONFLICT DO NOTHING;
	INSERT INTO whole VALUES (101, 'eu', 'x'), (102, 'us', 'y'), (103, 'asia', 'z'), (2000, 'asia', 'high');
	INSERT INTO to_plain VALUES (101, 'x'), (102, 'y');
	INSERT INTO fully VALUES (1, 'b0', 101), (1, NULL, 102);
	INSERT INTO leaf VALUES (1, 'x'), (70 + 1, 'y'), (700, 'z')});
check('UPDATE in place', q{
	UPDATE plain SET v = v || '!' WHERE id % 2 = 0;
	UPDATE whole SET v = v || '!' WHERE id % 2 = 0;
	UPDATE to_plain SET v = v || '!' WHERE id % 2 = 0;
	UPDATE fully SET c = c + 1000 WHERE a % 2 = 0;
	UPDATE leaf SET v = v || '!' WHERE id % 2 = 0});
check('UPDATE across partitions', q{
	UPDATE plain SET region = 'us' WHERE region = 'eu' AND id < 30;
	UPDATE plain SET id = id + 1000 WHERE id BETWEEN 20 AND 40;
	UPDATE plain SET id = id + 2000, region = 'eu', v = NULL WHERE id BETWEEN 5 AND 10;
	UPDATE whole SET region = 'us' WHERE id < 10;
	UPDATE whole SET id = id + 3001 WHERE id BETWEEN 20 AND 40 AND region = 'asia';
	UPDATE to_plain SET id = id + 1001 WHERE id < 10;
	UPDATE fully SET b = 'b0' WHERE b = 'b1';
	UPDATE fully SET b = NULL WHERE a = 5;
	UPDATE leaf SET id = id + 50 WHERE id < 50;
	UPDATE leaf SET id = id + 500 WHERE id < 100});
is($other->safe_psql('postgres', q{SELECT count(*) FROM plain WHERE extra IS DISTINCT FROM 7}), '0',
	'a column of the follower stays when the row moves');
is($other->safe_psql('postgres', q{SELECT count(*) FROM whole WHERE len IS DISTINCT FROM length(v)}), '0',
	'generated columns of the follower are right');
is($other->safe_psql('postgres', q{SELECT string_agg(DISTINCT op || ' ' || tab, ',' ORDER BY op || ' ' || tab) FROM log}),
	'DELETE plain_eu,DELETE plain_low,INSERT plain_eu,INSERT plain_low,UPDATE plain_eu,UPDATE plain_low',
	'triggers of partitions fire: ALWAYS and REPLICA ones, no others');
check('DELETE', q{
	DELETE FROM plain WHERE id % 5 = 0; DELETE FROM whole WHERE id % 5 = 0; DELETE FROM to_plain WHERE id % 5 = 0;
	DELETE FROM fully WHERE c % 5 = 0; DELETE FROM leaf WHERE id % 4 = 0});

# The same in one transaction, with TOASTed values that are left alone.
check('large values', q{
	BEGIN;
	ALTER TABLE plain ALTER v SET STORAGE EXTERNAL; ALTER TABLE whole ALTER v SET STORAGE EXTERNAL;
	INSERT INTO plain SELECT g, 'eu', repeat(md5(g::text), 500) FROM generate_series(5001, 5010) g;
	INSERT INTO whole SELECT g, 'eu', repeat(md5(g::text), 500) FROM generate_series(5001, 5010) g;
	COMMIT;
	UPDATE plain SET region = 'asia' WHERE id > 5005; UPDATE plain SET id = id + 1 WHERE id = 5010;
	UPDATE whole SET region = 'asia' WHERE id > 5005});

# A partition that comes and one that goes while the stream runs.
$other->safe_psql('postgres', q{SET fanout.guard = off; CREATE TABLE fully_new PARTITION OF fully FOR VALUES IN ('new')});
check('a new partition', q{INSERT INTO fully VALUES (1, 'new', 1)});
is($other->safe_psql('postgres', 'SELECT count(*) FROM fully_new'), '1', '... takes its rows');

# No partition for a row: this follower stops, says it, and goes on when there is one.
$leader->safe_psql('postgres', q{INSERT INTO fully VALUES (1, 'nowhere', 1); UPDATE fully SET b = 'b0' WHERE b = 'nowhere'});
wait_until('the error', sub {
		$other->safe_psql('postgres', 'SELECT last_error FROM fanout.staleness') =~ /no partition of relation "fully" found for row/ });
wait_for_catchup($leader, $same);
$other->safe_psql('postgres', 'SET fanout.guard = off; CREATE TABLE fully_rest PARTITION OF fully DEFAULT');
check('a row without a partition, and then with one');

# A row that is missing here: found by the key's partition, in all partitions, and in a leaf.
sub missing
{
	my ($what, $remove, $write, $table, $mend) = @_;
	$other->safe_psql('postgres', "SET fanout.guard = off; SET session_replication_role = replica; $remove");
	$leader->safe_psql('postgres', $write);
	wait_until("the error of $what", sub {
			$other->safe_psql('postgres', q{SELECT last_error FROM fanout.staleness WHERE state = 'failed'}) =~
			  /the row to (update|delete) was not found in relation "public\.$table".*[Kk]ey \(id(, region)?\)=\(/s });
	wait_for_catchup($leader, $same);
	$other->safe_psql('postgres', "SET fanout.guard = off; $mend");
	check("a missing row, and then with it: $what");
	return;
}
check('rows to be missed', q{INSERT INTO leaf VALUES (71, 'y'); INSERT INTO plain VALUES (501, 'eu', 'x'); INSERT INTO whole VALUES (502, 'us', 'y')});
missing('UPDATE', 'DELETE FROM leaf_low WHERE id = 71', q{UPDATE leaf SET v = 'found' WHERE id = 71}, 'leaf_low', q{INSERT INTO leaf_low VALUES (71, 'y')});
missing('UPDATE of all partitions', 'DELETE FROM plain WHERE id = 501', q{UPDATE plain SET region = 'us' WHERE id = 501}, 'plain', q{INSERT INTO plain (id, region, v) VALUES (501, 'eu', 'x')});
missing('DELETE of a whole', 'DELETE FROM whole WHERE id = 502', q{DELETE FROM whole WHERE id = 502}, 'whole', q{INSERT INTO whole (id, region, v) VALUES (502, 'us', 'y')});

# Writes to any table of the tree are refused.
for my $table (qw(plain plain_eu plain_rest plain_low))
{
	my ($rc, $out, $err) = $other->psql('postgres', "DELETE FROM $table");
	like($err, qr/cannot execute DELETE on replicated table "plain/, "$table is guarded");
}

check('TRUNCATE', 'TRUNCATE plain, whole, to_plain, leaf_low');
$other->safe_psql('postgres', q{SET fanout.guard = off; ALTER TABLE plain DETACH PARTITION plain_eu; ALTER TABLE plain_eu DROP v; ALTER TABLE plain_eu ADD v text;
	ALTER TABLE plain ATTACH PARTITION plain_eu FOR VALUES IN ('eu')});
check('a partition whose columns changed their order', q{INSERT INTO plain VALUES (4, 'eu', 'x'), (5, 'us', 'x'); UPDATE plain SET v = 'y' WHERE id = 4; UPDATE plain SET region = 'eu' WHERE id = 5; DELETE FROM plain WHERE id = 4});
check('after TRUNCATE', q{INSERT INTO plain VALUES (1, 'eu', 'x'); INSERT INTO whole VALUES (1, 'eu', 'x'); INSERT INTO leaf VALUES (1, 'x')});
check('TRUNCATE in a transaction that goes on', q{BEGIN; INSERT INTO plain VALUES (2, 'us', 'y'); TRUNCATE plain;
	INSERT INTO plain VALUES (3, 'us', 'y'), (60, 'us', 'z'); UPDATE plain SET region = 'eu' WHERE id = 3; COMMIT});

# A copy into partitions that have rows.
$leader->safe_psql('postgres', q{INSERT INTO plain SELECT g, 'eu', 'v' FROM generate_series(100, 200) g});
$other->safe_psql('postgres', q{SELECT fanout.resync('app', 'plain'); SELECT fanout.wait_for_copy('app')});
check('a new copy of one table');
$other->safe_psql('postgres', q{SELECT fanout.resync('app'); SELECT fanout.wait_for_copy('app')});
check('a new copy of all', q{UPDATE plain SET region = 'us'});

$_->stop for $leader, $same, $other;
done_testing();
