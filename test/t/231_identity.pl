# Tables without a replica identity: create_stream() tells of them or gives them one, now and
# whenever a table comes to need it.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use File::Basename;
use Fanout;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# With an extension in a copy of the server's installation.
my $copy = "$PostgreSQL::Test::Utils::tmp_check/identity_installation";
system_or_bail("$FindBin::Bin/../copy-installation", $copy);
sub pg_config { return `$ENV{PG_CONFIG} --$_[0]` =~ s/\s+$//r }
my %script = ('keyless.control' => "default_version = '1'",
	'keyless--1.sql' => 'CREATE TABLE ext1 (a int); INSERT INTO ext1 VALUES (1); UPDATE ext1 SET a = 2;',
	'keyless--1--2.sql' => 'CREATE TABLE ext2 (a int NOT NULL UNIQUE); INSERT INTO ext2 VALUES (1); DELETE FROM ext2;');
append_to_file($copy . pg_config('sharedir') . "/extension/$_", $script{$_}) for keys %script;

sub new_copy_server
{
	my ($name, @settings) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name, install_path => dirname($copy . pg_config('bindir')));
	start_server($node, @settings);
	$node->safe_psql('postgres', 'CREATE EXTENSION pg_fanout; CREATE ROLE shop');
	return $node;
}
my $leader = new_copy_server('leader', 'max_prepared_transactions = 5');
my $follower = new_copy_server('follower');
sub value { return $_[0]->safe_psql('postgres', $_[1]); }
sub said
{
	my ($rc, $out, $err) = $leader->psql('postgres', $_[0], extra_params => [ '-v', 'VERBOSITY=verbose' ]);
	return $err;
}

# ---------- the warning ----------

value($leader, q{CREATE SCHEMA shop AUTHORIZATION shop;
	CREATE TABLE keyed (id int PRIMARY KEY);
	CREATE TABLE is_full (a int); ALTER TABLE is_full REPLICA IDENTITY FULL;
	CREATE TABLE by_index (a int NOT NULL UNIQUE); ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_a_key;
	CREATE UNLOGGED TABLE unlogged (a int);
	CREATE TABLE keyed_parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
	CREATE TABLE keyed_part PARTITION OF keyed_parts DEFAULT});
is(said(q{SELECT fanout.create_stream('app')}), '', 'no warning where every table has an identity');
value($leader, q{SELECT fanout.drop_stream('app')});

value($leader, q{
	CREATE TABLE plain (a int, b json);
	CREATE TABLE "Uniq" (a int NOT NULL UNIQUE, b int NOT NULL, c int, UNIQUE (a, b), UNIQUE (c));
	CREATE TABLE nothing (id int PRIMARY KEY); ALTER TABLE nothing REPLICA IDENTITY NOTHING;
	CREATE TABLE lost (a int NOT NULL); CREATE UNIQUE INDEX lost_a ON lost (a);
	ALTER TABLE lost REPLICA IDENTITY USING INDEX lost_a; DROP INDEX lost_a;
	CREATE TABLE late (a int PRIMARY KEY DEFERRABLE);
	CREATE TABLE other (a int NOT NULL, b int NOT NULL, c text NOT NULL);
	CREATE UNIQUE INDEX ON other (a) WHERE b > 0; CREATE UNIQUE INDEX ON other (lower(c)); CREATE UNIQUE INDEX ON other (a, b, c);
	CREATE TABLE parts (a int, b int) PARTITION BY LIST (a);
	CREATE TABLE part1 PARTITION OF parts FOR VALUES IN (1) PARTITION BY LIST (b);
	CREATE TABLE part11 PARTITION OF part1 DEFAULT;
	CREATE TABLE part2 PARTITION OF parts FOR VALUES IN (2);
	CREATE TABLE shop."a ""b" (a int); ALTER TABLE shop."a ""b" OWNER TO shop;
	CREATE TABLE parent (a int); CREATE TABLE child () INHERITS (parent);
	INSERT INTO plain SELECT g, '{"x": 1}' FROM generate_series(1, 10) g; INSERT INTO plain VALUES (1, '{"x": 1}');
	INSERT INTO "Uniq" SELECT g, g, g FROM generate_series(1, 10) g;
	INSERT INTO parts SELECT 1 + g % 2, g FROM generate_series(1, 10) g});
