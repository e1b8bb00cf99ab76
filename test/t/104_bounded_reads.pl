# fanout.max_staleness and fanout.read_after in each way that a statement can reach the server: a
# read that can't be fresh enough fails, one that can waits and shows the newest state.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use Test::More;

my $leader = new_leader('leader');
$leader->safe_psql('postgres', q{
	CREATE TABLE t (id int PRIMARY KEY, v int);
	CREATE TABLE big (v int);
	CREATE VIEW t_view AS SELECT v FROM t WHERE id = 1;
	INSERT INTO t VALUES (1, 0);
	INSERT INTO big SELECT 0 FROM generate_series(1, 100000);
	CREATE FUNCTION read_volatile() RETURNS int LANGUAGE plpgsql VOLATILE AS $$ BEGIN RETURN (SELECT v FROM t WHERE id = 1); END $$;
	CREATE FUNCTION read_sql() RETURNS int LANGUAGE sql VOLATILE AS 'SELECT v FROM t WHERE id = 1';
	CREATE FUNCTION read_stable() RETURNS int LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN (SELECT v FROM t WHERE id = 1); END $$;
	CREATE FUNCTION read_loop() RETURNS int LANGUAGE plpgsql AS $$
		DECLARE r record; BEGIN FOR r IN SELECT v FROM t WHERE id = 1 LOOP RETURN r.v; END LOOP; END $$;
	CREATE FUNCTION read_parallel(int) RETURNS int LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$ BEGIN RETURN (SELECT v FROM t WHERE id = 1); END $$;
	CREATE FUNCTION read_immutable() RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN (SELECT v FROM t WHERE id = 1); END $$;
	CREATE PROCEDURE read_after_commit(INOUT r int) LANGUAGE plpgsql AS $$ BEGIN
		PERFORM 1; COMMIT; r := (SELECT v FROM t WHERE id = 1); ROLLBACK; END $$;
	ALTER TABLE big REPLICA IDENTITY FULL});
my $follower = new_follower('follower', 'max_parallel_workers = 4');
follow($follower, $leader);
wait_for_copy($follower);
$follower->safe_psql('postgres', q{
	CREATE TABLE local (v int); INSERT INTO local VALUES (-1);
	CREATE TABLE many (v int); INSERT INTO many SELECT 1 FROM generate_series(1, 10000);
	ANALYZE});

my $parallel = 'simple SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0;'
  . ' SET min_parallel_table_scan_size = 0; SET max_parallel_workers_per_gather = 2; SET force_parallel_mode = regress';
# Functions run in the workers only.
my $workers = $parallel =~ s/; SET force_parallel_mode = regress/; SET parallel_leader_participation = off/r;
my @begin = ('simple BEGIN ISOLATION LEVEL READ COMMITTED', 'simple SELECT v FROM local');
my $read = 'SELECT v FROM t WHERE id = 1';

