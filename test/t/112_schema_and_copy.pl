# Schema changes while the initial copy runs and while one table is copied again; in large
# transactions, over restarts of the leader; and contents that follow from them.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use Test::More;

my $leader = new_leader('leader', 'max_prepared_transactions = 5', 'logical_decoding_work_mem = 64kB');
$leader->safe_psql('postgres', q{
	CREATE TYPE mood AS ENUM ('sad', 'ok');
	CREATE TABLE items (id int PRIMARY KEY, v text, m mood);
	INSERT INTO items SELECT g, 'v' || g, 'ok' FROM generate_series(1, 1000) g;
	CREATE TABLE child (id int PRIMARY KEY, item int CONSTRAINT child_item REFERENCES items);
	INSERT INTO child SELECT g, g FROM generate_series(1, 100) g;
	CREATE TABLE doomed (id int PRIMARY KEY, item int REFERENCES items); CREATE INDEX doomed_item ON doomed (item); INSERT INTO doomed VALUES (1, 1);
	CREATE VIEW few AS SELECT id, v FROM items WHERE id < 10;
	CREATE FUNCTION gate(int) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
		PERFORM pg_advisory_lock_shared(4711); PERFORM pg_advisory_unlock_shared(4711); RETURN true; END $$;
	CREATE TABLE gated (id int PRIMARY KEY CHECK (gate(id))); INSERT INTO gated VALUES (1)});
my $follower = new_follower('follower');

# Statements on the leader that nobody waits for.
sub start
{
	my ($sql) = @_;
	my ($out, $err) = ('', '');
	return IPC::Run::start([ $leader->installed_command('psql'), '-XqAt', '-v', 'ON_ERROR_STOP=1', '-d', conninfo($leader), '-c', $sql ],
		'>', \$out, '2>', \$err);
}

sub waits
{
	my ($node, $what, $condition) = @_;
	wait_until($what, sub { $node->safe_psql('postgres', "SELECT count(*) FROM pg_locks WHERE NOT granted AND $condition") ne '0' });
	return;
}

# ---------- while the copy has registered, but has no snapshot yet ----------
my $conninfo = conninfo($leader) =~ s/'/''/gr;
$follower->safe_psql('postgres', qq{BEGIN; SELECT fanout.follow('app', '$conninfo', follower => 'follower'); SELECT fanout.pause('app'); COMMIT});
my $first = $leader->background_psql('postgres');
$first->query_safe(q{BEGIN; ALTER TABLE items ADD before int DEFAULT 1; UPDATE items SET before = id; CREATE TABLE first (a int); INSERT INTO first VALUES (1)});
my $open = $leader->background_psql('postgres');
$open->query_safe(q{BEGIN; CREATE TABLE opened (a int PRIMARY KEY, b text); INSERT INTO opened VALUES (1, 'x'); CREATE TYPE opened_type AS (a int)});
$leader->safe_psql('postgres', q{BEGIN; CREATE TABLE prepared (a int PRIMARY KEY); INSERT INTO prepared VALUES (1); PREPARE TRANSACTION 'ddl'});
my $gate = $follower->background_psql('postgres');
$gate->query_safe('SELECT pg_advisory_lock(4711)');
$follower->safe_psql('postgres', q{SELECT fanout.resume('app')});
waits($leader, 'the copy to wait for the table', q{relation = 'items'::regclass});
$leader->safe_psql('postgres', q{CREATE TABLE midway (id int PRIMARY KEY); INSERT INTO midway VALUES (1); ALTER TABLE midway ADD n int DEFAULT 5; CREATE SCHEMA midway; CREATE FUNCTION midway() RETURNS int LANGUAGE sql AS 'SELECT 1'});
$first->query_safe('COMMIT');

