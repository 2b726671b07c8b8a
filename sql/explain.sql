-- The SQL that keeps each kind of view, as kappa.explain shows it.  No broker
-- is needed.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS kappa;
RESET client_min_messages;
CREATE SCHEMA explain;
SET search_path = explain;
CREATE SERVER nowhere_to_explain FOREIGN DATA WRAPPER kappa
    OPTIONS (bootstrap_servers '127.0.0.1:1');
CREATE FOREIGN TABLE clicks (user_id bigint, page text, at timestamptz, amount numeric, tags text[])
    SERVER nowhere_to_explain OPTIONS (topic 'clicks', format 'json');
CREATE FOREIGN TABLE users (user_id bigint OPTIONS (key 'true', metadata 'key'), name text, country text)
    SERVER nowhere_to_explain OPTIONS (topic 'users', format 'json');
CREATE TABLE countries (code text PRIMARY KEY, name text);
\pset tuples_only on
\pset format unaligned

SELECT kappa.create_view('tagged', $$
    SELECT user_id, tag FROM clicks, LATERAL unnest(tags) AS tag WHERE page <> '/'
$$);
SELECT kappa.explain('tagged');

SELECT kappa.create_view('last_click', $$
    SELECT DISTINCT ON (user_id) user_id, page FROM clicks ORDER BY user_id, at DESC NULLS LAST
$$);
SELECT kappa.explain('last_click');

SELECT kappa.create_view('named', $$
    SELECT u.user_id, u.name, c.name AS country
    FROM users u LEFT JOIN countries c ON c.code = u.country
    WHERE u.name <> 'it''s
two lines'
$$);
SELECT kappa.explain('named');

SELECT kappa.create_view('per_page', $$
    SELECT page, count(*) AS clicks, max(at) AS last_seen, sum(amount) FILTER (WHERE amount > 0) AS amount
    FROM clicks GROUP BY page
$$);
SELECT kappa.explain('per_page');

SELECT kappa.create_view('means', $$
    SELECT page, date_trunc('day', at) AS day, round(avg(amount), 2) AS mean, avg(user_id::int) AS a, count(*)
    FROM clicks GROUP BY page, date_trunc('day', at) HAVING count(*) > 2
$$);
SELECT kappa.explain('means');

SELECT kappa.create_view('overall', $$
    SELECT stddev(amount) / nullif(avg(amount), 0) AS variation FROM clicks
$$);
SELECT kappa.explain('overall');

\pset tuples_only off
\pset format aligned
SET client_min_messages = warning;
DROP SCHEMA explain CASCADE;
DROP SERVER nowhere_to_explain CASCADE;
