
# The log is replayed by several processes: into views of all kinds, from one
# partition and from many, beside crashes, errors, and people who change their
# mind.

use strict;
use warnings;

use KappaTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = start_kafka();
my $node = new_node(conf => "restart_after_crash = on\nkappa.retry_max_delay = 1s\nkappa.replay_min_messages = 100");

sub sql { return $node->safe_psql('postgres', $_[0]) }

sub sale
{
	my ($i) = @_;

	return {
		key => $i % 50,
		value => {
			id => $i,
			shop => ($i % 7 ? 'shop ' . $i % 7 : undef),
			amount => $i % 11 . '.25',
			at => sprintf('2026-11-01T%02d:00:00Z', $i % 24),
			tags => [ 'a', 'b' . $i % 3 ]
		}
	};
}

# How versions were filled: by processes that replay, or not.
sub replays { return sql("SELECT count(*) FROM kappa.event WHERE event = 'replayed'") }

sub state_objects
{
	return sql("SELECT count(*) FROM pg_class WHERE relnamespace = 'kappa_state'::regnamespace AND relname LIKE '%staging%'") . ' '
	  . sql('SELECT count(*) FROM kappa.fill') . ' ' . sql('SELECT count(*) FROM kappa.fill_range');
}

# Slowly: so many messages in a second.
sub slowly { sql("ALTER SYSTEM SET kappa.replay_rate = $_[0]"); sql('SELECT pg_reload_conf()'); return }

# ---- All kinds, from one partition and from many. ----

my %queries = (
	log => 'SELECT id, shop, amount FROM %s WHERE id % 3 = 0',
	tags => 'SELECT id, tag FROM %s, LATERAL unnest(tags) AS tag',
	per_shop => 'SELECT shop, count(*) AS n, sum(amount) AS s, min(at) AS first, bool_or(id > 10) AS some FROM %s GROUP BY shop',
	averages => q(SELECT 'x' AS c, shop, date_trunc('day', at, 'UTC') AS day, avg(amount) AS a, stddev(id) AS d, count(*) + 1 AS n FROM %s GROUP BY 2, 3),
	having => 'SELECT shop, avg(amount) AS a FROM %s GROUP BY shop HAVING count(*) > 400',
	totals => 'SELECT count(*) AS n, sum(amount) AS s FROM %s',
	means => 'SELECT avg(amount) AS a, max(shop) AS m FROM %s',
	nothing => 'SELECT count(*) AS n, avg(amount) AS a FROM %s WHERE id < 0',
	last_sale => 'SELECT DISTINCT ON (shop) shop, id, at FROM %s ORDER BY shop, at DESC NULLS LAST, id',
	any_sale => 'SELECT DISTINCT ON (shop) shop, id FROM %s ORDER BY shop, amount',
	first_sale => 'SELECT DISTINCT ON (shop) shop, id, part, pos FROM %s ORDER BY shop, part, pos',
	looked_up => 'SELECT s.id, r.name FROM %s s LEFT JOIN regions r ON r.shop = s.shop',
	constant => q(SELECT shop, ARRAY[1, 2] AS a, '{"x": 1}'::jsonb AS j, count(*) AS n FROM %s GROUP BY shop));

sql(q(CREATE TABLE regions (shop text PRIMARY KEY, name text);
INSERT INTO regions VALUES ('shop 1', 'north'), ('shop 2', 'south')));
foreach my $partitions (1, 3, 12)
{
	my $topic = "sales$partitions";

	create_topic($topic, partitions => $partitions);
	produce($topic, [ map { sale($_) } 1 .. 3000 ]);
	sql("CREATE FOREIGN TABLE $topic (id int, shop text, amount numeric, at timestamptz, tags text[], part int OPTIONS (metadata 'partition'), pos bigint OPTIONS (metadata 'offset')) SERVER events OPTIONS (topic '$topic', format 'json')");
	foreach my $name (sort keys %queries)
	{
		sql("SET client_min_messages = error; SELECT kappa.create_view('${name}_$partitions', \$\$" . sprintf($queries{$name} =~ s/% (\d)/%% $1/r, $topic) . '$$)');
	}
	is(sql("SELECT kappa.wait_for('${_}_$partitions')"), 't', "$_ over $partitions partitions") foreach sort keys %queries;
	produce($topic, [ map { sale($_) } 3001 .. 3100 ]);
	foreach my $name (sort keys %queries)
	{
		$name eq 'any_sale' ? verified($node, "${name}_$partitions", name => 'ties go to the first in the log') : ok_view($node, "${name}_$partitions");
	}
}
is(replays(), 3 * keys %queries, 'all of them were replayed');
is(state_objects(), '0 0 0', 'nothing is left behind');

