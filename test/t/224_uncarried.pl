# Rows that can be stored but not sent: their table is set aside and says so, the rest of the stream goes on, and
# once the row is gone the table is in line again.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Utils;
use Test::More;

my $leader = new_leader('leader', 'fanout.retry_interval = 200');
$leader->safe_psql('postgres', q{
	CREATE TABLE big (id int PRIMARY KEY, v jsonb, t text[]); INSERT INTO big VALUES (1, '{"a": 1}', '{a}');
	CREATE TABLE other (id int PRIMARY KEY, v text); INSERT INTO other VALUES (0);
	CREATE TABLE parted (id int PRIMARY KEY, v jsonb) PARTITION BY RANGE (id);
	CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (1000)});
my $follower = new_follower('follower', 'fanout.retry_interval = 200');
follow($follower, $leader);
all_equal('at first', $leader, $follower);

# 9,000 numbers of 131,072 digits, which are stored in a few bytes each.
my $too_large = q{(SELECT jsonb_agg(1e131071::numeric) FROM generate_series(1, 9000))};
my $decoder = $leader->safe_psql('postgres', 'SELECT decoder_pid FROM fanout.streams');

sub others_go_on
{
	my ($what, $id, @tables) = @_;
	$leader->safe_psql('postgres', "INSERT INTO other VALUES ($id)");
	wait_until("$what: the stream", sub { $follower->safe_psql('postgres', "SELECT count(*) FROM other WHERE id = $id") eq '1' });
	pass("$what: the stream goes on");
	is($leader->safe_psql('postgres', 'SELECT state, decoder_pid FROM fanout.streams'), "streaming|$decoder", '... with the same decoder');
	for my $table (@tables)
	{
		like($leader->safe_psql('postgres', 'SELECT last_error FROM fanout.streams'), qr/a row of table "public.\w+" can't be sent, followers copy the table again: /,
			'... which says what it left out');
		is($follower->safe_psql('postgres', "SELECT staleness IS NULL AND state <> 'streaming' FROM fanout.table_staleness WHERE relation IN ('$table'::regclass, to_regclass('${table}_1'))"), 't',
			"... the staleness of $table is unknown");
		my ($rc, $out, $err) = $follower->psql('postgres', "SET fanout.max_staleness = '1min'; SET fanout.stale_read_timeout = 0; SELECT count(*) FROM $table");
		like($err, qr/table "$table" is being copied from the leader/, '... and a read with a bound fails');
	}
	is($follower->safe_psql('postgres', "SET fanout.max_staleness = '1min'; SET fanout.stale_read_timeout = '60s'; SELECT count(*) FROM other WHERE id = $id"), '1',
		'... one of another table does not');
	like($follower->safe_psql('postgres', 'SELECT last_error FROM fanout.staleness'), qr/table "?(public.)?\w+|1 GB|memory/, '... the follower says why');
	return;
}

$leader->safe_psql('postgres', "INSERT INTO big VALUES (2, $too_large)");
others_go_on('a row', 1, 'big');
$leader->safe_psql('postgres', q{DELETE FROM big WHERE id = 2; INSERT INTO big VALUES (3, '3')});
all_equal('the row is gone', $leader, $follower);

# Amid others in a transaction, in savepoints, as the old and the new value of an UPDATE, twice.
$leader->safe_psql('postgres', qq{
	BEGIN;
	INSERT INTO other VALUES (2); INSERT INTO big VALUES (4, '4');
	SAVEPOINT a; INSERT INTO big VALUES (5, $too_large); ROLLBACK TO a;
	SAVEPOINT b; INSERT INTO big VALUES (7, $too_large); INSERT INTO big SELECT 8, v FROM big WHERE id = 7;
	INSERT INTO parted SELECT 1, v FROM big WHERE id = 7; INSERT INTO big VALUES (9, '9'); INSERT INTO other VALUES (3);
	COMMIT});
others_go_on('several', 4, 'big', 'parted');
$leader->safe_psql('postgres', q{UPDATE big SET v = '{}' WHERE id IN (7, 8); UPDATE parted SET v = '{}'});
all_equal('they are small now', $leader, $follower);

# It is no matter of the decoder that decodes: another one comes upon it, too.
$leader->safe_psql('postgres', "UPDATE big SET v = $too_large WHERE id = 1");
others_go_on('an UPDATE', 5, 'big');
$leader->stop('immediate');
$leader->start;
wait_until('the stream', sub { $leader->safe_psql('postgres', 'SELECT state FROM fanout.streams') eq 'streaming' });
$leader->safe_psql('postgres', 'DELETE FROM big WHERE id = 1; INSERT INTO other VALUES (6)');
all_equal('after a crash', $leader, $follower);

# ---------- an expression of a publication ----------

$leader->safe_psql('postgres', 'CREATE DATABASE filtered');
$follower->safe_psql('postgres', 'CREATE DATABASE filtered');
$Fanout::database = 'filtered';
$leader->safe_psql('filtered', q{CREATE EXTENSION pg_fanout;
	CREATE TABLE f (id int PRIMARY KEY, v int); CREATE TABLE other (id int PRIMARY KEY);
	CREATE PUBLICATION p FOR TABLE f WHERE (10 / v > 0), TABLE other WITH (publish = 'insert'); INSERT INTO f VALUES (1, 1), (2, 100);
	SELECT fanout.create_stream('app', '{p}')});
$follower->safe_psql('filtered', 'CREATE EXTENSION pg_fanout');
follow($follower, $leader);
wait_for_copy($follower);
$leader->safe_psql('filtered', 'INSERT INTO f VALUES (3, 3), (4, 0), (5, 5), (6, 100); INSERT INTO other VALUES (1)');
wait_until('the stream', sub { $follower->safe_psql('filtered', 'SELECT count(*) FROM other') eq '1' });
pass('a row filter that fails does not stop the stream');
like($leader->safe_psql('filtered', 'SELECT last_error FROM fanout.streams'), qr/a row of table "public.f" can't be sent.*division by zero/, '... and says so');
is($follower->safe_psql('filtered', q{SELECT staleness IS NULL FROM fanout.table_staleness WHERE relation = 'f'::regclass}), 't', '... the table is set aside');
$leader->safe_psql('filtered', 'DELETE FROM f WHERE v = 0; INSERT INTO f VALUES (7, 7)');
wait_until('the table', sub { $follower->safe_psql('filtered', q{SELECT string_agg(id::text, ' ' ORDER BY id) FROM f}) eq '1 3 5 7' });
wait_for_copy($follower);
pass('once the row is gone it is in line again');

$_->stop for $follower, $leader;
done_testing();
