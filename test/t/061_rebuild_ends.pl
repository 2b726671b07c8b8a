
# Rebuilds that end otherwise: cancelled, impossible, of a stopped view, by
# rows; and what rebuild() refuses.

use strict;
use warnings;

use KappaTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = start_kafka();
my $node = new_node(conf => "wal_level = logical\nkappa.retry_max_delay = 200ms\nkappa.keep_previous = 0");

sub run
{
	return $node->safe_psql('postgres', $_[0]);
}

# The columns of kappa.rebuilds that tell how a rebuild stands.
sub status
{
	my ($view) = @_;

	return
	  "SELECT version, switch, phase FROM kappa.rebuilds WHERE view = '$view'::regclass";
}

sub done
{
	my ($view, $name) = @_;

	return is(run("SELECT kappa.wait_for_rebuild('$view', '1 min')"), 't',
		$name);
}

# What belongs to versions of a view.
sub state_objects
{
	return run("SELECT relname FROM pg_class WHERE relnamespace = 'kappa_state'::regnamespace AND relkind IN ('r', 'v') ORDER BY 1");
}

create_topic('orders', partitions => 2);
produce(
	'orders',
	[
		map {
			{
				value => {
					id => $_,
					shop => 'shop ' . $_ % 10,
					amount => $_ % 7,
					net => $_ % 5,
					note => ($_ % 3 ? undef : "n$_")
				}
			}
		} 1 .. 3000
	]);
run(q(
CREATE ROLE app;
CREATE ROLE other;
GRANT USAGE ON FOREIGN SERVER events TO app;
GRANT CREATE ON SCHEMA public TO app;
CREATE TABLE shops (shop text, city text);
INSERT INTO shops SELECT 'shop ' || i, 'city ' || i FROM generate_series(0, 9) i;
GRANT SELECT ON shops TO app;
SET ROLE app;
CREATE FOREIGN TABLE orders (id bigint, shop text, amount numeric(10,2), note json)
	SERVER events OPTIONS (topic 'orders');
SELECT kappa.create_view('per_shop', 'SELECT shop, count(*) AS n, sum(amount) AS amount FROM orders GROUP BY shop');
SELECT kappa.create_view('order_log', 'SELECT id, shop, amount, note FROM orders');
SELECT kappa.create_view('cities', 'SELECT o.id, s.city FROM orders o JOIN shops s USING (shop) WHERE o.id <= 10');
));
ok_view($node, 'per_shop');
ok_view($node, 'cities');
ok_view($node, 'order_log', as_text => 1);
my $objects = state_objects();

# ---- What is refused. ----

fails_like($node, "SELECT kappa.wait_for_rebuild('per_shop')",
	qr/has not been rebuilt/, 'there is nothing to wait for');
fails_like($node, "SELECT kappa.cancel_rebuild('per_shop')",
	qr/is not being rebuilt/, 'nor to cancel');
fails_like($node, "SELECT kappa.rebuild('shops')",
	qr/is not a view of kappa/, 'an ordinary table is not rebuilt');
fails_like($node, "SELECT kappa.rebuild('per_shop', switch => 'now')",
	qr/unrecognized way to switch: "now"/, 'a wrong way to switch');
fails_like($node, "SET ROLE other; SELECT kappa.rebuild('per_shop')",
	qr/must be owner/, 'only the owner rebuilds');
fails_like($node,
	"BEGIN; SELECT kappa.rebuild('per_shop'); SELECT kappa.wait_for_rebuild('per_shop')",
	qr/in the transaction that began it/, 'a rebuild begins at commit');
fails_like($node,
	"BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT kappa.wait_for_rebuild('per_shop')",
	qr/keeps its snapshot/, 'a snapshot that is kept is not waited with');
run("SELECT kappa.pause_view('per_shop')");
fails_like($node, "SELECT kappa.rebuild('per_shop')",
	qr/is paused/, 'a paused view is not rebuilt');
run("SELECT kappa.resume_view('per_shop')");

# ---- Messages that were passed over.  What fails here is waited for, not set aside. ----

