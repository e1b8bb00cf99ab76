# Of rows that are equal without being the same, the one that the leader changed is changed.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use Test::More;

# Type, and two values of it that are equal; the first one is found first.
my %pairs = (
	number => [ 'numeric', '1.0', '1.00' ], float => [ 'float8', '0', '-0' ], single => [ 'float4', '0', '-0' ], span => [ 'interval', '1 day', '24:00:00' ],
	month => [ 'interval', '1 mon', '30 days' ], padded => [ 'bpchar', 'a', 'a  ' ], document => [ 'jsonb', '{"a": 1.0}', '{"a": 1.00}' ],
	numbers => [ 'numeric[]', '{1.0,NULL}', '{1.00,NULL}' ], documents => [ 'jsonb[]', '{[1.0]}', '{[1.000]}' ], a_row => [ 'pair', '(1.0,x)', '(1.00,X)' ],
	rows => [ 'pair[]', '{"(1.0,x)"}', '{"(1.00,X)"}' ], caseless => [ 'citext', 'Text', 'TEXT' ], a_range => [ 'numrange', '[1.0,2)', '[1.00,2)' ],
	ranges => [ 'nummultirange', '{[1.0,2)}', '{[1.00,2)}' ], collated => [ 'text COLLATE nocase', 'Text', 'TEXT' ], a_domain => [ 'positive', '1.0', '1.00' ],
	span_range => [ 'floats', '[-0,1)', '[0,1)' ]);
my @names = sort keys %pairs;
my $leader = new_leader('leader');
my $follower = new_follower('follower');
my $sql = q{CREATE EXTENSION citext; CREATE TYPE pair AS (n numeric, t citext); CREATE DOMAIN positive AS numeric CHECK (VALUE > 0); CREATE TYPE floats AS RANGE (subtype = float8);
	CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);};
for my $name (@names)
{
	my ($type, $first, $second) = @{ $pairs{$name} };
	$sql .= qq{CREATE TABLE "$name" (v $type, n int, big text); ALTER TABLE $name ALTER big SET STORAGE EXTERNAL; ALTER TABLE $name REPLICA IDENTITY FULL;
		CREATE INDEX ON $name (n); INSERT INTO $name SELECT v, 0, repeat('x', 3000) FROM unnest(ARRAY['$first', '$second', '$first', '$second', '$first']) WITH ORDINALITY u (w, i), LATERAL (SELECT w::$type AS v) c ORDER BY i;};
}
$leader->safe_psql('postgres', $sql);
follow($follower, $leader);
all_equal('copy', $leader, $follower);

# The second of them is changed: by an UPDATE, by one of its value, by a DELETE; then all are.
sub change
{
	my ($what, $change) = @_;
	$leader->safe_psql('postgres', join ';', map { $change =~ s/TABLE/$_/gr =~ s/FIRST/format('%s', v) = '$pairs{$_}[1]'/gr =~ s/SECOND/format('%s', v) = '$pairs{$_}[2]'/gr } @names);
	wait_for_catchup($leader, $follower);
	same_data($what, $leader, $follower);
	return;
}
change('an update of one', 'UPDATE TABLE SET n = 1 WHERE ctid = (SELECT max(ctid) FROM TABLE WHERE SECOND)');
change('updates of the same row', 'BEGIN; UPDATE TABLE SET n = 2 WHERE SECOND AND n = 1; UPDATE TABLE SET n = 3 WHERE n = 2; UPDATE TABLE SET v = NULL WHERE n = 3; COMMIT');
change('a delete of one', 'DELETE FROM TABLE WHERE ctid = (SELECT max(ctid) FROM TABLE WHERE SECOND)');
change('new ones', q{INSERT INTO TABLE SELECT v, 5, 'y' FROM TABLE; DELETE FROM TABLE WHERE SECOND AND n = 5; UPDATE TABLE SET n = 6 WHERE FIRST AND ctid = (SELECT min(ctid) FROM TABLE WHERE FIRST)});
change('all', 'UPDATE TABLE SET n = 9; DELETE FROM TABLE WHERE SECOND');
is($follower->safe_psql('postgres', q{SELECT count(*) FILTER (WHERE equal), count(*) FROM fanout.verify('app')}), @names . '|' . @names, 'verify() finds no difference');

# Here a row that is only equal is all there is.
$leader->safe_psql('postgres', q{TRUNCATE number; INSERT INTO number VALUES (1.0, 1), (2.0, 2)});
wait_for_catchup($leader, $follower);
$follower->safe_psql('postgres', q{SET fanout.guard = off; UPDATE number SET v = 1.000 WHERE v = 1});
$leader->safe_psql('postgres', 'UPDATE number SET n = 7 WHERE v = 1');
wait_for_catchup($leader, $follower);
is($follower->safe_psql('postgres', 'SELECT v, n FROM number ORDER BY v'), "1.0|7\n2.0|2", 'a row that is only equal');

# In a table that is partitioned here by a column that the leader does not send, in all partitions.
$leader->safe_psql('postgres', q{CREATE TABLE spread (v numeric, n int); ALTER TABLE spread REPLICA IDENTITY FULL});
wait_for_catchup($leader, $follower);
$follower->safe_psql('postgres', q{SET fanout.guard = off; DROP TABLE spread;
	CREATE TABLE spread (v numeric, n int, part int DEFAULT 1) PARTITION BY LIST (part);
	CREATE TABLE spread_1 PARTITION OF spread FOR VALUES IN (1); CREATE TABLE spread_2 PARTITION OF spread FOR VALUES IN (2); CREATE TABLE spread_3 PARTITION OF spread FOR VALUES IN (3)});
$follower->safe_psql('postgres', q{SELECT fanout.resync('app')});
wait_for_copy($follower);
wait_for_catchup($leader, $follower);
my $told = $follower->safe_psql('postgres', 'SELECT last_error_at FROM fanout.staleness');
$leader->safe_psql('postgres', 'INSERT INTO spread VALUES (1.0, 0), (1.00, 0), (1.000, 0)');
wait_for_catchup($leader, $follower);
$follower->safe_psql('postgres', q{SET fanout.guard = off; UPDATE spread SET part = scale(v)});
$leader->safe_psql('postgres', 'UPDATE spread SET n = 2 WHERE scale(v) = 2; DELETE FROM spread WHERE scale(v) = 3');
wait_for_catchup($leader, $follower);
is($follower->safe_psql('postgres', 'SELECT v, n, part FROM spread ORDER BY part'), "1.0|0|1\n1.00|2|2", 'in all partitions');
is($follower->safe_psql('postgres', 'SELECT last_error_at FROM fanout.staleness'), $told, 'all that without an error');

$_->stop for $leader, $follower;
done_testing();
