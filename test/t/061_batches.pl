# Changes that a follower collects before it applies them, when it is far behind: the
# net effect must leave what the leader has, whatever came in which order.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::Bin/../lib";

use Fanout;
use PostgreSQL::Test::Utils;
use Test::More;

my $seed = $ENV{FANOUT_SEED} // int(rand(1_000_000));
srand($seed);
note("FANOUT_SEED=$seed");

my $leader = new_leader('leader');
my $follower = new_follower('follower');

$leader->safe_psql('postgres', q{
	CREATE TABLE keyed (id int PRIMARY KEY, n int, t text);
	CREATE TABLE two_keys (a int, b text, n int, PRIMARY KEY (a, b));
	CREATE TABLE swapped (id int PRIMARY KEY, u int UNIQUE, n int);
	CREATE TABLE toasted (id int PRIMARY KEY, n int, t text);
	ALTER TABLE toasted ALTER t SET STORAGE EXTERNAL;
	CREATE TABLE whole (id int, n int, t text);
	ALTER TABLE whole REPLICA IDENTITY FULL;
	CREATE TABLE whole_keyed (id int PRIMARY KEY, n int, t text);
	ALTER TABLE whole_keyed REPLICA IDENTITY FULL;
	CREATE TABLE by_index (id int NOT NULL, n int, t text);
	CREATE UNIQUE INDEX by_index_id ON by_index (id);
	ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_id;
	CREATE TABLE appended (n int, t text);
	CREATE TABLE generated (id int PRIMARY KEY, n int, d int GENERATED ALWAYS AS (n * 2) STORED);
	CREATE TABLE extra (id int PRIMARY KEY, n int);
	CREATE TABLE parent (id int PRIMARY KEY, n int);
	CREATE TABLE child (id int PRIMARY KEY, n int REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
	CREATE TABLE watched (id int PRIMARY KEY, n int);
	CREATE TABLE numbers (id numeric PRIMARY KEY, n int);
	CREATE TABLE deferred (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, n int);
	ALTER TABLE deferred REPLICA IDENTITY FULL;
	INSERT INTO keyed SELECT g, 0, 'a' FROM generate_series(1, 200) g;
	INSERT INTO two_keys SELECT g, 'k' || g, 0 FROM generate_series(1, 50) g;
	INSERT INTO swapped SELECT g, g, 0 FROM generate_series(1, 20) g;
	INSERT INTO toasted SELECT g, 0, repeat(md5(g::text), 200) FROM generate_series(1, 20) g;
	INSERT INTO parent SELECT g, 0 FROM generate_series(1, 50) g;
	INSERT INTO numbers SELECT g, 0 FROM generate_series(1, 20) g;
	INSERT INTO deferred SELECT g, 0 FROM generate_series(1, 20) g;});
follow($follower, $leader);
wait_for_copy($follower);

# What this follower has of its own.
$follower->safe_psql('postgres', q{
	SET fanout.guard = off;
	ALTER TABLE extra ADD mine int DEFAULT 7;
	CREATE TABLE seen (id int, op text);
	CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO public.seen VALUES (coalesce(new.id, old.id), tg_op);
		RETURN NULL;
	END $$;
	CREATE TRIGGER see AFTER INSERT OR UPDATE OR DELETE ON watched
		FOR EACH ROW EXECUTE FUNCTION see();
	ALTER TABLE watched ENABLE ALWAYS TRIGGER see;});

# A row of the follower that says how often it was written, if all was written.
sub same_columns
{
	my ($what) = @_;
	for my $table (qw(keyed two_keys swapped toasted whole whole_keyed by_index appended
		generated parent child watched numbers deferred))
	{
		my $sum = "SELECT count(*), sum(hashtextextended(t::text, 0)::numeric) FROM $table t";
		is($follower->safe_psql('postgres', $sum), $leader->safe_psql('postgres', $sum),
			"$what: $table");
	}
	my $extra = 'SELECT id, n FROM extra ORDER BY id';
	is($follower->safe_psql('postgres', $extra), $leader->safe_psql('postgres', $extra),
		"$what: columns of the leader");
	is($follower->safe_psql('postgres', 'SELECT count(*) FROM extra WHERE mine IS DISTINCT FROM 7'),
		0, "$what: columns of the follower");
	return;
}

# Make the follower far behind while the leader runs a script, then let it come back.
sub behind
{
	my ($what, $script) = @_;
	$follower->safe_psql('postgres', "SELECT fanout.pause('app')");
	state_is($follower, 'paused');
	my $file = "$PostgreSQL::Test::Utils::tmp_check/script.sql";
	PostgreSQL::Test::Utils::append_to_file($file, '');
	open my $out, '>', $file or die $!;
	print $out "$_;\n" for @$script;
	close $out;
	$leader->run_log([ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-d', conninfo($leader), '-f', $file ])
	  or die "$what: the script failed on the leader";
	$follower->safe_psql('postgres', "SELECT fanout.resume('app')");
	wait_for_catchup($leader, $follower);
	same_columns($what);
	return;
}

behind('hot rows', [ map { 'UPDATE keyed SET n = n + 1 WHERE id = ' . (1 + $_ % 3) } 1 .. 300 ]);

behind('delete and insert of a key', [
	'DELETE FROM keyed WHERE id = 5', "INSERT INTO keyed VALUES (5, 1, 'again')",
	'UPDATE keyed SET n = 9 WHERE id = 5',
	"INSERT INTO keyed VALUES (1001, 1, 'short')", 'DELETE FROM keyed WHERE id = 1001',
	"INSERT INTO keyed VALUES (1002, 1, 'x')", 'DELETE FROM keyed WHERE id = 1002',
	"INSERT INTO keyed VALUES (1002, 2, 'y')",
	'INSERT INTO extra VALUES (1, 1)', 'DELETE FROM extra WHERE id = 1',
	'INSERT INTO extra VALUES (1, 2)' ]);
behind('delete and insert where the row was there before', [
	'DELETE FROM extra WHERE id = 1', 'INSERT INTO extra VALUES (1, 3)' ]);

behind('keys that change in chains', [
	'UPDATE keyed SET id = 2001 WHERE id = 1', 'UPDATE keyed SET id = 1 WHERE id = 2',
	'UPDATE keyed SET id = 2 WHERE id = 2001', 'UPDATE keyed SET n = 77 WHERE id = 2',
	'UPDATE keyed SET id = id + 5000', 'UPDATE keyed SET id = id - 5000',
	"UPDATE two_keys SET b = b || 'x' WHERE a % 2 = 0", 'UPDATE two_keys SET n = 5',
	'UPDATE deferred SET id = 21 - id', 'UPDATE by_index SET id = id + 100' ]);

behind('unique values that change places', [
	'UPDATE swapped SET u = -1 WHERE id = 1', 'UPDATE swapped SET u = 1 WHERE id = 2',
	'UPDATE swapped SET u = 2 WHERE id = 1',
	'BEGIN', 'DELETE FROM swapped WHERE id = 3', 'INSERT INTO swapped VALUES (103, 3, 1)', 'COMMIT',
	'INSERT INTO swapped VALUES (104, 104, 1)', 'DELETE FROM swapped WHERE id = 104',
	'INSERT INTO swapped VALUES (105, 104, 1)' ]);

behind('values that stay in TOAST', [
	(map { 'UPDATE toasted SET n = n + 1' } 1 .. 5),
	"UPDATE toasted SET t = repeat('new', 3000) WHERE id = 1", 'UPDATE toasted SET n = 50 WHERE id = 1',
	"INSERT INTO toasted VALUES (101, 1, repeat('ins', 3000))", 'UPDATE toasted SET n = 2 WHERE id = 101' ]);

# Many rows in the order of an integer key are found by one scan.
behind('rows for runs of keys', [
	"INSERT INTO keyed SELECT g, 0, 'r' FROM generate_series(10001, 12000) g",
	"INSERT INTO keyed SELECT g, 0, 'r' FROM generate_series(-300, -1) g" ]);
behind('runs of keys with gaps', [
	'UPDATE keyed SET n = n + 1 WHERE id > 10000 AND id % 3 <> 0',
	'DELETE FROM keyed WHERE id BETWEEN 10500 AND 11500 AND id % 5 <> 0',
	'UPDATE keyed SET n = 3 WHERE id < 0', 'DELETE FROM keyed WHERE id BETWEEN -200 AND -100' ]);

$follower->safe_psql('postgres', 'SET fanout.guard = off; DELETE FROM keyed WHERE id = 11777');
$leader->safe_psql('postgres', 'UPDATE keyed SET n = n + 1 WHERE id > 10000');
ok($follower->poll_query_until('postgres',
		"SELECT last_error LIKE 'the row to update was not found in relation \"public.keyed\"%' FROM fanout.staleness"),
	'a row that is missing in a run is an error');
my $missing = $follower->safe_psql('postgres', 'SELECT last_error FROM fanout.staleness');
$follower->safe_psql('postgres', "SET fanout.guard = off; INSERT INTO keyed VALUES (11777, 0, 'r')");
wait_for_catchup($leader, $follower);
same_columns('a run that was completed');

# Somebody past the guard holds a row of the run; what he did is gone at his rollback.
my $other = $follower->background_psql('postgres');
$other->query_safe('SET fanout.guard = off; BEGIN; UPDATE keyed SET n = -1 WHERE id = 11555');
$leader->safe_psql('postgres', 'UPDATE keyed SET n = n + 1 WHERE id > 10000');
ok($follower->poll_query_until('postgres',
		"SELECT count(*) = 1 FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"),
	'the applier waits for another writer');
$other->query_safe('ROLLBACK');
$other->quit;
wait_for_catchup($leader, $follower);
same_columns('a run with another writer');

# The numbers are not the same bytes, but the same key.
behind('equal keys of unequal bytes', [
	'DELETE FROM numbers WHERE id = 1', 'INSERT INTO numbers VALUES (1.00, 5)',
	'UPDATE numbers SET n = 6 WHERE id = 1' ]);

# Triggers see each change of the leader, and what was changed before it.
behind('triggers that fire here', [
	'INSERT INTO watched VALUES (1, 1)', 'UPDATE watched SET n = 2', 'UPDATE watched SET n = 3',
	'DELETE FROM watched' ]);
is($follower->safe_psql('postgres', "SELECT string_agg(op, ' ' ORDER BY ctid) FROM seen"),
	'INSERT UPDATE UPDATE DELETE', 'a trigger fired for each change');

behind('TRUNCATE in between', [
	"INSERT INTO appended VALUES (1, 'a')", "INSERT INTO whole VALUES (1, 1, 'a')",
	'TRUNCATE appended, whole', "INSERT INTO appended VALUES (2, 'b')",
	"INSERT INTO whole VALUES (2, 1, 'a')", 'UPDATE whole SET n = 2', 'DELETE FROM whole' ]);

# ---------- at random ----------

sub random_change
{
	my $id = 1 + int rand 30;
	my $n = int rand 1000;
	my @tables = qw(keyed toasted whole whole_keyed by_index parent watched);
	my $table = $tables[ rand @tables ];
	my $set = $table =~ /parent|watched/ ? 'id, n' : 'id, n, t';
	my $values = $table =~ /parent|watched/ ? "$id, $n" : "$id, $n, repeat('v$n', " . int(rand 2) * 1500 . '+1)';
	my @kinds = (
		"INSERT INTO $table ($set) SELECT $values WHERE NOT EXISTS (SELECT FROM $table WHERE id = $id)",
		"UPDATE $table SET n = $n WHERE id = $id", "UPDATE $table SET n = n + 1 WHERE id <= $id",
		"DELETE FROM $table WHERE id = $id",
		"UPDATE $table SET id = id + 1000 * $n WHERE id = $id",
		"INSERT INTO appended VALUES ($n, 'x')",
		"INSERT INTO generated VALUES ($id, $n) ON CONFLICT (id) DO UPDATE SET n = excluded.n",
		"INSERT INTO extra VALUES ($id, $n) ON CONFLICT (id) DO UPDATE SET n = excluded.n",
		"DELETE FROM extra WHERE id = $id",
		"INSERT INTO two_keys VALUES ($id, 'r', $n) ON CONFLICT (a, b) DO UPDATE SET n = excluded.n",
		"DELETE FROM two_keys WHERE a = $id",
		"UPDATE swapped SET u = $id + 500 * ($n + 1) WHERE id = $id",
		"UPDATE deferred SET n = $n WHERE id = $id");
	my $change = $kinds[ rand @kinds ];
	# Rows that children reference stay.
	return "UPDATE parent SET n = $n WHERE id = $id" if $change =~ /^(DELETE FROM|UPDATE) parent.*/ && $change !~ /SET n/;
	return $change;
}

sub random_script
{
	my @script;
	while (@script < 600)
	{
		my @changes = map { random_change() } 1 .. 1 + int rand 5;
		@changes = ('BEGIN', @changes, rand() < 0.1 ? 'ROLLBACK' : 'COMMIT') if rand() < 0.5;
		push @script, @changes;
	}
	my $last = 100000 + int rand 1000000;
	# The reference is checked at COMMIT.
	push @script, 'BEGIN', "INSERT INTO child VALUES ($last, $last)",
	  "INSERT INTO parent VALUES ($last, 0)", 'COMMIT';
	return \@script;
}

behind("random $_, seed $seed", random_script()) for 1 .. 3;

is($follower->safe_psql('postgres', 'SELECT last_error FROM fanout.staleness'), $missing,
	'no other error on the way');

done_testing();
