# Nobody but the stream changes replicated tables: each way to write, by a
# superuser and by the tables' owner; what stays allowed; and that the stream
# goes on meanwhile.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use PostgreSQL::Test::Cluster;
use Test::More;

my $leader = new_leader('leader');
$leader->safe_psql('postgres', q{
	CREATE ROLE app LOGIN;
	GRANT CREATE ON SCHEMA public TO app;
	CREATE SCHEMA shop AUTHORIZATION app;
	SET ROLE app;
	CREATE TABLE users (id int PRIMARY KEY, name text DEFAULT 'nobody' CHECK (name <> ''));
	CREATE TABLE orders (id int PRIMARY KEY, user_id int REFERENCES users ON DELETE CASCADE, customer int);
	CREATE TABLE shop.items (id int PRIMARY KEY);
	CREATE TABLE events (id int, kind text, PRIMARY KEY (id, kind)) PARTITION BY LIST (kind);
	CREATE TABLE events_a PARTITION OF events FOR VALUES IN ('a');
	CREATE TABLE events_b PARTITION OF events FOR VALUES IN ('b');
	CREATE FUNCTION label() RETURNS text LANGUAGE sql AS $$ SELECT 'label' $$;
	CREATE TABLE labels (id int PRIMARY KEY, label text DEFAULT label());
	CREATE FUNCTION nop() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
	CREATE TRIGGER nop BEFORE INSERT ON labels FOR EACH ROW EXECUTE FUNCTION nop();
	CREATE RULE nothing AS ON DELETE TO labels WHERE false DO INSTEAD NOTHING;
	CREATE POLICY everyone ON labels USING (true);
	CREATE INDEX users_name ON users (name);
	CREATE VIEW user_names AS SELECT id, name FROM users;
	CREATE VIEW ruled AS SELECT 1 AS id;
	CREATE RULE ruled AS ON INSERT TO ruled DO INSTEAD INSERT INTO users VALUES (NEW.id, 'ruled');
	CREATE FUNCTION add_user() RETURNS void LANGUAGE sql AS $$ INSERT INTO users VALUES (77, 'function') $$;
	INSERT INTO users SELECT g, 'user ' || g FROM generate_series(1, 10) g;
	INSERT INTO orders SELECT g, g, g FROM generate_series(1, 10) g;
	INSERT INTO shop.items VALUES (1);
	INSERT INTO labels VALUES (1);
	INSERT INTO events VALUES (1, 'a'), (2, 'b')});

my $follower = new_follower('follower');
$follower->safe_psql('postgres', q{CREATE ROLE app LOGIN});
follow($follower, $leader);
wait_for_copy($follower);

# Tables of the follower's own; customers is what replicated orders belong to.
$follower->safe_psql('postgres', q{
	SET fanout.guard = off;
	CREATE SCHEMA own AUTHORIZATION app;
	SET ROLE app;
	CREATE TABLE own.notes (id int PRIMARY KEY, note text);
	CREATE TABLE own.customers (id int PRIMARY KEY);
	CREATE TABLE own.parent (id int, kind text) PARTITION BY LIST (kind);
	CREATE TABLE own.users (id int NOT NULL, name text, CONSTRAINT users_name_check CHECK (name <> ''));
	INSERT INTO own.customers SELECT generate_series(1, 10);
	RESET ROLE;
	ALTER TABLE orders ADD CONSTRAINT orders_customer
		FOREIGN KEY (customer) REFERENCES own.customers ON DELETE CASCADE});

my @roles = ('app', $follower->safe_psql('postgres', 'SELECT current_user'));

sub run_as
{
	my ($role, $sql) = @_;
	return $follower->psql('postgres', $sql,
		extra_params => [ '-U', $role, '-v', 'VERBOSITY=verbose' ]);
}

