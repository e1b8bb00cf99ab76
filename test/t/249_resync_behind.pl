# A copy of all tables again does not take away the schema changes that the follower has yet to come to.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use Test::More;

my $leader = new_leader('leader');
my $follower = new_follower('follower', 'fanout.retry_interval = 200ms');
$leader->safe_psql('postgres', q{
	CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT g, 'v' FROM generate_series(1, 100) g;
	CREATE TABLE gone (id int PRIMARY KEY); CREATE TABLE renamed (id int PRIMARY KEY); INSERT INTO renamed VALUES (1)});
follow($follower, $leader);
wait_for_copy($follower);

sub columns
{
	my ($node) = @_;
	return $node->safe_psql('postgres', q{SELECT string_agg(attrelid::regclass || '.' || attname || coalesce('=' || pg_get_expr(adbin, adrelid), ''), ' ' ORDER BY attrelid::regclass::text, attnum)
		FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
		WHERE attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace) AND attnum > 0 AND NOT attisdropped});
}

for my $role ('with', 'without')
{
	$follower->safe_psql('postgres', q{SELECT fanout.pause('app')});
	$leader->safe_psql('postgres', qq{
		CREATE INDEX i_$role ON t (v); ALTER TABLE t ADD COLUMN n_$role int DEFAULT 5; UPDATE t SET n_$role = 7 WHERE id = 1;
		CREATE TABLE new_$role (id int PRIMARY KEY, v text); INSERT INTO new_$role VALUES (1, 'x');
		DROP TABLE gone; CREATE TABLE gone (id int PRIMARY KEY, other text); INSERT INTO gone VALUES (1, 'y');
		ALTER TABLE renamed RENAME TO other_$role; ALTER TABLE other_$role RENAME TO renamed; INSERT INTO renamed VALUES (length('$role'))});
	$follower->safe_psql('postgres', q{SELECT fanout.resync('app')});
	$follower->safe_psql('postgres', q{SELECT fanout.resume('app')});
	wait_for_copy($follower);
	wait_for_catchup($leader, $follower);
	wait_for_copy($follower);
	is(columns($follower), columns($leader), "$role: the schema is the leader's");
	same_data("$role: and the rows are", $leader, $follower);
}

# The leader has forgotten the follower: it begins anew.
$leader->safe_psql('postgres', q{SELECT fanout.drop_follower('app', 'follower')});
wait_until('the follower to be told', sub { $follower->safe_psql('postgres', q{SELECT state = 'failed' AND last_error LIKE '%drop%' FROM fanout.staleness}) eq 't' });
$leader->safe_psql('postgres', q{INSERT INTO t VALUES (1000, 'w')});
$follower->safe_psql('postgres', q{SELECT fanout.resync('app')});
wait_for_copy($follower);
wait_for_catchup($leader, $follower);
same_data('forgotten and copied anew', $leader, $follower);

done_testing();
