# Whatever happens to a table on the leader between an interrupted copy and its end: the copy ends, and tables are
# what they are there.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Utils;
use Test::More;

my @changes = (
	[ 'type', '(id int PRIMARY KEY, v int)', 'ALTER TABLE %s ALTER v TYPE bigint USING v * 10; UPDATE %s SET v = 5000000000 WHERE id = 1' ],
	[ 'type_text', '(id int PRIMARY KEY, v int)', q{ALTER TABLE %s ALTER v TYPE text; UPDATE %s SET v = 'no number' WHERE id = 1} ],
	[ 'dropped_column', '(id int PRIMARY KEY, v int NOT NULL)', 'ALTER TABLE %s DROP COLUMN v; INSERT INTO %s VALUES (100)' ],
	[ 'new_column', '(id int PRIMARY KEY, v int)', 'ALTER TABLE %s DROP COLUMN v, ADD COLUMN v text; UPDATE %s SET v = id' ],
	[ 'renamed_column', '(id int PRIMARY KEY, v int NOT NULL)', 'ALTER TABLE %s RENAME v TO w; INSERT INTO %s VALUES (100, 1)' ],
	[ 'nullable', '(id int PRIMARY KEY, v int NOT NULL)', 'ALTER TABLE %s ALTER v DROP NOT NULL; UPDATE %s SET v = NULL WHERE id = 1' ],
	[ 'unchecked', '(id int PRIMARY KEY, v int CONSTRAINT low CHECK (v < 50))', 'ALTER TABLE %s DROP CONSTRAINT low; UPDATE %s SET v = 100 WHERE id = 1' ],
	[ 'not_unique', '(id int PRIMARY KEY, v int CONSTRAINT only_once UNIQUE)', 'ALTER TABLE %s DROP CONSTRAINT only_once; UPDATE %s SET v = 1 WHERE id < 5' ],
	[ 'no_index', '(id int PRIMARY KEY, v int); CREATE UNIQUE INDEX no_index_v ON %s (v)', 'DROP INDEX no_index_v; UPDATE %s SET v = 1 WHERE id < 5' ],
	[ 'domain', '(id int PRIMARY KEY, v low)', 'ALTER DOMAIN low DROP CONSTRAINT low_check; UPDATE %s SET v = 100 WHERE id = 1' ],
	[ 'enum', '(id int PRIMARY KEY, v int, m mood)', q{ALTER TYPE mood ADD VALUE 'calm'; UPDATE %s SET m = 'calm' WHERE id = 1} ],
	[ 'renamed', '(id int PRIMARY KEY, v int)', 'ALTER TABLE %s RENAME TO with_new_name; UPDATE with_new_name SET v = 0' ],
	[ 'swapped_a', '(id int PRIMARY KEY, v int)', 'ALTER TABLE swapped_a RENAME TO x; ALTER TABLE swapped_b RENAME TO swapped_a; ALTER TABLE x RENAME TO swapped_b' ],
	[ 'swapped_b', '(id int PRIMARY KEY, v int)', 'UPDATE %s SET v = -id' ],
	[ 's.t', '(id int PRIMARY KEY, v int)', 'ALTER SCHEMA s RENAME TO s_new; UPDATE s_new.t SET v = 0' ],
	[ 'anew', '(id int PRIMARY KEY, v int)', 'DROP TABLE %s; CREATE TABLE %s (id int PRIMARY KEY, v text); INSERT INTO %s VALUES (1, 1), (2, 2)' ],
	[ 'gone', '(id int PRIMARY KEY, v int)', 'DROP TABLE %s' ],
	[ 'emptied', '(id int PRIMARY KEY, v int)', 'TRUNCATE %s; INSERT INTO %s VALUES (100, 1)' ],
	[ 'owned', '(id int PRIMARY KEY, v int); ALTER TABLE %s OWNER TO owner', 'ALTER TABLE %s OWNER TO CURRENT_USER; DROP ROLE owner; INSERT INTO %s VALUES (100, 1)' ],
	[ 'of_extension', '(id int PRIMARY KEY, v int, c citext)', 'DROP EXTENSION citext CASCADE; INSERT INTO %s VALUES (100, 1)' ],
	[ 'p_1', '(id int, v int)', 'ALTER TABLE parts ATTACH PARTITION p_1 FOR VALUES FROM (0) TO (1000); INSERT INTO parts VALUES (100, 1)' ],
	[ 'p_2', 'PARTITION OF parts FOR VALUES FROM (1000) TO (2000)', 'ALTER TABLE parts DETACH PARTITION p_2; INSERT INTO p_2 VALUES (5000, 1)' ],
	[ 'referenced', '(id int PRIMARY KEY, v int)', 'ALTER TABLE referring DROP CONSTRAINT refers; DELETE FROM %s WHERE id = 1' ],
	[ 'referring', '(id int PRIMARY KEY, v int CONSTRAINT refers REFERENCES referenced)', 'UPDATE %s SET v = 999 WHERE id = 1' ]);

