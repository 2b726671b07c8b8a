# When too much is bad, a view stops before it sets aside more; and a crash
# while letters are written loses none and makes none twice.

use strict;
use warnings;

use KappaTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = start_kafka();
my $node = new_node(conf => "kappa.retry_max_delay = '300ms'\n");

sub sql { return $node->safe_psql('postgres', @_); }

sub letters
{
	my ($view) = @_;
	return sql("SELECT count(*) FROM kappa.dead_letters WHERE view = '$view'::regclass");
}

sub state_becomes
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return ok_view_state($node, @_);
}

sub configure
{
	my (%settings) = @_;

	sql("ALTER SYSTEM SET $_ = '$settings{$_}'") foreach sort keys %settings;
	return sql('SELECT pg_reload_conf()');
}

sub good { return map { { value => { n => $_ } } } @_ }
sub bad { return map { { value => { n => "bad $_" } } } @_ }

sub make_view
{
	my ($topic, @messages) = @_;

	create_topic($topic);
	produce($topic, [@messages]) if @messages;
	return sql("CREATE FOREIGN TABLE ${topic}_t (n bigint) SERVER events OPTIONS (topic '$topic', format 'json');
		SELECT kappa.create_view('$topic', 'SELECT n FROM ${topic}_t')");
}

# ---- Everything is bad. ----

make_view('wrong', bad(1 .. 300));
state_becomes('wrong', 'stopped', 'too many messages cannot be applied.*All of the 10 messages that it has read so far are bad.*invalid input syntax.*HINT');
is(letters('wrong'), '0', 'a wrong schema does not turn a topic into dead letters');
sql(q(SELECT kappa.resume_view('wrong')));
state_becomes('wrong', 'stopped', 'All of the 10', 'resumed without a change, it stops again');
configure('kappa.dead_letter_percent' => 100);
sql(q(SELECT kappa.resume_view('wrong')));
is(sql(q(SELECT kappa.wait_for('wrong', '30 s'))), 't', 'without that limit it goes on');
is(letters('wrong'), '300', 'and sets all of them aside');
verified($node, 'wrong');
configure('kappa.dead_letter_percent' => 50);

# ---- A few bad messages at the beginning are none of that. ----

make_view('begun', bad(1 .. 3), good(4 .. 6));
is(sql(q(SELECT kappa.wait_for('begun', '30 s'))) . letters('begun'), 't3', 'three bad messages at first are set aside');
verified($node, 'begun');

# ---- More and more is bad. ----

make_view('decaying', good(1 .. 100));
sql(q(SELECT kappa.wait_for('decaying', '30 s')));
produce('decaying', [ bad(1 .. 90) ]);
is(sql(q(SELECT kappa.wait_for('decaying', '30 s'))) . letters('decaying'), 't90', 'less than half of the last messages');
produce('decaying', [ bad(91 .. 190) ]);
state_becomes('decaying', 'stopped', 'too many messages cannot be applied.*of the last [0-9]+ messages are bad; kappa.dead_letter_percent is 50');
cmp_ok(letters('decaying'), '<=', 101, 'more than half');
verified($node, 'decaying');

# ---- Too many wait. ----

configure('kappa.dead_letter_limit' => 4);
make_view('limited', good(1 .. 200), bad(1 .. 3), good(201 .. 210));
is(sql(q(SELECT kappa.wait_for('limited', '30 s'))) . letters('limited'), 't3', 'so many may wait');
produce('limited', [ bad(4 .. 5) ]);
state_becomes('limited', 'stopped', 'kappa.dead_letter_limit is 4, and [34] dead letters wait already');
sql(q(SELECT kappa.discard_dead_letters('limited'); SELECT kappa.resume_view('limited')));
is(sql(q(SELECT kappa.wait_for('limited', '30 s'))), 't', 'when they are given up it goes on');
verified($node, 'limited');
configure('kappa.dead_letter_limit' => 0);
make_view('strict', good(1 .. 5), bad(1));
state_becomes('strict', 'stopped', 'kappa.dead_letter_limit is 0');
is(letters('strict'), '0', 'with a limit of 0 nothing is set aside');
configure('kappa.dead_letter_limit' => -1);
sql(q(SELECT kappa.resume_view('strict')));
is(sql(q(SELECT kappa.wait_for('strict', '30 s'))) . letters('strict'), 't1', 'without a limit it is');

# ---- Limits of a view's own. ----

make_view('own', good(1 .. 200), bad(1 .. 3));
sql(q(SELECT kappa.create_view('others', 'SELECT n FROM own_t')));
is(sql("SELECT kappa.wait_for('$_', '30 s')") . letters($_), 't3', "$_ has three letters") foreach qw(own others);
sql(q(SELECT kappa.limit_view('own', dead_letter_limit => 4)));
is(sql(q(SELECT view, dead_letter_limit, dead_letter_percent, message_rate FROM kappa.views WHERE view IN ('own'::regclass, 'others'::regclass) ORDER BY 1)),
	"own|4||\nothers|||", 'whose limits they are is shown');
produce('own', [ bad(4 .. 5) ]);
state_becomes('own', 'stopped', 'Its dead_letter_limit is 4, and [34] dead letters wait already', 'a view stops at its own limit');
is(sql(q(SELECT kappa.wait_for('others', '30 s'))) . letters('others'), 't5', 'and no other');
sql(q(SELECT kappa.limit_view('own', dead_letter_percent => 3), kappa.resume_view('own')));
is(sql(q(SELECT kappa.wait_for('own', '30 s'))) . letters('own'), 't5', 'a call sets all limits');
produce('own', [ good(201 .. 320), bad(6 .. 12) ]);
state_becomes('own', 'stopped', '[0-9]+ of the last [0-9]+ messages are bad; its dead_letter_percent is 3', 'a share of its own');
sql(q(SELECT kappa.limit_view('own'), kappa.resume_view('own')));
is(sql("SELECT kappa.wait_for('$_', '30 s')") . letters($_), 't12', "without limits of its own the server's count for $_") foreach qw(own others);
verified($node, $_) foreach qw(own others);
fails_like($node, "SELECT kappa.limit_view('own', $_)", qr/is outside the valid range for "\w+"/, "a limit that makes no sense: $_")
  foreach 'dead_letter_limit => -2', 'dead_letter_percent => 101', 'message_rate => 0';

# ---- A crash in the middle. ----

configure('kappa.batch_rows' => 50);
make_view('crashing', good(0));
sql(q(SELECT kappa.create_view('crashed_sum', 'SELECT n % 10 AS d, count(*) AS c, avg(n) AS a FROM crashing_t GROUP BY 1')));
my $producer = start_producer('crashing', [ map { $_ % 20 == 7 ? bad($_) : good($_) } 1 .. 4000 ], rate => 800);
for my $round (1 .. 3)
{
	wait_for($node, "SELECT count(*) > $round * 20 FROM kappa.dead_letters WHERE view = 'crashing'::regclass");
	kill_hard($node);
	$node->start;
}
$producer->finish;
foreach my $view (qw(crashing crashed_sum))
{
	is(sql("SELECT kappa.wait_for('$view', '60 s')") . letters($view), 't200', "each bad message is a letter of $view once");
	verified($node, $view);
}
is(sql('SELECT count(*) FROM crashing'), '3801', 'and each good one a row');

$node->stop('fast');
done_testing();
