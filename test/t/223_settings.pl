# Settings of databases and roles, and those of the server that are for people: no process of ours
# does anything else for them, on either side.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Utils;
use Test::More;

# ---------- who connects ----------

my @files = glob("$FindBin::Bin/../../src/*.c $FindBin::Bin/../../src/*/*.c");
@files = glob("$FindBin::Bin/../src/*.c $FindBin::Bin/../src/*/*.c") if !@files;
cmp_ok(scalar @files, '>', 50, 'the sources are there');
my @others = grep { slurp_file($_) =~ /BackgroundWorkerInitializeConnection/ && !m{/session\.c$} } @files;
is("@others", '', 'every process of ours connects by session_connect()');

# ---------- settings that would break everything ----------

my @hostile = (
	q{statement_timeout = '2s'}, q{lock_timeout = '2s'}, q{idle_in_transaction_session_timeout = '2s'},
	q{idle_session_timeout = '2s'}, q{default_transaction_read_only = on},
	q{default_transaction_isolation = 'serializable'}, q{default_transaction_deferrable = on},
	q{array_nulls = off}, q{xmloption = document}, q{extra_float_digits = -15}, q{bytea_output = escape},
	q{datestyle = 'German, DMY'}, q{intervalstyle = sql_standard}, q{session_replication_role = origin},
	q{row_security = on}, q{quote_all_identifiers = on}, q{standard_conforming_strings = off},
	q{transform_null_equals = on}, q{search_path = nowhere}, q{client_encoding = 'LATIN1'},
	q{fanout.max_staleness = '1ms'}, q{fanout.read_after = 'FFFFFFFF/FFFFFFFF'}, q{role = nobody}, q{check_function_bodies = on});

my $leader = new_server('leader');
my $follower = new_server('follower', 'fanout.retry_interval = 200', 'fanout.copy_workers = 2');
my $own = $leader->safe_psql('postgres', 'SELECT current_user');
push @hostile, q{transaction_timeout = '2s'}
  if $leader->safe_psql('postgres', q{SELECT count(*) FROM pg_settings WHERE name = 'transaction_timeout'}) eq '1';

# The sessions of the test itself go without these settings.
sub sql
{
	my ($node, $sql) = @_;
	my $off = join ' ', map { /^(\S+)/; $1 =~ /^(role|fanout\.read_after)$/ ? () : "-c $1=" . ({ 'search_path' => 'public', datestyle => 'ISO', intervalstyle => 'postgres', session_replication_role => 'origin', xmloption => 'content', bytea_output => 'hex', client_encoding => 'UTF8', default_transaction_isolation => 'read\\ committed', 'fanout.max_staleness' => '-1', array_nulls => 'on', standard_conforming_strings => 'on', row_security => 'on', check_function_bodies => 'on' }->{$1} // '0') } @hostile;
	local $ENV{PGOPTIONS} = "$off -c role=none -c fanout.read_after=";
	return $node->safe_psql('postgres', $sql);
}

for my $node ($leader, $follower)
{
	$node->safe_psql('postgres', "CREATE ROLE nobody; CREATE EXTENSION pg_fanout");
}
$leader->safe_psql('postgres', q{
	CREATE TABLE p (id int PRIMARY KEY, a text[], x xml, f float8, b bytea, d timestamp, i interval);
	CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p);
	CREATE DOMAIN words AS text[]; CREATE TYPE pair AS (d timestamp, i interval, f float8, m money, t text[]);
	CREATE TABLE texts (id int PRIMARY KEY, w words, q pair);
	INSERT INTO p VALUES (1, ARRAY[NULL, 'NULL', 'null'], '<a/>', 0.1 + 0.2, '\x0001', '2020-02-01', '-1 mon 3 days');
	INSERT INTO c VALUES (1, 1);
	INSERT INTO texts VALUES (1, ARRAY[NULL, 'NULL'], ROW('2020-02-01', '-1 mon 3 days', 0.1 + 0.2, 12.34, ARRAY[NULL, 'x'])::pair)});
for my $node ($leader, $follower)
{
	# A login of the leader's may have its rights by the role that it takes on.
	my @settings = grep { $node == $follower || !/^role/ } @hostile;
	$node->safe_psql('postgres', join ';', map { ("ALTER DATABASE postgres SET $_", "ALTER ROLE $own SET $_", "ALTER ROLE $own IN DATABASE postgres SET $_") } @settings);
}
sql($leader, q{SELECT fanout.create_stream('app')});
my $conninfo = conninfo($leader) =~ s/'/''/gr;
sql($follower, "SELECT fanout.follow('app', '$conninfo', follower => 'follower')");

sub caught_up
{
	my ($what) = @_;
	my $lsn = sql($leader, 'SELECT fanout.flush_wal()');
	wait_until($what, sub { sql($follower, "SELECT state = 'streaming' AND applied_lsn >= '$lsn' FROM fanout.staleness") eq 't' });
	for my $table ('p', 'c', 'texts')
	{
		my $rows = "SELECT string_agg(t::text, ';' ORDER BY id) FROM public.$table t";
		is(sql($follower, $rows), sql($leader, $rows), "$what: $table");
	}
	is(sql($follower, q{SELECT coalesce(last_error, 'none') FROM fanout.staleness}), 'none', '... without an error');
	return;
}
my $row = q{INSERT INTO public.p SELECT n, a, x, f, b, d, i FROM public.p, generate_series(%d, %d) n WHERE id = 1;
	INSERT INTO public.texts SELECT n, w, q FROM public.texts, generate_series(%d, %d) n WHERE id = 1};
caught_up('the copy');
sql($leader, sprintf $row, 2, 3, 2, 3);
sql($leader, q{CREATE MATERIALIZED VIEW mv AS SELECT count(*) FROM p; ALTER TABLE c ADD COLUMN more text[] DEFAULT ARRAY[NULL, 'x']});
caught_up('the stream');
sql($leader, 'REFRESH MATERIALIZED VIEW mv');
sql($follower, q{SELECT fanout.resync('app', 'public.p')});
wait_until('the table', sub { sql($follower, q{SELECT count(*) FROM fanout.followed_table WHERE state <> 'c'}) eq '0' });
caught_up('a table copied beside the stream');
is(sql($follower, q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'pg_fanout%' AND usename IS DISTINCT FROM NULL AND usename = 'nobody'}), '0', 'nobody else does the work');

# After a start of both, with the directory gone: the process that looks for streams is one, too.
$leader->restart;
$follower->stop;
system_or_bail('rm', '-rf', $follower->data_dir . '/pg_fanout');
$follower->start;
sql($leader, sprintf $row, 4, 5, 4, 5);
caught_up('after a start');

# The same in the servers' configuration, as far as a server can work with it.
for my $node ($leader, $follower)
{
	sql($node, join ';', "ALTER DATABASE postgres RESET ALL; ALTER ROLE $own RESET ALL; ALTER ROLE $own IN DATABASE postgres RESET ALL");
	$node->append_conf('postgresql.conf', join '', map { "$_\n" } grep { !/^(role|session_replication_role|client_encoding|search_path)/ } @hostile);
	$node->restart;
}
sql($leader, sprintf $row, 6, 7, 6, 7);
caught_up('set for the servers');
sql($follower, q{SELECT fanout.resync('app')});
sql($leader, sprintf $row, 8, 9, 8, 9);
caught_up('a copy of everything');

$_->stop for $follower, $leader;
done_testing();
