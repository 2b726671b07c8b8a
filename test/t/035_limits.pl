
# What kappa may use up: memory, whatever the backlog; as many messages in a second
# as a view may have; and a disk that is full.

use strict;
use warnings;

use KappaTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $kafka = start_kafka();
my $node = new_node(
	conf => q(
shared_buffers = 16MB
kappa.retry_max_delay = 1s
kappa.batch_bytes = 4MB
kappa.fetch_buffer = 4MB
kappa.rebuild_workers = 1
));

sub sql { return $node->safe_psql('postgres', @_); }

# ---- Memory. ----

# The most that a process has had in memory, in MB.
sub peak
{
	my ($pid) = @_;
	my $status = eval { slurp_file("/proc/$pid/status") } // '';

	return $status =~ /^VmHWM:\s+(\d+)/m ? $1 / 1024 : 0;
}

# Keep a process of a kind from ending, so that its peak can still be read.
sub pid_of
{
	my ($view) = @_;
	return sql("SELECT worker_pid FROM kappa.views WHERE view = '$view'::regclass");
}

sub send_big
{
	my ($topic, $n) = @_;
	my $text = 'abcdefghij' x 50_000;
	my $i = 0;

	produce($topic, sub { return $i++ < $n ? qq({"n": $i, "text": "$i$text"}) : undef });
	return;
}

