# DROP EXTENSION on a leader: refused by every way while followers are registered, and noticed
# when nothing else is written.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use Test::More;

my $leader = new_leader('leader');
$leader->safe_psql('postgres', q{CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 10);
	CREATE ROLE other SUPERUSER});
my $follower = new_follower('follower');
follow($follower, $leader);
wait_for_copy($follower);

sub value { return $_[0]->safe_psql('postgres', $_[1]); }

sub refused
{
	my ($command) = @_;
	my ($rc, $out, $err) = $leader->psql('postgres', $command, extra_params => [ '-v', 'VERBOSITY=verbose' ]);
	like($err, qr/55006: cannot drop extension "pg_fanout" because stream "app" has followers\s+DETAIL:  Registered followers: "follower"\./,
		"refused: $command");
	return;
}

# Even when the owner of the extension is dropped with all he has.
value($leader, q{CREATE SCHEMA IF NOT EXISTS o; UPDATE pg_extension SET extowner = 'other'::regrole WHERE extname = 'pg_fanout';
	UPDATE pg_shdepend SET refobjid = 'other'::regrole WHERE classid = 'pg_extension'::regclass;
	INSERT INTO pg_shdepend SELECT d.oid, 'pg_extension'::regclass, e.oid, 0, 'pg_authid'::regclass, 'other'::regrole, 'o'
		FROM pg_database d, pg_extension e WHERE datname = current_database() AND extname = 'pg_fanout'});
refused($_)
  for 'DROP EXTENSION pg_fanout', 'DROP EXTENSION IF EXISTS pg_fanout CASCADE', 'DROP SCHEMA fanout CASCADE', 'DROP OWNED BY other',
  'BEGIN; SAVEPOINT s; DROP EXTENSION pg_fanout',
  q{DO 'BEGIN DROP EXTENSION pg_fanout; END'};

# A follower that is away counts, too, and so after a restart.
$follower->stop;
wait_until('it to be away', sub { value($leader, 'SELECT state FROM fanout.followers') eq 'away' });
refused('DROP EXTENSION pg_fanout');
$leader->restart;
refused('DROP EXTENSION pg_fanout');
$follower->start;
value($leader, 'INSERT INTO t VALUES (11)');
wait_until('the row', sub { value($follower, 'SELECT count(*) FROM t') eq '11' });
pass('the stream goes on');

# An idle leader: nothing is written after the DROP EXTENSION but what the server itself does.
sub gone_when_idle
{
	my ($what) = @_;
	wait_until("$what to be noticed", sub { value($leader, 'SELECT count(*) FROM pg_replication_slots') eq '0' }, 30);
	pass("$what: noticed without another transaction");
	return;
}
value($follower, q{SELECT fanout.unfollow('app')});
wait_until('it to be unregistered', sub { value($leader, 'SELECT count(*) FROM fanout.followers') eq '0' });
value($leader, 'DROP EXTENSION pg_fanout');
gone_when_idle('DROP EXTENSION');

value($leader, q{CREATE EXTENSION pg_fanout; SELECT fanout.create_stream('app')});
wait_until('the stream', sub { value($leader, 'SELECT state FROM fanout.streams') eq 'streaming' });
value($leader, q{BEGIN; SAVEPOINT s; DROP EXTENSION pg_fanout; ROLLBACK TO s; INSERT INTO t VALUES (12); COMMIT});
value($leader, q{BEGIN; DROP EXTENSION pg_fanout; ROLLBACK});
is(value($leader, 'SELECT count(*) FROM pg_replication_slots'), '1', 'rolled back: the stream stays');
value($leader, q{BEGIN; SAVEPOINT s; DROP EXTENSION pg_fanout; RELEASE s; COMMIT});
gone_when_idle('DROP EXTENSION in a subtransaction');

value($leader, q{CREATE EXTENSION pg_fanout; SELECT fanout.create_stream('app')});
wait_until('the stream', sub { value($leader, 'SELECT state FROM fanout.streams') eq 'streaming' });
value($leader, 'DROP SCHEMA fanout CASCADE');
gone_when_idle('DROP SCHEMA');

$_->stop for $follower, $leader;
done_testing();
