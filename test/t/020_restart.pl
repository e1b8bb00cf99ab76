# Restarts of either side in the middle of an initial copy; pause and resume; resync.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use Test::More;
use Time::HiRes qw(sleep);

my $leader = new_leader('leader');
$leader->safe_psql('postgres', q{
	CREATE TABLE parent (id int PRIMARY KEY, v text);
	CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent, v text);
	INSERT INTO parent SELECT g, repeat('x', 100) FROM generate_series(1, 300000) g;
	INSERT INTO child SELECT g, g, repeat('y', 100) FROM generate_series(1, 300000) g});
my $follower = new_follower('follower', 'fanout.retry_interval = 500ms');
follow($follower, $leader);

my $next = 1000000;
sub write_some
{
	my $id = $next++;
	$leader->safe_psql('postgres', "INSERT INTO parent VALUES ($id, 'new'); INSERT INTO child VALUES ($id, $id, 'new');
		UPDATE parent SET v = 'changed' WHERE id = $id - 900000");
	return;
}
for my $mode ('fast', 'immediate')
{
	sleep 0.3;
	$follower->stop($mode);
	write_some();
	$follower->start;
	sleep 0.3;
	write_some();
	$leader->stop($mode);
	$leader->start;
	write_some();
}
wait_for_copy($follower);
wait_for_catchup($leader, $follower);
same_data('a copy with restarts', $leader, $follower);
is($follower->safe_psql('postgres', q{SELECT count(*) FROM pg_constraint WHERE conrelid = 'child'::regclass AND contype IN ('p', 'f')}), '2',
	'constraints are there');

$follower->safe_psql('postgres', q{SELECT fanout.pause('app')});
wait_until('the pause', sub { $follower->safe_psql('postgres', 'SELECT state FROM fanout.staleness') eq 'paused' });
write_some();
my $before = $follower->safe_psql('postgres', 'SELECT count(*) FROM parent');
sleep 1;
is($follower->safe_psql('postgres', 'SELECT count(*) FROM parent'), $before, 'a paused follower stands still');
is($follower->safe_psql('postgres', q{SELECT staleness > '1s' FROM fanout.staleness}), 't', '... and its staleness grows');
$follower->safe_psql('postgres', q{SELECT fanout.resume('app')});
wait_for_catchup($leader, $follower);
same_data('after resume', $leader, $follower);

$follower->safe_psql('postgres', q{SET fanout.guard = off; SET session_replication_role = replica; DELETE FROM child WHERE id % 2 = 0});
write_some();
$follower->safe_psql('postgres', q{SELECT fanout.resync('app', 'child')});
write_some();
wait_until('the table to be copied', sub { $follower->safe_psql('postgres',
			q{SELECT state = 'streaming' AND NOT EXISTS (SELECT FROM fanout.followed_table WHERE state <> 'c') FROM fanout.staleness}) eq 't' });
wait_for_catchup($leader, $follower);
same_data('resync of one table', $leader, $follower);

# Too little log is kept for a follower that is away: it is lost, and copies again.
$leader->append_conf('postgresql.conf', "fanout.max_retention = 1MB\nfanout.segment_size = 1MB\n");
$leader->reload;
$follower->stop;
for (1 .. 6)
{
	$leader->safe_psql('postgres', q{UPDATE parent SET v = repeat('z', 100) WHERE id <= 20000});
	sleep 0.3;
}
wait_until('the follower to be lost', sub { $leader->safe_psql('postgres', 'SELECT state FROM fanout.followers') eq 'lost' });
pass('a follower past max_retention is lost');
cmp_ok($leader->safe_psql('postgres', 'SELECT log_bytes FROM fanout.streams'), '<', 12 * 1024 * 1024, 'the log stays small');
$follower->start;
wait_for_copy($follower);
wait_for_catchup($leader, $follower);
same_data('a lost follower copies again', $leader, $follower);

$_->stop for $leader, $follower;
done_testing();
