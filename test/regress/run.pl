# PostgreSQL's core regression suite on a leader, and what becomes of it on a follower.
#
# The suite runs as it is, in its parallel schedule, on a database that has a stream of
# all tables, while a follower is attached.  Afterwards a dump of both databases is the
# same, and the suite's own output is what it is without pg_fanout.  What is left out of
# either comparison is listed here, and in docs/coverage.md, with the reason.
#
# FANOUT_SUITE is a copy of src/test/regress with its libraries (script/test makes it).
use strict;
use warnings FATAL => 'all';
use Fanout;
use PostgreSQL::Test::Utils;
use Schema;
use Test::More;

my $suite = $ENV{FANOUT_SUITE};
$Fanout::database = 'regression';

# Text of the suite that is changed before it runs: test, from, to.
my @changes = (
	# Values of pg_node_tree can be entered nowhere, on no follower and with no pg_restore.
	[ 'create_table', q{SELECT * FROM pg_class WHERE relkind = 'r'}, q{SELECT oid, relname FROM pg_class WHERE relkind = 'r'} ],
	# A function of an index that relies on search_path.
	[ 'vacuum', q{'SELECT $1 FROM do_analyze()'}, q{'SELECT $1 FROM public.do_analyze()'} ],
	# CREATE INDEX CONCURRENTLY that fails, here of a / b, leaves an index behind on the leader only.
	[ 'indexing', 'insert into idxpart11 values (1, 0);', 'insert into idxpart11 values (1, 1);' ],
	[ 'indexing', 'insert into idxpart1 values (1, 0);', 'insert into idxpart1 values (1, 1);' ],
	[ 'indexing', 'insert into idxpart2 values (501, 0);', 'insert into idxpart2 values (501, 1);' ],
	[ 'indexing', 'insert into parted_isvalid_tab_11 values (1, 0);', 'insert into parted_isvalid_tab_11 values (1, 1);' ],
);

# Tests that are not run.
my %left_out = (
	'encoding' => 'stores text that is not valid in its encoding, through a function in C',
	'euc_kr' => 'skips itself in this encoding');

# Tests whose output differs, and why.
my %output_differs = (
	'event_trigger' => 'the event trigger that sets REPLICA IDENTITY makes events, too',
	'opr_sanity' => 'lists SECURITY DEFINER functions, of which the extension has one',
	'publication' => q{has publications of its own beside that of the stream},
	'indexing' => 'no index is invalid, since rows were changed');

# Entries of the dump that differ, and why.
my @dump_differs = ();

# ---------- the servers ----------

sub make_database
{
	my ($node) = @_;
	$node->safe_psql('postgres', 'CREATE DATABASE regression TEMPLATE template0');
	# As pg_regress sets them.
	$node->safe_psql('postgres', "ALTER DATABASE regression SET $_")
	  for "lc_messages TO 'C'", "lc_monetary TO 'C'", "lc_numeric TO 'C'", "lc_time TO 'C'",
	  "bytea_output TO 'hex'", "timezone_abbreviations TO 'Default'";
	$node->safe_psql('regression', 'CREATE EXTENSION pg_fanout');
	return;
}

sub make_server
{
	my ($name, @settings) = @_;
	my $node = new_server($name, 'max_connections = 50', 'shared_buffers = 128MB',
		'max_prepared_transactions = 5', 'max_wal_size = 1GB', 'log_min_messages = warning', @settings);
	make_database($node);
	return $node;
}

# ---------- the suite ----------

sub read_text
{
	my ($file) = @_;
	open(my $in, '<:raw', $file) or die "could not open $file: $!";
	local $/;
	return scalar <$in>;
}

sub write_text
{
	my ($file, $text) = @_;
	open(my $out, '>:raw', $file) or die "could not open $file: $!";
	print $out $text;
	close($out) or die "could not write $file: $!";
	return;
}

