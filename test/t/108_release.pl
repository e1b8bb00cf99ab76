# What is released agrees with itself: META.json is valid by PGXN's specification 1.0.0
# and names the version of the control file, the scripts and the Debian package.
use strict;
use warnings FATAL => 'all';
use FindBin;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;

my $top = "$FindBin::Bin/../..";
my $meta = decode_json(slurp_file("$top/META.json"));
my ($default) = slurp_file("$top/pg_fanout.control") =~ /^default_version = '(.*)'$/m;

# What the specification calls required, and what it says of the values.
for my $field (qw(abstract license maintainer name version))
{
	like($meta->{$field}, qr/\S/, "META.json has \"$field\"");
}
is($meta->{'meta-spec'}{version}, '1.0.0', 'it names the specification');
like($meta->{name}, qr/^[^\s\/\\\x00-\x1f]{2,}$/, 'a name');
is($meta->{license}, 'postgresql', 'a licence that the specification knows');
like($meta->{release_status}, qr/^(stable|testing|unstable)$/, 'a release status');
is_deeply([ grep { !/^[^\s\/\\\x00-\x1f][^\/\\\x00-\x1f]+$/ } @{ $meta->{tags} } ], [], 'tags');
my @known = qw(abstract description version maintainer license provides prereqs release_status
  generated_by meta-spec name tags no_index resources);
my %unknown = %$meta;
delete @unknown{@known};
is_deeply([ grep { !/^x_/ } keys %unknown ], [], 'no field that the specification does not know');

# Versions there have three parts, as in semantic versioning.
my $version = qr/^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z-]+)?$/;
my @versions = ($meta->{version}, map { $_->{version} } values %{ $meta->{provides} });
push @versions, map { values %$_ } map { values %$_ } values %{ $meta->{prereqs} };
is_deeply([ grep { !/$version/ } @versions ], [], 'versions have three parts');

my $provided = $meta->{provides}{pg_fanout};
is_deeply([ sort keys %{ $meta->{provides} } ], ['pg_fanout'], 'it provides the extension');
is($provided->{version}, $meta->{version}, '... in the version of the distribution');
is($provided->{file}, "src/sql/pg_fanout--$default.sql", '... by the script of the control file\'s version');
is_deeply([ grep { !-s "$top/$_" } @$provided{qw(file docfile)} ], [], 'the files that it names are there');

is($meta->{version}, "$default.0", 'META.json and pg_fanout.control agree');
like(slurp_file("$top/debian/changelog"), qr/\A\S+ \(\Q$meta->{version}\E-/, '... and the Debian package');
done_testing();
