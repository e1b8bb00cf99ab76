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
$_->stop for $leader, $follower;
done_testing();
