
# A view gets another query while others look at it, dump it or subscribe to it;
# and what is remembered of its versions.

use strict;
use warnings;

use KappaTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = start_kafka();
my $node = new_node(allows_streaming => 'logical', conf => 'kappa.keep_previous = 0');

sub run
{
	return $node->safe_psql('postgres', $_[0]);
}

sub alter
{
	my ($view, $query, $options) = @_;

	return "SELECT kappa.alter_view('$view', \$query\$ $query \$query\$" . ($options ? ", $options" : '') . ')';
}

sub done
{
	my ($view, $name) = @_;

	return is(run("SELECT kappa.wait_for_rebuild('$view', '2 min')"), 't', $name);
}

create_topic('orders', partitions => 2);
produce('orders', orders(1, 2000));
run(q(
CREATE ROLE app;
CREATE ROLE reader;
GRANT USAGE ON FOREIGN SERVER events TO app;
GRANT CREATE ON SCHEMA public TO app;
SET ROLE app;
CREATE FOREIGN TABLE orders (id bigint, shop text, amount numeric(10,2), note text, at timestamptz)
	SERVER events OPTIONS (topic 'orders');
CREATE FOREIGN TABLE customers (k int OPTIONS (key 'true', metadata 'key'), shop text, amount int, note text)
	SERVER events OPTIONS (topic 'orders');
SELECT kappa.create_view('shops', 'SELECT shop, count(*) AS n, sum(amount) AS total, max(id) AS top, max(at) AS seen FROM orders GROUP BY shop');
SELECT kappa.create_view('people', 'SELECT k, shop, amount FROM customers');
SELECT kappa.create_view('order_log', 'SELECT id, shop, amount FROM orders');
RESET ROLE;
ALTER TABLE shops ADD CHECK (seen IS NOT NULL);
CREATE TABLE elsewhere (shop text REFERENCES shops (shop));
));
run("SELECT kappa.wait_for('$_')") foreach qw(shops people order_log);

# ---- One at a time; what comes to depend on a column meanwhile. ----

my $shorter = 'SELECT shop, count(*) AS n, sum(amount) AS total, max(id) AS top FROM orders GROUP BY shop';
my $err;
$node->psql('postgres', alter('shops', $shorter, "switch => 'manual'"), stderr => \$err);
like($err, qr/will be switched by rows.*while the rows are changed, readers wait/s, 'readers are told that they wait');
fails_like($node, alter('shops', $shorter), qr/is being rebuilt already/, 'one alter_view at a time');
fails_like($node, "SELECT kappa.rebuild('shops')", qr/is being rebuilt already/, 'nor a rebuild');
ok(wait_for($node, rebuild_status('shops'), '2|rows|waiting for switch_rebuild'), 'it waits to be switched');
run('CREATE VIEW sightings AS SELECT seen FROM shops; SELECT kappa.switch_rebuild(\'shops\')');
ok(wait_for($node, rebuild_status('shops'), '2|rows|failed'), 'what hangs on a column by now stops it');
like(run("SELECT error FROM kappa.rebuilds WHERE view = 'shops'::regclass"), qr/other objects depend on it: view sightings depends on column seen/, 'and is named');
ok_view($node, 'shops');
run('DROP VIEW sightings; ' . alter('shops', $shorter));
done('shops', 'without it, it goes');
ok_view($node, 'shops');
is(run("SELECT count(*) FROM pg_constraint WHERE conrelid = 'shops'::regclass AND contype = 'c'"), 0, 'a check goes with its column');

# An open cursor delays the switch; a prepared SELECT * says what any ALTER TABLE makes it say.
my $session = $node->background_psql('postgres');
my $was = $session->query_safe('SELECT amount FROM order_log WHERE id = 9');

$session->query_safe('PREPARE rows AS SELECT id, amount FROM order_log WHERE id < 10 ORDER BY id; PREPARE everything AS SELECT * FROM order_log WHERE id < 10');
$session->query_safe('EXECUTE rows; EXECUTE everything');
$session->query_safe('BEGIN; DECLARE c CURSOR FOR SELECT * FROM order_log ORDER BY id; FETCH 2 FROM c');
run(alter('order_log', 'SELECT id, (amount * 10)::numeric(10,2) AS amount, note FROM orders WHERE id <= 1500'));
ok(wait_for($node, "SELECT phase IN ('waiting for old snapshots', 'switching') FROM kappa.rebuilds WHERE view = 'order_log'::regclass"),
	'a cursor delays the switch');
like($session->query('FETCH 1 FROM c'), qr/\|/, 'and goes on');
$session->query_safe('COMMIT');
done('order_log', 'and then it comes');
is($session->query('EXECUTE rows'), run('SELECT id, amount FROM order_log WHERE id < 10 ORDER BY id'), 'a prepared query of columns goes on');
is( $session->query_safe(q(DO $$ BEGIN EXECUTE 'EXECUTE everything'; RAISE 'no error';
		EXCEPTION WHEN feature_not_supported THEN NULL; END $$)),
	'', 'one of all columns says that they are others');
