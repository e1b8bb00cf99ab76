# now() in what the stream's processes run is when their transaction began, not when the process did.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use FindBin;
use File::Find;
use Test::More;

# Every transaction of ours is begun in one place, which sees to that.
my @callers;
find( { no_chdir => 1, wanted => sub {
			push @callers, $_ if /\.[ch]$/ && PostgreSQL::Test::Utils::slurp_file($_) =~ /\bStartTransactionCommand\b/ } },
	"$FindBin::Bin/../../src");
is_deeply([ map { s,.*/,,r } @callers ], ['transaction.h'], 'transactions are begun in one place');

my $leader = new_leader('leader');
my $follower = new_follower('follower');
$leader->safe_psql('postgres', q{
	CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1);
	CREATE TABLE triggered (id int PRIMARY KEY, v timestamptz);
	CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE part PARTITION OF parts FOR VALUES FROM (0) TO (1000);
	CREATE MATERIALIZED VIEW seen AS SELECT now() AS at, transaction_timestamp() = statement_timestamp() AS same});
follow($follower, $leader);
wait_for_copy($follower);
$follower->safe_psql('postgres', q{SET fanout.guard = off;
	ALTER TABLE t ADD at timestamptz DEFAULT now(); ALTER TABLE parts ADD at timestamptz DEFAULT now();
	CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.v := now(); RETURN NEW; END';
	CREATE TRIGGER stamp BEFORE INSERT ON triggered FOR EACH ROW EXECUTE FUNCTION stamp(); ALTER TABLE triggered ENABLE ALWAYS TRIGGER stamp});

# All in one process, with some time between.
my ($worker, $before);
for my $round (2 .. 3)
{
	$before = $follower->safe_psql('postgres', 'SELECT clock_timestamp()');
	$leader->safe_psql('postgres', "INSERT INTO t VALUES ($round, 1); INSERT INTO triggered VALUES ($round); INSERT INTO parts VALUES ($round); REFRESH MATERIALIZED VIEW seen");
	wait_for_catchup($leader, $follower);
	my $after = $follower->safe_psql('postgres', 'SELECT clock_timestamp()');
	is( $follower->safe_psql('postgres', qq{
			SELECT bool_and(at BETWEEN '$before' AND '$after') FROM (SELECT at FROM t WHERE id = $round
				UNION ALL SELECT v FROM triggered WHERE id = $round UNION ALL SELECT at FROM part WHERE id = $round UNION ALL SELECT at FROM seen) x}),
		't', "now() in defaults, triggers and a view, round $round");
	is($follower->safe_psql('postgres', q{SELECT same FROM seen}), 't', '... is the transaction and the statement');
	$worker //= worker_pid($follower);
	is(worker_pid($follower), $worker, '... of the same worker');
}

# A table that is copied beside the stream, and again.
for my $round (1 .. 2)
{
	$before = $follower->safe_psql('postgres', 'SELECT clock_timestamp()');
	$follower->safe_psql('postgres', q{SELECT fanout.resync('app', 't')});
	wait_for_copy($follower);
	wait_for_catchup($leader, $follower);
	is($follower->safe_psql('postgres', "SELECT bool_and(at > '$before') FROM t"), 't', "now() in a copy, round $round");
}
# What the views of the server say of our processes is not older than they are.
is($follower->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'pg_fanout %' AND xact_start < backend_start}), '0', 'transactions of our processes');

$_->stop for $leader, $follower;
done_testing();
