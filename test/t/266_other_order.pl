# Rows that belong to another partition here than on the leader: by the hash of an enum, which is one of an oid, or
# in another locale.  follow() warns of the latter; neither keeps the stream, nor other tables.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Utils;
use Test::More;

my $leader = new_leader('leader');
my $follower = new_follower('follower', 'fanout.retry_interval = 100ms');
my $db = 'postgres';
sub value { return $follower->safe_psql($db, $_[0]) }
sub out_of_line { return value(q{SELECT count(*) > 0 AND bool_and(last_error LIKE '%violates partition constraint%' AND staleness IS NULL)
	FROM fanout.table_staleness WHERE relation::text LIKE 'h_' AND state = 'pending'}) }

$leader->safe_psql('postgres', q{
	CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy', 'angry', 'calm');
	CREATE TABLE h (id int, m mood) PARTITION BY HASH (m); CREATE TABLE h0 PARTITION OF h FOR VALUES WITH (MODULUS 2, REMAINDER 0);
	CREATE TABLE h1 PARTITION OF h FOR VALUES WITH (MODULUS 2, REMAINDER 1);
	CREATE TABLE z (id int PRIMARY KEY); INSERT INTO z VALUES (1)});
my $rows = q{INSERT INTO h SELECT g, (enum_range(NULL::mood))[1 + g % 5] FROM generate_series(1, 50) g};

# Other oids than there, so that at least one of five values goes elsewhere; first as changes, then as rows to be copied.
value(q{CREATE TYPE junk AS ENUM ('x', 'y', 'z')});
follow($follower, $leader);
wait_for_copy($follower);
$leader->safe_psql('postgres', "$rows; INSERT INTO z VALUES (2)");
wait_until('the table to be out of line', sub { out_of_line() eq 't' });
wait_for_catchup($leader, $follower);
is(value('SELECT count(*) FROM z'), '2', 'changes: the stream goes on');
is(value(q{SELECT staleness IS NULL FROM fanout.staleness}), 't', '... and nobody takes it for fresh');
$leader->safe_psql('postgres', q{DROP TABLE h; INSERT INTO z VALUES (3)});
all_equal('without the table', $leader, $follower);
value(q{SELECT fanout.unfollow('app'); DROP TABLE z; DROP TYPE mood});
$leader->safe_psql('postgres', qq{CREATE TABLE h (id int, m mood) PARTITION BY HASH (m); CREATE TABLE h0 PARTITION OF h FOR VALUES WITH (MODULUS 2, REMAINDER 0);
	CREATE TABLE h1 PARTITION OF h FOR VALUES WITH (MODULUS 2, REMAINDER 1); $rows});

# In a database of another locale.
value(q{CREATE DATABASE other TEMPLATE template0 LOCALE 'C'});
$db = 'other';
my $conninfo = conninfo($leader) =~ s/'/''/gr;
my ($rc, $out, $err) = $follower->psql('other', "CREATE EXTENSION pg_fanout; CREATE TYPE junk AS ENUM ('x'); SELECT fanout.follow('app', '$conninfo', follower => 'other')");
my ($there, $here) = ($leader->safe_psql('postgres', 'SELECT datcollate FROM pg_database WHERE datname = current_database()'), 'C');
like($err, $there eq $here ? qr/^$/ : qr/WARNING:  strings may sort in another order here than on the leader\nDETAIL:  .*LC_COLLATE there is "\Q$there\E" and here "C"/, 'another locale: a warning');
wait_until('the table to be out of line', sub { out_of_line() eq 't' });
wait_until('the other', sub { value(q{SELECT state FROM fanout.table_staleness WHERE relation = 'z'::regclass}) eq 'streaming' });
is(value('SELECT count(*) FROM z'), '3', 'rows: the others are copied');

$_->stop for $leader, $follower;
done_testing();