is($session->query_safe('SELECT amount FROM order_log WHERE id = 9'), $was * 10 . '.00', 'the session sees the new rows');
ok_view($node, 'order_log');
$session->quit;

# Readers of columns that stay notice nothing while others come and go.
my $queries = "$PostgreSQL::Test::Utils::tmp_check/readers.sql";
append_to_file($queries, q(\set id random(1, 1500)
SELECT id, amount FROM order_log WHERE id = :id;
SELECT count(*), sum(n) FROM (SELECT shop, n FROM shops) s;
));
my ($out, $errors) = ('', '');
my $readers = IPC::Run::start(
	[ 'pgbench', '-n', '-M', 'prepared', '-c', '3', '-T', '8', '-f', $queries, '-h', $node->host, '-p', $node->port, 'postgres' ],
	'>', \$out, '2>', \$errors);
foreach my $columns ('shop', 'at, note', 'note, shop')
{
	my $query = "SELECT id, (amount * 10)::numeric(10,2) AS amount, $columns FROM orders WHERE id <= 1500";

	run("SET client_min_messages = warning; " . alter('order_log', $query));
	done('order_log', "columns: $columns");
}
ok($readers->finish, 'readers go on') or diag($errors);
like($out, qr/number of failed transactions: 0 /, 'and none fails');
ok_view($node, 'order_log');

# ---- The settings are those of the session that calls. ----

run(q(SET ROLE app; SELECT kappa.create_view('per_day', $$ SELECT date_trunc('day', at) AS day, count(*) AS n FROM orders GROUP BY 1 $$)));
is(run("SELECT kappa.wait_for('per_day'); SELECT count(*) FROM per_day"), "t\n1", 'a day in UTC');
run("SET TimeZone = 'Asia/Tokyo'; " . alter('per_day', q(SELECT date_trunc('day', at) AS day, count(*) AS n FROM orders GROUP BY 1)));
done('per_day', 'with another time zone');
is(run('SELECT count(*) FROM per_day'), 2, 'days are those of Tokyo');
run("SELECT kappa.rebuild('per_day')");
done('per_day', 'a rebuild keeps');
is(run('SELECT count(*) FROM per_day'), 2, 'the settings');
is(run("SELECT kappa.verify('per_day')"), 0, 'and the view is what its query says');

# ---- Versions. ----

is( run(q(SELECT version, state, query ~ 'date_trunc', (SELECT s FROM unnest(settings) s WHERE s ~ '^TimeZone'), created_by = session_user,
		switched_at >= created_at, dropped_at > switched_at, topic, start_offset, (SELECT sum(o) FROM unnest(next_offset) o), missing
		FROM kappa.versions WHERE view = 'per_day'::regclass ORDER BY version)),
	join("\n", '1|dropped|t|TimeZone=UTC|t|t|t|orders|{0,0}|2000|', '2|dropped|t|TimeZone=Asia/Tokyo|t|t|t|orders|{0,0}|2000|',
		'3|live|t|TimeZone=Asia/Tokyo|t|t||orders|{0,0}|2000|'),
	'versions of a view, also those that are gone');
is(run(q(SELECT bool_and(size > 8000), bool_or(rows = 2) FROM kappa.versions WHERE view = 'per_day'::regclass)), 't|t', 'with rows and size');
is(run(q(SELECT string_agg(version || ' ' || state, ', ' ORDER BY version) FROM kappa.versions WHERE view = 'shops'::regclass)),
	'1 dropped, 2 dropped, 3 live', 'one that failed was dropped, too');
is(run(q(SELECT count(*) FROM kappa.versions WHERE view = 'shops'::regclass AND switched_at IS NULL)), 1, 'and never switched');
run(alter('per_day', q(SELECT date_trunc('day', at) AS day, count(*) AS n, max(id) AS top FROM orders WHERE id <= 1900 GROUP BY 1), "switch => 'manual'"));
ok(wait_for($node, "SELECT state FROM kappa.versions WHERE view = 'per_day'::regclass AND version = 4", 'ready'), 'a version that waits is ready');
is(run("SET ROLE reader; SELECT count(*) FROM kappa.versions WHERE view = 'per_day'::regclass"), 4, 'anyone may look');
fails_like($node, 'SET ROLE reader; SELECT * FROM kappa.version_history', qr/permission denied/, 'but not behind it');

# ---- A dump in the middle of it. ----

my $dump = "$PostgreSQL::Test::Utils::tmp_check/dump";
my $other = new_node(name => 'other', bare => 1);

