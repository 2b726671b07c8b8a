
# A log that is not what it was: a topic deleted, made again, overtaken by
# retention, cut off, damaged on the broker's disk.  Each time the view says what
# is wrong, with numbers, applies nothing that does not belong to it, and the way
# out that it names leads out.

use strict;
use warnings;

use KappaTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = start_kafka(private => 1);
my $node = new_node(
	conf => q(
kappa.metadata_interval = 300
kappa.retry_max_delay = 1s
));

sub sql { return $node->safe_psql('postgres', @_); }

sub numbers
{
	my ($from, $to, %more) = @_;
	return [ map { { value => qq({"n": $_}), %more } } $from .. $to ];
}

# A topic with ten messages, and a view NAME_log that has them.
sub make_view
{
	my ($topic, %options) = @_;

	create_topic($topic, %options);
	sql("CREATE FOREIGN TABLE $topic (n bigint, part int OPTIONS (metadata 'partition'), pos bigint OPTIONS (metadata 'offset'))
			SERVER events OPTIONS (topic '$topic', format 'json');
		SELECT kappa.create_view('${topic}_log', 'SELECT n, part, pos FROM $topic')");
	produce($topic, numbers(1, 10, partition => 0));
	return ok_view($node, "${topic}_log");
}

sub ok_state
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return ok_view_state($node, @_);
}

sub ok_rows
{
	my ($view, $rows, $name) = @_;
	return is(sql("SELECT count(*), max(n) FROM $view"), $rows, $name);
}

sub pause
{
	my ($view) = @_;

	sql("SELECT kappa.pause_view('$view')");
	return wait_for($node, "SELECT count(*) FROM kappa.run_status() WHERE view = '$view'::regclass", 0);
}

sub rebuild
{
	my ($view) = @_;

	sql("SELECT kappa.rebuild('$view')");
	is(sql("SELECT kappa.wait_for_rebuild('$view', '1 min')"), 't', 'a rebuild leads out');
	return ok_view($node, $view);
}

# ---- A topic is deleted, and made again. ----

make_view('gone');
delete_topic('gone');
ok_state('gone_log', 'retrying', 'topic "gone".*UNKNOWN_TOPIC_OR_PART.*HINT: Check the topic.s name',
	'a deleted topic is waited for');
is(sql(q(SELECT sqlstate FROM kappa.views WHERE view = 'gone_log'::regclass)), '42704', 'with its SQLSTATE');
ok_rows('gone_log', '10|10', 'the rows stay');
create_topic('gone');
produce('gone', numbers(101, 103));
ok_state('gone_log', 'stopped', 'Partition 0 of topic "gone" ends at offset [0-3], the view.s next offset is 10',
	'one that is shorter stops the view');
ok_rows('gone_log', '10|10', 'with nothing of it');
rebuild('gone_log');
ok_rows('gone_log', '3|103', 'to the new topic');

# At once, and longer than it was: the client, which is held still meanwhile,
# cannot notice.
sub worker_pid
{
	my ($view) = @_;
	return sql("SELECT worker_pid FROM kappa.views WHERE view = '$view'::regclass");
}
sub make_again
{
	my ($topic) = @_;
	my $worker = worker_pid("${topic}_log");

	kill 'STOP', $worker;
	create_topic($topic, partitions => 3);
	produce($topic, numbers(101, 150, partition => 0));
	return kill 'CONT', $worker;
}
my $another = 'the topic is not the one that this view was built from.* offset \d of partition 0 of topic "%s" has timestamp \d+ and checksum';
make_view('again', partitions => 3);
make_again('again');
ok_state('again_log', 'stopped', sprintf($another, 'again'), 'a topic made again within a moment, and longer, stops the view');
rebuild('again_log');
ok_rows('again_log', '50|150', 'to the new topic');

# What it has applied last is the new topic's by the time that brokers are asked.
sub ask_every
{
	sql("ALTER SYSTEM SET kappa.metadata_interval = '$_[0]'");
	return sql('SELECT pg_reload_conf()');
}
ask_every('3s');
make_view('later', partitions => 3);
make_again('later');
ok_state('later_log', 'stopped', sprintf($another, 'later'), 'also when the view has read on in the new one');
ask_every('300ms');

# ---- Retention. ----

make_view('expired');
pause('expired_log');
produce('expired', numbers(11, 30));
$kafka->tool('delete-records', 'expired', 0, 20);
fails_like($node, q(SELECT kappa.resume_view('expired_log')),
	qr/begins at offset 20, the view's next offset is 10: 10 offsets are missing.*HINT.*seek_view/s,
	'retention has overtaken a paused view');
sql(q(SELECT kappa.seek_view('expired_log', 'expired', 0, 20); SELECT kappa.resume_view('expired_log')));
is(sql(q(SELECT kappa.wait_for('expired_log', '30 s'))), 't', 'it goes on behind the gap');
ok_rows('expired_log', '20|30', 'with what is left');
is(sql(q(SELECT from_offset, to_offset FROM kappa.gap WHERE view = 'expired_log'::regclass)), '10|20', 'the gap is recorded');
is(sql(q(SELECT detail FROM kappa.events WHERE view = 'expired_log'::regclass AND event = 'sought')),
	'partition 0: offset 10 to 20', 'and so is what was done');

# The worker is held still meanwhile, as if it were slow.  What it has asked for
# before that may still come: some of the first messages.
my $worker = worker_pid('expired_log');
kill 'STOP', $worker;
produce('expired', numbers(31, 40));
produce('expired', numbers(41, 60));
$kafka->tool('delete-records', 'expired', 0, 50);
kill 'CONT', $worker;
ok_state('expired_log', 'stopped',
	'Partition 0 of topic "expired" begins at offset 50, the view.s next offset is (30: 20|40: 10) offsets are missing',
	'and one that reads');
