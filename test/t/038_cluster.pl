
# A real cluster of three nodes: the leader of partitions is killed while messages
# come and while they are replayed, a partition has no replica left, a node is
# not there from the start.  Views go on by themselves, with each message once.
# A replica becomes leader that lacks messages which views have applied: they
# stop, whether the log is longer again by then or not.

use strict;
use warnings;

use KappaTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $cluster = start_cluster(3);
my $node = new_node(
	conf => q(
kappa.metadata_interval = 500
kappa.retry_max_delay = 1s
));

sub sql { return $node->safe_psql('postgres', @_); }

sub ok_state
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return ok_view_state($node, @_);
}

my %sent;

# Messages that go on counting, to a partition or to all.
sub next_messages
{
	my ($topic, $n, %more) = @_;

	return [ map { $sent{$topic}++; { value => qq({"n": $sent{$topic}, "k": @{[ $sent{$topic} % 100 ]}}), %more } } 1 .. $n ];
}

sub make_views
{
	my ($topic, %options) = @_;

	create_topic($topic, %options);
	sql(qq(CREATE FOREIGN TABLE $topic (n bigint, k bigint, part int OPTIONS (metadata 'partition'), pos bigint OPTIONS (metadata 'offset'))
			SERVER events OPTIONS (topic '$topic', format 'json');
		SELECT kappa.create_view('${topic}_log', 'SELECT n, part, pos FROM $topic');
		SELECT kappa.create_view('${topic}_sum', 'SELECT k, count(*) AS c, sum(n) AS s FROM $topic GROUP BY k')));
	return;
}

# Do something while a view's worker stands still: others write before it asks.
sub with_worker_held
{
	my ($view, $what) = @_;
	my $pid = sql("SELECT worker_pid FROM kappa.views WHERE view = '$view'::regclass");

	kill 'STOP', $pid;
	$what->();
	kill 'CONT', $pid;
	return;
}

# Each message that was sent is there, once.
sub ok_all
{
	my ($topic, $name) = @_;

	ok_view($node, "${topic}_$_", name => "$name: ${topic}_$_ has the rows of its query") foreach qw(log sum);
	return is(sql("SELECT count(*), count(DISTINCT n), max(n), (SELECT sum(c) FROM ${topic}_sum) FROM ${topic}_log"),
		join('|', ($sent{$topic}) x 4), "$name: each message once");
}

# ---- The leader is killed while messages come. ----

make_views('orders', replicas => ['1,2,3', '2,3,1', '3,1,2'], config => { 'min.insync.replicas' => 2 });
make_views('alone', replicas => [1 .. 3]);
produce('alone', next_messages('alone', 10, partition => $_)) foreach 0 .. 2;
make_views('torn', replicas => ['1']);
produce('torn', next_messages('torn', 10));
my ($segment) = glob $cluster->node(1)->{directory} . '/data/torn-0/*.log';
my $torn = -s $segment;
produce('torn', next_messages('torn', 10));
ok_all('torn', 'before its node is killed');

my $producer = start_producer('orders', next_messages('orders', 12000), rate => 3000);
ok(wait_for($node, 'SELECT count(*) > 3000 FROM orders_log'), 'messages come');
# A topic that is new may not be known to all nodes at once, which is told, too.
ok_state('alone_log', 'running', '', 'a topic is there');
my $told = sql('SELECT max(id) FROM kappa.events');
$cluster->node(1)->kill9;
$cluster->wait_for_replicas('orders', '2 2,3', '2 2,3', '3 2,3');
$producer->finish;
ok_all('orders', 'a leader was killed');
ok_state('orders_log', 'running', '', 'it is no trouble for long');

# ---- A partition has no replica left. ----

ok_state('alone_log', 'retrying', 'partition 0 of topic "alone" has no leader.*HINT: See which brokers',
	'a partition without any replica is shown');
produce('alone', next_messages('alone', 10, partition => $_)) foreach 1, 2;
ok(wait_for($node, 'SELECT count(*) FROM alone_log', $sent{alone}), 'the others go on');
ok_state('alone_log', 'retrying', 'partition 0', 'it is still shown');
fails_like($node, q(SET kappa.connect_timeout = '1s'; SELECT count(*) FROM alone),
	qr/could not get offsets of (partition 0 of )?topic "alone"/, 'an ad-hoc SELECT is an error');