# Where columns were dropped a table has other places after a restore.
run(alter('people', 'SELECT k, amount, note FROM customers'));
done('people', 'a table that has lost a column');
run(alter('people', 'SELECT k, note, shop FROM customers', "switch => 'manual'"));
ok(wait_for($node, rebuild_status('people'), '3|storage|waiting for switch_rebuild'), 'and is about to lose another one');
my $versions = q(SELECT view, version, state, query, settings, created_by, created_at, switched_at, dropped_at FROM kappa.versions ORDER BY view::text, version);
my $was_there = run($versions);
command_ok([ 'pg_dump', '-Fc', '-d', $node->connstr('postgres'), '-f', $dump ], 'a dump while versions are built');
$other->safe_psql('postgres', 'CREATE ROLE app; CREATE ROLE reader');
command_ok([ 'pg_restore', '--exit-on-error', '-d', $other->connstr('postgres'), $dump ], 'and its restore');
is($other->safe_psql('postgres', $versions), $was_there, 'with all versions');
$other->safe_psql('postgres', 'SELECT kappa.resume_view(view) FROM kappa.views');
foreach my $view (qw(people per_day))
{
	$other->safe_psql('postgres', "SELECT kappa.switch_rebuild('$view')");
	is($other->safe_psql('postgres', "SELECT kappa.wait_for_rebuild('$view', '1 min')"), 't', "$view goes on there");
	ok_view($other, $view);
}
like($other->safe_psql('postgres', rebuild_status('people')), qr/^3\|rows\|done/, 'by rows, as the places differ');
is($other->safe_psql('postgres', "SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'people'::regclass AND attnum > 0 AND NOT attisdropped"),
	'k note shop', 'with the right columns');
is(leftovers($other), '', 'and nothing left');
$other->stop;
run("SELECT kappa.cancel_rebuild('per_day'); SELECT kappa.switch_rebuild('people')");
done('people', 'where it came from it goes on, too');
is(run(rebuild_status('people')), '3|storage|done', 'by storage');
ok_view($node, 'people');
verified($node, 'per_day');
is(run("SELECT version || ' ' || state FROM kappa.versions WHERE view = 'per_day'::regclass AND version = 4"), '4 dropped', 'one that was cancelled was dropped');

# ---- A subscriber sees what differs, and no more. ----

my $subscriber = new_node(name => 'subscriber', bare => 1);
my $connection = $node->connstr('postgres') =~ s/'/''/gr;

$subscriber->safe_psql('postgres', qq(
CREATE TABLE shops (shop text PRIMARY KEY, n bigint, total numeric, top bigint, mean numeric);
CREATE TABLE seen (op text, shop text);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
	\$\$ BEGIN INSERT INTO public.seen VALUES (TG_OP, coalesce(NEW.shop, OLD.shop)); RETURN NULL; END \$\$;));
run('CREATE PUBLICATION shops FOR TABLE shops');
$subscriber->safe_psql('postgres', "CREATE SUBSCRIPTION shops CONNECTION '$connection' PUBLICATION shops");
my $copied = 'SELECT count(*) = 10 FROM shops';
ok(wait_for($subscriber, $copied), 'a subscriber has the rows');
$subscriber->safe_psql('postgres', 'CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON shops FOR EACH ROW EXECUTE FUNCTION note();
	ALTER TABLE shops ENABLE ALWAYS TRIGGER note');
my $rows = 'SELECT string_agg(s::text, chr(10) ORDER BY shop) FROM (SELECT %s FROM shops) s';
foreach my $step (
	[ 'shop, n, total, top', "SELECT shop, count(*) AS n, sum(amount) AS total, max(id + CASE shop WHEN 'shop 3' THEN 100000 ELSE 0 END) AS top FROM orders WHERE shop <> 'shop 5' GROUP BY shop",
		"DELETE|shop 5\nUPDATE|shop 3", 'another expression' ],
	[ 'shop, n, total, top, mean', 'SELECT shop, count(*) AS n, sum(amount) AS total, max(id) AS top, avg(amount) AS mean FROM orders GROUP BY shop',
		join("\n", 'INSERT|shop 5', map { "UPDATE|shop $_" } grep { $_ != 5 } 0 .. 9), 'a new column' ],
	[ 'shop, n, top, mean', "SELECT shop, count(*) + CASE shop WHEN 'shop 7' THEN 1 ELSE 0 END AS n, max(id) AS top, avg(amount) AS mean FROM orders GROUP BY shop",
		'UPDATE|shop 7', 'a column less' ])
{
	my ($columns, $query, $changes, $name) = @$step;

	$subscriber->safe_psql('postgres', 'TRUNCATE seen');
	run('SET client_min_messages = warning;' . alter('shops', $query));
	done('shops', "published: $name");
	ok_view($node, 'shops');
	my $now = run(sprintf($rows, $columns));
	ok(wait_for($subscriber, sprintf($rows, $columns), $now), 'the subscriber has the new rows');
	is($subscriber->safe_psql('postgres', 'SELECT op, shop FROM seen ORDER BY 1, 2'), $changes, 'by just these changes');
}
$subscriber->safe_psql('postgres', 'DROP SUBSCRIPTION shops');
is(leftovers($node), '', 'nothing is left in the end');

done_testing();
