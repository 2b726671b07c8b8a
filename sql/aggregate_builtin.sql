-- Every built-in aggregate: the states of batches, combined and finalized,
-- give what the aggregate itself gives over all rows.
\set ECHO none
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS kappa;
RESET client_min_messages;
\set ECHO all
CREATE SCHEMA aggregate_builtin;
SET search_path = aggregate_builtin;
SET timezone = 'UTC';
SET datestyle = 'ISO';
SET intervalstyle = 'postgres';
SET lc_monetary = 'C';
CREATE TYPE mood AS ENUM ('bad', 'fair', 'good');

-- What is aggregated for each declared type: an expression over a number,
-- which is another one for the second argument.  A polymorphic type stands for
-- an actual one.
CREATE TABLE input (type regtype PRIMARY KEY, actual regtype, expression text);
INSERT INTO input VALUES
	('int2', NULL, '$::int2'),
	('int4', NULL, '$ * 10000000'),
	('int8', NULL, '$ * 100000000000000000'),
	('numeric', NULL, 'CASE i % 50 WHEN 7 THEN $ / 3.0 ELSE $ * 1.01 ^ (i % 100) END'),
	('float4', NULL, '$ / 8.0 + 1000'),
	('float8', NULL, '$ / 7.0 + 1000'),
	('money', NULL, '$::numeric::money'),
	('bool', NULL, '$ > 50'),
	('bit', NULL, '($ + 50)::int4::bit(8)'),
	('text', NULL, '$::text'),
	('bpchar', NULL, '$::text::char(5)'),
	('bytea', NULL, '$::text::bytea'),
	('oid', NULL, '$ + 50'),
	('tid', NULL, 'format(''(%s,1)'', $ + 50)::tid'),
	('xid8', NULL, '($ + 50)::text::xid8'),
	('pg_lsn', NULL, '''0/0''::pg_lsn + ($ + 50)'),
	('inet', NULL, '''10.0.0.0''::inet + ($ + 50)'),
	('date', NULL, 'date ''2026-11-01'' + $'),
	('time', NULL, 'time ''12:00'' + $ * interval ''1 minute'''),
	('timetz', NULL, 'timetz ''12:00+01'' + $ * interval ''1 minute'''),
	('timestamp', NULL, 'timestamp ''2026-11-01'' + $ * interval ''1 hour'''),
	('timestamptz', NULL, 'timestamptz ''2026-11-01'' + $ * interval ''1 hour'''),
	('interval', NULL, '$ * interval ''1 day 03:04:05.5'''),
	('"any"', 'int4', '$'),
	('anyarray', 'int4[]', 'CASE WHEN $ IS NOT NULL THEN ARRAY[$ % 13, $] END'),
	('anyenum', 'mood', '(ARRAY[''bad'', ''fair'', ''good''])[1 + abs($ % 3)]'),
	('anyrange', 'int4range', 'CASE WHEN $ IS NOT NULL THEN int4range(i % 7, 50 + $) END'),
	('anymultirange', 'int4multirange', 'CASE WHEN $ IS NOT NULL THEN int4multirange(int4range(0, 50 + $), int4range(200, 300 + $)) END');

-- 600 rows in 6 groups and 7 batches.  A tenth of the numbers is null, and
-- all of the last group.
CREATE TABLE event AS
SELECT i, i % 5 AS g, i * 31 % 7 AS batch, CASE WHEN i % 10 <> 3 THEN i * i % 97 - 30 END AS x FROM generate_series(1, 500) i
UNION ALL SELECT i, 5, i % 7, NULL FROM generate_series(501, 600) i;
SELECT count(*), count(DISTINCT g), count(DISTINCT batch), count(x) FROM event;

-- The arguments of an aggregate as SQL, or null if there is nothing to aggregate.
CREATE FUNCTION arguments_of(types oid[]) RETURNS text LANGUAGE sql AS $$
	SELECT coalesce(string_agg(format('(%s)::%s', replace(expression, '$', CASE n WHEN 1 THEN 'x' ELSE '((x * 7 + i) % 89)' END),
		coalesce(actual, type)), ', ' ORDER BY n), '')
	FROM unnest(types) WITH ORDINALITY u(oid, n) LEFT JOIN input ON type = oid
	HAVING count(*) = count(type)
$$;

-- Keep an aggregate's states in a table, batch by batch, and compare.
CREATE FUNCTION try(aggregate regprocedure, OUT state text, OUT result text) LANGUAGE plpgsql AS $$
DECLARE
	proc pg_proc := (SELECT p FROM pg_proc p WHERE oid = aggregate);
	transition regtype := (SELECT aggtranstype FROM pg_aggregate WHERE aggfnoid = aggregate);
	arguments text := arguments_of(proc.proargtypes);
	name text := quote_literal(aggregate);
	partial text;
	result_type regtype;
	same text := 'n.result::text IS NOT DISTINCT FROM k.result::text';
BEGIN
	IF arguments IS NULL THEN
		result := format('no input for type %s', (SELECT string_agg(format_type(t, NULL), ', ') FROM unnest(proc.proargtypes) t WHERE t NOT IN (SELECT type FROM input)));
		RETURN;
	END IF;
	state := coalesce((SELECT actual::text FROM input WHERE type = transition), transition::text);
	IF transition = 'internal'::regtype THEN
		state := 'kappa.state';
		partial := format('kappa.partial(%s, %s)', name, arguments);
	ELSE
		partial := format('kappa.partial_typed(%s, NULL::%s%s)', name, state, ', ' || nullif(arguments, ''));
	END IF;
	EXECUTE format('CREATE TEMP TABLE native AS SELECT g, %I(%s) AS result FROM event GROUP BY g', proc.proname, CASE arguments WHEN '' THEN '*' ELSE arguments END);
	result_type := (SELECT atttypid FROM pg_attribute WHERE attrelid = 'native'::regclass AND attname = 'result');
	EXECUTE format('CREATE TEMP TABLE kept (g int PRIMARY KEY, s %s)', state);
	FOR batch IN 0 .. 6 LOOP
		EXECUTE format('INSERT INTO kept SELECT g, %s FROM event WHERE batch = $1 GROUP BY g ORDER BY g ON CONFLICT (g) DO UPDATE SET s = kappa.combine(%s, kept.s, excluded.s)', partial, name)
			USING batch;
	END LOOP;
	IF result_type IN ('float4'::regtype, 'float8'::regtype) THEN
		same := 'n.result IS NOT DISTINCT FROM k.result OR abs(n.result - k.result) <= 1e-9 * greatest(abs(n.result), abs(k.result))';
	END IF;
	EXECUTE format('SELECT CASE WHEN bool_and(%s) AND count(n.result) >= 5 THEN ''equal'' ELSE ''differs: '' || jsonb_agg(ARRAY[n.result::text, k.result::text] ORDER BY n.g)::text END FROM native n FULL JOIN (SELECT g, kappa.finalize(%s, s, NULL::%s) AS result FROM kept) k USING (g)', same, name, result_type)
		INTO result;
	DROP TABLE native, kept;
EXCEPTION WHEN OTHERS THEN
	result := sqlstate || ' ' || sqlerrm;
END $$;

-- Newer versions of PostgreSQL have more of them, and combine some that keep
-- the list of their values; intervals have had an internal state since 17.
CREATE TEMP TABLE newer AS
SELECT aggfnoid FROM pg_aggregate JOIN pg_proc ON pg_proc.oid = aggfnoid
WHERE proname ~ '_strict$|_unique|^any_value$' OR proname IN ('array_agg', 'string_agg') OR
	proname IN ('min', 'max') AND proargtypes[0] IN ('bytea'::regtype, 'record'::regtype);
SELECT aggfnoid::regprocedure AS aggregate, CASE WHEN proname NOT IN ('avg', 'sum') OR proargtypes[0] <> 'interval'::regtype THEN state END AS state, result
FROM pg_aggregate JOIN pg_proc p ON p.oid = aggfnoid, try(aggfnoid)
WHERE aggfnoid < 16384 AND aggkind = 'n' AND aggcombinefn <> 0 AND aggfnoid NOT IN (SELECT aggfnoid FROM newer)
ORDER BY aggfnoid::regprocedure::text COLLATE "C";

-- The others are refused by name.
CREATE FUNCTION refusal(aggregate regprocedure) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	detail text;
BEGIN
	PERFORM kappa.finalize(aggregate, NULL::int4, NULL::int4);
	RETURN 'not refused';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	RETURN concat_ws('; ', sqlstate || ' ' || sqlerrm, detail);
END $$;
SELECT aggfnoid::regprocedure AS aggregate, refusal(aggfnoid)
FROM pg_aggregate
WHERE aggfnoid < 16384 AND (aggkind <> 'n' OR aggcombinefn = 0) AND aggfnoid NOT IN (SELECT aggfnoid FROM newer)
ORDER BY aggfnoid::regprocedure::text COLLATE "C";

SET client_min_messages = warning;
DROP SCHEMA aggregate_builtin CASCADE;
