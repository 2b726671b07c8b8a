# The extension comes and goes while kappa's processes look at it, and what they
# look at is locked by others.

use strict;
use warnings;

use KappaTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = start_kafka();
my $node = new_node(conf => "kappa.retry_max_delay = '300ms'\n");
my $brokers = $kafka->brokers;

sub sql { return $node->safe_psql('postgres', @_); }

sub make_view
{
	my ($view) = @_;

	return sql("CREATE FOREIGN TABLE ${view}_t (n bigint) SERVER events OPTIONS (topic '$view', format 'json');
		SELECT kappa.create_view('$view', 'SELECT n, count(*) AS c, avg(n) AS a FROM ${view}_t GROUP BY n')");
}

sub fill { return produce($_[0], [ map { { value => { n => $_ } } } 1 .. 100 ]); }

# No process of kappa has met a deadlock since then, or missed what was dropped.
sub ok_unharmed
{
	my ($since, $name) = @_;
	my @lines = grep { /\] kappa .*(deadlock detected|does not exist|cache lookup failed)|exited with/ } split /\n/, slurp_file($node->logfile, $since);

	return is("@lines", '', $name);
}

my $supervisor = sql(q(SELECT pid FROM pg_stat_activity WHERE backend_type = 'kappa supervisor'));
my $other = $node->background_psql('postgres');

# Extensions come and go: that is what the supervisor reads the catalog for.
sub supervisor_waits
{
	my ($type, $name) = @_;

	sql('CREATE EXTENSION tablefunc; DROP EXTENSION tablefunc');
	return ok(wait_for($node, "SELECT locktype FROM pg_locks WHERE pid = $supervisor AND NOT granted", $type), $name);
}

create_topic($_) foreach qw(early late);
make_view('early');
fill('early');
ok_view($node, 'early');
my $since = -s $node->logfile;

# ---- What the supervisor reads is locked. ----

$other->query_safe('BEGIN; LOCK TABLE kappa.view, kappa.view_version');
supervisor_waits('relation', 'the supervisor meets locked tables');
$other->query_safe('COMMIT; BEGIN; ALTER FOREIGN TABLE early_t ADD COLUMN more text');
make_view('late');
fill('late');
ok_view($node, 'late', name => 'a foreign table that is being altered holds up no other view');
is(sql(q(SET statement_timeout = '30s'; SELECT view, query IS NULL FROM kappa.views ORDER BY view)), "early|t\nlate|f", 'nor a look at all of them');
$other->query_safe('ROLLBACK');
ok_view($node, 'early', name => 'nor its own for good');

# ---- DROP EXTENSION, not committed. ----

$other->query_safe('BEGIN; SET LOCAL client_min_messages = warning; DROP EXTENSION kappa CASCADE');
supervisor_waits('object', 'the supervisor meets DROP EXTENSION');
$other->query_safe('ROLLBACK');
fill($_) foreach qw(early late);
ok_view($node, $_, name => "$_ goes on after it was rolled back") foreach qw(early late);
is(sql(q(SELECT pid FROM pg_stat_activity WHERE backend_type = 'kappa supervisor')), $supervisor, 'the supervisor has survived');

# ---- Likewise, where a worker has begun something that takes it two transactions. ----

# Fails if it has to wait.
sql(q(CREATE FUNCTION pass(n bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE SET lock_timeout = 0 AS $$
	BEGIN
		IF NOT pg_try_advisory_xact_lock_shared(1) THEN
			PERFORM pg_advisory_xact_lock_shared(1);
			RAISE 'closed';
		END IF;
		RETURN n;
	END $$));
sql(q(SELECT kappa.create_view('passed', 'SELECT n, count(pass(n)) AS c FROM early_t GROUP BY n')));
ok_view($node, 'passed');
ok(wait_for($node, q(SELECT count(DISTINCT worker_pid) FROM kappa.views WHERE view IN ('early'::regclass, 'passed'::regclass) AND state = 'running'), 1), 'two views are applied together');

my $gate = $node->background_psql('postgres');
my $gone = -s $node->logfile;

sub begin_drop
{
	return $other->query_until(qr/begun/, "\\echo begun\nBEGIN; SET LOCAL client_min_messages = warning; DROP EXTENSION kappa CASCADE;\n");
}

$gate->query_safe('SELECT pg_advisory_lock(1)');
fill('early');
ok(wait_for($node, q(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted), 1), 'a view is at a closed gate');
begin_drop();
ok(wait_for($node, q(SELECT count(*) FROM pg_locks WHERE locktype = 'object' AND NOT granted), 1), 'DROP EXTENSION waits for its transaction');
$gate->query_safe('SELECT pg_advisory_unlock(1)');
ok($node->wait_for_log(qr/early" will be tried again.*passed" will be tried again/s, $gone), 'in the next one none of them can be applied');
$other->query_safe('ROLLBACK');
ok_view($node, $_, name => "$_ goes on after that") foreach qw(early passed);
$gate->quit;

make_view('third');
ok(wait_for($node, q(SELECT state FROM kappa.views WHERE view = 'third'::regclass), 'retrying'), 'a view waits for its topic');
$gone = -s $node->logfile;
begin_drop();
$other->query_safe('SELECT');
create_topic('third');
ok($node->wait_for_log(qr/third" is not replayed in parallel/, $gone), 'it cannot be handed over to a replay');
$other->query_safe('ROLLBACK');
fill('third');
ok_view($node, 'third', name => 'and goes on all the same');
$other->quit;

# ---- DROP EXTENSION, time and again. ----

my $unanswered = 0;
my $refused = '';
foreach my $round (1 .. 25)
{
	my $err;
	my $producer = start_producer('early', [ map { { value => { n => $_ } } } 1 .. 100 ]);

	$refused .= $err
	  if $node->psql('postgres', 'SET client_min_messages = warning; DROP EXTENSION kappa CASCADE', stderr => \$err) != 0;
	sql("DROP TABLE early, late; CREATE EXTENSION kappa;
		CREATE SERVER events FOREIGN DATA WRAPPER kappa OPTIONS (bootstrap_servers '$brokers')");
	make_view($_) foreach qw(early late);
	$producer->finish;
	$unanswered++ if $round % 2 && sql(q(SELECT kappa.wait_for('early', '30 s'))) ne 't';
}
is($refused, '', 'DROP EXTENSION gets its way');
is($unanswered, 0, 'an extension that is made anew is noticed');
ok_unharmed($since, 'and so do the processes of kappa');
ok_view($node, $_) foreach qw(early late);

$node->stop('fast');
done_testing();
