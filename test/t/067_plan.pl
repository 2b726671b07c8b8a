
# What a rebuild is going to read, said beforehand; another start; a log that
# has been cut; and a rebuild that is held, let go, slowed down and given up.

use strict;
use warnings;

use KappaTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = start_kafka();
my $node = new_node(conf => "kappa.keep_previous = 0\nkappa.replay_min_messages = 100");

sub run { return $node->safe_psql('postgres', $_[0]) }

# What a statement says besides its result.
sub messages
{
	my ($out, $err);

	$node->psql('postgres', $_[0], stdout => \$out, stderr => \$err);
	return $err;
}

sub done
{
	my ($view, $name) = @_;

	return is(run("SELECT kappa.wait_for_rebuild('$view', '1 min')"), 't', $name);
}

# Messages of 2026-11-01, one a minute: number i in partition i % 2.
my $midnight = 1793491200000;
sub minutes
{
	my ($from, $to) = @_;

	return [ map { { partition => $_ % 2, key => $_ % 10, timestamp => $midnight + $_ * 60_000, value => { id => $_, shop => 's' . $_ % 5 } } } $from .. $to ];
}

create_topic('sales', partitions => 2, config => { 'retention.ms' => -1 });
produce('sales', minutes(0, 999));
run(q(
CREATE ROLE app;
CREATE ROLE other;
GRANT USAGE ON FOREIGN SERVER events TO app;
GRANT CREATE ON SCHEMA public TO app;
SET ROLE app;
CREATE FOREIGN TABLE sales (id bigint, shop text) SERVER events OPTIONS (topic 'sales', format 'json');
SELECT kappa.create_view('per_shop', 'SELECT shop, count(*) AS n, avg(id) AS mean FROM sales GROUP BY shop');
SELECT kappa.create_view('sale_log', 'SELECT id, shop FROM sales', start => '2026-11-01 00:10:00+00');
));
ok_view($node, 'per_shop');
run("SELECT kappa.wait_for('sale_log')");
verified($node, 'sale_log');

# ---- Said beforehand. ----

my $estimate = "SELECT part, log_start, log_end, start_offset, messages, missing, missing_time, bytes BETWEEN 15000 AND 35000, rate > 0, duration > '0', basis FROM kappa.rebuild_estimate(%s)";
is(run('SET ROLE app;' . sprintf($estimate, "'per_shop'")),
	"0|0|500|0|500|0|||||\n1|0|500|0|500|0|||||\n||||1000|0||t|t|t|the live view", 'what a rebuild would read');
is(run(sprintf($estimate, "'sale_log'") . ' WHERE part = 1'), '1|0|500|5|495|0|||||', 'of a view that starts at a time');
is(run(sprintf($estimate, "'per_shop', start => '2026-11-01 16:00+00'") . ' WHERE part IS NULL'), '||||40|0||f|t|t|the live view', 'and from another time');
is(run(sprintf($estimate, "'per_shop', 'latest'") . ' WHERE part IS NULL'), '||||0|0||f|t|f|the live view', 'or from the end');
is(run(sprintf($estimate, 'NULL')), '', 'of nothing');
fails_like($node, "SET ROLE other; SELECT * FROM kappa.rebuild_estimate('per_shop')", qr/must be owner/, 'only to the owner');
fails_like($node, "SELECT * FROM kappa.rebuild_estimate('per_shop', 'soon')", qr/invalid input syntax for type timestamp/, 'from no such time');
fails_like($node, "SELECT * FROM kappa.rebuild_estimate('per_shop', 'infinity')", qr/cannot start at "infinity".*HINT:.*latest/s, 'nor from never on');
is(run('SELECT count(*) FROM kappa.rebuilds'), 0, 'and nothing has begun');

like(messages("SELECT kappa.rebuild('per_shop')"),
	qr/NOTICE:  view "per_shop" is going to be rebuilt from 1000 messages\nDETAIL:  They are about \d+ kB, judged by a sample.  At the rate of the live view, \d+ in a second, that takes about \d\d:\d\d:\d\d/,
	'a rebuild says it, too');
