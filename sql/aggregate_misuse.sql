-- What kappa.partial(), combine() and finalize() refuse: a function that met a
-- state or an argument of another type than its own would crash the server.
\set ECHO none
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS kappa;
RESET client_min_messages;
\set ECHO all
CREATE SCHEMA aggregate_misuse;
GRANT USAGE ON SCHEMA aggregate_misuse TO PUBLIC;
SET search_path = aggregate_misuse;
CREATE TABLE event (i int, b int8, n numeric, t text, agg regprocedure);
INSERT INTO event VALUES (1, 1, 1, 'a', 'avg(numeric)'), (2, 2, 2, 'b', 'sum(numeric)');
CREATE TABLE kept (name text, s kappa.state);
INSERT INTO kept SELECT 'avg', kappa.partial('avg(numeric)', n) FROM event UNION ALL SELECT 'stddev', kappa.partial('stddev(numeric)', n) FROM event;
GRANT SELECT ON event, kept TO PUBLIC;

-- What is no aggregate, or has no state that can be kept.
SELECT kappa.partial(NULL, n) FROM event;
SELECT kappa.combine(NULL, 1, 1);
SELECT kappa.finalize(NULL, 1, 1);
SELECT kappa.partial(0::regprocedure, n) FROM event;
SELECT kappa.partial('lower(text)', t) FROM event;
SELECT kappa.partial('rank("any")', n) FROM event;
SELECT kappa.partial('json_agg(anyelement)', n) FROM event;
SELECT kappa.combine('row_number()', 1, 1);
CREATE AGGREGATE unsent(numeric) (SFUNC = numeric_avg_accum, STYPE = internal, COMBINEFUNC = numeric_avg_combine, FINALFUNC = numeric_avg);
SELECT kappa.partial('unsent(numeric)', n) FROM event;
CREATE AGGREGATE gone(int) (SFUNC = int4pl, STYPE = int, COMBINEFUNC = int4pl);
SELECT 'gone(int)'::regprocedure::oid AS gone \gset
PREPARE gone AS SELECT kappa.partial_typed('gone(int)', NULL::int, i) FROM event;
EXECUTE gone;
DROP AGGREGATE gone(int);
\set VERBOSITY sqlstate
EXECUTE gone;
SELECT kappa.finalize(:gone::regprocedure, 1, NULL::int);
\set VERBOSITY default

-- Another aggregate in another row.
SELECT kappa.partial(agg, n) FROM event;
SELECT kappa.combine(agg, s, s) FROM event, kept WHERE name = 'avg';
SELECT kappa.finalize(agg, s, NULL::numeric) FROM event, kept WHERE name = 'avg';
SELECT kappa.partial(CASE WHEN i = 1 THEN agg END, n) FROM event;

-- Without a row the aggregate has to stand there.
SELECT kappa.partial(agg, n) FROM event WHERE false;
SELECT kappa.partial('avg(numeric)', n) FROM event WHERE false;
SELECT kappa.partial('json_agg(anyelement)', n) FROM event WHERE false;

-- Arguments of other types, and too few or many of them.
SELECT kappa.partial('avg(numeric)', b) FROM event;
SELECT kappa.partial('avg(numeric)', 'x') FROM event;
SELECT kappa.partial('avg(numeric)', NULL) FROM event;
SELECT kappa.partial('avg(numeric)', ARRAY[n]) FROM event;
SELECT kappa.partial('avg(numeric)', VARIADIC ARRAY[n]) FROM event;
SELECT kappa.partial('avg(numeric)') FROM event;
SELECT kappa.partial('avg(numeric)', n, n) FROM event;
SELECT kappa.partial_typed('count()', NULL::int8, n) FROM event;
SELECT kappa.partial_typed('max(anyarray)', NULL::int[], i) FROM event;
SELECT kappa.partial_typed('max(anyenum)', NULL::int, i) FROM event;
SELECT kappa.partial_typed('corr(float8, float8)', NULL::float8[], i::float8) FROM event;

