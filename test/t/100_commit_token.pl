# The token of a commit comes with the commit's own ReadyForQuery, and finds that commit.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use Test::More;

my $leader = new_leader('leader', 'max_prepared_transactions = 5');
$leader->safe_psql('postgres', q{
	CREATE TABLE t (id int PRIMARY KEY);
	CREATE PROCEDURE insert_and_commit(a int, b int) LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO t VALUES (a);
		COMMIT;
		INSERT INTO t VALUES (b);
		ROLLBACK;
	END $$});
my $follower = new_follower('follower');
follow($follower, $leader);
wait_for_copy($follower);

# Each: what is sent, the row that it commits (0: none), the row it must not bring.
my @steps = (
	[ 'simple SELECT 1', 0 ],
	[ 'simple INSERT INTO t VALUES (1)', 1 ],
	[ 'simple SELECT count(*) FROM t', 0 ],
	[ 'extended INSERT INTO t VALUES (2)', 2 ],
	[ 'extended SELECT count(*) FROM t', 0 ],
	[ 'prepare INSERT INTO t SELECT max(id) + 1 FROM t', 0 ],
	[ 'execute', 3 ],
	[ 'simple BEGIN', 0 ],
	[ 'simple INSERT INTO t VALUES (4)', 0 ],
	[ 'simple COMMIT', 4 ],
	[ 'simple BEGIN; INSERT INTO t VALUES (5); COMMIT', 5 ],
	[ 'simple BEGIN', 0 ],
	[ 'simple INSERT INTO t VALUES (6)', 0 ],
	[ 'simple COMMIT AND CHAIN', 6 ],
	[ 'simple INSERT INTO t VALUES (7)', 0 ],
	[ 'simple COMMIT AND CHAIN', 7 ],
	[ 'simple ROLLBACK', 0 ],
	[ 'simple BEGIN; INSERT INTO t VALUES (1000); ROLLBACK', 0 ],
	[ 'simple INSERT INTO t VALUES (1)', 0 ],    # a duplicate
	[ 'simple BEGIN; SELECT count(*) FROM t; COMMIT', 0 ],
	[ 'simple CALL insert_and_commit(8, 1001)', 8 ],
	[ 'simple DO $$BEGIN INSERT INTO t VALUES (9); COMMIT; END$$', 9 ],
	[ 'simple INSERT INTO t VALUES (10); INSERT INTO t VALUES (11)', 11 ],
	[ 'simple BEGIN; SAVEPOINT s; INSERT INTO t VALUES (12); RELEASE s; COMMIT', 12 ],
	[ 'simple BEGIN; INSERT INTO t VALUES (13); PREPARE TRANSACTION \'gid\'', 0 ],
	[ 'simple COMMIT PREPARED \'gid\'', 13 ],
	[ 'simple SET synchronous_commit = off; INSERT INTO t VALUES (14)', 14 ],
	[ 'simple COPY t TO STDOUT', 0 ],
	[ 'simple SET fanout.commit_token = 1', 0 ],
	[ 'simple SHOW fanout.commit_token', 0 ],
	[ 'simple VACUUM t', -1 ],                   # commits, but no row
	[ 'simple INSERT INTO t VALUES (15)', 15 ]);

