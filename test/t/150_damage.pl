# Segment files that are torn, cut, changed, missing or foreign: found at once, never
# applied; what WAL still has is decoded again, otherwise followers copy again by themselves.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Utils;
use Test::More;

my $leader = new_leader('leader', 'fanout.segment_size = 1MB', 'fanout.retry_interval = 200');
$leader->safe_psql('postgres', q{CREATE TABLE t (id int PRIMARY KEY, v text)});
my $near = new_follower('near', 'fanout.retry_interval = 200');
my $far = new_follower('far', 'fanout.retry_interval = 200');
follow($_, $leader) for $near, $far;
wait_for_copy($_) for $near, $far;

my $next = 1;
sub write_rows
{
	my ($n) = @_;
	for (1 .. $n)
	{
		my $to = $next + 999;
		$leader->safe_psql('postgres',
			"INSERT INTO t SELECT g, repeat(md5(g::text), 12) FROM generate_series($next, $to) g");
		$next = $to + 1;
	}
	return;
}

sub segments { return sort glob($leader->data_dir . '/pg_fanout/*/stream-*/*.seg'); }

sub change_bytes
{
	my ($file, $at) = @_;
	my $bytes = slurp_file($file);
	$at += length($bytes) if $at < 0;
	substr($bytes, $at, 1) ^= "\x10";
	open(my $out, '>', $file) or die $!;
	binmode $out;
	print $out $bytes;
	close $out;
	return;
}

sub copied_at { return $_[0]->safe_psql('postgres', q{SELECT copied_at FROM fanout.followed_table}); }

# What near has applied it does not lose any more, and the leader knows.
sub wait_for_durable
{
	my $lsn = $leader->safe_psql('postgres', 'SELECT fanout.flush_wal()');
	wait_until('near to have all', sub { $leader->safe_psql('postgres',
				qq{SELECT durable_lsn >= '$lsn' FROM fanout.followers WHERE follower = 'near'}) eq 't' });
	return;
}

# While far is away, something happens to a segment that it needs, and that near has read.
sub damage
{
	my ($what, $hurt, $pattern) = @_;
	$far->safe_psql('postgres', q{SELECT fanout.pause('app')});
	wait_until('far to leave', sub { $leader->safe_psql('postgres',
				q{SELECT state FROM fanout.followers WHERE follower = 'far'}) eq 'away' });
	write_rows(14);
	wait_for_durable();
	my ($near_at, $far_at) = (copied_at($near), copied_at($far));
	my @segments = segments();
	cmp_ok(scalar @segments, '>', 3, "$what: there are several segments");
	my $offset = -s $leader->logfile;
	$hurt->(@segments);
	write_rows(1);
	$far->safe_psql('postgres', q{SELECT fanout.resume('app')});
	wait_until("far to copy again after $what", sub { copied_at($far) gt $far_at });
	all_equal($what, $leader, $near, $far);
	is(copied_at($near), $near_at, "$what: who does not need it goes on");
	like(slurp_file($leader->logfile, $offset), $pattern, "$what: it is in the log");
	return;
}

damage('a changed byte', sub { change_bytes($_[2], 5000) }, qr/The checksum is wrong/);
damage('a changed length', sub { change_bytes($_[2], 60 + 5) }, qr/The checksum is wrong|cannot be used/);
damage('a changed last byte', sub { change_bytes($_[2], -1) }, qr/The checksum is wrong/);
damage('a changed header', sub { change_bytes($_[2], 30) }, qr/The checksum of its header is wrong|is lost/);
damage('another magic number', sub { change_bytes($_[2], 0) }, qr/It is not a change log segment|is lost/);
damage('a segment cut short', sub { truncate($_[2], 10000) or die $! }, qr/It ends inside a frame/);
damage('a segment cut to its header', sub { truncate($_[2], 60) or die $! }, qr/Its end is missing|does not continue/);
damage('an empty segment', sub { truncate($_[2], 0) or die $! }, qr/Its header is not complete|is lost/);
damage('a missing segment', sub { unlink($_[2]) or die $! }, qr/is lost|has lost its position/);
damage('a segment of another place', sub { system('cp', $_[1], $_[2]) and die }, qr/Its number is not that of its name|is lost/);
damage('bytes behind a segment', sub { append_to_file($_[2], 'x' x 100) }, qr/cannot be used/);

