
# Everything at once, and crashes in the middle of it: load with transactions,
# views of every kind that are made, altered, rebuilt, rolled back, paused and
# dropped, while processes, the server and the broker are killed or stopped at
# random moments.  Each cycle ends with every view equal to its query and to what
# was sent.
#
# KAPPA_SOAK_MINUTES says for how long (test/soak is the way to ask for hours),
# KAPPA_SEED repeats the random choices of a run, not its moments.

use strict;
use warnings;

use CrashLoad;
use KappaTest;
use PostgreSQL::Test::Utils;
use RandomQuery;
use Test::More;
use Time::HiRes qw(time);

my $seed = $ENV{KAPPA_SEED} // int rand 1e9;
my $minutes = $ENV{KAPPA_SOAK_MINUTES} // 0.6;
my $cycles_per_era = 15;    # then topics and views are made afresh
my $started = time;

note "KAPPA_SEED=$seed KAPPA_SOAK_MINUTES=$minutes";

my $kafka = start_kafka(private => 1);
my $node = new_node(
	conf => q(
restart_after_crash = on
kappa.metadata_interval = 500
kappa.retry_max_delay = 1s
kappa.batch_rows = 1000
log_min_messages = warning
));
my ($load, %count);

# ---- What people do meanwhile. ----

# Views that change their query, beside those of the load; neither changes the
# columns, so that all of these take each other's place.
my %variants = (
	changing_groups => [
		'SELECT page, count(*) AS n, max(n) AS last FROM clicks GROUP BY page',
		'SELECT page, count(*) AS n, max(n) AS last FROM clicks WHERE n % 3 > 0 GROUP BY page',
		'SELECT page, count(user_id) AS n, min(n) AS last FROM clicks GROUP BY page HAVING count(*) > 3' ],
	changing_log => [
		'SELECT n, page FROM clicks WHERE n % 5 = 0',
		'SELECT n, upper(page) AS page FROM clicks WHERE n % 4 = 0' ],
	changing_latest => [
		'SELECT DISTINCT ON (page) page, n FROM clicks ORDER BY page, n DESC NULLS LAST',
		'SELECT DISTINCT ON (page) page, n FROM clicks WHERE n % 2 = 0 ORDER BY page, n DESC NULLS LAST' ],
	changing_people => [
		'SELECT id, country FROM people',
		q(SELECT id, country FROM people WHERE country <> 'DE') ]);

# A command that may be refused, with an error that says why; a server that has
# gone meanwhile is no news either.
sub try_to
{
	my ($command) = @_;
	my ($out, $err) = ('', '');

	my $status = eval {
		$node->psql('postgres', "\\set VERBOSITY verbose\nSET lock_timeout = '10s'; SET client_min_messages = error; $command",
			stdout => \$out, stderr => \$err, timeout => 120);
	} // 3;
	$err = $@ if $@;
	$count{ $status == 0 ? 'commands' : 'commands refused' }++;
	note "$command: $err" if $status != 0;
	unlike($err, qr/ERROR:  XX\d\d\d/, "no internal error: $command") if $err =~ /XX/;
	return;
}

sub rebuild_command
{
	my $view = pick($load->views);
	my $switch = pick(qw(auto storage rows manual));

	return "SELECT kappa.rebuild('$view', switch => '$switch')";
}

sub alter_command
{
	my $view = pick(sort keys %variants);
	my $query = pick(@{ $variants{$view} });

	return "SELECT kappa.alter_view('$view', \$q\$ $query \$q\$, switch => '" . pick(qw(auto rows storage manual)) . "')";
}

sub random_command
{
	my $view = pick($load->views);

	return weighted(
		rebuild_command() => 5,
		alter_command() => 5,
		"SELECT kappa.rollback_view('$view')" => 2,
		"SELECT kappa.rollback_view('" . pick(sort keys %variants) . "')" => 2,
		"SELECT kappa.switch_rebuild('$view')" => 1,
		"SELECT kappa.cancel_rebuild('$view')" => 1,
		"SELECT kappa.drop_previous('$view')" => 0.5,
		"SELECT kappa.pause_view('" . pick(sort keys %variants) . "')" => 1,
		"SELECT kappa.verify('$view')" => 0.5,
		"VACUUM FULL $view" => 0.3,
		"REINDEX TABLE $view" => 0.3,
		"BEGIN; DROP TABLE $view; SELECT pg_sleep(0.2); ROLLBACK" => 0.5,
		"CREATE TABLE IF NOT EXISTS passing_by (); SELECT kappa.create_view('fleeting', 'SELECT user_id, sum(amount) AS s FROM clicks GROUP BY user_id'); "
		  . 'SELECT pg_sleep(0.2); DROP TABLE fleeting' => 1);
}

