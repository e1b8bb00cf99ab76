# More streams than fanout.max_streams: the others go on, and the one too many waits its turn.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use Test::More;
use Time::HiRes qw(sleep);

my @names = qw(a b c);
my $leader = new_server('leader', 'fanout.max_streams = 3', 'fanout.retry_interval = 500ms');
$leader->safe_psql('postgres', "CREATE EXTENSION pg_fanout;\n"
	  . join('', map { "CREATE TABLE t_$_ (id int PRIMARY KEY); CREATE PUBLICATION p_$_ FOR TABLE t_$_;\n" } @names, 'd'));

sub value
{
	my ($node, $query) = @_;
	return $node->safe_psql('postgres', $query);
}

# The names of the streams that are streaming, or are not.
sub streams
{
	my ($node, $is_not, $view) = @_;
	return split / /, value($node, "SELECT string_agg(stream::text, ' ' ORDER BY stream) FROM fanout.$view WHERE state $is_not 'streaming'");
}
sub streaming_are { my ($node, $view, $count) = @_; wait_until("$count streams", sub { streams($node, '=', $view) == $count }); return; }

sub hints
{
	my ($node, $kind) = @_;
	my @hints = glob($node->data_dir . "/pg_fanout/*/$kind-*");
	return scalar @hints;
}

sub launcher { return value($_[0], q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_fanout launcher'}) }

# What the launcher does for ten times retry_interval: it goes on, and says it once.
sub launcher_is_calm
{
	my ($node, $what) = @_;
	my $pid = launcher($node);
	sleep 5;
	is(launcher($node), $pid || 'one', "$what: the launcher goes on");
	my @said = PostgreSQL::Test::Utils::slurp_file($node->logfile) =~ /LOG:  .*$what \d+ of database \d+ waits: there are too many/g;
	is(scalar @said, 1, "$what: and says once that there is one too many");
	return;
}

# They count when they are made, not when they are committed.
my $four = 'BEGIN; ' . join(' ', map { "SELECT fanout.create_stream('$_', '{p_$_}');" } @names, 'd') . ' COMMIT';
like(($leader->psql('postgres', $four))[2], qr/too many streams on this server/, 'too many in one transaction are refused');
is($leader->safe_psql('postgres', 'SELECT count(*) FROM fanout.streams'), '0', '... all of them');
wait_until('the records to be given back', sub { hints($leader, 'stream') == 0 });

$leader->safe_psql('postgres', 'BEGIN; ' . join(' ', map { "SELECT fanout.create_stream('$_', '{p_$_}');" } @names) . ' COMMIT');
streaming_are($leader, 'streams', 3);
$leader->append_conf('postgresql.conf', 'fanout.max_streams = 2');
$leader->restart;
streaming_are($leader, 'streams', 2);
my ($waits) = streams($leader, '<>', 'streams');
launcher_is_calm($leader, 'stream');
is(join(' ', streams($leader, '<>', 'streams')), $waits, 'the same one waits');

# The others' decoders come back.
my $old = value($leader, q{SELECT string_agg(decoder_pid::text, ',') FROM fanout.streams});
$leader->safe_psql('postgres', "SELECT pg_terminate_backend(decoder_pid) FROM fanout.streams WHERE decoder_pid IS NOT NULL");
wait_until('the decoders', sub {
		value($leader, "SELECT count(*) FROM fanout.streams WHERE state = 'streaming' AND decoder_pid NOT IN ($old)") eq '2' });
pass('the decoders of the others come back');

sub refused
{
	my ($node, $call, $error, $detail) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\n$call");
	like($err, qr/53400: $error.*DETAIL:  $detail already\.\nHINT:  Raise "fanout\.max_streams" and restart the server\./s, "refused: $error");
	return;
}
refused($leader, q{SELECT fanout.create_stream('d', '{p_d}')}, 'too many streams on this server', 'It leads 2');
is(hints($leader, 'stream'), 3, 'nothing is left of what was refused');

# Dropped while it waits; there is still no room for another, and then there is.
$leader->safe_psql('postgres', "SELECT fanout.drop_stream('$waits')");
wait_until('the hint to go', sub { hints($leader, 'stream') == 2 });
pass('the one that waits can be dropped');
my ($first) = streams($leader, '=', 'streams');
$leader->safe_psql('postgres', "SELECT fanout.drop_stream('$first')");
$leader->safe_psql('postgres', "SELECT fanout.create_stream('$first', '{p_$first}')");
streaming_are($leader, 'streams', 2);
pass('there is room as soon as one was dropped');

# What is too many after the parameter was lowered starts when there is room.
my $follower = new_follower('follower', 'fanout.max_streams = 2', 'fanout.retry_interval = 500ms');
my $conninfo = conninfo($leader) =~ s/'/''/gr;
my @followed = streams($leader, '=', 'streams');
$follower->safe_psql('postgres', "CREATE TABLE t_$_ (id int PRIMARY KEY);
	SELECT fanout.follow('$_', '$conninfo', 'follower_$_', copy_schema => false)") for @followed;
streaming_are($follower, 'staleness', 2);
refused($follower, "SELECT fanout.follow('d', '$conninfo')", 'too many followed streams on this server', 'It follows 2');

for my $server ([ $leader, 'streams', 'stream', 'drop_stream', 'stream' ],
	[ $follower, 'staleness', 'followed', 'unfollow', 'followed stream' ])
{
	my ($node, $view, $kind, $drop, $what) = @$server;
	$node->append_conf('postgresql.conf', 'fanout.max_streams = 1');
	$node->rotate_logfile;
	$node->restart;
	streaming_are($node, $view, 1) if $node == $leader;
	wait_until('the log', sub { PostgreSQL::Test::Utils::slurp_file($node->logfile) =~ /$what \d+ of database \d+ waits/ });
	launcher_is_calm($node, $what);
	next if $node == $leader;

	my $running = value($node, q{SELECT stream FROM fanout.staleness WHERE received_lsn IS NOT NULL});
	my $origins = value($node, 'SELECT count(*) FROM pg_replication_origin');
	$node->safe_psql('postgres', "SELECT fanout.unfollow(stream) FROM fanout.staleness WHERE stream <> '$running'");
	wait_until('the hint to go', sub { hints($node, 'followed') == 1 });
	is("$origins " . value($node, 'SELECT count(*) FROM pg_replication_origin'), '2 1', 'unfollow() of the one too many: its origin goes');
}

# The slot of the one that waits goes with it, or it starts.
($waits) = streams($leader, '<>', 'streams');
($first) = streams($leader, '=', 'streams');
is(value($leader, 'SELECT count(*) FROM pg_replication_slots'), '2', 'it has a slot');
$leader->safe_psql('postgres', "SELECT fanout.drop_stream('$first', true)");
wait_until('its turn', sub { join(' ', streams($leader, '=', 'streams')) eq $waits });
pass('the one that waited starts when another is dropped');
is(value($leader, 'SELECT count(*) FROM pg_replication_slots'), '1', '... whose slot is gone');

$_->stop for $leader, $follower;
done_testing();
