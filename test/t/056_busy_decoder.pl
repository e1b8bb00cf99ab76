# A decoder that gets no further for long, as it does within a very large transaction, is no
# reason to take the leader for dead.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Utils;
use Test::More;

my $leader = new_leader('leader');
my $follower = new_follower('follower');
follow($follower, $leader);
wait_for_copy($follower);
$leader->safe_psql('postgres', 'CREATE TABLE t (id int PRIMARY KEY)');
wait_for_catchup($leader, $follower);
my $worker = worker_pid($follower);

# A follower has asked all that it can keep in mind after 7 s, and gives up after 30 s of silence.
my $decoder = $leader->safe_psql('postgres', 'SELECT decoder_pid FROM fanout.streams');
kill 'STOP', $decoder or die $!;
$leader->safe_psql('postgres', 'INSERT INTO t VALUES (1)');
wait_until('forty seconds of staleness',
	sub { $follower->safe_psql('postgres', q{SELECT coalesce(staleness > '40 s', true) FROM fanout.staleness}) eq 't' });
kill 'CONT', $decoder or die $!;
wait_for_catchup($leader, $follower);
same_data('it goes on', $leader, $follower);
is(worker_pid($follower), $worker, '... with the same worker');
is($follower->safe_psql('postgres', 'SELECT last_error FROM fanout.staleness'), '', '... and without an error');

$_->stop for $follower, $leader;
done_testing();
