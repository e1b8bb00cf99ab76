# A pg_dump that hangs or fails keeps nobody from ending a worker, and is not left behind.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Cwd qw(realpath);
use Fanout;
use PostgreSQL::Test::Utils;
use Test::More;

my $leader = new_leader('leader');
$leader->safe_psql('postgres', 'CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)');
my $dir = PostgreSQL::Test::Utils::tempdir();
my $follower = new_follower('follower', "fanout.pg_dump = '$dir/pg_dump'", 'fanout.retry_interval = 100ms');

# A pg_dump that does as a file says.
my $real = `$ENV{PG_CONFIG} --bindir` =~ s/\s+$//r . '/pg_dump';
append_to_file("$dir/pg_dump", qq{#!/bin/sh
[ "\$1" != --version ] || [ -e $dir/slow_version ] || exec $real --version
[ ! -e $dir/slow_version ] || exec sleep 1000
[ ! -e $dir/hang ] || exec sleep 1000
[ ! -e $dir/fail ] || { echo "out of order" >&2; exit 3; }
exec $real "\$@"
});
chmod 0755, "$dir/pg_dump" or die $!;

# Processes of that program that the server started.
sub programs
{
	my $home = realpath($follower->data_dir);
	return grep { (readlink("/proc/$_/cwd") // '') eq $home && (readlink("/proc/$_/exe") // '') =~ /sleep/ }
	  map { /(\d+)$/ } glob('/proc/[0-9]*');
}

sub told { append_to_file("$dir/$_[0]", 'x'); return; }
sub hanging { return wait_until('both sections to be dumped', sub { programs() == 2 && worker_pid($follower) }); }
sub follow_sql { return q{SELECT fanout.follow('app', '} . conninfo($leader) =~ s/'/''/gr . q{', follower => 'follower')}; }

# ---------- the worker's ----------

told('hang');
$follower->safe_psql('postgres', follow_sql());
my $pid = hanging();
$follower->safe_psql('postgres', 'CREATE DATABASE d');
my ($rc, $out, $err) = $follower->psql('postgres', q{SET statement_timeout = '60s'; DROP DATABASE d});
is($rc, 0, 'another database can be dropped meanwhile') or diag($err);

$follower->safe_psql('postgres', "SELECT pg_terminate_backend($pid, 60000)");
is($follower->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE pid = $pid"), '0', 'the worker can be ended');
wait_until('another worker', sub { (worker_pid($follower) // $pid) ne $pid });
hanging();
is(scalar(programs()), 2, 'what it ran was ended with it');

$follower->stop('fast');
is(scalar(programs()), 0, 'the server can be stopped');
$follower->start;
hanging();
$follower->safe_psql('postgres', q{SELECT fanout.unfollow('app')});
wait_until('the worker to end', sub { !worker_pid($follower) });
is(scalar(programs()), 0, 'unfollow() ends it');
unlink "$dir/hang";

told('fail');
$follower->safe_psql('postgres', follow_sql());
wait_until('the error to be shown', sub {
		$follower->safe_psql('postgres', 'SELECT last_error FROM fanout.staleness') =~ /pg_dump of the leader's schema failed: out of order/ });
unlink "$dir/fail";
wait_for_copy($follower);
all_equal('in the end', $leader, $follower);
$follower->safe_psql('postgres', q{SELECT fanout.unfollow('app'); DROP TABLE t});

# ---------- follow()'s ----------

told('slow_version');
($rc, $out, $err) = $follower->psql('postgres', q{SET statement_timeout = '2s'; } . follow_sql());
like($err, qr/canceling statement due to statement timeout/, 'follow() can be cancelled');
is(scalar(programs()), 0, '... and leaves no program');
($rc, $out, $err) = $follower->psql('postgres', q{SET statement_timeout = '2s';
	DO $$ BEGIN PERFORM} . follow_sql() =~ s/SELECT//r . q{; EXCEPTION WHEN query_canceled THEN RAISE NOTICE 'cancelled'; END $$});
like($err, qr/NOTICE:  cancelled/, '... also within a subtransaction');
is(scalar(programs()), 0, '... and leaves no program');
unlink "$dir/slow_version";
follow($follower, $leader);
wait_for_copy($follower);
all_equal('after that', $leader, $follower);
done_testing();
