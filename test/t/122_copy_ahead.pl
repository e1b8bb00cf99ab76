# A table that was copied beside the stream with a snapshot of the leader that has seen more than
# the stream has brought: until the stream has passed that, nobody is told that it is in line.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Utils;
use Test::More;

my $leader = new_leader('leader');
my $follower = new_follower('follower');
$leader->safe_psql('postgres', q{
	CREATE TABLE a (id int PRIMARY KEY, n int); INSERT INTO a VALUES (1, 0);
	CREATE TABLE b (id int PRIMARY KEY, n int); INSERT INTO b VALUES (1, 0)});
follow($follower, $leader);
wait_for_copy($follower);

sub value { return $follower->safe_psql('postgres', $_[0]) }
sub write_both { return $leader->safe_psql('postgres', 'BEGIN; UPDATE a SET n = n + 1; UPDATE b SET n = n + 1; COMMIT; SELECT fanout.token()'); }
sub decoder { return $leader->safe_psql('postgres', q{SELECT decoder_pid FROM fanout.streams}); }
sub seen { return value(q{SELECT (SELECT n FROM a), (SELECT n FROM b),
	(SELECT staleness IS NULL FROM fanout.staleness),
	(SELECT string_agg(CASE WHEN staleness IS NULL THEN 'unknown' ELSE 'known' END, ' ' ORDER BY relation::text) FROM fanout.table_staleness)}); }

write_both();
wait_for_catchup($leader, $follower);
wait_until('the staleness to be known', sub { seen() eq '1|1|f|known known' });

# The decoder stands still, the copy does not.
my $decoder = decoder();
kill 'STOP', $decoder or die $!;
my $token = write_both();
value(q{SELECT fanout.resync('app', 'a')});
wait_until('the copy to be put behind the stream', sub { value(q{SELECT state FROM fanout.followed_table WHERE relid = 'a'::regclass}) !~ /[pb]/ });
is(seen(), '2|1|t|unknown known', 'one table is newer than the other: its staleness, and that of the stream, is unknown');
is(value(q{SELECT state FROM fanout.table_staleness WHERE relation = 'a'::regclass}), 'catching up', '... its state');
is(value(q{SELECT fanout.wait_for_copy('app', '200ms')}), 'f', '... wait_for_copy() waits');
my ($rc, $out, $err) = $follower->psql('postgres', q{SET fanout.max_staleness = '1h'; SELECT n FROM a});
like($err, qr/table "a" is being copied from the leader/, '... bounded reads of it fail');
is(value(q{SET fanout.max_staleness = '1h'; SELECT n FROM b}), '1', '... of the other do not');
is(value("SELECT fanout.wait_for('$token', '200ms')"), 'f', '... wait_for() waits');

# So it is after a restart, too.
$follower->restart;
is(value(q{SELECT n FROM a}), '2', 'after a restart');
is(value(q{SELECT state FROM fanout.followed_table WHERE relid = 'a'::regclass}), 'a', '... it is ahead');

# Nothing comes but the word that the stream is there.
kill 'CONT', $decoder or die $!;
is(value(q{SELECT fanout.wait_for_copy('app', '150s')}), 't', 'the stream comes after it');
wait_for_catchup($leader, $follower);
is(value('SELECT (SELECT n FROM a), (SELECT n FROM b)'), '2|2', '... and what the copy had is not applied twice');
wait_until('the staleness to be known', sub { seen() eq '2|2|f|known known' });

# Once more, without anything that is to be applied.
$decoder = decoder();
kill 'STOP', $decoder or die $!;
$leader->safe_psql('postgres', 'CREATE TEMP TABLE nothing (id int); DROP TABLE nothing');
value(q{SELECT fanout.resync('app', 'a')});
wait_until('the copy to be put behind the stream', sub { value(q{SELECT state FROM fanout.followed_table WHERE relid = 'a'::regclass}) !~ /[pb]/ });
kill 'CONT', $decoder or die $!;
wait_until('the stream to come after it', sub { seen() eq '2|2|f|known known' });
write_both();
all_equal('in the end', $leader, $follower);

# A table that is to be copied is dropped before it could be: then the others are all there are.
$decoder = decoder();
kill 'STOP', $decoder or die $!;
$token = $leader->safe_psql('postgres', 'DROP TABLE a; SELECT fanout.token()');
value(q{SELECT fanout.resync('app', 'a')});
wait_until('the copy to be wanted', sub { value('SELECT copy_lsn IS NOT NULL FROM fanout.followed_stream') eq 't' });
kill 'CONT', $decoder or die $!;
is($leader->safe_psql('postgres', "SELECT fanout.wait_for_followers(1, '$token', '150s')"), '1', 'a table is dropped while it is to be copied: the follower is counted again');
wait_until('the log not to be kept for it', sub { value('SELECT copy_lsn IS NULL FROM fanout.followed_stream') eq 't' });
is(value("SELECT fanout.wait_for('$token', '150s')"), 't', '... so it is here');
$_->stop for $leader, $follower;
done_testing();
