-- Format raw, the message's key, and metadata.
\set ECHO none
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS kappa;
RESET client_min_messages;
\set ECHO all
CREATE SCHEMA decode_raw;
SET search_path = decode_raw;
SET timezone = 'UTC';
SET datestyle = 'ISO';
CREATE SERVER log FOREIGN DATA WRAPPER kappa OPTIONS (bootstrap_servers 'localhost:1');

-- One column takes the value, as bytes or as text of any type.
CREATE FOREIGN TABLE raw_text (line text, pos bigint OPTIONS (metadata 'offset')) SERVER log OPTIONS (topic 't', format 'raw');
CREATE FOREIGN TABLE raw_bytes (line bytea) SERVER log OPTIONS (topic 't', format 'raw');
CREATE FOREIGN TABLE raw_short (line varchar(3)) SERVER log OPTIONS (topic 't', format 'raw');
CREATE FOREIGN TABLE raw_number (line bigint) SERVER log OPTIONS (topic 't', format 'raw');
CREATE FOREIGN TABLE raw_numeric (line numeric(6,2)) SERVER log OPTIONS (topic 't', format 'raw');
CREATE FOREIGN TABLE raw_time (line timestamptz) SERVER log OPTIONS (topic 't', format 'raw');
CREATE FOREIGN TABLE raw_json (line json) SERVER log OPTIONS (topic 't', format 'raw');
CREATE FOREIGN TABLE raw_jsonb (line jsonb) SERVER log OPTIONS (topic 't', format 'raw');
CREATE FOREIGN TABLE raw_array (line int[]) SERVER log OPTIONS (topic 't', format 'raw');

CREATE FUNCTION result_of(foreign_table regclass, message bytea) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RETURN coalesce(kappa.decode_message(foreign_table, message) ->> 'line', 'NULL');
EXCEPTION WHEN OTHERS THEN
	RETURN 'error ' || sqlstate;
END $$;
SELECT message, result_of('raw_text', message) AS text, result_of('raw_bytes', message) AS bytea, result_of('raw_short', message) AS "varchar(3)", result_of('raw_number', message) AS bigint, result_of('raw_numeric', message) AS "numeric(6,2)",
	result_of('raw_time', message) AS timestamptz, result_of('raw_json', message) AS json, result_of('raw_jsonb', message) AS jsonb, result_of('raw_array', message) AS "int[]"
FROM unnest(ARRAY[NULL, '', 'abc', ' 12 ', '12', '-0', '1.5', '1e2', '12345678', '99999999999999999999', '\xc3a4c3b6c3bcc39f', '\xff', '\xc3', '\x610062', '{"b": 1, "a": [2]}', '{"a":', 'null', '{1,2}', '[1,2]', '2026-11-01T00:00:00Z', 'now']::bytea[]) message;
SELECT kappa.decode_message('raw_text', 'x');

-- Every message is a row; that it cannot be read as text is the column's error.
SELECT kappa.decode_message('raw_text', '\x6162ff6364');
SELECT kappa.decode_message('raw_text', '\x616200');
SELECT kappa.decode_message('raw_number', convert_to(E'12\n' || repeat('ß', 40), 'UTF8'));
CREATE FOREIGN TABLE no_value (pos bigint OPTIONS (metadata 'offset')) SERVER log OPTIONS (topic 't', format 'raw');
SELECT kappa.decode_message('no_value', '\xff00');

