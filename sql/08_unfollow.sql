-- Stop following; then the stream can go.
\set leader_db :DBNAME
\c regress_fanout_follower
SELECT fanout.unfollow('nothing');
BEGIN;
SELECT fanout.unfollow('app');
ROLLBACK;
BEGIN;
SAVEPOINT s;
SELECT fanout.unfollow('app');
ROLLBACK TO s;
COMMIT;
SELECT stream, follower FROM fanout.staleness;
SELECT fanout.unfollow('app');
SELECT count(*) FROM fanout.staleness;
INSERT INTO users VALUES (99, 'writable now');
DO $$
BEGIN
	FOR i IN 1 .. 600 LOOP
		EXIT WHEN NOT EXISTS (SELECT FROM pg_replication_origin);
		PERFORM pg_sleep(0.1);
	END LOOP;
END $$;
SELECT count(*) FROM pg_replication_origin;

\c :leader_db
SELECT count(*) FROM fanout.followers;
BEGIN;
SELECT fanout.drop_stream('app');
ROLLBACK;
SELECT stream, followers FROM fanout.streams;
SELECT fanout.drop_stream('app');
SELECT count(*) FROM fanout.streams;
DO $$
BEGIN
	FOR i IN 1 .. 600 LOOP
		EXIT WHEN NOT EXISTS (SELECT FROM pg_replication_slots);
		PERFORM pg_sleep(0.1);
	END LOOP;
END $$;
SELECT count(*) FROM pg_replication_slots;
DROP DATABASE regress_fanout_follower;
DROP ROLE regress_fanout_nobody;
DROP EXTENSION pg_fanout;
