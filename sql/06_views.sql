-- Looking: each table, the last hour, and who may look.
\set leader_db :DBNAME
\c regress_fanout_follower
SELECT stream, relation, state, copied_rows, copied_bytes > 0 AS bytes, total_bytes > 0 AS total,
	changes_applied, last_changed_at < now() AS changed, staleness < '10s' AS fresh
FROM fanout.table_staleness WHERE relation IN ('users'::regclass, 'follows'::regclass) ORDER BY relation::text;
SELECT stream, state, tables = tables_copied AS all_tables, copied_rows, percent, time_left
FROM fanout.copy_progress;

-- A table that is copied again loses what was known of it.
SELECT fanout.resync('app', 'follows');
SELECT fanout.wait_for_copy('app');
SELECT relation, state, copied_rows, staleness < '10s' AS fresh
FROM fanout.table_staleness WHERE relation = 'follows'::regclass;

-- History: a row a second.
SELECT clock_timestamp() AS began \gset
DO $$
BEGIN
	FOR i IN 1 .. 600 LOOP
		EXIT WHEN (SELECT count(*) >= 3 AND max(at) > now() FROM fanout.staleness_history WHERE staleness_max IS NOT NULL);
		PERFORM pg_sleep(0.1);
	END LOOP;
END $$;
SELECT bool_and(staleness_p50 <= staleness_p95 AND staleness_p95 <= staleness_max) AS ordered,
	bool_and(lag_bytes_p50 <= lag_bytes_max) AS ordered_bytes, max(at) > :'began' AS recent
FROM fanout.staleness_history WHERE stream = 'app' AND staleness_max IS NOT NULL;
SELECT count(*) AS lines, max(length(line)) <= 100 AS fits FROM fanout.staleness_chart('app', 40) line;
SELECT fanout.staleness_chart('nothing');
SELECT fanout.staleness_chart(NULL);
SELECT fanout.staleness_chart('app', 1);

-- Who may look.
CREATE ROLE regress_fanout_reader;
CREATE ROLE regress_fanout_monitor IN ROLE pg_monitor;
SET ROLE regress_fanout_reader;
SELECT count(*) FROM fanout.staleness;
SELECT count(*) > 0 AS tables FROM fanout.table_staleness;
SELECT count(*) FROM fanout.copy_progress;
SELECT count(*) FROM fanout.followers;
SELECT conninfo FROM fanout.followed_stream;
RESET ROLE;
SET ROLE regress_fanout_monitor;
SELECT count(*) FROM fanout.staleness;
SELECT count(*) FROM fanout.followers;
SELECT conninfo FROM fanout.followed_stream;
RESET ROLE;
\c :leader_db
SET ROLE regress_fanout_monitor;
SELECT stream, follower, staleness < '10s' AS fresh FROM fanout.followers;
SELECT count(*) FROM fanout.streams;
RESET ROLE;
DROP ROLE regress_fanout_reader, regress_fanout_monitor;
