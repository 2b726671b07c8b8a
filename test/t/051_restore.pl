
# A dump holds rows and offsets of one moment.  What is restored from it stands
# still until it is resumed, and then goes on from there.

use strict;
use warnings;

use KappaTest;
use PostgreSQL::Test::Utils;
use Test::More;

# Where a day begins, for the sessions of this test; the servers have UTC.
$ENV{PGTZ} = 'Asia/Tokyo';

my $kafka = start_kafka();
my $node = new_node();
my $other = new_node(name => 'other', bare => 1);
my $dump = "$PostgreSQL::Test::Utils::tmp_check/dump";

sub sql { return $node->safe_psql('postgres', @_); }

sub events
{
	my ($from, $to) = @_;

	return [
		map {
			{
				key => $_ % 100,
				value => {
					user_id => $_ % 100,
					n => $_,
					page => '/' . $_ % 11,
					at => sprintf('2026-11-01T%02d:%02d:%02dZ', $_ / 3600 % 24, $_ / 60 % 60, $_ % 60)
				}
			}
		} $from .. $to
	];
}

# Of each kind one, with names that need quotes, another owner, an index and a
# companion; a schema of their own, and one over a changelog.
create_topic('events', partitions => 3);
create_topic('people', partitions => 2);
produce('events', events(1, 2000));
produce('people', events(1, 300));
sql(q(CREATE ROLE "Shop Owner"; CREATE SCHEMA "My Shop" AUTHORIZATION "Shop Owner";
CREATE USER MAPPING FOR "Shop Owner" SERVER events;
GRANT USAGE ON FOREIGN SERVER events TO "Shop Owner";
SET ROLE "Shop Owner";
SET search_path = "My Shop";
CREATE TYPE "Kind" AS ENUM ('even', 'odd');
CREATE FUNCTION kind_of(bigint) RETURNS "Kind" LANGUAGE sql IMMUTABLE
	AS $$ SELECT CASE $1 % 2 WHEN 0 THEN 'even' ELSE 'odd' END::"My Shop"."Kind" $$;
CREATE TABLE pages (page text PRIMARY KEY, title text);
INSERT INTO pages SELECT '/' || g, 'page ' || g FROM generate_series(0, 9) g;
CREATE FOREIGN TABLE "Events" (user_id bigint, n bigint, page text, at timestamptz)
	SERVER events OPTIONS (topic 'events');
CREATE FOREIGN TABLE people (id bigint OPTIONS (key 'true', metadata 'key'), n bigint, page text)
	SERVER events OPTIONS (topic 'people');
SELECT kappa.create_view('"Per Day"', $$ SELECT date_trunc('day', at) AS day, kind_of(n) AS "Kind", count(*) AS n, sum(n) AS "Sum" FROM "Events" GROUP BY 1, 2 $$);
SELECT kappa.create_view('log', $$ SELECT n, page, title FROM "Events" LEFT JOIN pages USING (page) $$);
SELECT kappa.create_view('last_page', $$ SELECT DISTINCT ON (user_id) user_id, page FROM "Events" ORDER BY user_id, at DESC NULLS LAST, n DESC $$);
SELECT kappa.create_view('totals', $$ SELECT count(*) AS n, max(n) AS top FROM "Events" $$);
SELECT kappa.create_view('persons', $$ SELECT id, page FROM people WHERE page > '/4' $$);
CREATE INDEX ON log (n);
));
my @views = map { qq("My Shop".$_) } ('"Per Day"', qw(log last_page totals persons));
ok_view($node, $_) foreach @views;

# ---- A dump while everything moves. ----

my $producer = start_producer('events', events(2001, 40_000), rate => 20_000);
ok(wait_for($node, 'SELECT n > 4000 FROM "My Shop".totals'), 'the views are being fed');
command_ok([ 'pg_dump', '-Fc', '-d', $node->connstr('postgres'), '-f', $dump ], 'pg_dump');
$producer->finish;
ok_view($node, '"My Shop".totals');
sql(q(SELECT kappa.limit_view('"My Shop".totals', 7, 8, 1000000)));
my $roles = q(CREATE ROLE "Shop Owner");
$other->safe_psql('postgres', $roles);
command_ok([ 'pg_restore', '--exit-on-error', '-d', $other->connstr('postgres'), $dump ],
	'pg_restore into another server');

my $restored = sub { return $other->safe_psql('postgres', @_) };
is($restored->(q(SELECT DISTINCT state, reason FROM kappa.views)), 'paused|restored', 'views are paused there');
is($restored->(q(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'kappa worker')), 0, 'nobody touches them');
is( $restored->(q(SELECT sum(next_offset) FROM kappa.offsets WHERE view = '"My Shop".totals'::regclass)),
	$restored->('SELECT n FROM "My Shop".totals'), 'the dump has the rows of its offsets');
