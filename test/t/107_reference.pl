# docs/reference.md is complete and right: each function, procedure, view column, role and
# parameter in it is in the catalogs just so, and each of the extension's is in it.
#
# The document has one table row for each object, the object in backquotes in the first
# cell: a signature (then what it returns), a role, or a parameter (then what pg_settings
# says of it).  Under a heading that is the name of a view the rows are its columns.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use Test::More;

# What the document says, by kind, as strings that can be compared.
sub documented
{
	my %documented;
	my $heading = '';
	for my $line (split /\n/, PostgreSQL::Test::Utils::slurp_file("$FindBin::Bin/../../docs/reference.md"))
	{
		$heading = $1 if $line =~ /^#+ (.*)$/;
		next if $line !~ /^\| `/;
		my (undef, @cells) = map { tr/`//dr } split /\s*\|\s*/, $line;
		if ($heading =~ /^`(.*)`$/)
		{
			push @{ $documented{columns} }, "$1: $cells[0] $cells[1]";
		}
		elsif ($cells[0] =~ /^fanout\.\w+\(/)
		{
			push @{ $documented{functions} }, "$cells[0] returns $cells[1]";
			push @{ $documented{calls} }, $cells[0] =~ s/\(.*//r if $heading eq 'What followers call on a leader';
		}
		else
		{
			my $kind = $cells[0] =~ /^fanout\./ ? 'parameters' : 'roles';
			push @{ $documented{$kind} }, $kind eq 'roles' ? $cells[0] : join(' | ', @cells[ 0 .. 5 ]);
		}
	}
	return %documented;
}

my $server = new_follower('server');

sub rows
{
	my ($query) = @_;
	my $short = $server->safe_psql('postgres', $query) =~ s/timestamp with time zone/timestamptz/gr;
	return split /\n/, $short;
}

# A condition: this column holds the oid of one of the extension's own objects of a catalog.
sub of_extension
{
	my ($oid, $catalog) = @_;
	return "$oid IN (SELECT objid FROM pg_depend WHERE deptype = 'e' AND classid = '$catalog'::regclass
		AND refclassid = 'pg_extension'::regclass
		AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pg_fanout'))";
}

my @columns = rows(q{SELECT format('%s.%s: %s %s', relnamespace::regnamespace, relname, attname, format_type(atttypid, atttypmod))
	FROM pg_class c JOIN pg_attribute ON attrelid = c.oid AND attnum > 0 AND NOT attisdropped
	WHERE relkind IN ('v', 'm') AND } . of_extension('c.oid', 'pg_class') . ' ORDER BY relname, attnum');

# Views by the list of their columns, for functions that return their rows.
my (%lists, %view_of);
for (@columns)
{
	my ($view, $column) = split /: /;
	push @{ $lists{$view} }, $column;
}
$view_of{ join(', ', @{ $lists{$_} }) } = $_ for keys %lists;

# A function as the document has it: its input arguments, and the others as what it returns.
sub signature
{
	my ($name, $arguments, $result) = split /\t/, $_[0], -1;
	my @arguments = split /, /, $arguments =~ s/::[\w\[\]]+//gr;
	my $in = join(', ', map { s/^IN //r } grep { !/^OUT / } @arguments);
	my $out = join(', ', map { /^(?:IN)?OUT (.*?)(?: DEFAULT .*)?$/ } @arguments);
	$result =~ s/record/$view_of{$out} \/\/ "record($out)"/e if $out ne '';
	return "$name($in) returns $result";
}

my $functions = q{FROM pg_proc p WHERE } . of_extension('p.oid', 'pg_proc');
my %actual = (
	columns => \@columns,
	functions => [ map { signature($_) } rows(
			q{SELECT concat_ws(E'\t', pronamespace::regnamespace || '.' || proname,
				pg_get_function_arguments(oid), coalesce(pg_get_function_result(oid), 'procedure')) } . $functions) ],
	calls => [ rows(q{SELECT pronamespace::regnamespace || '.' || proname } . $functions
			. q{ AND EXISTS (SELECT FROM aclexplode(proacl) WHERE grantee = 'fanout_follower'::regrole)}) ],
	roles => [ rows('SELECT rolname FROM pg_roles WHERE oid >= 16384') ],
	parameters => [ rows(q{SELECT format('%s | %s | %s | %s | %s | %s', name, vartype,
			CASE vartype WHEN 'string' THEN quote_literal(boot_val) ELSE boot_val END,
			unit, context, min_val || ' to ' || max_val)
		FROM pg_settings WHERE name LIKE 'fanout.%'}) ]);

my %documented = documented();
is_deeply([ sort keys %documented ], [ sort keys %actual ], 'the document has every kind of object');
for my $kind (sort keys %actual)
{
	my @documented = sort @{ $documented{$kind} };
	my @actual = sort @{ $actual{$kind} };
	my %is_documented = map { $_ => 1 } @documented;
	my %is_actual = map { $_ => 1 } @actual;

	is(join("\n", grep { !$is_actual{$_} } @documented), '', "$kind: what is documented is so");
	is(join("\n", grep { !$is_documented{$_} } @actual), '', "$kind: what there is, is documented");
	is(scalar @documented, scalar @actual, "$kind: each once");
}
done_testing();
