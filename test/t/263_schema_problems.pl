# What the leader has and can't be made here, since its rows do not fit: the copy ends all the same, with constraints
# that are not valid and other things left out, each in the log and in fanout.schema_problems.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Utils;
use Test::More;

my $leader = new_leader('leader');
my $follower = new_follower('follower', 'fanout.retry_interval = 100ms');
$leader->safe_psql('postgres', q{
	CREATE ROLE shop; CREATE SCHEMA shop AUTHORIZATION shop;
	CREATE TABLE p (id int PRIMARY KEY, v int); INSERT INTO p VALUES (1, 1);
	CREATE TABLE c (id int PRIMARY KEY, p int CONSTRAINT violated REFERENCES p, q int CONSTRAINT fulfilled REFERENCES p);
	CREATE TABLE parts (id int, p int CONSTRAINT violated REFERENCES p) PARTITION BY LIST (id);
	CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1);
	SET session_replication_role = replica; INSERT INTO c VALUES (1, 1, 1), (2, 99, 1); INSERT INTO parts VALUES (1, 99); SET session_replication_role = origin;
	CREATE FUNCTION small(int) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT $1 < 1000';
	CREATE TABLE checked (id int PRIMARY KEY, v int CONSTRAINT small CHECK (small(v)) CONSTRAINT positive CHECK (v > 0));
	INSERT INTO checked SELECT g, g * 10 FROM generate_series(1, 20) g;
	CREATE TABLE old (id int PRIMARY KEY, v int); INSERT INTO old VALUES (1, -1); ALTER TABLE old ADD CONSTRAINT later CHECK (v > 0) NOT VALID;
	CREATE FUNCTION folded(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN IF current_setting('cluster_name') = 'follower' THEN RAISE 'not here'; END IF; RETURN $1; END $$;
	CREATE TABLE twice (id int CONSTRAINT twice_key UNIQUE, v int4range, w int); CREATE UNIQUE INDEX twice_w ON twice (w); CREATE INDEX twice_folded ON twice (folded(id));
	ALTER TABLE twice ADD CONSTRAINT apart EXCLUDE USING gist (v WITH &&); COMMENT ON INDEX twice_folded IS 'of what is left out'; COMMENT ON CONSTRAINT apart ON twice IS 'too';
	INSERT INTO twice VALUES (1, '[1,3)', 1);
	CREATE TABLE after (id int PRIMARY KEY, v int); CREATE INDEX after_v ON after (v); CREATE MATERIALIZED VIEW sums AS SELECT sum(v) FROM checked;
	CREATE FUNCTION small(text) RETURNS bool LANGUAGE sql AS 'SELECT true'});