# How a value is read: a name, the lines of the session, the last of which reads; all but the
# last go before the follower falls behind.
my @forms = (
	[ 'simple protocol', "simple $read" ],
	[ 'extended protocol', "extended $read" ],
	[ 'prepared', "prepare $read", 'execute' ],
	[ 'prepared, plan cached', 'simple SET plan_cache_mode = force_generic_plan', 'simple SET fanout.max_staleness = -1',
		"prepare $read", ('execute') x 7, 'bound', 'execute' ],
	[ 'PREPARE', "simple PREPARE p AS $read", 'simple EXECUTE p' ],
	[ 'second of two statements', "simple SELECT 1; $read" ],
	[ 'inside a transaction', @begin, "simple $read" ],
	[ 'inside a transaction, extended', @begin, "extended $read" ],
	[ 'after a savepoint', @begin, 'simple SAVEPOINT s', "simple $read" ],
	[ 'view', 'simple SELECT v FROM t_view' ],
	[ 'subquery', "simple SELECT (SELECT v FROM t WHERE id = 1)" ],
	[ 'CTE', "simple WITH x AS MATERIALIZED ($read) SELECT v FROM x" ],
	[ 'join with a local table', 'simple SELECT t.v FROM t, local WHERE id = 1' ],
	[ 'volatile function', 'simple SELECT read_volatile()' ],
	[ 'volatile function, extended', 'extended SELECT read_volatile()' ],
	[ 'SQL function', 'simple SELECT read_sql()' ],
	[ 'loop in a function', 'simple SELECT read_loop()' ],
	[ 'stable function in a reading statement', 'simple SELECT read_stable() FROM t WHERE id = 1' ],
	[ 'stable function in a condition', 'simple SELECT v FROM t WHERE id = 1 AND v >= read_stable()' ],
	[ 'stable function in a condition, prepared', 'prepare SELECT v FROM t WHERE id = 1 AND v >= read_stable()', 'execute' ],
	[ 'stable function in a parallel worker', $workers, 'simple SELECT max(read_parallel(v)) FROM big' ],
	[ 'procedure that commits', 'simple CALL read_after_commit(NULL)' ],
	[ 'UPDATE FROM', 'simple UPDATE local SET v = greatest(local.v, t.v) FROM t WHERE id = 1; SELECT max(v) FROM local' ],
	[ 'EXPLAIN ANALYZE EXECUTE', "simple PREPARE p AS $read", 'simple EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) EXECUTE p' ],
	[ 'cursor', @begin, "simple DECLARE c CURSOR FOR $read; FETCH c" ],
	[ 'holdable cursor', "simple DECLARE c CURSOR WITH HOLD FOR $read; FETCH c" ],
	[ 'parallel', $parallel, 'simple SELECT max(v) FROM big' ],
	[ 'parallel, extended', $parallel, 'extended SELECT max(v) FROM big' ],
	[ 'COPY (SELECT) TO', "simple COPY ($read) TO STDOUT" ],
	[ 'COPY table TO', 'simple COPY t (v) TO STDOUT' ],
	[ 'COPY table TO, in a transaction', @begin, 'simple COPY t (v) TO STDOUT' ],
	[ 'INSERT SELECT', "simple INSERT INTO local $read RETURNING v" ],
	[ 'data-modifying CTE', "simple WITH x AS (INSERT INTO local $read RETURNING v) SELECT v FROM x" ],
	[ 'CREATE TABLE AS', "simple BEGIN; CREATE TABLE made AS $read; SELECT v FROM made" ],
	[ 'EXPLAIN ANALYZE', "simple EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) $read" ],
	[ 'DO', "simple DO 'BEGIN INSERT INTO local SELECT v FROM t WHERE id = 1; END'; SELECT v FROM local ORDER BY v DESC LIMIT 1" ],
	[ 'BEGIN REPEATABLE READ', "simple BEGIN ISOLATION LEVEL REPEATABLE READ; $read" ],
	[ 'BEGIN SERIALIZABLE', "simple BEGIN ISOLATION LEVEL SERIALIZABLE; $read" ],
	[ 'START TRANSACTION', "simple START TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY; $read" ],
	[ 'SET TRANSACTION', 'simple BEGIN', "simple SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; $read" ],
	[ 'default isolation', 'simple SET default_transaction_isolation = serializable', "simple BEGIN; $read" ],
	[ 'COMMIT AND CHAIN', 'simple BEGIN ISOLATION LEVEL REPEATABLE READ', 'simple SELECT 1', 'simple COMMIT AND CHAIN', "simple $read" ],
	[ 'ROLLBACK AND CHAIN', 'simple BEGIN ISOLATION LEVEL SERIALIZABLE', 'simple SELECT 1', 'simple ROLLBACK AND CHAIN', "simple $read" ],
	[ 'ROLLBACK AND CHAIN after an error', 'simple BEGIN ISOLATION LEVEL REPEATABLE READ', 'simple SELECT 1/0', 'simple ROLLBACK AND CHAIN', "simple $read" ],
	[ 'COMMIT AND CHAIN in one message', "simple BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1; COMMIT AND CHAIN; $read" ],
	[ 'two reads in REPEATABLE READ', "simple BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1; SELECT count(*) FROM t; $read" ]);

# Forms that may run without waiting, and can't.
my @hopeless = (
	[ 'stable function alone', 'simple SELECT read_stable()' ],
	[ 'stable function alone, in a parallel worker', $workers, 'simple SELECT max(read_parallel(v)) FROM many' ],
	[ 'immutable function, which the planner runs', 'simple SELECT count(*) FROM local WHERE v >= read_immutable()' ],
	[ 'REPEATABLE READ without BEGIN', 'simple SET default_transaction_isolation = \'repeatable read\'', "simple $read" ],
	[ 'REPEATABLE READ, begun before', 'simple SET fanout.max_staleness = -1',
		'simple BEGIN ISOLATION LEVEL REPEATABLE READ', 'simple SELECT 1', 'bound', "simple $read" ]);

# None of these reads a replicated table.
my @untouched = (
	'simple SELECT 1', 'extended SELECT 1', 'simple SELECT v FROM local', 'simple COPY local TO STDOUT',
	'simple COPY (SELECT v FROM local) TO STDOUT', 'simple INSERT INTO local VALUES (1)', 'simple CREATE TEMP TABLE x AS SELECT 1',
	'simple SELECT count(*) FROM pg_class', "simple EXPLAIN $read", 'simple SELECT state FROM fanout.staleness',
	'simple EXPLAIN SELECT v FROM t WHERE v >= read_stable()', 'simple EXPLAIN SELECT v FROM local WHERE v >= read_stable()',
	'simple BEGIN', 'simple COMMIT', 'simple SHOW fanout.max_staleness', 'simple VACUUM local');

my $value = 0;
my $pid = 0;

