-- States of user-defined aggregates of all kinds: what is combined from the
-- states of three batches is what the aggregate gives over all rows.
\set ECHO none
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS kappa;
RESET client_min_messages;
\set ECHO all
CREATE SCHEMA aggregate_state;
SET search_path = aggregate_state;
SET datestyle = 'ISO';
SET timezone = 'UTC';
CREATE TYPE mood AS ENUM ('bad', 'fair', 'good');
CREATE DOMAIN positive AS numeric CHECK (value >= 0);

-- Group 1 has values in all batches, group 2 in one, group 3 only nulls.
CREATE TABLE event (g int, batch int, a int, b numeric, t text, v varchar(5), m mood, p positive, at timestamptz);
INSERT INTO event SELECT 1, i % 3, nullif(i, 5), i * 1.5, 'n' || i, 'v' || i, (ARRAY['fair', 'good', 'bad'])[1 + i % 3]::mood, i / 4.0, timestamptz '2026-11-01 00:00+00' + i * interval '1 hour' FROM generate_series(1, 8) i;
INSERT INTO event SELECT 2, 1, i, i / 3.0, i::text, i::text, 'fair', i, timestamptz '2026-11-02 00:00+00' FROM generate_series(1, 2) i;
INSERT INTO event SELECT 3, i FROM generate_series(0, 2) i;

-- What a call gives over all rows and over none, and what its states give: of
-- three batches, of all rows at once, and of none.
CREATE FUNCTION try(aggregate regprocedure, call text, arguments text, state text, result text, types text DEFAULT '')
RETURNS TABLE (g int, native text, combined text, single text, native_empty text, empty text) LANGUAGE plpgsql AS $$
DECLARE
	partial text := CASE state WHEN 'kappa.state' THEN format('kappa.partial(%L', aggregate) ELSE format('kappa.partial_typed(%L, NULL::%s', aggregate, state) END
		|| coalesce(', ' || nullif(arguments, ''), '') || ')';
BEGIN
	RETURN QUERY EXECUTE format('SELECT g, native::text,
		kappa.finalize(%1$L, kappa.combine(%1$L, kappa.combine(%1$L, s0, s1), s2), NULL::%2$s%3$s)::text,
		kappa.finalize(%1$L, s, NULL::%2$s%3$s)::text, native_empty::text, kappa.finalize(%1$L, s_empty, NULL::%2$s%3$s)::text
		FROM (SELECT g, %4$s AS native, %4$s FILTER (WHERE false) AS native_empty, %5$s AS s, %5$s FILTER (WHERE false) AS s_empty, %5$s FILTER (WHERE batch = 0) AS s0, %5$s FILTER (WHERE batch = 1) AS s1, %5$s FILTER (WHERE batch = 2) AS s2
			FROM event GROUP BY g) q ORDER BY g',
		aggregate, result, ', ' || nullif(types, ''), call, partial);
END $$;

-- Strict functions in SQL, with an initial state and without.
CREATE FUNCTION add_square(state int8, a int) RETURNS int8 LANGUAGE sql IMMUTABLE STRICT RETURN state + a * a;
CREATE AGGREGATE squares(int) (SFUNC = add_square, STYPE = int8, COMBINEFUNC = int8pl, INITCOND = '0');
SELECT * FROM try('squares(int)', 'squares(a)', 'a', 'int8', 'int8');
CREATE FUNCTION longer(a text, b text) RETURNS text LANGUAGE sql IMMUTABLE STRICT RETURN CASE WHEN length(b) > length(a) THEN b ELSE a END;
CREATE AGGREGATE longest(text) (SFUNC = longer, STYPE = text, COMBINEFUNC = longer);
SELECT * FROM try('longest(text)', 'longest(t || b)', 't || b', 'text', 'text');

-- A function that gives null, which a strict one never gets rid of.
CREATE FUNCTION forget_ten(a int, b int) RETURNS int LANGUAGE sql IMMUTABLE STRICT RETURN nullif(a + b, 10);
CREATE AGGREGATE forgetful(int) (SFUNC = forget_ten, STYPE = int, COMBINEFUNC = int4pl);
SELECT g, forgetful(a), kappa.partial_typed('forgetful(int)', NULL::int, a) FROM event GROUP BY g ORDER BY g;

