# What is wrong is said at the call and leaves nothing behind; what goes wrong later is in
# the view, stops one follower only, and heals when its cause is gone.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use Test::More;

my $plain = PostgreSQL::Test::Cluster->new('plain');
$plain->init;
$plain->start;
my ($rc, $out, $err) = $plain->psql('postgres', q{CREATE EXTENSION pg_fanout; SELECT fanout.create_stream('app')});
like($err, qr/pg_fanout must be loaded via "shared_preload_libraries"/, 'no preload');

my $replica_level = new_server('replica_level', 'wal_level = replica');
($rc, $out, $err) = $replica_level->psql('postgres', q{CREATE EXTENSION pg_fanout; SELECT fanout.create_stream('app')});
like($err, qr/wal_level/, 'wrong wal_level');

my $leader = new_leader('leader');
$leader->safe_psql('postgres', q{CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'one');
	CREATE ROLE stranger LOGIN; CREATE DATABASE empty;
	CREATE ROLE friend LOGIN PASSWORD 'secret' IN ROLE fanout_follower; GRANT SELECT ON t TO friend;
	SELECT fanout.grant_stream('app', 'friend')});
my $follower = new_follower('follower');
my $second = new_follower('second');

sub refused
{
	my ($node, $call, $pattern, $what) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', "SELECT $call");
	isnt($rc, 0, "$what is refused");
	like($err, $pattern, '... with a clear error');
	return;
}
my $good = conninfo($leader) =~ s/'/''/gr;
my $empty = $leader->connstr('empty') =~ s/'/''/gr;
my $no_preload = conninfo($plain) =~ s/'/''/gr;
refused($leader, q{fanout.create_stream('app')}, qr/stream "app" already exists/, 'a second stream of that name');
refused($leader, q{fanout.create_stream('x', '{nope}')}, qr/publication "nope" does not exist/, 'a missing publication');
refused($leader, q{fanout.create_stream(NULL)}, qr/null/, 'a NULL name');
refused($leader, q{fanout.drop_stream('nope')}, qr/stream "nope" does not exist/, 'a missing stream');
refused($leader, q{fanout.drop_follower('app', 'nope')}, qr/nope/, 'a missing follower');
refused($follower, q{fanout.follow('app', 'bad')}, qr/invalid connection string/, 'a bad connection string');
refused($follower, q{fanout.follow('app', 'host=/nowhere dbname=x')}, qr/could not connect to the leader/, 'a leader that is not there');
refused($follower, "fanout.follow('nope', '$good')", qr/stream "nope" does not exist/, 'a missing stream');
refused($follower, "fanout.follow('app', '$empty')", qr/extension "pg_fanout" is not installed/, 'a leader without the extension');
refused($follower, "fanout.follow('app', '$no_preload')", qr/shared_preload_libraries|wal_level/, 'a leader without the preload');
refused($leader, "fanout.follow('app', '$good')", qr/cannot follow itself/, 'following oneself');
refused($follower, "fanout.follow('app', '$good user=stranger')", qr/permission denied/, 'a role without rights');
refused($follower, "fanout.follow(NULL, '$good')", qr/null/, 'a NULL stream');
refused($follower, q{fanout.pause('app')}, qr/does not follow stream "app"/, 'pausing what is not followed');
is($follower->safe_psql('postgres', q{SELECT (SELECT count(*) FROM fanout.staleness) + (SELECT count(*) FROM pg_replication_origin)}),
	'0', 'nothing is left behind');

# Password: the file pg_hba.conf asks one of that role.
my $hba = $leader->data_dir . '/pg_hba.conf';
my $old = PostgreSQL::Test::Utils::slurp_file($hba);
unlink $hba;
PostgreSQL::Test::Utils::append_to_file($hba, "local all friend scram-sha-256\n$old");
$leader->reload;
refused($follower, "fanout.follow('app', '$good user=friend password=wrong')", qr/password authentication failed/, 'a wrong password');

