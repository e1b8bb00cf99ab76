# Read your own writes by token, on the leader and two followers, under load
# (client/own_writes.c).
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use Test::More;

my $leader = new_leader('leader', 'fsync = off');
$leader->safe_psql('postgres', q{
	CREATE TABLE own (session int PRIMARY KEY, value bigint);
	CREATE TABLE load (id int PRIMARY KEY, v text);
	INSERT INTO own SELECT g, 0 FROM generate_series(0, 7) g;
	INSERT INTO load SELECT g, repeat('x', 200) FROM generate_series(1, 10000) g});
my @followers = map { new_follower("follower_$_", 'fsync = off') } 1 .. 2;
follow($_, $leader) for @followers;
wait_for_copy($_) for @followers;

my $script = $leader->basedir . '/load.sql';
PostgreSQL::Test::Utils::append_to_file($script, q{
\set id random(1, 9000)
UPDATE load SET v = repeat('y', 300) WHERE id BETWEEN :id AND :id + 500;
});
my $load = IPC::Run::start([ 'pgbench', '-n', '-c', '2', '-R', '20', '-T', '600', '-f', $script,
		conninfo($leader) ], '<', \'', '>', \my $load_out, '2>', \my $load_err);

my @servers = map { conninfo($_) } $leader, @followers;
my ($pairs, $missed, $unanswered) = split ' ', client('own_writes', 'token', 10000, 8, @servers);
is($missed, 0, "of $pairs reads with a token, none missed its write");
is("$pairs $unanswered", '10000 0', '... and all were answered');
($pairs, $missed) = split ' ', client('own_writes', 'none', 10000, 8, @servers);
cmp_ok($missed, '>', 0, "of $pairs reads without one, $missed did");
$load->kill_kill;

wait_for_catchup($leader, @followers);
same_data('afterwards', $leader, @followers);
done_testing();
