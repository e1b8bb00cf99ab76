# What is written while an extension's script runs: by the script to its own tables and to others, by
# event triggers wherever they write, and the schema changes of those.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use File::Basename;
use Fanout;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $copy = "$PostgreSQL::Test::Utils::tmp_check/script_rows_installation";
system_or_bail("$FindBin::Bin/../copy-installation", $copy);
sub pg_config { return `$ENV{PG_CONFIG} --$_[0]` =~ s/\s+$//r }
my $dir = $copy . pg_config('sharedir') . '/extension';

sub extension
{
	my ($name, $requires, %scripts) = @_;
	append_to_file("$dir/$name.control", "default_version = '1'\nrelocatable = false\nschema = public\n"
		  . ($requires ne '' ? "requires = '$requires'\n" : ''));
	append_to_file("$dir/$name--$_.sql", $scripts{$_}) for keys %scripts;
	return;
}

# Values that are others each time: rows that came with the stream are equal, those of two scripts are not.
extension('script_base', '', 1 => q{
	CREATE TABLE base_rows (id int PRIMARY KEY, v text); INSERT INTO base_rows VALUES (1, 'base')});
extension('script_ext', 'script_base', 1 => q{
	CREATE TABLE ext_rows (id int PRIMARY KEY, v text);
	INSERT INTO ext_rows VALUES (1, 'one'), (2, 'two');
	CREATE FUNCTION ext_function() RETURNS int LANGUAGE sql AS 'SELECT 1';
	INSERT INTO base_rows VALUES (2, 'ext');
	INSERT INTO app.rows (v) SELECT gen_random_uuid() FROM generate_series(1, 5);
	UPDATE app.rows SET v = gen_random_uuid() WHERE id = 2;
	DELETE FROM app.rows WHERE id = 3;
	WITH new AS (INSERT INTO app.rows (v) VALUES (gen_random_uuid()) RETURNING id) SELECT count(*) FROM new;
	WITH new AS (INSERT INTO app.parts VALUES (500, gen_random_uuid()) ON CONFLICT DO NOTHING) SELECT 1;
	DO $$ DECLARE i int; BEGIN INSERT INTO app.rows (v) VALUES (gen_random_uuid()) RETURNING id INTO i;
		BEGIN INSERT INTO app.rows (v) VALUES ('undone'); RAISE division_by_zero; EXCEPTION WHEN division_by_zero THEN END; END $$;
	INSERT INTO app.parts SELECT g, gen_random_uuid() FROM generate_series(1, 200, 20) g ON CONFLICT (id) DO UPDATE SET v = gen_random_uuid();
	CREATE TABLE ext_copied AS SELECT id FROM ext_rows; ALTER TABLE ext_copied ADD PRIMARY KEY (id)},
	'1--2' => q{
	ALTER TABLE ext_rows ADD w int DEFAULT 7; INSERT INTO ext_rows VALUES (3, 'three', 3);
	TRUNCATE app.emptied; INSERT INTO app.emptied VALUES (7, gen_random_uuid());
	ALTER TABLE app.rows ADD w text; INSERT INTO app.rows (v, w) VALUES (gen_random_uuid(), 'w'); DROP FUNCTION ext_function()});
extension('script_late', 'script_base', 1 => q{
	INSERT INTO base_rows VALUES (3, gen_random_uuid()); UPDATE base_rows SET v = gen_random_uuid() WHERE id = 1});
extension('script_log', '', 1 => q{
	CREATE TABLE own_log (id serial PRIMARY KEY, tag text, v uuid);
	CREATE FUNCTION own_audit() RETURNS event_trigger LANGUAGE plpgsql AS
		'BEGIN INSERT INTO public.own_log (tag, v) VALUES (tg_tag, gen_random_uuid()); END';
	INSERT INTO own_log VALUES (1000, 'first');
	CREATE EVENT TRIGGER own_audit ON ddl_command_end EXECUTE FUNCTION own_audit();
	CREATE FUNCTION log_a() RETURNS int LANGUAGE sql AS 'SELECT 1'; COMMENT ON FUNCTION log_a() IS 'x'});
extension('script_fails', '', 1 => q{
	CREATE TABLE fails_rows (id int PRIMARY KEY); INSERT INTO fails_rows VALUES (1); INSERT INTO app.rows (v) VALUES ('never'); SELECT 1 / 0});

my ($leader, $follower) = map {
	my $node = PostgreSQL::Test::Cluster->new($_, install_path => dirname($copy . pg_config('bindir')));
	start_server($node, 'fanout.retry_interval = 200ms');
	$node->safe_psql('postgres', 'CREATE EXTENSION pg_fanout');
	$node } qw(leader follower);
$leader->safe_psql('postgres', q{
	CREATE SCHEMA app;
	CREATE TABLE app.rows (id serial PRIMARY KEY, v text);
	CREATE TABLE app.emptied (id int PRIMARY KEY, v text);
	CREATE TABLE app.parts (id int PRIMARY KEY, v uuid) PARTITION BY RANGE (id);
	CREATE TABLE app.parts_low PARTITION OF app.parts FOR VALUES FROM (0) TO (100);
	CREATE TABLE app.parts_high PARTITION OF app.parts FOR VALUES FROM (100) TO (1000);
	CREATE TABLE app.ddl_log (id serial PRIMARY KEY, event text, tag text, object text, at timestamptz DEFAULT clock_timestamp());
	CREATE FUNCTION app.audit() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
		IF tg_event = 'ddl_command_end' THEN
			INSERT INTO app.ddl_log (event, tag, object) SELECT tg_event, command_tag, object_identity FROM pg_event_trigger_ddl_commands();
		ELSIF tg_event = 'sql_drop' THEN
			INSERT INTO app.ddl_log (event, tag, object) SELECT tg_event, tg_tag, object_identity FROM pg_event_trigger_dropped_objects();
		ELSE
			INSERT INTO app.ddl_log (event, tag) VALUES (tg_event, tg_tag);
		END IF;
	END $$;
	CREATE EVENT TRIGGER audit_start ON ddl_command_start EXECUTE FUNCTION app.audit();
	CREATE EVENT TRIGGER audit_end ON ddl_command_end EXECUTE FUNCTION app.audit();
	CREATE EVENT TRIGGER audit_drop ON sql_drop EXECUTE FUNCTION app.audit();
	INSERT INTO app.emptied SELECT generate_series(1, 5);
	SELECT fanout.create_stream('app')});
follow($follower, $leader);
wait_for_copy($follower);

my $logged = 0;
sub check
{
	my ($what, $sql) = @_;
	$leader->safe_psql('postgres', $sql);
	all_equal($what, $leader, $follower);
	my $count = $leader->safe_psql('postgres', 'SELECT count(*) FROM app.ddl_log');
	cmp_ok($count, '>', $logged, '... and event triggers have written');
	$logged = $count;
	is($follower->safe_psql('postgres', q{SELECT coalesce(last_error, '') FROM fanout.staleness}), '', '... without an error');
	return;
}
check('CASCADE', 'CREATE EXTENSION script_ext CASCADE');
check('an update', 'ALTER EXTENSION script_ext UPDATE TO \'2\'');
check('one that needs another', 'CREATE EXTENSION script_late');
check('an event trigger of its own', 'CREATE EXTENSION script_log');
check('rows afterwards', q{INSERT INTO ext_rows VALUES (4, 'later'); UPDATE base_rows SET v = 'x'; DELETE FROM ext_copied; INSERT INTO app.rows (v) VALUES ('later'); CREATE TABLE other (id int PRIMARY KEY)});
check('errors that are caught', q{DO $$ BEGIN
	INSERT INTO app.rows (v) VALUES ('before');
	BEGIN CREATE EXTENSION script_fails; EXCEPTION WHEN division_by_zero THEN INSERT INTO app.rows (v) VALUES ('caught'); END;
	CREATE TABLE after (id int PRIMARY KEY); INSERT INTO after VALUES (1); END $$});
check('DROP EXTENSION', 'BEGIN; DROP EXTENSION script_late; DROP EXTENSION script_base CASCADE; INSERT INTO app.rows (v) VALUES (1); COMMIT');
check('once more, with others in one transaction', q{BEGIN; CREATE EXTENSION script_ext CASCADE; INSERT INTO app.rows (v) VALUES (2); CREATE EXTENSION script_late; INSERT INTO app.rows (v) VALUES (3); COMMIT});

# Event triggers that change the schema, and one that fails and is caught within the script.
check('event triggers that change the schema', q{
	DROP EXTENSION script_base CASCADE; DROP EXTENSION script_log;
	CREATE FUNCTION app.make() RETURNS event_trigger LANGUAGE plpgsql AS $$ DECLARE n int := (SELECT count(*) FROM app.rows); BEGIN
		IF tg_tag = 'CREATE FUNCTION' AND current_setting('app.nested', true) IS DISTINCT FROM 'on' THEN
			PERFORM set_config('app.nested', 'on', true);
			EXECUTE format('CREATE TABLE app.made_%s (id int PRIMARY KEY, v text)', n);
			EXECUTE format('INSERT INTO app.made_%s VALUES (1, gen_random_uuid())', n);
			ALTER TABLE app.rows ADD COLUMN IF NOT EXISTS by_trigger text;
			INSERT INTO app.rows (v, by_trigger) VALUES (n, gen_random_uuid());
			PERFORM set_config('app.nested', 'off', true);
		END IF; END $$;
	CREATE EVENT TRIGGER make ON ddl_command_end EXECUTE FUNCTION app.make();
	CREATE EXTENSION script_ext CASCADE});
is($follower->safe_psql('postgres', q{SELECT count(*) > 0 FROM pg_class WHERE relname LIKE 'made%' AND relkind = 'r'}), 't', '... which are there');
check('and go on', q{DO $$ DECLARE t text; BEGIN FOR t IN SELECT oid::regclass FROM pg_class WHERE relname LIKE 'made%' AND relkind = 'r' LOOP
	EXECUTE format('INSERT INTO %s VALUES (2, 2)', t); END LOOP; CREATE TABLE last (id int PRIMARY KEY); END $$});

# What they made belongs to the extension, here as there, and goes with it.
my $members = q{SELECT string_agg(pg_describe_object(classid, objid, 0), ', ' ORDER BY pg_describe_object(classid, objid, 0)) FROM pg_depend
	WHERE refobjid = (SELECT oid FROM pg_extension WHERE extname = 'script_ext') AND deptype = 'e'};
like($leader->safe_psql('postgres', $members), qr/table app\.made_\d+/, 'a table that was made in the script belongs to it');
is($follower->safe_psql('postgres', $members), $leader->safe_psql('postgres', $members), '... on the follower, too');
check('and goes with it', 'DROP EXTENSION script_base CASCADE; CREATE EXTENSION script_ext CASCADE');

# Other code that writes while a schema change runs.
check('a default that writes', q{
	CREATE FUNCTION app.writes() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
		INSERT INTO app.ddl_log (event, object) VALUES ('default', gen_random_uuid()); RETURN 1; END $$;
	ALTER TABLE app.rows ADD COLUMN z int DEFAULT app.writes()});
check('event triggers that fire for the stream', q{
	CREATE VIEW app.last_view AS SELECT 1; ALTER EVENT TRIGGER audit_end ENABLE ALWAYS; ALTER EVENT TRIGGER audit_drop ENABLE REPLICA;
	CREATE TABLE app.two (id int PRIMARY KEY); ALTER TABLE app.two ADD v int; INSERT INTO app.two VALUES (1, 1); DROP VIEW app.last_view; CREATE EXTENSION script_late});

$_->stop for $leader, $follower;
done_testing();
