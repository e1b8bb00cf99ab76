# A table of the stream that is not here is no reason to say that all is fresh: the views name it, and
# what else there is streams on.  A copy of all tables makes it.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use Test::More;

my $leader = new_leader('leader');
$leader->safe_psql('postgres', q{
	CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 0);
	CREATE TABLE u (id int PRIMARY KEY); INSERT INTO u SELECT generate_series(1, 10);
	CREATE SCHEMA s; CREATE TABLE s.w (id int PRIMARY KEY); INSERT INTO s.w VALUES (1)});
my $follower = new_follower('follower', 'fanout.retry_interval = 200ms');
follow($follower, $leader);
wait_for_copy($follower);

my $strong = q{SET fanout.stale_read_timeout = '120s'; SET fanout.max_staleness = 0};

sub says_missing
{
	my ($what, $name) = @_;
	wait_until("$what to be told", sub {
			$follower->safe_psql('postgres', q{SELECT coalesce(last_error, '') FROM fanout.staleness}) =~ /table "\Q$name\E"/ });
	is($follower->safe_psql('postgres', q{SELECT s.staleness IS NULL, s.as_of IS NULL, l.staleness IS NULL FROM fanout.staleness s, fanout.lag() l}),
		't|t|t', "$what: no view knows the staleness of the stream");
	is($follower->safe_psql('postgres', q{SELECT count(*), count(staleness) FROM fanout.table_staleness WHERE state = 'missing'}),
		'1|0', "$what: a table is missing");
	my $value = $leader->safe_psql('postgres', q{INSERT INTO t SELECT max(id) + 1 FROM t; SELECT count(*) FROM t});
	is($follower->safe_psql('postgres', "$strong; SELECT count(*) FROM t"), $value, "$what: strong reads of others go on");
	is($follower->safe_psql('postgres', q{SELECT state, staleness IS NOT NULL FROM fanout.table_staleness WHERE relation = 't'::regclass}),
		'streaming|t', "$what: and so does their staleness");
	return;
}

# A drop that is rolled back is none.
$follower->safe_psql('postgres', q{SET fanout.guard = off; BEGIN; DROP TABLE u; ROLLBACK;
	BEGIN; SAVEPOINT s; DROP SCHEMA s CASCADE; ROLLBACK TO s; CREATE TABLE x (id int); COMMIT; DROP TABLE x});
is($follower->safe_psql('postgres', q{SELECT count(*) FROM fanout.table_staleness WHERE state = 'missing'}), 0, 'nothing is missing');
is($follower->safe_psql('postgres', q{SELECT staleness IS NOT NULL FROM fanout.staleness}), 't', 'and the staleness is known');

$follower->safe_psql('postgres', q{SET fanout.guard = off; DROP TABLE u});
is($follower->safe_psql('postgres', q{SELECT staleness IS NULL FROM fanout.lag()}), 't', 'it is unknown at once');
says_missing('a dropped table', 'public.u');
$leader->safe_psql('postgres', 'INSERT INTO u VALUES (11); UPDATE u SET id = -id WHERE id = 1; CREATE TABLE more (id int PRIMARY KEY); INSERT INTO more VALUES (1)');
wait_for_catchup($leader, $follower);
says_missing('after changes of it and of the schema', 'public.u');
$follower->restart;
state_is($follower, 'streaming');
says_missing('after a restart', 'public.u');
$follower->safe_psql('postgres', 'CREATE TABLE u (id int PRIMARY KEY)');
$leader->safe_psql('postgres', 'INSERT INTO u VALUES (12); TRUNCATE u; INSERT INTO u VALUES (13)');
wait_for_catchup($leader, $follower);
says_missing('after one was made in its place', 'public.u');
$follower->safe_psql('postgres', q{SELECT fanout.resync('app')});
all_equal('copied again', $leader, $follower);
is($follower->safe_psql('postgres', q{SELECT staleness IS NOT NULL FROM fanout.lag()}), 't', 'then it is known again');

# The leader drops them, too: by names that could mean others here, and with their schema.
$leader->safe_psql('postgres', q{CREATE SCHEMA x; CREATE TABLE x.two (id int PRIMARY KEY); CREATE TABLE x.three (id int PRIMARY KEY);
	CREATE TABLE two (id int PRIMARY KEY); INSERT INTO two VALUES (1); CREATE TABLE one (id int PRIMARY KEY)});
wait_for_catchup($leader, $follower);
$follower->safe_psql('postgres', q{SET fanout.guard = off; DROP TABLE one, x.two, x.three; CREATE TABLE one (id int)});
is($follower->safe_psql('postgres', q{SELECT count(*) FROM fanout.table_staleness WHERE state = 'missing'}), 3, 'three are missing');
$leader->safe_psql('postgres', 'SET search_path = x, public; DROP TABLE one, two');
wait_for_catchup($leader, $follower);
is($follower->safe_psql('postgres', q{SELECT count(*) FROM fanout.table_staleness WHERE state = 'missing'}), 1, 'what the leader drops is not missing');
is($follower->safe_psql('postgres', q{SELECT id FROM two}), 1, 'another table of the name is not dropped');
is($follower->safe_psql('postgres', q{SELECT to_regclass('one')}), '', 'one in the place of a missing one is');
$leader->safe_psql('postgres', 'DROP SCHEMA x CASCADE');
all_equal('with their schema', $leader, $follower);
is($follower->safe_psql('postgres', q{SELECT count(*) FROM fanout.table_staleness WHERE state = 'missing'}), 0, '... nothing is missing');
is($follower->safe_psql('postgres', q{SELECT staleness IS NOT NULL FROM fanout.lag()}), 't', '... and the staleness is known');

# Without one in its place, and by another statement.
$follower->safe_psql('postgres', q{SET fanout.guard = off; DROP SCHEMA s CASCADE});
says_missing('a dropped schema', 's.w');
$follower->safe_psql('postgres', q{SELECT fanout.resync('app')});
all_equal('made and copied', $leader, $follower);

# Tables that were made while there was no stream.
$leader->safe_psql('postgres', q{SELECT fanout.drop_stream('app', true)});
$leader->safe_psql('postgres', q{
	CREATE TABLE later (id serial PRIMARY KEY, v int CHECK (v > 0)); INSERT INTO later (v) SELECT generate_series(1, 5); CREATE INDEX ON later (v)});
$leader->safe_psql('postgres', q{SELECT fanout.create_stream('app')});
wait_until('the lost follower to have copied', sub { $follower->safe_psql('postgres', q{SELECT to_regclass('later') IS NOT NULL}) eq 't' });
all_equal('a table of before the stream', $leader, $follower);
$leader->safe_psql('postgres', q{INSERT INTO later (v) VALUES (6); ALTER TABLE later ADD COLUMN w int DEFAULT 7});
all_equal('which then streams', $leader, $follower);
is($follower->safe_psql('postgres', q{SELECT count(*) FROM pg_index WHERE indrelid = 'later'::regclass}), 2, 'its indexes are there');

# Where the schema is not copied, the tables have to be there.
my $bare = new_follower('bare');
$bare->safe_psql('postgres', 'CREATE TABLE t (id int PRIMARY KEY, v int)');
eval { follow($bare, $leader, 'copy_schema => false') };
like($@, qr/relation "[\w.]+" does not exist here/, 'follow() names one that is not');
done_testing();
