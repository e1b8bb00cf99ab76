# A follower restored from an old backup of its server: it goes on where the backup was, or
# copies again; and started beside the original, it is refused.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Utils;
use Test::More;

my $leader = new_leader('leader', 'fanout.segment_size = 1MB');
$leader->safe_psql('postgres', q{CREATE TABLE t (id int PRIMARY KEY, v text)});
my $follower = new_follower('follower', 'fanout.retry_interval = 200', 'max_prepared_transactions = 1');
follow($follower, $leader);
wait_for_copy($follower);

sub write_row { return $leader->safe_psql('postgres', 'INSERT INTO t SELECT coalesce(max(id), 0) + 1 FROM t'); }
sub copied_at { return $follower->safe_psql('postgres', q{SELECT max(copied_at) FROM fanout.followed_table}); }

my $files = PostgreSQL::Test::Utils::tempdir() . '/files';
sub put_back
{
	$follower->stop('immediate');
	system_or_bail('rm', '-rf', $follower->data_dir);
	system_or_bail('cp', '-a', $files, $follower->data_dir);
	return;
}

# In the backup something holds a lock: it applies nothing until it is told to.
my $hold = q{BEGIN; LOCK TABLE t IN SHARE MODE; PREPARE TRANSACTION 'hold'};
write_row();
all_equal('before', $leader, $follower);
$follower->safe_psql('postgres', $hold);
$follower->stop;
system_or_bail('cp', '-a', $follower->data_dir, $files);
$follower->start;
$follower->safe_psql('postgres', q{COMMIT PREPARED 'hold'});

# The log still has what came after.
write_row() for 1 .. 5;
wait_for_catchup($leader, $follower);
my $lsn = $leader->safe_psql('postgres', 'SELECT fanout.flush_wal()');
my $copied_at = copied_at();
put_back();
$follower->start;
wait_until('the follower to connect', sub { $leader->safe_psql('postgres', 'SELECT state FROM fanout.followers') eq 'streaming' });
is($follower->safe_psql('postgres', 'SELECT count(*) FROM t'), '1', 'a follower restored from an old backup has less than it had');
is($leader->safe_psql('postgres', "SELECT fanout.wait_for_followers(1, '$lsn', '0')"), '0', '... and wait_for_followers() knows');
$follower->safe_psql('postgres', q{COMMIT PREPARED 'hold'});
is($leader->safe_psql('postgres', "SELECT fanout.wait_for_followers(1, '$lsn', '60s')"), '1', '... until it has it again');
all_equal('restored from an old backup', $leader, $follower);
is(copied_at(), $copied_at, '... it goes on from there');

# The log does not have it any more.
$leader->append_conf('postgresql.conf', 'fanout.max_retention = 1MB');
$leader->reload;
for (1 .. 8)
{
	$leader->safe_psql('postgres', q{INSERT INTO t SELECT max + g, repeat(md5(g::text), 100) FROM (SELECT max(id) FROM t) m, generate_series(1, 500) g});
	wait_for_catchup($leader, $follower);
}
wait_until('the log to be trimmed', sub { $leader->safe_psql('postgres', "SELECT log_start_lsn > '$lsn' FROM fanout.streams") eq 't' });
$copied_at = copied_at();
put_back();
$follower->start;
$follower->safe_psql('postgres', q{COMMIT PREPARED 'hold'});
wait_until('the follower to copy again', sub { copied_at() gt $copied_at });
all_equal('restored from a backup that is too old', $leader, $follower);

# Beside the original.
my $copy = PostgreSQL::Test::Cluster->new('copy');
$follower->backup('beside');
$copy->init_from_backup($follower, 'beside');
$copied_at = copied_at();
$copy->start;
wait_until('the copy to be refused', sub { $copy->safe_psql('postgres', 'SELECT last_error FROM fanout.staleness')
		  =~ /follower "follower" of stream "app" is already connected/ });
pass('a copy beside the original is refused');
write_row();
all_equal('the original goes on', $leader, $follower);
is(copied_at(), $copied_at, '... without a new copy');

# Once the original has left, the copy is the follower.
$follower->stop;
write_row();
all_equal('the copy in its place', $leader, $copy);
$follower->start;
wait_until('the original to be refused', sub { $follower->safe_psql('postgres', 'SELECT last_error FROM fanout.staleness')
		  =~ /already connected/ });
pass('then the original is one too many');

unlike(slurp_file($_->logfile), qr/PANIC|terminated by signal/, $_->name . ' did not crash') for $leader, $follower, $copy;
$_->stop for $copy, $follower, $leader;
done_testing();
