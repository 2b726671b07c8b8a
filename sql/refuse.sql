-- What kappa.create_view() refuses: what cannot be kept equal to its query.
-- Each construct has a message of its own, the place, and a way to write it
-- differently where there is one.  No broker is needed.
\set ECHO none
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS kappa;
RESET client_min_messages;
\set ECHO all
CREATE SCHEMA refuse;
SET search_path = refuse;
CREATE SERVER refuse FOREIGN DATA WRAPPER kappa OPTIONS (bootstrap_servers '127.0.0.1:1');
CREATE FOREIGN TABLE clicks (
    user_id bigint, page text, country text, at timestamptz, amount numeric,
    weight float8, kind char(3), tags text[], data jsonb, at_text text,
    region text COLLATE "C", zone text COLLATE "POSIX",
    part int OPTIONS (metadata 'partition'), pos bigint OPTIONS (metadata 'offset'),
    ts timestamptz OPTIONS (metadata 'timestamp')
) SERVER refuse OPTIONS (topic 'clicks', format 'json');
CREATE FOREIGN TABLE orders (id bigint, user_id bigint)
    SERVER refuse OPTIONS (topic 'orders', format 'json');
CREATE FOREIGN TABLE users (
    user_id bigint OPTIONS (key 'true', metadata 'key'), name text, country text, data jsonb
) SERVER refuse OPTIONS (topic 'users', format 'json');
CREATE TABLE countries (code text PRIMARY KEY, name text UNIQUE, continent text, tax numeric);
CREATE TABLE notes (user_id bigint, body text);

--
-- Clauses of the outer query
--
SELECT kappa.create_view('v', $$WITH c AS (SELECT page FROM clicks UNION SELECT name FROM countries) SELECT page FROM c$$);
SELECT kappa.create_view('v', $$WITH n AS (DELETE FROM notes RETURNING *) SELECT page FROM clicks JOIN n USING (user_id)$$);
SELECT kappa.create_view('v', $$WITH RECURSIVE r AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM r WHERE i < 5) SELECT page, i FROM clicks, r$$);
SELECT kappa.create_view('v', $$SELECT page FROM clicks UNION ALL SELECT page FROM clicks$$);
SELECT kappa.create_view('v', $$SELECT page FROM clicks INTERSECT SELECT name FROM countries$$);
SELECT kappa.create_view('v', $$SELECT page FROM clicks EXCEPT SELECT name FROM countries$$);
SELECT kappa.create_view('v', $$SELECT page, row_number() OVER (ORDER BY at) AS n FROM clicks$$);
SELECT kappa.create_view('v', $$SELECT page, 1 + sum(amount) OVER w AS n FROM clicks WINDOW w AS (PARTITION BY page)$$);
SELECT kappa.create_view('v', $$SELECT user_id, unnest(tags) AS tag FROM clicks$$);
SELECT kappa.create_view('v', $$SELECT page, country, count(*) FROM clicks GROUP BY GROUPING SETS ((page), (country))$$);
SELECT kappa.create_view('v', $$SELECT page, country, count(*) FROM clicks GROUP BY ROLLUP (page, country)$$);
SELECT kappa.create_view('v', $$SELECT page, country, count(*) FROM clicks GROUP BY CUBE (page, country)$$);
SELECT kappa.create_view('v', $$SELECT DISTINCT page FROM clicks$$);
SELECT kappa.create_view('v', $$SELECT DISTINCT count(*) FROM clicks GROUP BY page$$);
SELECT kappa.create_view('v', $$SELECT DISTINCT ON (count(*)) count(*), page FROM clicks GROUP BY page$$);
SELECT kappa.create_view('v', $$SELECT page FROM clicks ORDER BY at$$);
SELECT kappa.create_view('v', $$SELECT page, count(*) FROM clicks GROUP BY page ORDER BY 2$$);
SELECT kappa.create_view('v', $$SELECT page FROM clicks LIMIT 10$$);
SELECT kappa.create_view('v', $$SELECT page FROM clicks OFFSET 10$$);
SELECT kappa.create_view('v', $$SELECT page FROM clicks ORDER BY at FETCH FIRST 3 ROWS WITH TIES$$);
SELECT kappa.create_view('v', $$SELECT page FROM clicks JOIN notes USING (user_id) FOR UPDATE OF notes$$);
SELECT kappa.create_view('v', $$SELECT page FROM clicks WHERE page = $1$$);
SELECT kappa.create_view('v', $$SELECT FROM clicks$$);

