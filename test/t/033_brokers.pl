
# Brokers in trouble: one of several is gone, a partition has no leader, answers
# are slow.  On librdkafka's mock cluster, where all of that can be had.

use strict;
use warnings;

use KappaTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $mock = start_mock(brokers => 3);
my $node = new_node(
	conf => q(
kappa.metadata_interval = 500
kappa.retry_max_delay = 1s
));

sub sql { return $node->safe_psql('postgres', @_); }

sub ok_state
{
	my ($state, $reason, $name) = @_;

	return ok(
		wait_for(
			$node,
			"SELECT string_agg(DISTINCT state, ','), bool_and(coalesce(reason, '') ~ '$reason') FROM kappa.views",
			"$state|t"),
		$name);
}

my $sent = 0;

sub send_to
{
	my ($partition, $n) = @_;

	produce('items', [ map { $sent++; { value => qq({"n": $sent}), partition => $partition } } 1 .. $n ], kafka => $mock);
	return;
}

my $brokers = $mock->brokers;
$mock->command('topic items 3');
$mock->command("leader items $_ " . ($_ + 1)) foreach 0 .. 2;
sql(qq(
CREATE SERVER cluster FOREIGN DATA WRAPPER kappa OPTIONS (bootstrap_servers '$brokers');
CREATE FOREIGN TABLE items (n bigint, part int OPTIONS (metadata 'partition'), pos bigint OPTIONS (metadata 'offset')) SERVER cluster OPTIONS (topic 'items');
SELECT kappa.create_view('item_log', 'SELECT n, part, pos FROM items');
SELECT kappa.create_view('item_sum', 'SELECT count(*) AS c, sum(n) AS s FROM items')));
my @views = qw(item_log item_sum);
send_to($_, 10) foreach 0 .. 2;
ok_view($node, $_) foreach @views;

# ---- A slow broker. ----

$mock->command('rtt 2 100');
send_to($_, 10) foreach 0 .. 2;
ok_view($node, $_, name => "a slow broker: $_ has the rows of its query") foreach @views;
ok_state('running', '', 'it is no trouble');
$mock->command('rtt 2 0');

# ---- A partition without a leader. ----

$mock->command('leader items 1 -1');
ok_state('retrying', 'partition 1 of topic "items" has no leader.*HINT: See which brokers', 'a partition without a leader is shown');
send_to(0, 10);
send_to(2, 10);
ok(wait_for($node, q(SELECT string_agg(DISTINCT c::text, ',') FROM (SELECT count(*) AS c FROM item_log UNION ALL SELECT c FROM item_sum) AS s), $sent),
	'the others go on');
ok_state('retrying', 'partition 1', 'it is still shown');
fails_like($node, q(SET kappa.connect_timeout = '1s'; SELECT count(*) FROM items), qr/could not get offsets of (partition 1 of )?topic "items"/,
	'an ad-hoc SELECT is an error');
is(sql(q(SELECT string_agg(DISTINCT event, ',') FROM kappa.events WHERE event <> 'created')), 'failed', 'it is an event');

# ---- Its broker is gone, another one takes over. ----

$mock->command('down 2');
$mock->command('leader items 1 3');
ok_state('running', '', 'with a new leader all is well');
send_to($_, 10) foreach 0 .. 2;
ok_view($node, $_, name => "one broker of several is gone: $_ has the rows of its query") foreach @views;
is(sql(q(SELECT string_agg(event, ',' ORDER BY at) FROM kappa.events WHERE view = 'item_log'::regclass)),
	'created,failed,recovered', 'what happened is kept');

# A view and a worker that begin without it.
sql(q(SELECT kappa.create_view('late', 'SELECT part, count(*) AS c FROM items GROUP BY part')));
ok_view($node, 'late', name => 'a view that begins with one broker of several gone');
my ($pid) = kappa_pids($node, 'kappa worker');
kill 'TERM', $pid;
ok_view($node, $_, name => "$_ goes on with another worker") foreach @views;

# ---- All of them. ----

$mock->command("down $_") foreach 1, 3;
ok_state('retrying', 'items', 'without any broker views wait');
$mock->command("up $_") foreach 1 .. 3;
ok_state('running', '', 'and go on with them');
send_to($_, 10) foreach 0 .. 2;
ok_view($node, $_) foreach @views, 'late';

# ---- Another continent: an answer takes longer than a worker waits at first. ----

sql(qq(SELECT kappa.pause_view('$_'))) foreach @views;
$mock->command("rtt $_ 400") foreach 1 .. 3;
sql(qq(SELECT kappa.resume_view('$_'))) foreach @views;
send_to($_, 10) foreach 0 .. 2;
ok_view($node, $_, name => "brokers 0.4 s away: $_ has the rows of its query") foreach @views;
ok_state('running', '', 'that is no trouble either');
$mock->command("rtt $_ 0") foreach 1 .. 3;

# ---- Messages come, but nobody says where the log ends. ----

my ($list_offsets, $request_timed_out) = (2, 7);

$mock->command("error $list_offsets $request_timed_out 100000");
ok_state('retrying', 'could not get offsets of .*topic "items"', 'questions that are not answered are shown');
send_to($_, 10) foreach 0 .. 2;
ok(wait_for($node, 'SELECT count(*) FROM item_log', $sent), 'what comes is read all the same');
$mock->command("error $list_offsets $request_timed_out 0");
ok_state('running', '', 'once there is an answer all is well');
ok_view($node, $_) foreach @views, 'late';

$node->stop('fast');
done_testing();
