# One table is copied again beside the running stream: others go on, readers see the old rows
# until the new ones are there, and whatever is interrupted is done again.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Utils;
use Test::More;

my $rows = 200000;
my $leader = new_leader('leader', 'fanout.heartbeat_interval = 100ms');
my $follower = new_follower('follower', 'fanout.heartbeat_interval = 100ms', 'fanout.retry_interval = 1s');
$leader->safe_psql('postgres', qq{
	CREATE TABLE big (id int PRIMARY KEY, n int NOT NULL, v text);
	INSERT INTO big SELECT g, 0, repeat('v', 100) FROM generate_series(1, $rows) g;
	CREATE TABLE small (id int PRIMARY KEY, n int NOT NULL); INSERT INTO small SELECT g, 0 FROM generate_series(0, 9) g;
	CREATE TABLE log (id int)});
follow($follower, $leader);
wait_for_copy($follower);

# ---------- who writes there and reads here, all the time ----------

my $dir = PostgreSQL::Test::Utils::tempdir();
append_to_file("$dir/write.sql", qq{\\set id random(1, $rows)
BEGIN; UPDATE big SET n = n + 1 WHERE id = :id; UPDATE small SET n = n + 1 WHERE id = :id % 10; INSERT INTO log VALUES (:id); COMMIT;
});
append_to_file("$dir/read.sql", qq{SELECT 1 / (count(*) = $rows)::int FROM big;
SELECT 1 / ((SELECT coalesce(sum(n), 0) FROM small) = (SELECT count(*) FROM log))::int;
});

# pgbench until it is told to stop, or its server is.
sub start_pgbench
{
	my ($node, $script, $rate) = @_;
	my ($out, $err) = ('', '');
	my $harness = IPC::Run::start([ $node->installed_command('pgbench'), '-n', '-c', 1, '-T', 1000, '-R', $rate, '-f', "$dir/$script",
			'-h', $node->host, '-p', $node->port, 'postgres' ], '>', \$out, '2>', \$err);
	return { harness => $harness, err => \$err };
}

sub stop_pgbench
{
	my ($pgbench) = @_;
	$pgbench->{harness}->kill_kill;
	return ${ $pgbench->{err} };
}

sub value { return $follower->safe_psql('postgres', $_[0]) }
sub state_of { return value("SELECT state FROM fanout.table_staleness WHERE relation = '$_[0]'::regclass") }
sub copier { return value(q{SELECT coalesce(max(pid), 0) FROM pg_stat_activity WHERE backend_type = 'pg_fanout copy'}) }

