# The workloads.  Each is a function that is called once per round with its sizes and
# adds what it measured to the results; the order of the systems changes with the round.
package Bench::Workloads;

use strict;
use warnings FATAL => 'all';

use Time::HiRes qw(sleep time);

use Bench::Report qw(add);
use Bench::Server;
use Bench::System;

our (@systems, %sizes, $round);

our %all = (
	delivery => \&delivery,
	catchup => \&catchup,
	latency => \&latency,
	copy => \&copy,
	commit => \&commit_cost);
our @order = qw(delivery catchup latency copy commit);
our %about = (
	delivery => 'TPC-B with receivers that read and discard: leader CPU and throughput',
	catchup => 'paused followers resume: TPC-B, bulk INSERT, bulk UPDATE, hot rows; size of the log',
	latency => 'from the commit on the leader until it is visible on a follower',
	copy => 'initial copy of pgbench tables',
	commit => 'pgbench on a leader with the extension loaded and no stream');

sub rotated
{
	my @list = @_;
	push @list, shift @list for 1 .. $round % @list;
	return @list;
}

sub pgbench
{
	my ($server, $options) = @_;
	my $output = `$Bench::Server::bindir/pgbench -n $options '@{[$server->conninfo]}' 2>&1`;
	$? == 0 or die "pgbench $options failed:\n$output";
	return $output =~ /tps = ([0-9.]+)/ ? $1 : 0;
}

sub pgbench_init
{
	my ($server, $scale) = @_;
	Bench::Server::shell("$Bench::Server::bindir/pgbench -i -q -s $scale '" . $server->conninfo . "'");
	return;
}

# The leader and what follows it, made when a workload needs them first.
sub server
{
	my ($name, $make) = @_;
	return $Bench::Server::all{$name} // $make->();
}

# ---------- delivery ----------

sub start_receivers
{
	my ($leader, $system, $count) = @_;
	my @pids;
	for my $i (1 .. $count)
	{
		my $name = "receiver$i";
		my @command = $system eq 'fanout'
		  ? ("$Bench::Server::scratch/bench/receiver", $leader->conninfo, 'app', $name, '0')
		  : ("$Bench::Server::bindir/pg_recvlogical", '-d', $leader->conninfo, '-S', $name, '--start',
			'-f', '/dev/null', '-F', '0', '-o', 'proto_version=1', '-o', 'publication_names=bench', '-o', 'binary=true');
		$leader->query("SELECT pg_create_logical_replication_slot('$name', 'pgoutput')")
		  if $system eq 'native';
		my $pid = fork // die $!;
		if ($pid == 0)
		{
			open STDOUT, '>', '/dev/null';
			open STDERR, '>>', "$Bench::Server::scratch/receivers.log";
			exec @command;
		}
		push @pids, $pid;
	}
	my $work = Bench::System::leader_work($system);
	$leader->wait_for("SELECT count(*) >= $count FROM pg_stat_activity WHERE ($work) AND backend_type <> 'pg_fanout decoder'")
	  if $count > 0;
	return @pids;
}

sub stop_receivers
{
	my ($leader, $system, @pids) = @_;
	kill 'TERM', @pids;
	waitpid $_, 0 for @pids;
	for my $i (1 .. @pids)
	{
		my $name = "receiver$i";
		if ($system eq 'native')
		{
			$leader->wait_for("SELECT NOT active FROM pg_replication_slots WHERE slot_name = '$name'");
			$leader->query("SELECT pg_drop_replication_slot('$name')");
		}
		else
		{
			$leader->wait_for("SELECT sender_pid IS NULL FROM fanout.followers WHERE follower = '$name'");
			$leader->query("SELECT fanout.drop_follower('app', '$name')");
		}
	}
	return;
}

# Until every receiver has been sent what is committed now.
sub wait_for_receivers
{
	my ($leader, $system, $count, $watcher) = @_;
	my $lsn = $leader->query('SELECT pg_current_wal_flush_lsn()');
	$leader->wait_for($system eq 'fanout'
		? "SELECT count(*) >= $count FROM fanout.followers WHERE sent_lsn >= '$lsn'"
		: "SELECT count(*) >= $count FROM pg_stat_replication WHERE sent_lsn >= '$lsn'",
		undef, $watcher);
	return;
}

