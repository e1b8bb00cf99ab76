# Clusters, followers and comparisons that the TAP tests share.
package Fanout;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';
use FindBin;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

our @EXPORT = qw(new_server start_server new_leader new_follower follow conninfo wait_for_copy
  wait_for_catchup wait_until same_data all_equal checksums worker_pid client start_client
  session state_is);

# Where other major versions are, by their number; script/test --mixed says so.
our %majors = map { split /=/ } split / /, $ENV{FANOUT_MAJORS} // '';

# The version of the servers that are made; undef: the installed one.
our $major;

# The database that leads or follows.
our $database = 'postgres';

# A running server with the library loaded; settings are lines of postgresql.conf.
sub new_server
{
	my ($name, @settings) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name,
		defined $major ? (install_path => $majors{$major}) : ());
	start_server($node, @settings);
	return $node;
}

# The same for one that was made, but not set up.
sub start_server
{
	my ($node, @settings) = @_;
	$node->init(allows_streaming => 'logical');
	$node->append_conf('postgresql.conf', join("\n",
			"shared_preload_libraries = 'pg_fanout'",
			'max_worker_processes = 16', 'restart_after_crash = on',
			'log_min_messages = info', 'log_statement = none', @settings)
		  . "\n");
	$node->start;
	return;
}

# A server whose database postgres leads stream "app" (all tables).
sub new_leader
{
	my ($name, @settings) = @_;
	my $node = new_server($name, @settings);
	$node->safe_psql($database, q{CREATE EXTENSION pg_fanout;
		SELECT fanout.create_stream('app')});
	return $node;
}

sub new_follower
{
	my ($name, @settings) = @_;
	my $node = new_server($name, @settings);
	$node->safe_psql($database, 'CREATE EXTENSION pg_fanout');
	return $node;
}

sub conninfo
{
	my ($leader) = @_;
	return $leader->connstr($database);
}

# Follow stream "app" as a follower of the server's name.
sub follow
{
	my ($follower, $leader, $options) = @_;
	my $conninfo = conninfo($leader);
	$conninfo =~ s/'/''/g;
	my $name = $follower->name;
	$options = defined $options ? ", $options" : '';
	return $follower->safe_psql($database,
		"SELECT fanout.follow('app', '$conninfo', follower => '$name'$options)");
}

# Call until it returns something true or the time is over; returns that.  Errors
# (a server that restarts) count as false.
sub wait_until
{
	my ($what, $condition, $timeout) = @_;
	my $end = time() + ($timeout // $PostgreSQL::Test::Utils::timeout_default);
	while (1)
	{
		my $result = eval { $condition->() };
		return $result if $result;
		die "timed out waiting for $what" if time() > $end;
		sleep 0.1;
	}
}

# The single value of a query; undef when it fails.
sub try_value
{
	my ($node, $query) = @_;
	my ($rc, $out) = $node->psql($database, $query, timeout => 60);
	return defined $rc && $rc == 0 ? $out : undef;
}

sub wait_for_copy
{
	my ($follower, $timeout) = @_;
	my $copied = eval {
		wait_until($follower->name . ' to be copied',
			sub {
				(try_value($follower,
						"SELECT state = 'streaming' AND NOT EXISTS (SELECT FROM fanout.table_staleness WHERE state <> 'streaming')
						 FROM fanout.staleness WHERE stream = 'app'") // '') eq 't';
			}, $timeout) };
	return if $copied;
	diag(join "\n", map { try_value($follower, $_) // 'no answer' } 'TABLE fanout.staleness',
		q{SELECT * FROM fanout.table_staleness WHERE state <> 'streaming'},
		q{SELECT stream, copy_state, start_lsn, copy_lsn, paused FROM fanout.followed_stream},
		q{SELECT pid, backend_type, wait_event_type, wait_event, query FROM pg_stat_activity WHERE backend_type LIKE 'pg_fanout %'});
	die $@;
}

# Until the followers have applied all that the leader has committed by now.
sub wait_for_catchup
{
	my ($leader, @followers) = @_;
	my $lsn;
	wait_until('the leader to answer', sub { $lsn = try_value($leader, 'SELECT fanout.flush_wal()') });
	for my $follower (@followers)
	{
		wait_until($follower->name . " to reach $lsn",
			sub {
				(try_value($follower,
						"SELECT applied_lsn >= '$lsn' FROM fanout.staleness WHERE stream = 'app'") // '') eq 't';
			});
	}
	return;
}

# Count and checksum of every row of every user table, by name.
sub checksums
{
	my ($node) = @_;
	my $query = $node->safe_psql($database, q{
		SELECT string_agg(format('SELECT %L, count(*), sum(hashtextextended(t::text, 0)::numeric) FROM ONLY %I.%I t',
				n.nspname || '.' || c.relname, n.nspname, c.relname), ' UNION ALL ')
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind = 'r' AND c.relpersistence = 'p'
		  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'fanout')});
	return {} if $query eq '';
	my %sums;
	for my $line (split /\n/, $node->safe_psql($database, $query))
	{
		my ($table, $sum) = $line =~ /^(.*?)\|(.*)$/s;
		$sums{$table} = $sum;
	}
	return \%sums;
}

# Are all followers equal to the leader, table by table?
sub same_data
{
	my ($what, $leader, @followers) = @_;
	my $expected = checksums($leader);
	for my $follower (@followers)
	{
		is_deeply(checksums($follower), $expected, "$what: " . $follower->name . ' equals the leader');
	}
	return;
}

# Once they have copied and applied all there is, are they?
sub all_equal
{
	my ($what, $leader, @followers) = @_;
	wait_for_copy($_) for @followers;
	wait_for_catchup($leader, @followers);
	same_data($what, $leader, @followers);
	return;
}

# Wait until the follower's stream is in that state.
sub state_is
{
	my ($follower, $state) = @_;
	wait_until($follower->name . " to be $state",
		sub { (try_value($follower, 'SELECT state FROM fanout.staleness') // '') eq $state });
	return;
}

# Start a program of test/client; returns its harness and references to what it prints.
sub start_client
{
	my ($program, $input, @args) = @_;
	my ($out, $err) = ('', '');
	my $harness = IPC::Run::start([ "$FindBin::Bin/../client/$program", @args ],
		'<', \$input, '>', \$out, '2>', \$err);
	return ($harness, \$out, \$err);
}

# Run one to its end; returns what it printed, dies when it failed.
sub client
{
	my ($harness, $out, $err) = start_client($_[0], '', @_[ 1 .. $#_ ]);
	$harness->finish;
	diag($$err) if $$err ne '';
	die "$_[0] failed" if $harness->full_result(0) != 0;
	return $$out;
}

# Send lines to a server through one session (test/client/session.c); returns for
# each the tag, the first value and the commit token.
sub session
{
	my ($node, @lines) = @_;
	my ($harness, $out, $err) =
	  start_client('session', join('', map { "$_\n" } @lines), conninfo($node));
	$harness->finish;
	die "session failed: $$err" if $harness->full_result(0) != 0;
	return map { [ split /\t/, $_, -1 ] } split /\n/, $$out;
}

# The process of the follower's worker; undef when it does not run.
sub worker_pid
{
	my ($follower) = @_;
	return try_value($follower,
		"SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_fanout follower'");
}

1;
