-- Subqueries, WITH and SQL views that stand between a topic and the query of a
-- view: what is pulled up into the outer query, and what is refused.  No broker
-- is needed.
\set ECHO none
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS kappa;
RESET client_min_messages;
\set ECHO all
\pset format unaligned
\pset tuples_only on
CREATE SCHEMA flatten;
SET search_path = flatten;
CREATE SERVER flatten FOREIGN DATA WRAPPER kappa OPTIONS (bootstrap_servers '127.0.0.1:1');
CREATE FOREIGN TABLE clicks (
    user_id bigint, page text, country text, at timestamptz, amount numeric, gone text,
    tags text[], data jsonb, "Odd ""Name" text,
    part int OPTIONS (metadata 'partition'), pos bigint OPTIONS (metadata 'offset')
) SERVER flatten OPTIONS (topic 'clicks', format 'json');
CREATE FOREIGN TABLE orders (id bigint, user_id bigint)
    SERVER flatten OPTIONS (topic 'orders', format 'json');
CREATE FOREIGN TABLE users (
    user_id bigint OPTIONS (key 'true', metadata 'key'), name text, country text
) SERVER flatten OPTIONS (topic 'users', format 'json');
CREATE TABLE countries (code text PRIMARY KEY, gone int, name text UNIQUE, continent text);
ALTER TABLE countries DROP COLUMN gone;
ALTER FOREIGN TABLE clicks DROP COLUMN gone;
CREATE TABLE notes (user_id bigint, body text);

