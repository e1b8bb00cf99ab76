-- A follower: a database of its own on the same server.
\set leader 'host=' :HOST ' port=' :PORT ' user=' :USER ' dbname=' :DBNAME
\set missing 'host=' :HOST ' port=' :PORT ' user=' :USER ' dbname=regress_fanout_missing'
CREATE DATABASE regress_fanout_follower;
\set leader_db :DBNAME
\c regress_fanout_follower
CREATE EXTENSION pg_fanout;

-- Bad input fails at the call and leaves nothing.
\set VERBOSITY sqlstate
SELECT fanout.follow(NULL, :'leader');
SELECT fanout.follow('app', NULL);
SELECT fanout.follow('app', '');
SELECT fanout.follow('app', 'nonsense');
SELECT fanout.follow('app', :'missing');
\set VERBOSITY terse
SELECT fanout.follow('nothing', :'leader', follower => 'one');
\set VERBOSITY default
BEGIN;
SELECT fanout.follow('app', :'leader', follower => 'one');
ROLLBACK;
SELECT count(*) FROM fanout.staleness;
SELECT fanout.wait_for_copy('app');

SELECT fanout.follow('app', :'leader', follower => 'one');
SELECT fanout.wait_for_copy('app');
SELECT stream, follower, state, staleness < '10s' AS fresh, lag_transactions, last_error
FROM fanout.staleness;
SELECT lag_transactions, staleness < '10s' AS fresh FROM fanout.lag();
SELECT fanout.follow('app', :'leader', follower => 'one');

-- Schema, data, keys and foreign keys are there.
\d follows
SELECT count(*), sum(id) FROM users;
SELECT count(*), sum(who), sum(whom) FROM follows;

\c :leader_db
SELECT stream, follower, state, sender_pid IS NOT NULL AS connected FROM fanout.followers;
SELECT fanout.drop_stream('app');
