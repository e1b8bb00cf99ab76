# fanout.verify() while pgbench runs: it finds one changed byte, and never a
# difference that is not there.
#
# VERIFY_SCALE (of pgbench; 30 makes 3,000,000 rows) and VERIFY_RUNS make it larger.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $scale = $ENV{VERIFY_SCALE} // 1;
my $runs = $ENV{VERIFY_RUNS} // 8;

# Commits take their time between their record and the moment they can be seen.
my $leader = new_leader('leader', 'fsync = on', 'commit_delay = 3000', 'commit_siblings = 0',
	'synchronous_commit = local');
$leader->run_log([ 'pgbench', '-i', '-q', '-s', $scale, $leader->connstr('postgres') ]);
$leader->safe_psql('postgres', q{
	CREATE TYPE mood AS ENUM ('sad', 'ok');
	CREATE TABLE kinds (a int, b text, c numeric(10,2), d timestamptz, e jsonb, f mood, g float8,
		h int[], i money, PRIMARY KEY (b, a));
	INSERT INTO kinds SELECT g, 'k' || g, g / 3.0, now(), '{"a": 1}', 'ok', g / 7.0, ARRAY[g], g
		FROM generate_series(1, 500) g;
	CREATE TABLE recent (id int PRIMARY KEY);
	CREATE TABLE keyless (a int, b text);
	INSERT INTO keyless SELECT g % 10, NULL FROM generate_series(1, 1000) g;
	CREATE TABLE "Odd ""name" (id int PRIMARY KEY, "c'd" text);
	INSERT INTO "Odd ""name" VALUES (1, 'x');
	CREATE TABLE empty ();
	CREATE TABLE later (id bigserial PRIMARY KEY, n int);
	CREATE TABLE rolled (id int PRIMARY KEY, n int);
	INSERT INTO rolled SELECT g, 0 FROM generate_series(1, 100) g;
	CREATE FUNCTION nested(k int) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		BEGIN
			UPDATE rolled SET n = n + 1 WHERE id = k;
			BEGIN INSERT INTO rolled VALUES (k, 0);
			EXCEPTION WHEN unique_violation THEN
				UPDATE rolled SET n = n + 10 WHERE id = k % 100 + 1;
			END;
		END;
	END $$});

my $follower = new_follower('follower');
follow($follower, $leader);
wait_for_copy($follower, 600);

# Synchronous and asynchronous commits, subtransactions, commits of no published change.
my $dir = PostgreSQL::Test::Utils::tempdir;
append_to_file("$dir/nested.sql", "\\set k random(1, 100)\nSELECT nested(:k);\n");
append_to_file("$dir/async.sql", "\\set k random(1, 1000)\nSET synchronous_commit = off;\n"
	  . "INSERT INTO keyless VALUES (:k);\nDELETE FROM recent WHERE id = :k;\n"
	  . "INSERT INTO recent VALUES (:k) ON CONFLICT DO NOTHING;\n");
my ($bench_out, $bench_err) = ('', '');
sub start_bench
{
	return IPC::Run::start([ 'pgbench', '-n', '-c', '6', '-T', '3600', '--max-tries=1000', '-b', 'tpcb-like@4',
			'-f', "$dir/nested.sql\@2", '-f', "$dir/async.sql\@2", $leader->connstr('postgres') . ' application_name=pgbench' ],
		'>', \$bench_out, '2>', \$bench_err);
}
my $bench = start_bench();

my $sql = q{SELECT relation, rows_on_leader, rows_here, equal, differing_keys FROM fanout.verify('app')};
my $differences = q{SELECT string_agg(v::text, E'\n') FROM fanout.verify('app') v WHERE equal IS DISTINCT FROM true};
my @times;
for my $run (1 .. $runs)
{
	my $start = time();
	is($follower->safe_psql('postgres', $differences, timeout => 600), '', "run $run: no difference");
	push @times, time() - $start;
}
is($leader->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench'}), '6',
	'pgbench is still running') or do { $bench->kill_kill; diag($bench_out, $bench_err) };
