/* kappa--1.0.sql: the interface of kappa and the tables behind it */

\echo Use "CREATE EXTENSION kappa" to load this file. \quit

-- Whoever owns the schema may drop what is in it and put functions beside it.
DO $$
BEGIN
    IF NOT (SELECT r.rolsuper
            FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_roles r ON r.oid = n.nspowner
            WHERE n.nspname = 'kappa') THEN
        RAISE EXCEPTION USING
            errcode = 'insufficient_privilege',
            message = 'schema "kappa" is not owned by a superuser',
            hint = 'Drop or rename the schema.';
    END IF;
END $$;

CREATE SCHEMA kappa_state;
GRANT USAGE ON SCHEMA kappa_state TO PUBLIC;
GRANT USAGE ON SCHEMA kappa TO PUBLIC;
COMMENT ON SCHEMA kappa_state IS 'kappa: definitions and state of views, made and kept by kappa';

-- ---------------------------------------------------------------------------
-- Topics as foreign tables
-- ---------------------------------------------------------------------------

CREATE FUNCTION kappa.fdw_handler() RETURNS fdw_handler
AS 'MODULE_PATHNAME', 'kappa_sql_fdw_handler' LANGUAGE C STRICT;
COMMENT ON FUNCTION kappa.fdw_handler() IS 'kappa: handler of the foreign-data wrapper';

CREATE FUNCTION kappa.fdw_validator(options text[], catalog oid) RETURNS void
AS 'MODULE_PATHNAME', 'kappa_sql_fdw_validator' LANGUAGE C STRICT;
COMMENT ON FUNCTION kappa.fdw_validator(text[], oid) IS 'kappa: checks the options of servers, user mappings, foreign tables and their columns';

CREATE FOREIGN DATA WRAPPER kappa HANDLER kappa.fdw_handler VALIDATOR kappa.fdw_validator;
COMMENT ON FOREIGN DATA WRAPPER kappa IS 'Kafka topics as tables';

-- ---------------------------------------------------------------------------
-- Tables of kappa.  Nobody but kappa writes them; people read the views below.
-- Relations are kept as regclass, which a dump writes as names.
-- ---------------------------------------------------------------------------

CREATE TABLE kappa.view (
    view regclass PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('append', 'latest', 'aggregate')),
    version integer NOT NULL,
    state text NOT NULL CHECK (state IN ('running', 'paused', 'stopped')),
    reason text,
    since timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    inexact text,
    system_identifier bigint NOT NULL,
    database oid NOT NULL,
    dead_letter_limit integer,
    dead_letter_percent integer,
    message_rate integer
);
COMMENT ON TABLE kappa.view IS 'one row for each view: its live version and what it is meant to do';
COMMENT ON COLUMN kappa.view.version IS 'the version whose rows are in the table';
COMMENT ON COLUMN kappa.view.state IS 'what the view is meant to do; how it is doing is in kappa.views';
COMMENT ON COLUMN kappa.view.reason IS 'why it is paused or stopped';
COMMENT ON COLUMN kappa.view.inexact IS 'why the equality of the view and its query is not exact; null if it is';
COMMENT ON COLUMN kappa.view.system_identifier IS 'of the cluster in which the view ran last; another one means that it was restored from a dump';
COMMENT ON COLUMN kappa.view.database IS 'the database in which the view ran last, likewise';
COMMENT ON COLUMN kappa.view.dead_letter_limit IS 'in place of the configuration parameter, for this view; null: that counts';
COMMENT ON COLUMN kappa.view.dead_letter_percent IS 'likewise';
COMMENT ON COLUMN kappa.view.message_rate IS 'most messages that are applied in a second; null: as many as come';

CREATE TABLE kappa.view_version (
    view regclass,
    version integer,
    definition regclass,
    source regclass,
    target regclass NOT NULL,
    companion regclass,
    fingerprint text NOT NULL,
    settings text[] NOT NULL,
    source_views text,
    functions text[] NOT NULL,
    key_columns text[] NOT NULL,
    kept_until timestamptz,
    created_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    PRIMARY KEY (view, version)
);
COMMENT ON TABLE kappa.view_version IS 'one row for each version of a view: the live one, one that a rebuild is filling, the one before the last switch while it is kept';
COMMENT ON COLUMN kappa.view_version.definition IS 'the SQL view in kappa_state that is the query; null after it was dropped';
COMMENT ON COLUMN kappa.view_version.source IS 'the foreign table that the query reads';
COMMENT ON COLUMN kappa.view_version.target IS 'the table that is written: the view itself, or one in kappa_state';
COMMENT ON COLUMN kappa.view_version.companion IS 'the table in kappa_state with what the visible columns cannot carry; null if nothing';
COMMENT ON COLUMN kappa.view_version.fingerprint IS 'what the foreign table meant when the version was made';
COMMENT ON COLUMN kappa.view_version.settings IS 'configuration parameters that the meaning depends on, name=value';
COMMENT ON COLUMN kappa.view_version.source_views IS 'what the query meant when the version was made, as a hash, if it reads the topic through SQL views; null if not';
COMMENT ON COLUMN kappa.view_version.functions IS 'what the functions that the query uses did when the version was made, as hashes; empty if all are of PostgreSQL itself';
COMMENT ON COLUMN kappa.view_version.key_columns IS 'the columns of the view that tell its rows apart; empty if none do';
COMMENT ON COLUMN kappa.view_version.kept_until IS 'of a previous version: when it is dropped, infinity for with the next rebuild; null of others';

