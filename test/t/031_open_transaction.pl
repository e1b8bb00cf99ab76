# A write transaction that is open for the whole initial copy: the copy does not
# wait for it, and its rows arrive when it commits.  A second one commits
# while the copy is under way, a third rolls back.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Cluster;
use Test::More;

my $leader = new_leader('leader', 'max_prepared_transactions = 5');
$leader->safe_psql('postgres', q{
	CREATE TABLE items (id int PRIMARY KEY, note text);
	INSERT INTO items SELECT g, 'before' FROM generate_series(1, 20000) g;
	CREATE TABLE other (id int PRIMARY KEY)});

my $writer = $leader->background_psql('postgres');
$writer->query_safe(q{BEGIN; INSERT INTO items VALUES (100001, 'open'); UPDATE items SET note = 'open' WHERE id = 1});
my $aborter = $leader->background_psql('postgres');
$aborter->query_safe(q{BEGIN; INSERT INTO items VALUES (100002, 'aborted')});
$leader->safe_psql('postgres', q{BEGIN; INSERT INTO items VALUES (100003, 'prepared');
	SAVEPOINT s; INSERT INTO other VALUES (1); PREPARE TRANSACTION 'p'});

my $follower = new_follower('follower', 'max_prepared_transactions = 5');
follow($follower, $leader);
wait_for_copy($follower);
pass('the copy does not wait for open transactions');
is($follower->safe_psql('postgres', q{SELECT count(*) FROM items WHERE id > 100000}), '0',
	'nothing of them is visible');

$leader->safe_psql('postgres', q{INSERT INTO items VALUES (100004, 'after')});
wait_for_catchup($leader, $follower);
is($follower->safe_psql('postgres', q{SELECT note FROM items WHERE id = 100004}), 'after',
	'the stream goes on');

$writer->query_safe(q{INSERT INTO items VALUES (100005, 'open'); COMMIT});
$aborter->query_safe(q{ROLLBACK});
wait_for_catchup($leader, $follower);
is( $follower->safe_psql('postgres', q{SELECT count(*) FROM items WHERE note = 'open'}), '3',
	'its rows arrive with its commit');
is($follower->safe_psql('postgres', q{SELECT count(*) FROM items WHERE note = 'prepared'}), '0',
	'a prepared transaction is not applied yet');
$leader->safe_psql('postgres', q{COMMIT PREPARED 'p'});
wait_for_catchup($leader, $follower);
is( $follower->safe_psql('postgres', q{SELECT count(*) FROM items JOIN other ON true WHERE note = 'prepared'}),
	'1', 'it is applied at COMMIT PREPARED');
same_data('at the end', $leader, $follower);

$writer->quit;
$aborter->quit;
$_->stop for $leader, $follower;
done_testing();
