# Schema changes of every kind follow by themselves, in order with the data.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Utils;
use Schema;
use Test::More;

my $leader = new_leader('leader', 'max_prepared_transactions = 5');
my @followers = map { new_follower($_) } 'one', 'two';
for my $node ($leader, @followers)
{
	$node->safe_psql('postgres', q{CREATE ROLE alice; CREATE ROLE bob; GRANT alice TO bob;
		CREATE ROLE "Carl ""C"""; GRANT CREATE ON DATABASE postgres TO alice, bob;
		GRANT ALL ON SCHEMA public TO alice, bob, "Carl ""C"""});
}
$leader->safe_psql('postgres', q{CREATE TABLE before (id int PRIMARY KEY, v text);
	INSERT INTO before SELECT g, 'row ' || g FROM generate_series(1, 1000) g});
follow($_, $leader) for @followers;
wait_for_copy($_) for @followers;

sub same
{
	my ($what) = @_;
	same_schema($what, $leader, @followers);
	return;
}

sub check
{
	my ($what, @statements) = @_;
	check_statements($what, join("\n", @statements), $leader, @followers);
	return;
}

check('tables', q{
CREATE TABLE t1 (id serial PRIMARY KEY, a int NOT NULL DEFAULT 5, b text COLLATE "C", c numeric(10,2) CHECK (c > 0));
INSERT INTO t1 (b, c) SELECT 'x' || g, g FROM generate_series(1, 100) g;
CREATE TABLE t2 (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, t1 int REFERENCES t1 ON DELETE CASCADE, twice int GENERATED ALWAYS AS (t1 * 2) STORED, UNIQUE (t1, id));
INSERT INTO t2 (t1) SELECT g FROM generate_series(1, 50) g;
ALTER TABLE t1 ADD COLUMN d int DEFAULT 7, ADD COLUMN e text;
UPDATE t1 SET e = 'e' || id WHERE id % 2 = 0;
ALTER TABLE t1 ALTER COLUMN a TYPE bigint, ALTER COLUMN b SET NOT NULL, ALTER COLUMN c DROP DEFAULT, ALTER COLUMN e SET STORAGE EXTERNAL, ALTER COLUMN d SET STATISTICS 50;
ALTER TABLE t1 ALTER COLUMN d TYPE text USING ('d' || d);
ALTER TABLE t1 RENAME COLUMN e TO "E e";
ALTER TABLE t1 RENAME TO "T ""1""";
INSERT INTO "T ""1""" (b, c, "E e") VALUES ('after', 1, 'renamed');
ALTER TABLE "T ""1""" RENAME CONSTRAINT t1_c_check TO positive;
ALTER TABLE "T ""1""" DROP COLUMN "E e";
ALTER TABLE t2 ADD CONSTRAINT small CHECK (t1 < 1000) NOT VALID;
ALTER TABLE t2 VALIDATE CONSTRAINT small;
ALTER TABLE t2 DROP CONSTRAINT small;
ALTER TABLE "T ""1""" REPLICA IDENTITY FULL;
UPDATE "T ""1""" SET a = a + 1;
UPDATE t2 SET t1 = t1 + 1;
ALTER TABLE t2 SET (fillfactor = 50);
COMMENT ON TABLE t2 IS 'it''s the second';
COMMENT ON COLUMN t2.t1 IS 'points to the first';
COMMENT ON CONSTRAINT t2_pkey ON t2 IS 'key';
CREATE TABLE t3 (LIKE t2 INCLUDING ALL);
CREATE TABLE t4 (x int) INHERITS (t2);
INSERT INTO t4 (id, t1, x) VALUES (1, 1, 2);
ALTER TABLE t4 NO INHERIT t2;
DROP TABLE t3;
CREATE TABLE IF NOT EXISTS t2 (nothing int);
CREATE TABLE "SELECT" ("from" int PRIMARY KEY, "W h e r e" text DEFAULT 'it''s');
INSERT INTO "SELECT" VALUES (1);
DROP TABLE IF EXISTS not_there;
});