-- States of other types.
SELECT kappa.partial('avg(int4)', i) FROM event;
SELECT kappa.partial_typed('avg(numeric)', NULL::bytea, n) FROM event;
SELECT kappa.partial_typed('avg(int4)', NULL::int[], i) FROM event;
SELECT kappa.partial_typed('avg(int4)', NULL::kappa.state, i) FROM event;
SELECT kappa.partial_typed('max(anyarray)', NULL::text[], ARRAY[i]) FROM event;
SELECT kappa.combine('avg(int4)', ARRAY[1, 2], ARRAY[1, 2]);
SELECT kappa.combine('avg(int4)', s, s) FROM kept;
SELECT kappa.combine('avg(numeric)', '\x00'::bytea, '\x00'::bytea);
SELECT kappa.combine('avg(numeric)', 'a', 'b');
SELECT kappa.combine('max(anyarray)', 1, 2);
SELECT kappa.finalize('avg(int4)', ARRAY[1, 2], NULL::numeric);
SELECT kappa.finalize('avg(int4)', s, NULL::numeric) FROM kept;
SELECT kappa.finalize('avg(numeric)', 'a', NULL::numeric);
SELECT kappa.finalize('avg(numeric)', NULL, NULL::numeric);
SELECT kappa.finalize('max(anyarray)', ARRAY[1], NULL::text[]);

-- Results of other types, or other arguments than were aggregated.
SELECT kappa.finalize('avg(numeric)', s, NULL::float8) FROM kept;
SELECT kappa.finalize('avg(numeric)', s, NULL) FROM kept;
SELECT kappa.finalize('avg(numeric)', s, NULL::numeric, NULL::text) FROM kept;
SELECT kappa.finalize('avg(numeric)', s, NULL::numeric, NULL::numeric) FROM kept WHERE name = 'avg';

-- The state of another aggregate; one that serializes alike is as good.
SELECT kappa.finalize('stddev(numeric)', s, NULL::numeric) FROM kept WHERE name = 'avg';
SELECT kappa.combine('avg(numeric)', a.s, b.s) FROM kept a, kept b WHERE a.name = 'avg' AND b.name = 'stddev';
SELECT kappa.combine('sum(int8)', s, NULL) FROM kept WHERE name = 'avg';
SELECT kappa.finalize('sum(numeric)', s, NULL::numeric), kappa.finalize('variance(numeric)', v, NULL::numeric) FROM (SELECT s, (SELECT s FROM kept WHERE name = 'stddev') AS v FROM kept WHERE name = 'avg') q;

-- Not as a window function.
SELECT kappa.partial('avg(numeric)', n) OVER () FROM event;
SELECT kappa.partial_typed('sum(int4)', NULL::int8, i) OVER (ORDER BY i) FROM event;

-- A state from elsewhere: the superuser, who restores dumps, is trusted.  No
-- casts, and no order.
CREATE ROLE kappa_misuse;
GRANT CREATE ON SCHEMA aggregate_misuse TO kappa_misuse;
SET SESSION AUTHORIZATION kappa_misuse;
SELECT '\x000000000000000000000000'::kappa.state;
SELECT s::text::kappa.state FROM kept;
SELECT '{NULL,"\\x00"}'::kappa.state[];
SELECT * FROM json_populate_record(NULL::kept, '{"s": "\\x00"}');
SELECT s::bytea FROM kept;
SELECT '\x00'::bytea::kappa.state;
CREATE CAST (bytea AS kappa.state) WITHOUT FUNCTION;
CREATE CAST (text AS kappa.state) WITH INOUT;
CREATE TEMP TABLE own (s kappa.state);
COPY own FROM stdin;
\\x000000000000000000000000
\.
INSERT INTO own SELECT s FROM kept WHERE name = 'avg' RETURNING kappa.finalize('avg(numeric)', s, NULL::numeric);
DROP TABLE own;
RESET SESSION AUTHORIZATION;
SELECT s FROM kept ORDER BY s;
SELECT DISTINCT s FROM kept;
SELECT '\x'::kappa.state;
SELECT '\x0000000000000000000000'::kappa.state;
SELECT 'abc'::kappa.state;

