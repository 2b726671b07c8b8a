
# Processes come and go with servers, databases, extensions and brokers; a view
# goes on exactly where it stood, or says why it does not.

use strict;
use warnings;

use IPC::Run;
use KappaTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $kafka = start_kafka();
my $brokers = $kafka->brokers;
my $mock = start_mock();
my $node = new_node(
	allows_streaming => 1,
	conf => q(
max_prepared_transactions = 4
kappa.connect_timeout = 5s
kappa.retry_max_delay = 2s
));

sub sql { return $node->safe_psql('postgres', @_); }

# Wait for what kappa.views says of a view.
sub state_becomes
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return ok_view_state($node, @_);
}

sub numbers
{
	my ($from, $to) = @_;

	return [ map { { value => { n => $_, page => '/' . $_ % 7 } } } $from .. $to ];
}

# Run some code, and return the seconds that it took.
sub seconds(&)
{
	my ($code) = @_;
	my $start = time;

	$code->();
	return time - $start;
}

# A test: the statement has that result, and leaves these messages.
sub notices_like
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	my ($statement, $result, $pattern, $name) = @_;
	my ($out, $err);

	$node->psql('postgres', $statement, stdout => \$out, stderr => \$err);
	is($out, $result, "$name: the result");
	return like("$err\n", $pattern, $name);
}

my $pages = 'SELECT page, count(*) AS n, sum(n) AS s FROM clicks GROUP BY page';
my $log = 'SELECT n, page, at FROM clicks';
my $clicks = q(CREATE FOREIGN TABLE clicks (n bigint, page text,
	at timestamptz OPTIONS (metadata 'timestamp')) SERVER events OPTIONS (topic 'clicks'));

create_topic('clicks', partitions => 3);
sql(qq($clicks;
SELECT kappa.create_view('pages', '$pages');
SELECT kappa.create_view('click_log', '$log');));
produce('clicks', numbers(1, 500));
ok_view($node, $_) foreach qw(pages click_log);
state_becomes('pages', 'running', '');

# ---- What is to be seen of the processes. ----

ok( wait_for(
		$node, q(
SELECT string_agg(application_name, ', ' ORDER BY application_name) FROM pg_stat_activity
WHERE backend_type LIKE 'kappa%'), 'kappa launcher, kappa supervisor, kappa worker: topic clicks'),
	'processes say what they do');
is( sql(q(SELECT count(*) FROM pg_stat_activity
	WHERE backend_type LIKE 'kappa%' AND wait_event_type = 'Extension' AND state IS DISTINCT FROM 'active')),
	3, 'and that they wait');
is( sql(q(SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'kappa%' AND (xact_start IS NOT NULL OR backend_xmin IS NOT NULL))),
	0, 'outside any transaction');

# ---- Nobody does anything while nothing happens. ----

# Time of the processors that processes have used, in ticks.
sub ticks
{
	my $sum = 0;

	foreach my $pid (@_)
	{
		my ($fields) = slurp_file("/proc/$pid/stat") =~ /\)\s+(.*)/;
		my @fields = split ' ', $fields;
		$sum += $fields[11] + $fields[12];
	}
	return $sum;
}

my @pids = kappa_pids($node);
my $before = ticks(@pids);
sql('SELECT pg_sleep(3)');
my $used = ticks(@pids) - $before;
diag("idle: $used ticks in 3 s");
cmp_ok($used, '<=', 8, 'an idle kappa uses no processor');
is_deeply([ kappa_pids($node) ], \@pids, 'and its processes stay');

# ---- From the producer to the view, message by message. ----

sql(q(CREATE TABLE seen (n bigint, sent timestamptz, seen timestamptz DEFAULT clock_timestamp());
CREATE FUNCTION note_row() RETURNS trigger LANGUAGE plpgsql AS
	'BEGIN INSERT INTO public.seen VALUES (NEW.n, NEW.at); RETURN NULL; END';
CREATE TRIGGER note AFTER INSERT ON click_log FOR EACH ROW EXECUTE FUNCTION note_row();));
produce('clicks', numbers(501, 560), rate => 30);
ok_view($node, 'click_log', name => 'a view with a trigger of the user');
is(sql('SELECT count(*), count(DISTINCT n), min(n), max(n) FROM seen'),
	'60|60|501|560', 'the trigger sees each row once');