check('rows of CREATE TABLE AS and SELECT INTO', q{
CREATE TABLE copied AS SELECT id, v, md5(v) AS m, now() AS at, random() AS r FROM before;
SELECT id AS number, upper(v) AS "Upper V", NULL AS nothing, v::varchar(20) COLLATE "C" AS c INTO into_table FROM before WHERE id < 100;
CREATE TABLE named (one, "Two 2") WITH (fillfactor = 70) AS SELECT 1::smallint, ARRAY['x'::name] WITH NO DATA;
CREATE TABLE IF NOT EXISTS copied AS SELECT 1;
PREPARE p AS SELECT id, v FROM before WHERE id < $1;
CREATE TABLE executed AS EXECUTE p(10);
EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off) CREATE TABLE explained AS SELECT id FROM before;
EXPLAIN CREATE TABLE not_made AS SELECT 1;
CREATE FUNCTION makes_table(n int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN CREATE TABLE made AS SELECT g FROM generate_series(1, n) g; RETURN n; END $$;
SELECT makes_table(20);
CREATE TABLE outer_table AS SELECT 1 AS one;
});

check('indexes, also CONCURRENTLY', q{
CREATE INDEX ON before (v);
CREATE UNIQUE INDEX before_lower ON before (lower(v) text_pattern_ops, id DESC NULLS LAST) INCLUDE (v) WHERE id > 0;
CREATE INDEX CONCURRENTLY before_c ON before USING hash (v);
CREATE INDEX CONCURRENTLY IF NOT EXISTS before_c ON before (v);
INSERT INTO before VALUES (2000, 'between');
ALTER INDEX before_c RENAME TO before_d;
ALTER INDEX before_lower ALTER COLUMN 1 SET STATISTICS 100;
COMMENT ON INDEX before_d IS 'made concurrently';
DROP INDEX CONCURRENTLY before_v_idx;
REINDEX TABLE CONCURRENTLY before;
CREATE INDEX temporary_index ON before (id); DROP INDEX temporary_index;
CREATE STATISTICS stats (ndistinct, mcv) ON id, v FROM before;
ALTER STATISTICS stats SET STATISTICS 77;
COMMENT ON STATISTICS stats IS 's';
CLUSTER before USING before_pkey;
VACUUM before;
ANALYZE before;
});

