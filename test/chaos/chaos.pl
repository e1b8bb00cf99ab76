# A leader and three followers under a mixed workload, while processes are killed, servers
# stopped, networks cut, followers paused, disks filled and followers come and go.  At every
# quiet point and in the end all followers equal the leader and nothing is left behind; at no
# moment was a bound of staleness wrong or did a token miss its commit.
#
# FANOUT_CHAOS_SECONDS and FANOUT_CHAOS_SEED say for how long and which faults
# (Chaos/Schedule.pm); test/chaos/run sets them.
use strict;
use warnings FATAL => 'all';
use lib 'lib', 'chaos';

use Chaos::Checks;
use Chaos::Faults;
use Chaos::Schedule;
use Chaos::Servers;
use Chaos::Workload;
use Fanout qw(wait_until);
use Test::More;
use Time::HiRes qw(sleep time);

my $seconds = $ENV{FANOUT_CHAOS_SECONDS} // 60;
my $seed = $ENV{FANOUT_CHAOS_SEED} // 1;
my $disk = (split ' ', $ENV{FANOUT_SMALL_DISKS} // '')[2];
my @names = map { "follower_$_" } 1 .. 3;

my @phases = Chaos::Schedule::make($seconds, $seed, defined $disk, \@names, Chaos::Faults::kinds());
note("seed $seed");
for my $i (0 .. $#phases)
{
	note("phase $i: $phases[$i]{seconds} s", $phases[$i]{disk} ? ', without schema changes' : '');
	note(Chaos::Schedule::describe($_)) for @{ $phases[$i]{faults} };
}

my $world = Chaos::Servers::make($disk, @names);
local $SIG{PIPE} = 'IGNORE';
my %survived;
my @repairs;

# What a fault needs to be undone is done when it can be.
sub repair { @repairs = grep { !$_->() } @repairs; return; }

sub begin
{
	my ($fault) = @_;
	my $done = Chaos::Faults::begin($world, $fault);
	note(sprintf '%.1f s into the phase: %s on %s%s', time() - $world->{phase_began}, $fault->{kind}, $fault->{target},
		$done ? '' : ', not possible now');
	$survived{ $fault->{kind} }++ if $done;
	$fault->{undo} = $done if ref $done;
	return;
}

sub counts { return join(', ', map { "$_ $survived{$_}" } sort keys %survived); }

sub run_phase
{
	my ($phase) = @_;
	$world->{schema_changes} = !$phase->{disk};
	$world->{phase_began} = time();
	for my $moment (Chaos::Schedule::moments($phase), [ $phase->{seconds} ])
	{
		my ($at, $which, $fault) = @$moment;
		while (time() < $world->{phase_began} + $at)
		{
			Chaos::Workload::tick($world);
			repair();
			sleep 0.1;
		}
		next unless $fault;
		begin($fault) if $which eq 'begin';
		push @repairs, delete $fault->{undo} if $which eq 'end' && $fault->{undo};
	}
	wait_until('everything to be mended', sub { repair(); !@repairs });
	return;
}

sub run
{
	Chaos::Workload::prepare($world);
	my @joining = @{ $world->{followers} };
	wait_until('everybody to follow', sub { @joining = grep { !Chaos::Servers::join_again($world, $_) } @joining; !@joining });
	Chaos::Workload::start_checkers($world);
	for my $i (0 .. $#phases)
	{
		run_phase($phases[$i]);
		Chaos::Checks::quiet_point($world, "after phase $i", $phases[$i]{disk}) or die "phase $i ended badly\n";
		note('survived so far: ', counts());
	}
	my $results = Chaos::Workload::end_checkers($world);
	like($results->{truth}, qr/^\d{3,} \d+ 0 \d+$/, 'no bound of staleness was wrong');
	like($results->{own_writes}, qr/^\d{2,} 0 \d+$/, 'no token missed its commit');
	note("reads: claims, without one, lies, oldest claim in ms: $results->{truth}",
		"reads of own writes, missed, unanswered: $results->{own_writes}");
	my %finished = Chaos::Workload::finished($world);
	is(join(' ', grep { !$finished{$_} } qw(tpcb small large twins shapes), map { "audit_$_" } @names), '', 'everybody did something');
	note("transactions of $_: $finished{$_}") for sort keys %finished;
	Chaos::Checks::nothing_left_at_all($world);
	return;
}

if (!eval { run(); 1 })
{
	fail("it came to its end: $@");
	Chaos::Checks::tell_state($world);
}
Chaos::Workload::kill_all($world);
diag(Test::More->builder->is_passing ? 'survived: ' . counts() : "to repeat: test/chaos/run $seconds $seed");
$_->{proxy}->stop for reverse @{ $world->{followers} };
done_testing();
