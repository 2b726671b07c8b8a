
# The main job, end to end: the statements of the documentation's first page,
# against a real Kafka, and what each kind of view does with its messages.

use strict;
use warnings;

use KappaTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = start_kafka();
my $node = new_node();
my $brokers = $kafka->brokers;

create_topic('clicks', partitions => 3);
create_topic('users', partitions => 2, config => { 'cleanup.policy' => 'compact' });

# ---- As a new user would, word for word but for the brokers' address. ----

$node->safe_psql(
	'postgres', qq(
DROP SERVER events;
CREATE ROLE app LOGIN;

CREATE SERVER events FOREIGN DATA WRAPPER kappa OPTIONS (bootstrap_servers '$brokers');
CREATE USER MAPPING FOR app SERVER events OPTIONS (sasl_username 'app', sasl_password '...');

-- a stream of events: every message is a row
CREATE FOREIGN TABLE clicks (
    user_id  bigint,
    page     text,
    country  text        OPTIONS (path 'geo.country'),
    at       timestamptz,
    part     int         OPTIONS (metadata 'partition'),
    pos      bigint      OPTIONS (metadata 'offset')
) SERVER events OPTIONS (topic 'clicks', format 'json');

-- a changelog: the latest message per key is the row, an empty message (tombstone) deletes it
CREATE FOREIGN TABLE users (
    user_id  bigint OPTIONS (key 'true', metadata 'key'),
    name     text,
    country  text
) SERVER events OPTIONS (topic 'users', format 'json');     -- key_format 'json' and a path for keys like {"user_id": 5}
));

$node->safe_psql(
	'postgres', q(
SELECT kappa.create_view('clicks_per_page',
  $$ SELECT page, count(*) AS clicks, max(at) AS last_seen FROM clicks GROUP BY page $$);
SELECT kappa.create_view('last_click',
  $$ SELECT DISTINCT ON (user_id) user_id, page, at FROM clicks ORDER BY user_id, at DESC NULLS LAST $$);
SELECT kappa.create_view('german_users',
  $$ SELECT user_id, name FROM users WHERE country = 'DE' $$);
));

# Further kinds on the same topics.
$node->safe_psql(
	'postgres', q(
SELECT kappa.create_view('click_log', $$ SELECT user_id, upper(page) AS page, country, at, part, pos FROM clicks WHERE page <> '/secret' $$);
SELECT kappa.create_view('totals', $$ SELECT count(*) AS n, sum(user_id) AS users, min(page) AS first_page, count(*) FILTER (WHERE country = 'DE') AS german FROM clicks $$);
SELECT kappa.create_view('by_country', $$ SELECT country, count(*) AS n, sum(user_id) AS s, bool_or(page = '/a') AS a FROM clicks GROUP BY country $$);
));
is($node->safe_psql('postgres', 'SELECT n, users FROM totals'),
	'0|', 'an aggregate without GROUP BY has its row from the start');

my @clicks = map {
	my $click = {
		user_id => $_ % 17,
		page => '/' . ('a' .. 'k')[ $_ % 11 ],
		at => sprintf('2026-11-01T%02d:%02d:00Z', $_ % 24, $_ % 60)
	};
	$click->{geo} = { country => ('DE', 'FR', 'NL')[ $_ % 3 ] } if $_ % 5;
	$click->{page} = '/secret' if $_ % 50 == 0;
	delete $click->{at} if $_ % 13 == 0;
	$click;
} 1 .. 2000;
produce('clicks', [ map { { value => $_ } } @clicks ]);
produce(
	'users',
	[ map { { key => "$_", value => { name => "user $_", country => $_ % 2 ? 'DE' : 'FR' } } } 1 .. 100 ]);

my @views = qw(clicks_per_page last_click german_users click_log totals by_country);
ok_view($node, $_) for @views;
is($node->safe_psql('postgres', 'SELECT count(*) FROM german_users'),
	50, 'a changelog with WHERE');

