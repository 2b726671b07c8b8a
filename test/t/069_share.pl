
# Versions that begin together read the log together: once for all of them.  One
# that fails, is paused, cancelled or dropped leaves the others.

use strict;
use warnings;

use KappaFault;
use KappaTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = start_kafka();
my $node = new_node(
	conf => "restart_after_crash = on\nkappa.retry_max_delay = 100ms\nkappa.keep_previous = 0\nkappa.replay_min_messages = 100\nmaintenance_work_mem = 1MB");

sub sql { return $node->safe_psql('postgres', "SET client_min_messages = error; $_[0]") }

sub sale
{
	my ($i) = @_;

	return { key => $i % 50, value => { id => $i, shop => ($i % 7 ? 'shop ' . $i % 7 : undef), amount => $i % 11 . '.25', at => sprintf('2026-11-01T%02d:00:00Z', $i % 24) } };
}

# Slowly: so many messages in a second.
sub slowly { sql("ALTER SYSTEM SET kappa.replay_rate = $_[0]"); sql('SELECT pg_reload_conf()'); return }

# Create views, of a hash of queries, in one transaction, or rebuild them.
sub create_all
{
	my (%queries) = @_;

	return sql('BEGIN;' . join(';', map { "SELECT kappa.create_view('$_', \$\$$queries{$_}\$\$)" } sort keys %queries) . '; COMMIT');
}

sub rebuild_all { return sql('BEGIN;' . join(';', map { "SELECT kappa.rebuild('$_')" } @_) . '; COMMIT') }

sub under_way
{
	my ($n) = @_;

	return ok(wait_for($node, "SELECT count(DISTINCT view) FROM kappa.replays WHERE next_offset > start_offset AND percent < 100", $n), "$n are under way");
}

# The messages that replays since an event have read for themselves, and for others.
sub last_event { return sql('SELECT coalesce(max(id), 0) FROM kappa.event') }

sub messages_read
{
	my ($since) = @_;

	return sql("SELECT count(*), sum(substring(detail FROM '^\\d+')::int - coalesce(substring(detail FROM '(\\d+) of them')::int, 0)) FROM kappa.event WHERE event = 'replayed' AND id > $since");
}

# A test: all is as it should be.
sub all_right
{
	my ($name, @views) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	ok(wait_for($node, 'SELECT count(*) FROM kappa.rebuilds WHERE finished_at IS NULL', '0'), "$name: all has ended");
	ok_view($node, $_, name => "$name: $_") foreach @views;
	return is(leftovers($node), '', "$name: nothing is left");
}

# ---- All kinds. ----

my $n = 12_000;
create_topic('sales', partitions => 4);
produce('sales', [ map { sale($_) } 1 .. $n ]);
sql(q(CREATE FOREIGN TABLE sales (id int, shop text, amount numeric, at timestamptz) SERVER events OPTIONS (topic 'sales');
CREATE FOREIGN TABLE buyers (k int OPTIONS (key 'true', metadata 'key'), shop text, amount numeric) SERVER events OPTIONS (topic 'sales');
CREATE TABLE regions (shop text PRIMARY KEY, name text);
INSERT INTO regions VALUES ('shop 1', 'north'), ('shop 2', 'south')));
my %queries = (
	per_shop => 'SELECT shop, count(*) AS n, sum(amount) AS s, min(at) AS first FROM sales GROUP BY shop',
	frequent => 'SELECT shop, avg(amount) AS a, stddev(id) AS d FROM sales GROUP BY shop HAVING count(*) > 400',
	totals => 'SELECT count(*) AS n, sum(amount) AS s FROM sales',
	last_sale => 'SELECT DISTINCT ON (shop) shop, id, at FROM sales ORDER BY shop, at DESC NULLS LAST, id',
	sale_log => 'SELECT id, shop, amount FROM sales WHERE id % 3 = 0',
	regional => 'SELECT s.id, r.name FROM sales s LEFT JOIN regions r ON r.shop = s.shop');
my @views = sort keys %queries;
my $since = last_event();
create_all(%queries);
all_right('created together', @views);
is(messages_read($since), @views . "|$n", 'each message was read once for all of them');
my $bytes = sql(q(CREATE FOREIGN TABLE lines (key bytea OPTIONS (metadata 'key'), line bytea) SERVER events OPTIONS (topic 'sales', format 'raw');
SELECT sum(length(key) + length(line)) FROM lines));
is(sql('SELECT DISTINCT messages, bytes FROM kappa.stat_views'), "$n|$bytes", 'and counts for each');

$since = last_event();
rebuild_all(@views);
all_right('rebuilt together', @views);
is(messages_read($since), @views . "|$n", 'each message was read once for all of them');

