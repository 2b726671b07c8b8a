-- What a column holds is what PostgreSQL makes of the message itself.  Every
-- value below is read as every type, by a foreign table and by jsonb, and the
-- two must agree: in the value, or in the SQLSTATE of the error.
\set ECHO none
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS kappa;
RESET client_min_messages;
\set ECHO all
CREATE SCHEMA decode_types;
SET search_path = decode_types;
SET timezone = 'Europe/Berlin';
SET datestyle = 'ISO, MDY';
SET intervalstyle = 'postgres';
CREATE SERVER log FOREIGN DATA WRAPPER kappa OPTIONS (bootstrap_servers 'localhost:1');

CREATE TYPE colour AS ENUM ('red', 'green');
CREATE TYPE point_at AS (label text, at timestamptz, tags varchar(3)[]);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE DOMAIN required AS text NOT NULL;
CREATE DOMAIN short AS varchar(4) CHECK (VALUE <> 'no');
CREATE DOMAIN dates AS date[];

CREATE TABLE sample (message text);
INSERT INTO sample SELECT '{"f": ' || v || '}' FROM unnest(ARRAY[
-- words and numbers
'true', 'false', 'null', '0', '-0', '1', '-1', '7', '42', '1.0', '1.5', '2.5', '-2.5', '-0.0',
'0.1', '12.50', '12.505', '12.515', '-12.505', '1e3', '1E3', '1e-3', '1.5e2', '-1.5E+2', '12e-1', '0e10', '0e-5',
'1.5e300', '1e400', '1e-400', '5e-324', '2.4e-324', '1.7976931348623157e308', '1.7976931348623159e308',
'3.4028235e38', '3.4028236e38', '3.5e38', '1.4e-45', '1e-46', '32767', '32768', '-32768', '-32769',
'2147483647', '2147483648', '-2147483648', '-2147483649', '9223372036854775807', '9223372036854775808',
'-9223372036854775808', '-9223372036854775809', '99999999999999999', '999999999999999999',
'1234567890123456789', '12345678901234567890', '99999999999999999999', '123456789012345678.9',
'0.123456789012345678', '0.1234567890123456789', '0.30000000000000004', '3.14159265358979323846264338327950288',
'9999.99', '9999.994', '9999.995', '10000', '16777217', '16777219.0', '0.1000000014901161', '9007199254740993',
'1.000', '100', '1500', '1e131071', '1e131072', '1e-16383', '1e-16384', '0.000000', '-0.00',
-- strings that read as numbers, and some that do not
'""', '" "', '"a"', '"true"', '"TRUE"', '"t"', '"yes"', '"on"', '"of"', '" false "', '"5"', '"-5"', '"+5"', '"05"', '"007"',
'" 5 "', '"5.0"', '"5.50"', '"5 x"', '"--5"', '"-"', '"0x10"', '"1_000"', '"\u0665"', '"NaN"', '"nan"', '"Infinity"', '"-infinity"', '"inf"',
'"1e5"', '"-0"', '"-0.0"', '".5"', '"5."', '"-.5"', '"1e"', '"1e400"', '"1e-400"', '"9223372036854775808"', '"12345.678"', '"101"',
'"abc"', '"abcd"', '"abcd  "', '"abcde"', '"abcdef"', '"abcde  "', '"äöüßé"', '"äöüßéx"', '"no"', '"red"', '"Red"', '"green "',
'"\u00e9t\u00e9"', '"\ud83d\ude00"', '"😀"', '"tab\tx"', '"a\\b"', '"q\"q"', '"a\/b"', '"line\nfeed"', '"\b\f\r"', '"\u0031\u0032"', '"\u0074rue"',
-- dates and times
'"2026-11-01T00:00:00Z"', '"2026-11-01T00:00:00.000Z"', '"2026-11-01 00:00:00+00"', '"2026-11-01T12:34:56+02"', '"2026-11-01T12:34:56-0230"',
'"2026-11-01T12:34:56+02:30"', '"2026-11-01T12:34:56-11:45"', '"2026-11-01T12:34:56+15:59"', '"2026-11-01T12:34:56+16:00"', '"2026-11-01T12:34:56+1:00"', '"2026-11-01T12:34:56+02:60"',
'"2026-11-01T12:34:56.7Z"', '"2026-11-01T12:34:56.123456Z"', '"2026-11-01T12:34:56.1234565Z"', '"2026-11-01T12:34:56.9999999Z"', '"2026-11-01T12:34:56.25+01"', '"2026-11-01T12:34:56.999+01"',
'"2026-11-01T23:59:59.999999Z"', '"2026-11-01T24:00:00Z"', '"2026-11-01T24:00:01Z"', '"2026-11-01T23:59:60Z"', '"2026-11-01T25:00:00Z"', '"2026-11-01T12:60:00Z"', '"2026-11-01T12:34:56.Z"',
'"2026-11-01T12:34:56Zx"', '"2026-11-01T12:34:56 Z"', '"2026-11-01T12:34Z"', '"2026-11-01T12:34:56"', '"2026-11-01 12:34:56.5"', '"2026-11-01t12:34:56z"', '"20261101T123456Z"', '"2026-11-01T12:34:56Europe/Berlin"',
'"2026-07-01 12:34:56 PST"', '"2026-07-01 12:34:56 America/New_York"', '"2026-02-29T00:00:00Z"', '"2024-02-29T00:00:00Z"', '"2100-02-29"', '"2000-02-29"', '"0001-01-01T00:00:00Z"', '"0000-01-01T00:00:00Z"',
'"0001-01-01T00:00:00+14:00"', '"9999-12-31T23:59:59Z"', '"9999-12-31T23:59:59-15:00"', '"10000-01-01T00:00:00Z"', '"294276-12-31T23:59:59Z"', '"294277-01-01T00:00:00Z"', '"4714-11-24 00:00:00+00 BC"', '"2026-13-01"', '"2026-00-01"', '"2026-01-00"', '"2026-04-31"',
'"2026-11-01"', '"2026-1-1"', '"2026/11/01"', '"01/02/2026"', '"13/02/2026"', '"Nov 1 2026"', '"Nov 1"', '"2026-305"', '"J2451187"', '"epoch"', '"infinity"', '"12:34:56"', '"12:34:56+02"', '"12:34:56.5-03:30"', '"24:00:00"', '"1 day 02:03:04"', '"P1DT2H"',
-- others
'"6ecd8c99-4036-403d-bf84-cf8400f67836"', '"6ECD8C99-4036-403D-BF84-CF8400F67836"', '"6ecd8c994036403dbf84cf8400f67836"', '"{6ecd8c99-4036-403d-bf84-cf8400f67836}"', '"6ecd8c99-4036-403d-bf84-cf8400f6783"', '"6ecd8c99-4036-403d-bf84-cf8400f6783g"', '"6ecd8c99x4036-403d-bf84-cf8400f67836"',
'"192.168.0.1"', '"10.0.0.0/8"', '"::1"', '"\\xdeadBEEF"', '"\\xdead0"', '"\\001"', '"$1,234.50"', '"(1,2)"', '"[1,5)"', '"(,5]"', '"empty"', '"[2026-01-01,2026-02-01)"', '"{1,2,NULL}"', '"{}"', '"{a,\"b c\"}"', '"{2026-01-01}"', '"(x,2026-01-01T00:00:00Z,{a})"', '"(x)"', '"{\"f\": 1}"',
-- objects and arrays
'[]', '{}', '[1, 2]', '[1, null, 3]', '["1", "x"]', '[[1, 2], [3, 4]]', '[[1], [2, 3]]', '{"a": 1}', '{"b":2,"a":[1, 2.50, "x\n"]}', '["2026-11-01T00:00:00Z", null]', '["2026-01-01"]', '[1e2]',
'{"label": "x", "at": "2026-11-01T00:00:00Z", "tags": ["a", "bcd"]}', '{"label": 5, "other": true}', '{"tags": ["abcd"]}', '{"at": "x"}', '{"label": null}'
]) v;
-- no field at all, a JSON null, and the field twice
INSERT INTO sample VALUES ('{}'), ('{"g": 1}'), ('{"F": 1}'), ('{"f": 1, "f": 2}'), ('{"f": {"a": 1}, "f": null}'), ('{"\u0066": 7}'), ('{"f": 1, "\u0066": "8"}'), ('[]'), ('["f"]'), ('"f"'), ('5'), ('null'), (' { "f" : 1 } '), (E'\n{\t"f"\r:\n"x"\t}\n');

