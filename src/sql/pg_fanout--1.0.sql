/* pg_fanout 1.0 */

\echo Use "CREATE EXTENSION pg_fanout" to load this file. \quit

-- Names below mean those of the server, whatever is in the schema by now.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

/*
 * Whoever owns the schema can put objects into it and rename it; what is in it already may be
 * called in our stead.
 */
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_namespace n JOIN pg_roles r ON r.oid = n.nspowner
               WHERE n.nspname = 'fanout' AND NOT r.rolsuper) THEN
        RAISE EXCEPTION 'schema "fanout" belongs to a role that is not a superuser'
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Rename or drop the schema; the extension makes its own.';
    END IF;
    IF EXISTS (SELECT FROM pg_depend
               WHERE refclassid = 'pg_namespace'::regclass AND refobjid = 'fanout'::regnamespace
                 AND classid <> 'pg_extension'::regclass)
       OR EXISTS (SELECT FROM pg_namespace n, aclexplode(n.nspacl) a
                  WHERE n.nspname = 'fanout' AND a.privilege_type = 'CREATE' AND a.grantee <> n.nspowner) THEN
        RAISE EXCEPTION 'schema "fanout" is used by others'
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  DETAIL = 'It has objects already, or other roles may create some.',
                  HINT = 'Rename or drop the schema; the extension makes its own.';
    END IF;
END
$$;

/*
 * Tables.  Nobody but superusers reads or writes them: functions and views do.
 * A row whose dboid is not this database's came with a copy of another
 * database and does not count.
 *
 * They belong to the superuser that can't be demoted, and have row-level security without
 * policies: the privileges of pg_read_all_data and pg_write_all_data are not enough, then.
 */
CREATE TABLE fanout.stream (
    id integer PRIMARY KEY,
    name name NOT NULL,
    dboid oid NOT NULL,
    publications name[] NOT NULL,
    own_publication boolean NOT NULL,
    owner oid NOT NULL,
    granted oid[] NOT NULL DEFAULT '{}',
    ddl boolean NOT NULL,
    identity boolean NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (dboid, name)
);
COMMENT ON TABLE fanout.stream IS 'streams that this database is the leader of';

/* Rows are deleted in the transaction that writes them: what counts is their WAL. */
CREATE TABLE fanout.schema_change (
    role name NOT NULL,
    settings text[] NOT NULL,
    statement text NOT NULL,
    relations oid[] NOT NULL,
    flags integer NOT NULL,
    number integer NOT NULL,
    made text[] NOT NULL,
    session_role name NOT NULL,
    transaction_at timestamptz NOT NULL,
    statement_at timestamptz NOT NULL
);
COMMENT ON TABLE fanout.schema_change IS 'carries schema changes through the WAL into the streams; always empty';

CREATE TABLE fanout.followed_stream (
    id integer PRIMARY KEY,
    stream name NOT NULL,
    dboid oid NOT NULL,
    follower name NOT NULL,
    conninfo text NOT NULL,
    instance uuid NOT NULL,
    copy_schema boolean NOT NULL,
    copy_data boolean NOT NULL,
    paused boolean NOT NULL DEFAULT false,
    owner oid NOT NULL,
    copy_state text NOT NULL DEFAULT 'schema'
        CHECK (copy_state IN ('schema', 'tables', 'data', 'indexes', 'done')),
    start_lsn pg_lsn,
    all_tables boolean NOT NULL DEFAULT true,
    joining oid[] NOT NULL DEFAULT '{}',
    copy_lsn pg_lsn,
    schema_done boolean NOT NULL DEFAULT false,
    copy_started_at timestamptz,
    schema_snapshot text,
    schema_until pg_lsn,
    era uuid,
    leader_system text NOT NULL,
    leader_database oid NOT NULL,
    make_roles boolean NOT NULL,
    skip_lsn pg_lsn,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (dboid, stream)
);
COMMENT ON TABLE fanout.followed_stream IS 'streams that this database follows';

