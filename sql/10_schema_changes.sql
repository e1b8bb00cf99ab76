-- Schema changes follow by themselves, in order with the data.
\set leader_db :DBNAME
CREATE DATABASE regress_fanout_ddl_leader;
CREATE DATABASE regress_fanout_ddl_follower;
\c regress_fanout_ddl_leader
CREATE EXTENSION pg_fanout;
SELECT fanout.create_stream('ddl', NULL, NULL);
SELECT fanout.create_stream('ddl');
SELECT name, ddl FROM fanout.stream;
\set leader 'host=' :HOST ' port=' :PORT ' user=' :USER ' dbname=' :DBNAME
\c regress_fanout_ddl_follower
CREATE EXTENSION pg_fanout;
SELECT fanout.follow('ddl', :'leader', follower => 'ddl_one');
SELECT fanout.wait_for_copy('ddl');

\c regress_fanout_ddl_leader
CREATE TABLE users (id int PRIMARY KEY, name text);
INSERT INTO users VALUES (1, 'first');
ALTER TABLE users ADD COLUMN born date DEFAULT '2000-01-01';
INSERT INTO users VALUES (2, 'second', '2001-02-03');
BEGIN;
ALTER TABLE users RENAME COLUMN name TO full_name;
UPDATE users SET full_name = upper(full_name);
CREATE INDEX ON users (born);
COMMIT;
CREATE TABLE names AS SELECT id, full_name FROM users;
CREATE VIEW newest AS SELECT max(id) FROM users;
CREATE TYPE mood AS ENUM ('sad');
ALTER TYPE mood ADD VALUE 'happy';
CREATE TABLE moods (m mood);
INSERT INTO moods VALUES ('happy');
CREATE INDEX CONCURRENTLY moods_m ON moods (m);
COMMENT ON TABLE moods IS 'how it feels';
BEGIN;
CREATE TABLE never (a int);
ROLLBACK;
CREATE TEMP TABLE mine (a int);
SELECT count(*) FROM fanout.schema_change;
SELECT fanout.token() AS token \gset

\c regress_fanout_ddl_follower
SELECT fanout.wait_for(:'token');
\d users
SELECT * FROM users ORDER BY id;
SELECT * FROM names ORDER BY id;
SELECT * FROM newest;
\d moods
SELECT * FROM moods;
SELECT obj_description('moods'::regclass);
SELECT relation, state FROM fanout.table_staleness ORDER BY relation::text;
\set VERBOSITY terse
INSERT INTO names VALUES (3, 'third');
DROP TABLE names;
\set VERBOSITY default

\c regress_fanout_ddl_leader
DROP TABLE names;
DROP VIEW newest;
CREATE SCHEMA app;
ALTER TABLE users SET SCHEMA app;
ALTER TABLE app.users DROP COLUMN born;
SELECT fanout.token() AS token \gset
\c regress_fanout_ddl_follower
SELECT fanout.wait_for(:'token');
SELECT * FROM app.users ORDER BY id;
SELECT relation, state FROM fanout.table_staleness ORDER BY relation::text;

-- Without it, they don't.
\c regress_fanout_ddl_leader
SELECT fanout.drop_stream('ddl', force => true);
SELECT fanout.create_stream('no_ddl', ddl => false);
SELECT name, ddl FROM fanout.stream;
SELECT fanout.drop_stream('no_ddl');
\c regress_fanout_ddl_follower
SELECT fanout.unfollow('ddl');
\c :leader_db
DROP DATABASE regress_fanout_ddl_follower;
DROP DATABASE regress_fanout_ddl_leader;
