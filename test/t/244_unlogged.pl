# Tables that a crash of the follower would empty are refused, however they came to be so.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use Test::More;

my $leader = new_leader('leader');
$leader->safe_psql('postgres', q{
	CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT g, g FROM generate_series(1, 1000) g; CREATE TABLE other (id int PRIMARY KEY); INSERT INTO other VALUES (1);
	CREATE TABLE quiet (id int PRIMARY KEY); INSERT INTO quiet VALUES (1);
	CREATE TABLE parts (id int PRIMARY KEY, v int); INSERT INTO parts VALUES (1, 1), (11, 1);
	CREATE TABLE leaves (id int PRIMARY KEY); INSERT INTO leaves VALUES (1)});
my $follower = new_follower('follower', 'fanout.retry_interval = 200');
$follower->safe_psql('postgres', q{
	CREATE UNLOGGED TABLE t (id int PRIMARY KEY, v int); CREATE TABLE other (id int PRIMARY KEY); CREATE TABLE quiet (id int PRIMARY KEY); CREATE TABLE leaves (id int PRIMARY KEY);
	CREATE TABLE parts (id int PRIMARY KEY, v int) PARTITION BY RANGE (id);
	CREATE TABLE low PARTITION OF parts FOR VALUES FROM (0) TO (10); CREATE UNLOGGED TABLE high PARTITION OF parts FOR VALUES FROM (10) TO (100)});

sub here { return $follower->safe_psql('postgres', "SET fanout.guard = off; $_[0]") }

# Partitions are this follower's own.
sub same_rows
{
	my ($what) = @_;
	wait_for_copy($follower);
	wait_for_catchup($leader, $follower);
	my $rows = join ' UNION ALL ', map { "SELECT '$_', count(*), sum(hashtext(x::text)) FROM $_ x" } qw(t other quiet parts leaves);
	is(here($rows), $leader->safe_psql('postgres', $rows), $what);
	return;
}

sub fails
{
	my ($table) = @_;
	wait_until("$table to be refused", sub { $follower->safe_psql('postgres', 'SELECT last_error FROM fanout.staleness') =~ /cannot replicate into relation "public.$table": It is not logged/ });
	pass("$table is refused");
	return;
}

# ---------- tables that were there ----------
follow($follower, $leader, 'copy_schema => false');
wait_until('an error', sub { here('SELECT last_error FROM fanout.staleness') =~ /not logged/ });
is($follower->safe_psql('postgres', 'SELECT staleness IS NULL FROM fanout.staleness'), 't', 'the follower does not say how stale it is');
here('ALTER TABLE t SET LOGGED');
fails('high');
here('ALTER TABLE high SET LOGGED');
same_rows('once all are logged');

# ---------- made so later, here ----------
for my $guard ('on', 'off')
{
	for my $table (qw(t high quiet))
	{
		my ($rc, $out, $err) = $follower->psql('postgres', "SET fanout.guard = $guard; ALTER TABLE $table SET UNLOGGED");
		like($err, $guard eq 'on' ? qr/cannot execute ALTER TABLE on replicated table "$table"/ : qr/replicated table "$table" must stay logged/, "SET UNLOGGED of $table with the guard $guard");
	}
}
my (undef, undef, $err) = $follower->psql('postgres', q{SET fanout.guard = off; DO $$ BEGIN EXECUTE 'ALTER TABLE quiet ALTER id SET DEFAULT 1, SET UNLOGGED'; END $$});
like($err, qr/must stay logged/, '... within other statements');
here('CREATE TABLE local (id int); ALTER TABLE local SET UNLOGGED; DROP TABLE local');

# By ways that no hook sees: the next start finds it, also of a table that nothing is changed in.
$follower->stop;
PostgreSQL::Test::Utils::command_ok([ 'sh', '-c', qq{echo "ALTER TABLE quiet SET UNLOGGED" | postgres --single -D '@{[ $follower->data_dir ]}' postgres -c shared_preload_libraries= >/dev/null} ], 'a table is made unlogged past the hooks');
$follower->start;
fails('quiet');
$leader->safe_psql('postgres', 'INSERT INTO t VALUES (2001, 1); INSERT INTO quiet VALUES (2)');
wait_until('other tables to go on', sub { here('SELECT count(*) FROM t WHERE id = 2001') eq '1' });
isnt(here(q{SELECT state FROM fanout.table_staleness WHERE relation = 'quiet'::regclass}), 'streaming', 'the table is not in line with the stream');
$follower->stop('immediate');
$follower->start;
wait_until('the server to be up', sub { here('SELECT count(*) FROM quiet') eq '0' });
fails('quiet');
($err) = ($follower->psql('postgres', q{SET fanout.max_staleness = '1h'; SELECT count(*) FROM quiet}))[2];
like($err, qr/stale/, '... and no bound passes');
here('ALTER TABLE quiet SET LOGGED');
same_rows('once it is logged');

# A partition that is attached later.
here('CREATE UNLOGGED TABLE higher (id int PRIMARY KEY, v int); ALTER TABLE parts ATTACH PARTITION higher FOR VALUES FROM (100) TO (1000)');
$leader->safe_psql('postgres', 'INSERT INTO parts VALUES (150, 1)');
fails('higher');
here('ALTER TABLE higher SET LOGGED');
same_rows('a partition that is attached and made logged later');

# ---------- made so later, on the leader ----------
$leader->safe_psql('postgres', 'ALTER TABLE leaves SET UNLOGGED; INSERT INTO leaves VALUES (2)');
wait_for_catchup($leader, $follower);
is(here(q{SELECT count(*) FROM fanout.table_staleness WHERE relation = 'leaves'::regclass}), '0', 'a table that is not logged on the leader leaves the stream');
$follower->stop('immediate');
$follower->start;
wait_for_catchup($leader, $follower);
is(here('SELECT count(*) FROM leaves'), '0', '... and is empty after a crash, as there');
$leader->safe_psql('postgres', 'ALTER TABLE leaves SET LOGGED');
wait_for_catchup($leader, $follower);
same_rows('until it is logged again');
is(here('SELECT count(*) FROM leaves'), '2', '... with all its rows');

$_->stop for $leader, $follower;
done_testing();
