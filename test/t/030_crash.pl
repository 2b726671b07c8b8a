
# Exactly once, whatever is killed: workers, the supervisor, the launcher and
# the postmaster at random moments under load, and the broker.  After each
# kill the rows agree with the offsets that are stored beside them; at the end
# they agree with the views' queries, and with what this test has sent.
#
# KAPPA_TEST_SEED repeats the random choices of a run, KAPPA_TEST_KILLS makes it
# longer.

use strict;
use warnings;

use CrashLoad;
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

my $load = CrashLoad->new($node);
$load->create;

my @ways = (
	('worker') x 9,
	('postmaster') x 7,
	('worker, then postmaster') x 3,
	('worker, softly') x 2,
	'supervisor', 'launcher');

my $kills = 0;

# One load, and one kill in the middle of it.
sub ok_round
{
	my ($round, $way) = @_;
	my $end = (undef, 'commit', undef, 'abort')[ $round % 4 ];
	my $open;

	$load->send_more;
	$open = $load->open_payments($end) if $end;
	$load->await_random_moment;
	$load->ok_together("round $round: rows and offsets agree");
	my $killed = $load->crash($way);
	ok(defined $killed, "$way killed");
	$kills += $killed // 0;
	$load->ok_together('they still do');
	$open->$end if $open;
	return;
}

my $rounds = $ENV{KAPPA_TEST_KILLS} // 23;
foreach my $round (1 .. $rounds)
{
	@ways = shuffle(@ways) if $round % @ways == 1;
	my $way = $ways[ $round % @ways ];

	$load->create_view('late', 'SELECT page, max(n) AS last, count(*) AS n FROM clicks GROUP BY page')
	  if $round == 8;
	ok_round($round, $way);
}
cmp_ok($kills, '>=', 20, "$kills processes killed");
$load->settle;
$load->open_payments('abort')->abort;

# ---- Every view equals its query, and what was sent. ----

ok_view($node, $_) foreach $load->views;
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

$load->send_more;
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
ok($load->crash('worker'), 'a worker is killed');
state_becomes('retrying', 'the next one waits, too');
$load->ok_together('the rows are still there');
$kafka->start;
state_becomes('running', 'with the broker they go on by themselves');
$load->settle;
ok_view($node, $_) foreach $load->views;
$load->ok_sent;

# ---- The compacted topic has holes by now, and is read again from its start. ----

my $messages = sum0(end_offsets('people'));
produce('people', [ map { $load->person } 1 .. 10 ]);
my $left = $kafka->tool('count', 'people') + 0;
cmp_ok($left, '<', $messages, "compaction has left $left of $messages messages");
sql("SELECT kappa.create_view('everybody_again', 'SELECT id, country, v FROM people')");
ok_view($node, $_) foreach qw(everybody germans everybody_again);
same_rows($node, 'everybody_again', 'SELECT * FROM everybody');

$node->stop('fast');
done_testing();