# ---- A table that wants to hear of each row. ----

sql(q(CREATE TABLE seen (shop text, n bigint);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO public.seen VALUES (NEW.shop, NEW.n); RETURN NEW; END$$;
BEGIN;
SELECT kappa.create_view('noted', 'SELECT shop, count(*) AS n FROM sales3 GROUP BY shop');
CREATE TRIGGER note AFTER INSERT ON noted FOR EACH ROW EXECUTE FUNCTION note();
COMMIT));
is(sql("SELECT kappa.wait_for('noted')"), 't', 'a view with a trigger');
is(sql('SELECT count(*), sum(n) FROM seen'), '7|3100', 'its trigger has seen all rows');
ok_view($node, 'noted');

# ---- What a replay leaves: tables as a worker would have them. ----

sql(q(SELECT kappa.create_view('frequent', 'SELECT shop, part, avg(amount) AS a FROM sales3 GROUP BY 1, 2 HAVING count(*) > 140')));
is(sql("SELECT kappa.wait_for('frequent')"), 't', 'a view that does not show all of its groups');
is(sql("SELECT count(*) FROM pg_class WHERE oid IN ('per_shop_3'::regclass, 'frequent'::regclass) AND reltuples >= 0"), 2, 'with statistics');
is(sql(q(SELECT count(*) FILTER (WHERE s."kappa shown" <> t.ctid OR t.ctid IS NULL AND s."kappa shown" <> '(0,0)'), count(*) - count(t.ctid) > 0, count(t.ctid) > 0, count(*) FILTER (WHERE t.shop IS NULL AND t.ctid IS NOT NULL) > 0
FROM kappa_state.frequent_v1_state s LEFT JOIN frequent t ON (t.shop, t.part) IS NOT DISTINCT FROM (s.shop, s.part))), '0|t|t|t', 'with places');
ok_view($node, 'frequent');

# ---- Changelogs: rows that change, go, come back, and move out of the view. ----

sub user
{
	my ($i) = @_;

	return { key => $i % 400, value => undef } if $i % 7 == 0 || ($i % 400 < 20 && $i > 2500);
	return { key => $i % 400, value => { name => "user $i", shop => 'shop ' . $i % 3, age => $i % 90 } };
}
my %changelog_queries = (
	users => 'SELECT user_id, name, shop FROM %s',
	one_shop => q(SELECT user_id, upper(name) AS name, 100 / age AS x FROM %s WHERE age > 0 AND shop = 'shop 1'),
	regional => 'SELECT u.user_id, r.name FROM %s u JOIN regions r USING (shop)',
	placed => 'SELECT user_id, part, pos FROM %s',
	ids => 'SELECT user_id FROM %s');

