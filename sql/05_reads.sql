-- Reads that insist: on their own writes, on a bound of staleness, on the leader's present.
\set leader_db :DBNAME
UPDATE users SET followers = 7 WHERE id = 1;
SELECT fanout.token() AS token \gset
\c regress_fanout_follower
SET fanout.stale_read_timeout = '60s';
SET fanout.read_after = :'token';
SELECT followers FROM users WHERE id = 1;
RESET fanout.read_after;
SET fanout.max_staleness = 0;
SELECT followers FROM users WHERE id = 1;
SET fanout.max_staleness = '5s';
SELECT followers FROM users WHERE id = 1;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT followers FROM users WHERE id = 1;
COMMIT;

-- A follower that stands still can't promise anything new.
SELECT fanout.pause('app');
DO $$
BEGIN
	FOR i IN 1 .. 600 LOOP
		EXIT WHEN (SELECT state = 'paused' FROM fanout.staleness);
		PERFORM pg_sleep(0.1);
	END LOOP;
END $$;
\set VERBOSITY sqlstate
SET fanout.max_staleness = 0;
SET fanout.stale_read_timeout = '50ms';
SELECT followers FROM users WHERE id = 1;
COPY users TO stdout;
SELECT 1 AS no_replicated_table;
SET fanout.max_staleness = -1;
SELECT followers FROM users WHERE id = 1;

-- Tokens that are not, and of another leader.
SET fanout.read_after = 'nonsense';
SELECT fanout.wait_for('nonsense');
SELECT fanout.wait_for(NULL);
SELECT fanout.wait_for(:'token', '0s', 'nothing');
SELECT fanout.token() AS own_token \gset
SELECT fanout.wait_for(:'own_token', '0s');
SET fanout.commit_token = 'x';
\set VERBOSITY default
SELECT fanout.resume('app');
SET fanout.max_staleness = 0;
SET fanout.stale_read_timeout = '60s';
SELECT followers FROM users WHERE id = 1;
