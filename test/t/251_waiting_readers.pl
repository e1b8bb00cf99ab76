# A reader that waits for the stream while that waits for a lock of the reader's transaction would never
# end: it fails at once, in whatever way it waits, and however many others wait in between.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use Test::More;

my $leader = new_leader('leader');
$leader->safe_psql('postgres', q{
	CREATE TABLE t (id int PRIMARY KEY, v int);
	CREATE TABLE u (id int PRIMARY KEY);
	INSERT INTO t VALUES (1, 0)});
my $follower = new_follower('follower');
follow($follower, $leader);
wait_for_copy($follower);
$follower->safe_psql('postgres', 'CREATE TABLE local (v int)');
my $long = "SET fanout.stale_read_timeout = '1h'; SET deadlock_timeout = '1h'";

sub open_session
{
	my $session = $follower->background_psql('postgres', on_error_stop => 0);
	$session->query('\set VERBOSITY sqlstate');
	$session->query($long);
	return $session;
}

sub waits_for_lock
{
	my ($what, $type) = @_;
	wait_until("$what to wait for a lock", sub {
			$follower->safe_psql('postgres', qq{SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND backend_type = '$type'}) > 0 });
	return;
}

# The reader holds a lock on t, and the stream brings a schema change of it.
my $columns = 0;
sub in_the_way
{
	my ($session, $lock) = @_;
	$session->query("BEGIN; $lock");
	$columns++;
	my $token = $leader->safe_psql('postgres', "ALTER TABLE t ADD COLUMN c$columns int; SELECT fanout.token()");
	waits_for_lock('the worker', 'pg_fanout follower');
	return $token;
}

sub fails
{
	my ($session, $query, $what) = @_;
	$session->query($query);
	like($session->{stderr}, qr/ERROR:  40P01/, "$what fails at once");
	$session->{stderr} = '';
	$session->query('ROLLBACK; RESET fanout.max_staleness; RESET fanout.read_after');
	return;
}

my $session = open_session();
my $lock = 'SELECT FROM t LIMIT 1';
in_the_way($session, $lock);
fails($session, 'SET fanout.max_staleness = 0; SELECT count(*) FROM u', 'a strong read');
in_the_way($session, $lock);
fails($session, "SELECT pg_sleep(0.3); SET fanout.max_staleness = '100ms'; SELECT count(*) FROM u", 'a bounded read');
my $token = in_the_way($session, $lock);
fails($session, "SET fanout.read_after = '$token'; SELECT count(*) FROM u", 'fanout.read_after');
$token = in_the_way($session, $lock);
fails($session, "SELECT fanout.wait_for('$token', '1h')", 'wait_for()');
$token = in_the_way($session, 'LOCK TABLE t IN ACCESS SHARE MODE; SAVEPOINT s');
fails($session, 'SET fanout.max_staleness = 0; COPY u TO STDOUT', 'COPY');
wait_for_catchup($leader, $follower);

# The stream waits for a session that waits for the reader.
my $between = open_session();
$session->query('BEGIN; LOCK TABLE local IN ACCESS EXCLUSIVE MODE');
$between->query("BEGIN; $lock");
$between->query_until(qr/sent/, "\\echo sent\nSELECT count(*) FROM local;\nCOMMIT;\n");
waits_for_lock('the session between', 'client backend');
$leader->safe_psql('postgres', 'ALTER TABLE t ADD COLUMN last int');
waits_for_lock('the worker', 'pg_fanout follower');
fails($session, 'SET fanout.max_staleness = 0; SELECT count(*) FROM u', 'a strong read that is waited for by another session');
wait_for_catchup($leader, $follower);

# A transaction that is to end well does so, whatever the stream waits for.
$session->query("SET fanout.max_staleness = 0");
$session->query("BEGIN ISOLATION LEVEL REPEATABLE READ; INSERT INTO local VALUES (1); $lock");
$leader->safe_psql('postgres', 'ALTER TABLE t DROP COLUMN last');
waits_for_lock('the worker', 'pg_fanout follower');
$session->query('COMMIT AND CHAIN');
is($session->{stderr}, '', 'COMMIT AND CHAIN does not fail');
is($follower->safe_psql('postgres', 'SELECT count(*) FROM local'), 1, 'and has committed');
$session->query('ROLLBACK');
$_->quit for $session, $between;
wait_for_catchup($leader, $follower);
$follower->safe_psql('postgres', 'DROP TABLE local');
same_data('after all that', $leader, $follower);
done_testing();