# Every role is refused, with the words for it.
sub refused
{
	my ($command, $table, $sql) = @_;
	for my $role (@roles)
	{
		my ($rc, $out, $err) = run_as($role, $sql);
		my $who = $role eq 'app' ? 'owner' : 'superuser';
		like($err, qr/ERROR:  25006: cannot execute \Q$command\E on replicated table "$table"/,
			"refused to the $who: $sql");
	}
	return;
}

sub allowed
{
	my ($sql, @as) = @_;
	for my $role (@as ? @as : @roles)
	{
		my ($rc, $out, $err) = run_as($role, $sql);
		my $who = $role eq 'app' ? 'owner' : 'superuser';
		is($err // '', '', "allowed to the $who: $sql");
	}
	return;
}

sub schema_of_users
{
	my ($node) = @_;
	return $node->safe_psql('postgres', q{
		SELECT string_agg(pg_get_indexdef(indexrelid), ' ' ORDER BY indexrelid::regclass::text) FROM pg_index
			WHERE indrelid = 'users'::regclass;
		SELECT string_agg(attname || ' ' || atttypid::regtype, ',' ORDER BY attnum) FROM pg_attribute
			WHERE attrelid = 'users'::regclass AND attnum > 0;
		SELECT count(*) FROM pg_trigger WHERE tgrelid IN ('users'::regclass, 'labels'::regclass)
			AND NOT tgisinternal;
		SELECT count(*) FROM pg_rewrite WHERE ev_class IN ('users'::regclass, 'labels'::regclass);
		SELECT count(*) FROM pg_policy});
}

# The message has all a user needs.
my ($rc, $out, $err) = run_as('app', q{INSERT INTO users VALUES (100, 'x')});
like($err, qr/DETAIL:  The table is a follower's copy of stream "app"\./, 'DETAIL names the stream');
like($err, qr/HINT:  Write to the leader: .*port=@{[$leader->port]}/, 'HINT names the leader');

# Rows
refused('INSERT', 'users', q{INSERT INTO users VALUES (100, 'x')});
refused('INSERT', 'users', q{INSERT INTO users VALUES (1, 'x') ON CONFLICT DO NOTHING});
refused('UPDATE', 'users', q{UPDATE users SET name = 'x'});
refused('UPDATE', 'users', q{UPDATE users SET name = 'x' WHERE false});
refused('DELETE', 'users', q{DELETE FROM users});
refused('MERGE', 'users', q{MERGE INTO users u USING own.customers c ON u.id = c.id
	WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN DO NOTHING});
refused('DELETE', 'users', q{WITH gone AS (DELETE FROM users RETURNING *) SELECT * FROM gone});
refused('UPDATE', 'users', q{WITH changed AS (UPDATE users SET name = 'x' RETURNING id)
	INSERT INTO own.customers SELECT id + 1000 FROM changed});
refused('INSERT', 'users', q{WITH n AS (INSERT INTO own.customers VALUES (2000) RETURNING id)
	INSERT INTO users SELECT id, 'x' FROM n});
refused('INSERT', 'users', q{EXPLAIN ANALYZE INSERT INTO users VALUES (100, 'x')});
refused('INSERT', 'users', q{PREPARE p AS INSERT INTO users VALUES (100, 'x'); EXECUTE p});
refused('INSERT', 'users', q{SELECT add_user()});
refused('INSERT', 'users', q{DO $$ BEGIN INSERT INTO users VALUES (100, 'x'); END $$});
refused('INSERT', 'users', q{INSERT INTO ruled VALUES (100)});
refused('UPDATE', 'users', q{UPDATE user_names SET name = 'x'});
refused('DELETE', 'orders', q{DELETE FROM own.customers WHERE id = 1});
refused('COPY FROM', 'users', "COPY users FROM stdin;\n100\tx\n\\.\n");
refused('COPY FROM', 'events', "COPY events FROM stdin;\n100\ta\n\\.\n");

# Partitions and the table they are of
refused('INSERT', 'events', q{INSERT INTO events VALUES (100, 'a')});
refused('INSERT', 'events_a', q{INSERT INTO events_a VALUES (100, 'a')});
refused('UPDATE', 'events_a', q{UPDATE events SET kind = 'b' WHERE kind = 'a'});
refused('CREATE TABLE', 'events', q{CREATE TABLE own.events_c PARTITION OF events FOR VALUES IN ('c')});
refused('ALTER TABLE', 'events', q{ALTER TABLE events DETACH PARTITION events_a});
refused('ALTER TABLE', 'users', q{ALTER TABLE own.users INHERIT users});
refused('CREATE TABLE', 'users', q{CREATE TABLE own.child () INHERITS (users)});

# TRUNCATE
refused('TRUNCATE', 'items', q{TRUNCATE shop.items});
refused('TRUNCATE', 'events', q{TRUNCATE events});
refused('TRUNCATE', 'orders', q{TRUNCATE own.customers CASCADE});

# Schema
refused('ALTER TABLE', 'users', $_)
  for (
	q{ALTER TABLE users ADD COLUMN more int},
	q{ALTER TABLE users DROP COLUMN name},
	q{ALTER TABLE users ALTER COLUMN id TYPE bigint},
	q{ALTER TABLE users ALTER COLUMN name SET DEFAULT 'x'},
	q{ALTER TABLE users ADD UNIQUE (name)},
	q{ALTER TABLE users ADD CHECK (id > 0)},
	q{ALTER TABLE users DROP CONSTRAINT users_name_check},
	q{ALTER TABLE users RENAME TO people},
	q{ALTER TABLE users RENAME COLUMN name TO nick},
	q{ALTER TABLE users RENAME CONSTRAINT users_name_check TO named},
	q{ALTER TABLE users SET SCHEMA shop},
	q{ALTER TABLE users OWNER TO app},
	q{ALTER TABLE users SET UNLOGGED},
	q{ALTER TABLE users SET (fillfactor = 50)},
	q{ALTER TABLE users DISABLE TRIGGER USER},
	q{ALTER TABLE users ENABLE ROW LEVEL SECURITY},
	q{ALTER TABLE users REPLICA IDENTITY FULL},
	q{ALTER TABLE IF EXISTS users CLUSTER ON users_name});
refused('ALTER INDEX', 'users', q{ALTER INDEX users_name RENAME TO other});
refused('ALTER INDEX', 'users', q{ALTER INDEX users_name SET (fillfactor = 50)});
refused('CREATE INDEX', 'users', q{CREATE INDEX ON users (id, name)});
refused('CREATE INDEX', 'users', q{CREATE INDEX CONCURRENTLY ON users (id, name)});
refused('CREATE INDEX', 'events', q{CREATE INDEX ON events (id)});
refused('DROP INDEX', 'users', q{DROP INDEX users_name});
refused('DROP INDEX', 'users', q{DROP INDEX CONCURRENTLY users_name});
refused('CREATE TRIGGER', 'users', q{CREATE TRIGGER t BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION nop()});
refused('ALTER TRIGGER', 'labels', q{ALTER TRIGGER nop ON labels RENAME TO other});
refused('DROP TRIGGER', 'labels', q{DROP TRIGGER nop ON labels});
refused('CREATE RULE', 'users', q{CREATE RULE r AS ON INSERT TO users DO INSTEAD NOTHING});
refused('ALTER RULE', 'labels', q{ALTER RULE nothing ON labels RENAME TO other});
refused('DROP RULE', 'labels', q{DROP RULE nothing ON labels});
refused('CREATE POLICY', 'users', q{CREATE POLICY p ON users USING (true)});
refused('ALTER POLICY', 'labels', q{ALTER POLICY everyone ON labels USING (false)});
refused('DROP POLICY', 'labels', q{DROP POLICY everyone ON labels});
refused('DROP FUNCTION', 'labels', q{DROP FUNCTION nop() CASCADE});
refused('DROP FUNCTION', 'labels', q{DROP FUNCTION label() CASCADE});

# DROP, also on detours
refused('DROP TABLE', 'labels', q{DROP TABLE labels});
refused('DROP TABLE', 'users', q{DROP TABLE users CASCADE});
refused('DROP TABLE', 'events', q{DROP TABLE events});
refused('DROP SCHEMA', 'items', q{DROP SCHEMA shop CASCADE});
refused('DROP TABLE', 'orders', q{DROP TABLE own.customers CASCADE});
for my $command ('DROP OWNED BY app', 'REASSIGN OWNED BY app TO CURRENT_USER')
{
	my $tag = $command =~ s/ BY.*//r;
	($rc, $out, $err) = run_as($roles[1], $command);
	like($err, qr/25006: cannot execute $tag on replicated table/, "refused: $command");
}

# session_replication_role doesn't help, and only SET by a superuser turns it off
($rc, $out, $err) = run_as($roles[1], q{SET session_replication_role = replica; INSERT INTO users VALUES (100, 'x')});
like($err, qr/25006/, 'session_replication_role = replica is refused too');
($rc, $out, $err) = run_as('app', q{SET fanout.guard = off});
like($err, qr/42501: permission denied to set parameter "fanout.guard"/, 'only a superuser turns the guard off');
for my $statement ("ALTER ROLE $roles[1] SET fanout.guard = off", 'ALTER DATABASE postgres SET fanout.guard = off',
	"ALTER ROLE ALL SET fanout.guard = off", "ALTER ROLE $roles[1] IN DATABASE postgres SET fanout.guard = off",
	'ALTER SYSTEM SET fanout.guard = off', 'CREATE FUNCTION own.off() RETURNS int LANGUAGE sql SET fanout.guard = off RETURN 1')
{
	($rc, $out, $err) = run_as($roles[1], $statement);
	like($err, qr/22023: invalid value for parameter "fanout.guard".*can be turned off only by SET, for one session/s, "refused: $statement");
}
{
	local $ENV{PGOPTIONS} = '-c fanout.guard=off';
	($rc, $out, $err) = run_as($roles[1], 'SELECT 1');
	like($err, qr/"fanout.guard" can be turned off only by SET/, 'options of the connection do not turn it off');
}

# Rights of others, and ways around the session.
$follower->safe_psql('postgres', q{
	CREATE FUNCTION own.definer() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN INSERT INTO public.users VALUES (100, 'x'); END $$;
	CREATE FUNCTION own.definer_ddl() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN ALTER TABLE public.users ADD more int; END $$;
	CREATE FUNCTION own.fire() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN DELETE FROM public.users; RETURN NULL; END $$;
	CREATE TABLE own.fires (id int);
	ALTER TABLE own.fires OWNER TO app;
	CREATE TRIGGER fire AFTER INSERT ON own.fires FOR EACH ROW EXECUTE FUNCTION own.fire();
	CREATE PROCEDURE own.commits() LANGUAGE plpgsql AS $$ BEGIN COMMIT; UPDATE public.users SET name = 'x'; END $$;
	CREATE EXTENSION postgres_fdw;
	CREATE SERVER loop FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '} . $follower->host . q{', port '} . $follower->port . q{', dbname 'postgres');
	CREATE USER MAPPING FOR PUBLIC SERVER loop OPTIONS (user 'postgres', password_required 'false');
	CREATE FOREIGN TABLE own.looped (id int, name text) SERVER loop OPTIONS (schema_name 'public', table_name 'users');
	GRANT ALL ON own.looped TO app;
	CREATE VIEW own.nested AS SELECT * FROM user_names;
	ALTER VIEW own.nested OWNER TO app});
refused('INSERT', 'users', 'SELECT own.definer()');
refused('ALTER TABLE', 'users', 'SELECT own.definer_ddl()');
refused('DELETE', 'users', 'INSERT INTO own.fires VALUES (1)');
refused('UPDATE', 'users', 'CALL own.commits()');
refused('INSERT', 'users', q{INSERT INTO own.looped VALUES (100, 'x')});
refused('UPDATE', 'users', q{UPDATE own.looped SET name = 'x' WHERE id = 1});
refused('DELETE', 'users', q{DELETE FROM own.looped});
refused('TRUNCATE', 'users', q{TRUNCATE own.looped});
refused('INSERT', 'users', q{INSERT INTO own.nested VALUES (100, 'x')});
refused('CREATE FOREIGN TABLE', 'users', q{CREATE FOREIGN TABLE own.child () INHERITS (users) SERVER loop});
refused('DELETE', 'users', q{SET ROLE app; DELETE FROM users});
refused('UPDATE', 'users', q{SET SESSION AUTHORIZATION app; UPDATE users SET name = 'x'});
$follower->safe_psql('postgres', q{SET client_min_messages = warning; DROP EXTENSION postgres_fdw CASCADE; DROP TABLE own.fires; DROP VIEW own.nested});

# A table is a stream's or a subscription's.
$leader->safe_psql('postgres', 'CREATE PUBLICATION all_users FOR TABLE users');
my $publisher = conninfo($leader) =~ s/'/''/gr;
for my $options ('create_slot = false, enabled = false, slot_name = NONE', 'create_slot = false, enabled = false, slot_name = NONE, copy_data = false')
{
	($rc, $out, $err) = run_as($roles[1], "CREATE SUBSCRIPTION other CONNECTION '$publisher' PUBLICATION all_users WITH (connect = true, $options)");
	like($err, qr/25006: cannot execute CREATE SUBSCRIPTION on replicated table "users"/, "refused: CREATE SUBSCRIPTION with $options");
}
$leader->safe_psql('postgres', 'DROP PUBLICATION all_users');

# A function that maintenance calls gets no further than others.
$follower->safe_psql('postgres', q{
	CREATE FUNCTION own.empty() RETURNS void LANGUAGE plpgsql AS $$ BEGIN TRUNCATE public.labels; END $$;
	CREATE FUNCTION own.sly(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
	BEGIN
		IF current_setting('own.armed', true) = 'yes' THEN PERFORM own.empty(); END IF;
		RETURN $1;
	END $$;
	CREATE TABLE own.trap (id int);
	INSERT INTO own.trap SELECT generate_series(1, 10);
	CREATE INDEX trap_sly ON own.trap (own.sly(id))});
for my $command ('ANALYZE own.trap', 'REINDEX TABLE own.trap', 'CLUSTER own.trap USING trap_sly', 'VACUUM FULL own.trap')
{
	($rc, $out, $err) = run_as($roles[1], "SET own.armed = 'yes';\n$command");
	like($err, qr/25006: cannot execute TRUNCATE/, "$command: a function in an index is refused TRUNCATE");
}

# What stays allowed
allowed($_)
  for (
	q{SELECT * FROM users ORDER BY id FOR UPDATE},
	q{SELECT * FROM users ORDER BY id FOR KEY SHARE},
	q{BEGIN; LOCK users; COMMIT},
	q{COPY users TO stdout},
	q{EXPLAIN INSERT INTO users VALUES (100, 'x')},
	q{EXPLAIN DELETE FROM users},
	q{VACUUM users},
	q{VACUUM (FULL, ANALYZE) users},
	q{ANALYZE users},
	q{REINDEX TABLE users},
	q{REINDEX TABLE CONCURRENTLY users},
	q{REINDEX INDEX CONCURRENTLY users_name},
	q{CLUSTER users USING users_name},
	q{COMMENT ON TABLE users IS 'a copy'},
	q{GRANT SELECT ON users TO PUBLIC},
	q{CREATE TABLE own.copy AS SELECT * FROM users; DROP TABLE own.copy},
	q{CREATE TABLE own.copy (LIKE users INCLUDING ALL); INSERT INTO own.copy SELECT * FROM users; TRUNCATE own.copy; DROP TABLE own.copy},
	q{CREATE VIEW own.v AS SELECT * FROM users; DROP VIEW own.v},
	q{CREATE TEMP TABLE t AS SELECT * FROM users; UPDATE t SET name = 'x'; DROP TABLE t},
	q{CREATE TABLE own.fk (id int REFERENCES users); INSERT INTO own.fk VALUES (1); ALTER TABLE own.fk ADD more int; DROP TABLE own.fk},
	q{INSERT INTO own.notes SELECT id, name FROM users; UPDATE own.notes SET note = 'x'; DELETE FROM own.notes},
	"COPY own.notes FROM stdin;\n1\tx\n\\.\nTRUNCATE own.notes",
	q{CREATE INDEX i ON own.notes (note); DROP INDEX own.i});

# The stream went on all the while.
is(schema_of_users($follower), schema_of_users($leader), 'no schema change got through');
$leader->safe_psql('postgres', q{INSERT INTO users VALUES (50, 'fifty'); UPDATE events SET kind = 'b' WHERE id = 1});
wait_for_catchup($leader, $follower);
is($follower->safe_psql('postgres', 'SELECT name FROM users WHERE id = 50'), 'fifty', 'the stream goes on');

# The guard holds when the server has just started and the leader is away.
$leader->stop;
$follower->restart;
refused('INSERT', 'users', q{INSERT INTO users VALUES (100, 'x')});
($rc, $out, $err) = run_as('app', q{TRUNCATE shop.items});
like($err, qr/copy of stream "app".*HINT:  Write to the leader: /s, 'after a restart it still names stream and leader');
$leader->start;

# A superuser may turn it off for one session.
allowed(q{SET fanout.guard = off; BEGIN; INSERT INTO users VALUES (100, 'x'); TRUNCATE events;
	ALTER TABLE users ADD COLUMN more int; DROP TABLE labels; ROLLBACK}, $roles[1]);
allowed(q{BEGIN; SET LOCAL fanout.guard = off; UPDATE users SET name = name; ROLLBACK}, $roles[1]);
refused('INSERT', 'users', q{INSERT INTO users VALUES (100, 'x')});

# Local foreign keys to and from replicated tables, out of the way again.
$follower->safe_psql('postgres', q{SET client_min_messages = warning; SET fanout.guard = off;
	ALTER TABLE orders DROP CONSTRAINT orders_customer; DROP SCHEMA own CASCADE});
wait_for_catchup($leader, $follower);
same_data('after all of it', $leader, $follower);

# Sessions that live through unfollow and follow notice both, in plans they have too.
my $session = $follower->background_psql('postgres', on_error_stop => 0);
$session->query('SET client_min_messages = error');
$session->query(q{PREPARE add_user AS INSERT INTO users VALUES (200, 'session')});
$session->query('EXECUTE add_user');
like($session->{stderr}, qr/cannot execute INSERT on replicated table "users"/, 'a prepared statement is refused');
$session->{stderr} = '';

$follower->safe_psql('postgres', q{SELECT fanout.unfollow('app')});
$session->query('EXECUTE add_user');
is($session->{stderr}, '', 'the same statement works after unfollow');
allowed(q{INSERT INTO users VALUES (201, 'x'); DELETE FROM users WHERE id = 201; BEGIN; TRUNCATE events;
	ALTER TABLE users ADD COLUMN more int; CREATE INDEX ON users (more); DROP TABLE labels; ROLLBACK});

wait_until('the follower to be forgotten',
	sub { $leader->safe_psql('postgres', 'SELECT count(*) FROM fanout.followers') eq '0' });
follow($follower, $leader, 'copy_schema => false');
wait_for_copy($follower);
$session->query('EXECUTE add_user');
like($session->{stderr}, qr/cannot execute INSERT on replicated table "users"/, 'and is refused after follow');
$session->quit;
same_data('after following again', $leader, $follower);

$leader->stop;
$follower->stop;
done_testing();