check('other objects', q{
CREATE SEQUENCE s START 10 INCREMENT 5; ALTER SEQUENCE s MAXVALUE 1000 OWNED BY before.id; COMMENT ON SEQUENCE s IS 'seq';
CREATE VIEW v AS SELECT id, v FROM before WHERE id < 10; CREATE OR REPLACE VIEW v AS SELECT id, v, 1 AS one FROM before;
ALTER VIEW v RENAME COLUMN one TO uno; ALTER VIEW v SET (security_barrier = true);
CREATE MATERIALIZED VIEW m AS SELECT count(*) AS n, max(id) AS top FROM before; CREATE UNIQUE INDEX ON m (n);
INSERT INTO before VALUES (3000, 'x'); REFRESH MATERIALIZED VIEW m; REFRESH MATERIALIZED VIEW CONCURRENTLY m;
CREATE MATERIALIZED VIEW empty AS SELECT 1 WITH NO DATA;
EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off) CREATE MATERIALIZED VIEW explained_view AS SELECT count(*) AS n FROM before; EXPLAIN CREATE MATERIALIZED VIEW not_made AS SELECT 1;
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE TABLE moods (m mood);
ALTER TYPE mood ADD VALUE 'happy' AFTER 'ok';
INSERT INTO moods VALUES ('happy');
ALTER TYPE mood ADD VALUE IF NOT EXISTS 'angry' BEFORE 'sad';
INSERT INTO moods VALUES ('angry');
ALTER TYPE mood RENAME VALUE 'ok' TO 'fine';
CREATE TYPE pair AS (a int, b text); ALTER TYPE pair ADD ATTRIBUTE c date, ALTER ATTRIBUTE b TYPE varchar(10);
CREATE DOMAIN positive AS int CHECK (VALUE > 0); ALTER DOMAIN positive SET DEFAULT 3; ALTER DOMAIN positive ADD CONSTRAINT few CHECK (VALUE < 1000) NOT VALID;
ALTER DOMAIN positive VALIDATE CONSTRAINT few; COMMENT ON CONSTRAINT few ON DOMAIN positive IS 'few';
CREATE TYPE span AS RANGE (subtype = float8, subtype_diff = float8mi);
CREATE FUNCTION add(a int, b int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT a + b; -- it is; a comment';
CREATE OR REPLACE FUNCTION add(a int, b int) RETURNS int LANGUAGE sql IMMUTABLE RETURN a + b;
ALTER FUNCTION add(int, int) COST 5; ALTER FUNCTION add(int, int) RENAME TO plus; COMMENT ON FUNCTION plus(int, int) IS 'adds';
CREATE PROCEDURE proc() LANGUAGE plpgsql AS $$ BEGIN CREATE TABLE by_procedure (a int); COMMIT; INSERT INTO by_procedure VALUES (1); END $$;
CALL proc();
CREATE AGGREGATE total(int) (SFUNC = plus, STYPE = int, INITCOND = '0');
CREATE OPERATOR @+@ (LEFTARG = int, RIGHTARG = int, FUNCTION = plus);
CREATE CAST (pair AS text) WITH INOUT; CREATE COLLATION german FROM "C";
CREATE TEXT SEARCH CONFIGURATION tsc (COPY = english); ALTER TEXT SEARCH CONFIGURATION tsc DROP MAPPING FOR email;
CREATE RULE r AS ON INSERT TO moods WHERE new.m = 'sad' DO INSTEAD NOTHING; INSERT INTO moods VALUES ('sad'), ('fine'); DROP RULE r ON moods;
CREATE FUNCTION trg() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN new.v := new.v || '!'; RETURN new; END $$;
CREATE TRIGGER shout BEFORE INSERT ON before FOR EACH ROW EXECUTE FUNCTION trg();
INSERT INTO before VALUES (4000, 'loud'); ALTER TRIGGER shout ON before RENAME TO shout2; ALTER TABLE before DISABLE TRIGGER shout2;
INSERT INTO before VALUES (4001, 'quiet');
ALTER TABLE before ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON before FOR SELECT TO alice USING (id < 5); ALTER POLICY p ON before RENAME TO q; ALTER POLICY q ON before USING (id < 6);
CREATE FOREIGN DATA WRAPPER w; CREATE SERVER srv FOREIGN DATA WRAPPER w; CREATE FOREIGN TABLE ft (a int) SERVER srv; CREATE USER MAPPING FOR alice SERVER srv;
GRANT SELECT ON before TO alice; GRANT UPDATE (v) ON before TO bob WITH GRANT OPTION; REVOKE SELECT ON before FROM alice; GRANT USAGE ON SEQUENCE s TO PUBLIC; GRANT EXECUTE ON FUNCTION plus(int, int) TO "Carl ""C""";
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO bob;
CREATE TABLE with_defaults (a int);
ALTER TABLE with_defaults OWNER TO alice;
});