# ---- Crashes. ----

sub kill_replay
{
	my @pids = kappa_pids($node, 'kappa replay') or return;

	$count{'replays killed'} += kill('KILL', pick(@pids));
	# The postmaster restarts everything.
	return wait_for($node, 'SELECT 1', 1);
}

sub break_broker
{
	my $way = pick(qw(stop kill9 freeze));

	$kafka->$way;
	$count{'broker outages'}++;
	try_to(random_command()) if chance(0.3) && $way ne 'freeze';
	crash('worker') if chance(0.5);
	$way eq 'freeze' ? $kafka->thaw : $kafka->start;
	return;
}

sub crash
{
	my ($way) = @_;
	my $killed = $load->crash($way);

	ok(defined $killed, "crash: $way");
	$count{$way}++;
	$count{kills} += $killed // 0;
	return;
}

sub random_crash
{
	my $way = weighted(
		worker => 8, postmaster => 5, 'worker, then postmaster' => 2, 'worker, softly' => 1,
		supervisor => 1, launcher => 1, 'server, immediately' => 4, replay => 4, broker => 1.5);

	return kill_replay() if $way eq 'replay';
	return break_broker() if $way eq 'broker';
	return crash($way);
}

# ---- A cycle. ----

# Nobody is paused, and no rebuild is left that waits for somebody.
sub come_to_rest
{
	my $ends = q(SELECT string_agg(view::text, ' ') FROM kappa.rebuilds WHERE phase = 'waiting for switch_rebuild');
	my $running = q(SELECT count(*) FROM kappa.rebuilds WHERE phase NOT IN ('done', 'failed', 'cancelled', 'waiting for switch_rebuild'));
	my $ask = sub { return $node->safe_psql('postgres', $_[0]) };

	$load->settle;
	foreach (split /\n/, $ask->("SELECT view FROM kappa.views WHERE state = 'paused'"))
	{
		$ask->("SELECT kappa.resume_view('$_')");
	}
	ok(wait_for($node, $running, 0, 180), 'rebuilds come to an end');
	foreach my $view (split ' ', $ask->($ends))
	{
		$ask->("SELECT kappa." . pick(qw(switch_rebuild cancel_rebuild)) . "('$view')");
	}
	ok(wait_for($node, $running, 0, 180), 'and are switched or not, as asked');
	return is($ask->(q(SELECT string_agg(concat_ws(' ', view, version, error), ', ') FROM kappa.rebuilds WHERE phase = 'failed')),
		'', 'none has failed');
}

# A broker that was down knows its partitions a while after it can be reached.
sub await_broker
{
	return ok(wait_for($node, 'SELECT count(*) > 0 FROM clicks, (SELECT count(*) FROM payments) AS p, (SELECT count(*) FROM people) AS q',
			't', 120), 'the broker has all topics');
}

sub cycle
{
	my ($n) = @_;
	my $end = pick(undef, 'commit', 'abort');
	my $open;

	reseed($seed, $n);
	$load->send_more;
	$open = $load->open_payments($end) if $end;
	foreach (1 .. 2 + int rand 3)
	{
		try_to(random_command()) if chance(0.7);
		$load->await_random_moment if chance(0.7);
		random_crash();
		$load->ok_together("cycle $n: rows and offsets agree");
	}
	$open->$end if $open;
	come_to_rest();
	await_broker();
	ok_view($node, $_) foreach $load->views;
	$load->ok_sent;
	$count{cycles}++;
	return;
}

sub begin_era
{
	$load->drop if $load;
	$load = CrashLoad->new($node);
	$load->create;
	$load->create_view($_, $variants{$_}[0]) foreach sort keys %variants;
	return;
}

for (my $n = 0; $n == 0 || time - $started < $minutes * 60; $n++)
{
	begin_era() if $n % $cycles_per_era == 0;
	cycle($n);
	last unless Test::More->builder->is_passing;
}
diag('summary: ' . sprintf('%.1f minutes: ', (time - $started) / 60) . join(', ', map { "$count{$_} $_" } sort keys %count));
$node->stop('fast');
unlike(slurp_file($node->logfile), qr/TRAP:|PANIC/, 'the log has nothing worse');
done_testing();
