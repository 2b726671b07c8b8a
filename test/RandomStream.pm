
=pod

=head1 NAME

RandomStream - topics of random messages, and the same rows without kappa

=head1 SYNOPSIS

  use RandomStream;

  my $stream = RandomStream->new($seed, $round);
  $stream->create($node);
  $stream->burst;              # some messages for each topic
  $stream->load($node);        # the same as tables of schema plain

=head1 DESCRIPTION

A stream is three topics: events, and the changelogs users and carts.  A value
is written in one of the forms that PostgreSQL reads; fields are missing, null,
repeated, in any order; keys are skewed.  Schema plain has relations of the same
names and columns, made of the messages by jsonb and casts alone.  They show
the messages from the offsets of the setting plain.start on up to those of
plain.beyond, arrays by partition.

=cut

package RandomStream;

use strict;
use warnings;
use utf8;

use Encode qw(encode);
use KappaTest;
use RandomQuery;

# ---- Values ----

my @words = (
	'', ' ', 'a', 'A', 'b', 'ab', 'ä', 'Ä', 'ß', 'Straße', 'naïve', '日本語', '😀', 'e' . chr(0x301), 'é', "O'Brien", 'a,b;c', "tab\there",
	"line\nbreak", 'back\\slash', '%', '_', '{}', 'NULL', 'null', '"quoted"', 'one two three', 'x,y,z', ' padded ', 'ÀÉÎ', 'zz', '$$', 'now');
my @countries = qw(DE FR NL US JP);

