# DROP EXTENSION and CREATE EXTENSION in one script: what is made right after that has nothing to
# do with what was there before, whose workers have not cleaned up by then.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use Test::More;
use Time::HiRes qw(usleep);

my $rounds = 20;
my $anew = 'DROP EXTENSION IF EXISTS pg_fanout; CREATE EXTENSION pg_fanout;';
my $leader = new_server('leader', 'fanout.retry_interval = 200ms');
$leader->safe_psql('postgres', q{CREATE EXTENSION pg_fanout;
	CREATE TABLE a (v text PRIMARY KEY); CREATE PUBLICATION p_a FOR TABLE a;
	CREATE TABLE b (v text PRIMARY KEY); CREATE PUBLICATION p_b FOR TABLE b});

sub value
{
	my ($node, $query) = @_;
	return $node->safe_psql('postgres', $query);
}

sub hints
{
	my ($node) = @_;
	my @hints = glob($node->data_dir . '/pg_fanout/*/*-*');
	return @hints;
}

# Does the last hint disappear within a second?
sub wait_until_gone
{
	my ($node) = @_;
	for (1 .. 10)
	{
		return 1 if hints($node) == 0;
		usleep(100_000);
	}
	return 0;
}

# What an old stream has had is not in the new one.
my ($wrong_rows, $wrong_followers) = (0, 0);
for my $round (1 .. $rounds)
{
	value($leader, "SELECT fanout.create_stream('a', '{p_a}')");
	wait_until('the old stream', sub { value($leader, q{SELECT state FROM fanout.streams}) eq 'streaming' });
	value($leader, "SELECT fanout.register_follower('a', 'old', gen_random_uuid(), NULL, NULL);
		INSERT INTO a VALUES ('secret $round'); SELECT fanout.flush_wal()");
	wait_until('the row', sub { value($leader, q{SELECT transactions > 0 FROM fanout.streams}) eq 't' });

	value($leader, "SELECT fanout.drop_stream('a', true); $anew SELECT fanout.create_stream('b', '{p_b}')");
	wait_until('the new stream', sub {
			value($leader, q{SELECT state FROM fanout.streams}) eq 'streaming' && hints($leader) == 1 });
	$wrong_rows++ if grep { PostgreSQL::Test::Utils::slurp_file($_) =~ /secret $round/ } map { glob("$_/*.seg") } hints($leader);
	$wrong_followers += value($leader, 'SELECT count(*) FROM fanout.followers');
	value($leader, "SELECT fanout.drop_stream('b')");
}
is($wrong_rows, 0, 'a new stream has no rows of an old one');
is($wrong_followers, 0, '... nor its followers');
wait_until('the slots to go', sub { value($leader, 'SELECT count(*) FROM pg_replication_slots') eq '0' });
is(scalar(hints($leader)), 0, 'nothing is left of the streams');

# A follower that follows again at once does.
value($leader, "SELECT fanout.create_stream('a', '{p_a}')");
my $conninfo = conninfo($leader) =~ s/'/''/gr;
my $follower = new_server('follower', 'fanout.retry_interval = 200ms');
value($follower, 'CREATE TABLE a (v text PRIMARY KEY)');
for my $round (1 .. $rounds)
{
	value($follower, "$anew SELECT fanout.follow('a', '$conninfo', 'follower $round', copy_schema => false, copy_data => false)");
	wait_until("round $round to stream", sub { value($follower, 'SELECT state FROM fanout.staleness') eq 'streaming' });
	value($leader, "INSERT INTO a VALUES ('row $round')");
	wait_until("the row of round $round", sub { value($follower, "SELECT count(*) FROM a WHERE v = 'row $round'") eq '1' });
}
pass('follow() right after CREATE EXTENSION starts each time');
wait_until('the old workers to clean up', sub {
		hints($follower) == 1 && value($follower, 'SELECT count(*) FROM pg_replication_origin') eq '1' });
pass('nothing is left of what was followed before');

# A launcher that comes by while the extension is not committed yet leaves its streams alone.
value($follower, 'DROP EXTENSION pg_fanout');
wait_until('the worker to clean up', sub { hints($follower) == 0 });
my ($in, $out, $err) = ('', '', '');
my $open = IPC::Run::start([ 'psql', '-XAtq', '-d', conninfo($follower) ], '<', \$in, '>', \$out, '2>', \$err);
$in = "BEGIN; CREATE EXTENSION pg_fanout;
	SELECT fanout.follow('a', '$conninfo', 'uncommitted', copy_schema => false, copy_data => false);\n\\echo followed\n";
$open->pump until $out =~ /followed/ || !$open->pumpable;
is(scalar(hints($follower)), 1, 'a hint of an extension that is not committed');
value($follower, q{SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE backend_type = 'pg_fanout launcher'});
my $workers = q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_fanout follower'};
wait_until('a worker that looks for the row', sub { value($follower, $workers) eq '1' || hints($follower) == 0 });
ok(!wait_until_gone($follower), '... is kept');
$in .= "COMMIT;\n";
$open->finish;
is($err, '', '... until it is');
wait_until('the stream', sub { value($follower, 'SELECT state FROM fanout.staleness') eq 'streaming' });
pass('... and it streams');

$_->stop for $leader, $follower;
done_testing();
