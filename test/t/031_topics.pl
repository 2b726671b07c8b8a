
# Topics of all shapes, and many views: partitions added while running, 200 of
# them, none of their messages; messages of 1 byte and of 5 MB; fifty views on
# one topic; two databases; a reader that holds its snapshot.

use strict;
use warnings;

use IPC::Run;
use KappaTest;
use PostgreSQL::Test::Utils;
use Socket qw(AF_INET IPPROTO_TCP SOCK_DGRAM);
use Test::More;

my $kafka = start_kafka();
my $node = new_node(
	conf => q(
kappa.metadata_interval = 300
kappa.fetch_buffer = 2MB
log_min_messages = warning
));

sub sql { return $node->safe_psql('postgres', @_); }

sub numbers
{
	my ($from, $to, %more) = @_;
	return [ map { { value => qq({"n": $_, "k": ) . $_ % 10 . '}', %more } } $from .. $to ];
}

sub create_table
{
	my ($topic) = @_;
	return sql(
		"CREATE FOREIGN TABLE $topic (n bigint, k int, part int OPTIONS (metadata 'partition'),
			pos bigint OPTIONS (metadata 'offset')) SERVER events OPTIONS (topic '$topic', format 'json')"
	);
}

# ---- An empty topic. ----

create_topic('vacant', partitions => 2);
create_table('vacant');
my @vacant = qw(vacant_total vacant_groups vacant_log vacant_last);
sql(q(
SELECT kappa.create_view('vacant_total', 'SELECT count(*) AS c, sum(n) AS s, max(n) AS m FROM vacant');
SELECT kappa.create_view('vacant_groups', 'SELECT k, count(*) AS c FROM vacant GROUP BY k');
SELECT kappa.create_view('vacant_log', 'SELECT n, part, pos FROM vacant');
SELECT kappa.create_view('vacant_last', 'SELECT DISTINCT ON (k) k, n FROM vacant ORDER BY k, n DESC NULLS LAST');
));
ok_view($node, $_) foreach @vacant;
is(sql('SELECT c, s, m FROM vacant_total'), '0||', 'the total of nothing');
is(sql('SELECT DISTINCT start_offset, next_offset, lag FROM kappa.offsets'),
	'0|0|0', 'positions are known all the same');
ok( wait_for($node, q(SELECT string_agg(DISTINCT state, ',') FROM kappa.views),
		'running'),
	'views over an empty topic run');
produce('vacant', numbers(1, 1));
ok_view($node, $_) foreach @vacant;
is(sql('SELECT c, s, m FROM vacant_total'), '1|1|1', 'the first message');

# ---- Partitions are added. ----

create_topic('growing');
create_table('growing');
sql(q(
SELECT kappa.create_view('growing_total', 'SELECT count(*) AS c, sum(n) AS s FROM growing');
SELECT kappa.create_view('growing_log', 'SELECT n, part, pos FROM growing');
));
produce('growing', numbers(1, 100));
ok_view($node, 'growing_total');
add_partitions('growing', 3);
produce('growing', numbers(101, 200, partition => 2));
ok(wait_for($node, 'SELECT c FROM growing_total', '200'), 'a new partition is found');
my $producer = start_producer('growing', numbers(201, 3200), rate => 2000);
add_partitions('growing', 5);
produce('growing', numbers(3201, 3300, partition => 4));
$producer->finish;
ok(wait_for($node, 'SELECT c FROM growing_total', '3300'), 'likewise under load');
$node->stop('fast');
add_partitions('growing', 6);
produce('growing', numbers(3301, 3400, partition => 5));
$node->start;
ok(wait_for($node, 'SELECT c FROM growing_total', '3400'), 'likewise while the server is down');
ok_view($node, $_) foreach qw(growing_total growing_log);
is(sql('SELECT c, s FROM growing_total'), '3400|' . 3400 * 3401 / 2, 'nothing twice, nothing missing');
is( sql(q(SELECT string_agg(part || ':' || start_offset, ' ' ORDER BY part) FROM kappa.offsets WHERE view = 'growing_log'::regclass)),
	'0:0 1:0 2:0 3:0 4:0 5:0',
	'new partitions are read from their beginning');