sub change_suite
{
	for my $change (@changes)
	{
		my ($test, $from, $to) = @$change;
		for my $file ("$suite/sql/$test.sql", glob("$suite/expected/$test.out $suite/expected/${test}_?.out"))
		{
			my $text = read_text($file);
			write_text($file, $text =~ s/\Q$from\E/$to/gr);
		}
	}
	my $schedule = read_text("$suite/parallel_schedule");
	for my $test (keys %left_out)
	{
		$schedule =~ s/^(test:.*?) $test(?= |$)/$1/m;
	}
	write_text("$suite/parallel_schedule", $schedule =~ s/^ignore:.*\n//mr);
	return;
}

sub run_suite
{
	my ($leader) = @_;
	local $ENV{PATH} = $ENV{PATH};
	chdir $suite or die "could not go to $suite";
	my ($bindir) = $leader->config_data('--bindir');
	IPC::Run::run([ $ENV{PG_REGRESS}, '--use-existing', '--dbname=regression', "--inputdir=$suite",
			"--outputdir=$suite", "--dlpath=$suite", "--bindir=$bindir",
			"--schedule=$suite/parallel_schedule", '--host=' . $leader->host,
			'--port=' . $leader->port, '--user=' . getpwuid($>) ],
		'>', "$suite/pg_regress.log", '2>&1');
	return;
}

# Without what a publication of all tables and REPLICA IDENTITY FULL show in \d.
sub normal_output
{
	my ($text) = @_;
	$text =~ s/^    "fanout_app"\n//mg;
	$text =~ s/^Publications:\n(?!    ")//mg;
	$text =~ s/^Replica Identity: FULL\n//mg;
	return $text;
}

# The difference to that of the expected outputs which is next to it.
sub output_difference
{
	my ($test) = @_;
	my $best;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	write_text("$dir/results", normal_output(read_text("$suite/results/$test.out")));
	for my $file (glob("$suite/expected/$test.out $suite/expected/${test}_?.out"))
	{
		next unless -e $file;
		write_text("$dir/expected", normal_output(read_text($file)));
		IPC::Run::run([ 'diff', '-U2', "$dir/expected", "$dir/results" ], '>', \my $diff);
		$best = $diff if !defined $best || length($diff) < length($best);
	}
	return $best;
}

sub check_output
{
	my @tests = map { m{([^/]+)\.out$} } glob("$suite/results/*.out");
	cmp_ok(scalar @tests, '>', 150, 'the suite ran');
	for my $test (@tests)
	{
		my $diff = output_difference($test);
		if ($output_differs{$test})
		{
			note("$test differs: $output_differs{$test}");
			next;
		}
		ok($diff eq '', "output of $test") or diag(substr($diff, 0, 3000));
	}
	return;
}

# ---------- the dumps ----------

# The entries of a dump by their heading, rows in order.
sub dump_entries
{
	my ($node) = @_;
	my @command = ($node->installed_command('pg_dump'), '--exclude-schema=fanout', '--no-publications',
		'--no-subscriptions', '--no-unlogged-table-data', '--no-blobs', '--no-sync', '-d',
		$node->connstr('regression'));
	IPC::Run::run(\@command, '>', \my $dump) or die 'pg_dump failed';
	my ($start, @parts) = split /^--\n-- ((?:Data for )?Name: .*)\n--\n/m, $dump;
	my %entries;
	while (my ($heading, $text) = splice @parts, 0, 2)
	{
		next if $heading =~ /; Type: SEQUENCE SET;/;
		$text = join("\n", sort split /\n/, $text) if $heading =~ /; Type: TABLE DATA;/;
		$text =~ s/^(?:SET default_\w+ = .*|\\(?:un)?restrict .*|--.*)?\n//mg;
		push @{ $entries{$heading} }, $text;
	}
	return { map { $_ => join("\n", sort @{ $entries{$_} }) } keys %entries };
}

sub check_dumps
{
	my ($leader, $follower) = map { dump_entries($_) } @_;
	my %headings = (%$leader, %$follower);
	cmp_ok(scalar keys %$leader, '>', 2000, 'the dump has what the suite left behind');
	my $wrong = 0;
	for my $heading (sort keys %headings)
	{
		my ($expected, $got) = map { $_->{$heading} // '(nothing)' } $leader, $follower;
		next if $expected eq $got || grep { $heading =~ $_->[0] } @dump_differs;
		fail("dumps of $heading");
		diag(substr("on the leader:\n$expected\non the follower:\n$got", 0, 3000));
		last if ++$wrong > 100;
	}
	is($wrong, 0, 'the dumps of leader and follower are equal');
	return;
}

# What sequences are at on the follower is not behind the leader, and little ahead.
sub check_sequences
{
	my ($leader, $follower) = map {
		+{ map { split /\|/, $_, 2 } split /\n/, $_->safe_psql('regression', q{
			SELECT format('%I.%I|%s|%s|%s', schemaname, sequencename, coalesce(last_value, start_value), increment_by, cache_size)
			FROM pg_sequences JOIN pg_class ON oid = format('%I.%I', schemaname, sequencename)::regclass
			WHERE schemaname <> 'fanout' AND relpersistence = 'p'}) } } @_;
	my @wrong;
	for my $name (sort keys %$leader)
	{
		my ($value, $step, $cache) = split /\|/, $leader->{$name};
		my ($other) = split /\|/, $follower->{$name} // 'none';
		my $ahead = $other eq 'none' ? -1 : ($other - $value) / $step;
		push @wrong, "$name: $value, $other" if $ahead < 0 || $ahead > 32 + $cache;
	}
	is(join("\n", @wrong), '', 'sequences are where they may be');
	return;
}

# Materialized views have no rows in a dump.
sub check_materialized_views
{
	my ($leader, $follower) = map {
		my $query = $_->safe_psql('regression', q{
			SELECT string_agg(format('SELECT %L, count(*), sum(hashtextextended(v::text, 0)::numeric) FROM %s v', oid::regclass, oid::regclass),
				' UNION ALL ' ORDER BY oid::regclass::text)
			FROM pg_class WHERE relkind = 'm' AND relispopulated});
		$_->safe_psql('regression', $query) } @_;
	is($follower, $leader, 'materialized views are equal');
	return;
}

# ---------- the test ----------

change_suite();
my $leader = make_server('leader', "shared_preload_libraries = 'pg_fanout,$suite/roles'");
my $follower = make_server('follower', 'fanout.retry_interval = 200ms');
$leader->safe_psql('regression', read_text("$FindBin::Bin/setup.sql"));
$leader->safe_psql('regression', q{SELECT fanout.create_stream('app')});
follow($follower, $leader);
wait_for_copy($follower);
run_suite($leader);
unlike(slurp_file($leader->logfile), qr/was terminated by signal/, 'the leader did not crash');
wait_for_catchup($leader, $follower);
wait_until('copies to end', sub {
		$follower->safe_psql('regression', q{SELECT count(*) FROM fanout.table_staleness WHERE state <> 'streaming'}) eq '0';
	});
wait_for_catchup($leader, $follower);
check_output();
check_dumps($leader, $follower);
is(hidden_names($follower), hidden_names($leader), 'names that no dump shows are equal');
check_sequences($leader, $follower);
check_materialized_views($leader, $follower);
$_->stop for $leader, $follower;
done_testing();
