
# What others do to a view while a rebuild of it stands still at each of its
# phases: DDL, dropping, giving up; and what happens to a rebuild under way:
# a log that is cut, no room for its partial results, a promotion, a dump.

use strict;
use warnings;

use KappaFault;
use KappaTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $kafka = start_kafka();
my $node = new_node(
	allows_streaming => 1,
	conf => "kappa.retry_max_delay = 200ms\nkappa.keep_previous = 0\nkappa.replay_min_messages = 50");

sub run { return $node->safe_psql('postgres', $_[0]) }

create_topic('orders', partitions => 2);
produce('orders', orders(1, 500));
run(q(
CREATE ROLE reader;
CREATE SCHEMA elsewhere;
GRANT USAGE ON SCHEMA elsewhere TO reader;
CREATE FOREIGN TABLE orders (id bigint, shop text, amount numeric(10,2), note text, at timestamptz)
	SERVER events OPTIONS (topic 'orders')));
my $query = 'SELECT shop, avg(amount) AS mean, count(*) AS n FROM orders GROUP BY shop';
my $id = 500;
my $round = 0;

sub more { produce('orders', orders($id + 1, $id + 10)); $id += 10; return }

sub has_ended
{
	my ($session) = @_;

	$session->{run}->pump_nb if $session->{run}->pumpable;
	return !$session->{run}->pumpable;
}

sub is_waiting
{
	my ($session) = @_;

	return run("SELECT count(*) FROM pg_stat_activity WHERE application_name = '$session->{name}' AND wait_event_type = 'Lock'") > 0;
}

