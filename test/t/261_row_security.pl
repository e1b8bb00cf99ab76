# Row-level security on the leader, for a login that is an ordinary role there: a copy is whole or fails.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Utils;
use Test::More;

my $leader = new_leader('leader');
my $follower = new_follower('follower', 'fanout.retry_interval = 100ms');
$leader->safe_psql('postgres', q{
	CREATE ROLE reader LOGIN IN ROLE fanout_follower;
	CREATE TABLE plain (id int PRIMARY KEY); INSERT INTO plain VALUES (1);
	CREATE TABLE "Secret" (id int PRIMARY KEY, who text);
	INSERT INTO "Secret" SELECT g, CASE WHEN g % 2 = 0 THEN 'reader' ELSE 'x' END FROM generate_series(1, 100) g;
	CREATE POLICY own ON "Secret" USING (who = current_user);
	CREATE TABLE parts (id int) PARTITION BY LIST (id); CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1); INSERT INTO parts VALUES (1);
	CREATE POLICY none ON parts_1 USING (false);
	GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader;
	SELECT fanout.grant_stream('app', 'reader')});
my $conninfo = conninfo($leader) =~ s/'/''/gr . ' user=reader';

sub follow_sql { return "SELECT fanout.follow('app', '$conninfo', follower => 'follower')" }
sub value { return $follower->safe_psql('postgres', $_[0]) }
sub rows { return value('SELECT (SELECT count(*) FROM "Secret") || \' \' || (SELECT count(*) FROM parts)') }
sub rls { $leader->safe_psql('postgres', qq{ALTER TABLE "Secret" $_[0] ROW LEVEL SECURITY; ALTER TABLE parts_1 $_[0] ROW LEVEL SECURITY}); return }
my $named = qr/row-level security of the leader would hide rows.*"public\.Secret", "public\.parts_1"/s;

rls('ENABLE');
my ($rc, $out, $err) = $follower->psql('postgres', follow_sql());
like($err, $named, 'follow() names the tables');
is(value('SELECT count(*) FROM fanout.followed_stream'), '0', '... and does nothing');

# Enabled between follow() and the copy.
rls('DISABLE');
$follower->safe_psql('postgres', 'BEGIN; ' . follow_sql() . q{; SELECT fanout.pause('app'); COMMIT});
rls('ENABLE');
value(q{SELECT fanout.resume('app')});
wait_until('the error', sub { value('SELECT last_error FROM fanout.staleness') =~ $named });
pass('the copy names the tables');
is(value(q{SELECT coalesce(to_regclass('plain')::text, '')}), '', '... and made nothing');
rls('DISABLE');
wait_for_copy($follower);
is(rows(), '100 1', 'without it all rows come');

# Later: a single table, all of them, verify().
rls('ENABLE');
wait_for_catchup($leader, $follower);
value(q{SELECT fanout.resync('app', '"Secret"')});
wait_until('the error', sub { value('SELECT last_error FROM fanout.staleness') =~ /query would be affected by row-level security policy for table "Secret"/ });
is(rows(), '100 1', 'a copy of one table fails and loses no rows');
is(value(q{SELECT staleness IS NULL FROM fanout.staleness}), 't', '... and nobody takes it for fresh');
(undef, undef, $err) = $follower->psql('postgres', q{SELECT * FROM fanout.verify('app', 'parts_1')});
like($err, qr/query would be affected by row-level security policy for table "parts_1"/, 'verify() fails, too');
$leader->safe_psql('postgres', 'ALTER ROLE reader BYPASSRLS');
value(q{SELECT fanout.resync('app')});
all_equal('with BYPASSRLS', $leader, $follower);
is(rows(), '100 1', '... all rows come');

$_->stop for $leader, $follower;
done_testing();
