-- What making, changing and dropping a view does to the database.  No broker
-- is needed: nothing here waits for a message.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS kappa CASCADE;
RESET client_min_messages;
CREATE EXTENSION kappa;
CREATE SERVER nowhere FOREIGN DATA WRAPPER kappa
    OPTIONS (bootstrap_servers '127.0.0.1:1');
CREATE FOREIGN TABLE clicks (user_id bigint, page text, at timestamptz, amount numeric)
    SERVER nowhere OPTIONS (topic 'clicks', format 'json');
CREATE FOREIGN TABLE users (user_id bigint OPTIONS (key 'true', metadata 'key'), name text, country text)
    SERVER nowhere OPTIONS (topic 'users', format 'json');

-- the tables
SELECT kappa.create_view('per_page', 'SELECT page, count(*) AS n, sum(amount) AS amount FROM clicks GROUP BY page');
SELECT kappa.create_view('totals', 'SELECT count(*) AS n, sum(amount) AS amount, max(at) AS at FROM clicks');
SELECT kappa.create_view('log', 'SELECT user_id, page::varchar(20) FROM clicks');
SELECT kappa.create_view('last_click', 'SELECT DISTINCT ON (user_id) user_id, page FROM clicks ORDER BY user_id, at DESC NULLS LAST');
SELECT kappa.create_view('germans', $$SELECT user_id, name FROM users WHERE country = 'DE'$$);
\d per_page
\d totals
\d log
\d last_click
\d germans
SELECT * FROM totals;
SELECT view, kind, version, exact FROM kappa.views ORDER BY view::text;
SELECT relname, relkind, relreplident FROM pg_class
WHERE relnamespace = 'kappa_state'::regnamespace AND relkind IN ('r', 'v') ORDER BY relname;

