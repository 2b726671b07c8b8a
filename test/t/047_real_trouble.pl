# What goes wrong in earnest, and is not a message's fault: deadlocks, timeouts,
# privileges, memory, temporary files, a cancelled statement.  The view waits,
# with the reason, and heals; nothing is set aside, and its neighbour goes on.

use strict;
use warnings;

use KappaTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = start_kafka();
my $node = new_node(conf => "kappa.retry_max_delay = '300ms'\n");
my $sent = 0;

sub sql { return $node->safe_psql('postgres', @_); }

sub state_becomes
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	my ($view, $sqlstates, $reason) = @_;
	return ok(
		wait_for($node, "SELECT state = 'retrying' AND sqlstate IN ($sqlstates) AND reason ~ '$reason' FROM kappa.views WHERE view = '$view'::regclass"),
		"$view is retrying: $reason");
}

sub more { return produce('events', [ map { $sent++; { value => { n => $sent, k => $sent % 10, text => 'x' x ($_[1] // 1) } } } 1 .. $_[0] ]); }

# The neighbour has all of it; once the cause has gone the view has, too.
sub ok_beside
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return is(sql(q(SELECT kappa.wait_for('calm', '30 s'))), 't', 'its neighbour goes on');
}

sub ok_healed
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	my ($view, $name) = @_;
	ok_view($node, $_, name => "$_ $name") foreach $view, 'calm';
	return is(sql('SELECT count(*) FROM kappa.dead_letters'), '0', 'and nothing was set aside');
}

create_topic('events');
sql(q(CREATE ROLE app;
GRANT CREATE ON SCHEMA public TO app;
GRANT USAGE ON FOREIGN SERVER events TO app;
CREATE TABLE lookup AS SELECT k, 'name ' || k AS name FROM generate_series(0, 9) AS k;
CREATE TABLE mood (what text);
GRANT SELECT ON lookup, mood TO app;
CREATE FUNCTION scaled(n bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN 2 * n; END';
CREATE FUNCTION moody(n bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS
	$$ DECLARE w text := (SELECT what FROM public.mood); BEGIN
	IF w = 'slow' THEN PERFORM pg_sleep(60); ELSIF w = 'greedy' THEN RETURN length(repeat('x', 900000000)); END IF;
	RETURN n; END $$;
SET ROLE app;
CREATE FOREIGN TABLE events (n bigint, k int, text text) SERVER events OPTIONS (topic 'events', format 'json');
SELECT kappa.create_view('calm', 'SELECT n FROM events');
SELECT kappa.create_view('counted', 'SELECT k, count(*) AS c FROM events GROUP BY k');
SELECT kappa.create_view('named', 'SELECT name, count(*) AS c FROM events JOIN lookup USING (k) GROUP BY name');
SELECT kappa.create_view('doubled', 'SELECT scaled(n) AS n FROM events');
SELECT kappa.create_view('moods', 'SELECT k, sum(moody(n)) AS s FROM events GROUP BY k');
SELECT kappa.create_view('sorted', 'SELECT DISTINCT ON (k) k, text, n FROM events ORDER BY k, text, n')));
more(100);
ok_view($node, $_) foreach qw(calm counted named doubled moods sorted);

# ---- A deadlock. ----

# The worker has rows of the view, and a trigger of it wants the tally; somebody else has
# the tally, and wants a row of the view.
sql(q(SET ROLE app; CREATE TABLE tally (n int); INSERT INTO tally VALUES (0);
	CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN UPDATE public.tally SET n = n + 1; RETURN NULL; END';
	CREATE TRIGGER tell AFTER UPDATE ON counted FOR EACH STATEMENT EXECUTE FUNCTION tell()));
my $other = $node->background_psql('postgres', on_error_stop => 0);
my $deadlocks = 0;
foreach my $round (1 .. 3)
{
	$other->query('BEGIN; UPDATE tally SET n = n + 1');
	more(10);
	ok(wait_for($node, q(SELECT count(*) > 0 FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE NOT granted AND backend_type = 'kappa worker')),
		'the worker waits for a row');
	is($other->query('SELECT count(*) FROM (SELECT FROM counted FOR UPDATE) r'), '10', 'who waits for the worker gets there');
	$deadlocks += sql(q(SELECT count(*) FROM kappa.views WHERE view = 'counted'::regclass AND sqlstate = '40P01'));
	state_becomes('counted', q('40P01', '55P03'), 'deadlock detected|lock timeout');
	ok_beside();
	$other->query('ROLLBACK');
	ok_healed('counted', "after a deadlock, $round");
}
note("$deadlocks of 3 were told by deadlock_timeout");
$other->quit;

# ---- Settings of the database, for all that connects from now on. ----

$ENV{PGOPTIONS} = '-c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0 '
  . '-c default_transaction_isolation=read\ committed -c default_transaction_read_only=off';
sql("ALTER DATABASE postgres SET $_")
  foreach 'statement_timeout = 1', 'lock_timeout = 1', 'idle_in_transaction_session_timeout = 1',
  'default_transaction_isolation = serializable', 'default_transaction_read_only = on', 'search_path = nowhere';
sql('ALTER ROLE app SET statement_timeout = 1');
$node->restart;
more(100);
$ENV{PGOPTIONS} .= ' -c search_path=public';
ok_healed($_, 'does not know settings of the database') foreach qw(named counted moods);
is(sql(q(SELECT count(*) FROM kappa.events WHERE event = 'failed' AND view <> 'counted'::regclass)), '0', 'no view failed over them');
sql('ALTER DATABASE postgres RESET ALL; ALTER ROLE app RESET ALL');
delete $ENV{PGOPTIONS};
$node->restart;

# ---- The lookup: renamed, away, and kept back. ----

sql('ALTER TABLE lookup RENAME TO names; ALTER TABLE names RENAME COLUMN name TO label');
more(10);
ok_healed('named', 'follows its lookup');
fails_like($node, 'DROP TABLE names', qr/cannot drop table names because other objects depend on it/, 'a lookup is not dropped');
sql('REVOKE SELECT ON names FROM app');
more(10);
state_becomes('named', q('42501'), 'permission denied for table names');
ok_beside();
sql('GRANT SELECT ON names TO app');
ok_healed('named', 'has its privilege again');
sql('CREATE SCHEMA aside; ALTER TABLE names SET SCHEMA aside');
more(10);
state_becomes('named', q('42501'), 'permission denied for schema aside');
ok_beside();
sql('GRANT USAGE ON SCHEMA aside TO app');
ok_healed('named', 'may go into the schema');

# ---- A function: may be called no more. ----

sql('REVOKE EXECUTE ON FUNCTION scaled FROM PUBLIC');
more(10);
state_becomes('doubled', q('42501'), 'permission denied for function scaled');
ok_beside();
sql('GRANT EXECUTE ON FUNCTION scaled TO app');
ok_healed('doubled', 'may call its function again');

# ---- A statement that is cancelled. ----

sql(q(INSERT INTO mood VALUES ('slow')));
more(10);
ok(wait_for($node, q(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'kappa worker' AND wait_event = 'PgSleep'), '1'), 'a function takes its time');
sql(q(SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE backend_type = 'kappa worker' AND wait_event = 'PgSleep'));
state_becomes('moods', q('57014'), 'canceling statement');
ok_beside();
sql('DELETE FROM mood');
ok(wait_for($node, q(SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE backend_type = 'kappa worker' AND wait_event = 'PgSleep';
	SELECT kappa.wait_for('moods', '100 ms')), "0\nt"), 'until nobody sleeps any more');
ok_healed('moods', 'after it was cancelled');

# ---- No memory. ----

# What the process has, and a little more.
my $worker = sql(q(SELECT worker_pid FROM kappa.views WHERE view = 'moods'::regclass));
my ($size) = slurp_file("/proc/$worker/status") =~ /^VmSize:\s+(\d+) kB/m;
system_or_bail('prlimit', '--pid', $worker, '--as=' . ($size + 300_000) * 1024 . ':unlimited');
sql(q(INSERT INTO mood VALUES ('greedy')));
more(1);
ok(wait_for($node, q(SELECT count(*) > 0 FROM kappa.events WHERE view = 'moods'::regclass AND event = 'failed' AND sqlstate = '53200')), 'no memory for a function is waited for');
sql('DELETE FROM mood');
ok_beside();
is(sql("SELECT backend_type FROM pg_stat_activity WHERE pid = $worker"), 'kappa worker', 'by a process that lives on');
system_or_bail('prlimit', '--pid', $worker, '--as=unlimited');
ok_healed('moods', 'has memory again');

# ---- No room for a sort. ----

sql(q(ALTER SYSTEM SET work_mem = '64kB'));
sql(q(ALTER SYSTEM SET temp_file_limit = 0));
sql('SELECT pg_reload_conf()');
more(2000, 500);
state_becomes('sorted', q('53400'), 'temporary file size exceeds temp_file_limit');
ok_beside();
sql('ALTER SYSTEM RESET ALL');
sql('SELECT pg_reload_conf()');
ok_healed('sorted', 'may write temporary files again');

is(sql(q(SELECT count(*) FROM kappa.events WHERE event IN ('stopped', 'diverted'))), '0', 'no view stopped, no message was passed over');
ok_healed($_, 'is right in the end') foreach qw(counted named doubled moods sorted);

# ---- What only a person can mend: the lookup is dropped, and the definition with it. ----

my $rows = 'SELECT count(*), sum(c) FROM named';
my $kept = sql($rows);
sql('SET client_min_messages = warning; DROP TABLE aside.names CASCADE');
more(10);
ok(wait_for($node, q(SELECT state, reason ~ 'definition .*was dropped' FROM kappa.views WHERE view = 'named'::regclass), 'stopped|t'),
	'a view whose definition was dropped stops');
ok_beside();
is(sql($rows), $kept, 'with its rows as they were');
fails_like($node, q(SELECT kappa.resume_view('named')), qr/definition of view "public.named" was dropped/, 'and is not resumed');
ok_healed($_, 'goes on') foreach qw(counted doubled);

$node->stop('fast');
done_testing();