CREATE TABLE fanout.followed_table (
    followed_id integer NOT NULL REFERENCES fanout.followed_stream ON DELETE CASCADE,
    relid oid NOT NULL,
    nspname name NOT NULL,
    relname name NOT NULL,
    leader_relid oid,
    state "char" NOT NULL,
    copy_number integer NOT NULL DEFAULT 0,
    filter_snapshot text,
    filter_until pg_lsn,
    schema_snapshot text,
    schema_until pg_lsn,
    total_rows bigint,
    total_bytes bigint,
    copied_rows bigint,
    copied_bytes bigint,
    copied_at timestamptz,
    failures integer NOT NULL DEFAULT 0,
    last_error text,
    last_error_at timestamptz,
    PRIMARY KEY (followed_id, relid)
);
COMMENT ON TABLE fanout.followed_table IS 'tables of this database that a stream replicates into';

CREATE TABLE fanout.followed_view (
    relid oid PRIMARY KEY
);
COMMENT ON TABLE fanout.followed_view IS 'materialized views whose rows a stream''s statements computed';

CREATE TABLE fanout.deferred_statement (
    followed_id integer NOT NULL REFERENCES fanout.followed_stream ON DELETE CASCADE,
    position integer NOT NULL,
    needs_consistency boolean NOT NULL,
    statement text NOT NULL,
    PRIMARY KEY (followed_id, position)
);
COMMENT ON TABLE fanout.deferred_statement IS
    'schema statements of an initial copy that wait until the tables are copied, or consistent';

CREATE TABLE fanout.failed_statement (
    followed_id integer NOT NULL REFERENCES fanout.followed_stream ON DELETE CASCADE,
    position integer NOT NULL,
    statement text NOT NULL,
    outcome text NOT NULL CHECK (outcome IN ('not valid', 'left out')),
    error text NOT NULL,
    failed_at timestamptz NOT NULL,
    PRIMARY KEY (followed_id, position)
);
COMMENT ON TABLE fanout.failed_statement IS
    'schema statements of an initial copy that could not be run here';

DO $$
DECLARE
    own regclass;
BEGIN
    FOR own IN SELECT oid FROM pg_class WHERE relnamespace = 'fanout'::regnamespace AND relkind = 'r' LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO %I', own, (SELECT rolname FROM pg_roles WHERE oid = 10));
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', own);
    END LOOP;
END
$$;
REVOKE ALL ON fanout.stream, fanout.schema_change, fanout.followed_stream, fanout.followed_table,
    fanout.followed_view, fanout.deferred_statement, fanout.failed_statement FROM PUBLIC;

/*
 * On the leader
 */
CREATE FUNCTION fanout.create_stream(stream name, publications name[] DEFAULT NULL,
    ddl boolean DEFAULT true, identity boolean DEFAULT false)
RETURNS void AS 'MODULE_PATHNAME', 'fanout_create_stream' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION fanout.create_stream(name, name[], boolean, boolean) IS
    'start to decode the tables of these publications (NULL: every table) into a stream, and schema changes unless ddl is false; identity gives tables without a key a replica identity, now and later';

CREATE FUNCTION fanout.drop_stream(stream name, force boolean DEFAULT false)
RETURNS void AS 'MODULE_PATHNAME', 'fanout_drop_stream' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION fanout.drop_stream(name, boolean) IS
    'end a stream; refuses while followers are registered, unless forced';

CREATE FUNCTION fanout.grant_stream(stream name, role name)
RETURNS void AS 'MODULE_PATHNAME', 'fanout_grant_stream' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION fanout.grant_stream(name, name) IS
    'allow a role, which must be in fanout_follower as well, to follow a stream';

CREATE FUNCTION fanout.revoke_stream(stream name, role name)
RETURNS void AS 'MODULE_PATHNAME', 'fanout_revoke_stream' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION fanout.revoke_stream(name, name) IS
    'take back fanout.grant_stream(); a follower that is connected is disconnected';