note sprintf('seconds per run: %s', join(' ', map { sprintf '%.2f', $_ } @times));
is($follower->safe_psql('postgres', q{SELECT count(*) FROM fanout.verify('app')}), '11', 'a row for each table');

# Commits behind the position stay hidden.  One session is always about to commit, which
# takes 100 ms, and the leader waits for it after it has chosen the position; meanwhile
# others, which ran at that moment, commit at once.
append_to_file("$dir/slow.sql", "\\set k random(1, 100)\nSET commit_delay = 100000;\nUPDATE kinds SET h = h || 1 WHERE a = :k;\n");
append_to_file("$dir/later.sql", "SET synchronous_commit = off;\nBEGIN;\nINSERT INTO later (n) VALUES (1);\n\\sleep 3 ms\n"
	  . "UPDATE later SET n = 2 WHERE id = currval('later_id_seq');\nEND;\n");
$bench->signal('TERM');
$bench->finish;
my @late = map { IPC::Run::start([ 'pgbench', '-n', '-c', $_->[0], '-T', '3600', '-f', "$dir/$_->[1]", $leader->connstr('postgres') ],
		'>', \my $late_out, '2>', \my $late_err) } [ 1, 'slow.sql' ], [ 4, 'later.sql' ];
wait_until('them to run', sub { $follower->safe_psql('postgres', 'SELECT count(*) > 20 FROM later') eq 't' });
is($follower->safe_psql('postgres', $differences), '', "commits after the position stay hidden, run $_") for 1 .. 4;
$_->signal('TERM'), $_->finish for @late;
$bench = start_bench();

# A commit that waits for a standby is in the stream but not to be seen on the leader.
$leader->safe_psql('postgres', q{ALTER SYSTEM SET synchronous_standby_names = 'nobody'});
$leader->reload;
my $waiting = IPC::Run::start([ 'psql', '-Xq', '-d', $leader->connstr('postgres'), '-c', q{SET synchronous_commit = on},
		'-c', q{BEGIN; UPDATE rolled SET n = -1 WHERE id = 1; SAVEPOINT s;
			INSERT INTO rolled VALUES (5000, 1); SAVEPOINT t; DELETE FROM "Odd ""name"; COMMIT} ],
	'>', \my $w_out, '2>', \my $w_err);
wait_until('the commit to be applied',
	sub { $follower->safe_psql('postgres', 'SELECT count(*) FROM rolled WHERE id = 5000') eq '1' });
is($leader->safe_psql('postgres', 'SELECT count(*) FROM rolled WHERE id = 5000'), '0', 'a commit waits for a standby');
is($follower->safe_psql('postgres', $differences), '', 'no difference with a commit that waits for a standby');
$leader->safe_psql('postgres', q{ALTER SYSTEM RESET synchronous_standby_names});
$leader->reload;
$waiting->finish;

# One byte, in a row that pgbench leaves alone since its account does not exist there.
my $rows = 100_000 * $scale;
$leader->safe_psql('postgres', q{INSERT INTO pgbench_accounts VALUES (-5, 1, 0, repeat('x', 84))});
wait_for_catchup($leader, $follower);
$follower->safe_psql('postgres', q{SET fanout.guard = off;
	UPDATE pgbench_accounts SET filler = overlay(filler PLACING 'y' FROM 40) WHERE aid = -5});
is( $follower->safe_psql('postgres', "$sql WHERE NOT equal"),
	'pgbench_accounts|' . ($rows + 1) . '|' . ($rows + 1) . '|f|[{"aid": -5}]', 'one changed byte is found');
is( $follower->safe_psql('postgres', q{SELECT equal, differing_keys FROM fanout.verify('app', 'pgbench_accounts')}),
	'f|[{"aid": -5}]', 'also for one table');
is($follower->safe_psql('postgres', q{SELECT relation, equal FROM fanout.verify('app', '"Odd ""name"')}),
	'"Odd ""name"|t', 'another table is equal');