sub write_string
{
	my ($text) = @_;
	my %escapes = ('"' => '\\"', '\\' => '\\\\', "\n" => '\\n', "\t" => '\\t');

	$text =~ s/(["\\\n\t])/$escapes{$1}/g;
	$text =~ s/([^\x00-\x7f])/write_escape($1)/eg if chance(0.2);
	return "\"$text\"";
}

sub write_escape
{
	my ($character) = @_;

	return join('', map { sprintf '\\u%04x', $_ } unpack('n*', encode('UTF-16BE', $character)));
}

sub write_integer
{
	my ($n) = @_;

	return weighted("$n" => 10, "\"$n\"" => 2, "\" $n \"" => 0.3, $n % 10 == 0 ? "${\ ($n / 10)}e1" : "$n" => 0.5)
	  if abs($n) < 1e15;
	return chance(0.8) ? $n : "\"$n\"";
}

sub random_int4
{
	return weighted(int(rand 200) - 100 => 6, int(rand 2e9) - 1e9 => 2, 2147483647 => 0.2, -2147483648 => 0.2, 0 => 0.5);
}

sub random_int8
{
	return weighted(int(rand 20) => 5, int(rand 1e12) - 5e11 => 3, '9223372036854775807' => 0.1, '-9223372036854775808' => 0.1);
}

sub random_numeric
{
	my $n = weighted(
		sprintf('%.2f', rand(200) - 50) => 4, sprintf('%.1f', int(rand 8)) => 2, sprintf('%.2f', int(rand 8)) => 2,
		int(rand 8) => 1, sprintf('%d%012d.%010d', 1 + rand 1e6, rand 1e12, rand 1e10) => 0.5, sprintf('%.4fe%d', rand 9, rand(8) - 4) => 0.5);

	return weighted($n => 10, "\"$n\"" => 2, '"NaN"' => 0.05, '"Infinity"' => 0.03, '"-Infinity"' => 0.03);
}

sub random_eighths
{
	my $n = int(rand 16000) - 8000;

	return weighted($n / 8 => 6, '"' . $n / 8 . '"' => 1, sprintf('%.8e', $n / 8) => 0.5, int($n / 2000) => 2);
}

sub random_floatx
{
	return weighted(rand(1000) => 5, sprintf('%.1f', rand 3) => 3, '"NaN"' => 0.1, '"Infinity"' => 0.1, '"-inf"' => 0.1, '"-0"' => 0.3, '-0.0' => 0.2, 0 => 0.5);
}

sub random_text
{
	return join(' ', map { pick(@words) } 1 .. 1 + rand 4) if chance(0.2);
	return chance(0.7) ? pick(@words) : 'word' . int rand 500;
}

sub random_timestamptz
{
	my $day = sprintf '20%02d-%02d-%02d', 19 + rand 3, 1 + rand 12, 1 + rand 28;
	my $time = sprintf '%02d:%02d:%02d', rand 24, pick(0, 15, rand 60), pick(0, rand 60);

	return '"'
	  . weighted(
		"${day}T${time}Z" => 8, "$day $time+02" => 1, "${day}T$time.123456+05:30" => 1, "$day $time" => 1, $day => 0.5,
		"2020-03-29T02:30:00" => 0.3, "2020-10-25 02:30:00" => 0.3, '2020-06-01T12:00:00Z' => 1, '02/03/2020 10:00' => 0.2) . '"';
}

sub random_far
{
	return pick('"infinity"', '"-infinity"', '"0044-03-15 12:00:00+00 BC"', '"9999-12-31T23:59:59.999999Z"', '"1970-01-01T00:00:00Z"') if chance(0.2);
	return random_timestamptz();
}

sub random_date
{
	return '"' . weighted(sprintf('20%02d-%02d-%02d', 19 + rand 3, 1 + rand 12, 1 + rand 28) => 9, '2020-02-29' => 1, '01/02/2020' => 0.2, '20200310' => 0.2) . '"';
}

sub random_bool
{
	return weighted('true' => 5, 'false' => 5, '"t"' => 0.5, '"no"' => 0.5, '"1"' => 0.3, '0' => 0.3, '"TRUE"' => 0.2);
}

sub random_uuid
{
	my $u = sprintf '%08x-0000-4000-8000-%012x', pick(1, rand 40), pick(10, rand 100);

	return '"' . weighted($u => 8, uc $u => 1, "{$u}" => 0.5) . '"';
}

sub random_ints
{
	my @list = map { weighted(int(rand 5) => 5, random_int4() => 1, 'null' => 0.5) } 1 .. rand 5;

	return '"{' . join(',', @list) . '}"' if chance(0.1);
	return '[' . join(pick(',', ', '), @list) . ']';
}

sub random_jsonb
{
	my @items = map { pick('3', 'null', '"a"', '{}') x chance(0.1) || '{"sku": "' . pick(qw(a b c)) . '", "qty": ' . pick(0 .. 4, 'null') . '}' } 1 .. rand 4;
	my @fields;

	return pick('1', '1.0', '1.00', '"text"', 'true', '[]', '{}', '[1, "a", null]', 'null') if chance(0.15);
	push @fields, '"items": ' . (chance(0.9) ? '[' . join(', ', @items) . ']' : '5') if chance(0.8);
	push @fields, '"tag": ' . pick('"red"', '"blue"', 'null', '7', '["x"]') if chance(0.5);
	push @fields, '"num": ' . pick('1', '1.0', '2.50', 'null') if chance(0.4);
	return '{' . join(', ', @fields) . '}';
}

sub random_point
{
	my ($self) = @_;

	return weighted(write_string($self->{countries}[ rand @{ $self->{countries} } ]) => 8, 'null' => 0.5, '""' => 0.5);
}

# ---- Tables ----

# Columns of the topics: name, type, how a value is made, options, and where
# plain PostgreSQL finds it if not at m ->> name.
my @metadata = (
	[ part => 'int', undef, 'metadata \'partition\'', 'part' ],
	[ pos => 'bigint', undef, 'metadata \'offset\'', 'pos' ],
	[ sent => 'timestamptz', undef, 'metadata \'timestamp\'', 'timestamptz \'epoch\' + ms * interval \'1 millisecond\'' ],
	[ msgkey => 'text', undef, 'metadata \'key\'', 'key' ]);
my %columns = (
	k => [ 'int', sub { write_integer($_[0]->skewed_key) } ],
	i => [ 'int', sub { write_integer(random_int4()) } ],
	b => [ 'bigint', sub { write_integer(random_int8()) } ],
	n => [ 'numeric', \&random_numeric ],
	score => [ 'numeric', \&random_numeric ],
	price => [ 'numeric(12,2)', sub { sprintf '%.*f', rand 5, rand 100 } ],
	f => [ 'double precision', \&random_eighths ],
	g => [ 'double precision', \&random_floatx ],
	s => [ 'text', sub { write_string(random_text()) } ],
	name => [ 'text', sub { write_string(random_text()) } ],
	country => [ 'text', \&random_point, 'path \'geo.country\'', 'm #>> \'{geo,country}\'' ],
	v => [ 'varchar(20)', sub { write_string(substr(random_text(), 0, 20)) } ],
	flag => [ 'boolean', \&random_bool ],
	at => [ 'timestamptz', \&random_timestamptz ],
	far => [ 'timestamptz', \&random_far ],
	d => [ 'date', \&random_date ],
	u => [ 'uuid', \&random_uuid ],
	j => [ 'jsonb', \&random_jsonb, undef, 'nullif(m -> \'j\', \'null\')' ],
	a => [ 'int[]', \&random_ints, undef, 'translate(m ->> \'a\', \'[]\', \'{}\')' ],
	first => [ 'int', undef, 'path \'a.0\'', 'm #>> \'{a,0}\'' ],
	id => [ 'bigint', undef, 'key \'true\', metadata \'key\'', 'key' ],
	shop => [ 'text', undef, 'key \'true\', metadata \'key\', path \'shop\'', 'key::jsonb ->> \'shop\'' ],
	cart => [ 'int', undef, 'key \'true\', metadata \'key\', path \'cart.id\'', 'key::jsonb #>> \'{cart,id}\'' ],
);
my %topics = (
	events => [qw(k i b n price f g s country v flag at far d u j a first)],
	users => [qw(id name country score f k at flag j a d)],
	carts => [qw(shop cart n s u i b)]);

=pod

=head1 METHODS

=head2 RandomStream->new(@seed)

=head2 create($node)

Makes the topics, the foreign tables, and what their queries refer to.

=cut

sub new
{
	my ($class, @seed) = @_;
	my $self = bless { seed => \@seed, bursts => 0, sent => 0 }, $class;

	reseed(@seed, 'stream');
	$self->{topics} = { map { $_ => join('_', 'random', $_, @seed) } keys %topics };
	$self->{partitions} = weighted(1 => 1, 2 => 2, 3 => 3, 7 => 1);
	$self->{keys} = pick(3, 20, 100, 1000);
	$self->{skew} = pick(1, 1, 2, 4);
	$self->{missing} = pick(0, 0.05, 0.05, 0.3);
	$self->{countries} = [ @countries[ 0 .. pick(0, 2, 4) ], '' ];
	$self->{people} = pick(5, 50, 400);

	# Whether of a cart the message of the latest timestamp counts, in whatever partition.
	$self->{by_time} = chance(0.5);
	$self->{cart_partitions} = $self->{partitions};
	return $self;
}

sub skewed_key
{
	my ($self) = @_;

	return int($self->{keys} * rand()**$self->{skew}) - int($self->{keys} / 10);
}

# Columns of a topic: { name, type, options, plain }.
sub describe_columns
{
	my ($topic) = @_;

	return map {
		my ($name, $type, undef, $options, $plain) = @$_;
		{ name => $name, type => $type, options => $options, plain => $plain // "m ->> '$name'" };
	} ((map { [ $_, @{ $columns{$_} } ] } @{ $topics{$topic} }), $topic eq 'events' ? @metadata : ());
}

# A table that has had one more column.
sub foreign_table
{
	my ($self, $topic) = @_;
	my @list = map { "$_->{name} $_->{type}" . ($_->{options} ? " OPTIONS ($_->{options})" : '') } describe_columns($topic);
	my $format = $topic eq 'carts' ? ', key_format \'json\'' : '';

	$format .= ', key_order \'timestamp\'' if $topic eq 'carts' && $self->{by_time};
	splice @list, rand @list, 0, 'gone text';
	return "CREATE FOREIGN TABLE $topic (" . join(', ', @list) . ") SERVER events OPTIONS (topic '$self->{topics}{$topic}', format 'json'$format);\n"
	  . "ALTER FOREIGN TABLE $topic DROP COLUMN gone;\nGRANT SELECT ON $topic TO alice;\n";
}

# The same as a view over the messages as they are.
sub plain_table
{
	my ($self, $topic) = @_;
	my $order = $topic eq 'carts' && $self->{by_time} ? 'ms DESC, part DESC, pos DESC' : 'pos DESC';
	my $list = join(', ', map { "($_->{plain})::$_->{type} AS $_->{name}" } describe_columns($topic));
	my $from = "SELECT * FROM plain.raw_$topic
		WHERE pos >= coalesce((nullif(current_setting('plain.start', true), '')::bigint[])[part + 1], 0)
			AND pos < coalesce((nullif(current_setting('plain.beyond', true), '')::bigint[])[part + 1], 9e18)";

	$from = "SELECT * FROM (SELECT DISTINCT ON (key) * FROM ($from) l ORDER BY key, $order) l WHERE value IS NOT NULL"
	  if $topic ne 'events';
	return "CREATE VIEW plain.$topic AS SELECT $list FROM ($from) l;\n";
}

sub create
{
	my ($self, $node) = @_;
	my $sql = "DROP FOREIGN TABLE IF EXISTS events, users, carts;\n";

	# The messages are years old, and shall stay.
	create_topic($_, partitions => $self->{partitions}, config => { 'retention.ms' => -1 })
	  foreach sort values %{ $self->{topics} };
	$sql .= $self->foreign_table($_) foreach sort keys %topics;
	$node->safe_psql('postgres', $sql);
	return;
}

=pod

=head2 grow

Adds a partition to the topic of events.

=cut

sub grow
{
	my ($self) = @_;

	add_partitions($self->{topics}{events}, ++$self->{partitions});
	return;
}

# ---- Messages ----

sub write_message
{
	my ($self, $topic) = @_;
	my @fields;

	return weighted('' => 3, '5' => 1, '[1, 2]' => 1, '"text"' => 1, '{}' => 1, 'null' => 1) if chance(0.005);
	foreach my $name (@{ $topics{$topic} })
	{
		my $make = $columns{$name}[1] or next;
		my $missing = chance($self->{missing});

		next if $missing && chance(0.5);
		my $value = $missing ? 'null' : $make->($self);
		push @fields, $name eq 'country' ? "\"geo\": {\"city\": \"x\", \"country\": $value}" : "\"$name\": $value";
	}
	splice @fields, rand @fields, 0, pick('"more": {"k": 7, "a": [1]}', '"k": null', '"s": "first"') if chance(0.1);
	@fields = reverse @fields if chance(0.1);
	my $text = '{' . join(pick(', ', ','), @fields) . '}';
	$text = "\n $text\t" if chance(0.05);
	return encode('UTF-8', $text);
}

sub event
{
	my ($self) = @_;

	$self->{last} = $self->write_message('events') unless defined $self->{last} && chance(0.03);
	return {
		partition => chance(0.6) ? 0 : int rand $self->{partitions},
		value => chance(0.005) ? undef : $self->{last},
		key => chance(0.3) ? undef : 'key ' . int rand 50,
		timestamp => 1577836800000 + int rand 1e9 };
}

sub change
{
	my ($self, $topic) = @_;
	my $n = int($self->{people} * rand()**2);
	my $key = $topic eq 'users' ? "$n" : sprintf('{"shop": "s%s", "cart": {"id": %d}}', chr(97 + $n % 7), $n / 7);

	my %place = $topic eq 'carts' && $self->{by_time}
	  ? (partition => int rand $self->{cart_partitions}, timestamp => 1577836800000 + 1000 * int rand 500)
	  : ();

	return { key => $key, value => chance(0.25) ? undef : $self->write_message($topic), %place };
}

=pod

=head2 burst($messages)

Sends about so many events and some changes, in the background or in
transactions that are committed or not.  Returns the producers to finish().

=cut

sub burst
{
	my ($self, $messages) = @_;
	my %batch;

	reseed(@{ $self->{seed} }, 'burst', $self->{bursts}++);
	$batch{events} = [ map { $self->event } 1 .. $messages ];
	foreach my $topic (qw(users carts))
	{
		$batch{$topic} = [ map { $self->change($topic) } 1 .. $messages / 4 ];
	}
	my $end = weighted('' => 6, commit => 1, abort => 1);
	my $codec = pick('none', 'none', 'gzip', 'lz4', 'zstd', 'snappy');
	my $rate = pick(0, 0, 0, $messages * 2);
	return map { start_producer($self->{topics}{$_}, $batch{$_}, $end ? (transaction => $end) : (rate => $rate), codec => $codec) } sort keys %batch;
}

=pod

=head2 load($node)

Reads the topics without kappa into schema plain.

=cut

sub load
{
	my ($self, $node) = @_;
	my $sql = "DROP SCHEMA IF EXISTS plain CASCADE; CREATE SCHEMA plain;\n";

	foreach my $topic (sort keys %topics)
	{
		load_messages($node, $self->{topics}{$topic}, "loaded_$topic");
		$sql .= "CREATE TABLE plain.raw_$topic AS SELECT part, pos, ms, key, value, nullif(value, '')::jsonb AS m FROM loaded_$topic;\n";
		$sql .= "ANALYZE plain.raw_$topic;\n" . $self->plain_table($topic);
	}
	$node->safe_psql('postgres', $sql);
	return;
}

1;