CREATE FUNCTION fanout.drop_follower(stream name, follower name)
RETURNS void AS 'MODULE_PATHNAME', 'fanout_drop_follower' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION fanout.drop_follower(name, name) IS
    'forget a follower and keep no more changes for it';

CREATE FUNCTION fanout.streams_state(
    OUT stream name, OUT publications name[], OUT state text, OUT decoder_pid integer,
    OUT decoded_lsn pg_lsn, OUT log_start_lsn pg_lsn, OUT log_end_lsn pg_lsn, OUT log_bytes bigint,
    OUT followers integer, OUT transactions bigint, OUT changes bigint,
    OUT last_error text, OUT last_error_at timestamptz)
RETURNS SETOF record AS 'MODULE_PATHNAME', 'fanout_streams_state' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION fanout.streams_state() IS 'the rows of fanout.streams';

CREATE VIEW fanout.streams AS SELECT * FROM fanout.streams_state();
COMMENT ON VIEW fanout.streams IS 'streams that this database is the leader of';

CREATE FUNCTION fanout.followers_state(
    OUT stream name, OUT follower name, OUT state text, OUT client_addr text, OUT sender_pid integer,
    OUT sent_lsn pg_lsn, OUT applied_lsn pg_lsn, OUT durable_lsn pg_lsn, OUT lag_bytes bigint,
    OUT lag_transactions bigint, OUT staleness interval, OUT retained_bytes bigint,
    OUT connected_at timestamptz, OUT last_seen_at timestamptz)
RETURNS SETOF record AS 'MODULE_PATHNAME', 'fanout_followers_state' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION fanout.followers_state() IS 'the rows of fanout.followers';

CREATE VIEW fanout.followers AS SELECT * FROM fanout.followers_state();
COMMENT ON VIEW fanout.followers IS
    'followers registered with this database''s streams, connected or away, as they last reported';

CREATE FUNCTION fanout.token()
RETURNS text AS 'MODULE_PATHNAME', 'fanout_token' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION fanout.token() IS
    'a position that covers everything this session has committed, for fanout.wait_for() and fanout.read_after';

CREATE FUNCTION fanout.wait_for_followers(followers integer, token text DEFAULT NULL,
    timeout interval DEFAULT '10s')
RETURNS integer AS 'MODULE_PATHNAME', 'fanout_wait_for_followers' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION fanout.wait_for_followers(integer, text, interval) IS
    'wait until so many followers have applied the token (NULL: this session''s own); returns how many have';

/*
 * What a follower's worker calls on its leader.
 */
CREATE FUNCTION fanout.stream_info(stream name, wire_version integer,
    OUT state text, OUT system_identifier text, OUT encoding text, OUT machine text,
    OUT follower_names name[], OUT era uuid, OUT all_tables boolean, OUT ddl boolean)
RETURNS record AS 'MODULE_PATHNAME', 'fanout_stream_info' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION fanout.stream_info(name, integer) IS
    'for followers: what must be known of a stream before it can be followed';

CREATE FUNCTION fanout.stream_tables(stream name,
    OUT nspname name, OUT relname name, OUT relid oid, OUT columns name[], OUT row_filter text,
    OUT rows bigint, OUT bytes bigint)
RETURNS SETOF record AS 'MODULE_PATHNAME', 'fanout_stream_tables' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION fanout.stream_tables(name) IS
    'for followers: the tables of a stream, as its publications say';

CREATE FUNCTION fanout.stream_sequences(stream name,
    OUT nspname name, OUT relname name, OUT last_value bigint, OUT is_called boolean)
RETURNS SETOF record AS 'MODULE_PATHNAME', 'fanout_stream_sequences' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION fanout.stream_sequences(name) IS
    'for followers: the sequences of a stream, with the values that the server has logged ahead';

CREATE FUNCTION fanout.wait_for_writers(stream name, relations oid[])
RETURNS void AS 'MODULE_PATHNAME', 'fanout_wait_for_writers' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION fanout.wait_for_writers(name, oid[]) IS
    'for followers: wait until new snapshots see all that has committed, and for the transactions that are writing to these tables now';

