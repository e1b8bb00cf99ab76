# fanout.snapshot_position() when there is much to look at, and when it fails.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $leader = new_leader('leader', 'fsync = off', 'synchronous_commit = off');
$leader->safe_psql('postgres', 'CREATE TABLE t (id serial PRIMARY KEY, n int)');
wait_until('the stream', sub { $leader->safe_psql('postgres', 'SELECT state FROM fanout.streams') eq 'streaming' });

# Transactions that the snapshot does not show, most of them of no table: a few
# hundred thousand.
my $session = $leader->background_psql('postgres');
$session->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM t');
$leader->safe_psql('postgres', q{DO $$ BEGIN
	FOR i IN 1..300000 LOOP
		IF i % 1000 = 0 THEN
			INSERT INTO t (n) VALUES (i);
		ELSE
			PERFORM pg_current_xact_id();
		END IF;
		COMMIT;
	END LOOP; END $$});
wait_until('the decoder', sub {
		my $lsn = $leader->safe_psql('postgres', 'SELECT fanout.flush_wal()');
		$leader->safe_psql('postgres', "SELECT decoded_lsn >= '$lsn' FROM fanout.streams") eq 't' });
is($session->query_safe('SELECT count(*) FROM t'), '0', 'a snapshot from before');
my $start = time();
$session->query_safe(q{SELECT fanout.snapshot_position('app')});
cmp_ok(time() - $start, '<', 15, '... is brought to the position quickly');
is($session->query_safe('SELECT count(*) FROM t'), '300', '... and shows what committed meanwhile');
$session->query_safe('COMMIT');

# Each call that fails on a damaged log gives back its file.  It only reads the log when
# something has committed behind the position meanwhile, so not all of them do.
my ($segment) = sort glob($leader->data_dir . '/pg_fanout/*/stream-*/*.seg');
open(my $file, '+<:raw', $segment) or die $!;
seek($file, 200, 0);
print $file 'damaged!';
close $file;
my $script = PostgreSQL::Test::Utils::tempdir . '/insert.sql';
append_to_file($script, 'INSERT INTO t (n) VALUES (1);');
my $writer = IPC::Run::start([ 'pgbench', '-n', '-c', 4, '-T', 3600, '-f', $script, $leader->connstr('postgres') ],
	'>', \my $out, '2>', \my $err);
my $call = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT fanout.snapshot_position('app'); ROLLBACK;\n";
my $files = "SELECT 'files ' || count(*) FROM pg_ls_dir(format('/proc/%s/fd', pg_backend_pid()));\n";
my (undef, $counts, $errors) = $leader->psql('postgres', $call . $files . $call x 1000 . $files, on_error_stop => 0);
$writer->signal('TERM');
$writer->finish;
my $failed = () = $errors =~ /ERROR:  change log segment .* is damaged/g;
cmp_ok($failed, '>', 5, "$failed calls fail on a damaged segment");
my ($before, $after) = $counts =~ /^files (\d+)$/mg;
cmp_ok($after - $before, '<', 4, '... and leave no file open');

$leader->stop;
done_testing();
