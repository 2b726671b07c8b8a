-- The options of servers, user mappings, foreign tables and columns: what may
-- be set where and by whom, and what is said when it may not.
\set ECHO none
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS kappa;
RESET client_min_messages;
\set ECHO all
\set VERBOSITY default
CREATE SCHEMA options;
SET search_path = options;
CREATE ROLE kappa_options_user;
CREATE ROLE kappa_options_reader IN ROLE pg_read_server_files;
GRANT USAGE ON FOREIGN DATA WRAPPER kappa TO kappa_options_user, kappa_options_reader;
GRANT ALL ON SCHEMA options TO kappa_options_user;

--
-- Servers
--
CREATE SERVER s FOREIGN DATA WRAPPER kappa;
CREATE SERVER s FOREIGN DATA WRAPPER kappa OPTIONS (bootstrap_servers '');
CREATE SERVER s FOREIGN DATA WRAPPER kappa OPTIONS (bootstrap_servers 'localhost:1');
ALTER SERVER s OPTIONS (DROP bootstrap_servers);

-- librdkafka judges the values; its own words are in the detail
ALTER SERVER s OPTIONS (ADD socket_timeout_ms '30000', ADD broker_address_family 'v4', ADD security_protocol 'ssl');
\set VERBOSITY terse
ALTER SERVER s OPTIONS (SET socket_timeout_ms 'soon');
ALTER SERVER s OPTIONS (SET socket_timeout_ms '1');
ALTER SERVER s OPTIONS (SET broker_address_family 'v5');
ALTER SERVER s OPTIONS (SET security_protocol 'tls');
ALTER SERVER s OPTIONS (ADD enable_ssl_certificate_verification 'perhaps');
\set VERBOSITY default
SELECT srvoptions FROM pg_foreign_server WHERE srvname = 's';

-- unknown names, misspelt names, names of other places
ALTER SERVER s OPTIONS (ADD bootstrap_server 'x');
ALTER SERVER s OPTIONS (ADD "ssl.ca.pem" 'x');
ALTER SERVER s OPTIONS (ADD security_protocoll 'x');
ALTER SERVER s OPTIONS (ADD colour 'red');
ALTER SERVER s OPTIONS (ADD sasl_password 'tiger');
ALTER SERVER s OPTIONS (ADD topic 'x');
ALTER SERVER s OPTIONS (ADD path 'x');

-- what would run code is refused to everyone, superusers too
ALTER SERVER s OPTIONS (ADD plugin_library_paths '/tmp/x.so');
ALTER SERVER s OPTIONS (ADD sasl_kerberos_kinit_cmd 'touch /tmp/x');
ALTER SERVER s OPTIONS (ADD ssl_engine_location '/tmp/x.so');
ALTER SERVER s OPTIONS (ADD ssl_engine_id 'x');
ALTER SERVER s OPTIONS (ADD ssl_providers 'x');
ALTER SERVER s OPTIONS (ADD interceptors 'x');

-- what kappa decides, and what only producers have
ALTER SERVER s OPTIONS (ADD enable_auto_commit 'true');
ALTER SERVER s OPTIONS (ADD group_id 'x');
ALTER SERVER s OPTIONS (ADD auto_offset_reset 'earliest');
ALTER SERVER s OPTIONS (ADD isolation_level 'read_uncommitted');
ALTER SERVER s OPTIONS (ADD enable_partition_eof 'false');
ALTER SERVER s OPTIONS (ADD queued_min_messages '1');
ALTER SERVER s OPTIONS (ADD fetch_max_bytes '1000000');
ALTER SERVER s OPTIONS (ADD metadata_broker_list 'x');
ALTER SERVER s OPTIONS (ADD debug 'all');
ALTER SERVER s OPTIONS (ADD acks 'all');