my @results = session($leader, map { $_->[0] } @steps);
is(scalar @results, scalar @steps, 'each line has an answer');
my $last = '';
for my $i (0 .. $#steps)
{
	my ($line, $row) = @{ $steps[$i] };
	my ($tag, $value, $token) = @{ $results[$i] };
	if ($row > 0)
	{
		isnt($token, $last, "$line: a new token");
		# In one string, so that both see one follower: the wait, then the row.
		my @found = session($follower, "simple SELECT fanout.wait_for('$token', '60s')",
			"simple SELECT count(*) FROM t WHERE id = $row");
		is("$found[0][1] $found[1][1]", 't 1', '... which finds the row');
	}
	elsif ($row == 0)
	{
		is($token, $last, "$line: no new token");
	}
	$last = $token;
}
is($results[-3][1], $results[-4][2], 'SHOW says what was reported');
is($results[-4][0], 'ERROR 55P02', 'nobody sets it');
is($results[18][0], 'ERROR 23505', 'the failed statement failed');

# A session that begins has none; one that is not on a leader never gets one.
is((session($leader, 'simple SELECT 1'))[0][2], '', 'no token before the first commit');
$follower->safe_psql('postgres', 'CREATE DATABASE other');
is((session($follower, 'simple CREATE TABLE local (a int)'))[0][2], '', 'no token on a follower');

# Tokens of other leaders never pass: another database of the same server, another server.
$leader->safe_psql('postgres', 'CREATE DATABASE other');
$leader->safe_psql('other', q{CREATE EXTENSION pg_fanout; SELECT fanout.create_stream('app')});
my $of_database = $leader->safe_psql('other', 'CREATE TABLE x (a int); SELECT fanout.token()');
my $second = new_leader('second');
my $of_server = $second->safe_psql('postgres', 'CREATE TABLE x (a int); SELECT fanout.token()');
for my $token ($of_database, $of_server)
{
	my ($rc, $out, $err) = $follower->psql('postgres', "SELECT fanout.wait_for('$token', '0s')");
	like($err, qr/the token is not from the leader that this database follows/, 'refused by wait_for');
	($rc, $out, $err) = $follower->psql('postgres', "SET fanout.read_after = '$token'; SELECT count(*) FROM t");
	like($err, qr/the token is not from the leader that this database follows/, 'refused by read_after');
	($rc, $out, $err) = $leader->psql('postgres', "SELECT fanout.wait_for_followers(1, '$token', '0s')");
	like($err, qr/the token is not from this leader/, 'refused by the leader');
}
is($follower->safe_psql('postgres', q{SELECT fanout.wait_for('0/1', '0s')}), 't', 'a bare LSN, one stream');

# Following a second stream, a bare LSN is refused, a token finds its own.
my $conninfo = conninfo($second) =~ s/'/''/gr;
$second->safe_psql('postgres', q{SELECT fanout.create_stream('second')});
$follower->safe_psql('postgres', "SELECT fanout.follow('second', '$conninfo', follower => 'follower')");
wait_until('the second copy', sub { $follower->safe_psql('postgres',
		q{SELECT state = 'streaming' FROM fanout.staleness WHERE stream = 'second'}) eq 't' });
my ($rc, $out, $err) = $follower->psql('postgres', q{SELECT fanout.wait_for('0/1', '0s')});
like($err, qr/an LSN needs the name of a stream/, 'a bare LSN, two streams');
is($follower->safe_psql('postgres', q{SELECT fanout.wait_for('0/1', '0s', 'app')}), 't', '... named');
is($follower->safe_psql('postgres', "SELECT fanout.wait_for('$of_server', '60s')"), 't', 'a token finds its stream');

# A wait that is cancelled or timed out leaves nothing behind.
$follower->safe_psql('postgres', q{SELECT fanout.pause('app')});
state_is_paused();
my $ahead = $leader->safe_psql('postgres', 'INSERT INTO t VALUES (100); SELECT fanout.token()');
is($follower->safe_psql('postgres', "SELECT fanout.wait_for('$ahead', '100ms')"), 'f', 'timed out');
($rc, $out, $err) = $follower->psql('postgres', "SET statement_timeout = '100ms'; SELECT fanout.wait_for('$ahead', '1h')");
like($err, qr/canceling statement due to statement timeout/, 'cancelled');
my @timeouts = session($leader, q{simple SET statement_timeout = '100ms'},
	q{simple SELECT fanout.wait_for_followers(1, timeout => '1h')} =~ s/1, /1, '$ahead', /r, 'simple RESET statement_timeout',
	"simple SELECT fanout.wait_for_followers(1, '$ahead', '100ms')", 'simple SELECT 1');
is($timeouts[1][0], 'ERROR 57014', 'wait_for_followers is cancelled');
is($timeouts[3][1], '0', '... and times out');
is($timeouts[4][1], '1', '... and the session goes on');
$follower->safe_psql('postgres', q{SELECT fanout.resume('app')});
is($leader->safe_psql('postgres', "SELECT fanout.wait_for_followers(1, '$ahead', '60s')"), '1', 'then it has applied');

sub state_is_paused
{
	wait_until('the pause', sub { $follower->safe_psql('postgres',
			q{SELECT state = 'paused' FROM fanout.staleness WHERE stream = 'app'}) eq 't' });
	return;
}

done_testing();