# The log grows between them.
create_topic('ticks', partitions => 1);
produce('ticks', [ map { { value => { n => $_ % 100 } } } 1 .. $n ]);
sql(q(CREATE FOREIGN TABLE ticks (n int) SERVER events OPTIONS (topic 'ticks')));
create_all(ticks_1 => 'SELECT n, count(*) AS c FROM ticks GROUP BY n', ticks_2 => 'SELECT n % 10 AS d, count(*) AS c FROM ticks GROUP BY 1');
all_right('on one partition', qw(ticks_1 ticks_2));
$since = last_event();
my $both = $node->background_psql('postgres');
$both->query_safe(q(SET client_min_messages = error; BEGIN; SELECT kappa.rebuild('ticks_1')));
produce('ticks', [ map { { value => { n => $_ } } } 1 .. 50 ]);
$both->query_safe(q(SELECT kappa.rebuild('ticks_2'); COMMIT));
$both->quit;
all_right('rebuilt together', qw(ticks_1 ticks_2));
is(messages_read($since), '2|' . ($n + 50), 'what both had seen was read for both of them');
sql('DROP TABLE ticks_1, ticks_2');

$since = last_event();
create_all(buyers_all => 'SELECT k, shop, amount FROM buyers', buyers_some => q(SELECT k, upper(shop) AS shop FROM buyers WHERE shop = 'shop 1'));
all_right('changelogs', 'buyers_all', 'buyers_some');
is(messages_read($since), "2|$n", 'each message was read once for both of them');

# Another owner has his own credentials, and another foreign table its own rows.
sql(q(CREATE ROLE seller; GRANT USAGE ON FOREIGN SERVER events TO seller; GRANT SELECT ON sales TO seller; GRANT CREATE ON SCHEMA public TO seller));
$since = last_event();
sql(q(BEGIN; SELECT kappa.create_view('mine', 'SELECT shop, count(*) AS n FROM sales GROUP BY shop');
SELECT kappa.create_view('mine_too', 'SELECT k FROM buyers');
SET ROLE seller; SELECT kappa.create_view('theirs', 'SELECT shop, count(*) AS n FROM sales GROUP BY shop'); COMMIT));
all_right('others', qw(mine mine_too theirs));
is(messages_read($since), '3|' . 3 * $n, 'they are read for alone');
sql('DROP TABLE mine, mine_too, theirs, buyers_all, buyers_some');

# The same query under different settings.
sql(q(BEGIN; SET LOCAL TimeZone = 'Asia/Tokyo'; SELECT kappa.create_view('tokyo', $$ SELECT date_trunc('day', at)::text AS day, count(*) AS n FROM sales GROUP BY 1 $$);
SET LOCAL TimeZone = 'America/New_York'; SELECT kappa.create_view('york', $$ SELECT date_trunc('day', at)::text AS day, count(*) AS n FROM sales GROUP BY 1 $$); COMMIT));
is(sql("SELECT kappa.wait_for('$_')"), 't', "days in $_") foreach qw(tokyo york);
verified($node, $_) foreach qw(tokyo york);
is(sql('SELECT count(*) FROM tokyo NATURAL JOIN york'), 0, 'each has its days');
sql('DROP TABLE tokyo, york');

# ---- One fails. ----

produce('sales', [ { value => { id => 'no number', shop => 'x' } } ]);
$since = last_event();
create_all(a_shops => 'SELECT shop, count(*) AS n FROM sales GROUP BY shop', b_ids => 'SELECT shop, max(id) AS m FROM sales GROUP BY shop', c_amounts => 'SELECT amount, count(*) AS n FROM sales GROUP BY amount');
all_right('a bad message', qw(a_shops c_amounts));
ok(wait_for($node, "SELECT count(*) FROM kappa.dead_letters WHERE view = 'b_ids'::regclass AND error LIKE '%no number%'", 1), 'is left to a worker, for the view that reads it');
verified($node, 'b_ids');
is(sql("SELECT string_agg(view::text, ' ' ORDER BY id) FROM kappa.event WHERE event = 'replayed' AND id > $since"), 'a_shops c_amounts', 'the replay of the others goes on');
like(messages_read($since), qr/^2\|/, 'of both');
sql('DROP TABLE b_ids');