--
-- What is read
--
SELECT kappa.create_view('v', $$SELECT 1 AS one$$);
SELECT kappa.create_view('v', $$VALUES (1), (2)$$);
SELECT kappa.create_view('v', $$SELECT * FROM countries$$);
SELECT kappa.create_view('v', $$SELECT page, id FROM clicks JOIN orders USING (user_id)$$);
SELECT kappa.create_view('v', $$SELECT a.page FROM clicks a JOIN clicks b ON a.user_id = b.user_id$$);
SELECT kappa.create_view('v', $$SELECT page FROM clicks, users$$);
SELECT kappa.create_view('v', $$SELECT n, count(*) FROM (SELECT count(*) AS n FROM clicks GROUP BY page) s GROUP BY n$$);
SELECT kappa.create_view('v', $$SELECT page FROM clicks WHERE user_id IN (SELECT user_id FROM orders)$$);
SELECT kappa.create_view('v', $$SELECT page, (SELECT max(at) FROM clicks) AS latest FROM clicks$$);
SELECT kappa.create_view('v', $$SELECT code, count(page) FROM countries LEFT JOIN clicks ON country = code GROUP BY code$$);
SELECT kappa.create_view('v', $$SELECT code, page FROM clicks RIGHT JOIN countries ON country = code$$);
SELECT kappa.create_view('v', $$SELECT code, page FROM clicks FULL JOIN countries ON country = code$$);
SELECT kappa.create_view('v', $$SELECT page FROM clicks TABLESAMPLE SYSTEM (10)$$);
SELECT kappa.create_view('v', $$SELECT page, body FROM clicks JOIN notes TABLESAMPLE SYSTEM (10) USING (user_id)$$);
SELECT kappa.create_view('v', $$SELECT page FROM clicks AS "kappa batch"$$);
SELECT kappa.create_view('v', $$SELECT page FROM clicks, countries AS "kappa log"$$);

-- lookups
CREATE TEMPORARY TABLE here (user_id bigint);
CREATE FOREIGN DATA WRAPPER nothing;
CREATE SERVER nothing FOREIGN DATA WRAPPER nothing;
CREATE FOREIGN TABLE remote (user_id bigint) SERVER nothing;
CREATE TABLE parted (user_id bigint) PARTITION BY LIST (user_id);
CREATE FOREIGN TABLE part_remote PARTITION OF parted DEFAULT SERVER nothing;
CREATE VIEW reads_topic AS SELECT * FROM orders;
CREATE VIEW reads_clock AS SELECT user_id FROM notes WHERE now() > '2020-01-01';
CREATE SEQUENCE numbers;
SELECT kappa.create_view('v', $$SELECT page FROM clicks JOIN here USING (user_id)$$);
SELECT kappa.create_view('v', $$SELECT page FROM clicks JOIN remote USING (user_id)$$);
SELECT kappa.create_view('v', $$SELECT page FROM clicks JOIN parted USING (user_id)$$);
SELECT kappa.create_view('v', $$SELECT page FROM clicks JOIN reads_topic USING (user_id)$$);
SELECT kappa.create_view('v', $$SELECT page FROM clicks JOIN reads_clock USING (user_id)$$);
SELECT kappa.create_view('v', $$SELECT page FROM clicks, numbers$$);
SELECT kappa.create_view('v', $$SELECT page FROM clicks JOIN pg_class ON relname = page$$);
SELECT kappa.create_view('v', $$SELECT page FROM clicks, kappa.views$$);
SELECT kappa.create_view('v', $$SELECT page FROM clicks WHERE EXISTS (SELECT FROM here WHERE here.user_id = clicks.user_id)$$);
SELECT kappa.create_view('v', $$SELECT page FROM clicks, LATERAL (SELECT * FROM notes WHERE notes.user_id = clicks.user_id FOR SHARE) s$$);
SELECT kappa.create_view('kview', $$SELECT page, count(*) FROM clicks GROUP BY page$$);
SELECT kappa.create_view('v', $$SELECT clicks.page, count FROM clicks JOIN kview USING (page)$$);

