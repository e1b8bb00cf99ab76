# Code that runs on the follower with the rows of the leader: whatever the server keeps for it
# must live as long as it is used.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use Test::More;

# Each way in which a function is not simply called, in each place that calls one.
my %functions = (
	plain => '', definer => 'SECURITY DEFINER', setting => "SET work_mem = '1MB'",
	twofold => 'SECURITY DEFINER SET search_path = pg_catalog, pg_temp');
my @names = sort keys %functions;
my $rows = 100;

my $leader = new_server('leader');
my $follower = new_follower('follower', 'fanout.retry_interval = 200');
my $sql = 'CREATE SCHEMA code;';
for my $name (@names)
{
	$sql .= qq{
		CREATE FUNCTION code.${name}_ok(int) RETURNS bool LANGUAGE plpgsql IMMUTABLE $functions{$name} AS 'BEGIN RETURN \$1 > -1000; END';
		CREATE FUNCTION code.${name}_sql(int) RETURNS int LANGUAGE sql IMMUTABLE $functions{$name} AS 'SELECT \$1 + 1';
		CREATE DOMAIN code.${name}_domain AS int CHECK (code.${name}_ok(VALUE)) CHECK (code.${name}_sql(VALUE) < 1000000);
		CREATE TABLE $name (id int PRIMARY KEY, v int CHECK (code.${name}_ok(v)) CHECK (code.${name}_sql(v) > -1000), d code.${name}_domain,
			da code.${name}_domain[], g int GENERATED ALWAYS AS (code.${name}_sql(v)) STORED, EXCLUDE USING btree ((code.${name}_sql(id)) WITH =));
		CREATE INDEX ON $name (code.${name}_sql(v)) WHERE code.${name}_ok(v);
		CREATE TABLE ${name}_batch (LIKE $name INCLUDING ALL EXCLUDING INDEXES, PRIMARY KEY (id));
		CREATE TABLE ${name}_full (LIKE $name INCLUDING ALL EXCLUDING INDEXES); ALTER TABLE ${name}_full REPLICA IDENTITY FULL;
		CREATE TABLE ${name}_parts (id int, v code.${name}_domain) PARTITION BY LIST ((code.${name}_sql(id) % 2));
		CREATE TABLE ${name}_even PARTITION OF ${name}_parts FOR VALUES IN (0); CREATE TABLE ${name}_odd PARTITION OF ${name}_parts FOR VALUES IN (1);
		ALTER TABLE ${name}_even REPLICA IDENTITY FULL; ALTER TABLE ${name}_odd REPLICA IDENTITY FULL; ALTER TABLE ${name}_parts REPLICA IDENTITY FULL;
		INSERT INTO $name SELECT g, g, g, ARRAY[g, g] FROM generate_series(1, $rows) g; INSERT INTO ${name}_batch SELECT id, v, d, da FROM $name;
		INSERT INTO ${name}_full SELECT id, v, d, da FROM $name; INSERT INTO ${name}_parts SELECT id, v FROM $name;};
}
# Since 18 all columns of a row that identify it must be published.
my $generated = $leader->pg_version >= 18 ? ', publish_generated_columns = stored' : '';
$leader->safe_psql('postgres', "$sql; CREATE EXTENSION pg_fanout; CREATE PUBLICATION whole FOR ALL TABLES WITH (publish_via_partition_root$generated)");
$leader->safe_psql('postgres', q{SELECT fanout.create_stream('app', '{whole}')});
follow($follower, $leader);
all_equal('copy', $leader, $follower);

# The follower's own triggers note what they see; a column of its own has a default.
$sql = 'CREATE TABLE code.seen (n bigserial, what text);';
for my $name (@names)
{
	$sql .= qq{
		CREATE FUNCTION code.${name}_sees() RETURNS trigger LANGUAGE plpgsql $functions{$name} AS \$\$ BEGIN
			INSERT INTO code.seen (what) VALUES ('$name ' || TG_NAME || ' ' || TG_OP);
			RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END; END \$\$;
		CREATE FUNCTION code.${name}_seven() RETURNS int LANGUAGE sql VOLATILE $functions{$name} AS 'SELECT 7';
		ALTER TABLE ${name}_batch ADD own int DEFAULT code.${name}_seven();};
	for my $table ($name, "${name}_full", "${name}_even", "${name}_odd")
	{
		$sql .= qq{
			CREATE TRIGGER before BEFORE INSERT OR UPDATE OR DELETE ON $table FOR EACH ROW EXECUTE FUNCTION code.${name}_sees();
			CREATE TRIGGER after AFTER INSERT OR UPDATE OR DELETE ON $table FOR EACH ROW EXECUTE FUNCTION code.${name}_sees();
			CREATE TRIGGER conditional AFTER UPDATE ON $table FOR EACH ROW WHEN (code.${name}_ok(NEW.v) AND code.${name}_sql(NEW.v) <> OLD.v) EXECUTE FUNCTION code.${name}_sees();
			CREATE CONSTRAINT TRIGGER deferred AFTER INSERT OR UPDATE ON $table DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION code.${name}_sees();
			CREATE TRIGGER emptied BEFORE TRUNCATE ON $table EXECUTE FUNCTION code.${name}_sees();
			CREATE TRIGGER was_emptied AFTER TRUNCATE ON $table EXECUTE FUNCTION code.${name}_sees();
			CREATE TRIGGER statement AFTER UPDATE ON $table REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION code.${name}_sees();};
		$sql .= "ALTER TABLE $table ENABLE ALWAYS TRIGGER $_;" for qw(before after conditional deferred emptied was_emptied statement);
	}
}
$follower->safe_psql('postgres', "SET fanout.guard = off; $sql");

