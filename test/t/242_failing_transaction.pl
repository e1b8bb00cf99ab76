# A transaction that can't be applied takes those before it back once, not again and again.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use Test::More;

my $leader = new_leader('leader');
my $follower = new_follower('follower', 'fanout.retry_interval = 200', 'autovacuum = off');
$leader->safe_psql('postgres', q{
	CREATE TABLE a (id int PRIMARY KEY, v text);
	CREATE TABLE b (id int PRIMARY KEY, v int);
	CREATE TABLE late (id int PRIMARY KEY)});
follow($follower, $leader);
wait_for_copy($follower);

sub here { return $follower->safe_psql('postgres', "SET fanout.guard = off; $_[0]") }

# How often it has failed.
sub errors { my @all = PostgreSQL::Test::Utils::slurp_file($follower->logfile) =~ /ERROR:  .*?$_[0]/g; return scalar @all }

# What is committed on the leader meanwhile is applied by one local transaction, if it can be.
sub at_once
{
	my ($sql) = @_;
	$follower->safe_psql('postgres', q{SELECT fanout.pause('app')});
	state_is($follower, 'paused');
	$leader->safe_psql('postgres', $sql);
	$follower->safe_psql('postgres', q{SELECT fanout.resume('app')});
	return;
}

sub fails
{
	my ($what, $pattern, $times) = @_;
	wait_until("$what to fail", sub { errors($pattern) >= $times });
	return;
}

here('INSERT INTO b VALUES (1, 0); ALTER TABLE late ADD CHECK (id <> 7)');
at_once(join("\n", map { "INSERT INTO a SELECT $_ * 10 + g, repeat('x', 100) FROM generate_series(0, 9) g; UPDATE b SET v = $_ WHERE id = 0;" } 1 .. 300)
	  . "INSERT INTO b VALUES (1, 1); INSERT INTO a VALUES (-1, 'behind it'); INSERT INTO late VALUES (6); INSERT INTO late VALUES (7); INSERT INTO a VALUES (-2, 'behind both')");
fails('a key that is there', qr/duplicate key value/, 2);
is(here('SELECT count(*) FROM a'), '3000', 'the transactions before it are there while one fails');
my $size = here(q{SELECT pg_relation_size('a')});
fails('a key that is there', qr/duplicate key value/, errors(qr/duplicate key value/) + 3);
is(here(q{SELECT pg_relation_size('a')}), $size, '... and are not written again with each try');
like(here('SELECT last_error FROM fanout.staleness'), qr/duplicate key value.*relation "public\.b", key \(id\)=\(1\)/s, 'the error names it');

# The next one is behind a transaction that was in the group, too.
here('DELETE FROM b WHERE id = 1');
$follower->safe_psql('postgres', q{SELECT fanout.resume('app')});
fails('a constraint of the follower', qr/violates check constraint/, 2);
is(here('SELECT string_agg(id::text, chr(32)) FROM late'), '6', 'what comes between two that fail is there');
is(here('SELECT count(*) FROM a WHERE id = -1'), '1', '... and so on');
here('ALTER TABLE late DROP CONSTRAINT late_id_check');
$follower->safe_psql('postgres', q{SELECT fanout.resume('app')});
wait_for_catchup($leader, $follower);
same_data('once the causes are gone', $leader, $follower);

# Of collected changes of one row it is a later one that fails.
here('ALTER TABLE b ADD CHECK (v < 1000)');
at_once('INSERT INTO b VALUES (50, 1); INSERT INTO a VALUES (-3, 1); UPDATE b SET v = 5 WHERE id = 50; UPDATE b SET v = 2000 WHERE id = 50; INSERT INTO a VALUES (-4, 1)');
fails('the last of several changes', qr/"b" violates check constraint/, 2);
is(here('SELECT v FROM b WHERE id = 50'), '5', 'changes of the same row before the one that fails');
is(here('SELECT count(*) FROM a WHERE id IN (-3, -4)'), '1', '... and no later ones');
here('ALTER TABLE b DROP CONSTRAINT b_v_check');
$follower->safe_psql('postgres', q{SELECT fanout.resume('app')});
wait_for_catchup($leader, $follower);
same_data('... and once its cause is gone', $leader, $follower);

# Behind all that, transactions are applied together as before.
at_once(join '', map { "INSERT INTO a VALUES ($_, 'together');" } 10001 .. 10200);
wait_for_catchup($leader, $follower);
cmp_ok(here('SELECT count(DISTINCT xmin::text) FROM a WHERE id > 10000'), '<', 50, 'later transactions are applied together again');

$_->stop for $leader, $follower;
done_testing();
