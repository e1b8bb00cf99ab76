# A follower makes the leader's roles that it lacks, if it was told so; none gets any rights of its own.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use Test::More;

my $leader = new_leader('leader');
my $follower = new_follower('follower');
$leader->safe_psql('postgres', join ';', 'CREATE ROLE owner SUPERUSER CREATEDB CREATEROLE REPLICATION BYPASSRLS LOGIN',
	map { "CREATE ROLE \"$_\"" } qw(grantee grantor Pol""icy later));
$leader->safe_psql('postgres', q{CREATE TABLE t (id int PRIMARY KEY); ALTER TABLE t OWNER TO owner;
	GRANT SELECT ON t TO grantor WITH GRANT OPTION; GRANT SELECT ON t TO grantee, pg_monitor;
	CREATE POLICY p ON t TO "Pol""icy"; ALTER DEFAULT PRIVILEGES FOR ROLE owner GRANT SELECT ON TABLES TO later});

my $conninfo = conninfo($leader) =~ s/'/''/gr;
my $follow = "SELECT fanout.follow('app', '$conninfo', make_roles => true)";
my ($rc, $out, $err) = $follower->psql('postgres', "BEGIN; $follow; ROLLBACK");
like($err, qr/NOTICE:  5 roles of the leader are made here, with NOLOGIN\nDETAIL:  New roles: "Pol"icy", "grantee", "grantor", "later", "owner"\./, 'follow() says what it makes');
sub roles
{
	return $follower->safe_psql('postgres', q{SELECT string_agg(rolname, ' ' ORDER BY rolname COLLATE "C") FROM pg_roles
		WHERE oid >= 16384 AND rolname NOT LIKE 'fanout%'});
}
is(roles(), '', 'a rollback takes them back');
($rc, $out, $err) = $follower->psql('postgres', "SELECT fanout.follow('app', '$conninfo', make_roles => NULL)");
like($err, qr/make_roles must not be null/, 'null is refused');

$follower->safe_psql('postgres', $follow);
wait_for_copy($follower);
is(roles(), 'Pol"icy grantee grantor later owner', 'all are made');

sub rights
{
	my ($node) = @_;
	return $node->safe_psql('postgres', q{
		SELECT relowner::regrole, (SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM unnest(relacl) a) FROM pg_class WHERE relname = 't';
		SELECT polname, polroles::regrole[] FROM pg_policy ORDER BY 1;
		SELECT defaclrole::regrole, (SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM unnest(defaclacl) a) FROM pg_default_acl ORDER BY defaclrole::regrole::text});
}
is(rights($follower), rights($leader), 'owner, grants, policy and default privileges are the leader\'s');

# Roles that come later: who runs a statement, and whom it names.
$leader->safe_psql('postgres', join ';', map { "CREATE ROLE $_ LOGIN" } map { "r$_" } 1 .. 8);
$leader->safe_psql('postgres', q{GRANT CREATE ON SCHEMA public TO r1;
	SET ROLE r1; CREATE TABLE u (id int PRIMARY KEY); RESET ROLE;
	GRANT INSERT ON t TO r2; ALTER TABLE t OWNER TO r3; CREATE POLICY q ON t TO r4;
	CREATE SCHEMA s AUTHORIZATION r5; ALTER DEFAULT PRIVILEGES FOR ROLE r6 GRANT SELECT ON TABLES TO r7;
	INSERT INTO u VALUES (1)});
$leader->safe_psql('postgres', q{GRANT CREATE ON SCHEMA public TO r8; SET SESSION AUTHORIZATION r8; CREATE TABLE w (id int PRIMARY KEY)});
wait_for_catchup($leader, $follower);
is(roles(), 'Pol"icy grantee grantor later owner r1 r2 r3 r4 r5 r6 r7 r8', 'so are those of later statements');
is($follower->safe_psql('postgres', q{SELECT relname, relowner::regrole FROM pg_class WHERE relname IN ('t', 'u', 'w') ORDER BY 1}),
	"t|r3\nu|r1\nw|r8", 'their owners');
is(rights($follower), rights($leader), 'the rights are the leader\'s');
is($follower->safe_psql('postgres', q{SELECT count(*) FROM pg_roles WHERE oid >= 16384 AND rolname NOT LIKE 'fanout%'
	AND (rolsuper OR rolcanlogin OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls)}), '0', 'none has an attribute');
is($follower->safe_psql('postgres', q{SELECT count(*) FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member
	WHERE r.oid >= 16384 AND r.rolname NOT LIKE 'fanout%'}), '0', 'none is in another');

# What needs a right that the role lacks stops the stream, until somebody gives it.
$leader->safe_psql('postgres', 'CREATE ROLE boss SUPERUSER LOGIN');
$leader->safe_psql('postgres', q{SET SESSION AUTHORIZATION boss; ALTER TABLE t ADD COLUMN v int; INSERT INTO t VALUES (1)});
wait_until('the error', sub { $follower->safe_psql('postgres', 'SELECT last_error FROM fanout.staleness') =~ /must be owner of table t/ });
is($follower->safe_psql('postgres', q{SELECT count(*) FROM pg_roles WHERE rolname = 'boss' AND rolsuper}), '0', 'no superuser is made');
$follower->safe_psql('postgres', q{CREATE ROLE boss SUPERUSER; SELECT fanout.resume('app')});
wait_for_catchup($leader, $follower);
same_data("all", $leader, $follower);
$_->stop for $follower, $leader;
done_testing();
