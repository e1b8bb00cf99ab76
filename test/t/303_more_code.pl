# More places where code of a role without rights runs: while statements of a schema change are
# parsed, in COPY on the leader by a login that is a superuser, at the end of transactions.
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
	$node->safe_psql('postgres', q{CREATE EXTENSION pg_fanout; CREATE ROLE mallory LOGIN; CREATE ROLE bob LOGIN});
}

sub as_mallory
{
	my ($sql) = @_;
	my ($rc, $out, $err) = $leader->psql('postgres', $sql, extra_params => [ '-U', 'mallory' ], on_error_stop => 1);
	die $err if $rc != 0;
	return $out;
}

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

$leader->safe_psql('postgres', 'CREATE SCHEMA m AUTHORIZATION mallory');
$leader->safe_psql('postgres', q{SELECT fanout.create_stream('app')});
follow($follower, $leader);
wait_for_copy($follower);

# ---------- literals that are read by the check of a domain ----------

as_mallory(q{
	CREATE FUNCTION m.grab() RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		BEGIN PERFORM set_config('role', 'none', false); EXCEPTION WHEN OTHERS THEN END;
		BEGIN EXECUTE 'RESET SESSION AUTHORIZATION'; EXCEPTION WHEN OTHERS THEN END;
		BEGIN EXECUTE 'ALTER ROLE mallory SUPERUSER'; EXCEPTION WHEN OTHERS THEN END;
		BEGIN EXECUTE 'GRANT pg_execute_server_program TO mallory'; EXCEPTION WHEN OTHERS THEN END;
		BEGIN EXECUTE format('COPY (SELECT 1) TO PROGRAM %L', 'touch trapped_' || current_user); EXCEPTION WHEN OTHERS THEN END;
	END $$;
	CREATE FUNCTION m.trap(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
		PERFORM m.grab(); RETURN $1; EXCEPTION WHEN undefined_function THEN RETURN $1; END $$;
	CREATE FUNCTION m.quick_trap(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT m.trap($1)';
	CREATE DOMAIN m.dom AS int CHECK (m.trap(value) > 0);
	CREATE TYPE m.pair AS (a m.dom, b int)});
my @read = (
	'a default of a function' => q{CREATE FUNCTION m.f(x m.dom[] DEFAULT '{1}') RETURNS int LANGUAGE sql AS 'SELECT 1'},
	'a default of a function that sets its role' => q{CREATE FUNCTION m.g(x m.dom[] DEFAULT '{1}', OUT y int, VARIADIC z m.dom[] DEFAULT '{1}') LANGUAGE sql SET role = mallory SET work_mem = '1MB' AS 'SELECT 1'},
	'a default of a procedure that sets its role' => q{CREATE PROCEDURE m.p(x m.pair DEFAULT '(1,1)') LANGUAGE sql SET search_path = m SET role = mallory AS 'SELECT 1'},
	'a body' => q{CREATE FUNCTION m.b() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT ('{1}'::m.dom[])[1]; END},
	'a function of the name of a built-in one' => q{SET search_path = m; CREATE FUNCTION substr(x m.dom[] DEFAULT '{1}') RETURNS int LANGUAGE sql SET role = mallory AS 'SELECT 1'},
	'a default of a column' => q{CREATE TABLE m.t (id int PRIMARY KEY, a m.dom[] DEFAULT '{1}', b int GENERATED ALWAYS AS (cardinality('{1}'::m.dom[])) STORED, CHECK ('{1}'::m.dom[] IS NOT NULL))},
	'an index' => q{CREATE INDEX ON m.t (id) WHERE '{2}'::m.dom[] IS NOT NULL AND m.quick_trap(1) = 1},
	'statistics' => q{CREATE STATISTICS m.s ON (id + cardinality('{1}'::m.dom[])), (m.trap(id)) FROM m.t},
	'a policy' => q{CREATE POLICY p ON m.t USING ('{1}'::m.dom[] IS NOT NULL)},
	'a rule' => q{CREATE RULE r AS ON INSERT TO m.t WHERE '{1}'::m.dom[] IS NULL DO NOTHING},
	'a view' => q{CREATE VIEW m.v AS SELECT '(1,1)'::m.pair AS p, m.trap(1)},
	'a materialized view' => q{CREATE MATERIALIZED VIEW m.mv AS SELECT 1 AS id, '(1,1)'::m.pair AS p, m.trap(1); CREATE UNIQUE INDEX ON m.mv (id); REFRESH MATERIALIZED VIEW CONCURRENTLY m.mv; REFRESH MATERIALIZED VIEW m.mv},
	'a default of a domain' => q{CREATE DOMAIN m.outer AS m.dom[] DEFAULT '{1}' CHECK (value <> '{5}'::m.dom[])},
	'bounds of a partition' => q{CREATE TABLE m.parts (id int) PARTITION BY RANGE (m.trap(id)); CREATE TABLE m.part PARTITION OF m.parts FOR VALUES FROM (m.trap(1)) TO (cardinality('{1}'::m.dom[]) + 9)},
	'an aggregate' => q{CREATE FUNCTION m.add(m.dom[], int) RETURNS m.dom[] LANGUAGE sql AS 'SELECT $1'; CREATE AGGREGATE m.agg(int) (SFUNC = m.add, STYPE = m.dom[], INITCOND = '{1}')},
	'a trigger' => q{CREATE FUNCTION m.trig() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM m.grab(); RETURN new; END'; CREATE TRIGGER t BEFORE UPDATE ON m.t FOR EACH ROW WHEN ('{1}'::m.dom[] IS NOT NULL) EXECUTE FUNCTION m.trig()},
	'a table of a query' => q{CREATE TABLE m.made AS SELECT m.trap(1) AS id, '{1}'::m.dom[] AS a},
	'a column that is added' => q{ALTER TABLE m.t ADD COLUMN c m.dom DEFAULT m.trap(3), ADD CHECK (m.trap(id) > 0)},
);
while (my ($what, $statements) = splice(@read, 0, 2))
{
	as_mallory($statements);
	wait_for_catchup($leader, $follower);
	no_gain($what);
}
my $settings = q{SELECT proname, proconfig FROM pg_proc WHERE pronamespace = 'm'::regnamespace AND proconfig IS NOT NULL ORDER BY 1};
is($follower->safe_psql('postgres', $settings), $leader->safe_psql('postgres', $settings), 'functions have their settings');
is($follower->safe_psql('postgres', q{SELECT count(*) FROM pg_proc WHERE proconfig::text LIKE '%role=mallory%'}), '3', '... all of them');
as_mallory(q{ALTER FUNCTION m.b() SET role = mallory SET work_mem = '2MB' STABLE; ALTER FUNCTION m.b() RESET work_mem; ALTER FUNCTION m.g RESET role;
	ALTER PROCEDURE m.p RESET ALL; CREATE OR REPLACE FUNCTION m.substr(x m.dom[] DEFAULT '{1}') RETURNS int LANGUAGE sql AS 'SELECT 2'; ALTER FUNCTION m.f STRICT});
wait_for_catchup($leader, $follower);
is($follower->safe_psql('postgres', $settings), $leader->safe_psql('postgres', $settings), '... and have others');
no_gain('settings of functions');

# ---------- the rows of tables that can't be copied as they are stored ----------

as_mallory(q{
	CREATE TABLE m.filtered (id int PRIMARY KEY, a int);
	INSERT INTO m.filtered SELECT g, g FROM generate_series(1, 20) g;
	CREATE INDEX ON m.filtered (a) WHERE m.trap(1) = 1;
	CREATE INDEX ON m.filtered (a) WHERE m.quick_trap(2) = 2;
	CREATE TABLE m.xmls (id int PRIMARY KEY, x xml);
	INSERT INTO m.xmls VALUES (1, '<a/>');
	CREATE INDEX ON m.xmls (id) WHERE m.trap(3) = 3;
	CREATE TABLE m.rooted (id int PRIMARY KEY, a int) PARTITION BY RANGE (id);
	CREATE TABLE m.rooted_1 PARTITION OF m.rooted FOR VALUES FROM (0) TO (100);
	CREATE INDEX ON m.rooted_1 (a) WHERE m.trap(4) = 4;
	CREATE INDEX ON m.rooted (a) WHERE m.trap(5) = 5;
	INSERT INTO m.rooted SELECT g, g FROM generate_series(1, 20) g});
$leader->safe_psql('postgres', q{CREATE PUBLICATION few FOR TABLE m.filtered WHERE (id > 5), m.rooted WITH (publish_via_partition_root);
	SELECT fanout.create_stream('few', '{few}')});
wait_for_catchup($leader, $follower);
no_gain('the tables themselves');
$follower->safe_psql('postgres', q{SELECT fanout.unfollow('app'); DROP SCHEMA m CASCADE});
my $conninfo = conninfo($leader);
$conninfo =~ s/'/''/g;
$follower->safe_psql('postgres', "SELECT fanout.follow('few', '$conninfo', 'few_f')");
$follower->safe_psql('postgres', q{SELECT fanout.wait_for_copy('few', '60s')});
is($follower->safe_psql('postgres', 'SELECT (SELECT count(*) FROM m.filtered), (SELECT count(*) FROM m.rooted)', extra_params => [ '-U', 'mallory' ]),
	'15|20', 'the rows');
no_gain('copies of filtered and partitioned tables');
$follower->safe_psql('postgres', q{SELECT fanout.resync('few'); SELECT fanout.wait_for_copy('few', '60s')});
no_gain('copies beside the stream');
is($follower->safe_psql('postgres', q{SELECT bool_and(equal) FROM fanout.verify('few')}), 't', 'verify()');
no_gain('verify()');

done_testing();
