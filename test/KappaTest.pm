
=pod

=head1 NAME

KappaTest - a Kafka, a server with kappa, and comparisons, for TAP tests

=head1 SYNOPSIS

  use KappaTest;

  my $kafka = start_kafka();
  my $node = new_node();

  create_topic('clicks', partitions => 4);
  produce('clicks', [ map { { value => { page => "/$_" } } } 1 .. 100 ]);
  $node->safe_psql('postgres', q(...));

  ok_view($node, 'clicks_per_page');
  done_testing();

=head1 DESCRIPTION

The Kafka is a real one.  Files share the one that test/run has started,
unless they ask for their own to stop and kill it.  A file must not count on
a topic that another file has made; create_topic() makes topics afresh.

No test sleeps: what happens by itself is waited for with wait_for().

=cut

package KappaTest;

use strict;
use warnings;

use Cwd qw(abs_path);
use Digest::SHA ();
use Exporter 'import';
use File::Basename;
use IO::Socket::INET;
use IPC::Open2;
use IPC::Run;
use JSON::PP;
use List::Util qw(max min);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

our @EXPORT = qw(
  add_partitions
  cancelled_at_once
  create_topic
  delete_topic
  end_offsets
  fails_like
  kappa_pids
  kill_hard
  leftovers
  load_messages
  new_node
  ok_view
  ok_view_state
  open_transaction
  orders
  produce
  rebuild_status
  run_blocks
  same_rows
  start_cluster
  start_kafka
  start_mock
  start_producer
  verified
  wait_for
);

my $directory = dirname(abs_path(__FILE__));
my $json = JSON::PP->new->canonical->allow_nonref->utf8;
my $default_kafka;    # the cluster of calls that name none
my $files = 0;        # temporary files made so far
my $nodes = 0;        # and servers

# Programs of the project, for those who run a file by hand.
$ENV{PATH} = "$directory/broker/build:$ENV{PATH}";

# A test that is told to stop must still stop its servers.
$SIG{TERM} = $SIG{INT} = sub { die "stopped by a signal\n" };

=pod

=head1 ROUTINES

=head2 start_kafka(private => 1, secure => 1)

Returns a Kafka, see KAFKA below.  With private, one that no other file uses;
with secure, one that has the listeners of test/broker/run_kafka besides.

=cut

sub start_kafka
{
	my (%options) = @_;

	$default_kafka = KappaTest::Kafka->new(%options);
	return $default_kafka;
}

=pod

=head2 start_cluster($nodes)

Returns a Kafka of several nodes, each a broker and a controller: most of them
have to be there for it to answer.  See CLUSTER below.

=cut

sub start_cluster
{
	my ($nodes) = @_;

	$default_kafka = KappaTest::Cluster->new($nodes);
	return $default_kafka;
}

=pod

=head2 start_mock(brokers => 1)

Starts librdkafka's mock cluster, where no real Kafka is needed or where
errors are wanted.  Returns an object with the methods brokers() and
command(), whose argument is a line as test/broker/mock_broker.c explains.

=cut

sub start_mock
{
	my (%options) = @_;

	return KappaTest::Mock->new(%options);
}

=pod

=head2 new_node(name => 'main', conf => '', bare => 0, ...)

Returns a started server, a PostgreSQL::Test::Cluster, with kappa loaded and
the settings of test/kappa.conf followed by conf.  Its database "postgres" has
the extension, and the foreign server "events" if a Kafka is there; neither
with bare.  Further options go to init().

=cut