# ---------- while it copies rows ----------
waits($follower, 'the rows to be copied', q{locktype = 'advisory'});
$leader->safe_psql('postgres', $_) for
	q{CREATE TABLE during (id int PRIMARY KEY REFERENCES items); INSERT INTO during VALUES (7)},
	q{CREATE INDEX items_during ON items (v, id)},
	q{CREATE FUNCTION trg() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'},
	q{CREATE TRIGGER during BEFORE INSERT ON items FOR EACH ROW EXECUTE FUNCTION trg()},
	q{ALTER TYPE mood ADD VALUE 'happy'},
	q{INSERT INTO items VALUES (2000, 'during', 'happy', 3)},
	q{CREATE OR REPLACE VIEW few AS SELECT id, v, m FROM items WHERE id < 20},
	q{DROP FUNCTION midway; DROP SCHEMA midway};
my @blocked = (start(q{ALTER TABLE items ADD after int DEFAULT 7; UPDATE items SET after = id; CREATE INDEX items_after ON items (after)}),
	start(q{ALTER TABLE child RENAME CONSTRAINT child_item TO child_of_item; ALTER TABLE child ADD CHECK (item > 0); ALTER TABLE child RENAME TO children}),
	start(q{DROP TABLE doomed}));
waits($leader, "a change to wait for the copy of $_", qq{relation = '$_'::regclass}) for 'items', 'child', 'doomed';
$gate->query_safe('SELECT pg_advisory_unlock(4711)');
$_->finish for @blocked;
wait_for_copy($follower);
is($follower->safe_psql('postgres', q{SELECT to_regclass('opened'), to_regclass('prepared')}), '|', 'what is open over the whole copy is not there yet');
$open->query_safe(q{ALTER TABLE opened ADD c int DEFAULT 3; COMMIT});
$leader->safe_psql('postgres', q{COMMIT PREPARED 'ddl'});

# The schema as pg_dump writes it, without what says when or by whom it was dumped.
sub schema
{
	my ($node) = @_;
	my $dump = '';
	IPC::Run::run([ $node->installed_command('pg_dump'), '--schema-only', '--no-publications', '--exclude-schema=fanout', '--no-sync', '-d', conninfo($node) ], '>', \$dump)
	  or die 'pg_dump failed';
	return join("\n", grep { !/^(\\(un)?restrict |--|$)/ } split /\n/, $dump);
}

sub same
{
	my ($what, @statements) = @_;
	$leader->safe_psql('postgres', $_) for @statements;
	wait_for_catchup($leader, $follower);
	wait_until('copies to end', sub { $follower->safe_psql('postgres', q{SELECT count(*) FROM fanout.table_staleness WHERE state <> 'streaming'}) eq '0' });
	is(schema($follower), schema($leader), "$what: the schema equals the leader's");
	all_equal($what, $leader, $follower);
	return;
}
same('schema changes during the copy');
is($follower->safe_psql('postgres', q{SELECT count(*) FROM fanout.deferred_statement}), '0', 'nothing is put off any longer');

$_->quit for $first, $open, $gate;

# ---------- a copy that is interrupted, and goes on after changes of the schema ----------
my $second = new_follower('second');
my $hold = $second->background_psql('postgres');
$hold->query_safe('SELECT pg_advisory_lock(4711)');
$leader->safe_psql('postgres', q{CREATE TABLE renamed (id int PRIMARY KEY CHECK (gate(id)), v text); INSERT INTO renamed VALUES (1, 'x'); CREATE TABLE dropped (id int PRIMARY KEY); INSERT INTO dropped VALUES (1);
	CREATE TABLE retyped (id int PRIMARY KEY CHECK (gate(id)), v int); INSERT INTO retyped VALUES (1, 1)});
follow($second, $leader);
waits($second, 'the rows to be copied', q{locktype = 'advisory'});
$second->safe_psql('postgres', q{SELECT fanout.pause('app')});
$second->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type IN ('pg_fanout follower', 'pg_fanout copy')});
state_is($second, 'paused');
$leader->safe_psql('postgres', $_) for
	q{ALTER TABLE items ADD second int DEFAULT 4}, q{UPDATE items SET second = id WHERE id % 2 = 0}, q{CREATE INDEX items_second ON items (second)},
	q{ALTER TABLE renamed RENAME TO was_renamed}, q{INSERT INTO was_renamed VALUES (2, 'y')}, q{DROP TABLE dropped}, q{CREATE TABLE dropped (id text)}, q{INSERT INTO dropped VALUES ('new')},
	q{ALTER TABLE retyped ALTER v TYPE text USING v + 5}, q{INSERT INTO retyped VALUES (2, '7')}, q{ALTER TABLE children DROP CONSTRAINT child_of_item},
	q{CREATE TABLE second (id int PRIMARY KEY REFERENCES items)}, q{INSERT INTO second VALUES (7)};
