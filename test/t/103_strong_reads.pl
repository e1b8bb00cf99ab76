# With fanout.max_staleness = 0, reads on followers are linearizable with the leader's
# commits; with -1 they are not (client/register.c makes the histories).
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use Test::More;

# Each operation: [ is it a write, value, called, returned ].
sub parse_history
{
	my ($text) = @_;
	return map { my ($kind, @numbers) = split ' ', $_; [ $kind eq 'w' ? 1 : 0, @numbers ] }
	  split /\n/, $text;
}

# The first violation in a history of a register that starts as 0 and that writes set to
# 1, 2, 3, ...; undef when it is linearizable.
#
# A linear order must have write k before the reads of k, and those before write k + 1.
# So each operation has a rank: 2k for write k, 2k + 1 for a read of k.  An order
# by rank, ties by time, is linear exactly if no operation that returned before
# another was called has the higher rank (two writes of one rank are an error, too).
# Seen from each call, that is: the highest rank of all that returned before it is
# not above its own.
sub violation
{
	my @operations = @_;
	my %written;
	my @events;
	for my $operation (@operations)
	{
		my ($is_write, $value, $called, $returned) = @$operation;
		my $rank = 2 * $value + ($is_write ? 0 : 1);
		return "value $value was written twice" if $is_write && $written{$value}++;
		push @events, [ $called, 0, $rank ], [ $returned, 1, $rank ];
	}
	my $highest = 0;
	# At the same microsecond, calls come first: those operations overlap.
	for my $event (sort { $a->[0] <=> $b->[0] || $a->[1] <=> $b->[1] } @events)
	{
		my ($time, $is_return, $rank) = @$event;
		if ($is_return)
		{
			$highest = $rank if $rank > $highest;
		}
		elsif ($rank < $highest)
		{
			return sprintf 'an operation with value %d was called at %d, after one with value %d had returned',
			  $rank / 2, $time, $highest / 2;
		}
	}
	return;
}

# The checker itself.
my @good = ([ 1, 1, 0, 10 ], [ 0, 0, 5, 6 ], [ 0, 1, 7, 9 ], [ 0, 1, 20, 30 ], [ 1, 2, 25, 40 ], [ 0, 2, 26, 27 ]);
is(violation(@good), undef, 'a linearizable history');
isnt(violation(@good, [ 0, 0, 11, 12 ]), undef, 'a read after a write that misses it');
isnt(violation(@good, [ 0, 0, 10, 12 ], [ 0, 1, 5, 9 ]), undef, 'a read that goes back');
isnt(violation(@good, [ 0, 2, 1, 2 ]), undef, 'a read of what is to be written');
isnt(violation(@good, [ 1, 2, 50, 60 ]), undef, 'a value written twice');

my $leader = new_leader('leader', 'fsync = off');
$leader->safe_psql('postgres', q{CREATE TABLE register (value bigint); INSERT INTO register VALUES (0);
	ALTER TABLE register REPLICA IDENTITY FULL});
my @followers = map { new_follower("follower_$_", 'fsync = off') } 1 .. 2;
follow($_, $leader) for @followers;
wait_for_copy($_) for @followers;

my @servers = map { conninfo($_) } $leader, @followers;
sub history
{
	my ($max_staleness) = @_;
	$leader->safe_psql('postgres', 'UPDATE register SET value = 0');
	wait_for_catchup($leader, @followers);
	return parse_history(client('register', $max_staleness, 10000, @servers));
}

my @strong = history('0');
is(scalar @strong, 10000, 'operations with max_staleness = 0');
my $reads = grep { !$_->[0] } @strong;
cmp_ok($reads, '>', 1000, "$reads of them reads");
is(violation(@strong), undef, 'are linearizable');
my @weak = history('-1');
my $found = violation(@weak);
isnt($found, undef, 'with -1 they are not: ' . ($found // ''));
done_testing();
