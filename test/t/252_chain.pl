# A follower that leads a stream of the tables that it follows: who follows that is at least as stale as
# the first leader's followers are.  What such a database leads of its own is not concerned.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use Test::More;

my $first = new_leader('first');
$first->safe_psql('postgres', q{CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 0);
	CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE part PARTITION OF parted DEFAULT});
my $middle = new_follower('middle');
follow($middle, $first);
wait_for_copy($middle);
$middle->safe_psql('postgres', q{
	CREATE TABLE own (id int PRIMARY KEY);
	CREATE SCHEMA mine; CREATE TABLE mine.own (id int PRIMARY KEY);
	CREATE PUBLICATION of_own FOR TABLE own, TABLES IN SCHEMA mine;
	CREATE PUBLICATION of_part FOR TABLE part;
	SELECT fanout.create_stream('app'); SELECT fanout.create_stream('own', '{of_own}'); SELECT fanout.create_stream('part', '{of_own, of_part}')});
$middle->safe_psql('postgres', 'CREATE DATABASE other');
$middle->safe_psql('other', q{CREATE EXTENSION pg_fanout; SELECT fanout.create_stream('app')});
my %last;
for my $stream ('app', 'own', 'part')
{
	$last{$stream} = new_follower("last_$stream");
	my $conninfo = conninfo($middle) =~ s/'/''/gr;
	$last{$stream}->safe_psql('postgres', "SELECT fanout.follow('$stream', '$conninfo')");
	$last{$stream}->safe_psql('postgres', "SELECT fanout.wait_for_copy('$stream')");
}
my $strong = q{SET fanout.stale_read_timeout = '120s'; SET fanout.max_staleness = 0};
my $read = 'SELECT v FROM t WHERE id = 1';

# Strong reads at the end of the chain see what was acknowledged at its beginning.
my @wrong;
for my $i (1 .. 30)
{
	$first->safe_psql('postgres', "UPDATE t SET v = $i WHERE id = 1");
	my $seen = $last{app}->safe_psql('postgres', "$strong; $read");
	push @wrong, "$seen instead of $i" if $seen != $i;
}
is_deeply(\@wrong, [], 'strong reads through two streams');

# The middle stands: what the first leader acknowledges from now on is not there, and nobody says so.
$middle->safe_psql('postgres', q{SELECT fanout.pause('app')});
state_is($middle, 'paused');
my $moment = $first->safe_psql('postgres', 'UPDATE t SET v = 31 WHERE id = 1; SELECT clock_timestamp()');
wait_until('the stream of own tables to be proven fresh', sub {
		$last{own}->safe_psql('postgres', "SELECT as_of > '$moment' FROM fanout.staleness") eq 't' });
pass('own tables are not concerned');
$middle->safe_psql('postgres', 'INSERT INTO own SELECT generate_series(1, 100)');
wait_until('rows of the middle itself to come', sub { $last{app}->safe_psql('postgres', 'SELECT count(*) FROM own') == 100 });
for my $stream ('app', 'part')
{
	is($last{$stream}->safe_psql('postgres', "SELECT state, coalesce(as_of < '$moment', true) FROM fanout.staleness"), 'streaming|t',
		"stream $stream: no view says that it shows what was acknowledged since");
}
for my $bound ('0', '1ms')
{
	my ($rc, $out, $err) = $last{app}->psql('postgres', "SET fanout.stale_read_timeout = '300ms'; SET fanout.max_staleness = '$bound'; $read");
	like($err, qr/too stale/, "a bound of $bound is not kept");
}
my $stale = $middle->safe_psql('postgres', 'SELECT staleness FROM fanout.staleness');
is($middle->safe_psql('postgres', qq{SELECT count(*), bool_and(coalesce(staleness >= '$stale', true)) FROM fanout.followers WHERE stream IN ('app', 'part')}),
	'2|t', 'nor does the middle think so of its followers');

# More questions than a follower remembers come meanwhile.
$last{app}->append_conf('postgresql.conf', 'fanout.heartbeat_interval = 10ms');
$last{app}->reload;
sleep 2;
is($last{app}->safe_psql('postgres', "SELECT state, as_of < '$moment' FROM fanout.staleness"), 'streaming|t', 'it goes on to listen');

$middle->safe_psql('postgres', q{SELECT fanout.resume('app')});
is($last{app}->safe_psql('postgres', "$strong; $read"), 31, 'a strong read once the middle goes on');
wait_until("stream $_ to be fresh", sub { $last{$_}->safe_psql('postgres', "SELECT as_of > '$moment' FROM fanout.staleness") eq 't' }) for 'app', 'part';

# Publications that come to publish what is followed count at once.
$middle->safe_psql('postgres', q{SELECT fanout.pause('app')});
state_is($middle, 'paused');
$middle->safe_psql('postgres', 'ALTER PUBLICATION of_own ADD TABLE t');
$moment = $first->safe_psql('postgres', 'UPDATE t SET v = 32 WHERE id = 1; SELECT clock_timestamp()');
is($last{own}->safe_psql('postgres', "SELECT coalesce(as_of < '$moment', true) FROM fanout.staleness"), 't',
	'a stream that has got a followed table is as stale as that') for 1 .. 5;
$middle->safe_psql('postgres', q{SELECT fanout.resume('app')});
is($last{own}->safe_psql('postgres', "SELECT fanout.wait_for_copy('own')"), 't', 'the table is copied');
is($last{own}->safe_psql('postgres', "$strong; $read"), 32, 'and read');
done_testing();
