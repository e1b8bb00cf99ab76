# What happens when: made from the seed alone, before anything runs.
#
# A run is a sequence of phases with a quiet point after each.  In a phase, faults begin at
# random moments and end some time later, so that several are under way at once.  The kinds
# come from a shuffled bag: each comes up before any comes again.  The leader's disk fills in
# every third phase: there followers are lost, and copy rows but no schema, so it has no
# schema changes.
package Chaos::Schedule;

use strict;
use warnings FATAL => 'all';

use List::Util qw(min shuffle);

use constant PHASE_SECONDS => 20;

# kinds: [name, target (leader or follower), shortest, longest duration]
sub make
{
	my ($seconds, $seed, $with_disk, $followers, @kinds) = @_;
	my @phases;
	my @bag;
	srand($seed);
	for (my $left = $seconds; $left > 0; $left -= PHASE_SECONDS)
	{
		my $phase = { seconds => min($left, PHASE_SECONDS), faults => [],
			disk => $with_disk && @phases % 3 == 1 };
		for (my $at = rand(1); $at < $phase->{seconds}; $at += 0.5 + rand(2))
		{
			@bag = shuffle(@kinds) unless @bag;
			my ($name, $target, $shortest, $longest) = @{ shift @bag };
			push @{ $phase->{faults} }, { kind => $name, at => $at,
				target => $target eq 'leader' ? 'leader' : $followers->[ int(rand(@$followers)) ],
				lasts => min($shortest + rand() * ($longest - $shortest), $phase->{seconds} - $at),
				luck => rand() };
		}
		push @{ $phase->{faults} }, { kind => 'disk full', at => rand($phase->{seconds} / 2), target => 'leader',
			lasts => 2 + rand($phase->{seconds} / 3), luck => rand() } if $phase->{disk};
		push @phases, $phase;
	}
	return @phases;
}

# The moments of a phase in order: [seconds, begin or end, fault].
sub moments
{
	my ($phase) = @_;
	return sort { $a->[0] <=> $b->[0] }
	  map { ([ $_->{at}, 'begin', $_ ], [ $_->{at} + $_->{lasts}, 'end', $_ ]) } @{ $phase->{faults} };
}

sub describe
{
	my ($fault) = @_;
	return sprintf('%5.1f s  %-10s %s, for %.1f s', $fault->{at}, $fault->{target}, $fault->{kind}, $fault->{lasts});
}

1;
