# Dead letters that are applied after what was wrong has been mended: once,
# and as if they had been applied in their place in the log.

use strict;
use warnings;

use KappaTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = start_kafka();
my $node = new_node(conf => "kappa.retry_max_delay = '300ms'\nkappa.dead_letter_max_bytes = '1kB'\nkappa.keep_previous = '1h'\n");

sub sql { return $node->safe_psql('postgres', @_); }

# The letters of a view, as partition:offset.
sub letters
{
	my ($view) = @_;
	return sql("SELECT coalesce(string_agg(part || ':' || pos, ' ' ORDER BY part, pos), '') FROM kappa.dead_letters WHERE view = '$view'::regclass");
}

sub ok_letters
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	my ($view, $wanted, $name) = @_;
	my $reached = sql("SELECT kappa.wait_for('$view', '30 s')");

	is("$reached " . letters($view), "t $wanted", $name // "letters of $view");
	return verified($node, $view);
}

# Retry, which applies some letters and leaves others.
sub retried
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	my ($view, $applied, $left, $name) = @_;

	is(sql("SELECT kappa.retry_dead_letters('$view')"), $applied, $name // "$applied letters of $view are applied");
	return ok_letters($view, $left, "what fails again stays a letter of $view");
}

# ---- Every kind of view of events. ----

