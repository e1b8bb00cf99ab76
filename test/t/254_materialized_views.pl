# Bounded reads of materialized views: those that the stream computed are as fresh as their tables,
# others fail.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use Test::More;

my $leader = new_leader('leader');
$leader->safe_psql('postgres', q{
	CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 0);
	CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE part PARTITION OF parted DEFAULT;
	CREATE VIEW plain AS SELECT v FROM t WHERE id = 1;
	CREATE MATERIALIZED VIEW m AS SELECT v FROM t WHERE id = 1;
	CREATE MATERIALIZED VIEW of_view AS SELECT v FROM plain WHERE v IN (SELECT v FROM m);
	CREATE UNIQUE INDEX ON m (v)});
my $follower = new_follower('follower');
follow($follower, $leader);
wait_for_copy($follower);
$follower->safe_psql('postgres', q{
	CREATE TABLE local (v int); INSERT INTO local VALUES (5);
	CREATE MATERIALIZED VIEW m_local AS SELECT v FROM local;
	CREATE MATERIALIZED VIEW m_table AS SELECT v FROM t;
	CREATE MATERIALIZED VIEW m_view AS SELECT * FROM plain;
	CREATE MATERIALIZED VIEW m_matview AS SELECT * FROM of_view;
	CREATE MATERIALIZED VIEW m_sublink AS SELECT v FROM local WHERE EXISTS (SELECT FROM t);
	CREATE MATERIALIZED VIEW m_cte AS WITH x AS (SELECT v FROM t UNION SELECT v FROM local) SELECT * FROM x;
	CREATE MATERIALIZED VIEW m_part AS SELECT id FROM part;
	CREATE VIEW over AS SELECT * FROM m_table;
	CREATE FUNCTION read_m() RETURNS bigint LANGUAGE sql VOLATILE AS 'SELECT count(*) FROM m_table'});
my $strong = q{SET fanout.stale_read_timeout = '120s'; SET fanout.max_staleness = 0};
my $brief = q{SET fanout.stale_read_timeout = '20ms'; SET fanout.max_staleness = 0};

sub result
{
	my ($settings, $query) = @_;
	my @results = session($follower, "simple $settings", map { "simple $_" } ref $query ? @$query : $query);
	return $results[-1][0] =~ /^ERROR (\w+)/ ? $1 : $results[-1][1];
}

for my $i (1 .. 20)
{
	my $how = $i % 2 ? 'CONCURRENTLY' : '';
	$leader->safe_psql('postgres', "UPDATE t SET v = $i WHERE id = 1; REFRESH MATERIALIZED VIEW $how m; REFRESH MATERIALIZED VIEW of_view");
	my ($m, $of_view);
	# A reader that has the view locked when the stream refreshes it has to try again.
	wait_until('a strong read', sub { ($m = result($strong, 'SELECT v FROM m')) ne '40P01' });
	wait_until('a strong read', sub { ($of_view = result($strong, 'SELECT v FROM of_view')) ne '40P01' });
	is("$m $of_view", "$i $i", "what was refreshed is there, $i") if $m ne $i || $of_view ne $i || $i == 20;
}

# What somebody else has computed here.
for my $view ('m_table', 'm_view', 'm_matview', 'm_sublink', 'm_cte', 'm_part', 'over')
{
	is(result($strong, "SELECT count(*) FROM $view"), 'FO002', "a strong read of $view fails");
	is(result("SET fanout.max_staleness = '20d'", "SELECT count(*) FROM $view"), 'FO002', "and any bounded read of $view");
	is(result("SET fanout.read_after = '0/1'", "SELECT count(*) FROM $view"), 'FO002', "and one with a token of $view");
	isnt(result('SET fanout.max_staleness = -1', "SELECT count(*) FROM $view"), 'FO002', "without a bound $view is read");
}
is(result($strong, 'SELECT read_m()'), 'FO002', 'in a function');
is(result($strong, 'COPY (SELECT * FROM m_table) TO STDOUT'), 'FO002', 'in COPY');
is(result($strong, 'SELECT v FROM m_local'), 5, 'one of local tables only is not bounded');
isnt(result($strong, "REFRESH MATERIALIZED VIEW $_"), 'FO002', "but $_ can be refreshed") for 'm_table', 'm_matview';
$follower->safe_psql('postgres', 'CREATE UNIQUE INDEX ON m_table (v)');
isnt(result($strong, 'REFRESH MATERIALIZED VIEW CONCURRENTLY m_table'), 'FO002', 'concurrently, too');

# The stream's is somebody else's when he refreshes it, until the stream does so again.
is(result($strong, [ 'BEGIN', 'REFRESH MATERIALIZED VIEW m', 'ROLLBACK', 'SELECT v FROM m' ]), 20, 'a refresh that is rolled back');
$follower->safe_psql('postgres', 'REFRESH MATERIALIZED VIEW m');
is(result($strong, 'SELECT v FROM m'), 'FO002', 'refreshed by somebody else');
$leader->safe_psql('postgres', 'REFRESH MATERIALIZED VIEW m');
wait_for_catchup($leader, $follower);
is(result($strong, 'SELECT v FROM m'), 20, 'refreshed by the stream again');

# It is bounded as its tables are.
$follower->safe_psql('postgres', q{SELECT fanout.pause('app')});
state_is($follower, 'paused');
my $token = $leader->safe_psql('postgres', q{UPDATE t SET v = 21 WHERE id = 1; REFRESH MATERIALIZED VIEW m; SELECT fanout.token()});
is(result($brief, "SELECT v FROM $_"), 'FO002', "a follower that stands: $_") for 'm', 'of_view';
is(result("SET fanout.stale_read_timeout = '20ms'; SET fanout.read_after = '$token'", 'SELECT v FROM m'), 'FO002', 'the same with a token');
$follower->safe_psql('postgres', q{SELECT fanout.resync('app'); SELECT fanout.resume('app')});
wait_for_copy($follower);
wait_for_catchup($leader, $follower);
is(result($strong, 'SELECT v FROM m'), 21, 'a copy of all tables does not keep the stream from refreshing it');
# Statements of the stream that a copy which begins anew leaves out may have been such.
$leader->safe_psql('postgres', q{SELECT fanout.drop_follower('app', 'follower')});
wait_until('the follower to be told', sub { $follower->safe_psql('postgres', q{SELECT last_error LIKE '%was dropped%' FROM fanout.staleness}) eq 't' });
$follower->safe_psql('postgres', q{SELECT fanout.resync('app')});
wait_for_copy($follower);
wait_for_catchup($leader, $follower);
is(result($strong, 'SELECT v FROM m'), 'FO002', 'after a copy of all tables that began anew');
$leader->safe_psql('postgres', 'REFRESH MATERIALIZED VIEW m');
wait_for_catchup($leader, $follower);
is(result($strong, 'SELECT v FROM m'), 21, 'and after the next refresh');
done_testing();
