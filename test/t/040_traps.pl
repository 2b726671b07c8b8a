
# Things that are easy to get wrong, each of them met in a prototype or in
# another product.

use strict;
use warnings;

use KappaTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = start_kafka();
my $node = new_node(conf => "wal_level = logical\nshared_preload_libraries = 'kappa, auto_explain'\n");

sub sql { return $node->safe_psql('postgres', @_); }

sub state_becomes
{
	my ($view, $state, $name) = @_;
	return ok(
		wait_for($node,
			"SELECT state FROM kappa.views WHERE view = '$view'::regclass", $state),
		$name // "$view is $state");
}

# ---- The end of a partition that holds commit markers and aborted messages. ----

create_topic('tx', partitions => 2);
sql(q(CREATE FOREIGN TABLE tx (n bigint) SERVER events OPTIONS (topic 'tx', format 'json')));
sql(q(SELECT kappa.create_view('tx_sum', 'SELECT count(*) AS c, sum(n) AS s FROM tx')));
produce('tx', [ map { { value => { n => $_ } } } 1 .. 10 ], transaction => 'commit');
ok_view($node, 'tx_sum', name => 'a commit marker at the end');
produce('tx', [ map { { value => { n => 1000 * $_ } } } 1 .. 10 ], transaction => 'abort');
ok_view($node, 'tx_sum', name => 'aborted messages at the end');
is(sql('SELECT c, s FROM tx_sum'), '10|55', 'only committed messages count');
ok(wait_for($node, q(SELECT sum(lag) FROM kappa.offsets WHERE view = 'tx_sum'::regclass), '0'),
	'lag reaches zero behind aborted messages');
is(sql('SELECT count(*), sum(n) FROM tx'), '10|55', 'an ad-hoc scan ends behind aborted messages');
my $open = open_transaction('tx', [ map { { value => { n => 7 } } } 1 .. 3 ]);
ok_view($node, 'tx_sum', name => 'an open transaction is not waited for');
$open->commit;
ok_view($node, 'tx_sum', name => 'and counts once it is committed');
is(sql('SELECT c, s FROM tx_sum'), '13|76', 'exactly once');

# The end of the partition is told as soon as an idle broker answers; the
# median counts, and a busy machine is given more than one try.
my ($median, @seen);
for (1 .. 5)
{
	my @waited;
	foreach my $n (1 .. 7)
	{
		produce('tx', [ { value => { n => 0 } } ], transaction => 'commit');
		push @waited,
		  sql(q(CREATE TEMP TABLE begun AS SELECT clock_timestamp() AS at;
			DO $$ BEGIN IF NOT kappa.wait_for('tx_sum', '20 s') THEN RAISE 'not reached'; END IF; END $$;
			SELECT round(1000 * extract(epoch FROM clock_timestamp() - at)) FROM begun));
	}
	$median = (sort { $a <=> $b } @waited)[3];
	push @seen, "@waited";
	last if $median < 300;
}
note('waited ' . join(', then ', @seen) . ' ms for a transaction');
cmp_ok($median, '<', 300, 'wait_for does not take long behind a transaction');

# What PostgreSQL refuses where a view's triggers fire.
sql(q(CREATE FUNCTION ignore() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
	CREATE CONSTRAINT TRIGGER deferred AFTER UPDATE ON tx_sum DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION ignore()));
produce('tx', [ { value => { n => 1 } } ]);
state_becomes('tx_sum', 'retrying', 'a deferred trigger holds its view up');
like(sql(q(SELECT sqlstate || ': ' || reason FROM kappa.views WHERE view = 'tx_sum'::regclass)),
	qr/^42501: cannot fire deferred trigger within security-restricted operation/, 'with the reason');
sql('DROP TRIGGER deferred ON tx_sum');
ok_view($node, 'tx_sum', name => 'and goes on without it');

# A topic that has nothing but aborted messages, and an empty one.
create_topic('nothing', partitions => 3);
create_topic('void', partitions => 3);
produce('nothing', [ map { { value => { n => $_ } } } 1 .. 5 ], transaction => 'abort');
for my $topic (qw(nothing void))
{
	sql("CREATE FOREIGN TABLE $topic (n bigint) SERVER events OPTIONS (topic '$topic', format 'json')");
	sql("SELECT kappa.create_view('${topic}_count', 'SELECT count(*) AS c FROM $topic')");
	ok_view($node, "${topic}_count");
	is(sql("SELECT count(*) FROM $topic"), '0', "an ad-hoc scan of topic $topic ends");
}

# ---- NULL keys and NULL order columns. ----

create_topic('nulls', partitions => 2);
sql(q(CREATE FOREIGN TABLE nulls (k text, k2 int, o int, v text) SERVER events OPTIONS (topic 'nulls', format 'json')));
sql(q(SELECT kappa.create_view('null_groups', 'SELECT k, k2, count(*) AS n, sum(o) AS s, max(o) AS m FROM nulls GROUP BY k, k2')));
sql(q(SELECT kappa.create_view('null_last', 'SELECT DISTINCT ON (k) k, o, v FROM nulls ORDER BY k, o DESC NULLS LAST')));
sql(q(SELECT kappa.create_view('null_first', 'SELECT DISTINCT ON (k, k2) k, k2, v FROM nulls ORDER BY k, k2, o ASC NULLS FIRST')));
for my $round (1 .. 4)
{
	produce(
		'nulls',
		[
			map {
				my %m = (v => "r$round-$_");
				$m{k} = 'k' . $_ % 3 if $_ % 4;
				$m{k2} = $_ % 2 if $_ % 3;
				$m{o} = ($_ * 7 + $round) % 11 if $_ % 5;
				{ value => \%m }
			} 1 .. 60
		]);
	ok_view($node, 'null_groups');
}
sub ok_distinct_on
{
	my ($view, $query) = @_;

	sql("SELECT kappa.wait_for('$view')");
	return same_rows($node, $view, $query);
}
sql(q(CREATE FOREIGN TABLE nulls_at (k text, k2 int, o int, v text, part int OPTIONS (metadata 'partition'),
	pos bigint OPTIONS (metadata 'offset')) SERVER events OPTIONS (topic 'nulls', format 'json')));
ok_distinct_on('null_last', 'SELECT DISTINCT ON (k) k, o, v FROM nulls_at ORDER BY k, o DESC NULLS LAST, part, pos');
ok_distinct_on('null_first', 'SELECT DISTINCT ON (k, k2) k, k2, v FROM nulls_at ORDER BY k, k2, o ASC NULLS FIRST, part, pos');

# ---- Time zones of owner and worker; settings are pinned. ----

create_topic('times', partitions => 1);
sql(q(CREATE FOREIGN TABLE times (at timestamptz, local text) SERVER events OPTIONS (topic 'times', format 'json')));
sql(q(SET TimeZone = 'America/New_York'; SET DateStyle = 'SQL, DMY';
	SELECT kappa.create_view('per_day', $$SELECT date_trunc('day', at) AS day, to_char(at, 'HH24') AS hour, count(*) AS n FROM times GROUP BY 1, 2$$);
	SELECT kappa.create_view('locals', $$SELECT local::timestamptz AS at, local::date AS day FROM times$$)));
produce('times', [ map { { value => { at => "2026-03-08T0$_:30:00Z", local => "03/02/2026 0$_:15" } } } 0 .. 9 ]);
ok(wait_for($node, q(SELECT count(*) FROM locals), '10'), 'rows arrive');
is(sql(q(SET TimeZone = 'America/New_York'; SELECT string_agg(DISTINCT day::text, ',' ORDER BY day::text) FROM per_day)),
	'2026-03-07 00:00:00-05,2026-03-08 00:00:00-05', 'days begin in the time zone of the session that made the view');
is(sql(q(SELECT DISTINCT day FROM locals)), '2026-02-03', 'dates are read in its DateStyle');
like(sql(q(SELECT settings::text FROM kappa.views WHERE view = 'per_day'::regclass)), qr/TimeZone=America.New_York/, 'the settings are shown');

# ---- Clock words in messages are no timestamps. ----

sql(q(SELECT kappa.create_view('times_log', 'SELECT at FROM times')));
ok_view($node, 'times_log');
produce('times', [ { value => { at => 'now', local => '01/01/2026' } } ]);
sql(q(SELECT kappa.wait_for('times_log', '20 s')));
is(sql(q(SELECT sqlstate, column_name FROM kappa.dead_letters WHERE view = 'times_log'::regclass)), '22007|at', 'a data error');
ok(wait_for($node, q(SELECT count(*) FROM locals), '11'), 'a view that does not read the column has a row of it');
my ($next) = sql(q(SELECT next_offset FROM kappa.offsets WHERE view = 'times_log'::regclass));
sql(q(SELECT kappa.pause_view('times_log')));
produce('times', [ { value => { at => '2026-01-01', local => '01/01/2026' } } ]);
sql("SELECT kappa.seek_view('times_log', 'times', 0, $next + 1); SELECT kappa.resume_view('times_log')");
ok(wait_for($node, q(SELECT kappa.wait_for('times_log', '20 s')), 't'), 'seek_view passes over a message');
is(sql(q(SELECT count(*) FROM times_log)), '10', 'which is in no row');
is(sql(q(SELECT from_offset || '-' || to_offset FROM kappa.gap)), $next . '-' . ($next + 1), 'and records the gap');

# ---- A function in the query that itself reads the foreign table. ----

create_topic('selfish', partitions => 1);
sql(q(CREATE FOREIGN TABLE selfish (n bigint) SERVER events OPTIONS (topic 'selfish', format 'json');
	CREATE FUNCTION public.size_of_log() RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT count(*) FROM public.selfish';));
produce('selfish', [ map { { value => { n => $_ } } } 1 .. 5 ]);
sql(q(SELECT kappa.create_view('selfish_log', 'SELECT n, public.size_of_log() > 0 AS some FROM selfish')));
ok_view($node, 'selfish_log');

# ---- Another owner's view on the same topic. ----

sql(q(CREATE ROLE alice; CREATE ROLE bob; GRANT CREATE ON SCHEMA public TO alice, bob;
	GRANT SELECT ON selfish TO alice, bob; GRANT USAGE ON FOREIGN SERVER events TO alice, bob;
	CREATE FUNCTION public.who(n bigint) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT current_user::text';
	SET ROLE alice; SELECT kappa.create_view('alice_v', 'SELECT n, public.who(n) AS who FROM selfish');
	SET ROLE bob; SELECT kappa.create_view('bob_v', 'SELECT n, public.who(n) AS who FROM selfish')));
sql(q(SELECT kappa.wait_for('alice_v'), kappa.wait_for('bob_v')));
is(sql(q(SELECT DISTINCT who FROM alice_v)), 'alice', q(a view runs as its owner));
is(sql(q(SELECT DISTINCT who FROM bob_v)), 'bob', 'each as its own');
sql(q(REVOKE SELECT ON selfish FROM alice));
produce('selfish', [ { value => { n => 6 } } ]);
state_becomes('alice_v', 'retrying', 'a revoked privilege stops the view');
is(sql(q(SELECT kappa.wait_for('bob_v'))), 't', 'the other one goes on');
is(sql(q(SELECT count(*) FROM bob_v WHERE who = 'bob')), '6', 'and has all rows');
sql(q(GRANT SELECT ON selfish TO alice));
ok(wait_for($node, q(SELECT count(*) FROM alice_v), '6', 30), 'and it heals by itself');

# Locks that a function takes for the session, and does not give back.
sql(q(CREATE FUNCTION public.take_lock(n bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS
		'BEGIN PERFORM pg_advisory_lock(4711); RETURN n; END';
	SET ROLE bob; SELECT kappa.create_view('bob_locks', 'SELECT public.take_lock(n) AS n FROM selfish')));
is(sql(q(SELECT kappa.wait_for('bob_locks', '30 s'))), 't', 'a function takes a lock');
ok(wait_for($node, q(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711), '0', 10),
	'which does not outlive the turn of its owner');
is(sql(q(SELECT count(*) FROM bob_locks)), '6', 'and the rows are there');

# ---- A plan for one message is not kept for many. ----

# Plans that the worker has used for a view, from this place of the log on.
sub plans
{
	my ($from, $table) = @_;
	my @entries = split /^(?=\S)/m, substr(slurp_file($node->logfile), $from);

	return join '', grep { /plan:/ && /"kappa batch"/ && /\b$table\b/ } @entries;
}

create_topic('coded');
sql(q(CREATE TABLE codes (code int PRIMARY KEY, name text);
	INSERT INTO codes SELECT g, 'code ' || g FROM generate_series(0, 4999) g;
	ANALYZE codes;
	CREATE FOREIGN TABLE coded (n bigint, code int) SERVER events OPTIONS (topic 'coded', format 'json');
	SELECT kappa.create_view('named', 'SELECT n, name FROM coded JOIN codes USING (code)')));
ok_view($node, 'named');
sql(q(ALTER SYSTEM SET auto_explain.log_min_duration = 0));
sql(q(ALTER SYSTEM SET kappa.batch_interval = '3s'));
sql(q(SELECT pg_reload_conf()));
my $from = -s $node->logfile;
produce('coded', [ { value => { n => 0, code => 1 } } ]);
ok_view($node, 'named');
like(plans($from, 'codes'), qr/Nested Loop/, 'one message meets its code by an index');
$from = -s $node->logfile;
produce('coded', [ map { { value => { n => $_, code => $_ % 5000 } } } 1 .. 30_000 ]);
ok_view($node, 'named');
like(plans($from, 'codes'), qr/Hash Join/, 'of many, all codes are read');
sql(q(ALTER SYSTEM RESET ALL));
sql(q(SELECT pg_reload_conf()));

# ---- A publication FOR ALL TABLES. ----

sql(q(CREATE PUBLICATION everything FOR ALL TABLES));
produce('nulls', [ map { { value => { k => "p$_", o => $_, v => 'p' } } } 1 .. 20 ]);
produce('nulls', [ map { { value => { k => "p$_", o => $_ + 1, v => 'q' } } } 1 .. 20 ]);
ok_view($node, 'null_groups');
ok_distinct_on('null_last', 'SELECT DISTINCT ON (k) k, o, v FROM nulls_at ORDER BY k, o DESC NULLS LAST, part, pos');
produce('tx', [ { value => { n => 1 } } ]);
ok_view($node, 'tx_sum', name => 'a view without key in a publication');
sql(q(DROP PUBLICATION everything));

# ---- One transaction for all views of a batch. ----

create_topic('xids', partitions => 1);
sql(q(CREATE FOREIGN TABLE xids (n bigint) SERVER events OPTIONS (topic 'xids', format 'json')));
sql("SELECT kappa.create_view('xid_$_', 'SELECT count(*) AS n FROM xids')") for 1 .. 10;
ok_view($node, "xid_$_") for 1 .. 10;
ok(wait_for($node, q(SELECT count(DISTINCT worker_pid) FROM kappa.views WHERE view::text ~ '^xid_'), '1'), 'the views share a worker');
my $before = sql('SELECT pg_current_xact_id()::text::bigint');
for my $i (1 .. 10)
{
	produce('xids', [ { value => { n => $i } } ]);
	sql(join(';', map { "SELECT kappa.wait_for('xid_$_')" } 1 .. 10));
}
my $used = sql('SELECT pg_current_xact_id()::text::bigint') - $before;
cmp_ok($used, '<', 60, "ten batches for ten views used $used transaction ids");
is(sql('SELECT string_agg(DISTINCT x::text, $$,$$) FROM (' . join(' UNION ALL ', map { "SELECT n AS x FROM xid_$_" } 1 .. 10) . ') s'), '10', 'and all have the ten messages');

# ---- Rows do not depend on the columns that are asked for. ----

create_topic('broken', partitions => 1);
sql(q(CREATE FOREIGN TABLE broken (n bigint) SERVER events OPTIONS (topic 'broken', format 'json')));
produce('broken', [ { value => { n => 1 } }, { value => '{"n": 2' }, { value => { n => 3 } } ]);
fails_like($node, 'SELECT count(*) FROM broken', qr/not valid JSON.*"broken".*partition 0.*offset 1/s, 'count(*) sees a broken message');
fails_like($node, 'SELECT sum(n) FROM broken', qr/offset 1/, 'and so does a column');
sql(q(SELECT kappa.create_view('broken_count', 'SELECT count(*) AS n FROM broken')));
sql(q(SELECT kappa.wait_for('broken_count', '20 s')));
is(sql(q(SELECT n, pos FROM broken_count, kappa.dead_letters WHERE view = 'broken_count'::regclass)), '2|1', 'a view sets it aside');

# ---- A topic deleted and made again, longer than it was. ----

create_topic('again', partitions => 1);
sql(q(CREATE FOREIGN TABLE again (n bigint) SERVER events OPTIONS (topic 'again', format 'json')));
sql(q(SELECT kappa.create_view('again_sum', 'SELECT count(*) AS c, sum(n) AS s FROM again')));
produce('again', [ map { { value => { n => $_ } } } 1 .. 10 ]);
ok_view($node, 'again_sum');
sql(q(SELECT kappa.pause_view('again_sum')));
ok(wait_for($node, q(SELECT count(*) FROM kappa.run_status() WHERE view = 'again_sum'::regclass), '0'), 'paused');
create_topic('again', partitions => 1);
produce('again', [ map { { value => { n => 100 * $_ } } } 1 .. 50 ]);
my $status = $node->psql('postgres', q(SELECT kappa.resume_view('again_sum')));
state_becomes('again_sum', 'stopped', 'another topic of the same name stops the view') if $status == 0;
is(sql(q(SELECT c, s FROM again_sum)), '10|55', 'and nothing of it is applied');

# ---- ALTER FOREIGN TABLE under a view. ----

create_topic('altered', partitions => 1);
sql(q(CREATE FOREIGN TABLE altered (n bigint, other bigint) SERVER events OPTIONS (topic 'altered', format 'json')));
sql(q(SELECT kappa.create_view('altered_sum', 'SELECT sum(n) AS s FROM altered')));
produce('altered', [ map { { value => { n => $_, m => 2 } } } 1 .. 3 ]);
ok_view($node, 'altered_sum');
sql(q(ALTER FOREIGN TABLE altered ALTER COLUMN other OPTIONS (ADD path 'elsewhere')));
produce('altered', [ map { { value => { n => $_, m => 2 } } } 1 .. 3 ]);
ok_view($node, 'altered_sum', name => 'a column that the view does not read may change');
sql(q(ALTER FOREIGN TABLE altered RENAME COLUMN n TO m));
produce('altered', [ { value => { n => 5, m => 2 } } ]);
state_becomes('altered_sum', 'stopped', 'a column that relied on its name was renamed');
like(sql(q(SELECT reason FROM kappa.views WHERE view = 'altered_sum'::regclass)), qr/foreign table "altered" has changed/, 'the reason says so');
is(sql(q(SELECT s FROM altered_sum)), '12', 'nothing wrong was applied');
sql(q(ALTER FOREIGN TABLE altered RENAME COLUMN m TO n; SELECT kappa.resume_view('altered_sum')));
ok_view($node, 'altered_sum', name => 'changed back, it goes on');

$node->stop('fast');
done_testing();
