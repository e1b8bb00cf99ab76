# What a follower has of its own on a replicated table (triggers, constraints, collations),
# and types that extensions bring.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use Test::More;

my $leader = new_leader('leader');
$leader->safe_psql('postgres', q{
	CREATE TABLE watched (id int PRIMARY KEY, a int, b text, big text, twice int GENERATED ALWAYS AS (a * 2) STORED);
	ALTER TABLE watched ALTER big SET STORAGE EXTERNAL;
	CREATE TABLE parts (id int PRIMARY KEY, a int, b int) PARTITION BY RANGE (id);
	CREATE TABLE parts_low PARTITION OF parts FOR VALUES FROM (0) TO (100);
	CREATE TABLE skipped (id int PRIMARY KEY, v text);
	CREATE TABLE computed (id int PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2) STORED);
	CREATE TABLE referencing (id int PRIMARY KEY, ref int);
	CREATE TABLE included (id int, v text, n int, PRIMARY KEY (id) INCLUDE (v));
	CREATE TABLE full_and_key (id int PRIMARY KEY, v text); ALTER TABLE full_and_key REPLICA IDENTITY FULL;
	CREATE TABLE narrower (id int PRIMARY KEY, v text, w text);
	CREATE TABLE ordered (k text COLLATE "C" PRIMARY KEY, v int);
	CREATE TABLE cased (k text COLLATE "C" PRIMARY KEY, v int);
	CREATE TABLE cased_full (k text COLLATE "C", v int); ALTER TABLE cased_full REPLICA IDENTITY FULL;
	INSERT INTO watched SELECT g, g, 'b', repeat(md5(g::text), 500) FROM generate_series(1, 10) g;
	INSERT INTO parts SELECT g, g, g FROM generate_series(1, 10) g;
	INSERT INTO ordered SELECT c || n, n FROM unnest('{a,A,b,B,_,ä,Ä,z,Z}'::text[]) c, generate_series(1, 20) n;
	INSERT INTO cased VALUES ('key', 1), ('other', 2); INSERT INTO cased_full TABLE cased;

	CREATE SCHEMA ext; CREATE EXTENSION hstore SCHEMA ext; CREATE EXTENSION citext; CREATE EXTENSION ltree; CREATE EXTENSION cube; CREATE EXTENSION isn; CREATE EXTENSION seg;
	CREATE FUNCTION is_even(int) RETURNS bool LANGUAGE sql STABLE AS 'SELECT $1 % 2 = 0';
	CREATE DOMAIN even AS int CHECK (is_even(VALUE));
	CREATE DOMAIN tags AS ext.hstore CHECK (NOT ext.exist(VALUE, 'forbidden'));
	CREATE TYPE thing AS (name citext, tags ext.hstore);
	CREATE TYPE code AS RANGE (subtype = ltree);
	CREATE TABLE extended (id int PRIMARY KEY, h ext.hstore, ha ext.hstore[], c citext, l ltree, q lquery, cu cube, i isbn13, s seg, e even, t tags, th thing, tha thing[], r code);
	CREATE TABLE ci (k citext PRIMARY KEY, v int); CREATE TABLE tree (k ltree PRIMARY KEY, h ext.hstore); CREATE TABLE by_value (h ext.hstore, c citext); ALTER TABLE by_value REPLICA IDENTITY FULL});
my $fill = q{
	INSERT INTO extended VALUES (%d + 1, 'a=>1, "b c"=>NULL', ARRAY['x=>y', NULL]::ext.hstore[], 'Text', 'Top.Science', 'Top.*{1}', '(1,2),(3,4)', '978-0-393-04002-9', '1.5 .. 2.50', 4, 'ok=>1',
		ROW('N', 'k=>v'), ARRAY[ROW('N', NULL), NULL]::thing[], '[a.b,a.c)'),
		(%d + 2, '', '{}', '', '', '*', '()', '9780393040029', '~3', 0, '', ROW(NULL, NULL), '{}', 'empty');
	INSERT INTO extended VALUES (%d + 3);
	UPDATE extended SET h = (SELECT h FROM extended WHERE id = %d + 1), c = 'other', l = 'Top', e = 8, th = ROW('M', 'z=>1') WHERE id = %d + 2;
	DELETE FROM extended WHERE id = %d + 3;};
$fill = "SET search_path = public, ext; $fill";
$leader->safe_psql('postgres', $fill =~ s/%d/0/gr);