sub deliver
{
	my ($leader, $system, $count) = @_;
	my $work = Bench::System::leader_work($system);
	# What many receivers get takes long: fewer transactions, and the figure is scaled.
	my $transactions = $sizes{transactions} / ($count > 8 ? 4 : $count > 1 ? 2 : 1);
	if ($system eq 'fanout')
	{
		$leader->query("SELECT fanout.create_stream('app')");
		$leader->wait_for("SELECT state = 'streaming' FROM fanout.streams");
	}
	my @pids = start_receivers($leader, $system, $count);
	my $before = $leader->cpu_of($work);
	my %peak;
	my $tps = pgbench($leader, '-c 4 -t ' . $transactions / 4);
	wait_for_receivers($leader, $system, $count,
		sub { note_memory($leader, $system, \%peak) });
	my $cpu = $leader->cpu_since($work, $before);
	add('delivery', "leader CPU, N = $count", "s per $sizes{transactions} transactions", $system,
		$cpu * $sizes{transactions} / $transactions) if $count > 0;
	add('delivery', "throughput, N = $count", 'tps', $system, $tps);
	note_memory($leader, $system, \%peak);
	report_memory($system, \%peak);
	stop_receivers($leader, $system, @pids);
	$leader->query("SELECT fanout.drop_stream('app', true)") if $system eq 'fanout';
	$leader->wait_for("SELECT NOT EXISTS (SELECT FROM pg_replication_slots)");
	$leader->query('CHECKPOINT');
	return;
}

sub delivery
{
	my $leader = server('delivery', sub {
			my $server = Bench::Server->new('delivery')->start;
			$server->query('CREATE EXTENSION pg_fanout');
			$server->query('CREATE PUBLICATION bench FOR TABLES IN SCHEMA public');
			pgbench_init($server, $sizes{scale});
			return $server;
		});
	for my $count (@{ $sizes{receivers} })
	{
		deliver($leader, $_, $count) for rotated(grep { /fanout|native/ } @systems);
	}
	return;
}

# ---------- catch-up ----------

