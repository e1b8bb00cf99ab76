# The bound of staleness needs no clocks that agree: it is right when those of leader and
# follower are an hour apart and when one steps, it stays near the heartbeat on an idle
# system, and grows while the leader can't be reached.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use Test::More;
use Time::HiRes qw(sleep);

my ($faketime) = glob('/usr/lib/*/faketime/libfaketime.so.1');
plan skip_all => 'libfaketime is not installed' if !defined $faketime;
plan skip_all => 'libfaketime and the address sanitizer hang together' if ($ENV{FANOUT_TOOL} // '') eq 'sanitize';

# Run with the wall clock shifted as the file says; ages are not shifted.
my $clock = PostgreSQL::Test::Utils::tempdir() . '/clock';
sub with_fake_clock
{
	my ($run) = @_;
	local @ENV{qw(LD_PRELOAD FAKETIME_TIMESTAMP_FILE FAKETIME_CACHE_DURATION FAKETIME_DONT_FAKE_MONOTONIC)} =
	  ($faketime, $clock, 1, 1);
	return $run->();
}

sub set_clock
{
	my ($offset) = @_;
	open(my $file, '>', $clock) or die "could not write $clock: $!";
	print $file "$offset\n";
	close $file;
	return;
}

sub seconds_of
{
	my ($node, $expression) = @_;
	return $node->safe_psql('postgres', "SELECT round(extract(epoch FROM $expression)::numeric, 3) FROM fanout.staleness");
}

my $heartbeat = 1;
my $leader = new_leader('leader', 'fsync = off');
$leader->safe_psql('postgres', 'CREATE TABLE tick (n bigint PRIMARY KEY)');
my $follower = new_follower('follower', 'fsync = off', "fanout.heartbeat_interval = ${heartbeat}s");
$follower->stop;
set_clock('+3600');
with_fake_clock(sub { $follower->start });
cmp_ok($follower->safe_psql('postgres', 'SELECT extract(epoch FROM clock_timestamp())') - time(), '>', 3500,
	'the follower lives an hour later than the leader');
follow($follower, $leader);
wait_for_copy($follower);

# An idle system.
my $highest = 0;
for (1 .. 40)
{
	my $staleness = seconds_of($follower, 'staleness');
	$highest = $staleness if $staleness > $highest;
	sleep 0.1;
}
cmp_ok($highest, '<', 2 * $heartbeat, "on an idle system staleness stays under twice the heartbeat ($highest s)");
cmp_ok($leader->safe_psql('postgres', 'SELECT extract(epoch FROM staleness) FROM fanout.followers'), '<', 3 * $heartbeat,
	'the leader shows it, too');

# The same writers and readers as in the test of truth; they live by the follower's clock.
my ($claims, $silent, $lies) = split ' ',
  with_fake_clock(sub { client('truth', 'bound', 3000, conninfo($leader), conninfo($follower)) });
is($lies, 0, "of $claims reads an hour apart, none lied");

# Steps of the follower's clock move as_of, never the staleness.
for my $offset ('-3600', '+7200')
{
	set_clock($offset);
	wait_until('the clock to step', sub {
			abs($follower->safe_psql('postgres', 'SELECT extract(epoch FROM clock_timestamp())') - time() - $offset) < 100 });
	my $staleness = seconds_of($follower, 'staleness');
	cmp_ok($staleness, '>=', 0, "staleness is not negative after a step to $offset s");
	cmp_ok($staleness, '<', 60, '... nor huge');
	cmp_ok(abs(seconds_of($follower, 'clock_timestamp() - as_of - staleness')), '<', 1, '... and as_of goes with it');
}

# A read that insists makes the worker ask at once, long before the next heartbeat.
$follower->append_conf('postgresql.conf', 'fanout.heartbeat_interval = 60s');
$follower->reload;
wait_until('the new heartbeat', sub { $follower->safe_psql('postgres', 'SHOW fanout.heartbeat_interval') eq '1min' });
for my $n (1 .. 3)
{
	$leader->safe_psql('postgres', "INSERT INTO tick VALUES (-$n)");
	is($follower->safe_psql('postgres', "SET fanout.max_staleness = 0; SET fanout.stale_read_timeout = '20s';
		SELECT min(n) FROM tick"), "-$n", "strong read $n between two heartbeats");
}

# Nobody proves anything while the leader is away.
$leader->stop;
my $last = -1;
for (1 .. 4)
{
	my $staleness = seconds_of($follower, 'staleness');
	cmp_ok($staleness, '>', $last, "without its leader the follower grows older ($staleness s)");
	$last = $staleness;
	sleep 1;
}
my ($rc, $out, $err) = $follower->psql('postgres',
	"SET fanout.max_staleness = '1s'; SET fanout.stale_read_timeout = '100ms'; SELECT count(*) FROM tick");
like($err, qr/the follower is too stale for this statement/, '... and a bounded read fails');
$leader->start;
wait_until('the follower to be fresh again', sub { seconds_of($follower, 'staleness') < 2 });
pass('the leader is back, and so is the proof');
done_testing();
