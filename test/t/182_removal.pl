# What takes a stream's ground away: commands on its database, DROP EXTENSION, a server
# without the library.  Each is refused or leaves nothing behind.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Utils;
use Test::More;

my $leader = new_server('leader', 'fanout.retry_interval = 200');
my $follower = new_server('follower', 'fanout.retry_interval = 200');

# A pair of databases of that name, where the one follows the other.
sub new_pair
{
	my ($db) = @_;
	$_->safe_psql('postgres', "CREATE DATABASE $db") for $leader, $follower;
	$leader->safe_psql($db, q{CREATE EXTENSION pg_fanout; CREATE TABLE t (id int PRIMARY KEY);
		INSERT INTO t SELECT generate_series(1, 100); SELECT fanout.create_stream('app')});
	$follower->safe_psql($db, 'CREATE EXTENSION pg_fanout');
	start_following($db);
	return;
}

sub start_following
{
	my ($db, $options) = @_;
	my $conninfo = $leader->connstr($db) =~ s/'/''/gr;
	$follower->safe_psql($db, "SELECT fanout.follow('app', '$conninfo'" . ($options // '') . ')');
	wait_for_state($db, 'streaming');
	return;
}

sub wait_for_state
{
	my ($db, $state) = @_;
	wait_until("$db to be $state", sub { $follower->safe_psql($db, 'SELECT state FROM fanout.staleness') eq $state });
	return;
}

sub refused
{
	my ($node, $command, $pattern) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', $command);
	like($err, $pattern, $node->name . ": $command is refused");
	return;
}

sub slots { return $leader->safe_psql('postgres', 'SELECT count(*) FROM pg_replication_slots'); }
sub origins { return $follower->safe_psql('postgres', 'SELECT count(*) FROM pg_replication_origin'); }
sub directories { return scalar(my @found = glob($_[0]->data_dir . '/pg_fanout/*/*')); }
sub workers { return $_[0]->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity
		WHERE backend_type IN ('pg_fanout decoder', 'pg_fanout follower', 'pg_fanout copy')}); }

# Nothing is left of any stream on either server.
sub nothing_left
{
	my ($what) = @_;
	wait_until("nothing to be left of $what", sub {
			slots() == 0 && origins() == 0 && directories($leader) == 0 && directories($follower) == 0
			  && workers($leader) == 0 && workers($follower) == 0 });
	pass("$what: no slot, origin, directory or worker is left");
	return;
}

sub follows
{
	my ($what, $db) = @_;
	$leader->safe_psql($db, 'INSERT INTO t SELECT max(id) + 1 FROM t');
	my $rows = $leader->safe_psql($db, 'SELECT count(*) FROM t');
	wait_until("$what to follow", sub { $follower->safe_psql($db, 'SELECT count(*) FROM t') eq $rows });
	pass("$what: the stream goes on");
	return;
}

# ---------- commands that need a database to themselves ----------

new_pair('shop');
refused($leader, $_, qr/database "shop" is being accessed by other users/)
  for 'DROP DATABASE shop', 'ALTER DATABASE shop RENAME TO store', 'CREATE DATABASE copy TEMPLATE shop';
follows('after commands that failed', 'shop');

$_->safe_psql('postgres', "SET allow_in_place_tablespaces = on; CREATE TABLESPACE space LOCATION ''") for $leader, $follower;
$follower->safe_psql('postgres', $_)
  for 'ALTER DATABASE shop SET TABLESPACE space', 'CREATE DATABASE copy TEMPLATE shop', 'ALTER DATABASE shop RENAME TO store',
  'ALTER DATABASE store RENAME TO shop';
pass('a follower is moved, copied and renamed');
follows('a moved follower', 'shop');
is($follower->safe_psql('copy', q{SELECT count(*) FROM fanout.staleness}), '0', 'its copy follows nothing');
$follower->safe_psql('copy', 'DELETE FROM t');
is(origins(), '1', '... and has no origin');
$follower->safe_psql('copy', "SELECT fanout.follow('app', '" . $leader->connstr('shop') =~ s/'/''/gr
	  . "', copy_schema => false)");
wait_for_state('copy', 'streaming');
is($leader->safe_psql('shop', q{SELECT string_agg(follower, ' ' ORDER BY follower) FROM fanout.followers WHERE state = 'streaming'}),
	'copy shop', '... until it is told to, as another follower');
$follower->safe_psql('copy', q{SELECT fanout.unfollow('app')});
$follower->safe_psql('postgres', 'DROP DATABASE copy');

