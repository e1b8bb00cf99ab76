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

-- A query in a function reads with its own snapshot, or, if it is STABLE, with its caller's.
CREATE FUNCTION count_volatile() RETURNS bigint LANGUAGE plpgsql VOLATILE
AS $$ BEGIN RETURN (SELECT sum(followers) FROM users WHERE id = 1); END $$;
CREATE FUNCTION count_stable() RETURNS bigint LANGUAGE plpgsql STABLE
AS $$ BEGIN RETURN (SELECT sum(followers) FROM users WHERE id = 1); END $$;
SELECT count_volatile();
SELECT count_stable() FROM users WHERE id = 1;
\set VERBOSITY terse
SELECT count_stable();
\set VERBOSITY default
DROP FUNCTION count_volatile(), count_stable();

-- The leader can wait for its followers; a token that comes back to it is true at once.
\c :leader_db
UPDATE users SET followers = 8 WHERE id = 1;
SELECT fanout.wait_for_followers(1, timeout => '60s');
SELECT fanout.wait_for_followers(2, timeout => '50ms');
SELECT fanout.wait_for_followers(1, fanout.token(), '60s');
SELECT fanout.wait_for(fanout.token(), '0s');
SELECT fanout.wait_for_followers(-1);
SELECT fanout.wait_for_followers(NULL);
SELECT fanout.wait_for_followers(1, 'nonsense');
SELECT fanout.wait_for_followers(0, '1.2.0/1');
SET statement_timeout = '100ms';
SELECT fanout.wait_for_followers(2, timeout => '60s');
RESET statement_timeout;
SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%wait_for_followers%' AND pid <> pg_backend_pid();
\c regress_fanout_follower
SELECT followers FROM users WHERE id = 1;
