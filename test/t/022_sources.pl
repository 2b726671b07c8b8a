
# What stands between a topic and a view's query: subqueries, WITH, SQL views.
# The view has the rows of its query as PostgreSQL runs it, and notices when an
# SQL view that it reads through is not the same any more.

use strict;
use warnings;

use KappaTest;
use Test::More;

my $kafka = start_kafka();
my $node = new_node(conf => 'kappa.metadata_interval = 500ms');
my $batch = 0;

sub sql { return $node->safe_psql('postgres', $_[0]) }

# Events with NULLs, keys that come back, and arrays.
sub events
{
	my ($n) = @_;
	$batch++;
	return [ map {
		{
			value => {
				user_id => $_ % 7 ? $_ % 23 : undef,
				page => '/' . $_ % 5,
				country => (qw(de fr us xx))[ $_ % 4 ],
				amount => $_ % 11 - 2,
				at => sprintf('2026-01-%02d %02d:%02d:00+00', 1 + $_ % 28, $batch, $_ % 60),
				items => [ map { { sku => "s$_", n => $_ } } 0 .. $_ % 3 ],
			}
		}
	} 1 .. $n ];
}

sub users
{
	return [ map {
		{
			key => "$_",
			value => ($_ + $batch) % 5 ? { name => "user $_ $batch", country => (qw(de fr xx))[ ($_ + $batch) % 3 ] } : undef
		}
	} 1 .. 30 ];
}

create_topic('sources', partitions => 3);
create_topic('people', partitions => 3);
sql(q(
CREATE FOREIGN TABLE clicks (gone int, user_id bigint, page text, country text, amount int, at timestamptz, items jsonb)
	SERVER events OPTIONS (topic 'sources', format 'json');
CREATE FOREIGN TABLE users (user_id bigint OPTIONS (key 'true', metadata 'key'), name text, country text)
	SERVER events OPTIONS (topic 'people', format 'json');
CREATE TABLE countries (code text PRIMARY KEY, name text, europe boolean);
INSERT INTO countries VALUES ('de', 'Germany', true), ('fr', 'France', true), ('us', 'United States', false);
ALTER FOREIGN TABLE clicks DROP COLUMN gone;
CREATE VIEW paid AS SELECT user_id, page, country, amount * 100 AS cents, at::date AS day, at, items FROM clicks WHERE amount > 0;
CREATE VIEW paid_europe (u, p, c, cents, at) AS
	SELECT user_id, page, name, cents, at FROM paid JOIN countries ON code = country WHERE europe;
CREATE VIEW sold AS
	SELECT page, item ->> 'sku' AS sku, (item ->> 'n')::int * cents AS total
	FROM paid, jsonb_array_elements(items) AS item;
CREATE VIEW recent AS SELECT user_id, page FROM clicks WHERE at > timestamptz '2026-01-03 00:00:00+00' AND amount::text::money > '1'::money;
CREATE VIEW named AS SELECT u.name, u.user_id AS id, c.name AS country
	FROM users u LEFT JOIN countries c ON c.code = u.country WHERE u.name <> 'user 3 1';
));

