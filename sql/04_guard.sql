-- On a follower, replicated tables can't be written.
\c regress_fanout_follower
\set VERBOSITY sqlstate
INSERT INTO users VALUES (3, 'third');
UPDATE users SET followers = 0;
DELETE FROM users;
WITH w AS (DELETE FROM follows RETURNING *) SELECT * FROM w;
MERGE INTO users u USING (SELECT 1 AS id) s ON u.id = s.id WHEN MATCHED THEN DELETE;
COPY users FROM '/dev/null';
TRUNCATE users CASCADE;
ALTER TABLE users ADD COLUMN extra int;
CREATE INDEX ON users (name);
DROP TABLE follows;
\set VERBOSITY terse
INSERT INTO users VALUES (3, 'third');
\set VERBOSITY default

-- Reading, locking rows and tables of the follower's own are free.
SELECT * FROM users WHERE id = 1 FOR UPDATE;
CREATE TABLE own (a int);
INSERT INTO own VALUES (1);
DROP TABLE own;

-- Only a superuser can turn the guard off.
CREATE ROLE regress_fanout_user;
SET ROLE regress_fanout_user;
SET fanout.guard = off;
RESET ROLE;
DROP ROLE regress_fanout_user;
SET fanout.guard = off;
BEGIN;
INSERT INTO users VALUES (3, 'third');
ROLLBACK;
RESET fanout.guard;