my $follower = new_follower('follower');
follow($follower, $leader);
all_equal('copy of extension types', $leader, $follower);

sub here { return $follower->safe_psql('postgres', "SET fanout.guard = off; $_[0]") }

sub rows
{
	my ($what, $expected, $query) = @_;
	wait_for_catchup($leader, $follower);
	is($follower->safe_psql('postgres', $query), $expected, $what);
	return;
}

# ---------- types of extensions ----------
$leader->safe_psql('postgres', $fill =~ s/%d/10/gr);
$leader->safe_psql('postgres', q{SET search_path = public, ext;
	INSERT INTO ci VALUES ('Key', 1), ('other', 2); UPDATE ci SET v = 3 WHERE k = 'KEY'; UPDATE ci SET k = 'KEY' WHERE k = 'key'; DELETE FROM ci WHERE k = 'OTHER';
	INSERT INTO tree VALUES ('a', 'x=>1'), ('a.b', 'x=>2'), ('a.b.c', NULL); UPDATE tree SET h = h || 'y=>2'::hstore WHERE k <@ 'a.b'; UPDATE tree SET k = 'a.c' WHERE k = 'a.b'; DELETE FROM tree WHERE k = 'a';
	INSERT INTO by_value VALUES ('a=>1', 'One'), ('a=>1', 'One'), (NULL, 'two'); UPDATE by_value SET c = 'three' WHERE h IS NULL; DELETE FROM by_value WHERE ctid = (SELECT min(ctid) FROM by_value)});
all_equal('stream of extension types', $leader, $follower);
is($follower->safe_psql('postgres', 'SELECT k, v FROM ci'), 'KEY|3', 'a citext key that changes its case');
is($follower->safe_psql('postgres', 'SELECT sum(e) FROM extended'), '24', 'a domain with a function in its constraint');

# ---------- triggers ----------
here(q{
	CREATE TABLE log (n serial, trigger name, id int);
	CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		INSERT INTO public.log (trigger, id) VALUES (TG_NAME, NEW.id); RETURN NEW; END $$;
	CREATE TRIGGER on_a AFTER UPDATE OF a ON watched FOR EACH ROW EXECUTE FUNCTION note();
	CREATE TRIGGER on_b BEFORE UPDATE OF b ON watched FOR EACH ROW EXECUTE FUNCTION note();
	CREATE TRIGGER on_big AFTER UPDATE OF big ON watched FOR EACH ROW EXECUTE FUNCTION note();
	CREATE TRIGGER ordinary BEFORE INSERT OR UPDATE ON watched FOR EACH ROW EXECUTE FUNCTION note();
	ALTER TABLE watched ENABLE REPLICA TRIGGER on_a; ALTER TABLE watched ENABLE ALWAYS TRIGGER on_b; ALTER TABLE watched ENABLE ALWAYS TRIGGER on_big;
	CREATE TRIGGER on_part_a AFTER UPDATE OF a ON parts_low FOR EACH ROW EXECUTE FUNCTION note();
	ALTER TABLE parts_low ENABLE REPLICA TRIGGER on_part_a;
	CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN CASE WHEN NEW.id < 10 AND NEW.v <> 'no' THEN NEW END; END $$;
	CREATE TRIGGER skip BEFORE INSERT OR UPDATE OF v ON skipped FOR EACH ROW EXECUTE FUNCTION skip();
	ALTER TABLE skipped ENABLE REPLICA TRIGGER skip;
	CREATE FUNCTION more() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.a := NEW.a + 100; RETURN NEW; END $$;
	CREATE TRIGGER more BEFORE INSERT OR UPDATE ON computed FOR EACH ROW EXECUTE FUNCTION more();
	ALTER TABLE computed ENABLE ALWAYS TRIGGER more});
$leader->safe_psql('postgres', q{
	BEGIN;
	UPDATE watched SET b = 'c' WHERE id = 1;
	UPDATE watched SET a = 20 WHERE id = 2;
	UPDATE watched SET a = a, b = b, big = big WHERE id = 3;
	UPDATE watched SET a = NULL, b = NULL WHERE id = 4;
	UPDATE watched SET big = big || 'x' WHERE id = 5;
	UPDATE watched SET id = 60 WHERE id = 6;
	INSERT INTO watched VALUES (11, 11);
	COMMIT;
	UPDATE parts SET b = 0 WHERE id = 1; UPDATE parts SET a = 0 WHERE id = 2});
