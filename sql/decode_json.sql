-- Format json: what is a message at all, and where its fields are found.
\set ECHO none
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS kappa;
RESET client_min_messages;
\set ECHO all
CREATE SCHEMA decode_json;
SET search_path = decode_json;
SET timezone = 'UTC';
SET datestyle = 'ISO';
SET bytea_output = 'escape';
CREATE SERVER log FOREIGN DATA WRAPPER kappa OPTIONS (bootstrap_servers 'localhost:1');

CREATE FUNCTION sqlstate_of(command text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE command;
	RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
	RETURN sqlstate;
END $$;

-- The whole message is checked, for a table that reads none of it too, and
-- what jsonb refuses is refused, with the same SQLSTATE.
CREATE FOREIGN TABLE nothing () SERVER log OPTIONS (topic 't');
CREATE TABLE text_of_message (message bytea);
INSERT INTO text_of_message SELECT convert_to(m, 'UTF8') FROM unnest(ARRAY[
'{}', '[]', ' {} ', E'\t\r\n[ ]\n', '"x"', '0', 'true', 'null', ' 1.5e3 ', '{"a":{"b":[{},[],"",0,-1.0E+2,null]}}', '{"": ""}', '"\"\\\/\b\f\n\r\t\u0041\ud83d\ude00"', '"é😀"', U&'"\007f\2028\FFFF"',
' ', E'\n', '{', '}', '[', ']', '{]', '[}', '{}}', '{}{}', '{} x', '[] ,', '[1] 2', '1 2', '"a" "b"', 'x', 'tru', 'truex', 'True', 'nul', 'nullnull', 'falsE', ',', ':', '"', '"a', '{"a', '"\', '"\"',
'{"a"}', '{"a":}', '{"a":1', '{"a":1,', '{"a":1,}', '{,}', '{"a":1 "b":2}', '{"a":1:2}', '{"a"::1}', '{"a",1}', '{1:2}', '{null:2}', '{a:1}', '{''a'':1}', '{"a":1}]', '{"a":[}', '{"a":[1}', '{"a":[1,]}', '[1,]', '[,1]', '[1 2]', '[1,,2]', '[[1]', '["a"1]', '[1"a"]', '["a""b"]', '[true"a"]', '[1 true]', '[1:2]', '[{"a":1]', '{"a":{"b":1}',
'01', '-', '+1', '.5', '5.', '1e', '1e+', '-a', '--1', '1.e5', '0x10', '00', '-01', '1_000', 'NaN', 'Infinity', '-Infinity', '1a', '[1.2.3]', '{"a":01}', '{"a":1.}', '{"a":-}', '{"a":1e5.5}',
'"\x"', '"\u12"', '"\u12g4"', '"\u"', '"\u0000"', '{"\u0000":1}', '["a\u0000b"]', '"\ud83d"', '"\ud83dx"', '"\ud83d\n"', '"\ud83d\u0041"', '"\ud83d\ud83d"', '"\ude00"', '"\ude00\ud83d"', '{"\ud83d":1}', '"\U0041"', '"\ "', '"\a"',
E'"a\tb"', E'"a\nb"', E'{"a\tb":1}', E'"\x01"', E'[\x01]', E'{"a":1\x0c}', E'[1,\x1a2]', E'\x1a', U&'\FEFF{}', U&'[1,\00a02]', '{"a":1} // x', '/* x */ {}', '#', repeat('[', 3) || repeat(']', 4), repeat('[', 1000) || repeat(']', 1000), repeat('{"a":', 1000) || '1' || repeat('}', 1000), repeat('[', 1000)]) m;
-- Bytes that are not UTF-8, in strings, in names and outside: truncated,
-- overlong, a surrogate, beyond Unicode, and a zero byte.
INSERT INTO text_of_message SELECT convert_to(before, 'UTF8') || bad || convert_to(after, 'UTF8')
FROM (VALUES ('"', '"'), ('{"', '":1}'), ('[1, ', ']'), (repeat(' ', 62) || '["', '"]'), ('"', '')) f (before, after),
	unnest(ARRAY['\xff', '\x80', '\xc3', '\xc328', '\xc080', '\xe0809f', '\xeda080', '\xf08080af', '\xf4908080', '\xf0908d', '\x00']::bytea[]) bad;
SELECT message, ours, postgres
FROM (SELECT message, sqlstate_of(format('SELECT kappa.decode_message(''nothing'', %L)', message)) AS ours, sqlstate_of(format('SELECT convert_from(%L, ''UTF8'')::jsonb', message)) AS postgres FROM text_of_message OFFSET 0) s
WHERE ours <> postgres;
SELECT sqlstate_of(format('SELECT kappa.decode_message(''nothing'', %L)', message)) AS result, count(*) FROM text_of_message GROUP BY 1 ORDER BY 1;

-- Every place where a message can be cut off, and every byte put wrong.
CREATE FOREIGN TABLE one (a jsonb) SERVER log OPTIONS (topic 't');
CREATE TABLE damaged AS
WITH whole AS (SELECT convert_to('{"a":[1,-2.5e3,"x\u00e9\\",{"b":null},[true,false]],"ä":{}}  ', 'UTF8') AS message)
SELECT substr(message, 1, n) AS message FROM whole, generate_series(1, length(message)) n
UNION ALL SELECT set_byte(message, n, b) FROM whole, generate_series(0, length(message) - 1) n, unnest(ARRAY[0, 9, 12, 26, 32, 34, 44, 45, 46, 48, 58, 91, 92, 93, 101, 110, 117, 123, 125, 128, 195, 255]) b;
SELECT count(*) AS messages, count(*) FILTER (WHERE ours = 'ok') > 100 AS enough_good, count(*) FILTER (WHERE ours <> 'ok') > 500 AS enough_bad, count(*) FILTER (WHERE (ours = 'ok') <> (postgres = 'ok')) AS differ
FROM (SELECT sqlstate_of(format('SELECT kappa.decode_message(''one'', %L)', message)) AS ours, sqlstate_of(format('SELECT convert_from(%L, ''UTF8'')::jsonb', message)) AS postgres FROM damaged OFFSET 0) s;

-- The same after messages of the same shape, which are compared with each other
-- where one that comes first is parsed.
CREATE FOREIGN TABLE shaped (a jsonb, s text, n numeric, b boolean) SERVER log OPTIONS (topic 't');
CREATE FUNCTION decode_last(messages bytea[]) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RETURN (SELECT (array_agg(kappa.decode_message('shaped', m)))[cardinality(messages)] FROM unnest(messages) m);
EXCEPTION WHEN OTHERS THEN
	RETURN sqlstate;
END $$;
TRUNCATE damaged;
WITH whole AS (SELECT convert_to('{"a":[1,{"x":null}],"s":"text","u":{"ä":"öü\n","w":[], "z":0.5},"n":-12.5e1,"b":true} ', 'UTF8') AS message),
	place AS (SELECT message, n FROM whole, generate_series(0, length(message) - 1) n),
	byte AS (SELECT set_byte('x', 0, b) AS byte, b FROM unnest(ARRAY[0, 9, 12, 26, 32, 34, 44, 45, 46, 48, 58, 91, 92, 93, 101, 110, 117, 123, 125, 128, 195, 255]) b)
INSERT INTO damaged SELECT substr(message, 1, n) FROM place
UNION ALL SELECT substr(message, 1, n) || substr(message, n + 2) FROM place
UNION ALL SELECT set_byte(message, n, b) FROM place, byte
UNION ALL SELECT substr(message, 1, n) || byte || substr(message, n + 1) FROM place, byte
UNION ALL SELECT message FROM whole;
SELECT count(*) AS messages, count(*) FILTER (WHERE alone LIKE '{%') > 400 AS enough_good, count(*) FILTER (WHERE alone NOT LIKE '{%') > 2000 AS enough_bad, count(*) FILTER (WHERE alone <> later) AS differ
FROM (SELECT decode_last(ARRAY[message]) AS alone, decode_last(ARRAY[convert_to('{"a":[1,{"x":null}],"s":"text","u":{"ä":"öü\n","w":[], "z":0.5},"n":-12.5e1,"b":true} ', 'UTF8'), '{"a":[],"b":false,"s":null}', '{"a":[1,{"x":0}]}', message]) AS later FROM damaged OFFSET 0) s;

-- Now and then one that is usual, with all kinds of values, among more shapes than are kept.
CREATE TABLE stream AS
SELECT i, CASE WHEN i % 3 = 0 OR i BETWEEN 2000 AND 3000
	THEN format('{"s":%s,"a":{"k":[%s,"%s"]},"b":%s,"n":%s}', strings[1 + i % 5], i, i % 7, (i % 2 = 0)::text, numbers[1 + i % 4])
	ELSE format('{"s":"x","k%s":[%s],"a":%s}', i, repeat('0,', i % 90) || i, i) END AS message
FROM generate_series(1, 6000) i,
	LATERAL (SELECT ARRAY[format('"%s"', repeat('x', i % 40)), format('"%s"', repeat('é', i % 13)), format('"a\"\\b\n%s\u00e4"', i), '""', 'null'], ARRAY[i::text, (-i / 8.0)::text, i || 'E+12', 'null']) v (strings, numbers);
SELECT count(*) AS messages, count(*) FILTER (WHERE ours <> postgres) AS differ
FROM (SELECT kappa.decode_message('shaped', convert_to(message, 'UTF8')) AS ours,
		jsonb_build_object('a', (m -> 'a')::text, 's', m ->> 's', 'n', m ->> 'n', 'b', left(m ->> 'b', 1)) AS postgres
	FROM (SELECT message, message::jsonb AS m FROM stream ORDER BY i) s OFFSET 0) s;

-- Where kappa differs: the depth has a limit of its own, and a number that no
-- numeric can hold is wrong only for the column that reads it.
SELECT sqlstate_of(format('SELECT kappa.decode_message(''nothing'', %L)', repeat('[', depth) || repeat(']', depth))) FROM unnest(ARRAY[1024, 1025, 100000]) depth;
SELECT kappa.decode_message('nothing', '{"b": 1e999999}');

-- The errors in full.
SELECT kappa.decode_message('one', '{"a": 1,, "b": 2}');
SELECT kappa.decode_message('one', '{"a": 1');
SELECT kappa.decode_message('one', convert_to('{"a": "', 'UTF8') || '\xff01' || convert_to('"}', 'UTF8'));
SELECT kappa.decode_message('one', convert_to('["tab' || chr(9) || ' and more text than is shown: ' || repeat('ä', 40), 'UTF8'));
CREATE FOREIGN TABLE number (n int, "N n" text) SERVER log OPTIONS (topic 'numbers.v1');
SELECT kappa.decode_message('number', '{"n": "12x"}');
SELECT kappa.decode_message('number', '{"n": 99999999999}');
SELECT kappa.decode_message('number', convert_to('{"n": "' || repeat('😀', 30) || '"}', 'UTF8'));
SELECT kappa.decode_message('number', convert_to(E'{"n": [1,\n2]}', 'UTF8'));

-- Fields are found by path.  jsonb's #>> says what is right, duplicates,
-- escaped names and arrays included; a missing field and null are NULL.
CREATE FOREIGN TABLE field (
	a text, "a.b" text, "Ünï" text,
	ab text OPTIONS (path 'a.b'),
	abc text OPTIONS (path 'a.b.c'),
	ab2 text OPTIONS (path 'a.b'),
	a0 text OPTIONS (path 'a.0'),
	a1b text OPTIONS (path 'a.1.b'),
	zero text OPTIONS (path '0'),
	quoted text OPTIONS (path '"a.b"."c d"'),
	empty text OPTIONS (path '""')
) SERVER log OPTIONS (topic 't');
CREATE TABLE sample (message text);
INSERT INTO sample VALUES
('{"a": {"b": 1}}'), ('{}'), ('[]'), ('null'), ('"a"'), ('5'), ('{"a": 1}'), ('{"a": null}'), ('{"a": {"b": {"c": "x"}}}'), ('{"a": {"b": {"c": {"d": [1, 2]}}}}'), ('{"a.b": 1, "Ünï": 2}'), ('{"a.b": {"c d": 3}}'), ('{"": 4}'),
('{"a": ["x", {"b": "y"}]}'), ('{"a": {"0": "x", "1": {"b": "y"}}}'), ('["z"]'), ('{"0": "z"}'), ('[["z"]]'), ('{"a": [[0, 1], [2]]}'), ('{"a": []}'), ('{"a": {}}'), ('{"a": "b"}'), ('{"A": 1, "a ": 2, " a": 3, "aa": 4}'),
('{"a": 1, "a": 2}'), ('{"a": {"b": 1}, "a": 2}'), ('{"a": 2, "a": {"b": 1}}'), ('{"a": {"b": 1}, "a": {"c": 1}}'), ('{"a": {"b": {"c": 1}, "b": {"d": 1}}}'), ('{"a": {"b": 1}, "x": 0, "a": null}'), ('{"a": [1, {"b": 2}], "a": [3]}'), ('{"a": {"b": 1}, "a": {"b": [2], "b": null}}'),
('{"\u0061": 1}'), ('{"\u0061": {"\u0062": {"\u0063": "\u0064"}}}'), ('{"a": 1, "\u0061": 2}'), ('{"\u00dcn\u00ef": "\u00e9"}'), ('{"a\u002eb": {"c\u0020d": 1}}'), ('{"\\u0061": 1}'), ('{"a\"": 1, "\\a": 2}'), ('{"x": "\"a\": 1", "a": "{\"b\":2}"}'),
('{ "a" : { "b" : { "c" : "spaces" } } } '), (E'{\n\t"a"\r\n:\t{"b"\n:"lines"}}'), ('{"x": [{"a": 1}, {"a": {"b": 2}}], "y": {"a": {"b": {"c": 3}}}}'), ('{"x": {"x": {"x": {}}}, "a": {"x": {}, "b": {"x": [], "c": 5}}}'), ('{"a": "' || repeat('x', 200) || '", "Ünï": "' || repeat('é', 100) || '"}'), ('{"a": "\"", "Ünï": "\\\\"}'), ('{"a": [' || repeat('0,', 100) || '0]}');
CREATE FUNCTION expected(message jsonb) RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_object_agg(name, message #>> path) FROM (VALUES
		('a', '{a}'::text[]), ('a.b', '{a.b}'), ('Ünï', '{Ünï}'), ('ab', '{a,b}'), ('abc', '{a,b,c}'), ('ab2', '{a,b}'), ('a0', '{a,0}'), ('a1b', '{a,1,b}'), ('zero', '{0}'), ('quoted', '{a.b,c d}'), ('empty', '{""}')) p (name, path)
$$;
SELECT message, kappa.decode_message('field', convert_to(message, 'UTF8')), expected(message::jsonb) FROM (SELECT message FROM generate_series(1, 3), sample OFFSET 0) s
WHERE kappa.decode_message('field', convert_to(message, 'UTF8')) <> expected(message::jsonb);
SELECT jsonb_strip_nulls(kappa.decode_message('field', convert_to(message, 'UTF8'))) FROM sample WHERE message LIKE '%\\u%' OR message LIKE '{"a": {"b": 1},%';

-- A tombstone, or nothing at all, has no fields; only an event may be held to
-- a domain that forbids NULL, a tombstone of a changelog is not.
CREATE DOMAIN required AS text NOT NULL;
CREATE FOREIGN TABLE event (f required) SERVER log OPTIONS (topic 't');
CREATE FOREIGN TABLE change (k text OPTIONS (metadata 'key', key 'true'), f required) SERVER log OPTIONS (topic 't');
SELECT kappa.decode_message('field', NULL) = expected('{}') AS tombstone, kappa.decode_message('field', '') = expected('{}') AS empty;
SELECT kappa.decode_message('event', NULL);
SELECT kappa.decode_message('event', '{"g": 1}');
SELECT kappa.decode_message('change', NULL, 'x');
SELECT kappa.decode_message('change', '{"f": null}', 'x');

-- Messages of all sizes around the blocks that the parser reads, and a big one.
SELECT count(*) FROM generate_series(0, 300) n, LATERAL (SELECT '{"x":"' || repeat('x', n) || '","a":"' || repeat('ä', n % 7) || '\n"}') m (message)
WHERE kappa.decode_message('one', convert_to(message, 'UTF8')) ->> 'a' <> (message::jsonb -> 'a')::text;
SELECT length(kappa.decode_message('field', convert_to('{"x": [' || repeat('{"y": "' || repeat('z', 90) || '"},', 30000) || '0], "a": "' || repeat('é', 1000000) || '"}', 'UTF8')) ->> 'a');

-- Only kappa's foreign tables say how to read a message.
CREATE TABLE ordinary (a int);
CREATE FOREIGN DATA WRAPPER other;
CREATE SERVER other FOREIGN DATA WRAPPER other;
CREATE FOREIGN TABLE foreigner (a int) SERVER other;
SELECT kappa.decode_message('ordinary', '{"a": 1}');
SELECT kappa.decode_message('foreigner', '{"a": 1}');
SELECT kappa.decode_message(1, '{"a": 1}');
SELECT kappa.query_text('ordinary');

SET client_min_messages = warning;
DROP SERVER log CASCADE;
DROP FOREIGN DATA WRAPPER other CASCADE;
DROP SCHEMA decode_json CASCADE;
