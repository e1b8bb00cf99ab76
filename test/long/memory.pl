# Workers need no more memory after a million transactions and ten thousand
# reconnects than after the first tenth of them.
#
# FANOUT_LONG_TRANSACTIONS and FANOUT_LONG_RECONNECTS may set other numbers.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Utils;
use Test::More;

my $transactions = $ENV{FANOUT_LONG_TRANSACTIONS} // 1_000_000;
my $reconnects = $ENV{FANOUT_LONG_RECONNECTS} // 10_000;
my $allowed_kb = 2048;

my $leader = new_leader('leader', 'fsync = off', 'synchronous_commit = off');
$leader->safe_psql('postgres', 'CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL, v text);
	INSERT INTO t SELECT g, 0 FROM generate_series(1, 1000) g');
my $follower = new_follower('follower', 'fsync = off', 'fanout.retry_interval = 100ms');
follow($follower, $leader);
wait_for_copy($follower);

# Anonymous memory of each process of ours, in kB, by node and type.
sub memory
{
	my %memory;
	for my $node ($leader, $follower)
	{
		my $processes = $node->safe_psql('postgres',
			q{SELECT pid, backend_type FROM pg_stat_activity WHERE backend_type LIKE 'pg_fanout %'
			  UNION ALL SELECT sender_pid, 'sender' FROM fanout.followers WHERE sender_pid IS NOT NULL});
		for my $line (split /\n/, $processes)
		{
			my ($pid, $type) = split /\|/, $line;
			my ($kb) = slurp_file("/proc/$pid/status") =~ /^RssAnon:\s+(\d+)/m;
			$memory{ $node->name . " $type" } = $kb;
		}
	}
	return \%memory;
}

sub report
{
	my ($what, $memory) = @_;
	diag("$what: " . join(', ', map { "$_ $memory->{$_} kB" } sort keys %$memory));
	return $memory;
}

sub flat
{
	my ($what, $before, $after) = @_;
	for my $process (sort keys %$before)
	{
		my $more = ($after->{$process} // 0) - $before->{$process};
		cmp_ok($more, '<=', $allowed_kb, "$what: $process needs no more memory");
	}
	return;
}

# Each statement of the loop is a transaction of its own: updates, and every tenth an insert and a delete.
sub commit_many
{
	my ($count) = @_;
	$leader->safe_psql('postgres', qq{DO \$\$
		BEGIN
			FOR i IN 1..$count LOOP
				IF i % 10 = 0 THEN
					INSERT INTO t VALUES (1000 + i, i, repeat('x', i % 3000));
					COMMIT;
					DELETE FROM t WHERE id = 1000 + i;
				ELSE
					UPDATE t SET n = n + 1 WHERE id = 1 + i % 1000;
				END IF;
				COMMIT;
			END LOOP;
		END \$\$}, timeout => 7200);
	wait_for_catchup($leader, $follower);
	return;
}

# Cut the stream, wait until the follower is back, again and again; a row each time.
sub reconnect
{
	my ($count) = @_;
	for my $i (1 .. $count)
	{
		my $pid = wait_until('a sender', sub {
			$leader->safe_psql('postgres', q{UPDATE t SET n = n + 1 WHERE id = 1;
				SELECT sender_pid FROM fanout.followers WHERE state = 'streaming'}) });
		$leader->safe_psql('postgres', "SELECT pg_terminate_backend($pid, 60000)");
	}
	all_equal('afterwards', $leader, $follower);
	return;
}

commit_many(int($transactions / 10));
my $before = report(int($transactions / 10) . ' transactions', memory());
commit_many($transactions - int($transactions / 10));
flat("$transactions transactions", $before, report("$transactions transactions", memory()));

reconnect(int($reconnects / 10));
$before = report(int($reconnects / 10) . ' reconnects', memory());
reconnect($reconnects - int($reconnects / 10));
flat("$reconnects reconnects", $before, report("$reconnects reconnects", memory()));
done_testing();
