# A stream that is being made has a record before it has a directory: nobody makes that, nor takes it for gone.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

my $server = new_leader('server');
$server->safe_psql('postgres', 'CREATE TABLE t (id int PRIMARY KEY); CREATE DATABASE other; CREATE DATABASE reader');
$server->safe_psql($_, 'CREATE EXTENSION pg_fanout') for 'other', 'reader';
my $made = 0;

# The launcher looks at everything when a stream was made, and this one is decoded then.
sub wake_launcher
{
	my $name = 'woken_' . ++$made;
	$server->safe_psql('other', "SELECT fanout.create_stream('$name')");
	wait_until("stream $name", sub { $server->safe_psql('other', "SELECT state FROM fanout.streams WHERE stream = '$name'") eq 'streaming' });
	return;
}

# The call waits for the table that its row is to go to.
sub launcher_looks_during
{
	my ($database, $table, $call, $end) = @_;
	my $log_start = -s $server->logfile;
	my ($in, $out, $err) = ("BEGIN; LOCK TABLE fanout.$table IN SHARE MODE; SELECT 'locked';\n", '', '');
	my $locker = IPC::Run::start([ 'psql', '-XAtq', '-d', $server->connstr($database) ], '<', \$in, '>', \$out, '2>&1');
	IPC::Run::pump($locker) until $out =~ /locked/;
	my ($call_out, $call_err);
	my $caller = IPC::Run::start([ 'psql', '-XAtq', '-d', $server->connstr($database), '-c', "BEGIN; SELECT fanout.$call; $end" ],
		'>', \$call_out, '2>', \$call_err);
	wait_until("$call to wait", sub { $server->safe_psql($database, q{SELECT count(*) FROM pg_locks WHERE NOT granted}) eq '1' });
	wake_launcher();
	unlike(slurp_file($server->logfile, $log_start), qr/making the directory/, "$call, $end: its directory is nobody else's");
	$in .= "COMMIT;\n";
	$locker->finish;
	$caller->finish;
	is($call_err, '', '... it goes on');
	return;
}

my $conninfo = conninfo($server) =~ s/'/''/gr;
my $follow = "follow('app', '$conninfo', follower => 'reader', copy_schema => true)";
launcher_looks_during('postgres', 'stream', q{create_stream('more')}, 'ROLLBACK');
launcher_looks_during('postgres', 'stream', q{create_stream('more')}, 'COMMIT');
wait_until('the stream', sub { $server->safe_psql('postgres', q{SELECT string_agg(state, ' ') FROM fanout.streams}) eq 'streaming streaming' });
launcher_looks_during('reader', 'followed_stream', $follow, 'ROLLBACK');
launcher_looks_during('reader', 'followed_stream', $follow, 'COMMIT');
wait_until('the copy', sub { $server->safe_psql('reader', q{SELECT state FROM fanout.staleness}) eq 'streaming' });
is($server->safe_psql('reader', q{SELECT to_regclass('t')}), 't', 'the table is there');

# What was rolled back leaves no record.
wake_launcher();
wait_until('records to be free', sub { $server->safe_psql('other', q{SELECT count(*) FROM pg_ls_dir('pg_fanout') d, pg_ls_dir('pg_fanout/' || d) s}) eq 3 + $made });

$server->stop;

# One takes the place of another that was just dropped, where there is room for one: as soon as its worker has cleaned up.
my $full = new_server('full', 'fanout.max_streams = 1');
$full->safe_psql('postgres', 'CREATE DATABASE reader');
$full->safe_psql($_, 'CREATE EXTENSION pg_fanout') for 'postgres', 'reader';
$full->safe_psql('postgres', q{SELECT fanout.create_stream('app')});
my $itself = conninfo($full) =~ s/'/''/gr;
$full->safe_psql('reader', "SELECT fanout.follow('app', '$itself', follower => 'reader')");
wait_until('the copy', sub { $full->safe_psql('reader', q{SELECT state FROM fanout.staleness}) eq 'streaming' });
for my $time (1 .. 3)
{
	my (undef, undef, $err) = $full->psql('reader', "SELECT fanout.unfollow('app');\nSELECT fanout.follow('app', '$itself', follower => 'reader')");
	is($err, '', "followed again at once, $time");
	wait_until('the copy', sub { $full->safe_psql('reader', q{SELECT state FROM fanout.staleness}) eq 'streaming' });
	(undef, undef, $err) = $full->psql('postgres', "SELECT fanout.drop_stream('app', true);\nSELECT fanout.create_stream('app')");
	is($err, '', "a stream made again at once, $time");
	wait_until('the stream', sub { $full->safe_psql('postgres', q{SELECT string_agg(state, ' ') FROM fanout.streams}) eq 'streaming' });
	wait_until('the copy', sub { $full->safe_psql('reader', q{SELECT state FROM fanout.staleness}) eq 'streaming' });
}

$full->stop;
done_testing();