--
-- Columns of the view
--
SELECT kappa.create_view('v', $$SELECT page, page FROM clicks$$);
SELECT kappa.create_view('v', $$SELECT page AS "kappa keep" FROM clicks$$);
SELECT kappa.create_view('v', $$SELECT ROW(page, at) AS r FROM clicks$$);
SELECT kappa.create_view('v', $$SELECT region || zone AS place FROM clicks$$);
SELECT kappa.create_view('v', $$SELECT ctid FROM clicks$$);
SELECT kappa.create_view('v', $$SELECT page FROM clicks WHERE tableoid <> 0$$);
SELECT kappa.create_view('v', $$SELECT clicks FROM clicks$$);
SELECT kappa.create_view('v', $$SELECT to_jsonb(c) AS row FROM clicks c$$);

--
-- Aggregates
--
SELECT kappa.create_view('v', $$SELECT count(*) FROM clicks GROUP BY page$$);
SELECT kappa.create_view('v', $$SELECT page, count(*) FROM clicks GROUP BY page, date_trunc('day', at)$$);
SELECT kappa.create_view('v', $$SELECT page, count(DISTINCT user_id) FROM clicks GROUP BY page$$);
SELECT kappa.create_view('v', $$SELECT page, sum(amount ORDER BY at) FROM clicks GROUP BY page$$);
SELECT kappa.create_view('v', $$SELECT page, percentile_cont(0.5) WITHIN GROUP (ORDER BY weight) AS median FROM clicks GROUP BY page$$);
SELECT kappa.create_view('v', $$SELECT page, rank(3) WITHIN GROUP (ORDER BY amount) FROM clicks GROUP BY page$$);
SELECT kappa.create_view('v', $$SELECT page, mode() WITHIN GROUP (ORDER BY country) || 'x' AS m FROM clicks GROUP BY page$$);
SELECT kappa.create_view('v', $$SELECT page, array_agg(amount) FROM clicks GROUP BY page$$);
SELECT kappa.create_view('v', $$SELECT page FROM clicks GROUP BY page HAVING count(DISTINCT user_id) > 1$$);
SELECT kappa.create_view('v', $$SELECT page FROM clicks GROUP BY page HAVING max(at) > now()$$);
SELECT kappa.create_view('v', $$SELECT amount FROM clicks GROUP BY amount HAVING amount::text <> '1.0'$$);
SELECT kappa.create_view('v', $$SELECT page, string_agg(country, ',') FROM clicks GROUP BY page$$);
SELECT kappa.create_view('v', $$SELECT amount, amount::text AS shown, count(*) FROM clicks GROUP BY amount$$);
SELECT kappa.create_view('v', $$SELECT code, name, count(*) FROM clicks JOIN countries ON code = country GROUP BY code$$);
SELECT kappa.create_view('v', $$SELECT tags[1]::xid AS x, count(*) FROM clicks GROUP BY 1$$);

--
-- DISTINCT ON
--
SELECT kappa.create_view('v', $$SELECT DISTINCT ON (user_id) page FROM clicks ORDER BY user_id, at DESC NULLS LAST$$);
SELECT kappa.create_view('v', $$SELECT DISTINCT ON (user_id) user_id, page FROM clicks ORDER BY user_id, at DESC NULLS LAST LIMIT 1$$);

--
-- Changelogs
--
SELECT kappa.create_view('v', $$SELECT name FROM users$$);
SELECT kappa.create_view('v', $$SELECT user_id + 0 AS user_id, name FROM users$$);
SELECT kappa.create_view('v', $$SELECT country, count(*) FROM users GROUP BY country$$);
SELECT kappa.create_view('v', $$SELECT count(*) FROM users$$);
SELECT kappa.create_view('v', $$SELECT DISTINCT ON (country) country, user_id FROM users$$);
SELECT kappa.create_view('v', $$SELECT u.user_id, item FROM users u, jsonb_array_elements(u.data) item$$);
SELECT kappa.create_view('v', $$SELECT u.user_id, tax FROM users u, countries WHERE code = country$$);
SELECT kappa.create_view('v', $$SELECT u.user_id, body FROM users u LEFT JOIN notes n ON n.user_id = u.user_id$$);
SELECT kappa.create_view('v', $$SELECT u.user_id, tax FROM users u JOIN countries ON code > country$$);
SELECT kappa.create_view('v', $$SELECT u.user_id, tax FROM users u JOIN countries ON continent = country$$);
SELECT kappa.create_view('v', $$SELECT u.user_id, tax FROM users u JOIN countries ON code = country OR code = 'DE'$$);
SELECT kappa.create_view('v', $$SELECT u.user_id, tax FROM countries JOIN users u ON code = country$$);

