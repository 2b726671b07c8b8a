
# Each point at which something may fail (src/fault.h), with each kind of view:
# an error that passes and one that does not, in the middle of live load and of
# rebuilds.  What was done is done once, or not at all.

use strict;
use warnings;

use KappaFault;
use KappaTest;
use Test::More;

my $kafka = start_kafka();
my $node = new_node(
	conf => "kappa.retry_max_delay = 100ms\nkappa.keep_previous = 0\nkappa.replay_min_messages = 50\nautovacuum = off");

sub run { return $node->safe_psql('postgres', $_[0]) }

my @views = make_all_kinds($node, 500);
my $id = 500;
my %walked;

sub more { produce('orders', orders($id + 1, $id + 10)); $id += 10; return }

# A test: all is as it should be, whatever happened.
sub all_right
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	ok_view($node, $_, name => "$name: $_") foreach @views;
	is(run("SELECT string_agg(view || ' ' || state, ', ') FROM kappa.views WHERE state <> 'running'"), '', "$name: all run")
	  if wait_for($node, "SELECT bool_and(state = 'running') FROM kappa.views");
	is(leftovers($node), '', "$name: nothing is left");
	return;
}
ok_view($node, $_) foreach @views;

# ---- Live: every view at once, or the batch of all. ----

foreach my $point (grep { /^batch-/ } fault_points())
{
	my $single = $point =~ /applying|merged|stored/;

	foreach my $action (qw(error disk-full))
	{
		my @paths = arm_each($node, $point, $action, $single ? @views : ());
		more();
		ok(was_hit($_), "$action at $point") foreach @paths;
		more();
	}
	$walked{$point} = 1;
	all_right($point);
}

# ---- Rebuilds of all views at once. ----

# Begin rebuilds, and wait until all have ended.
sub rebuild_all
{
	my ($command) = @_;

	run(join(';', 'SET client_min_messages = error', map { "SELECT kappa.$command('$_')" } @views));
	more();
	return ok(wait_for($node, "SELECT count(*) FILTER (WHERE finished_at IS NULL) FROM kappa.rebuilds", '0'), 'all rebuilds have ended');
}

sub phases { return run("SELECT string_agg(DISTINCT phase, ', ') FROM kappa.rebuilds") }

# In a process that replays any error is mended: it is tried again, or a worker reads the log.
foreach my $point (grep { /^replay-/ && !/planned/ } fault_points())
{
	foreach my $action (qw(error disk-full))
	{
		my @paths = arm_each($node, $point, $action, @views);
		rebuild_all('rebuild');
		is(phases(), 'done', "$action at $point: rebuilds succeed");
		ok(was_hit($_, 0), "$action at $point") foreach @paths;
	}
	$walked{$point} = 1;
	all_right($point);
}

# After that, an error ends the rebuild unless it passes; after the switch it is too late for that.
foreach my $point (grep { /^(?:rebuild|switch)-/ && !/begun/ } fault_points())
{
	my $late = $point eq 'switch-committed';

	run("CREATE INDEX ${_}_shop ON $_ (shop)") foreach $point eq 'rebuild-indexed' ? @views : ();
	foreach my $action (qw(error disk-full))
	{
		my @paths = arm_each($node, $point, $action, @views);
		my $before = run('SELECT sum(version) FROM kappa.views');
		rebuild_all('rebuild');
		ok(was_hit($_, 0), "$action at $point") foreach @paths;
		is(phases(), $action eq 'error' && !$late ? 'failed' : 'done', "$action at $point: rebuilds end as they should");
		is(run('SELECT sum(version) FROM kappa.views') > $before ? 'new' : 'old', phases() eq 'failed' ? 'old' : 'new', 'with the right versions live');
		ok_view($node, $_) foreach $action eq 'error' ? @views : ();
	}
	$walked{$point} = 1;
	all_right($point);
}

# ---- Commands: nothing has happened; the next one does. ----

sub fails_once
{
	my ($point, $view, $statement) = @_;
	my $path = arm($node, $point, 'error', view => $view);

	fails_like($node, $statement, qr/fault ".*$point/, "$point: $statement fails");
	ok(was_hit($path, 0), "there");
	$walked{$point} = 1;
	ok_view($node, $view);
	run($statement);
	return;
}

foreach my $view (@views)
{
	fails_once('replay-planned', $view, "SELECT kappa.rebuild('$view', switch => 'manual')");
	run("SELECT kappa.cancel_rebuild('$view')");
	fails_once('rebuild-begun', $view, "SELECT kappa.rebuild('$view', switch => 'manual')");
	is(run("SELECT count(*) FROM kappa.view_version WHERE view = '$view'::regclass"), 2, "$view is rebuilt once");
	fails_once('version-dropped', $view, "SELECT kappa.cancel_rebuild('$view')");
	run("SET kappa.keep_previous = '1h'; SELECT kappa.rebuild('$view')");
	is(run("SELECT kappa.wait_for_rebuild('$view', '1 min')"), 't', "$view is rebuilt");
	fails_once('rollback-begun', $view, "SET kappa.keep_previous = '1h'; SELECT kappa.rollback_view('$view')");
	is(run("SELECT kappa.wait_for_rebuild('$view', '1 min')"), 't', "$view goes back");
	fails_once('version-dropped', $view, "SELECT kappa.drop_previous('$view')");
}
all_right('commands');
foreach my $view (@views)
{
	my $path = arm($node, 'view-dropped', 'error', view => $view);

	fails_like($node, "DROP TABLE $view", qr/fault/, "$view is not dropped");
	ok_view($node, $view);
	run("DROP TABLE $view");
	$walked{'view-dropped'} = 1;
}
is(run("SELECT count(*) FROM pg_class WHERE relnamespace = 'kappa_state'::regnamespace"), 0, 'then it is');
is_deeply([ sort keys %walked ], [ sort(fault_points()) ], 'no point was left out');

done_testing();
