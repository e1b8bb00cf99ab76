# A slot that is made while others change the schema: the server takes a table for missing
# that was being made when it began to look.  Another slot is made then.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Utils;
use Test::More;

my $leader = new_server('leader', 'fanout.retry_interval = 100ms', 'autovacuum = off');
my $follower = new_follower('follower', 'fanout.retry_interval = 100ms');
$leader->safe_psql('postgres', 'CREATE EXTENSION pg_fanout; CREATE TABLE other (id int PRIMARY KEY)');
my ($old, $making, $writing) = map { $leader->background_psql('postgres', on_error_die => 1) } 1 .. 3;

# Messages of the server's: it has seen what runs; what ran then has ended; what runs since can be decoded.
sub until_found
{
	my ($what) = @_;
	wait_until("\"$what\"", sub { slurp_file($leader->logfile) =~ /logical decoding found $what/ });
	return;
}

$old->query_safe('BEGIN; SELECT pg_current_xact_id()');
$leader->safe_psql('postgres', q{SELECT fanout.create_stream('app')});
until_found('initial starting point');
$making->query_safe('BEGIN; CREATE TABLE t (id int PRIMARY KEY)');
$old->query_safe('COMMIT');
until_found('initial consistent point');
$writing->query_safe('BEGIN; INSERT INTO other VALUES (1)');
$making->query_safe('COMMIT');
$writing->query_safe('INSERT INTO t VALUES (1)');
until_found('consistent point');
$writing->query_safe('COMMIT');
$_->quit for $old, $making, $writing;

wait_until('the stream to go on', sub {
		my $lsn = $leader->safe_psql('postgres', 'SELECT fanout.flush_wal()');
		$leader->safe_psql('postgres', "SELECT state = 'streaming' AND decoded_lsn >= '$lsn' FROM fanout.streams") eq 't' });
pass('what can not be decoded is left behind');
follow($follower, $leader);
wait_for_copy($follower);
$leader->safe_psql('postgres', 'INSERT INTO t VALUES (2); INSERT INTO other VALUES (2)');
all_equal('a follower has it all', $leader, $follower);
is($follower->safe_psql('postgres', 'SELECT count(*) FROM t'), '2', '... also what was written at first');

$_->stop for $follower, $leader;
done_testing();