# Leave by update, leave by tombstone, both at once, a tombstone for nobody,
# and a return.
produce(
	'users',
	[
		{ key => '1', value => { name => 'user 1', country => 'US' } },
		{ key => '3', value => undef },
		{ key => '5', value => { name => 'user 5', country => 'US' } },
		{ key => '5', value => undef },
		{ key => '999', value => undef },
		{ key => '2', value => { name => 'user two', country => 'DE' } },
		{ key => '7', value => undef },
		{ key => '7', value => { name => 'seven again', country => 'DE' } },
	]);
ok_view($node, 'german_users');
is( $node->safe_psql('postgres',
		"SELECT string_agg(user_id || name, ',' ORDER BY user_id) FROM german_users WHERE user_id < 8"),
	'2user two,7seven again', 'rows leave by update and by tombstone');

# One message at a time.
for my $i (1 .. 20)
{
	produce('clicks', [ { value => { user_id => 500 + $i, page => '/one' } } ]);
}
ok_view($node, $_) for @views;

# An independent oracle: the same messages as jsonb in an ordinary table.
$node->safe_psql('postgres', 'CREATE TABLE raw (m jsonb)');
$node->safe_psql('postgres', 'INSERT INTO raw SELECT m FROM unnest(ARRAY['
	  . join(',', map { "'" . JSON::PP::encode_json($_) . "'" } @clicks)
	  . "]::jsonb[]) m");
same_rows($node, "(SELECT * FROM clicks_per_page WHERE page <> '/one') v",
	q(SELECT m->>'page' AS page, count(*) AS clicks, max((m->>'at')::timestamptz) AS last_seen FROM raw GROUP BY 1),
	name => 'the aggregate equals plain SQL over jsonb');

# ---- What is to be seen. ----

is($node->safe_psql('postgres', "SELECT DISTINCT lag FROM kappa.offsets"), '0', 'lag is zero at the end');
is($node->safe_psql('postgres', "SELECT DISTINCT time_lag FROM kappa.offsets"), '00:00:00', 'and so is the time lag');
ok(wait_for($node, q(SELECT string_agg(DISTINCT state, ',') FROM kappa.views), 'running'), 'all views run');
is($node->safe_psql('postgres', "SELECT kind FROM kappa.views WHERE view = 'last_click'::regclass"), 'latest', 'the kind is told from the query');
ok($node->safe_psql('postgres', "SELECT messages >= 2020 AND batches > 0 FROM kappa.stat_views WHERE view = 'totals'::regclass") eq 't', 'counters count');
like($node->safe_psql('postgres', "SELECT application_name FROM pg_stat_activity WHERE backend_type = 'kappa worker' LIMIT 1"), qr/^kappa worker: topics? /, 'workers say what they do');
is($node->safe_psql('postgres', "SELECT attname FROM pg_attribute WHERE attrelid = 'last_click'::regclass AND attnum > 0 ORDER BY attnum"), "user_id\npage\nat", 'no bookkeeping column shows');

# ---- Pause, resume, drop. ----

$node->safe_psql('postgres', "SELECT kappa.pause_view('totals')");
ok(wait_for($node, q(SELECT count(*) FROM kappa.run_status() WHERE view = 'totals'::regclass), '0'), 'a paused view leaves its worker');
produce('clicks', [ { value => { user_id => 1, page => '/paused' } } ]);
ok_view($node, 'clicks_per_page');
is($node->safe_psql('postgres', "SELECT kappa.wait_for('totals', '200 ms')"), 'f', 'wait_for times out on a paused view');
$node->safe_psql('postgres', "SELECT kappa.resume_view('totals')");
ok_view($node, 'totals');

fails_like($node, 'DELETE FROM totals', qr/cannot change view "totals"/, 'a view is not changed by hand');
fails_like($node, 'ALTER TABLE totals DROP COLUMN n', qr/cannot drop a column of view "totals"/, 'nor its columns');
fails_like($node, 'DROP FOREIGN TABLE clicks', qr/other objects depend on it/, 'its topic is not dropped');

$node->safe_psql('postgres', 'DROP TABLE totals');
$node->safe_psql('postgres', "SELECT kappa.drop_view('last_click')");
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_class WHERE relnamespace = 'kappa_state'::regnamespace AND relname ~ '^(totals|last_click)'"), '0', 'a dropped view leaves nothing behind');
ok_view($node, $_) for grep { !/^(totals|last_click)$/ } @views;

$node->stop('fast');
done_testing();