done('per_shop', 'and does it');
ok_view($node, 'per_shop');
is(run(sprintf($estimate, "'per_shop'") . ' WHERE part IS NULL'), '||||1000|0||t|t|t|the last rebuild', 'a rebuild is a better measure');

# ---- Another start. ----

is(run("SELECT kappa.rebuild(NULL), kappa.rebuild('per_shop', NULL), kappa.alter_view('per_shop', NULL)"), '||', 'nulls are no rebuild');
run("SELECT kappa.rebuild('per_shop', start => '2026-11-01 08:20:00+00')");
done('per_shop', 'from a time on');
is(run("SELECT array_agg(start_offset ORDER BY part) FROM kappa.offsets WHERE view = 'per_shop'::regclass"), '{250,250}', 'the view begins there');
is(run('SELECT sum(n) FROM per_shop'), 500, 'with what there is since');
verified($node, 'per_shop');
is(run("SELECT version, start_offset, start_at AT TIME ZONE 'UTC' FROM kappa.versions WHERE view = 'per_shop'::regclass ORDER BY 1"),
	"1|{0,0}|\n2|{0,0}|\n3|{250,250}|2026-11-01 08:20:00", 'and its versions say so');
run("SELECT kappa.rebuild('per_shop')");
done('per_shop', 'the next one');
is(run('SELECT sum(n) FROM per_shop'), 500, 'starts where the view does');
run("SELECT kappa.alter_view('per_shop', 'SELECT shop, count(*) AS n, avg(id) AS mean, max(id) AS top FROM sales GROUP BY shop', start => 'earliest', switch => 'manual')");
ok(wait_for($node, rebuild_status('per_shop'), '5|storage|waiting for switch_rebuild'), 'another query, from the beginning');
like(messages("SELECT * FROM kappa.diff_rebuild_summary('per_shop')"), qr/do not start at the same offsets/, 'the comparison says that the starts differ');
run("SELECT kappa.switch_rebuild('per_shop')");
done('per_shop', 'all is there again');
ok_view($node, 'per_shop');
run("SELECT kappa.rebuild('sale_log', start => 'latest')");
done('sale_log', 'from the end on');
is(run('SELECT count(*) FROM sale_log'), 0, 'nothing is left');
produce('sales', minutes(1000, 1009));
is(run("SELECT kappa.wait_for('sale_log'); SELECT count(*) FROM sale_log"), "t\n10", 'but what comes');
verified($node, 'sale_log');
run("SELECT kappa.rebuild('sale_log', start => '2026-11-01 00:10:00+00')");
done('sale_log', 'and back');

# ---- The log does not reach back. ----

$kafka->tool('delete-records', 'sales', 0, 100);
$kafka->tool('delete-records', 'sales', 1, 40);
my $missing = "Partition 0 begins at offset 100, the view at offset 0: 100 offsets are missing, up to 2026-11-01 03:20:00+00 (about 03:20:00, at the rate of those left).\n"
  . "Partition 1 begins at offset 40, the view at offset 0: 40 offsets are missing, up to 2026-11-01 01:21:00+00 (about 01:20:00, at the rate of those left).\n"
  . 'In all 140 offsets of 2 partitions are missing.';
run("ALTER DATABASE postgres SET timezone = 'UTC'");
like(messages("SELECT kappa.rebuild('per_shop')"), qr/ERROR:.*does not reach back to the beginning of view "per_shop"\nDETAIL:  \Q$missing\E\nHINT:.*incomplete => true/s,
	'a log that was cut, with numbers for each partition');
like(messages("SELECT kappa.rebuild('sale_log')"),
	qr/offset 100, the view at offset 5: 95 offsets are missing, up to 2026-11-01 03:20:00\+00 \(03:10:00\)/, 'exact where the view knows when it starts');
is(run("SELECT part, log_start, start_offset, messages, missing, missing_time FROM kappa.rebuild_estimate('per_shop')"),
	"0|100|100|405|100|03:20:00\n1|40|40|465|40|01:20:00\n|||870|140|03:20:00", 'asked for beforehand');
