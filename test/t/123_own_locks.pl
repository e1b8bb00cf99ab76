# A transaction that waits for the stream while the stream waits for a lock of that transaction is told
# so: the server sees no deadlock there.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Cluster;
use Test::More;

my $leader = new_leader('leader');
my $follower = new_follower('follower');
$leader->safe_psql('postgres', 'CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)');
follow($follower, $leader);
all_equal('at first', $leader, $follower);

my $session = $follower->background_psql('postgres', on_error_stop => 0);
$session->query_safe(q{SET statement_timeout = '5s'});

# The session has read the table; then something of the stream's needs it alone.
sub is_told
{
	my ($what, $cause, $statement) = @_;
	$session->query_safe('BEGIN; SELECT count(*) FROM t');
	$cause->();
	wait_until('the stream to wait for the lock', sub {
			$follower->safe_psql('postgres', q{SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND NOT granted}) });
	$session->query($statement);
	like($session->{stderr}, qr/stream "app" waits for a lock that this transaction holds/, $what);
	$session->{stderr} = '';
	$session->query_safe('ROLLBACK');
	all_equal("after $what", $leader, $follower);
	return;
}

is_told('verify()', sub { $leader->safe_psql('postgres', 'TRUNCATE t') }, q{SELECT fanout.verify('app')});
is_told('wait_for_copy()', sub { $follower->safe_psql('postgres', q{SELECT fanout.resync('app')}) },
	q{SELECT fanout.wait_for_copy('app')});

# One verification keeps its locks for the next one.
$session->query_safe(q{BEGIN; SELECT fanout.verify('app')});
$leader->safe_psql('postgres', 'TRUNCATE t');
$session->query(q{SELECT pg_sleep(1); SELECT fanout.verify('app')});
like($session->{stderr}, qr/waits for a lock that this transaction holds/, 'verify() twice in a transaction');
$session->query('ROLLBACK');
is($follower->safe_psql('postgres', q{SELECT bool_and(equal) FROM fanout.verify('app')}), 't', 'the next one works');

$session->quit;
$_->stop for $follower, $leader;
done_testing();
