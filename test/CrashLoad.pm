
=pod

=head1 NAME

CrashLoad - load whose outcome is known, and ways to crash what applies it

=head1 SYNOPSIS

  use CrashLoad;

  my $load = CrashLoad->new($node);
  $load->create;
  $load->send_more;
  $load->await_random_moment;
  $load->crash('worker');
  $load->ok_together('rows and offsets agree');
  $load->settle;
  ok_view($node, $_) foreach $load->views;
  $load->ok_sent;

=head1 DESCRIPTION

Three topics: clicks, events whose sums the load keeps; payments, sent in transactions
that commit or abort; people, a compacted changelog.  Views of every kind read
them.

The choices are Perl's rand(), so srand() repeats them, though not the moments.

=cut

package CrashLoad;

use strict;
use warnings;

use KappaTest;
use PostgreSQL::Test::Utils;
use Test::More;

my %queries = (
	totals => 'SELECT count(*) AS n, sum(amount) AS s, max(n) AS last FROM clicks',
	per_page => 'SELECT page, count(*) AS n, sum(amount) AS s FROM clicks GROUP BY page',
	per_user => 'SELECT user_id, count(*) AS n, max(n) AS last FROM clicks GROUP BY user_id',
	click_log => 'SELECT n, user_id, page, amount, part, pos FROM clicks',
	tag_log => 'SELECT n, tag FROM clicks, jsonb_array_elements_text(tags) AS tag',
	last_click => 'SELECT DISTINCT ON (user_id) user_id, n, page FROM clicks ORDER BY user_id, n DESC NULLS LAST',
	paid => 'SELECT count(*) AS n, sum(amount) AS s FROM payments',
	payment_log => 'SELECT id, amount FROM payments',
	everybody => 'SELECT id, country, v FROM people',
	germans => q(SELECT id, v FROM people WHERE country = 'DE'));

=pod

=head1 METHODS

=head2 new($node)

=cut

sub new
{
	my ($class, $node) = @_;

	return bless {
		node => $node,
		sent => 0,        # messages in topic clicks
		clicks => {},     # page => messages
		amounts => {},    # page => sum of amounts, in hundredths
		people => {},     # key => country, of the living
		paid => { n => 0, amount => 0 },    # what was committed
		producers => [],
		before => 0,      # sent before the last load
		views => [ sort keys %queries ]
	}, $class;
}

=pod

=head2 node(), move_to($node)

The server that has the views; another one that has them, too, takes its place.

=cut

sub node { return $_[0]{node}; }

sub move_to
{
	my ($self, $node) = @_;

	$self->{node} = $node;
	return;
}

sub sql { return $_[0]{node}->safe_psql('postgres', $_[1]); }

=pod

=head2 create(), drop()

Make the topics, empty, the foreign tables and the views; drop tables and views.

=cut

sub create
{
	my ($self) = @_;

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
	$self->sql(q(
	CREATE FOREIGN TABLE clicks (n bigint, user_id bigint, page text, amount numeric,
		tags jsonb, part int OPTIONS (metadata 'partition'), pos bigint OPTIONS (metadata 'offset'))
		SERVER events OPTIONS (topic 'clicks', format 'json');
	CREATE FOREIGN TABLE payments (id bigint, amount bigint)
		SERVER events OPTIONS (topic 'payments', format 'json');
	CREATE FOREIGN TABLE people (id bigint OPTIONS (key 'true', metadata 'key'), country text, v int)
		SERVER events OPTIONS (topic 'people', format 'json')));
	$self->create_view($_, $queries{$_}) foreach sort keys %queries;
	return;
}

sub drop
{
	my ($self) = @_;

	$self->sql("DROP TABLE $_") foreach @{ $self->{views} };
	$self->sql('DROP FOREIGN TABLE clicks, payments, people');
	return;
}

=pod

=head2 create_view($name, $query), views()

A further view; the names of all.

=cut

sub create_view
{
	my ($self, $name, $query) = @_;

	$self->sql("SELECT kappa.create_view('$name', \$q\$ $query \$q\$)");
	push @{ $self->{views} }, $name unless $queries{$name};
	return;
}

sub views { return @{ $_[0]{views} }; }

# ---- Load. ----

sub click
{
	my ($self) = @_;
	my $n = ++$self->{sent};
	my ($page, $cents) = ('/' . $n % 97, $n * 7 % 10_007);

	$self->{clicks}{$page}++;
	$self->{amounts}{$page} += $cents;
	return sprintf
	  '{"n": %d, "user_id": %d, "page": "%s", "amount": %d.%02d, "tags": ["t%d", "t%d"]}',
	  $n, $n % 1009, $page, $cents / 100, $cents % 100, $n % 5, $n % 7;
}

=pod

=head2 person()

A message for the topic people.  Half of these changes are tombstones.

=cut

sub person
{
	my ($self) = @_;
	my $key = int rand 300;
	my $country = (qw(DE FR NL))[ rand 3 ];

	if (rand() < 0.5)
	{
		delete $self->{people}{$key};
		return { key => $key, value => undef };
	}
	$self->{people}{$key} = $country;
	return { key => $key, value => { country => $country, v => int rand 1000 } };
}

=pod

=head2 send_more(clicks => ..., rate => ...), settle(), sent()