-- the row that is there from the start, made by a session with settings of its own
CREATE SCHEMA tools;
CREATE FUNCTION tools.label(text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'tools ' || $1 $$;
CREATE FUNCTION label(text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'public ' || $1 $$;
SET DateStyle = 'German, DMY'; SET TimeZone = 'Asia/Kolkata'; SET IntervalStyle = 'sql_standard';
SET extra_float_digits = -14; SET bytea_output = 'escape'; SET quote_all_identifiers = on;
SET search_path = tools, public;
SELECT kappa.create_view('public.constants', $$
  SELECT count(*) AS n, float8 '3.14159265358979' AS f, timestamptz '2026-02-03 04:05:06.789+00' AS t,
         date '2026-02-03' AS d, interval '-1 mon +2 days -03:04:05' AS i, bytea '\x00ff5c' AS b,
         label('x') AS l, public.label('x') AS p
  FROM public.clicks $$);
RESET DateStyle; RESET TimeZone; RESET IntervalStyle; RESET extra_float_digits; RESET bytea_output;
RESET quote_all_identifiers; RESET search_path;
SELECT f = float8 '3.14159265358979' AS f, t = timestamptz '2026-02-03 04:05:06.789+00' AS t,
       d = date '2026-02-03' AS d, i = make_interval(months => -1, days => 2, secs => -11045) AS i, b = bytea '\x00ff5c' AS b, l, p
FROM constants;
SELECT kappa.drop_view('constants');
DROP FUNCTION label(text);
DROP SCHEMA tools CASCADE;

-- names that need quotes
CREATE SCHEMA "Some Schema";
SELECT kappa.create_view('"Some Schema"."Vïew ""x"""', 'SELECT page AS "Päge ""q""", count(*) AS "Count" FROM clicks GROUP BY page');
\d "Some Schema"."Vïew ""x"""
-- (PostgreSQL 15 qualifies columns where it need not.)
SELECT replace(replace(e, 'clicks.page', 'page'), '"kappa batch".page', 'page') AS explain
FROM kappa.explain('"Some Schema"."Vïew ""x"""') e;
SELECT kappa.drop_view('"Some Schema"."Vïew ""x"""');

-- mistakes
SELECT kappa.create_view('per_page', 'SELECT page FROM clicks');
SELECT kappa.create_view('bad name here', 'SELECT page FROM clicks');
SELECT kappa.create_view('x', 'SELECT page FROM clicks; SELECT 1');
SELECT kappa.create_view('x', '');
SELECT kappa.create_view('x', 'DELETE FROM clicks');
SELECT kappa.create_view('x', 'SELECT pag FROM clicks');
SELECT kappa.create_view('x', 'SELECT page FROM clicks', 'someday');
SELECT kappa.create_view('pg_temp.x', 'SELECT page FROM clicks');
SELECT kappa.create_view(NULL, 'SELECT page FROM clicks');
SELECT kappa.pause_view('clicks');
SELECT kappa.drop_view('pg_class');

-- the guard
INSERT INTO log VALUES (1, 'x');
UPDATE per_page SET n = 1;
DELETE FROM totals;
TRUNCATE germans;
COPY log FROM STDIN;
\.
ALTER TABLE per_page ADD COLUMN x int;
ALTER TABLE per_page DROP COLUMN n;
ALTER TABLE per_page ALTER COLUMN n TYPE numeric;
ALTER TABLE per_page ALTER COLUMN n SET NOT NULL;
ALTER TABLE per_page RENAME COLUMN n TO m;
ALTER TABLE per_page DROP CONSTRAINT per_page_page_key;
ALTER TABLE germans DROP CONSTRAINT germans_pkey;
ALTER TABLE per_page FORCE ROW LEVEL SECURITY;
ALTER TABLE per_page SET UNLOGGED;
CREATE TABLE child () INHERITS (per_page);
CREATE RULE r AS ON INSERT TO log DO INSTEAD NOTHING;
DROP INDEX per_page_page_key;

-- what is free
CREATE INDEX per_page_n ON per_page (n);
CREATE UNIQUE INDEX per_page_u ON per_page (page, n);
ALTER TABLE per_page ADD CONSTRAINT mine UNIQUE (page, n);
ALTER TABLE per_page DROP CONSTRAINT mine;
COMMENT ON TABLE per_page IS 'mine';
ALTER TABLE per_page SET (fillfactor = 50);
ALTER TABLE per_page RENAME TO per_url;
ALTER TABLE per_url SET SCHEMA "Some Schema";
SELECT view, kind FROM kappa.views WHERE kind = 'aggregate' ORDER BY view::text;
ALTER TABLE "Some Schema".per_url SET SCHEMA public;

-- dependencies
DROP FOREIGN TABLE users;
ALTER FOREIGN TABLE clicks DROP COLUMN page;
ALTER FOREIGN TABLE clicks ALTER COLUMN page TYPE varchar;
DROP FOREIGN TABLE users CASCADE;
SELECT view, state, reason FROM kappa.views WHERE view = 'germans'::regclass;
DROP TABLE germans;
DROP EXTENSION kappa;

-- what has gone behind PostgreSQL's back hides one query, and no other view
BEGIN;
CREATE FUNCTION lost(text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT $1 $$;
SELECT kappa.create_view('broken', 'SELECT lost(page) AS page FROM clicks');
DELETE FROM pg_proc WHERE oid = 'lost(text)'::regprocedure;
SELECT view, replace(query, 'clicks.', '') AS query FROM kappa.views WHERE view IN ('broken'::regclass, 'log'::regclass) ORDER BY view::text;
ROLLBACK;

-- ownership
CREATE ROLE regress_kappa_owner;
CREATE ROLE regress_kappa_other;
GRANT CREATE ON SCHEMA public TO regress_kappa_owner;
GRANT SELECT ON clicks TO regress_kappa_owner;
SET ROLE regress_kappa_owner;
SELECT kappa.create_view('owned', 'SELECT page, count(*) AS n FROM clicks GROUP BY page');
SET ROLE regress_kappa_other;
SELECT kappa.create_view('others', 'SELECT page, count(*) AS n FROM clicks GROUP BY page');
SELECT kappa.pause_view('owned');
SELECT kappa.drop_view('owned');
SELECT kappa.seek_view('owned', 'clicks', 0, 5);
SELECT * FROM owned;
SELECT view, owner FROM kappa.views WHERE view = 'owned'::regclass;
SELECT * FROM kappa.view;
RESET ROLE;
SELECT relname, pg_get_userbyid(relowner) AS owner FROM pg_class
WHERE relname ~ '^owned' AND relkind IN ('r', 'v') ORDER BY relname;
ALTER TABLE owned OWNER TO regress_kappa_other;
SELECT relname, pg_get_userbyid(relowner) AS owner FROM pg_class
WHERE relname ~ '^owned' AND relkind IN ('r', 'v') ORDER BY relname;
SELECT view, owner FROM kappa.views WHERE view = 'owned'::regclass;

-- a transaction that is rolled back leaves nothing
BEGIN;
SELECT kappa.create_view('undone', 'SELECT page FROM clicks');
ROLLBACK;
SELECT count(*) FROM kappa.view WHERE view::text = 'undone';

-- dropping
SELECT kappa.pause_view('log');
SELECT view, state, reason FROM kappa.views WHERE view = 'log'::regclass;
DROP TABLE log, per_url, owned;
SELECT kappa.drop_view('totals');
SELECT kappa.drop_view('last_click');
SELECT relname FROM pg_class WHERE relnamespace = 'kappa_state'::regnamespace ORDER BY relname;
SELECT count(*) FROM kappa.view;
SELECT count(*) FROM kappa.position;
SELECT event, count(*) FROM kappa.events WHERE event IN ('created', 'dropped') GROUP BY event ORDER BY event;
REVOKE CREATE ON SCHEMA public FROM regress_kappa_owner;
REVOKE SELECT ON clicks FROM regress_kappa_owner;
DROP ROLE regress_kappa_owner, regress_kappa_other;
DROP FOREIGN TABLE clicks;
DROP SERVER nowhere;
DROP EXTENSION kappa;
