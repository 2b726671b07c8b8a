
# A rebuild while the view is read and fed: nothing that belongs to the table
# is lost, no reader fails, no snapshot sees rows of other offsets than its
# own, and a crash in the middle costs nothing but time.

use strict;
use warnings;

use KappaTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = start_kafka();
my $node = new_node(conf => "autovacuum_naptime = 1s\nkappa.keep_previous = 0");

sub clicks
{
	my ($from, $to) = @_;

	return [
		map {
			{
				key => $_ % 500,
				value => {
					user_id => $_ % 500,
					page => '/' . $_ % 100,
					at => sprintf('2026-11-01T%02d:%02d:00Z',
						$_ % 24, $_ % 60)
				}
			}
		} $from .. $to
	];
}

# Begin a rebuild, wait for its end, and look at the result.
sub rebuild
{
	my ($view, %options) = @_;
	my $switch = $options{switch} // 'auto';
	my $version = $node->safe_psql('postgres',
		"SELECT kappa.rebuild('$view', switch => '$switch')");

	is( $node->safe_psql(
			'postgres', "SELECT kappa.wait_for_rebuild('$view', '2 min')"),
		't',
		"rebuild of $view to version $version");
	is( $node->safe_psql(
			'postgres',
			"SELECT version, phase, percent, error FROM kappa.rebuilds "
			  . "WHERE view = '$view'::regclass"),
		"$version|done|100.0|",
		"$view is done");
	return;
}

# Names of all that is in kappa_state, without the number of the version.
sub state_objects
{
	return $node->safe_psql('postgres',
		"SELECT regexp_replace(relname, '_v\\d+', '_v'), relkind "
		  . "FROM pg_class WHERE relnamespace = 'kappa_state'::regnamespace "
		  . "ORDER BY 1, 2");
}

create_topic('clicks', partitions => 3);
create_topic('people', partitions => 2);
produce('clicks', clicks(1, 20_000));
produce('people', clicks(1, 5_000));
$node->safe_psql(
	'postgres', q(
CREATE FOREIGN TABLE clicks (user_id bigint, page text, at timestamptz,
	part int OPTIONS (metadata 'partition'), pos bigint OPTIONS (metadata 'offset'))
	SERVER events OPTIONS (topic 'clicks');
CREATE FOREIGN TABLE people (id bigint OPTIONS (key 'true', metadata 'key'), page text)
	SERVER events OPTIONS (topic 'people');
SELECT kappa.create_view('per_page', 'SELECT page, count(*) AS n, max(at) AS seen FROM clicks GROUP BY page');
SELECT kappa.create_view('click_log', 'SELECT user_id, page, at, part, pos FROM clicks');
SELECT kappa.create_view('last_click', 'SELECT DISTINCT ON (user_id) user_id, page FROM clicks ORDER BY user_id, at DESC NULLS LAST');
SELECT kappa.create_view('totals', 'SELECT count(*) AS n, sum(user_id) AS s FROM clicks');
SELECT kappa.create_view('persons', $$ SELECT id, page FROM people WHERE page > '/3' $$);
));
my @views = qw(per_page click_log last_click totals persons);
ok_view($node, $_) foreach @views;

# ---- What hangs on the table survives; rows that were wrong are right again. ----

$node->safe_psql(
	'postgres', q(
CREATE ROLE reader LOGIN;
CREATE INDEX click_log_page ON click_log (page, at DESC) INCLUDE (user_id) WHERE user_id > 10;
CREATE INDEX click_log_upper ON click_log (upper(page)) WITH (fillfactor = 70);
CREATE UNIQUE INDEX per_page_n ON per_page (n, page);
CREATE VIEW top_pages AS SELECT page, n FROM per_page WHERE n > 10;
GRANT SELECT ON top_pages, per_page, click_log, totals TO reader;
COMMENT ON TABLE per_page IS 'clicks of each page';
ALTER TABLE per_page DISABLE TRIGGER kappa_guard;
UPDATE per_page SET n = n + 1000000 WHERE page = '/7';
DELETE FROM per_page WHERE page = '/8';
ALTER TABLE per_page ENABLE TRIGGER kappa_guard;
));
my $identity = q(SELECT oid, relacl, relowner, reloptions, obj_description(oid),
	(SELECT array_agg(indexrelid ORDER BY indexrelid) FROM pg_index
	 WHERE indrelid = c.oid AND indisvalid)
	FROM pg_class c WHERE relname IN ('per_page', 'click_log', 'persons') ORDER BY 1);