--
-- The clock, the session, chance
--
SELECT kappa.create_view('v', $$SELECT page FROM clicks WHERE at > now() - interval '1 day'$$);
SELECT kappa.create_view('v', $$SELECT page, current_date AS d FROM clicks$$);
SELECT kappa.create_view('v', $$SELECT page, current_timestamp(3) AS d FROM clicks$$);
SELECT kappa.create_view('v', $$SELECT page, localtime AS d FROM clicks$$);
SELECT kappa.create_view('v', $$SELECT page, statement_timestamp() AS d, clock_timestamp() AS e FROM clicks$$);
SELECT kappa.create_view('v', $$SELECT page, clock_timestamp() AS e FROM clicks$$);
SELECT kappa.create_view('v', $$SELECT page, age(at) FROM clicks$$);
SELECT kappa.create_view('v', $$SELECT page FROM clicks WHERE at_text::timestamptz > 'today'::text::timestamptz$$);
SELECT kappa.create_view('v', $$SELECT page FROM clicks WHERE at::date = ANY (ARRAY['today'::text]::date[])$$);
SELECT kappa.create_view('v', $$SELECT at_text::timetz AS t FROM clicks$$);
SELECT kappa.create_view('v', $$SELECT at::time::timetz AS t FROM clicks$$);
SELECT kappa.create_view('v', $$SELECT r.day FROM clicks, jsonb_to_record(data) AS r(day date)$$);
SELECT kappa.create_view('v', $$SELECT x.day FROM clicks, XMLTABLE('/a' PASSING (at_text::xml) COLUMNS day date PATH 'd') x$$);
SELECT kappa.create_view('v', $$SELECT page, random() AS r FROM clicks$$);
SELECT kappa.create_view('v', $$SELECT gen_random_uuid() AS id, page FROM clicks$$);
SELECT kappa.create_view('v', $$SELECT nextval('numbers') AS id, page FROM clicks$$);
SELECT kappa.create_view('v', $$SELECT page FROM clicks WHERE country = current_setting('app.country')$$);
SELECT kappa.create_view('v', $$SELECT page, current_user AS u FROM clicks$$);
SELECT kappa.create_view('v', $$SELECT page, session_user AS u FROM clicks$$);
SELECT kappa.create_view('v', $$SELECT page, current_schema AS s FROM clicks$$);
SELECT kappa.create_view('v', $$SELECT page, version() AS s FROM clicks$$);
SELECT kappa.create_view('v', $$SELECT page, pg_backend_pid() AS s FROM clicks$$);
SELECT kappa.create_view('v', $$SELECT page, txid_current() AS s FROM clicks$$);
SELECT kappa.create_view('v', $$SELECT to_regclass(page)::oid AS s FROM clicks$$);
SELECT kappa.create_view('v', $$SELECT page FROM clicks WHERE has_table_privilege(page, 'SELECT')$$);
SELECT kappa.create_view('v', $$SELECT pg_column_size(data) AS s FROM clicks$$);

-- in every place where an expression can stand
SELECT kappa.create_view('v', $$SELECT page, count(*) FILTER (WHERE at > now()) AS c FROM clicks GROUP BY page$$);
SELECT kappa.create_view('v', $$SELECT page, max(now()) AS c FROM clicks GROUP BY page$$);
SELECT kappa.create_view('v', $$SELECT date_trunc('day', now()) AS d, count(*) FROM clicks GROUP BY 1$$);
SELECT kappa.create_view('v', $$SELECT DISTINCT ON (user_id) user_id FROM clicks ORDER BY user_id, age(at)$$);
SELECT kappa.create_view('v', $$SELECT page FROM clicks JOIN countries ON code = country AND random() < 0.5$$);
SELECT kappa.create_view('v', $$SELECT page FROM clicks, generate_series(at, now(), '1 day') g$$);
SELECT kappa.create_view('v', $$SELECT page FROM clicks, LATERAL (SELECT now() AS n) s$$);
SELECT kappa.create_view('v', $$SELECT page FROM clicks, LATERAL (VALUES (now())) s(n)$$);
SELECT kappa.create_view('v', $$SELECT CASE page WHEN '/' THEN coalesce(at, now()) END AS c FROM clicks$$);
SELECT kappa.create_view('v', $$SELECT ARRAY[ROW(at > now())::text] AS c FROM clicks$$);
SELECT kappa.create_view('v', $$SELECT (SELECT age(at) FROM notes WHERE notes.user_id = clicks.user_id) AS c FROM clicks$$);

