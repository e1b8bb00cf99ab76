# Full disks.  The leader goes on whatever happens to its log; a follower waits.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Utils;
use Test::More;

my @disks = split ' ', $ENV{FANOUT_SMALL_DISKS} // '';
plan skip_all => 'small disks cannot be mounted here (it takes root)' if @disks < 2;

my $leader = PostgreSQL::Test::Cluster->new('leader');
$leader->init(allows_streaming => 'logical');
$leader->append_conf('postgresql.conf', q{
shared_preload_libraries = 'pg_fanout'
fanout.segment_size = 1MB
fanout.retry_interval = 200
logical_decoding_work_mem = 64MB});
mkdir "$disks[0]/log" or die $!;
symlink("$disks[0]/log", $leader->data_dir . '/pg_fanout') or die $!;
$leader->start;
$leader->safe_psql('postgres', q{CREATE EXTENSION pg_fanout; SELECT fanout.create_stream('app');
	CREATE TABLE t (id serial PRIMARY KEY, v text)});
my $near = new_follower('near', 'fanout.retry_interval = 200');
my $far = new_follower('far', 'fanout.retry_interval = 200');
follow($_, $leader) for $near, $far;
wait_for_copy($_) for $near, $far;

# So many megabytes of changes, in transactions of one.
sub write_mb
{
	my ($mb) = @_;
	$leader->safe_psql('postgres', q{INSERT INTO t (v) SELECT repeat(md5(g::text), 32) FROM generate_series(1, 1000) g})
	  for 1 .. $mb;
	return;
}
sub far_state { return $leader->safe_psql('postgres', q{SELECT state FROM fanout.followers WHERE follower = 'far'}); }
sub far_leaves
{
	$far->safe_psql('postgres', q{SELECT fanout.pause('app')});
	wait_until('far to leave', sub { far_state() eq 'away' });
	return;
}
# The WAL that the slot still holds.
sub slot_mb
{
	return $leader->safe_psql('postgres', q{
		SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::bigint / 1024 / 1024 FROM pg_replication_slots});
}

far_leaves();
write_mb(60);
wait_until('far to be lost', sub { far_state() eq 'lost' });
wait_for_catchup($leader, $near);
like(slurp_file($leader->logfile), qr/removing \d+ of \d+ change log segments .* since the disk is full/, 'old segments are removed');
like(slurp_file($leader->logfile), qr/takes more than a fifth of the free disk space/, 'there was a warning before');
wait_until('the WAL to be let go', sub { slot_mb() < 16 });
pass('the WAL is let go of');
$far->safe_psql('postgres', q{SELECT fanout.resume('app')});
all_equal('after the disk was full', $leader, $near, $far);

# More in one transaction than the disk can take.
$leader->safe_psql('postgres', q{INSERT INTO t (v) SELECT repeat(md5(g::text), 32) FROM generate_series(1, 40000) g});
write_mb(1);
wait_until('the WAL to be let go', sub { slot_mb() < 16 });
pass('a transaction that does not fit holds nothing back for ever');
all_equal('after a transaction that does not fit', $leader, $near, $far);

# Somebody else takes the disk away, and gives it back.
my $mb = $leader->safe_psql('postgres', 'SELECT count(*) FROM t');
system("head -c 30000000 /dev/zero > $disks[0]/filler 2>/dev/null");
write_mb(3);
is($leader->safe_psql('postgres', 'SELECT count(*) FROM t') - $mb, 3000, 'commits go on without any space');
unlink("$disks[0]/filler") or die $!;
all_equal('after others took the disk', $leader, $near, $far);

# fanout.max_retention holds.
$leader->safe_psql('postgres', q{ALTER SYSTEM SET fanout.max_retention = '4MB'; SELECT pg_reload_conf()});
far_leaves();
write_mb(12);
wait_until('far to be lost', sub { far_state() eq 'lost' });
wait_until('the log to be small', sub { $leader->safe_psql('postgres',
			q{SELECT log_bytes <= 6 * 1024 * 1024 FROM fanout.streams}) eq 't' });
pass('max_retention holds');
$far->safe_psql('postgres', q{SELECT fanout.resume('app')});
all_equal('after max_retention', $leader, $near, $far);
$leader->safe_psql('postgres', q{ALTER SYSTEM RESET fanout.max_retention; SELECT pg_reload_conf()});

# A follower's disk.
mkdir "$disks[1]/space" or die $!;
$far->safe_psql('postgres', "CREATE TABLESPACE small LOCATION '$disks[1]/space'");
$leader->safe_psql('postgres', 'CREATE TABLE u (id serial PRIMARY KEY, v text)');
wait_for_catchup($leader, $far);
$far->safe_psql('postgres', 'SET fanout.guard = off; ALTER TABLE u SET TABLESPACE small');
$leader->safe_psql('postgres', q{INSERT INTO u (v) VALUES ('one')});
all_equal('with a table on a small disk', $leader, $near, $far);
system("head -c 30000000 /dev/zero > $disks[1]/filler 2>/dev/null");
$leader->safe_psql('postgres', q{INSERT INTO u (v) SELECT md5(g::text) FROM generate_series(1, 10000) g});
wait_until('the error', sub { $far->safe_psql('postgres', 'SELECT last_error FROM fanout.staleness') =~ /No space left on device/ });
pass('a follower with a full disk says so');
wait_for_catchup($leader, $near);
pass('... and the others go on');
unlink("$disks[1]/filler") or die $!;
all_equal('it goes on when there is space', $leader, $near, $far);

unlike(slurp_file($_->logfile), qr/PANIC|terminated by signal/, $_->name . ' did not crash') for $leader, $near, $far;
$_->stop for $near, $far, $leader;
done_testing();