# Row by row in transactions of their own, and all at once.
my $changes = '';
for my $name (@names)
{
	for my $table ($name, "${name}_batch", "${name}_full", "${name}_parts")
	{
		my $columns = $table =~ /parts/ ? '(id, v)' : '(id, v, d)';
		my $values = $table =~ /parts/ ? 'g, g' : 'g, g, g';
		$changes .= "INSERT INTO $table $columns SELECT $values FROM generate_series($_, $_) g; UPDATE $table SET v = v + 2 WHERE id = $_; DELETE FROM $table WHERE id = $_;\n"
		  for map { 1000 + $_ } 1 .. 10;
		$changes .= "INSERT INTO $table $columns SELECT $values FROM generate_series(2001, 2020) g; UPDATE $table SET v = v + 2; DELETE FROM $table WHERE id > 2000;\n";
	}
	$changes .= "UPDATE ${name}_parts SET id = id + 1 WHERE id = 1;\n";
}
$leader->safe_psql('postgres', $changes);
wait_for_catchup($leader, $follower);
my $expected = join "\n", sort map {
	my $name = $_;
	my ($inserts, $updates) = (3 * 30, 3 * ($rows + 30));
	# A row that moves to another partition is deleted and inserted.
	("$name before INSERT|" . ($inserts + 1), "$name before UPDATE|$updates", "$name before DELETE|" . ($inserts + 1),
		"$name after INSERT|" . ($inserts + 1), "$name after UPDATE|$updates", "$name after DELETE|" . ($inserts + 1),
		"$name conditional UPDATE|$updates", "$name deferred INSERT|" . ($inserts + 1), "$name deferred UPDATE|$updates");
} @names;
my $seen = q{SELECT what, count(*) FROM code.seen GROUP BY 1 ORDER BY what COLLATE "C"};
is($follower->safe_psql('postgres', $seen), $expected, 'triggers of all kinds see each row');
is($follower->safe_psql('postgres', join ' UNION ALL ', map { "SELECT count(*) FROM ${_}_batch WHERE own = 7" } @names),
	join("\n", ($rows) x @names), 'defaults');

$leader->safe_psql('postgres', join ';', map { "TRUNCATE $_; TRUNCATE ${_}_full; TRUNCATE ${_}_parts" } @names);
wait_for_catchup($leader, $follower);
is( $follower->safe_psql('postgres', q{SELECT count(*), count(*) FILTER (WHERE what LIKE '% was_%') FROM code.seen WHERE what LIKE '% TRUNCATE'}),
	2 * 4 * @names . '|' . 4 * @names, 'triggers of TRUNCATE');
is($follower->safe_psql('postgres', 'SELECT last_error FROM fanout.staleness'), '', 'all that without an error');
$follower->safe_psql('postgres', 'SET fanout.guard = off; DROP TABLE code.seen; ' . join ';', map { "ALTER TABLE ${_}_batch DROP own" } @names);
same_data('rows', $leader, $follower);
unlike(PostgreSQL::Test::Utils::slurp_file($follower->logfile), qr/terminated by signal|server process/, 'and no process crashed');

# ---------- a row that somebody else changes while its trigger is to run ----------
$follower->safe_psql('postgres', q{SET fanout.guard = off; ALTER TABLE plain DISABLE TRIGGER USER;
	CREATE FUNCTION code.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
	CREATE TRIGGER nothing BEFORE UPDATE ON plain FOR EACH ROW EXECUTE FUNCTION code.nothing(); ALTER TABLE plain ENABLE ALWAYS TRIGGER nothing});
$leader->safe_psql('postgres', 'INSERT INTO plain (id, v) VALUES (1, 1)');
wait_for_catchup($leader, $follower);
my $other = $follower->background_psql('postgres');
$other->query_safe('SET fanout.guard = off; BEGIN; SELECT FROM plain WHERE id = 1 FOR UPDATE');
$leader->safe_psql('postgres', 'UPDATE plain SET v = 2 WHERE id = 1');
wait_until('the worker to wait for the row', sub {
		$follower->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_fanout follower' AND wait_event_type = 'Lock'}) eq '1' });
$other->query_safe('UPDATE plain SET d = 5 WHERE id = 1; COMMIT');
$other->quit;
wait_for_catchup($leader, $follower);
is($follower->safe_psql('postgres', 'SELECT id, v FROM plain'), '1|2', 'a row that was changed here at the same time');
unlike(PostgreSQL::Test::Utils::slurp_file($follower->logfile), qr/terminated by signal/, '... without a crash');

$_->stop for $leader, $follower;
done_testing();
