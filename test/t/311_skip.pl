# fanout.skip(): the one transaction that fails is passed, knowingly, and nothing is silently wrong afterwards.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Utils;
use Test::More;

my $leader = new_leader('leader');
my $follower = new_follower('follower', 'fanout.retry_interval = 100');
$leader->safe_psql('postgres', q{
	CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE other (id int PRIMARY KEY); INSERT INTO t VALUES (1, 'one')});
follow($follower, $leader);
wait_for_copy($follower);

# The commit LSN of the error that is shown, once it is of that kind.
sub failing
{
	my ($error) = @_;
	$follower->poll_query_until('postgres', "SELECT coalesce(last_error, '') LIKE '%$error%' AND state = 'failed' FROM fanout.staleness")
	  or diag($follower->safe_psql('postgres', 'SELECT state, last_error FROM fanout.staleness'));
	my ($lsn) = $follower->safe_psql('postgres', 'SELECT last_error FROM fanout.staleness') =~ m{committed at ([0-9A-F]+/[0-9A-F]+)};
	return $lsn;
}

sub skip_error
{
	my ($stream, $lsn) = @_;
	my ($rc, $out, $err) = $follower->psql('postgres', "\\set VERBOSITY verbose\nSELECT fanout.skip($stream, $lsn)");
	return $err;
}

like(skip_error(q{'app'}, q{'0/1'}), qr/55000: stream "app" does not fail at a transaction/, 'nothing fails');
like(skip_error(q{'none'}, q{'0/1'}), qr/42704: /, 'another stream');
like(skip_error(q{'app'}, 'NULL'), qr/22004: /, 'no position');
like(skip_error('NULL', q{'0/1'}), qr/22004: /, 'no stream');
$follower->safe_psql('postgres', 'CREATE ROLE somebody');
my (undef, undef, $err) = $follower->psql('postgres', q{SET ROLE somebody; SELECT fanout.skip('app', '0/1')});
like($err, qr/permission denied|must be superuser/, 'not for others');

# ---------- a schema change, and rows of the same transaction ----------

$follower->safe_psql('postgres', 'CREATE TABLE here (id int)');
$leader->safe_psql('postgres', q{BEGIN; INSERT INTO other VALUES (1); UPDATE t SET v = 'two'; CREATE TABLE here (id int PRIMARY KEY); COMMIT});
$leader->safe_psql('postgres', 'INSERT INTO other VALUES (2)');
my $lsn = failing('already exists');
ok($lsn, 'the error names the transaction');
like(skip_error(q{'app'}, q{'0/1'}), qr/22023: the transaction committed at 0\/1 is not the one that fails.*fails at the one committed at \Q$lsn\E/s, 'another one is refused');

# What is rolled back skips nothing.
$follower->safe_psql('postgres', "BEGIN; SELECT fanout.skip('app', '$lsn'); ROLLBACK");
$follower->safe_psql('postgres', q{SELECT fanout.resume('app')});
is(failing('already exists'), $lsn, 'a rollback skips nothing');

my $log = -s $follower->logfile;
(undef, undef, $err) = $follower->psql('postgres', "SELECT fanout.skip('app', '$lsn')");
like($err, qr/WARNING:  the leader's transaction committed at \Q$lsn\E will be passed/, 'it warns');
wait_for_copy($follower);
wait_until('the stream', sub { $follower->safe_psql('postgres', 'SELECT count(*) FROM other') eq '2' });
is($follower->safe_psql('postgres', 'SELECT v FROM t'), 'two', 'tables that it changed are copied again');
like(slurp_file($follower->logfile, $log), qr/WARNING:  passed the leader's transaction committed at \Q$lsn\E, which is not applied\n.*Tables to be copied again: public.other, public.t\./, 'the log says so');
is($follower->safe_psql('postgres', q{SELECT count(*) FROM fanout.verify('app') WHERE NOT equal}), '0', 'all is equal');
like(skip_error(q{'app'}, "'$lsn'"), qr/55000: /, 'it fails no more');

# ---------- one that would skip the next, too ----------

$follower->safe_psql('postgres', 'CREATE TABLE here2 (id int); CREATE TABLE here3 (id int)');
$leader->safe_psql('postgres', 'CREATE TABLE here2 (id int PRIMARY KEY)');
$leader->safe_psql('postgres', 'CREATE TABLE here3 (id int PRIMARY KEY)');
$lsn = failing('here2');
$follower->safe_psql('postgres', "SELECT fanout.skip('app', '$lsn')");
my $next = failing('here3');
isnt($next, $lsn, 'the next one that fails is another');
like(skip_error(q{'app'}, "'$lsn'"), qr/22023: /, '... and is not skipped by the first');

# Also after a crash, and a restart.
$follower->restart('immediate');
is(failing('here3'), $next, 'after a crash');
$follower->safe_psql('postgres', "SELECT fanout.skip('app', '$next')");
$leader->safe_psql('postgres', 'INSERT INTO other VALUES (3)');
wait_until('the stream', sub { $follower->safe_psql('postgres', 'SELECT count(*) FROM other') eq '3' });
pass('the stream goes on');
$follower->restart;
$leader->safe_psql('postgres', 'INSERT INTO other VALUES (4)');
wait_until('the stream', sub { $follower->safe_psql('postgres', 'SELECT count(*) FROM other') eq '4' });
pass('... and after a restart');

# ---------- a column that is missing since ----------

$follower->safe_psql('postgres', 'SET fanout.guard = off; ALTER TABLE t ADD COLUMN x int');
$leader->safe_psql('postgres', 'ALTER TABLE t ADD COLUMN x text');
$lsn = failing('already exists');
$follower->safe_psql('postgres', "SELECT fanout.skip('app', '$lsn')");
$leader->safe_psql('postgres', q{UPDATE t SET x = '7'; INSERT INTO other VALUES (5)});
wait_until('the stream', sub { $follower->safe_psql('postgres', 'SELECT count(*) FROM other') eq '5' });
pass('other tables go on');

$_->stop for $follower, $leader;
done_testing();