my @lacking = ('public."Uniq"', map({ "public.$_" } qw(child late lost nothing other parent part11 part2)), 'public.plain', 'shop."a ""b"');
my $first = join ', ', @lacking[ 0 .. 9 ];
like(said(q{SELECT fanout.create_stream('app')}),
	qr/WARNING:  55000: rows of 11 tables of stream "app" can't be updated or deleted, since they have no replica identity\nDETAIL:  Tables without a replica identity: \Q$first\E and 1 more\.\nHINT:  .*identity => true/,
	'create_stream() names the tables without a replica identity');
like(said('DELETE FROM plain'), qr/does not have a replica identity/, '... whose rows the server guards from now on');
value($leader, q{SELECT fanout.drop_stream('app')});
value($leader, q{CREATE PUBLICATION p FOR TABLE keyed, plain; CREATE PUBLICATION i FOR TABLE plain WITH (publish = 'insert')});
like(said(q{SELECT fanout.create_stream('some', '{p}')}), qr/rows of 1 table of stream "some" can't.*\nDETAIL:.*: public\.plain\.\n/,
	'those of the publications it names');
is(said(q{SELECT fanout.create_stream('inserts', '{i}')}), '', '... if they publish UPDATE or DELETE');
value($leader, q{SELECT fanout.drop_stream('some'); SELECT fanout.drop_stream('inserts'); DROP PUBLICATION p, i});

# ---------- given now ----------

# Tables whose rows can't be updated; there must be none.  The rest is how each is identified.
my $identities = q{SELECT string_agg(c.oid::regclass || ' ' || CASE c.relreplident WHEN 'f' THEN 'full' WHEN 'n' THEN 'nothing'
		ELSE coalesce((SELECT indexrelid::regclass::text FROM pg_index i WHERE indrelid = c.oid AND indisvalid AND indimmediate
			AND CASE c.relreplident WHEN 'i' THEN indisreplident ELSE indisprimary END), 'none') END, E'\n' ORDER BY c.oid::regclass::text)
	FROM pg_class c WHERE relkind = 'r' AND relpersistence = 'p' AND relnamespace IN ('public'::regnamespace, to_regnamespace('shop'), to_regnamespace('s'))};
