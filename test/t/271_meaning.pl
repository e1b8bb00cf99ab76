# Statements whose outcome depends on more than their text and the schema: on the moment, the
# session and on other servers.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use Schema;
use Test::More;

my $leader = new_leader('leader');
my $follower = new_follower('follower', 'fanout.retry_interval = 200ms');
for my $node ($leader, $follower)
{
	$node->safe_psql('postgres', 'CREATE ROLE alice LOGIN; CREATE ROLE bob LOGIN; GRANT alice TO bob; GRANT ALL ON SCHEMA public TO alice, bob; GRANT CREATE ON DATABASE postgres TO bob');
}
my ($host, $port) = ($leader->host, $leader->port);
$leader->safe_psql('postgres', 'CREATE DATABASE remote');
$leader->safe_psql('remote', q{CREATE SCHEMA far; CREATE TYPE far.mood AS ENUM ('x'); CREATE TABLE far.a (i int NOT NULL); CREATE TABLE far."B b" (t text COLLATE "C", n numeric(5, 2)); CREATE TABLE far.excepted (i int)});
$leader->safe_psql('postgres', qq{CREATE EXTENSION postgres_fdw; CREATE SCHEMA near; CREATE SCHEMA "it's near";
	CREATE SERVER remote FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '$host', port '$port', dbname 'remote');
	CREATE USER MAPPING FOR PUBLIC SERVER remote OPTIONS (user '@{[ scalar getpwuid($<) ]}');
	CREATE TABLE base (id int PRIMARY KEY, v text); INSERT INTO base SELECT g, 'v' FROM generate_series(1, 100) g; GRANT ALL ON base TO alice WITH GRANT OPTION});
follow($follower, $leader);
wait_for_copy($follower);

sub check
{
	my ($what, $statements) = @_;
	check_statements($what, $statements, $leader, $follower);
	return;
}

# ---------- other servers ----------

$follower->safe_psql('postgres', q{SELECT fanout.pause('app')});
$leader->safe_psql('postgres', $_)
  for 'IMPORT FOREIGN SCHEMA far EXCEPT (excepted) FROM SERVER remote INTO near',
  q{BEGIN; IMPORT FOREIGN SCHEMA far LIMIT TO (a) FROM SERVER remote INTO "it's near"; SAVEPOINT s; CREATE FOREIGN TABLE near.undone (i int) SERVER remote; ROLLBACK TO s; COMMENT ON FOREIGN TABLE "it's near".a IS 'here'; COMMIT},
  'DO $$ BEGIN IMPORT FOREIGN SCHEMA far LIMIT TO (excepted) FROM SERVER remote INTO near; END $$';
$leader->psql('postgres', 'IMPORT FOREIGN SCHEMA far FROM SERVER remote INTO near');
$leader->safe_psql('remote', 'DROP SCHEMA far CASCADE; CREATE SCHEMA far; CREATE TABLE far.other (i int)');
$follower->safe_psql('postgres', q{SELECT fanout.resume('app')});
check('IMPORT FOREIGN SCHEMA', 'SELECT 1');
is($follower->safe_psql('postgres', q{SELECT string_agg(oid::regclass::text, ' ' ORDER BY oid::regclass::text) FROM pg_class WHERE relkind = 'f'}),
	q{"it's near".a near."B b" near.a near.excepted}, '... makes what it made on the leader');

# ---------- the moment ----------

