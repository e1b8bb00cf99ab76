-- An error stops the follower, shows, and heals once its cause is gone.
\set leader_db :DBNAME
\c regress_fanout_follower
SET fanout.guard = off;
INSERT INTO users VALUES (50, 'in the way');
\c :leader_db
INSERT INTO users VALUES (50, 'the right one');
SELECT fanout.token() AS token \gset
\c regress_fanout_follower
DO $$
BEGIN
	FOR i IN 1 .. 600 LOOP
		EXIT WHEN (SELECT state = 'failed' FROM fanout.staleness);
		PERFORM pg_sleep(0.1);
	END LOOP;
END $$;
SELECT last_error ~ 'duplicate key value violates unique constraint "users_pkey"' AS error,
	last_error ~ 'users' AS relation, last_error ~ '\(id\)=\(50\)|id=50|50' AS key
FROM fanout.staleness;
SET fanout.guard = off;
DELETE FROM users WHERE id = 50;
SELECT fanout.resume('app');
SELECT fanout.wait_for(:'token', '60s');
SELECT * FROM users WHERE id = 50;

-- Copy a table again.
DELETE FROM users WHERE id = 50;
SELECT fanout.resync('app', 'users');
\c :leader_db
UPDATE users SET followers = followers + 1 WHERE id = 1;
SELECT fanout.token() AS token \gset
\c regress_fanout_follower
SELECT fanout.wait_for(:'token', '60s');
SELECT fanout.wait_for_copy('app', '60s');
SELECT * FROM users ORDER BY id;