my $before = $node->safe_psql('postgres', $identity);
my $objects = state_objects();

my $producer = start_producer('clicks', clicks(20_001, 80_000), rate => 3000);
# The last one fails where rows and offsets are not those of one moment.
my $queries = "$PostgreSQL::Test::Utils::tmp_check/readers.sql";
append_to_file($queries, q(\set k random(0, 99)
SELECT n FROM top_pages WHERE page = '/' || :k;
SELECT count(*) FROM click_log WHERE page = '/' || :k AND user_id > 10;
SELECT 1 / CASE WHEN (SELECT n FROM totals) = (SELECT sum(next_offset - start_offset) FROM kappa.offsets WHERE view = 'totals'::regclass) THEN 1 ELSE 0 END;
));
my ($out, $err) = ('', '');
my $readers = IPC::Run::start(
	[
		'pgbench', '-n', '-M', 'prepared', '-c', '3', '-T', '12', '-f',
		$queries, '-U', 'reader', '-h', $node->host, '-p', $node->port,
		'postgres'
	],
	'>', \$out, '2>', \$err);

rebuild($_) foreach @views;
ok($readers->finish, 'readers went on') or diag($err);
like($out, qr/number of failed transactions: 0 /, 'no read failed');
$producer->stop;
is($node->safe_psql('postgres', $identity), $before,
	'oid, grants, options, comment and indexes are the same');
is(state_objects(), $objects, 'nothing is left of the old versions');
ok_view($node, $_) foreach @views;
is( $node->safe_psql(
		'postgres',
		"SET enable_seqscan = off; SELECT count(*) FROM click_log WHERE upper(page) = '/7'"
	),
	$node->safe_psql('postgres',
		"SET enable_indexscan = off; SET enable_bitmapscan = off; SELECT count(*) FROM click_log WHERE upper(page) = '/7'"
	),
	'an index finds what the table has');
is( $node->safe_psql(
		'postgres',
		"SELECT count(*), min(version), max(version) FROM kappa.views"),
	'5|2|2',
	'each view has its second version');
is( $node->safe_psql(
		'postgres',
		"SELECT count(*) FROM kappa.events WHERE event = 'switched'"),
	5,
	'each switch is an event');

# ---- An old snapshot holds the switch back, and sees its own rows. ----

my $old = $node->background_psql('postgres');
my $young = $node->background_psql('postgres');
my $consistent = q(SELECT (SELECT sum(n) FROM per_page) =
	(SELECT sum(next_offset - start_offset) FROM kappa.offsets WHERE view = 'per_page'::regclass));

$producer = start_producer('clicks', clicks(1, 60_000), rate => 2000);
$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
my $pid = $old->query_safe('SELECT pg_backend_pid()');
$node->safe_psql('postgres', "SELECT kappa.rebuild('per_page')");
ok( wait_for(
		$node,
		"SELECT phase, waiting_for FROM kappa.rebuilds WHERE view = 'per_page'::regclass",
		"waiting for old snapshots|$pid"),
	'the switch waits for an old snapshot and names it');
is($old->query_safe($consistent), 't', 'which sees rows of its own offsets');
is( $node->safe_psql(
		'postgres', "SELECT kappa.wait_for_rebuild('per_page', '200 ms')"),
	'f',
	'wait_for_rebuild times out meanwhile');
$young->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
my $waiter = IPC::Run::start(
	[
		'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c',
		"SELECT kappa.wait_for_rebuild('per_page', '1 min')"
	],
	'>', \$out);
$old->query_safe('COMMIT');
$waiter->finish;
is($out, "t\n", 'a waiting backend is not waited for')
  or diag($node->safe_psql('postgres',
		q(SELECT view, phase, waiting_for, messages FROM kappa.rebuilds;
		SELECT at, view_name, event, detail FROM kappa.events ORDER BY id DESC LIMIT 10;
		SELECT pid, backend_type, state, wait_event, backend_xmin, query FROM pg_stat_activity)));
is($young->query_safe($consistent),
	't', 'a snapshot from before the switch sees rows of its own offsets');
$young->query_safe('COMMIT');
is($young->query_safe($consistent), 't', 'and so does one from after it');

# A dump across a switch is one of a single moment, too.  The tables that it has
# found are still there, since the version before the switch is kept.
$node->safe_psql('postgres',
	"SET kappa.keep_previous = '1h'; SELECT kappa.rebuild('per_page', switch => 'manual')");