-- the query over one batch of a view, which is dropped again
CREATE FUNCTION delta(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM kappa.create_view('v', query);
    RETURN QUERY
        SELECT line FROM (SELECT line, n, max(n) FILTER (WHERE line LIKE '-- %') OVER (ORDER BY n) AS part,
                                 min(n) FILTER (WHERE line LIKE '-- delta%') OVER () AS delta
                          FROM kappa.explain('v') WITH ORDINALITY AS e(line, n)) AS e
        WHERE part = delta AND line <> '' AND line NOT LIKE '-- %' ORDER BY n;
    RETURN QUERY SELECT concat_ws(', ', kind, CASE WHEN NOT exact THEN 'not exact' END) FROM kappa.views WHERE view = 'v'::regclass;
    PERFORM kappa.drop_view('v');
END $$;

--
-- Subqueries
--
SELECT delta($$SELECT day, count(*) FROM (SELECT date_trunc('day', at) AS day FROM clicks WHERE amount > 0) s GROUP BY day$$);
SELECT delta($$SELECT s.d AS day, s.p FROM (SELECT date_trunc('day', at), page FROM clicks) AS s(d, p) WHERE s.p <> '/'$$);
SELECT delta($$SELECT n + 1 AS n FROM (SELECT m * 2 AS n FROM (SELECT user_id AS m, page FROM clicks WHERE page = '/') a WHERE m > 3) b WHERE n < 10$$);
SELECT delta($$SELECT "a ""b" AS x FROM (SELECT upper("Odd ""Name") AS "a ""b" FROM clicks) "My s"$$);

-- joins: conditions of the subquery go to WHERE, whichever side it is on
SELECT delta($$SELECT s.page, c.name FROM (SELECT * FROM clicks WHERE amount > 0) s LEFT JOIN countries c ON c.code = s.country$$);
SELECT delta($$SELECT s.page, c.name FROM countries c JOIN (SELECT * FROM clicks WHERE amount > 0) s ON c.code = s.country AND s.page <> '/'$$);
SELECT delta($$SELECT s.page, c.name FROM countries c RIGHT JOIN (SELECT * FROM clicks WHERE amount > 0) s ON c.code = s.country$$);
SELECT delta($$SELECT page, name, user_id, body FROM (SELECT country AS code, page, user_id FROM clicks) s JOIN countries USING (code) LEFT JOIN notes n USING (user_id)$$);
SELECT delta($$SELECT code, page FROM (SELECT country AS code, page FROM clicks) s NATURAL JOIN countries$$);
SELECT delta($$SELECT j.code, j.page FROM ((SELECT country AS code, page FROM clicks) s JOIN countries USING (code)) j WHERE j.name > 'a'$$);
SELECT delta($$SELECT s.code, page, x.name FROM (SELECT code, page, c.name FROM (SELECT page, country AS code FROM clicks) t JOIN countries c USING (code)) s JOIN countries x USING (code)$$);

-- several items in FROM of the subquery, alone and under a join
SELECT delta($$SELECT page, tag FROM (SELECT page, tag FROM clicks, unnest(tags) AS tag WHERE tag <> '') s$$);
SELECT delta($$SELECT page, tag, name FROM (SELECT page, tag, country FROM clicks, unnest(tags) AS tag) s LEFT JOIN countries ON code = country$$);
SELECT delta($$SELECT item ->> 'sku' AS sku, sum(n) FROM (SELECT item, (item ->> 'n')::int AS n FROM clicks CROSS JOIN LATERAL jsonb_array_elements(data) AS item) s GROUP BY 1$$);

-- what refers to the subquery: LATERAL, subqueries in expressions, HAVING and the like
SELECT delta($$SELECT s.p, t.tag, u.n FROM (SELECT upper(page) AS p, tags || page AS ts FROM clicks) s, LATERAL unnest(s.ts) AS t(tag), LATERAL (SELECT length(s.p) + length(t.tag) AS n) u$$);
SELECT delta($$SELECT p, (SELECT count(*) FROM notes WHERE notes.user_id = s.u AND EXISTS (SELECT FROM countries WHERE code = s.p)) AS notes FROM (SELECT upper(page) AS p, user_id + 1 AS u FROM clicks) s$$);
SELECT delta($$SELECT country, name, count(*) FROM (SELECT country, (SELECT name FROM countries WHERE code = country) AS name FROM clicks) s GROUP BY country, name$$);
SELECT delta($$SELECT c.name, s.page FROM countries c, LATERAL (SELECT page, tag FROM clicks, unnest(tags || c.code) AS tag WHERE country = c.code) s$$);
SELECT delta($$SELECT kind, count(*), sum(one) FROM (SELECT 'click'::text AS kind, 1 AS one FROM clicks) s GROUP BY kind$$);
SELECT delta($$SELECT p, count(*), sum(a) / count(*) AS mean FROM (SELECT upper(page) AS p, amount * 2 AS a FROM clicks WHERE amount > 0) s GROUP BY p HAVING sum(a) > 3$$);

-- DISTINCT ON
SELECT delta($$SELECT DISTINCT ON (u) u, page FROM (SELECT user_id % 10 AS u, page, at FROM clicks WHERE page <> '/') s ORDER BY u, at DESC NULLS LAST$$);
SELECT delta($$SELECT DISTINCT ON (user_id) user_id, page, at, part, pos FROM (SELECT * FROM clicks) s ORDER BY user_id, at DESC NULLS LAST$$);

-- changelogs: the key is found
SELECT delta($$SELECT id, name FROM (SELECT user_id AS id, upper(name) AS name FROM users WHERE country = 'DE') s WHERE id > 0$$);
SELECT delta($$SELECT s.id, s.name, c.name AS country FROM (SELECT user_id AS id, name, country FROM users) s JOIN countries c ON c.code = s.country$$);

--
-- WITH
--
SELECT delta($$WITH c AS (SELECT * FROM clicks WHERE amount > 0) SELECT page, count(*) FROM c GROUP BY page$$);
SELECT delta($$WITH a AS (SELECT user_id AS x FROM clicks), b(y, z) AS MATERIALIZED (SELECT x + 1, x FROM a WHERE x > 0), unused AS (SELECT 1) SELECT y * z AS p FROM b AS q WHERE q.y < 7$$);
SELECT delta($$WITH k(c, n) AS (SELECT code, name FROM countries) SELECT page, k.n, l.m FROM clicks JOIN k ON k.c = country LEFT JOIN k AS l(o, m) ON l.o = page WHERE page IN (SELECT c FROM k)$$);
SELECT delta($$SELECT page FROM (WITH c AS (SELECT page FROM clicks), d AS (SELECT page FROM c) SELECT page FROM d) s$$);

--
-- SQL views
--
CREATE VIEW paid AS SELECT user_id, page, country, amount * 100 AS cents, at::date AS day FROM clicks WHERE amount > 0;
CREATE VIEW "Paid ""at home" (u, p, "The Day") AS SELECT user_id, page, day FROM paid JOIN countries ON code = country WHERE continent = 'Europe';
SELECT delta($$SELECT page, sum(cents) FROM paid GROUP BY page$$);
SELECT delta($$SELECT h."The Day", count(*) FROM "Paid ""at home" AS h GROUP BY 1$$);
SELECT delta($$WITH w AS (SELECT x.p FROM "Paid ""at home" AS x(u, p, d) WHERE d > date '2020-01-01') SELECT p, name FROM w LEFT JOIN countries c ON c.code = w.p$$);
CREATE VIEW people AS SELECT u.name, u.user_id, c.name AS country FROM users u LEFT JOIN countries c ON c.code = u.country;
SELECT delta($$SELECT * FROM people WHERE country > 'A'$$);

-- tables may have got columns since
CREATE VIEW joined AS SELECT page, name FROM clicks JOIN countries ON code = country;
ALTER TABLE countries ADD COLUMN capital text;
ALTER FOREIGN TABLE clicks ADD COLUMN late text;
SELECT delta($$SELECT joined.*, capital FROM joined JOIN countries USING (name)$$);

-- the row of no messages, of a topic that has lost a column, and has the name of another one
SELECT delta($$SELECT count(*), max(c.name), min(late) FROM clicks JOIN countries c ON c.code = country$$);
SELECT delta($$SELECT count(j.amount), max(name) FROM ((SELECT country AS code, page, amount FROM clicks) s JOIN countries USING (code)) j$$);
ALTER FOREIGN TABLE clicks RENAME country TO code;
SELECT delta($$SELECT sum(amount), max(name), count(clicks.at) FROM clicks LEFT JOIN countries USING (code)$$);
ALTER FOREIGN TABLE clicks RENAME code TO country;

-- the definition is the query as it was written, and holds on to the view
SELECT kappa.create_view('by_page', $$WITH w AS (SELECT * FROM paid) SELECT page, sum(cents) FROM w GROUP BY page$$);
SELECT replace(query, 'w.', '') AS query FROM kappa.views WHERE view = 'by_page'::regclass; -- qualified in PostgreSQL 15 alone
DROP VIEW paid;
CREATE OR REPLACE VIEW paid AS SELECT user_id, page, country, amount * 100 AS cents, at::date AS day FROM clicks WHERE amount > 1;
SELECT kappa.drop_view('by_page');

-- whoever owns the view of kappa needs the right to read the topic itself
CREATE ROLE regress_kappa_flatten;
GRANT ALL ON SCHEMA flatten TO regress_kappa_flatten;
GRANT USAGE ON FOREIGN SERVER flatten TO regress_kappa_flatten;
GRANT SELECT ON paid TO regress_kappa_flatten;
SET ROLE regress_kappa_flatten;
SELECT kappa.create_view('v', $$SELECT page FROM paid$$);
RESET ROLE;
GRANT SELECT ON clicks TO regress_kappa_flatten;
REVOKE SELECT ON paid FROM regress_kappa_flatten;
SET ROLE regress_kappa_flatten;
SELECT kappa.create_view('v', $$SELECT page FROM paid$$);
RESET ROLE;
GRANT SELECT ON paid TO regress_kappa_flatten;
SET ROLE regress_kappa_flatten;
SELECT kappa.create_view('v', $$SELECT page FROM paid$$);
SELECT kappa.drop_view('v');
RESET ROLE;

--
-- Refused, each with what stands in the way
--
SELECT kappa.create_view('v', $$SELECT p, n FROM (SELECT page AS p, count(*) AS n FROM clicks GROUP BY page) s$$);
SELECT kappa.create_view('v', $$SELECT p FROM (SELECT DISTINCT page AS p FROM clicks) s$$);
SELECT kappa.create_view('v', $$SELECT n FROM (SELECT row_number() OVER () AS n FROM clicks) s$$);
SELECT kappa.create_view('v', $$SELECT page FROM (SELECT page FROM clicks UNION ALL SELECT page FROM clicks) s$$);
SELECT kappa.create_view('v', $$SELECT page FROM (SELECT page FROM clicks LIMIT 10) s$$);
SELECT kappa.create_view('v', $$SELECT page FROM (SELECT page FROM clicks ORDER BY at) s$$);
SELECT kappa.create_view('v', $$SELECT tag FROM (SELECT unnest(tags) AS tag FROM clicks) s$$);
SELECT kappa.create_view('v', $$SELECT page FROM (SELECT page FROM (SELECT page FROM clicks OFFSET 0) a WHERE page > 'a') s$$);
SELECT kappa.create_view('v', $$WITH c AS (SELECT max(at) AS at FROM clicks) SELECT at FROM c$$);
SELECT kappa.create_view('v', $$WITH RECURSIVE r AS (SELECT page FROM clicks UNION SELECT page FROM r) SELECT page FROM r$$);
SELECT kappa.create_view('v', $$SELECT page FROM clicks, (WITH RECURSIVE r AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM r WHERE i < 3) SELECT i FROM r) s WHERE i = user_id$$);
SELECT kappa.drop_view('v');
SELECT kappa.create_view('v', $$SELECT code, page FROM countries LEFT JOIN (SELECT * FROM clicks) s ON country = code$$);
SELECT kappa.create_view('v', $$SELECT code, page FROM paid FULL JOIN countries ON country = code$$);
SELECT kappa.create_view('v', $$SELECT page FROM (SELECT c.name, k.page FROM countries c LEFT JOIN clicks k ON k.country = c.code) s$$);
SELECT kappa.create_view('v', $$SELECT to_jsonb(s) AS j FROM (SELECT page FROM clicks) s$$);
SELECT kappa.create_view('v', $$SELECT count(paid) AS n FROM paid$$);
SELECT kappa.create_view('v', $$SELECT to_jsonb(j) AS j FROM ((SELECT country AS code, page FROM clicks) s JOIN countries USING (code)) j$$);
SELECT kappa.create_view('v', $$SELECT a.page FROM (SELECT * FROM clicks) a JOIN (SELECT * FROM clicks) b ON a.page = b.page$$);
SELECT kappa.create_view('v', $$SELECT page, id FROM paid JOIN (SELECT * FROM orders) o USING (user_id)$$);
SELECT kappa.create_view('v', $$SELECT page FROM paid WHERE user_id IN (SELECT user_id FROM paid)$$);
SELECT kappa.create_view('v', $$SELECT name FROM (SELECT user_id, name FROM users) s$$);
SELECT kappa.create_view('v', $$SELECT user_id, tag FROM (SELECT user_id, name FROM users) s, unnest(ARRAY[name]) AS tag$$);
SELECT kappa.create_view('v', $$SELECT page, r FROM (SELECT page, random() AS r FROM clicks) s$$);
SELECT kappa.create_view('v', $$SELECT page FROM (SELECT page, now() AS n FROM clicks) s WHERE n > '2020-01-01'$$);
SELECT kappa.create_view('v', $$SELECT page FROM (SELECT page FROM clicks FOR UPDATE) s$$);
SELECT kappa.create_view('v', $$SELECT length(a || b) AS n FROM (SELECT page COLLATE "C" AS a, country COLLATE "POSIX" AS b FROM clicks) s$$);
CREATE VIEW guarded WITH (security_barrier) AS SELECT page FROM clicks;
CREATE VIEW grouped AS SELECT page, count(*) FROM clicks GROUP BY page;
CREATE VIEW clock AS SELECT page, now() - at AS age FROM clicks;
SELECT kappa.create_view('v', $$SELECT page FROM guarded$$);
SELECT kappa.create_view('v', $$SELECT g.page FROM grouped g$$);
SELECT kappa.create_view('v', $$SELECT page, age FROM clock$$);
SELECT kappa.create_view('plain', $$SELECT page FROM clicks$$);
SELECT kappa.create_view('v', $$SELECT page FROM kappa_state.plain_v1$$);

SET client_min_messages = warning;
DROP SCHEMA flatten CASCADE;
DROP SERVER flatten CASCADE;
DROP ROLE regress_kappa_flatten;
