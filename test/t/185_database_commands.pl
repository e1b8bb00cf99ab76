# Commands that need a database to themselves, beside each other and ended before they are
# done: its decoder stays away just as long as one of them runs.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use IPC::Run;
use Test::More;

my $leader = new_server('leader');
my @databases = qw(one two);
for my $database (@databases)
{
	$leader->safe_psql('postgres', "CREATE DATABASE $database");
	$leader->safe_psql($database, "CREATE EXTENSION pg_fanout; SELECT fanout.create_stream('app')");
}

sub count_is
{
	my ($what, $condition, $count) = @_;
	wait_until($what, sub {
			$leader->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE $condition") == $count });
	return;
}

sub decoders_are
{
	my ($what, $count) = @_;
	count_is($what, "backend_type = 'pg_fanout decoder'", $count);
	return;
}

# A session that does one thing; the harness and what it prints.
sub start_session
{
	my ($database, $sql) = @_;
	my ($out, $err) = ('', '');
	return (IPC::Run::start([ 'psql', '-X', '-d', $leader->connstr($database), '-c', $sql ],
			'<', \'', '>', \$out, '2>', \$err), \$out);
}

# Keep the database from whoever needs it alone.
sub hold
{
	my ($database) = @_;
	my ($harness) = start_session($database, 'SELECT pg_sleep(1000)');
	count_is('the holder', "datname = '$database' AND query ~ '^SELECT pg_sleep'", 1);
	return $harness;
}

sub end_sessions
{
	my ($condition, @harnesses) = @_;
	$leader->safe_psql('postgres', "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE pid <> pg_backend_pid() AND backend_type = 'client backend' AND $condition");
	$_->finish for @harnesses;
	return;
}
decoders_are('both decoders', 2);

# Ended while it waits.
for my $command ('CREATE DATABASE copy TEMPLATE one', 'DROP DATABASE one', 'ALTER DATABASE one RENAME TO three')
{
	my $holder = hold('one');
	my ($waits) = start_session('postgres', $command);
	decoders_are('the decoder to end', 1);
	end_sessions("query = '$command'", $waits);
	decoders_are('the decoder to come back', 2);
	pass("$command: its session ended, and the decoder comes back");
	end_sessions("datname = 'one'", $holder);
}

# Two at once: the end of one leaves the other alone.
my $holder = hold('one');
my ($waits, $out) = start_session('postgres', 'CREATE DATABASE copy_one TEMPLATE one');
decoders_are('the decoder to end', 1);
$leader->safe_psql('postgres', 'CREATE DATABASE copy_two TEMPLATE two');
count_is('the decoder of the other', "backend_type = 'pg_fanout decoder' AND datname = 'two'", 1);
count_is('no decoder', "backend_type = 'pg_fanout decoder' AND datname = 'one'", 0);
end_sessions("datname = 'one'", $holder);
$waits->finish;
like($$out, qr/^CREATE DATABASE$/, 'two databases at once: both are copied');
decoders_are('both decoders', 2);

# Two of the same.
$holder = hold('one');
my @both = map { [ start_session('postgres', "CREATE DATABASE again_$_ TEMPLATE one") ] } 1, 2;
count_is('both to wait', "query ~ '^CREATE DATABASE again'", 2);
decoders_are('the decoder to end', 1);
end_sessions("query ~ 'again_1'", $both[0][0]);
end_sessions("datname = 'one'", $holder);
$both[1][0]->finish;
like(${ $both[1][1] }, qr/^CREATE DATABASE$/, 'the same database twice: the end of one leaves the other alone');
decoders_are('both decoders', 2);
pass('both decoders are back');

$leader->stop;
done_testing();
