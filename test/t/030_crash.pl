
# Exactly once, whatever is killed: workers, the supervisor, the launcher and
# the postmaster at random moments under load, and the broker.  After each
# kill the rows agree with the offsets that are stored beside them; at the end
# they agree with the views' queries, and with what this test has sent.
#
# KAPPA_TEST_SEED repeats the random choices of a run, KAPPA_TEST_KILLS makes it
# longer.

use strict;
use warnings;

use KappaTest;
use List::Util qw(shuffle sum0);
use PostgreSQL::Test::Utils;
use Test::More;

my $seed = $ENV{KAPPA_TEST_SEED} // time;
srand($seed);
note "KAPPA_TEST_SEED=$seed";

my $kafka = start_kafka(private => 1);
my $node = new_node(
	conf => q(
restart_after_crash = on
kappa.metadata_interval = 500
kappa.retry_max_delay = 2s
kappa.batch_rows = 2000
log_min_messages = warning
));

sub sql { return $node->safe_psql('postgres', @_); }

# ---- What is sent, and what must come of it. ----

my $sent = 0;        # messages in topic clicks
my %clicks;          # page => messages
my %amounts;         # page => sum of amounts, in hundredths
my %people;          # key => country, of the living
my %paid = (n => 0, amount => 0);    # what was committed

sub click
{
	my $n = ++$sent;
	my ($page, $cents) = ('/' . $n % 97, $n * 7 % 10_007);

	$clicks{$page}++;
	$amounts{$page} += $cents;
	return sprintf
	  '{"n": %d, "user_id": %d, "page": "%s", "amount": %d.%02d, "tags": ["t%d", "t%d"]}',
	  $n, $n % 1009, $page, $cents / 100, $cents % 100, $n % 5, $n % 7;
}

# Half of the changes of a small set of people are tombstones.
sub person
{
	my $key = int rand 300;
	my $country = (qw(DE FR NL))[ rand 3 ];

	if (rand() < 0.5)
	{
		delete $people{$key};
		return { key => $key, value => undef };
	}
	$people{$key} = $country;
	return { key => $key, value => { country => $country, v => int rand 1000 } };
}

create_topic('clicks', partitions => 4);
create_topic('payments', partitions => 2);
create_topic(
	'people',
	partitions => 2,
	config => {
		'cleanup.policy' => 'compact',
		'segment.bytes' => 1048576,
		'segment.ms' => 200,
		'min.cleanable.dirty.ratio' => '0.001',
		'delete.retention.ms' => 100
	});
sql(q(
CREATE FOREIGN TABLE clicks (n bigint, user_id bigint, page text, amount numeric,
	tags jsonb, part int OPTIONS (metadata 'partition'), pos bigint OPTIONS (metadata 'offset'))
	SERVER events OPTIONS (topic 'clicks', format 'json');
CREATE FOREIGN TABLE payments (id bigint, amount bigint)
	SERVER events OPTIONS (topic 'payments', format 'json');
CREATE FOREIGN TABLE people (id bigint OPTIONS (key 'true', metadata 'key'), country text, v int)
	SERVER events OPTIONS (topic 'people', format 'json');
SELECT kappa.create_view('totals', 'SELECT count(*) AS n, sum(amount) AS s, max(n) AS last FROM clicks');
SELECT kappa.create_view('per_page', 'SELECT page, count(*) AS n, sum(amount) AS s FROM clicks GROUP BY page');
SELECT kappa.create_view('per_user', 'SELECT user_id, count(*) AS n, max(n) AS last FROM clicks GROUP BY user_id');
SELECT kappa.create_view('click_log', 'SELECT n, user_id, page, amount, part, pos FROM clicks');
SELECT kappa.create_view('tag_log', 'SELECT n, tag FROM clicks, jsonb_array_elements_text(tags) AS tag');
SELECT kappa.create_view('last_click', 'SELECT DISTINCT ON (user_id) user_id, n, page FROM clicks ORDER BY user_id, n DESC NULLS LAST');
SELECT kappa.create_view('paid', 'SELECT count(*) AS n, sum(amount) AS s FROM payments');
SELECT kappa.create_view('payment_log', 'SELECT id, amount FROM payments');
SELECT kappa.create_view('everybody', 'SELECT id, country, v FROM people');
SELECT kappa.create_view('germans', $$ SELECT id, v FROM people WHERE country = 'DE' $$);
));
my @views = qw(totals per_page per_user click_log tag_log last_click paid
  payment_log everybody germans);

