# Code of a table's owner never runs with more than that owner's rights, whatever reads or
# builds the table: a role without rights sets traps wherever a server runs code, among them
# where it only plans a statement.  Each trap notes who it ran as, and tries to get more.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $leader = new_server('leader');
my $follower = new_server('follower', 'fanout.retry_interval = 200ms');
for my $node ($leader, $follower)
{
	$node->safe_psql('postgres', q{CREATE EXTENSION pg_fanout; CREATE ROLE mallory LOGIN});
}

sub as_mallory
{
	my ($node, $sql) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', $sql, extra_params => [ '-U', 'mallory' ], on_error_stop => 1);
	die $err if $rc != 0;
	return $out;
}

# Files that a shell of a superuser's made, and rights that the role has got.
sub no_gain
{
	my ($what) = @_;
	for my $node ($leader, $follower)
	{
		my $name = $node->name;
		is($node->safe_psql('postgres', q{SELECT rolsuper OR rolcreaterole OR pg_has_role(oid, 'pg_execute_server_program', 'usage')
			FROM pg_roles WHERE rolname = 'mallory'}), 'f', "$what: no rights on the $name");
		is_deeply([ glob($node->data_dir . '/trapped_*') ], [], "$what: no shell on the $name");
	}
	return;
}

# What every trap does: immutable says who writes, so that the server calls it early.
$leader->safe_psql('postgres', 'CREATE SCHEMA m AUTHORIZATION mallory');
as_mallory($leader, q{
	CREATE FUNCTION m.grab() RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		IF current_setting('test.disarmed', true) = 'on' THEN RETURN; END IF;
		BEGIN PERFORM set_config('role', 'none', false); EXCEPTION WHEN OTHERS THEN END;
		BEGIN EXECUTE 'ALTER ROLE mallory SUPERUSER'; EXCEPTION WHEN OTHERS THEN END;
		BEGIN EXECUTE 'GRANT pg_execute_server_program TO mallory'; EXCEPTION WHEN OTHERS THEN END;
		BEGIN EXECUTE format('COPY (SELECT 1) TO PROGRAM %L', 'touch trapped_' || current_user); EXCEPTION WHEN OTHERS THEN END;
	END $$;
	CREATE FUNCTION m.trap(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM m.grab(); RETURN $1; END $$;
	CREATE FUNCTION m.trap(text) RETURNS json IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM m.grab(); RETURN to_json($1); END $$;
	CREATE TYPE m.mood AS ENUM ('good', 'bad');
	CREATE FUNCTION m.trap(m.mood) RETURNS json IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM m.grab(); RETURN '1'; END $$;
	CREATE CAST (m.mood AS json) WITH FUNCTION m.trap(m.mood);
	CREATE TABLE m.kept (id int, mood m.mood, a text, PRIMARY KEY (id, mood));
	CREATE INDEX ON m.kept (a) WHERE m.trap(1) = 1;
	CREATE INDEX ON m.kept (m.trap(id));
	CREATE STATISTICS m.kept_statistics ON m.trap(id), a FROM m.kept;
	CREATE TABLE m.parts (id int PRIMARY KEY, a text) PARTITION BY RANGE (id);
	CREATE TABLE m.part PARTITION OF m.parts FOR VALUES FROM (0) TO (100);
	CREATE INDEX ON m.part (a) WHERE m.trap(2) = 2;
	INSERT INTO m.kept SELECT g, 'good', 'x' FROM generate_series(1, 10) g;
	INSERT INTO m.parts SELECT g, 'x' FROM generate_series(1, 10) g});

$leader->safe_psql('postgres', q{SELECT fanout.create_stream('app')});
follow($follower, $leader);
wait_for_copy($follower);
no_gain('the copy');

as_mallory($leader, q{UPDATE m.kept SET a = 'y' WHERE id < 5; DELETE FROM m.parts WHERE id = 3});
wait_for_catchup($leader, $follower);
no_gain('applying');

# Equal, and then not.
is($follower->safe_psql('postgres', q{SELECT count(*), bool_and(equal) FROM fanout.verify('app')}), '2|t', 'equal');
$follower->safe_psql('postgres', q{SET test.disarmed = on; SET fanout.guard = off;
	UPDATE m.kept SET a = 'z' WHERE id = 7; DELETE FROM m.parts WHERE id = 9});
is($follower->safe_psql('postgres', q{SELECT relation, rows_on_leader, rows_here, differing_keys
		FROM fanout.verify('app') WHERE NOT equal ORDER BY 1}),
	qq{m.kept|10|10|[{"id": 7, "mood": "good"}]\nm.part|9|8|[{"id": 9}]}, 'the differences are found');
no_gain('verify()');

# Policies hide nothing from verify() unnoticed.
$follower->safe_psql('postgres', 'CREATE ROLE reader');
$leader->safe_psql('postgres', q{CREATE ROLE reader LOGIN IN ROLE fanout_follower; GRANT USAGE ON SCHEMA m TO reader;
	GRANT SELECT ON m.kept, m.parts TO reader; SELECT fanout.grant_stream('app', 'reader');
	ALTER TABLE m.kept ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON m.kept USING (m.trap(id) < 5)});
my $hashes = q{SELECT rows FROM fanout.table_hashes('m.kept', '{id,a}', '{}', '{id}', NULL, 0, NULL)};
for my $setting (qw(on off))
{
	my ($rc, $out, $err) = $leader->psql('postgres', "SET row_security = $setting; $hashes", extra_params => [ '-U', 'reader' ]);
	like($err, qr/query would be affected by row-level security policy for table "kept"/, "row_security = $setting");
}
$leader->safe_psql('postgres', 'ALTER TABLE m.kept DISABLE ROW LEVEL SECURITY; REVOKE SELECT ON m.kept FROM reader; GRANT SELECT (id) ON m.kept TO reader');
my ($rc, $out, $err) = $leader->psql('postgres', $hashes, extra_params => [ '-U', 'reader' ]);
like($err, qr/permission denied for table kept/, 'columns that may not be read');
($rc, $out, $err) = $leader->psql('postgres', q{SELECT rows FROM fanout.table_hashes('m.kept', '{id}', '{}', '{id}', $$a = 'y'$$, 0, NULL)}, extra_params => [ '-U', 'reader' ]);
like($err, qr/permission denied for table kept/, '... nor asked for by a filter');
is($leader->safe_psql('postgres', q{SELECT rows FROM fanout.table_hashes('m.kept', '{id}', '{}', '{id}', 'id < 5', 0, NULL)}, extra_params => [ '-U', 'reader' ]),
	'4', '... but those that may');
no_gain('asking for hashes');

done_testing();