foreach my $partitions (1, 5)
{
	my $topic = "users$partitions";

	create_topic($topic, partitions => $partitions);
	produce($topic, [ map { user($_) } 1 .. 3000 ]);
	sql("CREATE FOREIGN TABLE $topic (user_id int OPTIONS (key 'true', metadata 'key'), name text, shop text, age int, part int OPTIONS (metadata 'partition'), pos bigint OPTIONS (metadata 'offset')) SERVER events OPTIONS (topic '$topic', format 'json')");
	my $before = replays();
	sql("SELECT kappa.create_view('${_}_$partitions', \$\$" . sprintf($changelog_queries{$_}, $topic) . '$$)') foreach sort keys %changelog_queries;
	is(sql("SELECT kappa.wait_for('${_}_$partitions')"), 't', "$_ over $partitions partitions") foreach sort keys %changelog_queries;
	is(replays() - $before, keys %changelog_queries, 'all of them were replayed');
	cmp_ok(sql("SELECT count(*) FROM users_$partitions"), '<', 400, 'keys without a value are left out');
	produce($topic, [ map { user($_) } 3001 .. 3100 ]);
	ok_view($node, "${_}_$partitions") foreach sort keys %changelog_queries;
}
is(state_objects(), '0 0 0', 'nothing is left behind');

# ---- Rebuilds. ----

foreach my $name (qw(log per_shop having last_sale users one_shop))
{
	my $view = $name . ($changelog_queries{$name} ? '_5' : '_3');

	sql("SET client_min_messages = error; SELECT kappa.rebuild('$view')");
	is(sql("SELECT kappa.wait_for_rebuild('$view', '1 min')"), 't', "rebuild of $name");
	ok_view($node, $view);
	is(sql("SELECT messages = messages_total AND messages > 3000 FROM kappa.rebuilds WHERE view = '$view'::regclass"), 't', 'all messages are counted');
}
is(state_objects(), '0 0 0', 'nothing is left behind');

# Of rows that nobody reads yet, one partition is read in several places at once.
slowly(300);
sql("SELECT kappa.rebuild('log_1')");
ok(wait_for($node, 'SELECT count(*) > 1 FROM kappa.fill_range WHERE next_offset > start_offset'), 'one partition is read in several places');
verified($node, 'log_1', name => 'the view is as it was');
slowly(0);
is(sql("SELECT kappa.wait_for_rebuild('log_1', '1 min')"), 't', 'rebuild of log over one partition');
ok_view($node, 'log_1');

# So is a partition that has most of the messages, though there are others.
create_topic('lopsided', partitions => 3);
produce('lopsided', [ map { { partition => $_ % 10 ? 0 : $_ / 10 % 3, value => { shop => 'shop ' . $_ % 7 } } } 1 .. 2000 ]);
sql("CREATE FOREIGN TABLE lopsided (shop text) SERVER events OPTIONS (topic 'lopsided', format 'json')");
sql("SELECT kappa.create_view('most', 'SELECT shop, count(*) AS n FROM lopsided GROUP BY shop')");
is(sql("SELECT kappa.wait_for('most')"), 't', 'a view of uneven partitions');
is(sql(q(SET client_min_messages = error; BEGIN; SELECT kappa.rebuild('most');
SELECT string_agg(n::text, ' ' ORDER BY part) FROM (SELECT part, count(*) AS n FROM kappa.fill_range GROUP BY part) r; COMMIT)), "2\n4 1 1", 'the large one is cut');
is(sql("SELECT kappa.wait_for_rebuild('most', '1 min')"), 't', 'rebuild of uneven partitions');
ok_view($node, 'most');

# All of a view is in its tablespace, whatever the tablespace of who has it rebuilt.
sql(q(SET allow_in_place_tablespaces = on;
CREATE TABLESPACE fast LOCATION '';
CREATE TABLESPACE other LOCATION '';
CREATE ROLE keeper;
GRANT CREATE ON TABLESPACE fast TO keeper;
GRANT CREATE ON SCHEMA public TO keeper;
GRANT USAGE ON FOREIGN SERVER events TO keeper;
GRANT SELECT ON sales3 TO keeper;
SET ROLE keeper;
SET default_tablespace = fast;
SELECT kappa.create_view('kept', 'SELECT shop, avg(amount) AS a FROM sales3 GROUP BY shop')));
ok_view($node, 'kept');