CREATE FUNCTION fanout.register_follower(stream name, follower name, instance uuid, era uuid,
    reached pg_lsn)
RETURNS pg_lsn AS 'MODULE_PATHNAME', 'fanout_register_follower' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION fanout.register_follower(name, name, uuid, uuid, pg_lsn) IS
    'for followers: register (with era and position of a copy to go on with: find it again) and return a position from which, with a snapshot taken in a later transaction, a copy can be completed';

CREATE FUNCTION fanout.flush_wal()
RETURNS pg_lsn AS 'MODULE_PATHNAME', 'fanout_flush_wal' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION fanout.flush_wal() IS
    'for followers: flush everything written to the WAL so far and return where that ends';

CREATE FUNCTION fanout.snapshot_position(stream name)
RETURNS pg_lsn AS 'MODULE_PATHNAME', 'fanout_snapshot_position' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION fanout.snapshot_position(name) IS
    'for followers: have this transaction''s later statements see exactly what committed up to the position returned';

CREATE FUNCTION fanout.table_hashes(relation regclass, columns name[], text_columns name[], key name[],
    filter text, buckets integer, chosen integer[],
    OUT key_or_bucket text, OUT rows bigint, OUT hash bigint)
RETURNS SETOF record AS 'MODULE_PATHNAME', 'fanout_table_hashes' LANGUAGE C STABLE;
COMMENT ON FUNCTION fanout.table_hashes(regclass, name[], name[], name[], text, integer, integer[]) IS
    'for fanout.verify(): numbers of rows and hashes of their exact values, of all of a table, by buckets, or of the rows of chosen buckets';

CREATE FUNCTION fanout.unregister_follower(stream name, follower name, instance uuid,
    sender_pid integer)
RETURNS void AS 'MODULE_PATHNAME', 'fanout_unregister_follower' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION fanout.unregister_follower(name, name, uuid, integer) IS
    'for followers: unregister oneself; no error when not registered';

CREATE PROCEDURE fanout.send_changes(stream name, follower name, instance uuid, after pg_lsn,
    era uuid, reached pg_lsn, wire_version integer, former_sender integer DEFAULT 0)
AS 'MODULE_PATHNAME', 'fanout_send_changes' LANGUAGE C;
COMMENT ON PROCEDURE fanout.send_changes(name, name, uuid, pg_lsn, uuid, pg_lsn, integer, integer) IS
    'for followers: turn this connection into a stream of changes that committed after a position; in place of the sender that the follower had before';

/*
 * On a follower
 */
CREATE FUNCTION fanout.follow(stream name, leader text, follower name DEFAULT NULL,
    copy_schema boolean DEFAULT true, copy_data boolean DEFAULT true,
    make_roles boolean DEFAULT false)
RETURNS void AS 'MODULE_PATHNAME', 'fanout_follow' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION fanout.follow(name, text, name, boolean, boolean, boolean) IS
    'make this database a follower of a stream; leader is a libpq connection string; make_roles makes roles that only the leader has, without rights of their own, now and later';

CREATE FUNCTION fanout.unfollow(stream name)
RETURNS void AS 'MODULE_PATHNAME', 'fanout_unfollow' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION fanout.unfollow(name) IS
    'stop following a stream; the tables stay as they are and become writable';

CREATE FUNCTION fanout.set_leader(stream name, leader text)
RETURNS void AS 'MODULE_PATHNAME', 'fanout_set_leader' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION fanout.set_leader(name, text) IS
    'follow the stream at another address, or with another password; tables are copied again only from another leader';

CREATE FUNCTION fanout.pause(stream name)
RETURNS void AS 'MODULE_PATHNAME', 'fanout_pause' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION fanout.pause(name) IS 'stop applying changes until fanout.resume()';

CREATE FUNCTION fanout.resume(stream name)
RETURNS void AS 'MODULE_PATHNAME', 'fanout_resume' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION fanout.resume(name) IS 'go on applying changes after fanout.pause(), or retry at once after an error';

