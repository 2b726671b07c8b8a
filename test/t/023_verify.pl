
# kappa.verify() and kappa.diff_view(): a view is compared with its query over
# the log while it lives; what was changed by hand is found, with the right
# marker; and what cannot be compared is said.

use strict;
use warnings;

use KappaTest;
use List::Util qw(max min);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $kafka = start_kafka();
my $node = new_node();

sub sql
{
	return $node->safe_psql('postgres', $_[0]);
}

# What a statement says besides its result.
sub messages
{
	my ($statement) = @_;
	my ($out, $err);

	$node->psql('postgres', $statement, stdout => \$out, stderr => \$err);
	return $err;
}

# Change a view as its owner could, look at the difference, and undo it all.
sub damage
{
	my ($view, $change, $look) = @_;

	return sql(qq(
		BEGIN;
		ALTER TABLE $view DISABLE TRIGGER kappa_guard;
		$change;
		$look;
		ROLLBACK;
	));
}

sub count_damage
{
	my ($view, $change) = @_;

	return damage($view, $change, "SELECT kappa.verify('$view')");
}

sub list_damage
{
	my ($view, $change) = @_;

	return damage($view, $change, qq(
		SELECT difference, copies, coalesce(columns::text, '-'), "row"
		FROM kappa.diff_view('$view')));
}

sub caught_up
{
	my ($view) = @_;

	return is(sql("SELECT kappa.wait_for('$view', '60 s')"), 't', "$view has applied all");
}

# ---- Views of all kinds, while messages keep coming. ----

create_topic('clicks', partitions => 3);
create_topic('users', partitions => 2);
sql(q(
CREATE FOREIGN TABLE clicks (
    user_id bigint, page text, at timestamptz, amount float8, ratio real, price numeric,
    doc json, spot point, tags text[],
    part int OPTIONS (metadata 'partition'), pos bigint OPTIONS (metadata 'offset')
) SERVER events OPTIONS (topic 'clicks', format 'json');
CREATE FOREIGN TABLE users (user_id bigint OPTIONS (key 'true', metadata 'key'), name text, country text)
    SERVER events OPTIONS (topic 'users', format 'json');
CREATE TABLE countries (code text PRIMARY KEY, name text);
INSERT INTO countries VALUES ('DE', 'Germany'), ('FR', 'France');

SELECT kappa.create_view('log', $$ SELECT user_id, page, amount, ratio, price, doc, spot, tags FROM clicks WHERE page <> '/no' $$);
SELECT kappa.create_view('tag_log', $$ SELECT user_id, t FROM clicks, LATERAL unnest(tags) t $$);
SELECT kappa.create_view('last_click', $$ SELECT DISTINCT ON (user_id) user_id, page, amount, doc FROM clicks ORDER BY user_id, at DESC NULLS LAST $$);
SELECT kappa.create_view('last_place', $$ SELECT DISTINCT ON (page) page, part, pos, user_id FROM clicks ORDER BY page, part DESC, pos DESC $$);
SELECT kappa.create_view('germans', $$ SELECT user_id, name FROM users WHERE country = 'DE' $$);
SELECT kappa.create_view('people', $$ SELECT u.user_id, u.name, c.name AS country FROM users u LEFT JOIN countries c ON c.code = u.country $$);
SELECT kappa.create_view('pages', $$ SELECT page, count(*) AS n, sum(user_id) AS s, max(at) AS last FROM clicks GROUP BY page $$);
SELECT kappa.create_view('sums', $$ SELECT page, sum(amount) AS amount, sum(ratio) AS ratio, min(amount) AS least FROM clicks GROUP BY page $$);
SELECT kappa.create_view('stats', $$ SELECT page, count(*) / 2 AS half, round(avg(price), 3) AS price, stddev(amount) AS spread FROM clicks GROUP BY page HAVING count(*) > 150 $$);
CREATE VIEW named AS SELECT user_id, page, amount FROM clicks WHERE page IS NOT NULL;
SELECT kappa.create_view('through', $$ WITH n AS (SELECT page, amount FROM named) SELECT page, avg(amount) AS mean, max(amount) AS most FROM n GROUP BY page $$);
SELECT kappa.create_view('totals', $$ SELECT count(*) AS n, sum(price) AS price FROM clicks $$);
SELECT kappa.create_view('late', $$ SELECT user_id, page FROM clicks $$, start => 'latest');
));
my @views = qw(log tag_log last_click last_place germans people pages sums stats through totals late);

