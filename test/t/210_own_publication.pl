# The publication of a stream of every table: the stream does not depend on it, and it stays as it is.
use strict;
use warnings FATAL => 'all';
use lib 'lib';
use Fanout;
use Test::More;

my $leader = new_leader('leader');
my $follower = new_follower('follower');
$leader->safe_psql('postgres', q{
	CREATE TABLE t (id int PRIMARY KEY, v int);
	CREATE TABLE keyless (id int, v int);
	CREATE TABLE part (id int PRIMARY KEY) PARTITION BY RANGE (id);
	CREATE TABLE part_low PARTITION OF part FOR VALUES FROM (0) TO (100);
	CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY);
	CREATE PUBLICATION other FOR TABLE t;
	CREATE ROLE owner SUPERUSER;
	CREATE FUNCTION alter_it() RETURNS void LANGUAGE plpgsql AS
		$$ BEGIN EXECUTE 'ALTER PUBLICATION fanout_app SET (publish = ''insert'')'; END $$;
	INSERT INTO t VALUES (1, 1)});
follow($follower, $leader);
wait_for_copy($follower);

# Nobody changes it.
for my $command (
	q{ALTER PUBLICATION fanout_app SET (publish = 'insert')},
	q{ALTER PUBLICATION fanout_app SET (publish_via_partition_root)},
	q{ALTER PUBLICATION fanout_app RENAME TO mine},
	q{ALTER PUBLICATION fanout_app OWNER TO owner},
	q{DROP PUBLICATION fanout_app},
	q{DROP PUBLICATION IF EXISTS missing, other, fanout_app CASCADE},
	q{DO $$ BEGIN DROP PUBLICATION fanout_app; END $$},
	q{SELECT alter_it()})
{
	my ($rc, $out, $err) = $leader->psql('postgres', "\\set VERBOSITY verbose\n$command;");
	like($err, qr/ERROR:  55006: cannot (alter|drop) publication "fanout_app"\nDETAIL:  It belongs to stream "app"[^\n]*\nHINT:  fanout\.drop_stream/,
		$command);
}
for my $command (q{ALTER PUBLICATION fanout_app ADD TABLE t}, q{ALTER PUBLICATION fanout_app SET TABLE t},
	q{ALTER PUBLICATION fanout_app DROP TABLE t}, q{DROP OWNED BY postgres}, q{REASSIGN OWNED BY postgres TO owner})
{
	my ($rc, $out, $err) = $leader->psql('postgres', $command);
	like($err, qr/ERROR:  /, $command);
}
is($leader->safe_psql('postgres', q{COMMENT ON PUBLICATION fanout_app IS 'ours';
		SELECT string_agg(pubname || ' ' || puballtables || pubinsert || pubupdate || pubdelete || pubtruncate || pubviaroot, ',' ORDER BY pubname) FROM pg_publication}),
	'fanout_app truetruetruetruetruefalse,other falsetruetruetruetruefalse', 'it is as it was');
my ($rc, $out, $err) = $leader->psql('postgres', 'INSERT INTO keyless VALUES (1, 1); UPDATE keyless SET v = 2');
like($err, qr/cannot update table "keyless" because it does not have a replica identity/, '... and keys are asked for');

# Others are their owners' business; so is one that belongs to no stream, and that of a stream that is gone.
$leader->safe_psql('postgres', q{ALTER PUBLICATION other SET (publish = 'insert'); ALTER PUBLICATION other RENAME TO others; DROP PUBLICATION others});
$leader->safe_psql('postgres', q{BEGIN; SELECT fanout.drop_stream('app', true); CREATE PUBLICATION fanout_app FOR TABLE t; ALTER PUBLICATION fanout_app RENAME TO x; ROLLBACK});

# A publication that a stream names is missed, and the stream says so.
$leader->safe_psql('postgres', q{CREATE PUBLICATION named FOR TABLE t; SELECT fanout.create_stream('named', '{named}')});
wait_until('the stream', sub { $leader->safe_psql('postgres', q{SELECT state FROM fanout.streams WHERE stream = 'named'}) eq 'streaming' });
$leader->safe_psql('postgres', q{DROP PUBLICATION named; INSERT INTO t VALUES (10, 10)});
wait_until('the error', sub { $leader->safe_psql('postgres', q{SELECT last_error FROM fanout.streams WHERE stream = 'named'}) eq 'publication "named" does not exist' });
is($leader->safe_psql('postgres', q{SELECT state FROM fanout.streams WHERE stream = 'named'}), 'streaming', 'a publication that was dropped does not stop its stream');
$leader->safe_psql('postgres', q{SELECT fanout.drop_stream('named')});

# Even without it, which takes somebody who writes to the catalogs, everything is in the stream.
$leader->safe_psql('postgres', q{UPDATE pg_publication SET pubupdate = false, pubdelete = false, puballtables = false WHERE pubname = 'fanout_app'});
$leader->safe_psql('postgres', q{UPDATE t SET v = 2; INSERT INTO t VALUES (2, 2)});
$leader->safe_psql('postgres', q{DELETE FROM pg_depend WHERE classid = 'pg_publication'::regclass; DELETE FROM pg_publication WHERE pubname = 'fanout_app'});
$leader->safe_psql('postgres', q{UPDATE t SET v = 3 WHERE id = 1; INSERT INTO part VALUES (1); CREATE TABLE new (id int PRIMARY KEY); INSERT INTO new VALUES (1)});
all_equal('with no publication', $leader, $follower);
is($leader->safe_psql('postgres', q{SELECT string_agg(nspname || '.' || relname || ' ' || array_length(columns, 1), ',' ORDER BY relname) FROM fanout.stream_tables('app')}),
	'public.keyless 2,public.new 1,public.part_low 1,public.t 2', 'the tables of the stream are the permanent ones');
$follower->safe_psql('postgres', q{SELECT fanout.resync('app')});
all_equal('a new copy', $leader, $follower);
is($leader->safe_psql('postgres', q{SELECT state, last_error FROM fanout.streams}), 'streaming|', 'no error');
$leader->safe_psql('postgres', q{SELECT fanout.drop_stream('app', true)});
pass('the stream can be dropped');

# A copy of the database leads nothing: there it is a publication like others.
$leader->safe_psql('postgres', q{SELECT fanout.create_stream('app')});
$follower->stop;
wait_until('the copy of the database', sub { ($leader->psql('template1', 'CREATE DATABASE copy TEMPLATE postgres'))[0] == 0 });
$leader->safe_psql('copy', q{ALTER PUBLICATION fanout_app SET (publish = 'insert'); DROP PUBLICATION fanout_app});
$leader->safe_psql('postgres', q{SELECT fanout.drop_follower(stream, follower) FROM fanout.followers; DROP EXTENSION pg_fanout});
is($leader->safe_psql('postgres', 'SELECT count(*) FROM pg_publication'), '0', 'DROP EXTENSION takes it along');

$leader->stop;
done_testing();