cmp_ok($restored->('SELECT n FROM "My Shop".totals'), '<', 40_000, 'from the middle');
is($restored->('SELECT count(*) FROM "My Shop".log'), $restored->('SELECT n FROM "My Shop".totals'),
	'of one moment for all views');
fails_like($other, 'DELETE FROM "My Shop".log', qr/cannot change view/, 'the guard came along');
fails_like($other, 'ALTER TABLE "My Shop".log DROP COLUMN n', qr/cannot drop a column/, 'as a whole');
is($restored->(q(SELECT count(*) FROM kappa.view v JOIN pg_class c ON c.oid = v.view
	JOIN kappa.view_version n USING (view, version) JOIN pg_class d ON d.oid = n.definition
	WHERE pg_get_userbyid(c.relowner) = 'Shop Owner' AND pg_get_userbyid(d.relowner) = 'Shop Owner')), 5, 'and the owner');
my $before = $restored->('SELECT * FROM "My Shop".totals');
produce('events', events(40_001, 40_100));
is($restored->('SELECT * FROM "My Shop".totals'), $before, 'they stand still');
is($restored->(q(SELECT kappa.wait_for('"My Shop".totals', '100 ms'))), 'f', 'wait_for has nobody to wait for');

# A user who restores only one of them, and the rest after a restart.
$restored->(q(SELECT kappa.resume_view('"My Shop".totals')));
ok_view($other, '"My Shop".totals', name => 'one that is resumed goes on exactly');
is($restored->(q(SELECT count(*) FROM kappa.views WHERE state = 'paused')), 4, 'and no other');
$other->restart;
ok(wait_for($other, q(SELECT string_agg(state, ',' ORDER BY state) FROM kappa.views), 'paused,paused,paused,paused,running'),
	'a restart changes nothing');
$restored->(q(SELECT kappa.resume_view(view) FROM kappa.views));
foreach my $view (@views)
{
	ok_view($other, $view, name => "$view is resumed and goes on exactly");
}
is($restored->('SELECT n, top FROM "My Shop".totals'), '40100|40100', 'nothing twice, nothing missing');
is($restored->('SELECT count(*), count(DISTINCT n) FROM "My Shop".log'), '40100|40100', 'nor there');
is( $restored->(q(SELECT string_agg(DISTINCT s, ' ') FROM kappa.views, unnest(settings) s WHERE s ~ '^TimeZone')),
	'TimeZone=Asia/Tokyo', 'settings came along');
produce('events', events(40_101, 40_200));
produce('people', [ map { { key => $_, value => $_ % 3 ? { page => '/9' } : undef } } 1 .. 50 ]);
ok_view($other, $_, name => "$_ goes on there") foreach @views;
ok_view($node, $_, name => "$_ goes on where it came from") foreach @views;
is($restored->(q(SELECT count(*) FROM kappa.events WHERE event = 'resumed')), 5, 'the events say so');

# What makes a view a view is whole again.
fails_like($other, 'DROP FOREIGN TABLE "My Shop"."Events"', qr/depend on it/, 'a topic in use is not dropped');
my $version = $restored->(q(SELECT kappa.rebuild('"My Shop"."Per Day"')));
is($version, 2, 'a restored view can be rebuilt');
is($restored->(q(SELECT kappa.wait_for_rebuild('"My Shop"."Per Day"', '1 min'))), 't', 'to its end');
ok_view($other, '"My Shop"."Per Day"');
$restored->(q(DROP TABLE "My Shop".last_page; SELECT kappa.drop_view('"My Shop"."Per Day"')));
is($restored->(q(SELECT count(*) FROM pg_class WHERE relnamespace = 'kappa_state'::regnamespace AND relname ~ 'last_page|Per Day')),
	0, 'and dropped without a trace');

# ---- As plain text, into the same server. ----

sql('CREATE DATABASE again');
command_ok([ 'pg_dump', '-d', $node->connstr('postgres'), '-f', "$dump.sql" ], 'pg_dump as text');
command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('again'), '-f', "$dump.sql" ], 'psql');
is($node->safe_psql('again', q(SELECT DISTINCT state, reason FROM kappa.views)), 'paused|restored',
	'restored into another database of the same server');
is($node->safe_psql('again', q(SELECT dead_letter_limit, dead_letter_percent, message_rate FROM kappa.views WHERE view = '"My Shop".totals'::regclass)),
	'7|8|1000000', 'with the limits of a view');
$node->safe_psql('again', q(SELECT kappa.resume_view(view) FROM kappa.views));
produce('events', events(40_201, 40_300));
ok_view($node, $_, dbname => 'again', name => "$_ goes on in the other database") foreach @views;