sub new_node
{
	my (%options) = @_;
	my $name = delete $options{name} // 'main';
	my $conf = delete $options{conf} // '';
	my $bare = delete $options{bare};
	my $node = PostgreSQL::Test::Cluster->new($name);

	# The others of a file are servers of their own: of another system identifier.
	delete local $ENV{KAPPA_TEST_TEMPLATE} if $nodes++;
	# Whatever the locale of who runs this: topics need it.
	$options{extra} = [ '--encoding=UTF8', @{ $options{extra} // [] } ];
	$node->init(%options);
	$node->append_conf('postgresql.conf', slurp_file("$directory/kappa.conf"));
	$node->append_conf('postgresql.conf', "$conf\n");
	$node->start;
	return $node if $bare;

	$node->safe_psql('postgres', 'CREATE EXTENSION kappa');
	if ($default_kafka)
	{
		my $brokers = $default_kafka->brokers;
		$node->safe_psql('postgres',
			"CREATE SERVER events FOREIGN DATA WRAPPER kappa "
			  . "OPTIONS (bootstrap_servers '$brokers')");
	}
	return $node;
}

=pod

=head2 create_topic($topic, partitions => 1, config => { ... })

Makes an empty topic; one of that name is deleted first.  In a cluster, replicas
may name the nodes of each partition instead: [ '1,2,3', '2,3,1' ].

=cut

sub create_topic
{
	my ($topic, %options) = @_;
	my $kafka = $options{kafka} // $default_kafka;
	my $config = $options{config} // {};
	my @arguments = ('-p', $options{partitions} // 1);

	push @arguments, '-R', $_ foreach @{ $options{replicas} // [] };
	push @arguments, '-c', "$_=$config->{$_}" foreach sort keys %$config;
	$kafka->try('delete-topic', $topic);
	$kafka->tool(@arguments, 'create-topic', $topic);
	return;
}

=pod

=head2 delete_topic($topic), add_partitions($topic, $total)

=cut

sub delete_topic
{
	my ($topic, %options) = @_;

	($options{kafka} // $default_kafka)->tool('delete-topic', $topic);
	return;
}

sub add_partitions
{
	my ($topic, $total, %options) = @_;

	($options{kafka} // $default_kafka)
	  ->tool('add-partitions', $topic, $total);
	return;
}

=pod

=head2 end_offsets($topic)

Returns, by partition, the offset up to which a reader of committed messages
gets.

=cut

sub end_offsets
{
	my ($topic, %options) = @_;
	my $lines =
	  ($options{kafka} // $default_kafka)->tool('offsets', $topic);

	return map { (split /\t/)[2] } split /\n/, $lines;
}

# A field of kafka_tool's input.
sub escape_field
{
	my ($field) = @_;

	return '\N' unless defined $field;
	$field = $json->encode($field) if ref $field;
	$field =~ s/\\/\\\\/g;
	$field =~ s/\t/\\t/g;
	$field =~ s/\n/\\n/g;
	$field =~ s/\r/\\r/g;
	$field =~ s/\0/\\x00/g;
	return $field;
}

# One message as a line of kafka_tool's input.
sub format_message
{
	my ($message, $options) = @_;

	$message = { value => $message } unless ref $message eq 'HASH';
	my %m = (%$options, %$message);
	my @fields = (
		$m{partition} // '-',
		escape_field($m{key}),
		escape_field($m{value}),
		$m{timestamp} // '');
	my $headers = $m{headers} // {};

	$headers = [ map { [ $_, $headers->{$_} ] } sort keys %$headers ]
	  if ref $headers eq 'HASH';
	push @fields, "$_->[0]=" . escape_field($_->[1]) foreach @$headers;
	return join("\t", @fields) . "\n";
}

# Print messages, an array or a function that returns undef at the end.
sub print_messages
{
	my ($handle, $messages, $options) = @_;
	my $i = 0;
	my $next = ref $messages eq 'CODE' ? $messages : sub {
		return $i < @$messages ? $messages->[ $i++ ] : undef;
	};

	while (defined(my $message = $next->()))
	{
		print $handle format_message($message, $options);
	}
	return;
}

# The arguments of kafka_tool for a producer, from the options of produce().
sub producer_command
{
	my ($topic, $options) = @_;
	my $kafka = delete $options->{kafka} // $default_kafka;
	my $rate = delete $options->{rate};
	my $codec = delete $options->{codec};
	my @command = ('kafka_tool', '-b', $kafka->brokers);

	push @command, '-r', $rate if $rate;
	push @command, '-z', $codec if $codec;
	push @command, '-t', delete $options->{transactional_id} // $topic
	  if $options->{transaction};
	return (@command, 'produce', $topic);
}

# Write messages to a file for kafka_tool; returns its name.
sub write_messages
{
	my ($messages, $options) = @_;
	my $transaction = delete $options->{transaction};
	my $path =
	  "$PostgreSQL::Test::Utils::tmp_check/messages_$$" . '_' . ++$files;

	open(my $file, '>:raw', $path) or die "could not write $path: $!";
	print $file "!begin\n" if $transaction;
	print_messages($file, $messages, $options);
	print $file "!$transaction\n" if $transaction;
	close($file) or die "could not write $path: $!";
	return $path;
}

=pod

=head2 produce($topic, $messages, %options)

Sends messages and returns when all have arrived.  $messages is an array, or
a function that returns one message per call and undef at the end.  A message
is its value, or a hash of value, key, partition, timestamp (milliseconds) and
headers (a hash, or an array of pairs where the order matters); a value or key that is a reference is written as JSON, and one that
is undef is a tombstone or no key.  The same names as options are defaults.

Further options: transaction => 'commit' or 'abort', transactional_id, rate
(messages per second), codec, kafka.

=cut

sub produce
{
	my ($topic, $messages, %options) = @_;
	my $producer = start_producer($topic, $messages, %options);

	$producer->finish;
	return;
}

=pod

=head2 start_producer($topic, $messages, %options)

The same in the background.  Returns an object whose finish() waits for the
end, and whose stop() ends it at once.

=cut

sub start_producer
{
	my ($topic, $messages, %options) = @_;
	my @command = producer_command($topic, \%options);

	return KappaTest::Producer->new(\@command,
		write_messages($messages, \%options));
}

=pod

=head2 open_transaction($topic, $messages, %options)

Begins a transaction and sends messages, which are in the log, not committed,
when it returns.  Returns an object with the methods commit() and abort().

=cut

sub open_transaction
{
	my ($topic, $messages, %options) = @_;
	my @command =
	  producer_command($topic, { transaction => 1, %options });

	delete @options{qw(kafka transactional_id)};
	return KappaTest::Transaction->new(\@command,
		sub { print_messages($_[0], $messages, \%options) });
}

=pod

=head2 load_messages($node, $topic, $table)

Reads the topic without kappa into a new ordinary table with the columns part,
pos, ms, at, key and value (texts): what a test's own query can start from.

=cut

sub load_messages
{
	my ($node, $topic, $table, %options) = @_;
	my $kafka = $options{kafka} // $default_kafka;
	my $path =
	  "$PostgreSQL::Test::Utils::tmp_check/topic_$$" . '_' . ++$files;

	$kafka->tool_to_file($path, 'consume', $topic);
	$node->safe_psql(
		$options{dbname} // 'postgres', qq(
		DROP TABLE IF EXISTS $table;
		CREATE TABLE $table (part int, pos bigint, ms bigint,
			at timestamptz GENERATED ALWAYS AS (to_timestamp(ms / 1000.0)) STORED,
			key text, value text);
		\\copy $table (part, pos, ms, key, value) from '$path'
		ANALYZE $table;
	));
	unlink $path;
	return;
}

=pod

=head2 wait_for($node, $sql, $expected = 't', $timeout = 120)

Runs a query until its result is as expected.  Returns whether it came to
that; if not, prints the last result.  A server that does not answer is a
result like another, so that restarts can be waited for.

=cut

sub wait_for
{
	my ($node, $sql, $expected, $timeout, %options) = @_;
	my $started = time;
	my $deadline = $started + ($timeout // 120);
	my ($out, $err);

	$expected //= 't';
	for (;;)
	{
		eval {
			$node->psql(
				$options{dbname} // 'postgres', $sql,
				stdout => \$out, stderr => \$err, timeout => 30);
		};
		$err = $@ if $@;
		return 1 if defined $out && $out eq $expected;
		last if time > $deadline;
		# Each look is a new connection: what takes long is not to be kept from it.
		sleep(max(0.05, min(0.25, (time - $started) / 10)));
	}
	diag("waited in vain for: $sql\nexpected: $expected\ngot: "
		  . ($out // '')
		  . "\n$err");
	return 0;
}

=pod

=head2 same_rows($node, $view, $query, %options)

A test: the view, or a query in brackets, has exactly the rows of the query.  The rows that differ are
printed.  Options: name, dbname, as_text (for types without equality).

=cut

sub same_rows
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	my ($node, $view, $query, %options) = @_;

	return no_difference(
		$options{name} // "$view has the rows of its query",
		compare_rows($node, $view, $query, %options));
}

# A test: there is nothing to say about a difference.
sub no_difference
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	my ($name, $difference) = @_;

	ok($difference eq '', $name);
	diag($difference) if $difference ne '';
	return $difference eq '';
}

# The rows that differ, or the error; empty if there are none.
sub compare_rows
{
	my ($node, $view, $query, %options) = @_;
	my ($out, $err);
	my $status = $node->psql(
		$options{dbname} // 'postgres',
		comparison($view, $query =~ s/;\s*\z//r, %options),
		stdout => \$out,
		stderr => \$err,
		timeout => 300);

	return $status == 0 ? $out : "psql ended with status $status: $err";
}

# The statement whose result are the rows that differ.
sub comparison
{
	my ($view, $query, %options) = @_;
	my $row = $options{as_text} ? 'x::text' : '*';

	$view = "$view AS v" if $view =~ /\)\s*\z/;
	return qq(
		WITH kept AS MATERIALIZED (SELECT $row FROM (SELECT * FROM $view) AS x),
			wanted AS MATERIALIZED (SELECT $row FROM ($query) AS x)
		SELECT 'only in the view' AS difference, d.*
		FROM (SELECT * FROM kept EXCEPT ALL SELECT * FROM wanted) d
		UNION ALL
		SELECT 'only in the query', d.*
		FROM (SELECT * FROM wanted EXCEPT ALL SELECT * FROM kept) d
		LIMIT 20;);
}

=pod

=head2 run_blocks($node, $file, %replace)

Tests, one for each block of SQL in a page of the project, in their order: it
runs as a reader would type it, with some texts replaced.  Returns their number.

=cut

sub run_blocks
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	my ($node, $file, %replace) = @_;
	my @blocks = slurp_file("$directory/../$file") =~ /^```sql\n(.*?)^```/msg;
	my $number = 0;

	foreach my $block (@blocks)
	{
		my ($out, $err);

		$number++;
		$block =~ s/\Q$_\E/$replace{$_}/g foreach keys %replace;
		my $status = $node->psql('postgres', $block,
			stdout => \$out, stderr => \$err, on_error_stop => 1, timeout => 120);
		is($status, 0, "SQL block $number of $file runs")
		  or diag("$block\n$err");
	}
	return $number;
}

=pod

=head2 ok_view($node, $view, %options)

A test: once the view has applied what the log has now, its rows are those of
its own query, run by PostgreSQL over the foreign table, and kappa.verify() says
so, too.  The order of a DISTINCT ON must leave no ties in the test's messages:
PostgreSQL is free there.

=cut

sub ok_view
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	my ($node, $view, %options) = @_;
	my $dbname = $options{dbname} // 'postgres';
	my $timeout = $options{timeout} // 120;
	my $name = $options{name} // "$view has the rows of its query";
	my $comparison = comparison($view, ':query', %options);
	my ($out, $err);

	# One session for all of it: most of the time that a test takes is that of
	# its connections.  The query is read from tables, which waits for a lock, if
	# need be, where kappa.views does not.
	my $status = $node->psql($dbname, qq(
		SELECT kappa.wait_for('$view', '$timeout s') AS reached \\gset
		\\if :reached
		SELECT rtrim(pg_get_viewdef(definition, true), ';') AS query
		FROM kappa.view JOIN kappa.view_version USING (view, version)
		WHERE view = '$view'::regclass \\gset
		\\echo compared:
		$comparison
		\\echo verified:
		SELECT kappa.verify('$view');
		\\endif),
		stdout => \$out, stderr => \$err, timeout => $timeout + 300);
	if ($out !~ /^compared:/m)
	{
		fail($name);
		diag("$view did not reach the end of its log: $err\n"
			  . describe_views($node, $dbname));
		return 0;
	}
	return no_difference($name, "psql ended with status $status: $err") if $status != 0;
	my ($difference, $verified) = $out =~ /^compared:\n(.*?)^verified:\n(.*)\z/ms;
	return no_difference($name, $difference || verdict($verified, $err));
}

=pod

=head2 ok_view_state($node, $view, $state, $reason, $name)

A test: the view gets into a state, for a reason that matches a regular
expression of PostgreSQL's.

=cut

sub ok_view_state
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	my ($node, $view, $state, $reason, $name) = @_;
	my $where = "FROM kappa.views WHERE view = '$view'::regclass";
	my $quoted = $reason =~ s/'/''/gr;

	return ok(wait_for($node, "SELECT state, coalesce(reason, '') ~ '$quoted' $where", "$state|t"),
		$name // "$view is $state" . ($reason ? ": $reason" : ''))
	  || diag($node->safe_psql('postgres', "SELECT state, sqlstate, reason $where"));
}

# What kappa.verify() finds; empty if nothing.
sub verify_view
{
	my ($node, $view, %options) = @_;
	my ($out, $err);
	my $status = $node->psql(
		$options{dbname} // 'postgres', "SELECT kappa.verify('$view')",
		stdout => \$out,
		stderr => \$err,
		timeout => 300);

	return $status == 0 ? verdict($out, $err) : "kappa.verify(): $out\n$err";
}

sub verdict
{
	my ($rows, $err) = @_;

	return $rows eq '0' ? '' : "kappa.verify(): $rows\n$err";
}

sub describe_views
{
	my ($node, $dbname) = @_;
	my $out;

	$node->psql($dbname,
		'SELECT view, state, reason FROM kappa.views;'
		  . 'SELECT view, topic, part, next_offset, end_offset '
		  . 'FROM kappa.offsets LIMIT 20',
		stdout => \$out);
	return $out // '';
}

=pod

=head2 verified($node, $view, %options)

A test: kappa.verify() finds no difference.

=cut

sub verified
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	my ($node, $view, %options) = @_;

	return no_difference($options{name} // "$view is verified",
		verify_view($node, $view, %options));
}

=pod

=head2 fails_like($node, $sql, $pattern, $name, %options)

A test: the statement fails, with a message that matches.

=cut

sub fails_like
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	my ($node, $sql, $pattern, $name, %options) = @_;
	my ($out, $err);
	my $status = $node->psql(
		$options{dbname} // 'postgres', $sql,
		stdout => \$out,
		stderr => \$err,
		extra_params => $options{extra_params} // [],
		timeout => $options{timeout} // 120);

	if ($status == 0)
	{
		fail($name);
		diag("no error from: $sql\n$out");
		return 0;
	}
	return like($err, $pattern, $name);
}

=pod

=head2 cancelled_at_once($node, $statement, $name, limit => 100, after => [ 200 ])

A test: statement_timeout ends the statement within limit, in milliseconds; of several
timeouts, after, the median counts.  What pg_sleep() takes to end, then and there, is taken off, and a
busy machine is given more than one try.

=cut

sub cancelled_at_once
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	my ($node, $statement, $name, %options) = @_;
	my $limit = $options{limit} // 100;
	my @after = @{ $options{after} // [200] };
	my ($late, @seen);

	foreach (1 .. 5)
	{
		my @late = sort { $a <=> $b } map {
			cancel_delay($node, $statement, $_)
			  - cancel_delay($node, 'SELECT pg_sleep(60)', $_)
		} @after;

		$late = $late[ @late / 2 ];
		push @seen, "@late";
		last if $late < $limit;
	}
	note('cancelled after ' . join(', then ', @seen) . ' ms');
	return cmp_ok($late, '<', $limit, $name);
}

# Milliseconds by which a statement outlives its timeout.
sub cancel_delay
{
	my ($node, $statement, $after) = @_;

	return $node->safe_psql(
		'postgres', qq(
		SET statement_timeout = '${after}ms';
		DO \$\$ BEGIN PERFORM FROM ($statement) AS s; EXCEPTION WHEN query_canceled THEN
			CREATE TEMP TABLE late AS SELECT 1000 * extract(epoch FROM clock_timestamp() - statement_timestamp()) - $after AS ms;
		END \$\$;
		SELECT round(ms) FROM late));
}

=pod

=head2 orders($from, $to)

Returns the messages with these numbers of a small shop: 50 keys, 10 shops, every fifth with
a note that is too long for a row.

=cut

sub orders
{
	my ($from, $to) = @_;

	return [
		map {
			{
				key => $_ % 50,
				value => {
					id => $_,
					shop => 'shop ' . $_ % 10,
					amount => $_ % 7,
					note => ($_ % 5 ? "note $_" : 'x' x 3000 . $_),
					at => sprintf('2026-11-01T%02d:%02d:00Z', $_ % 24, $_ % 60)
				}
			}
		} $from .. $to
	];
}

=pod

=head2 rebuild_status($view)

Returns a query for how a rebuild stands: version, switch and phase.

=cut

sub rebuild_status
{
	my ($view) = @_;

	return
	  "SELECT version, switch, phase FROM kappa.rebuilds WHERE view = '$view'::regclass";
}

=pod

=head2 leftovers($node, %options)

Returns the relations of kappa_state that belong to no live version, and the rows of kappa's
tables that do; empty if all is tidy.

=cut

sub leftovers
{
	my ($node, %options) = @_;

	return $node->safe_psql(
		$options{dbname} // 'postgres', q(
		SELECT relname FROM pg_class c
		WHERE relnamespace = 'kappa_state'::regnamespace AND relkind IN ('r', 'v')
		AND NOT EXISTS (SELECT FROM kappa.view v JOIN kappa.view_version n USING (view, version)
			WHERE c.oid IN (n.definition, n.companion))
		UNION ALL SELECT 'version of ' || n.view FROM kappa.view_version n
		WHERE NOT EXISTS (SELECT FROM kappa.view v WHERE (v.view, v.version) = (n.view, n.version))
		UNION ALL SELECT 'position of ' || p.view FROM kappa.position p
		WHERE NOT EXISTS (SELECT FROM kappa.view v WHERE (v.view, v.version) = (p.view, p.version))
		UNION ALL SELECT 'letter of ' || d.view FROM kappa.dead_letter d
		WHERE NOT EXISTS (SELECT FROM kappa.view v WHERE (v.view, v.version) = (d.view, d.version))
		UNION ALL SELECT 'replay of ' || view FROM kappa.fill WHERE active
		UNION ALL SELECT 'range of ' || view FROM kappa.fill_range));
}

=pod

=head2 kappa_pids($node, $type = 'kappa%')

Returns the pids of kappa's processes whose backend_type is like that.

=cut

sub kappa_pids
{
	my ($node, $type) = @_;

	$type //= 'kappa%';
	return split /\n/,
	  $node->safe_psql('postgres',
		"SELECT pid FROM pg_stat_activity WHERE backend_type LIKE '$type'");
}

=pod

=head2 kill_hard($node)

Kills the postmaster with SIGKILL, waits until it and its children have gone,
and leaves the node ready for start().

=cut

sub kill_hard
{
	my ($node) = @_;
	my $lock_file = slurp_file($node->data_dir . '/postmaster.pid');
	my ($postmaster) = $lock_file =~ /^(\d+)/;
	my $deadline = time + 60;

	# Held still, so that it does not start another one that nobody waits for.
	kill 'STOP', $postmaster;
	my @processes = ($postmaster, split ' ', `ps -o pid= --ppid $postmaster`);

	$node->kill9;
	while (grep { kill 0, $_ } @processes)
	{
		die "processes of a killed server stay" if time > $deadline;
		sleep(0.02);
	}
	return;
}

=pod

=head1 KAFKA

What start_kafka() returns has these methods:

=over

=item brokers()

its address, as for bootstrap_servers

=item tool(@arguments), try(@arguments)

runs kafka_tool and returns what it prints; dies on failure, or does not

=item listener($name), certificate($file)

of a secure Kafka: the address of another listener, and what is in a file of
its folder of certificates

=item replace_setting($old, $new)

changes a text in the configuration, for the next start

=item set_scram_password($user, $password)

gives a user of SCRAM-SHA-512 a password; undef takes the user away

=item stop(), start(), kill9(), freeze(), thaw()

for a private Kafka: orderly stop, start at the same address with the same
data, SIGKILL, SIGSTOP and SIGCONT

=back

=head1 CLUSTER

What start_cluster() returns has brokers(), tool() and try() likewise, and

=over

=item node($number)

a node, from 1 on, with the methods of a private Kafka

=item replicas($topic)

by partition, its leader (-1: none) and the replicas that are in sync, as "1 1,2,3"

=item wait_for_replicas($topic, @replicas)

waits until that is so, and dies if it does not come to that

=back

=cut

package KappaTest::Kafka;

use PostgreSQL::Test::Utils;
use Time::HiRes qw(sleep time);

my @started;

sub new
{
	my ($class, %options) = @_;
	my $shared = $ENV{KAPPA_TEST_BROKERS};

	return bless { brokers => $shared }, $class
	  if $shared && !$options{private};

	my $jars = $ENV{KAPPA_TEST_KAFKA_LIB} // "$directory/../.cache/kafka";
	Test::More::plan(skip_all => "no Kafka in $jars: see test/run")
	  unless -d $jars;
	my $self = bless {
		jars => $jars,
		options => $options{options} // [ $options{secure} ? 'secure' : () ],
		directory => PostgreSQL::Test::Utils::tempdir('kafka')
	}, $class;
	push @started, $self;
	$self->launch;
	$self->await unless $options{options};
	return $self;
}

sub brokers
{
	my ($self) = @_;

	return $self->{brokers};
}

sub listener
{
	my ($self, $name) = @_;

	return $self->{listeners}{$name};
}

sub certificate
{
	my ($self, $file) = @_;

	return slurp_file("$self->{directory}/tls/$file");
}

sub replace_setting
{
	my ($self, $old, $new) = @_;
	my $path = "$self->{directory}/server.properties";
	my $settings = slurp_file($path) =~ s/\Q$old\E/$new/gr;

	open(my $file, '>', $path) or die "could not write $path: $!";
	print $file $settings;
	close($file) or die "could not write $path: $!";
	return;
}

# RFC 5802's Hi(), one block of it.
sub salted_password
{
	my ($password, $salt, $iterations) = @_;
	my $u = Digest::SHA::hmac_sha512($salt . pack('N', 1), $password);
	my $result = $u;

	foreach (2 .. $iterations)
	{
		$u = Digest::SHA::hmac_sha512($u, $password);
		$result ^= $u;
	}
	return $result;
}

# Bytes behind their length, as Kafka's newer requests have them (up to 126).
sub compact
{
	return chr(length($_[0]) + 1) . $_[0];
}

# librdkafka can do it from 2.2 on: so here is the request itself,
# AlterUserScramCredentials (51), version 0.
sub set_scram_password
{
	my ($self, $user, $password) = @_;
	my $salt = 'salt of the test';
	my $item = compact($user) . chr(2);    # SCRAM-SHA-512
	my ($deletions, $changes) = (chr(2) . $item . "\0", chr(1));

	($deletions, $changes) = (
		chr(1),
		chr(2) . $item . pack('N', 4096) . compact($salt)
		  . compact(salted_password($password, $salt, 4096)) . "\0")
	  if defined $password;
	my $socket = IO::Socket::INET->new(PeerAddr => $self->{brokers})
	  or die "could not connect to $self->{brokers}: $@";
	print $socket pack('N/a*',
		pack('nnN', 51, 0, 1) . pack('n/a*', 'test') . "\0$deletions$changes\0");
	$socket->flush;

	my ($length, $answer);
	read($socket, $length, 4) == 4 && read($socket, $answer, unpack('N', $length))
	  or die 'no answer from Kafka';
	my $error = unpack('n', substr($answer, 10 + length compact($user)));
	die "Kafka did not change the password of $user: error $error" if $error;
	return;
}

sub tool
{
	my ($self, @arguments) = @_;
	my ($out, $err) = ('', '');

	IPC::Run::run([ 'kafka_tool', '-b', $self->{brokers}, @arguments ],
		'<', \undef, '>', \$out, '2>', \$err, IPC::Run::timeout(120))
	  or die "kafka_tool @arguments: $err";
	return $out;
}

sub try
{
	my ($self, @arguments) = @_;

	return eval { $self->tool(@arguments) };
}

sub tool_to_file
{
	my ($self, $path, @arguments) = @_;
	my $err = '';

	IPC::Run::run([ 'kafka_tool', '-b', $self->{brokers}, @arguments ],
		'<', \undef, '>', $path, '2>', \$err, IPC::Run::timeout(120))
	  or die "kafka_tool @arguments: $err";
	return;
}

# Start it, without waiting for it.
sub launch
{
	my ($self) = @_;
	my $script = "$directory/broker/run_kafka";

	die 'a shared Kafka is not to be stopped' unless $self->{directory};
	$self->{pid} = open($self->{out}, '-|', $script, $self->{jars},
		$self->{directory}, @{ $self->{options} })
	  or die "could not run $script: $!";
	return;
}

sub await
{
	my ($self) = @_;
	my $line = readline($self->{out}) // '';
	my ($brokers, $others) = $line =~ /^ready (\S+)(.*)/
	  or die "Kafka did not start, see $self->{directory}/kafka.log";
	$self->{brokers} = $brokers;
	$self->{listeners} = { map { split /=/ } split ' ', $others };
	return;
}

sub start
{
	my ($self) = @_;

	$self->launch;
	$self->await;
	return;
}

# The Java process itself.
sub java_pid
{
	my ($self) = @_;

	return slurp_file("$self->{directory}/pid") + 0;
}

sub stop
{
	my ($self) = @_;

	return unless $self->{pid};
	kill 'CONT', $self->java_pid if $self->{frozen};
	kill 'TERM', $self->{pid};
	close($self->{out});    # waits for the process
	delete @$self{qw(pid out frozen)};
	return;
}

sub kill9
{
	my ($self) = @_;

	kill 'KILL', $self->java_pid;
	close($self->{out});
	delete @$self{qw(pid out frozen)};
	return;
}

sub freeze
{
	my ($self) = @_;

	kill 'STOP', $self->java_pid;
	$self->{frozen} = 1;
	return;
}

sub thaw
{
	my ($self) = @_;

	kill 'CONT', $self->java_pid;
	$self->{frozen} = 0;
	return;
}

END
{
	my $status = $?;

	$_->stop foreach @started;
	$? = $status;
}

package KappaTest::Cluster;

use PostgreSQL::Test::Cluster;
use Time::HiRes qw(sleep time);

our @ISA = qw(KappaTest::Kafka);

sub new
{
	my ($class, $nodes) = @_;
	my $voters = join ',',
	  map { "$_\@127.0.0.1:" . PostgreSQL::Test::Cluster::get_free_port() } 1 .. $nodes;
	my $self = bless {}, $class;

	$self->{nodes} = [ map { KappaTest::Kafka->new(private => 1, options => [ $_, $voters ]) } 1 .. $nodes ];
	$_->await foreach @{ $self->{nodes} };
	$self->{brokers} = join ',', map { $_->brokers } @{ $self->{nodes} };
	return $self;
}

sub node
{
	my ($self, $number) = @_;

	return $self->{nodes}[ $number - 1 ];
}

sub replicas
{
	my ($self, $topic) = @_;

	return map {
		my (undef, $leader, $in_sync) = split /\t/;
		"$leader " . join ',', sort split /,/, $in_sync // '';
	} split /\n/, $self->tool('replicas', $topic);
}

sub wait_for_replicas
{
	my ($self, $topic, @expected) = @_;
	my $deadline = time + 60;
	my @seen;

	while ("@{[ @seen = $self->replicas($topic) ]}" ne "@expected")
	{
		die "topic $topic has the replicas @seen, not @expected" if time > $deadline;
		sleep(0.05);
	}
	return;
}

package KappaTest::Mock;

sub new
{
	my ($class, %options) = @_;
	my $self = bless {}, $class;

	$self->{pid} = IPC::Open2::open2($self->{out}, $self->{in},
		'mock_broker', '-n', $options{brokers} // 1);
	$self->{in}->autoflush(1);
	chomp($self->{brokers} = readline($self->{out}));
	return $self;
}

sub brokers
{
	my ($self) = @_;

	return $self->{brokers};
}

sub command
{
	my ($self, $command) = @_;

	print { $self->{in} } "$command\n";
	my $reply = readline($self->{out}) // 'it is gone';
	die "mock_broker: $command: $reply" unless $reply eq "ok\n";
	return;
}

sub tool
{
	return KappaTest::Kafka::tool(@_);
}

sub tool_to_file
{
	return KappaTest::Kafka::tool_to_file(@_);
}

package KappaTest::Producer;

sub new
{
	my ($class, $command, $path) = @_;
	my $self = bless { path => $path, err => '' }, $class;

	$self->{run} = IPC::Run::start($command, '<', $path, '>', \$self->{out},
		'2>', \$self->{err});
	return $self;
}

sub finish
{
	my ($self) = @_;

	my $fine = $self->{run}->finish;
	unlink $self->{path};
	die "kafka_tool produce: $self->{err}" unless $fine;
	return;
}

sub stop
{
	my ($self) = @_;

	$self->{run}->kill_kill;
	unlink $self->{path};
	return;
}

package KappaTest::Transaction;

sub new
{
	my ($class, $command, $print_messages) = @_;
	my $self = bless {}, $class;

	$self->{pid} =
	  IPC::Open2::open2($self->{out}, $self->{in}, @$command);
	$self->{in}->autoflush(1);
	$self->command('!begin');
	$print_messages->($self->{in});
	$self->command('!flush');
	return $self;
}

sub command
{
	my ($self, $command) = @_;

	print { $self->{in} } "$command\n";
	my $reply = readline($self->{out}) // '';
	die "kafka_tool: $command failed" unless $reply eq "ok\n";
	return;
}

sub finish
{
	my ($self, $command) = @_;

	$self->command($command);
	close($self->{in});
	waitpid($self->{pid}, 0);
	return;
}

sub commit
{
	my ($self) = @_;

	return $self->finish('!commit');
}

sub abort
{
	my ($self) = @_;

	return $self->finish('!abort');
}

1;