CREATE FUNCTION fanout.skip(stream name, lsn pg_lsn)
RETURNS void AS 'MODULE_PATHNAME', 'fanout_skip' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION fanout.skip(name, pg_lsn) IS
    'pass the one transaction of the leader that fails here, named by its commit LSN as the error says; tables that it changes are copied again';

CREATE FUNCTION fanout.resync(stream name, relation regclass DEFAULT NULL)
RETURNS void AS 'MODULE_PATHNAME', 'fanout_resync' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION fanout.resync(name, regclass) IS
    'copy one table from the leader again while the others stream on, or all tables of a stream';

CREATE FUNCTION fanout.verify(stream name, INOUT relation regclass DEFAULT NULL,
    OUT rows_on_leader bigint, OUT rows_here bigint, OUT equal boolean,
    OUT differing_keys jsonb)
RETURNS SETOF record AS 'MODULE_PATHNAME', 'fanout_verify' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION fanout.verify(name, regclass) IS
    'compare one table, or all tables of a stream, with the leader at one exact position of the stream, while writes go on; lists the first 100 keys that differ';

CREATE FUNCTION fanout.wait_for_copy(stream name, timeout interval DEFAULT '1h')
RETURNS boolean AS 'MODULE_PATHNAME', 'fanout_wait_for_copy' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION fanout.wait_for_copy(name, interval) IS
    'wait until the initial copy, and that of single tables, is complete and the follower is streaming; false: timed out';

CREATE FUNCTION fanout.staleness_state(
    OUT stream name, OUT leader text, OUT follower name, OUT state text, OUT staleness interval,
    OUT as_of timestamptz, OUT applied_lsn pg_lsn, OUT received_lsn pg_lsn, OUT leader_lsn pg_lsn,
    OUT lag_bytes bigint, OUT lag_transactions bigint, OUT applied_transactions bigint,
    OUT last_applied_at timestamptz, OUT last_error text, OUT last_error_at timestamptz)
RETURNS SETOF record AS 'MODULE_PATHNAME', 'fanout_staleness_state' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION fanout.staleness_state() IS 'the rows of fanout.staleness';

CREATE VIEW fanout.staleness AS SELECT * FROM fanout.staleness_state();
COMMENT ON VIEW fanout.staleness IS
    'streams that this database follows: every transaction acknowledged on the leader before as_of is visible to the snapshot of this query';
COMMENT ON COLUMN fanout.staleness.staleness IS
    'upper bound; NULL while it is unknown, as when a table is not in line with the others, see fanout.table_staleness';

CREATE FUNCTION fanout.stream_staleness(followed_id integer)
RETURNS interval AS 'MODULE_PATHNAME', 'fanout_stream_staleness' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION fanout.stream_staleness(integer) IS
    'staleness of those tables of a stream that are in line with it';

CREATE FUNCTION fanout.lag(stream name DEFAULT NULL,
    OUT lag_bytes bigint, OUT lag_transactions bigint, OUT staleness interval)
RETURNS record AS 'MODULE_PATHNAME', 'fanout_lag' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION fanout.lag(name) IS
    'how far this follower is behind; stream may be omitted when it follows just one';

CREATE FUNCTION fanout.table_activity(
    OUT followed_id integer, OUT relid oid, OUT changes_applied bigint, OUT last_changed_at timestamptz)
RETURNS SETOF record AS 'MODULE_PATHNAME', 'fanout_table_activity' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION fanout.table_activity() IS
    'changes applied to each table since the server''s start';

/* The definer may see what others' processes do, whoever asks. */
CREATE FUNCTION fanout.copies_under_way(OUT relid oid, OUT copied_rows bigint, OUT copied_bytes bigint)
RETURNS SETOF record LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT relid, tuples_processed, bytes_processed
    FROM pg_stat_progress_copy JOIN pg_stat_activity USING (pid)
    WHERE pg_stat_progress_copy.datname = current_database() AND command = 'COPY FROM'
      AND backend_type IN ('pg_fanout follower', 'pg_fanout copy')
