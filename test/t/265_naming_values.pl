# Values that are names of objects (reg*), of which the follower may lack some: that keeps their table from being in
# line, which says why, and no other; and it gets in line when the object is there, or the value is gone.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Utils;
use Test::More;

my $leader = new_leader('leader');
my $follower = new_follower('follower', 'fanout.retry_interval = 100ms');
sub value { return $follower->safe_psql('postgres', $_[0]) }
$leader->safe_psql('postgres', q{
	CREATE TABLE doc (id int PRIMARY KEY, body text); CREATE DOMAIN rel AS regclass;
	CREATE TABLE one (id int PRIMARY KEY, rel regclass); CREATE TABLE list (id int PRIMARY KEY, rels regclass[]); CREATE TABLE domain (id int PRIMARY KEY, r rel);
	CREATE TABLE role (id int PRIMARY KEY, role regrole); CREATE TABLE before (id int PRIMARY KEY, rel regclass); CREATE TABLE plain (id int PRIMARY KEY);
	INSERT INTO one VALUES (1, 'doc'), (2, 'pg_class'), (3, 0)});
# Names with the oid of a table are others here; and oids of tables, too.
value('CREATE TABLE own (id int PRIMARY KEY, body text)');
$leader->safe_psql('postgres', q{INSERT INTO before SELECT 1, reltoastrelid FROM pg_class WHERE relname = 'doc'});
follow($follower, $leader);

sub states { return value(q{SELECT coalesce(string_agg(relation::text, ' ' ORDER BY relation::text), '') FROM fanout.table_staleness WHERE last_error LIKE '%does not exist%'}) }
wait_until('the one that was copied', sub { states() eq 'before' });
is(value('SELECT count(*) FROM one'), '3', 'others are copied');
is(value(q{SELECT string_agg(rel::text, ' ' ORDER BY id) FROM one}), 'doc pg_class -', '... with what the names mean here');

$leader->safe_psql('postgres', q{CREATE ROLE only_there; INSERT INTO plain VALUES (1);
	INSERT INTO one SELECT 4, reltoastrelid FROM pg_class WHERE relname = 'doc'; INSERT INTO list SELECT 1, ARRAY[reltoastrelid::regclass] FROM pg_class WHERE relname = 'doc';
	INSERT INTO domain SELECT 1, reltoastrelid FROM pg_class WHERE relname = 'doc'; INSERT INTO role VALUES (1, 'only_there'); INSERT INTO plain VALUES (2)});
wait_until('those of the stream', sub { states() eq 'before domain list one role' });
wait_for_catchup($leader, $follower);
is(value('SELECT count(*) FROM plain'), '2', 'the stream goes on');
is(value('SELECT count(*) FROM one'), '3', '... without the changes of a table that is not in line');
like(value(q{SELECT last_error FROM fanout.table_staleness WHERE relation = 'role'::regclass}), qr/role "only_there" does not exist/, '... which says what is missing');
is(value(q{SELECT staleness IS NULL FROM fanout.staleness}), 't', '... and nobody takes it for fresh');

value('CREATE ROLE only_there; DROP TABLE own');
$leader->safe_psql('postgres', q{DELETE FROM one WHERE id = 4; DELETE FROM list; DELETE FROM domain; DELETE FROM before});
value(q{SELECT fanout.resume('app')});
all_equal('without what was missing', $leader, $follower);
is(value('SELECT role FROM role'), 'only_there', '... with what is here now');

$_->stop for $leader, $follower;
done_testing();
