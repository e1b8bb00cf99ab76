# fanout.set_leader(): the same leader at another address or with another password, without a
# copy; another leader, with one.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Utils;
use Test::More;

my $schema = 'CREATE TABLE t (id int PRIMARY KEY, v text)';
my $leader = new_leader('leader');
$leader->safe_psql('postgres', "$schema; INSERT INTO t VALUES (1, 'first')");
my $follower = new_follower('follower', 'fanout.retry_interval = 200ms');
follow($follower, $leader);
wait_for_copy($follower);

sub copied_at { return $follower->safe_psql('postgres', 'SELECT max(copied_at) FROM fanout.followed_table'); }
sub shown { return $follower->safe_psql('postgres', 'SELECT leader FROM fanout.staleness'); }
sub write_row { return $leader->safe_psql('postgres', 'INSERT INTO t SELECT max(id) + 1 FROM t'); }

# ---------- the same leader ----------

my $copied_at = copied_at();
my $conninfo = conninfo($leader);
sub moved { return "$conninfo application_name=$_[0] password=secret-$_[0]"; }

sub set_leader
{
	my ($where) = @_;
	$where =~ s/'/''/g;
	return "SELECT fanout.set_leader('app', '$where')";
}

$follower->safe_psql('postgres', 'BEGIN; ' . set_leader(moved('nowhere')) . '; ROLLBACK');
$follower->safe_psql('postgres', 'BEGIN; SAVEPOINT s; ' . set_leader(moved('nowhere')) . '; ROLLBACK TO s; COMMIT');
write_row();
wait_for_catchup($leader, $follower);
unlike(shown(), qr/nowhere/, 'a rollback changes nothing');

$follower->safe_psql('postgres', set_leader(moved('elsewhere')));
wait_until('the new address to be shown', sub { shown() =~ /elsewhere/ });
unlike(shown(), qr/secret/, 'the password is not shown');
write_row();
all_equal('at another address', $leader, $follower);
is(copied_at(), $copied_at, 'nothing is copied again');

$follower->safe_psql('postgres', "SELECT fanout.pause('app')");
state_is($follower, 'paused');
$follower->safe_psql('postgres', set_leader($conninfo));
wait_until('the address to be shown while paused', sub { shown() !~ /elsewhere/ });
state_is($follower, 'paused');
$follower->safe_psql('postgres', "SELECT fanout.resume('app')");

# A leader that moved: followers don't find it until they are told.
$leader->stop;
my $old_port = $leader->port;
my $new_port = PostgreSQL::Test::Cluster::get_free_port();
$leader->append_conf('postgresql.conf', "port = $new_port");
$leader->{_port} = $new_port;
$leader->start;
write_row();
state_is($follower, 'failed');
$follower->safe_psql('postgres', set_leader(conninfo($leader)));
all_equal('after the leader moved', $leader, $follower);
is(copied_at(), $copied_at, 'nothing is copied again');

# ---------- what can't work ----------

sub refused
{
	my ($call, $expected, $what) = @_;
	my ($rc, $out, $err) = $follower->psql('postgres', "\\set VERBOSITY verbose\n$call");
	like($err, $expected, $what);
	return;
}

my $gone = $conninfo =~ s/port=\d+/port=$old_port/r;
refused(set_leader($gone), qr/ERROR:  08006: could not connect to the leader/, 'nobody is there');
refused(set_leader('host'), qr/ERROR:  42601: invalid connection string/, 'not a connection string');
refused(set_leader($follower->connstr('postgres')), qr/ERROR:  42704: the leader reported: stream "app" does not exist/, 'no such stream there');
refused(set_leader(conninfo($leader) =~ s/dbname='?postgres'?/dbname=template1/r),
	qr/ERROR:  55000: extension "pg_fanout" is not installed/, 'no extension there');
refused("SELECT fanout.set_leader('nothing', 'dbname=x')", qr/ERROR:  42704: this database does not follow/, 'not followed');
refused("SELECT fanout.set_leader('app', NULL)", qr/ERROR:  22004: leader must not be null/, 'null');
refused("BEGIN; " . set_leader(conninfo($leader)) . "; PREPARE TRANSACTION 'p'", qr/ERROR:  0A000: cannot PREPARE/, 'prepared');
refused("CREATE ROLE stranger; SET ROLE stranger; " . set_leader('dbname=x'), qr/ERROR:  42501: /, 'not a superuser');
refused(set_leader("$gone password=secret-in-error"), qr/ERROR:  08006/, 'nobody is there, with a password');
write_row();
all_equal('after refusals', $leader, $follower);
unlike(slurp_file($follower->logfile), qr/secret/, 'no password is in the log');

# ---------- another leader ----------

my $other = new_leader('other');
$other->safe_psql('postgres', "$schema; INSERT INTO t SELECT g, 'other' FROM generate_series(1, 1000) g");
my $token = $leader->safe_psql('postgres', 'SELECT fanout.token()');

my $second = new_follower('second', 'fanout.retry_interval = 200ms');
$second->safe_psql('postgres', q{SELECT fanout.follow('app', '} . conninfo($other) =~ s/'/''/gr . q{', follower => 'follower')});
wait_for_copy($second);
refused(set_leader(conninfo($other)), qr/ERROR:  42710: stream "app" has a follower named "follower" already/, 'the name is taken there');
$second->safe_psql('postgres', q{SELECT fanout.unfollow('app')});
wait_until('the name to be free', sub { $other->safe_psql('postgres', 'SELECT count(*) FROM fanout.followers') eq '0' });

my ($rc, $out, $err) = $follower->psql('postgres', set_leader(conninfo($other)));
is($err, '', 'the old leader could be told');
is($leader->safe_psql('postgres', 'SELECT count(*) FROM fanout.followers'), '0', '... and has no follower any more');
wait_for_copy($follower);
all_equal('from another leader', $other, $follower);
cmp_ok(copied_at(), 'gt', $copied_at, 'all is copied again');
refused("SELECT fanout.wait_for('$token')", qr/ERROR:  22023: the token is not from the leader/, 'a token of the old leader');
is($follower->safe_psql('postgres', q{SELECT fanout.wait_for('} . $other->safe_psql('postgres', 'SELECT fanout.token()') . q{')}),
	't', 'a token of the new one');
$other->safe_psql('postgres', q{ALTER TABLE t ADD n int DEFAULT 7; UPDATE t SET v = 'new' WHERE id = 5; DELETE FROM t WHERE id = 6});
all_equal('... it goes on from there', $other, $follower);

# Back, while the one that is left can't be told.
$other->stop;
$leader->safe_psql('postgres', 'ALTER TABLE t ADD n int DEFAULT 7');
($rc, $out, $err) = $follower->psql('postgres', set_leader(conninfo($leader)));
is($rc, 0, 'a leader that is away can be left');
like($err, qr/WARNING:  could not tell the leader that follower "follower" is gone/, '... with a warning');
wait_for_copy($follower);
all_equal('back at the first', $leader, $follower);
done_testing();