# Largest memory of a process of each kind of that server, in MB.
sub note_memory
{
	my ($server, $system, $peak) = @_;
	my $decoder = "backend_type = 'pg_fanout decoder'";
	my %kinds = (
		sender => '(' . Bench::System::leader_work($system) . ") AND NOT ($decoder)",
		applier => Bench::System::follower_work($system));
	$kinds{decoder} = $decoder if $system eq 'fanout';
	for my $kind (keys %kinds)
	{
		for my $pid ($server->pids($kinds{$kind}))
		{
			my $memory = Bench::Server::memory($pid);
			$peak->{$kind} = $memory if $memory > ($peak->{$kind} // 0);
		}
	}
	return;
}

sub report_memory
{
	my ($system, $peak) = @_;
	add('memory', "peak of the $_", 'MB', $system, $peak->{$_}) for sort keys %$peak;
	return;
}

my %backlog = (
	'TPC-B' => sub { pgbench($_[0], '-c 4 -t ' . $sizes{transactions} / 4) },
	'INSERT' => sub {
		$_[0]->query("INSERT INTO bench_bulk SELECT g, g % 1000, md5(g::text) FROM generate_series(1, $sizes{bulk}) g");
	},
	'UPDATE' => sub { $_[0]->query('UPDATE bench_bulk SET n = n + 1') },
	'hot rows' => sub {
		pgbench($_[0], '-c 4 -t ' . $sizes{transactions} / 4 . " -f $Bench::Server::scratch/hot.sql");
	});

sub catchup_servers
{
	open my $file, '>', "$Bench::Server::scratch/hot.sql" or die $!;
	print $file "\\set id random(1, 100)\nUPDATE bench_hot SET n = n + 1 WHERE id = :id;\n";
	close $file;

	my $leader = Bench::Server->new('leader')->start;
	pgbench_init($leader, $sizes{scale});
	$leader->query($_) for 'CREATE TABLE bench_bulk (id int PRIMARY KEY, n int, t text)',
	  'CREATE TABLE bench_hot (id int PRIMARY KEY, n int, t text)',
	  "INSERT INTO bench_hot SELECT g, 0, 'x' FROM generate_series(1, 100) g",
	  'CREATE TABLE bench_probe (n bigint PRIMARY KEY)', 'INSERT INTO bench_probe VALUES (1)',
	  'CREATE TABLE bench_marker (id int PRIMARY KEY)', 'ALTER TABLE pgbench_history ADD id bigserial PRIMARY KEY';
	Bench::System::prepare_leader($leader, @systems);
	Bench::System::follower($_, $leader) for @systems;
	return $leader;
}

sub catch_up
{
	my ($leader, $system, $name, $marker) = @_;
	my $server = $Bench::Server::all{$system};
	my $work = Bench::System::follower_work($system);
	my $before = $server->cpu_of($work);
	my $leader_before = $leader->cpu_of(Bench::System::leader_work($system));
	my %peak;
	my $start = time;

	Bench::System::resume($system, $server);
	my $turn = 0;
	my $watcher = sub {
		note_memory($server, $system, \%peak) if $turn % 10 == 0;
		note_memory($leader, $system, \%peak) if $turn++ % 10 == 5;
	};
	$server->wait_for("SELECT count(*) = 1 FROM bench_marker WHERE id = $marker", undef, $watcher);
	add('catch-up', "$name, wall", 's', $system, time - $start);
	add('catch-up', "$name, worker CPU", 's', $system, $server->cpu_since($work, $before));
	add('catch-up', "$name, leader CPU", 's', $system,
		$leader->cpu_since(Bench::System::leader_work($system), $leader_before));
	report_memory($system, \%peak);
	$server->query('CHECKPOINT');
	return;
}

# Are the tables that the backlog changed the same everywhere?
sub compare
{
	my ($leader) = @_;
	for my $table (qw(pgbench_accounts pgbench_tellers pgbench_branches pgbench_history bench_bulk bench_hot))
	{
		my $sum = "SELECT count(*), sum(hashtextextended(t::text, 0)::numeric) FROM $table t";
		my $expected = $leader->query($sum);
		for my $system (@systems)
		{
			my $got = $Bench::Server::all{$system}->query($sum);
			die "$system: $table differs: $got, not $expected" if $got ne $expected;
		}
	}
	return;
}

my $marker = 0;

sub catchup
{
	my $leader = server('leader', \&catchup_servers);
	my $servers = \%Bench::Server::all;
	$leader->query('TRUNCATE bench_bulk');
	for my $name ('TPC-B', 'INSERT', 'UPDATE', 'hot rows')
	{
		my $lsn = $leader->query('SELECT pg_current_wal_insert_lsn()');
		my $log = wait_for_decoder($leader);
		my $decoder = "backend_type = 'pg_fanout decoder'";
		my $before = $leader->cpu_of($decoder);

		settle($leader);
		Bench::System::pause($_, $servers->{$_}) for @systems;
		$backlog{$name}->($leader);
		$marker++;
		$leader->query("INSERT INTO bench_marker VALUES ($marker)");
		if (defined $log)
		{
			my $wal = $leader->query("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '$lsn')");
			add('log size', "$name, change log / WAL", 'ratio', 'fanout', (wait_for_decoder($leader) - $log) / $wal);
			add('catch-up', "$name, decoding once", 's', 'fanout', $leader->cpu_since($decoder, $before));
		}
		catch_up($leader, $_, $name, $marker) for rotated(@systems);
		if ($name eq 'INSERT')
		{
			$servers->{$_}->query('VACUUM ANALYZE bench_bulk') for 'leader', grep { $_ ne 'physical' } @systems;
		}
	}
	compare($leader) if $round == 0;
	return;
}

# Followers have everything.
sub settle
{
	my ($leader) = @_;
	$marker++;
	$leader->query("INSERT INTO bench_marker VALUES ($marker)");
	$Bench::Server::all{$_}->wait_for("SELECT count(*) = 1 FROM bench_marker WHERE id = $marker") for @systems;
	return;
}

# All decoded; the size of the log in bytes.
sub wait_for_decoder
{
	my ($leader) = @_;
	return unless grep { $_ eq 'fanout' } @systems;
	my $lsn = $leader->query('SELECT fanout.flush_wal()');
	$leader->wait_for("SELECT decoded_lsn >= '$lsn' FROM fanout.streams");
	return $leader->query('SELECT log_bytes FROM fanout.streams');
}

# ---------- latency ----------

sub percentile
{
	my ($part, @values) = @_;
	@values = sort { $a <=> $b } @values;
	return $values[ int($part * $#values + 0.5) ];
}

# The probe while pgbench commits at that rate.
sub measure_latency
{
	my ($leader, $system, $rate, $receivers) = @_;
	my $server = $Bench::Server::all{$system};
	my $seconds = $sizes{latency_seconds};
	my $pid = fork // die $!;
	if ($pid == 0)
	{
		open STDOUT, '>', '/dev/null';
		open STDERR, '>', '/dev/null';
		exec "$Bench::Server::bindir/pgbench", '-n', '-N', '-c', 4, '-R', $rate, '-T', $seconds + 2, $leader->conninfo;
	}
	sleep 1;
	my @lines = split /\n/, `$Bench::Server::scratch/bench/probe '@{[$leader->conninfo]}' '@{[$server->conninfo]}' $seconds 5000`;
	die 'the probe failed' if $? != 0 || !@lines;
	waitpid $pid, 0;
	my $with = $receivers > 0 ? ", $receivers receivers beside" : '';
	my @times = map { (split)[0] } @lines;
	add('latency', "$rate commits/s$with, p50", 'ms', $system, percentile(0.5, @times) / 1000);
	add('latency', "$rate commits/s$with, p99", 'ms', $system, percentile(0.99, @times) / 1000);
	add('statement to visible', "$rate commits/s$with, p50", 'ms', $system,
		percentile(0.5, map { (split)[1] } @lines) / 1000);
	return;
}

sub latency
{
	my $leader = server('leader', \&catchup_servers);
	settle($leader);
	for my $receivers (0, 8)
	{
		for my $system (rotated($receivers ? grep { /fanout|native/ } @systems : @systems))
		{
			# The others would do their work beside it.
			my @others = grep { $_ ne $system } @systems;
			Bench::System::pause($_, $Bench::Server::all{$_}) for @others;
			my @pids = start_receivers($leader, $system, $receivers) if $receivers;
			measure_latency($leader, $system, $_, $receivers) for @{ $sizes{rates} };
			stop_receivers($leader, $system, @pids) if $receivers;
			Bench::System::resume($_, $Bench::Server::all{$_}) for @others;
			settle($leader);
		}
	}
	return;
}

# ---------- initial copy ----------

sub copy
{
	my $leader = server('copy_leader', sub {
			my $server = Bench::Server->new('copy_leader')->start;
			pgbench_init($server, $sizes{copy_scale});
			Bench::System::prepare_leader($server, grep { $_ ne 'physical' } @systems);
			return $server;
		});
	my $server = server('copy_follower', sub { Bench::Server->new('copy_follower')->start });
	for my $system (rotated(grep { $_ ne 'physical' } @systems))
	{
		my $db = "copy_${system}_$round";
		$server->query("CREATE DATABASE $db");
		Bench::System::copy_schema($leader, $server, $db) if $system ne 'fanout';
		$server->query('CHECKPOINT');
		$leader->query('CHECKPOINT');
		my $start = time;
		Bench::System::follow($system, $leader, $server, $db, 0);
		add('initial copy', "pgbench scale $sizes{copy_scale}, key included", 's', $system, time - $start);
		Bench::System::unfollow($system, $server, $db);
		# Dropping the database would wait for pglogical's supervisor.
		$server->query('DROP SCHEMA public CASCADE', $db);
	}
	return;
}

# ---------- commit cost ----------

# Two servers, one with the extension loaded and one without.  Their difference is smaller
# than what a busy machine adds to a figure of seconds; so they are measured in short turns,
# one after the other, and their instructions are counted.
sub commit_servers
{
	my ($prefix) = @_;
	my %servers;
	for my $system (qw(fanout native))
	{
		my $loaded = $system eq 'fanout' ? 'pg_fanout' : '';
		$servers{$system} = server("$prefix$system", sub {
				my $server = Bench::Server->new("$prefix$system",
					conf => [ "shared_preload_libraries = '$loaded'", 'shared_buffers = 128MB' ])->start;
				pgbench_init($server, 1);
				return $server;
			});
	}
	return %servers;
}

sub commit_cost
{
	my %servers = commit_servers('commit_');
	my @turn = rotated(qw(fanout native));

	for my $turn (1 .. $sizes{commit_turns})
	{
		for my $system (@turn)
		{
			add('commit cost', 'pgbench -N, no stream', 'tps', $system,
				pgbench($servers{$system}, '-N -M prepared -c 1 -T 1'));
		}
		@turn = reverse @turn;
	}
	return if $round > 0 || !Bench::Server::has_valgrind();
	for my $system (qw(fanout native))
	{
		$servers{$system}->stop;
		$servers{$system}->start_counting;
		my $few = $servers{$system}->count_instructions(sub { pgbench($_[0], '-N -M prepared -c 1 -t 200') });
		my $many = $servers{$system}->count_instructions(sub { pgbench($_[0], '-N -M prepared -c 1 -t 700') });
		add('commit cost', 'instructions of pgbench -N, no stream', 'per transaction', $system,
			($many - $few) / 500);
		$servers{$system}->stop;
		$servers{$system}->start;
	}
	return;
}

1;
