-- Changes reach the follower; a token says from when on they can be seen there.
\set leader_db :DBNAME
INSERT INTO users VALUES (1000, 'new');
UPDATE users SET followers = followers + 1 WHERE id <= 3;
UPDATE users SET id = 2000 WHERE id = 1000;
DELETE FROM follows WHERE who > 90;
BEGIN;
INSERT INTO users VALUES (3000, 'kept');
SAVEPOINT s;
INSERT INTO users VALUES (3001, 'rolled back');
ROLLBACK TO s;
INSERT INTO users VALUES (3002, 'kept, too');
COMMIT;
BEGIN;
INSERT INTO users VALUES (4000, 'rolled back');
ROLLBACK;
SELECT fanout.token() AS token \gset

\c regress_fanout_follower
SELECT fanout.wait_for(:'token');
SELECT * FROM users WHERE id <= 3 OR id >= 1000 ORDER BY id;
SELECT count(*), max(who) FROM follows;

-- TRUNCATE, of several tables and with what depends on them.
\c :leader_db
TRUNCATE users CASCADE;
INSERT INTO users VALUES (1, 'first');
SELECT fanout.token() AS token \gset
SELECT fanout.wait_for_followers(1, :'token', '60s');
\c regress_fanout_follower
SELECT fanout.wait_for(:'token', '0s');
SELECT * FROM users;
SELECT count(*) FROM follows;

-- A paused follower stands still.
SELECT fanout.pause('app');
DO $$
BEGIN
	FOR i IN 1 .. 600 LOOP
		EXIT WHEN (SELECT state = 'paused' FROM fanout.staleness);
		PERFORM pg_sleep(0.1);
	END LOOP;
END $$;
SELECT state FROM fanout.staleness;
\c :leader_db
INSERT INTO users VALUES (2, 'second');
SELECT fanout.token() AS token \gset
SELECT fanout.wait_for_followers(1, :'token', '0s');
\c regress_fanout_follower
SELECT fanout.wait_for(:'token', '0s');
SELECT * FROM users ORDER BY id;
SELECT fanout.resume('app');
SELECT fanout.wait_for(:'token', '60s');
SELECT * FROM users ORDER BY id;
