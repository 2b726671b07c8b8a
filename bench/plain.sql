-- What people do without kappa.  psql variable: work, a folder that has the
-- events as events.json, and gets events.csv.

-- The messages as they come, in a heap.
CREATE TABLE messages (m jsonb);

\set json :work /events.json
\set csv :work /events.csv
COPY messages FROM :'json';
SELECT format($$COPY (SELECT m ->> 'user_id', m ->> 'page', m ->> 'country',
        m ->> 'amount', m ->> 'ts', m ->> 'session' FROM messages)
    TO %L (FORMAT csv)$$, :'csv') \gexec

-- And what others have made of them.
CREATE TABLE typed (user_id bigint, page text, country text,
    amount double precision, ts timestamptz, session text);
COPY typed FROM :'csv' (FORMAT csv);

-- Not while something is measured.
VACUUM (ANALYZE) messages, typed;
