
# A good neighbour: what kappa does to the rest of the server, and the rest of
# the server to it.

use strict;
use warnings;

use KappaTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $kafka = start_kafka();
my $node = new_node(
	conf => q(
wal_level = logical
max_wal_senders = 4
max_replication_slots = 4
kappa.retry_max_delay = 1s
kappa.metadata_interval = 500
autovacuum = off
));

sub sql { return $node->safe_psql('postgres', @_); }

sub state_becomes
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return ok_view_state($node, @_);
}

my $sent = 0;

sub send_events
{
	my ($n) = @_;

	produce('events', [ map { $sent++; { value => qq({"n": $sent, "k": ) . $sent % 50 . '}' } } 1 .. $n ]);
	return;
}

create_topic('events', partitions => 2);
sql(q(
CREATE TABLE lookup AS SELECT k, 'name ' || k AS name FROM generate_series(0, 49) AS k;
CREATE FOREIGN TABLE events (n bigint, k int) SERVER events OPTIONS (topic 'events', format 'json');
SELECT kappa.create_view('per_k', 'SELECT k, count(*) AS c, sum(n) AS s, stddev(n) AS d FROM events GROUP BY k');
SELECT kappa.create_view('log', 'SELECT n, k FROM events');
SELECT kappa.create_view('latest', 'SELECT DISTINCT ON (k) k, n FROM events ORDER BY k, n DESC NULLS LAST');
SELECT kappa.create_view('named', 'SELECT name, count(*) AS c FROM events JOIN lookup USING (k) GROUP BY name');
));
my @views = qw(per_k log latest named);
send_events(1000);
ok_view($node, $_) foreach @views;

# ---- Nothing is held while nothing happens, or nobody answers. ----

my $ours = q(FROM pg_stat_activity WHERE backend_type LIKE 'kappa%');
my $holding = "SELECT count(*) $ours AND (xact_start IS NOT NULL OR backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)";
my $locks = "SELECT count(*) FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
	WHERE a.backend_type LIKE 'kappa%' AND l.locktype = 'relation'";

# Look as often as asked.  A transaction counts that was there the last time, too.
sub ok_holds_nothing
{
	my ($name, $done) = @_;
	my (%before, @kept);
	my $looks = 0;

	do
	{
		my %now = map { $_ => 1 } split /\n/,
		  sql("SELECT pid || ' ' || coalesce(backend_xmin::text, '-') || ' ' || xact_start $ours AND xact_start IS NOT NULL");

		push @kept, grep { $before{$_} } keys %now;
		%before = %now;
		$looks++;
	} until $done->($looks);
	note("looked $looks times");
	return is("@kept", '', $name);
}

ok(wait_for($node, q(SELECT bool_and(state = 'running')::text || sum(lag) FROM kappa.views JOIN kappa.offsets USING (view)), 'true0'),
	'all is idle');
ok(wait_for($node, $holding, '0'), 'idle, no process is in a transaction');
ok_holds_nothing('and stays out of it', sub { $_[0] >= 20 });
is(sql($locks), '0', 'without a lock on any relation');

# So vacuum removes what others have deleted.
sub ok_vacuum
{
	my ($name) = @_;

	sql('CREATE TABLE garbage AS SELECT g FROM generate_series(1, 10000) AS g; DELETE FROM garbage');
	ok(wait_for($node, "VACUUM garbage;\nSELECT pg_relation_size('garbage')", '0'), $name);
	return sql('DROP TABLE garbage');
}
ok_vacuum('vacuum is not held back');

# The same without an answer: sockets are open, and nobody reads them.
my $mock = start_mock();
my $address = $mock->brokers;
$mock->command('topic silent 1');
sql(qq(
CREATE SERVER faraway FOREIGN DATA WRAPPER kappa OPTIONS (bootstrap_servers '$address');
CREATE FOREIGN TABLE silent (n bigint) SERVER faraway OPTIONS (topic 'silent');
SELECT kappa.create_view('silent_log', 'SELECT n FROM silent')));
state_becomes('silent_log', 'running', '', 'a view of other brokers');
my $xid = sql('SELECT pg_current_xact_id()::text::bigint');
kill 'STOP', $mock->{pid};
my $waited = q(SELECT state FROM kappa.views WHERE view = 'silent_log'::regclass);
my $give_up = time + 60;
ok_holds_nothing('nobody keeps a transaction while brokers are silent', sub { sql($waited) eq 'retrying' || time > $give_up });
state_becomes('silent_log', 'retrying', 'could not', 'silent brokers are waited for');
ok_vacuum('vacuum is not held back by them');
send_events(100);
ok_view($node, $_) foreach @views;
kill 'CONT', $mock->{pid};
state_becomes('silent_log', 'running', '', 'until they speak again');
cmp_ok(sql('SELECT pg_current_xact_id()::text::bigint') - $xid, '<', 100, 'that costs few transaction ids');
sql('DROP TABLE silent_log');

# ---- ALTER TABLE elsewhere. ----

my $other = $node->background_psql('postgres');
$other->query_safe('BEGIN; ALTER TABLE lookup ADD COLUMN note text');
send_events(100);
state_becomes('named', 'retrying', 'lookup|lock', 'a view waits for a lookup that is being altered');
ok_view($node, $_) foreach qw(per_k log latest);
$other->query_safe('COMMIT');
ok_view($node, 'named', name => 'and goes on');

# Who queues for a lock behind a reader is not held up by views, nor they by the
# queue for longer than half a second.
$other->query_safe('BEGIN; SELECT count(*) FROM lookup');
my $waiter = $node->background_psql('postgres');
$waiter->query_until(qr/begun/, "\\echo begun\nALTER TABLE lookup ADD COLUMN more text;\n\\echo altered\n");
ok( wait_for($node, q(SELECT count(*) FROM pg_locks WHERE relation = 'lookup'::regclass AND NOT granted AND mode = 'AccessExclusiveLock'), '1'),
	'an ALTER TABLE waits behind a reader');
send_events(100);
state_becomes('named', 'retrying', 'lookup|lock', 'a view does not wait in the same queue');
ok_view($node, $_) foreach qw(per_k log latest);
$other->query_safe('COMMIT');
$waiter->query_until(qr/altered/, '');
$waiter->quit;
$other->quit;
ok_view($node, 'named', name => 'and goes on behind both');

# ---- What an administrator does to tables, while messages come. ----

my $state = sql(q(SELECT string_agg(c.oid::regclass::text, ' ') FROM pg_class AS c
	WHERE c.relnamespace = 'kappa_state'::regnamespace AND c.relkind = 'r' AND c.relname !~ 'silent'));
my @state = split ' ', $state;
my @indexes = split ' ', sql(q(SELECT string_agg(indexrelid::regclass::text, ' ') FROM pg_index
	WHERE indrelid = ANY ('{per_k,latest,named}'::regclass[])));

# Run each command while messages are applied, and then compare all views.
sub ok_meanwhile
{
	my ($name, @commands) = @_;
	my @messages = map { $sent++; { value => qq({"n": $sent, "k": ) . $sent % 50 . '}' } } 1 .. 1500;
	my $producer = start_producer('events', \@messages, rate => 2000);
	my $failed = '';

	foreach my $command (@commands)
	{
		my ($out, $err);
		my $status = $node->psql('postgres', $command, stdout => \$out, stderr => \$err);

		$failed .= "$command: $err\n" if $status != 0;
	}
	is($failed, '', $name);
	$producer->finish;
	ok_view($node, $_, name => "$_ after it") foreach @views;
	return;
}

mkdir $node->basedir . '/space' or die;
sql("CREATE TABLESPACE space LOCATION '" . $node->basedir . "/space'");
sql('CREATE INDEX ON log (n)');
ok_meanwhile('VACUUM FULL', map { "VACUUM FULL $_" } @views, @state);
ok_meanwhile('CLUSTER', 'CLUSTER log USING log_n_idx');
ok_meanwhile('REINDEX', map { "REINDEX TABLE CONCURRENTLY $_" } @views, @state);
ok_meanwhile('ALTER TABLE ... SET TABLESPACE',
	(map { "ALTER TABLE $_ SET TABLESPACE space" } @views), (map { "ALTER INDEX $_ SET TABLESPACE space" } @indexes));
ok_meanwhile('VACUUM FREEZE and ANALYZE', 'VACUUM (FREEZE, ANALYZE)', 'VACUUM (FREEZE, DISABLE_PAGE_SKIPPING)');
is( sql(q(SELECT max(age(relfrozenxid)) < 10000 FROM pg_class WHERE relkind IN ('r', 't') AND (oid = ANY ('{per_k,log,latest,named}'::regclass[])
		OR relnamespace IN ('kappa_state'::regnamespace, 'kappa'::regnamespace)))),
	't', 'all tables of views can be frozen');

# ---- Logical replication of a view's table. ----

my $connection = $node->connstr('postgres');
sql(q(CREATE PUBLICATION shown FOR TABLE per_k, latest; SELECT pg_create_logical_replication_slot('shown', 'pgoutput'); CREATE DATABASE subscriber));
$node->safe_psql('subscriber', qq(
CREATE TABLE per_k (k int, c bigint, s numeric, d numeric);
CREATE TABLE latest (k int, n bigint);
ALTER TABLE per_k REPLICA IDENTITY FULL;
ALTER TABLE latest REPLICA IDENTITY FULL;
CREATE SUBSCRIPTION shown CONNECTION \$\$$connection\$\$ PUBLICATION shown WITH (create_slot = false)));
ok_meanwhile('logical replication', q(SELECT 1));
$node->wait_for_catchup('shown');
foreach my $view (qw(per_k latest))
{
	is( $node->safe_psql('subscriber', "SELECT * FROM $view ORDER BY k"),
		sql("SELECT * FROM $view ORDER BY k"),
		"a subscriber has the rows of $view");
}
$node->safe_psql('subscriber', 'DROP SUBSCRIPTION shown');

# ---- Transaction ids wrap around. ----

# The server is set forward, page by page of the commit log, through a billion ids at a
# time; between the jumps everything is frozen.
sub jump
{
	my ($xid, $epoch) = @_;

	$node->stop('fast');
	system_or_bail('pg_resetwal', '-D', $node->data_dir, '-x', $xid, '-e', $epoch);
	$node->start;
	send_events(300);
	ok_view($node, $_) foreach @views;
	sql('UPDATE pg_database SET datallowconn = true');
	foreach my $database (split /\n/, sql('SELECT datname FROM pg_database'))
	{
		$node->safe_psql($database, 'VACUUM FREEZE');
	}
	return;
}
my $page = 8192 * 4;
foreach my $turn (1 .. 5)
{
	my $target = 1_000_000_000 * $turn;
	my $epoch = int($target / 2**32);
	my $xid = int(($target % 2**32) / $page) * $page;

	jump($xid, $epoch);
}
cmp_ok(sql('SELECT pg_current_xact_id()::text::bigint >> 32'), '>=', 1, 'transaction ids have wrapped around');
ok_view($node, $_) foreach @views;

$node->stop('fast');
done_testing();