# It comes back without messages that were not on its disk yet, and gets others at once.
ok_state('torn_log', 'retrying', 'partition 0 of topic "torn" has no leader', 'a topic without a leader is shown');
truncate($segment, $torn);
with_worker_held(
	'torn_log',
	sub {
		$cluster->node(1)->start;
		produce('torn', next_messages('torn', 50));
	});
ok_state('torn_log', 'stopped', 'the topic is not the one.* offset 19 of partition 0', 'a leader that comes back without messages stops a view');
ok_state('alone_log', 'running', '', 'the partition heals with its node');
produce('alone', next_messages('alone', 10, partition => $_)) foreach 0 .. 2;
ok_all('alone', 'with the node');
is(sql(qq(SELECT string_agg(event, ',' ORDER BY at) FROM kappa.events WHERE view = 'alone_log'::regclass AND (event = 'created' OR id > $told))),
	'created,failed,recovered', 'it is said once');

# ---- The leader is killed while a log is replayed. ----

$cluster->wait_for_replicas('orders', '2 1,2,3', '2 1,2,3', '3 1,2,3');
sql(q(ALTER SYSTEM SET kappa.replay_min_messages = 1000));
sql(q(ALTER SYSTEM SET kappa.replay_rate = 2000));
sql(q(SELECT pg_reload_conf()));
sql(q(SELECT kappa.rebuild('orders_sum')));
ok(wait_for($node, q(SELECT messages > 0 AND phase = 'replaying' FROM kappa.rebuilds WHERE view = 'orders_sum'::regclass)),
	'a log is replayed');
$cluster->node(2)->kill9;
is(sql(q(SELECT messages < messages_total FROM kappa.rebuilds WHERE view = 'orders_sum'::regclass)), 't', 'a leader is killed meanwhile');
sql(q(ALTER SYSTEM RESET kappa.replay_rate));
sql(q(SELECT pg_reload_conf()));
produce('orders', next_messages('orders', 100));
is(sql(q(SELECT kappa.wait_for_rebuild('orders_sum', '1 min'))), 't', 'the replay ends');
ok_all('orders', 'a leader was killed in a replay');

# ---- A view and a worker begin without a node. ----

sql(q(SELECT kappa.create_view('late', 'SELECT part, count(*) AS c FROM orders GROUP BY part')));
ok_view($node, 'late', name => 'a view that begins without a node');
kill 'TERM', $_ foreach kappa_pids($node, 'kappa worker');
produce('orders', next_messages('orders', 100));
ok_all('orders', 'a worker that begins without a node');
$cluster->node(2)->start;

# ---- A replica that lacks messages becomes leader. ----

my @lossy = qw(shorter longer);
make_views($_, replicas => ['1,3'], config => { 'unclean.leader.election.enable' => 'true', 'min.insync.replicas' => 1 }) foreach @lossy;
produce($_, next_messages($_, 20)) foreach @lossy;
ok_all($_, "topic $_") foreach @lossy;
$cluster->node(3)->kill9;
$cluster->wait_for_replicas($_, '1 1') foreach @lossy;
produce($_, next_messages($_, 10)) foreach @lossy;
ok_all($_, "topic $_, without the follower") foreach @lossy;
with_worker_held(
	'longer_log',
	sub {
		$cluster->node(1)->kill9;
		$cluster->node(3)->start;
		$cluster->wait_for_replicas($_, '3 3') foreach @lossy;
		produce('longer', next_messages('longer', 1000));
	});
foreach my $kind (qw(log sum))
{
	ok_state("shorter_$kind", 'stopped', 'Partition 0 of topic "shorter" ends at offset 20, the view.s next offset is 30',
		'messages that a view has applied are gone: it stops');
	ok_state("longer_$kind", 'stopped', 'the topic is not the one that this view was built from.* offset 29 of partition 0',
		'also if others are in their place by then');
}
is(sql("SELECT count(*), max(n) FROM ${_}_log"), '30|30', 'with nothing of the other log') foreach @lossy;
foreach my $view (map { ("${_}_log", "${_}_sum") } @lossy)
{
	sql("SELECT kappa.rebuild('$view')");
	is(sql("SELECT kappa.wait_for_rebuild('$view', '1 min')"), 't', "$view: a rebuild leads out");
}
produce($_, next_messages($_, 30)) foreach @lossy;
ok_view($node, $_) foreach map { ("${_}_log", "${_}_sum") } @lossy;

$node->stop('fast');
done_testing();