sub fall_behind
{
	$follower->safe_psql('postgres', q{SELECT fanout.pause('app')});
	state_is($follower, 'paused');
	$value++;
	return $leader->safe_psql('postgres',
		"UPDATE t SET v = $value WHERE id = 1; DELETE FROM big WHERE ctid IN (SELECT ctid FROM big LIMIT 1);
		 INSERT INTO big VALUES ($value); SELECT fanout.token()");
}

sub catch_up
{
	$follower->safe_psql('postgres', q{SELECT fanout.resume('app')});
	return;
}

sub with_bound
{
	my ($bound, @lines) = @_;
	my @before = grep { $_ eq 'bound' } @lines;
	return (@before ? () : ($bound), map { $_ eq 'bound' ? $bound : $_ } @lines);
}

# The follower is behind and stays so: each form fails with the SQLSTATE of a stale read.
sub expect_failure
{
	my ($what, $bound, @forms_) = @_;
	for my $form (@forms_)
	{
		my ($name, @lines) = @$form;
		my @results = session($follower, with_bound("simple SET fanout.stale_read_timeout = '20ms'; $bound", @lines));
		is($results[-1][0], 'ERROR FO002', "$what: $name fails");
	}
	return;
}

# It is behind, and catches up while the statement waits: each form shows the newest value.
sub expect_value
{
	my ($what, $bound_for, @forms_) = @_;
	for my $form (@forms_)
	{
		my ($name, @lines) = @$form;
		my $token = fall_behind();
		my $bound = "simple SET fanout.stale_read_timeout = '120s'; " . $bound_for->($token);
		my ($harness, $out, $err) = start_client('session',
			join('', map { "$_\n" } with_bound($bound, @lines)), conninfo($follower));
		wait_until("$name to wait", sub {
				$harness->pump_nb;
				$follower->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity
					WHERE state = 'active' AND wait_event_type = 'Extension' AND backend_type = 'client backend'}) > 0;
			});
		catch_up();
		$harness->finish;
		my @last = split /\t/, (split /\n/, $$out)[-1];
		$last[1] = $value if $name =~ /^EXPLAIN ANALYZE/ && $last[0] eq 'EXPLAIN';
		is($last[1], $value, "$what: $name shows the newest value") or diag($$out, $$err);
	}
	return;
}

my $token = fall_behind();
expect_failure('strong', 'SET fanout.max_staleness = 0', @forms, @hopeless);
expect_failure('read_after', "SET fanout.read_after = '$token'", @forms, grep { $_->[0] !~ /READ/ } @hopeless);
$follower->safe_psql('postgres', 'SELECT pg_sleep(1.1)');
expect_failure('1 s', "SET fanout.max_staleness = '1s'", @forms, @hopeless);
is((session($follower, "simple SET fanout.max_staleness = '1h'", "simple $read"))[-1][1], 0,
	'a bound that is kept shows what is there');
my @results = session($follower, "simple SET fanout.max_staleness = 0; SET fanout.stale_read_timeout = '20ms'", @untouched);
for my $i (0 .. $#untouched)
{
	unlike($results[ $i + 1 ][0], qr/ERROR/, "$untouched[$i] is not bounded");
}

my ($rc, $out, $err) = $follower->psql('postgres',
	"SET fanout.max_staleness = '1s'; SET fanout.stale_read_timeout = '20ms'; $read");
like($err, qr/ERROR:  the follower is too stale for this statement\nDETAIL:  The staleness of stream "app" is \d+\.\d+ ms; "fanout.max_staleness" is 1000 ms\./,
	'the error says how stale it is');
($rc, $out, $err) = $follower->psql('postgres', "SET statement_timeout = '50ms'; SET fanout.stale_read_timeout = '1h'; SET fanout.max_staleness = 0; $read");
like($err, qr/canceling statement due to statement timeout/, 'a waiting read can be cancelled');
for my $bad ("fanout.max_staleness = -2", "fanout.max_staleness = 'x'", "fanout.stale_read_timeout = -1", "fanout.read_after = 'x'")
{
	($rc, $out, $err) = $follower->psql('postgres', "SET $bad");
	like($err, qr/ERROR/, "SET $bad is refused");
}
catch_up();
wait_for_catchup($leader, $follower);

expect_value('strong', sub { 'SET fanout.max_staleness = 0' }, @forms);
expect_value('read_after', sub { "SET fanout.read_after = '$_[0]'" }, grep { $_->[0] !~ /stable/ } @forms);

# Statements in one transaction see the newest state each.
fall_behind();
catch_up();
@results = session($follower, "simple SET fanout.max_staleness = 0; SET fanout.stale_read_timeout = '60s'",
	'simple BEGIN', "simple $read");
is($results[-1][1], $value, 'a strong read after a resume');

# A transaction of many statements keeps nothing of those that have ended.
is($follower->safe_psql('postgres', q{SET fanout.max_staleness = '1h'; BEGIN;
	DO $$ BEGIN FOR i IN 1..20000 LOOP EXECUTE 'SELECT FROM t'; END LOOP; END $$;
	SELECT used_bytes < 300000 FROM pg_backend_memory_contexts WHERE name = 'TopTransactionContext'}), 't',
	'nothing is kept of a statement');
done_testing();
