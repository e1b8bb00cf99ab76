# What of the change log is kept for a follower that has all there is: enough for it to go on,
# however quiet its stream is and however large a transaction comes.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Utils;
use Test::More;

my $leader = new_leader('leader', 'fanout.segment_size = 1MB', 'autovacuum = off');
$leader->safe_psql('postgres', q{CREATE TABLE t (id int PRIMARY KEY, v text); CREATE DATABASE other});
$leader->safe_psql('other', 'CREATE TABLE noise (v text)');
my $follower = new_follower('follower', 'fanout.retry_interval = 200');
follow($follower, $leader);
wait_for_copy($follower);
$leader->safe_psql('postgres', 'INSERT INTO t VALUES (1)');
wait_for_catchup($leader, $follower);

sub copied_at { return $follower->safe_psql('postgres', q{SELECT max(copied_at) FROM fanout.followed_table}); }
my $copied_at = copied_at();

sub write_row { return $leader->safe_psql('postgres', 'INSERT INTO t SELECT max(id) + 1 FROM t'); }

sub oldest_segment
{
	my ($oldest) = sort map { glob("$_/*.seg") } glob($leader->data_dir . '/pg_fanout/*/stream-*');
	return $oldest // '';
}

# WAL that the stream has nothing of, until no more is kept of the log than begins behind it.
sub make_noise
{
	$leader->safe_psql('other', q{INSERT INTO noise SELECT repeat('x', 1000) FROM generate_series(1, 3000); TRUNCATE noise});
	return;
}

sub noise
{
	my $segment = oldest_segment();
	wait_until('the old segment to go', sub { make_noise(); oldest_segment() ne $segment });
	return;
}

# Each start of the leader begins a new segment; marks are all that comes into it.
for my $mode ('fast', 'immediate')
{
	$leader->stop($mode);
	$leader->start;
	noise();
	$follower->stop($mode);
	$follower->start;
	wait_until('the follower to connect', sub { $leader->safe_psql('postgres', 'SELECT sender_pid IS NOT NULL FROM fanout.followers') eq 't' });
	write_row();
	all_equal("a quiet stream, $mode", $leader, $follower);
	is(copied_at(), $copied_at, '... goes on without a copy');
}

# The same while the follower is away, and with a log that ends in a crash.
$follower->stop('immediate');
$leader->stop('immediate');
$leader->start;
for (1 .. 3)
{
	make_noise();
	sleep 1;
}
is($leader->safe_psql('postgres', 'SELECT state FROM fanout.followers'), 'away', 'a follower that was away while nothing happened is not lost');
$follower->start;
write_row();
all_equal('away from a quiet stream', $leader, $follower);
is(copied_at(), $copied_at, '... without a copy');

# One that has less than it had is noticed all the same.
$follower->stop;
my $files = PostgreSQL::Test::Utils::tempdir() . '/files';
system_or_bail('cp', '-a', $follower->data_dir, $files);
$follower->start;
write_row();
wait_for_catchup($leader, $follower);
$leader->restart;
noise();
$follower->stop;
system_or_bail('rm', '-rf', $follower->data_dir);
system_or_bail('cp', '-a', $files, $follower->data_dir);
$follower->start;
wait_until('the follower to copy again', sub { copied_at() gt $copied_at });
write_row();
all_equal('an older follower of a quiet stream', $leader, $follower);

# Transactions larger than the log may be, with small ones before, meanwhile and after.
$leader->append_conf('postgresql.conf', 'fanout.max_retention = 2MB');
$leader->reload;
$copied_at = copied_at();
for my $try (1 .. 3)
{
	write_row() for 1 .. 5;
	$leader->safe_psql('postgres', qq{INSERT INTO t SELECT max + g, repeat(md5(g::text), 100) FROM (SELECT max(id) FROM t) m, generate_series(1, 5000) g});
	for (1 .. 10)
	{
		write_row();
		isnt($leader->safe_psql('postgres', 'SELECT state FROM fanout.followers'), 'lost', "the follower keeps up with large transaction $try") if $_ == 10;
		select undef, undef, undef, 0.2;
	}
	wait_for_catchup($leader, $follower);
}
all_equal('after large transactions', $leader, $follower);
is(copied_at(), $copied_at, '... without a copy');

# Not two of them for a follower that stands still.
$follower->safe_psql('postgres', q{SELECT fanout.pause('app')});
$leader->safe_psql('postgres', qq{UPDATE t SET v = v || '$_'}) for 1 .. 2;
wait_until('the follower to be lost', sub { $leader->safe_psql('postgres', 'SELECT state FROM fanout.followers') eq 'lost' });
wait_until('the log to be small', sub { write_row(); $leader->safe_psql('postgres', 'SELECT log_bytes < 40000000 FROM fanout.streams') eq 't' });
pass('the log is bounded');
$follower->safe_psql('postgres', q{SELECT fanout.resume('app')});
all_equal('after it was lost', $leader, $follower);

$_->stop for $leader, $follower;
done_testing();