# Statements in a session of its own, each a transaction; returns the session, once it has
# ended or waits for a lock.
sub start_session
{
	my (@statements) = @_;
	my $session = { name => 'others ' . ++$round, out => '', err => '', deadline => time + 60 };

	$session->{run} = IPC::Run::start(
		[ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres') . " application_name='$session->{name}'", map { ('-c', $_) } @statements ],
		'>', \$session->{out}, '2>', \$session->{err});
	until (has_ended($session) || is_waiting($session))
	{
		die "session $round does not get on" if time > $session->{deadline};
		sleep(0.05);
	}
	return $session;
}

# Waits for the end; returns what went wrong, if anything.
sub end_session
{
	my ($session) = @_;

	return $session->{run}->finish ? '' : $session->{err};
}

# Begin a rebuild that hangs at a point.
sub hang_at
{
	my ($point, $view) = @_;

	run("SELECT kappa.create_view('$view', '$query'); SELECT kappa.wait_for('$view')");
	run("CREATE INDEX ON $view (n)");
	my $path = arm($node, $point, 'hang', view => $view);
	run("SELECT kappa.rebuild('$view')");
	ok(was_hit($path), "a rebuild stands still at $point");
	return $path;
}

sub ended
{
	my ($view) = @_;

	return "SELECT finished_at IS NOT NULL FROM kappa.rebuilds WHERE view = '$view'::regclass";
}

# ---- Each phase, and what others do. ----

foreach my $point (qw(replay-claimed rebuild-indexed rebuild-joined rebuild-snapshots switch-locking switch-swapped))
{
	my $view = $point =~ s/-/_/r;

	# What is harmless is done, and lasts.
	my $path = hang_at($point, $view);
	fails_like($node, "SELECT kappa.rebuild('$view')", qr/is being rebuilt already/, "$point: one rebuild at a time")
	  unless $point =~ /^switch/;
	my $session = start_session(
		"SELECT kappa.pause_view('$view')",
		"SELECT kappa.resume_view('$view')",
		"GRANT SELECT ON $view TO reader",
		"CREATE INDEX ${view}_mean ON $view (mean)",
		"ALTER TABLE $view RENAME TO ${view}_2",
		"ALTER TABLE ${view}_2 SET SCHEMA elsewhere",
		"ALTER FOREIGN TABLE orders ADD COLUMN $view int");
	more();
	release($path);
	is(end_session($session), '', "$point: DDL is done");
	$view = "elsewhere.${view}_2";
	is(run("SELECT kappa.wait_for_rebuild('$view', '1 min')"), 't', 'the rebuild succeeds');
	ok_view($node, $view);
	is(run("SELECT count(*) FROM pg_index WHERE indrelid = '$view'::regclass AND indisvalid"), 3, 'indexes are there');
	is(run("SET ROLE reader; SELECT has_table_privilege('$view'::regclass, 'SELECT')"), 't', 'and grants');
	is(leftovers($node), '', 'nothing is left');
	run("DROP TABLE $view");

	# A view that is dropped takes everything along.
	$view = $point =~ s/-/_/r . '_3';
	$path = hang_at($point, $view);
	$session = start_session("DROP TABLE $view");
	release($path);
	is(end_session($session), '', "$point: a view is dropped");
	ok(wait_for($node, "SELECT count(*) FROM pg_class WHERE relname LIKE '$view%'", '0'), 'with all that belongs to it');
	is(leftovers($node), '', 'nothing is left');

	# Giving up comes in time, or too late.
	$view = $point =~ s/-/_/r . '_4';
	$path = hang_at($point, $view);
	$session = start_session("SELECT kappa.cancel_rebuild('$view')");
	more();
	release($path);
	my $late = end_session($session);
	like($late, qr/^$|is not being rebuilt|could not serialize access/, "$point: a rebuild is given up, or it is too late");
	ok(wait_for($node, ended($view)), 'it has ended');
	is(run("SELECT phase FROM kappa.rebuilds WHERE view = '$view'::regclass"), $late eq '' ? 'cancelled' : 'done', 'as was said');
	ok_view($node, $view);
	is(leftovers($node), '', 'nothing is left');
	run("DROP TABLE $view");
}

# ---- A rebuild waits for the snapshots that are older, and for no others. ----

# Let a rebuild join the live version and wait for an old snapshot; returns who holds it.
sub hold_back
{
	my ($view) = @_;
	my $old = $node->background_psql('postgres');

	$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
	my $pid = $old->query_safe('SELECT pg_backend_pid()');
	run("SELECT kappa.rebuild('$view')");
	ok(wait_for($node, waited_for($view), "waiting for old snapshots|$pid"), 'a rebuild waits for an old snapshot');
	return $old;
}

sub waited_for
{
	my ($view) = @_;

	return "SELECT phase, waiting_for FROM kappa.rebuilds WHERE view = '$view'::regclass";
}

run("SELECT kappa.create_view('together', '$query'); SELECT kappa.wait_for('together')");
my $consistent = q(SELECT (SELECT sum(n) FROM together) =
	(SELECT sum(next_offset - start_offset) FROM kappa.offsets WHERE view = 'together'::regclass));

# A GRANT makes one version look at its tables again, with a batch in hand.
my $old = hold_back('together');
my $young = $node->background_psql('postgres');
$young->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
my $shadow = run("SELECT kappa.version_table('together', 2)");
foreach my $turn ([ together => 1 ], [ $shadow => 2 ])
{
	my ($table, $nth) = @$turn;
	my $path = arm($node, 'batch-applying', 'hang', view => 'together', nth => $nth);

	more();
	ok(was_hit($path), "a batch is about to reach $table");
	run("GRANT SELECT ON $table TO reader");
	release($path);
	run("SELECT kappa.wait_for('together')");
}
$old->query_safe('COMMIT');
is(run("SELECT kappa.wait_for_rebuild('together', '1 min')"), 't', 'a snapshot from after the old one is not waited for');
is($young->query_safe($consistent), 't', 'and sees rows of its own offsets');
$young->quit;
$old->quit;

# What fails at the commit is applied version by version: a snapshot may lie between two of them.
$old = hold_back('together');
my $merged = arm($node, 'batch-merged', 'hang', view => 'together');
more();
ok(was_hit($merged), 'both versions are about to get a batch');
my $committing = arm($node, 'batch-committing', 'disk-full');
my $path = arm($node, 'batch-applying', 'hang', view => 'together', nth => 2);
release($merged);
ok(was_hit($committing) && was_hit($path), 'then one of them has got it, and the other has not');
my $between = $node->background_psql('postgres');
$between->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
my $pid = $between->query_safe('SELECT pg_backend_pid()');
release($path);
run("SELECT kappa.wait_for('together')");
$old->query_safe('COMMIT');
ok(wait_for($node, waited_for('together'), "waiting for old snapshots|$pid"), 'a snapshot from between them is waited for');
is($between->query_safe($consistent), 't', 'and sees rows of its own offsets');
$between->query_safe('COMMIT');
is(run("SELECT kappa.wait_for_rebuild('together', '1 min')"), 't', 'then the switch comes');
$between->quit;
$old->quit;
ok_view($node, 'together');
is(leftovers($node), '', 'nothing is left');
run('DROP TABLE together');

# ---- The log is cut in the middle of a replay. ----

$path = hang_at('replay-claimed', 'cut');
my @end = end_offsets('orders');
$kafka->tool('delete-records', 'orders', $_, $end[$_] - 1) foreach 0, 1;
release($path);
ok(wait_for($node, ended('cut')), 'a rebuild ends when the log is cut');
like(run("SELECT phase || ': ' || error FROM kappa.rebuilds WHERE view = 'cut'::regclass"),
	qr/^failed: .*no longer in the log.*\d+ offsets are missing/s, 'and says why, with numbers');
is(run("SELECT state FROM kappa.views WHERE view = 'cut'::regclass"), 'running', 'the view goes on');
more();
is(run("SELECT kappa.wait_for('cut'); SELECT sum(n) FROM cut"), "t\n$id", 'with all that it had');
is(leftovers($node), '', 'nothing is left');
run('DROP TABLE cut');

# ---- No room for partial results. ----

create_topic('long', partitions => 2);
produce('long', [ map { { value => { id => $_, shop => "shop $_" } } } 1 .. 30_000 ]);
run(q(CREATE FOREIGN TABLE long (id bigint, shop text) SERVER events OPTIONS (topic 'long', format 'json');
SELECT kappa.create_view('long_means', 'SELECT shop, avg(id) AS mean, max(id) AS top FROM long GROUP BY shop');
SELECT kappa.create_view('short', 'SELECT id FROM long WHERE id < 5')));
ok_view($node, $_) foreach qw(long_means short);
run($_) foreach "ALTER SYSTEM SET temp_file_limit = '100kB'", "ALTER SYSTEM SET maintenance_work_mem = '1MB'", 'SELECT pg_reload_conf()';
run("SELECT kappa.rebuild('long_means')");
ok(wait_for($node, "SELECT count(*) > 0 FROM kappa.events WHERE view = 'long_means'::regclass AND version = 2 AND event = 'failed' AND detail ~ 'temporary file size exceeds'"), 'a replay meets the limit');
is(run("SELECT phase FROM kappa.rebuilds WHERE view = 'long_means'::regclass"), 'replaying', 'and is tried again');
produce('long', [ { value => { id => 1, shop => 'shop 1' } } ]);
ok_view($node, $_) foreach qw(long_means short);
run($_) foreach 'ALTER SYSTEM RESET temp_file_limit', 'ALTER SYSTEM RESET maintenance_work_mem', 'SELECT pg_reload_conf()';
is(run("SELECT kappa.wait_for_rebuild('long_means', '1 min')"), 't', 'until there is room');
ok_view($node, 'long_means');

# ---- A dump, and a standby that is promoted, in the middle of replays. ----

sub slowly { run("ALTER SYSTEM SET kappa.replay_rate = $_[0]"); run('SELECT pg_reload_conf()'); return }

my $restored = new_node(name => 'restored', bare => 1);
my $standby = PostgreSQL::Test::Cluster->new('standby');
my $dump = "$PostgreSQL::Test::Utils::tmp_check/dump";

$node->backup('base');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
slowly(500);
run("SELECT kappa.rebuild('$_') ") foreach qw(long_means short);
ok(wait_for($node, "SELECT count(DISTINCT view) = 2 AND bool_or(next_offset > start_offset) FROM kappa.fill_range"), 'replays are under way');
command_ok([ 'pg_dump', '-Fc', '-d', $node->connstr('postgres'), '-f', $dump ], 'a dump of them');
$node->wait_for_catchup($standby);
$node->stop('immediate');
$standby->promote;

$restored->safe_psql('postgres', 'CREATE ROLE reader');
command_ok([ 'pg_restore', '--exit-on-error', '-d', $restored->connstr('postgres'), $dump ], 'and its restore');
is($restored->safe_psql('postgres', 'SELECT count(DISTINCT view) = 2 AND bool_or(next_offset > start_offset) FROM kappa.fill_range'), 't', 'replays stand where they stood');
$restored->safe_psql('postgres', 'SELECT kappa.resume_view(view) FROM kappa.views');
foreach my $copy ($standby, $restored)
{
	my $name = $copy->name;

	$copy->safe_psql('postgres', 'ALTER SYSTEM SET kappa.replay_rate = 0');
	$copy->safe_psql('postgres', 'SELECT pg_reload_conf()');
	foreach my $view (qw(long_means short))
	{
		is($copy->safe_psql('postgres', "SELECT kappa.wait_for_rebuild('$view', '1 min')"), 't', "$name: the rebuild of $view goes on");
		ok_view($copy, $view);
	}
	is(leftovers($copy), '', "$name: nothing is left");
}

done_testing();