# In a changelog a key would change its partition.
create_topic('citizens', partitions => 2);
sql(q(
CREATE FOREIGN TABLE citizens (id int OPTIONS (key 'true', metadata 'key'), n int) SERVER events OPTIONS (topic 'citizens', format 'json');
SELECT kappa.create_view('all_citizens', 'SELECT id, n FROM citizens');
));
produce('citizens', [ map { { key => $_, value => { n => 1 } } } 1 .. 50 ]);
ok_view($node, 'all_citizens');
add_partitions('citizens', 3);
ok( wait_for($node, q(SELECT state FROM kappa.views WHERE view = 'all_citizens'::regclass), 'stopped'),
	'a changelog that gets more partitions stops');
like(sql(q(SELECT reason FROM kappa.views WHERE view = 'all_citizens'::regclass)),
	qr/partitions were added to changelog topic "citizens"/, 'and says why');
is(sql('SELECT count(*) FROM all_citizens'), '50', 'its rows stay');
fails_like($node, q(SELECT kappa.rebuild('all_citizens')), qr/partitions were added.*argument start of kappa\.rebuild/s, 'and is not built anew from there');
my $added_at = sql('SELECT clock_timestamp()');
produce('citizens', [ map { { key => $_, value => { n => 2 } } } 1 .. 60 ]);
sql("SELECT kappa.rebuild('all_citizens', start => '$added_at')");
is(sql(q(SELECT kappa.wait_for_rebuild('all_citizens', '1 min'))), 't', 'but from when all keys were written again');
verified($node, 'all_citizens');
is(sql(q(SELECT count(*), count(*) FILTER (WHERE n = 2), (SELECT count(*) FROM kappa.offsets WHERE view = 'all_citizens'::regclass) FROM all_citizens)), '60|60|3', 'from all partitions');

# ---- 200 partitions. ----

create_topic('wide', partitions => 200);
create_table('wide');
produce('wide', [ map { { value => { n => $_, k => $_ % 7 }, partition => $_ % 199 } } 1 .. 10_000 ]);
sql(q(
SELECT kappa.create_view('wide_groups', 'SELECT k, count(*) AS c, sum(n) AS s FROM wide GROUP BY k');
SELECT kappa.create_view('wide_log', 'SELECT n, part, pos FROM wide');
));
ok_view($node, $_) foreach qw(wide_groups wide_log);
is( sql(q(SELECT count(*), sum(next_offset), sum(lag) FROM kappa.offsets WHERE view = 'wide_log'::regclass)),
	'200|10000|0', '200 positions');
is(sql('SELECT count(*), count(DISTINCT part) FROM wide'),
	'10000|199', 'an ad-hoc SELECT over 200 partitions');
produce('wide', numbers(10_001, 10_001, partition => 199));
ok( wait_for($node, 'SELECT max(n), count(DISTINCT part) FROM wide_log', '10001|200'),
	'a single message in the partition that was empty');
$node->restart;
produce('wide', numbers(10_002, 10_100));
ok_view($node, $_) foreach qw(wide_groups wide_log);

# ---- Messages of 1 byte, and of 5 MB. ----

create_topic('sizes', config => { 'max.message.bytes' => 8_000_000 });
sql(q(
CREATE FOREIGN TABLE sizes (value text, pos bigint OPTIONS (metadata 'offset')) SERVER events OPTIONS (topic 'sizes', format 'raw');
SELECT kappa.create_view('sizes_log', 'SELECT pos, length(value) AS l, md5(value) AS m, value FROM sizes');
SELECT kappa.create_view('sizes_total', 'SELECT count(*) AS c, sum(length(value)) AS l, max(right(value, 1)) AS m FROM sizes');
));
my @sizes = map { ('x', ('0' .. '9', 'a' .. 'z')[$_] x 5_000_000, 'y' x $_) } 1 .. 6;
produce('sizes', \@sizes);
ok_view($node, $_) foreach qw(sizes_log sizes_total);
is( sql(q(SELECT string_agg(l::text, ',' ORDER BY pos) FROM sizes_log)),
	join(',', map { length } @sizes),
	'all sizes arrive');

create_topic('big', config => { 'max.message.bytes' => 8_000_000 });
sql(q(
CREATE FOREIGN TABLE big (n int, text text, list jsonb) SERVER events OPTIONS (topic 'big', format 'json');
SELECT kappa.create_view('big_log', 'SELECT n, length(text) AS l, md5(text) AS m FROM big');
SELECT kappa.create_view('big_items', 'SELECT n, count(*) AS c, sum(item::int) AS s FROM big, jsonb_array_elements_text(list) AS item GROUP BY n');
));
my $list = join ',', 1 .. 100_000;
produce('big', [ map { qq({"n": $_, "text": ") . "\\u00e9$_" x 600_000 . qq(", "list": [$list]}) } 1 .. 4 ]);
ok_view($node, $_) foreach qw(big_log big_items);
is(sql('SELECT l FROM big_log WHERE n = 3'), 2 * 600_000, 'a long text');
is(sql('SELECT c, s FROM big_items WHERE n = 4'), '100000|5000050000', 'a long array');