-- SASL: the mechanism has to be named, since librdkafka's default is the
-- identity of the database server
CREATE SERVER sasl FOREIGN DATA WRAPPER kappa OPTIONS (bootstrap_servers 'localhost:1', security_protocol 'sasl_ssl');
CREATE SERVER sasl FOREIGN DATA WRAPPER kappa OPTIONS (bootstrap_servers 'localhost:1', security_protocol 'SASL_PLAINTEXT', sasl_mechanism 'gssapi');
CREATE SERVER sasl FOREIGN DATA WRAPPER kappa OPTIONS (bootstrap_servers 'localhost:1', security_protocol 'SASL_PLAINTEXT', sasl_mechanism 'PLAIN', sasl_mechanisms 'PLAIN');
CREATE SERVER sasl FOREIGN DATA WRAPPER kappa OPTIONS (bootstrap_servers 'localhost:1', security_protocol 'SASL_PLAINTEXT', sasl_mechanism 'PLAIN');
CREATE FOREIGN TABLE secured (a int) SERVER sasl OPTIONS (topic 'x');
DO $$
BEGIN
	PERFORM * FROM secured;
EXCEPTION WHEN undefined_object THEN
	RAISE NOTICE 'no user mapping';
END $$;

--
-- Files and the identity of the database server
--
SET ROLE kappa_options_user;
CREATE SERVER mine FOREIGN DATA WRAPPER kappa OPTIONS (bootstrap_servers 'localhost:1');
ALTER SERVER mine OPTIONS (ADD ssl_key_location '/etc/ssl/private/key.pem');
ALTER SERVER mine OPTIONS (ADD ssl_ca_location '/etc/passwd');
ALTER SERVER mine OPTIONS (ADD security_protocol 'sasl_ssl', ADD sasl_mechanism 'GSSAPI');
ALTER SERVER mine OPTIONS (ADD sasl_kerberos_principal 'postgres');
CREATE USER MAPPING FOR kappa_options_user SERVER mine OPTIONS (ssl_key_location '/etc/ssl/private/key.pem');
RESET ROLE;
-- set by somebody who may: then the owner can no longer send that identity
-- elsewhere
ALTER SERVER mine OPTIONS (ADD ssl_ca_location '/etc/ssl/ca.pem');
SET ROLE kappa_options_user;
ALTER SERVER mine OPTIONS (SET bootstrap_servers 'elsewhere:1');
ALTER SERVER mine OPTIONS (DROP ssl_ca_location, SET bootstrap_servers 'elsewhere:1');
RESET ROLE;
SET ROLE kappa_options_reader;
CREATE SERVER reader FOREIGN DATA WRAPPER kappa
    OPTIONS (bootstrap_servers 'localhost:1', security_protocol 'sasl_ssl', sasl_mechanism 'GSSAPI',
             sasl_kerberos_principal 'postgres/db.example.org@EXAMPLE.ORG', ssl_ca_location '/etc/ssl/ca.pem');
-- these words end up in a shell command
ALTER SERVER reader OPTIONS (SET sasl_kerberos_principal 'x; touch /tmp/x');
ALTER SERVER reader OPTIONS (ADD sasl_kerberos_keytab '$(touch /tmp/x)');
ALTER SERVER reader OPTIONS (ADD sasl_kerberos_keytab '-x');
ALTER SERVER reader OPTIONS (ADD sasl_kerberos_service_name '%{sasl.kerberos.keytab}');
RESET ROLE;

--
-- User mappings: secrets are here, and in no message
--
CREATE USER MAPPING FOR kappa_options_user SERVER s OPTIONS (sasl_username 'scott', sasl_password 'tiger');
CREATE USER MAPPING FOR kappa_options_reader SERVER s OPTIONS (sasl_pasword 'tiger');
CREATE USER MAPPING FOR kappa_options_reader SERVER s OPTIONS (bootstrap_servers 'x');
CREATE USER MAPPING FOR kappa_options_reader SERVER s OPTIONS (sasl_password '');
CREATE USER MAPPING FOR kappa_options_reader SERVER s OPTIONS (ssl_key_location '/etc/ssl/key.pem', ssl_key_password 'tiger');