my ($p50, $p99) = split /\|/, sql(q(SELECT round((1000 * percentile_cont(0.5) WITHIN GROUP (ORDER BY d))::numeric, 1),
	round((1000 * percentile_cont(0.99) WITHIN GROUP (ORDER BY d))::numeric, 1)
	FROM (SELECT extract(epoch FROM seen - sent) AS d FROM seen) s));
diag("latency when idle: p50 $p50 ms, p99 $p99 ms");
cmp_ok($p50, '<', 100, 'a message is there in milliseconds');

# ---- Waiting, and giving up. ----

sql(q(SELECT kappa.pause_view('pages')));
my $answer;
my $waiter = IPC::Run::start(
	[ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', q(SELECT kappa.wait_for('pages', '10 min')) ],
	'>', \$answer, '2>', '/dev/null');
ok( wait_for(
		$node, q(SELECT count(*), count(backend_xmin), count(backend_xid) FROM pg_stat_activity
			WHERE query ~ '^SELECT kappa.wait_for' AND wait_event_type = 'Extension'), '1|0|0'),
	'who waits for a view holds no snapshot');
foreach my $case (
	[ 'wait_for', q(SELECT kappa.wait_for('pages')) ],
	[ 'an ad-hoc query', q(SELECT count(*) FROM clicks CROSS JOIN LATERAL (SELECT max(g) FROM generate_series(1, 1000000) g WHERE g > n) x) ])
{
	my ($name, $statement) = @$case;
	fails_like($node, "SET statement_timeout = '200ms'; $statement",
		qr/statement timeout/, "$name can be cancelled");
	cancelled_at_once($node, $statement, "$name: at once", limit => 300, after => [ 200, 230, 270 ]);
}
fails_like($node, q(BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT kappa.wait_for('pages')),
	qr/cannot be used in a transaction with isolation level REPEATABLE READ/, 'wait_for needs new snapshots');
sql(q(SELECT kappa.resume_view('pages')));
is(sql(q(SELECT kappa.wait_for('pages', '20 s'))), 't', 'wait_for is answered');
$waiter->finish;
is($answer, "t\n", 'and so is who has waited since before it was resumed');

# ---- Transactions that do not commit, and one that does so later. ----

my $state = q(SELECT count(*) FROM kappa.views UNION ALL SELECT count(*) FROM kappa.view_version
	UNION ALL SELECT count(*) FROM kappa.position UNION ALL SELECT count(*) FROM kappa.event
	UNION ALL SELECT count(*) FROM pg_class WHERE relnamespace = 'kappa_state'::regnamespace
	UNION ALL SELECT count(*) FROM kappa.run_status());
$before = sql($state);
sql(qq(BEGIN; SELECT kappa.create_view('never', '$pages'); ROLLBACK));
sql(qq(BEGIN; SELECT kappa.create_view('never', '$pages'); PREPARE TRANSACTION 'never'));
sql(q(ROLLBACK PREPARED 'never'));
is(sql($state), $before, 'a view that is not committed leaves nothing');
sql(qq(BEGIN; SELECT kappa.create_view('later', '$pages'); PREPARE TRANSACTION 'later'));
is(sql('SELECT count(*) FROM kappa.views'), 2, 'a prepared view is not there yet');
sql(q(COMMIT PREPARED 'later'));
ok_view($node, 'later', name => 'a view that was prepared and committed runs');
sql(q(BEGIN; DROP TABLE later; PREPARE TRANSACTION 'dropped'));
sql(q(COMMIT PREPARED 'dropped'));
ok(wait_for($node, $state, $before =~ s/(\d+)\n(\d+)\n(\d+)\n(\d+)/join("\n", $1, $2, $3, $4 + 2)/er),
	'one that was dropped so is gone');

# ---- What a view's owner may do to its table while it runs. ----

sql(q(CREATE ROLE keeper; GRANT ALL ON SCHEMA public TO keeper; GRANT SELECT ON clicks TO keeper;
GRANT ALL ON seen TO keeper;
GRANT USAGE ON FOREIGN SERVER events TO keeper; CREATE SCHEMA attic; GRANT ALL ON SCHEMA attic TO keeper;
ALTER TABLE click_log RENAME TO history));
produce('clicks', numbers(561, 600));
ok_view($node, 'history', name => 'a view goes on under another name');
sql(q(ALTER TABLE history SET SCHEMA attic));
produce('clicks', numbers(601, 620));
ok_view($node, 'attic.history', name => 'in another schema');
sql(q(ALTER TABLE attic.history OWNER TO keeper));
produce('clicks', numbers(621, 640));
ok_view($node, 'attic.history', name => 'with another owner');
is(sql(q(SELECT owner FROM kappa.views WHERE view = 'attic.history'::regclass)), 'keeper', 'who is shown');
is(sql(q(SELECT count(DISTINCT pg_get_userbyid(relowner)) FROM pg_class
	WHERE relname ~ '^click_log_v' OR oid = 'attic.history'::regclass)), 1, 'and owns all of it');
sql(q(CREATE INDEX ON attic.history (n); CREATE UNIQUE INDEX ON attic.history (n, at);
	ALTER TABLE pages ADD CHECK (n >= 0); CREATE INDEX ON pages (n); CLUSTER attic.history USING history_n_idx));
produce('clicks', numbers(641, 660));
ok_view($node, 'attic.history', name => 'with indexes of the user');
ok_view($node, 'pages', name => 'with a constraint of the user');
is(sql(q(SET enable_seqscan = off; SELECT n FROM attic.history WHERE n = 650)), 650, 'which find the new rows');
is(sql('SELECT count(*), max(n) FROM seen'), '160|660', 'the trigger is still there');

# Another table that takes the name while a batch waits for the lock is not meant.
my $renamer = $node->background_psql('postgres');
$renamer->query_safe('BEGIN; ALTER TABLE pages RENAME TO sites; CREATE TABLE pages (LIKE sites INCLUDING ALL)');
produce('clicks', numbers(661, 669));
$renamer->query_safe('COMMIT');
$renamer->quit;
ok_view($node, 'sites', name => 'a view that is renamed while it waits');
is(sql('SELECT count(*) FROM pages'), 0, 'is not mistaken for another table');
sql('DROP TABLE pages; ALTER TABLE sites RENAME TO pages');

# Nor are other functions that take the name of those in the query.
sql(q(CREATE SCHEMA tools;
CREATE FUNCTION tools.label(bigint) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'old ' || $1 $$;
CREATE FUNCTION label(bigint) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'old ' || $1 $$;
SELECT kappa.create_view('labels', 'SELECT n, label(n) AS a, tools.label(n) AS b FROM clicks')));
ok_view($node, 'labels');
sql(q(ALTER FUNCTION label(bigint) RENAME TO old_label; ALTER SCHEMA tools RENAME TO old_tools; CREATE SCHEMA tools;
CREATE FUNCTION tools.label(bigint) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'new ' || $1 $$;
CREATE FUNCTION label(bigint) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'new ' || $1 $$));
produce('clicks', [ { value => { n => 670, page => '/label' } } ]);
ok_view($node, 'labels', name => 'a view goes on with the functions that it was made with');
sql('DROP TABLE labels');

# What lies in kappa_state may be dropped by its owner, knowingly.
sql(q(SELECT kappa.create_view('newest', 'SELECT DISTINCT ON (page) page, at FROM clicks ORDER BY page, n DESC NULLS LAST')));
is(sql(q(SELECT kappa.wait_for('newest', '20 s'))), 't', 'a view with state');
sql(sql(q(SELECT 'DROP TABLE ' || companion FROM kappa.view_version WHERE view = 'newest'::regclass)));
produce('clicks', numbers(671, 672));
state_becomes('newest', 'stopped', 'was dropped', 'a view without its state is stopped');
is(sql(q(SELECT kappa.rebuild('newest'))), 2, 'it can be rebuilt');
is(sql(q(SELECT kappa.wait_for_rebuild('newest', '1 min'))), 't', 'to its end');
sql(q(SELECT kappa.resume_view('newest')));
produce('clicks', [ { value => { n => 673, page => '/newest' } } ]);
ok(wait_for($node, q(SELECT count(*) FROM newest WHERE page = '/newest'), 1), 'and goes on');
sql('DROP TABLE newest');

# ---- Who stands in the way of one view does not stand in the way of others. ----

my $holder = $node->background_psql('postgres');
$holder->query_safe('BEGIN; LOCK TABLE pages IN SHARE MODE');
produce('clicks', numbers(674, 680));
ok_view($node, 'attic.history', name => 'a view is locked, the others go on');
state_becomes('pages', 'retrying', 'lock timeout');
$holder->query_safe('COMMIT');
$holder->quit;
ok_view($node, 'pages', name => 'it goes on when the lock is released');

sql(q(CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN IF NEW.n > 680 THEN RAISE EXCEPTION 'no more rows, please'; END IF; RETURN NULL; END $$;
CREATE TRIGGER refuse AFTER INSERT ON attic.history FOR EACH ROW EXECUTE FUNCTION refuse()));
produce('clicks', numbers(681, 690));
ok_view($node, 'pages', name => 'a trigger fails, the others go on');
state_becomes('attic.history', 'stopped', 'no more rows, please');
is(sql('SELECT max(n) FROM attic.history'), '680', 'and nothing is passed over');
sql(q(DROP TRIGGER refuse ON attic.history; SELECT kappa.resume_view('attic.history')));
ok_view($node, 'attic.history', name => 'it goes on without the trigger');

# ---- A restart. ----

my $producer = start_producer('clicks', numbers(691, 20_000));
cmp_ok(seconds { $node->stop('fast') }, '<', 4, 'a busy server stops');
$node->start;
$producer->finish;
ok_view($node, $_, name => "$_ goes on after a restart") foreach qw(pages attic.history);
is(sql('SELECT count(*), count(DISTINCT n) FROM attic.history'), '20000|20000', 'nothing twice, nothing missing');
sql(q(ALTER TABLE attic.history DISABLE TRIGGER note));

# ---- Brokers that are not there, yet or any more. ----

$mock->command('topic later 2');
$mock->command('down 1');
my $address = $mock->brokers;
sql(qq(CREATE SERVER faraway FOREIGN DATA WRAPPER kappa OPTIONS (bootstrap_servers '$address');
CREATE FOREIGN TABLE later (n bigint) SERVER faraway OPTIONS (topic 'later');
SELECT kappa.create_view('later_sum', 'SELECT count(*) AS c, sum(n) AS s FROM later')));
state_becomes('later_sum', 'retrying', '');
diag(sql(q(SELECT reason, sqlstate FROM kappa.views WHERE view = 'later_sum'::regclass)));
like(sql(q(SELECT reason FROM kappa.views WHERE view = 'later_sum'::regclass)),
	qr/refused|down|connect/i, 'the reason says what is wrong');
like(sql(q(SELECT sqlstate FROM kappa.views WHERE view = 'later_sum'::regclass)), qr/^08/, 'and so does the SQLSTATE');
produce('clicks', numbers(20_001, 20_010));
ok_view($node, 'pages', name => 'the others go on');
$mock->command('up 1');
produce('later', [ map { { value => { n => $_ } } } 1 .. 10 ], kafka => $mock);
ok(wait_for($node, 'SELECT * FROM later_sum', '10|55'), 'it heals when the brokers come');
state_becomes('later_sum', 'running', '');
is( sql(q(SELECT string_agg(event, ',' ORDER BY id) FROM kappa.events WHERE view = 'later_sum'::regclass)),
	'created,failed,recovered', 'what happened is kept');

# ---- A topic that is not there yet. ----

$kafka->try('delete-topic', 'tomorrow');
sql(q(CREATE FOREIGN TABLE tomorrow (n bigint) SERVER events OPTIONS (topic 'tomorrow');
SELECT kappa.create_view('tomorrow_sum', 'SELECT count(*) AS c, sum(n) AS s FROM tomorrow')));
state_becomes('tomorrow_sum', 'retrying', '"tomorrow"');
notices_like(q(SELECT kappa.wait_for('tomorrow_sum', '100 ms')), 'f',
	qr/NOTICE:  view "tomorrow_sum" has not applied all of its log: it is retrying: .*"tomorrow"\nDETAIL: .*\nHINT: .*\n\z/,
	'wait_for says what is missing');
create_topic('tomorrow', partitions => 2);
produce('tomorrow', [ map { { value => { n => $_ } } } 1 .. 4 ]);
ok(wait_for($node, 'SELECT * FROM tomorrow_sum', '4|10'), 'a view starts when its topic comes');
state_becomes('tomorrow_sum', 'running', '');

# ---- Other addresses, credentials and settings while running. ----

sql(q(ALTER SERVER faraway OPTIONS (SET bootstrap_servers '127.0.0.1:1')));
ok( wait_for(
		$node, q(SELECT state FROM kappa.views WHERE view = 'later_sum'::regclass), 'retrying', 10),
	'a changed server is noticed');
sql(qq(ALTER SERVER faraway OPTIONS (SET bootstrap_servers '$address')));
state_becomes('later_sum', 'running', '', 'and so is its correction');
sql(q(CREATE USER MAPPING FOR CURRENT_USER SERVER faraway OPTIONS (sasl_username 'me', sasl_password 'secret');
	ALTER SERVER faraway OPTIONS (ADD security_protocol 'sasl_plaintext', ADD sasl_mechanism 'PLAIN')));
state_becomes('later_sum', 'retrying', '', 'so are credentials that are not accepted');
fails_like($node, 'SELECT count(*) FROM later',
	qr/could not get the partitions of topic "later".*_AUTHENTICATION.*Check the user name and password/s,
	'of which an ad-hoc query says what is wrong');
unlike(sql(q(SELECT string_agg(v::text, ' ') FROM kappa.views v)) . slurp_file($node->logfile),
	qr/secret(?!')/, 'which nobody gets to see');
sql(q(ALTER SERVER faraway OPTIONS (DROP security_protocol, DROP sasl_mechanism)));
state_becomes('later_sum', 'running', '', 'without them it goes on');
produce('later', [ { value => { n => 45 } } ], kafka => $mock);
ok(wait_for($node, 'SELECT * FROM later_sum', '11|100'), 'exactly');

sql(q(ALTER SYSTEM SET kappa.batch_rows = 100; SELECT pg_reload_conf()));
my $batches = q(SELECT batches FROM kappa.stat_views WHERE view = 'pages'::regclass);
sql(q(SELECT kappa.pause_view('pages')));
ok(wait_for($node, q(SELECT count(*) FROM kappa.run_status() WHERE view = 'pages'::regclass), '0'), 'paused');
is(sql(q(SELECT DISTINCT lag IS NULL, time_lag IS NULL, next_offset IS NULL FROM kappa.offsets WHERE view = 'pages'::regclass)),
	't|t|f', 'nobody knows how far a paused view is behind');
produce('clicks', numbers(20_011, 24_010));
sql(q(SELECT kappa.resume_view('pages')));
ok_view($node, 'pages');
cmp_ok(sql($batches), '>=', 40, 'kappa.batch_rows is obeyed after a reload');
sql(q(ALTER SYSTEM RESET kappa.batch_rows; ALTER SYSTEM SET kappa.metadata_interval = '200ms'; SELECT pg_reload_conf()));
add_partitions('clicks', 4);
produce('clicks', [ map { { value => { n => $_, page => '/new' }, partition => 3 } } 1 .. 10 ]);
ok(wait_for($node, q(SELECT n FROM pages WHERE page = '/new'), '10'), 'and so is kappa.metadata_interval');
sql(q(ALTER SYSTEM RESET kappa.metadata_interval; SELECT pg_reload_conf()));

# ---- CASCADE under a view. ----

sql(q(DROP FOREIGN TABLE tomorrow CASCADE));
state_becomes('tomorrow_sum', 'stopped', 'definition.* was dropped');
is(sql('SELECT * FROM tomorrow_sum'), '4|10', 'its rows stay');
ok(wait_for($node, q(SELECT count(*) FROM kappa.run_status() WHERE view = 'tomorrow_sum'::regclass), '0'),
	'nobody serves it');
notices_like(q(SELECT kappa.wait_for('tomorrow_sum', '100 ms')), 'f',
	qr/\A\S* NOTICE:  view "tomorrow_sum" is stopped: [^\n]*definition[^\n]* was dropped(?:(?!NOTICE).)*\z/s,
	'wait_for says what it waits for, once');
fails_like($node, q(SELECT kappa.resume_view('tomorrow_sum')), qr/definition of view .*tomorrow_sum" was dropped/,
	'it cannot be resumed');
sql('DROP TABLE tomorrow_sum');

# ---- Databases. ----

sub start_shop
{
	my ($database) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $database");
	$node->safe_psql($database, qq(CREATE EXTENSION kappa;
CREATE SERVER events FOREIGN DATA WRAPPER kappa OPTIONS (bootstrap_servers '$brokers');
$clicks;
SELECT kappa.create_view('pages', '$pages')));
	return;
}

my $in_shop = q(SELECT string_agg(application_name, ', ' ORDER BY application_name) FROM pg_stat_activity
	WHERE backend_type LIKE 'kappa%' AND datname = 'shop');
start_shop('shop');
ok_view($node, 'pages', dbname => 'shop', name => 'CREATE EXTENSION starts a supervisor');
is(sql($in_shop), 'kappa supervisor, kappa worker: topic clicks', 'with a worker');
sql('ALTER DATABASE shop RENAME TO store');
produce('clicks', numbers(24_011, 24_020));
ok_view($node, 'pages', dbname => 'store', name => 'a view goes on after a rename of the database');
sql('CREATE DATABASE shop TEMPLATE store');
ok_view($node, 'pages', dbname => 'store', name => 'after a copy of it');
is($node->safe_psql('shop', 'SELECT state, reason FROM kappa.views'), 'paused|restored', 'the copy is paused');
is(sql($in_shop) =~ s/kappa supervisor//r, '', 'and has no worker');
$node->safe_psql('shop', q(SELECT kappa.resume_view('pages')));
produce('clicks', numbers(24_021, 24_030));
ok_view($node, 'pages', dbname => 'shop', name => 'until it is resumed');
ok(wait_for($node, $in_shop, 'kappa supervisor, kappa worker: topic clicks'), 'which starts one');
sql('CREATE ROLE nobody');
fails_like($node, 'SET ROLE nobody; DROP DATABASE store', qr/must be owner/, 'DROP DATABASE by another');
is($node->safe_psql('store', q(SELECT state FROM kappa.views)), 'running', 'does not interrupt a view');
cmp_ok(seconds { sql('DROP DATABASE store') }, '<', 5, 'DROP DATABASE with a worker connected');
ok( wait_for($node, q(SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'kappa%' AND datname <> 'shop' AND datname <> 'postgres'), 0)
	  && slurp_file($node->logfile) !~ /FATAL:  database \d+ does not exist/,
	'nobody looks for it afterwards');

# DROP EXTENSION, which the views hold back.
fails_like($node, 'DROP EXTENSION kappa', qr/cannot drop extension kappa because other objects depend on it/,
	'DROP EXTENSION with views is refused', dbname => 'shop');
my $rows = $node->safe_psql('shop', 'SELECT count(*), sum(n) FROM pages');
cmp_ok(seconds { $node->safe_psql('shop', 'DROP EXTENSION kappa CASCADE') }, '<', 5, 'but not with CASCADE');
ok(wait_for($node, $in_shop, ''), 'the processes leave');
produce('clicks', numbers(24_031, 24_040));
is($node->safe_psql('shop', 'SELECT count(*), sum(n) FROM pages'), $rows, 'the table stays as it was');
$node->safe_psql('shop', q(INSERT INTO pages VALUES ('mine', 1, 1); DROP TABLE pages));
is($node->safe_psql('shop', q(SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname ~ 'kappa')),
	0, 'nothing else is left');
$node->safe_psql('shop', qq(CREATE EXTENSION kappa;
CREATE SERVER events FOREIGN DATA WRAPPER kappa OPTIONS (bootstrap_servers '$brokers');
$clicks;
SELECT kappa.create_view('pages', '$pages')));
ok_view($node, 'pages', dbname => 'shop', name => 'the extension can come back');
ok_view($node, 'pages', name => 'the other database was not concerned');
sql('DROP DATABASE shop');

# ---- A standby, and its promotion. ----

$node->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'copy', has_streaming => 1);
$standby->start;
produce('clicks', numbers(24_041, 24_100));
is($standby->safe_psql('postgres', q(SELECT kappa.wait_for('pages', '30 s'))), 't', 'wait_for on a standby');
is($standby->safe_psql('postgres', 'SELECT page, n, s FROM pages ORDER BY 1'),
	sql('SELECT page, n, s FROM pages ORDER BY 1'), 'has the rows of the primary');
is($standby->safe_psql('postgres', q(SELECT state, reason FROM kappa.views WHERE view = 'pages'::regclass)),
	'paused|the server is a standby', 'views are not kept there');
is(scalar kappa_pids($standby), 0, 'nor are there processes');
fails_like($standby, q(SELECT kappa.pause_view('pages')), qr/read-only|recovery/, 'commands are refused');

# What waits there must not hold up what it waits for: rows are removed meanwhile.
sql(q(SELECT kappa.pause_view('pages')));
ok(wait_for($node, q(SELECT count(*) FROM kappa.run_status() WHERE view = 'pages'::regclass), '0'), 'paused');
produce('clicks', numbers(24_101, 24_110));
my $waiter = $standby->background_psql('postgres');
$waiter->query_until(qr/begins/, "\\echo begins\nSELECT kappa.wait_for('pages', '60 s');\n");
ok( wait_for($standby, q(SELECT count(*) FROM pg_stat_activity
	WHERE query LIKE '%wait_for%' AND wait_event_type = 'Extension' AND pid <> pg_backend_pid()), '1'),
	'a standby waits for a paused view');
produce('clicks', numbers(24_111, 24_120));
ok_view($node, 'attic.history');
sql(q(CREATE TABLE churn AS SELECT i, 0 AS n FROM generate_series(1, 50) i));
sql(q(DO $$ BEGIN FOR k IN 1 .. 10000 LOOP UPDATE churn SET n = n + 1 WHERE i = 1 + k % 50; COMMIT; END LOOP; END $$;));
sql(q(VACUUM churn; VACUUM kappa.position; SELECT kappa.resume_view('pages')));
my $took = seconds { is($waiter->query('SELECT 1'), "t\n1", 'until it goes on') };
cmp_ok($took, '<', 10, 'without holding up the replay');
sql('DROP TABLE churn');
$waiter->quit;

$took = seconds
{
	$standby->psql('postgres', q(SET statement_timeout = '300ms'; SELECT kappa.wait_for('later_sum', '20 s') FROM pg_sleep(0.3)));
};
cmp_ok($took, '<', 2, 'wait_for on a standby can be cancelled');
$producer = start_producer('clicks', numbers(24_121, 30_000));
kill_hard($node);
$standby->promote;
$producer->finish;
ok_view($standby, $_, name => "$_ goes on after promotion") foreach qw(pages attic.history);
is($standby->safe_psql('postgres', q(SELECT state FROM kappa.views WHERE view = 'pages'::regclass)), 'running', 'by itself');
$node->start;
ok_view($node, 'pages', name => 'and so does the old server after its crash');

# ---- No free slot for a worker. ----

my $narrow = new_node(name => 'narrow',
	conf => "max_worker_processes = 4\nmax_logical_replication_workers = 0");
$narrow->safe_psql('postgres', 'CREATE DATABASE other');
$narrow->safe_psql('postgres', "$clicks; SELECT kappa.create_view('pages', '$pages')");
ok_view($narrow, 'pages');
$narrow->safe_psql('other', qq(CREATE EXTENSION kappa;
CREATE SERVER events FOREIGN DATA WRAPPER kappa OPTIONS (bootstrap_servers '$brokers');
$clicks;
SELECT kappa.create_view('pages', '$pages')));
ok(wait_for($narrow, 'SELECT state, reason FROM kappa.views',
		'retrying|waiting for a background worker slot; max_worker_processes may be too small', 30, dbname => 'other'),
	'a view without a worker says so');
$narrow->safe_psql('postgres', 'CREATE DATABASE third TEMPLATE other');
$narrow->safe_psql('third', q(SELECT kappa.resume_view('pages')));

# The copy has sent the supervisor of one of the two away; either comes back first.
my $unsupervised = 'retrying: waiting for the supervisor of this database; if that lasts, max_worker_processes may be too small';
my @reasons;
for (1 .. 300)
{
	@reasons = map { $narrow->safe_psql($_, q(SELECT state || ': ' || reason FROM kappa.views)) } qw(other third);
	last if grep { $_ eq $unsupervised } @reasons;
	$narrow->safe_psql('postgres', 'SELECT pg_sleep(0.1)');
}
ok((grep { $_ eq $unsupervised } @reasons), 'and so does one without a supervisor') or diag("@reasons");
$narrow->safe_psql('postgres', 'DROP DATABASE third');
$narrow->safe_psql('postgres', q(SELECT kappa.pause_view('pages')));
ok_view($narrow, 'pages', dbname => 'other', name => 'and starts when there is one');
ok(wait_for($narrow, 'SELECT state FROM kappa.views', 'running', 30, dbname => 'other'), 'and runs');
$narrow->stop('smart');

# ---- No free slot for a view, in one database or another. ----

my $crowded = new_node(name => 'crowded', conf => 'kappa.max_views = 10');
$crowded->safe_psql('postgres', $clicks);
$crowded->safe_psql('postgres', "SELECT kappa.create_view('pages_' || i, '$pages') FROM generate_series(1, 12) i");
my $slots = q(SELECT state, reason, count(*) FROM kappa.views GROUP BY 1, 2 ORDER BY 1);
my $no_slot = 'retrying|waiting for a slot for views; kappa.max_views is too small';
ok(wait_for($crowded, $slots, "$no_slot|2\nrunning||10"),
	'views without a slot say so');
$crowded->safe_psql('postgres', 'CREATE DATABASE other');
$crowded->safe_psql('other', qq(CREATE EXTENSION kappa;
CREATE SERVER events FOREIGN DATA WRAPPER kappa OPTIONS (bootstrap_servers '$brokers');
$clicks;
SELECT kappa.create_view('pages', '$pages')));
ok(wait_for($crowded, $slots, "$no_slot|1", 30, dbname => 'other'), 'in another database, too');
$crowded->safe_psql('postgres', q(SELECT kappa.drop_view('pages_1'); SELECT kappa.drop_view('pages_2')));
$crowded->safe_psql('postgres', q(SELECT kappa.pause_view('pages_3')));
ok_view($crowded, 'pages', dbname => 'other', name => 'and starts when there is one');
ok_view($crowded, "pages_$_", name => "so does pages_$_") foreach 11, 12;
ok(wait_for($crowded, q(SELECT count(*) FROM kappa.views WHERE state = 'running'), 9), 'all of them run');
$crowded->safe_psql('postgres', q(SELECT kappa.resume_view('pages_3')));
ok(wait_for($crowded, q(SELECT state, reason FROM kappa.views WHERE view = 'pages_3'::regclass), $no_slot),
	'who was paused has to wait');
$crowded->stop('fast');

# ---- Prompt shutdown, whatever the brokers do. ----

kill 'STOP', $mock->{pid};
sql(q(CREATE SERVER nowhere FOREIGN DATA WRAPPER kappa OPTIONS (bootstrap_servers '127.0.0.1:1');
CREATE FOREIGN TABLE nowhere (n bigint) SERVER nowhere OPTIONS (topic 'nowhere');
CREATE FOREIGN TABLE silent (n bigint) SERVER faraway OPTIONS (topic 'silent');
SELECT kappa.create_view('nowhere_sum', 'SELECT sum(n) FROM nowhere');
SELECT kappa.create_view('silent_sum', 'SELECT sum(n) FROM silent');));
state_becomes('nowhere_sum', 'retrying', '');
state_becomes('silent_sum', 'retrying', '');
$took = seconds { $node->stop('fast') };
diag(sprintf 'stopped in %.2f s', $took);
cmp_ok($took, '<', 2, 'the server stops at once, with brokers that refuse and brokers that are silent');
kill 'CONT', $mock->{pid};

# ---- A server that does not preload kappa: topics can be read, views stand still. ----

$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$node->start;
cmp_ok(sql('SELECT count(*) FROM clicks'), '>', 0, 'a topic is read without preload');
is(sql(q(SELECT state FROM kappa.views WHERE view = 'pages'::regclass)), 'retrying', 'a view waits');
foreach my $call ("create_view('v', 'SELECT n FROM clicks')", "wait_for('pages')", "resume_view('pages')",
	"rebuild('pages')", "wait_for_rebuild('pages')")
{
	fails_like($node, "SELECT kappa.$call", qr/kappa is not loaded by the server/, "$call says what is missing");
}
fails_like($node, 'TRUNCATE pages', qr/cannot change view "pages"/, 'the view is guarded still');
$node->stop('fast');

$standby->stop('fast');
done_testing();
