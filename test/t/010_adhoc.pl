
# Ad-hoc SELECT over topics, on a real Kafka: what is read, where it ends, what
# is pushed down, and what is said when something is wrong.

use strict;
use warnings;

use IO::Socket::INET;
use KappaTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $kafka = start_kafka(private => 1);
my $node = new_node();

sub query
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

# The number behind a label in EXPLAIN ANALYZE.
sub explained
{
	my ($label, $sql) = @_;
	my $plan = query("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) $sql");

	diag($plan) unless $plan =~ /$label: (\d+)/;
	return $plan =~ /$label: (\d+)/ ? $1 : undef;
}

# The timestamps are years old: without this Kafka would remove the messages.
my %keep = (config => { 'retention.ms' => -1 });

create_topic('adhoc', partitions => 4, %keep);
produce(
	'adhoc',
	[
		map {
			{
				partition => $_ % 4,
				key => "k$_",
				timestamp => 1_700_000_000_000 + 1000 * int($_ / 4),
				value => { n => $_, page => '/' . $_ % 10 }
			}
		} 0 .. 39_999
	]);
query(
	q(CREATE FOREIGN TABLE adhoc (
		n int, page text, key text OPTIONS (metadata 'key'),
		part int OPTIONS (metadata 'partition'),
		pos bigint OPTIONS (metadata 'offset'),
		at timestamptz OPTIONS (metadata 'timestamp'))
	SERVER events OPTIONS (topic 'adhoc', format 'json')));
load_messages($node, 'adhoc', 'plain');

# ---- The rows. ----

same_rows(
	$node, 'adhoc', q(
	SELECT (value::jsonb ->> 'n')::int, value::jsonb ->> 'page', key, part, pos, at
	FROM plain), name => 'an ad-hoc query reads every message');
is(query('SELECT count(*) FROM plain'), '40000', 'all of them');
is(query('SELECT count(*) FROM adhoc'), '40000', 'no column at all');

# ---- Restrictions narrow what is read, and never the result. ----

foreach my $where (
	'part = 2 AND pos >= 9990',
	'part IN (1, 3) AND pos < 5',
	'pos BETWEEN 100 AND 104',
	'104 >= pos AND 100 < pos',
	'(part, pos) IN ((0, 7), (1, 8000), (2, 5))',
	'(part = 0 AND pos >= 9995) OR (part = 1 AND pos < 5)',
	'pos = ANY (ARRAY[5, 1000, 9999]) AND part < 2',
	"at >= '2023-11-15 00:59:00+00'",
	"at = '2023-11-14 22:13:25+00'",
	"at > '2023-11-14 22:13:25+00' AND at < '2023-11-14 22:13:28+00'",
	"at >= '2023-11-15'::date AND pos > 9990",
	"at >= '2023-11-15 00:00'::timestamp AND part = 1",
	'part = NULL::int',
	'pos < 0 OR part > 100',
	'part = 0 OR page = \'/3\'',
	'NOT part = 1 AND pos < 10',
	'part = (SELECT 3) AND pos < 10')
{
	same_rows(
		$node,
		"(SELECT part, pos FROM adhoc WHERE $where) AS rows_read",
		"SELECT part, pos FROM (SELECT part, pos, at, value::jsonb ->> 'page' AS page FROM plain) plain WHERE $where",
		name => "restriction: $where");
}

is(explained('Messages Read', 'SELECT * FROM adhoc WHERE part = 2 AND pos >= 9990'),
	10, 'partition and offset are sought');
cmp_ok(
	explained('Messages Read', q(SELECT * FROM adhoc WHERE at >= '2023-11-15 00:59:00+00')),
	'<', 1000, 'a timestamp is sought');
cmp_ok(explained('Messages Read', 'SELECT * FROM adhoc LIMIT 1'),
	'<', 1000, 'LIMIT 1 reads a handful of messages');
is(explained('Messages Read', 'SELECT * FROM adhoc WHERE part = 7'),
	0, 'a partition that does not exist is not read');

my $plan = query('EXPLAIN (COSTS OFF) SELECT n FROM adhoc '
	  . "WHERE part = 2 AND pos >= 9 AND at >= '2023-11-15'::date");
