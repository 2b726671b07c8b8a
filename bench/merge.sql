-- What the benchmark's second table needs: see bench/merge.  psql variable:
-- brokers.

CREATE EXTENSION kappa;
CREATE EXTENSION pgstattuple;
CREATE SERVER events FOREIGN DATA WRAPPER kappa
    OPTIONS (bootstrap_servers :'brokers');

-- Processor time of a process, in microseconds; of its main thread alone, so
-- without librdkafka's.
CREATE FUNCTION processor_time(pid integer) RETURNS double precision
LANGUAGE sql AS $$
    SELECT split_part(pg_read_file(format('/proc/%s/task/%1$s/schedstat', pid)), ' ', 1)::double precision / 1000
$$;

-- Run a statement over a table's events in batches, each in a transaction;
-- processor time, and rows that it has counted or written.
CREATE PROCEDURE run_plainly(statement text, events bigint, batch integer,
    INOUT spent double precision, INOUT groups bigint)
LANGUAGE plpgsql AS $$
DECLARE
    started double precision := processor_time(pg_backend_pid());
    merged bigint;
BEGIN
    groups := 0;
    SET LOCAL synchronous_commit = off;
    FOR low IN 0 .. events - 1 BY batch LOOP
        EXECUTE statement USING low, low + batch;
        GET DIAGNOSTICS merged = ROW_COUNT;
        groups := groups + merged;
        COMMIT;
        SET LOCAL synchronous_commit = off;
    END LOOP;
    spent := processor_time(pg_backend_pid()) - started;
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