check('partitions', q{
CREATE TABLE parts (id int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (100);
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (100) TO (200) PARTITION BY HASH (id);
CREATE TABLE parts_2_0 PARTITION OF parts_2 FOR VALUES WITH (MODULUS 2, REMAINDER 0); CREATE TABLE parts_2_1 PARTITION OF parts_2 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO parts SELECT g, 'p' FROM generate_series(0, 199) g;
CREATE TABLE parts_3 (v text, id int NOT NULL); INSERT INTO parts_3 SELECT 'q', g FROM generate_series(200, 250) g;
ALTER TABLE parts ATTACH PARTITION parts_3 FOR VALUES FROM (200) TO (300);
CREATE INDEX ON parts (v); ALTER TABLE parts ADD COLUMN extra int DEFAULT 1;
UPDATE parts SET v = 'changed' WHERE id % 3 = 0;
ALTER TABLE parts DETACH PARTITION parts_1;
INSERT INTO parts_1 VALUES (1000, 'alone');
ALTER TABLE parts DETACH PARTITION parts_3 CONCURRENTLY;
INSERT INTO parts_3 (id) VALUES (299);
DROP TABLE parts_2_1; TRUNCATE parts_2;
});

check('roles, schemas, search_path and names', q{
SET ROLE alice;
CREATE SCHEMA AUTHORIZATION alice;
SET search_path = '$user', public;
CREATE TABLE hers (a int); INSERT INTO hers VALUES (1);
CREATE SCHEMA "My Schema" CREATE TABLE inner_table (id int PRIMARY KEY) CREATE VIEW inner_view AS SELECT * FROM inner_table CREATE INDEX ON inner_table (id);
SET search_path = "My Schema";
CREATE TABLE "it's" (a int); INSERT INTO "it's" VALUES (3); INSERT INTO inner_table VALUES (1);
CREATE FUNCTION definer() RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = alice, pg_temp AS $$ BEGIN CREATE TABLE by_definer (a int); INSERT INTO by_definer VALUES (1); END $$;
RESET ROLE; SET ROLE bob; SELECT definer();
RESET ROLE; RESET search_path; SET SESSION AUTHORIZATION "Carl ""C"""; CREATE TABLE carls (a int); RESET SESSION AUTHORIZATION;
ALTER SCHEMA "My Schema" RENAME TO theirs; INSERT INTO theirs."it's" VALUES (4);
ALTER TABLE theirs."it's" SET SCHEMA public; INSERT INTO public."it's" VALUES (5);
SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'SQL, DMY';
CREATE TABLE times (t timestamptz DEFAULT '01/02/2003 04:05:06', d text); INSERT INTO times (d) VALUES ('01/02/2003'); ALTER TABLE times ALTER d TYPE date USING d::date; INSERT INTO times DEFAULT VALUES;
RESET TimeZone; RESET DateStyle;
SET standard_conforming_strings = off; CREATE VIEW escaped AS SELECT 'a\\\\b' AS s; RESET standard_conforming_strings;
SET check_function_bodies = off; CREATE FUNCTION broken() RETURNS int LANGUAGE sql AS 'SELECT x FROM nowhere'; RESET check_function_bodies;
});

check('from functions, DO, several in one string, savepoints and prepared transactions', q{
DO $$ BEGIN FOR i IN 1 .. 5 LOOP EXECUTE format('CREATE TABLE done_%s (a int)', i); EXECUTE format('INSERT INTO done_%s VALUES (%s)', i, i); END LOOP; END $$;
CREATE TABLE many_1 (a int)\; INSERT INTO many_1 VALUES (1)\; ALTER TABLE many_1 ADD b int DEFAULT 2\; INSERT INTO many_1 VALUES (2, 3)\; /* a comment; */ CREATE TABLE many_2 (a int);
BEGIN; CREATE TABLE kept (a int); INSERT INTO kept VALUES (1); SAVEPOINT s; ALTER TABLE kept ADD b int; INSERT INTO kept VALUES (1, 2); CREATE TABLE lost (a int); ROLLBACK TO s; INSERT INTO kept VALUES (2); SAVEPOINT s2; ALTER TABLE kept ADD c int; RELEASE s2; INSERT INTO kept VALUES (3, 4); COMMIT;
BEGIN; CREATE TABLE gone (a int); ROLLBACK;
DO $$ BEGIN BEGIN CREATE TABLE caught (a int); RAISE 'no'; EXCEPTION WHEN raise_exception THEN CREATE TABLE handled (a int); END; END $$;
BEGIN; ALTER TABLE kept ADD d int; INSERT INTO kept VALUES (5); PREPARE TRANSACTION 'p'; COMMIT PREPARED 'p'; INSERT INTO kept VALUES (6);
CREATE FUNCTION sqlf() RETURNS void LANGUAGE sql AS 'CREATE TABLE from_sql (a int); ALTER TABLE from_sql ADD b int;'; SELECT sqlf();
CREATE FUNCTION etf() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN IF tg_tag = 'CREATE TABLE' AND NOT EXISTS (SELECT FROM pg_class WHERE relname = 'by_event') THEN CREATE TABLE by_event (a int); INSERT INTO by_event VALUES (1); END IF; END $$;
CREATE EVENT TRIGGER et ON ddl_command_end EXECUTE FUNCTION etf(); CREATE TABLE starts_event (a int); DROP EVENT TRIGGER et;
BEGIN; TRUNCATE kept; ALTER TABLE kept DROP COLUMN c; INSERT INTO kept VALUES (7); ALTER TABLE kept RENAME TO kept2; INSERT INTO kept2 VALUES (8); COMMIT;
});

check('temporary and unlogged objects, tablespaces, databases, roles', q{
CREATE TEMP TABLE before (id int, v text); INSERT INTO before VALUES (1, 'hidden'); ALTER TABLE before ADD x int; CREATE INDEX ON before (id); COMMENT ON TABLE before IS 't'; CREATE VIEW temp_view AS SELECT * FROM before;
CREATE TEMP TABLE tt AS SELECT 1 AS a; CREATE TEMP SEQUENCE ts; CREATE TYPE pg_temp.tty AS (a int); CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE TABLE real_1 (a int); CREATE TABLE shadowed (a int); CREATE TEMP TABLE shadowed (b int); DROP TABLE tt, real_1, shadowed;
DROP VIEW temp_view; DROP TABLE before; DROP FUNCTION pg_temp.f();
SELECT 1 AS a INTO TEMP sit; SET search_path = pg_temp; CREATE TABLE in_temp (a int); RESET search_path; DISCARD TEMP;
CREATE UNLOGGED TABLE unlogged (a int PRIMARY KEY); ALTER TABLE unlogged ADD b text;
CREATE ROLE nobody_here; DROP ROLE nobody_here; CREATE DATABASE other; COMMENT ON DATABASE other IS 'x'; DROP DATABASE other;
CREATE PUBLICATION pub; DROP PUBLICATION pub; SELECT lo_create(4711);
COMMENT ON LARGE OBJECT 4711 IS 'x'; SELECT lo_unlink(4711);
});

check('types and domains that are renamed, moved and owned', q{
CREATE SCHEMA elsewhere; CREATE TYPE shade AS ENUM ('dark'); CREATE DOMAIN small AS int CONSTRAINT low CHECK (VALUE < 10);
ALTER TYPE shade RENAME TO hue; ALTER TYPE hue SET SCHEMA elsewhere; ALTER TYPE elsewhere.hue OWNER TO alice;
ALTER DOMAIN small RENAME TO tiny; ALTER DOMAIN tiny RENAME CONSTRAINT low TO lower; ALTER DOMAIN tiny OWNER TO alice; ALTER DOMAIN tiny SET SCHEMA elsewhere;
COMMENT ON DOMAIN elsewhere.tiny IS 't'; COMMENT ON CONSTRAINT lower ON DOMAIN elsewhere.tiny IS 'l'; GRANT USAGE ON TYPE elsewhere.hue TO bob; REVOKE USAGE ON DOMAIN elsewhere.tiny FROM PUBLIC;
DO $$ BEGIN ALTER TYPE not_there RENAME TO there; EXCEPTION WHEN undefined_object THEN NULL; END $$;
CREATE TABLE older (id int PRIMARY KEY, v elsewhere.tiny); ALTER TABLE older REPLICA IDENTITY FULL; INSERT INTO older VALUES (1, 9), (2, 5);
ALTER DOMAIN elsewhere.tiny ADD CONSTRAINT lowest CHECK (VALUE < 6) NOT VALID; UPDATE older SET v = 1; ALTER DOMAIN elsewhere.tiny VALIDATE CONSTRAINT lowest;
});

check('partitions: bounds that are computed, CLUSTER, TRUNCATE, hash partitions that leave', q{
CREATE TABLE moments (at timestamptz, n int) PARTITION BY RANGE (at); CREATE TABLE "Today's (" PARTITION OF moments FOR /* ( */ VALUES FROM (current_timestamp - interval '1 hour') TO ('tomorrow'::timestamptz + interval '1 day)'::interval) WITH (fillfactor = 70);
INSERT INTO moments VALUES (now(), 1); CREATE TABLE long_ago (at timestamptz, n int); ALTER TABLE moments ATTACH PARTITION long_ago FOR VALUES FROM (MINVALUE) TO (now() - interval '1 year');
CREATE TABLE days (d date) PARTITION BY LIST (d); CREATE TABLE this_day PARTITION OF days FOR VALUES IN (current_date, NULL, '2000-01-01'); INSERT INTO days VALUES (current_date), (NULL);
CREATE INDEX by_time ON moments (at); CLUSTER moments USING by_time; CLUSTER long_ago USING long_ago_at_idx; CLUSTER pg_cast USING pg_cast_oid_index;
CREATE TABLE referenced (id int PRIMARY KEY); CREATE TABLE referencing (id int REFERENCES referenced) PARTITION BY RANGE (id); CREATE TABLE referencing_1 PARTITION OF referencing FOR VALUES FROM (0) TO (10) PARTITION BY LIST (id); CREATE TABLE referencing_1_1 PARTITION OF referencing_1 DEFAULT;
INSERT INTO referenced VALUES (1), (2); INSERT INTO referencing VALUES (1); TRUNCATE referenced, referencing; INSERT INTO referenced VALUES (3); INSERT INTO referencing VALUES (3); TRUNCATE referenced CASCADE;
CREATE TABLE hashed (id int) PARTITION BY HASH (id); CREATE TABLE hashed_1 PARTITION OF hashed FOR VALUES WITH (MODULUS 1, REMAINDER 0); INSERT INTO hashed VALUES (1); ALTER TABLE hashed DETACH PARTITION hashed_1 CONCURRENTLY; INSERT INTO hashed_1 VALUES (2); DROP TABLE hashed;
});

check('rows without a key, of types without equality', q{
CREATE TABLE shapes (j json, p point, b box, x int); ALTER TABLE shapes REPLICA IDENTITY FULL;
INSERT INTO shapes SELECT format('{"a": %s}', g)::json, point(g, g), box(point(0, 0), point(g, 1)), 1 FROM generate_series(1, 5) g; UPDATE shapes SET x = 2 WHERE p[0] = 3; DELETE FROM shapes WHERE p[0] = 4; UPDATE shapes SET j = NULL;
});

check('functions that can be checked on the leader only', q{
CREATE FUNCTION as_alice() RETURNS text LANGUAGE sql SET role = alice AS 'SELECT current_user::text'; ALTER FUNCTION as_alice() SET role = bob; CREATE TEMP TABLE only_here (a int);
CREATE FUNCTION reads_it() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM only_here'; CREATE FUNCTION returns_it() RETURNS SETOF only_here LANGUAGE sql AS 'SELECT * FROM only_here'; CREATE FUNCTION takes_it(only_here[]) RETURNS int LANGUAGE sql AS 'SELECT 1';
ALTER FUNCTION returns_it() COST 7; COMMENT ON FUNCTION takes_it(only_here[]) IS 't'; ALTER FUNCTION returns_it() RENAME TO gives_it; DROP FUNCTION gives_it(), takes_it(only_here[]);
CREATE DOMAIN its_row AS only_here[]; DROP DOMAIN its_row; CREATE TEMP TABLE "Model" (a int NOT NULL, "B b" varchar(5) COLLATE "C", gone int, c int[]); ALTER TABLE "Model" DROP gone;
CREATE TABLE like_it (LIKE only_here, b text, LIKE before INCLUDING DEFAULTS); CREATE TABLE like_model (LIKE "Model"); INSERT INTO like_model VALUES (1, 'x', '{1}');
});

check('extensions, whose scripts run on each side', q{
CREATE EXTENSION hstore; CREATE TABLE h (id int PRIMARY KEY, v hstore); INSERT INTO h VALUES (1, 'a=>1');
CREATE SCHEMA ext; CREATE EXTENSION citext SCHEMA ext; CREATE TABLE ci (v ext.citext); ALTER EXTENSION citext SET SCHEMA public;
CREATE EXTENSION earthdistance CASCADE; DROP EXTENSION earthdistance; ALTER EXTENSION cube DROP FUNCTION cube_cmp(cube, cube); ALTER EXTENSION cube ADD FUNCTION cube_cmp(cube, cube);
COMMENT ON EXTENSION cube IS 'mine'; CREATE EXTENSION IF NOT EXISTS cube; CREATE EXTENSION pg_trgm VERSION '1.3'; ALTER EXTENSION pg_trgm UPDATE;
});

for my $case (
	[ 'a volatile default', 'ALTER TABLE big ADD r float8 DEFAULT random()' ],
	[ 'a stable default', 'ALTER TABLE big ADD at timestamptz DEFAULT now()' ],
	[ 'a serial column', 'ALTER TABLE big ADD s serial' ],
	[ 'USING with a clock', 'ALTER TABLE big ALTER v TYPE text USING v || clock_timestamp()::text' ],
	[ 'a column and rows in one transaction', q{BEGIN; INSERT INTO big VALUES (0, 'x'); ALTER TABLE big ADD u uuid DEFAULT gen_random_uuid(); UPDATE big SET v = 'y' WHERE id < 10; COMMIT} ],
	[ 'SET LOGGED', q{CREATE UNLOGGED TABLE ul (a int PRIMARY KEY); INSERT INTO ul SELECT generate_series(1, 100); ALTER TABLE ul SET LOGGED; INSERT INTO ul VALUES (1000)} ])
{
	$leader->safe_psql('postgres', q{CREATE TABLE IF NOT EXISTS big (id int PRIMARY KEY, v text);
		INSERT INTO big SELECT g, 'v' FROM generate_series(1, 1000) g ON CONFLICT DO NOTHING});
	check("$case->[0] copies the table again", "$case->[1];");
}
my $copied_at = $followers[0]->safe_psql('postgres', 'SELECT max(copied_at) FROM fanout.followed_table');
check('defaults that are the same everywhere', q{ALTER TABLE big ADD k text DEFAULT upper('k'), ALTER r TYPE text USING 'r' || r});
is($followers[0]->safe_psql('postgres', 'SELECT max(copied_at) FROM fanout.followed_table'), $copied_at, '... copy nothing');

# DROP, also of what is replicated.
check('drops', q{
DROP MATERIALIZED VIEW m; DROP VIEW v; DROP TABLE moods; DROP CAST (pair AS text); DROP TYPE mood, pair; DROP DOMAIN positive; DROP AGGREGATE total(int); DROP OPERATOR @+@ (int, int); DROP FUNCTION plus; DROP PROCEDURE proc;
DROP TABLE big, h, ci CASCADE; DROP SCHEMA theirs CASCADE; DROP EXTENSION hstore, citext; DROP SEQUENCE s; DROP TEXT SEARCH CONFIGURATION tsc; DROP POLICY q ON before; DROP TRIGGER shout2 ON before;
DROP STATISTICS stats; DROP SERVER srv CASCADE; DROP TABLE parts CASCADE; DROP SCHEMA elsewhere CASCADE; DROP OWNED BY alice; REASSIGN OWNED BY "Carl ""C""" TO bob;
});
is($followers[0]->safe_psql('postgres', q{SELECT count(*) FROM fanout.followed_table t WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = t.relid)}),
	'0', 'no dropped table is left on the list');