-- in functions of other people, by what they are declared
CREATE FUNCTION careless(text) RETURNS text LANGUAGE sql AS 'SELECT upper($1)';
CREATE FUNCTION my_less(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT $1 < $2';
CREATE OPERATOR <<< (PROCEDURE = my_less, LEFTARG = text, RIGHTARG = text);
CREATE FUNCTION my_sum(numeric, numeric) RETURNS numeric LANGUAGE sql AS 'SELECT $1 + $2';
CREATE AGGREGATE careless_sum(numeric) (SFUNC = my_sum, STYPE = numeric, COMBINEFUNC = my_sum);
CREATE DOMAIN past AS timestamptz CHECK (VALUE <= now());
SELECT kappa.create_view('v', $$SELECT careless(page) AS p FROM clicks$$);
SELECT kappa.create_view('v', $$SELECT page FROM clicks WHERE page <<< 'x'$$);
SELECT kappa.create_view('v', $$SELECT page FROM clicks WHERE page <<< ANY (tags)$$);
SELECT kappa.create_view('v', $$SELECT page, careless_sum(amount) FROM clicks GROUP BY page$$);
SELECT kappa.create_view('v', $$SELECT at::past AS at FROM clicks$$);

--
-- Near misses that are not refused
--
SELECT kappa.create_view('ok1', $$SELECT date_trunc('day', at) AS day, to_char(at, 'TMMon') AS mon, at::date AS d, at_text::timestamptz AS t FROM clicks$$);
SELECT kappa.create_view('ok2', $$SELECT item ->> 'sku' AS sku, n FROM clicks, jsonb_array_elements(data) WITH ORDINALITY AS item(item, n)$$);
SELECT kappa.create_view('ok3', $$SELECT page, (SELECT string_agg(body, ',') FROM notes WHERE notes.user_id = c.user_id) AS notes FROM clicks c WHERE EXISTS (SELECT FROM countries WHERE code = country)$$);
SELECT kappa.create_view('ok4', $$SELECT page, name FROM countries JOIN clicks ON code = country WHERE continent = 'Europe'$$);
SELECT kappa.create_view('ok5', $$SELECT country, upper(country) AS name, 'x'::text AS kind, count(*), sum(amount), sum(weight) AS weight, max(tags), bool_or(amount > 10) FILTER (WHERE page <> '/') FROM clicks GROUP BY country$$);
SELECT kappa.create_view('ok9', $$SELECT amount, coalesce(sum(amount) / count(*), 0) AS mean, grouping(amount) AS g FROM clicks GROUP BY amount HAVING amount > 5 AND avg(weight) > 2$$);
SELECT kappa.create_view('ok6', $$SELECT u.user_id, u.name, c.tax FROM users u JOIN countries c ON c.code = u.country AND c.continent = 'Europe'$$);
SELECT kappa.create_view('ok7', $$SELECT DISTINCT ON (tag) tag, page FROM clicks, unnest(tags) AS tag ORDER BY tag, ts DESC$$);
SELECT kappa.create_view('ok8', $$SELECT s.day, count(*) FROM clicks, LATERAL (SELECT date_trunc('day', at) AS day) s GROUP BY s.day$$);
SELECT view, kind, exact FROM kappa.views WHERE view::text LIKE 'ok%' ORDER BY view;

-- one message without the field would win for ever
SELECT kappa.create_view('w', $$SELECT DISTINCT ON (user_id) user_id, page FROM clicks ORDER BY user_id, at DESC$$);

SET client_min_messages = warning;
DROP SCHEMA refuse CASCADE;
DROP SERVER refuse, nothing;
DROP FOREIGN DATA WRAPPER nothing;