# The leader: its followers are connections, until they pause.
$follower->safe_psql('shop', q{SELECT fanout.pause('app')});
wait_for_state('shop', 'paused');
$leader->safe_psql('postgres', $_)
  for 'ALTER DATABASE shop SET TABLESPACE space', 'CREATE DATABASE copy TEMPLATE shop', 'ALTER DATABASE shop RENAME TO store',
  'ALTER DATABASE store RENAME TO shop';
pass('a leader without connected followers is moved, copied and renamed');
is($leader->safe_psql('copy', 'SELECT count(*) FROM fanout.streams'), '0', 'its copy leads nothing');
$leader->safe_psql('copy', q{SELECT fanout.create_stream('app')});
wait_until('the stream of the copy', sub { $leader->safe_psql('copy', 'SELECT state FROM fanout.streams') eq 'streaming' });
is($leader->safe_psql('copy', 'SELECT count(*) FROM fanout.followers'), '0', '... and can lead a stream of its own');
$follower->safe_psql('shop', q{SELECT fanout.resume('app')});
follows('a moved leader', 'shop');
$leader->safe_psql('postgres', 'DROP DATABASE copy');

# ---------- DROP DATABASE ----------

$follower->safe_psql('postgres', 'DROP DATABASE shop');
is(origins(), '0', 'the origin goes with the follower, at once');
wait_until('the leader to notice', sub { $leader->safe_psql('shop', 'SELECT state FROM fanout.followers') eq 'away' });
$leader->safe_psql('postgres', 'DROP DATABASE shop');
nothing_left('DROP DATABASE of follower and leader');

new_pair('shop');
$leader->safe_psql('postgres', 'DROP DATABASE shop WITH (FORCE)');
is(slots(), '0', 'WITH (FORCE) drops a leader with connected followers');
wait_until('the follower to say it', sub { $follower->safe_psql('shop', 'SELECT last_error FROM fanout.staleness')
		  =~ /could not connect to the leader: .*database "shop" does not exist/s });
pass('... who say so');
$follower->safe_psql('postgres', 'DROP DATABASE shop WITH (FORCE)');
nothing_left('DROP DATABASE WITH (FORCE)');

# ---------- DROP EXTENSION ----------

new_pair('shop');
$follower->safe_psql('shop', 'BEGIN; DROP EXTENSION pg_fanout; ROLLBACK');
$leader->safe_psql('shop', q{BEGIN; SELECT fanout.drop_stream('app', true); DROP EXTENSION pg_fanout; ROLLBACK});
follows('DROP EXTENSION rolled back', 'shop');
$follower->safe_psql('shop', 'DROP EXTENSION pg_fanout');
wait_until('the follower to end', sub { origins() == 0 && workers($follower) == 0 && directories($follower) == 0 });
pass('DROP EXTENSION on a follower ends it');
$follower->safe_psql('shop', 'INSERT INTO t VALUES (1000)');
is($leader->safe_psql('shop', 'SELECT state FROM fanout.followers'), 'away', '... but the leader keeps its place');
$leader->safe_psql('shop', q{SELECT fanout.drop_follower('app', 'shop')});

$follower->safe_psql('shop', 'CREATE EXTENSION pg_fanout');
start_following('shop', ', copy_schema => false');
$follower->safe_psql('shop', q{SELECT fanout.pause('app')});
wait_for_state('shop', 'paused');
$leader->safe_psql('shop', q{SELECT fanout.drop_follower('app', 'shop'); DROP EXTENSION pg_fanout});
$follower->safe_psql('shop', q{SELECT fanout.resume('app')});
wait_until('the slot to go', sub { slots() == 0 && workers($leader) == 0 && directories($leader) == 0 });
pass('DROP EXTENSION on a leader ends its streams');
is($leader->safe_psql('shop', 'SELECT count(*) FROM pg_publication'), '0', '... with their publications');
wait_until('the follower to say it', sub { $follower->safe_psql('shop', 'SELECT last_error FROM fanout.staleness')
		  =~ /fanout/ && $follower->safe_psql('shop', 'SELECT state FROM fanout.staleness') eq 'failed' });
pass('... and their followers say so');
$leader->safe_psql('shop', q{CREATE EXTENSION pg_fanout; SELECT fanout.create_stream('app')});
follows('a stream of that name made anew', 'shop');
is($follower->safe_psql('shop', 'SELECT count(*) FROM t'), $leader->safe_psql('shop', 'SELECT count(*) FROM t'),
	'... after a new copy');

# ---------- without the library ----------

sub set_preload
{
	my ($node, $library) = @_;
	$node->adjust_conf('postgresql.conf', 'shared_preload_libraries', "'$library'");
	$node->restart;
	return;
}