$$;
COMMENT ON FUNCTION fanout.copies_under_way() IS
    'tables of this database that are being copied from a leader at this moment';

CREATE VIEW fanout.table_staleness AS
SELECT f.stream, t.relid::regclass AS relation,
    CASE WHEN t.state = 'p' AND c.relid IS NULL THEN 'pending'
         WHEN t.state = 'p' THEN 'copying'
         WHEN t.state IN ('b', 'a') THEN 'catching up'
         WHEN t.state = 'm' THEN 'missing'
         WHEN f.copy_state <> 'done' THEN 'copied'
         ELSE s.state END AS state,
    coalesce(c.copied_rows, t.copied_rows) AS copied_rows,
    coalesce(c.copied_bytes, t.copied_bytes) AS copied_bytes,
    t.total_bytes,
    coalesce(a.changes_applied, 0) AS changes_applied,
    a.last_changed_at,
    CASE WHEN t.state = 'c' AND f.copy_state = 'done' THEN fanout.stream_staleness(f.id) END AS staleness,
    CASE WHEN pg_catalog.pg_has_role('pg_monitor', 'USAGE') THEN t.last_error END AS last_error,
    t.last_error_at
FROM fanout.followed_stream f
JOIN fanout.followed_table t ON t.followed_id = f.id
JOIN fanout.staleness_state() s ON s.stream = f.stream
LEFT JOIN fanout.table_activity() a ON a.followed_id = f.id AND a.relid = t.relid
LEFT JOIN fanout.copies_under_way() c ON c.relid = t.relid AND t.state = 'p'
WHERE f.dboid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database());
COMMENT ON VIEW fanout.table_staleness IS
    'tables that streams replicate into: how much of the copy is done, what was applied since the server''s start, and how stale the table is to this query''s snapshot';
COMMENT ON COLUMN fanout.table_staleness.copied_bytes IS 'bytes received from the leader, in the form that COPY sends';
COMMENT ON COLUMN fanout.table_staleness.last_error IS 'why the table could not be copied, which is tried again; for members of pg_monitor';
COMMENT ON COLUMN fanout.table_staleness.total_bytes IS 'size on the leader''s disk when the copy began, without indexes';

CREATE VIEW fanout.schema_problems AS
SELECT f.stream, s.statement, s.outcome,
    CASE WHEN pg_catalog.pg_has_role('pg_monitor', 'USAGE') THEN s.error END AS error, s.failed_at
FROM fanout.followed_stream f JOIN fanout.failed_statement s ON s.followed_id = f.id
WHERE f.dboid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database());
COMMENT ON VIEW fanout.schema_problems IS
    'what of the leader''s schema could not be made by the initial copy: constraints that are not valid here, and what is left out';
COMMENT ON COLUMN fanout.schema_problems.error IS 'may name the key of a row: for members of pg_monitor';

