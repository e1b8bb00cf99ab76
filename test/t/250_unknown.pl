# What is not known is not shown as fresh, as applied or as no lag: unknown staleness and the largest
# bounds, tokens that another snapshot showed, tables that are copied again, followers that stand.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use Test::More;

my $leader = new_leader('leader');
$leader->safe_psql('postgres', q{
	CREATE TABLE a (id int PRIMARY KEY);
	CREATE TABLE t (id int PRIMARY KEY, v int);
	CREATE FUNCTION read_stable() RETURNS int LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN (SELECT v FROM t WHERE id = 1); END $$;
	CREATE FUNCTION read_volatile() RETURNS int LANGUAGE plpgsql VOLATILE AS $$ BEGIN RETURN (SELECT v FROM t WHERE id = 1); END $$;
	INSERT INTO a SELECT generate_series(1, 20000); INSERT INTO t VALUES (1, 0)});
my $follower = new_follower('follower', 'fanout.copy_workers = 1', 'fanout.retry_interval = 200ms');
follow($follower, $leader);
wait_for_copy($follower);
my $read = 'SELECT v FROM t WHERE id = 1';
my $fast = "SET fanout.stale_read_timeout = '20ms'";

sub change
{
	my ($value) = @_;
	return $leader->safe_psql('postgres', "UPDATE t SET v = $value WHERE id = 1; SELECT fanout.token()");
}

# What a statement in an open session gives: its output or SQLSTATE.
sub ask
{
	my ($session, $query) = @_;
	my $out = $session->query($query);
	my ($state) = $session->{stderr} =~ /ERROR:  (\w+)/;
	$session->{stderr} = '';
	return $state // $out;
}

sub open_session
{
	my $session = $follower->background_psql('postgres', on_error_stop => 0);
	$session->query('\set VERBOSITY sqlstate');
	return $session;
}

# Of what cannot be known, no more is said than that.
sub lag_is_unknown
{
	my ($what) = @_;
	is($follower->safe_psql('postgres', q{SELECT s.lag_bytes IS NULL, s.lag_transactions IS NULL, l.lag_bytes IS NULL, l.lag_transactions IS NULL
			FROM fanout.staleness s, fanout.lag() l}), 't|t|t|t', "$what: the lag is unknown");
	return;
}

# Staleness in each view that has it: a row of "known" for each.
my $all = q{SELECT (SELECT staleness IS NOT NULL AND as_of IS NOT NULL FROM fanout.staleness), (SELECT staleness IS NOT NULL FROM fanout.lag()),
	(SELECT bool_and(staleness IS NOT NULL) FROM fanout.table_staleness)};

# A token that this session found applied: an older snapshot does not show it.
my $old = open_session();
$old->query('BEGIN ISOLATION LEVEL REPEATABLE READ');
my $snapshot = ask($old, "SELECT pg_export_snapshot()");
is(ask($old, $read), '0', 'a transaction with an old snapshot');
my $token = change(1);
my $new = open_session();
$new->query("$fast; SET fanout.read_after = '$token'; SET fanout.stale_read_timeout = '120s'");
is(ask($new, $read), '1', 'the token is applied');
$new->query("BEGIN ISOLATION LEVEL REPEATABLE READ; SET TRANSACTION SNAPSHOT '$snapshot'");
is(ask($new, $read), 'FO002', 'an imported snapshot does not show it');
$new->query('ROLLBACK');
is(ask($old, "SET fanout.read_after = '$token'; $read"), 'FO002', 'nor does the older transaction itself');
$old->query('ROLLBACK');
is(ask($new, "BEGIN ISOLATION LEVEL SERIALIZABLE; $read"), '1', 'SERIALIZABLE after it was applied shows it');
$new->query('ROLLBACK');
is(ask($new, "SET default_transaction_isolation = 'repeatable read'; $read"), '1', 'REPEATABLE READ without BEGIN, too');
$new->query('RESET default_transaction_isolation');

# A query inside of a statement whose snapshot is older than the token was found in the middle of it.
$follower->safe_psql('postgres', q{SELECT fanout.pause('app')});
state_is($follower, 'paused');
lag_is_unknown('paused');
my $stood = $follower->safe_psql('postgres', 'SELECT staleness FROM fanout.staleness');
is($follower->safe_psql('postgres', "SELECT staleness > '$stood' FROM fanout.lag()"), 't', 'its staleness grows');
$token = change(2);
my ($harness, $out, $err) = start_client('session',
	"simple SET fanout.stale_read_timeout = '120s'; SET fanout.read_after = '$token'\n"
	  . "simple SELECT read_volatile()\nsimple SELECT read_volatile() + 0 * read_stable()\nsimple SELECT read_stable()\n"
	  . "simple SET fanout.read_after = ''\nsimple SET fanout.read_after = '$token'; SELECT 1\n", conninfo($follower));