sub tablespaces { return sql("SELECT count(*), string_agg(DISTINCT spcname, ' ') FROM pg_class c LEFT JOIN pg_tablespace t ON t.oid = reltablespace WHERE relname LIKE 'kept%' AND relkind = 'r'") }
is(tablespaces(), '2|fast', 'a view and its state are in a tablespace');
slowly(300);
sql(q(SET default_tablespace = other; SET kappa.keep_previous = 0; SET client_min_messages = error; SELECT kappa.rebuild('kept')));
ok(wait_for($node, 'SELECT count(*) > 0 FROM kappa.fill_range WHERE next_offset > start_offset'), 'a rebuild is under way');
is(tablespaces(), '5|fast', 'and so are its tables');
slowly(0);
is(sql("SELECT kappa.wait_for_rebuild('kept', '1 min')"), 't', 'rebuild in a tablespace');
ok_view($node, 'kept');
is(tablespaces(), '2|fast', 'where the view still is');
sql("SELECT kappa.drop_view('kept')");

# When it is given up, what was written goes: a worker writes it again.
sql(q(CREATE TABLE weights (id int PRIMARY KEY, w int); INSERT INTO weights VALUES (3000, 4);
SELECT kappa.create_view('shares', 'SELECT s.id, 100 / w.w AS x FROM sales1 s LEFT JOIN weights w USING (id)')));
is(sql("SELECT kappa.wait_for('shares')"), 't', 'a view with a lookup');
sql('UPDATE weights SET w = 0');
sql("SELECT kappa.rebuild('shares')");
ok(wait_for($node, "SELECT count(*) = 1 FROM kappa.fill WHERE NOT active"), 'a replay that fails is given up');
is(sql("SELECT kappa.wait_for_rebuild('shares', '1 min')"), 't', 'a worker goes on');
verified($node, 'shares', name => 'nothing is there twice');
sql("SELECT kappa.drop_view('shares')");
is(state_objects(), '0 0 0', 'nothing is left behind');

# ---- A long one: killed, paused, sought, dropped, cancelled. ----

create_topic('long', partitions => 4);
produce('long', [ map { sale($_) } 1 .. 20_000 ]);
sql(q(CREATE FOREIGN TABLE long (id int, shop text, amount numeric, at timestamptz, tags text[]) SERVER events OPTIONS (topic 'long', format 'json')));

sub make_long
{
	my ($name, $query) = @_;

	sql("SELECT kappa.create_view('$name', '$query')");
	ok(wait_for($node, "SELECT count(*) > 0 FROM kappa.fill_range WHERE view = '$name'::regclass AND next_offset > start_offset"), "$name is under way");
	return;
}
my $aggregate = 'SELECT shop, count(*) AS n, avg(amount) AS a FROM long GROUP BY shop';
my $append = 'SELECT id, shop FROM long';

slowly(500);
make_long('long_sums', $aggregate);
is(sql("SELECT state, reason FROM kappa.views WHERE view = 'long_sums'::regclass"), 'catching up|replaying the log', 'kappa.views tells');
is(sql("SET ROLE pg_monitor; SELECT count(DISTINCT part), min(start_offset), bool_or(percent > 0 AND percent < 100), min(staging_bytes) > 0 FROM kappa.replays WHERE view = 'long_sums'::regclass"), '4|0|t|t', 'kappa.replays, too');
fails_like($node, "SELECT kappa.seek_view('long_sums', 'long', 0, 4000)", qr/the log is being replayed into view "long_sums"/, 'seek_view');
sql("SELECT kappa.pause_view('long_sums')");
ok(wait_for($node, "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'kappa replay'"), 'a paused view is not replayed');
my $done = sql('SELECT sum(next_offset) FROM kappa.fill_range');
sql("SELECT kappa.resume_view('long_sums')");
ok(wait_for($node, "SELECT sum(next_offset) > $done FROM kappa.fill_range"), 'a resumed one goes on from there');
foreach my $signal (qw(KILL TERM))
{
	my $pid = sql("SELECT min(pid) FROM pg_stat_activity WHERE backend_type = 'kappa replay'");
	kill($signal, $pid) if $pid;
	ok(wait_for($node, 'SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = ' . ($pid || 0)), "SIG$signal ends it");
	$done = sql('SELECT sum(next_offset) FROM kappa.fill_range');
	ok(wait_for($node, "SELECT sum(next_offset) > $done FROM kappa.fill_range"), "goes on after SIG$signal");
}
$node->stop('immediate');
$node->start;
ok(wait_for($node, "SELECT sum(next_offset) > $done FROM kappa.fill_range"), 'goes on after a crash');
slowly(0);
is(sql("SELECT kappa.wait_for('long_sums', '1 min')"), 't', 'is done');
ok_view($node, 'long_sums');
is(state_objects(), '0 0 0', 'nothing is left behind');

