# Permanent objects that use temporary ones: followers go on without what they can't have, and nothing else.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Utils;
use Test::More;

my $leader = new_leader('leader');
my $follower = new_follower('follower', 'fanout.retry_interval = 100');
$leader->safe_psql('postgres', q{
	CREATE TABLE base (id int PRIMARY KEY); CREATE TABLE other (id int PRIMARY KEY); CREATE TABLE d (id int PRIMARY KEY);
	INSERT INTO base VALUES (1); CREATE SCHEMA m});
follow($follower, $leader);
wait_for_copy($follower);

my $marker = 0;

sub goes_on
{
	my ($what) = @_;
	$marker++;
	$leader->safe_psql('postgres', "INSERT INTO other VALUES ($marker)");
	ok($follower->poll_query_until('postgres', "SELECT EXISTS (SELECT FROM other WHERE id = $marker)"), "$what: the stream goes on")
	  or diag($follower->safe_psql('postgres', 'SELECT state, last_error FROM fanout.staleness'));
	return;
}

my $functions = q{CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
	CREATE FUNCTION pg_temp.fb(int) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT true';
	CREATE FUNCTION pg_temp.tf() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';};

# Each in a session of its own, at whose end what is temporary goes.
my @statements = (
	['a default', 'CREATE TABLE m.def (id int PRIMARY KEY, a int DEFAULT pg_temp.f(), b int DEFAULT 5); INSERT INTO m.def VALUES (1), (2)'],
	['a default that is set', 'ALTER TABLE base ALTER COLUMN id SET DEFAULT pg_temp.f()'],
	['a column with a default', 'ALTER TABLE d ADD COLUMN a int DEFAULT pg_temp.f(), ADD COLUMN b text; INSERT INTO d VALUES (1, 2, 3)'],
	['a check', 'ALTER TABLE d ADD CONSTRAINT c CHECK (pg_temp.fb(id))'],
	['an index', 'CREATE INDEX ON base ((pg_temp.fb(id)))'],
	['an index, concurrently', 'CREATE INDEX CONCURRENTLY ON base ((pg_temp.fb(id)))'],
	['a trigger', 'CREATE TRIGGER trg BEFORE INSERT ON base FOR EACH ROW EXECUTE FUNCTION pg_temp.tf(); COMMENT ON TRIGGER trg ON base IS $$it$$'],
	['a policy', 'CREATE POLICY pol ON base USING (pg_temp.fb(id)); COMMENT ON POLICY pol ON base IS $$it$$'],
	['a view', 'CREATE VIEW m.v AS SELECT pg_temp.f() AS x; COMMENT ON VIEW m.v IS $$it$$; GRANT SELECT ON m.v TO PUBLIC'],
	['a materialized view', 'CREATE MATERIALIZED VIEW m.mv AS SELECT pg_temp.f() AS x; REFRESH MATERIALIZED VIEW m.mv'],
	['a sequence', q{CREATE TEMP SEQUENCE ts1; CREATE TABLE m.seq (id int PRIMARY KEY, a int DEFAULT nextval('ts1')); INSERT INTO m.seq VALUES (1)}],
	['a rule', 'CREATE TEMP TABLE tr (id int); CREATE RULE r1 AS ON INSERT TO base DO ALSO INSERT INTO tr VALUES (new.id)'],
	['a quoted name', 'CREATE TEMP TABLE "T ""x" (id int); CREATE RULE r2 AS ON INSERT TO base DO ALSO INSERT INTO "T ""x" VALUES (new.id)'],
	['a domain of a function', 'CREATE DOMAIN m.dom AS int CHECK (pg_temp.fb(VALUE)); CREATE DOMAIN m.dom2 AS int DEFAULT pg_temp.f()'],
	['a privilege', 'CREATE TEMP TABLE ga (a int); GRANT SELECT ON ALL TABLES IN SCHEMA pg_temp TO PUBLIC'],
	
	['what is dropped again', 'CREATE TABLE m.gone (a int DEFAULT pg_temp.f()); DROP TABLE m.gone'],
	['in a transaction', 'BEGIN; SAVEPOINT s; CREATE TABLE m.no (a int DEFAULT pg_temp.f()); ROLLBACK TO s; CREATE TABLE m.yes (id int PRIMARY KEY, a int DEFAULT pg_temp.f()); INSERT INTO m.yes VALUES (7); COMMIT'],
	['a name alone', 'CREATE TEMP TABLE id (id int); CREATE TABLE m.names (id int PRIMARY KEY, t text DEFAULT $$id$$); CREATE INDEX names_i ON m.names (t); INSERT INTO m.names VALUES (1)'],
	['rows of a query', 'CREATE DOMAIN pg_temp.dd AS int; CREATE TABLE m.rows AS SELECT 1 AS id, 2 AS b']);

for my $statement (@statements)
{
	my ($what, $sql, $fails) = @$statement;
	my @parts = $what =~ /concurrently/ ? map { ('-c', $_) } ($functions, $sql) : ('-c', "$functions $sql");
	my ($out, $err) = run_command(['psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $leader->connstr('postgres'), @parts]);
	is($err, '', "$what: the statement works") unless $fails;
	goes_on($what);
}
wait_for_copy($follower);

my %rows = ('m.def' => 'id, a, b', 'd' => 'id, a, b', 'm.seq' => 'id, a', 'm.yes' => 'id, a', 'm.names' => 'id, t', 'm.rows' => 'id, b');
for my $table (sort keys %rows)
{
	my $query = "SELECT $rows{$table} FROM $table ORDER BY id";
	is($follower->safe_psql('postgres', $query), $leader->safe_psql('postgres', $query), "$table has the leader's rows");
}
is($follower->safe_psql('postgres', q{SELECT count(*) FROM pg_indexes WHERE indexname = 'names_i'}), '1', 'what only has such a name replicates whole');
is($follower->safe_psql('postgres', q{SELECT to_regclass('m.no') IS NULL AND to_regclass('m.gone') IS NULL}), 't', 'what was rolled back or dropped is not there');
$leader->safe_psql('postgres', 'UPDATE m.def SET b = 6 WHERE id = 1; DELETE FROM m.def WHERE id = 2; INSERT INTO base VALUES (3)');
goes_on('afterwards');
is($follower->safe_psql('postgres', 'SELECT id, b FROM m.def'), '1|6', 'its rows are found by their key');

# ---------- a column of a temporary type ----------

my $session = $leader->background_psql('postgres');
$session->query_safe('CREATE DOMAIN pg_temp.dom AS int; ALTER TABLE base ADD COLUMN dd pg_temp.dom');
$session->query_safe('CREATE TABLE m.typed (id int PRIMARY KEY, x pg_temp.dom); INSERT INTO m.typed VALUES (1, 1); INSERT INTO base VALUES (10, 10)');
goes_on('a column');
$leader->safe_psql('postgres', 'ALTER TABLE base ADD COLUMN plain int; INSERT INTO base VALUES (11, 11, 11)');
goes_on('another column besides');
ok($follower->poll_query_until('postgres', q{SELECT staleness IS NULL FROM fanout.table_staleness WHERE relation = 'base'::regclass}),
	'the table with such a column is set aside');
$session->quit;
wait_for_copy($follower);
is($follower->safe_psql('postgres', 'SELECT id, plain FROM base ORDER BY id'), "1|\n3|\n10|\n11|11", 'once the column is gone the table is in line');

$_->stop for $follower, $leader;
done_testing();
