-- A stream on the leader.
CREATE EXTENSION pg_fanout;

CREATE TABLE users (id int PRIMARY KEY, name text NOT NULL, followers int NOT NULL DEFAULT 0);
CREATE TABLE follows (who int REFERENCES users, whom int REFERENCES users, PRIMARY KEY (who, whom));
INSERT INTO users SELECT g, 'user ' || g FROM generate_series(1, 100) g;
INSERT INTO follows SELECT g, g % 10 + 1 FROM generate_series(11, 100) g;

-- Bad input.
SELECT fanout.create_stream(NULL);
SELECT fanout.create_stream('');
SELECT fanout.create_stream('app', ARRAY['nothing']::name[]);
SELECT fanout.drop_stream('app');
SELECT fanout.drop_follower('app', 'nobody');

-- A rollback leaves nothing behind, nor does one to a savepoint.
BEGIN;
SELECT fanout.create_stream('app');
ROLLBACK;
BEGIN;
SAVEPOINT s;
SELECT fanout.create_stream('app');
ROLLBACK TO s;
COMMIT;
SELECT count(*) FROM fanout.streams;

SELECT fanout.create_stream('app');
SELECT fanout.create_stream('app');
DO $$
BEGIN
	FOR i IN 1 .. 600 LOOP
		EXIT WHEN (SELECT state = 'streaming' FROM fanout.streams);
		PERFORM pg_sleep(0.1);
	END LOOP;
END $$;
SELECT stream, publications, state, decoder_pid IS NOT NULL AS decoder, followers, last_error
FROM fanout.streams;
SELECT count(*) FROM pg_replication_slots;

-- Without a key an UPDATE fails here, not on the followers.
CREATE TABLE keyless (a int);
INSERT INTO keyless VALUES (1);
UPDATE keyless SET a = 2;
ALTER TABLE keyless REPLICA IDENTITY FULL;
UPDATE keyless SET a = 2;

-- Not everybody may.
CREATE ROLE regress_fanout_nobody;
SET ROLE regress_fanout_nobody;
SELECT fanout.create_stream('other');
SELECT fanout.drop_stream('app');
RESET ROLE;
