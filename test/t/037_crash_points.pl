
# The server crashes at each point of src/fault.h, for each kind of view, one
# crash after the other while messages come: nothing is lost, nothing counted
# twice, and rebuilds go on to their end.

use strict;
use warnings;

use KappaFault;
use KappaTest;
use Test::More;

my $kafka = start_kafka();
my $node = new_node(
	conf => "restart_after_crash = on\nkappa.retry_max_delay = 100ms\n"
	  . "kappa.keep_previous = 0\nkappa.replay_min_messages = 50");

sub run { return $node->safe_psql('postgres', $_[0]) }

my @views = make_all_kinds($node, 500);
my $id = 500;
my $producer;    # in the background
my @commands = qw(replay-planned rebuild-begun version-dropped rollback-begun view-dropped);
my %walked = map { ($_ => 1) } @commands;

sub more { produce('orders', orders($id + 1, $id + 10)); $id += 10; return }

sub all_right
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$producer->finish if $producer;
	undef $producer;
	ok(wait_for($node, 'SELECT 1', '1'), "$name: the server is there");
	ok_view($node, $_, name => "$name: $_") foreach @views;
	is(leftovers($node), '', "$name: nothing is left");
	return;
}
ok_view($node, $_) foreach @views;

# ---- Batches. ----

my @paths;
foreach my $point (grep { /^batch-/ } fault_points())
{
	push @paths, arm_each($node, $point, 'exit', $point =~ /applying|merged|stored/ ? @views : ());
	$walked{$point} = 1;
}
$producer = start_producer('orders', orders($id + 1, $id + 1000), rate => 100);
$id += 1000;
ok(was_hit($_), 'a crash at ' . $_ =~ s/.*\///r) foreach @paths;
all_right('batches');

# ---- A view that is new: its worker hands it over. ----

my $planned = arm($node, 'replay-planned', 'exit');
run("SELECT kappa.create_view('counts', 'SELECT note, count(*) AS n FROM orders GROUP BY note')");
ok(was_hit($planned), 'a crash while it does so');
push @views, 'counts';
all_right('a new view');
run('DROP TABLE ' . pop @views);

# ---- Rebuilds of all views at once. ----

run("CREATE INDEX ${_}_shop ON $_ (shop)") foreach @views;
@paths = ();
foreach my $point (grep { !/^batch-/ } fault_points())
{
	next if $walked{$point};
	push @paths, arm_each($node, $point, 'exit', @views);
	$walked{$point} = 1;
}
$producer = start_producer('orders', orders($id + 1, $id + 3000), rate => 100);
$id += 3000;
run('BEGIN;' . join(';', map { "SELECT kappa.rebuild('$_')" } @views) . '; COMMIT');

# Another process's crash may come between the commit of a switch and the point
# behind it, or let a version join that was just about to ask for it.
my %may_be_lost = ('rebuild-joined' => 0, 'switch-committed' => 0);
foreach my $path (@paths)
{
	my ($point) = $path =~ /.*\/(.+)\.\d+$/;
	ok(was_hit($path), 'a crash at ' . $path =~ s/.*\///r) unless exists $may_be_lost{$point};
}
ok(wait_for($node, "SELECT string_agg(DISTINCT phase || ' ' || version, ', ') FROM kappa.rebuilds", 'done 2'), 'all rebuilds have switched');
foreach my $point (sort keys %may_be_lost)
{
	$may_be_lost{$point} += was_hit($_, 0) foreach grep { /\/\Q$point\E\.\d+$/ } @paths;
	cmp_ok($may_be_lost{$point}, '>', 0, "crashes at $point");
}
unlink @paths;
all_right('rebuilds');
is(run("SELECT count(*) FROM pg_index WHERE indrelid IN (SELECT view FROM kappa.views) AND NOT indisunique AND indisvalid"), scalar(@views), 'with their indexes');

# ---- Commands: nothing has happened. ----

sub crashes
{
	my ($point, $view, $statement) = @_;
	my $path = arm($node, $point, 'exit', view => $view);

	isnt($node->psql('postgres', $statement), 0, "$point: the connection is lost");
	ok(was_hit($path), 'as it should be');
	ok(wait_for($node, 'SELECT 1', '1'), 'the server comes back');
	ok_view($node, $view);
	# Workers do not wait for their commits to be flushed: a switch may have to be made once more.
	ok(wait_for($node, "SELECT count(*) FROM kappa.rebuilds WHERE view = '$view'::regclass AND phase NOT IN ('done', 'cancelled', 'waiting for switch_rebuild')", '0'), 'no rebuild is in the middle');
	run($statement);
	return;
}

crashes('replay-planned', 'last_order', "SELECT kappa.rebuild('last_order')");
is(run("SELECT kappa.wait_for_rebuild('last_order', '1 min')"), 't', 'a rebuild of which nothing was left');
crashes('rebuild-begun', 'sums', "SELECT kappa.rebuild('sums', switch => 'manual')");
is(run("SELECT string_agg(version || ' ' || state, ', ' ORDER BY version) FROM kappa.versions WHERE view = 'sums'::regclass AND state <> 'dropped'"),
	'2 live, 3 building', 'one rebuild has begun');
crashes('version-dropped', 'sums', "SELECT kappa.cancel_rebuild('sums')");
run("SET kappa.keep_previous = '1h'; SELECT kappa.rebuild('means')");
is(run("SELECT kappa.wait_for_rebuild('means', '1 min')"), 't', 'a rebuild whose previous version is kept');
crashes('rollback-begun', 'means', "SELECT kappa.rollback_view('means')");
is(run("SELECT kappa.wait_for_rebuild('means', '1 min')"), 't', 'the way back');
is(run("SELECT version FROM kappa.views WHERE view = 'means'::regclass"), 2, 'to where it was');
more();
all_right('commands');
crashes('view-dropped', 'people', 'DROP TABLE people');
is(run("SELECT count(*) FROM pg_class WHERE relname LIKE 'people%'"), 0, 'a view is gone');
@views = grep { $_ ne 'people' } @views;
all_right('all');
is_deeply([ sort keys %walked ], [ sort(fault_points()) ], 'no point was left out');

done_testing();