sub identified
{
	my ($table, $how, $what) = @_;
	my %has = map { /^(.*) (\S+)$/ } split /\n/, value($leader, $identities);
	is($has{$table} // 'missing', $how, $what);
	return;
}
sub all_identified
{
	my ($what) = @_;
	unlike(value($leader, $identities), qr/ (?:none|nothing)$/m, "$what: every table has an identity");
	return;
}

is(said(q{BEGIN; SELECT fanout.create_stream('app', identity => true); ROLLBACK}), '', 'identity => true warns of nothing');
like(value($leader, $identities), qr/^plain none$/m, '... and is rolled back like the rest');
is(said(q{SELECT fanout.create_stream('app', identity => true)}), '', 'a stream that gives identities');
all_identified('create_stream()');
identified(@$_)
  for [ 'plain', 'full', 'a table without an index' ], [ '"Uniq"', '"Uniq_a_key"', 'the smallest index' ], [ 'nothing', 'nothing_pkey', 'NOTHING' ],
  [ 'lost', 'full', 'an index that was dropped' ], [ 'late', 'full', 'a deferrable key' ], [ 'other', 'other_a_b_c_idx', 'no partial index or one of expressions' ],
  [ 'part11', 'full', 'a leaf' ], [ 'is_full', 'full', 'FULL stays' ], [ 'by_index', 'by_index_a_key', 'an index stays' ], [ 'keyed', 'keyed_pkey', 'a key stays' ];

wait_until('the stream', sub { value($leader, 'SELECT state FROM fanout.streams') eq 'streaming' });
follow($follower, $leader);
wait_for_copy($follower);
is(value($follower, $identities), value($leader, $identities), 'the followers have the same identities');

# ---------- and later ----------

# Each as one statement, in one database that other statements of the list build upon.
my @steps = (
	[ 'CREATE TABLE', 'CREATE TABLE c1 (a int)', c1 => 'full' ],
	[ 'with an index', 'CREATE TABLE c2 (a int NOT NULL UNIQUE)', c2 => 'c2_a_key' ],
	[ 'with a key', 'CREATE TABLE c3 (a int PRIMARY KEY, b int NOT NULL UNIQUE)', c3 => 'c3_pkey' ],
	[ 'CREATE TABLE AS', 'CREATE TABLE c4 AS SELECT 1 AS a', c4 => 'full' ],
	[ 'SELECT INTO', 'SELECT 1 AS a INTO c5', c5 => 'full' ],
	[ 'EXECUTE', 'PREPARE p AS SELECT 1 AS a; CREATE TABLE c6 AS EXECUTE p', c6 => 'full' ],
	[ 'EXPLAIN', 'EXPLAIN ANALYZE CREATE TABLE c7 AS SELECT 1 AS a', c7 => 'full' ],
	[ 'PARTITION OF', 'CREATE TABLE part3 PARTITION OF parts FOR VALUES IN (3)', part3 => 'full' ],
	[ 'INHERITS', 'CREATE TABLE c8 () INHERITS (parent)', c8 => 'full' ],
	[ 'LIKE', 'CREATE TABLE c9 (LIKE "Uniq" INCLUDING INDEXES)', c9 => 'c9_a_key' ],
	[ 'in a schema', 'CREATE SCHEMA s CREATE TABLE s1 (a int)', 's.s1' => 'full' ],
	[ 'in a function', q{DO 'BEGIN CREATE TABLE c10 (a int); INSERT INTO c10 VALUES (1); UPDATE c10 SET a = 2; END'}, c10 => 'full' ],
	[ 'in a transaction', 'BEGIN; CREATE TABLE c11 (a int); SAVEPOINT s; CREATE TABLE gone (a int); ROLLBACK TO s; DELETE FROM c11; COMMIT', c11 => 'full' ],
	[ 'by its owner', 'SET ROLE shop; CREATE TABLE shop.c12 (a int); UPDATE shop.c12 SET a = 1', 'shop.c12' => 'full' ],
	[ 'SET LOGGED', 'ALTER TABLE unlogged SET LOGGED', unlogged => 'full' ],
	[ 'a key that is dropped', 'ALTER TABLE c3 DROP CONSTRAINT c3_pkey', c3 => 'c3_b_key' ],
	[ 'an index that is dropped', 'ALTER TABLE c3 DROP CONSTRAINT c3_b_key', c3 => 'full' ],
	[ 'DROP INDEX', 'CREATE UNIQUE INDEX c13 ON by_index (a); DROP INDEX c13', by_index => 'by_index_a_key' ],
	[ 'DROP INDEX of several', 'CREATE TABLE c14 (a int NOT NULL, b int NOT NULL); CREATE UNIQUE INDEX c14_a ON c14 (a);
		ALTER TABLE c14 REPLICA IDENTITY USING INDEX c14_a; CREATE UNIQUE INDEX c14_b ON c14 (b); DROP INDEX c14_a', c14 => 'c14_b' ],
	[ 'DROP COLUMN', 'ALTER TABLE c14 DROP COLUMN b', c14 => 'full' ],
	[ 'DROP INDEX CONCURRENTLY', 'CREATE TABLE c15 (a int NOT NULL); CREATE UNIQUE INDEX c15_a ON c15 (a);
		ALTER TABLE c15 REPLICA IDENTITY USING INDEX c15_a;', c15 => 'c15_a' ],
	[ '... does', 'DROP INDEX CONCURRENTLY c15_a', c15 => 'full' ],
	[ 'DROP NOT NULL', 'ALTER TABLE "Uniq" ALTER a DROP NOT NULL', '"Uniq"' => 'full' ],
	[ 'NOT NULL of another column', 'ALTER TABLE other ALTER b SET NOT NULL, ALTER a TYPE bigint', other => 'other_a_b_c_idx' ],
	[ 'REPLICA IDENTITY NOTHING', 'ALTER TABLE plain REPLICA IDENTITY NOTHING', plain => 'full' ],
	[ 'REPLICA IDENTITY DEFAULT', 'ALTER TABLE IF EXISTS plain REPLICA IDENTITY DEFAULT', plain => 'full' ],
	[ 'ATTACH PARTITION', 'CREATE UNLOGGED TABLE part4 (a int, b int); ALTER TABLE part4 SET LOGGED; ALTER TABLE parts ATTACH PARTITION part4 FOR VALUES IN (4)', part4 => 'full' ],
	[ 'a prepared transaction', q{BEGIN; CREATE TABLE c16 (a int); UPDATE c16 SET a = 1; PREPARE TRANSACTION 'p'; COMMIT PREPARED 'p'}, c16 => 'full' ],
	[ 'an extension', 'CREATE EXTENSION keyless', ext1 => 'full' ],
	[ '... updated', q{ALTER EXTENSION keyless UPDATE TO '2'}, ext2 => 'ext2_a_key' ],
	[ 'an event trigger', q{CREATE FUNCTION logs() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN CREATE TABLE IF NOT EXISTS logged (a text); UPDATE logged SET a = 1; END';
		CREATE EVENT TRIGGER e ON ddl_command_end WHEN TAG IN ('CREATE VIEW') EXECUTE FUNCTION logs(); CREATE VIEW v AS SELECT 1; DROP EVENT TRIGGER e}, logged => 'full' ],
	[ 'under event triggers', q{CREATE FUNCTION sees() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN PERFORM * FROM pg_event_trigger_ddl_commands(); END';
		CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION sees(); DROP EXTENSION keyless; CREATE EXTENSION keyless; CREATE TABLE c17 (a int); DROP EVENT TRIGGER e}, c17 => 'full' ],
);
for my $step (@steps)
{
	my ($what, $statements, $table, $how) = @$step;
	$leader->safe_psql('postgres', $statements =~ /^BEGIN|CONCURRENTLY|PREPARE|ROLE/ ? $statements : "SET lock_timeout = '10s'; $statements");
	identified($table, $how, $what);
}
all_identified('all of that');
wait_for_catchup($leader, $follower);
is(value($follower, $identities), value($leader, $identities), 'the followers have the same');

# The leader's application goes on, and so do the followers.
value($leader, q{UPDATE plain SET a = a + 1 WHERE a < 5; DELETE FROM plain WHERE a = 9; UPDATE parts SET b = b + 1;
	INSERT INTO "Uniq" VALUES (1, 1) ON CONFLICT (a) DO UPDATE SET b = -1; DELETE FROM c4; INSERT INTO part4 VALUES (4, 1); UPDATE part4 SET b = 2});
wait_for_catchup($leader, $follower);
all_equal($leader, $follower);

# ---------- publications ----------

value($leader, q{CREATE DATABASE pubs});
my $p = sub { return $leader->safe_psql('pubs', $_[0]) };
$p->(q{CREATE EXTENSION pg_fanout; CREATE TABLE a (x int); CREATE TABLE b (x int); CREATE TABLE c (x int); CREATE SCHEMA s; CREATE TABLE moved (x int);
	CREATE TABLE root (x int, y int NOT NULL) PARTITION BY LIST (x); CREATE TABLE leaf1 PARTITION OF root FOR VALUES IN (1);
	CREATE TABLE leaf2 PARTITION OF root (PRIMARY KEY (x, y)) FOR VALUES IN (2);
	CREATE PUBLICATION p FOR TABLE a; CREATE PUBLICATION r FOR TABLE root WITH (publish_via_partition_root); CREATE PUBLICATION i FOR TABLE b WITH (publish = 'insert');
	SELECT fanout.create_stream('pubs', '{p,r,i}', identity => true)});
my $is = sub {
	my ($table, $expected, $what) = @_;
	is($p->("SELECT relreplident FROM pg_class WHERE oid = '$table'::regclass"), $expected, "publications: $what");
};
$is->('a', 'f', 'a table of them');
$is->('b', 'd', '... not one of INSERTs');
$is->('c', 'd', '... nor of none');
$is->('root', 'f', 'a table that its partitions are published as');
$is->('leaf1', 'f', '... and they');
$is->('leaf2', 'f', '... also one with a key that the other has not');
$p->('ALTER PUBLICATION p ADD TABLE c');
$is->('c', 'f', 'ADD TABLE');
$p->(q{ALTER PUBLICATION i SET (publish = 'insert, delete')});
$is->('b', 'f', 'what is published');
$p->('ALTER PUBLICATION p ADD TABLES IN SCHEMA s; CREATE TABLE s.t (x int); ALTER TABLE moved SET SCHEMA s');
$is->('s.t', 'f', 'a table made in a published schema');
$is->('s.moved', 'f', 'a table moved into one');
$p->('CREATE TABLE d (x int); CREATE PUBLICATION q FOR TABLE d; CREATE TABLE leaf3 (x int, y int NOT NULL)');
$is->('d', 'd', 'other publications are others\' business');
$p->('ALTER TABLE root ATTACH PARTITION leaf3 FOR VALUES IN (3)');
$is->('leaf3', 'f', 'a partition attached');
$p->('DROP PUBLICATION p; CREATE PUBLICATION p FOR TABLE d');
$is->('d', 'f', 'a publication made anew');
$p->(q{SELECT fanout.drop_stream('pubs')});

unlike(slurp_file($_->logfile), qr/PANIC|terminated by signal/, $_->name . ' did not crash') for $leader, $follower;
$_->stop for $follower, $leader;
done_testing();
