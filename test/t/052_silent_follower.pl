# A follower that no longer reads: however its sender ends, and while it goes on, it keeps
# nothing waiting that waits for every process of the server.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use IO::Socket::UNIX;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $leader = new_leader('leader');
$leader->safe_psql('postgres', 'CREATE TABLE t (id int PRIMARY KEY, pad text)');
wait_until('the stream', sub { $leader->safe_psql('postgres', 'SELECT state FROM fanout.streams') eq 'streaming' });
my $uuid = '11111111-1111-1111-1111-111111111111';

# ---------- a client that speaks the protocol byte by byte ----------

sub message
{
	my ($type, $body) = @_;
	return $type . pack('N', length($body) + 4) . $body;
}

# Read messages up to one of that type.
sub read_until
{
	my ($socket, $wanted) = @_;
	while (read($socket, my $header, 5) == 5)
	{
		my ($type, $len) = unpack('aN', $header);
		read($socket, my $body, $len - 4) if $len > 4;
		die $body if $type eq 'E';
		return if $type eq $wanted;
	}
	die "no message of type $wanted";
}

# A connection that streams from now on.
sub start_stream
{
	my ($follower) = @_;
	my $socket = IO::Socket::UNIX->new(Peer => $leader->host . '/.s.PGSQL.' . $leader->port) or die $!;
	$socket->autoflush(1);
	my $user = $leader->safe_psql('postgres', 'SELECT current_user');
	my $startup = pack('N', 196608) . "user\0$user\0database\0postgres\0\0";
	print $socket pack('N', length($startup) + 4) . $startup;
	read_until($socket, 'Z');
	my ($lsn, $era) = split /\|/, $leader->safe_psql('postgres', qq{
		SELECT fanout.register_follower('app', '$follower', '$uuid', NULL, NULL), era FROM fanout.stream_info('app', 2)});
	print $socket message('Q', "CALL fanout.send_changes('app', '$follower', '$uuid', '$lsn', '$era', '$lsn', 2)\0");
	read_until($socket, 'W');
	return $socket;
}

# One that does not read what there is to send, and more than its socket takes.
my $rows = 0;
sub start_silent
{
	my ($follower) = @_;
	my $socket = start_stream($follower);
	my $from = $rows + 1;
	$rows += 4000;
	$leader->safe_psql('postgres', "INSERT INTO t SELECT g, repeat('x', 1000) FROM generate_series($from, $rows) g");
	wait_until("$follower to be behind", sub {
			$leader->safe_psql('postgres', qq{SELECT sent_lsn < decoded_lsn
				FROM fanout.followers f JOIN fanout.streams s USING (stream) WHERE follower = '$follower'}) eq 't' });
	sleep 0.5;
	return ($socket, $leader->safe_psql('postgres', "SELECT sender_pid FROM fanout.followers WHERE follower = '$follower'"));
}

# DROP DATABASE has every process heed a barrier.
sub nothing_waits
{
	my ($what) = @_;
	my ($rc, $out, $err) = $leader->psql('postgres', 'CREATE DATABASE other; DROP DATABASE other', timeout => 30, timed_out => \my $late);
	ok(!$late && $rc == 0, "$what: another database can be dropped") or BAIL_OUT('the server hangs');
	return;
}

sub has_ended
{
	my ($pid) = @_;
	return $leader->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE pid = $pid") eq '0';
}

sub ends
{
	my ($what, $pid, $pattern, $offset) = @_;
	wait_until("$what: the sender to end", sub { has_ended($pid) }, 10);
	like(slurp_file($leader->logfile, $offset), $pattern, "$what: the log says why");
	nothing_waits($what);
	return;
}

sub log_size { return -s $leader->logfile; }

# ---------- the follower reads nothing ----------

{
	my ($socket, $pid) = start_silent('deaf');
	nothing_waits('a follower that does not read');
	my $offset = log_size();
	$leader->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
	ends('a cancelled sender', $pid, qr/FATAL:  canceling statement due to user request/, $offset);
}
{
	my ($socket, $pid) = start_silent('terminated');
	my $offset = log_size();
	$leader->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
	ends('a terminated sender', $pid, qr/FATAL:  terminating connection due to administrator command/, $offset);
}
my %end = (
	CopyFail => [ message('f', "I have had enough\0"), qr/FATAL:  follower "CopyFail" ended the stream\n.*DETAIL:  I have had enough/s ],
	unknown => [ message('d', 'x'), qr/FATAL:  unexpected message from follower "unknown"/ ],
	empty => [ message('d', ''), qr/FATAL:  no data left in message/ ],
	short => [ message('d', 'S1'), qr/FATAL:  insufficient data left in message/ ],
	long => [ pack('aN', 'd', 20000), qr/FATAL:  invalid message length 20000 from follower "long"/ ],
	type => [ message('Y', ''), qr/FATAL:  invalid message type 89 from follower "type"/ ],
);
for my $what (sort keys %end)
{
	my ($socket, $pid) = start_silent($what);
	my $offset = log_size();
	print $socket $end{$what}[0];
	ends($what, $pid, $end{$what}[1], $offset);
}

