# Rows that are found by the name of an object (reg*), when the leader has dropped that: the number
# that is left on the leader is not the one that is here.  Their table is copied again, and the stream goes on.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use Test::More;

my $leader = new_leader('leader');
my $follower = new_follower('follower', 'fanout.retry_interval = 100ms');
# Oids are others here, and name nothing of the leader's.
$follower->safe_psql('postgres', 'DO $$ BEGIN FOR i IN 1..500 LOOP CREATE TABLE own (id int); DROP TABLE own; END LOOP; END $$');

my @tables = qw(by_key by_all by_list by_part by_domain by_function);
sub on_leader { $leader->safe_psql('postgres', $_[0]); return }
on_leader(q{
	CREATE DOMAIN rel AS regclass;
	CREATE TABLE by_key (o regclass PRIMARY KEY, v int);
	CREATE TABLE by_all (o regclass, v int); ALTER TABLE by_all REPLICA IDENTITY FULL;
	CREATE TABLE by_list (o regclass[] PRIMARY KEY, v int);
	CREATE TABLE by_part (o regclass, p int, v int, PRIMARY KEY (o, p)) PARTITION BY LIST (p); CREATE TABLE by_part_1 PARTITION OF by_part DEFAULT;
	CREATE TABLE by_domain (o rel PRIMARY KEY, v int);
	CREATE TABLE by_function (o regprocedure PRIMARY KEY, v int);
	CREATE TABLE plain (id int PRIMARY KEY);
	CREATE TABLE kept (id int); CREATE FUNCTION kept() RETURNS int LANGUAGE sql AS 'SELECT 1'});
follow($follower, $leader);
wait_for_copy($follower);

# Objects $from to $to, each with a row of every table.
sub objects
{
	my ($from, $to) = @_;
	for my $n ($from .. $to)
	{
		my $row = "'gone$n'::regclass";
		on_leader(qq{CREATE TABLE gone$n (id int); CREATE FUNCTION gone$n() RETURNS int LANGUAGE sql AS 'SELECT 1';
			INSERT INTO by_key VALUES ($row); INSERT INTO by_all VALUES ($row); INSERT INTO by_list VALUES (ARRAY['kept', $row]);
			INSERT INTO by_part VALUES ($row, 1); INSERT INTO by_domain VALUES ($row); INSERT INTO by_function VALUES ('gone$n()')});
	}
	return;
}

# They go, and then each table's rows are changed.
sub go
{
	my ($change, $from, $to) = @_;
	on_leader(join ' ', map { "DROP TABLE IF EXISTS gone$_; DROP FUNCTION IF EXISTS gone$_();" } $from .. $to);
	for my $table (@tables)
	{
		on_leader(sprintf($change, $table));
	}
	on_leader("INSERT INTO plain VALUES ($from)");
	all_equal("$change of what is gone", $leader, $follower);
	is($follower->safe_psql('postgres', 'SELECT count(*) FROM fanout.verify(\'app\') WHERE equal IS NOT TRUE'), 0, '... and verified');
	return;
}

on_leader(q{INSERT INTO by_key VALUES ('kept'); INSERT INTO by_function VALUES ('kept()')});
objects(1, 3);
all_equal('names', $leader, $follower);
go('UPDATE %s SET v = 1', 1, 3);
objects(4, 6);
go('DELETE FROM %s', 4, 6);

$_->stop for $leader, $follower;
done_testing();
