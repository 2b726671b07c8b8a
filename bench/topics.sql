-- The benchmark's topics.  psql variable: brokers.

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