check('now, as a constant and as a function', q{
CREATE TABLE moments (id int PRIMARY KEY, at timestamptz DEFAULT 'now', local timestamp DEFAULT timestamp 'now', d date DEFAULT 'today', t text DEFAULT 'now'::timestamptz::text, CHECK (at >= timestamptz 'now'), CHECK (d <= 'tomorrow'::date));
INSERT INTO moments (id) VALUES (1);
ALTER TABLE moments ALTER at SET DEFAULT 'now'::timestamptz, ADD CHECK (local > 'now'::timestamp - interval '1 day');
CREATE TABLE by_time (at timestamptz) PARTITION BY RANGE (at); CREATE TABLE by_time_1 PARTITION OF by_time FOR VALUES FROM ('now') TO ('infinity');
CREATE TABLE by_time_2 (at timestamptz); ALTER TABLE by_time ATTACH PARTITION by_time_2 FOR VALUES FROM (now() - interval '1 day') TO (now() - interval '1 hour');
CREATE VIEW constant_view AS SELECT 'now'::timestamptz AS at, id FROM base; CREATE INDEX ON moments (id) WHERE at > 'now'::timestamptz;
CREATE FUNCTION moment(at timestamptz DEFAULT 'now') RETURNS timestamptz LANGUAGE sql RETURN at + (at - 'now'::timestamptz);
CREATE DOMAIN moment AS timestamptz DEFAULT 'now' CHECK (VALUE > 'now'::timestamptz - interval '1 day');
CREATE RULE r AS ON UPDATE TO moments WHERE new.at > 'now'::timestamptz DO INSTEAD NOTHING;
CREATE POLICY p ON moments USING (at < 'now'::timestamptz); ALTER POLICY p ON moments WITH CHECK (at > 'now'::timestamptz);
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
CREATE TRIGGER t BEFORE UPDATE ON moments FOR EACH ROW WHEN (new.at > 'now'::timestamptz) EXECUTE FUNCTION nothing();
CREATE STATISTICS ON (at - 'now'::timestamptz), id FROM moments;
CREATE MATERIALIZED VIEW viewed AS SELECT now() AS now, 'now'::timestamptz AS constant, statement_timestamp() AS statement, CURRENT_TIME AS t, count(*) FROM base;
BEGIN; SELECT pg_sleep(0.01); ALTER TABLE base ADD at timestamptz DEFAULT now(); CREATE MATERIALIZED VIEW viewed_later AS SELECT now() AS now, 'now'::timestamptz AS constant, statement_timestamp() AS statement FROM base; COMMIT;
DO $$ BEGIN PERFORM pg_sleep(0.01); EXECUTE 'CREATE TABLE from_do (at timestamptz DEFAULT ''now'')'; END $$;
} =~ s/CREATE STATISTICS ON/CREATE STATISTICS s ON/r);
my $views = 'SELECT v::text FROM viewed v UNION ALL SELECT DISTINCT v::text FROM viewed_later v ORDER BY 1';
is($follower->safe_psql('postgres', $views), $leader->safe_psql('postgres', $views), 'materialized views have the time of the leader');
$leader->safe_psql('postgres', 'REFRESH MATERIALIZED VIEW viewed; BEGIN; SELECT pg_sleep(0.01); REFRESH MATERIALIZED VIEW viewed_later; COMMIT');
wait_for_catchup($leader, $follower);
is($follower->safe_psql('postgres', $views), $leader->safe_psql('postgres', $views), '... also when they are refreshed');
isnt($follower->safe_psql('postgres', "SELECT now() > max(at) FROM base"), 'f', 'other statements have their own');

# ---------- the session ----------