create_topic('flawed', partitions => 2);
produce('flawed', [ map { { key => $_, partition => 0, value => { n => $_ } } } 1 .. 10 ]);
run(q(
CREATE FUNCTION sound(bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS
	$$ BEGIN IF $1 IN (3, 8) THEN RAISE 'unsound %', $1 USING ERRCODE = 'object_not_in_prerequisite_state'; END IF; RETURN $1; END $$;
CREATE FOREIGN TABLE flawed (n bigint) SERVER events OPTIONS (topic 'flawed');
CREATE FOREIGN TABLE flawed_state (k int OPTIONS (key 'true', metadata 'key'), n bigint)
	SERVER events OPTIONS (topic 'flawed');
SELECT kappa.create_view('flawed_log', 'SELECT sound(n) AS n FROM flawed');
SELECT kappa.create_view('flawed_rows', 'SELECT k, sound(n) AS n FROM flawed_state')));
foreach my $view (qw(flawed_log flawed_rows))
{
	my $reason = "SELECT reason ~ '%s' FROM kappa.views WHERE view = '$view'::regclass";

	ok(wait_for($node, sprintf($reason, 'unsound 3')), "$view is held up before it has read anything");
	fails_like($node, "SELECT kappa.seek_view('$view', 'flawed', 2, 1)",
		qr/does not read partition 2.*partitions 0 to 1/s, 'a partition that is not there is not sought');
	run("SELECT kappa.seek_view('$view', 'flawed', 0, 3)");
	ok(wait_for($node, sprintf($reason, 'unsound 8')), 'and once more');
	run("SELECT kappa.seek_view('$view', 'flawed', 0, 8)");
	is(run("SELECT kappa.wait_for('$view', '30 s')"), 't', 'seek_view passes over it');
	is(run("SELECT array_agg(n ORDER BY n) FROM $view"), '{9,10}', 'without what lies before');
	is(run("SELECT string_agg(coalesce(start_offset::text, '-') || ' ' || next_offset, ', ' ORDER BY part) FROM kappa.offsets WHERE view = '$view'::regclass"),
		'0 10, 0 0', 'the view begins where the log does');
}
run(q(CREATE OR REPLACE FUNCTION sound(bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT $1'));
foreach my $view (qw(flawed_log flawed_rows))
{
	run("SELECT kappa.rebuild('$view')");
	done($view, "a rebuild of $view");
	is(run("SELECT count(*) FROM $view"), 10, 'brings what was passed over');
	is(run("SELECT string_agg(event || ' ' || version || ': ' || detail, ', ' ORDER BY id) FROM kappa.events WHERE view = '$view'::regclass AND event IN ('sought', 'healed')"),
		'sought 1: partition 0: offset 0 to 3, sought 1: partition 0: offset 3 to 8, healed 2: partition 0: offset 0 to 3, healed 2: partition 0: offset 3 to 8',
		'and says so');
	run("SELECT kappa.drop_view('$view')");
}
is(run('SELECT count(*) FROM kappa.gap'), 0, 'no gap is left');

# ---- Cancelled. ----

is(run("SET ROLE app; SELECT kappa.rebuild('per_shop', switch => 'manual')"),
	'2', 'a rebuild is version 2');
fails_like($node, "SELECT kappa.rebuild('per_shop')",
	qr/is being rebuilt already/, 'one rebuild at a time');
ok(wait_for($node, status('per_shop'), '2|storage|waiting for switch_rebuild'),
	'it waits to be switched');
run("SET ROLE app; SELECT kappa.cancel_rebuild('per_shop')");
is(run(status('per_shop')), '2|storage|cancelled', 'it is cancelled');
is(state_objects(), $objects, 'and leaves nothing');
fails_like($node, "SELECT kappa.wait_for_rebuild('per_shop')",
	qr/was cancelled/, 'who waits for it learns of that');
is(run("SELECT version FROM kappa.views WHERE view = 'per_shop'::regclass"),
	1, 'the view is what it was');
produce('orders', [ { value => { id => 3001, shop => 'shop 1', amount => 5 } } ]);
ok_view($node, 'per_shop');

# ---- Impossible: the new rows do not fit the view's own index. ----

run(q(
CREATE UNIQUE INDEX cities_city_id ON cities (city, (id % 2));
UPDATE shops SET city = 'metropolis';
SET ROLE app;
SELECT kappa.rebuild('cities');
));
ok(wait_for($node, status('cities'), '2|storage|failed'),
	'a rebuild that cannot succeed fails');
like(
	run("SELECT error FROM kappa.rebuilds WHERE view = 'cities'::regclass"),
	qr/could not create unique index/,
	'and says why');
fails_like($node, "SELECT kappa.wait_for_rebuild('cities')",
	qr/could not create unique index/, 'also to those who wait');
is(run('SELECT count(DISTINCT city) FROM cities'), 10, 'the rows are the old ones');
is(run("SELECT state FROM kappa.views WHERE view = 'cities'::regclass"),
	'running', 'the view goes on');
run('DROP INDEX cities_city_id');
run("SET ROLE app; SELECT kappa.rebuild('cities')");
done('cities', 'with the reason gone it succeeds');
is(run('SELECT DISTINCT city FROM cities'), 'metropolis',
	'a rebuild meets the lookup as it is now');
is(run("SELECT version FROM kappa.views WHERE view = 'cities'::regclass"),
	3, 'numbers of versions are not used again');

# ---- A stopped view: the foreign table means something else now. ----

run("SET ROLE app; ALTER FOREIGN TABLE orders ALTER amount OPTIONS (ADD path 'net')");
ok( wait_for(
		$node,
		"SELECT state FROM kappa.views WHERE view = 'per_shop'::regclass",
		'stopped'),
	'a view stops when its foreign table changes');
run("SET ROLE app; SELECT kappa.rebuild('per_shop')");
done('per_shop', 'a stopped view is rebuilt');
ok_view($node, 'per_shop');
is( run("SELECT version, state, reason FROM kappa.views WHERE view = 'per_shop'::regclass"),
	'3|running|',
	'and runs again');
run("SET ROLE app; SELECT kappa.rebuild('order_log')");
done('order_log', 'its neighbour, too');

# ---- By rows: for those who watch them. ----

run(q(
CREATE TABLE seen (op text, shop text, n bigint);
GRANT INSERT ON seen TO app;
SET ROLE app;
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN INSERT INTO public.seen SELECT TG_OP, coalesce(NEW.shop, OLD.shop), NEW.n; RETURN NULL; END $$;
CREATE TRIGGER watch AFTER INSERT OR UPDATE OR DELETE ON per_shop FOR EACH ROW EXECUTE FUNCTION note();
ALTER TABLE per_shop DISABLE TRIGGER kappa_guard;
DELETE FROM per_shop WHERE shop = 'shop 3';
UPDATE per_shop SET n = 0 WHERE shop = 'shop 4';
INSERT INTO per_shop VALUES ('nobody', 1), (NULL, 2);
ALTER TABLE per_shop ENABLE TRIGGER kappa_guard;
RESET ROLE;
DELETE FROM seen;
));
my ($out, $err);
$node->psql(
	'postgres', "SELECT kappa.rebuild('per_shop')",
	stdout => \$out,
	stderr => \$err);
like($err, qr/will be switched by rows.*it has triggers/s,
	'where somebody watches, rows are changed');
done('per_shop', 'a rebuild by rows');
ok_view($node, 'per_shop');
is(run(status('per_shop')), '4|rows|done', 'the way is shown');
is( run("SELECT op, shop FROM seen ORDER BY 1, 2"),
	"DELETE|nobody\nDELETE|\nINSERT|shop 3\nUPDATE|shop 4",
	'only what differs was changed');
is( run("SELECT count(*) FROM pg_stat_user_tables WHERE schemaname = 'kappa_state'"),
	0, 'the shadow is gone');

# A view without a key, a column without equality, and a subscriber.
run(q(
CREATE PUBLICATION logs FOR TABLE order_log;
ALTER TABLE order_log DISABLE TRIGGER kappa_guard;
DELETE FROM order_log WHERE id = 3;
UPDATE order_log SET note = '"x"' WHERE id = 6;
INSERT INTO order_log SELECT * FROM order_log WHERE id IN (9, 10);
ALTER TABLE order_log ENABLE TRIGGER kappa_guard;
SELECT pg_create_logical_replication_slot('slot', 'test_decoding');
));
run("SET client_min_messages = error; SELECT kappa.rebuild('order_log')");
done('order_log', 'a published view without a key');
is(run(status('order_log')), '3|rows|done', 'by rows');
ok_view($node, 'order_log', as_text => 1);
is( run(q(SELECT substring(data FROM 'order_log: (\w+)') AS op, count(*)
		FROM pg_logical_slot_get_changes('slot', NULL, NULL)
		WHERE data LIKE 'table public.order_log:%' GROUP BY 1 ORDER BY 1)),
	"DELETE|3\nINSERT|2",
	'the subscriber is told what changes');
run("SELECT pg_drop_replication_slot('slot')");

# What comes to be published while a rebuild waits is switched by rows, too.
run("SELECT kappa.rebuild('cities', switch => 'manual')");
ok(wait_for($node, status('cities'), '4|storage|waiting for switch_rebuild'),
	'a rebuild waits');
run("ALTER PUBLICATION logs ADD TABLE cities; SELECT kappa.switch_rebuild('cities')");
done('cities', 'a view that was published meanwhile');
is(run(status('cities')), '4|rows|done', 'is switched by rows');
ok_view($node, 'cities');

# ---- While nothing comes. ----

# Views of another topic come to the worker and leave it.  All that time there
# is no message that would remind it of the rebuilds.
create_topic('returns', partitions => 1);
run(q(CREATE FOREIGN TABLE returns (id int) SERVER events OPTIONS (topic 'returns', format 'json')));
run(q(ALTER SYSTEM SET kappa.max_workers = 2));
run(q(SELECT pg_reload_conf()));
run("SELECT kappa.create_view('returned', 'SELECT id FROM returns')");
foreach my $round (1 .. 3)
{
	run("SET client_min_messages = error; SELECT kappa.rebuild('$_')") foreach qw(cities order_log per_shop);
	foreach my $i (1 .. 25)
	{
		run("SELECT kappa.create_view('r$i', 'SELECT id FROM returns')");
		run('DROP TABLE r' . ($i - 3)) if $i > 3;
	}
	run("DROP TABLE r$_") foreach 23 .. 25;
	done($_, "rebuild of $_ ends on a topic that stands still") foreach qw(cities order_log per_shop);
}
run(q(ALTER SYSTEM RESET kappa.max_workers));
run(q(SELECT pg_reload_conf()));

# ---- Fewer workers. ----

sub workers { return "SELECT count(*) $_[0] FROM pg_stat_activity WHERE backend_type = 'kappa worker'" }

foreach my $topic (qw(first second third))
{
	create_topic($topic);
	produce($topic, [ map { { value => { id => $_ } } } 1 .. 100 ]);
	run("CREATE FOREIGN TABLE $topic (id int) SERVER events OPTIONS (topic '$topic', format 'json')");
	run("SELECT kappa.create_view('of_$topic', 'SELECT id FROM $topic')");
	ok(wait_for($node, "SELECT state = 'running' FROM kappa.views WHERE view = 'of_$topic'::regclass"), "$topic is served");
}
ok(wait_for($node, workers('= 3')), 'one worker is left for views that are behind');
foreach my $max (2, 1, 4)
{
	run("ALTER SYSTEM SET kappa.max_workers = $max");
	run('SELECT pg_reload_conf()');
	ok(wait_for($node, workers("<= $max")), "there are no more than $max workers");
	run("SELECT kappa.rebuild('of_$_')") foreach qw(first second third);
	done("of_$_", "a view that is behind has one of $max workers") foreach qw(first second third);
	ok_view($node, "of_$_") foreach qw(first second third);
}
run('ALTER SYSTEM RESET kappa.max_workers');
run('SELECT pg_reload_conf()');

# ---- A log that does not reach back. ----

$kafka->tool('delete-records', 'orders', 0, 100);
$node->psql('postgres', "SELECT kappa.rebuild('per_shop')", stderr => \$err);
like(
	$err,
	qr/does not reach back.*Partition 0 begins at offset 100, the view at offset 0: 100 offsets are missing/s,
	'a log that was cut is noticed, with numbers');
$node->psql('postgres', "SELECT kappa.rebuild('per_shop', incomplete => true)",
	stderr => \$err);
like($err, qr/WARNING:.*100 offsets are missing/s, 'with incomplete it is a warning');
done('per_shop', 'what is left makes a view');
ok_view($node, 'per_shop');
is( run("SELECT part, start_offset FROM kappa.offsets WHERE view = 'per_shop'::regclass ORDER BY 1"),
	"0|100\n1|0",
	'which starts where the log does');
run("SELECT kappa.rebuild('per_shop')");
done('per_shop', 'rebuilt from there');
is(run("SELECT count(*), count(DISTINCT missing), bool_and(missing LIKE 'Partition 0 begins at offset 100, the view at offset 0: 100 offsets are missing, up to %') FROM kappa.versions WHERE view = 'per_shop'::regclass AND version IN (8, 9)"),
	'2|1|t', 'it is known for good that something is missing');

# ---- Gone in the middle. ----

run("SELECT kappa.rebuild('per_shop', switch => 'manual')");
ok(wait_for($node, status('per_shop'), '10|rows|waiting for switch_rebuild'),
	'a rebuild waits again');
run('DROP TABLE per_shop');
is(run("SELECT count(*) FROM kappa.rebuilds WHERE view::text LIKE '%per_shop%'"),
	0, 'a dropped view takes its rebuild along');
is(run("SELECT relname FROM pg_class WHERE relname LIKE 'per_shop%'"),
	'', 'and all that belongs to it');
is(run("SELECT state FROM kappa.views WHERE view = 'cities'::regclass"),
	'running', 'its neighbour goes on');

done_testing();