# Equal, by fanout.verify() and by what the writer keeps true.
sub repaired
{
	my ($what, $equal) = @_;
	is(value(q{SELECT fanout.wait_for_copy('app', '150s')}), 't', "$what: complete");
	is(value(q{SELECT string_agg(relation::text || ' ' || equal, ', ' ORDER BY relation::text) FROM fanout.verify('app')}),
		$equal // 'big true, log true, small true', "$what: equal while there are writes");
	return;
}

# Damage a row; have it copied again and then others, with the leader's side of the copy stopped half way.
sub damage { $follower->safe_psql('postgres', q{SET fanout.guard = off; UPDATE big SET v = overlay(v placing 'X' from 50) WHERE id = 77}) }

sub hold_copy
{
	my @others = @_;
	my $backend = '';
	while ($backend eq '')
	{
		damage();
		value('SELECT ' . join(', ', map { "fanout.resync('app', '$_')" } 'big', @others));
		# It may be over before it is seen.
		wait_until('the copy to run', sub { $backend = $leader->safe_psql('postgres',
					q{SELECT pid FROM pg_stat_activity WHERE query LIKE 'COPY %' AND state = 'active'});
				$backend ne '' || state_of('big') eq 'streaming' });
		kill 'STOP', $backend if $backend ne '';
		select undef, undef, undef, 0.2;
		$backend = '' if state_of('big') ne 'copying';
	}
	return $backend;
}

my $writer = start_pgbench($leader, 'write.sql', 200);
my $reader = start_pgbench($follower, 'read.sql', 10);

# ---------- one byte ----------

repaired('before');
damage();
is(value(q{SELECT relation::text || ' ' || differing_keys FROM fanout.verify('app') WHERE NOT equal}), 'big [{"id": 77}]',
	'verify() finds the byte');
value(q{SELECT fanout.resync('app', 'big')});
repaired('resync');

# ---------- while it is copied ----------

my $backend = hold_copy();
is(state_of('big'), 'copying', 'while it is copied: its state');
is(value(q{SELECT staleness IS NULL FROM fanout.table_staleness WHERE relation = 'big'::regclass}), 't', '... its staleness is unknown');
is(value('SELECT count(*) FROM fanout.staleness, fanout.lag() AS l WHERE staleness.staleness IS NOT NULL OR as_of IS NOT NULL OR l.staleness IS NOT NULL'),
	'0', '... and that of the stream as a whole');
is(value(q{SELECT staleness IS NOT NULL FROM fanout.table_staleness WHERE relation = 'log'::regclass}), 't', '... but not that of other tables');
my $applied = value('SELECT applied_lsn FROM fanout.staleness');
my $logged = value('SELECT count(*) FROM log');
wait_until('the others to go on', sub { value("SELECT applied_lsn > '$applied' AND (SELECT count(*) > $logged + 50 FROM log) FROM fanout.staleness") eq 't' });
is(value(q{SELECT state FROM fanout.staleness}), 'streaming', '... the stream goes on');
is(value(q{SELECT count(*) FILTER (WHERE v LIKE '%X%') || ' of ' || count(*) FROM big}), "1 of $rows", '... readers see the old rows');
is(state_of('big'), 'copying', '... and it is still being copied');
is(value(q{SET fanout.max_staleness = '20s'; SELECT count(*) > 0 FROM log}), 't', 'bounded reads of other tables work');
my ($rc, $out, $err) = $follower->psql('postgres', q{SET fanout.max_staleness = '20s'; SELECT count(*) FROM big});
like($err, qr/table "big" is being copied from the leader/, '... of this one fail');
is(value(q{SELECT fanout.wait_for_copy('app', '200ms')}), 'f', 'wait_for_copy() waits for it');
my $token = $leader->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');
wait_until('the stream to come as far', sub { value("SELECT applied_lsn >= '$token' FROM fanout.staleness") eq 't' });
is(value("SELECT fanout.wait_for('$token', '100ms')"), 'f', '... and wait_for()');
is($leader->safe_psql('postgres', "SELECT fanout.wait_for_followers(1, '$token', '100ms')"), '0', '... and wait_for_followers()');
wait_until('the leader to see a staleness that grows', sub { $leader->safe_psql('postgres', q{SELECT staleness > '1s' FROM fanout.followers}) eq 't' });
$leader->safe_psql('postgres', 'CREATE TABLE passing (id int PRIMARY KEY); INSERT INTO passing VALUES (1)');
wait_until('a table to come', sub { value(q{SELECT count(*) FROM pg_class WHERE relname = 'passing'}) eq '1' });
$leader->safe_psql('postgres', 'DROP TABLE passing');
wait_until('a table to go', sub { value(q{SELECT count(*) FROM pg_class WHERE relname = 'passing'}) eq '0' });
is(value(q{SELECT rows_here IS NULL FROM fanout.verify('app', 'big')}), 't', 'verify() says nothing of it');

# Once more while it runs: what is copied then does not count.
my $number = value(q{SELECT copy_number FROM fanout.followed_table WHERE relid = 'big'::regclass});
value(q{SELECT fanout.resync('app', 'big')});
kill 'CONT', $backend;
repaired('resync during a resync');
like(slurp_file($follower->logfile), qr/another copy of the table has been wanted since this one began/, 'the first copy was discarded');
value(q{SELECT fanout.resync('app', 'big'), fanout.resync('app', 'small'), fanout.resync('app', 'big')});
repaired('two tables at once');
# In one statement, so that both sides wait alike.
is(value(q{SET fanout.max_staleness = 0; SET fanout.stale_read_timeout = '60s'; SELECT count(*) FROM big}), $rows, 'bounded reads work again');

# ---------- the worker comes first ----------

$backend = hold_copy();
$leader->safe_psql('postgres', 'CREATE INDEX big_n ON big (n)');
wait_until('the copy to give way', sub { slurp_file($follower->logfile) =~ /the copy of a table is given up/ });
wait_until('the index', sub { value(q{SELECT to_regclass('big_n') IS NOT NULL}) eq 't' });
kill 'CONT', $backend;
repaired('a schema change during the copy');

$backend = hold_copy();
value(q{SELECT fanout.pause('app')});
wait_until('the copy to end', sub { copier() eq '0' });
is(value('SELECT count(*) FROM big'), $rows, 'paused: the old rows are there');
kill 'CONT', $backend;
value(q{SELECT fanout.resume('app')});
repaired('pause and resume');

# The table changes while it is copied: the leader's ALTER waits for the copy, the copy is of no use then.
$backend = hold_copy();
my $altering = $leader->background_psql('postgres');
$altering->query_until(qr//, "ALTER TABLE big ADD w int DEFAULT 5, ALTER v TYPE varchar(200);\n");
wait_until('the ALTER to wait', sub { $leader->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'ALTER TABLE big%' AND wait_event_type = 'Lock'}) eq '1' });
kill 'CONT', $backend;
$altering->quit;
repaired('ALTER TABLE behind the copy');

unlike(stop_pgbench($reader), qr/ERROR/, 'no reader ever saw too few rows, or other tables out of step');

# ---------- crashes ----------

for my $node ($follower, $leader)
{
	$backend = hold_copy();
	stop_pgbench($writer);
	$node->stop('immediate');
	kill 'CONT', $backend;
	$node->start;
	$writer = start_pgbench($leader, 'write.sql', 200);
	repaired('a crash of the ' . $node->name . ' while it is copied');
}

