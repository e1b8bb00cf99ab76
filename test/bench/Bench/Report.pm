# What was measured: collected, written as JSON, and as a table with medians and ratios.
package Bench::Report;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';
use JSON::PP;

our @EXPORT_OK = qw(add);

my %values;		# workload -> metric -> { unit, systems -> [values] }
my @order;

# Largest ratio to native that meets the target; the throughput's is the smallest, and
# the log's size is a ratio itself.
my @targets = (
	[ qr/^delivery leader CPU, N = 1$/, '<=', 1 ],
	[ qr/^delivery leader CPU, N = 8$/, '<=', 1 / 6 ],
	[ qr/^delivery leader CPU, N = 32$/, '<=', 1 / 20 ],
	[ qr/^delivery throughput, N = 32$/, '>=', 2.5 ],
	[ qr/^catch-up TPC-B, (wall|worker CPU)$/, '<=', 0.35 ],
	[ qr/^catch-up INSERT, wall$/, '<=', 0.2 ],
	[ qr/^catch-up INSERT, worker CPU$/, '<=', 0.35 ],
	[ qr/^catch-up UPDATE, wall$/, '<=', 0.3 ],
	[ qr/^catch-up UPDATE, worker CPU$/, '<=', 0.4 ],
	[ qr/^catch-up hot rows, wall$/, '<=', 0.3 ],
	[ qr/^latency .*beside/, '<=', 0.5 ],
	[ qr/^latency/, '<=', 1 ],
	[ qr/^initial copy/, '<=', 0.5 ],
	[ qr/^commit cost pgbench/, '>=', 0.99 ],
	[ qr/^commit cost instructions/, '<=', 1.01 ]);

sub add
{
	my ($workload, $metric, $unit, $system, $value) = @_;
	my $key = "$workload\t$metric";
	push @order, $key unless $values{$key};
	$values{$key}{unit} = $unit;
	push @{ $values{$key}{systems}{$system} }, $value;
	printf STDERR "%-14s %-45s %-10s %10.3f %s\n", $workload, $metric, $system, $value, $unit;
	return;
}

sub median
{
	my @sorted = sort { $a <=> $b } @_;
	return ($sorted[ $#sorted / 2 ] + $sorted[ @sorted / 2 ]) / 2;
}

sub target_of
{
	my ($name) = @_;
	for my $target (@targets)
	{
		return $target if $name =~ $target->[0];
	}
	return;
}

# One line of results.json per metric.
sub summary
{
	my ($key) = @_;
	my ($workload, $metric) = split /\t/, $key;
	my $entry = $values{$key};
	my %result = (workload => $workload, metric => $metric, unit => $entry->{unit});
	for my $system (keys %{ $entry->{systems} })
	{
		my @list = @{ $entry->{systems}{$system} };
		# Of memory the largest counts.
		my $figure = $workload eq 'memory' ? (sort { $a <=> $b } @list)[-1] : median(@list);
		$result{systems}{$system} = {
			figure => 0 + sprintf('%.4g', $figure),
			values => [ map { 0 + sprintf('%.4g', $_) } @list ] };
	}
	my ($fanout, $native) =
	  map { $result{systems}{$_} ? $result{systems}{$_}{figure} : undef } qw(fanout native);
	$result{ratio} = 0 + sprintf('%.3g', $fanout / $native) if $fanout && $native;
	my $compared = $workload eq 'log size' ? $fanout : $result{ratio};
	my $target = $workload eq 'log size' ? [ undef, '<=', 0.5 ] : target_of("$workload $metric");
	if ($target && defined $compared)
	{
		$result{target} = sprintf('%s %.3g', $target->[1], $target->[2]);
		$result{met} = ($target->[1] eq '<=' ? $compared <= $target->[2] : $compared >= $target->[2])
		  ? JSON::PP::true : JSON::PP::false;
	}
	return \%result;
}

sub machine
{
	my ($bindir) = @_;
	my ($cpu) = `grep -m1 'model name' /proc/cpuinfo` =~ /: (.*)/;
	my ($memory) = `grep MemTotal /proc/meminfo` =~ /(\d+)/;
	my ($load) = `cat /proc/loadavg` =~ /^(\S+)/;
	chomp(my $kernel = `uname -sr`);
	chomp(my $version = `$bindir/postgres --version`);
	chomp(my $cpus = `nproc`);
	return { cpu => $cpu // 'unknown', cpus => 0 + $cpus, memory_mb => int($memory / 1024),
		kernel => $kernel, server => $version, load_before => 0 + $load };
}

sub write_json
{
	my ($path, $run) = @_;
	open my $file, '>', $path or die "$path: $!";
	print $file JSON::PP->new->pretty->canonical->encode(
		{ %$run, results => [ map { summary($_) } @order ] });
	close $file;
	return;
}

sub read_json
{
	my ($path) = @_;
	open my $file, '<', $path or die "$path: $!";
	local $/ = undef;
	return decode_json(<$file>);
}

# A table in Markdown, and how it came about.
sub table
{
	my ($run) = @_;
	my @systems = qw(fanout native pglogical physical);
	my $text = '| workload | unit | pg_fanout | native | pglogical | physical | ratio | target |' . "\n"
	  . "|---|---|--:|--:|--:|--:|--:|---|\n";
	for my $result (@{ $run->{results} })
	{
		my @figures = map { $result->{systems}{$_} ? $result->{systems}{$_}{figure} : '' } @systems;
		my $target = $result->{target} // '';
		$target .= $result->{met} ? ' met' : ' missed' if $target ne '';
		$text .= '| ' . join(' | ', "$result->{workload}: $result->{metric}", $result->{unit},
			@figures, $result->{ratio} // '', $target) . " |\n";
	}
	my $machine = $run->{machine};
	$text .= "\nMedians of $run->{rounds} rounds, in " . int($run->{duration_s} / 60 + 0.5)
	  . " minutes on $run->{started_at} UTC; $machine->{server}; $machine->{cpus} CPUs ($machine->{cpu}),"
	  . " $machine->{memory_mb} MB, $machine->{kernel}; load $machine->{load_before} before.\n";
	$text .= "Failed and not complete: @{ $run->{failed} }.\n" if $run->{failed};
	return $text;
}

1;