my $leader = new_leader('leader');
my $follower = new_follower('follower', 'fanout.copy_workers = 1', 'fanout.retry_interval = 100ms');
$_->safe_psql('postgres', 'CREATE ROLE owner') for $leader, $follower;
# The copy stops in the largest table as long as somebody on the follower holds the lock.
$leader->safe_psql('postgres', q{
	CREATE FUNCTION stop() RETURNS bool LANGUAGE plpgsql AS 'BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN true; END';
	CREATE TABLE large (id int PRIMARY KEY CHECK (id <> 500 OR stop()), v text); INSERT INTO large SELECT g, repeat('l', 500) FROM generate_series(1, 1000) g;
	CREATE EXTENSION citext; CREATE SCHEMA s; CREATE DOMAIN low AS int CHECK (VALUE < 50); CREATE TYPE mood AS ENUM ('sad', 'ok');
	CREATE TABLE parts (id int, v int) PARTITION BY RANGE (id)});
for my $change (@changes)
{
	my ($table, $definition) = @$change;
	$definition =~ s/%s/$table/g;
	my $from = $table eq 'p_2' ? 1001 : 1;
	$leader->safe_psql('postgres', "CREATE TABLE $table $definition; INSERT INTO $table SELECT g, g - $from + 1 FROM generate_series($from, $from + 19) g");
}

my $holder = $follower->background_psql('postgres');
$holder->query_safe('SELECT pg_advisory_lock(1)');
follow($follower, $leader);
wait_until('the largest table to be copied', sub {
		$follower->safe_psql('postgres', q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted}) eq '1' });
$follower->safe_psql('postgres', q{SELECT fanout.pause('app')});
$follower->safe_psql('postgres', q{SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE backend_type = 'pg_fanout copy' OR backend_type = 'pg_fanout follower'});
$leader->safe_psql('postgres', $_->[2] =~ s/%s/$_->[0]/gr) for @changes;
$holder->quit;
$follower->safe_psql('postgres', q{SELECT fanout.resume('app')});

all_equal('the copy goes on', $leader, $follower);
is($follower->safe_psql('postgres', q{SELECT fanout.wait_for_copy('app', '150s')}), 't', '... and ends');
is($follower->safe_psql('postgres', q{SELECT string_agg(relation::text, ' ') FROM fanout.verify('app') WHERE NOT equal}), '', '... by fanout.verify()');
my $objects = q{SELECT string_agg(format('%s.%s %s', conrelid::regclass, conname, convalidated), ', ' ORDER BY conrelid::regclass::text, conname) FROM pg_constraint
	WHERE connamespace NOT IN ('fanout'::regnamespace, 'pg_catalog'::regnamespace, 'information_schema'::regnamespace)};
is($follower->safe_psql('postgres', $objects), $leader->safe_psql('postgres', $objects), '... with the constraints');
$leader->safe_psql('postgres', q{INSERT INTO large VALUES (2000, 'last'); INSERT INTO not_unique VALUES (200, 1); INSERT INTO no_index VALUES (200, 1)});
all_equal('afterwards', $leader, $follower);

$_->stop for $leader, $follower;
done_testing();