# A new table is guarded from the start.
$leader->safe_psql('postgres', 'CREATE TABLE guarded (a int)');
wait_for_catchup($leader, @followers);
my ($rc, $out, $err) = $followers[0]->psql('postgres', 'INSERT INTO guarded VALUES (1)');
like($err, qr/cannot execute INSERT on replicated table "guarded"/, 'a new table is guarded at once');
is($leader->safe_psql('postgres', 'SELECT count(*) FROM fanout.schema_change'), '0', 'no row stays in fanout.schema_change');
is(scalar(() = slurp_file($leader->logfile) =~ /CREATE DATABASE is not replicated/g), 1, 'what is not replicated is said once');

# What can't be made here stops this follower alone, and goes on when it can.
$leader->safe_psql('postgres', 'CREATE ROLE leader_only');
$_->safe_psql('postgres', 'CREATE ROLE leader_only') for $followers[1];
$leader->safe_psql('postgres', q{CREATE TABLE owned (a int); ALTER TABLE owned OWNER TO leader_only; INSERT INTO owned VALUES (1)});
wait_for_catchup($leader, $followers[1]);
state_is($followers[0], 'failed');
my $error = $followers[0]->safe_psql('postgres', 'SELECT last_error FROM fanout.staleness');
like($error, qr/role "leader_only" does not exist.*ALTER TABLE owned OWNER TO leader_only.*committed at/s,
	'the error names the statement and the position');
$followers[0]->safe_psql('postgres', 'CREATE ROLE leader_only');
same('after the role was made');

$leader->safe_psql('postgres', 'DROP TABLE owned');
$_->safe_psql('postgres', 'CREATE TABLE in_the_way (b text)') for $followers[0];
$leader->safe_psql('postgres', 'CREATE TABLE in_the_way (a int); INSERT INTO in_the_way VALUES (1)');
state_is($followers[0], 'failed');
like($followers[0]->safe_psql('postgres', 'SELECT last_error FROM fanout.staleness'),
	qr/relation "in_the_way" already exists.*CREATE TABLE in_the_way/s, 'a table that is here already stops it');
$followers[0]->safe_psql('postgres', 'DROP TABLE in_the_way');
same('after the table was dropped');

$_->stop for $leader, @followers;
done_testing();