slowly(2000);
make_long('long_log', $append);
verified($node, 'long_log', name => 'what has been replayed is what the position says');
my $victim = sql("SELECT min(pid) FROM pg_stat_activity WHERE backend_type = 'kappa replay'");
kill('KILL', $victim) if $victim;
ok(wait_for($node, "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = " . ($victim || 0)), 'a crash');
ok(wait_for($node, "SELECT count(*) > 0 FROM kappa.fill"), 'it is there after a crash');
slowly(0);
is(sql("SELECT kappa.wait_for('long_log', '1 min')"), 't', 'and ends');
ok_view($node, 'long_log');

slowly(2000);
make_long('long_gone', $aggregate);
sql('DROP TABLE long_gone');
is(state_objects(), '0 0 0', 'dropped with its replay');
sql("SELECT kappa.rebuild('long_sums')");
ok(wait_for($node, "SELECT count(*) > 0 FROM kappa.fill_range WHERE next_offset > start_offset"), 'a rebuild is under way');
sql("SELECT kappa.cancel_rebuild('long_sums')");
is(state_objects(), '0 0 0', 'cancelled with its replay');
ok_view($node, 'long_sums');

# ---- Others decide: owner, a bad message, a lock, a table that is more than that. ----

sql('CREATE ROLE seller');
make_long('long_owned', $aggregate);
sql('ALTER FOREIGN TABLE long OWNER TO seller; GRANT USAGE ON FOREIGN SERVER events TO seller; ALTER TABLE long_owned OWNER TO seller');
slowly(0);
is(sql("SELECT kappa.wait_for('long_owned', '1 min')"), 't', 'a replay goes to a new owner');
ok_view($node, 'long_owned');

create_topic('bad', partitions => 2);
produce('bad', [ map { sale($_) } 1 .. 500 ]);
produce('bad', [ { value => { id => 'no number', shop => 'x' } } ]);
produce('bad', [ map { sale($_) } 1 .. 500 ]);
sql(q(CREATE FOREIGN TABLE bad (id int, shop text) SERVER events OPTIONS (topic 'bad', format 'json')));
sql("SELECT kappa.create_view('of_bad', 'SELECT shop, count(*) AS n, max(id) AS m FROM bad GROUP BY shop')");
ok(wait_for($node, "SELECT count(*) FROM kappa.dead_letters WHERE view = 'of_bad'::regclass AND error LIKE '%no number%'", 1), 'a message that cannot be read is left to a worker');
is(sql("SELECT active FROM kappa.fill WHERE view = 'of_bad'::regclass"), 'f', 'the replay is given up');
is(sql("SELECT count(*) FROM pg_class WHERE relname LIKE 'of_bad%staging'"), 0, 'and its table is gone');
sql("SELECT kappa.drop_view('of_bad')");
is(state_objects(), '0 0 0', 'nothing is left behind');

sql("ALTER SYSTEM SET kappa.replay_min_messages = -1");
sql('SELECT pg_reload_conf()');
my $before = replays();
sql("SELECT kappa.create_view('by_worker', '$aggregate')");
is(sql("SELECT kappa.wait_for('by_worker', '1 min')"), 't', 'without a replay');
ok_view($node, 'by_worker');
is(replays(), $before, 'a worker did it');

done_testing();
