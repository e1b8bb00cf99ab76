# Extensions whose scripts do what a schema has no statement for: roll back a subtransaction, make what
# RESET gives permanent (both as PostGIS does).  They run on a follower in the middle of its copy.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use File::Basename;
use Fanout;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# The extension goes into a copy of the server's installation.
my $copy = "$PostgreSQL::Test::Utils::tmp_check/extension_scripts_installation";
system_or_bail("$FindBin::Bin/../copy-installation", $copy);
sub pg_config { return `$ENV{PG_CONFIG} --$_[0]` =~ s/\s+$//r }
my $dir = $copy . pg_config('sharedir') . '/extension';
append_to_file("$dir/fanout_test_addon.control", "default_version = '1'\n");
append_to_file("$dir/fanout_test_addon--1.sql", q{
	DO $$ BEGIN PERFORM 1 / 0; EXCEPTION WHEN division_by_zero THEN END $$;
	DO $$ BEGIN BEGIN PERFORM pg_sleep(0.2); RAISE division_by_zero; EXCEPTION WHEN division_by_zero THEN PERFORM 1; END; PERFORM 1 / 0;
		EXCEPTION WHEN division_by_zero THEN END $$;
	DO $$ BEGIN
		EXECUTE format('ALTER DATABASE %I SET search_path = %s, addon', current_database(),
			(SELECT reset_val FROM pg_catalog.pg_settings WHERE name = 'search_path'));
		EXECUTE format('CREATE FUNCTION addon_settings() RETURNS jsonb LANGUAGE sql AS %L', format('SELECT %L::jsonb',
			(SELECT jsonb_object_agg(name, reset_val) FROM pg_catalog.pg_settings)));
	END $$;
});

sub new_copy_server
{
	my ($name) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name, install_path => dirname($copy . pg_config('bindir')));
	start_server($node, 'fanout.retry_interval = 100ms');
	$node->safe_psql('postgres', 'CREATE EXTENSION pg_fanout');
	return $node;
}

# Nothing of ours in what RESET gives.
sub settings_are_the_servers
{
	my ($what, $node) = @_;
	is($node->safe_psql('postgres', q{SELECT string_agg(name || ' ' || value, ', ') FROM jsonb_each_text(public.addon_settings()) JOIN pg_settings s ON name = key
		WHERE value || CASE WHEN name = 'search_path' THEN ', addon' ELSE '' END <> s.reset_val AND name NOT IN ('application_name', 'client_encoding')}),
		'', "$what: what RESET gives is the server's");
	is($node->safe_psql('postgres', 'SELECT setconfig FROM pg_db_role_setting'), '{"search_path=\"$user\", public, addon"}', "$what: ... also where a script makes it permanent");
	return;
}

my ($leader, @followers) = map { new_copy_server($_) } qw(leader copied streamed);
my ($copied, $streamed) = @followers;
$leader->safe_psql('postgres', q{SELECT fanout.create_stream('app'); CREATE TABLE t (id int PRIMARY KEY, v text); CREATE INDEX ON t (v);
	INSERT INTO t SELECT g, 'v' || g FROM generate_series(1, 100) g});
follow($streamed, $leader);
wait_for_copy($streamed);
$leader->safe_psql('postgres', 'CREATE EXTENSION fanout_test_addon');
follow($copied, $leader);
all_equal('with the extension', $leader, $copied);
is($copied->safe_psql('postgres', q{SELECT count(*) FROM pg_indexes WHERE tablename = 't'}), '2', 'what pg_dump says after it is there, too');
unlike(slurp_file($copied->logfile), qr/pg_dump/, '... at the first try');
settings_are_the_servers('in the initial copy', $copied);

wait_for_catchup($leader, $streamed);
is($streamed->safe_psql('postgres', q{SELECT count(*) FROM pg_extension WHERE extname = 'fanout_test_addon'}), '1', 'in the stream');
settings_are_the_servers('in the stream', $streamed);
$leader->safe_psql('postgres', 'INSERT INTO t VALUES (0)');
all_equal('after it', $leader, @followers);

$_->stop for $leader, @followers;
done_testing();
