# A follower whose host died answers nothing: the leader looks soon whether it is still there.
# What is seen of that here is the timer of the leader's side of a connection.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Cluster;
use Test::More;

plan skip_all => 'the timers of connections are read in /proc/net/tcp' unless -r '/proc/net/tcp';

my $leader = new_leader('leader', "listen_addresses = '127.0.0.1'");
my $follower = new_follower('follower');
my $port = $leader->port;
$leader->safe_psql('postgres', 'CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)');
$follower->safe_psql('postgres',
	"SELECT fanout.follow('app', 'host=127.0.0.1 port=$port dbname=postgres', follower => 'follower')");
all_equal('over TCP', $leader, $follower);

# Seconds until the leader asks each established connection for a sign of life.
sub keepalives
{
	open my $file, '<', '/proc/net/tcp' or die $!;
	my $local = sprintf '0100007F:%04X', $port;
	my @lines = map { [split] } grep { /^\s*\d+: $local \S+ 01/ } <$file>;
	close $file;
	return map { hex((split /:/, $_->[5])[1]) / 100 } grep { $_->[5] =~ /^02:/ } @lines;
}

my @seconds = wait_until('a timer', sub { my @found = keepalives(); @found ? \@found : undef })->@*;
ok(!(grep { $_ > 11 } @seconds), "within ten seconds (@seconds)");
$_->stop for $follower, $leader;
done_testing();
