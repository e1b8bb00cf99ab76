# Every name that the leader's server chose is the follower's, whatever is taken there.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use Schema;
use Test::More;

my $leader = new_leader('leader');
my $follower = new_follower('follower', 'fanout.retry_interval = 200ms');
$leader->safe_psql('postgres', q{CREATE TABLE z (id int PRIMARY KEY, a int, b int);
	CREATE INDEX z_2 ON z ((a + 1)); CREATE INDEX z_1 ON z ((b + 1)); INSERT INTO z SELECT g, 1, g FROM generate_series(1, 10) g;
	ALTER TABLE z ADD CONSTRAINT z_2 CHECK (a > 0), ADD CONSTRAINT z_1 CHECK (b > 0)});
follow($follower, $leader);
wait_for_copy($follower);

sub check
{
	my ($what, $statements) = @_;
	check_statements($what, $statements, $leader, $follower);
	return;
}

# Clones of indexes and constraints are named in the order of oids, which a copy changes.
check('LIKE of a table that was copied', q{CREATE TABLE like_z (LIKE z INCLUDING ALL); CREATE TABLE inherits_z () INHERITS (z);
	CREATE TABLE like_like_z (LIKE like_z INCLUDING INDEXES)});

# What failed stays behind on the leader, and its name is taken.
my (undef, undef, $err) = $leader->psql('postgres', 'CREATE UNIQUE INDEX CONCURRENTLY ON z (a)');
like($err, qr/could not create unique index/, 'an index fails');
check('an index that failed and was made again', q{UPDATE ONLY z SET a = id; CREATE UNIQUE INDEX CONCURRENTLY ON z (a); DROP INDEX CONCURRENTLY z_a_idx});
check('... and is named', 'ALTER INDEX z_a_idx1 RENAME TO z_a_unique; CREATE INDEX ON z (a); CREATE INDEX ON z (a)');

# Names that are taken on the leader only: what takes them is dropped here behind its back.
my %taken = (
	'TABLE' => [qw(n_pkey n_id_seq n_g_seq n_a_key n_a_excl n_a_idx n_f_idx p_pkey p_v_idx p1_v_idx p2_pkey)],
	'DOMAIN' => [qw(_n _p _p1 __e _span)]);
my @checks = qw(n_a_check n_check n_b_fkey n_b_fkey1 d_check p_v_check p1_f_fkey);
my $make = join(";", (map { "CREATE TABLE $_ ()" } @{ $taken{TABLE} }), (map { "CREATE DOMAIN $_ AS int" } @{ $taken{DOMAIN} }),
	'CREATE TABLE taken (a int, b int)', map { "ALTER TABLE taken ADD CONSTRAINT $_ CHECK (a > 0)" } @checks)
  . '; CREATE STATISTICS n_a_f_stat ON a, b FROM taken';
my $drop = join(";", (map { my $kind = $_; map { "DROP $kind $_" } @{ $taken{$kind} } } sort keys %taken), 'DROP TABLE taken');
$leader->safe_psql('postgres', $make);
wait_for_catchup($leader, $follower);
$follower->safe_psql('postgres', "SET fanout.guard = off; SET client_min_messages = error; $drop");
my $statements = q{
CREATE TABLE n (id serial PRIMARY KEY, a int CHECK (a > 0) UNIQUE, b int REFERENCES z, f float8, g int GENERATED ALWAYS AS IDENTITY, EXCLUDE USING btree (a WITH =), CHECK (a < b));
CREATE INDEX ON n (a); CREATE INDEX ON n (f); ALTER TABLE n ADD FOREIGN KEY (b) REFERENCES z (id), ADD CHECK (f > 0), ADD COLUMN more serial UNIQUE, ADD UNIQUE (b, f);
CREATE STATISTICS named ON a, f FROM n; CREATE TABLE like_n (LIKE n INCLUDING ALL); CREATE TABLE like_n2 (LIKE n INCLUDING ALL);
CREATE DOMAIN d AS int CHECK (VALUE > 0) NOT NULL; ALTER DOMAIN d ADD CHECK (VALUE < 1000);
CREATE TYPE e AS ENUM ('x'); CREATE TYPE _e AS (x int); CREATE TYPE span AS RANGE (subtype = float8, subtype_diff = float8mi);
CREATE TABLE p (id int PRIMARY KEY, v text CHECK (v <> ''), f int REFERENCES z) PARTITION BY RANGE (id);
CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10); CREATE TABLE p2 (v text, f int, id int NOT NULL, CONSTRAINT p_v_check1 CHECK (v <> ''));
CREATE INDEX ON p (v); ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (10) TO (20); CREATE INDEX ON p (f);
INSERT INTO p VALUES (1, 'a', 1), (11, 'b', 1); INSERT INTO n (a, b, f) VALUES (1, 2, 3);
ALTER TABLE n RENAME TO renamed; CREATE SCHEMA s CREATE TABLE n (id serial PRIMARY KEY, CHECK (id > 0)); CREATE TABLE ctas AS SELECT 1 AS a;
ALTER TABLE p DETACH PARTITION p2 CONCURRENTLY; ALTER TABLE z ALTER a TYPE bigint; CREATE INDEX ON z USING hash (b);
};
check('names that are taken on the leader', $statements . $drop);
is($follower->safe_psql('postgres', q{SELECT string_agg(relname, ' ' ORDER BY 1) FROM pg_class WHERE relname LIKE 'pg_fanout%'}), '', 'no name is left in between');

# Their names can be used.
check('names in statements', q{ALTER TABLE renamed DROP CONSTRAINT n_check1, DROP CONSTRAINT n_a_check1; COMMENT ON CONSTRAINT d_check1 ON DOMAIN d IS 'x';
	ALTER SEQUENCE n_id_seq1 RESTART 100; INSERT INTO renamed (a, b, f) VALUES (2, 3, 4); CREATE TABLE arrays (a _renamed, b ____e);});

# A name that only something of the follower's own has.
$follower->safe_psql('postgres', 'CREATE TABLE own (a int); CREATE INDEX z_b_idx1 ON own (a)');
$leader->safe_psql('postgres', 'CREATE INDEX ON z (b)');
state_is($follower, 'failed');
like($follower->safe_psql('postgres', 'SELECT last_error FROM fanout.staleness'),
	qr/relation "z_b_idx1" already exists.*CREATE INDEX ON z \(b\)/s, 'an index of the follower has the name');
$follower->safe_psql('postgres', 'DROP TABLE own');
same_schema('after it was dropped', $leader, $follower);

$follower->safe_psql('postgres', 'CREATE TABLE own (b text)');
$leader->safe_psql('postgres', 'CREATE TABLE IF NOT EXISTS own (a int)');
state_is($follower, 'failed');
like($follower->safe_psql('postgres', 'SELECT last_error FROM fanout.staleness'),
	qr/relation public.own already exists on this follower.*CREATE TABLE IF NOT EXISTS own/s, 'a table that the leader made is not taken for one that was here');
$follower->safe_psql('postgres', 'DROP TABLE own');
check('after that was dropped', 'CREATE TABLE IF NOT EXISTS own (b int); INSERT INTO own VALUES (1)');

$_->stop for $leader, $follower;
done_testing();
