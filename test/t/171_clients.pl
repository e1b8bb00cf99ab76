# docs/clients.md: the web application in it, run as it stands with node-postgres, and what
# it says of PgBouncer with transaction pooling.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use HTTP::Tiny;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $leader = new_leader('leader');
$leader->safe_psql('postgres', 'CREATE TABLE counter (name text PRIMARY KEY, value int NOT NULL)');
my $follower = new_follower('follower');
follow($follower, $leader);
wait_for_copy($follower);

# ---------- the web application ----------

# The document's JavaScript.
sub program
{
	my ($program) = slurp_file("$FindBin::Bin/../../docs/clients.md") =~ /^```js\n(.*?)^```$/ms;
	return $program;
}

# Start the application; returns its process and its address.
sub start_app
{
	my $file = $leader->basedir . '/app.js';
	my $port = PostgreSQL::Test::Cluster::get_free_port();
	append_to_file($file, program());
	local $ENV{LEADER} = url($leader);
	local $ENV{FOLLOWER} = url($follower);
	local $ENV{PORT} = $port;
	local $ENV{NODE_PATH} = $ENV{FANOUT_NODE_MODULES};
	my $app = IPC::Run::start([ 'node', $file ], '<', \'', '>&', $leader->basedir . '/app.log');
	wait_until('the application to listen',
		sub { HTTP::Tiny->new->get("http://127.0.0.1:$port/none")->{success} });
	return ($app, "http://127.0.0.1:$port");
}

sub url
{
	my ($node) = @_;
	return 'postgresql://' . getpwuid($>) . '@/postgres?host=' . $node->host . '&port=' . $node->port;
}

# One request; returns the answer and the cookie, which is the old one unless there is a new one.
sub request
{
	my ($method, $url, $cookie) = @_;
	my $response = HTTP::Tiny->new->request($method, $url,
		{ headers => { defined $cookie ? (Cookie => $cookie) : () } });
	die $response->{content} if !$response->{success};
	my ($new) = ($response->{headers}{'set-cookie'} // '') =~ /^(token=[^;]*)/;
	return (decode_json($response->{content}), $new // $cookie);
}

sub test_web_application
{
	my ($app, $url) = start_app();
	my ($answer, $cookie);
	my %from;
	my $missed = 0;
	for my $i (1 .. 200)
	{
		(undef, $cookie) = request('POST', "$url/pairs", $cookie);
		($answer) = request('GET', "$url/pairs", $cookie);
		$missed++ if $answer->{value} != $i;
		$from{ $answer->{from} }++;
	}
	is($missed, 0, '200 writes were each seen by the next read');
	cmp_ok($from{follower} // 0, '>', 100, '... which a follower answered');

	$follower->safe_psql('postgres', q{SELECT fanout.pause('app')});
	state_is($follower, 'paused');
	(undef, $cookie) = request('POST', "$url/pairs", $cookie);
	($answer) = request('GET', "$url/pairs");
	is_deeply($answer, { value => 200, from => 'follower' }, 'somebody else may read older data');
	($answer) = request('GET', "$url/pairs", $cookie);
	is_deeply($answer, { value => 201, from => 'leader' }, 'a follower that is behind is left out');
	$follower->safe_psql('postgres', q{SELECT fanout.resume('app')});
	wait_for_catchup($leader, $follower);
	($answer) = request('GET', "$url/pairs", $cookie);
	is_deeply($answer, { value => 201, from => 'follower' }, '... and comes back');

	$follower->stop;
	($answer) = request('GET', "$url/pairs", $cookie);
	is_deeply($answer, { value => 201, from => 'leader' }, 'so is one that is down');
	$follower->start;
	$app->kill_kill;
	return;
}

# ---------- PgBouncer ----------

# PgBouncer with transaction pooling and one connection to each server.
sub start_pgbouncer
{
	my $dir = $leader->basedir;
	my $port = PostgreSQL::Test::Cluster::get_free_port();
	my $databases = join '', map { sprintf "%s = host=%s port=%s dbname=postgres user=%s\n", $_->name, $_->host, $_->port, scalar getpwuid($>) } $leader, $follower;
	append_to_file("$dir/pgbouncer.ini", <<"CONF");
[databases]
$databases
[pgbouncer]
listen_addr =
listen_port = $port
unix_socket_dir = $dir
auth_type = any
pool_mode = transaction
default_pool_size = 1
CONF
	my $bouncer = IPC::Run::start([ 'pgbouncer', "$dir/pgbouncer.ini" ], '<', \'', '>&', "$dir/pgbouncer.log");
	wait_until('PgBouncer', sub { -S "$dir/.s.PGSQL.$port" });
	return ($bouncer, sub { "host=$dir port=$port dbname=" . $_[0]->name });
}

# A session through it: like Fanout::session().
sub pooled
{
	my ($conninfo, @lines) = @_;
	my ($harness, $out, $err) = start_client('session', join('', map { "$_\n" } @lines), $conninfo);
	$harness->finish;
	die "session failed: $$err" if $harness->full_result(0) != 0;
	return map { [ split /\t/, $_, -1 ] } split /\n/, $$out;
}

sub test_pgbouncer
{
	my ($bouncer, $to) = start_pgbouncer();
	my ($tag, $value, $token) = @{ (pooled($to->($leader), q{simple INSERT INTO counter VALUES ('pooled', 1)}))[0] };
	is($tag, 'INSERT 0 1', 'a write through PgBouncer');
	like($token, qr/./, '... reports its token');

	my @result = pooled($to->($follower), "extended SELECT fanout.wait_for('$token', '60s')",
		q{extended SELECT value FROM counter WHERE name = 'pooled'});
	is_deeply([ map { $_->[1] } @result ], [ 't', '1' ], 'it can be waited for through PgBouncer');

	(undef, undef, $token) = @{ (pooled($to->($leader), q{simple BEGIN}, q{simple UPDATE counter SET value = 2}, q{simple COMMIT}))[2] };
	@result = pooled($to->($follower), 'simple BEGIN', "simple SET LOCAL fanout.read_after = '$token'",
		q{simple SELECT value FROM counter WHERE name = 'pooled'}, 'simple COMMIT');
	is($result[2][1], '2', 'SET LOCAL fanout.read_after holds for the transaction');
	is((pooled($to->($follower), 'simple SHOW fanout.read_after'))[0][1], '', '... and for nobody else');

	pooled($to->($follower), "simple SET fanout.read_after = '$token'");
	is((pooled($to->($follower), 'simple SHOW fanout.read_after'))[0][1], $token, 'SET leaks to others, as the document warns');

	(undef, undef, $token) = @{ (pooled($to->($leader), 'simple SELECT 1'))[0] };
	is($token, '', 'a client starts without a token, whatever others committed');
	$bouncer->kill_kill;
	return;
}

SKIP:
{
	skip 'node and its package pg are not installed', 6 if !$ENV{FANOUT_NODE_MODULES};
	test_web_application();
}
test_pgbouncer();
done_testing();
