# The systems that are measured, behind the same few methods: follow, pause, resume, and
# which processes do the work.
package Bench::System;

use strict;
use warnings FATAL => 'all';

use Bench::Server;

our @names = qw(fanout native pglogical physical);

# Conditions on pg_stat_activity.
my %leader_work = (
	fanout => "backend_type = 'pg_fanout decoder' OR query LIKE 'CALL fanout.send_changes%' OR query LIKE 'sending stream%'",
	native => "backend_type = 'walsender'",
	pglogical => "backend_type = 'walsender'",
	physical => "backend_type = 'walsender'");
my %follower_work = (
	fanout => "backend_type = 'pg_fanout follower'",
	native => "backend_type = 'logical replication worker'",
	pglogical => "backend_type LIKE 'pglogical apply%'",
	physical => "backend_type = 'startup'");

sub leader_work { return $leader_work{ $_[0] } }
sub follower_work { return $follower_work{ $_[0] } }

sub available
{
	return grep { $_ ne 'pglogical' || Bench::Server::has_pglogical() } @names;
}

# The tables of the leader, empty, with their keys.
sub copy_schema
{
	my ($leader, $follower, $db) = @_;
	$db //= 'postgres';
	Bench::Server::shell("$Bench::Server::bindir/pg_dump -s -x -N fanout -N pglogical -d '"
		  . $leader->conninfo . "' | grep -v -E 'pg_fanout|pglogical|^.(un)?restrict|PUBLICATION'"
		  . " | $Bench::Server::bindir/psql -q -X -d '" . $follower->conninfo($db) . "'");
	return;
}

# What the leader needs before anybody follows.
sub prepare_leader
{
	my ($leader, @systems) = @_;
	my %wanted = map { $_ => 1 } @systems;
	$leader->query('CREATE EXTENSION IF NOT EXISTS pg_fanout');
	if ($wanted{fanout})
	{
		$leader->query("SELECT fanout.create_stream('app')");
		$leader->wait_for("SELECT state = 'streaming' FROM fanout.streams");
	}
	$leader->query('CREATE PUBLICATION bench FOR TABLES IN SCHEMA public') if $wanted{native};
	if ($wanted{pglogical})
	{
		$leader->query('CREATE EXTENSION pglogical');
		$leader->query("SELECT pglogical.create_node('leader', '" . $leader->conninfo . "')");
		$leader->query("SELECT pglogical.replication_set_add_table("
			  . "CASE WHEN relhaspkey THEN 'default' ELSE 'default_insert_only' END, oid)"
			  . " FROM (SELECT oid, EXISTS (SELECT FROM pg_index i WHERE indrelid = c.oid AND indisprimary)"
			  . " AS relhaspkey FROM pg_class c WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace) t");
	}
	return;
}

# A server that follows; returns it once it has the leader's data.
sub follower
{
	my ($system, $leader) = @_;
	if ($system eq 'physical')
	{
		my $server = Bench::Server->new($system, standby_of => $leader)->start;
		return $server;
	}
	my $server = Bench::Server->new($system)->start;
	follow($system, $leader, $server, 'postgres', 1);
	return $server;
}

# Start to follow into a database and wait for the copy.
sub follow
{
	my ($system, $leader, $server, $db, $with_schema) = @_;
	my $conninfo = $leader->conninfo;
	if ($system eq 'fanout')
	{
		$server->query('CREATE EXTENSION pg_fanout', $db);
		$server->query("SELECT fanout.follow('app', '$conninfo', follower => '$db')", $db);
		$server->wait_for("SELECT state = 'streaming' FROM fanout.staleness", $db);
		return;
	}
	copy_schema($leader, $server, $db) if $with_schema;
	if ($system eq 'native')
	{
		$server->query("CREATE SUBSCRIPTION bench_$db CONNECTION '$conninfo' PUBLICATION bench WITH (binary = true, streaming = on)", $db);
		$server->wait_for("SELECT NOT EXISTS (SELECT FROM pg_subscription_rel WHERE srsubstate <> 'r')", $db);
	}
	else
	{
		$server->query('CREATE EXTENSION pglogical', $db);
		$server->query("SELECT pglogical.create_node('$db', '" . $server->conninfo($db) . "')", $db);
		$server->query("SELECT pglogical.create_subscription('bench_$db', '$conninfo')", $db);
		$server->wait_for("SELECT bool_and(status = 'replicating') FROM pglogical.show_subscription_status()", $db);
		$server->wait_for("SELECT NOT EXISTS (SELECT FROM pglogical.local_sync_status WHERE sync_status <> 'r')", $db);
	}
	return;
}

# Give up what follow() began, so that the database can be dropped.
sub unfollow
{
	my ($system, $server, $db) = @_;
	$server->query("SELECT fanout.unfollow('app')", $db) if $system eq 'fanout';
	$server->query("DROP SUBSCRIPTION bench_$db", $db) if $system eq 'native';
	$server->query("SELECT pglogical.drop_subscription('bench_$db')", $db) if $system eq 'pglogical';
	return;
}

my %pause = (
	fanout => "SELECT fanout.pause('app')",
	native => 'ALTER SUBSCRIPTION bench_postgres DISABLE',
	pglogical => "SELECT pglogical.alter_subscription_disable('bench_postgres', true)",
	physical => 'SELECT pg_wal_replay_pause()');
my %paused = (
	fanout => "SELECT state = 'paused' FROM fanout.staleness",
	native => "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE $follower_work{native})",
	pglogical => "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE $follower_work{pglogical})",
	physical => "SELECT pg_get_wal_replay_pause_state() = 'paused'");
my %resume = (
	fanout => "SELECT fanout.resume('app')",
	native => 'ALTER SUBSCRIPTION bench_postgres ENABLE',
	pglogical => "SELECT pglogical.alter_subscription_enable('bench_postgres', true)",
	physical => 'SELECT pg_wal_replay_resume()');

sub pause
{
	my ($system, $server) = @_;
	$server->query($pause{$system});
	$server->wait_for($paused{$system});
	return;
}

sub resume
{
	my ($system, $server) = @_;
	$server->query($resume{$system});
	return;
}

1;