my ($other, $other_out, $other_err) = start_client('session',
	"simple SET fanout.stale_read_timeout = '120s'; SET fanout.read_after = '$token'\n"
	  . "simple SELECT read_volatile() + 0 * read_stable()\n", conninfo($follower));
wait_until('both to wait', sub {
		$_->pump_nb for $harness, $other;
		$follower->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity
			WHERE state = 'active' AND wait_event_type = 'Extension' AND backend_type = 'client backend'}) == 2;
	});
$follower->safe_psql('postgres', q{SELECT fanout.resume('app')});
$_->finish for $harness, $other;
my @lines = map { [ split /\t/, $_, -1 ] } split /\n/, $$out;
is_deeply([ map { $_->[1] } @lines[ 1 .. 3 ] ], [ 2, 2, 2 ], 'a stable function after the token was found, in a later statement');
like((split /\n/, $$other_out)[-1], qr/^ERROR FO002/, 'a stable function whose statement began before that does not show it');

# A copy of all tables that is held up at the largest: rows that were there are gone, for whoever saw the token, too.
is(ask($new, "SET fanout.read_after = '$token'; $read"), '2', 'the token is found before the copy');
$new->query($fast);
$old->query('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
my $holder = open_session();
$holder->query('SELECT pg_advisory_lock(1)');
$follower->safe_psql('postgres', q{SET fanout.guard = off;
	CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_catalog.pg_advisory_xact_lock_shared(1); RETURN new; END';
	CREATE TRIGGER hold BEFORE INSERT ON a FOR EACH ROW EXECUTE FUNCTION hold(); ALTER TABLE a ENABLE ALWAYS TRIGGER hold});
$follower->safe_psql('postgres', q{SELECT fanout.resync('app')});
wait_until('the copy to be held up', sub {
		$follower->safe_psql('postgres', q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted}) > 0 });
is($follower->safe_psql('postgres', 'SELECT count(*) FROM t'), 0, 'a table that is empty now');
for my $query ($read, 'SELECT count(*) FROM t', 'COPY t TO STDOUT', 'SELECT read_volatile()', "BEGIN ISOLATION LEVEL REPEATABLE READ; $read")
{
	is(ask($new, $query), 'FO002', "and while it is copied again fails: $query");
	$new->query('ROLLBACK');
}
is(ask($old, "SET fanout.read_after = '$token'; $read"), 'FO002', 'also with a snapshot from before');
$old->query('ROLLBACK');
is($follower->safe_psql('postgres', $all), 'f|f|f', 'no view knows how stale it is');
lag_is_unknown('copying');
is($follower->safe_psql('postgres', qq{SELECT fanout.wait_for('$token', '0s')}), 'f', 'and wait_for() does not take the token for applied');
$holder->query('SELECT pg_advisory_unlock(1)');
wait_for_copy($follower);
$follower->safe_psql('postgres', q{SET fanout.guard = off; DROP TRIGGER hold ON a});
$new->query("SET fanout.stale_read_timeout = '120s'");
is(ask($new, $read), '2', 'once it is copied the token is there again');
$_->quit for $old, $new, $holder;

# The leader is gone and the follower has been restarted: nothing is known of its staleness.
$leader->stop('fast');
$follower->restart;
wait_until('the worker to fail', sub { $follower->safe_psql('postgres', q{SELECT state || ' ' || (last_error IS NOT NULL) FROM fanout.staleness}) eq 'failed true' });
is($follower->safe_psql('postgres', $all), 'f|f|f', 'after a restart no view knows how stale it is');
lag_is_unknown('without a leader');
for my $bound ('1ms', '10s', '20d', '2147483647ms')
{
	for my $query ($read, "BEGIN ISOLATION LEVEL REPEATABLE READ; $read", 'COPY t TO STDOUT', "DECLARE c CURSOR WITH HOLD FOR $read",
		"BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1; COMMIT AND CHAIN; $read", 'SELECT read_stable()', "EXPLAIN ANALYZE $read")
	{
		my @results = session($follower, "simple $fast; SET fanout.max_staleness = '$bound'", "simple $query");
		is($results[-1][0], 'ERROR FO002', "a bound of $bound is not kept by what is unknown: $query");
	}
}
is($follower->safe_psql('postgres', $read), 2, 'without a bound it can be read');
wait_until('a second of that in the history', sub {
		$follower->safe_psql('postgres', q{SELECT count(*) > 0 FROM fanout.staleness_history WHERE lag_bytes_max IS NULL AND staleness_max IS NULL}) eq 't' });
is($follower->safe_psql('postgres', q{SELECT count(*) FROM fanout.staleness_history WHERE lag_bytes_max > 0 OR staleness_max IS NOT NULL}), 0,
	'where nothing was known, none is told');
$leader->start;
wait_for_catchup($leader, $follower);
wait_until('the views to agree again', sub { $follower->safe_psql('postgres', $all) eq 't|t|t' });
is($follower->safe_psql('postgres', 'SELECT lag_bytes IS NOT NULL FROM fanout.lag()'), 't', 'the lag is known again');
done_testing();