sub make_view
{
	my ($topic) = @_;

	return sql("SELECT kappa.create_view('${topic}_log', 'SELECT n, length(text) AS l, md5(text) AS m FROM $topic');
		SELECT kappa.create_view('${topic}_max', 'SELECT n % 10 AS k, count(*) AS c, max(text) AS t FROM $topic GROUP BY 1')");
}

my %peak;
foreach my $n (30, 240)
{
	my $topic = "backlog$n";

	create_topic($topic, partitions => 2, config => { 'max.message.bytes' => 2_000_000 });
	sql("CREATE FOREIGN TABLE $topic (n bigint, text text) SERVER events OPTIONS (topic '$topic', format 'json')");
	send_big($topic, $n);
	sql('SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = $$kappa worker$$');
	make_view($topic);
	ok_view($node, $_) foreach "${topic}_log", "${topic}_max";
	$peak{$n} = peak(pid_of("${topic}_log"));
}
note("a backlog of 15 MB took $peak{30} MB, one of 120 MB took $peak{240} MB");
cmp_ok($peak{30}, '>', 0, 'the memory of a worker is known');
cmp_ok($peak{240}, '<', $peak{30} + 40, 'memory does not grow with the backlog');

# ---- Memory of processes that replay. ----

# The most that one of them has until the view is there, in MB.
sub replay_peak
{
	my ($view, $query) = @_;
	my (%pids, $most);

	sql("SELECT kappa.create_view('$view', '$query')");
	do
	{
		$pids{$_} = 1 foreach kappa_pids($node, 'kappa replay');
		($most) = sort { $b <=> $a } $most // 0, map { peak($_) } keys %pids;
	} until sql("SELECT kappa.wait_for('$view', '10 ms')") eq 't';
	ok_view($node, $view);
	is(sql("SELECT count(*) FROM kappa.events WHERE view = '$view'::regclass AND event = 'replayed'"), 1, "$view was replayed");
	return $most;
}

# Slowly, so that they can be looked at.
sub set_up
{
	my (%settings) = @_;

	sql("ALTER SYSTEM SET $_ = '$settings{$_}'") foreach sort keys %settings;
	sql('SELECT pg_reload_conf()');
	return;
}

set_up('kappa.replay_min_messages' => 10, 'kappa.replay_rate' => 100);
my $long = replay_peak('long_log', 'SELECT n % 10 AS k, count(*) AS c, max(md5(text)) AS t FROM backlog240 GROUP BY 1');

create_topic('groups', partitions => 2);
sql(q(CREATE FOREIGN TABLE groups (n bigint) SERVER events OPTIONS (topic 'groups', format 'json')));
my $i = 0;
produce('groups', sub { return $i++ < 200_000 ? qq({"n": $i}) : undef });
set_up('kappa.replay_min_messages' => 100_000, 'kappa.replay_rate' => 100_000);
my %groups;
foreach my $memory (4, 256)
{
	set_up(maintenance_work_mem => "${memory}MB");
	$groups{$memory} = replay_peak("groups$memory", 'SELECT n, count(*) AS c, avg(n) AS a, max(n::text) AS t FROM groups GROUP BY 1');
}
note("a replay of 120 MB took $long MB, one of 200 000 groups $groups{4} MB in 4 MB, $groups{256} MB in 256 MB");
cmp_ok($long, '>', 0, 'the memory of a replay is known');
cmp_ok($long, '<', $peak{30} + 40, 'a replay takes no more memory for a longer log');
cmp_ok($groups{4}, '<', $peak{30} + 40, 'groups take maintenance_work_mem of it at most');
cmp_ok($groups{256}, '>', $groups{4} + 20, 'and that much where there is more');

# ---- Messages in a second. ----

create_topic('much', partitions => 2);
sql(q(CREATE FOREIGN TABLE much (n bigint) SERVER events OPTIONS (topic 'much', format 'json');
	SELECT kappa.create_view('slow', 'SELECT n % 10 AS d, count(*) AS c, avg(n) AS a FROM much GROUP BY 1');
	SELECT kappa.create_view('quick', 'SELECT n FROM much')));
sub send_much { return produce('much', [ map { { value => { n => $_ } } } 1 .. $_[0] ]); }
my $applied = q(SELECT sum(next_offset) FROM kappa.offsets WHERE view = 'slow'::regclass);

send_much(100);
ok_view($node, $_) foreach qw(slow quick);
sql(q(SELECT kappa.limit_view('slow', message_rate => 100)));
my $start = time;
send_much(3000);
is(sql(q(SELECT kappa.wait_for('quick', '30 s'))), 't', 'who has no limit does not wait');
cmp_ok(sql($applied), '<', 3100, 'for one that has');
is(sql(q(SELECT state FROM kappa.views WHERE view = 'slow'::regclass)), 'running', 'which is none the worse for it');
ok(wait_for($node, qq(SELECT ($applied) > 400)), 'and goes on');
cmp_ok(sql($applied), '<', 100 + 100 * (time - $start + 2), 'in its time');
sql(q(SELECT kappa.limit_view('slow', message_rate => 2000)));
ok_view($node, $_) foreach qw(slow quick);

# Nothing is held or done between two batches.
sql(q(SELECT kappa.limit_view('slow', message_rate => 20)));
send_much(5000);
ok(wait_for($node, qq(SELECT ($applied) > 3100)), 'it goes on');
my $idle = q(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'kappa worker' AND (xact_start IS NOT NULL OR backend_xmin IS NOT NULL));
ok(wait_for($node, $idle, '0'), 'between two batches it is in no transaction');
cmp_ok(sql($applied), '<', 8100, 'long before the end');
my $worker = pid_of('slow');
my $used = sub { my @stat = split ' ', slurp_file("/proc/$worker/stat"); return $stat[13] + $stat[14] };
my $ticks = $used->();
my $from = sql($applied);
ok(wait_for($node, qq(SELECT ($applied) >= $from + 60)), 'for three seconds');
cmp_ok($used->() - $ticks, '<', 100, 'and waits without work');
$node->restart;
is(sql(q(SELECT message_rate FROM kappa.views WHERE view = 'slow'::regclass)), '20', 'a limit survives a restart');
cmp_ok(sql($applied), '<', 8100, 'and is in force');
sql(q(SELECT kappa.limit_view('slow')));
is(sql(q(SELECT kappa.wait_for('slow', '60 s'))), 't', 'without the limit it is there at once');
ok_view($node, $_) foreach qw(slow quick);
sql('DROP TABLE slow, quick');

# ---- A full disk. ----

# A small file system for a tablespace, in a mount namespace of the server's
# own: that needs no privileges where the kernel lets users have namespaces.
my $space = $node->basedir . '/space';
my @unshare = ('unshare', '-m', '--map-current-user', '--keep-caps', 'sh', '-c');
mkdir $space or die;
$node->stop('fast');
my $mounted = system(@unshare, "mount -t tmpfs -o size=8m none '$space' 2>/dev/null") == 0;

SKIP:
{
	skip 'no file system can be mounted here', 1 unless $mounted;

	my $start = "mount -t tmpfs -o size=8m none '$space' && exec pg_ctl -w -D '" . $node->data_dir . "' -l '" . $node->logfile . "' start";
	system(@unshare, "$start >/dev/null") == 0 or die 'the server did not start';
	$node->_update_pid(1);

	create_topic('rows');
	sql("CREATE TABLESPACE small LOCATION '$space'");
	sql(q(CREATE FOREIGN TABLE rows (n bigint, text text) SERVER events OPTIONS (topic 'rows', format 'json');
		SELECT kappa.create_view('row_log', 'SELECT n, text FROM rows');
		SELECT kappa.create_view('row_sum', 'SELECT count(*) AS c, sum(n) AS s FROM rows')));
	produce('rows', [ map { qq({"n": $_, "text": "row $_"}) } 1 .. 100 ]);
	ok_view($node, $_) foreach qw(row_log row_sum);
	sql('ALTER TABLE row_log SET TABLESPACE small; ALTER TABLE row_log ALTER COLUMN text SET STORAGE PLAIN');
	sql('CREATE TABLE ballast TABLESPACE small AS SELECT repeat($$x$$, 1000) AS x FROM generate_series(1, 5000)');
	my $text = 'y' x 1000;
	produce('rows', [ map { qq({"n": $_, "text": "$text"}) } 101 .. 4000 ]);
	ok( wait_for($node, q(SELECT state, sqlstate, reason ~ 'No space left on device' FROM kappa.views WHERE view = 'row_log'::regclass), 'retrying|53100|t'),
		'a full disk is waited for');
	is(sql('SELECT count(*) = max(next_offset) FROM row_log, kappa.offsets WHERE view = $$row_log$$::regclass'), 't', 'rows and offsets agree');
	ok_view($node, 'row_sum', name => 'a view with room goes on');
	sql('DROP TABLE ballast; CHECKPOINT');
	ok_view($node, 'row_log', name => 'it goes on when there is room');
	is(sql(q(SELECT string_agg(DISTINCT event, ',' ORDER BY event) FROM kappa.events WHERE view = 'row_log'::regclass)), 'created,failed,recovered',
		'nothing was set aside, nothing stopped');
}

$node->stop('fast', fail_ok => 1);
done_testing();