# ---- Load. ----

my @producers;

# Wait until everything is sent.
sub settle
{
	$_->finish foreach @producers;
	@producers = ();
	return;
}

# The next load, once the last one is through.
sub send_more
{
	my $clicks = 500 + int rand 3000;

	settle();
	@producers = (
		start_producer('clicks', [ map { click() } 1 .. $clicks ],
			rate => (0, 1000, 4000)[ rand 3 ]),
		start_producer('people', [ map { person() } 1 .. 100 ]));
	return;
}

sub payments
{
	my ($committed) = @_;
	my @payments = map { { id => int rand 1e9, amount => int rand 1000 } } 1 .. 20;

	if ($committed)
	{
		$paid{n} += @payments;
		$paid{amount} += $_->{amount} foreach @payments;
	}
	return [ map { { value => $_ } } @payments ];
}

# ---- Kills. ----

# Returns the pid of a process that was there; 0 if there was none.
sub kill_process
{
	my ($type, $signal) = @_;

	wait_for($node,
		"SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = '$type'")
	  or return 0;
	my @pids = kappa_pids($node, $type) or return 0;
	my $pid = $pids[ rand @pids ];
	return kill($signal // 'KILL', $pid) ? $pid : 0;
}

# The postmaster restarts everything; nobody has that pid afterwards.
sub kill_and_wait
{
	my $pid = kill_process(@_) or return 0;

	return wait_for($node,
		"SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid");
}

sub kill_postmaster
{
	kill_hard($node);
	$node->start;
	return 1;
}

my %ways = (
	'worker' => sub { kill_and_wait('kappa worker') },
	'supervisor' => sub { kill_and_wait('kappa supervisor') },
	'launcher' => sub { kill_and_wait('kappa launcher') },
	'postmaster' => \&kill_postmaster,
	'worker, then postmaster' =>
	  sub { kill_process('kappa worker') && kill_postmaster() },
	'worker, softly' => sub { kill_and_wait('kappa worker', 'TERM') });
my @ways = (
	('worker') x 9,
	('postmaster') x 7,
	('worker, then postmaster') x 3,
	('worker, softly') x 2,
	'supervisor', 'launcher');

# Rows and offsets change together: no snapshot sees one without the other.
sub ok_together
{
	my ($name) = @_;

	return is(
		sql(q(
		WITH p AS (SELECT view::text, coalesce(sum(next_offset), 0) AS n
			FROM kappa.offsets GROUP BY view),
		v AS (SELECT 'totals' AS view, n FROM totals
			UNION ALL SELECT 'per_page', coalesce(sum(n), 0) FROM per_page
			UNION ALL SELECT 'per_user', coalesce(sum(n), 0) FROM per_user
			UNION ALL SELECT 'click_log', count(*) FROM click_log
			UNION ALL SELECT 'tag_log', count(*) / 2 FROM tag_log)
		SELECT string_agg(view || ' has ' || v.n || ' of ' || p.n, ', ')
		FROM p JOIN v USING (view) WHERE v.n <> p.n)),
		'',
		$name);
}

# Some moment while the load is applied, or right at the start of workers.
sub await_random_moment
{
	my ($target) = @_;

	return 1 if rand() < 0.25;
	return wait_for($node,
		"SELECT sum(next_offset) >= $target FROM kappa.offsets WHERE view = 'totals'::regclass"
	);
}

# One load, and one kill in the middle of it.
sub ok_round
{
	my ($round, $way) = @_;
	my $before = $sent;
	my $end = (undef, 'commit', undef, 'abort')[ $round % 4 ];
	my $open;

	send_more();
	$open = open_transaction('payments', payments($end eq 'commit')) if $end;
	await_random_moment($before + int rand($sent - $before));
	ok_together("round $round: rows and offsets agree");
	ok($ways{$way}->(), "$way killed");
	ok_together('they still do');
	$open->$end if $open;
	return;
}

my $rounds = $ENV{KAPPA_TEST_KILLS} // 23;
my $kills = 0;
foreach my $round (1 .. $rounds)
{
	@ways = shuffle(@ways) if $round % @ways == 1;
	my $way = $ways[ $round % @ways ];

	if ($round == 8)
	{
		sql(q(SELECT kappa.create_view('late', 'SELECT page, max(n) AS last, count(*) AS n FROM clicks GROUP BY page')));
		push @views, 'late';
	}
	ok_round($round, $way);
	$kills += ($way =~ /softly/ ? 0 : $way =~ /then/ ? 2 : 1);
}
cmp_ok($kills, '>=', 20, "$kills processes killed");
settle();
produce('payments', payments(0), transaction => 'abort');

# ---- Every view equals its query, and what was sent. ----

sub ok_sent
{
	load_messages($node, 'clicks', 'sent_clicks');
	is(sql('SELECT n, last FROM totals'), "$sent|$sent", 'every click counts once');
	is( sql('SELECT page, n, (s * 100)::bigint FROM per_page ORDER BY page COLLATE "C"'),
		join("\n", map { "$_|$clicks{$_}|$amounts{$_}" } sort keys %clicks),
		'so it does for each page');
	same_rows($node, 'click_log', q(
		SELECT (m->>'n')::bigint AS n, (m->>'user_id')::bigint AS user_id, m->>'page' AS page,
			(m->>'amount')::numeric AS amount, part, pos
		FROM sent_clicks, LATERAL (SELECT value::jsonb AS m) m),
		name => 'the log of clicks has every message once');
	is(sql('SELECT n, s FROM paid'), "$paid{n}|$paid{amount}",
		'what was committed is paid, what was aborted is not');
	is( sql('SELECT id, country FROM everybody ORDER BY id'),
		join("\n", map { "$_|$people{$_}" } sort { $a <=> $b } keys %people),
		'everybody is there who has not left');
	is( sql('SELECT count(*) FROM germans'),
		scalar(grep { $_ eq 'DE' } values %people),
		'and so are the Germans');
	return;
}

ok_view($node, $_) foreach @views;
is(sql('SELECT sum(lag) FROM kappa.offsets'), '0', 'nothing is left to do');

# ---- The broker goes away under load, one way or the other, and comes back. ----

sub state_becomes
{
	my ($state, $name) = @_;

	return ok(
		wait_for($node, q(SELECT string_agg(DISTINCT state, ',') FROM kappa.views),
			$state),
		$name);
}

send_more();
rand() < 0.5 ? $kafka->kill9 : $kafka->stop;
state_becomes('retrying', 'without the broker all views wait');
ok( wait_for($node,
		q(SELECT reason ~ '_TRANSPORT|_ALL_BROKERS_DOWN' FROM kappa.views WHERE view = 'totals'::regclass)
	),
	'and say why');
fails_like(
	$node,
	"SET kappa.connect_timeout = '1s'; SELECT count(*) FROM clicks",
	qr/could not get the partitions of topic "clicks"/,
	'an ad-hoc SELECT is an error, not an empty result');
ok($ways{worker}->(), 'a worker is killed');
state_becomes('retrying', 'the next one waits, too');
ok_together('the rows are still there');
$kafka->start;
state_becomes('running', 'with the broker they go on by themselves');
settle();
ok_view($node, $_) foreach @views;
ok_sent();

# ---- The compacted topic has holes by now, and is read again from its start. ----

my $messages = sum0(end_offsets('people'));
produce('people', [ map { person() } 1 .. 10 ]);
my $left = $kafka->tool('count', 'people') + 0;
cmp_ok($left, '<', $messages, "compaction has left $left of $messages messages");
sql("SELECT kappa.create_view('everybody_again', 'SELECT id, country, v FROM people')");
ok_view($node, $_) foreach qw(everybody germans everybody_again);
same_rows($node, 'everybody_again', 'SELECT * FROM everybody');

$node->stop('fast');
done_testing();