like($plan, qr/^ +Topic: adhoc$/m, 'EXPLAIN shows the topic');
like($plan, qr/^ +Partitions: \(part = 2\)$/m, 'EXPLAIN shows partitions');
like($plan, qr/^ +Offsets: \(pos >= 9\)$/m, 'EXPLAIN shows offsets');
like($plan, qr/^ +Timestamps: \(at >= /m, 'EXPLAIN shows timestamps');

# A message with an early timestamp may come late: only lower bounds are sought.
create_topic('unordered', %keep);
produce('unordered',
	[ map { { timestamp => 1_700_000_000_000 + 1000 * $_, value => { ts => $_ } } } 5, 9, 1, 7, 3 ]);
query(
	q(CREATE FOREIGN TABLE unordered (ts int, at timestamptz OPTIONS (metadata 'timestamp'))
	SERVER events OPTIONS (topic 'unordered')));
is(query(q(SELECT string_agg(ts::text, ',' ORDER BY ts) FROM unordered WHERE at <= to_timestamp(1700000005))),
	'1,3,5', 'an upper bound on unordered timestamps');
is(query(q(SELECT string_agg(ts::text, ',' ORDER BY ts) FROM unordered WHERE at >= to_timestamp(1700000007))),
	'7,9', 'a lower bound on unordered timestamps');

# Parameters and repeated scans: each time with the values of that time.
is( query(
		q(SET plan_cache_mode = force_generic_plan;
		PREPARE q(int, bigint) AS SELECT count(*) FROM adhoc WHERE part = $1 AND pos >= $2;
		EXECUTE q(1, 9000); EXECUTE q(2, 9990); EXECUTE q(NULL, 0))),
	"1000\n10\n0", 'parameters of a prepared statement');
is( query(
		q(SELECT p, (SELECT count(*) FROM adhoc WHERE part = p AND pos >= o)
		FROM (VALUES (0, 9000), (3, 9995), (9, 0)) v (p, o))),
	"0|1000\n3|5\n9|0", 'a correlated subquery');

# ---- Parallel scans. ----

my $parallel = q(SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0;
	SET min_parallel_table_scan_size = 0; SET max_parallel_workers_per_gather = 2;);
my $grouped = 'SELECT page, count(*), sum(n), min(pos), max(pos) FROM adhoc GROUP BY page ORDER BY page';
like(query("$parallel EXPLAIN (COSTS OFF) $grouped"),
	qr/Parallel Foreign Scan on adhoc/, 'a parallel plan');
is(query("$parallel $grouped"),
	query("SET max_parallel_workers_per_gather = 0; $grouped"),
	'a parallel scan has the same rows');
is( query("$parallel SELECT count(*), count(DISTINCT (part, pos)) FROM adhoc WHERE part IN (0, 2) AND pos >= 100"),
	'19800|19800', 'a parallel scan of ranges reads each message once');
is( query("$parallel SELECT v, (SELECT count(*) FROM adhoc WHERE pos >= v) FROM generate_series(9990, 9994, 2) v"),
	"9990|40\n9992|32\n9994|24", 'a parallel scan that is repeated');

# ---- Where a partition ends. ----

create_topic('nothing', partitions => 3);
query(q(CREATE FOREIGN TABLE nothing (n int) SERVER events OPTIONS (topic 'nothing')));
is(query('SELECT count(*) FROM nothing'), '0', 'an empty topic');

create_topic('transactions', partitions => 2);
produce('transactions', [ map { { partition => 0, value => { n => $_ } } } 1 .. 10 ],
	transaction => 'commit');
produce('transactions', [ map { { partition => 0, value => { n => -$_ } } } 1 .. 2000 ],
	transaction => 'abort');
produce('transactions', [ map { { partition => 1, value => { n => -$_ } } } 1 .. 10 ],
	transaction => 'abort');
query(q(CREATE FOREIGN TABLE transactions (n int) SERVER events OPTIONS (topic 'transactions')));
is(query('SELECT count(*), min(n) FROM transactions'),
	'10|1', 'a log that ends with aborted messages');
my $open = open_transaction('transactions',
	[ map { { partition => 1, value => { n => $_ } } } 11 .. 15 ]);
is(query('SELECT count(*), min(n) FROM transactions'),
	'10|1', 'a log that ends with an open transaction');
$open->commit;
ok(wait_for($node, 'SELECT count(*), min(n) FROM transactions', '15|1'),
	'and after its commit');

create_topic('wide', partitions => 200);
produce('wide', [ map { { partition => $_ % 200, value => { n => $_ } } } 0 .. 1999 ]);
query(
	q(CREATE FOREIGN TABLE wide (n int, part int OPTIONS (metadata 'partition'))
	SERVER events OPTIONS (topic 'wide')));
is(query('SELECT count(*), count(DISTINCT part), sum(n) FROM wide'),
	'2000|200|1999000', 'two hundred partitions');

# ---- Headers. ----

create_topic('headers');
produce(
	'headers',
	[
		{ key => 1, value => { n => 1 } },
		{ key => 2, value => { n => 2 }, headers => { trace => 'x', empty => '', none => undef } },
		{
			key => 1,
			value => { n => 3 },
			headers => [ [ b => 'first' ], [ a => "\"q\" \\ \n\t=" ], [ b => 'last' ], [ 'h r"' => "\xc3\xa9" ], [ b => undef ] ]
		},
		{ key => 3, value => { n => 4 } }
	]);
query(
	q(CREATE FOREIGN TABLE headers (n int, h jsonb OPTIONS (metadata 'headers'), pos int8 OPTIONS (metadata 'offset'))
	SERVER events OPTIONS (topic 'headers');
	CREATE FOREIGN TABLE headers_as_json (n int, h json OPTIONS (metadata 'headers'))
	SERVER events OPTIONS (topic 'headers');
	CREATE FOREIGN TABLE headers_by_key (k int OPTIONS (key 'true', metadata 'key'), n int, h json OPTIONS (metadata 'headers'))
	SERVER events OPTIONS (topic 'headers');
	CREATE FOREIGN TABLE headers_as_text (h text OPTIONS (metadata 'headers'))
	SERVER events OPTIONS (topic 'headers')));
my $both = qq({"b": "first", "a": "\\"q\\" \\\\ \\n\\t=", "b": "last", "h r\\"": "\xc3\xa9", "b": null});
is( query('SELECT n, h FROM headers ORDER BY n'),
	qq(1|{}\n2|{"none": null, "empty": "", "trace": "x"}\n3|{"a": "\\"q\\" \\\\ \\n\\t=", "b": null, "h r\\"": "\xc3\xa9"}\n4|{}),
	'headers as jsonb: null, empty, the last of one name');
is( query('SELECT h FROM headers_as_json ORDER BY n'),
	qq({}\n{"empty": "", "none": null, "trace": "x"}\n$both\n{}),
	'as json: all, in their order');
is( query('SELECT k, h FROM headers_by_key ORDER BY k'),
	qq(1|$both\n2|{"empty": "", "none": null, "trace": "x"}\n3|{}),
	'of the latest message of a key');
fails_like($node, 'SELECT h FROM headers_as_text', qr/cannot hold the metadata "headers"/, 'a type that headers cannot have');
query(q(SELECT kappa.create_view('header_log', 'SELECT n, h, h ->> ''trace'' AS trace FROM headers');
	SELECT kappa.create_view('header_state', 'SELECT k, n, h FROM headers_by_key')));
ok_view($node, 'header_log', name => 'a view of headers');
ok_view($node, 'header_state', as_text => 1, name => 'and one over a changelog');
produce('headers',
	[ { key => 5, value => { n => 5 }, headers => { span => "\x01\xff" } }, { key => 6, value => { n => 6 }, headers => { span => "a\0b" } } ]);
is(query('SELECT count(*), sum(n) FROM headers'), '6|21', 'bytes that are no text do not matter to who does not read them');
fails_like(
	$node,
	'SELECT h FROM headers WHERE pos = 4',
	qr/invalid byte sequence for encoding "UTF8": 0xff.*topic "headers", partition 0, offset 4, column "h"/s,
	'a header that is not UTF-8');
fails_like(
	$node,
	'SELECT h FROM headers WHERE pos = 5',
	qr/invalid byte sequence for encoding "UTF8": 0x00.*offset 5, column "h"/s,
	'a header with a zero byte');
query('DROP TABLE header_log, header_state');

# ---- Bad messages. ----

create_topic('bad');
produce('bad', [ '{"n": 1, "page": "a"}', '{"n": "many", "page": "b"}', '{"n": 3, "page"' ]);
query(
	q(CREATE FOREIGN TABLE bad (n int, page text, pos bigint OPTIONS (metadata 'offset'))
	SERVER events OPTIONS (topic 'bad')));
is(query('SELECT page FROM bad WHERE pos < 2 ORDER BY pos'),
	"a\nb", 'an error belongs to the column that is read');
fails_like(
	$node,
	'SELECT * FROM bad',
	qr/invalid input syntax.*"many".*topic "bad", partition 0, offset 1, column "n"/s,
	'a value that does not fit its column');
fails_like(
	$node,
	'SELECT count(*) FROM bad',
	qr/not valid JSON.*topic "bad", partition 0, offset 2.*\{"n": 3, "page"/s,
	'a malformed message, even for count(*)');

# ---- Changelogs. ----

create_topic('people', partitions => 2);
produce(
	'people',
	[
		map { { key => $_->[0], partition => $_->[0] % 2, value => $_->[1] } } (
			[ 1, { name => 'a', country => 'DE' } ],
			[ 2, { name => 'b', country => 'DE' } ],
			[ 3, { name => 'c', country => 'FR' } ],
			[ 4, { name => 'd', country => 'DE' } ],
			[ 1, { name => 'a', country => 'FR' } ],
			[ 2, undef ],
			[ 4, undef ],
			[ 4, { name => 'dd', country => 'DE' } ],
			[ 6, undef ])
	]);
query(
	q(CREATE FOREIGN TABLE people (id int OPTIONS (key 'true', metadata 'key'),
		name text, country text, pos bigint OPTIONS (metadata 'offset'))
	SERVER events OPTIONS (topic 'people')));
is(query('SELECT id, name, country FROM people ORDER BY id'),
	"1|a|FR\n3|c|FR\n4|dd|DE", 'the latest message of each key, without tombstones');
is(query(q(SELECT id FROM people WHERE country = 'DE')),
	'4', 'a row that has left does not come back');
is(query('SELECT id FROM people WHERE pos < 2 ORDER BY id'),
	'3', 'an upper bound on the offset does not hide the latest message');
is(query('SELECT id, name FROM people WHERE id = 4'), '4|dd', 'one key');
is(query('SELECT count(*) FROM people WHERE id = 2::bigint'), '0', 'one deleted key');
is( query(
		q(SET work_mem = '64kB'; SET enable_hashjoin = off; SET enable_mergejoin = off;
		SELECT count(*) FROM generate_series(1, 3) g LEFT JOIN people ON id >= g)),
	'7', 'a changelog that is read again and again');
produce('people', [ { partition => 0, value => { name => 'nobody' } } ]);
fails_like(
	$node,
	'SELECT count(*) FROM people',
	qr/null value in key column "id".*topic "people", partition 0, at offset/s,
	'a message without a key');

# ---- What the planner knows. ----

like(query('EXPLAIN SELECT * FROM adhoc'), qr/rows=40000 /, 'an estimate from the log');
like(query('EXPLAIN SELECT * FROM adhoc WHERE part = 1 AND pos >= 9000'),
	qr/rows=1000 /, 'an estimate from the ranges');

# ---- Brokers that do not answer, topics that are not there. ----

query(q(CREATE FOREIGN TABLE missing (n int) SERVER events OPTIONS (topic 'missing')));
fails_like($node, 'SELECT * FROM missing',
	qr/topic "missing".*UNKNOWN_TOPIC/s, 'a topic that does not exist');

query(
	q(CREATE SERVER nowhere FOREIGN DATA WRAPPER kappa OPTIONS (bootstrap_servers '127.0.0.1:1');
	CREATE FOREIGN TABLE unreachable (n int) SERVER nowhere OPTIONS (topic 'adhoc')));
fails_like(
	$node,
	q(SET kappa.connect_timeout = '2s'; SELECT * FROM unreachable),
	qr/topic "adhoc".*refused/s, 'a broker that refuses connections');
like(query('EXPLAIN SELECT * FROM unreachable'),
	qr/Topic: adhoc/, 'EXPLAIN needs no broker');

# Something that accepts connections and says nothing, while planning and after.
my $mute = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 50)
  or die "could not listen: $!";
my $mute_port = $mute->sockport;
query(qq(CREATE SERVER mute FOREIGN DATA WRAPPER kappa OPTIONS (bootstrap_servers '127.0.0.1:$mute_port');
	CREATE FOREIGN TABLE mute (n int) SERVER mute OPTIONS (topic 'adhoc')));
cancelled_at_once($node, 'SELECT FROM mute', 'a broker that is silent can be cancelled at once',
	after => [ 300, 350, 400, 450, 700, 900, 1100 ]);

# A scan that is under way when the broker stops to answer: an error within a
# settable time, and it can be cancelled before.
my $slow = q(SELECT count(*) FROM adhoc CROSS JOIN LATERAL (SELECT max(g) FROM generate_series(1, 200) g WHERE g > n) x);

foreach my $frozen (0, 1)
{
	my $timer = $frozen ? '300ms' : '100ms';

	$kafka->freeze if $frozen;
	my $start = time;
	fails_like($node, "SET statement_timeout = '$timer'; $slow",
		qr/statement timeout/, $frozen ? 'cancelled while the broker hangs' : 'cancelled while reading');
	note(sprintf 'after %.0f ms', 1000 * (time - $start));
	cmp_ok(time - $start, '<', 2, 'at once');
}
my $start = time;
fails_like(
	$node,
	q(SET kappa.connect_timeout = '2s'; SELECT count(*) FROM adhoc),
	qr/ERROR:.*topic "adhoc"/s, 'a broker that hangs');
cmp_ok(time - $start, '<', 8, 'is given up in time');
$kafka->thaw;
ok(wait_for($node, 'SELECT count(*) FROM adhoc', '40000'), 'and read again later');

done_testing();
