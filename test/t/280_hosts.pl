# Connection strings that name several servers, of which some answer nothing: every connection to
# a leader goes on to the next one.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use IO::Socket::INET;
use IO::Socket::UNIX;
use PostgreSQL::Test::Utils;
use Test::More;

# It takes connections, and that is all.
sub frozen_socket
{
	my ($dir, $port) = @_;
	return IO::Socket::UNIX->new(Local => "$dir/.s.PGSQL.$port", Listen => 500) // die "$dir: $!";
}

my $leader = new_server('leader', q{listen_addresses = '127.0.0.1'});
$leader->safe_psql('postgres', q{CREATE EXTENSION pg_fanout; SELECT fanout.create_stream('app');
	CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, 'v' FROM generate_series(1, 1000) i;
	CREATE TABLE u (id int PRIMARY KEY); CREATE TABLE w (id int PRIMARY KEY)});
my $frozen_port = PostgreSQL::Test::Cluster::get_free_port();
my $frozen_dir = PostgreSQL::Test::Utils::tempdir_short();
my $frozen = frozen_socket($frozen_dir, $frozen_port);
my $frozen_tcp = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 500) // die $!;

# Services are looked up in the server's environment.
my $services = PostgreSQL::Test::Utils::tempdir() . '/services';
my ($host, $port) = ($leader->host, $leader->port);
append_to_file($services, "[shop]\nhost=$frozen_dir,$host\nport=$frozen_port,$port\ndbname=postgres\n");
my $follower = do
{
	local $ENV{PGSERVICEFILE} = $services;
	new_follower('follower', 'fanout.retry_interval = 200ms');
};
# A server that is up and will not do where one that can be written to is asked for.
my $reader = new_follower('reader', 'default_transaction_read_only = off');
$reader->append_conf('postgresql.conf', 'default_transaction_read_only = on');
$reader->reload;

my $last = "dbname=postgres connect_timeout=1";
my $unix = "host=$frozen_dir,$host port=$frozen_port,$port $last";

sub call { my ($sql) = @_; return $follower->safe_psql('postgres', "SELECT fanout.$sql"); }

sub refused
{
	my ($sql) = @_;
	my ($rc, $out, $err) = $follower->psql('postgres', "\\set VERBOSITY verbose\n$sql");
	isnt($rc, 0, "fails: $sql");
	return $err;
}

sub written
{
	my ($what) = @_;
	$leader->safe_psql('postgres', 'INSERT INTO t SELECT max(id) + 1 FROM t');
	all_equal($what, $leader, $follower);
	return;
}

# ---------- everything that connects ----------

# Without a time-out of the string's, too.
call("follow('app', '" . ($unix =~ s/connect_timeout=1//r) . "', follower => 'f')");
written('followed, with schema, copy helpers and stream');
is($follower->safe_psql('postgres', q{SELECT bool_and(equal), count(*) FROM fanout.verify('app')}), 't|3', 'verified');
call("set_leader('app', '$unix')");
written('another string');
call("resync('app', 't')");
written('one table copied again');
call(q{resync('app')});
written('all copied again');
my ($rc, $out, $err) = $follower->psql('postgres', q{SELECT fanout.unfollow('app')});
is($err, '', 'unfollow() reaches the leader');
is($leader->safe_psql('postgres', 'SELECT count(*) FROM fanout.followers'), '0', 'which has forgotten the follower');
$follower->safe_psql('postgres', 'DROP TABLE t, u, w');

# ---------- all ways to name servers ----------

my $tcp = $frozen_tcp->sockport;
my $reads = $reader->host . ",$frozen_dir,$host";
my @strings = (
	[ 'names with addresses', "host=one.invalid,two.invalid hostaddr=127.0.0.1,127.0.0.1 port=$tcp,$port $last" ],
	[ 'an address, a socket, a name that is not known',
		"host=127.0.0.1,no.such.host.invalid,$host port=$tcp,$port,$port $last" ],
	[ 'a URI', "postgresql://127.0.0.1:$tcp,127.0.0.1:$port/postgres?connect_timeout=1" ],
	[ 'a service', 'service=shop connect_timeout=1' ],
	[ 'one that can be written to', "host=$reads port=" . $reader->port . ",$frozen_port,$port target_session_attrs=read-write $last" ],
	[ 'rather a standby', "host=$frozen_dir,$host port=$frozen_port,$port target_session_attrs=prefer-standby $last" ],
	[ 'a quote in it', "host='$frozen_dir/it\\'s,$host' port=$port $last" ],
);
push @strings, [ 'in any order', "$unix load_balance_hosts=random" ]
  if $leader->pg_version >= 16;
$follower->safe_psql('postgres', "SELECT fanout.follow('app', 'host=$host port=$port dbname=postgres', follower => 'f')");
wait_for_copy($follower);
for my $string (@strings)
{
	my ($what, $conninfo) = @$string;
	$conninfo =~ s/'/''/g;
	call("set_leader('app', '$conninfo')");
	$leader->safe_psql('postgres', 'INSERT INTO t SELECT max(id) + 1 FROM t');
	wait_for_catchup($leader, $follower);
	is($follower->safe_psql('postgres', 'SELECT max(id) FROM t'), $leader->safe_psql('postgres', 'SELECT max(id) FROM t'), $what);
}

# ---------- none will do ----------

my $message = refused("SELECT fanout.set_leader('app', 'host=$frozen_dir,/nowhere port=$frozen_port password=geheim $last')");
like($message, qr/ERROR:  08006: could not connect to the leader/, 'none');
like($message, qr/DETAIL:  The server at "\Q$frozen_dir\E", port $frozen_port, did not answer in time\.\n.*nowhere.*No such file/, 'what became of each is told');
unlike($message, qr/geheim/, 'but no password');
like(refused("SELECT fanout.set_leader('app', 'host=a,b,c port=1,2 $last')"), qr/could not match 2 port numbers to 3 hosts/, 'numbers that do not go together');
like(refused("SELECT fanout.set_leader('app', 'service=none $last')"), qr/definition of service "none" not found/, 'no such service');
like(refused("SET statement_timeout = '200ms'; SELECT fanout.set_leader('app', 'host=$frozen_dir port=$frozen_port dbname=postgres')"),
	qr/57014: canceling statement due to statement timeout/, 'it can be interrupted');
written('after all that');

done_testing();