$follower->safe_psql('postgres', q{SET fanout.guard = off;
	UPDATE pgbench_accounts SET filler = repeat('x', 84) WHERE aid = -5});

# Missing, surplus and changed rows; keys of two columns; tables without a key.
$follower->safe_psql('postgres', q{SET fanout.guard = off;
	DELETE FROM kinds WHERE a = 7;
	UPDATE kinds SET c = c + 0.01 WHERE a = 8;
	INSERT INTO kinds (a, b) VALUES (-1, 'here');
	DELETE FROM keyless WHERE ctid = (SELECT min(ctid) FROM keyless WHERE a = 3 AND b IS NULL);
	ALTER TABLE kinds ADD local int DEFAULT 5});
is( $follower->safe_psql('postgres', q{SELECT relation, rows_on_leader, rows_here, differing_keys
		FROM fanout.verify('app') WHERE NOT equal AND relation = 'kinds'::regclass}),
	'kinds|500|500|[{"a": -1, "b": "here"}, {"a": 7, "b": "k7"}, {"a": 8, "b": "k8"}]', 'missing, surplus and changed rows');
is( $follower->safe_psql('postgres', q{SELECT rows_on_leader - rows_here, differing_keys
		FROM fanout.verify('app', 'keyless')}),
	'1|[{"a": 3, "b": null}]', 'a table without a key lists rows');
$follower->safe_psql('postgres', q{SET fanout.guard = off; UPDATE kinds SET g = 0});
is($follower->safe_psql('postgres', q{SELECT jsonb_array_length(differing_keys) FROM fanout.verify('app', 'kinds')}),
	'100', 'at most 100 keys');

# What goes wrong leaves the stream running.
my ($rc, $out, $err) = $follower->psql('postgres', q{SET statement_timeout = 1; SELECT fanout.verify('app')});
isnt($rc, 0, 'a verification can be cancelled');
($rc, $out, $err) = $follower->psql('postgres', q{CREATE TABLE mine (); SELECT fanout.verify('app', 'mine')});
like($err, qr/table "mine" is not replicated by that stream/, 'a table that is not replicated');
wait_for_catchup($leader, $follower);
pass('the stream goes on');
$follower->safe_psql('postgres', q{SELECT fanout.pause('app')});
state_is($follower, 'paused');
($rc, $out, $err) = $follower->psql('postgres', q{SELECT fanout.verify('app')});
like($err, qr/stream "app" is not being applied/, 'not while it is paused');
$follower->safe_psql('postgres', q{SELECT fanout.resume('app')});

# A session that is killed while the follower stands for it lets it go.
my $blocker = $leader->background_psql('postgres');
$blocker->query_safe(q{BEGIN; LOCK pgbench_branches IN ACCESS EXCLUSIVE MODE});
my $verifier = IPC::Run::start([ 'psql', '-XAtq', '-d', $follower->connstr('postgres'),
		'-c', q{SELECT fanout.verify('app')} ], '>', \my $v_out, '2>', \my $v_err);
wait_until('the verification to wait', sub {
		$leader->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity
			WHERE application_name = 'pg_fanout verify' AND wait_event_type = 'Lock'}) eq '1' });
$leader->safe_psql('postgres', q{INSERT INTO rolled VALUES (100000, 1)});
wait_for_catchup($leader, $follower);
pass('it does not stand while the leader is waited for');
like($follower->safe_psql('postgres', q{SELECT query FROM pg_stat_activity WHERE query LIKE 'verifying%'}),
	qr/verifying stream "app": waiting for a position of the leader/, 'progress is shown');
$follower->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'verifying%'});
$verifier->finish;
$blocker->query_safe('ROLLBACK');
$blocker->quit;
is($follower->safe_psql('postgres', q{SELECT equal FROM fanout.verify('app', 'rolled')}), 't', 'the next one works');

$bench->signal('TERM');
$bench->finish;
$_->stop for $leader, $follower;
done_testing();
