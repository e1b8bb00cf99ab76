# What a leader can't have done on a follower that says so, whatever role it names; and what it tells
# nobody: passwords of user mappings, and by which number a follower is known.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $leader = new_server('leader', 'log_min_messages = log');
my $follower = new_server('follower', 'fanout.retry_interval = 200ms', 'fanout.superuser_schema_changes = off');
my @powers = qw(pg_execute_server_program pg_read_server_files pg_write_server_files);
my $plain_roles = q{CREATE EXTENSION pg_fanout; CREATE ROLE plain LOGIN; CREATE ROLE group_of_group; CREATE ROLE member LOGIN;
	CREATE ROLE creator LOGIN; CREATE ROLE mon LOGIN IN ROLE pg_monitor; CREATE ROLE of_root LOGIN; CREATE ROLE root SUPERUSER;
	CREATE ROLE } . join('; CREATE ROLE ', map { "with_$_ LOGIN" } @powers);
for my $node ($leader, $follower)
{
	$node->safe_psql('postgres', $plain_roles);
}
$leader->safe_psql('postgres', 'GRANT CREATE ON SCHEMA public TO PUBLIC; CREATE EXTENSION postgres_fdw');
$follower->safe_psql('postgres', 'GRANT CREATE ON SCHEMA public TO PUBLIC; CREATE EXTENSION postgres_fdw;'
	  . join(';', map { "GRANT $_ TO with_$_" } @powers)
	  . '; GRANT pg_execute_server_program TO group_of_group; GRANT group_of_group TO member; ALTER ROLE creator CREATEROLE; GRANT root TO of_root');
$leader->safe_psql('postgres', q{
	CREATE SERVER s FOREIGN DATA WRAPPER postgres_fdw;
	CREATE USER MAPPING FOR plain SERVER s OPTIONS (user 'x', password 'the-first-secret');
	CREATE ROLE nowhere_else; CREATE USER MAPPING FOR nowhere_else SERVER s OPTIONS (user 'x', password 'the-second-secret');
	SELECT fanout.create_stream('app')});

# ---------- user mappings ----------

follow($follower, $leader);
wait_for_copy($follower);
is($follower->safe_psql('postgres', 'SELECT umoptions FROM pg_user_mappings'), '{password=the-first-secret,user=x}',
	'an initial copy brings what its login may read');
$follower->safe_psql('postgres', 'CREATE ROLE known');
$leader->safe_psql('postgres', 'CREATE ROLE known');
$follower->append_conf('postgresql.conf', 'fanout.superuser_schema_changes = on');
$follower->reload;
$leader->safe_psql('postgres', $_)
  for q{CREATE USER MAPPING FOR known SERVER s OPTIONS (user 'x', password 'the-third-secret')},
  q{DO $$ BEGIN EXECUTE 'ALTER USER MAPPING FOR known SERVER s OPTIONS (SET password ''the-fourth-secret'')'; END $$},
  q{ALTER USER MAPPING FOR plain SERVER s OPTIONS (SET password 'the-fifth-secret')},
  q{ALTER USER MAPPING FOR nowhere_else SERVER s OPTIONS (SET password 'the-sixth-secret')},
  q{CREATE USER MAPPING FOR PUBLIC SERVER s},
  q{CREATE ROLE with_password PASSWORD 'the-seventh-secret'};
wait_for_catchup($leader, $follower);
is($follower->safe_psql('postgres', 'SELECT usename, umoptions FROM pg_user_mappings ORDER BY 1'),
	"plain|{password=the-first-secret,user=x}\npublic|", 'later ones are not replicated, but without options they are');
$leader->safe_psql('postgres', 'DROP USER MAPPING FOR known SERVER s; DROP USER MAPPING FOR plain SERVER s; DROP USER MAPPING FOR PUBLIC SERVER s; DROP USER MAPPING FOR nowhere_else SERVER s; DROP SERVER s');
wait_for_catchup($leader, $follower);
is($follower->safe_psql('postgres', 'SELECT count(*) FROM pg_user_mappings'), '0', 'they are dropped');
for my $node ($leader, $follower)
{
	my @said = grep { /-secret/ } split /\n/, slurp_file($node->logfile);
	@said = grep { !/LOG:  statement: / } @said;    # the tests have the server log what is run
	is_deeply(\@said, [], 'no password in the log of the ' . $node->name);
}

# ---------- roles ----------

$follower->append_conf('postgresql.conf', 'fanout.superuser_schema_changes = off');
$follower->reload;
sub refused
{
	my ($role, $why) = @_;
	$leader->psql('postgres', "CREATE FUNCTION by_$role() RETURNS int LANGUAGE sql AS 'SELECT 1'", extra_params => [ '-U', $role ]);
	wait_until("the error for $role", sub { $follower->safe_psql('postgres', 'SELECT last_error FROM fanout.staleness') =~
			  /a schema change as role "$role" is refused: It is $why/ });
	is($follower->safe_psql('postgres', "SELECT count(*) FROM pg_proc WHERE proname = 'by_$role'"), '0', "$role: refused");
	$follower->append_conf('postgresql.conf', 'fanout.superuser_schema_changes = on');
	$follower->reload;
	wait_for_catchup($leader, $follower);
	is($follower->safe_psql('postgres', "SELECT count(*) FROM pg_proc WHERE proname = 'by_$role'"), '1', "$role: made when allowed");
	$follower->append_conf('postgresql.conf', 'fanout.superuser_schema_changes = off');
	$follower->reload;
	return;
}
$leader->safe_psql('postgres', 'CREATE TABLE by_plain (id int PRIMARY KEY)', extra_params => [ '-U', 'plain' ]);
wait_for_catchup($leader, $follower);
is($follower->safe_psql('postgres', q{SELECT count(*) FROM pg_class WHERE relname = 'by_plain'}), '1', 'a role without powers');
refused('postgres', 'a superuser or has CREATEROLE');
refused('creator', 'a superuser or has CREATEROLE');
refused("with_$_", qq{a member of "$_"}) for @powers;
refused('member', 'a member of "pg_execute_server_program"');
refused('of_root', 'a member of "root"');

# ---------- numbers ----------

my $instance = $follower->safe_psql('postgres', 'SELECT instance FROM fanout.followed_stream');
is($leader->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND query LIKE '%$instance%'", extra_params => [ '-U', 'mon' ]),
	'0', 'no statement of a follower names its instance');
is($leader->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'sending stream "app" to%'}, extra_params => [ '-U', 'mon' ]),
	'1', '... what it does is said instead');
for my $role (qw(plain mon))
{
	is($follower->safe_psql('postgres', q{SELECT count(*) FROM information_schema.columns WHERE table_schema = 'fanout' AND column_name = 'instance'
		AND has_column_privilege(format('fanout.%I', table_name), column_name, 'select')}, extra_params => [ '-U', $role ]), '0', "$role can't read it on the follower");
}

done_testing();