is(run("SELECT count(*) FROM kappa.rebuilds WHERE finished_at IS NULL"), 0, 'and nothing has begun');
like(messages("SELECT kappa.rebuild('per_shop', incomplete => true)"), qr/WARNING:.*\Q$missing\E/s, 'with incomplete it is a warning');
done('per_shop', 'what is left makes a view');
verified($node, 'per_shop');
is(run('SELECT sum(n) FROM per_shop'), 870, 'of just that');
run("SELECT kappa.rebuild('per_shop')");
done('per_shop', 'the next one has nothing to refuse');
is(run("SELECT count(*), min(missing) FROM kappa.versions WHERE view = 'per_shop'::regclass AND missing IS NOT NULL"), "2|$missing", 'it is known for good what is missing');
run("SELECT kappa.rebuild('sale_log', start => '2026-11-01 12:00:00+00')");
done('sale_log', 'a later start needs no older messages');
is(run('SELECT count(*) FROM sale_log'), 290, 'and has all since');
verified($node, 'sale_log');
is(run("SELECT missing FROM kappa.versions WHERE view = 'sale_log'::regclass AND state = 'live'"), '', 'nothing is missing from it');
run('ALTER DATABASE postgres RESET timezone');

# ---- Held, slowed down, and given up. ----

sub rate { run("ALTER SYSTEM SET kappa.replay_rate = $_[0]"); run('SELECT pg_reload_conf()'); return }

