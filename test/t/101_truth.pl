# The staleness that a follower shows is never smaller than the truth (client/truth.c),
# under load, while its worker is ended, killed, paused and resumed and the connection is
# cut and stalled.  The same test catches the two usual mistakes.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use Test::More;
use Time::HiRes qw(sleep);

my $reads = $ENV{FANOUT_TRUTH_READS} // 100000;
my $leader = new_leader('leader', 'fsync = off', 'log_connections = off');
$leader->safe_psql('postgres', q{
	CREATE TABLE tick (n bigint PRIMARY KEY);
	CREATE TABLE load (id int PRIMARY KEY, v text);
	INSERT INTO load SELECT g, repeat('x', 200) FROM generate_series(1, 10000) g});
my $follower = new_follower('follower', 'fsync = off', 'fanout.retry_interval = 300ms',
	'track_commit_timestamp = on', 'log_connections = off');
follow($follower, $leader);
wait_for_copy($follower);

my $script = $leader->basedir . '/load.sql';
PostgreSQL::Test::Utils::append_to_file($script, q{
\set id random(1, 9000)
UPDATE load SET v = repeat('y', 300) WHERE id BETWEEN :id AND :id + 500;
});

# Things that happen to the follower; each leaves it on its way back.
my %mishaps = (
	'worker ended' => sub { signal_worker('TERM') },
	'worker killed' => sub { signal_worker('KILL') },
	'paused' => sub {
		try($follower, q{SELECT fanout.pause('app')});
		sleep 1.5;
		try($follower, q{SELECT fanout.resume('app')});
	},
	'connection cut' => sub {
		try($leader, q{SELECT pg_terminate_backend(sender_pid) FROM fanout.followers});
	},
	'decoder killed' => sub {
		my $pid = try($leader, q{SELECT decoder_pid FROM fanout.streams});
		kill 'KILL', $pid if $pid;
	},
	'connection stalled' => sub {
		my $pid = try($leader, q{SELECT sender_pid FROM fanout.followers});
		return if !$pid;
		kill 'STOP', $pid;
		sleep 1.5;
		kill 'CONT', $pid;
	},
	'worker stalled' => sub {
		my $pid = worker_pid($follower) or return;
		kill 'STOP', $pid;
		sleep 1.5;
		kill 'CONT', $pid;
	});

sub try
{
	my ($node, $query) = @_;
	my ($rc, $out) = $node->psql('postgres', $query);
	return defined $rc && $rc == 0 ? $out : undef;
}

sub signal_worker
{
	my ($signal) = @_;
	my $pid = worker_pid($follower);
	kill $signal, $pid if $pid;
	return;
}

# Updates of 500 rows; ends when the leader restarts.
sub start_load
{
	return IPC::Run::start([ 'pgbench', '-n', '-c', '2', '-R', '20', '-T', '600', '-f', $script,
			conninfo($leader) ], '<', \'', '>', \my $out, '2>', \my $err);
}

# Read so many times, with mishaps if they are wanted; returns claims, reads without one, lies, oldest claim.
sub run_truth
{
	my ($mode, $wanted, $with_mishaps) = @_;
	$leader->safe_psql('postgres', 'TRUNCATE tick');
	wait_for_catchup($leader, $follower);
	my $load = start_load();
	my ($harness, $out, $err) =
	  start_client('truth', '', $mode, $wanted, conninfo($leader), conninfo($follower));
	my @kinds = sort keys %mishaps;
	my %happened;
	for (my $i = 0; $harness->pumpable; $i++)
	{
		my $kind = $kinds[ $i % @kinds ];
		sleep 0.7;
		$harness->pump_nb;
		$load = start_load() if !$load->pumpable;
		next if !$with_mishaps || !$harness->pumpable;
		$mishaps{$kind}->();
		$happened{$kind}++;
	}
	$harness->finish;
	$load->kill_kill;
	is(scalar keys %happened, scalar @kinds, 'all mishaps happened') if $with_mishaps;
	note("$mode: $$out", $$err, join(', ', map { "$_: $happened{$_}" } sort keys %happened));
	return split ' ', $$out;
}

my ($claims, $silent, $lies, $oldest) = run_truth('bound', $reads, 1);
cmp_ok($claims, '>=', $reads, "$claims reads with a staleness, $silent without");
is($lies, 0, 'none of them lied');
cmp_ok($oldest, '>', 1000, "the oldest admitted $oldest ms");

(undef, undef, $lies) = run_truth('commit-time', 3000, 0);
cmp_ok($lies, '>', 0, "by commit times, $lies reads lied");
(undef, undef, $lies) = run_truth('other-snapshot', 3000, 0);
cmp_ok($lies, '>', 0, "without regard to the snapshot, $lies reads lied");

wait_for_catchup($leader, $follower);
same_data('afterwards', $leader, $follower);
done_testing();