-- Not strict, in PL/pgSQL: counts nulls, and says what it gets.
CREATE FUNCTION count_null(state int, a int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN coalesce(state, 100) + CASE WHEN a IS NULL THEN 1 ELSE 0 END; END';
CREATE FUNCTION add_or_null(a int, b int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN IF a IS NULL AND b IS NULL THEN RETURN -1; END IF; RETURN coalesce(a + b - 100, a, b); END';
CREATE FUNCTION show_count(state int) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN format(''%s nulls'', state - 100); END';
CREATE AGGREGATE nulls(int) (SFUNC = count_null, STYPE = int, COMBINEFUNC = add_or_null, FINALFUNC = show_count);
SELECT * FROM try('nulls(int)', 'nulls(a)', 'a', 'int', 'text');
SELECT kappa.combine('nulls(int)', NULL::int, NULL::int), kappa.combine('nulls(int)', 103, NULL), kappa.combine('nulls(int)', NULL, 104), kappa.combine('nulls(int)', 103, 104);

-- No arguments.
CREATE FUNCTION add_two(state int) RETURNS int LANGUAGE sql IMMUTABLE RETURN state + 2;
CREATE AGGREGATE twice(*) (SFUNC = add_two, STYPE = int, COMBINEFUNC = int4pl, INITCOND = 0);
SELECT * FROM try('twice()', 'twice(*)', '', 'int', 'int');
SELECT * FROM try('count()', 'count(*)', '', 'int8', 'int8');

-- A composite, an array, a domain and an enum as the state.
CREATE TYPE mean AS (n int8, total numeric);
CREATE FUNCTION add_mean(state mean, a int, b numeric) RETURNS mean LANGUAGE sql IMMUTABLE RETURN CASE WHEN a IS NULL OR b IS NULL THEN state ELSE ROW(state.n + a, state.total + a * b)::mean END;
CREATE FUNCTION merge_mean(a mean, b mean) RETURNS mean LANGUAGE sql IMMUTABLE STRICT RETURN ROW(a.n + b.n, a.total + b.total)::mean;
CREATE FUNCTION get_mean(state mean) RETURNS numeric LANGUAGE sql IMMUTABLE RETURN round(state.total / nullif(state.n, 0), 6);
CREATE AGGREGATE weighted(int, numeric) (SFUNC = add_mean, STYPE = mean, COMBINEFUNC = merge_mean, FINALFUNC = get_mean, INITCOND = '(0,0)');
SELECT * FROM try('weighted(int, numeric)', 'weighted(a, b)', 'a, b', 'mean', 'numeric');
CREATE FUNCTION add_extremes(state int[], a int) RETURNS int[] LANGUAGE plpgsql IMMUTABLE STRICT AS 'BEGIN state[1] := least(state[1], a); state[2] := greatest(state[2], a); RETURN state; END';
CREATE FUNCTION merge_extremes(a int[], b int[]) RETURNS int[] LANGUAGE plpgsql IMMUTABLE STRICT AS 'BEGIN a[1] := least(a[1], b[1]); a[2] := greatest(a[2], b[2]); RETURN a; END';
CREATE AGGREGATE extremes(int) (SFUNC = add_extremes, STYPE = int[], COMBINEFUNC = merge_extremes, INITCOND = '{NULL,NULL}');
SELECT * FROM try('extremes(int)', 'extremes(a)', 'a', 'int[]', 'int[]');
CREATE FUNCTION add_positive(state positive, b numeric) RETURNS positive LANGUAGE sql IMMUTABLE STRICT RETURN state + b;
CREATE AGGREGATE positive_sum(numeric) (SFUNC = add_positive, STYPE = positive, COMBINEFUNC = add_positive, INITCOND = '0.0');
SELECT * FROM try('positive_sum(numeric)', 'positive_sum(b)', 'b', 'positive', 'positive');
CREATE AGGREGATE best(mood) (SFUNC = enum_larger, STYPE = mood, COMBINEFUNC = enum_larger);
SELECT * FROM try('best(mood)', 'best(m)', 'm', 'mood', 'mood');

-- Polymorphic, with expanded arrays that grow in place; two types that meet;
-- an array as a domain.
CREATE AGGREGATE collect(anycompatible) (SFUNC = array_append, STYPE = anycompatiblearray, COMBINEFUNC = array_cat, INITCOND = '{}');
SELECT * FROM try('collect(anycompatible)', 'collect(a ORDER BY batch, a)', 'a ORDER BY batch, a', 'int[]', 'int[]');
SELECT * FROM try('collect(anycompatible)', 'collect(v ORDER BY batch, a)', 'v ORDER BY batch, a', 'varchar[]', 'varchar[]');
CREATE DOMAIN ints AS int[];
CREATE AGGREGATE join_all(anyarray) (SFUNC = array_larger, STYPE = anyarray, COMBINEFUNC = array_larger);
SELECT * FROM try('join_all(anyarray)', 'join_all(ARRAY[a]::ints)', 'ARRAY[a]::ints', 'int[]', 'int[]');
CREATE FUNCTION larger(a anyelement, b anyelement) RETURNS anyelement LANGUAGE plpgsql IMMUTABLE STRICT AS 'BEGIN RETURN greatest(a, b); END';
CREATE AGGREGATE largest(anyelement) (SFUNC = larger, STYPE = anyelement, COMBINEFUNC = larger);
SELECT * FROM try('largest(anyelement)', 'largest(at)', 'at', 'timestamptz', 'timestamptz');
SELECT * FROM try('largest(anyelement)', 'largest(p)', 'p', 'positive', 'positive');

-- Arguments of a type that needs no conversion, as for the aggregate itself.
SELECT * FROM try('max(text)', 'max(v)', 'v', 'text', 'text');
SELECT * FROM try('avg(numeric)', 'avg(p)', 'p', 'kappa.state', 'numeric');

-- VARIADIC: an array, or any number of any types, spread or not.
CREATE FUNCTION add_all(state int8, VARIADIC v int[]) RETURNS int8 LANGUAGE sql IMMUTABLE RETURN state + (SELECT coalesce(sum(u), 0) FROM unnest(v) u);
CREATE AGGREGATE sum_all(VARIADIC int[]) (SFUNC = add_all, STYPE = int8, COMBINEFUNC = int8pl, INITCOND = 0);
SELECT * FROM try('sum_all(int[])', 'sum_all(a, 1000)', 'ARRAY[a, 1000]', 'int8', 'int8');
SELECT * FROM try('sum_all(int[])', 'sum_all(VARIADIC ARRAY[a, 1000])', 'VARIADIC ARRAY[a, 1000]', 'int8', 'int8');
CREATE AGGREGATE fill_in(VARIADIC "any") (SFUNC = format, STYPE = text, COMBINEFUNC = longer, INITCOND = '%s %s');
SELECT * FROM try('fill_in("any")', 'fill_in(g, m)', 'g, m', 'text', 'text') WHERE g = 3;
SELECT * FROM try('fill_in("any")', 'fill_in(VARIADIC ARRAY[g, g + 1])', 'VARIADIC ARRAY[g, g + 1]', 'text', 'text') WHERE g = 3;

-- An internal state whose type depends on the arguments: such a state belongs
-- to them.  Neither state nor result may tell what they were.
CREATE FUNCTION poly_accum(internal, anyelement) RETURNS internal LANGUAGE internal AS 'numeric_avg_accum';
CREATE FUNCTION poly_sum(internal, anyelement) RETURNS anyelement LANGUAGE internal AS 'numeric_sum';
CREATE FUNCTION poly_text(internal, anyelement) RETURNS numeric LANGUAGE internal AS 'numeric_sum';
CREATE AGGREGATE poly_sum(anyelement) (SFUNC = poly_accum, STYPE = internal, COMBINEFUNC = numeric_avg_combine, SERIALFUNC = numeric_avg_serialize, DESERIALFUNC = numeric_avg_deserialize, FINALFUNC = poly_sum, FINALFUNC_EXTRA);
CREATE AGGREGATE poly_plain(anyelement) (SFUNC = poly_accum, STYPE = internal, COMBINEFUNC = numeric_avg_combine, SERIALFUNC = numeric_avg_serialize, DESERIALFUNC = numeric_avg_deserialize, FINALFUNC = poly_text, FINALFUNC_EXTRA);
SELECT * FROM try('poly_sum(anyelement)', 'poly_sum(b)', 'b', 'kappa.state', 'numeric');
SELECT * FROM try('poly_sum(anyelement)', 'poly_sum(p)', 'p', 'kappa.state', 'positive');
SELECT * FROM try('poly_plain(anyelement)', 'poly_plain(p)', 'p', 'kappa.state', 'numeric', 'NULL::positive');
SELECT kappa.finalize('poly_plain(anyelement)', s, NULL::numeric) FROM (SELECT kappa.partial('poly_plain(anyelement)', p) AS s FROM event) q;
SELECT kappa.finalize('poly_plain(anyelement)', s, NULL::numeric, NULL::numeric) FROM (SELECT kappa.partial('poly_plain(anyelement)', p) AS s FROM event) q;
SELECT kappa.finalize('poly_sum(anyelement)', s, NULL::numeric) FROM (SELECT kappa.partial('poly_sum(anyelement)', p) AS s FROM event) q;
SELECT kappa.combine('poly_sum(anyelement)', kappa.partial('poly_sum(anyelement)', p), kappa.partial('poly_sum(anyelement)', b)) FROM event;
CREATE FUNCTION count_of(state int8, a anyelement) RETURNS int8 LANGUAGE sql IMMUTABLE AS 'SELECT state + 1';
CREATE FUNCTION show_type(state int8, a anyelement) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN format(''%s of %s'', state, pg_typeof(a)); END';
CREATE AGGREGATE count_type(anyelement) (SFUNC = count_of, STYPE = int8, COMBINEFUNC = int8pl, INITCOND = 0, FINALFUNC = show_type, FINALFUNC_EXTRA);
SELECT * FROM try('count_type(anyelement)', 'count_type(m)', 'm', 'int8', 'text', 'NULL::mood');
SELECT kappa.finalize('count_type(anyelement)', 5::bigint, NULL::text);

-- The collation is that of what is aggregated, and a state hands it on.
CREATE TABLE word (w text COLLATE "C", u text COLLATE "und-x-icu");
INSERT INTO word VALUES ('a', 'a'), ('B', 'B');
CREATE FUNCTION later(a text, b text) RETURNS text LANGUAGE sql IMMUTABLE STRICT AS 'SELECT CASE WHEN a > b THEN a ELSE b END';
CREATE AGGREGATE last_word(text) (SFUNC = later, STYPE = text, COMBINEFUNC = later);
SELECT last_word(w) AS native_c, kappa.partial_typed('last_word(text)', NULL::text, w) AS c, kappa.combine('last_word(text)', min(w), max(w)) AS combined_c,
	last_word(u) AS native_icu, kappa.partial_typed('last_word(text)', NULL::text, u) AS icu, kappa.combine('last_word(text)', min(u), max(u)) AS combined_icu FROM word;
CREATE TABLE kept (c kappa.state COLLATE "C");
INSERT INTO kept SELECT kappa.partial('avg(numeric)', b) FROM event;
SELECT pg_collation_for(c), pg_collation_for(kappa.combine('avg(numeric)', c, c)) FROM kept;
DROP TABLE kept;

-- Grouping sets, hashed and sorted; several states of one call.
SET enable_hashagg = off;
SELECT g, m, kappa.finalize('avg(numeric)', kappa.partial('avg(numeric)', b), NULL::numeric) = avg(b) AS equal FROM event WHERE g < 3 GROUP BY ROLLUP (g, m) ORDER BY 1, 2;
RESET enable_hashagg;
SELECT g, m, kappa.finalize('avg(numeric)', kappa.partial('avg(numeric)', b), NULL::numeric) = avg(b) AS equal FROM event WHERE g < 3 GROUP BY GROUPING SETS (g, m) ORDER BY 1, 2;
SELECT kappa.finalize('sum(numeric)', s, NULL::numeric), kappa.finalize('avg(numeric)', s, NULL::numeric) FROM (SELECT kappa.partial('avg(numeric)', b) AS s FROM event) q;

-- States large enough to be compressed and stored out of line.
CREATE TABLE big (k int PRIMARY KEY, s int[]);
INSERT INTO big SELECT 1, kappa.partial_typed('collect(anycompatible)', NULL::int[], i) FROM generate_series(1, 100000) i;
INSERT INTO big SELECT 1, kappa.partial_typed('collect(anycompatible)', NULL::int[], i) FROM generate_series(100001, 150000) i
	ON CONFLICT (k) DO UPDATE SET s = kappa.combine('collect(anycompatible)', big.s, excluded.s);
SELECT cardinality(kappa.finalize('collect(anycompatible)', s, NULL::int[])), s[150000] FROM big;

-- Groups without rows in two batches, and in many.
DO $$
DECLARE
	aggregate regprocedure;
	nothing bool;
BEGIN
	FOR aggregate IN SELECT aggfnoid FROM pg_aggregate JOIN pg_proc p ON p.oid = aggfnoid
		WHERE pronamespace = 'pg_catalog'::regnamespace AND aggserialfn <> 0 AND aggcombinefn <> 0 AND prorettype <> ALL ('{anyarray,text,bytea}'::regtype[])
	LOOP
		EXECUTE format('SELECT kappa.combine(%1$L, NULL::kappa.state, NULL) IS NULL AND (SELECT kappa.combined(%1$L, s) IS NULL FROM (VALUES (NULL::kappa.state), (NULL)) AS v (s))', aggregate) INTO nothing;
		IF NOT nothing THEN RAISE '% makes something of nothing', aggregate; END IF;
	END LOOP;
END $$;

-- A dump and its restoring, as text and in binary form.
CREATE TABLE kept (k int, s kappa.state);
INSERT INTO kept SELECT g, kappa.partial('stddev(numeric)', b) FROM event GROUP BY g;
CREATE TABLE restored (LIKE kept);
\getenv dir PG_ABS_BUILDDIR
\set file :dir '/results/aggregate_state.data'
COPY kept TO :'file';
COPY restored FROM :'file';
COPY kept TO :'file' (FORMAT binary);
COPY restored FROM :'file' (FORMAT binary);
SELECT k, count(*), count(s), count(DISTINCT s::text), kappa.finalize('stddev(numeric)', min(s::text)::kappa.state, NULL::numeric) FROM (SELECT * FROM kept UNION ALL SELECT * FROM restored) q GROUP BY k ORDER BY k;

SET client_min_messages = warning;
DROP SCHEMA aggregate_state CASCADE;
