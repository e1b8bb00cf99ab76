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

# One of the processes that a query names; undef: there is none.
sub one_of
{
	my ($server, $query, $fault) = @_;
	my @pids = split /\n/, value_of($server, $query) // '';
	return $pids[ int($fault->{luck} * @pids) ];
}

# End one.
sub signal_one
{
	my ($signal, $query) = @_;
	return sub {
		my ($world, $server, $fault) = @_;
		return Chaos::Servers::signal_process($server, $signal, one_of($server, $query, $fault));
	};
}

# Stop one process and let it go on later.
sub stall
{
	my ($query) = @_;
	return sub {
		my ($world, $server, $fault) = @_;
		my $pid = one_of($server, $query, $fault) or return 0;
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

# ---------- another stream ----------

# One that is made while others write and change schemas, and goes again: a database beside
# the follower's follows it, equals the leader, and leaves.  Each call does the next step, if it can be done.
sub other_stream
{
	my ($world, $follower) = @_;
	return 0 if $world->{other};
	my ($ok) = run_on($world->{leader}, q{SELECT fanout.create_stream('other')});
	return 0 unless $ok;
	$world->{other} = $follower;
	my @steps = (\&other_database, \&other_follows, \&other_is_equal, \&other_leaves, \&other_ends);
	return sub {
		shift @steps while @steps && $steps[0]->($world, $follower);
		return 0 if @steps;
		delete $world->{other};
		return 1;
	};
}

# Of the other database.
sub other_value
{
	my ($follower, $query) = @_;
	return value_of($follower, $query, 'other');
}

sub other_database
{
	my ($world, $follower) = @_;
	return 0 if $follower->{down};
	run_on($follower, 'CREATE DATABASE other TEMPLATE template0');
	return (run_on($follower, 'CREATE EXTENSION IF NOT EXISTS pg_fanout', 'other'))[0];
}

sub other_follows
{
	my ($world, $follower) = @_;
	my $follows = other_value($follower, 'SELECT count(*) FROM fanout.followed_stream') // return 0;
	return 1 if $follows;
	my $conninfo = Chaos::Servers::conninfo_of($follower);
	run_on($world->{leader}, q{SELECT fanout.create_stream('other') WHERE NOT EXISTS (SELECT FROM fanout.streams WHERE stream = 'other')});
	run_on($follower, "SELECT fanout.follow('other', '$conninfo', follower => 'other')", 'other');
	return 0;
}

my $other_differences = q{SELECT coalesce(string_agg(v::text, E'\n'), '') FROM fanout.verify('other') v WHERE equal IS DISTINCT FROM true};

sub other_is_equal
{
	my ($world, $follower) = @_;
	my $ready = other_value($follower, q{SELECT fanout.wait_for_copy('other', '0s')}) // return 0;
	return 0 unless $ready eq 't';
	my $differences = other_value($follower, $other_differences) // return 0;
	push @{ $world->{wrong} }, "the other stream: $differences" if $differences ne '';
	return 1;
}

sub other_leaves
{
	my ($world, $follower) = @_;
	return 0 if $follower->{down};
	my $there = value_of($follower, q{SELECT count(*) FROM pg_database WHERE datname = 'other'}) // return 0;
	return 1 unless $there;
	run_on($follower, q{SELECT fanout.unfollow('other') FROM fanout.followed_stream}, 'other');
	run_on($follower, 'DROP DATABASE other WITH (FORCE)');
	return 0;
}

sub other_ends
{
	my ($world, $follower) = @_;
	run_on($world->{leader}, q{SELECT fanout.drop_stream('other', true) FROM fanout.streams WHERE stream = 'other'});
	my $left = value_of($world->{leader}, q{SELECT (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM fanout.streams)});
	my $origins = value_of($follower, 'SELECT count(*) FROM pg_replication_origin');
	my @directories = map { glob($_->{node}->data_dir . '/pg_fanout/*') } $world->{leader}, $follower;
	return ($left // '') eq '2' && ($origins // '') eq '1' && @directories == 2;
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
	'another stream'        => [ 'follower', 0.5, 6, \&other_stream ],
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
