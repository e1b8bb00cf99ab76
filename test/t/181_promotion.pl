# Physical standbys: of a leader, promoted while followers are ahead of it; and of a follower,
# read, promoted while the original lives, and in its place.  Both standbys are older than
# the streams, which they only know from the WAL.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Utils;
use Test::More;

sub new_standby
{
	my ($name, $primary) = @_;
	my $standby = PostgreSQL::Test::Cluster->new($name);
	$primary->backup($name);
	$standby->init_from_backup($primary, $name, has_streaming => 1);
	$standby->start;
	return $standby;
}

sub replayed
{
	my ($standby, $primary) = @_;
	my $lsn = $primary->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');
	$standby->poll_query_until('postgres', "SELECT pg_last_wal_replay_lsn() >= '$lsn'") or die 'not replayed';
	return;
}

sub fails
{
	my ($node, $query, $pattern) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', $query, extra_params => [ '-v', 'VERBOSITY=verbose' ]);
	like($err, $pattern, $node->name . ": $query");
	return;
}

my $leader = new_server('leader', 'fanout.retry_interval = 200');
my $follower = new_server('follower', 'fanout.retry_interval = 200');
my $leader_standby = new_standby('leader_standby', $leader);
my $follower_standby = new_standby('follower_standby', $follower);

$leader->safe_psql('postgres', q{CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT g, 'one' FROM generate_series(1, 10) g;
	CREATE EXTENSION pg_fanout; SELECT fanout.create_stream('app')});
$follower->safe_psql('postgres', 'CREATE EXTENSION pg_fanout');

# libpq finds which of the two takes writes.
my $both = join ' ', 'host=' . join(',', $leader->host, $leader_standby->host),
  'port=' . join(',', $leader->port, $leader_standby->port), 'dbname=postgres target_session_attrs=read-write';
$follower->safe_psql('postgres', "SELECT fanout.follow('app', '$both', follower => 'follower')");
wait_for_copy($follower);
my $insert = q{INSERT INTO t SELECT max(id) + 1, '%s' FROM t};
sub write_row { return $_[0]->safe_psql('postgres', sprintf($insert, $_[1])); }
sub copied_at { return $_[0]->safe_psql('postgres', q{SELECT max(copied_at) FROM fanout.followed_table}); }

# ---------- a standby of the leader ----------

