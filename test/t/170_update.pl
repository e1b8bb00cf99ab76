# A new version of the extension: its files are installed, the server is restarted, ALTER
# EXTENSION UPDATE is run.  In between nothing breaks that the third step does not mend, and
# the steps can't be exchanged.
#
# The next version is made here: the sources with another version in the control file,
# and a script for the update.  It goes into a copy of the server's installation.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use File::Basename;
use File::Copy;
use File::Path 'make_path';
use Fanout;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $top = "$FindBin::Bin/../..";
my $copy = "$PostgreSQL::Test::Utils::tmp_check/installation";

sub pg_config
{
	my ($what) = @_;
	chomp(my $value = `$ENV{PG_CONFIG} --$what`);
	return $value;
}

# Build version 1.1: all but its own object file is that of 1.0.
sub build_next
{
	my $next = "$copy/next";
	make_path($next);
	system_or_bail('cp', '-a', map({ "$top/$_" } qw(Makefile src pg_fanout.control)), $next);
	my $control = slurp_file("$next/pg_fanout.control");
	$control =~ s/^default_version = '1.0'$/default_version = '1.1'/m or die;
	unlink "$next/pg_fanout.control";
	append_to_file("$next/pg_fanout.control", $control);
	append_to_file("$next/src/sql/pg_fanout--1.0--1.1.sql",
		"CREATE FUNCTION fanout.new_in_1_1() RETURNS int LANGUAGE sql AS 'SELECT 11';\n");
	system_or_bail('make', '-s', '-C', $next, "PG_CONFIG=$ENV{PG_CONFIG}");
	return $next;
}

# Put files in the place of old ones as a package manager does: by renaming.
sub install_next
{
	my ($next) = @_;
	my %files = ("$next/pg_fanout.so" => $copy . pg_config('pkglibdir'),
		"$next/pg_fanout.control" => $copy . pg_config('sharedir') . '/extension',
		"$next/src/sql/pg_fanout--1.0--1.1.sql" => $copy . pg_config('sharedir') . '/extension');
	while (my ($file, $dir) = each %files)
	{
		my $name = basename($file);
		copy($file, "$dir/$name.new") or die;
		rename("$dir/$name.new", "$dir/$name") or die;
	}
	return;
}

sub new_copy_server
{
	my ($name) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name, install_path => dirname($copy . pg_config('bindir')));
	start_server($node);
	return $node;
}

# Both steps that are left, with what is to be seen between them.
sub restart_and_update
{
	my ($node, $function) = @_;
	my $name = $node->name;
	my $error = qr/extension "pg_fanout" is of version 1\.0, but the server loaded the library of version 1\.1/;

	$node->restart;
	wait_until("the worker of $name to fail", sub { slurp_file($node->logfile) =~ $error });
	pass("$name: the worker says that the versions differ");
	my ($rc, undef, $stderr) = $node->psql('postgres', "SELECT $function");
	like($stderr, $error, "$name: so do functions");
	like($stderr, qr/HINT:  Run ALTER EXTENSION pg_fanout UPDATE/, "$name: ... and what to do");
	$node->safe_psql('postgres', 'ALTER EXTENSION pg_fanout UPDATE');
	is($node->safe_psql('postgres', 'SELECT fanout.new_in_1_1()'), '11', "$name: updated");
	return;
}

system_or_bail("$FindBin::Bin/../copy-installation", $copy);
my $next = build_next();
my $leader = new_copy_server('leader');
$leader->safe_psql('postgres', q{CREATE EXTENSION pg_fanout; SELECT fanout.create_stream('app');
	CREATE TABLE t (id int PRIMARY KEY)});
my $follower = new_copy_server('follower');
$follower->safe_psql('postgres', 'CREATE EXTENSION pg_fanout');
follow($follower, $leader);
$leader->safe_psql('postgres', 'INSERT INTO t VALUES (1)');
all_equal('before', $leader, $follower);

install_next($next);
for my $node ($leader, $follower)
{
	my ($rc, undef, $stderr) = $node->psql('postgres', 'ALTER EXTENSION pg_fanout UPDATE');
	like($stderr, qr/extension "pg_fanout" is of version 1\.1, but the server loaded the library of version 1\.0/,
		$node->name . ': no update before the restart');
	like($stderr, qr/HINT:  Restart the server/, '... which the hint asks for');
}
# A new worker and a new session still have the old library.
$follower->safe_psql('postgres', 'SELECT pg_terminate_backend(' . worker_pid($follower) . ', 60000)');
$leader->safe_psql('postgres', 'INSERT INTO t VALUES (2)');
all_equal('files installed', $leader, $follower);

restart_and_update($follower, q{fanout.pause('app')});
$leader->safe_psql('postgres', 'INSERT INTO t VALUES (3)');
all_equal('follower updated', $leader, $follower);

restart_and_update($leader, q{fanout.drop_stream('app')});
$leader->safe_psql('postgres', 'INSERT INTO t VALUES (4)');
all_equal('both updated', $leader, $follower);
is($follower->safe_psql('postgres', q{SELECT count(*) FROM pg_proc WHERE proname = 'new_in_1_1'}), '1',
	'the update on the leader did not travel');
done_testing();