Start the next load, once the last one is through; wait until all is sent; the
number of clicks that have been sent or are being sent.  The load is at random
where nothing is said.

=cut

sub sent { return $_[0]{sent}; }

sub settle
{
	my ($self) = @_;

	$_->finish foreach splice @{ $self->{producers} };
	return;
}

sub send_more
{
	my ($self, %options) = @_;
	my $clicks = $options{clicks} // 500 + int rand 3000;

	$self->settle;
	$self->{before} = $self->{sent};
	$self->{producers} = [
		start_producer('clicks', [ map { $self->click } 1 .. $clicks ],
			rate => $options{rate} // (0, 1000, 4000)[ rand 3 ]),
		start_producer('people', [ map { $self->person } 1 .. 100 ]) ];
	return;
}

=pod

=head2 open_payments($end)

Send payments in a transaction that is going to end with a "commit" or an
"abort".  Returns it, open.

=cut

sub open_payments
{
	my ($self, $end) = @_;
	my @payments = map { { id => int rand 1e9, amount => int rand 1000 } } 1 .. 20;

	if ($end eq 'commit')
	{
		$self->{paid}{n} += @payments;
		$self->{paid}{amount} += $_->{amount} foreach @payments;
	}
	return open_transaction('payments', [ map { { value => $_ } } @payments ]);
}

=pod

=head2 await_random_moment()

Some moment while the load is applied, or right at the start of workers.

=cut

sub await_random_moment
{
	my ($self) = @_;
	my $target = $self->{before} + int rand($self->{sent} - $self->{before});

	return 1 if rand() < 0.25;
	return wait_for($self->{node},
		"SELECT sum(next_offset) >= $target FROM kappa.offsets WHERE view = 'totals'::regclass");
}

# ---- Crashes. ----

# Returns the pid of a process that was there; 0 if there was none.
sub kill_process
{
	my ($self, $type, $signal) = @_;
	my $node = $self->{node};

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
	my ($self, @process) = @_;
	my $pid = $self->kill_process(@process) or return 0;

	return wait_for($self->{node},
		"SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid");
}

sub kill_postmaster
{
	my ($self) = @_;

	kill_hard($self->{node});
	$self->{node}->start;
	return 1;
}

sub stop_immediately
{
	my ($self) = @_;

	$self->{node}->stop('immediate');
	$self->{node}->start;
	return 1;
}

my %ways = (
	'worker' => sub { $_[0]->kill_and_wait('kappa worker') },
	'supervisor' => sub { $_[0]->kill_and_wait('kappa supervisor') },
	'launcher' => sub { $_[0]->kill_and_wait('kappa launcher') },
	'postmaster' => sub { $_[0]->kill_postmaster },
	'worker, then postmaster' =>
	  sub { $_[0]->kill_process('kappa worker') && $_[0]->kill_postmaster },
	'worker, softly' => sub { $_[0]->kill_and_wait('kappa worker', 'TERM') },
	'server, immediately' => sub { $_[0]->stop_immediately });

=pod

=head2 crash($way)

Ways are "worker", "supervisor", "launcher" and "postmaster" for SIGKILL, "worker,
then postmaster" for both at once, "worker, softly" for SIGTERM, and "server,
immediately" for an immediate shutdown and a start.  Returns how many processes
were killed hard, or undef if it did not come to that.

=cut

sub crash
{
	my ($self, $way) = @_;

	$ways{$way}->($self) or return;
	return $way =~ /softly/ ? 0 : $way =~ /then/ ? 2 : 1;
}

# ---- Tests. ----

=pod

=head2 ok_together($name), ok_sent()

Tests: rows and offsets are of one moment; the views say what was sent.

=cut

# No snapshot sees one without the other.
sub ok_together
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	my ($self, $name) = @_;

	return is(
		$self->sql(q(
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

sub ok_sent
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	my ($self) = @_;
	my ($node, $sent, $paid) = @$self{qw(node sent paid)};

	load_messages($node, 'clicks', 'sent_clicks');
	is($self->sql('SELECT n, last FROM totals'), "$sent|$sent", 'every click counts once');
	is( $self->sql('SELECT page, n, (s * 100)::bigint FROM per_page ORDER BY page COLLATE "C"'),
		join("\n", map { "$_|$self->{clicks}{$_}|$self->{amounts}{$_}" } sort keys %{ $self->{clicks} }),
		'so it does for each page');
	same_rows($node, 'click_log', q(
		SELECT (m->>'n')::bigint AS n, (m->>'user_id')::bigint AS user_id, m->>'page' AS page,
			(m->>'amount')::numeric AS amount, part, pos
		FROM sent_clicks, LATERAL (SELECT value::jsonb AS m) m),
		name => 'the log of clicks has every message once');
	is($self->sql('SELECT n, coalesce(s, 0) FROM paid'), "$paid->{n}|$paid->{amount}",
		'what was committed is paid, what was aborted is not');
	is( $self->sql('SELECT id, country FROM everybody ORDER BY id'),
		join("\n", map { "$_|$self->{people}{$_}" } sort { $a <=> $b } keys %{ $self->{people} }),
		'everybody is there who has not left');
	is( $self->sql('SELECT count(*) FROM germans'),
		scalar(grep { $_ eq 'DE' } values %{ $self->{people} }),
		'and so are the Germans');
	return;
}

1;