# Every function in C, with some value for each argument.
my $calls = q{SELECT format('%s fanout.%s(%s)', CASE prokind WHEN 'p' THEN 'CALL' ELSE 'SELECT' END, proname,
		(SELECT string_agg(CASE t WHEN 'record'::regtype THEN 'ROW(1)' WHEN 'uuid'::regtype THEN 'gen_random_uuid()'
			WHEN 'pg_lsn'::regtype THEN $$'0/0'$$ WHEN 'name[]'::regtype THEN $$'{}'$$ WHEN 'oid[]'::regtype THEN $$'{}'$$ WHEN 'int[]'::regtype THEN $$'{}'$$
			WHEN 'bool'::regtype THEN 'false' ELSE $$'1'$$ END || '::' || t::regtype, ', ' ORDER BY n)
		 FROM unnest(proargtypes) WITH ORDINALITY AS a (t, n)))
	FROM pg_proc WHERE pronamespace = 'fanout'::regnamespace AND prolang = (SELECT oid FROM pg_language WHERE lanname = 'c')
	ORDER BY 1};
sub all_fail
{
	my ($node) = @_;
	my @calls = split /\n/, $node->safe_psql('shop', $calls);
	cmp_ok(scalar @calls, '>', 25, 'there are functions');
	for my $call (@calls, 'SELECT * FROM fanout.streams', 'SELECT * FROM fanout.staleness', 'TABLE fanout.table_staleness')
	{
		my ($rc, $out, $err) = $node->psql('shop', $call, extra_params => [ '-v', 'VERBOSITY=verbose' ]);
		like($err, qr/55000: pg_fanout must be loaded via "shared_preload_libraries"/, $node->name . " without the library: $call");
	}
	return;
}
set_preload($_, '') for $leader, $follower;
all_fail($_) for $leader, $follower;
$leader->safe_psql('shop', 'INSERT INTO t SELECT generate_series(5001, 5010)');
is(slots(), '1', 'the slot keeps the WAL');
$follower->safe_psql('shop', 'INSERT INTO t VALUES (9999)');
pass('the guard is off');
set_preload($_, 'pg_fanout') for $leader, $follower;
wait_for_state('shop', 'streaming');
wait_until('the rows', sub { $follower->safe_psql('shop', 'SELECT count(*) FROM t WHERE id BETWEEN 5001 AND 5010') eq '10' });
pass('with the library the stream goes on');
is($follower->safe_psql('shop', q{SELECT differing_keys FROM fanout.verify('app')}), '[{"id": 9999}]',
	'verify() finds what was written meanwhile');
$follower->safe_psql('shop', q{SELECT fanout.resync('app')});
wait_until('the resync', sub { $follower->safe_psql('shop', 'SELECT count(*) FROM t WHERE id = 9999') eq '0' });
wait_for_state('shop', 'streaming');
is($follower->safe_psql('shop', q{SELECT equal FROM fanout.verify('app')}), 't', '... and resync() mends it');

# DROP DATABASE without the library leaves what belongs to the server; with it, most of that goes.
set_preload($_, '') for $leader, $follower;
$_->safe_psql('postgres', 'DROP DATABASE shop WITH (FORCE)') for $leader, $follower;
set_preload($_, 'pg_fanout') for $leader, $follower;
wait_until('the directories to go', sub { directories($leader) == 0 && directories($follower) == 0 });
is(slots(), '0', 'DROP DATABASE without the library: the slot is gone');
is(origins(), '1', '... but not the origin, which takes pg_replication_origin_drop()');
$follower->safe_psql('postgres', 'SELECT pg_replication_origin_drop(roname) FROM pg_replication_origin');
nothing_left('all of it');

# A crash right after that, before anybody but the worker has had WAL written.
$leader->safe_psql('postgres', q{CREATE EXTENSION pg_fanout; CREATE TABLE last (id int); SELECT fanout.create_stream('last')});
$follower->append_conf('postgresql.conf', 'wal_writer_delay = 10s');
$follower->reload;
$follower->safe_psql('postgres', 'CREATE EXTENSION pg_fanout');
$follower->safe_psql('postgres', q{SELECT fanout.follow('last', '} . conninfo($leader) =~ s/'/''/gr . q{')});
is($follower->safe_psql('postgres', q{SELECT fanout.wait_for_copy('last', '150s')}), 't', 'followed once more');
$follower->safe_psql('postgres', q{SELECT fanout.unfollow('last')});
wait_until('the directory to go', sub { directories($follower) == 0 });
$follower->stop('immediate');
$follower->start;
is(origins(), '0', 'a crash brings no origin back');
$leader->safe_psql('postgres', q{SELECT fanout.drop_stream('last')});
nothing_left('that');

unlike(slurp_file($_->logfile), qr/PANIC|terminated by signal/, $_->name . ' did not crash') for $leader, $follower;
$_->stop for $follower, $leader;
done_testing();
