# A row filter that fails at a row: its table is set aside, and both sides say so.  Nothing is
# held back for it, the rest of the stream goes on, and the table comes back when the filter does not
# fail any more.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Utils;
use Test::More;

my $leader = new_server('leader', 'fanout.max_retention = 20MB', 'fanout.retry_interval = 100', 'min_wal_size = 32MB');
$leader->safe_psql('postgres', q{CREATE EXTENSION pg_fanout;
	CREATE TABLE t (id int PRIMARY KEY, price int); CREATE TABLE other (id int, pad text);
	CREATE PUBLICATION cheap FOR TABLE t WHERE (100 / price > 5), other WITH (publish = 'insert');
	INSERT INTO t VALUES (1, 10), (2, 50);
	SELECT fanout.create_stream('app', '{cheap}')});
my $follower = new_follower('follower', 'fanout.retry_interval = 100');
follow($follower, $leader);
wait_for_copy($follower);
$leader->safe_psql('postgres', 'INSERT INTO t VALUES (3, 11), (4, 51)');
wait_for_catchup($leader, $follower);

sub ids { return $_[0]->safe_psql('postgres', q{SELECT string_agg(id::text, ' ' ORDER BY id) FROM t}); }
is(ids($follower), '1 3', 'the filter works');

$leader->safe_psql('postgres', 'INSERT INTO t VALUES (5, 0)');
wait_until('the error', sub { $leader->safe_psql('postgres', 'SELECT last_error FROM fanout.streams') =~ /division by zero/ });
pass('the stream says why it fails');
wait_until('the follower to say so', sub { $follower->safe_psql('postgres', 'SELECT last_error FROM fanout.staleness') =~ /public\.t/ });
wait_until('several failures', sub { (() = slurp_file($leader->logfile) =~ /ERROR:  division by zero/g) >= 3 });
is($follower->safe_psql('postgres', q{SELECT staleness IS NULL FROM fanout.table_staleness WHERE relation = 't'::regclass}), 't',
	'nobody knows how stale the table is');

$leader->safe_psql('postgres', q{INSERT INTO other SELECT g, repeat('x', 1000) FROM generate_series(1, 25000) g});
wait_until('the rest', sub { $follower->safe_psql('postgres', 'SELECT count(*) FROM other') eq '25000' });
pass('the rest of the stream goes on');
wait_until('the WAL to be let go', sub { $leader->safe_psql('postgres', q{
			SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) < 10 * 1024 * 1024 FROM pg_replication_slots}) eq 't' });
pass('the WAL is let go of');
unlike(slurp_file($leader->logfile), qr/goes on without what can't be decoded/, 'nothing is given up');

$leader->safe_psql('postgres', 'ALTER PUBLICATION cheap SET TABLE t WHERE (price < 20), other');
$leader->safe_psql('postgres', 'INSERT INTO t VALUES (6, 12)');
wait_until('the new copy', sub { (eval { ids($follower) } // '') eq '1 3 5 6' });
pass('the table is copied again');
wait_for_copy($follower);
$leader->safe_psql('postgres', 'INSERT INTO t VALUES (7, 13), (8, 53)');
wait_for_catchup($leader, $follower);
is(ids($follower), '1 3 5 6 7', '... and goes on');
is($leader->safe_psql('postgres', 'SELECT state FROM fanout.streams'), 'streaming', 'all is well');

$_->stop for $follower, $leader;
done_testing();
