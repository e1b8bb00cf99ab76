# One leader, one follower: the copy, each kind of change, the views.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use Test::More;

my $leader = new_leader('leader');
$leader->safe_psql('postgres', q{
	CREATE SCHEMA "Odd ""Schema""";
	CREATE TABLE users (id int PRIMARY KEY, name text NOT NULL, followers int DEFAULT 0);
	CREATE TABLE follows (who int REFERENCES users, whom int REFERENCES users, PRIMARY KEY (who, whom));
	CREATE TABLE "Odd ""Schema"""."Odd ""Table""" ("a ""b""" int PRIMARY KEY, "c'd" text);
	CREATE INDEX ON users (name);
	CREATE VIEW popular AS SELECT * FROM users WHERE followers > 1;
	CREATE MATERIALIZED VIEW names AS SELECT name FROM users;
	INSERT INTO users SELECT g, 'user ' || g FROM generate_series(1, 1000) g;
	INSERT INTO follows SELECT g, g % 10 + 1 FROM generate_series(11, 1000) g;
	INSERT INTO "Odd ""Schema"""."Odd ""Table""" VALUES (1, 'one');
	REFRESH MATERIALIZED VIEW names});

my $follower = new_follower('follower');
follow($follower, $leader);
wait_for_copy($follower);
same_data('after the copy', $leader, $follower);
is( $follower->safe_psql('postgres', q{SELECT count(*) FROM pg_constraint WHERE contype = 'f'
	AND conrelid = 'follows'::regclass}), '2', 'foreign keys are there');
is( $follower->safe_psql('postgres', q{SELECT count(*) FROM pg_indexes WHERE tablename = 'users'}),
	'2', 'indexes are there');
is($follower->safe_psql('postgres', 'SELECT count(*) FROM names'), '1000', 'a materialized view has its rows');
is($follower->safe_psql('postgres', 'SELECT count(*) FROM fanout.deferred_statement'), '0',
	'nothing is left deferred');

$leader->safe_psql('postgres', q{
	UPDATE users SET followers = followers + 1 WHERE id <= 10;
	DELETE FROM follows WHERE who > 900;
	INSERT INTO users VALUES (2000, 'new');
	UPDATE users SET id = 3000 WHERE id = 2000;
	UPDATE "Odd ""Schema"""."Odd ""Table""" SET "c'd" = 'uno'});
$leader->safe_psql('postgres', q{
	BEGIN; INSERT INTO users VALUES (5000, 'a');
	SAVEPOINT s; INSERT INTO users VALUES (5001, 'b'); ROLLBACK TO s;
	INSERT INTO users VALUES (5002, 'c'); COMMIT;
	BEGIN; INSERT INTO users VALUES (6000, 'gone'); ROLLBACK});
wait_for_catchup($leader, $follower);
same_data('after changes', $leader, $follower);

is( $leader->safe_psql('postgres', 'SELECT stream, state, followers, decoder_pid IS NOT NULL FROM fanout.streams'),
	'app|streaming|1|t', 'fanout.streams');
is( $leader->safe_psql('postgres', 'SELECT follower, state, sender_pid IS NOT NULL FROM fanout.followers'),
	'follower|streaming|t', 'fanout.followers');
is( $follower->safe_psql('postgres', q{SELECT stream, follower, state, staleness < '10s', last_error FROM fanout.staleness}),
	'app|follower|streaming|t|', 'fanout.staleness');
is( $follower->safe_psql('postgres', 'SELECT lag_bytes >= 0, lag_transactions FROM fanout.lag()'),
	't|0', 'fanout.lag()');

$leader->safe_psql('postgres', 'TRUNCATE users CASCADE');
wait_for_catchup($leader, $follower);
is($follower->safe_psql('postgres', 'SELECT (SELECT count(*) FROM users) + (SELECT count(*) FROM follows)'),
	'0', 'TRUNCATE CASCADE');

my ($rc, $out, $err) = $follower->psql('postgres', q{INSERT INTO users VALUES (1, 'x')});
isnt($rc, 0, 'the guard refuses');
like($err, qr/cannot execute INSERT on replicated table "users"/, 'with a clear message');
like($err, qr/HINT:  Write to the leader: /, 'and names the leader');

$follower->safe_psql('postgres', q{SELECT fanout.unfollow('app')});
wait_until('the origin to be dropped',
	sub { $follower->safe_psql('postgres', 'SELECT count(*) FROM pg_replication_origin') eq '0' });
$follower->safe_psql('postgres', q{INSERT INTO users VALUES (1, 'x')});
pass('after unfollow tables are writable');
wait_until('the follower to be forgotten',
	sub { $leader->safe_psql('postgres', 'SELECT count(*) FROM fanout.followers') eq '0' });
$leader->safe_psql('postgres', q{SELECT fanout.drop_stream('app')});
wait_until('the slot to be dropped',
	sub { $leader->safe_psql('postgres', 'SELECT count(*) FROM pg_replication_slots') eq '0' });
pass('drop_stream leaves no slot');

$leader->stop;
$follower->stop;
done_testing();
