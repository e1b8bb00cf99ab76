# The schema of leader and followers, compared after groups of statements.
package Schema;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';
use Fanout;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(schema hidden_names same_schema check_statements);

# Names that no dump shows: types of arrays by those of their elements, multiranges by their
# ranges, and sequences by their columns.
my $hidden = q{
	SELECT format('array of %s: %s', e.oid::regtype, quote_ident(a.typname)) FROM pg_type a JOIN pg_type e ON e.typarray = a.oid
	JOIN pg_namespace n ON n.oid = a.typnamespace WHERE n.nspname !~ '^(pg_|information_schema|fanout)'
	UNION ALL
	SELECT format('multirange of %s: %s', rngtypid::regtype, rngmultitypid::regtype) FROM pg_range WHERE rngtypid >= 16384
	UNION ALL
	SELECT format('sequence of %s.%I: %s', refobjid::regclass, attname, objid::regclass)
	FROM pg_depend JOIN pg_attribute ON attrelid = refobjid AND attnum = refobjsubid
	JOIN pg_class c ON c.oid = refobjid AND c.relnamespace <> 'fanout'::regnamespace
	WHERE classid = 'pg_class'::regclass AND refclassid = classid AND deptype IN ('a', 'i') AND objid IN (SELECT seqrelid FROM pg_sequence)
	AND c.relpersistence <> 't'
	ORDER BY 1};

# The schema as pg_dump writes it, without what says when or by whom it was dumped.
sub schema
{
	my ($node) = @_;
	my $dump = '';
	my @command = ($node->installed_command('pg_dump'), '--schema-only', '--no-publications',
		'--exclude-schema=fanout', '--no-sync', '-d', $node->connstr($Fanout::database));
	IPC::Run::run(\@command, '>', \$dump) or die 'pg_dump failed';
	return join("\n", (grep { !/^(\\(un)?restrict |--|$)/ } split /\n/, $dump), hidden_names($node));
}

sub hidden_names
{
	my ($node) = @_;
	return $node->safe_psql($Fanout::database, "SET search_path = ''; $hidden");
}

sub difference
{
	my ($expected, $got) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	PostgreSQL::Test::Utils::append_to_file("$dir/leader", "$expected\n");
	PostgreSQL::Test::Utils::append_to_file("$dir/follower", "$got\n");
	IPC::Run::run([ 'diff', '-U2', "$dir/leader", "$dir/follower" ], '>', \my $diff);
	return substr($diff, 0, 4000);
}

# Once the followers have applied and copied all there is, do they have the leader's schema and rows?
sub same_schema
{
	my ($what, $leader, @followers) = @_;
	wait_for_catchup($leader, @followers);
	wait_until('copies to end', sub {
			!grep { $_->safe_psql($Fanout::database,
					q{SELECT count(*) FROM fanout.table_staleness WHERE state <> 'streaming'}) ne '0' } @followers;
		});
	wait_for_catchup($leader, @followers);
	my $expected = schema($leader);
	for my $follower (@followers)
	{
		my $got = schema($follower);
		ok($got eq $expected, "$what: the schema of " . $follower->name . ' equals the leader\'s')
		  or diag(difference($expected, $got));
	}
	same_data($what, $leader, @followers);
	return;
}

# Run statements one by one (so that none is in a transaction block), then compare.
sub check_statements
{
	my ($what, $statements, $leader, @followers) = @_;
	my $input = "$statements\n";
	my @psql = ($leader->installed_command('psql'), '-XqAt', '-v', 'ON_ERROR_STOP=1', '-d',
		$leader->connstr($Fanout::database));
	my $ok = IPC::Run::run(\@psql, '<', \$input, '>', \my $out, '2>', \my $err);
	ok($ok, "$what: runs on the leader") or diag($err);
	same_schema($what, $leader, @followers);
	return;
}

1;
