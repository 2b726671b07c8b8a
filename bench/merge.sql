-- What the benchmark's second table needs: see bench/merge.  psql variable:
-- brokers.

CREATE EXTENSION kappa;
CREATE EXTENSION pgstattuple;
CREATE SERVER events FOREIGN DATA WRAPPER kappa
    OPTIONS (bootstrap_servers :'brokers');

CREATE TABLE plain (user_id bigint, n bigint, s numeric,
    UNIQUE NULLS NOT DISTINCT (user_id)) WITH (fillfactor = 70);

-- Merge events in batches, each in a transaction; microseconds per group.
CREATE PROCEDURE merge_plainly(typed regclass, events integer, batch integer,
    INOUT microseconds double precision)
LANGUAGE plpgsql AS $$
DECLARE
    started timestamptz;
    spent double precision := 0;
    merged bigint;
    groups bigint := 0;
BEGIN
    SET LOCAL synchronous_commit = off;
    FOR low IN 0 .. events - 1 BY batch LOOP
        started := clock_timestamp();
        EXECUTE format('INSERT INTO plain AS t
            SELECT user_id, count(*), sum(amount) FROM %s WHERE i > $1 AND i <= $2
            GROUP BY user_id ORDER BY user_id
            ON CONFLICT (user_id) DO UPDATE SET n = t.n + excluded.n, s = t.s + excluded.s',
            typed) USING low, low + batch;
        GET DIAGNOSTICS merged = ROW_COUNT;
        spent := spent + extract(epoch FROM clock_timestamp() - started);
        groups := groups + merged;
        COMMIT;
        SET LOCAL synchronous_commit = off;
    END LOOP;
    microseconds := 1e6 * spent / groups;
END $$;

-- Size of the view "merged" and of its companion, and what merging cost since the last call.
CREATE TABLE spent (apply_time double precision, rows bigint);
INSERT INTO spent VALUES (0, 0);
CREATE FUNCTION show_bloat(read bigint, OUT events bigint, OUT mb numeric,
    OUT free_percent numeric, OUT microseconds numeric)
LANGUAGE sql AS $$
    WITH tables AS (
        SELECT pg_total_relation_size(oid) AS size, pgstattuple(oid) AS tuples
        FROM pg_class WHERE relname IN ('merged', 'merged_v1_state')
    ), now AS (
        SELECT s.apply_time, s.rows FROM kappa.stat_views s WHERE s.view = to_regclass('merged')
    ), used AS (
        UPDATE spent SET apply_time = now.apply_time, rows = now.rows FROM now
        RETURNING now.*
    )
    SELECT $1, round((SELECT sum(size) FROM tables) / 1e6, 1),
        round((SELECT avg((tuples).free_percent) FROM tables)::numeric, 1),
        round((1000 * (used.apply_time - spent.apply_time) / (used.rows - spent.rows))::numeric, 2)
    FROM used, spent
$$;
