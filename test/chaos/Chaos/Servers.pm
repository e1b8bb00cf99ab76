# The leader, its followers and the networks between them: starting, ending and asking
# servers that may be down at any moment.
#
# A server is a hash: node, the PostgreSQL::Test::Cluster; down, whether we ended it; for a
# follower also proxy, its way to the leader.  A question to a server that is down has the
# answer undef.
#
# No statement may take long: it may wait for a lock that a stalled process has, and who
# waits for it is who lets that process go on.
package Chaos::Servers;

use strict;
use warnings FATAL => 'all';

use Cwd qw(realpath);
use Fanout qw(new_server wait_until);
use Proxy;
use Time::HiRes qw(sleep);

# Dynamic shared memory is in files of the data directory, so that we see what is left of it.
my @settings = (
	'max_connections = 80', 'max_prepared_transactions = 10', 'fanout.retry_interval = 1000',
	'log_line_prefix = \'%m [%p] %e %b: \'', 'dynamic_shared_memory_type = mmap',
	'deadlock_timeout = 300ms', 'log_connections = off', 'log_replication_commands = off',
	'wal_sender_timeout = 20s');

my $patience = q{SET statement_timeout = '15s';};

sub value_of
{
	my ($server, $query) = @_;
	return undef if $server->{down};
	my ($rc, $out) = eval { $server->{node}->psql('postgres', "$patience $query", timeout => 60) };
	return defined $rc && $rc == 0 ? $out : undef;
}

# Run it; returns whether that went well, and what the server said besides.
sub run_on
{
	my ($server, $sql) = @_;
	return (0, 'down') if $server->{down};
	my ($rc, $out, $err) =
	  eval { $server->{node}->psql('postgres', "$patience $sql", timeout => 120, on_error_stop => 1) };
	return (defined $rc && $rc == 0, $err // '');
}

sub name_of { return $_[0]{node}->name; }

# ---------- making them ----------

# A leader whose change log is on a disk of its own, when there is one, and three followers.
sub make
{
	my ($disk, @names) = @_;
	my %world = (disk => $disk);
	my $leader = { node => new_stopped('leader', 'fanout.segment_size = 1MB') };
	if ($disk)
	{
		mkdir "$disk/log" or die "$disk/log: $!";
		symlink("$disk/log", $leader->{node}->data_dir . '/pg_fanout') or die $!;
	}
	$world{leader} = $leader;
	for my $name (@names)
	{
		push @{ $world{followers} }, { node => new_stopped($name),
			proxy => Proxy->new($leader->{node}, scalar @{ $world{followers} // [] }) };
	}
	for my $server (all_servers(\%world))
	{
		$server->{node}->start;
		note_memory($server);
		$server->{node}->safe_psql('postgres', 'CREATE EXTENSION pg_fanout');
	}
	$leader->{node}->safe_psql('postgres', q{SELECT fanout.create_stream('app')});
	return \%world;
}

sub new_stopped
{
	my ($name, @more) = @_;
	my $node = new_server($name, @settings, @more);
	$node->stop;
	return $node;
}

sub all_servers { return ($_[0]{leader}, @{ $_[0]{followers} }); }

# ---------- processes ----------

# Every process of the server, its postmaster or not: they live in its data directory.
sub processes_of
{
	my ($server) = @_;
	my $home = realpath($server->{node}->data_dir);
	return grep { (readlink("/proc/$_/cwd") // '') eq $home } map { /(\d+)$/ } glob('/proc/[0-9]*');
}

# Signal a process, if it is still one of that server.
sub signal_process
{
	my ($server, $signal, $pid) = @_;
	return 0 unless $pid && grep { $_ == $pid } processes_of($server);
	return kill $signal, $pid;
}

# Let processes of the server go on that were stopped.
sub let_go
{
	my ($server) = @_;
	signal_process($server, 'CONT', $_) for @{ delete $server->{stalled} // [] };
	return;
}

# The System V segments the server made, by postmaster.pid: there must be none in the end.
sub note_memory
{
	my ($server) = @_;
	open my $file, '<', $server->{node}->data_dir . '/postmaster.pid' or return;
	my @lines = <$file>;
	my (undef, $id) = split ' ', $lines[6] // '';
	$server->{memory}{$id} = 1 if $id;
	return;
}

# ---------- ending and starting them ----------

sub end_server
{
	my ($server, $how) = @_;
	return 0 if $server->{down};
	$server->{down} = 1;
	if ($how eq 'kill')
	{
		$server->{killed} = $server->{node}{_pid};
		$server->{node}->kill9;
	}
	else
	{
		# One that is stopped would never notice.
		let_go($server);
		$server->{node}->stop($how, fail_ok => 1) or die name_of($server) . " does not stop ($how)";
	}
	return 1;
}

# What a killed postmaster leaves must end by itself, unless it was stopped.  It is there itself until
# somebody has taken notice of its end.
sub start_server
{
	my ($server) = @_;
	return 1 unless $server->{down};
	let_go($server);
	wait_until('the processes of ' . name_of($server) . ' to end after its postmaster',
		sub { !processes_of($server) && !($server->{killed} && kill 0, $server->{killed}) });
	$server->{node}->start(fail_ok => 1) or die name_of($server) . ' does not start';
	$server->{down} = 0;
	note_memory($server);
	return 1;
}

# ---------- followers come and go ----------

sub follows
{
	my ($follower) = @_;
	return value_of($follower, 'SELECT count(*) FROM fanout.followed_stream');
}

# Unfollow and drop the tables, in one transaction.
sub leave
{
	my ($follower) = @_;
	$follower->{left} = 1;
	my ($ok) = run_on($follower, q{SET fanout.guard = off; BEGIN; SELECT fanout.unfollow('app');
		DROP SCHEMA public CASCADE; CREATE SCHEMA public; COMMIT});
	return $ok;
}

# Follow, whatever became of earlier attempts; true when it is done.
sub join_again
{
	my ($world, $follower) = @_;
	my $name = name_of($follower);
	my $follows = follows($follower) // return 0;
	return 1 if $follows;
	my $conninfo = $follower->{proxy}->conninfo;
	run_on($follower, 'DROP SCHEMA public CASCADE; CREATE SCHEMA public');
	# unfollow() may not have reached the leader.
	run_on($world->{leader}, "SELECT fanout.drop_follower('app', '$name') FROM fanout.followers WHERE follower = '$name'");
	my ($ok, $err) = run_on($follower, "SELECT fanout.follow('app', '$conninfo', follower => '$name')");
	$follower->{why} = $err unless $ok;
	return $ok;
}

1;
