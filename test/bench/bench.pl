# The benchmark's main program; test/bench/run starts it.
use strict;
use warnings FATAL => 'all';

use Cwd qw(abs_path);
use File::Basename;
use Getopt::Long;
use POSIX qw(strftime);

use Bench::Report;
use Bench::Server;
use Bench::System;
use Bench::Workloads;

my $here = dirname(abs_path($0));
my ($scratch, $quick, $list, $table);
my $rounds = 3;
my $systems;
GetOptions('scratch=s' => \$scratch, 'quick' => \$quick, 'rounds=i' => \$rounds,
	'systems=s' => \$systems, 'list' => \$list, 'table' => \$table)
  or die "see the head of test/bench/run\n";

if ($list)
{
	printf "%-10s %s\n", $_, $Bench::Workloads::about{$_} for @Bench::Workloads::order;
	exit;
}
if ($table)
{
	print Bench::Report::table(Bench::Report::read_json("$here/results.json"));
	exit;
}

my @workloads = @ARGV ? @ARGV : @Bench::Workloads::order;
for my $name (@workloads)
{
	die "there is no workload \"$name\"; --list shows them\n" unless $Bench::Workloads::all{$name};
}

$Bench::Server::scratch = $scratch;
chomp($Bench::Server::bindir = `$ENV{PG_CONFIG} --bindir`);
chomp($Bench::Server::pkglibdir = `$ENV{PG_CONFIG} --pkglibdir`);
my %wanted = map { $_ => 1 } $systems ? split(/,/, $systems) : @Bench::System::names;
@Bench::Workloads::systems = grep { $wanted{$_} } Bench::System::available();
print "pglogical is not installed: left out\n"
  if $wanted{pglogical} && !Bench::Server::has_pglogical();
%Bench::Workloads::sizes = $quick
  ? (scale => 2, transactions => 8000, receivers => [ 0, 1, 8 ], bulk => 100000,
	rates => [ 100, 1000 ], latency_seconds => 2, copy_scale => 3, commit_turns => 3)
  : (scale => 10, transactions => 100000, receivers => [ 0, 1, 8, 32 ], bulk => 1000000,
	rates => [ 100, 1000, 4000 ], latency_seconds => 4, copy_scale => 30, commit_turns => 15);

my $run = { machine => Bench::Report::machine($Bench::Server::bindir),
	started_at => strftime('%Y-%m-%d %H:%M:%S', gmtime), rounds => $rounds,
	sizes => { %Bench::Workloads::sizes } };

my $results = "$scratch/results" . ($quick ? '-quick' : '') . '.json';
my $started = time;

sub elapsed
{
	my $seconds = time - $started;
	return sprintf('%d:%02d min', $seconds / 60, $seconds % 60);
}

# One workload after the other, so that only its servers run; all rounds of it in turn.
# One that fails is named in the results, and the run goes on.
for my $name (@workloads)
{
	my $done = eval {
		for my $round (0 .. $rounds - 1)
		{
			printf STDERR "---- %s, round %d of %d, after %s\n", $name, $round + 1, $rounds, elapsed();
			$Bench::Workloads::round = $round;
			$Bench::Workloads::all{$name}->();
		}
		1;
	};
	if (!$done)
	{
		warn "workload \"$name\" failed: $@";
		push @{ $run->{failed} }, $name;
	}
	$run->{duration_s} = time - $started;
	Bench::Report::write_json($results, $run);
	next if $done && $name eq 'catchup' && grep { $_ eq 'latency' } @workloads;
	Bench::Server::stop_all();
}

print Bench::Report::table(Bench::Report::read_json($results));
exit($run->{failed} ? 1 : 0);
