-- Each function with arguments that nobody should give: its SQLSTATE, as a superuser and as
-- a stranger, also in transactions that are read-only or rolled back.
\set first_db :DBNAME
CREATE DATABASE regress_fanout_arguments;
\c regress_fanout_arguments
CREATE EXTENSION pg_fanout;
CREATE TABLE t (id int PRIMARY KEY);
CREATE PUBLICATION p FOR TABLE t;
SELECT fanout.create_stream('app', '{p}');
DO $$
BEGIN
	FOR i IN 1 .. 600 LOOP
		EXIT WHEN (SELECT state = 'streaming' FROM fanout.streams);
		PERFORM pg_sleep(0.1);
	END LOOP;
END $$;

-- The SQLSTATE of a statement, or what it returns; whatever it does is undone.
CREATE FUNCTION outcome(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
BEGIN
	EXECUTE 'SELECT string_agg(coalesce(r::text, ''null''), '' '') FROM ' || statement || ' r' INTO result;
	RAISE EXCEPTION USING ERRCODE = 'UUUUU', MESSAGE = coalesce(result, 'no row');
EXCEPTION
	WHEN SQLSTATE 'UUUUU' THEN
		RETURN SQLERRM;
	WHEN OTHERS THEN
		RETURN SQLSTATE || ' ' || SQLERRM;
END $$;
GRANT CREATE, USAGE ON SCHEMA public TO PUBLIC;

CREATE TABLE calls (n int GENERATED ALWAYS AS IDENTITY, call text);
GRANT SELECT ON calls TO PUBLIC;
INSERT INTO calls (call) VALUES
	-- streams
	($$fanout.create_stream(NULL)$$),
	($$fanout.create_stream('')$$),
	($$fanout.create_stream(repeat('x', 63)::name)$$),
	($$fanout.create_stream('x', '{}')$$),
	($$fanout.create_stream('x', '{NULL}')$$),
	($$fanout.create_stream('x', '{p,p}')$$),
	($$fanout.create_stream('x', array_fill('p'::name, '{2,2}'))$$),
	($$fanout.create_stream('x', '{nothing}')$$),
	($$fanout.create_stream('app', '{p}')$$),
	($$fanout.create_stream('x', '{p}', NULL)$$),
	($$fanout.create_stream('x', '{p}', true, NULL)$$),
	($$fanout.drop_stream(NULL)$$),
	($$fanout.drop_stream('')$$),
	($$fanout.drop_stream('x', NULL)$$),
	($$fanout.drop_stream('%s"; --')$$),
	($$fanout.grant_stream(NULL, 'pg_monitor')$$),
	($$fanout.grant_stream('x', 'pg_monitor')$$),
	($$fanout.grant_stream('app', '')$$),
	($$fanout.grant_stream('app', 'no_such_role')$$),
	($$fanout.grant_stream('app', 'public')$$),
	($$fanout.revoke_stream('app', 'no_such_role')$$),
	($$fanout.revoke_stream('app', 'pg_monitor')$$),
	($$fanout.drop_follower('app', NULL)$$),
	($$fanout.drop_follower('app', '')$$),
	($$fanout.drop_follower('x', 'y')$$),
	-- waiting on the leader
	($$fanout.wait_for_followers(NULL)$$),
	($$fanout.wait_for_followers(-1)$$),
	($$fanout.wait_for_followers(2147483647, NULL, '0')$$),
	($$fanout.wait_for_followers(0, '')$$),
	($$fanout.wait_for_followers(0, repeat('F', 40))$$),
	($$fanout.wait_for_followers(0, '100000000/0')$$),
	($$fanout.wait_for_followers(0, '0/1')$$),
	($$fanout.wait_for_followers(1, '0/1', NULL)$$),
	($$fanout.wait_for_followers(1, '0/1', '-1 day')$$),
	($$fanout.wait_for_followers(1, '0/1', '178000000 years')$$),
	-- what followers call
	($$fanout.stream_info('app', 0)$$),
	($$fanout.stream_info('x', 2)$$),
	($$fanout.stream_tables('x')$$),
	($$fanout.stream_tables(NULL)$$),
	($$fanout.stream_sequences('x')$$),
	($$fanout.wait_for_writers('x', '{}')$$),
	($$fanout.wait_for_writers('app', array_fill(NULL::oid, '{100000000}'))$$),
	($$fanout.wait_for_writers('app', '{NULL,1}')$$),
	($$fanout.wait_for_writers('app', '{{0,4294967295},{4711,4711}}')$$),
	($$fanout.register_follower(NULL, 'f', gen_random_uuid(), NULL, NULL)$$),
	($$fanout.register_follower('app', '', gen_random_uuid(), NULL, NULL)$$),
	($$fanout.register_follower('app', 'f', NULL, NULL, NULL)$$),
	($$fanout.register_follower('x', 'f', gen_random_uuid(), NULL, NULL)$$),
	($$fanout.register_follower('app', 'f', gen_random_uuid(), gen_random_uuid(), 'FFFFFFFF/FFFFFFFF')$$),
	($$fanout.unregister_follower('app', 'f', gen_random_uuid(), -2147483648)$$),
	($$fanout.unregister_follower('x', 'f', gen_random_uuid(), 0)$$),
	($$fanout.snapshot_position('app')$$),
	($$fanout.snapshot_position('')$$),
	($$fanout.table_hashes(NULL, '{}', '{}', '{}', NULL, 0, NULL)$$),
	($$fanout.table_hashes('t', '{NULL}', '{}', '{}', NULL, 0, NULL)$$),
	($$fanout.table_hashes('t', '{nothing}', '{}', '{}', NULL, 0, NULL)$$),
	($$fanout.table_hashes('t', '{}', '{}', '{}', NULL, 3, NULL)$$),
	($$fanout.table_hashes('t', '{}', '{}', '{}', NULL, -2147483648, '{}')$$),
	($$fanout.table_hashes('t', '{}', '{}', '{}', NULL, 4, '{-1,NULL}')$$),
	($$fanout.table_hashes('t', '{}', '{}', '{}', '1) FROM t; DROP TABLE t', 0, NULL)$$),
	($$fanout.table_hashes('t', '{}', '{}', '{}', '(SELECT true)', 0, NULL)$$),
	($$fanout.table_hashes('t', '{}', '{}', '{}', 'random() > 2', 0, NULL)$$),
	($$fanout.table_hashes('t', '{}', '{}', '{}', '1', 0, NULL)$$),
	($$fanout.table_hashes('pg_class_oid_index', '{}', '{}', '{}', NULL, 0, NULL)$$),
	-- following
	($$fanout.follow(NULL, 'dbname=x')$$),
	($$fanout.follow('', 'dbname=x')$$),
	($$fanout.follow('x', NULL)$$),
	($$fanout.follow('x', repeat('x', 100000))$$),
	($$fanout.follow('x', 'dbname=x', '')$$),
	($$fanout.follow('x', 'dbname=x', copy_data => NULL)$$),
	($$fanout.unfollow(NULL)$$),
	($$fanout.unfollow('app')$$),
	($$fanout.set_leader(NULL, 'dbname=x')$$),
	($$fanout.set_leader('', 'dbname=x')$$),
	($$fanout.set_leader('x', NULL)$$),
	($$fanout.pause('')$$),
	($$fanout.resume('x')$$),
	($$fanout.resync(NULL)$$),
	($$fanout.resync('x', 't')$$),
	($$fanout.skip(NULL, '0/1')$$),
	($$fanout.skip('x', '0/1')$$),
	($$fanout.verify(NULL)$$),
	($$fanout.verify('x')$$),
	($$fanout.wait_for_copy('x')$$),
	($$fanout.wait_for_copy(NULL)$$),
	($$fanout.lag()$$),
	($$fanout.lag('')$$),
	($$fanout.stream_staleness(NULL)$$),
	($$fanout.stream_staleness(-2147483648)$$),
	($$fanout.stream_staleness(2147483647)$$),
	($$fanout.wait_for(NULL)$$),
	($$fanout.wait_for('')$$),
	($$fanout.wait_for('0/0')$$),
	($$fanout.wait_for('1.1.0/0', '178000000 years')$$),
	($$fanout.wait_for('0/0', NULL)$$),
	($$fanout.wait_for('0/0', '0', 'x')$$),
	($$fanout.staleness_chart(NULL)$$),
	($$fanout.staleness_chart('x', -2147483648)$$),
	($$fanout.staleness_chart('x', 2147483647)$$),
	($$fanout.staleness_chart('', 10)$$);

\pset format unaligned
SELECT call, outcome(call) FROM calls ORDER BY n;

-- A stranger may call less, and what he may call tells him no more.
CREATE ROLE regress_fanout_stranger;
SET ROLE regress_fanout_stranger;
SELECT call, outcome(call) FROM calls ORDER BY n;
RESET ROLE;

-- Nothing of it changes in a read-only transaction, but what would write is refused there.
BEGIN READ ONLY;
SELECT call, outcome(call) FROM (VALUES
	(1, $$fanout.create_stream('x', '{p}')$$),
	(2, $$fanout.drop_stream('app')$$),
	(3, $$fanout.grant_stream('app', 'pg_monitor')$$),
	(4, $$fanout.revoke_stream('app', 'pg_monitor')$$),
	(5, $$fanout.wait_for_followers(0, '0/1')$$),
	(6, $$fanout.stream_sequences('app')$$)) AS c (n, call) ORDER BY n;
COMMIT;
\pset format aligned

-- Errors in the middle leave a transaction as usable as any does.
BEGIN;
SAVEPOINT s;
SELECT fanout.drop_stream('app');
ROLLBACK TO s;
SELECT fanout.grant_stream('app', 'pg_monitor');
SELECT fanout.drop_stream('nothing');
ROLLBACK;
SELECT stream, state, followers FROM fanout.streams;
SELECT name, granted FROM fanout.stream;

-- None of them runs in a parallel worker.
SELECT set_config(name, 'on', false) FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query');
SELECT proname FROM pg_proc WHERE pronamespace = 'fanout'::regnamespace AND proparallel <> 'u';
SELECT count(*) FROM fanout.streams;
SELECT set_config(name, 'off', false) FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query');

SELECT fanout.drop_stream('app');
\c :first_db
DROP DATABASE regress_fanout_arguments;
DROP ROLE regress_fanout_stranger;