# ---- Fifty views on one topic read it once. ----

# The kernel's answer, a list of messages, to a question for the established
# TCP connections and their counters (sock_diag); empty if it cannot be asked.
sub ask_connections
{
	my $request = pack('L S S L L C C C C L x48', 72, 20, 0x301, 1, 0,
		AF_INET, IPPROTO_TCP, 2, 0, 1 << 1);
	my @messages;

	socket(my $diag, 16, SOCK_DGRAM, 4) or return;
	send($diag, $request, 0) or return;
	while (defined recv($diag, my $data, 1 << 16, 0))
	{
		while (length $data >= 16)
		{
			my ($length, $type) = unpack('L S', $data);

			return @messages if $type != 20;
			push @messages, substr($data, 0, $length);
			$data = substr($data, ($length + 3) & ~3);
		}
	}
	return;
}

# Bytes that a process has received through its TCP connections; undef if the
# kernel does not tell.
sub bytes_received
{
	my ($pid) = @_;
	my %inodes = map { (readlink($_) // '') =~ /^socket:\[(\d+)\]$/ ? ($1 => 1) : () }
	  glob "/proc/$pid/fd/*";
	my $sum;

	foreach my $message (ask_connections())
	{
		my $at = 88;    # of the first attribute

		next unless $inodes{ unpack('x84 L', $message) };
		while ($at + 4 <= length $message)
		{
			my ($size, $attribute) = unpack("x$at S S", $message);
			my $counter = $at + 4 + 128;    # in struct tcp_info

			$sum += unpack("x$counter Q", $message)
			  if $attribute == 2 && $size >= 4 + 136;
			$at += ($size + 3) & ~3;
		}
	}
	return $sum;
}

create_topic('busy', partitions => 4);
sql(q(CREATE FOREIGN TABLE busy (n bigint, k int, s text, f float8, m numeric, at timestamptz, tags int[], part int OPTIONS (metadata 'partition'),
	pos bigint OPTIONS (metadata 'offset')) SERVER events OPTIONS (topic 'busy', format 'json')));
my $padding = join '', map { chr(33 + int rand 58) } 1 .. 1000;
$padding =~ s/["\\]/_/g;
my $bytes = 0;

sub busy
{
	my ($n) = @_;
	my $value = sprintf '{"n": %d, "k": %d, "s": "s%d", "m": %d.25, "at": "2026-11-%02dT10:00:00Z", '
	  . '"tags": [%d, %d], "padding": "%s"}',
	  $n, $n % 13, $n % 101, $n, 1 + $n % 28, $n % 3, $n % 5, substr($padding, $n % 100) . $n;

	$bytes += length $value;
	return $value;
}
produce('busy', [ map { busy($_) } 1 .. 20_000 ]);

my @queries = (
	'SELECT k, count(*) AS c, sum(n) AS s FROM busy GROUP BY k',
	'SELECT k, s, max(at) AS at, min(m) AS m FROM busy WHERE k <> $i GROUP BY k, s',
	'SELECT count(*) AS c, count(*) FILTER (WHERE k = $i) AS f, sum(m) AS m FROM busy',
	'SELECT n, s, part, pos FROM busy WHERE k = $i',
	'SELECT n, tag FROM busy, unnest(tags) AS tag WHERE n % 100 = $i',
	'SELECT DISTINCT ON (s) s, n, at FROM busy ORDER BY s, n DESC NULLS LAST',
	'SELECT DISTINCT ON (k) k, n FROM busy WHERE n % 2 = $i % 2 ORDER BY k, n',
	'SELECT at::date AS day, bool_or(k = $i) AS b, sum(n) AS s FROM busy GROUP BY 1',
	'SELECT tag, count(*) AS c FROM busy, unnest(tags) AS tag GROUP BY tag',
	'SELECT part, max(pos) AS last, count(*) AS c FROM busy GROUP BY part');
my @busy;
my $statements = '';

foreach my $i (0 .. 49)
{
	push @busy, "busy_$i";
	my $query = $queries[ $i % @queries ] =~ s/\$i/$i/gr;

	$statements .= "SELECT kappa.create_view('busy_$i', '$query');\n";
}
sql("BEGIN; $statements COMMIT;");
my $ours = "view::text LIKE 'busy\\_%'";
ok( wait_for($node, "SELECT DISTINCT messages FROM kappa.stat_views WHERE $ours", '20000'),
	'each of fifty views gets all messages');
ok( wait_for($node, "SELECT count(*) FILTER (WHERE state = 'running'), count(DISTINCT worker_pid)
		FROM kappa.views WHERE $ours", '50|1'),
	'and one process serves them');
my $pid = sql("SELECT DISTINCT worker_pid FROM kappa.views WHERE $ours");
my $received = bytes_received($pid);
SKIP:
{
	skip 'the kernel does not tell the bytes received', 1 unless defined $received;
	cmp_ok($received, '<', 2 * $bytes, "it has received $received bytes of a topic of $bytes bytes");
}
is(sql("SELECT count(DISTINCT batches) FROM kappa.stat_views WHERE $ours"), '1', 'in the same batches');
ok_view($node, $_) foreach @busy;
produce('busy', [ map { busy($_) } 20_001 .. 21_000 ]);
ok_view($node, $_) foreach @busy[ 0 .. 9 ];

# ---- A reader that holds its snapshot. ----

my ($in, $out) = ('', '');
my $reader = IPC::Run::start(
	[ 'psql', '-XqAt', '-d', $node->connstr('postgres') ],
	'<', \$in, '>', \$out, IPC::Run::timeout(60));

sub ask
{
	my ($query) = @_;

	$out = '';
	$in .= "$query;\n\\echo done\n";
	$reader->pump until $out =~ /^done$/m;
	return $out =~ s/\n?done\n//r;
}
my $question = q(SELECT (SELECT sum(c) FROM busy_0), (SELECT count(*) FROM busy_3),
	(SELECT sum(next_offset) FROM kappa.offsets WHERE view = 'busy_0'::regclass));
ask('BEGIN ISOLATION LEVEL REPEATABLE READ');
my $before = ask($question);
like($before, qr/^21000\|\d+\|21000$/, 'a reader begins');
foreach my $i (1 .. 20)
{
	produce('busy', [ map { busy($_) } 21_000 + 50 * ($i - 1) + 1 .. 21_000 + 50 * $i ]);
	is(sql("SELECT kappa.wait_for('busy_0', '10 s')"), 't', 'views go on beside it') if $i % 5 == 0;
}
ok_view($node, $_) foreach qw(busy_0 busy_3);
is(ask($question), $before, 'and sees what it saw');
ask('COMMIT');
like(ask($question), qr/^22000\|\d+\|22000$/, 'until it ends');
$reader->finish;

# ---- Two databases. ----

my $brokers = $kafka->brokers;
sql('CREATE DATABASE other');
$node->safe_psql('other', qq(
CREATE EXTENSION kappa;
CREATE SERVER events FOREIGN DATA WRAPPER kappa OPTIONS (bootstrap_servers '$brokers');
CREATE FOREIGN TABLE busy (n bigint, k int) SERVER events OPTIONS (topic 'busy', format 'json');
SELECT kappa.create_view('busy_0', 'SELECT k, count(*) AS c, sum(n) AS s FROM busy GROUP BY k');
SELECT kappa.create_view('elsewhere', 'SELECT n, k FROM busy');
));
ok_view($node, $_, dbname => 'other', name => "$_ of the other database") foreach qw(busy_0 elsewhere);
produce('busy', [ map { busy($_) } 22_001 .. 23_000 ]);
ok_view($node, $_, dbname => 'other', name => "$_ of the other database") foreach qw(busy_0 elsewhere);
ok_view($node, 'busy_0');
is($node->safe_psql('other', 'SELECT count(*) FROM kappa.views'), '2', 'each database sees its own views');
is( $node->safe_psql('other', 'SELECT c FROM busy_0 ORDER BY k'),
	sql('SELECT c FROM busy_0 ORDER BY k'),
	'views of one name in two databases');
sql('DROP DATABASE other');
is(sql(q(SELECT count(*) FROM pg_stat_activity WHERE datname = 'other')), '0', 'a database with workers is dropped');
produce('busy', [ map { busy($_) } 23_001 .. 23_100 ]);
ok_view($node, 'busy_0');
ok( wait_for($node, q(SELECT string_agg(DISTINCT state, ',') FROM kappa.views), 'running'),
	'all views still run');

$node->stop('fast');
done_testing();
