
# Changelogs whose latest message of a key is the one of the latest timestamp,
# wherever it lies: keys that change their partition, messages and tombstones
# that come late, and partitions that are added while views run.

use strict;
use warnings;

use KappaTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = start_kafka();
my $node = new_node(conf => "kappa.metadata_interval = 300\nkappa.replay_min_messages = 1\nmaintenance_work_mem = 1MB");
my %keep = (config => { 'retention.ms' => -1 });
my $base = 1_700_000_000_000;

sub sql { return $node->safe_psql('postgres', @_); }

# A message: key, seconds, partition, and name and country if it is no tombstone.
sub person
{
	my ($key, $second, $partition, $name, $country) = @_;

	return {
		key => $key,
		timestamp => $base + 1000 * $second,
		partition => $partition,
		value => defined $name ? { name => $name, country => $country // 'DE' } : undef
	};
}

create_topic('people', partitions => 2, %keep);
sql(q(
CREATE FOREIGN TABLE people (id int OPTIONS (key 'true', metadata 'key'), name text, country text,
	part int OPTIONS (metadata 'partition'), pos bigint OPTIONS (metadata 'offset'),
	at timestamptz OPTIONS (metadata 'timestamp'))
	SERVER events OPTIONS (topic 'people', key_order 'timestamp');
SELECT kappa.create_view('everybody', 'SELECT id, name, country, part, pos FROM people');
SELECT kappa.create_view('germans', $$ SELECT id, name FROM people WHERE country = 'DE' $$);
SELECT kappa.create_view('ids', 'SELECT id FROM people');
));
my @views = qw(everybody germans ids);

# What PostgreSQL makes of the messages, read without kappa.
my $latest = q(
	SELECT k AS id, value::jsonb ->> 'name' AS name, value::jsonb ->> 'country' AS country, part, pos
	FROM (SELECT DISTINCT ON (key) key::int AS k, * FROM sent ORDER BY key, ms DESC, part DESC, pos DESC) AS s
	WHERE value IS NOT NULL);

# The views, and a scan, against that.
sub ok_people
{
	my ($name) = @_;

	load_messages($node, 'people', 'sent');
	same_rows($node, '(SELECT id, name, country, part, pos FROM people)', $latest, name => "$name: a scan");
	ok_view($node, $_, name => "$name: view $_") foreach @views;
	same_rows($node, 'everybody', $latest, name => "$name: nothing but the latest");
	return;
}

# ---- One after the other, each in a batch of its own. ----

sub comes
{
	my ($message, $id, $expected, $name) = @_;

	produce('people', [$message]);
	is(sql(q(SELECT kappa.wait_for('everybody', '30 s'))), 't', "$name: applied");
	return is(sql("SELECT name FROM everybody WHERE id = $id"), $expected, $name);
}

comes(person(1, 10, 1, 'first'), 1, 'first', 'a first message');
comes(person(1, 20, 0, 'moved'), 1, 'moved', 'a later one in a partition before');
comes(person(1, 15, 1, 'late'), 1, 'moved', 'one that comes late in its own partition');
comes(person(1, 15, 0), 1, 'moved', 'a tombstone that comes late');
comes(person(1, 5, 0, 'oldest'), 1, 'moved', 'the oldest, at the largest offset');
comes(person(1, 20, 0, 'tie'), 1, 'tie', 'of equal timestamps the larger offset');
comes(person(1, 20, 1, 'higher'), 1, 'higher', 'or the larger partition');
comes(person(1, 20, 0, 'lower'), 1, 'higher', 'which a larger offset does not outdo');
comes(person(1, 30, 0), 1, '', 'a tombstone');
comes(person(1, 25, 1, 'ghost'), 1, '', 'is remembered');
comes(person(1, 40, 1, 'back'), 1, 'back', 'until something later comes');
comes(person(2, 10, 0), 2, '', 'a tombstone of a key that was never there');
comes(person(2, 9, 1, 'before'), 2, '', 'is remembered, too');
comes(person(3, 10, 0, 'three', 'FR'), 3, 'three', 'a row that a view leaves out');
comes(person(3, 8, 1, 'three', 'DE'), 3, 'three', 'and an older one that it would not');
is(sql('SELECT count(*) FROM germans WHERE id = 3'), '0', 'stays out of the view');
comes(person(4, 10, 0, 'four', 'DE'), 4, 'four', 'a row of a view');
comes(person(4, 20, 1, 'four', 'FR'), 4, 'four', 'leaves it');
comes(person(4, 15, 0, 'four', 'DE'), 4, 'four', 'for good');
is(sql('SELECT count(*) FROM germans WHERE id = 4'), '0', 'it does not come back');
ok_people('messages one by one');

# ---- Many at once: which of a batch counts. ----

# Timestamps are few, so that some are equal; a third are tombstones.
my $seed = $ENV{KAPPA_TEST_SEED} // time;
srand($seed);
note "KAPPA_TEST_SEED=$seed";

sub some
{
	my ($n, $partitions) = @_;

	return [
		map {
			person(int rand 40, 100 + int rand 60, int rand $partitions,
				rand() < 0.33 ? undef : ("n$_", (qw(DE FR NL))[ rand 3 ]))
		} 1 .. $n
	];
}

foreach my $round (1 .. 4)
{
	produce('people', some(200, 2));
	ok_people("batch $round");
}

# ---- Partitions are added. ----

my $producer = start_producer('people', some(2000, 2), rate => 1000);
add_partitions('people', 4);
produce('people', some(500, 4));
produce('people', [ person(1, 1000, 3, 'new') ]);
$producer->finish;
ok_people('with new partitions');
is( sql(q(SELECT string_agg(DISTINCT state, ',') FROM kappa.views)), 'running', 'no view stops');
is(sql(q(SELECT count(*) FROM kappa.offsets WHERE view = 'germans'::regclass)), '4', 'they are read');
$node->stop('fast');
add_partitions('people', 5);
produce('people', some(100, 5));
$node->start;
ok_people('with one that came while the server was down');

# ---- Replays: by several processes, each with a part of every key. ----

# How versions of a view were filled.
sub replays { return sql("SELECT count(*) FROM kappa.event WHERE event = 'replayed'") }

# Keys whose order the companion knows, against all that ever were.
sub ok_companion
{
	my ($view, $name) = @_;
	my $version = sql("SELECT version FROM kappa.views WHERE view = '$view'::regclass");

	load_messages($node, 'people', 'sent');
	return is(sql(qq(SELECT count(*) FROM (
	SELECT DISTINCT ON (key) key::int, ms, part, pos FROM sent ORDER BY key, ms DESC, part DESC, pos DESC) AS l
	FULL JOIN kappa_state.${view}_v${version}_state s ON (s.id, s."kappa timestamp", s."kappa partition", s."kappa offset") = (l.key, l.ms, l.part, l.pos)
	WHERE s.id IS NULL OR l.key IS NULL)), 0, $name);
}

produce('people', some(12_000, 5));
my $before = replays();
sql(q(CREATE TABLE heard (id int);
CREATE FUNCTION hear() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.heard VALUES (NEW.id); RETURN NEW; END';
BEGIN;
SELECT kappa.create_view('replayed', 'SELECT id, name, part, pos FROM people');
SELECT kappa.create_view('french', $$ SELECT id, upper(name) AS name FROM people WHERE country = 'FR' $$);
SELECT kappa.create_view('noted', 'SELECT id, name FROM people');
CREATE TRIGGER hear AFTER INSERT ON noted FOR EACH ROW EXECUTE FUNCTION hear();
COMMIT));
push @views, qw(replayed french noted);
ok_people('replayed from the start');
is(replays() - $before, 3, 'by processes that replay');
is(sql('SELECT count(*) = (SELECT count(*) FROM noted) FROM heard'), 't', 'a trigger has heard of each row once');
ok_companion($_, "the order of all keys is known: $_") foreach qw(replayed french noted);

# Key 60 lies in several partitions; what is latest of it is not what came last.
produce('people', [ person(60, 500, 4, 'fifty', 'FR'), person(60, 600, 1, 'sixty', 'FR'), person(60, 550, 2, 'between'),
	person(61, 700, 0, 'gone', 'FR'), person(61, 800, 3), person(61, 750, 4, 'ghost', 'FR') ]);
$before = replays();
sql("SET client_min_messages = error; SELECT kappa.rebuild('$_')") foreach @views;
is(sql("SELECT kappa.wait_for_rebuild('$_', '1 min')"), 't', "rebuild of $_") foreach @views;
is(replays() - $before, scalar(@views), 'by processes that replay');
ok_people('rebuilt');
is(sql("SELECT string_agg(id || ' ' || name, ', ') FROM french WHERE id >= 60"), '60 SIXTY', 'the latest of each key');
ok_companion($_, "the order of all keys is known: $_") foreach @views;
produce('people', [ person(60, 599, 1, 'late', 'FR'), person(61, 799, 3, 'late', 'FR') ]);
ok_people('older messages after the replay');
is(sql("SELECT string_agg(id || ' ' || name, ', ') FROM french WHERE id >= 60"), '60 SIXTY', 'change nothing');
produce('people', [ person(60, 601, 0), person(61, 801, 2, 'back', 'FR') ]);
ok_people('newer messages after the replay');
is(sql("SELECT string_agg(id || ' ' || name, ', ') FROM french WHERE id >= 60"), '61 BACK', 'count');
sql(q(DROP TABLE replayed, french, noted));
@views = grep { !/replayed|french|noted/ } @views;
is(sql('SELECT count(*) FROM kappa.fill') . sql('SELECT count(*) FROM kappa.fill_range'), '00', 'nothing is left of replays');

# ---- What a scan may leave out. ----

my $plan = sql(q(EXPLAIN (COSTS OFF) SELECT * FROM people WHERE pos >= 100 AND part = 1 AND id = 7 AND at >= '2023-11-14 22:15:00+00'));
unlike($plan, qr/Offsets|Partitions/, 'neither offsets nor partitions: what they leave out may be later');
like($plan, qr/Timestamps: /, 'but timestamps');
load_messages($node, 'people', 'sent');
foreach my $where ('pos >= 300', 'pos >= 300 AND part > 0', 'part = 1', 'pos < 200', 'id < 10 AND pos > 50',
	"at >= '2023-11-14 22:15:40+00'", "at < '2023-11-14 22:15:40+00'", 'id = 7')
{
	same_rows($node,
		"(SELECT id, name, country, part, pos FROM people WHERE $where)",
		"SELECT id, name, country, part, pos FROM ($latest) AS l JOIN (SELECT part, pos, at FROM sent) AS s USING (part, pos) WHERE $where",
		name => "restriction: $where");
}

# ---- Checks and rebuilds. ----

like(sql(q(SELECT string_agg(e, E'\n') FROM kappa.explain('germans') AS e)),
	qr/"kappa timestamp", "kappa partition", "kappa offset": what came last.*been looked up in the companion/s,
	'kappa.explain shows how');
is( sql(q(BEGIN; ALTER TABLE everybody DISABLE TRIGGER kappa_guard; DELETE FROM everybody WHERE id = 1;
		UPDATE everybody SET name = 'x' WHERE id = (SELECT max(id) FROM everybody); SELECT kappa.verify('everybody'); ROLLBACK)),
	'2', 'verify finds what differs');
like(sql(q(SELECT message ->> 'name' FROM kappa.messages_of('everybody', '{"id": 1}'))), qr/^new$/, 'and messages_of what is behind a row');

comes(person(50, 500, 0, 'five'), 50, 'five', 'a row');
comes(person(50, 600, 1), 50, '', 'that is deleted before the rebuild');
foreach my $view (@views)
{
	sql("SELECT kappa.rebuild('$view')");
	is(sql("SELECT kappa.wait_for_rebuild('$view', '1 min')"), 't', "rebuild of $view");
}
ok_people('rebuilt');
comes(person(50, 550, 2, 'ghost'), 50, '', 'a rebuild remembers tombstones');
comes(person(50, 700, 2, 'again'), 50, 'again', 'and what comes after them');
sql(q(SELECT kappa.rollback_view('germans')));
is(sql(q(SELECT kappa.wait_for_rebuild('germans', '1 min'))), 't', 'the way back');
produce('people', some(300, 5));
ok_people('after it');

# ---- From one order to the other. ----

create_topic('orders', partitions => 2, %keep);
sql(q(
CREATE FOREIGN TABLE orders (id int OPTIONS (key 'true', metadata 'key'), name text) SERVER events OPTIONS (topic 'orders');
SELECT kappa.create_view('order_names', 'SELECT id, name FROM orders')));
produce('orders', [ person(1, 20, 0, 'later'), person(1, 10, 0, 'behind'), person(2, 10, 1, 'two') ]);
ok_view($node, 'order_names');
is(sql('SELECT name FROM order_names WHERE id = 1'), 'behind', 'by offset');
add_partitions('orders', 3);
ok(wait_for($node, q(SELECT state FROM kappa.views WHERE view = 'order_names'::regclass), 'stopped'),
	'a view by offset stops at a new partition');
sql(q(ALTER FOREIGN TABLE orders OPTIONS (ADD key_order 'timestamp')));
fails_like($node, q(SELECT kappa.resume_view('order_names')), qr/has changed since view/, 'another order is another meaning');
sql(q(SELECT kappa.rebuild('order_names')));
is(sql(q(SELECT kappa.wait_for_rebuild('order_names', '1 min'))), 't', 'rebuilt by timestamp');
is(sql('SELECT name FROM order_names WHERE id = 1'), 'later', 'the latest is another');
produce('orders', [ person(2, 30, 2, 'moved'), person(2, 5, 1) ]);
ok_view($node, 'order_names');
is(sql('SELECT name FROM order_names WHERE id = 2'), 'moved', 'from the new partition');
sql(q(ALTER FOREIGN TABLE orders OPTIONS (SET key_order 'offset')));
ok(wait_for($node, q(SELECT state FROM kappa.views WHERE view = 'order_names'::regclass), 'stopped'),
	'back to offsets: it stops');
sql(q(SELECT kappa.rebuild('order_names')));
is(sql(q(SELECT kappa.wait_for_rebuild('order_names', '1 min'))), 't', 'rebuilt by offset');
is(sql('SELECT name FROM order_names WHERE id = 1'), 'behind', 'the last one again');

sql(q(DROP TABLE everybody, germans, ids, order_names));
is(sql(q(SELECT count(*) FROM pg_class WHERE relnamespace = 'kappa_state'::regnamespace)), 0, 'nothing is left');

$node->stop('fast');
done_testing();
