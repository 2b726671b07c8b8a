-- The demo's topics and views.  psql variables: brokers, prefix, wait_ms.

CREATE EXTENSION kappa;

CREATE SERVER events FOREIGN DATA WRAPPER kappa
    OPTIONS (bootstrap_servers :'brokers', fetch_wait_max_ms :'wait_ms');

\set clicks :prefix clicks
\set users :prefix users
\set orders :prefix orders

-- streams of events: every message is a row
CREATE FOREIGN TABLE clicks (
    user_id bigint,
    page    text,
    country text OPTIONS (path 'geo.country'),
    at      timestamptz
) SERVER events OPTIONS (topic :'clicks', format 'json');

CREATE FOREIGN TABLE orders (
    order_id bigint,
    user_id  bigint,
    country  text,
    at       timestamptz,
    items    jsonb
) SERVER events OPTIONS (topic :'orders', format 'json');

-- a changelog: the latest message per key is the row
CREATE FOREIGN TABLE users (
    user_id bigint OPTIONS (key 'true', metadata 'key'),
    name    text,
    country text
) SERVER events OPTIONS (topic :'users', format 'json');

SELECT kappa.create_view('clicks_per_page',
  $$ SELECT page, count(*) AS clicks, max(at) AS last_seen
     FROM clicks GROUP BY page $$);

SELECT kappa.create_view('last_click',
  $$ SELECT DISTINCT ON (user_id) user_id, page, at
     FROM clicks ORDER BY user_id, at DESC NULLS LAST $$);

SELECT kappa.create_view('german_users',
  $$ SELECT user_id, name FROM users WHERE country = 'DE' $$);

SELECT kappa.create_view('order_items',
  $$ SELECT o.order_id, o.at, i ->> 'sku' AS sku, (i ->> 'n')::int AS n,
            (i ->> 'price')::numeric AS price
     FROM orders o, LATERAL jsonb_array_elements(o.items) i $$);

-- With a mistake: revenue adds up prices, whatever was sold of each.
SELECT kappa.create_view('sales',
  $$ SELECT i ->> 'sku' AS sku, sum((i ->> 'n')::int) AS sold,
            sum((i ->> 'price')::numeric) AS revenue,
            sum((i ->> 'n')::int) FILTER (WHERE o.country = 'JP') AS sold_to_japan
     FROM orders o, LATERAL jsonb_array_elements(o.items) i
     GROUP BY i ->> 'sku' $$);