is(sql("SELECT kappa.verify('$_')"), 0, "$_ is equal before its first message") for @views;

my $clicks = 0;
sub click
{
	my $i = ++$clicks;

	my $click = {
		user_id => $i % 97,
		page => $i % 11 ? '/' . ($i % 23) : undef,
		at => $i % 7 ? sprintf('2026-11-01T%02d:%02d:%02dZ', $i % 24, $i % 60, $i % 59) : undef,
		amount => ($i * 7919 % 1000003) / 7.0 * 10**($i % 9),
		ratio => $i % 1000 / 3.0,
		price => $i % 2 ? '1.0' : '1.00',
		doc => { n => $i % 5, list => [ 1, $i % 3 ] },
		spot => '(' . $i % 10 . ',1.5)',
		tags => [ map { "t$_" } 1 .. $i % 4 ],
	};
	return { value => $click };
}

sub user
{
	my ($i) = @_;

	return { key => $i % 61, value => undef } if $i % 13 == 0;
	return { key => $i % 61, value => { name => "user $i", country => ('DE', 'FR', 'US')[ $i % 3 ] } };
}

my @producers = (
	start_producer('clicks', [ map { click() } 1 .. 6000 ], rate => 1000),
	start_producer('users', [ map { user($_) } 1 .. 3000 ], rate => 500));
my $moving = 0;
my %differences;
for my $round (1 .. 3)
{
	my $before = sql("SELECT sum(next_offset) FROM kappa.offsets");
	$differences{$_} .= sql("SELECT kappa.verify('$_')") for @views;
	$moving++ if $before ne sql("SELECT sum(next_offset) FROM kappa.offsets");
}
$_->finish foreach @producers;
is($differences{$_}, '000', "$_ is equal while messages come") for @views;
cmp_ok($moving, '>', 0, 'and they came');
caught_up($_) for @views;
verified($node, $_) for @views;
is(sql("SELECT count(*) FROM kappa.diff_view('$_')"), 0, "no difference of $_ is listed") for @views;

# ---- What was changed by hand is found. ----

is(count_damage('log', "DELETE FROM log WHERE ctid IN (SELECT ctid FROM log LIMIT 3)"), 3, 'rows deleted from an append view');
is(count_damage('log', 'INSERT INTO log SELECT * FROM log LIMIT 4'), 4, 'rows inserted twice');
is( list_damage('tag_log', "INSERT INTO tag_log VALUES (-1, 'x'), (-1, 'x'), (-2, NULL)"),
	qq(extra|1|-|{"user_id":-2,"t":null}\nextra|2|-|{"user_id":-1,"t":"x"}), 'extra rows, with copies and NULLs');
is( list_damage('tag_log', "DELETE FROM tag_log WHERE user_id = 3 AND t = 't1'"),
	sql(q(SELECT format('missing|%s|-|{"user_id":3,"t":"t1"}', count(*)) FROM tag_log WHERE user_id = 3 AND t = 't1')),
	'missing rows, with copies');
is( count_damage('log', "UPDATE log SET doc = '{}' WHERE ctid = (SELECT ctid FROM log LIMIT 1)"),
	2, 'a changed row of an append view is one that is missing and one that is extra');
is(count_damage('log', "UPDATE log SET spot = point(1, 2) WHERE ctid = (SELECT ctid FROM log LIMIT 1)"), 2, 'types without equality are compared');
is(count_damage('log', "UPDATE log SET price = price * 1.000"), 0, 'equal numbers of another scale are equal');
is( count_damage('log', "UPDATE log SET amount = amount * (1 + 1e-12) WHERE ctid = (SELECT ctid FROM log WHERE amount > 1 LIMIT 1)"),
	2, 'floating-point numbers that are no sums are compared exactly');
is(count_damage('log', 'TRUNCATE log'), sql('SELECT count(*) FROM log'), 'an emptied view');

