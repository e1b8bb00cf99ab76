# Two-phase commit: what does more than change tables can't be prepared, the rest can.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use Test::More;

my $leader = new_server('leader', 'max_prepared_transactions = 5');
my $follower = new_server('follower', 'max_prepared_transactions = 5');
$_->safe_psql('postgres', 'CREATE EXTENSION pg_fanout; CREATE ROLE reader') for $leader, $follower;
$leader->safe_psql('postgres', q{CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION pub FOR TABLE t; SELECT fanout.create_stream('app')});
follow($follower, $leader);
wait_for_copy($follower);
my $conninfo = conninfo($leader) =~ s/'/''/gr;

sub refused
{
	my ($node, $what) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', "BEGIN;\n$what;\n\\set VERBOSITY verbose\nPREPARE TRANSACTION 'p';");
	like($err, qr/ERROR:  0A000: cannot PREPARE a transaction that makes, changes or drops a stream of pg_fanout/, $what);
	return;
}

# Committed from another session.
sub prepared
{
	my ($node, $what) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', "BEGIN; $what; PREPARE TRANSACTION 'p'");
	is($err, '', "prepared: $what");
	$node->safe_psql('postgres', q{COMMIT PREPARED 'p'});
	return;
}
refused($leader, $_) for q{SELECT fanout.drop_stream('app', true)}, q{SELECT fanout.create_stream('b')},
  q{SELECT fanout.create_stream('b', '{pub}')}, q{SAVEPOINT s; SELECT fanout.create_stream('b'); RELEASE s},
  q{SELECT fanout.create_stream('b'); SELECT fanout.drop_stream('b')},
  q{SAVEPOINT s; SELECT fanout.create_stream('b'); SAVEPOINT u; SELECT fanout.drop_stream('app', true); ROLLBACK TO u};
refused($follower, $_) for q{SELECT fanout.unfollow('app')}, q{SELECT fanout.pause('app')}, q{SELECT fanout.resume('app')},
  q{SELECT fanout.resync('app')}, q{SELECT fanout.resync('app', 't')}, qq{SELECT fanout.set_leader('app', '$conninfo')},
  q{DROP EXTENSION pg_fanout}, q{SELECT fanout.pause('app'); SAVEPOINT s; SELECT fanout.resume('app'); ROLLBACK TO s};
is($_->safe_psql('postgres', 'SELECT count(*) FROM pg_prepared_xacts'), '0', 'nothing is left prepared') for $leader, $follower;

# What was rolled back does not count, nor what a former transaction did.
prepared($leader, q{SAVEPOINT s; SELECT fanout.drop_stream('app', true); ROLLBACK TO s; SAVEPOINT s; SELECT fanout.create_stream('b'); ROLLBACK TO s; INSERT INTO t VALUES (1)});
prepared($follower, q{SAVEPOINT s; SELECT fanout.unfollow('app'); ROLLBACK TO s; CREATE VIEW mine AS SELECT 1});
$leader->safe_psql('postgres', q{SELECT fanout.create_stream('c'); SELECT fanout.drop_stream('c'); BEGIN; INSERT INTO t VALUES (2); PREPARE TRANSACTION 'q'; COMMIT PREPARED 'q'});
prepared($leader, q{CREATE TABLE u (id int PRIMARY KEY); INSERT INTO u VALUES (1); ALTER TABLE t ADD v int; INSERT INTO t VALUES (3, 3); TRUNCATE t; INSERT INTO t VALUES (4, 4)});
all_equal('rows and schema changes', $leader, $follower);
is($follower->safe_psql('postgres', 'SELECT count(*) FROM u'), '1', '... are there');

# A grant is in a table alone.
prepared($leader, q{SELECT fanout.grant_stream('app', 'reader')});
is($leader->safe_psql('postgres', q{SELECT granted <> '{}' FROM fanout.stream WHERE name = 'app'}), 't', '... and holds');
prepared($leader, q{SELECT fanout.revoke_stream('app', 'reader')});
is($leader->safe_psql('postgres', q{SELECT granted FROM fanout.stream WHERE name = 'app'}), '{}', '... until it is revoked');

# A transaction that is prepared and not committed keeps no new stream back for ever.
$leader->safe_psql('postgres', q{BEGIN; INSERT INTO t VALUES (5, 5); PREPARE TRANSACTION 'open'});
$leader->safe_psql('postgres', q{SELECT fanout.drop_stream('app', true)});
wait_until('the slot to go', sub { $leader->safe_psql('postgres', 'SELECT count(*) FROM pg_replication_slots') eq '0' });
$leader->safe_psql('postgres', q{ROLLBACK PREPARED 'open'});
is($leader->safe_psql('postgres', q{SELECT count(*) FROM fanout.streams}), '0', 'the stream is gone');

$_->stop for $follower, $leader;
done_testing();