# Rollbacks.
$follower->safe_psql('postgres', "BEGIN; SELECT fanout.follow('app', '$good'); ROLLBACK");
$leader->safe_psql('postgres', q{BEGIN; SELECT fanout.create_stream('other'); ROLLBACK; BEGIN; SELECT fanout.drop_stream('app'); ROLLBACK});
is($follower->safe_psql('postgres', 'SELECT count(*) FROM fanout.staleness'), '0', 'follow rolls back');
is($leader->safe_psql('postgres', 'SELECT stream FROM fanout.streams'), 'app', 'create_stream and drop_stream roll back');

$follower->safe_psql('postgres', "SELECT fanout.follow('app', '$good user=friend password=secret', follower => 'one')");
wait_for_copy($follower);
unlike($follower->safe_psql('postgres', 'SELECT leader FROM fanout.staleness'), qr/secret/, 'no view shows the password');
refused($second, "fanout.follow('app', '$good', follower => 'one')", qr/has a follower named "one" already/, 'a second follower of the same name');
refused($second, "fanout.follow('app', '$good', copy_schema => false)", qr/relation "public.t" does not exist/, 'a missing table');
$second->safe_psql('postgres', 'CREATE TABLE t (id int)');
refused($second, "fanout.follow('app', '$good')", qr/relation "public.t" already exists/, 'a table that exists');
$second->safe_psql('postgres', 'DROP TABLE t');
follow($second, $leader);
wait_for_copy($second);
refused($follower, "fanout.follow('app', '$good')", qr/follows stream "app" already/, 'following twice');
refused($leader, q{fanout.drop_stream('app')}, qr/follower/, 'dropping a stream with followers');
$follower->safe_psql('postgres', q{BEGIN; SELECT fanout.unfollow('app'); ROLLBACK; BEGIN; SELECT fanout.pause('app'); ROLLBACK});

# Apply errors: break the follower, write on the leader, look, mend.
sub heals
{
	my ($what, $break, $write, $pattern, $mend) = @_;
	$follower->safe_psql('postgres', "SET fanout.guard = off; SET session_replication_role = replica; $break");
	$leader->safe_psql('postgres', $write);
	# A table that is not there does not stop the others.
	my $state = $what eq 'missing table' ? 'staleness IS NULL' : q{state = 'failed'};
	my $error = wait_until("the error of $what", sub {
			my $e = $follower->safe_psql('postgres', "SELECT last_error FROM fanout.staleness WHERE $state");
			return $e =~ $pattern ? $e : undef; });
	like($error, qr/applying .*"public\.\w+", key \(id\)=\(\d+\), .* [0-9A-F]+\/[0-9A-F]+/, "$what: shown with relation, key and LSN")
	  unless $what eq 'missing table' || $what eq 'missing column';
	like($error, $pattern, "$what: the error says it");
	wait_for_catchup($leader, $second);
	pass("$what: the other follower goes on");
	$follower->safe_psql('postgres', "SET fanout.guard = off; $mend");
	wait_for_copy($follower);
	wait_for_catchup($leader, $follower);
	same_data("$what: healed", $leader, $follower, $second);
	return;
}
heals('missing row', 'DELETE FROM t WHERE id = 1', q{UPDATE t SET v = 'uno' WHERE id = 1; INSERT INTO t VALUES (2, 'x')},
	qr/the row to update was not found/, q{INSERT INTO t VALUES (1, 'one')});
heals('duplicate key', q{INSERT INTO t VALUES (50, 'mine')}, q{INSERT INTO t VALUES (50, 'theirs')},
	qr/duplicate key value violates unique constraint/, 'DELETE FROM t WHERE id = 50');
$leader->safe_psql('postgres', 'ALTER TABLE t ADD extra int; CREATE TABLE late (id int PRIMARY KEY)');
wait_for_catchup($leader, $follower, $second);
heals('missing column', 'ALTER TABLE t DROP extra', q{INSERT INTO t VALUES (60, 'x', 1)},
	qr/column "extra" of relation "public.t" does not exist/, 'ALTER TABLE t ADD extra int');
$_->safe_psql('postgres', 'CREATE ROLE friend') for $follower, $second;
$leader->safe_psql('postgres', 'GRANT SELECT ON late TO friend');
heals('missing table', 'DROP TABLE late', 'INSERT INTO late VALUES (1)',
	qr/table "public\.late"/, q{SELECT fanout.resync('app')});

$_->stop for $plain, $replica_level, $leader, $follower, $second;
done_testing();
