# pgbench TPC-B on the leader while three followers attach one after the other and
# processes of both sides end, politely and with -9.  All four must be equal.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use POSIX qw(:sys_wait_h);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $leader = new_leader('leader');
$leader->command_ok([ 'pgbench', '-i', '-q', '-s', '10', 'postgres' ], 'pgbench -i');
$leader->safe_psql('postgres', 'ALTER TABLE pgbench_history REPLICA IDENTITY FULL');

# One pgbench at a time; a killed server ends it, so it is started again.
my $pgbench;

sub keep_writing
{
	return if defined $pgbench && waitpid($pgbench, WNOHANG) == 0;
	$pgbench = fork() // die "could not fork: $!";
	return if $pgbench;
	open(STDOUT, '>', '/dev/null');
	open(STDERR, '>', '/dev/null');
	exec('pgbench', '-n', '-c', '4', '-T', '600', '-h', $leader->host, '-p', $leader->port, 'postgres')
	  or POSIX::_exit(1);
}

sub value
{
	my ($node, $query) = @_;
	my ($rc, $out) = $node->psql('postgres', $query);
	return defined $rc && $rc == 0 && $out ne '' ? (split /\n/, $out)[0] : undef;
}

sub wait_for_server
{
	my ($node) = @_;
	wait_until($node->name . ' to be up', sub { defined value($node, 'SELECT 1') });
	return;
}

# Let some transactions pass.
sub some_writes
{
	my ($count) = @_;
	keep_writing();
	my $query = 'SELECT pg_current_wal_insert_lsn() - \'0/0\'';
	my $start = value($leader, $query);
	wait_until('writes', sub {
			keep_writing();
			my $now = value($leader, $query);
			$start //= $now;
			return defined $now && $now - $start > $count * 500;
		});
	return;
}

my %process = (
	decoder => [ $leader, 'SELECT decoder_pid FROM fanout.streams' ],
	sender => [ $leader, 'SELECT sender_pid FROM fanout.followers WHERE sender_pid IS NOT NULL' ],
	launcher => [ $leader, q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_fanout launcher'} ],
);

sub end_process
{
	my ($node, $query, $signal) = @_;
	my $pid = wait_until('a process to end', sub { value($node, $query) });
	kill $signal, $pid;
	wait_for_server($node) if $signal eq 'KILL';
	return;
}

keep_writing();
my @followers;
for my $n (1 .. 3)
{
	my $follower = new_follower("follower$n");
	follow($follower, $leader);
	push @followers, $follower;
	some_writes(500);
	wait_for_copy($follower);
	some_writes(500);
}
is($leader->safe_psql('postgres', 'SELECT count(*) FROM pg_replication_slots'), '1',
	'one slot for three followers');
is( $leader->safe_psql('postgres', q{SELECT count(*) FROM fanout.followers WHERE state = 'streaming'}),
	'3', 'three followers are streaming');

my $worker = q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_fanout follower'};
for my $signal ('TERM', 'KILL')
{
	for my $name (sort keys %process)
	{
		end_process(@{ $process{$name} }, $signal);
		some_writes(1000);
	}
	end_process($followers[0], $worker, $signal);
	some_writes(1000);
}
$followers[1]->stop('immediate');
some_writes(1000);
$followers[1]->start;
$followers[2]->stop('fast');
some_writes(1000);
$followers[2]->start;
some_writes(1000);

kill 'TERM', $pgbench;
waitpid($pgbench, 0);
wait_for_server($leader);
wait_for_catchup($leader, @followers);
same_data('after it all', $leader, @followers);
is($leader->safe_psql('postgres', 'SELECT count(*) FROM pg_replication_slots'), '1', 'still one slot');
my $rows = $leader->safe_psql('postgres', 'SELECT count(*) FROM pgbench_history');
cmp_ok($rows, '>', 1000, "pgbench wrote something ($rows transactions)");

$_->stop for $leader, @followers;
done_testing();
