# Who may do what: grants of streams on the leader; on a follower, code of table owners,
# a leader with bad intentions, passwords; and every function with arguments that
# nobody should give.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use Forge;
use Proxy;
use PostgreSQL::Test::Utils;
use Test::More;

my $leader = new_leader('leader');
$leader->safe_psql('postgres', q{
	CREATE ROLE shop LOGIN; CREATE ROLE other LOGIN; CREATE ROLE stranger LOGIN;
	CREATE ROLE reader LOGIN PASSWORD 'sesame' IN ROLE fanout_follower;
	CREATE ROLE readers ROLE reader;
	GRANT CREATE ON DATABASE postgres TO shop; GRANT CREATE ON SCHEMA public TO shop;
	CREATE TABLE others (id int PRIMARY KEY); ALTER TABLE others OWNER TO other;
	CREATE PUBLICATION others FOR TABLE others; ALTER PUBLICATION others OWNER TO shop;
	SET ROLE shop;
	CREATE TABLE goods (id int PRIMARY KEY, name varchar(5), ok bool, price numeric);
	CREATE PUBLICATION goods FOR TABLE goods;
	INSERT INTO goods VALUES (1, 'one', true, 1.5)});

# The result of a query as some role: its output or its error.
sub as
{
	my ($node, $role, $query) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', "SET ROLE $role; $query");
	return $rc == 0 ? $out : $err;
}

# ---------- streams ----------

like(as($leader, 'shop', q{SELECT fanout.create_stream('all')}), qr/must be superuser to stream every table/,
	'every table takes a superuser');
like(as($leader, 'shop', q{SELECT fanout.create_stream('others', '{others}')}), qr/must be owner of table others/,
	'a publication of foreign tables is not enough');
like(as($leader, 'other', q{SELECT fanout.create_stream('goods', '{goods}')}), qr/must be owner of publication goods/,
	'nor are tables without the publication');
is(as($leader, 'shop', q{SELECT fanout.create_stream('goods', '{goods}')}), '', 'the owner of both may');
wait_until('the streams', sub { $leader->safe_psql('postgres',
			q{SELECT count(*) = 2 FROM fanout.streams WHERE state = 'streaming'}) eq 't' });
is(as($leader, 'stranger', 'SELECT count(*) FROM fanout.streams'), '0', 'a stranger sees no stream');
is(as($leader, 'shop', 'SELECT stream FROM fanout.streams'), 'goods', 'an owner sees his own');
like(as($leader, 'shop', q{SELECT fanout.drop_stream('app')}), qr/must be owner of stream/, '... and drops no other');
like(as($leader, 'other', q{SELECT fanout.grant_stream('goods', 'other')}), qr/must be owner of stream/,
	'nobody grants what is not his');

my $uuid = '11111111-1111-1111-1111-111111111111';
sub follower_calls
{
	my ($stream) = @_;
	return ("SELECT state FROM fanout.stream_info('$stream', 2)",
		"SELECT relname FROM fanout.stream_tables('$stream')",
		"SELECT fanout.register_follower('$stream', 'f', '$uuid', NULL, NULL) > '0/0'",
		"SELECT fanout.unregister_follower('$stream', 'f', '$uuid', 0)",
		"CALL fanout.send_changes('$stream', 'f', '$uuid', '0/0', '$uuid', '0/0', 2)");
}
for my $call (follower_calls('goods'), 'SELECT fanout.flush_wal()')
{
	like(as($leader, 'stranger', $call), qr/permission denied for (function|procedure)/, "a stranger: $call");
	like(as($leader, 'reader', $call), qr/permission denied for stream|no stream .* is granted/, "without a grant: $call");
}
as($leader, 'shop', q{SELECT fanout.grant_stream('goods', 'readers')});
like(as($leader, 'reader', $_), qr/permission denied for stream "app"/, "with a grant of another stream: $_")
  for follower_calls('app');
is_deeply([ map { as($leader, 'reader', $_) } (follower_calls('goods'))[ 0 .. 3 ] ],
	[ 'streaming', 'goods', 't', '' ], 'with a grant, by way of a role, they work');