# Between the copy and what it lacks, and before that is committed: the row of the table is locked first
# by one session, and then by another, when the copy has got its turn.
sub lock_row
{
	my $session = $follower->background_psql('postgres');
	$session->query_until(qr/locking/, "\\echo locking\nBEGIN; SELECT 1 FROM fanout.followed_table WHERE relid = 'big'::regclass FOR UPDATE;\n");
	return $session;
}

sub waiting
{
	my ($what, $condition) = @_;
	wait_until($what, sub { value("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND $condition") eq '1' });
	return;
}

for my $crash (qw(worker immediate))
{
	damage();
	value(q{SELECT fanout.resync('app', 'big')});
	wait_until('the copy to run', sub { state_of('big') eq 'copying' });
	my $first = lock_row();
	waiting('the copy to wait', q{backend_type = 'pg_fanout copy'});
	my $second = lock_row();
	waiting('the other to wait', q{backend_type = 'client backend'});
	$first->quit;
	wait_until('the table to be behind', sub { state_of('big') eq 'catching up' });
	waiting('the worker to wait', q{backend_type = 'pg_fanout follower'});
	is(value(q{SELECT count(*) FROM big}), $rows, 'between copy and stream: the new rows are there');
	if ($crash eq 'worker')
	{
		value(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'pg_fanout follower'});
		$second->quit;
	}
	else
	{
		$follower->stop('immediate');
		eval { $second->quit };
		$follower->start;
	}
	repaired("$crash between copy and stream");
}

# Many, with writes and the table itself changing.
for my $round (1 .. 4)
{
	damage();
	value(q{SELECT fanout.resync('app', 'big')});
	$leader->safe_psql('postgres', "ALTER TABLE small ADD c$round int DEFAULT $round; DELETE FROM big WHERE id = 77; INSERT INTO big (id, n) VALUES (77, 0)");
	$leader->safe_psql('postgres', 'TRUNCATE log') if $round == 2;
	select undef, undef, undef, 0.3 * $round;
	$follower->stop('immediate');
	$follower->start;
}
repaired('crashes at any time');

# ---------- an end ----------

# Its successor of the same name is on the leader when the copy begins; which it does once the stream has come to that.
$leader->safe_psql('postgres', 'CREATE TABLE fresh (id int PRIMARY KEY)');
wait_for_catchup($leader, $follower);
my $old = value(q{SELECT 'fresh'::regclass::oid});
my $decoder = $leader->safe_psql('postgres', 'SELECT decoder_pid FROM fanout.streams');
kill 'STOP', $decoder or die $!;
$leader->safe_psql('postgres', 'DROP TABLE fresh; CREATE TABLE fresh (id int PRIMARY KEY); INSERT INTO fresh VALUES (1)');
$backend = hold_copy('fresh');
kill 'CONT', $decoder or die $!;
wait_until('the other table', sub { value(q{SELECT coalesce(to_regclass('fresh'), 0)}) !~ /^(0|$old)$/ });
kill 'CONT', $backend or die $!;
repaired('a table that the stream drops before its copy begins', 'big true, fresh true, log true, small true');
unlike(slurp_file($follower->logfile), qr/was dropped while it was to be copied/, '... is no error');

value(q{SELECT fanout.resync('app', 'big')});
$leader->safe_psql('postgres', 'DROP TABLE big');
stop_pgbench($writer);
wait_for_catchup($leader, $follower);
all_equal('the table is dropped meanwhile', $leader, $follower);
$leader->safe_psql('postgres', qq{CREATE TABLE big (id int PRIMARY KEY, n int NOT NULL, v text); INSERT INTO big SELECT g, 0, repeat('v', 100) FROM generate_series(1, $rows) g});
wait_for_catchup($leader, $follower);
$backend = hold_copy();
value(q{SELECT fanout.unfollow('app')});
wait_until('the copy to end', sub { copier() eq '0' });
kill 'CONT', $backend;
is(value('SELECT count(*) FROM big'), $rows, 'unfollow: the old rows stay');

# ---------- nothing tells of a table's end ----------

$leader->safe_psql('postgres', q{SELECT fanout.drop_stream('app', true); SELECT fanout.create_stream('app', ddl => false);
	CREATE TABLE gone (id int PRIMARY KEY)});
value('DROP SCHEMA public CASCADE; CREATE SCHEMA public');
follow($follower, $leader);
wait_for_copy($follower);
$leader->safe_psql('postgres', 'DROP TABLE gone');
value(q{SET fanout.guard = off; UPDATE small SET n = -1; SELECT fanout.resync('app', 'gone'), fanout.resync('app', 'small')});
wait_until('the error', sub { value('SELECT last_error FROM fanout.staleness') =~ /table "public.gone" is no longer in stream "app" of the leader/ });
wait_until('the other', sub { state_of('small') eq 'streaming' });
is(value('SELECT min(n) > -1 FROM small'), 't', 'another table is copied all the same');
value(q{SELECT fanout.resync('app')});
wait_for_copy($follower);
is(value(q{SELECT string_agg(relation::text, ' ' ORDER BY relation::text) FROM fanout.table_staleness}), 'big fresh log small', 'a copy of all ends it');

$_->stop for $leader, $follower;
done_testing();