check('SESSION_USER', q{
CREATE TABLE owned (a int); ALTER TABLE owned OWNER TO alice; CREATE TABLE bobs (a int); ALTER TABLE bobs OWNER TO bob;
SET SESSION AUTHORIZATION bob; SET ROLE alice;
GRANT SELECT, INSERT ON base TO SESSION_USER; GRANT UPDATE (v) ON base TO CURRENT_USER, SESSION_USER;
CREATE POLICY p ON owned TO SESSION_USER, CURRENT_ROLE USING (true); ALTER POLICY p ON owned TO SESSION_USER;
ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO SESSION_USER;
CREATE FUNCTION of_alice() RETURNS int LANGUAGE sql AS 'SELECT 1';
RESET ROLE;
CREATE TABLE of_bob (a int); ALTER TABLE owned OWNER TO SESSION_USER; ALTER FUNCTION of_alice() OWNER TO SESSION_USER; ALTER DEFAULT PRIVILEGES FOR ROLE SESSION_USER GRANT SELECT ON SEQUENCES TO alice;
GRANT SELECT ON of_bob TO alice GRANTED BY SESSION_USER; RESET SESSION AUTHORIZATION;
GRANT CREATE ON DATABASE postgres TO bob; SET SESSION AUTHORIZATION bob; CREATE SCHEMA AUTHORIZATION SESSION_USER CREATE TABLE inside (a int) GRANT SELECT ON inside TO SESSION_USER;
REVOKE INSERT ON base FROM SESSION_USER; REASSIGN OWNED BY SESSION_USER TO alice; CREATE TABLE dropped (a int); DROP OWNED BY SESSION_USER; RESET SESSION AUTHORIZATION;
CREATE USER MAPPING FOR SESSION_USER SERVER remote;
} =~ s/GRANT CREATE ON DATABASE postgres TO bob;//r);

# ---------- how a text is read, and parameters ----------

# In one string, which the server reads before the first statement runs; psql would take its input apart.
sub run_string
{
	my ($string) = @_;
	my @psql = ($leader->installed_command('psql'), '-XqAt', '-d', $leader->connstr('postgres'), '-c', $string);
	my $ran = IPC::Run::run(\@psql, '>', \my $out, '2>', \my $err);
	ok($ran, 'a string runs') or diag($err);
	return;
}

run_string($_) for
	'CREATE TABLE victim (id int PRIMARY KEY)',
	q{SET standard_conforming_strings = off; COMMENT ON TABLE base IS 'a\\' /* '; DROP TABLE victim; --*/
},
	q{SET standard_conforming_strings = off; COMMENT ON COLUMN base.v IS 'a\\n'},
	q{SET standard_conforming_strings = on; SET standard_conforming_strings = off; CREATE VIEW backslash AS SELECT 'a\\b'::text AS s},
	q{SET standard_conforming_strings = off; SELECT 'a\\\\b'::text AS s, E'\\'' AS e INTO backslashed},
	q{DO $$ BEGIN SET LOCAL standard_conforming_strings = off; CREATE FUNCTION slash() RETURNS text LANGUAGE sql AS 'SELECT E''\\\\n''; SELECT ''a\\b'''; END $$};
check('standard_conforming_strings that change before the statement runs', q{
SET standard_conforming_strings = off; SET backslash_quote = on;
COMMENT ON TABLE base IS 'it\\'s'; CREATE FUNCTION quoted() RETURNS text LANGUAGE sql AS 'SELECT E\\'\\\\n\\' || $$a\\b$$';
CREATE MATERIALIZED VIEW slashes AS SELECT 'a\\\\b' AS s; EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off) CREATE TABLE slashes_too AS SELECT 'a\\\\b'::text AS s;
});
is($follower->safe_psql('postgres', q{SELECT to_regclass('victim')}), 'victim', 'no other statement was read');
is($follower->safe_psql('postgres', 'SELECT s FROM slashes UNION ALL SELECT s FROM slashes_too'), "a\\b\na\\b", 'strings in queries are those of the leader');

check('parameters', q{
SET work_mem = '7MB'; SET my.parameter = 'it''s'; SET log_min_duration_statement = 77; SET search_path = near, "it's near", public;
CREATE FUNCTION current_1() RETURNS int LANGUAGE sql SET work_mem FROM CURRENT SET my.parameter FROM CURRENT SET search_path FROM CURRENT SET log_min_duration_statement FROM CURRENT AS 'SELECT 1';
CREATE FUNCTION current_2() RETURNS int LANGUAGE sql AS 'SELECT 1'; ALTER FUNCTION current_2() SET work_mem FROM CURRENT; ALTER ROUTINE current_2() SET my.parameter FROM CURRENT;
RESET ALL; SET search_path = public;
SET lc_monetary = 'C'; CREATE TABLE money_t (m money DEFAULT '1.50'); SET timezone_abbreviations = 'Australia'; CREATE TABLE abbreviated (t timestamptz DEFAULT '2020-01-01 12:00 EST'); RESET timezone_abbreviations;
SET DateStyle = 'SQL, DMY'; SET IntervalStyle = 'sql_standard'; SET TimeZone = 'Asia/Tokyo'; SET extra_float_digits = -10; SET bytea_output = 'escape'; SET xmlbinary = 'hex';
CREATE TABLE styled (d date DEFAULT '01/02/2003', i interval DEFAULT '-1 2:03:04', t timestamptz DEFAULT '01/02/2003 04:05', a text[] DEFAULT '{NULL,"a b"}', CHECK (t > '02/03/1999'));
CREATE MATERIALIZED VIEW computed AS SELECT 0.1::float8::text || '\x0001'::bytea::text || now()::date::text AS v, to_char(1234.5, 'L9G999D9') AS c, xmlelement(name x, '\x00'::bytea)::text AS x;
SET array_nulls = off; CREATE TABLE nulls (a text[] DEFAULT '{NULL}'); SET transform_null_equals = on; CREATE VIEW null_equals AS SELECT v = NULL AS n FROM base;
SET default_toast_compression = 'pglz'; CREATE TABLE compressed (t text); SET default_tablespace = ''; SET default_text_search_config = 'simple'; CREATE INDEX ON base USING gin (to_tsvector('english', v));
SET row_security = off; CREATE MATERIALIZED VIEW searched AS SELECT to_tsvector('the rats') AS v;
});
for my $view (qw(computed searched))
{
	is($follower->safe_psql('postgres', "SELECT * FROM $view"), $leader->safe_psql('postgres', "SELECT * FROM $view"), "$view is what the leader computed");
}

# Of a whole schema means of what the leader has in it.
$follower->safe_psql('postgres', 'CREATE TABLE own (a int); CREATE SEQUENCE own_s; CREATE FUNCTION own_f() RETURNS int LANGUAGE sql AS $$SELECT 1$$; REVOKE ALL ON FUNCTION own_f() FROM PUBLIC');
$leader->safe_psql('postgres', $_) for q{CREATE PROCEDURE proc(INOUT a int, b text DEFAULT 'x') LANGUAGE sql AS 'SELECT 1'; CREATE AGGREGATE sum_of(int) (SFUNC = int4pl, STYPE = int); CREATE AGGREGATE ordered(int ORDER BY text) (SFUNC = ordered_set_transition, STYPE = internal, FINALFUNC = rank_final)} =~ s/; CREATE AGGREGATE ordered.*//r,
	'CREATE TEMP TABLE t (a int); GRANT SELECT ON ALL TABLES IN SCHEMA pg_temp TO bob', 'SET SESSION AUTHORIZATION bob; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA bob TO alice';
$leader->safe_psql('postgres', "GRANT $_") for 'SELECT, INSERT ON ALL TABLES IN SCHEMA public, near TO bob, PUBLIC WITH GRANT OPTION' =~ s/, PUBLIC//r, 'ALL ON ALL TABLES IN SCHEMA near TO alice',
	'USAGE ON ALL SEQUENCES IN SCHEMA public TO alice', 'EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO alice', 'ALL PRIVILEGES ON ALL PROCEDURES IN SCHEMA public TO CURRENT_USER, alice GRANTED BY CURRENT_USER', 'EXECUTE ON ALL ROUTINES IN SCHEMA public TO bob';
$leader->safe_psql('postgres', "REVOKE $_") for 'GRANT OPTION FOR INSERT ON ALL TABLES IN SCHEMA public FROM bob CASCADE', 'ALL ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC';
wait_for_catchup($leader, $follower);
is($follower->safe_psql('postgres', q{SELECT array_agg(relacl) FROM pg_class WHERE relname IN ('own', 'own_s') AND relacl IS NOT NULL}), '', 'what only the follower has is not granted');
$follower->safe_psql('postgres', 'DROP TABLE own; DROP SEQUENCE own_s; DROP FUNCTION own_f()');
same_schema('GRANT of all in a schema', $leader, $follower);

$_->stop for $leader, $follower;
done_testing();
