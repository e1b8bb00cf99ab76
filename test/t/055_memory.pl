# The decoder's memory does not grow with the number of tables that come and go, nor does it
# keep the rows of those that stay.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Utils;
use Test::More;

my $leader = new_leader('leader', 'fsync = off', 'synchronous_commit = off');
$leader->safe_psql('postgres', q{
	CREATE TABLE parts (id int, v text) PARTITION BY LIST (id);
	DO $$ BEGIN
		FOR i IN 1..60 LOOP
			EXECUTE format('CREATE TABLE part_%s PARTITION OF parts FOR VALUES IN (%s)', i, i);
		END LOOP;
	END $$});

# Anonymous memory of the decoder in kB, once it has decoded everything.
sub memory
{
	wait_until('the decoder', sub {
			my $lsn = $leader->safe_psql('postgres', 'SELECT fanout.flush_wal()');
			$leader->safe_psql('postgres', "SELECT decoded_lsn >= '$lsn' FROM fanout.streams") eq 't' });
	my $pid = $leader->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_fanout decoder'});
	my ($kb) = slurp_file("/proc/$pid/status") =~ /^RssAnon:\s+(\d+)/m;
	return $kb;
}

sub needs_at_most
{
	my ($what, $allowed_mb, $statement) = @_;
	my $before = memory();
	$leader->safe_psql('postgres', $statement);
	my $more = memory() - $before;
	cmp_ok($more, '<', $allowed_mb * 1024, "$what: $more kB more");
	return;
}

# Tables that come and go, in a transaction for each step.
sub come_and_go
{
	my ($count) = @_;
	return qq{DO \$\$ BEGIN
		FOR i IN 1..$count LOOP
			CREATE TABLE passing (id int PRIMARY KEY, a text, b numeric);
			COMMIT;
			INSERT INTO passing VALUES (i, 'text', i);
			COMMIT;
			DROP TABLE passing;
			COMMIT;
		END LOOP;
	END \$\$};
}
$leader->safe_psql('postgres', come_and_go(300));
needs_at_most('two thousand tables that came and went', 4, come_and_go(2000));

my $rows = q{INSERT INTO parts SELECT g, repeat('x', 2000000) FROM generate_series(1, 60) g};
needs_at_most('large rows of many tables', 20, $rows);
needs_at_most('... and again', 4, $rows);

$leader->stop;
done_testing();
