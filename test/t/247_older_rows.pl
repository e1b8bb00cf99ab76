# Rows that are older than a constraint come here as they are on the leader.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use Test::More;

my $leader = new_leader('leader');
my $follower = new_follower('follower', 'fanout.retry_interval = 200');
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

$leader->safe_psql('postgres', q{
	CREATE FUNCTION fine(int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN true; END';
	CREATE DOMAIN pos AS int; CREATE DOMAIN larger AS pos; CREATE DOMAIN short AS varchar(5); CREATE DOMAIN many AS pos[]; CREATE DOMAIN checked AS int CHECK (fine(VALUE)); CREATE DOMAIN amount AS numeric(10,2);
	CREATE TABLE d (id int PRIMARY KEY, d pos, l larger, s short, a pos[], m many, c checked, am amount[], n int);
	INSERT INTO d VALUES (1, -5, -6, 'a', '{-1,NULL}', '{{-2},{3}}', -7, '{1.5}', 0), (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0), (3, 5, 6, 'b', '{}', '{}', 7, '{}', 0);
	CREATE TABLE d_full (LIKE d); ALTER TABLE d_full REPLICA IDENTITY FULL; INSERT INTO d_full TABLE d;
	CREATE TABLE c (id int PRIMARY KEY, v int); INSERT INTO c VALUES (1, -1), (2, 1), (3, -1)});
equal('before', 'd d_full c');
$leader->safe_psql('postgres', q{
	ALTER DOMAIN pos ADD CONSTRAINT p CHECK (VALUE > 0) NOT VALID; ALTER DOMAIN larger ADD CONSTRAINT l CHECK (VALUE > 10) NOT VALID; ALTER DOMAIN pos ADD CONSTRAINT q CHECK (VALUE IS NOT NULL) NOT VALID;
	ALTER DOMAIN short ADD CONSTRAINT s CHECK (VALUE <> 'a') NOT VALID; ALTER DOMAIN many ADD CONSTRAINT m CHECK (cardinality(VALUE) = 1) NOT VALID;
	CREATE OR REPLACE FUNCTION fine(int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN $1 > 0; END';
	ALTER TABLE c ADD CHECK (v > 0) NOT VALID; UPDATE c SET v = 2 WHERE id = 1;
	UPDATE d SET n = 1; UPDATE d_full SET n = 1; UPDATE d SET id = 11 WHERE id = 1; UPDATE d_full SET n = 2 WHERE n = 1 AND id = 1; INSERT INTO d VALUES (4, 5, 15, 'c', '{1}', '{2}', 3, '{2.25}', 0)});
equal('rows older than the constraints of their domains', 'd d_full c');
is(here('SELECT bool_and(a = a AND m = m AND am = am AND array_append(a, 5::pos) IS NOT NULL AND pg_typeof(a[1])::text = $$pos$$) FROM d WHERE a IS NOT NULL'), 't', '... as values of these');
$leader->safe_psql('postgres', 'DELETE FROM d WHERE id = 2; DELETE FROM d_full WHERE id = 2; DELETE FROM c WHERE v = 1');
equal('... and are deleted', 'd d_full c');
here(qq{SELECT fanout.resync('app', '$_')}) for qw(d d_full c);
equal('copies of them', 'd d_full c');
is(here('SELECT bool_and(a = a AND m = m AND am = am AND pg_typeof(a[1])::text = $$pos$$) FROM d WHERE a IS NOT NULL'), 't', '... as values of these');
is(here('SELECT last_error FROM fanout.staleness'), '', 'all that without an error');
my $second = new_follower('second', 'fanout.retry_interval = 200');
follow($second, $leader);
all_equal('a new follower', $leader, $second);

$_->stop for $leader, $follower, $second;
done_testing();