# CopyDone ends the stream once what was on its way has been read.
{
	my ($socket, $pid) = start_silent('done');
	print $socket message('c', '');
	sleep 1;
	nothing_waits('CopyDone');
	ok(!has_ended($pid), 'CopyDone: the sender waits for the follower');
	read_until($socket, 'c');
	read_until($socket, 'Z');
	print $socket message('Q', "SELECT 1\0");
	read_until($socket, 'D');
	pass('CopyDone: the connection goes on');
}

# ---------- the follower sends half a message ----------

{
	my $socket = start_stream('half');
	my $pid = $leader->safe_psql('postgres', q{SELECT sender_pid FROM fanout.followers WHERE follower = 'half'});
	my $status = message('d', pack('aQ>4', 'S', 1, 1, 0, 0));
	print $socket substr($status, 0, 1);
	sleep 1;
	nothing_waits('one byte');
	my $seen = $leader->safe_psql('postgres', q{SELECT last_seen_at FROM fanout.followers WHERE follower = 'half'});
	print $socket substr($status, 1, 20);
	sleep 0.3;
	print $socket substr($status, 21) . substr($status, 0, 7);
	wait_until('the status', sub { $leader->safe_psql('postgres',
				qq{SELECT last_seen_at > '$seen' FROM fanout.followers WHERE follower = 'half'}) eq 't' });
	pass('a status in pieces is understood');
	my $offset = log_size();
	$leader->safe_psql('postgres', q{SELECT fanout.drop_follower('app', 'half')});
	ends('half a message', $pid, qr/FATAL:  terminating connection due to administrator command/, $offset);
}

# ---------- what a follower can't have ----------

{
	my $socket = start_stream('liar');
	print $socket message('d', pack('aQ>4', 'S', ~0, ~0, ~0, ~0));
	my $row = 'SELECT %s FROM fanout.followers WHERE follower = \'liar\'';
	my $seen = $leader->safe_psql('postgres', sprintf $row, 'last_seen_at');
	print $socket message('d', pack('aQ>4', 'S', ~0, ~0, ~0, ~0));
	wait_until('the status', sub { $leader->safe_psql('postgres', sprintf $row, "last_seen_at > '$seen'") eq 't' });
	is($leader->safe_psql('postgres', sprintf $row, q{applied_lsn <= pg_current_wal_insert_lsn() AND durable_lsn <= pg_current_wal_insert_lsn()
			AND lag_transactions >= 0 AND staleness IS NULL}), 't', 'a follower has nothing that was not sent');
	close $socket;
	wait_until('it to be gone', sub { $leader->safe_psql('postgres', sprintf $row, 'sender_pid IS NULL') eq 't' });
	is($leader->safe_psql('postgres', q{CREATE TABLE later (id int PRIMARY KEY); SELECT fanout.wait_for_followers(1, fanout.token(), '0')}), '0',
		'... and does not count for what comes when it is gone');
	$leader->safe_psql('postgres', q{DROP TABLE later; SELECT fanout.drop_follower('app', 'liar')});
}

# ---------- an error that can go out does, and the connection goes on ----------

{
	my $socket = start_stream('polite');
	print $socket message('f', "no more\0");
	eval { read_until($socket, 'Z') };
	like($@, qr/SERROR.*follower "polite" ended the stream/s, 'a follower that reads is told the error');
	read_until($socket, 'Z');
	print $socket message('Q', "SELECT 1\0");
	read_until($socket, 'D');
	pass('... and its connection goes on');
}

# ---------- the server stops ----------

sub stops
{
	my ($what) = @_;
	command_ok([ 'pg_ctl', '-D', $leader->data_dir, '-m', 'fast', '-t', 30, 'stop' ], "$what: the server stops");
	$leader->_update_pid(0);
	return;
}
{
	my ($socket, $pid) = start_silent('last');
	stops('a follower that does not read');
	$leader->start;
	wait_until('the stream', sub { $leader->safe_psql('postgres', 'SELECT state FROM fanout.streams') eq 'streaming' });
	($socket, $pid) = start_silent('cancelled');
	$leader->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
	stops('a cancelled sender');
}
done_testing();
