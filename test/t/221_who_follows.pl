# Who is a stream's follower: one that was dropped stays out until somebody says so, one that
# the leader has forgotten copies again by itself, and one that is connected and busy is not
# pushed out by a copy of itself.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Utils;
use Proxy;
use Test::More;

my $leader = new_leader('leader');
$leader->safe_psql('postgres', 'CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1)');
my $follower = new_follower('follower', 'fanout.retry_interval = 200');
wait_until('the stream', sub { $leader->safe_psql('postgres', 'SELECT state FROM fanout.streams') eq 'streaming' });

my ($registry) = map { "$_/registry" } glob($leader->data_dir . '/pg_fanout/*/stream-*');
my $old_registry = PostgreSQL::Test::Utils::tempdir() . '/registry';
system_or_bail('cp', $registry, $old_registry);

sub write_row { return $leader->safe_psql('postgres', 'INSERT INTO t SELECT max(id) + 1 FROM t'); }
sub copied_at { return $follower->safe_psql('postgres', q{SELECT max(copied_at) FROM fanout.followed_table}); }
sub last_error { return $_[0]->safe_psql('postgres', q{SELECT coalesce(last_error, '') FROM fanout.staleness}); }
sub sender_pid { return $leader->safe_psql('postgres', 'SELECT sender_pid FROM fanout.followers'); }

follow($follower, $leader);
all_equal('at first', $leader, $follower);

# ---------- a registry that is older than the follower, as a promoted standby has it ----------

my $copied_at = copied_at();
$leader->stop;
system_or_bail('cp', '-p', $old_registry, $registry);
$leader->start;
wait_until('the follower to copy again', sub { copied_at() gt $copied_at });
write_row();
all_equal('unknown to the leader', $leader, $follower);

# ---------- dropped ----------

sub stays_dropped
{
	my ($what) = @_;
	wait_until('the error', sub { last_error($follower) =~ /follower "follower" was dropped from stream "app"/ });
	state_is($follower, 'failed');
	is($leader->safe_psql('postgres', 'SELECT count(*) FROM fanout.followers'), '0', $what);
	return;
}

$leader->safe_psql('postgres', q{SELECT fanout.drop_follower('app', 'follower')});
stays_dropped('a follower that was dropped stays out');
$leader->stop('immediate');
$leader->start;
$follower->restart;
stays_dropped('... after a restart of both, too');
$follower->safe_psql('postgres', q{SELECT fanout.resync('app')});
write_row();
all_equal('resync() makes it a follower again', $leader, $follower);
$leader->restart;
write_row();
all_equal('... for good', $leader, $follower);

# ---------- a copy beside an original that is busy ----------

$follower->backup('beside');
my $copy = PostgreSQL::Test::Cluster->new('copy');
$copy->init_from_backup($follower, 'beside');
my $reader = $follower->background_psql('postgres');
$reader->query_safe('BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE');
write_row();
wait_until('the worker to wait', sub { $follower->safe_psql('postgres',
		q{SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND NOT granted}) });
my $sender = sender_pid();
$copied_at = copied_at();
$copy->start;
wait_until('the copy to be refused', sub { last_error($copy) =~ /follower "follower" of stream "app" is already connected/ });
is(sender_pid(), $sender, 'a follower that is busy is not pushed out by a copy of it');
$copy->safe_psql('postgres', q{SELECT fanout.resync('app')});
wait_until('the copy to be refused again', sub { $copy->safe_psql('postgres',
			q{SELECT state = 'failed' AND last_error ~ 'already connected' FROM fanout.staleness}) eq 't' });
is(sender_pid(), $sender, '... nor when that wants to copy anew');
$copy->stop;
$reader->query_safe('COMMIT');
$reader->quit;
write_row();
all_equal('the original goes on', $leader, $follower);
is(copied_at(), $copied_at, '... without a copy');

# ---------- its own old connection is not in its way, dead or not ----------

my $proxy = Proxy->new($leader);
$follower->safe_psql('postgres', "SELECT fanout.set_leader('app', '" . $proxy->conninfo . "')");
wait_until('the connection', sub { my $pid = sender_pid(); $pid ne '' && $pid ne $sender });
write_row();
all_equal('by way of something between', $leader, $follower);
$sender = sender_pid();
$proxy->order('hold');
my $direct = conninfo($leader) =~ s/'/''/gr;
$follower->safe_psql('postgres', "SELECT fanout.set_leader('app', '$direct')");
wait_until('the new connection', sub { my $pid = sender_pid(); $pid ne '' && $pid ne $sender });
write_row();
all_equal('a follower that comes back takes its own place', $leader, $follower);
$proxy->stop;

$_->stop for $follower, $leader;
done_testing();