CREATE TABLE kappa.position (
    view regclass,
    version integer,
    topic text,
    start_offset bigint[] NOT NULL,
    next_offset bigint[] NOT NULL,
    PRIMARY KEY (view, version, topic)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
COMMENT ON TABLE kappa.position IS 'where each version stands in the log; one row for each topic, arrays by partition';
COMMENT ON COLUMN kappa.position.start_offset IS 'the first offset that belongs to the view; -1: the beginning of the log, not read yet';
COMMENT ON COLUMN kappa.position.next_offset IS 'the next offset to read; -1 likewise';

CREATE TABLE kappa.last_message (
    view regclass,
    version integer,
    topic text,
    last_offset bigint[] NOT NULL,
    last_timestamp bigint[] NOT NULL,
    last_crc bigint[] NOT NULL,
    PRIMARY KEY (view, version, topic)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
COMMENT ON TABLE kappa.last_message IS 'a message already applied for each partition, read again at each start to notice that a topic is another one';

CREATE TABLE kappa.gap (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    view regclass NOT NULL,
    version integer NOT NULL,
    topic text NOT NULL,
    part integer NOT NULL,
    from_offset bigint NOT NULL,
    to_offset bigint NOT NULL,
    made_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    made_by text NOT NULL DEFAULT session_user
);
COMMENT ON TABLE kappa.gap IS 'offsets that kappa.seek_view() passed over, from_offset up to but not including to_offset; a rebuild reads them, and removes them';
COMMENT ON SEQUENCE kappa.gap_id_seq IS 'numbers of gaps';

CREATE TABLE kappa.dead_letter (
    view regclass,
    version integer,
    topic text NOT NULL,
    part integer,
    pos bigint,
    message_ms bigint,
    timestamp_type text,
    key bytea,
    value bytea,
    header_names bytea[],
    header_values bytea[],
    size bigint NOT NULL,
    complete boolean NOT NULL,
    sqlstate text NOT NULL,
    error text NOT NULL,
    detail text,
    context text,
    column_name text,
    failed_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    discarded_at timestamptz,
    PRIMARY KEY (view, version, part, pos)
);
COMMENT ON TABLE kappa.dead_letter IS 'messages that versions of views have passed over because they could not be applied';
COMMENT ON COLUMN kappa.dead_letter.message_ms IS 'the message''s timestamp, in milliseconds since 1970; null if it has none';
COMMENT ON COLUMN kappa.dead_letter.timestamp_type IS 'C: set by the producer, A: by the broker; null if it has none';
COMMENT ON COLUMN kappa.dead_letter.header_values IS 'in the order of header_names; both null if the message has no headers';
COMMENT ON COLUMN kappa.dead_letter.size IS 'bytes of key, value and headers';
COMMENT ON COLUMN kappa.dead_letter.complete IS 'false if only the beginnings of key and value are here, because the message is longer than kappa.dead_letter_max_bytes';
COMMENT ON COLUMN kappa.dead_letter.context IS 'where the error was raised';
COMMENT ON COLUMN kappa.dead_letter.column_name IS 'the column of the foreign table that could not be made; null if the error is about something else';
COMMENT ON COLUMN kappa.dead_letter.discarded_at IS 'when kappa.discard_dead_letters() gave it up, and took its contents away; null if it waits';

CREATE TABLE kappa.event (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    view regclass NOT NULL,
    view_name text NOT NULL,
    event text NOT NULL,
    version integer,
    sqlstate text,
    detail text
);
COMMENT ON TABLE kappa.event IS 'what happened to views';
COMMENT ON SEQUENCE kappa.event_id_seq IS 'numbers of events';
CREATE INDEX ON kappa.event (view);

CREATE TABLE kappa.rebuild_run (
    view regclass,
    version integer,
    asked text NOT NULL CHECK (asked IN ('auto', 'storage', 'rows', 'manual')),
    switch text NOT NULL CHECK (switch IN ('storage', 'rows')),
    phase text NOT NULL,
    waiting_for integer,
    messages bigint NOT NULL DEFAULT 0,
    messages_total bigint,
    keep_previous integer NOT NULL,
    started_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    replayed_at timestamptz,
    finished_at timestamptz,
    paused_at timestamptz,
    paused_for interval NOT NULL DEFAULT '0',
    error text,
    PRIMARY KEY (view, version)
);
COMMENT ON TABLE kappa.rebuild_run IS 'rebuilds, running and finished; the last one of each view is kept';
COMMENT ON COLUMN kappa.rebuild_run.asked IS 'how the caller of kappa.rebuild() wanted to switch; manual: not before kappa.switch_rebuild()';
COMMENT ON COLUMN kappa.rebuild_run.switch IS 'how the new rows get into the table: by exchange of storage, or as a change of rows';
COMMENT ON COLUMN kappa.rebuild_run.phase IS 'replaying, building indexes, catching up, waiting for old snapshots, waiting for switch_rebuild, switching, done, cancelled, failed';
COMMENT ON COLUMN kappa.rebuild_run.waiting_for IS 'process whose snapshot or lock is waited for';
COMMENT ON COLUMN kappa.rebuild_run.replayed_at IS 'when the end of the log was reached first';
COMMENT ON COLUMN kappa.rebuild_run.paused_at IS 'since when it is paused; null if it is not';
COMMENT ON COLUMN kappa.rebuild_run.paused_for IS 'how long it was paused, all in all, before the end of the log was reached first';
COMMENT ON COLUMN kappa.rebuild_run.keep_previous IS 'kappa.keep_previous when it began, in seconds';
COMMENT ON COLUMN kappa.rebuild_run.messages_total IS 'messages between the start and the end of the log when the rebuild began, by offsets';

CREATE TABLE kappa.fill (
    view regclass,
    version integer,
    staging regclass,
    active boolean NOT NULL DEFAULT true,
    PRIMARY KEY (view, version)
);
COMMENT ON TABLE kappa.fill IS 'versions into which the log is replayed by several processes; a version that is here is served by no worker';
COMMENT ON COLUMN kappa.fill.staging IS 'the table in kappa_state with what has been computed so far; null where the rows go into the version''s own table';
COMMENT ON COLUMN kappa.fill.active IS 'false after it was given up: a worker then reads on from the version''s position';

CREATE TABLE kappa.fill_range (
    view regclass,
    version integer,
    part integer,
    start_offset bigint,
    next_offset bigint NOT NULL,
    end_offset bigint NOT NULL,
    shared bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (view, version, part, start_offset)
) WITH (fillfactor = 50);
COMMENT ON TABLE kappa.fill_range IS 'stretches of the log that are replayed for a version; each is locked while a process replays some of it';
COMMENT ON COLUMN kappa.fill_range.next_offset IS 'the next offset to read';
COMMENT ON COLUMN kappa.fill_range.end_offset IS 'the first offset that is left to others';
COMMENT ON COLUMN kappa.fill_range.shared IS 'messages that were read for another version, and came along';

CREATE TABLE kappa.version_history (
    view regclass,
    version integer,
    query text,
    settings text[] NOT NULL,
    created_by text NOT NULL DEFAULT session_user,
    created_at timestamptz NOT NULL,
    switched_at timestamptz,
    dropped_at timestamptz,
    topic text,
    start_offset bigint[],
    next_offset bigint[],
    rows bigint,
    size bigint,
    missing text,
    start_at timestamptz,
    PRIMARY KEY (view, version)
);
COMMENT ON TABLE kappa.version_history IS 'one row for each version that a view has or had';
COMMENT ON COLUMN kappa.version_history.query IS 'when the version was made or, if that has happened, when it was dropped';
COMMENT ON COLUMN kappa.version_history.switched_at IS 'when its rows became those of the view';
COMMENT ON COLUMN kappa.version_history.dropped_at IS 'when it was dropped; the columns topic to size are filled then';
COMMENT ON COLUMN kappa.version_history.missing IS 'what the log did not have any more when the version was built; null if nothing';
COMMENT ON COLUMN kappa.version_history.start_at IS 'from when on messages belong to it, if it was to start at a time or at the end of the log; null: from the beginning of the log';

SELECT pg_catalog.pg_extension_config_dump('kappa.view', '');
SELECT pg_catalog.pg_extension_config_dump('kappa.view_version', '');
SELECT pg_catalog.pg_extension_config_dump('kappa.position', '');
SELECT pg_catalog.pg_extension_config_dump('kappa.last_message', '');
SELECT pg_catalog.pg_extension_config_dump('kappa.gap', '');
SELECT pg_catalog.pg_extension_config_dump('kappa.dead_letter', '');
SELECT pg_catalog.pg_extension_config_dump('kappa.event', '');
SELECT pg_catalog.pg_extension_config_dump('kappa.rebuild_run', '');
SELECT pg_catalog.pg_extension_config_dump('kappa.fill', '');
SELECT pg_catalog.pg_extension_config_dump('kappa.fill_range', '');
SELECT pg_catalog.pg_extension_config_dump('kappa.version_history', '');
SELECT pg_catalog.pg_extension_config_dump('kappa.gap_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('kappa.event_id_seq', '');

-- ---------------------------------------------------------------------------
-- Functions that the statements of kappa use (see kappa.explain)
-- ---------------------------------------------------------------------------

CREATE FUNCTION kappa.message_partition(source oid, message tid) RETURNS integer
AS 'MODULE_PATHNAME', 'kappa_sql_message_partition' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION kappa.message_partition(oid, tid) IS 'kappa: the partition of a message that a scan returned, by tableoid and ctid';

CREATE FUNCTION kappa.message_offset(source oid, message tid) RETURNS bigint
AS 'MODULE_PATHNAME', 'kappa_sql_message_offset' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION kappa.message_offset(oid, tid) IS 'kappa: the offset of a message that a scan returned (relative to the start of the scan where no batch is read), by tableoid and ctid';

CREATE FUNCTION kappa.message_timestamp(source oid, message tid) RETURNS bigint
AS 'MODULE_PATHNAME', 'kappa_sql_message_timestamp' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION kappa.message_timestamp(oid, tid) IS 'kappa: the timestamp, in milliseconds since 1970, of a message of the batch that is being applied, by tableoid and ctid; null where no batch is read';

CREATE FUNCTION kappa.message_has_value(source oid, message tid) RETURNS boolean
AS 'MODULE_PATHNAME', 'kappa_sql_message_has_value' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION kappa.message_has_value(oid, tid) IS 'kappa: false for a tombstone, by tableoid and ctid';

CREATE FUNCTION kappa.without_clock_words(value text) RETURNS text
AS 'MODULE_PATHNAME', 'kappa_sql_without_clock_words' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION kappa.without_clock_words(text) IS 'kappa: the text itself; an error if it holds a word that a datetime type takes for the time of day (now, today, ...)';

CREATE FUNCTION kappa.decode_message(topic regclass, value bytea, key bytea DEFAULT NULL) RETURNS jsonb
AS 'MODULE_PATHNAME', 'kappa_sql_decode_message' LANGUAGE C STABLE PARALLEL SAFE;
COMMENT ON FUNCTION kappa.decode_message(regclass, bytea, bytea) IS 'what a foreign table makes of a message: its columns and their values as text; or the error';

CREATE FUNCTION kappa.same_value(wanted anyelement, kept anyelement, rounded boolean) RETURNS boolean
AS 'MODULE_PATHNAME', 'kappa_sql_same_value' LANGUAGE C STABLE PARALLEL SAFE;
COMMENT ON FUNCTION kappa.same_value(anyelement, anyelement, boolean) IS 'kappa: whether two values are equal by their type, or as text if it has no equality; rounded: floating-point numbers but for what the order of a sum may change';

CREATE FUNCTION kappa.guard() RETURNS trigger
AS 'MODULE_PATHNAME', 'kappa_sql_guard' LANGUAGE C;
COMMENT ON FUNCTION kappa.guard() IS 'kappa: trigger that refuses changes of a view by hand';

CREATE FUNCTION kappa.note_restored() RETURNS trigger
AS 'MODULE_PATHNAME', 'kappa_sql_note_restored' LANGUAGE C;
REVOKE ALL ON FUNCTION kappa.note_restored() FROM PUBLIC;
COMMENT ON FUNCTION kappa.note_restored() IS 'kappa: trigger that tells rows which a restore inserts from those which kappa does';
CREATE TRIGGER note_restored BEFORE INSERT ON kappa.view
FOR EACH ROW EXECUTE FUNCTION kappa.note_restored();
CREATE TRIGGER note_restored AFTER INSERT ON kappa.view_version
FOR EACH ROW EXECUTE FUNCTION kappa.note_restored();

-- ---------------------------------------------------------------------------
-- Views: the commands.  Each checks itself that the caller owns the view.
-- ---------------------------------------------------------------------------

CREATE FUNCTION kappa.create_view(name text, query text, start text DEFAULT 'earliest') RETURNS regclass
AS 'MODULE_PATHNAME', 'kappa_sql_create_view' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION kappa.create_view(text, text, text) IS 'make a view that is kept up to date from a topic; start: earliest, latest or a timestamp';

CREATE FUNCTION kappa.drop_view(view regclass) RETURNS void
AS 'MODULE_PATHNAME', 'kappa_sql_drop_view' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION kappa.drop_view(regclass) IS 'drop a view, as DROP TABLE does';

CREATE FUNCTION kappa.pause_view(view regclass) RETURNS void
AS 'MODULE_PATHNAME', 'kappa_sql_pause_view' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION kappa.pause_view(regclass) IS 'stop applying messages to a view until kappa.resume_view()';

CREATE FUNCTION kappa.limit_view(
    view regclass, dead_letter_limit integer DEFAULT NULL,
    dead_letter_percent integer DEFAULT NULL, message_rate integer DEFAULT NULL)
RETURNS void
AS 'MODULE_PATHNAME', 'kappa_sql_limit_view' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION kappa.limit_view(regclass, integer, integer, integer) IS 'set all limits of a view: how many dead letters may wait, how many of a hundred messages may become one, how many are applied in a second; null: no limit of its own';

CREATE FUNCTION kappa.resume_view(view regclass) RETURNS void
AS 'MODULE_PATHNAME', 'kappa_sql_resume_view' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION kappa.resume_view(regclass) IS 'let a paused, stopped or restored view go on where it stood, after checking definition, state and log';

CREATE FUNCTION kappa.seek_view(view regclass, topic text, part integer, next_offset bigint) RETURNS void
AS 'MODULE_PATHNAME', 'kappa_sql_seek_view' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION kappa.seek_view(regclass, text, integer, bigint) IS 'pass over messages: continue a partition at a later offset; the gap is recorded';

CREATE FUNCTION kappa.wait_for(view regclass, timeout interval DEFAULT '1 minute') RETURNS boolean
AS 'MODULE_PATHNAME', 'kappa_sql_wait_for' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION kappa.wait_for(regclass, interval) IS 'wait until a view has applied all that can be read from the log now; false at the timeout';

CREATE FUNCTION kappa.explain(view regclass) RETURNS SETOF text
AS 'MODULE_PATHNAME', 'kappa_sql_explain' LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION kappa.explain(regclass) IS 'the SQL that keeps a view';

CREATE FUNCTION kappa.verify(view regclass) RETURNS bigint
AS 'MODULE_PATHNAME', 'kappa_sql_verify' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION kappa.verify(regclass) IS 'compare a view with its query over the log up to the view''s offsets: the number of rows that differ';

CREATE FUNCTION kappa.diff_view(
    view regclass, max_rows bigint DEFAULT 1000,
    OUT difference text, OUT copies bigint, OUT columns text[], OUT "row" json)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'kappa_sql_diff_view' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION kappa.diff_view(regclass, bigint) IS 'the rows that kappa.verify() counts: missing (the query has it, the view does not) or extra, how many times, and which columns differ where both have a row of the same key';

-- ---------------------------------------------------------------------------
-- Views: how they are doing
-- ---------------------------------------------------------------------------

CREATE FUNCTION kappa.messages_of(
    view regclass, "row" jsonb, max_rows bigint DEFAULT 1000,
    OUT part integer, OUT pos bigint, OUT message json)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'kappa_sql_messages_of' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION kappa.messages_of(regclass, jsonb, bigint) IS 'the messages behind a row of a view: those of its log, up to its offsets, that give these values in the columns that are named';

CREATE FUNCTION kappa.for_owner(owner oid, message text) RETURNS text
AS 'MODULE_PATHNAME', 'kappa_sql_for_owner' LANGUAGE C STABLE PARALLEL SAFE;
COMMENT ON FUNCTION kappa.for_owner(oid, text) IS 'kappa: a message for those who have the privileges of the owner or of pg_read_all_stats; <insufficient privilege> for others';

CREATE FUNCTION kappa.run_status(
    OUT view oid, OUT version integer, OUT state text, OUT reason text,
    OUT since timestamptz, OUT sqlstate text, OUT retry_at timestamptz,
    OUT worker_pid integer, OUT messages bigint, OUT bytes bigint,
    OUT rows bigint, OUT batches bigint, OUT restarts bigint,
    OUT fetch_time double precision, OUT apply_time double precision,
    OUT commit_time double precision, OUT dead_letters bigint,
    OUT processes integer)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'kappa_sql_run_status' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION kappa.run_status() IS 'kappa: what the processes of this database say of the views that should run; times in milliseconds';

CREATE FUNCTION kappa.waiting_reason() RETURNS text
AS 'MODULE_PATHNAME', 'kappa_sql_waiting_reason' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION kappa.waiting_reason() IS 'kappa: why a view that should run is not among those of kappa.run_status()';

CREATE FUNCTION kappa.query_text(definition regclass) RETURNS text
AS 'MODULE_PATHNAME', 'kappa_sql_query_text' LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION kappa.query_text(regclass) IS 'kappa: the query of a definition; null if it cannot be shown: dropped since the snapshot was taken, of something that is gone, or locked';

CREATE FUNCTION kappa.log_status(
    view oid, version integer,
    OUT part integer, OUT end_offset bigint, OUT last_message_at timestamptz)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'kappa_sql_log_status' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION kappa.log_status(oid, integer) IS 'kappa: what the worker of a view knows of its log';

CREATE VIEW kappa.views AS
SELECT v.view,
       v.kind,
       kappa.query_text(n.definition) AS query,
       v.version,
       CASE WHEN (v.system_identifier, v.database) <> (s.system_identifier, d.oid) THEN 'paused'
            WHEN v.state <> 'running' THEN v.state
            WHEN pg_catalog.pg_is_in_recovery() THEN 'paused'
            ELSE coalesce(r.state, 'retrying')
       END AS state,
       CASE WHEN (v.system_identifier, v.database) <> (s.system_identifier, d.oid) THEN 'restored'
            WHEN v.state <> 'running' THEN kappa.for_owner(c.relowner, v.reason)
            WHEN pg_catalog.pg_is_in_recovery() THEN 'the server is a standby'
            WHEN r.view IS NULL THEN kappa.waiting_reason()
            ELSE r.reason
       END AS reason,
       r.sqlstate,
       CASE WHEN v.state = 'running' THEN coalesce(r.since, v.since) ELSE v.since END AS since,
       r.retry_at,
       v.inexact IS NULL AS exact,
       v.inexact,
       pg_catalog.pg_get_userbyid(c.relowner) AS owner,
       r.worker_pid,
       n.settings,
       v.dead_letter_limit,
       v.dead_letter_percent,
       v.message_rate
FROM kappa.view v
JOIN pg_catalog.pg_class c ON c.oid = v.view
JOIN kappa.view_version n USING (view, version)
CROSS JOIN pg_catalog.pg_control_system() s
JOIN pg_catalog.pg_database d ON d.datname = pg_catalog.current_database()
LEFT JOIN kappa.run_status() r ON r.view = v.view::oid AND r.version = v.version;
COMMENT ON VIEW kappa.views IS 'the views of this database and how they are doing';
COMMENT ON COLUMN kappa.views.query IS 'null if something in it is gone, or locked for longer than a moment';
COMMENT ON COLUMN kappa.views.state IS 'running, catching up, retrying, paused or stopped';
COMMENT ON COLUMN kappa.views.reason IS 'why it is in that state, where there is something to say';
COMMENT ON COLUMN kappa.views.retry_at IS 'when a failing view is tried again';
COMMENT ON COLUMN kappa.views.exact IS 'false if the view cannot equal its query to the last bit; inexact says why';
COMMENT ON COLUMN kappa.views.settings IS 'configuration parameters of the session that made the view and under which it is kept';
COMMENT ON COLUMN kappa.views.dead_letter_limit IS 'set by kappa.limit_view(); null: the configuration parameter of that name counts';
COMMENT ON COLUMN kappa.views.dead_letter_percent IS 'likewise';
COMMENT ON COLUMN kappa.views.message_rate IS 'most messages that are applied in a second, set by kappa.limit_view(); null: as many as come';

CREATE VIEW kappa.offsets AS
SELECT p.view,
       p.topic,
       (u.ordinality - 1)::integer AS part,
       nullif(u.start_offset, -1) AS start_offset,
       nullif(u.next_offset, -1) AS next_offset,
       CASE WHEN l.end_offset < u.next_offset THEN u.next_offset
            ELSE l.end_offset
       END AS end_offset,
       CASE WHEN l.end_offset < u.next_offset THEN 0
            ELSE l.end_offset - greatest(u.next_offset, 0)
       END AS lag,
       l.last_message_at,
       CASE WHEN l.end_offset <= greatest(u.next_offset, 0) THEN interval '0'
            ELSE pg_catalog.clock_timestamp() - l.last_message_at
       END AS time_lag
FROM kappa.view v
JOIN kappa.position p USING (view, version)
CROSS JOIN LATERAL ROWS FROM (pg_catalog.unnest(p.start_offset), pg_catalog.unnest(p.next_offset))
     WITH ORDINALITY AS u (start_offset, next_offset, ordinality)
LEFT JOIN LATERAL kappa.log_status(p.view::oid, p.version) l ON l.part = u.ordinality - 1;
COMMENT ON VIEW kappa.offsets IS 'where each view stands in the log, by partition';
COMMENT ON COLUMN kappa.offsets.start_offset IS 'the first offset that belongs to the view';
COMMENT ON COLUMN kappa.offsets.next_offset IS 'the next offset to read';
COMMENT ON COLUMN kappa.offsets.end_offset IS 'the end of what a read_committed reader can reach, as a worker of the view last saw it; null if none has looked, as for a paused view';
COMMENT ON COLUMN kappa.offsets.lag IS 'offsets between next_offset and end_offset; null where end_offset is';
COMMENT ON COLUMN kappa.offsets.time_lag IS 'age of the last message applied; 0 when lag is 0';

CREATE VIEW kappa.stat_views AS
SELECT v.view,
       coalesce(r.messages, 0) AS messages,
       coalesce(r.bytes, 0) AS bytes,
       coalesce(r.rows, 0) AS rows,
       coalesce(r.batches, 0) AS batches,
       coalesce(r.fetch_time, 0) AS fetch_time,
       coalesce(r.apply_time, 0) AS apply_time,
       coalesce(r.commit_time, 0) AS commit_time,
       coalesce(r.restarts, 0) AS restarts,
       coalesce(r.dead_letters, 0) AS dead_letters
FROM kappa.view v
LEFT JOIN kappa.run_status() r ON r.view = v.view::oid AND r.version = v.version;
COMMENT ON VIEW kappa.stat_views IS 'counters of each view since the server started or the view was resumed; times in milliseconds';

CREATE VIEW kappa.events AS
SELECT e.id, e.at, e.view, e.view_name, e.event, e.version, e.sqlstate,
       kappa.for_owner((SELECT c.relowner FROM kappa.view v JOIN pg_catalog.pg_class c ON c.oid = v.view
                        WHERE v.view = e.view), e.detail) AS detail
FROM kappa.event e;
COMMENT ON VIEW kappa.events IS 'what happened to views: created, paused, resumed, failed, recovered, restarted, stopped, diverted, retried, discarded, sought, replayed, switched, healed, forgotten, dropped';

GRANT SELECT ON kappa.views, kappa.offsets, kappa.stat_views, kappa.events TO PUBLIC;

-- ---------------------------------------------------------------------------
-- Messages that cannot be applied
-- ---------------------------------------------------------------------------

CREATE FUNCTION kappa.printable(bytes bytea) RETURNS text
AS 'MODULE_PATHNAME', 'kappa_sql_printable' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION kappa.printable(bytea) IS 'bytes as text: UTF-8 as it is, all else as \x and two digits';

CREATE FUNCTION kappa.retry_dead_letters(view regclass) RETURNS bigint
AS 'MODULE_PATHNAME', 'kappa_sql_retry_dead_letters' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION kappa.retry_dead_letters(regclass) IS 'apply the dead letters of a view, after what was wrong has been mended; those that fail again stay; returns how many were applied';

CREATE FUNCTION kappa.discard_dead_letters(view regclass) RETURNS bigint
AS 'MODULE_PATHNAME', 'kappa_sql_discard_dead_letters' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION kappa.discard_dead_letters(regclass) IS 'give up the dead letters of a view: their contents are deleted, and their messages stay passed over; returns how many';

-- What is in a message is as secret as the rows of the view, and not known by row.
CREATE VIEW kappa.dead_letters WITH (security_barrier) AS
SELECT d.view,
       d.topic,
       d.part,
       d.pos,
       CASE WHEN d.message_ms BETWEEN -62135596800000 AND 253402300799999
            THEN pg_catalog.to_timestamp(d.message_ms / 1000.0::double precision)
       END AS message_at,
       d.key,
       d.value,
       h.headers,
       d.sqlstate,
       d.error,
       d.detail,
       d.failed_at,
       d.column_name,
       d.context,
       d.size,
       d.complete
FROM kappa.dead_letter d
JOIN kappa.view v USING (view, version)
JOIN pg_catalog.pg_class c ON c.oid = d.view
LEFT JOIN LATERAL (
    SELECT pg_catalog.json_object_agg(kappa.printable(u.name), kappa.printable(u.value) ORDER BY u.ordinality) AS headers
    FROM ROWS FROM (pg_catalog.unnest(d.header_names), pg_catalog.unnest(d.header_values))
         WITH ORDINALITY AS u (name, value, ordinality)) h ON true
WHERE d.discarded_at IS NULL
AND (pg_catalog.pg_has_role(c.relowner, 'USAGE')
     OR pg_catalog.has_table_privilege(d.view, 'SELECT') AND NOT pg_catalog.row_security_active(d.view));
COMMENT ON VIEW kappa.dead_letters IS 'messages that views have passed over because they could not be applied; of views that the user may read, without row security';
COMMENT ON COLUMN kappa.dead_letters.key IS 'as it is in the message; kappa.printable() makes a text of it';
COMMENT ON COLUMN kappa.dead_letters.value IS 'likewise; null for a message without a value';
COMMENT ON COLUMN kappa.dead_letters.column_name IS 'the column of the foreign table that could not be made; null if the error is about something else';
COMMENT ON COLUMN kappa.dead_letters.context IS 'where the error was raised';
COMMENT ON COLUMN kappa.dead_letters.size IS 'bytes of key, value and headers';
COMMENT ON COLUMN kappa.dead_letters.complete IS 'false if only the beginnings of key and value are kept, because the message is longer than kappa.dead_letter_max_bytes';

GRANT SELECT ON kappa.dead_letters TO PUBLIC;

-- ---------------------------------------------------------------------------
-- Rebuild
-- ---------------------------------------------------------------------------

-- The functions with an argument that may be null act as strict ones for the others.

CREATE FUNCTION kappa.rebuild(view regclass, switch text DEFAULT 'auto', incomplete boolean DEFAULT false, start text DEFAULT NULL) RETURNS bigint
AS 'MODULE_PATHNAME', 'kappa_sql_rebuild' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION kappa.rebuild(regclass, text, boolean, text) IS 'replay the log into a new version of a view, which then takes the place of the present one; returns its number.  start: earliest, latest or a timestamp; null: where the view starts';

CREATE FUNCTION kappa.alter_view(view regclass, query text, switch text DEFAULT 'auto', incomplete boolean DEFAULT false, start text DEFAULT NULL) RETURNS bigint
AS 'MODULE_PATHNAME', 'kappa_sql_alter_view' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION kappa.alter_view(regclass, text, text, boolean, text) IS 'give a view another query: a rebuild with that query, after which columns that it leaves out are dropped and new ones are there; returns the number of the new version';

CREATE FUNCTION kappa.rebuild_estimate(
    view regclass, start text DEFAULT NULL,
    OUT part integer, OUT log_start bigint, OUT log_end bigint, OUT start_offset bigint,
    OUT messages bigint, OUT missing bigint, OUT missing_time interval,
    OUT bytes bigint, OUT rate numeric, OUT duration interval, OUT basis text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'kappa_sql_rebuild_estimate' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION kappa.rebuild_estimate(regclass, text) IS 'what a rebuild would read, by partition and (part is null) in all: how many messages, how many are missing, and about how large and how long that is';

CREATE FUNCTION kappa.switch_rebuild(view regclass) RETURNS void
AS 'MODULE_PATHNAME', 'kappa_sql_switch_rebuild' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION kappa.switch_rebuild(regclass) IS 'let a rebuild that was begun with switch => ''manual'' switch as soon as it can';

CREATE FUNCTION kappa.pause_rebuild(view regclass) RETURNS void
AS 'MODULE_PATHNAME', 'kappa_sql_pause_rebuild' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION kappa.pause_rebuild(regclass) IS 'hold a rebuild until kappa.resume_rebuild(); the view goes on';

CREATE FUNCTION kappa.resume_rebuild(view regclass) RETURNS void
AS 'MODULE_PATHNAME', 'kappa_sql_resume_rebuild' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION kappa.resume_rebuild(regclass) IS 'let a paused rebuild go on where it stood';

CREATE FUNCTION kappa.cancel_rebuild(view regclass) RETURNS void
AS 'MODULE_PATHNAME', 'kappa_sql_cancel_rebuild' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION kappa.cancel_rebuild(regclass) IS 'give up a rebuild; the view goes on as it is';

CREATE FUNCTION kappa.rollback_view(view regclass) RETURNS bigint
AS 'MODULE_PATHNAME', 'kappa_sql_rollback_view' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION kappa.rollback_view(regclass) IS 'bring back the version before the last switch, which has been kept live; returns its number';

CREATE FUNCTION kappa.drop_previous(view regclass) RETURNS void
AS 'MODULE_PATHNAME', 'kappa_sql_drop_previous' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION kappa.drop_previous(regclass) IS 'do not keep the version before the last switch any longer';

CREATE FUNCTION kappa.wait_for_rebuild(view regclass, timeout interval DEFAULT '1 hour') RETURNS boolean
AS 'MODULE_PATHNAME', 'kappa_sql_wait_for_rebuild' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION kappa.wait_for_rebuild(regclass, interval) IS 'wait until a rebuild has switched; false at the timeout, an error if it was cancelled or failed';

CREATE FUNCTION kappa.version_table(view regclass, version integer) RETURNS regclass
AS 'MODULE_PATHNAME', 'kappa_sql_version_table' LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION kappa.version_table(regclass, integer) IS 'the table with the rows of a version: the view itself for the live one';

CREATE FUNCTION kappa.diff_rebuild(
    view regclass, max_rows bigint DEFAULT 1000,
    OUT difference text, OUT copies bigint, OUT columns text[], OUT old json, OUT new json)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'kappa_sql_diff_rebuild' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION kappa.diff_rebuild(regclass, bigint) IS 'the rows in which a view and its next version differ at the same offsets: added, changed (and in which columns) or removed';

CREATE FUNCTION kappa.diff_rebuild_summary(
    view regclass, OUT difference text, OUT column_name text, OUT rows bigint, OUT percent numeric)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'kappa_sql_diff_rebuild_summary' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION kappa.diff_rebuild_summary(regclass) IS 'how many rows of a view and its next version are the same, changed, removed and added, and how many changed in each column';

CREATE VIEW kappa.rebuilds AS
SELECT r.view,
       r.version,
       r.switch,
       r.phase,
       r.finished_at IS NULL AND r.paused_at IS NOT NULL AS paused,
       r.waiting_for,
       r.messages,
       r.messages_total,
       CASE WHEN r.phase = 'done' OR r.messages >= r.messages_total THEN 100.0
            ELSE pg_catalog.round(100.0 * r.messages / r.messages_total, 1)
       END AS percent,
       pg_catalog.round(r.messages / t.seconds) AS messages_per_second,
       CASE WHEN r.phase = 'replaying' AND r.messages > 0 AND r.paused_at IS NULL
            THEN r.started_at + r.paused_for + t.seconds * interval '1 second'
                 * (greatest(r.messages_total, r.messages)::double precision / r.messages)
       END AS eta,
       CASE WHEN r.finished_at IS NULL THEN coalesce(s.processes, 0) END AS processes,
       s.rows,
       pg_catalog.pg_total_relation_size(f.staging) AS staging_bytes,
       pg_catalog.pg_total_relation_size(n.target) AS table_bytes,
       r.started_at,
       r.finished_at,
       kappa.for_owner(c.relowner, r.error) AS error
FROM kappa.rebuild_run r
JOIN pg_catalog.pg_class c ON c.oid = r.view
CROSS JOIN LATERAL (
    SELECT nullif(pg_catalog.date_part('epoch',
               least(coalesce(r.replayed_at, r.finished_at, pg_catalog.clock_timestamp()),
                     CASE WHEN r.replayed_at IS NULL THEN r.paused_at END)
               - r.started_at - r.paused_for), 0)::numeric AS seconds) t
LEFT JOIN kappa.view_version n ON n.view = r.view AND n.version = r.version AND r.finished_at IS NULL
LEFT JOIN kappa.fill f ON f.view = r.view AND f.version = r.version
LEFT JOIN kappa.run_status() s ON s.view = n.view::oid AND s.version = n.version;
COMMENT ON VIEW kappa.rebuilds IS 'the present or else the last rebuild of each view';
COMMENT ON COLUMN kappa.rebuilds.phase IS 'replaying, building indexes, catching up, waiting for old snapshots, waiting for switch_rebuild, switching, done, cancelled, failed';
COMMENT ON COLUMN kappa.rebuilds.paused IS 'kappa.pause_rebuild() holds it';
COMMENT ON COLUMN kappa.rebuilds.processes IS 'processes that are at work on it now; null once it has ended';
COMMENT ON COLUMN kappa.rebuilds.rows IS 'rows and partial results written since the server started, or it was resumed';
COMMENT ON COLUMN kappa.rebuilds.staging_bytes IS 'size of the partial results; null where there are none';
COMMENT ON COLUMN kappa.rebuilds.table_bytes IS 'size of the new version''s table, with indexes; null once it has ended';
COMMENT ON COLUMN kappa.rebuilds.waiting_for IS 'process whose snapshot or lock is waited for';
COMMENT ON COLUMN kappa.rebuilds.messages_total IS 'messages in the log when the rebuild began, by offsets; more may have come since';
COMMENT ON COLUMN kappa.rebuilds.eta IS 'when the end of the log will be reached, at the present rate';

CREATE VIEW kappa.replays AS
SELECT f.view,
       f.version,
       r.part,
       r.start_offset,
       r.next_offset,
       r.end_offset,
       pg_catalog.round(100.0 * (r.next_offset - r.start_offset) / (r.end_offset - r.start_offset), 1) AS percent,
       r.shared,
       CASE WHEN f.staging IS NOT NULL THEN pg_catalog.pg_total_relation_size(f.staging) END AS staging_bytes
FROM kappa.fill f
JOIN kappa.fill_range r USING (view, version);
COMMENT ON VIEW kappa.replays IS 'stretches of the log that several processes are replaying into views';
COMMENT ON COLUMN kappa.replays.next_offset IS 'the next offset to read, as last committed';
COMMENT ON COLUMN kappa.replays.end_offset IS 'where a worker will go on';
COMMENT ON COLUMN kappa.replays.shared IS 'messages that were read once for several versions, and are counted with another one';
COMMENT ON COLUMN kappa.replays.staging_bytes IS 'size of all partial results of the version; null where its rows go into its own table';

CREATE VIEW kappa.versions AS
SELECT h.view,
       h.version,
       CASE WHEN n.version IS NULL THEN 'dropped'
            WHEN n.version = v.version THEN 'live'
            WHEN r.version IS NULL THEN 'previous'
            WHEN r.phase IN ('waiting for old snapshots', 'waiting for switch_rebuild', 'switching') THEN 'ready'
            ELSE 'building'
       END AS state,
       coalesce(kappa.query_text(n.definition), h.query) AS query,
       h.settings,
       h.created_by,
       h.created_at,
       h.switched_at,
       h.dropped_at,
       coalesce(p.topic, h.topic) AS topic,
       pg_catalog.array_replace(coalesce(p.start_offset, h.start_offset), -1, NULL) AS start_offset,
       pg_catalog.array_replace(coalesce(p.next_offset, h.next_offset), -1, NULL) AS next_offset,
       CASE WHEN n.version IS NULL THEN h.rows ELSE nullif(c.reltuples, -1)::bigint END AS rows,
       CASE WHEN n.version IS NULL THEN h.size
            ELSE pg_catalog.pg_total_relation_size(n.target)
                 + coalesce(pg_catalog.pg_total_relation_size(n.companion), 0)
       END AS size,
       h.missing,
       h.start_at
FROM kappa.version_history h
JOIN kappa.view v USING (view)
LEFT JOIN kappa.view_version n ON n.view = h.view AND n.version = h.version
LEFT JOIN kappa.rebuild_run r ON r.view = h.view AND r.version = h.version AND r.finished_at IS NULL
LEFT JOIN kappa.position p ON p.view = h.view AND p.version = h.version
LEFT JOIN pg_catalog.pg_class c ON c.oid = n.target;
COMMENT ON VIEW kappa.versions IS 'the versions of each view, also those that are gone';
COMMENT ON COLUMN kappa.versions.state IS 'building, ready, live, previous or dropped';
COMMENT ON COLUMN kappa.versions.settings IS 'configuration parameters of the session that gave the query';
COMMENT ON COLUMN kappa.versions.switched_at IS 'when its rows became those of the view; null if they did not';
COMMENT ON COLUMN kappa.versions.start_offset IS 'the first offset of each partition that belongs to the version';
COMMENT ON COLUMN kappa.versions.next_offset IS 'the next offset of each partition to read; of a version that is gone: that it would have read next';
COMMENT ON COLUMN kappa.versions.rows IS 'about how many rows it has or had; null if that is not known';
COMMENT ON COLUMN kappa.versions.size IS 'bytes of its table and state, with indexes';
COMMENT ON COLUMN kappa.versions.missing IS 'what the log did not have any more when the version was built; null if nothing';
COMMENT ON COLUMN kappa.versions.start_at IS 'from when on messages belong to it, if it was to start at a time or at the end of the log; null: from the beginning of the log';

GRANT SELECT ON kappa.rebuilds, kappa.replays, kappa.versions TO PUBLIC;

-- ---------------------------------------------------------------------------
-- States of aggregates.  They run functions that others wrote, whatever those
-- do: nothing is promised about parallel queries.
-- ---------------------------------------------------------------------------

CREATE TYPE kappa.state;

CREATE FUNCTION kappa.state_in(cstring) RETURNS kappa.state
AS 'MODULE_PATHNAME', 'kappa_sql_state_in' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION kappa.state_in(cstring) IS 'I/O';

CREATE FUNCTION kappa.state_out(kappa.state) RETURNS cstring
AS 'MODULE_PATHNAME', 'kappa_sql_state_out' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION kappa.state_out(kappa.state) IS 'I/O';

CREATE FUNCTION kappa.state_receive(internal) RETURNS kappa.state
AS 'MODULE_PATHNAME', 'kappa_sql_state_receive' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION kappa.state_receive(internal) IS 'I/O';

CREATE FUNCTION kappa.state_send(kappa.state) RETURNS bytea
AS 'MODULE_PATHNAME', 'kappa_sql_state_send' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION kappa.state_send(kappa.state) IS 'I/O';

-- Collatable, so that a state hands on the collation of what was aggregated.
CREATE TYPE kappa.state (
    INPUT = kappa.state_in,
    OUTPUT = kappa.state_out,
    RECEIVE = kappa.state_receive,
    SEND = kappa.state_send,
    STORAGE = extended,
    COLLATABLE = true
);
COMMENT ON TYPE kappa.state IS 'serialized state of an aggregate: only kappa.combine() and kappa.finalize() understand it, for the same aggregate and major version of PostgreSQL';

CREATE FUNCTION kappa.partial_transition(internal, aggregate regprocedure) RETURNS internal
AS 'MODULE_PATHNAME', 'kappa_sql_partial_transition' LANGUAGE C STABLE;
COMMENT ON FUNCTION kappa.partial_transition(internal, regprocedure) IS 'kappa: aggregate transition function';

CREATE FUNCTION kappa.partial_transition(internal, aggregate regprocedure, VARIADIC arguments "any") RETURNS internal
AS 'MODULE_PATHNAME', 'kappa_sql_partial_transition' LANGUAGE C STABLE;
COMMENT ON FUNCTION kappa.partial_transition(internal, regprocedure, "any") IS 'kappa: aggregate transition function';

CREATE FUNCTION kappa.partial_final(internal, aggregate regprocedure) RETURNS kappa.state
AS 'MODULE_PATHNAME', 'kappa_sql_partial_final' LANGUAGE C STABLE;
COMMENT ON FUNCTION kappa.partial_final(internal, regprocedure) IS 'kappa: aggregate final function';

CREATE FUNCTION kappa.partial_final(internal, aggregate regprocedure, VARIADIC arguments "any") RETURNS kappa.state
AS 'MODULE_PATHNAME', 'kappa_sql_partial_final' LANGUAGE C STABLE;
COMMENT ON FUNCTION kappa.partial_final(internal, regprocedure, "any") IS 'kappa: aggregate final function';

CREATE FUNCTION kappa.partial_typed_transition(internal, aggregate regprocedure, state anyelement) RETURNS internal
AS 'MODULE_PATHNAME', 'kappa_sql_partial_typed_transition' LANGUAGE C STABLE;
COMMENT ON FUNCTION kappa.partial_typed_transition(internal, regprocedure, anyelement) IS 'kappa: aggregate transition function';

CREATE FUNCTION kappa.partial_typed_transition(internal, aggregate regprocedure, state anyelement, VARIADIC arguments "any") RETURNS internal
AS 'MODULE_PATHNAME', 'kappa_sql_partial_typed_transition' LANGUAGE C STABLE;
COMMENT ON FUNCTION kappa.partial_typed_transition(internal, regprocedure, anyelement, "any") IS 'kappa: aggregate transition function';

CREATE FUNCTION kappa.partial_typed_final(internal, aggregate regprocedure, state anyelement) RETURNS anyelement
AS 'MODULE_PATHNAME', 'kappa_sql_partial_typed_final' LANGUAGE C STABLE;
COMMENT ON FUNCTION kappa.partial_typed_final(internal, regprocedure, anyelement) IS 'kappa: aggregate final function';

CREATE FUNCTION kappa.partial_typed_final(internal, aggregate regprocedure, state anyelement, VARIADIC arguments "any") RETURNS anyelement
AS 'MODULE_PATHNAME', 'kappa_sql_partial_typed_final' LANGUAGE C STABLE;
COMMENT ON FUNCTION kappa.partial_typed_final(internal, regprocedure, anyelement, "any") IS 'kappa: aggregate final function';

-- The size is about what the states of numeric aggregates take; without it a
-- group would be thought to take a whole memory context.
CREATE AGGREGATE kappa.partial(aggregate regprocedure) (
    SFUNC = kappa.partial_transition, STYPE = internal, SSPACE = 200,
    FINALFUNC = kappa.partial_final, FINALFUNC_EXTRA
);
COMMENT ON AGGREGATE kappa.partial(regprocedure) IS 'state of an aggregate without arguments whose transition type is internal';

CREATE AGGREGATE kappa.partial(aggregate regprocedure, VARIADIC arguments "any") (
    SFUNC = kappa.partial_transition, STYPE = internal, SSPACE = 200,
    FINALFUNC = kappa.partial_final, FINALFUNC_EXTRA
);
COMMENT ON AGGREGATE kappa.partial(regprocedure, "any") IS 'state of an aggregate whose transition type is internal, serialized';

CREATE AGGREGATE kappa.partial_typed(aggregate regprocedure, state anyelement) (
    SFUNC = kappa.partial_typed_transition, STYPE = internal, SSPACE = 200,
    FINALFUNC = kappa.partial_typed_final, FINALFUNC_EXTRA
);
COMMENT ON AGGREGATE kappa.partial_typed(regprocedure, anyelement) IS 'state of an aggregate without arguments; state is a null of its transition type';

CREATE AGGREGATE kappa.partial_typed(aggregate regprocedure, state anyelement, VARIADIC arguments "any") (
    SFUNC = kappa.partial_typed_transition, STYPE = internal, SSPACE = 200,
    FINALFUNC = kappa.partial_typed_final, FINALFUNC_EXTRA
);
COMMENT ON AGGREGATE kappa.partial_typed(regprocedure, anyelement, "any") IS 'state of an aggregate; state is a null of its transition type';

CREATE FUNCTION kappa.combine(aggregate regprocedure, a kappa.state, b kappa.state) RETURNS kappa.state
AS 'MODULE_PATHNAME', 'kappa_sql_combine' LANGUAGE C STABLE;
COMMENT ON FUNCTION kappa.combine(regprocedure, kappa.state, kappa.state) IS 'one state of two; null is the state of no rows';

CREATE FUNCTION kappa.combine(aggregate regprocedure, a anyelement, b anyelement) RETURNS anyelement
AS 'MODULE_PATHNAME', 'kappa_sql_combine' LANGUAGE C STABLE;
COMMENT ON FUNCTION kappa.combine(regprocedure, anyelement, anyelement) IS 'one state of two, of the aggregate''s transition type; null is the state of no rows';

CREATE FUNCTION kappa.combined_transition(a kappa.state, aggregate regprocedure, b kappa.state) RETURNS kappa.state
AS 'MODULE_PATHNAME', 'kappa_sql_combined_transition' LANGUAGE C STABLE;
COMMENT ON FUNCTION kappa.combined_transition(kappa.state, regprocedure, kappa.state) IS 'kappa: aggregate transition function';

CREATE FUNCTION kappa.combined_transition(a anyelement, aggregate regprocedure, b anyelement) RETURNS anyelement
AS 'MODULE_PATHNAME', 'kappa_sql_combined_transition' LANGUAGE C STABLE;
COMMENT ON FUNCTION kappa.combined_transition(anyelement, regprocedure, anyelement) IS 'kappa: aggregate transition function';

CREATE AGGREGATE kappa.combined(aggregate regprocedure, state kappa.state) (
    SFUNC = kappa.combined_transition, STYPE = kappa.state, SSPACE = 200
);
COMMENT ON AGGREGATE kappa.combined(regprocedure, kappa.state) IS 'one state of many';

CREATE AGGREGATE kappa.combined(aggregate regprocedure, state anyelement) (
    SFUNC = kappa.combined_transition, STYPE = anyelement, SSPACE = 200
);
COMMENT ON AGGREGATE kappa.combined(regprocedure, anyelement) IS 'one state of many, of the aggregate''s transition type';

CREATE FUNCTION kappa.any_value_transition(state anyelement, value anyelement) RETURNS anyelement
AS 'MODULE_PATHNAME', 'kappa_sql_any_value_transition' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION kappa.any_value_transition(anyelement, anyelement) IS 'kappa: aggregate transition function';

CREATE AGGREGATE kappa.any_value(anyelement) (
    SFUNC = kappa.any_value_transition, STYPE = anyelement
);
COMMENT ON AGGREGATE kappa.any_value(anyelement) IS 'a value that is the same in all rows of a group';

CREATE FUNCTION kappa.finalize(aggregate regprocedure, state "any", result anyelement) RETURNS anyelement
AS 'MODULE_PATHNAME', 'kappa_sql_finalize' LANGUAGE C STABLE;
COMMENT ON FUNCTION kappa.finalize(regprocedure, "any", anyelement) IS 'result of an aggregate from its state; result is a null of the result''s type';

CREATE FUNCTION kappa.finalize(aggregate regprocedure, state "any", result anyelement, VARIADIC arguments "any") RETURNS anyelement
AS 'MODULE_PATHNAME', 'kappa_sql_finalize' LANGUAGE C STABLE;
COMMENT ON FUNCTION kappa.finalize(regprocedure, "any", anyelement, "any") IS 'the same for a polymorphic aggregate whose state and result do not tell the types of its arguments: nulls of these types';
