# Replicated tables change by nothing but the stream: not by code of others that runs in the
# stream's own processes, and not by their types, schemas and sequences.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $leader = new_server('leader');
my $follower = new_server('follower', 'fanout.retry_interval = 200ms');
for my $node ($leader, $follower)
{
	$node->safe_psql('postgres', 'CREATE EXTENSION pg_fanout; CREATE ROLE bob LOGIN; GRANT CREATE ON DATABASE postgres TO bob');
}
$leader->safe_psql('postgres', q{
	GRANT CREATE ON SCHEMA public TO bob;
	SET ROLE bob;
	CREATE TABLE orders (id int PRIMARY KEY, v int);
	CREATE TABLE audit (id int, v int, at timestamptz DEFAULT clock_timestamp());
	CREATE TABLE audit_keyed (id int PRIMARY KEY, v int);
	CREATE TABLE scratch (id int PRIMARY KEY);
	CREATE TABLE copied (id int PRIMARY KEY, v int);
	CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
	DECLARE
		noted int;
	BEGIN
		INSERT INTO public.audit VALUES (new.id, new.v);
		INSERT INTO public.audit_keyed VALUES (new.id, new.v)
			ON CONFLICT (id) DO UPDATE SET v = excluded.v RETURNING id INTO noted;
		UPDATE public.audit SET v = v + 1 WHERE id = new.id;
		DELETE FROM public.audit WHERE id = new.id - 100;
		WITH gone AS (DELETE FROM public.scratch RETURNING 1) UPDATE public.audit_keyed SET v = v WHERE EXISTS (SELECT FROM gone);
		IF new.id % 10 = 0 THEN TRUNCATE public.scratch; END IF;
		INSERT INTO public.scratch VALUES (new.id) ON CONFLICT DO NOTHING;
		EXECUTE 'INSERT INTO public.audit VALUES ($1, 0)' USING new.id;
		RETURN new;
	END $$;
	CREATE TRIGGER note AFTER INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION note();
	CREATE CONSTRAINT TRIGGER note_late AFTER INSERT ON orders DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note();
	ALTER TABLE orders ENABLE ALWAYS TRIGGER note, ENABLE ALWAYS TRIGGER note_late;
	CREATE FUNCTION write_it(int) RETURNS void LANGUAGE sql AS 'INSERT INTO public.audit VALUES (-$1, 0)';
	CREATE FUNCTION writes(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM public.write_it($1);
		RETURN $1;
	END $$;
	CREATE TABLE checked (id int PRIMARY KEY CHECK (writes(id) > 0), d int DEFAULT writes(1));
	INSERT INTO orders SELECT g, 0 FROM generate_series(1, 20) g});
$leader->safe_psql('postgres', q{SELECT fanout.create_stream('app')});
# Keyless tables are inserted into and, on the leader only, changed as a whole.
$leader->safe_psql('postgres', 'ALTER TABLE audit REPLICA IDENTITY FULL');
follow($follower, $leader);
all_equal('copied', $leader, $follower);

$leader->safe_psql('postgres', q{INSERT INTO orders SELECT g, 0 FROM generate_series(101, 150) g; UPDATE orders SET v = 1 WHERE id < 10;
	INSERT INTO checked SELECT g FROM generate_series(1, 5) g});
all_equal('triggers that fire on both sides', $leader, $follower);
$leader->safe_psql('postgres', 'INSERT INTO orders VALUES (1000, 1)');
$leader->safe_psql('postgres', 'SET ROLE bob; CREATE INDEX ON checked (writes(id)); INSERT INTO checked VALUES (6); ALTER TABLE checked ADD COLUMN more int DEFAULT 7');
all_equal('functions that a schema change runs', $leader, $follower);

# What is this follower's own is written to.
$follower->safe_psql('postgres', q{CREATE TABLE mine (id int); GRANT ALL ON mine TO bob;
	CREATE FUNCTION mine() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.mine VALUES (new.id); RETURN new; END $$;
	SET fanout.guard = off; CREATE TRIGGER mine AFTER INSERT ON copied FOR EACH ROW EXECUTE FUNCTION mine();
	ALTER TABLE copied ENABLE ALWAYS TRIGGER mine});
$leader->safe_psql('postgres', 'INSERT INTO copied SELECT g, 0 FROM generate_series(1, 3) g');
wait_for_catchup($leader, $follower);
is($follower->safe_psql('postgres', 'SELECT count(*) FROM mine'), '3', 'a local table of a trigger');

# A statement that does both can't be left out: it is an error, and goes on when it is mended.
$follower->safe_psql('postgres', q{CREATE OR REPLACE FUNCTION mine() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	WITH other AS (INSERT INTO public.audit VALUES (new.id) RETURNING id) INSERT INTO public.mine SELECT id FROM other; RETURN new; END $$});
$leader->safe_psql('postgres', 'INSERT INTO copied VALUES (4, 0)');
wait_until('the error', sub { $follower->safe_psql('postgres', 'SELECT last_error FROM fanout.staleness') =~ /cannot execute INSERT on replicated table "audit"/ });
pass('a statement that writes elsewhere, too, is refused');
$follower->safe_psql('postgres', q{CREATE OR REPLACE FUNCTION mine() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	ALTER TABLE public.audit ADD COLUMN here int; RETURN new; END $$});
wait_until('the error', sub { $follower->safe_psql('postgres', 'SELECT last_error FROM fanout.staleness') =~ /cannot execute ALTER TABLE on replicated table "audit"/ });
pass('so is a schema change');
$follower->safe_psql('postgres', 'SET fanout.guard = off; DROP FUNCTION mine() CASCADE');
$follower->safe_psql('postgres', 'DROP TABLE mine');
all_equal('the stream goes on', $leader, $follower);

# Types, schemas and sequences.
$leader->safe_psql('postgres', q{SET ROLE bob;
	CREATE SCHEMA s;
	CREATE TYPE s.mood AS ENUM ('sad', 'ok');
	CREATE DOMAIN s.positive AS int CONSTRAINT positive CHECK (value > 0);
	CREATE DOMAIN s.narrow AS s.positive;
	CREATE TYPE s.pair AS (m s.mood, n int);
	CREATE TYPE s.span AS RANGE (subtype = int4);
	CREATE TYPE s.unused AS ENUM ('x');
	CREATE DOMAIN s.unused_domain AS int;
	CREATE TABLE s.t (id serial PRIMARY KEY, m s.mood[], p s.narrow, q s.pair, r s.span, i int GENERATED ALWAYS AS IDENTITY);
	CREATE SCHEMA empty;
	INSERT INTO s.t VALUES (1, '{sad}', 1, '(sad,1)', '[1,2)')});
wait_for_catchup($leader, $follower);
for my $statement (split /\n/, q{ALTER TYPE s.mood RENAME VALUE 'sad' TO 'glad'
ALTER TYPE s.mood ADD VALUE 'new'
ALTER TYPE s.mood RENAME TO mood2
ALTER TYPE s.mood SET SCHEMA public
ALTER DOMAIN s.positive ADD CHECK (value > 100) NOT VALID
ALTER DOMAIN s.positive DROP CONSTRAINT positive
ALTER DOMAIN s.positive RENAME CONSTRAINT positive TO other
ALTER DOMAIN s.positive SET NOT NULL
ALTER DOMAIN s.narrow SET DEFAULT 1
ALTER TYPE s.pair RENAME ATTRIBUTE n TO o
ALTER TYPE s.pair RENAME TO pair2
ALTER TYPE s.span RENAME TO span2
DROP TYPE s.pair CASCADE
ALTER SCHEMA s RENAME TO s2
ALTER SEQUENCE s.t_id_seq RENAME TO other_seq
ALTER SEQUENCE s.t_i_seq INCREMENT 5
ALTER SEQUENCE s.t_id_seq OWNED BY NONE
DROP SEQUENCE s.t_id_seq CASCADE})
{
	my ($rc, $out, $err) = $follower->psql('postgres', $statement, extra_params => [ '-U', 'bob' ]);
	like($err, qr/cannot execute .* on replicated table "t"/, "refused: $statement");
}
for my $statement (q{ALTER TYPE s.unused RENAME VALUE 'x' TO 'y'; ALTER TYPE s.unused RENAME VALUE 'y' TO 'x'},
	'ALTER DOMAIN s.unused_domain ADD CHECK (value > 0); DROP DOMAIN s.unused_domain; CREATE DOMAIN s.unused_domain AS int',
	'CREATE DOMAIN s.local AS s.positive; CREATE TYPE s.local_type AS (m s.mood); CREATE TABLE s.local_table (m s.mood, p s.local, l s.local_type); DROP TABLE s.local_table; DROP TYPE s.local_type; DROP DOMAIN s.local',
	'ALTER SCHEMA empty RENAME TO gone; ALTER SCHEMA gone RENAME TO empty', 'CREATE SEQUENCE s.mine; ALTER SEQUENCE s.mine RESTART 5; DROP SEQUENCE s.mine')
{
	my ($rc, $out, $err) = $follower->psql('postgres', $statement, extra_params => [ '-U', 'bob' ], on_error_stop => 1);
	is($rc, 0, "allowed: $statement") or diag($err);
}
$leader->safe_psql('postgres', q{SET ROLE bob; ALTER TYPE s.mood RENAME VALUE 'sad' TO 'glad'; ALTER DOMAIN s.positive ADD CHECK (value < 100);
	ALTER SCHEMA s RENAME TO s2; ALTER SEQUENCE s2.t_id_seq RESTART 100; INSERT INTO s2.t (m, p) VALUES ('{glad}', 2)});
all_equal('the stream does all that', $leader, $follower);

done_testing();