--
-- Foreign tables
--
CREATE FOREIGN TABLE t (a int) SERVER s;
CREATE FOREIGN TABLE t (a int) SERVER s OPTIONS (topic '');
CREATE FOREIGN TABLE t (a int) SERVER s OPTIONS (topic 'no spaces');
CREATE FOREIGN TABLE t (a int) SERVER s OPTIONS (topic '..');
CREATE FOREIGN TABLE t (a int) SERVER s OPTIONS (topic 'x', format 'xml');
CREATE FOREIGN TABLE t (a int) SERVER s OPTIONS (topic 'x', key_format 'xml');
CREATE FOREIGN TABLE t (a int) SERVER s OPTIONS (topic 'x', key_order 'time');
CREATE FOREIGN TABLE t (a int) SERVER s OPTIONS (topics 'x');
CREATE FOREIGN TABLE t (a int) SERVER s OPTIONS (topic 'x', colour 'red');
CREATE FOREIGN TABLE t (a int) SERVER s OPTIONS (topic 'x', bootstrap_servers 'x');
CREATE FOREIGN TABLE t (a int) SERVER s OPTIONS (topic 'x', metadata 'key');
CREATE FOREIGN TABLE t (a int) SERVER s OPTIONS (topic 'x', group_id 'x');
CREATE FOREIGN TABLE t (a int) SERVER s OPTIONS (topic 'a.b_c-D9', format 'json', key_format 'json', key_order 'offset');

--
-- Columns
--
ALTER FOREIGN TABLE t ALTER a OPTIONS (ADD paths 'x');
ALTER FOREIGN TABLE t ALTER a OPTIONS (ADD format 'raw');
ALTER FOREIGN TABLE t ALTER a OPTIONS (ADD colour 'red');
ALTER FOREIGN TABLE t ALTER a OPTIONS (ADD metadata 'offsets');
ALTER FOREIGN TABLE t ALTER a OPTIONS (ADD key 'perhaps');
ALTER FOREIGN TABLE t ALTER a OPTIONS (ADD key 'true');
ALTER FOREIGN TABLE t ALTER a OPTIONS (ADD key 'true', ADD metadata 'value');
ALTER FOREIGN TABLE t ALTER a OPTIONS (ADD path '');
ALTER FOREIGN TABLE t ALTER a OPTIONS (ADD path 'a..b');
ALTER FOREIGN TABLE t ALTER a OPTIONS (ADD path 'a.');
ALTER FOREIGN TABLE t ALTER a OPTIONS (ADD path '"a.b');
ALTER FOREIGN TABLE t ALTER a OPTIONS (ADD path '"a"b');
ALTER FOREIGN TABLE t ALTER a OPTIONS (ADD path 'a', ADD metadata 'offset');
ALTER FOREIGN TABLE t ALTER a OPTIONS (ADD path 'a', ADD metadata 'value');
ALTER FOREIGN TABLE t ALTER a OPTIONS (ADD path 'a.b."c.d"."say ""hi""".0', ADD key 'false');
ALTER FOREIGN TABLE t ALTER a OPTIONS (SET path 'a.b', SET key 'true', ADD metadata 'key');

--
-- What only shows when the table is used.  (EXPLAIN asks no broker before it
-- has looked at this.)
--
CREATE FOREIGN TABLE raw (a text, b text) SERVER s OPTIONS (topic 'x', format 'raw');
EXPLAIN (COSTS OFF) SELECT * FROM raw;
ALTER FOREIGN TABLE raw ALTER b OPTIONS (ADD metadata 'value');
EXPLAIN (COSTS OFF) SELECT * FROM raw;
ALTER FOREIGN TABLE raw ALTER b OPTIONS (SET metadata 'key');
ALTER FOREIGN TABLE raw ALTER a OPTIONS (ADD path 'x');
EXPLAIN (COSTS OFF) SELECT * FROM raw;
ALTER FOREIGN TABLE raw ALTER a OPTIONS (DROP path);
ALTER FOREIGN TABLE raw ALTER b OPTIONS (ADD path 'x');
EXPLAIN (COSTS OFF) SELECT * FROM raw;
CREATE FOREIGN TABLE unsortable (a json OPTIONS (metadata 'key', key 'true'), b text) SERVER s OPTIONS (topic 'x');
EXPLAIN (COSTS OFF) SELECT * FROM unsortable;

-- foreign tables are read-only
INSERT INTO t VALUES (1);
UPDATE t SET a = 1;
DELETE FROM t;
TRUNCATE t;

SET client_min_messages = warning;
DROP SCHEMA options CASCADE;
DROP SERVER s CASCADE;
DROP SERVER sasl, mine, reader;
DROP OWNED BY kappa_options_user, kappa_options_reader;
DROP ROLE kappa_options_user, kappa_options_reader;
