# The directory pg_fanout is gone, or a part of it, while a server runs or while it does not: its
# streams come back by themselves, and nobody writes to a follower's tables meanwhile.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Utils;
use Test::More;

my $leader = new_leader('leader', 'fanout.retry_interval = 200');
$leader->safe_psql('postgres', 'CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1)');
my $follower = new_follower('follower', 'fanout.retry_interval = 200');
follow($follower, $leader);
all_equal('at first', $leader, $follower);

sub write_row { return $leader->safe_psql('postgres', 'INSERT INTO t SELECT max(id) + 1 FROM t'); }
sub gone
{
	my ($node, $what) = @_;
	my @files = glob($node->data_dir . "/pg_fanout$what");
	die "nothing to remove: $what" if !@files;
	system_or_bail('rm', '-rf', @files);
	return;
}
sub streams
{
	my ($what) = @_;
	wait_until('the stream', sub { $leader->safe_psql('postgres', 'SELECT state FROM fanout.streams') eq 'streaming' });
	write_row();
	all_equal($what, $leader, $follower);
	is($leader->safe_psql('postgres', 'SELECT count(*) FROM pg_replication_slots'), '1', '... with one slot');
	return;
}

# ---------- the leader ----------

for my $what ('', '/*/stream-*', '/*/stream-*/*.seg')
{
	$leader->stop;
	gone($leader, $what);
	$leader->start;
	write_row();
	streams("removed from the leader while it was down: pg_fanout$what");
}
for my $what ('', '/*', '/*/stream-*', '/*/stream-*/*')
{
	gone($leader, $what);
	write_row();
	streams("removed from a leader that runs: pg_fanout$what");
	wait_until('the registry', sub { () = glob($leader->data_dir . '/pg_fanout/*/stream-*/registry') });
	ok(-e (glob($leader->data_dir . '/pg_fanout/*/stream-*/*.seg'))[0], '... and the log is in a file again');
	$leader->stop('immediate');
	$leader->start;
	streams('... also after a crash');
}

# ---------- the follower ----------

sub refuses
{
	my ($what) = @_;
	my ($rc, $out, $err) = $follower->psql('postgres', "\\set VERBOSITY verbose\nINSERT INTO t VALUES (-1)");
	like($err, qr/25006/, "$what: the guard holds");
	($rc, $out, $err) = $follower->psql('postgres', "\\set VERBOSITY verbose\nSET fanout.max_staleness = '1h'; SET fanout.stale_read_timeout = 0; SELECT count(*) FROM t");
	like($err, qr/FO002/, "$what: the bound of a read holds");
	return;
}

# No worker can be started, so nothing is known but what the tables say.
$follower->stop;
gone($follower, '');
$follower->append_conf('postgresql.conf', 'max_worker_processes = 2');
$follower->start;
refuses('a follower without its directory, and without workers');
$follower->append_conf('postgresql.conf', 'max_worker_processes = 16');
for my $what ('', '/*/followed-*')
{
	$follower->restart;
	write_row();
	all_equal('the stream comes back', $leader, $follower);
	$follower->stop('immediate');
	gone($follower, $what);
	$follower->start;
	write_row();
	all_equal("removed from the follower while it was down: pg_fanout$what", $leader, $follower);
}

# While it runs, with a worker that ends; and then with one that can't come back.
gone($follower, '');
$follower->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'pg_fanout follower'});
write_row();
all_equal('removed from a follower that runs', $leader, $follower);
wait_until('the directory', sub { () = glob($follower->data_dir . '/pg_fanout/*/followed-*') });
$leader->stop;
gone($follower, '');
$follower->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type IN ('pg_fanout follower', 'pg_fanout launcher')});
wait_until('the directory', sub { () = glob($follower->data_dir . '/pg_fanout/*/followed-*') });
my ($rc, $out, $err) = $follower->psql('postgres', 'INSERT INTO t VALUES (-1)');
like($err, qr/cannot execute INSERT on replicated table/, 'the guard holds without a leader, too');
$leader->start;
streams('both are back');

# What was dropped does not come back.
$follower->safe_psql('postgres', q{SELECT fanout.unfollow('app')});
wait_until('the record to go', sub { !(() = glob($follower->data_dir . '/pg_fanout/*/followed-*')) });
$follower->safe_psql('postgres', 'INSERT INTO t VALUES (-1)');
$leader->safe_psql('postgres', q{SELECT fanout.drop_stream('app', true)});
gone($leader, '');
wait_until('the slot to go', sub { $leader->safe_psql('postgres', 'SELECT count(*) FROM pg_replication_slots') eq '0' });
pass('what was dropped is gone');

# A follower that has to wait for its leader: others are started meanwhile.
my $writer = $leader->background_psql('postgres');
$writer->query_safe(q{BEGIN; INSERT INTO t VALUES (-2)});
$leader->safe_psql('postgres', q{SELECT fanout.create_stream('app')});
$follower->safe_psql('postgres', 'DROP TABLE t');
my $conninfo = conninfo($leader) =~ s/'/''/gr;
my $waits = $follower->background_psql('postgres');
$waits->query_until(qr/begun/, qq{\\echo begun\nSELECT fanout.follow('app', '$conninfo', 'f');\n});
wait_until('follow() to wait', sub { $leader->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pg_fanout follow'}) eq '1' });
for (1 .. 3)
{
	$follower->safe_psql('postgres', q{SELECT fanout.create_stream('own')});
	wait_until('the stream', sub { $follower->safe_psql('postgres', 'SELECT state FROM fanout.streams') eq 'streaming' });
	$follower->safe_psql('postgres', q{SELECT fanout.drop_stream('own')});
}
$writer->query_safe('COMMIT');
$writer->quit;
$waits->query_safe('SELECT 1');
$waits->quit;
all_equal('it follows in the end', $leader, $follower);
$_->stop for $follower, $leader;
done_testing();
