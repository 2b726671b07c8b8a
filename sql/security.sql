-- What roles may do to kappa and to each other through it.  No broker is
-- needed; test/t/041_security.pl has what does.

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

-- cleanup
DROP TABLE precious, other;
DROP EXTENSION kappa CASCADE;
REVOKE ALL ON SCHEMA public FROM regress_kappa_victim, regress_kappa_attacker;
DROP ROLE regress_kappa_victim, regress_kappa_attacker;