create_topic('events', partitions => 2);
sql(q(
CREATE DOMAIN small AS bigint CONSTRAINT small CHECK (VALUE < 100);
CREATE FOREIGN TABLE events_t (k text, n bigint, at int, pad text) SERVER events OPTIONS (topic 'events', format 'json');
SELECT kappa.create_view('logged', 'SELECT k, n::small AS n, pad FROM events_t');
SELECT kappa.create_view('summed', 'SELECT k, count(*) AS c, sum(n::small) AS s FROM events_t GROUP BY k');
SELECT kappa.create_view('meant', 'SELECT k, avg(n::small) AS a, count(*) AS c FROM events_t GROUP BY k HAVING count(*) > 1');
SELECT kappa.create_view('latest', 'SELECT DISTINCT ON (k) k, n::small AS n, at FROM events_t ORDER BY k, at DESC NULLS LAST');
SELECT kappa.create_view('total', 'SELECT sum(n::small) AS s FROM events_t');
));
my @views = qw(logged summed meant latest total);
sub event { my ($k, $n, $at, $partition, @more) = @_; return { value => { k => $k, n => $n, at => $at, @more }, partition => $partition // 0 } }
produce(
	'events',
	[
		(map { event('a', $_, $_) } 1 .. 5),
		event('a', 150, 6), event('b', 250, 6), event('c', 160, 100, 0, pad => 'x' x 5000),
		event('a', 7, 7), event('c', 8, 8), event('d', 9, 200),
		event('d', 170, 10, 1), event('d', 180, 300, 1),
	]);
my $all = '0:5 0:6 0:7 1:0 1:1';
ok_letters($_, $all) foreach @views;
is(sql(q(SELECT complete, length(value), size FROM kappa.dead_letters WHERE view = 'logged'::regclass AND pos = 7)), 'f|1024|5035', 'a long message has its beginning in the letter');
is(sql(q(SELECT kappa.retry_dead_letters('summed'))), '0', 'nothing has been mended');
is(letters('summed'), $all, 'so all stay');
sql('ALTER DOMAIN small DROP CONSTRAINT small; ALTER DOMAIN small ADD CONSTRAINT small CHECK (VALUE < 200)');
my $before = sql(q(SELECT failed_at FROM kappa.dead_letters WHERE view = 'logged'::regclass AND pos = 6));
retried($_, 4, '0:6') foreach @views;
is(sql("SELECT failed_at > '$before' FROM kappa.dead_letters WHERE view = 'logged'::regclass"), 't', 'it was tried again');
is(sql('SELECT k, n FROM latest ORDER BY k'), "a|7\nc|160\nd|180", 'an old letter does not replace a newer row, but a newer one does');
is(sql(q(SELECT length(pad) FROM logged WHERE n = 160)), '5000', 'a long message is read from the log again');
retried('summed', 0, '0:6', 'once');
is(sql(q(SELECT string_agg(detail, ', ' ORDER BY id) FROM kappa.events WHERE event = 'retried' AND view = 'summed'::regclass)),
	'0 of 5 dead letters applied, 4 of 5 dead letters applied, 0 of 1 dead letters applied', 'each attempt is an event');

# ---- Refused, and left as it was. ----

fails_like($node, q(BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT kappa.retry_dead_letters('summed')), qr/isolation level REPEATABLE READ/, 'not under an old snapshot');
sql('CREATE ROLE other; GRANT SELECT ON summed TO other');
fails_like($node, q(SET ROLE other; SELECT kappa.retry_dead_letters('summed')), qr/must be owner/, 'not by others');
fails_like($node, q(BEGIN; SELECT kappa.retry_dead_letters('summed'); DELETE FROM summed), qr/cannot change view "summed"/, 'the view is guarded behind it');
is( sql(q(SELECT pg_advisory_lock(7); SELECT kappa.retry_dead_letters('summed'); SELECT count(*) FROM pg_locks WHERE locktype = 'advisory')),
	"\n0\n1", 'locks of the session are kept');
sql(q(CREATE TABLE mood (code text); CREATE FUNCTION in_mood(n bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS
	$$ DECLARE c text; BEGIN
	SELECT code INTO c FROM public.mood; IF c IS NOT NULL THEN RAISE EXCEPTION 'mood %', c USING ERRCODE = c; END IF;
	RETURN n; END $$;
INSERT INTO mood VALUES ('P0001');
SELECT kappa.create_view('moody', 'SELECT k, in_mood(n) AS n FROM events_t WHERE n = 160')));
ok_letters('moody', '0:7');
sql(q(UPDATE mood SET code = '53100'));
fails_like($node, q(SELECT kappa.retry_dead_letters('moody')), qr/mood 53100/, q(what is the system's is thrown));
sql(q(TRUNCATE mood; ALTER TABLE moody ADD CONSTRAINT none CHECK (n < 100)));
fails_like($node, q(SELECT kappa.retry_dead_letters('moody')), qr/violates check constraint "none"/, q(and what the view's table does not take));
is(letters('moody'), '0:7', 'the letter stays');
sql('ALTER TABLE moody DROP CONSTRAINT none');
retried('moody', 1, '');

# ---- A changelog. ----

create_topic('people', partitions => 2);
sql(q(
CREATE DOMAIN age AS int CONSTRAINT age CHECK (VALUE < 100);
CREATE FOREIGN TABLE people_t (id int OPTIONS (key 'true', metadata 'key'), name text, age int) SERVER events OPTIONS (topic 'people', format 'json');
SELECT kappa.create_view('people', 'SELECT id, name, age::age AS age FROM people_t');
));
sub person { my ($id, $age, @more) = @_; return { key => $id, value => defined $age ? { name => "n$id", age => $age, @more } : undef, partition => $id % 2 } }
produce('people', [ map { person($_, 20 + $_) } 1 .. 8 ]);
ok_letters('people', '');
produce('people', [ person(1, 101), person(2, 102), person(3, 103), person(4, 104), person(5, 205), person(6, 106, pad => 'x' x 3000) ]);
ok_letters('people', '0:4 0:5 0:6 1:4 1:5 1:6', 'the letters of a changelog');
produce('people', [ person(2, 50), person(3, undef), person(4, 51), person(4, undef), person(4, 52), person(7, 53) ]);
ok_letters('people', '0:4 0:5 0:6 1:4 1:5 1:6', 'are followed by other messages');
sql('ALTER DOMAIN age DROP CONSTRAINT age; ALTER DOMAIN age ADD CONSTRAINT age CHECK (VALUE < 200)');
retried('people', 5, '1:6');
is(sql(q(SELECT string_agg(id || '=' || age, ' ' ORDER BY id) FROM people)), '1=101 2=50 4=52 5=25 6=106 7=53 8=28', 'a late letter undoes no newer message');
produce('people', [ person(5, 54), person(8, 208), person(8, 209) ]);
ok(sql(q(SELECT kappa.wait_for('people', '30 s'))) eq 't', 'more letters');
sql('ALTER DOMAIN age DROP CONSTRAINT age');
sql(q(SELECT kappa.retry_dead_letters('people')));
ok_letters('people', '', 'two letters of one key');
is(sql(q(SELECT string_agg(id || '=' || age, ' ' ORDER BY id) FROM people)), '1=101 2=50 4=52 5=54 6=106 7=53 8=209', 'are applied in their order');

# ---- Beside a busy worker. ----

sql('ALTER DOMAIN small DROP CONSTRAINT small; ALTER DOMAIN small ADD CONSTRAINT small CHECK (VALUE % 10 <> 3) NOT VALID');
my $producer = start_producer('events', [ map { event('k' . $_ % 7, $_, $_, $_ % 2) } 1000 .. 8000 ], rate => 3000);
for my $round (1 .. 6)
{
	sql("SELECT kappa.wait_for('summed', '1 s')");
	sql('ALTER DOMAIN small DROP CONSTRAINT small');
	sql("SELECT kappa.retry_dead_letters('$_')") foreach @views;
	sql('ALTER DOMAIN small ADD CONSTRAINT small CHECK (VALUE % 10 <> 3) NOT VALID');
}
$producer->finish;
sql('SELECT kappa.wait_for($$' . $_ . '$$)') foreach @views;
sql('ALTER DOMAIN small DROP CONSTRAINT small');
sql("SELECT kappa.retry_dead_letters('$_')") foreach @views;
ok_letters($_, '', "$_ beside a worker") foreach @views;
is(sql('SELECT count(*) FROM logged'), 13 + 7001, 'each message once');

# ---- Versions. ----

sql('ALTER DOMAIN small ADD CONSTRAINT small CHECK (VALUE < 10000) NOT VALID');
my ($end) = end_offsets('events');
my ($first, $second, $third) = ($end, $end + 2, $end + 4);
produce('events', [ event('v', 20_000, 1), event('v', 5, 2) ]);
ok_letters('summed', "0:$first", 'a letter before a rebuild');
my $next = sql(q(SELECT kappa.rebuild('summed', switch => 'manual')));
ok(wait_for($node, q(SELECT phase FROM kappa.rebuilds WHERE view = 'summed'::regclass), 'waiting for switch_rebuild'), 'the next version stands beside');
is(sql(q(SELECT string_agg(version || ':' || pos, ' ' ORDER BY version) FROM kappa.dead_letter WHERE view = 'summed'::regclass)), "1:$first $next:$first", 'with a letter of its own');
ok_letters('summed', "0:$first", 'those of the live one are shown');
produce('events', [ event('v', 30_000, 3), event('v', 6, 4) ]);
ok_letters('summed', "0:$first 0:$second", 'both go on');
sql('ALTER DOMAIN small DROP CONSTRAINT small');
is(sql(q(SELECT kappa.retry_dead_letters('summed'))), '2', 'letters of the live version are counted');
is(sql(q(SELECT count(*) FROM kappa.dead_letter WHERE view = 'summed'::regclass)), '0', 'those of the other one are applied, too');
is(sql(q(SELECT sum(rows) FROM kappa.diff_rebuild_summary('summed') WHERE difference <> 'same')), '0', 'the versions are the same');
sql(q(SELECT kappa.switch_rebuild('summed'); SELECT kappa.wait_for_rebuild('summed', '1 min')));
ok_letters('summed', '', 'after the switch');
sql('ALTER DOMAIN small ADD CONSTRAINT small CHECK (VALUE <> 40000) NOT VALID');
produce('events', [ event('v', 40_000, 5) ]);
ok_letters('summed', "0:$third", 'a letter of both');
sql(q(SELECT kappa.rollback_view('summed'); SELECT kappa.wait_for_rebuild('summed', '1 min')));
ok_letters('summed', "0:$third", 'the way back has its own');
sql(q(SELECT kappa.drop_previous('summed')));
is(sql(q(SELECT count(*) FROM kappa.dead_letter WHERE view = 'summed'::regclass)), '1', 'letters go with their version');

# ---- Dump and restore. ----

my $dump = "$PostgreSQL::Test::Utils::tmp_check/letters.sql";
command_ok([ 'pg_dump', '-f', $dump, '-d', $node->connstr('postgres') ], 'dump');
sql('CREATE DATABASE copy');
command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $dump, '-d', $node->connstr('copy') ], 'restore');
is($node->safe_psql('copy', q(SELECT convert_from(value, 'UTF8')::json ->> 'n' FROM kappa.dead_letters WHERE view = 'summed'::regclass)), '40000', 'a letter is in the copy');
fails_like($node, q(SELECT kappa.retry_dead_letters('summed')), qr/restored.*resume_view/s, 'a restored view is resumed first', dbname => 'copy');
$node->safe_psql('copy', q(SELECT kappa.resume_view('summed'); ALTER DOMAIN small DROP CONSTRAINT small));
is($node->safe_psql('copy', q(SELECT kappa.retry_dead_letters('summed'))), '1', 'and has its letters applied');
verified($node, 'summed', dbname => 'copy');
ok_letters('summed', "0:$third", 'the original keeps its own');
sql('DROP TABLE summed');
is(sql(q(SELECT count(*) FROM kappa.dead_letter d WHERE NOT EXISTS (SELECT FROM kappa.view v WHERE v.view = d.view))), '0', 'a dropped view takes its letters along');

$node->stop('fast');
done_testing();
