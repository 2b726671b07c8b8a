-- The benchmark's tables.  psql variables: brokers, work (a folder that has
-- the events as events.json, and gets events.csv).

CREATE EXTENSION kappa;

CREATE SERVER events FOREIGN DATA WRAPPER kappa
    OPTIONS (bootstrap_servers :'brokers');

CREATE FOREIGN TABLE events (
    user_id bigint,
    page    text,
    country text,
    amount  double precision,
    ts      timestamptz,
    session text
) SERVER events OPTIONS (topic 'events', format 'json');

-- The same events as a changelog: the latest of each user is the row.
CREATE FOREIGN TABLE users (
    user_id bigint OPTIONS (key 'true', metadata 'key'),
    page    text,
    country text,
    amount  double precision,
    ts      timestamptz,
    session text
) SERVER events OPTIONS (topic 'users', format 'json');

CREATE FOREIGN TABLE pings (seq integer)
    SERVER events OPTIONS (topic 'pings', format 'json');

-- What people do without kappa: the messages as they come, in a heap.
CREATE TABLE messages (m jsonb);

\set json :work /events.json
\set csv :work /events.csv
COPY messages FROM :'json';
SELECT format($$COPY (SELECT m ->> 'user_id', m ->> 'page', m ->> 'country',
        m ->> 'amount', m ->> 'ts', m ->> 'session' FROM messages)
    TO %L (FORMAT csv)$$, :'csv') \gexec