-- The key as text of any type.  Its own format says whether it is JSON, and
-- then it has to be, like the value.
CREATE FOREIGN TABLE key_raw (k bigint OPTIONS (metadata 'key', key 'true'), b bytea OPTIONS (metadata 'key'), v text) SERVER log OPTIONS (topic 't');
CREATE FOREIGN TABLE key_text (k text OPTIONS (metadata 'key', key 'true')) SERVER log OPTIONS (topic 't', format 'raw');
CREATE FOREIGN TABLE key_json (k text OPTIONS (metadata 'key', key 'true'), n int OPTIONS (metadata 'key', path 'id.0'), j json OPTIONS (metadata 'key'), b bytea OPTIONS (metadata 'key')) SERVER log OPTIONS (topic 't', key_format 'json');
CREATE FOREIGN TABLE key_unused (v text) SERVER log OPTIONS (topic 't', key_format 'json');
SELECT kappa.decode_message('key_raw', '{"v": 1}', '42');
SELECT kappa.decode_message('key_raw', '{"v": 1}', NULL);
SELECT kappa.decode_message('key_raw', '{"v": 1}', '"42"');
SELECT kappa.decode_message('key_raw', NULL, '42');
SELECT key, kappa.decode_message('key_text', 'x', key) FROM unnest(ARRAY['a b', '', '{"a": 1}', '\xc3a4']::bytea[]) key;
SELECT kappa.decode_message('key_text', 'x', '\x80');
SELECT key, kappa.decode_message('key_json', NULL, key) FROM unnest(ARRAY[NULL, '', '"abc"', '"\\u00e9"', '5', ' 1e1 ', 'null', 'true', '{"id": [7]}', '{"id":{"0":"8"}}', '[1, 2]']::bytea[]) key;
SELECT kappa.decode_message('key_json', '{}', '{"id": ["x"]}');
SELECT kappa.decode_message('key_json', '{}', '{"id": 5');
SELECT kappa.decode_message('key_unused', '{}', 'abc');
SELECT kappa.decode_message('key_unused', '{', 'abc');

-- The whole message, beside its fields or alone.
CREATE FOREIGN TABLE whole (v jsonb OPTIONS (metadata 'value'), j json OPTIONS (metadata 'value'), t text OPTIONS (metadata 'value'), b bytea OPTIONS (metadata 'value'), a int) SERVER log OPTIONS (topic 't');
SELECT kappa.decode_message('whole', '{"a": 1, "a": 2 }');
SELECT kappa.decode_message('whole', '[1]');
SELECT kappa.decode_message('whole', NULL);

-- Metadata in the types that it has, and in no other.
CREATE FOREIGN TABLE metadata (
	part4 int OPTIONS (metadata 'partition'), part8 bigint OPTIONS (metadata 'partition'), pos bigint OPTIONS (metadata 'offset'),
	at timestamptz OPTIONS (metadata 'timestamp'), ms bigint OPTIONS (metadata 'timestamp'), at_type text OPTIONS (metadata 'timestamp_type'),
	topic text OPTIONS (metadata 'topic'), headers jsonb OPTIONS (metadata 'headers'), headers_json json OPTIONS (metadata 'headers')
) SERVER log OPTIONS (topic 'clicks_2.v1');
SELECT * FROM jsonb_each_text(kappa.decode_message('metadata', '{}'));
CREATE FUNCTION try_type(metadata text, type text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
BEGIN
	EXECUTE format('CREATE FOREIGN TABLE try (line %s OPTIONS (metadata %L)) SERVER log OPTIONS (topic ''t'')', type, metadata);
	result := result_of('try', '{}');
	DROP FOREIGN TABLE try;
	RETURN result;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS result = PG_EXCEPTION_HINT;
	RETURN sqlstate || ' ' || sqlerrm || '; ' || result;
END $$;
SELECT m, type, try_type(m, type) FROM unnest(ARRAY['partition', 'offset', 'timestamp', 'timestamp_type', 'headers', 'topic']) m, unnest(ARRAY['smallint', 'varchar(20)', 'timestamp', 'bytea']) type;
CREATE FOREIGN TABLE wrong (part text OPTIONS (metadata 'partition')) SERVER log OPTIONS (topic 't');
SELECT kappa.decode_message('wrong', '{}');

SET client_min_messages = warning;
DROP SERVER log CASCADE;
DROP SCHEMA decode_raw CASCADE;

-- Only UTF-8 is understood so far.
CREATE DATABASE kappa_latin1 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0;
\c kappa_latin1
CREATE EXTENSION kappa;
CREATE SERVER log FOREIGN DATA WRAPPER kappa OPTIONS (bootstrap_servers 'localhost:1');
CREATE FOREIGN TABLE field (a text) SERVER log OPTIONS (topic 't');
SELECT kappa.decode_message('field', '{}');
\c contrib_regression
DROP DATABASE kappa_latin1 WITH (FORCE);