rows('UPDATE OF triggers fire when their column changes, REPLICA and ALWAYS ones only',
	"on_a|2\non_a|4\non_b|1\non_b|4\non_big|5\non_part_a|2", 'SELECT trigger, id FROM log ORDER BY 1, 2');
same_data('... and rows and generated columns are right', $leader, $follower)
  if here('DROP TABLE log') eq '';
here(q{ALTER TABLE watched DISABLE TRIGGER USER; ALTER TABLE parts_low DISABLE TRIGGER USER});
$leader->safe_psql('postgres', q{INSERT INTO skipped VALUES (1, 'one'), (2, 'two'), (10, 'ten');
	UPDATE skipped SET v = 'no' WHERE id = 1; UPDATE skipped SET id = 3 WHERE id = 2});
rows('a trigger that returns NULL leaves the row out', "1|one\n3|two", 'SELECT * FROM skipped ORDER BY id');
$leader->safe_psql('postgres', q{INSERT INTO computed VALUES (1, 1), (2, 2); UPDATE computed SET a = 5 WHERE id = 2});
rows('generated columns see what a BEFORE trigger changed', "1|101|202\n2|105|210", 'SELECT * FROM computed ORDER BY id');

# ---------- constraints, keys and columns ----------
here(q{CREATE TABLE target (id int PRIMARY KEY); ALTER TABLE referencing ADD FOREIGN KEY (ref) REFERENCES target; ALTER TABLE narrower DROP w});
$leader->safe_psql('postgres', q{INSERT INTO referencing VALUES (1, 7); UPDATE referencing SET ref = 8});
rows('foreign keys of the follower are not checked', '1|8', 'TABLE referencing');
$leader->safe_psql('postgres', q{INSERT INTO included VALUES (1, 'a', 1), (2, 'b', 2); UPDATE included SET n = 5, v = 'c' WHERE id = 1; UPDATE included SET id = 3 WHERE id = 2; DELETE FROM included WHERE id = 1});
rows('a key with INCLUDE columns', '3|b|2', 'TABLE included');
$leader->safe_psql('postgres', q{INSERT INTO full_and_key VALUES (1, 'a'), (2, 'b'), (3, NULL); UPDATE full_and_key SET v = 'c' WHERE id = 1; UPDATE full_and_key SET id = 4 WHERE id = 3; DELETE FROM full_and_key WHERE v = 'b'});
rows('REPLICA IDENTITY FULL and a key', "1|c\n4|", 'SELECT * FROM full_and_key ORDER BY id');
here(q{ALTER TABLE narrower ADD w text});
$leader->safe_psql('postgres', q{INSERT INTO narrower VALUES (1, 'a', 'w'), (2, 'b', 'w'); UPDATE narrower SET v = 'c' WHERE id = 1; DELETE FROM narrower WHERE id = 2});
rows('a column that the follower dropped and made again', '1|c|w', 'TABLE narrower');

# ---------- another collation here ----------
here(q{CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
	ALTER TABLE ordered ALTER k TYPE text COLLATE "und-x-icu"; ALTER TABLE cased ALTER k TYPE text COLLATE nocase; ALTER TABLE cased_full ALTER k TYPE text COLLATE nocase;
	UPDATE cased SET k = 'KEY' WHERE k = 'key'; UPDATE cased_full SET k = 'KEY' WHERE k = 'key'});
$leader->safe_psql('postgres', q{UPDATE ordered SET v = -v WHERE v % 3 = 0; UPDATE ordered SET k = lower(k) || 'x' WHERE k < 'Z' COLLATE "C"; DELETE FROM ordered WHERE v % 5 = 0;
	INSERT INTO ordered SELECT k || 'Y', v FROM ordered WHERE v % 7 = 0;
	UPDATE cased SET v = 3 WHERE k = 'key'; DELETE FROM cased WHERE k = 'other'; UPDATE cased_full SET v = 3 WHERE k = 'key'; DELETE FROM cased_full WHERE k = 'other'});
my $query = 'SELECT k, v FROM ordered ORDER BY k COLLATE "C", v';
rows('a key that another collation orders otherwise', $leader->safe_psql('postgres', $query), $query);
rows('a key that another collation finds though its bytes differ', 'key|3', 'TABLE cased');
rows('... and a whole row', 'key|3', 'TABLE cased_full');
is($follower->safe_psql('postgres', 'SELECT last_error FROM fanout.staleness'), '', 'all that without an error');

$_->stop for $leader, $follower;
done_testing();