CREATE VIEW fanout.copy_progress AS
WITH tables AS (
    SELECT f.stream, f.copy_state, f.copy_started_at, t.state, t.copied_at,
        coalesce(c.copied_rows, t.copied_rows, 0) AS copied_rows,
        coalesce(c.copied_bytes, t.copied_bytes, 0) AS copied_bytes,
        t.total_bytes,
        greatest(t.total_bytes, 1)::numeric AS weight,
        -- The leader's estimate of rows may be off: never done before it is.
        CASE WHEN t.state <> 'p' THEN 1
             WHEN t.total_rows > 0 THEN least(0.99, c.copied_rows / t.total_rows::numeric)
             ELSE least(0.99, c.copied_bytes / greatest(t.total_bytes, 1)::numeric) END AS done
    FROM fanout.followed_stream f
    JOIN fanout.followed_table t ON t.followed_id = f.id
    LEFT JOIN fanout.copies_under_way() c ON c.relid = t.relid AND t.state = 'p'
    WHERE f.copy_data
      AND f.dboid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
), totals AS (
    SELECT stream, copy_state, copy_started_at, count(*) AS tables,
        count(*) FILTER (WHERE state <> 'p') AS tables_copied,
        sum(copied_rows)::bigint AS copied_rows, sum(copied_bytes)::bigint AS copied_bytes,
        sum(total_bytes)::bigint AS total_bytes,
        sum(weight * coalesce(done, 0)) / sum(weight) AS done,
        coalesce(sum(weight) FILTER (WHERE copied_at < copy_started_at), 0) / sum(weight) AS done_before
    FROM tables GROUP BY stream, copy_state, copy_started_at
)
SELECT stream,
    CASE copy_state WHEN 'schema' THEN 'schema' WHEN 'tables' THEN 'schema' WHEN 'data' THEN 'copying'
                    WHEN 'indexes' THEN 'making indexes' ELSE 'done' END AS state,
    tables, tables_copied, copied_rows, copied_bytes, total_bytes,
    round(100 * done, 1) AS percent, copy_started_at AS started_at,
    CASE WHEN copy_state = 'data' AND done > done_before
         THEN (clock_timestamp() - copy_started_at) * ((1 - done) / (done - done_before))::double precision
         END AS time_left
FROM totals;
COMMENT ON VIEW fanout.copy_progress IS
    'the initial copy of each followed stream in one line; percent and time_left are of the rows, indexes come after them';

CREATE FUNCTION fanout.history_state(
    OUT stream name, OUT at timestamptz,
    OUT staleness_p50 interval, OUT staleness_p95 interval, OUT staleness_max interval,
    OUT lag_bytes_p50 bigint, OUT lag_bytes_p95 bigint, OUT lag_bytes_max bigint)
RETURNS SETOF record AS 'MODULE_PATHNAME', 'fanout_history_state' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION fanout.history_state() IS 'the rows of fanout.staleness_history';

CREATE VIEW fanout.staleness_history AS SELECT * FROM fanout.history_state();
COMMENT ON VIEW fanout.staleness_history IS
    'staleness and lag of the last hour, one row a second; what was unknown is NULL';

CREATE FUNCTION fanout.staleness_chart(stream name, width integer DEFAULT 60)
RETURNS SETOF text LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    height constant integer := 8;
    steps text := ' .:-=+*%#';
    bars double precision[];
    top double precision;
    first_at timestamptz;
    last_at timestamptz;
    line text;
    filled double precision;
BEGIN
    IF staleness_chart.stream IS NULL OR width IS NULL THEN
        RAISE EXCEPTION 'stream and width must not be null'
            USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF width NOT BETWEEN 10 AND 500 THEN
        RAISE EXCEPTION 'width must be between 10 and 500'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;

    SELECT min(h.at), max(h.at) INTO first_at, last_at
    FROM fanout.staleness_history h WHERE h.stream = staleness_chart.stream;
    IF first_at IS NULL THEN
        RETURN NEXT format('no history of stream "%s" yet', stream);
        RETURN;
    END IF;

    -- Where the encoding has them: blocks of an eighth to the full height of a line.
    IF getdatabaseencoding() = 'UTF8' THEN
        steps := (SELECT ' ' || string_agg(chr(9600 + n), '' ORDER BY n) FROM generate_series(1, 8) n);
    END IF;

    -- One bar a column: the worst second in it; -1 where it was unknown.
    SELECT array_agg(worst ORDER BY n), max(worst) INTO bars, top
    FROM (SELECT n, CASE WHEN bool_or(h.at IS NOT NULL AND h.staleness_max IS NULL) THEN -1
                         ELSE max(extract(epoch FROM h.staleness_max) * 1000) END AS worst
          FROM generate_series(0, width - 1) n
          LEFT JOIN fanout.staleness_history h
            ON h.stream = staleness_chart.stream
           AND least(width - 1, floor(extract(epoch FROM h.at - first_at) * width
                   / greatest(extract(epoch FROM last_at - first_at), 1))::integer) = n
          GROUP BY n) columns;
    top := greatest(top, 1);

    RETURN NEXT format('staleness of stream "%s", worst of each %s, full height %s ms', stream,
        make_interval(secs => round((extract(epoch FROM last_at - first_at) / width)::numeric, 1)::double precision),
        round(top::numeric, 1));
    FOR row IN REVERSE height - 1 .. 0 LOOP
        line := '';
        FOR col IN 1 .. width LOOP
            filled := bars[col] / top * height - row;
            line := line || CASE
                WHEN bars[col] IS NULL THEN ' '
                WHEN bars[col] < 0 THEN '?'
                ELSE substr(steps, 1 + greatest(0, least(8, ceil(filled * 8)))::integer, 1) END;
        END LOOP;
        RETURN NEXT '|' || rtrim(line);
    END LOOP;
    RETURN NEXT '+' || repeat('-', width);
    -- to_char() would read the names of days, which not every encoding can have.
    RETURN NEXT ' ' || rpad(date_trunc('second', first_at)::time::text, width - 8)
        || date_trunc('second', last_at)::time::text;
