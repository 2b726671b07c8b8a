-- What roles may do to kappa and to each other through it.  No broker is
-- needed; test/t/045_security.pl has what does.

SET client_min_messages = warning;
DROP EXTENSION IF EXISTS kappa CASCADE;
RESET client_min_messages;
CREATE EXTENSION kappa;
CREATE ROLE regress_kappa_victim;
CREATE ROLE regress_kappa_attacker;
GRANT CREATE ON SCHEMA public TO regress_kappa_victim, regress_kappa_attacker;

-- The trigger function that ties what a dump restores to its view believes
-- what the rows say: it must not run on a table of somebody's own.
SET ROLE regress_kappa_victim;
CREATE TABLE precious (x int);
RESET ROLE;
SET ROLE regress_kappa_attacker;
CREATE TABLE trap (view oid, definition oid, companion oid, target oid);
CREATE TRIGGER t AFTER INSERT ON trap FOR EACH ROW EXECUTE FUNCTION kappa.note_restored();
RESET ROLE;
CREATE TRIGGER t AFTER INSERT ON trap FOR EACH ROW EXECUTE FUNCTION kappa.note_restored();
SET ROLE regress_kappa_attacker;
INSERT INTO trap VALUES ('trap'::regclass, 'precious'::regclass, 0, 0);
DROP TABLE trap;
RESET ROLE;
TABLE precious;
CREATE TABLE other (system_identifier text);
CREATE TRIGGER t BEFORE INSERT ON other FOR EACH ROW EXECUTE FUNCTION kappa.note_restored();
INSERT INTO other VALUES ('x');


-- Nobody but superusers reads or writes kappa's own tables, or creates
-- anything beside them.
SELECT relname FROM pg_class WHERE relnamespace = 'kappa'::regnamespace AND relkind IN ('r', 'S')
AND has_table_privilege('regress_kappa_attacker', oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER');
SELECT has_schema_privilege('regress_kappa_attacker', 'kappa', 'CREATE'),
       has_schema_privilege('regress_kappa_attacker', 'kappa_state', 'CREATE');

-- Functions that do not look at rights themselves.
SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'kappa'::regnamespace
AND NOT has_function_privilege('regress_kappa_attacker', oid, 'EXECUTE');

-- Every command is for the owner, members of the owner, and superusers.
CREATE SERVER nowhere FOREIGN DATA WRAPPER kappa OPTIONS (bootstrap_servers '127.0.0.1:1');
GRANT USAGE ON FOREIGN SERVER nowhere TO regress_kappa_victim;
CREATE ROLE regress_kappa_member IN ROLE regress_kappa_victim;
CREATE FUNCTION attempt(call text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE 'SELECT kappa.' || call;
    RETURN 'done';
EXCEPTION WHEN others THEN
    RETURN SQLSTATE || ' ' || SQLERRM;
END $$;
ALTER DEFAULT PRIVILEGES FOR ROLE regress_kappa_victim IN SCHEMA public GRANT ALL ON TABLES TO regress_kappa_attacker;
SET ROLE regress_kappa_victim;
CREATE FOREIGN TABLE clicks (page text, n bigint) SERVER nowhere OPTIONS (topic 'clicks');
SELECT kappa.create_view('seen', 'SELECT page, count(*) AS c, avg(n) AS a FROM clicks GROUP BY page');
RESET ROLE;

-- What default privileges give to others stays with the view.
SELECT relname, has_table_privilege('regress_kappa_attacker', oid, 'SELECT, INSERT, TRIGGER') AS attacker,
       has_table_privilege('regress_kappa_victim', oid, 'SELECT, INSERT, TRIGGER') AS owner
FROM pg_class WHERE oid = 'seen'::regclass OR relnamespace = 'kappa_state'::regnamespace AND relkind IN ('r', 'v') ORDER BY 1;

SET ROLE regress_kappa_attacker;
SELECT call, attempt(call) FROM unnest(ARRAY[
    'drop_view(''seen'')', 'pause_view(''seen'')', 'limit_view(''seen'', 0)', 'resume_view(''seen'')', 'seek_view(''seen'', ''clicks'', 0, 1)',
    'explain(''seen'')', 'verify(''seen'')', 'diff_view(''seen'')', 'messages_of(''seen'', ''{}'')',
    'rebuild(''seen'')', 'alter_view(''seen'', ''SELECT 1'')', 'switch_rebuild(''seen'')', 'cancel_rebuild(''seen'')',
    'rollback_view(''seen'')', 'drop_previous(''seen'')', 'diff_rebuild(''seen'')', 'diff_rebuild_summary(''seen'')',
    'discard_dead_letters(''seen'')']) AS call;
SET ROLE regress_kappa_member;
SELECT call, attempt(call) FROM unnest(ARRAY['pause_view(''seen'')', 'explain(''seen'')', 'discard_dead_letters(''seen'')', 'drop_view(''seen'')']) AS call;
RESET ROLE;

-- Names that would mean something where they are not quoted.
CREATE SCHEMA "%s\ '$$"";x";
GRANT ALL ON SCHEMA "%s\ '$$"";x" TO regress_kappa_victim;
SET ROLE regress_kappa_victim;
CREATE TYPE "%s\ '$$"";x"."%n'"";t" AS ENUM ('a''%s\', E'b\n');
SELECT kappa.create_view($n$"%s\ '$$"";x"."v%s'"";DROP"$n$,
    $q$ SELECT page::"%s\ '$$"";x"."%n'"";t" AS "%s'"";--", count(*) AS "
", avg(n) AS "\\" FROM clicks WHERE page <> 'a''%s\' GROUP BY 1 $q$) IS NOT NULL AS made;
SELECT count(*) > 10 AS explained FROM kappa.views v, kappa.explain(v.view);
SELECT kappa.pause_view(view), kappa.drop_view(view) FROM kappa.views;
RESET ROLE;

-- A schema of somebody else's must not become that of the extension.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP EXTENSION kappa CASCADE;
DROP SCHEMA kappa;
CREATE SCHEMA kappa AUTHORIZATION regress_kappa_attacker;
CREATE EXTENSION kappa;
DROP SCHEMA kappa;
CREATE SCHEMA kappa_state AUTHORIZATION regress_kappa_attacker;
CREATE EXTENSION kappa;
DROP SCHEMA kappa_state;

-- cleanup
ALTER DEFAULT PRIVILEGES FOR ROLE regress_kappa_victim IN SCHEMA public REVOKE ALL ON TABLES FROM regress_kappa_attacker;
DROP FUNCTION attempt(text);
DROP TABLE precious, other;
DROP SCHEMA "%s\ '$$"";x" CASCADE;
DROP OWNED BY regress_kappa_victim, regress_kappa_attacker;
DROP ROLE regress_kappa_victim, regress_kappa_attacker, regress_kappa_member;