is( sql(q(SELECT next_offset - (SELECT count(*) FROM expired_log) FROM kappa.offsets WHERE view = 'expired_log'::regclass)),
	10, 'which does not jump over it');
sql(q(SELECT kappa.seek_view('expired_log', 'expired', 0, 50); SELECT kappa.resume_view('expired_log')));
is(sql(q(SELECT kappa.wait_for('expired_log', '30 s'))), 't', 'but by hand');
same_rows($node, 'expired_log', q(SELECT n, 0 AS part, n - 1 AS pos FROM generate_series(1::bigint, 60) AS n
	WHERE NOT EXISTS (SELECT FROM kappa.gap AS g WHERE g.view = 'expired_log'::regclass AND n > g.from_offset AND n <= g.to_offset)));

# ---- The broker has lost the end of a log, or some of its bytes. ----

# The file of a partition's messages.
sub segment
{
	my ($partition) = @_;
	my ($path) = glob "$kafka->{directory}/data/$partition/*.log";

	return $path;
}

# Castagnoli's CRC, as the batches have it.
sub crc32c
{
	my ($bytes) = @_;
	my $crc = 0xffffffff;

	foreach my $byte (unpack 'C*', $bytes)
	{
		$crc ^= $byte;
		$crc = $crc & 1 ? ($crc >> 1) ^ 0x82f63b78 : $crc >> 1 foreach 1 .. 8;
	}
	return $crc ^ 0xffffffff;
}

# Change bytes of the batch that begins at a place in a file.
sub edit_batch
{
	my ($path, $at, $edit) = @_;
	my $batch;

	open(my $file, '+<:raw', $path) or die "could not open $path: $!";
	seek($file, $at, 0);
	read($file, my $head, 12);
	read($file, $batch, unpack('x8 N', $head));
	$edit->(\$batch);
	seek($file, $at + 12, 0);
	print $file $batch;
	close($file);
	return;
}

make_view('torn');
sql(q(SELECT kappa.create_view('torn_too', 'SELECT n FROM torn')));
my $torn = -s segment('torn-0');
produce('torn', numbers(11, 20));
ok_view($node, $_) foreach qw(torn_log torn_too);
pause('torn_too');

my %damaged;
foreach my $topic (qw(flipped unknown))
{
	make_view($topic, partitions => 2);
	pause("${topic}_log");
	$damaged{$topic} = -s segment("$topic-0");
	produce($topic, numbers(11, 15, partition => 0));
	produce($topic, numbers(16, 30, partition => 0));
}
$kafka->stop;
truncate(segment('torn-0'), $torn);
edit_batch(segment('flipped-0'), $damaged{flipped}, sub { substr(${ $_[0] }, 70, 1) ^= "\x01" });
edit_batch(
	segment('unknown-0'),
	$damaged{unknown},
	sub {
		my ($batch) = @_;
		substr($$batch, 9, 2) = pack('n', 7);    # its codec
		substr($$batch, 5, 4) = pack('N', crc32c(substr($$batch, 9)));
	});
$kafka->start;

ok_state('torn_log', 'stopped', 'Partition 0 of topic "torn" ends at offset 10, the view.s next offset is 20',
	'a log that has lost its end stops the view');
produce('torn', numbers(111, 140));
sql(q(SELECT kappa.resume_view('torn_too')));
ok_state('torn_too', 'stopped', 'the topic is not the one.*offset 19 of partition 0',
	'also once it is longer again');
ok_rows('torn_too', '20|20', 'without its new messages');
rebuild($_) foreach qw(torn_log torn_too);

my %complaint = (
	flipped => 'could not read partition 0 of topic "flipped".*BAD_MSG.*failed CRC32C check.*HINT.*seek_view',
	unknown => 'could not read partition 0 of topic "unknown".*ompression.*HINT.*seek_view');
foreach my $topic (qw(flipped unknown))
{
	my $view = "${topic}_log";

	sql("SELECT kappa.resume_view('$view')");
	ok_state($view, 'retrying', $complaint{$topic}, "topic $topic: a batch that cannot be read");
	ok_state($view, 'retrying', 'The next offset to be read is 10', 'where it is');
	ok_rows($view, '10|10', 'all before it is applied, nothing behind it');
	produce($topic, numbers(901, 902, partition => 1));
	ok(wait_for($node, "SELECT count(*) FROM $view WHERE part = 1", 2), 'another partition goes on');
	fails_like($node, "SELECT count(*) FROM $topic", qr/could not read partition 0 of topic "$topic"/,
		'an ad-hoc SELECT is an error');
	is(sql("SELECT string_agg(event, ',' ORDER BY at) FROM kappa.events WHERE view = '$view'::regclass AND event IN ('failed', 'recovered')"),
		'failed', 'it is said once');
	sql("SELECT kappa.seek_view('$view', '$topic', 0, 12)");
	ok_state($view, 'retrying', 'The next offset to be read is 12', 'as a batch it is damaged as a whole');
	sql("SELECT kappa.seek_view('$view', '$topic', 0, 15)");
	is(sql("SELECT kappa.wait_for('$view', '30 s')"), 't', 'seek_view leads past it');
	verified($node, $view);
	ok_state($view, 'running', '', 'and the view runs');
	ok_rows($view, '27|902', 'without those five messages');
}

$node->stop('fast');
done_testing();