END
$$;
COMMENT ON FUNCTION fanout.staleness_chart(name, integer) IS
    'draw the staleness of the last hour as lines of text';

CREATE FUNCTION fanout.wait_for(token text, timeout interval DEFAULT '10s',
    stream name DEFAULT NULL)
RETURNS boolean AS 'MODULE_PATHNAME', 'fanout_wait_for' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION fanout.wait_for(text, interval, name) IS
    'wait until this follower has applied a token of its leader; false: timed out';

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA fanout FROM PUBLIC;
REVOKE ALL ON PROCEDURE fanout.send_changes(name, name, uuid, pg_lsn, uuid, pg_lsn, integer, integer) FROM PUBLIC;
GRANT USAGE ON SCHEMA fanout TO PUBLIC;
GRANT EXECUTE ON FUNCTION fanout.staleness_state(), fanout.lag(name), fanout.stream_staleness(integer),
    fanout.wait_for_copy(name, interval), fanout.wait_for(text, interval, name),
    fanout.token(), fanout.wait_for_followers(integer, text, interval) TO PUBLIC;
GRANT EXECUTE ON FUNCTION fanout.create_stream(name, name[], boolean, boolean), fanout.drop_stream(name, boolean),
    fanout.drop_follower(name, name), fanout.grant_stream(name, name), fanout.revoke_stream(name, name),
    fanout.streams_state(), fanout.followers_state() TO PUBLIC;
GRANT EXECUTE ON FUNCTION fanout.history_state(), fanout.staleness_chart(name, integer) TO PUBLIC;
GRANT EXECUTE ON FUNCTION fanout.table_activity(), fanout.copies_under_way() TO PUBLIC;
GRANT SELECT ON fanout.staleness, fanout.staleness_history, fanout.table_staleness,
    fanout.copy_progress, fanout.schema_problems TO PUBLIC;
GRANT SELECT ON fanout.streams, fanout.followers TO PUBLIC;

/*
 * The role a follower's login needs on the leader.  Roles belong to the whole
 * server, so another database may have made it already.
 */
DO $$
BEGIN
    CREATE ROLE fanout_follower NOLOGIN;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN
        NULL;
END
$$;
GRANT EXECUTE ON FUNCTION fanout.stream_info(name, integer), fanout.stream_tables(name), fanout.stream_sequences(name),
    fanout.wait_for_writers(name, oid[]),
    fanout.register_follower(name, name, uuid, uuid, pg_lsn), fanout.flush_wal(),
    fanout.unregister_follower(name, name, uuid, integer), fanout.snapshot_position(name),
    fanout.table_hashes(regclass, name[], name[], name[], text, integer, integer[]) TO fanout_follower;
GRANT EXECUTE ON PROCEDURE fanout.send_changes(name, name, uuid, pg_lsn, uuid, pg_lsn, integer, integer)
    TO fanout_follower;