is(count_damage('last_click', 'DELETE FROM last_click WHERE user_id < 5'), 5, 'rows deleted from a view with a key');
is(count_damage('last_click', "UPDATE last_click SET page = 'x', amount = 0 WHERE user_id = 7"), 1, 'a changed row of a view with a key is one row');
like(
	list_damage('last_click', "UPDATE last_click SET page = 'x', doc = NULL WHERE user_id = 7"),
	qr(^missing\|1\|\{page,doc\}\|\{"user_id":7,"page":.*"doc":\{"(n|list)".*\}\}\nextra\|1\|\{page,doc\}\|\{"user_id":7,"page":"x",.*"doc":null\}$),
	'both rows are listed, with the columns that differ');
is( list_damage('germans', 'DELETE FROM germans WHERE user_id = (SELECT min(user_id) FROM germans)'),
	sql(q(SELECT 'missing|1|-|' || row_to_json(g) FROM germans g ORDER BY user_id LIMIT 1)), 'a missing row of a changelog');
is(list_damage('germans', "INSERT INTO germans VALUES (1000, 'nobody')"), 'extra|1|-|{"user_id":1000,"name":"nobody"}', 'an extra one');
is(list_damage('last_place', "UPDATE last_place SET page = 'other' WHERE page IS NULL") =~ s/\|\{.*//gr, "extra|1|-\nmissing|1|-", 'a key that is NULL');
is(count_damage('pages', "UPDATE pages SET n = n + 1"), sql('SELECT count(*) FROM pages'), 'all groups changed');
is(list_damage('pages', "UPDATE pages SET last = NULL WHERE page IS NULL") =~ s/\|\{"page.*//gr, "missing|1|{last}\nextra|1|{last}", 'a value that became NULL, of the NULL group');
is(list_damage('totals', 'UPDATE totals SET n = n - 1') =~ s/\|\{"n.*//gr, "missing|1|{n}\nextra|1|{n}", 'the row of an aggregate without GROUP BY');
is(list_damage('totals', 'DELETE FROM totals') =~ s/\|\{"n.*//gr, 'missing|1|-', 'and without it');
like(list_damage('stats', 'UPDATE stats SET spread = spread * 1.001, half = half + 1 WHERE page IS NULL') =~ s/\|\{"page.*//gr, qr/^missing\|1\|\{half,spread\}\nextra\|1\|\{half,spread\}$/, 'aggregates whose state is kept elsewhere');
is(count_damage('through', 'DELETE FROM through'), 23, 'a topic read through an SQL view');
is(count_damage('totals', 'UPDATE totals SET price = price * 1.0'), 0, 'equal is enough here, too');

is( damage('pages', 'UPDATE pages SET n = 0', q(SELECT count(*) FROM kappa.diff_view('pages', 5))),
	5, 'not more rows than are asked for');
like(
	messages("BEGIN; ALTER TABLE pages DISABLE TRIGGER kappa_guard; UPDATE pages SET n = 0; SELECT * FROM kappa.diff_view('pages', 5); ROLLBACK"),
	qr/NOTICE:  only the first 5 differences are listed/, 'and it is said');
like(
	messages("BEGIN; ALTER TABLE pages DISABLE TRIGGER kappa_guard; UPDATE pages SET n = 0, s = NULL; SELECT kappa.verify('pages'); ROLLBACK"),
	qr/differs from its query in 24 rows.*\n.*differ in: n, s\./, 'verify names the columns');

# What stays is found again, also while messages come.
sql("ALTER TABLE pages DISABLE TRIGGER kappa_guard; UPDATE pages SET s = s + 1 WHERE page = '/5'; ALTER TABLE pages ENABLE TRIGGER kappa_guard");
my $producer = start_producer('clicks', [ map { click() } 1 .. 2000 ], rate => 1000);
is(sql("SELECT kappa.verify('pages')"), 1, 'damage is found while messages come') for 1 .. 3;
$producer->finish;
caught_up('pages');
is(sql("SELECT kappa.verify('pages')"), 1, 'and it stays until the view is rebuilt');
sql("SELECT kappa.rebuild('pages', switch => 'manual')");
ok(wait_for($node, "SELECT phase FROM kappa.rebuilds WHERE view = 'pages'::regclass", 'waiting for switch_rebuild'), 'a rebuild waits to be switched');
is(sql("SELECT kappa.verify('pages')"), 1, 'the live version is compared');
sql("SELECT kappa.switch_rebuild('pages')");
is(sql("SELECT kappa.wait_for_rebuild('pages', '60 s')"), 't', 'switched');
verified($node, 'pages');

# ---- Floating-point sums. ----

is(count_damage('sums', "UPDATE sums SET amount = amount * (1 + 1e-11), ratio = ratio * (1 + 1e-6)"), 0, 'within the tolerance there is no difference');
is( list_damage('sums', "UPDATE sums SET amount = amount * (1 + 1e-7) WHERE page = '/5'") =~ s/\|\{"page.*//gr,
	"missing|1|{amount}\nextra|1|{amount}", 'beyond it the column is named');
like(
	messages("BEGIN; ALTER TABLE sums DISABLE TRIGGER kappa_guard; UPDATE sums SET amount = 'inf', ratio = 'nan' WHERE page = '/5'; SELECT kappa.verify('sums'); ROLLBACK"),
	qr/in 1 rows?.*\n.*differ in: amount, ratio\./, 'infinity and NaN equal no number');

is( sql(q(
	SELECT string_agg(CASE WHEN kappa.same_value(a, b, true) THEN 'y' ELSE 'n' END, '' ORDER BY i)
	FROM (VALUES (1, 0::float8, '-0'::float8), (2, 'nan', 'nan'), (3, 'inf', 'inf'), (4, 'inf', '-inf'),
		(5, 'inf', '1e308'), (6, 'nan', '1'), (7, NULL, NULL), (8, NULL, '0'), (9, '1e308', '-1e308'), (10, '1', '1.0000000001'),
		(11, '1', '1.00000001'), (12, '0', '1e-300'), (13, '5e-324', '1e-323'), (14, '-1e9', '-1000000000.1')) v(i, a, b))),
	'yyynnnynnynnny', 'floating-point numbers at the edges');
is( sql(q(
	SELECT concat_ws(' ', kappa.same_value(1::float8, 1 + 1e-10::float8, false),
		kappa.same_value(ARRAY[1::float8, NULL], ARRAY[1 + 1e-10::float8, NULL], true),
		kappa.same_value(ARRAY[1::float8], ARRAY[1::float8, 2], true),
		kappa.same_value('[2:2]={1}'::float8[], '{1}'::float8[], true),
		kappa.same_value(ROW('a', 1::real), ROW('a', 1.000001::real), true),
		kappa.same_value(ROW('a', 1::real), ROW('b', 1::real), true),
		kappa.same_value('{"a":1}'::json, '{"a": 1}'::json, true),
		kappa.same_value('{"a":1}'::jsonb, '{"a": 1}'::jsonb, true),
		kappa.same_value(1.0, 1.00, false),
		kappa.same_value('(1,2)'::point, '(1,2)'::point, false)))),
	'f t f f t f f t t t', 'inside arrays and rows, and other types');

# ---- What cannot be compared. ----

# Lookups: a row is right as it was when its message came.
verified($node, 'people');
sql("UPDATE countries SET name = 'Deutschland' WHERE code = 'DE'");
fails_like($node, "SELECT kappa.verify('people')", qr/rows of view "people" differ from its query, but may be right\nDETAIL:.*the query looks up tables/, 'a view with lookups');
like(messages("SELECT * FROM kappa.diff_view('people')"), qr/WARNING:  rows of view "people" differ/, 'whose rows are listed with a warning');
cmp_ok(sql("SELECT count(*) FROM kappa.diff_view('people') WHERE columns = '{country}'"), '>', 1, 'but listed');
sql("UPDATE countries SET name = 'Germany' WHERE code = 'DE'");
verified($node, 'people');

# A message that cannot be applied, and the gaps that pass over such.
create_topic('nums', partitions => 2);
sql(q(
CREATE FOREIGN TABLE nums (n int, k text) SERVER events OPTIONS (topic 'nums', format 'json');
SELECT kappa.create_view('num_log', 'SELECT n, k FROM nums');
SELECT kappa.create_view('num_sums', 'SELECT k, sum(n) AS s FROM nums GROUP BY k');
SELECT kappa.create_view('num_keys', 'SELECT k FROM nums');
));
sub num { return { partition => $_[1] // 0, value => { n => $_[0], k => 'k' . length $_[0] } } }
produce('nums', [ map { num($_) } 1 .. 20 ]);
caught_up('num_log');
produce('nums', [ num('one'), map { num($_) } 21 .. 40 ]);
caught_up('num_log');
is(sql("SELECT part, pos FROM kappa.dead_letters WHERE view = 'num_log'::regclass"), '0|20', 'a bad message');
verified($node, 'num_log', name => 'is not among what the view has applied');
is(sql("SELECT count(*) FROM kappa.messages_of('num_log', '{}')"), 40, 'nor behind its rows');
caught_up('num_keys');
verified($node, 'num_keys', name => 'nor looked at by a view that does not read the column');
fails_like($node, 'SELECT sum(n) FROM nums', qr/invalid input syntax for type integer: "one"/, 'whereas an ad-hoc query meets the message');
is(count_damage('num_log', 'DELETE FROM num_log WHERE n IN (20, 21)'), 2, 'the rows beside it are compared');
caught_up('num_sums');
sql("SELECT kappa.pause_view('num_sums')");
sql("SELECT kappa.seek_view('num_sums', 'nums', 0, 45)");
sql("SELECT kappa.seek_view('num_sums', 'nums', 0, 50)");
verified($node, 'num_sums', name => 'a gap at the end, beyond the end of the log');
produce('nums', [ map { num($_) } 41 .. 60 ]);
produce('nums', [ map { num($_, 1) } 1 .. 10 ]);
sql("SELECT kappa.resume_view('num_sums')");
caught_up('num_sums');
verified($node, 'num_sums', name => 'a dead letter, and two gaps that touch');

# The log no longer reaches back.
sql(q(SELECT kappa.create_view('num_new', 'SELECT n FROM nums', start => 'latest')));
$kafka->tool('delete-records', 'nums', 0, 10);
fails_like($node, "SELECT kappa.verify('num_log')",
	qr/view "num_log" cannot be compared: topic "nums" does not have all messages.*\nDETAIL:  Partition 0 begins at offset 10, the view at offset 0: 10 offsets are missing\.\nHINT:.*incomplete/,
	'retention');
fails_like($node, "SELECT * FROM kappa.diff_view('num_log')", qr/10 offsets are missing/, 'nothing is listed then');
produce('nums', [ map { num($_) } 61 .. 70 ]);
caught_up('num_new');
verified($node, 'num_new', name => 'a view that begins later is not concerned');
create_topic('nums');
fails_like($node, "SELECT kappa.verify('num_new')", qr/does not have all messages.*\nDETAIL:  (The view has read partition 1|Partition 0 ends at offset 0)/, 'another topic of that name');
produce('nums', [ map { num($_) } 1 .. 200 ]);
sql("SELECT kappa.drop_view('$_')") for qw(num_log num_sums num_keys num_new);

# A topic that was made anew and is as long as the old one.
create_topic('small');
sql(q(
CREATE FOREIGN TABLE small (n int) SERVER events OPTIONS (topic 'small', format 'json');
SELECT kappa.create_view('small_log', 'SELECT n FROM small')));
produce('small', [ map { { value => { n => $_ } } } 1 .. 5 ]);
caught_up('small_log');
ok(wait_for($node, "SELECT last_offset[1] >= 0 FROM kappa.last_message WHERE view = 'small_log'::regclass"), 'a message is remembered');
sql("SELECT kappa.pause_view('small_log')");
create_topic('small');
produce('small', [ map { { value => { n => $_ } } } 11 .. 17 ]);
fails_like($node, "SELECT kappa.verify('small_log')", qr/the topic is not the one that view "small_log" was built from/, 'a topic that was made anew');

# Compaction.
my %compact = (
	'cleanup.policy' => 'compact',
	'min.cleanable.dirty.ratio' => 0.01,
	'segment.ms' => 100,
	'delete.retention.ms' => 0);
create_topic('compacted', config => \%compact);
sql(q(
CREATE FOREIGN TABLE events_of (k text OPTIONS (metadata 'key'), v int) SERVER events OPTIONS (topic 'compacted', format 'json');
CREATE FOREIGN TABLE latest_of (k varchar OPTIONS (metadata 'key', key 'true'), v int) SERVER events OPTIONS (topic 'compacted', format 'json');
SELECT kappa.create_view('as_events', 'SELECT k, count(*) AS n FROM events_of GROUP BY k');
SELECT kappa.create_view('as_latest', 'SELECT v, k FROM latest_of');
SELECT kappa.create_view('as_latest_paused', 'SELECT v, k FROM latest_of');
CREATE FOREIGN TABLE latest_by_time (k varchar OPTIONS (metadata 'key', key 'true'), v int) SERVER events OPTIONS (topic 'compacted', key_order 'timestamp');
SELECT kappa.create_view('by_time', 'SELECT v, k FROM latest_by_time');
));
sub keyed { my ($v, @keys) = @_; return [ map { { key => $_, value => defined $v ? { v => $v } : undef } } @keys ] }
produce('compacted', keyed(1, 'a' .. 'j'));
caught_up($_) for qw(as_events as_latest as_latest_paused by_time);
sql("SELECT kappa.pause_view('as_latest_paused')");
verified($node, 'as_events', name => 'nothing is compacted yet');
produce('compacted', keyed(2, qw(a b d e)));
produce('compacted', keyed(2, 'c'), timestamp => int(1000 * (time - 600)));
produce('compacted', keyed(undef, 'f'));
# One message of each key is left, and no tombstone; only behind the end of a segment does Kafka look.
my $left = '';
for (my ($i, $end) = (1, time + 120); $left ne 'abcdeghij' && time < $end; $i++)
{
	produce('compacted', keyed($i, 'z'));
	$left = sql("SELECT string_agg(k, '' ORDER BY k) FROM events_of WHERE k <> 'z'");
}
is($left, 'abcdeghij', 'the log is compacted');
caught_up($_) for qw(as_events as_latest by_time);
is(sql("SELECT v FROM by_time WHERE k = 'c'"), 1, 'the latest by timestamp');
fails_like($node, "SELECT kappa.verify('by_time')", qr/cannot be compared: its topic "compacted" is compacted\nDETAIL.*\nHINT:.*largest offset, and not the latest timestamp/, 'may be compacted away');
fails_like($node, "SELECT kappa.verify('as_events')", qr/cannot be compared: its topic "compacted" is compacted\nDETAIL:  \d+ of the offsets/, 'a compacted topic of events');
verified($node, 'as_latest', name => 'a compacted changelog has the latest messages');
verified($node, 'as_latest_paused', name => 'a view that is behind is not blamed for what newer messages replaced');
is(count_damage('as_latest_paused', "UPDATE as_latest_paused SET v = 0"), 4, 'what can be known is compared');
is(count_damage('as_latest', "UPDATE as_latest SET v = 0 WHERE k IN ('a', 'j')"), 2, 'and all of a view at the end');

# Definitions.
fails_like($node, "SELECT kappa.verify('countries')", qr/"countries" is not a view of kappa/, 'a table that is no view');
sql('ALTER FOREIGN TABLE small ALTER n OPTIONS (ADD path \'m\')');
fails_like($node, "SELECT kappa.verify('small_log')", qr/foreign table "small" has changed since view/, 'a topic of another meaning');
sql('DROP FOREIGN TABLE small CASCADE');
fails_like($node, "SELECT kappa.verify('small_log')", qr/definition of view "public.small_log" was dropped/, 'a definition that is gone');
sql('CREATE ROLE visitor; GRANT SELECT ON pages TO visitor');
fails_like($node, "SET ROLE visitor; SELECT kappa.verify('pages')", qr/must be owner of table pages/, 'only the owner may ask');
fails_like($node, "SET ROLE visitor; SELECT * FROM kappa.diff_view('pages')", qr/must be owner of table pages/, 'and see the rows');
fails_like($node, 'SELECT * FROM clicks AS "kappa log"', qr/no offsets are bound/, 'nothing is left bound');

# ---- As the owner, under the settings of the view, in any transaction. ----

sql(q(
CREATE ROLE app; GRANT CREATE ON SCHEMA public TO app; GRANT SELECT ON clicks, users TO app; GRANT USAGE ON FOREIGN SERVER events TO app;
CREATE USER MAPPING FOR app SERVER events;
));
sql(q(
SET ROLE app; SET TimeZone = 'Asia/Tokyo'; SET search_path = public;
SELECT kappa.create_view('days', $$ SELECT date_trunc('day', at)::text AS day, count(*) AS n FROM clicks GROUP BY 1 $$);
));
caught_up('days');
is(sql("SET TimeZone = 'UTC'; SET search_path = ''; SET DateStyle = 'German'; SELECT kappa.verify('public.days')"), 0, 'under the settings of the view');
is(sql("SET ROLE app; SELECT kappa.verify('days')"), 0, 'by its owner');
is(sql("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT kappa.verify('pages'); COMMIT"), 0, 'in a transaction with one snapshot');
is( sql(q(
	DO $$ BEGIN PERFORM kappa.verify('countries'); EXCEPTION WHEN OTHERS THEN NULL; END $$;
	SELECT kappa.verify('pages') + kappa.verify('log') + kappa.verify('germans');)),
	0, 'several views in one statement');

# ---- It reads in parallel where a query does, and can be cancelled. ----

create_topic('many', partitions => 2);
sql(q(
CREATE FOREIGN TABLE many (n int) SERVER events OPTIONS (topic 'many', format 'json');
SELECT kappa.create_view('many_log', 'SELECT n FROM many');
SELECT kappa.create_view('many_groups', 'SELECT n % 1000 AS r, count(*) AS c, sum(n) AS s FROM many GROUP BY 1');
SELECT kappa.create_view('many_keys', 'SELECT n, count(*) AS c FROM many GROUP BY n');
SELECT kappa.create_view('many_odd', $$ SELECT n % 10 AS w, n % 7 AS k, count(*) AS r, sum(n) AS p, max(n) AS "odd ""name" FROM many GROUP BY 1, 2 $$);
SELECT kappa.create_view('many_totals', 'SELECT count(*) AS c, max(n) AS m FROM many');
));
my $n = 0;
produce('many', sub { return ++$n <= 300_000 ? { partition => $n % 2, value => qq({"n":$n}) } : undef });
caught_up($_) for qw(many_log many_groups many_keys many_odd many_totals);
sql('ANALYZE');
like(
	messages(q(
	LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET auto_explain.log_nested_statements = on;
	SET auto_explain.log_level = notice; SET auto_explain.log_analyze = on; SELECT kappa.verify('many_groups'))),
	qr/Workers Launched: [1-9].*Parallel Foreign Scan on many "kappa log"/s,
	'a long log is read in parallel');

my $parallel = 'SET min_parallel_table_scan_size = 0; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0;';
for my $view (qw(many_log many_groups many_keys many_totals))
{
	is(sql("$parallel SELECT kappa.verify('$view')"), 0, "$view is compared in parallel");
	is(sql("$parallel SET parallel_leader_participation = off; SELECT kappa.verify('$view')"), 0, 'and by workers alone');
}
sql("ALTER TABLE many_keys DISABLE TRIGGER kappa_guard; UPDATE many_keys SET c = 2");
is(sql("$parallel SELECT kappa.verify('many_keys')"), 300_000, 'whatever differs');
is(sql("$parallel SELECT count(*) FROM kappa.diff_view('many_keys', 700000)"), 600_000, 'and is listed');
is( list_damage('many_odd', 'UPDATE many_odd SET "odd ""name" = 0 WHERE w = 3 AND k = 5') =~ s/.*"odd/"odd/gr,
	'"odd \"name":299983}'."\n".'"odd \"name":0}', 'columns of any name');

# Milliseconds that a verification takes, on a machine that does nothing else.
sub least_time
{
	my ($view) = @_;

	return min map {
		my $began = time;
		verified($node, $view);
		1000 * (time - $began);
	} 1 .. 3;
}

for my $view (qw(many_log many_groups many_totals))
{
	my $least = least_time($view);

	cancelled_at_once($node, "SELECT kappa.verify('$view')", "verify of $view can be cancelled at once",
		limit => 500,
		after => [ map { max(1, int($least * $_ / 10)) } 1 .. 3 ]);
}

$node->stop('fast');
done_testing();