# A segment of another stream, with a right checksum and the right number.
my ($own_directory) = (segments())[0] =~ /(stream-\d+\/)/;
$leader->safe_psql('postgres', q{CREATE PUBLICATION p FOR TABLE t; SELECT fanout.create_stream('other', '{p}')});
damage('a segment of another stream', sub {
		my @own = grep { /$own_directory/ } segments();
		# Nobody follows it, so its segments go as soon as they are full.
		wait_until('a segment to copy', sub { system('cp', (grep { !/$own_directory/ } segments())[-1], $own[2]) == 0 });
	}, qr/It belongs to another server|Its number|is lost/);
$leader->safe_psql('postgres', q{SELECT fanout.drop_stream('other')});
wait_until('the other stream to go', sub { !grep { !/$own_directory/ } segments() });

# WAL has the end of the log as long as the slot's confirmed position has not been saved, and that
# is when the slot advances: not while a transaction is open that it has seen.
sub open_transaction
{
	my $session = $leader->background_psql('postgres');
	$session->query_safe(q{BEGIN; SELECT pg_logical_emit_message(true, 'open', '')});
	$leader->safe_psql('postgres', 'CHECKPOINT');
	my $lsn = $leader->safe_psql('postgres', 'SELECT fanout.flush_wal()');
	wait_until('the slot to come as far', sub { $leader->safe_psql('postgres',
				qq{SELECT confirmed_flush_lsn >= '$lsn' FROM pg_replication_slots}) eq 't' });
	return $session;
}

# The end of the log, when the leader was not shut down.
sub torn
{
	my ($what, $hurt, $pattern) = @_;
	$far->safe_psql('postgres', q{SELECT fanout.pause('app')});
	my $session = open_transaction();
	write_rows(2);
	wait_for_durable();
	my ($near_at, $far_at) = (copied_at($near), copied_at($far));
	my $offset = -s $leader->logfile;
	$leader->stop('immediate');
	$session->quit;
	$hurt->((segments())[-1]);
	$leader->start;
	write_rows(1);
	$far->safe_psql('postgres', q{SELECT fanout.resume('app')});
	all_equal($what, $leader, $near, $far);
	is(copied_at($near), $near_at, "$what: what is decoded again continues it");
	is(copied_at($far), $far_at, "$what: ... for everybody");
	like(slurp_file($leader->logfile, $offset), $pattern, "$what: it is in the log");
	return;
}
torn('a torn end', sub { truncate($_[0], (-s $_[0]) - 77) or die $! }, qr/It ends inside a frame\. The log ends at/);
torn('half a frame at the end', sub { append_to_file($_[0], slurp_file($_[0]) =~ s/^.{60}(.{300}).*$/$1/sr) },
	qr/cutting 300 bytes off/);
torn('zeroes at the end', sub { append_to_file($_[0], "\0" x 8192) }, qr/cutting 8192 bytes off/);
torn('a changed byte near the end', sub { change_bytes($_[0], -100) }, qr/The checksum is wrong\. The log ends at/);

# After a checkpoint the slot has no more to give: followers copy again, by themselves.
$leader->safe_psql('postgres', 'CHECKPOINT');
$leader->stop;
unlink(segments()) or die $!;
$leader->start;
write_rows(1);
all_equal('no log at all', $leader, $near, $far);

# The file of followers.
$leader->stop;
my %copied_at = map { $_->name => copied_at($_) } $near, $far;
my ($registry) = glob($leader->data_dir . '/pg_fanout/*/stream-*/registry');
change_bytes($registry, 60);
$leader->start;
wait_until('the damage to be said', sub { slurp_file($leader->logfile) =~ /the followers of stream "app" are forgotten/ });
for my $follower ($near, $far)
{
	wait_until($follower->name . ' to copy again', sub { copied_at($follower) gt $copied_at{ $follower->name } });
}
all_equal('a damaged registry', $leader, $near, $far);

unlike(slurp_file($_->logfile), qr/PANIC|terminated by signal/, $_->name . ' did not crash') for $leader, $near, $far;
$_->stop for $near, $far, $leader;
done_testing();
