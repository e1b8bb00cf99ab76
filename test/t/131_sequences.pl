# Sequences: a follower's are at or past the leader's whenever a transaction is visible.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use Test::More;

my $leader = new_server('leader');
$leader->safe_psql('postgres', q{
	CREATE EXTENSION pg_fanout;
	CREATE TABLE t (id serial PRIMARY KEY, other bigint GENERATED ALWAYS AS IDENTITY, v text);
	CREATE SCHEMA "Sch""ema"; CREATE SEQUENCE "Sch""ema"."Se""q uence";
	CREATE SEQUENCE down INCREMENT -5 MAXVALUE 1000 START 1000;
	CREATE SEQUENCE round MAXVALUE 50 CYCLE;
	CREATE SEQUENCE cached CACHE 10;
	CREATE SEQUENCE untouched START 77;
	CREATE UNLOGGED TABLE unlogged (id serial);
	CREATE TABLE parts (id serial, region int, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
	CREATE TABLE parts_1 PARTITION OF parts DEFAULT;
	CREATE TABLE local (id serial PRIMARY KEY);
	INSERT INTO t (v) SELECT 'copied' FROM generate_series(1, 100);
	SELECT nextval('down') FROM generate_series(1, 3);
	CREATE PUBLICATION two FOR TABLE t, parts;
	SELECT fanout.create_stream('app');
	SELECT fanout.create_stream('owned', '{two}')});
my $follower = new_follower('follower');
my $owned = new_follower('owned');
follow($follower, $leader);
$owned->safe_psql('postgres', "SELECT fanout.follow('owned', '" . (conninfo($leader) =~ s/'/''/gr) . "')");
$owned->safe_psql('postgres', q{SELECT fanout.wait_for_copy('owned')});
wait_for_copy($follower);


# What the sequence hands out next; it is not handed out.
sub next_of
{
	my ($node, $sequence) = @_;
	return $node->safe_psql('postgres', qq{
		SELECT s.last_value + CASE WHEN s.is_called THEN seqincrement ELSE 0 END
		FROM $sequence s, pg_sequence WHERE seqrelid = '$sequence'::regclass});
}

# Is the follower's at the leader's or past it, but no more than the bound?
sub check
{
	my ($what, $sequence, $bound, $direction) = @_;
	wait_for_catchup($leader, $follower);
	my $ahead = (next_of($follower, $sequence) - next_of($leader, $sequence)) * ($direction // 1);
	cmp_ok($ahead, '>=', 0, "$what: not behind");
	cmp_ok($ahead, '<=', $bound, "$what: $ahead ahead");
	return;
}
check('copy', 't_id_seq', 32);
check('copy of an identity column', 't_other_seq', 32);
check('copy of one never used', 'untouched', 0);
check('copy of one that counts down', 'down', 32 * 5, -1);

$leader->safe_psql('postgres', q{INSERT INTO t (v) SELECT 'x' FROM generate_series(1, 1000)});
check('INSERT', 't_id_seq', 32);
check('INSERT into an identity column', 't_other_seq', 32);
$leader->safe_psql('postgres', q{SELECT nextval('"Sch""ema"."Se""q uence"') FROM generate_series(1, 5); SELECT nextval('down') FROM generate_series(1, 50);
	SELECT nextval('cached') FROM generate_series(1, 25); SELECT nextval('round') FROM generate_series(1, 20); INSERT INTO t (v) VALUES ('y')});
check('quoted names', '"Sch""ema"."Se""q uence"', 32);
check('negative increment', 'down', 32 * 5, -1);
check('cached', 'cached', 32 + 10);
check('before it wraps around', 'round', 32);
$leader->safe_psql('postgres', q{SELECT nextval('round') FROM generate_series(1, 40); INSERT INTO t (v) VALUES ('y')});
check('a sequence that wrapped around', 'round', 32);
$leader->safe_psql('postgres', q{BEGIN; SELECT nextval('untouched') FROM generate_series(1, 40); ROLLBACK; INSERT INTO t (v) VALUES ('y')});
check('values of a transaction that rolled back', 'untouched', 32);
$leader->safe_psql('postgres', q{BEGIN; CREATE SEQUENCE undone; SELECT nextval('undone'); ROLLBACK;
	BEGIN; SELECT setval('cached', 5); INSERT INTO t (v) VALUES ('y'); COMMIT;
	SELECT setval('"Sch""ema"."Se""q uence"', 3, false); INSERT INTO t (v) VALUES ('y')});
check('setval() to a lower value', 'cached', 0);
check('setval() of the next value', '"Sch""ema"."Se""q uence"', 0);
$leader->safe_psql('postgres', q{ALTER SEQUENCE cached RESTART 500; INSERT INTO t (v) VALUES ('y')});
check('ALTER SEQUENCE RESTART', 'cached', 0);
$leader->safe_psql('postgres', q{BEGIN; TRUNCATE t RESTART IDENTITY; INSERT INTO t (v) SELECT 'z' FROM generate_series(1, 3); COMMIT});
check('TRUNCATE RESTART IDENTITY', 't_id_seq', 32);
cmp_ok(next_of($follower, 't_id_seq'), '<', 50, '... starts again');
$leader->safe_psql('postgres', q{BEGIN; TRUNCATE t RESTART IDENTITY; INSERT INTO t (v) VALUES ('z'); ROLLBACK; INSERT INTO t (v) VALUES ('z')});
check('a TRUNCATE that rolled back', 't_id_seq', 32);

# Other streams: what belongs to columns of published tables.
my ($other) = $leader->safe_psql('postgres', q{INSERT INTO parts (region) SELECT 1 FROM generate_series(1, 200); INSERT INTO local DEFAULT VALUES;
	SELECT fanout.flush_wal()}) =~ /(\S+)$/;
wait_until('the other stream', sub { $owned->safe_psql('postgres', "SELECT applied_lsn >= '$other' FROM fanout.staleness") eq 't' });
for my $sequence (qw(t_id_seq t_other_seq parts_id_seq))
{
	cmp_ok(next_of($owned, $sequence), '>=', next_of($leader, $sequence), "stream of some tables: $sequence");
}
is(next_of($owned, 'down'), '1000', 'one that belongs to no table is not in such a stream');
is(next_of($owned, 'local_id_seq'), '1', 'nor is that of another table');

# A decoder that starts anew has forgotten what it saw.
my $decoder = q{SELECT decoder_pid FROM fanout.streams WHERE stream = 'app' AND state = 'streaming'};
$leader->safe_psql('postgres', q{INSERT INTO t (v) VALUES ('z')});
wait_for_catchup($leader, $follower);
my $next = next_of($leader, 'untouched');
$leader->safe_psql('postgres', q{SELECT nextval('untouched') FROM generate_series(1, 33)});
my $old = $leader->safe_psql('postgres', $decoder);
wait_for_catchup($leader, $follower);
$leader->safe_psql('postgres', "SELECT pg_terminate_backend($old)");
wait_until('another decoder', sub { (eval { $leader->safe_psql("postgres", $decoder) } || $old) ne $old });
$leader->safe_psql('postgres', q{BEGIN; SELECT nextval('untouched'); INSERT INTO t (v) VALUES ('z'); COMMIT});
check('a new decoder', 'untouched', 32);
is(next_of($leader, 'untouched'), $next + 34, '... without a new record in the WAL');
$leader->stop('immediate');
$leader->start;
$leader->safe_psql('postgres', q{INSERT INTO t (v) VALUES ('z')});
check('a crash of the leader', 'untouched', 32);

# A sequence that is not here does not stop a follower; one of the follower's own is left alone.
$follower->safe_psql('postgres', q{SET fanout.guard = off; DROP SEQUENCE cached; CREATE SEQUENCE mine START 5});
$leader->safe_psql('postgres', q{SELECT nextval('cached') FROM generate_series(1, 100); INSERT INTO t (v) VALUES ('z')});
check('a sequence that the follower lacks', 't_id_seq', 32);
is($follower->safe_psql('postgres', q{SELECT state, nextval('mine') FROM fanout.staleness}), 'streaming|5', '... and does not stop');

# The follower takes over.
$leader->safe_psql('postgres', q{INSERT INTO t (v) SELECT 'last' FROM generate_series(1, 10)});
wait_for_catchup($leader, $follower);
$follower->safe_psql('postgres', q{SELECT fanout.unfollow('app'); INSERT INTO t (v) SELECT 'own' FROM generate_series(1, 100)});
is($follower->safe_psql('postgres', q{SELECT count(*) FROM t WHERE v = 'own'}), '100', 'a follower that takes over has no key twice');

$_->stop for $leader, $follower, $owned;
done_testing();