# While it is given up, another process is in the middle of a stretch for it.
create_topic('gates', partitions => 2);
produce('gates', [ map { { partition => $_ % 2, value => { n => $_ } } } 1 .. 1000 ]);
produce('gates', [ { partition => 0, value => { n => -1 } }, { partition => 1, value => { n => -2 } } ]);
sql(q(CREATE FOREIGN TABLE gates (n int) SERVER events OPTIONS (topic 'gates');
CREATE FUNCTION pass(n int) RETURNS int LANGUAGE plpgsql IMMUTABLE SET lock_timeout = 0 AS $$
BEGIN
	IF n = -1 THEN PERFORM pg_advisory_xact_lock_shared(1); END IF;
	IF n = -2 THEN RAISE 'no way'; END IF;
	RETURN n;
END $$));
my $gate = $node->background_psql('postgres');
my $given_up = -s $node->logfile;
$gate->query_safe('SELECT pg_advisory_lock(1)');
create_all(d_all => 'SELECT n, count(*) AS c FROM gates GROUP BY n', e_passed => 'SELECT n, count(pass(n)) AS c FROM gates GROUP BY n');
ok(wait_for($node, q(SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE backend_type = 'kappa replay' AND locktype <> 'advisory' AND NOT granted AND clock_timestamp() - waitstart > '1 s'), 1), 'who gives a version up waits for the others');
$gate->query_safe('SELECT pg_advisory_unlock(1)');
$gate->quit;
all_right('given up', 'd_all');
ok(wait_for($node, q(SELECT count(*) FROM kappa.dead_letters WHERE view = 'e_passed'::regclass AND error = 'no way'), 1), 'and it is up to a worker');
verified($node, 'e_passed');
unlike(slurp_file($node->logfile, $given_up), qr/lock timeout/, 'nobody has lost patience');
sql('DROP TABLE d_all, e_passed');

my %shops = map { ("new_$_" => "SELECT shop, $_(amount) AS n FROM sales WHERE amount > 0 GROUP BY shop") } qw(count min max);
foreach my $action (qw(error disk-full))
{
	my $planned = arm($node, 'replay-planned', $action, nth => 2);
	create_all(%shops);
	all_right("$action while they are handed over", sort keys %shops);
	ok(was_hit($planned, 0), 'at one of them');
	sql('DROP TABLE ' . join(', ', sort keys %shops));

	foreach my $point (grep { /^replay-/ && !/planned/ } fault_points())
	{
		my $path = arm($node, $point, $action, view => 'c_amounts');

		$since = last_event();
		rebuild_all(qw(a_shops c_amounts per_shop));
		all_right("$action at $point", qw(a_shops c_amounts per_shop));
		ok(was_hit($path, 0), 'one of them meets it');
		is(sql("SELECT string_agg(event, ' ' ORDER BY event) FROM kappa.event WHERE event IN ('failed', 'recovered') AND id > $since AND view = 'c_amounts'::regclass"), 'failed recovered', 'and heals')
		  if $action eq 'disk-full';
		is(sql("SELECT count(DISTINCT view) FROM kappa.event WHERE event IN ('failed', 'recovered') AND id > $since AND view <> 'c_amounts'::regclass"), 0, 'and no other');
	}
}

# ---- They are finished side by side. ----

my @merging = map { arm($node, 'replay-merging', 'hang', view => $_) } qw(a_shops c_amounts);

rebuild_all(qw(a_shops c_amounts));
ok(was_hit($_), 'one is merged, while the other is') foreach @merging;
release($merging[0]);
is(sql(q(SELECT kappa.wait_for_rebuild('a_shops', '30 s'))), 't', 'it does not wait for the other to the end');
release($merging[1]);
all_right('side by side', qw(a_shops c_amounts));

# ---- One is paused, cancelled, dropped; the server crashes. ----

slowly(1000);
rebuild_all(qw(a_shops c_amounts per_shop totals));
under_way(4);
sql("SELECT kappa.pause_rebuild('c_amounts'); SELECT kappa.cancel_rebuild('totals')");
my $done = sql("SELECT sum(next_offset) FROM kappa.replays WHERE view = 'per_shop'::regclass");
ok(wait_for($node, "SELECT sum(next_offset) > $done FROM kappa.replays WHERE view = 'per_shop'::regclass"), 'the others go on');
$node->stop('immediate');
$node->start;
slowly(0);
is(sql("SELECT kappa.wait_for_rebuild('$_', '1 min')"), 't', "to their end: $_") foreach qw(a_shops per_shop);
is(sql("SELECT percent < 100 FROM kappa.rebuilds WHERE view = 'c_amounts'::regclass"), 't', 'the paused one waits');
sql("SELECT kappa.resume_rebuild('c_amounts')");
all_right('paused, cancelled, crashed', qw(a_shops c_amounts per_shop totals));

slowly(1000);
rebuild_all(qw(a_shops c_amounts per_shop));
under_way(3);
sql('DROP TABLE a_shops');
under_way(2);
slowly(0);
all_right('dropped', qw(c_amounts per_shop));

# One that begins later goes its own way.
slowly(1000);
$since = last_event();
rebuild_all(qw(c_amounts per_shop));
ok(wait_for($node, 'SELECT count(*) FROM kappa.replays WHERE next_offset > start_offset', 8), 'two have begun everywhere');
rebuild_all('totals');
ok(wait_for($node, "SELECT count(*) FROM kappa.replays WHERE view = 'totals'::regclass", 4), 'another rebuild');
slowly(0);
all_right('one after the other', qw(c_amounts per_shop totals));
is(messages_read($since), '3|' . 2 * ($n + 1), 'it is read for alone');

done_testing();