like(as($leader, 'reader', 'SELECT fanout.flush_wal()'), qr{^\w+/\w+$}, 'and so does flush_wal()');
like(as($leader, 'reader', 'SELECT * FROM goods'), qr/permission denied for table/, 'the grant is not one of the table');
like(as($leader, 'reader', 'SELECT * FROM fanout.stream'), qr/permission denied/, 'nor of our tables');
as($leader, 'shop', q{SELECT fanout.revoke_stream('goods', 'readers')});
like(as($leader, 'reader', (follower_calls('goods'))[0]), qr/permission denied for stream/, 'revoked');
as($leader, 'shop', q{GRANT SELECT ON goods TO reader; SELECT fanout.grant_stream('goods', 'reader')});

# ---------- a follower with an ordinary login, and what its log says ----------

my $hba = $leader->data_dir . '/pg_hba.conf';
my $rules = slurp_file($hba);
unlink $hba;
append_to_file($hba, "local all reader scram-sha-256\n$rules");
$leader->reload;

my $proxy = Proxy->new($leader);
my $follower = new_follower('follower', 'fanout.retry_interval = 100', 'fanout.heartbeat_interval = 50');
$follower->safe_psql('postgres', 'CREATE ROLE shop; CREATE ROLE reader; CREATE ROLE mallory; CREATE ROLE stranger;
	CREATE TABLE goods (id int PRIMARY KEY, name varchar(5), ok bool, price numeric)');
my $conninfo = $proxy->conninfo . ' user=reader password=';
for my $bad ("${conninfo}'open sesame'", "${conninfo}sesame sesame", "${conninfo}sesame foo=bar")
{
	my ($rc) = $follower->psql('postgres', "SELECT fanout.follow('goods', '" . $bad =~ s/'/''/gr . "')");
	isnt($rc, 0, 'a connection string that can not work');
}
$follower->safe_psql('postgres', "SELECT fanout.follow('goods', '${conninfo}sesame', copy_schema => false)");
wait_until('the copy', sub { $follower->safe_psql('postgres', 'SELECT state FROM fanout.staleness') eq 'streaming' });
unlike(slurp_file($follower->logfile), qr/sesame/, 'no password is in the log');
is(as($follower, 'stranger', q{SELECT count(*) FROM fanout.staleness WHERE leader ~ 'host' AND leader !~ 'sesame'}),
	'1', 'everybody sees the leader without it');
like(as($follower, 'stranger', 'SELECT * FROM fanout.followed_stream'), qr/permission denied/, '... and nobody our tables');
like(as($follower, 'shop', "SELECT fanout.$_"), qr/permission denied/, "$_ takes a superuser")
  for q{follow('x', 'host=y')}, q{unfollow('goods')}, q{pause('goods')}, q{resume('goods')}, q{resync('goods')};

sub streams
{
	wait_until('the stream to go on', sub { $follower->safe_psql('postgres',
				q{SELECT state FROM fanout.staleness}) eq 'streaming' });
	my $lsn = $leader->safe_psql('postgres', 'SELECT fanout.flush_wal()');
	wait_until("$lsn", sub { $follower->safe_psql('postgres',
				qq{SELECT applied_lsn >= '$lsn' FROM fanout.staleness}) eq 't' });
	return;
}
sub same_goods
{
	my ($what) = @_;
	my $query = 'SELECT id, name, ok, price FROM goods ORDER BY id';
	is($follower->safe_psql('postgres', $query), $leader->safe_psql('postgres', $query), $what);
	return;
}

# ---------- a table owner with bad intentions ----------

# Each kind of code that a table can have, noting who runs it and trying to stay.  Nobody
# here reads the table meanwhile: planning a query runs some of it, too.
$follower->safe_psql('postgres', q{
	SET fanout.guard = off;
	CREATE TABLE public.seen (what text, who text, super text);
	GRANT INSERT ON seen TO PUBLIC;
	CREATE FUNCTION public.note(what text) RETURNS void LANGUAGE plpgsql AS 'BEGIN END';
	CREATE FUNCTION public.code(what text, value int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
		BEGIN PERFORM public.note(what); RETURN value; END $$;
	CREATE FUNCTION public.fire() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN PERFORM public.note(TG_NAME); RETURN coalesce(NEW, OLD); END $$;
	ALTER TABLE goods ADD more int DEFAULT public.code('default', 1),
		ADD made int GENERATED ALWAYS AS (public.code('generated', id)) STORED,
		ADD CHECK (public.code('check', id) = id);
	CREATE INDEX ON goods (public.code('index', id));
	CREATE INDEX ON goods (id) WHERE public.code('predicate', 1) = 1;
	CREATE TRIGGER before_row BEFORE INSERT OR UPDATE OR DELETE ON goods FOR EACH ROW EXECUTE FUNCTION fire();
	CREATE TRIGGER after_row AFTER INSERT OR UPDATE OR DELETE ON goods FOR EACH ROW EXECUTE FUNCTION fire();
	CREATE TRIGGER emptied AFTER TRUNCATE ON goods EXECUTE FUNCTION fire();
	CREATE CONSTRAINT TRIGGER deferred AFTER INSERT OR UPDATE OR DELETE ON goods
		DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fire();
	ALTER TABLE goods ENABLE ALWAYS TRIGGER before_row, ENABLE ALWAYS TRIGGER emptied,
		ENABLE REPLICA TRIGGER after_row, ENABLE ALWAYS TRIGGER deferred, OWNER TO mallory;
	CREATE OR REPLACE FUNCTION public.note(what text) RETURNS void LANGUAGE plpgsql AS $$
		BEGIN
			INSERT INTO public.seen VALUES (what, current_user,
				(SELECT rolsuper FROM pg_roles WHERE rolname = current_user));
			SET statement_timeout = '7s';
			BEGIN
				EXECUTE 'RESET ROLE';
				INSERT INTO public.seen VALUES (what || ': reset role', current_user, 'yes');
			EXCEPTION WHEN OTHERS THEN NULL;
			END;
			BEGIN
				EXECUTE 'ALTER ROLE mallory SUPERUSER';
			EXCEPTION WHEN OTHERS THEN NULL;
			END;
		END $$;});
sub seen
{
	return $follower->safe_psql('postgres', q{SELECT string_agg(DISTINCT what, ' ' ORDER BY what) FROM seen});
}
my $all_code = 'after_row before_row check default deferred generated index predicate';
$leader->safe_psql('postgres', q{INSERT INTO goods VALUES (2, 'two'), (3, 'three'); UPDATE goods SET name = 'zwei' WHERE id = 2;
	DELETE FROM goods WHERE id = 3});
streams();
is(seen(), $all_code, 'all of it ran');
$leader->safe_psql('postgres', 'TRUNCATE goods; INSERT INTO goods SELECT g FROM generate_series(1, 20) g');
streams();
is(seen(), $all_code =~ s/deferred/deferred emptied/r, 'TRUNCATE has its trigger run');
is($follower->safe_psql('postgres', q{SELECT DISTINCT who, super FROM seen}), 'mallory|false',
	'the owner ran it while changes were applied');
$follower->safe_psql('postgres', 'TRUNCATE seen');
$follower->safe_psql('postgres', q{SELECT fanout.resync('goods')});
wait_until('the resync', sub { seen() eq $all_code =~ s/deferred/deferred emptied/r });
streams();
is($follower->safe_psql('postgres', q{SELECT DISTINCT who, super FROM seen}), 'mallory|false',
	'... and while they were copied');
is($follower->safe_psql('postgres', q{SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'}), 'f', 'no rights were won');
$follower->safe_psql('postgres', q{SET fanout.guard = off; DROP FUNCTION code, fire CASCADE; ALTER TABLE goods DROP more});
same_goods('and all is there');

# ---------- a leader with bad intentions ----------

my @goods = (77, 'public', 'goods', [ 'id', 23, 4, 'f', 1 ]);
my $nobody = pack('a N C', 'I', 78, 0);
my $row = pack('a N C', 'I', 77, 0) . pack('l', 99);
my @forged = (
	[ 'nonsense', frames('nonsense nonsense nonsense'), qr/invalid change log frame/ ],
	[ 'a wrong checksum', frames(frame('R', 0, 'x') =~ s/^./\xff/sr), qr/The checksum is wrong/ ],
	[ 'half a frame', frames(substr(transaction(''), 0, 30)), qr/ends in the middle of a frame/ ],
	[ 'a huge frame', frames(pack('NNaCn', 0, 0xFFFFFFFF, 'C', 3, 0)), qr/The length is out of range/ ],
	[ 'an unknown message', '5a5a', qr/unexpected message from the leader/ ],
	[ 'a relation without an end', frames(frame('R', 0, pack('N n', 77, 9999))), qr/invalid relation description/ ],
	[ 'a relation never described', frames(transaction(pack('a N C', 'I', 4711, 0))), qr/Relation 4711 was not described/ ],
	[ 'a row without an end', frames(relation(@goods), transaction(pack('a N C', 'I', 77, 0))), qr/It ends too early/ ],
	[ 'a change of a catalog', frames(relation(78, 'pg_catalog', 'pg_authid'), transaction($nobody)),
		qr/cannot replicate into relation "pg_catalog.pg_authid"/ ],
	[ 'a TRUNCATE of a catalog', frames(relation(78, 'pg_catalog', 'pg_class'), transaction(pack('a C N N', 'T', 0, 1, 78))),
		qr/cannot replicate into relation "pg_catalog.pg_class"/ ],
	[ 'a change of our own tables', frames(relation(78, 'fanout', 'followed_stream'), transaction($nobody)),
		qr/cannot replicate into relation "fanout.followed_stream"/ ],
	[ 'a change of a view', frames(relation(78, 'fanout', 'staleness'), transaction($nobody)), qr/cannot replicate into relation/ ],
	[ 'raw bytes of a type that has a form', frames(relation(@goods, [ 'price', 1700, 0xFFFF, 'v', 0 ]),
			transaction($row . pack('C/a', "\xff" x 9))), qr/form that its type does not have/ ],
	[ 'a pointer for a value', frames(relation(@goods, [ 'price', 2281, 8, 'f', 0 ]), transaction($row . "\x41" x 8)),
		qr/form that its type does not have|display a value/ ],
	[ 'a type that is not built in', frames(relation(@goods, [ 'price', 20000, 0xFFFF, 'v', 0 ]), transaction($row . "\1x")),
		qr/needs a built-in type/ ],
	[ 'a boolean that is none', frames(relation(@goods, [ 'ok', 16, 1, 'f', 0 ]), transaction("$row\x07")),
		qr/invalid value of type with OID 16/ ],
	[ 'bytes that are not UTF-8', frames(relation(@goods, [ 'name', 1043, 0xFFFF, 'v', 0 ]), transaction("$row\2\xff\xff")),
		qr/invalid byte sequence/ ],
	[ 'a text that is too long', frames(relation(@goods, [ 'name', 1043, 0xFFFF, 'v', 0 ]), transaction("$row\6sixsix")),
		qr/too long/ ],
	[ 'a value of the wrong size', frames(relation(77, 'public', 'goods', [ 'id', 23, 8, 'f', 1 ]),
			transaction(pack('a N C', 'I', 77, 0) . 'eight...')), qr/wrong size/ ],
	[ 'a commit that ends where it begins', frames(transaction('', record => 0)), qr/length of the commit record is out of range/ ],
	[ 'a commit that begins before all WAL', frames(transaction('', record => 8, end => 7)), qr/length of the commit record is out of range/ ],
	[ 'transactions in the wrong order', frames(transaction('', end => 1 << 47), transaction('', end => 1 << 46)), qr/out of order/ ],
	[ 'a transaction in another', frames(transaction('', flags => 1), transaction('')), qr/out of order/ ],
	[ 'a commit at no time', frames(transaction('', time => ~0 >> 1)), qr/commit time out of range/ ],
	(map { [ "a schema change that is none: $_", frames(transaction(statement('postgres', $_))), qr/statement that is no schema change/ ] }
		  q{INSERT INTO goods VALUES (4711)}, q{COPY (SELECT 1) TO PROGRAM 'touch /tmp/never'}, q{COPY goods FROM PROGRAM 'id'},
		  q{DO 'BEGIN END'}, 'ALTER ROLE mallory SUPERUSER', 'CREATE ROLE evil SUPERUSER', 'GRANT pg_execute_server_program TO mallory',
		  q{ALTER SYSTEM SET archive_command = 'id'}, q{SET ROLE postgres}, 'CALL public.nothing()', q{LOAD 'plpgsql'}, 'COMMIT',
		  'SELECT pg_reload_conf()', 'DROP DATABASE postgres', 'VACUUM', 'CHECKPOINT', 'LOCK goods', 'TRUNCATE goods'),
	[ 'a schema change without an end', frames(transaction(substr(statement('shop', 'CREATE TABLE public.x ()'), 0, 20))), qr/invalid|ends too early/i ],
	[ 'a schema change by nobody', frames(transaction(statement('', 'CREATE TABLE public.x ()'))), qr/role "" does not exist/ ],
	[ 'a schema change of bytes that are not UTF-8', frames(transaction(statement('shop', "CREATE TABLE \xff ()"))), qr/not valid in the database's encoding/ ],
	[ 'a setting for superusers', frames(transaction(statement('shop', 'CREATE TABLE public.x ()', 'session_preload_libraries', 'evil'))),
		qr/permission denied to set parameter/ ],
	[ 'a schema change that the role may not make', frames(transaction(statement('shop', 'ALTER TABLE public.seen OWNER TO shop'))),
		qr/must be owner of table seen/ ],
	[ 'a way back to more rights', frames(transaction(statement('shop', 'CREATE TABLE public.x ()', 'role', 'postgres'))),
		qr/cannot set parameter "role"/ ],
	[ 'progress past the end of the WAL', progress(1 << 50, 1 << 49), qr/impossible position/ ],
	[ 'progress that goes back', progress(1, 2), qr/impossible position/ ],
	[ 'progress without an end', '50', qr/insufficient data left in message/ ],
);
for my $forged (@forged)
{
	my ($what, $message, $error) = @$forged;
	my $id = $leader->safe_psql('postgres', q{INSERT INTO goods SELECT max(id) + 1 FROM goods RETURNING id});
	streams();
	my $before = $follower->safe_psql('postgres', 'SELECT clock_timestamp()');
	$proxy->order("forge $message");
	wait_until("the error of $what", sub { $follower->safe_psql('postgres',
				qq{SELECT last_error FROM fanout.staleness WHERE last_error_at > '$before'}) =~ $error });
	pass("$what is refused");
	$follower->safe_psql('postgres', q{SELECT fanout.resume('goods')});
}
streams();
same_goods('nothing of it was applied');

# Nor is what it says a superuser did, when that was not allowed to it.
$follower->append_conf('postgresql.conf', 'fanout.superuser_schema_changes = off');
$follower->reload;
my $not_before = $follower->safe_psql('postgres', 'SELECT clock_timestamp()');
$proxy->order('forge ' . frames(transaction(statement('postgres', q{CREATE FUNCTION public.evil() RETURNS int LANGUAGE sql AS 'SELECT 1'}))));
wait_until('the refusal', sub { $follower->safe_psql('postgres', qq{SELECT last_error FROM fanout.staleness WHERE last_error_at > '$not_before'})
		  =~ /a schema change as role "postgres" is refused.*CREATE FUNCTION public.evil/s });
pass('a schema change as a superuser is refused when it is not allowed');
streams();
is($follower->safe_psql('postgres', q{SELECT count(*) FROM pg_proc WHERE proname = 'evil'}), '0', '... and not made');

# An empty transaction far ahead: it moves the follower to a place that the leader's history
# does not have, which is found out at the next connection.
my $until = $follower->safe_psql('postgres', 'SELECT clock_timestamp()');
$proxy->order('forge ' . frames(transaction('')));
wait_until('the jump', sub { $follower->safe_psql('postgres', q{SELECT applied_lsn > '1000/0' FROM fanout.staleness}) eq 't' });
$leader->safe_psql('postgres', 'INSERT INTO goods SELECT max(id) + 1 FROM goods');
$proxy->order($_) for 'cut', 'pass';
wait_until('the new copy', sub { $follower->safe_psql('postgres', qq{
			SELECT copied_at > '$until' FROM fanout.followed_table}) eq 't' });
streams();
same_goods('a follower that was sent ahead is lost and copies again');
is($follower->safe_psql('postgres', q{SELECT count(*) FROM pg_authid WHERE rolname = ''}), '0', 'the catalogs are as they were');
unlike(slurp_file($follower->logfile), qr/terminated by signal|PANIC/, 'no process crashed');

# ---------- a grant that is taken back ----------

as($leader, 'shop', q{SELECT fanout.revoke_stream('goods', 'reader')});
wait_until('the follower to be ended', sub { $follower->safe_psql('postgres', q{
			SELECT last_error FROM fanout.staleness WHERE state = 'failed'}) =~ /permission (denied )?for stream "goods"/ });
is($leader->safe_psql('postgres', q{SELECT sender_pid IS NULL FROM fanout.followers}), 't', 'a revoked role is disconnected');
as($leader, 'shop', q{SELECT fanout.grant_stream('goods', 'reader')});
streams();
same_goods('with the grant it goes on');

# ---------- arguments that nobody should give ----------

my %values = (
	null => sub { 'NULL' },
	empty => sub {
		my %of = (name => q{''}, text => q{''}, integer => 0, bigint => 0, interval => q{'0'}, boolean => 'false',
			uuid => "'$uuid'", pg_lsn => q{'0/0'}, regclass => '0', 'name[]' => q{'{}'}, oid => 0);
		$of{ $_[0] } // 'NULL';
	},
	huge => sub {
		my %of = (name => 'repeat($$x$$, 63)', text => 'repeat($$x$$, 100000)', integer => 2147483647,
			bigint => 9223372036854775807, interval => q{'178000000 years'}, boolean => 'true', uuid => "'$uuid'",
			pg_lsn => q{'FFFFFFFF/FFFFFFFF'}, regclass => q{'pg_class'}, 'name[]' => q{array_fill('goods'::name, '{100}')},
			oid => 4294967295);
		$of{ $_[0] } // 'NULL';
	},
	negative => sub {
		my %of = (name => q{'%s"; --'}, text => q{E'\\n%s\\'; --'}, integer => -2147483648, bigint => -9223372036854775808,
			interval => q{'-178000000 years'}, boolean => 'false', uuid => "'$uuid'", pg_lsn => q{'0/1'}, regclass => '4711',
			'name[]' => q{'{NULL}'}, oid => 1);
		$of{ $_[0] } // 'NULL';
	},
	# A stream there is, of another owner.
	foreign => sub {
		my %of = (name => q{'goods'}, text => q{'0/1'}, integer => 1, bigint => 1, interval => q{'10 ms'}, boolean => 'false',
			uuid => "'$uuid'", pg_lsn => q{'0/1'}, regclass => q{'goods'}, 'name[]' => q{'{goods}'}, oid => 1);
		$of{ $_[0] } // 'NULL';
	});

sub calls
{
	my ($node) = @_;
	my @calls;
	for my $line (split /\n/, $node->safe_psql('postgres', q{
			SELECT p.proname, p.prokind, coalesce((SELECT string_agg(format_type(t, NULL), '|' ORDER BY n)
				FROM unnest(p.proargtypes) WITH ORDINALITY AS a (t, n)), '')
			FROM pg_proc p WHERE pronamespace = 'fanout'::regnamespace AND prorettype <> 'trigger'::regtype
			  AND prorettype <> 'event_trigger'::regtype ORDER BY 1}))
	{
		my ($name, $kind, @types) = split /\|/, $line;
		for my $value (values %values)
		{
			my $call = "fanout.$name(" . join(', ', map { $value->($_) } @types) . ')';
			push @calls, $kind eq 'p' ? "CALL $call" : "SELECT * FROM $call";
		}
	}
	return @calls;
}

# Every call, in blocks of every kind: errors are welcome, but neither internal ones nor crashes.
sub abuse
{
	my ($node, $role) = @_;
	my $script = "\\set VERBOSITY verbose\nSET ROLE $role; SET statement_timeout = '300ms';\n";
	my @calls = grep { !/fanout\.(drop_stream|unfollow|resync|pause)\(.*goods/ || $role ne 'postgres' } calls($node);
	for my $call (@calls)
	{
		$script .= "BEGIN; $call; ROLLBACK;\nBEGIN READ ONLY; $call; COMMIT;\n"
		  . "BEGIN; SAVEPOINT s; $call; ROLLBACK TO s; SELECT 1; COMMIT;\n"
		  . "SET force_parallel_mode = on; $call; RESET force_parallel_mode;\n";
	}
	my ($rc, $out, $err) = $node->psql('postgres', $script, on_error_stop => 0);
	unlike($err, qr/server closed the connection|connection to server was lost/, $node->name . ", $role: no crash");
	unlike($err, qr/ERROR:  XX/, $node->name . ", $role: no internal error") or diag(join "\n", $err =~ /(.*ERROR:  XX.*\n.*)/g);
	cmp_ok(scalar @calls, '>=', 100, 'all functions were called');
	return;
}
abuse($leader, $_) for 'stranger', 'reader', 'postgres';
abuse($follower, $_) for 'stranger', 'postgres';
is($_->safe_psql('postgres', q{SELECT count(*) FROM pg_proc WHERE pronamespace = 'fanout'::regnamespace AND proparallel <> 'u'}),
	'0', 'no function that looks at our state runs in parallel workers') for $leader;
$leader->safe_psql('postgres', 'INSERT INTO goods SELECT max(id) + 1 FROM goods');
streams();
same_goods('the stream goes on after all that');
is(as($leader, 'postgres', q{SELECT string_agg(stream, ' ' ORDER BY stream) FROM fanout.streams}), 'app goods', 'the streams are as they were');

$proxy->stop;
$_->stop for $follower, $leader;
done_testing();