my %queries = (
	rows => 'SELECT user_id, page, cents, day FROM paid',
	nested => q(SELECT u, upper(p) AS p, c, cents / 100.0 AS amount FROM paid_europe WHERE c > 'A'),
	grouped => 'SELECT day, count(*), sum(cents) FROM paid GROUP BY day',
	over_nested => 'SELECT c, p, sum(cents), max(at) FROM paid_europe GROUP BY c, p',
	total => 'SELECT count(*) AS n, sum(x) AS s FROM (SELECT amount + 1 AS x FROM clicks WHERE amount % 2 = 0) q',
	with_query => q(WITH a AS (SELECT page AS p, amount FROM clicks WHERE country <> 'us'), b(q, z) AS (SELECT p, amount * 2 FROM a WHERE amount > 1)
		SELECT q, count(*), min(z) AS z FROM b GROUP BY q),
	twice => q(WITH k AS (SELECT code, name FROM countries WHERE europe)
		SELECT page, a.name, b.name AS other FROM clicks JOIN k a ON a.code = country LEFT JOIN k b ON b.code = CASE page WHEN '/1' THEN 'fr' END),
	items => 'SELECT page, sku, sum(total) FROM sold GROUP BY page, sku',
	items_inside => q(SELECT s.page, s.sku, c.name FROM (SELECT page, country, item ->> 'sku' AS sku
		FROM clicks CROSS JOIN LATERAL jsonb_array_elements(items) AS item WHERE item ->> 'sku' <> 's0') s LEFT JOIN countries c ON c.code = s.country),
	frequent => q(WITH s AS (SELECT page, country, amount * 2 AS a FROM clicks WHERE amount > 0)
		SELECT page, country, count(*), round(avg(a), 2) AS mean, sum(a) / count(*) AS whole FROM s GROUP BY page, country HAVING sum(a) > 100),
	outside => q(SELECT k, v FROM (SELECT page || '!' AS k, items FROM clicks WHERE amount > 3) s, LATERAL (SELECT length(s.k) + jsonb_array_length(s.items) AS v) l),
	right_side => q(SELECT c.name, s.n FROM countries c JOIN (SELECT country, amount % 3 AS n FROM clicks WHERE amount > 2) s ON s.country = c.code AND s.n > 0),
	preserved => q(SELECT c.name, s.n FROM countries c RIGHT JOIN (SELECT country, amount % 3 AS n FROM clicks WHERE amount > 2) s ON s.country = c.code AND s.n > 0),
	merged => q(SELECT code, page, name FROM (SELECT country AS code, page FROM clicks WHERE amount > 1) s LEFT JOIN countries USING (code)),
	latest => 'SELECT DISTINCT ON (u) u, page, at FROM (SELECT coalesce(user_id, -1) AS u, page, at FROM clicks WHERE amount > 0) s ORDER BY u, at DESC NULLS LAST, page',
	latest_view => 'SELECT DISTINCT ON (page) page, cents FROM paid ORDER BY page, at DESC NULLS LAST, cents DESC NULLS LAST',
	changes => q(SELECT id, upper(name) AS name, country FROM named),
	changes_filtered => q(SELECT s.id, s.name, c.name AS country FROM (SELECT user_id AS id, name, country FROM users WHERE country <> 'fr') s JOIN countries c ON c.code = s.country),
);

produce('sources', events(500));
produce('people', users());
sql("SELECT kappa.create_view('$_', \$q\$$queries{$_}\$q\$)") foreach sort keys %queries;

# Constants of an SQL view are printed differently here and in a worker.
$queries{recent_pages} = 'SELECT page, count(*) FROM recent GROUP BY page';
sql("SET TimeZone = 'Asia/Kolkata'; SET lc_monetary = 'C.UTF-8'; SET DateStyle = 'German'; SELECT kappa.create_view('recent_pages', \$q\$$queries{recent_pages}\$q\$)");
ok_view($node, $_) foreach sort keys %queries;

# Several more batches, of one message and of many.
foreach my $n (1, 3, 700)
{
	produce('sources', events($n));
	produce('people', users());
	ok_view($node, $_, name => "$_ after $n more") foreach sort keys %queries;
}
is(sql(q(SELECT string_agg(view::text, ' ' ORDER BY view::text) FROM kappa.views WHERE exact)),
	'frequent grouped items latest latest_view outside recent_pages rows total with_query', 'views without lookups are exact');

# An SQL view that is replaced by one that means the same changes nothing.
sql(q(CREATE OR REPLACE VIEW paid AS SELECT c.user_id, c.page, c.country, c.amount * 100 AS cents, c.at::date AS day, c.at, c.items FROM clicks AS c WHERE c.amount > 0));
produce('sources', events(10));
ok_view($node, 'grouped', name => 'the same in other words');