# A dump of a dump: the state of a view that was paused comes along.
$node->safe_psql('again', q(SELECT kappa.pause_view('"My Shop".totals')));

# ---- A copy of a database. ----

sql('CREATE DATABASE copy TEMPLATE again');
is($node->safe_psql('copy', q(SELECT DISTINCT state, reason FROM kappa.views)), 'paused|restored', 'a copy is paused');
is(sql(q(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'kappa worker' AND datname = 'copy')), 0, 'has no worker');
produce('events', events(40_301, 40_400));
$node->safe_psql('copy', q(SELECT kappa.resume_view(view) FROM kappa.views));
ok_view($node, $_, dbname => 'copy', name => "$_ goes on in the copy") foreach @views;
is($node->safe_psql('again', q(SELECT state, reason FROM kappa.views WHERE view = '"My Shop".totals'::regclass)),
	'paused|paused by a user', 'the original stays as it was');

# A schema-only dump has no view: only tables.
command_ok([ 'pg_dump', '-s', '-Fc', '-d', $node->connstr('postgres'), '-f', $dump ], 'pg_dump of the schema');
sql('CREATE DATABASE empty');
command_ok([ 'pg_restore', '--exit-on-error', '-d', $node->connstr('empty'), $dump ], 'is restored');

# ---- A dump in the middle of a rebuild. ----

sql(q(SET search_path = "My Shop"; SELECT kappa.rebuild('totals', switch => 'manual');
	SELECT kappa.rebuild('last_page', switch => 'manual')));
ok(wait_for($node, q(SELECT string_agg(DISTINCT phase, ', ') FROM kappa.rebuilds), 'waiting for switch_rebuild'),
	'two rebuilds are ready');
command_ok([ 'pg_dump', '-Fc', '-d', $node->connstr('postgres'), '-f', $dump ], 'pg_dump');
sql('CREATE DATABASE halfway');
command_ok([ 'pg_restore', '--exit-on-error', '-d', $node->connstr('halfway'), $dump ], 'is restored');
produce('events', events(40_401, 40_500));
$node->safe_psql('halfway', q(SELECT kappa.resume_view('"My Shop".totals')));
ok_view($node, '"My Shop".totals', dbname => 'halfway', name => 'the view goes on');
$node->safe_psql('halfway', q(SELECT kappa.switch_rebuild('"My Shop".totals')));
is($node->safe_psql('halfway', q(SELECT kappa.wait_for_rebuild('"My Shop".totals', '30 s'))), 't', 'and so does its rebuild');
ok_view($node, '"My Shop".totals', dbname => 'halfway', name => 'to the same rows');
$node->safe_psql('halfway', q(SET search_path = "My Shop"; DROP TABLE totals, last_page, log, "Per Day", persons));
is($node->safe_psql('halfway', q(SELECT count(*) FROM pg_class WHERE relnamespace = 'kappa_state'::regnamespace)),
	0, 'views that were never resumed are dropped without a trace, too');

# ---- Over the database that the dump was taken from. ----

# Not all that the restore would drop before may be dropped, which it says.
PostgreSQL::Test::Utils::run_log([ 'pg_restore', '--clean', '--if-exists', '-d', $node->connstr('postgres'), $dump ]);
is(sql(q(SELECT DISTINCT state, reason FROM kappa.views)), 'paused|restored', 'what is restored there is paused, too');
ok( wait_for($node, q(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'kappa worker' AND datname = 'postgres'), 0),
	'nobody touches it');
sql(q(SELECT kappa.resume_view(view) FROM kappa.views));
ok_view($node, $_, name => "$_ goes on after a restore in place") foreach @views;

# ---- Where the log has moved on, or is another. ----

sql('CREATE DATABASE late TEMPLATE again');
produce('events', events(40_501, 40_600));
my @ends = end_offsets('events');
$kafka->tool('delete-records', 'events', $_, $ends[$_]) foreach 0 .. 2;
fails_like($node, q(SELECT kappa.resume_view('"My Shop".log')), qr/no longer in the log/,
	'messages that are gone are not passed over', dbname => 'late');
is($node->safe_psql('late', q(SELECT DISTINCT state, reason FROM kappa.views)), 'paused|restored', 'the view stays as it is');
delete_topic('people');
create_topic('people', partitions => 2);
produce('people', events(1, 300));
$node->psql('late', q(SELECT kappa.resume_view('"My Shop".persons')));
ok( wait_for(
		$node,
		q(SELECT state IN ('stopped', 'paused') FROM kappa.views WHERE view = '"My Shop".persons'::regclass),
		't', 30, dbname => 'late'),
	'a topic that is another is noticed');

$node->stop('fast');
$other->stop('fast');
done_testing();
