
# A server that comes back from what was saved of it has rows and offsets of one
# moment, and goes on from there: recovery of a base backup that was taken under
# load, to a moment in the middle; a standby that had not yet received the last
# commits of a primary that is gone; a server that lost the commits that were not
# yet flushed.  And pg_upgrade, as far as one version of PostgreSQL can show it.
#
# The loss of power is played by an immediate stop: what stood in WAL buffers in
# shared memory is lost, as it would be; what the kernel had taken and not yet
# written to the disk survives, as it would not.

use strict;
use warnings;

use CrashLoad;
use IPC::Run;
use KappaTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = start_kafka(private => 1);
my $node = new_node(
	allows_streaming => 1,
	has_archiving => 1,
	conf => q(
kappa.metadata_interval = 300
kappa.retry_max_delay = 1s
wal_level = replica
hot_standby = on
));
my $load = CrashLoad->new($node);
$load->create;

# Messages that the views of some server have, those of "totals" standing for all.
sub applied
{
	return $_[0]->safe_psql('postgres',
		q(SELECT coalesce(sum(next_offset), 0) FROM kappa.offsets WHERE view = 'totals'::regclass));
}

sub await_applied
{
	my ($server, $n, $name) = @_;

	return ok(
		wait_for($server, "SELECT sum(next_offset) >= $n FROM kappa.offsets WHERE view = 'totals'::regclass"),
		$name);
}

sub ok_views
{
	my ($name, @views) = @_;

	$load->settle;
	ok_view($load->node, $_, name => "$name: $_ has the rows of its query") foreach @views;
	$load->ok_sent;
	return;
}

# One of each kind, where the way back is much like another one.
my @few = qw(totals click_log last_click everybody paid);

# ---- A base backup under load, and recovery to the middle. ----

$load->send_more(clicks => 3000, rate => 1500);
await_applied($node, 300, 'views are being fed');
$node->backup('under_load');
$load->send_more(clicks => 3000, rate => 1500);
await_applied($node, 4000, 'so they are after the backup');

my $in_the_middle = applied($node);
my %target = (
	recovery_target_name => 'middle',
	recovery_target_lsn => $node->safe_psql('postgres', q(SELECT pg_create_restore_point('middle'))),
	recovery_target_time => $node->safe_psql('postgres', 'SELECT clock_timestamp()'));
$load->send_more(clicks => 3000);
$load->settle;
ok_view($node, $_) foreach @few;
my $segment = $node->safe_psql('postgres', 'SELECT pg_walfile_name(pg_switch_wal())');
ok(wait_for($node, "SELECT last_archived_wal >= '$segment' FROM pg_stat_archiver"), 'the log is archived');

foreach my $target (sort keys %target)
{
	my $restored = PostgreSQL::Test::Cluster->new($target);

	$restored->init_from_backup($node, 'under_load', has_restoring => 1, standby => 0);
	$restored->append_conf('postgresql.conf',
		"$target = '$target{$target}'\nrecovery_target_action = 'pause'\narchive_mode = off\n");
	$restored->start;
	$load->move_to($restored);
	ok(wait_for($restored, 'SELECT pg_get_wal_replay_pause_state()', 'paused'), "$target: recovery gets there");
	$load->ok_together("$target: rows and offsets are of one moment");
	my $applied = applied($restored);
	cmp_ok($applied, '>=', $in_the_middle, "$target: not before the one that was asked for");
	cmp_ok($applied, '<', $load->sent, "$target: nor at the end");

	$restored->safe_psql('postgres', 'SELECT pg_wal_replay_resume()');
	ok($restored->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()'), "$target: the server is open");
	ok_views($target, $target eq 'recovery_target_name' ? $load->views : @few);
	$restored->stop('fast');
}
$load->move_to($node);

# ---- A standby takes over that has not got the last commits. ----

$node->backup('for_standby');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'for_standby', has_streaming => 1);
$standby->append_conf('postgresql.conf', 'archive_mode = off');
$standby->start;
$load->send_more(clicks => 2000);
$load->settle;
ok_view($node, 'totals');
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));

# From here on it receives nothing.
$standby->append_conf('postgresql.conf', "primary_conninfo = ''");
$standby->reload;
ok(wait_for($node, 'SELECT count(*) FROM pg_stat_replication', 0), 'the standby is cut off');
$load->send_more(clicks => 2000);
$load->open_payments('commit')->commit;
$load->settle;
ok_view($node, $_, name => "$_ on the primary that is going to be lost") foreach @few;
kill_hard($node);
my $lost = $load->sent - applied($standby);
cmp_ok($lost, '>=', 2000, "$lost messages were applied, and that is lost");
$standby->promote;
$load->move_to($standby);
$load->ok_together('after promotion rows and offsets are of one moment');
ok_views('promoted', $load->views);

# ---- Commits that were not yet flushed. ----

# Nobody flushes but who is made to: the workers' commits stay in memory.
$standby->append_conf('postgresql.conf', q(
fsync = on
wal_writer_delay = 10s
wal_writer_flush_after = 2GB
wal_buffers = 64MB
bgwriter_lru_maxpages = 0
checkpoint_timeout = 1h
autovacuum = off
));
$standby->restart;
my $losses = 0;
foreach my $round (1 .. 2)
{
	ok_view($standby, 'totals');
	$standby->safe_psql('postgres', 'CHECKPOINT');
	$load->send_more(clicks => 1000);
	$load->settle;
	await_applied($standby, $load->sent, "round $round: everything is applied");

	# The server must not consume it again before we have looked.
	$kafka->freeze;
	$standby->stop('immediate');
	$standby->start;
	my $applied = applied($standby);
	$losses++ if $applied < $load->sent;
	note $load->sent - $applied . ' messages were applied, and that is lost';
	$load->ok_together("round $round: rows and offsets are of one moment");
	$kafka->thaw;
}
cmp_ok($losses, '>', 0, 'commits were lost with what was not flushed');
ok_views('after the loss of power', $load->views);

# ---- pg_upgrade makes kappa's tables one by one, with kappa loaded. ----

my ($out, $err);
my $statements = "ALTER TABLE kappa.view RENAME TO not_yet\n"
  . "ALTER TABLE kappa.event OWNER TO CURRENT_USER\nALTER TABLE kappa.not_yet RENAME TO view\n";
$standby->stop('fast');
IPC::Run::run([ 'postgres', '--single', '-b', '-D', $standby->data_dir, 'postgres' ],
	'<', \$statements, '>', \$out, '2>', \$err);
unlike($err, qr/ERROR|FATAL/, 'nobody minds that some are missing');
$standby->start;
ok_view($standby, 'totals', name => 'the views go on');

$standby->stop('fast');
done_testing();