$hold->quit;
$second->safe_psql('postgres', q{SELECT fanout.resume('app')});
all_equal('schema changes while a copy was interrupted', $leader, $second);
is(schema($second), schema($leader), '... and the schema is equal');
$second->stop;

# ---------- a table that is copied again, with changes of it still in the stream ----------
$follower->safe_psql('postgres', q{SELECT fanout.pause('app')});
state_is($follower, 'paused');
$leader->safe_psql('postgres', $_) for
	q{UPDATE items SET v = 'w' WHERE id % 2 = 0},
	q{ALTER TABLE items ADD added text DEFAULT 'default'},
	q{UPDATE items SET added = 'own ' || id WHERE id % 3 = 0},
	q{CREATE TABLE meanwhile (id int PRIMARY KEY); INSERT INTO meanwhile VALUES (1)},
	q{ALTER TABLE items RENAME COLUMN before TO earlier};
$follower->safe_psql('postgres', q{SELECT fanout.resync('app', 'items'); SELECT fanout.resume('app')});
wait_for_copy($follower);
same('a copy that finds columns that the stream is yet to add', q{UPDATE items SET added = NULL WHERE id % 5 = 0});

# ---------- what is written before and after a change of the table ----------
same('a table is written anew between changes of its rows', q{
	BEGIN; INSERT INTO items (id, v) VALUES (3000, '1'), (3001, '2'); ALTER TABLE items ALTER earlier TYPE bigint; UPDATE items SET earlier = 4 WHERE id > 2999;
	ALTER TABLE items ADD filled int NOT NULL DEFAULT 77; INSERT INTO items (id, v, filled) VALUES (3002, '3', 78); DELETE FROM items WHERE id = 3001; COMMIT},
	q{ALTER TABLE items ALTER filled TYPE text USING 'n' || filled}, q{INSERT INTO items (id, filled) VALUES (3003, 'text')});
same('a large transaction with savepoints and changes of its table', q{
	BEGIN; INSERT INTO items (id, v) SELECT g, repeat('x', 50) FROM generate_series(10000, 12000) g;
	SAVEPOINT a; INSERT INTO items (id, v) SELECT g, 'lost' FROM generate_series(20000, 22000) g;
	SAVEPOINT b; ALTER TABLE items ADD lost int DEFAULT 1; UPDATE items SET lost = 2 WHERE id BETWEEN 10000 AND 11500; CREATE TABLE lost (a int); ROLLBACK TO a;
	UPDATE items SET v = v || 'y' WHERE id BETWEEN 10000 AND 11500;
	SAVEPOINT c; ALTER TABLE items ADD kept int DEFAULT 3; INSERT INTO items (id, kept) SELECT g, g FROM generate_series(30000, 32000) g; RELEASE c;
	SAVEPOINT d; DELETE FROM items WHERE id BETWEEN 30000 AND 31500; TRUNCATE children; ROLLBACK TO d;
	DELETE FROM items WHERE id BETWEEN 10500 AND 10600; ALTER TABLE items DROP after; INSERT INTO items (id, kept) VALUES (40000, 40000); COMMIT});
is($follower->safe_psql('postgres', q{SELECT count(*), count(*) FILTER (WHERE v LIKE '%y'), count(*) FILTER (WHERE kept > 3) FROM items WHERE id >= 10000}),
	'3902|1400|2002', '... of which the rest was rolled back');
same('a schema that is renamed in a transaction', q{CREATE SCHEMA one; CREATE TABLE one.t (a int PRIMARY KEY)},
	q{BEGIN; INSERT INTO one.t VALUES (1); ALTER SCHEMA one RENAME TO two; CREATE SCHEMA one; CREATE TABLE one.t (b text); INSERT INTO one.t VALUES ('new'); INSERT INTO two.t VALUES (2); UPDATE two.t SET a = 3 WHERE a = 1; COMMIT},
	q{INSERT INTO one.t VALUES ('later'); INSERT INTO two.t VALUES (4)});

