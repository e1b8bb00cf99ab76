# The extension's own tables and its schema are nobody's but superusers': roles that may read
# or write all data can't get at them, and a schema that is there before the extension is
# not trusted.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_leader('node');
my $tables = $node->safe_psql('postgres', q{SELECT count(*) FROM pg_class WHERE relnamespace = 'fanout'::regnamespace AND relkind = 'r'});
cmp_ok($tables, '>=', 5, 'there are own tables');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_class c WHERE relnamespace = 'fanout'::regnamespace AND relkind IN ('r', 'p')
		AND relrowsecurity AND relowner = 10 AND NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = c.oid)
		AND (SELECT count(*) FROM aclexplode(relacl) a WHERE a.grantee <> relowner) = 0}),
	$tables, 'each has row-level security without policies, and belongs to the first superuser');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_class WHERE relnamespace = 'fanout'::regnamespace AND relkind = 'S'}),
	'0', 'no sequences');

$node->safe_psql('postgres', q{CREATE ROLE writer LOGIN; GRANT pg_write_all_data, pg_read_all_data TO writer});
sub as_writer
{
	my ($sql) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', $sql, extra_params => [ '-U', 'writer' ], on_error_stop => 1);
	return $rc == 0 ? $out : $err;
}
for my $table (split /\n/, $node->safe_psql('postgres', q{SELECT oid::regclass FROM pg_class
		WHERE relnamespace = 'fanout'::regnamespace AND relkind = 'r' ORDER BY 1}))
{
	is(as_writer("SELECT count(*) FROM $table"), '0', "$table: no row is read");
	like(as_writer("WITH gone AS (DELETE FROM $table RETURNING 1) SELECT count(*) FROM gone"),
		qr/^0$|cannot delete from table "schema_change"/, '... nor deleted');
	my $columns = $node->safe_psql('postgres', "SELECT string_agg(quote_ident(attname), ', ') FROM pg_attribute
		WHERE attrelid = '$table'::regclass AND attnum > 0 AND NOT attisdropped AND attnotnull");
	my $values = $node->safe_psql('postgres', "SELECT string_agg(CASE atttypid::regtype::text WHEN 'boolean' THEN 'true' WHEN 'uuid' THEN 'gen_random_uuid()'
		WHEN 'name[]' THEN '''{}''' WHEN 'text[]' THEN '''{}''' WHEN 'oid[]' THEN '''{}''' WHEN 'timestamp with time zone' THEN 'now()' ELSE '''1''' END, ', ')
		FROM pg_attribute WHERE attrelid = '$table'::regclass AND attnum > 0 AND NOT attisdropped AND attnotnull");
	like(as_writer("INSERT INTO $table ($columns) VALUES ($values)"), qr/new row violates row-level security policy/, '... nor written');
}
is($node->safe_psql('postgres', 'SELECT count(*) FROM fanout.streams'), '1', 'the stream is there');
is(as_writer('SELECT count(*) FROM fanout.table_staleness, fanout.copy_progress'), '0', 'the views work for everybody');

# A schema that somebody else has made.
$node->safe_psql('postgres', q{CREATE ROLE early LOGIN; CREATE DATABASE other; GRANT CREATE ON DATABASE other TO early});
sub create_extension
{
	my ($rc, $out, $err) = $node->psql('other', 'CREATE EXTENSION pg_fanout');
	return $rc == 0 ? 'created' : $err;
}
$node->safe_psql('other', 'CREATE SCHEMA fanout', extra_params => [ '-U', 'early' ]);
like(create_extension(), qr/schema "fanout" belongs to a role that is not a superuser/, 'a schema of another role');
$node->safe_psql('other', 'ALTER SCHEMA fanout OWNER TO postgres; GRANT USAGE, CREATE ON SCHEMA fanout TO early');
like(create_extension(), qr/schema "fanout" is used by others/, 'one that another role may put objects into');
$node->safe_psql('other', q{CREATE FUNCTION fanout.div(bigint, numeric) RETURNS numeric LANGUAGE sql AS 'SELECT 1';
	CREATE OPERATOR fanout./ (LEFTARG = bigint, RIGHTARG = numeric, FUNCTION = fanout.div)}, extra_params => [ '-U', 'early' ]);
$node->safe_psql('other', 'REVOKE ALL ON SCHEMA fanout FROM early');
like(create_extension(), qr/schema "fanout" is used by others/, 'one with objects in it');
$node->safe_psql('other', 'DROP OPERATOR fanout./ (bigint, numeric); DROP FUNCTION fanout.div');
is(create_extension(), 'created', 'an empty one of a superuser');

# Nothing of ours was found by a path that a schema of others is in.
is($node->safe_psql('other', q{SELECT string_agg(p.oid::regprocedure::text, ' ') FROM pg_proc p JOIN pg_language l ON l.oid = prolang
		WHERE pronamespace = 'fanout'::regnamespace AND lanname NOT IN ('c', 'internal')
		AND NOT coalesce(proconfig, '{}') && ARRAY['search_path=pg_catalog, pg_temp']}),
	'', 'functions that are not in C have a path of their own');

done_testing();