sub column
{
	my ($column, $view) = @_;

	return "SELECT $column FROM kappa.rebuilds WHERE view = '" . ($view // 'long_sums') . "'::regclass";
}

create_topic('long', partitions => 4);
produce('long', [ map { { partition => $_ % 4, value => { id => $_, shop => "s$_" } } } 1 .. 20_000 ]);
run(q(SET ROLE app;
CREATE FOREIGN TABLE long (id bigint, shop text) SERVER events OPTIONS (topic 'long', format 'json');
SELECT kappa.create_view('long_sums', 'SELECT shop, avg(id) AS mean FROM long GROUP BY shop');
SELECT kappa.create_view('long_log', 'SELECT id, shop FROM long')));
ok_view($node, $_) foreach qw(long_sums long_log);
rate(2000);
run("SELECT kappa.rebuild('long_sums', switch => 'manual')");
ok(wait_for($node, column("phase = 'replaying' AND messages > 0 AND messages_per_second > 0 AND eta > clock_timestamp() AND percent BETWEEN 1 AND 99")), 'a rebuild under way tells');
ok(wait_for($node, column('processes = 2 AND rows > 0 AND staging_bytes > 0 AND table_bytes > 0 AND NOT paused')), 'who is at work, and how much there is');
is(run(column('version = 2 AND waiting_for IS NULL AND finished_at IS NULL')), 't', 'on what');
is(run("SELECT count(DISTINCT part), min(end_offset), max(end_offset) FROM (SELECT part, max(end_offset) AS end_offset FROM kappa.replays WHERE view = 'long_sums'::regclass GROUP BY part) x"), '4|5000|5000', 'by partition');
fails_like($node, "SET ROLE other; SELECT kappa.pause_rebuild('long_sums')", qr/must be owner/, 'only the owner holds it');
fails_like($node, "SELECT kappa.pause_rebuild('long_log')", qr/is not being rebuilt/, 'one that is not there is not held');
run("SET ROLE app; SELECT kappa.pause_rebuild('long_sums')");
ok(wait_for($node, column("processes || ' ' || paused || ' ' || (eta IS NULL)"), '0 true true'), 'a rebuild is held');
ok(wait_for($node, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'kappa replay'", '0'), 'once the last stretch is done');
my $read = run(column('messages'));
produce('long', [ { value => { id => 20_001, shop => 's1' } } ]);
ok_view($node, 'long_sums', name => 'while the view goes on');
is(run("SELECT state FROM kappa.views WHERE view = 'long_sums'::regclass"), 'running', 'as ever');
run("SELECT kappa.pause_rebuild('long_sums')");
$node->restart;
is(run(column("messages || ' ' || paused")), "$read true", 'also over a restart');
rate(0);
run("SELECT kappa.resume_rebuild('long_sums')");
ok(wait_for($node, rebuild_status('long_sums'), '2|storage|waiting for switch_rebuild'), 'and goes on');
is(run(column('messages >= 20000 AND messages_per_second > 0')), 't', 'to the end');

# One that is held just before the switch does not switch.
run("SELECT kappa.pause_rebuild('long_sums'); SELECT kappa.switch_rebuild('long_sums')");
ok(wait_for($node, column('processes'), '0'), 'held before the switch');
produce('long', [ { value => { id => 20_002, shop => 's2' } } ]);
ok_view($node, 'long_sums');
is(run(column("finished_at IS NULL AND paused")), 't', 'it does not switch');
fails_like($node, "SELECT * FROM kappa.diff_rebuild('long_sums')", qr/do not stand at the same offsets/, 'nor is it compared');
run("SELECT kappa.resume_rebuild('long_sums')");
done('long_sums', 'until it is let go');
is(run("SELECT string_agg(event || ' ' || version, ', ' ORDER BY id) FROM kappa.events WHERE view = 'long_sums'::regclass AND event IN ('paused', 'resumed', 'switched')"),
	'paused 2, resumed 2, paused 2, resumed 2, switched 2', 'all of that is kept');
ok_view($node, 'long_sums');

rate(1000);
run("SELECT kappa.rebuild('long_log')");
ok(wait_for($node, column('messages > 0 AND rows > 0 AND table_bytes > 0 AND staging_bytes IS NULL', 'long_log')), 'rows of a log go into its table');
run("SELECT kappa.pause_rebuild('long_log'); SELECT kappa.cancel_rebuild('long_log')");
is(run(column("phase || ' ' || paused || ' ' || (processes IS NULL)", 'long_log')), 'cancelled false true', 'a held rebuild is given up');
fails_like($node, "SELECT kappa.resume_rebuild('long_log')", qr/is not being rebuilt/, 'and does not go on');
rate(0);
run("SELECT kappa.rebuild('long_log')");
done('long_log', 'another one is none of its business');

# ---- From the end of a log that grows. ----

create_topic('growing', partitions => 2);
run("CREATE FOREIGN TABLE growing (id int) SERVER events OPTIONS (topic 'growing'); SELECT kappa.create_view('newest', 'SELECT count(*) AS n FROM growing')");
ok_view($node, 'newest');
my $growing = start_producer('growing', [ map { { value => { id => $_ } } } 1 .. 100_000 ], rate => 5000);
ok(wait_for($node, 'SELECT n > 0 FROM newest'), 'a log grows');
foreach my $start (qw(latest tomorrow))
{
	run("SELECT kappa.rebuild('newest', start => '$start', switch => 'manual'); SELECT kappa.cancel_rebuild('newest')") foreach 1 .. 10;
	run("SELECT kappa.rebuild('newest', start => '$start')");
	done('newest', "from its end, $start");
	verified($node, 'newest');
}
$growing->stop;

# ---- An index on whole rows. ----

run('CREATE INDEX long_log_row ON long_log ((long_log IS NULL))');
like(messages("SELECT kappa.rebuild('long_log')"), qr/NOTICE:  view "long_log" will be switched by rows\nDETAIL:  The reason is that it has an index on whole rows/, 'an index on whole rows cannot be exchanged');
done('long_log', 'that is known before the replay');
is(run(rebuild_status('long_log')), '4|rows|done', 'so it is switched by rows');
run('DROP INDEX long_log_row');
run("SELECT kappa.rebuild('long_log', switch => 'manual')");
ok(wait_for($node, rebuild_status('long_log'), '5|storage|waiting for switch_rebuild'), 'without it by storage');
run("CREATE INDEX long_log_row ON long_log ((long_log IS NULL)); SELECT kappa.switch_rebuild('long_log')");
done('long_log', 'unless it comes meanwhile');
is(run(rebuild_status('long_log')), '5|rows|done', 'by rows after all');

ok_view($node, $_) foreach qw(long_sums long_log);
is(leftovers($node), '', 'nothing is left');

done_testing();