# Nor do names that change.
sql(q(ALTER FOREIGN TABLE clicks RENAME TO visits));
sql(q(ALTER FOREIGN TABLE visits OPTIONS (SET topic 'sources')));
sql(q(ALTER VIEW paid RENAME TO bought));
sql(q(ALTER TABLE countries RENAME COLUMN europe TO european));
produce('sources', events(10));
ok_view($node, $_, name => "$_ under other names") foreach qw(grouped nested items);

# A dump and restore, which gives new numbers to all columns, is none either.
my $dump = "$PostgreSQL::Test::Utils::tmp_check/sources.sql";
$node->command_ok([ 'pg_dump', '-f', $dump, $node->connstr('postgres') ], 'pg_dump');
sql('CREATE DATABASE copy');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $dump, $node->connstr('copy') ], 'restore');
foreach my $view (qw(nested grouped latest_view))
{
	$node->safe_psql('copy', "SELECT kappa.resume_view('$view')");
	ok_view($node, $view, dbname => 'copy', name => "$view in a restored database");
}

# Another meaning stops the views that read through it, before they mix the two.
my $before = sql('SELECT count(*), sum(count) FROM grouped');
sql(q(CREATE OR REPLACE VIEW bought AS SELECT user_id, page, country, amount * 1000 AS cents, at::date AS day, at, items FROM visits WHERE amount > 0));
produce('sources', events(10));
foreach my $view (qw(rows nested grouped over_nested items latest_view))
{
	ok(wait_for($node, qq(SELECT state = 'stopped' AND reason LIKE 'an SQL view that view % reads its topic through has changed%'
		FROM kappa.views WHERE view = '$view'::regclass)), "$view stops");
}
is(sql('SELECT count(*), sum(count) FROM grouped'), $before, 'nothing was applied');
ok_view($node, 'total', name => 'others go on');
fails_like($node, q(SELECT kappa.resume_view('grouped')), qr/HINT: .*kappa\.rebuild\(\)/, 'it cannot be resumed');

# Changed back, it can.
sql(q(CREATE OR REPLACE VIEW bought AS SELECT user_id, page, country, amount * 100 AS cents, at::date AS day, at, items FROM visits WHERE amount > 0));
sql(q(SELECT kappa.resume_view('grouped')));
ok_view($node, 'grouped', name => 'changed back');

# Or the view is built anew, with what the SQL view says now.
sql(q(CREATE OR REPLACE VIEW bought AS SELECT user_id, page, country, amount * 7 AS cents, at::date AS day, at, items FROM visits WHERE amount > 1));
ok(wait_for($node, q(SELECT state FROM kappa.views WHERE view = 'grouped'::regclass), 'stopped'), 'it stops again');
sql(q(SELECT kappa.rebuild('grouped')));
is(sql(q(SELECT kappa.wait_for_rebuild('grouped', '1 min'))), 't', 'a rebuild');
produce('sources', events(10));
ok_view($node, 'grouped', name => 'built anew');

# What the analysis would refuse stops a view like any other change.
sql(q(CREATE OR REPLACE VIEW bought AS SELECT DISTINCT user_id, page, country, amount * 7 AS cents, at::date AS day, at, items FROM visits WHERE amount > 1));
ok(wait_for($node, q(SELECT state FROM kappa.views WHERE view = 'grouped'::regclass), 'stopped'), 'so does one that is not supported');
fails_like($node, q(SELECT kappa.rebuild('grouped')), qr/with DISTINCT/, 'which a rebuild refuses');

# The SQL view cannot be dropped from under a view of kappa, but with CASCADE.
fails_like($node, 'DROP VIEW named', qr/view kappa_state\.changes_v1 depends on view named/, 'DROP VIEW');
sql(q(SET client_min_messages = warning; DROP VIEW named CASCADE));
ok(wait_for($node, q(SELECT state FROM kappa.views WHERE view = 'changes'::regclass), 'stopped'), 'CASCADE stops it');
cmp_ok(sql('SELECT count(*) FROM changes'), '>', 0, 'the table keeps its rows');
like(sql(q(SELECT reason FROM kappa.views WHERE view = 'changes'::regclass)), qr/dropped/, 'and says why');

$node->stop('fast');
done_testing();