-- One foreign table for each type; structured types are made from JSON.
CREATE TABLE column_type (type text, populate boolean, foreign_table regclass, row_type regtype);
INSERT INTO column_type SELECT unnest(ARRAY[
'boolean', 'smallint', 'integer', 'bigint', 'real', 'double precision', 'numeric', 'text', 'varchar', 'uuid',
'date', 'timestamp', 'timestamptz', 'time', 'interval', 'bytea', '"char"', 'name', 'oid', 'money', 'inet', 'cidr', 'varbit', 'bpchar',
'point', 'int4range', 'daterange', 'int8multirange', 'tsvector', 'jsonpath', 'xid8', 'colour', 'positive']), false;
INSERT INTO column_type SELECT unnest(ARRAY[
'numeric(6,2)', 'numeric(18,4)', 'numeric(2,-2)', 'varchar(5)', 'char', 'char(5)', 'timestamp(2)', 'timestamptz(0)', 'time(1)', 'bit(3)',
'int[]', 'text[]', 'varchar(3)[]', 'timestamptz[]', 'numeric(4,1)[]', 'point_at', 'point_at[]', 'required', 'short', 'dates']), true;
DO $$
DECLARE
	t record;
	n int := 0;
BEGIN
	FOR t IN SELECT ctid, type FROM column_type LOOP
		n := n + 1;
		EXECUTE format('CREATE FOREIGN TABLE topic_%s (f %s) SERVER log OPTIONS (topic ''t'')', n, t.type);
		EXECUTE format('CREATE TYPE row_%s AS (f %s)', n, t.type);
		UPDATE column_type SET foreign_table = format('topic_%s', n)::regclass, row_type = format('row_%s', n)::regtype WHERE ctid = t.ctid;
	END LOOP;
