# The leader, its followers and the networks between them: starting, ending and asking
# servers that may be down at any moment.
#
# A server is a hash: node, the PostgreSQL::Test::Cluster; down, whether we ended it; for a
# follower also proxy, its way to the leader.  A question to a server that is down has the
# answer undef.
#
# No statement may take long: it may wait for a lock that a stalled process has, and who
# waits for it is who lets that process go on.
package Chaos::Servers;

use strict;
use warnings FATAL => 'all';

use Cwd qw(realpath);
use Fanout qw(new_server wait_until);
use IO::Socket::UNIX;
use Proxy;
use Time::HiRes qw(sleep);

# Dynamic shared memory is in files of the data directory, so that we see what is left of it.
my @settings = (
	'max_connections = 80', 'max_prepared_transactions = 10', 'fanout.retry_interval = 1000',
	'log_line_prefix = \'%m [%p] %e %b: \'', 'dynamic_shared_memory_type = mmap',
	'deadlock_timeout = 300ms', 'log_connections = off', 'log_replication_commands = off',
	'wal_sender_timeout = 20s');

my $patience = q{SET statement_timeout = '15s';};

sub value_of
{
	my ($server, $query, $database) = @_;
	return undef if $server->{down};
	my ($rc, $out) = eval { $server->{node}->psql($database // 'postgres', "$patience $query", timeout => 60) };
	return defined $rc && $rc == 0 ? $out : undef;
}

# Run it; returns whether that went well, and what the server said besides.
sub run_on
{
	my ($server, $sql, $database) = @_;
	return (0, 'down') if $server->{down};
	my ($rc, $out, $err) =
	  eval { $server->{node}->psql($database // 'postgres', "$patience $sql", timeout => 120, on_error_stop => 1) };
	return (defined $rc && $rc == 0, $err // '');
}

sub name_of { return $_[0]{node}->name; }

# ---------- making them ----------

# A leader whose change log is on a disk of its own, when there is one, and three followers.
sub make
{
	my ($disk, @names) = @_;
	my %world = (disk => $disk);
	my $leader = { node => new_stopped('leader', 'fanout.segment_size = 1MB') };
	if ($disk)
	{
		mkdir "$disk/log" or die "$disk/log: $!";
		symlink("$disk/log", $leader->{node}->data_dir . '/pg_fanout') or die $!;
	}
	$world{leader} = $leader;
	for my $name (@names)
	{
		push @{ $world{followers} }, { node => new_stopped($name),
			proxy => Proxy->new($leader->{node}, scalar @{ $world{followers} // [] }) };
	}
	# What the last one tries first takes connections, and answers nothing.
	$world{followers}[-1]{frozen} = frozen_server($leader->{node});
	for my $server (all_servers(\%world))
	{
		$server->{node}->start;
		note_memory($server);
		$server->{node}->safe_psql('postgres', 'CREATE EXTENSION pg_fanout');
	}
	$leader->{node}->safe_psql('postgres', q{SELECT fanout.create_stream('app')});
	return \%world;
}

sub frozen_server
{
	my ($node) = @_;
	my $port = PostgreSQL::Test::Cluster::get_free_port();
	my $path = $node->host . "/.s.PGSQL.$port";
	return { port => $port, socket => IO::Socket::UNIX->new(Local => $path, Listen => 4096) // die "$path: $!" };
}

# Where the follower finds the leader.
sub conninfo_of
{
	my ($follower) = @_;
	my ($proxy, $frozen) = @$follower{qw(proxy frozen)};
	return $proxy->conninfo unless $frozen;
	return "host=$proxy->{host},$proxy->{host} port=$frozen->{port},$proxy->{port} dbname=postgres";
}

sub new_stopped
{
	my ($name, @more) = @_;
	my $node = new_server($name, @settings, @more);
	$node->stop;
	return $node;
}

sub all_servers { return ($_[0]{leader}, @{ $_[0]{followers} }); }

# ---------- processes ----------

# Every process of the server, its postmaster or not: they live in its data directory.
sub processes_of
{
	my ($server) = @_;
	my $home = realpath($server->{node}->data_dir);
	return grep { (readlink("/proc/$_/cwd") // '') eq $home } map { /(\d+)$/ } glob('/proc/[0-9]*');
}

# Signal a process, if it is still one of that server.
sub signal_process
{
	my ($server, $signal, $pid) = @_;
	return 0 unless $pid && grep { $_ == $pid } processes_of($server);
	return kill $signal, $pid;
}

# Let processes of the server go on that were stopped.
sub let_go
{
	my ($server) = @_;
	signal_process($server, 'CONT', $_) for @{ delete $server->{stalled} // [] };
	return;
}

# The System V segments the server made, by postmaster.pid: there must be none in the end.
sub note_memory
{
	my ($server) = @_;
	open my $file, '<', $server->{node}->data_dir . '/postmaster.pid' or return;
	my @lines = <$file>;
	my (undef, $id) = split ' ', $lines[6] // '';
	$server->{memory}{$id} = 1 if $id;
	return;
}

# ---------- ending and starting them ----------

sub end_server
{
	my ($server, $how) = @_;
	return 0 if $server->{down};
	$server->{down} = 1;
	if ($how eq 'kill')
	{
		$server->{killed} = $server->{node}{_pid};
		$server->{node}->kill9;
	}
	else
	{
		# One that is stopped would never notice.
		let_go($server);
		$server->{node}->stop($how, fail_ok => 1) or die name_of($server) . " does not stop ($how)";
	}
	return 1;
}

# What a killed postmaster leaves must end by itself, unless it was stopped.  It is there itself until
# somebody has taken notice of its end.
sub start_server
{
	my ($server) = @_;
	return 1 unless $server->{down};
	let_go($server);
	wait_until('the processes of ' . name_of($server) . ' to end after its postmaster',
		sub { !processes_of($server) && !($server->{killed} && kill 0, $server->{killed}) });
	$server->{node}->start(fail_ok => 1) or die name_of($server) . ' does not start';
	$server->{down} = 0;
	note_memory($server);
	return 1;
}

# ---------- followers come and go ----------

sub follows
{
	my ($follower) = @_;
	return value_of($follower, 'SELECT count(*) FROM fanout.followed_stream');
}

# What the follower has of its own: a table that refers to one of the stream's, and triggers that fire
# with what the stream brings.  One note for each tick, and the last version of each row of "tiny".
# The leader's event trigger is here, too, and is not to note what is none of the leader's.
my $local = q{SET fanout.guard = off; SET session_replication_role = replica; BEGIN;
	CREATE SCHEMA local;
	CREATE TABLE local.aim (id int PRIMARY KEY, goal int REFERENCES public.goal);
	INSERT INTO local.aim SELECT id, id FROM public.goal;
	CREATE TABLE local.seen (n bigint PRIMARY KEY);
	CREATE FUNCTION local.see() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
		$$ BEGIN INSERT INTO local.seen VALUES (NEW.n) ON CONFLICT DO NOTHING; RETURN NEW; END $$;
	CREATE TRIGGER see AFTER INSERT ON public.tick FOR EACH ROW EXECUTE FUNCTION local.see();
	ALTER TABLE public.tick ENABLE ALWAYS TRIGGER see;
	INSERT INTO local.seen SELECT n FROM public.tick;
	CREATE TABLE local.last (id int PRIMARY KEY, n bigint NOT NULL);
	CREATE FUNCTION local.keep() RETURNS trigger LANGUAGE plpgsql SET search_path = local AS
		$$ BEGIN INSERT INTO last VALUES (NEW.id, NEW.n) ON CONFLICT (id) DO UPDATE SET n = excluded.n; RETURN NEW; END $$;
	CREATE TRIGGER keep BEFORE INSERT OR UPDATE ON public.tiny FOR EACH ROW EXECUTE FUNCTION local.keep();
	ALTER TABLE public.tiny ENABLE ALWAYS TRIGGER keep;
	INSERT INTO local.last SELECT id, n FROM public.tiny;
	COMMIT};

# Unfollow and drop the tables, in one transaction.
sub leave
{
	my ($follower) = @_;
	$follower->{left} = 1;
	my ($ok) = run_on($follower, q{SET fanout.guard = off; BEGIN; SELECT fanout.unfollow('app');
		DROP SCHEMA IF EXISTS local CASCADE; DROP SCHEMA public CASCADE; CREATE SCHEMA public; COMMIT});
	return $ok;
}

sub has_local_tables
{
	my ($follower) = @_;
	return 1 if (value_of($follower, q{SELECT to_regclass('local.aim') IS NOT NULL}) // '') eq 't';
	return 0 unless (value_of($follower, 'SELECT state FROM fanout.staleness') // '') eq 'streaming';
	my ($ok, $err) = run_on($follower, $local);
	$follower->{why} = $err unless $ok;
	return $ok;
}

# Follow, whatever became of earlier attempts; true when it is done and the tables are there.
sub join_again
{
	my ($world, $follower) = @_;
	my $name = name_of($follower);
	my $follows = follows($follower) // return 0;
	return has_local_tables($follower) if $follows;
	my $conninfo = conninfo_of($follower);
	run_on($follower, 'DROP SCHEMA IF EXISTS local CASCADE; DROP SCHEMA public CASCADE; CREATE SCHEMA public');
	# unfollow() may not have reached the leader.
	run_on($world->{leader}, "SELECT fanout.drop_follower('app', '$name') FROM fanout.followers WHERE follower = '$name'");
	my ($ok, $err) = run_on($follower, "SELECT fanout.follow('app', '$conninfo', follower => '$name')");
	$follower->{why} = $err unless $ok;
	return 0;
}

1;
