# What docs/ gives to monitoring tools works as it stands: each query of
# docs/postgres_exporter.yaml, run as a member of pg_monitor, returns the metrics that the
# file names, and docs/grafana.json uses no others.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use JSON::PP;
use Test::More;

my $docs = "$FindBin::Bin/../../docs";

# The queries by their prefix: [ SQL, names of labels and metrics ].
sub exporter_queries
{
	my %queries;
	my $prefix;
	for my $line (split /\n/, PostgreSQL::Test::Utils::slurp_file("$docs/postgres_exporter.yaml"))
	{
		$prefix = $1 if $line =~ /^(\w+):$/;
		$queries{$prefix}[0] .= "$1\n" if $line =~ /^    (?!-)(.*)/;
		push @{ $queries{$prefix}[1] }, $1 if $line =~ /^    - (\w+): \{usage: (LABEL|GAUGE|COUNTER), description: ".+"\}$/;
	}
	return %queries;
}

my $leader = new_leader('leader');
$leader->safe_psql('postgres', 'CREATE TABLE t (id int PRIMARY KEY)');
my $follower = new_follower('follower');
follow($follower, $leader);
wait_for_copy($follower);
$leader->safe_psql('postgres', 'INSERT INTO t VALUES (1)');
wait_for_catchup($leader, $follower);
$_->safe_psql('postgres', 'CREATE ROLE exporter LOGIN IN ROLE pg_monitor') for $leader, $follower;

my %queries = exporter_queries();
is_deeply([ sort keys %queries ], [qw(pg_fanout_follower pg_fanout_staleness pg_fanout_stream)], 'the queries');
my %metrics;
for my $prefix (sort keys %queries)
{
	my ($sql, $names) = @{ $queries{$prefix} };
	my $node = $prefix eq 'pg_fanout_staleness' ? $follower : $leader;
	my $row = $node->safe_psql('postgres', "SELECT row_to_json(q) FROM ($sql) q", extra_params => [ '-U', 'exporter' ]);
	my $values = decode_json($row);
	is_deeply([ sort keys %$values ], [ sort @$names ], "$prefix returns what it names");
	is((grep { !defined } values %$values), 0, '... all of it known');
	$metrics{"${prefix}_$_"} = 1 for @$names;
}

my $dashboard = decode_json(PostgreSQL::Test::Utils::slurp_file("$docs/grafana.json"));
my @expressions = map { $_->{expr} } map { @{ $_->{targets} } } @{ $dashboard->{panels} };
cmp_ok(scalar @expressions, '>', 10, 'the dashboard has panels');
my @unknown = grep { !$metrics{$_} } map { /\b(pg_fanout_\w+)/g } @expressions;
is_deeply(\@unknown, [], 'and they use the metrics that there are');

# Tools that read pg_settings parse what claims to be a number.
is($leader->safe_psql('postgres', q{SELECT count(*) FROM pg_settings WHERE vartype IN ('integer', 'real')
	AND name LIKE 'fanout.%' AND setting !~ '^-?[0-9.]+$'}), '0', 'numeric parameters show numbers');
done_testing();