END $$;

-- The text form of an expression's value, or the SQLSTATE of its error.
CREATE FUNCTION result_of(expression text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
BEGIN
	EXECUTE format('SELECT format(''%%s'', v) FROM (SELECT %s OFFSET 0) s (v) WHERE num_nonnulls(v) = 1', expression) INTO result;
	RETURN coalesce(result, 'NULL');
EXCEPTION WHEN OTHERS THEN
	RETURN 'error ' || sqlstate;
END $$;

CREATE FUNCTION decoded(foreign_table regclass, message text) RETURNS text LANGUAGE sql AS $$
	SELECT result_of(format('kappa.decode_message(%L, %L) ->> ''f'' ', foreign_table, convert_to(message, 'UTF8')))
$$;

-- A type with a length or the like is filled as jsonb_populate_record() does
-- it, for a cast would cut off what is too long; so are arrays and composites,
-- but not from strings and numbers, which are read as a cast reads them.
CREATE FUNCTION expected(type text, populate boolean, row_type regtype, message text) RETURNS text LANGUAGE sql AS $$
	SELECT result_of(CASE
		WHEN populate AND left(ltrim(message, E' \n'), 1) = '{' AND (type <> 'point_at' OR message ~ '"f": *[[{]')
		THEN format('(jsonb_populate_record(NULL::%s, %L)).f', row_type, message)
		ELSE format('(%L::jsonb ->> ''f'')::%s', message, type) END)
$$;

CREATE TABLE outcome AS
SELECT type, message, decoded(foreign_table, message) AS ours, expected(type, populate, row_type, message) AS postgres
FROM column_type, sample;

-- Nothing may differ.
SELECT * FROM outcome WHERE ours <> postgres LIMIT 100;
-- The comparison says something: there were many values of every type, and
-- errors of many kinds.
SELECT count(*) > 14000 AS enough FROM outcome;
SELECT type FROM outcome WHERE ours NOT LIKE 'error%' GROUP BY type HAVING count(DISTINCT ours) < 2;
SELECT type FROM outcome WHERE ours LIKE 'error%' GROUP BY type HAVING count(*) < 2;
SELECT count(DISTINCT ours) >= 12 AS enough FROM outcome WHERE ours LIKE 'error%';

-- jsonb takes the part of the message for what it means, json as it is written.
CREATE FOREIGN TABLE meaning (f jsonb) SERVER log OPTIONS (topic 't');
SELECT message FROM sample
WHERE decoded('meaning', message) <> result_of(format('nullif(%L::jsonb -> ''f'', ''null'')', message));
CREATE FOREIGN TABLE verbatim (f json) SERVER log OPTIONS (topic 't');
SELECT decoded('verbatim', '{"f": { "b" : 1.50,"a":"\u00e9", "b":null } }');
SELECT decoded('verbatim', '{"f": "a \n"}');
SELECT decoded('verbatim', '{"f": null}');

-- A value that would mean something else tomorrow is an error, wherever a date
-- or time can stand, and nowhere else.
CREATE FUNCTION clock_word(type text, value text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('CREATE FOREIGN TABLE clock (f %s) SERVER log OPTIONS (topic ''t'')', type);
	value := decoded('clock', '{"f": ' || value || '}');
	DROP FOREIGN TABLE clock;
	RETURN value;
END $$;
SELECT type, value, clock_word(type, value) FROM (VALUES
	('timestamptz', '"now"'), ('timestamptz', '"NOW"'), ('timestamptz', '" today 12:00"'), ('timestamptz', '"tomorrow"'), ('timestamp', '"Yesterday"'), ('date', '"today"'), ('time', '"now"'),
	('timestamptz', '"\u006eow"'), ('timestamptz', '"\nnow"'), ('timestamptz', '"epoch"'), ('text', '"now"'), ('interval', '"now"'),
	('dates', '["now"]'), ('dates', '"{now}"'), ('timestamptz[]', '[["2026-01-01Z"],["now"]]'), ('text[]', '["now"]'), ('daterange', '"[today,]"'), ('tstzmultirange', '"{[now,]}"'),
	('point_at', '{"label": "now", "at": "2026-01-01Z"}'), ('point_at', '{"label": "now", "at": "now"}'), ('point_at', '"(x,now,)"'), ('point_at[]', '[{"at": "\u0074oday"}]'),
	('timetz', '"12:34:56+02"'), ('timetz', '"12:34:56Z"'), ('timetz', '"12:34:56 UTC"'), ('timetz', '"12:34:56"'), ('timetz', '"12:34:56 Europe/Berlin"'), ('timetz', 'null')
) v (type, value);
SET client_min_messages = warning;
DROP SERVER log CASCADE;
DROP SCHEMA decode_types CASCADE;