# Rows that the indexes do not know: there while the server takes them for indexes that are not ready.
$leader->safe_psql('postgres', q{UPDATE pg_index SET indisready = false, indisvalid = false WHERE indrelid = 'twice'::regclass AND indexrelid <> 'twice_folded'::regclass});
$leader->safe_psql('postgres', q{UPDATE pg_index SET indislive = false WHERE indrelid = 'twice'::regclass AND indexrelid <> 'twice_folded'::regclass;});
$leader->safe_psql('postgres', q{INSERT INTO twice VALUES (1, '[1,3)', 1)});
$leader->safe_psql('postgres', q{UPDATE pg_index SET indisready = true, indisvalid = true, indislive = true WHERE indrelid = 'twice'::regclass;
	CREATE OR REPLACE FUNCTION small(int) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT $1 < 100'});

sub value { return $follower->safe_psql('postgres', $_[0]) }
sub validated { return value(q{SELECT string_agg(conrelid::regclass || '.' || conname || ' ' || convalidated, ', ' ORDER BY conrelid::regclass::text, conname)
	FROM pg_constraint WHERE contype IN ('c', 'f') AND connamespace = 'public'::regnamespace}) }
sub problems { return value(q{SELECT string_agg(outcome || ': ' || regexp_replace(statement, '\s+', ' ', 'g'), E'\n' ORDER BY outcome, statement COLLATE "C") FROM fanout.schema_problems}) }

my $expected = q{left out: ALTER TABLE ONLY public.twice ADD CONSTRAINT apart EXCLUDE USING gist (v WITH &&)
left out: ALTER TABLE ONLY public.twice ADD CONSTRAINT twice_key UNIQUE (id)
left out: CREATE INDEX twice_folded ON public.twice USING btree (public.folded(id))
left out: CREATE UNIQUE INDEX twice_w ON public.twice USING btree (w)};

follow($follower, $leader);
all_equal('first copy', $leader, $follower);
is(value(q{SELECT fanout.wait_for_copy('app', '150s')}), 't', 'complete');
like(validated(), qr/\bc\.fulfilled true, c\.violated false, checked\.positive true, checked\.small false/, 'what rows violate is not valid here');
like(validated(), qr/\bold\.later false/, '... as what was so on the leader');
like(problems(), qr/\Q$_\E/, "left out: $_") for map { s/^left out: //r } split /\n/, $expected;
like(problems(), qr/^not valid: .*\bc VALIDATE CONSTRAINT violated$/m, 'not valid: the foreign key');
like(problems(), qr/^not valid: .*\bchecked VALIDATE CONSTRAINT small$/m, 'not valid: the check constraint');
like(value(q{SELECT error FROM fanout.schema_problems WHERE statement LIKE '%CONSTRAINT violated%' AND outcome = 'not valid'}), qr/violates foreign key constraint "violated".*\(p\)=\(99\)/, '... with its key');
unlike(problems(), qr/fulfilled|positive|after_v/, 'nothing else');
is(value(q{SELECT to_regclass('after_v') IS NOT NULL AND (SELECT relispopulated FROM pg_class WHERE relname = 'sums')}), 't', 'what comes after it is there');
like(slurp_file($follower->logfile), qr/WARNING:  a constraint of the leader is not valid here: insert or update on table "c"/, 'the log tells');
like(slurp_file($follower->logfile), qr/WARNING:  a statement of the leader's schema is left out: could not create unique index "twice_w"/, '... of both kinds');
is(value('SET ROLE pg_read_all_data; SELECT count(*) FILTER (WHERE error IS NOT NULL) FROM fanout.schema_problems'), '0', 'errors, which name keys, are not for everybody');

# Copied again: rows that violate what is not valid come again.
value(q{SELECT fanout.resync('app')});
all_equal('copied again', $leader, $follower);
is(value(q{SELECT fanout.wait_for_copy('app', '150s')}), 't', '... complete');
like(validated(), qr/\bc\.violated false, checked\.positive true, checked\.small false, old\.later false/, '... as before');
value(q{SELECT fanout.resync('app', t) FROM unnest('{checked, old, c, twice}'::regclass[]) t});
all_equal('one by one', $leader, $follower);
like(validated(), qr/\bc\.violated false, checked\.positive true, checked\.small false, old\.later false/, '... as before');

# The stream goes on, also with what is about what is not here.
$leader->safe_psql('postgres', q{INSERT INTO p VALUES (2, 2); INSERT INTO c VALUES (3, 2, 2); DELETE FROM c WHERE id = 1; INSERT INTO checked VALUES (50, 5); UPDATE old SET v = 5;
	DROP INDEX twice_w; ALTER TABLE twice DROP CONSTRAINT apart; ALTER TABLE checked DROP CONSTRAINT small; INSERT INTO checked VALUES (51, 500);
	DELETE FROM c WHERE p = 99; ALTER TABLE c VALIDATE CONSTRAINT fulfilled; ALTER TABLE c RENAME CONSTRAINT violated TO mended});
all_equal('afterwards', $leader, $follower);

$_->stop for $leader, $follower;
done_testing();