ok( wait_for(
		$node,
		"SELECT phase FROM kappa.rebuilds WHERE view = 'per_page'::regclass",
		'waiting for switch_rebuild'),
	'a rebuild waits for switch_rebuild');
$young->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
my $snapshot = $young->query_safe('SELECT pg_export_snapshot()');
$node->safe_psql('postgres', "SELECT kappa.switch_rebuild('per_page')");
is( $node->safe_psql(
		'postgres', "SELECT kappa.wait_for_rebuild('per_page', '1 min')"),
	't',
	'the switch comes when it is called for, and waits for no snapshot from after it could');
my $dump = "$PostgreSQL::Test::Utils::tmp_check/dump.sql";
command_ok([ 'pg_dump', '-d', $node->connstr('postgres'), "--snapshot=$snapshot", '-f', $dump ],
	'a dump of a snapshot from before the switch');
$young->query_safe('COMMIT');
$node->safe_psql('postgres', "SELECT kappa.drop_previous('per_page')");

my $text = slurp_file($dump);
my ($rows) = $text =~ /^COPY public\.per_page .*?\n(.*?)^\\\.$/ms;
my ($positions) = $text =~ /^COPY kappa\."position" .*?\n(.*?)^\\\.$/ms;
my ($version) = $text =~ /^public\.per_page\taggregate\t(\d+)\t/m;
my ($counted, $read) = (0, 0);
$counted += (split /\t/)[1] foreach split /\n/, $rows;
foreach my $line (split /\n/, $positions)
{
	my ($view, $number, undef, undef, $next) = split /\t/, $line;
	next unless $view eq 'public.per_page' && $number == $version;
	$read += $_ foreach $next =~ /(\d+)/g;
}
is($counted, $read, 'the dump has the rows of its offsets');
$old->quit;
$young->quit;

# ---- Locks: who reads for long delays the switch, and nobody else. ----

my $holder = $node->background_psql('postgres');
$holder->query_safe("BEGIN; SELECT count(*) FROM per_page");
$pid = $holder->query_safe('SELECT pg_backend_pid()');
$node->safe_psql('postgres', "SELECT kappa.rebuild('per_page')");
ok( wait_for(
		$node,
		"SELECT phase, waiting_for FROM kappa.rebuilds WHERE view = 'per_page'::regclass",
		"switching|$pid"),
	'the switch waits for a lock and names its holder');
is($node->safe_psql('postgres', "SET statement_timeout = '2s'; SELECT count(*) > 0 FROM per_page"),
	't', 'others read meanwhile');

# An index that is made while the rebuild waits is there after it.
$node->safe_psql('postgres', 'CREATE INDEX per_page_seen ON per_page (seen)');
$holder->query_safe('COMMIT');
is( $node->safe_psql(
		'postgres', "SELECT kappa.wait_for_rebuild('per_page', '1 min')"),
	't',
	'the switch goes on after the lock');
is( $node->safe_psql(
		'postgres',
		"SET enable_seqscan = off; SELECT count(*) FROM per_page WHERE seen IS NOT NULL"
	),
	$node->safe_psql('postgres',
		"SET enable_indexscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = off; SELECT count(*) FROM per_page WHERE seen IS NOT NULL"
	),
	'a late index was built for the new rows');
$holder->quit;
$producer->stop;

# ---- Crashes: of the server while it replays, of the worker, at the switch. ----

produce('clicks', clicks(1, 100_000));
ok_view($node, 'click_log', timeout => 200);
$node->safe_psql('postgres',
	"SELECT kappa.rebuild('click_log', switch => 'manual')");
ok( wait_for(
		$node,
		"SELECT messages > 1000 FROM kappa.rebuilds WHERE view = 'click_log'::regclass"),
	'a rebuild is under way');
kill_hard($node);
$node->start;
is( $node->safe_psql(
		'postgres',
		"SELECT version FROM kappa.views WHERE view = 'click_log'::regclass"),
	2,
	'after a crash the old version is live');
$node->safe_psql('postgres', "SELECT kappa.switch_rebuild('click_log')");
is( $node->safe_psql(
		'postgres', "SELECT kappa.wait_for_rebuild('click_log', '2 min')"),
	't',
	'and the rebuild goes on');
ok_view($node, 'click_log');
kill_hard($node);
$node->start;
ok_view($node, $_) foreach @views;

done_testing();
