# A table that can't be copied keeps no other from being copied, nor the stream; it is tried again and again, says
# why it is not in line, and the leader keeps no log for it.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Utils;
use Test::More;

# What a check constraint does on a follower until it is told otherwise.  The table is the largest, and the first
# by name: it comes first wherever it is not put last.
my $leader = new_leader('leader');
$leader->safe_psql('postgres', q{
	CREATE ROLE reader LOGIN IN ROLE fanout_follower;
	CREATE FUNCTION fine(t text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
		IF current_setting('cluster_name') <> 'leader' AND t = 'a_first' THEN RAISE 'refused here'; END IF; RETURN true; END $$;
	CREATE TABLE a_first (id int PRIMARY KEY CHECK (fine('a_first')), v text); INSERT INTO a_first SELECT g, repeat('x', 500) FROM generate_series(1, 1000) g;
	CREATE TABLE a_second (id int PRIMARY KEY, v text); INSERT INTO a_second SELECT g, repeat('v', 400) FROM generate_series(1, 1000) g;
	CREATE TABLE ok_1 (id int PRIMARY KEY); INSERT INTO ok_1 SELECT generate_series(1, 10);
	CREATE TABLE z_ok (id int PRIMARY KEY, ok int REFERENCES ok_1, v text UNIQUE); INSERT INTO z_ok SELECT g, g, 'v' || g FROM generate_series(1, 10) g;
	GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader;
	SELECT fanout.grant_stream('app', 'reader')});
my $conninfo = conninfo($leader) =~ s/'/''/gr . ' user=reader';

my $follower;
sub value { return $follower->safe_psql('postgres', $_[0]) }
sub states { return value(q{SELECT string_agg(relation::text || ' ' || state || ' ' || (staleness IS NOT NULL) || ' ' || (last_error IS NOT NULL), ', ' ORDER BY relation::text) FROM fanout.table_staleness}) }
sub in_line { return map { "$_ streaming true false" } @_ }
sub refused { return map { "$_ pending false true" } @_ }
sub states_are { my @wanted = @_; wait_until("@wanted", sub { states() eq join(', ', @wanted) }); return }
sub failures { return value("SELECT failures FROM fanout.followed_table WHERE relid = '$_[0]'::regclass") }
sub resync_all { value(q{SELECT fanout.resync('app', t) FROM unnest('{a_first, a_second, ok_1, z_ok}'::regclass[]) t}); return }
my @others = qw(a_second ok_1 z_ok);

sub others_are_in_line
{
	my ($what, $rows) = @_;
	states_are(refused('a_first'), in_line(@others));
	is(value(q{SELECT staleness IS NULL FROM fanout.staleness}), 't', "$what: the stream is not taken for fresh as a whole");
	like(value(q{SELECT last_error FROM fanout.table_staleness WHERE relation = 'a_first'::regclass}), qr/refused here/, '... the row of the table says why');
	like(value(q{SELECT last_error FROM fanout.staleness}), qr/table "public.a_first" could not be copied: refused here/, '... and that of the stream names it');
	my $id = value(q{SELECT max(id) + 1 FROM ok_1});
	$leader->safe_psql('postgres', "INSERT INTO ok_1 VALUES ($id); INSERT INTO z_ok VALUES ($id, $id, 'new $id'); INSERT INTO a_first VALUES (10000 + $id, 'new')");
	wait_until('changes', sub { value("SELECT count(*) FROM z_ok WHERE v = 'new $id'") eq '1' });
	is(value('SELECT count(*) FROM a_first'), $rows, '... nothing shows of what it lacks');
	return;
}

for my $settings ('fanout.copy_workers = 1', 'fanout.copy_workers = 3', 'max_worker_processes = 3')
{
	my $alone = $settings =~ /processes/;
	$follower = new_follower('follower_' . $settings =~ s/\W+/_/gr, 'fanout.retry_interval = 100ms', $settings);
	value("CREATE ROLE reader; SELECT fanout.follow('app', '$conninfo', follower => 'f')");
	others_are_in_line($settings, 0);
	is(value(q{SELECT convalidated FROM pg_constraint WHERE contype = 'f' AND conrelid = 'z_ok'::regclass}), 'f', '... what needs all tables waits for them');

	# The leader's log is not kept for a copy that begins anew.
	my $first = value('SELECT coalesce(max(copy_lsn), max(start_lsn)) FROM fanout.followed_stream');
	$leader->safe_psql('postgres', q{UPDATE ok_1 SET id = id WHERE id = 1});
	wait_until('the copy to be tried again', sub { failures('a_first') > 2 });
	wait_until('the log to be let go', sub { value("SELECT copy_lsn > '$first' FROM fanout.followed_stream") eq 't' });
	my $later = value('SELECT copy_lsn FROM fanout.followed_stream');
	wait_until('the leader to know', sub { $leader->safe_psql('postgres', "SELECT durable_lsn >= '$later' FROM fanout.followers") eq 't' });

	# Several in one resync, of which two fail, each for a reason of its own.
	$leader->safe_psql('postgres', 'REVOKE SELECT ON a_second FROM reader');
	resync_all();
	states_are(refused('a_first', 'a_second'), in_line('ok_1', 'z_ok'));
	like(value(q{SELECT last_error FROM fanout.table_staleness WHERE relation = 'a_second'::regclass}), qr/permission denied for table a_second/, 'two fail: each has its own error');
	is(value('SELECT count(*) FROM a_second'), $alone ? '0' : '1000', '... old rows stay if they can');
	$leader->safe_psql('postgres', 'GRANT SELECT ON a_second TO reader');
	others_are_in_line('one gets in line', 0);

	value(q{CREATE OR REPLACE FUNCTION fine(t text) RETURNS bool LANGUAGE sql AS 'SELECT true'; SELECT fanout.resume('app')});
	all_equal('without what kept it', $leader, $follower);
	is(states(), join(', ', in_line('a_first', @others)), '... all are in line, without an error');
	is(value(q{SELECT fanout.wait_for_copy('app', '150s')}), 't', '... complete');
	is(value(q{SELECT convalidated FROM pg_constraint WHERE contype = 'f' AND conrelid = 'z_ok'::regclass}), 't', '... with what waited');
	value(q{SELECT fanout.unfollow('app')});
	$follower->stop;
}
$leader->stop;
done_testing();
