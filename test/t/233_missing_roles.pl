# follow() names the leader's roles that do not exist on the follower.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use Test::More;

my $leader = new_leader('leader');
my $follower = new_follower('follower');
$leader->safe_psql('postgres', join ';', map { "CREATE ROLE $_" } qw(owner grantee "Policy" later routine other fine));
$leader->safe_psql('postgres', q{CREATE TABLE t (id int PRIMARY KEY); ALTER TABLE t OWNER TO owner; GRANT SELECT ON t TO grantee, fine, pg_monitor;
	CREATE POLICY p ON t TO "Policy"; ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO later;
	CREATE FUNCTION f() RETURNS int LANGUAGE sql RETURN 1; ALTER FUNCTION f() OWNER TO routine;
	CREATE TABLE u (id int PRIMARY KEY); CREATE PUBLICATION p FOR TABLE t; SELECT fanout.create_stream('some', '{p}')});
$follower->safe_psql('postgres', 'CREATE ROLE fine');
wait_until('the streams', sub { $leader->safe_psql('postgres', q{SELECT bool_and(state = 'streaming') FROM fanout.streams}) eq 't' });

# What follow() says; it is rolled back.
sub said
{
	my ($stream) = @_;
	my $conninfo = conninfo($leader) =~ s/'/''/gr;
	my ($rc, $out, $err) = $follower->psql('postgres', "BEGIN; SELECT fanout.follow('$stream', '$conninfo'); ROLLBACK",
		extra_params => [ '-v', 'VERBOSITY=verbose' ]);
	return $err;
}
like(said('app'), qr/WARNING:  42704: 5 roles of the leader do not exist here\nDETAIL:  Missing roles: "Policy", "grantee", "later", "owner", "routine"\.\n/,
	'owners, grants, policies, default privileges');
like(said('some'), qr/Missing roles: "Policy", "grantee", "owner"\.\n/, 'those of the tables of a stream that names publications');
$follower->safe_psql('postgres', "CREATE ROLE $_") for qw(grantee later owner routine);
like(said('app'), qr/WARNING:  42704: 1 role of the leader does not exist here\nDETAIL:  Missing role: "Policy"\.\n/, 'a single one');
$follower->safe_psql('postgres', 'CREATE ROLE "Policy"');
is(said('app'), '', 'nothing to say');
$_->stop for $follower, $leader;
done_testing();
