# A copy that was interrupted goes on with the leader's rows of a later moment, and they may not fit the
# schema that was copied: the stream, which has what was changed, comes first then.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Utils;
use Test::More;

# The copy stops in the middle of the largest tables while somebody on the follower holds the lock.
my $leader = new_leader('leader');
$leader->safe_psql('postgres', q{
	CREATE FUNCTION stop() RETURNS bool LANGUAGE plpgsql AS 'BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN true; END';
	CREATE TABLE large (id int PRIMARY KEY CHECK (id <> 500 OR stop()), v text);
	INSERT INTO large SELECT g, repeat('l', 500) FROM generate_series(1, 1000) g;
	CREATE TABLE large_too (id int PRIMARY KEY CHECK (id <> 500 OR stop()), v text);
	INSERT INTO large_too SELECT * FROM large;
	CREATE TABLE strict (id int PRIMARY KEY, n int NOT NULL);
	INSERT INTO strict SELECT g, g FROM generate_series(1, 10) g;
	CREATE TABLE narrow (id int PRIMARY KEY, v varchar(3), parent int REFERENCES strict);
	INSERT INTO narrow SELECT g, 'abc', g FROM generate_series(1, 10) g;
	CREATE TABLE parts (id int, region int, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
	CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1);
	CREATE TABLE parts_rest PARTITION OF parts DEFAULT;
	INSERT INTO parts SELECT g, g % 3 FROM generate_series(1, 30) g});

for my $workers (1, 2)
{
	my $follower = new_follower("follower_$workers", "fanout.copy_workers = $workers", 'fanout.retry_interval = 100ms');
	my $holder = $follower->background_psql('postgres');
	$holder->query_safe('SELECT pg_advisory_lock(1)');
	follow($follower, $leader);
	wait_until('the largest tables to be copied', sub {
			$follower->safe_psql('postgres', q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted}) eq $workers });
	$follower->safe_psql('postgres', q{SELECT fanout.pause('app')});
	$follower->safe_psql('postgres', q{SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE backend_type = 'pg_fanout copy' OR backend_type = 'pg_fanout follower'});
	wait_until('the copy to be interrupted', sub {
			$follower->safe_psql('postgres', q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted}) eq '0' });
	$leader->safe_psql('postgres', qq{
		ALTER TABLE strict ALTER n DROP NOT NULL; UPDATE strict SET n = NULL WHERE id = $workers;
		ALTER TABLE narrow ALTER v TYPE text; UPDATE narrow SET v = 'longer' WHERE id = $workers;
		INSERT INTO strict VALUES (100 + $workers, NULL); INSERT INTO narrow VALUES (100 + $workers, 'new and long', 100 + $workers);
		DROP TABLE IF EXISTS parts_1; INSERT INTO parts VALUES (100 + $workers, 1)});
	$holder->quit;
	$follower->safe_psql('postgres', q{SELECT fanout.resume('app')});
	all_equal("followed with $workers", $leader, $follower);
	like(slurp_file($follower->logfile), qr/ERROR:  .*(violates|too long)/, '... rows did not fit at first');
	is($follower->safe_psql('postgres', q{SELECT fanout.wait_for_copy('app', '150s')}), 't', '... complete');
	is($follower->safe_psql('postgres', q{SELECT string_agg(relation::text, ' ') FROM fanout.verify('app') WHERE NOT equal}), '', '... by fanout.verify()');
	is($follower->safe_psql('postgres', q{SELECT count(*) FROM pg_constraint WHERE contype IN ('p', 'f') AND connamespace = 'public'::regnamespace}),
		$leader->safe_psql('postgres', q{SELECT count(*) FROM pg_constraint WHERE contype IN ('p', 'f') AND connamespace = 'public'::regnamespace}), '... with all keys');
	$follower->safe_psql('postgres', q{SELECT fanout.unfollow('app')});
	# As it was, for the next.
	$leader->safe_psql('postgres', q{DELETE FROM narrow WHERE id > 100; UPDATE narrow SET v = 'abc'; ALTER TABLE narrow ALTER v TYPE varchar(3);
		DELETE FROM strict WHERE id > 100; UPDATE strict SET n = id; ALTER TABLE strict ALTER n SET NOT NULL;
		DELETE FROM parts WHERE region = 1; CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1)});
}
done_testing();
