# TRUNCATE of partitions, of tables that are published as a whole and partition by partition.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use Test::More;

my $leader = new_server('leader');
$leader->safe_psql('postgres', q{
	CREATE EXTENSION pg_fanout;
	CREATE TABLE whole (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
	CREATE TABLE whole_low PARTITION OF whole FOR VALUES FROM (0) TO (100);
	CREATE TABLE whole_mid PARTITION OF whole FOR VALUES FROM (100) TO (200) PARTITION BY RANGE (id);
	CREATE TABLE whole_mid_a PARTITION OF whole_mid FOR VALUES FROM (100) TO (150);
	CREATE TABLE whole_mid_b PARTITION OF whole_mid FOR VALUES FROM (150) TO (200);
	CREATE TABLE whole_high PARTITION OF whole FOR VALUES FROM (200) TO (300);
	CREATE TABLE hashed (id int PRIMARY KEY) PARTITION BY HASH (id);
	CREATE TABLE hashed_0 PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER 0);
	CREATE TABLE hashed_1 PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER 1);
	CREATE TABLE refers (id int PRIMARY KEY, to_whole int REFERENCES whole);
	CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
	CREATE TABLE parts_low PARTITION OF parts FOR VALUES FROM (0) TO (100);
	CREATE TABLE parts_high PARTITION OF parts FOR VALUES FROM (100) TO (300);
	CREATE TABLE kept (id int PRIMARY KEY) PARTITION BY RANGE (id);
	CREATE TABLE kept_low PARTITION OF kept FOR VALUES FROM (0) TO (100);
	CREATE TABLE kept_high PARTITION OF kept FOR VALUES FROM (100) TO (300);
	CREATE PUBLICATION roots FOR TABLE whole, hashed, refers WITH (publish_via_partition_root);
	CREATE PUBLICATION leaves FOR TABLE parts;
	CREATE PUBLICATION no_truncate FOR TABLE kept WITH (publish_via_partition_root, publish = 'insert, update, delete');
	SELECT fanout.create_stream('app', '{roots, leaves, no_truncate}')});

sub fill
{
	$leader->safe_psql('postgres', q{
		INSERT INTO whole SELECT g, 'v' || g FROM generate_series(1, 299, 7) g ON CONFLICT DO NOTHING;
		INSERT INTO hashed SELECT generate_series(1, 50) ON CONFLICT DO NOTHING;
		INSERT INTO refers SELECT g, g FROM generate_series(1, 299, 14) g ON CONFLICT DO NOTHING;
		INSERT INTO parts SELECT generate_series(1, 299, 7) ON CONFLICT DO NOTHING;
		INSERT INTO kept SELECT generate_series(1, 299, 7) ON CONFLICT DO NOTHING});
	return;
}
fill();

# One follower has the leader's schema, the other has other partitions or none.
my ($same, $other) = map { new_follower($_, 'fanout.retry_interval = 200ms') } qw(same other);
$other->safe_psql('postgres', q{
	CREATE TABLE whole (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
	CREATE TABLE whole_low PARTITION OF whole FOR VALUES FROM (0) TO (130);
	CREATE TABLE whole_rest PARTITION OF whole DEFAULT;
	CREATE TABLE hashed (id int PRIMARY KEY);
	CREATE TABLE refers (id int PRIMARY KEY, to_whole int);
	CREATE TABLE parts_low (id int PRIMARY KEY); CREATE TABLE parts_high (id int PRIMARY KEY);
	CREATE TABLE kept (id int PRIMARY KEY)});
follow($same, $leader);
follow($other, $leader, 'copy_schema => false');

my %queries = (
	whole => 'SELECT * FROM whole ORDER BY id', hashed => 'SELECT * FROM hashed ORDER BY id',
	refers => 'SELECT * FROM refers ORDER BY id', parts => 'SELECT * FROM (TABLE parts_low UNION ALL TABLE parts_high) p ORDER BY id');

# Returns for each table how often it was copied on $same until then.
sub check
{
	my ($what, $sql) = @_;
	$leader->safe_psql('postgres', $sql) if defined $sql;
	for my $follower ($same, $other)
	{
		wait_for_catchup($leader, $follower);
		wait_for_copy($follower);
		wait_for_catchup($leader, $follower);
		is($follower->safe_psql('postgres', $queries{$_}), $leader->safe_psql('postgres', $queries{$_}),
			"$what: $_ of " . $follower->name) for sort keys %queries;
	}
	return { split /[|\n]/, $same->safe_psql('postgres', 'SELECT relname, copy_number FROM fanout.followed_table') };
}
wait_for_copy($_) for $same, $other;
my $before = check('copy');
my $after = check('a partition', 'TRUNCATE whole_high CASCADE');
cmp_ok($after->{whole}, '>', $before->{whole}, '... of a table that is published as a whole: it was copied again');
is($after->{refers}, $before->{refers}, '... while what was emptied by CASCADE was not');
fill();
check('a partition with partitions', 'TRUNCATE whole_mid CASCADE');
fill();
check('one of their partitions', 'TRUNCATE whole_mid_b CASCADE');
fill();
check('several, and others', 'TRUNCATE whole_low, whole_mid, hashed_1, parts_low, refers CASCADE');
fill();
check('ONLY', 'TRUNCATE ONLY whole_low, ONLY hashed_0 CASCADE');
fill();
$before = check('filled again');
$after = check('all partitions by the name of the table', 'TRUNCATE whole, hashed, parts CASCADE');
is_deeply($after, $before, '... and nothing is copied again');
fill();
$after = check('a partition that is published itself', 'TRUNCATE parts_high');
is_deeply($after, $before, '... is not copied again');
check('and rows in the same transaction', q{BEGIN; INSERT INTO hashed VALUES (1001), (1002); TRUNCATE hashed_0; INSERT INTO hashed VALUES (1001), (2002), (2003) ON CONFLICT DO NOTHING; DELETE FROM hashed WHERE id = 2003; COMMIT});
check('twice, and rolled back', q{TRUNCATE hashed_1; INSERT INTO hashed VALUES (5001); TRUNCATE hashed_1; BEGIN; TRUNCATE hashed_0; ROLLBACK; BEGIN; SAVEPOINT s; TRUNCATE hashed_0; ROLLBACK TO s; INSERT INTO hashed VALUES (7777); COMMIT});
check('while a copy runs', q{INSERT INTO hashed SELECT generate_series(10000, 60000)});
$leader->safe_psql('postgres', 'TRUNCATE hashed_0');
$_->safe_psql('postgres', q{SELECT fanout.resync('app', 'hashed')}) for $same, $other;
check('... again', 'INSERT INTO hashed SELECT generate_series(70000, 80000); TRUNCATE hashed_1; INSERT INTO hashed VALUES (99999)');

# A publication without TRUNCATE has none of partitions either.
my $kept = $leader->safe_psql('postgres', 'SELECT count(*) FROM kept');
$leader->safe_psql('postgres', 'TRUNCATE kept_low');
wait_for_catchup($leader, $same);
is($same->safe_psql('postgres', 'SELECT count(*) FROM kept'), $kept, 'where TRUNCATE is not published, rows stay');

$_->stop for $leader, $same, $other;
done_testing();