# ---------- materialized views ----------
sub same_view
{
	my ($what, @statements) = @_;
	$leader->safe_psql('postgres', $_) for @statements;
	wait_for_catchup($leader, $follower);
	my $query = 'SELECT * FROM counts ORDER BY 1';
	is($follower->safe_psql('postgres', $query), $leader->safe_psql('postgres', $query), $what);
	return;
}
same_view('a materialized view has its rows', q{CREATE MATERIALIZED VIEW counts AS SELECT m, count(*) AS n FROM items GROUP BY m; CREATE UNIQUE INDEX ON counts (m)});
same_view('... and the old ones until REFRESH', q{UPDATE items SET m = 'sad' WHERE id < 100});
like($follower->safe_psql('postgres', 'SELECT string_agg(m::text, NULL) FROM counts'), qr/^(?!.*sad)/, '... which are old');
same_view('REFRESH MATERIALIZED VIEW', q{REFRESH MATERIALIZED VIEW counts});
same_view('REFRESH MATERIALIZED VIEW CONCURRENTLY', q{DELETE FROM items WHERE id BETWEEN 300 AND 350}, q{UPDATE items SET m = NULL WHERE id = 200}, q{REFRESH MATERIALIZED VIEW CONCURRENTLY counts});
same_view('... within a transaction', q{BEGIN; INSERT INTO items (id, m) VALUES (50000, 'happy'); REFRESH MATERIALIZED VIEW counts; INSERT INTO items (id, m) VALUES (50001, 'happy'); COMMIT});
same_view('... WITH NO DATA, and again', q{REFRESH MATERIALIZED VIEW counts WITH NO DATA}, q{REFRESH MATERIALIZED VIEW counts});

# ---------- unlogged tables ----------
$leader->safe_psql('postgres', q{CREATE UNLOGGED TABLE unlogged (a int); INSERT INTO unlogged VALUES (1), (2); UPDATE unlogged SET a = 3 WHERE a = 1; CREATE TABLE logged (a int PRIMARY KEY); INSERT INTO logged VALUES (1)});
wait_for_catchup($leader, $follower);
is($leader->safe_psql('postgres', 'SELECT sum(a) FROM unlogged'), '5', 'an unlogged table without a key can be changed');
is($follower->safe_psql('postgres', 'SELECT count(*) FROM unlogged'), '0', '... and is left out');
same('SET LOGGED copies it', q{ALTER TABLE unlogged SET LOGGED}, q{INSERT INTO unlogged VALUES (7)});
is($follower->safe_psql('postgres', 'SELECT sum(a) FROM unlogged'), '12', '... with all its rows');
$leader->safe_psql('postgres', $_) for q{ALTER TABLE logged SET UNLOGGED}, q{INSERT INTO logged VALUES (2)};
same('SET UNLOGGED leaves it out', q{INSERT INTO items (id) VALUES (60000)});
is($follower->safe_psql('postgres', q{SELECT count(*) FROM logged WHERE a = 2}), '0', '... from then on');
same('... until SET LOGGED', q{ALTER TABLE logged SET LOGGED}, q{INSERT INTO logged VALUES (3)});

# ---------- prepared transactions over a restart of the leader ----------
for my $mode ('fast', 'immediate')
{
	$leader->safe_psql('postgres', qq{
		BEGIN; INSERT INTO items (id, v) VALUES (70000, '$mode'); SAVEPOINT s; DELETE FROM items WHERE id > 100; ROLLBACK TO s; SAVEPOINT t; UPDATE items SET v = '$mode' WHERE id = 2000; PREPARE TRANSACTION 'commits';
		BEGIN; CREATE TABLE by_$mode (a int PRIMARY KEY); INSERT INTO by_$mode VALUES (1); PREPARE TRANSACTION 'creates';
		BEGIN; INSERT INTO items (id, v) VALUES (70001, 'no'); ALTER TABLE children ADD never int; PREPARE TRANSACTION 'aborts'});
	wait_for_catchup($leader, $follower);
	$leader->stop($mode);
	$leader->start;
	$leader->safe_psql('postgres', q{INSERT INTO items (id) SELECT max(id) + 1 FROM items});
	wait_for_catchup($leader, $follower);
	is($follower->safe_psql('postgres', qq{SELECT to_regclass('by_$mode'), count(*) FROM items WHERE id IN (70000, 70001)}), '|0', "$mode restart: prepared transactions are not applied");
	same("... but when they commit", q{COMMIT PREPARED 'creates'}, q{ROLLBACK PREPARED 'aborts'}, q{COMMIT PREPARED 'commits'}, "INSERT INTO by_$mode VALUES (2)", 'DELETE FROM items WHERE id = 70000');
}

$_->stop for $leader, $follower;
done_testing();
