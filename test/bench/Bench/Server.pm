# A server of the benchmark: its start and end, sessions, and what its processes used.
package Bench::Server;

use strict;
use warnings FATAL => 'all';

use IPC::Open2;
use Time::HiRes qw(sleep time);

our ($scratch, $bindir, $pkglibdir);
our %all;
my $next_port = 60000 + int(rand(4000));

sub has_pglogical { return -f "$pkglibdir/pglogical.so"; }

sub shell
{
	my ($command) = @_;
	system("$command >>$scratch/commands.log 2>&1") == 0
	  or die "failed: $command\n" . `tail -n 20 $scratch/commands.log`;
	return;
}

# Made by initdb, or from a base backup of another one.
sub new
{
	my ($class, $name, %options) = @_;
	my $self = bless { name => $name, port => $next_port++, dir => "$scratch/$name" }, $class;
	mkdir $self->{dir};
	my $data = "$self->{dir}/data";
	if ($options{standby_of})
	{
		my $from = $options{standby_of};
		shell("$bindir/pg_basebackup -D $data -h $scratch -p $from->{port} -U postgres -R -C -S $name -c fast -X stream");
	}
	else
	{
		shell("$bindir/initdb -D $data -A trust -U postgres --no-sync");
	}
	my $preload = join(',', 'pg_fanout', has_pglogical() ? 'pglogical' : ());
	$self->configure("port = $self->{port}", "unix_socket_directories = '$scratch'",
		"listen_addresses = ''", 'wal_level = logical', "shared_preload_libraries = '$preload'",
		'max_worker_processes = 24', 'max_wal_senders = 48', 'max_replication_slots = 48',
		'fanout.max_followers = 64', 'max_connections = 150', 'shared_buffers = 512MB',
		'max_wal_size = 16GB', 'checkpoint_timeout = 1h', 'autovacuum = off',
		'maintenance_work_mem = 256MB',
		# Built-in replication starts a worker at most once in this time, 5 s by default.  A
		# subscription that is enabled again, or has another table to copy, would wait for it,
		# and that pause would be measured instead of the work.
		'wal_retrieve_retry_interval = 20ms',
		# A standby asks for its progress while it replays; replay waits for that.
		'max_standby_streaming_delay = -1',
		# What is measured is the work of the processes, not this machine's disk.
		'fsync = off', 'log_min_messages = warning',
		@{ $options{conf} // [] });
	# Newer minors load only the output plugins that are named.
	$self->configure("output_plugin_libraries = 'pgoutput, pglogical_output'")
	  if has_pglogical() && system("$bindir/postgres -D $data -C output_plugin_libraries >/dev/null 2>&1") == 0;
	$all{$name} = $self;
	return $self;
}

sub configure
{
	my ($self, @lines) = @_;
	open my $conf, '>>', "$self->{dir}/data/postgresql.conf" or die $!;
	print $conf map { "$_\n" } @lines;
	close $conf;
	return;
}

sub start
{
	my ($self) = @_;
	shell("$bindir/pg_ctl -s -w -D $self->{dir}/data -l $self->{dir}/log start");
	return $self;
}

sub stop
{
	my ($self) = @_;
	$self->close_sessions;
	shell("$bindir/pg_ctl -s -w -D $self->{dir}/data -m fast stop");
	return;
}

# End all of them, also those that a failed workload left in some state.
sub stop_all
{
	for my $server (values %all)
	{
		eval { $server->stop; 1 }
		  or system("$bindir/pg_ctl -s -w -D $server->{dir}/data -m immediate stop >/dev/null 2>&1");
	}
	%all = ();
	return;
}

sub conninfo
{
	my ($self, $db) = @_;
	return "host=$scratch port=$self->{port} user=postgres dbname=" . ($db // 'postgres');
}

# ---------- sessions ----------

# A psql that stays; the rows of a query as text.
sub query
{
	my ($self, $sql, $db) = @_;
	my $session = $self->{sessions}{ $db // 'postgres' } //= $self->_open($db);
	my ($out, $in) = @$session;
	my @rows;
	print $in "$sql;\n\\echo :SQLSTATE end-of-rows\n";
	while (1)
	{
		my $line = <$out> // die "session of $self->{name} ended in: $sql";
		chomp $line;
		if ($line =~ /^(\S{5}) end-of-rows$/)
		{
			die "query failed ($1): $sql\n" . `tail -n 5 $scratch/psql.err` if $1 ne '00000';
			return join("\n", @rows);
		}
		push @rows, $line;
	}
}

sub _open
{
	my ($self, $db) = @_;
	my $pid = open2(my $out, my $in,
		"exec $bindir/psql -XAtq -v VERBOSITY=terse -d '" . $self->conninfo($db) . "' 2>>$scratch/psql.err");
	$in->autoflush(1);
	return [ $out, $in, $pid ];
}

sub close_sessions
{
	my ($self) = @_;
	for my $session (values %{ $self->{sessions} // {} })
	{
		close $session->[1];
		waitpid $session->[2], 0;
	}
	$self->{sessions} = {};
	return;
}

# Ask until the answer is "t"; returns how many seconds it took.  The watcher is called in between.
sub wait_for
{
	my ($self, $sql, $db, $watcher, $timeout) = @_;
	my $start = time;
	while (1)
	{
		return time - $start if $self->query($sql, $db) eq 't';
		$watcher->() if $watcher;
		die "$self->{name}: timed out waiting for: $sql\n" . `tail -n 20 $self->{dir}/log`
		  if time - $start > ($timeout // 120);
		sleep 0.005;
	}
}

# ---------- instructions ----------

sub has_valgrind { return system('valgrind --version >/dev/null 2>&1') == 0; }

# Start the server under a tool that counts what each process of it executes.
sub start_counting
{
	my ($self) = @_;
	my $pid = fork // die $!;
	if ($pid == 0)
	{
		open STDOUT, '>>', "$scratch/commands.log";
		open STDERR, '>&', \*STDOUT;
		exec qw(valgrind -q --tool=callgrind --trace-children=yes),
		  "--callgrind-out-file=$self->{dir}/count.%p", "$bindir/postgres", '-D', "$self->{dir}/data";
	}
	for my $try (1 .. 600)
	{
		return if system("$bindir/pg_isready -q -d '" . $self->conninfo . "'") == 0;
		sleep 0.1;
	}
	die "$self->{name} did not start under valgrind";
}

# Instructions of the busiest session of what the function does.
sub count_instructions
{
	my ($self, $work) = @_;
	my %before = map { $_ => 1 } glob "$self->{dir}/count.*";
	$work->($self);
	# A process writes its count when it ends, which may be later than its session does.
	my $most = 0;
	for my $try (1 .. 100)
	{
		for my $path (grep { !$before{$_} } glob "$self->{dir}/count.*")
		{
			my ($count) = `grep -m1 -E '^(summary|totals):' $path` =~ /: (\d+)/;
			$most = $count if $count && $count > $most;
		}
		last if $most > 0 && $try > 10;
		sleep 0.1;
	}
	return $most;
}

# ---------- processes ----------

my $ticks = `getconf CLK_TCK`;

# Seconds of CPU that a process has used; undef when it is gone.
sub cpu
{
	my ($pid) = @_;
	open my $file, '<', "/proc/$pid/stat" or return;
	my $stat = <$file> // return;
	$stat =~ s/^.*\) //;
	my @fields = split ' ', $stat;
	return ($fields[11] + $fields[12]) / $ticks;
}

# Memory of its own that a process has now, in MB.
sub memory
{
	my ($pid) = @_;
	open my $file, '<', "/proc/$pid/status" or return 0;
	while (<$file>)
	{
		return $1 / 1024 if /^RssAnon:\s+(\d+)/;
	}
	return 0;
}

# Processes by what they are, as a condition on pg_stat_activity.
sub pids
{
	my ($self, $condition) = @_;
	return split /\n/, $self->query("SELECT pid FROM pg_stat_activity WHERE $condition");
}

sub cpu_of
{
	my ($self, $condition) = @_;
	return { map { $_ => cpu($_) // 0 } $self->pids($condition) };
}

# CPU used since an earlier cpu_of() by those that are there now.
sub cpu_since
{
	my ($self, $condition, $before) = @_;
	my $now = $self->cpu_of($condition);
	my $sum = 0;
	$sum += $now->{$_} - ($before->{$_} // 0) for keys %$now;
	return $sum;
}

1;