write_row($leader, 'two');
wait_for_catchup($leader, $follower);
replayed($leader_standby, $leader);
is($leader_standby->safe_psql('postgres', 'SELECT stream, state FROM fanout.streams'), 'app|starting', 'a standby of the leader shows the stream');
my $conninfo = conninfo($leader_standby) =~ s{'}{''}gr;
fails($follower, "SELECT fanout.follow('app2', '$conninfo')", qr/55000: the leader is a standby, which can not be followed/);
fails($leader_standby, $_, qr/25006/)
  for q{SELECT fanout.create_stream('x')}, q{SELECT fanout.drop_stream('app', true)}, q{SELECT fanout.grant_stream('app', 'postgres')},
  qq{SELECT fanout.follow('app', '$conninfo')};
fails($leader_standby, $_, qr/55000/)
  for q{SELECT fanout.token()}, q{SELECT fanout.wait_for_followers(1)}, 'SELECT fanout.flush_wal()',
  q{SELECT fanout.register_follower('app', 'f', gen_random_uuid(), NULL, NULL)},
  q{CALL fanout.send_changes('app', 'f', gen_random_uuid(), '0/0', gen_random_uuid(), '0/0', 2)};
fails($leader_standby, q{SELECT fanout.drop_follower('app', 'follower')}, qr/42704/);

# The follower has what the standby does not get any more.
$leader_standby->stop;
write_row($leader, 'lost') for 1 .. 3;
wait_for_catchup($leader, $follower);
my $copied_at = copied_at($follower);
$leader->stop('immediate');
$leader_standby->start;
$leader_standby->promote;
wait_until('the promoted leader to stream', sub {
		$leader_standby->safe_psql('postgres', 'SELECT state FROM fanout.streams') eq 'streaming' });
pass('the stream starts on the promoted standby, which was not told of it');
for (1 .. 100)
{
	write_row($leader_standby, 'new');
	last if copied_at($follower) gt $copied_at;
}
wait_until('the follower to copy again', sub { copied_at($follower) gt $copied_at });
all_equal('after the promotion', $leader_standby, $follower);
is($follower->safe_psql('postgres', q{SELECT count(*) FROM t WHERE v = 'lost'}), '0', 'what the new leader does not have is gone');

# ---------- a standby of the follower ----------

replayed($follower_standby, $follower);
is($follower_standby->safe_psql('postgres', 'SELECT count(*) FROM t'), $follower->safe_psql('postgres', 'SELECT count(*) FROM t'),
	'a standby of a follower can be read');
is($follower_standby->safe_psql('postgres', 'SELECT stream, state, staleness FROM fanout.staleness'), 'app|starting|',
	'... where the staleness is not known');
fails($follower_standby, q{SET fanout.max_staleness = '1h'; SELECT count(*) FROM t}, qr/FO002: .*standby of the follower/s);
fails($follower_standby, q{SET fanout.read_after = '0/1'; SELECT count(*) FROM t}, qr/FO002: .*standby of the follower/s);
fails($follower_standby, q{SET fanout.max_staleness = '1h'; COPY t TO stdout}, qr/FO002: .*standby of the follower/s);
fails($follower_standby, 'DELETE FROM t', qr/25006/);
fails($follower_standby, qq{SELECT fanout.$_('app')}, qr/25006/) for 'unfollow', 'pause', 'resume', 'resync';
fails($follower_standby, q{SELECT fanout.verify('app')}, qr/55000/);
is($follower_standby->safe_psql('postgres', q{SELECT fanout.wait_for_copy('app', '0s')}), 'f', 'wait_for_copy() says no');

# Promoted while the follower lives, it is one too many.
$copied_at = copied_at($follower);
$follower_standby->promote;
wait_until('the second to be refused', sub { $follower_standby->safe_psql('postgres', 'SELECT last_error FROM fanout.staleness')
		  =~ /follower "follower" of stream "app" is already connected/ });
pass('the promoted standby is refused while the follower lives');
fails($follower_standby, 'DELETE FROM t', qr/25006: cannot execute DELETE on replicated table/);
write_row($leader_standby, 'new');
all_equal('the follower goes on', $leader_standby, $follower);
fails($follower_standby, q{SELECT fanout.resync('app')}, qr/^$/);
wait_until('the copy to be refused', sub { $follower_standby->safe_psql('postgres',
			q{SELECT state = 'failed' AND last_error ~ 'already connected' FROM fanout.staleness}) eq 't' });
write_row($leader_standby, 'new');
all_equal('... also when the other wants to copy anew', $leader_standby, $follower);

# Another name makes another follower of it; the original keeps its own.
$follower_standby->safe_psql('postgres', q{SELECT fanout.unfollow('app')});
wait_until('the stream to be forgotten', sub { $follower_standby->safe_psql('postgres', 'SELECT count(*) FROM pg_replication_origin') eq '0' });
write_row($leader_standby, 'new');
all_equal('... and when the other unfollows', $leader_standby, $follower);
is(copied_at($follower), $copied_at, '... which it did not have to copy again for');
$follower_standby->safe_psql('postgres', "SELECT fanout.follow('app', '$both', follower => 'second', copy_schema => false)");
all_equal('with another name it follows', $leader_standby, $follower, $follower_standby);

# In the follower's place it goes on where the follower was.
my $third = new_standby('third', $follower);
write_row($leader_standby, 'new');
wait_for_catchup($leader_standby, $follower);
replayed($third, $follower);
$copied_at = copied_at($third);
$follower->stop('immediate');
write_row($leader_standby, 'new');
$third->promote;
all_equal('a promoted standby in the place of the follower', $leader_standby, $third);
is(copied_at($third), $copied_at, '... goes on without a copy');

unlike(slurp_file($_->logfile), qr/PANIC|terminated by signal/, $_->name . ' did not crash')
  for $leader, $leader_standby, $follower, $follower_standby, $third;
$_->stop for $third, $follower_standby, $leader_standby;
done_testing();
