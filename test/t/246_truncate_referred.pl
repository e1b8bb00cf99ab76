# TRUNCATE of tables that a foreign key of the follower's own refers to.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use Test::More;

my $leader = new_leader('leader');
my $follower = new_follower('follower', 'fanout.retry_interval = 200');
$leader->safe_psql('postgres', q{
	CREATE TABLE t (id serial PRIMARY KEY, v int); INSERT INTO t (v) VALUES (1), (2);
	CREATE TABLE child (id int PRIMARY KEY, t int REFERENCES t); INSERT INTO child VALUES (1, 1);
	CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
	CREATE TABLE low PARTITION OF parts FOR VALUES FROM (0) TO (10); CREATE TABLE high PARTITION OF parts FOR VALUES FROM (10) TO (20); INSERT INTO parts VALUES (1), (11);
	CREATE TABLE triggered (id int PRIMARY KEY); INSERT INTO triggered VALUES (1)});
follow($follower, $leader);
wait_for_copy($follower);

sub here { return $follower->safe_psql('postgres', "SET fanout.guard = off; $_[0]") }

sub equal
{
	my ($what) = @_;
	wait_for_copy($follower);
	wait_for_catchup($leader, $follower);
	my $rows = join ' UNION ALL ', map { "SELECT '$_', count(*), sum(hashtext(x::text)) FROM $_ x" } split / /, $_[1];
	is(here($rows), $leader->safe_psql('postgres', $rows), $what);
	return;
}

here(q{
	CREATE TABLE local (id int REFERENCES t ON DELETE CASCADE, p int REFERENCES parts, c int REFERENCES child, tr int REFERENCES triggered); INSERT INTO local VALUES (1, 1, 1, 1), (2, 11, NULL, NULL);
	CREATE TABLE emptied (what text);
	CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN INSERT INTO public.emptied VALUES (TG_WHEN || ' ' || TG_OP); RETURN NULL; END $$;
	CREATE TRIGGER b BEFORE TRUNCATE ON triggered EXECUTE FUNCTION note(); CREATE TRIGGER a AFTER TRUNCATE ON triggered EXECUTE FUNCTION note();
	ALTER TABLE triggered ENABLE ALWAYS TRIGGER a; ALTER TABLE triggered ENABLE ALWAYS TRIGGER b});
my $all = 't child parts triggered';
$leader->safe_psql('postgres', 'BEGIN; INSERT INTO t (v) VALUES (3); TRUNCATE t RESTART IDENTITY CASCADE; INSERT INTO t (v) VALUES (4); COMMIT');
equal('TRUNCATE CASCADE', $all);
is(here('SELECT count(*) FROM local'), '2', '... leaves rows of the follower that refer to it');
$leader->safe_psql('postgres', 'INSERT INTO t (v) VALUES (5)');
equal('RESTART IDENTITY', $all);
is(here(q{SELECT last_value FROM t_id_seq}) >= 2, 1, '... of the sequence');
$leader->safe_psql('postgres', 'TRUNCATE low');
equal('TRUNCATE of a partition', $all);
$leader->safe_psql('postgres', 'INSERT INTO parts VALUES (2); TRUNCATE parts');
equal('TRUNCATE of a partitioned table', $all);
$leader->safe_psql('postgres', 'TRUNCATE triggered');
equal('TRUNCATE of a table with triggers here', $all);
is(here('SELECT string_agg(what, chr(32)) FROM emptied'), 'BEFORE TRUNCATE AFTER TRUNCATE', '... which fire');
is(here('SELECT count(*) FROM local'), '2', 'rows of the follower that refer to all that are there');
here(q{SELECT fanout.resync('app')});
equal('a copy of tables that a foreign key of the follower refers to', $all);
is(here('SELECT count(*) FROM local'), '2', '... leaves them, too');
is(here('SELECT last_error FROM fanout.staleness'), '', 'all that without an error');

$_->stop for $leader, $follower;
done_testing();