-- A state of another major version, and one that is broken behind its header.
SELECT kappa.finalize('avg(numeric)', overlay(s::text PLACING '0009' FROM 19)::kappa.state, NULL::numeric) FROM kept WHERE name = 'avg';
SELECT kappa.combine('avg(numeric)', NULL, overlay(s::text PLACING '0009' FROM 19)::kappa.state) FROM kept WHERE name = 'avg';
SELECT kappa.finalize('avg(numeric)', left(s::text, 30)::kappa.state, NULL::numeric) FROM kept WHERE name = 'avg';
SELECT kappa.finalize('avg(numeric)', (s::text || '00')::kappa.state, NULL::numeric) FROM kept WHERE name = 'avg';

-- The user executes the aggregate, and its owner the functions.
CREATE FUNCTION grow(a int, b int) RETURNS int LANGUAGE sql IMMUTABLE STRICT RETURN a + b;
CREATE FUNCTION show(a int) RETURNS text LANGUAGE sql IMMUTABLE STRICT RETURN 'have ' || a;
CREATE AGGREGATE growth(int) (SFUNC = grow, STYPE = int, COMBINEFUNC = grow, FINALFUNC = show);
REVOKE EXECUTE ON FUNCTION growth(int) FROM PUBLIC;
SET ROLE kappa_misuse;
SELECT kappa.partial_typed('growth(int)', NULL::int, i) FROM event;
SELECT kappa.combine('growth(int)', 1, 2);
SELECT kappa.finalize('growth(int)', 1, NULL::text);
RESET ROLE;
GRANT EXECUTE ON FUNCTION growth(int) TO PUBLIC;
REVOKE EXECUTE ON FUNCTION grow(int, int), show(int) FROM PUBLIC;
SET ROLE kappa_misuse;
SELECT kappa.finalize('growth(int)', kappa.combine('growth(int)', kappa.partial_typed('growth(int)', NULL::int, i), 2), NULL::text) FROM event;
RESET ROLE;
GRANT kappa_misuse TO CURRENT_USER;
ALTER AGGREGATE growth(int) OWNER TO kappa_misuse;
SELECT kappa.partial_typed('growth(int)', NULL::int, i) FROM event;
SELECT kappa.combine('growth(int)', 1, 2);
SELECT kappa.finalize('growth(int)', 1, NULL::text);

-- Functions that were replaced by others that no longer fit.
CREATE FUNCTION send(internal) RETURNS bytea LANGUAGE internal STRICT AS 'numeric_avg_serialize';
CREATE FUNCTION receive(bytea, internal) RETURNS internal LANGUAGE internal STRICT AS 'numeric_avg_deserialize';
CREATE FUNCTION merge(internal, internal) RETURNS internal LANGUAGE internal AS 'numeric_avg_combine';
CREATE FUNCTION accept(text, int) RETURNS text LANGUAGE sql RETURN $1 || $2;
CREATE AGGREGATE own_avg(numeric) (SFUNC = numeric_avg_accum, STYPE = internal, COMBINEFUNC = merge, SERIALFUNC = send, DESERIALFUNC = receive, FINALFUNC = numeric_avg);
CREATE AGGREGATE accepted(int) (SFUNC = accept, STYPE = text, COMBINEFUNC = textcat);
CREATE TABLE own AS SELECT kappa.partial('own_avg(numeric)', n) AS s FROM event;
SELECT kappa.finalize('own_avg(numeric)', kappa.combine('own_avg(numeric)', s, s), NULL::numeric) FROM own;
ALTER FUNCTION merge(internal, internal) STRICT;
SELECT kappa.combine('own_avg(numeric)', s, s) FROM own;
ALTER FUNCTION merge(internal, internal) CALLED ON NULL INPUT;
ALTER FUNCTION send(internal) RENAME TO send_it;
SELECT kappa.finalize('own_avg(numeric)', s, NULL::numeric) FROM own;
ALTER FUNCTION accept(text, int) STRICT;
SELECT kappa.partial_typed('accepted(int)', NULL::text, i) FROM event;

SET client_min_messages = warning;
DROP SCHEMA aggregate_misuse CASCADE;
DROP ROLE kappa_misuse;
