# What goes wrong, by kind: how each fault begins and how it is undone.
#
# begin returns whether the fault could be done: there is nothing to kill on a server that is
# down.  It may return the function that undoes it; that one is called again and again until
# it returns true, so that it may need a server that is down just then.
package Chaos::Faults;

use strict;
use warnings FATAL => 'all';

use Chaos::Servers;

*value_of = \&Chaos::Servers::value_of;
*run_on = \&Chaos::Servers::run_on;

# ---------- how ----------

# End one process that a query names.
sub signal_one
{
	my ($signal, $query) = @_;
	return sub {
		my ($world, $server, $fault) = @_;
		my @pids = split /\n/, value_of($server, $query) // '';
		return 0 unless @pids;
		return Chaos::Servers::signal_process($server, $signal, $pids[ int($fault->{luck} * @pids) ]);
	};
}

# Stop one process and let it go on later.
sub stall
{
	my ($query) = @_;
	return sub {
		my ($world, $server, $fault) = @_;
		my $pid = value_of($server, $query) or return 0;
		Chaos::Servers::signal_process($server, 'STOP', $pid) or return 0;
		push @{ $server->{stalled} }, $pid;
		return sub { Chaos::Servers::let_go($server); return 1 };
	};
}

# A server that is to end waits for connections that have not said yet who they are, for a minute,
# and we wait for the server: what is held up goes on.
sub end_server
{
	my ($how) = @_;
	return sub {
		my ($world, $server) = @_;
		let_pass($_) for grep { $_->{held} } @{ $world->{followers} };
		Chaos::Servers::end_server($server, $how) or return 0;
		return sub { Chaos::Servers::start_server($server) };
	};
}

sub network
{
	my ($order) = @_;
	return sub {
		my ($world, $follower) = @_;
		$follower->{proxy}->order($order);
		$follower->{held} = $order eq 'hold';
		return sub { let_pass($follower); return 1 };
	};
}

sub let_pass
{
	my ($follower) = @_;
	$follower->{proxy}->order('pass');
	$follower->{held} = 0;
	return;
}

sub pause
{
	my ($world, $follower) = @_;
	my ($ok) = run_on($follower, 'SELECT fanout.pause(stream) FROM fanout.followed_stream');
	return 0 unless $ok;
	return sub { (run_on($follower, 'SELECT fanout.resume(stream) FROM fanout.followed_stream'))[0] };
}

sub leave
{
	my ($world, $follower) = @_;
	return 0 unless Chaos::Servers::leave($follower);
	return sub { Chaos::Servers::join_again($world, $follower) };
}

sub resync
{
	my ($world, $follower) = @_;
	return (run_on($follower, q{SELECT fanout.resync(stream, 'pgbench_tellers') FROM fanout.followed_stream}))[0];
}

# Somebody else takes what is left of the disk that the change log is on.
sub fill_disk
{
	my ($world) = @_;
	my $filler = "$world->{disk}/filler";
	return 0 if -e $filler;
	system("cat /dev/zero > '$filler' 2>/dev/null");
	return sub { unlink $filler; return 1 };
}

# ---------- what ----------

sub of_type { return "SELECT pid FROM pg_stat_activity WHERE backend_type = '$_[0]'"; }

my $clients = of_type('client backend') . ' AND pid <> pg_backend_pid()';
my $senders = 'SELECT sender_pid FROM fanout.followers WHERE sender_pid IS NOT NULL';

# name => [target, shortest and longest duration, begin]
my %kinds = (
	'decoder killed'        => [ 'leader', 0, 0, signal_one('KILL', of_type('pg_fanout decoder')) ],
	'decoder ended'         => [ 'leader', 0, 0, signal_one('TERM', of_type('pg_fanout decoder')) ],
	'decoder stalled'       => [ 'leader', 0.5, 6, stall(of_type('pg_fanout decoder')) ],
	'sender killed'         => [ 'leader', 0, 0, signal_one('KILL', $senders) ],
	'sender ended'          => [ 'leader', 0, 0, signal_one('TERM', $senders) ],
	'backend killed'        => [ 'leader', 0, 0, signal_one('KILL', $clients) ],
	'backend ended'         => [ 'leader', 0, 0, signal_one('TERM', $clients) ],
	'launcher killed'       => [ 'leader', 0, 0, signal_one('KILL', of_type('pg_fanout launcher')) ],
	'leader killed'         => [ 'leader', 0.1, 4, end_server('kill') ],
	'leader stopped'        => [ 'leader', 0.1, 4, end_server('immediate') ],
	'leader restarted'      => [ 'leader', 0, 0, end_server('fast') ],
	'worker killed'         => [ 'follower', 0, 0, signal_one('KILL', of_type('pg_fanout follower')) ],
	'worker ended'          => [ 'follower', 0, 0, signal_one('TERM', of_type('pg_fanout follower')) ],
	'worker stalled'        => [ 'follower', 0.5, 6, stall(of_type('pg_fanout follower')) ],
	'follower\'s launcher killed' => [ 'follower', 0, 0, signal_one('KILL', of_type('pg_fanout launcher')) ],
	'follower\'s backend killed'  => [ 'follower', 0, 0, signal_one('KILL', $clients) ],
	'follower killed'       => [ 'follower', 0.1, 6, end_server('kill') ],
	'follower stopped'      => [ 'follower', 0.1, 6, end_server('immediate') ],
	'follower restarted'    => [ 'follower', 0, 0, end_server('fast') ],
	'follower paused'       => [ 'follower', 4, 15, \&pause ],
	'follower gone'         => [ 'follower', 0.5, 6, \&leave ],
	'table copied again'    => [ 'follower', 0, 0, \&resync ],
	'network cut'           => [ 'follower', 0.1, 5, network('cut') ],
	'network held up'       => [ 'follower', 0.5, 8, network('hold') ],
	'network slow'          => [ 'follower', 2, 8, network('delay 300') ],
	'network lossy'         => [ 'follower', 2, 8, network('lossy 20') ],
);
my %disk_kinds = ('disk full' => [ 'leader', 1, 5, \&fill_disk ]);

# For the schedule.
sub kinds { return map { [ $_, @{ $kinds{$_} }[ 0 .. 2 ] ] } sort keys %kinds; }

sub begin
{
	my ($world, $fault) = @_;
	my $kind = $kinds{ $fault->{kind} } // $disk_kinds{ $fault->{kind} };
	my ($server) = grep { Chaos::Servers::name_of($_) eq $fault->{target} } Chaos::Servers::all_servers($world);
	return $kind->[3]->($world, $server, $fault);
}

1;
