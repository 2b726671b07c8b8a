
=pod

=head1 NAME

RandomQuery - queries that a view of kappa might be made of, at random

=head1 SYNOPSIS

  use RandomQuery;

  my $aggregates = find_aggregates($node);
  reseed($seed, 'query', 17);
  my $query = random_query($aggregates);

  create_view($query->{kappa}), and compare with $query->{plain}

=head1 DESCRIPTION

A query is put together from expressions of the types that the topics of
RandomStream.pm have.  It is one that PostgreSQL runs without an error over
every message that RandomStream sends: no overflow, no division by zero, no
text that is not a number.  Whether kappa accepts it is another matter.

The random numbers are Perl's own; reseed() makes them depend on its arguments
alone.

=cut

package RandomQuery;

use strict;
use warnings;

use Digest::MD5 qw(md5);
use Exporter 'import';
use List::Util qw(shuffle);

our @EXPORT = qw(
  chance
  find_aggregates
  pick
  random_query
  reseed
  weighted
);

sub reseed
{
	srand(unpack('L', md5(join("\0", @_))));
	return;
}

sub chance
{
	my ($probability) = @_;

	return rand() < $probability;
}

sub pick { return $_[ rand @_ ]; }

# One of the values of a list (value => weight, ...).
sub weighted
{
	my @choices = @_;
	my $total = 0;

	$total += $choices[ 2 * $_ + 1 ] for 0 .. $#choices / 2;
	my $at = rand $total;
	while (@choices > 2)
	{
		last if $at < $choices[1];
		$at -= $choices[1];
		splice @choices, 0, 2;
	}
	return $choices[0];
}

# ---- Expressions ----
#
# Types are named after PostgreSQL's, with some more: small is an integer far
# from overflow, int4 and int8 reach their limits, floatx has NaN, infinities,
# -0 and decimal fractions where float8 has eighths alone (so that sums of
# these are exact in any order), and tstzx has dates of any time where
# timestamptz stays within some years.

my %forms = (
	small => [
		'({small} + {small})', '({small} - 3)', '({int4} % 100)', '({int8} % 50)::int',
		'length({text})', 'coalesce({small}, 0)', 'nullif({small}, 3)', 'cardinality({ints})',
		'extract(dow FROM {timestamp})::int', '(CASE WHEN {bool} THEN {small} ELSE {small} END)',
		'(CASE WHEN {bool} THEN 1 ELSE 0 END)', 'strpos({text}, {text})', '({date} - date \'2020-01-01\')',
		'greatest({small}, {small})', 'extract(year FROM {date})::int', '(SELECT count(*)::int FROM unnest({ints}) AS z WHERE z > {small})',
		'(SELECT rank FROM countries WHERE code = {text})',
		'({pair}).a', 'position(\'a\' IN {text})', 'num_nulls({text}, {int4})', 'width_bucket({float8}, -1000, 1000, 10)', '(SELECT max(rank) FROM places WHERE code <= {text})'
	],
	int4 => [ '{small}', 'coalesce({int4}, -1)', '(CASE WHEN {bool} THEN {int4} END)', 'least({int4}, {int4})', '({ints})[1]', '({int4} # {small})', '({int4} | 1)', '(ARRAY[{int4}, {small}])[2]', 'num_nonnulls(VARIADIC {ints})' ],
	int8 => [
		'{int4}::bigint', '({int4}::bigint * {small})', '({int8} % 1000)', 'coalesce({int8}, 0)', '({int4}::bigint + {int4})',
		'greatest({int8}, {int4})', '(CASE {small} WHEN 1 THEN {int8} WHEN 2 THEN 0 END)', '({int4} & 255)::bigint'
	],
	numeric => [
		'{int8}::numeric', '({numeric} * {numeric})', '({numeric} + {int8})', 'round({numeric}, 2)', 'abs({numeric})',
		'({numeric} / 3)', '({numeric} / nullif({numeric}, 0))', '(-{numeric})', 'coalesce({numeric}, 0.00)', 'trunc({numeric}, 1)',
		'({small} / 7.0)', 'extract(epoch FROM {timestamptz})', '({jsonb} ->> \'num\')::numeric', 'round({numeric}, -1)',
		'(CASE WHEN {bool} THEN {numeric} ELSE {small} END)', '{small}::numeric(12,3)', '(SELECT sum(tax) FROM places WHERE rank < {small})'
	],
	float8 => [ '({small}::float8 / 8)', '({float8} * 2)', '({float8} + {float8})', '(-{float8})', 'coalesce({float8}, 0.5)', 'greatest({float8}, {small})' ],
	floatx => [ '{float8}', '({floatx} * 1.5)', '({numeric} % 1000)::float8', 'sqrt(abs({float8}))', '({floatx} / 3)', 'nullif({floatx}, 0)', '{small}::real' ],
	text => [
		'upper({text})', 'lower({text})', 'left({text}, 3)', '({text} || {text})', 'coalesce({text}, \'none\')', 'md5({text})',
		'{int8}::text', '{date}::text', '{numeric}::text', '{bool}::text', '{timestamptz}::text', 'reverse({text})', 'substr({text}, 2, 5)',
		'to_char({timestamptz}, \'YYYY-MM-DD HH24:MI\')', 'to_char({timestamptz}, \'Day DD.MM. TZ\')', 'to_char({small}, \'FM0000\')',
		'({jsonb} ->> \'tag\')', 'split_part({text}, \',\', 1)', 'replace({text}, \'a\', \'bb\')', 'format(\'%s/%s\', {small}, {text})',
		'regexp_replace({text}, \'[aeiou]\', \'*\', \'g\')', 'initcap({text})', 'concat_ws(\'-\', {text}, {small})', 'trim({text})',
		'(CASE WHEN {bool} THEN {text} ELSE \'other\' END)', '(CASE {text} WHEN \'DE\' THEN \'de\' WHEN \'\' THEN \'empty\' END)',
		'array_to_string({ints}, \',\', \'*\')', 'nullif({text}, \'\')', '{uuid}::text', 'encode(sha256(convert_to({text}, \'UTF8\')), \'hex\')',
		'(SELECT one.name FROM countries one WHERE one.code = {text})', '({text} COLLATE "C")', '{jsonb}::text', '{interval}::text', '{mood}::text',
		'({pair}).b', 'substring({text} FROM 2 FOR 3)', 'substring({text} FROM \'[a-z]+\')', 'overlay({text} PLACING \'xx\' FROM 2 FOR 1)', 'trim(BOTH \'a \' FROM {text})',
		'left({text}, 30)::varchar(30)', '({jsonb})[\'tag\']::text', '(SELECT name FROM names WHERE code = {text})', 'concat(VARIADIC string_to_array({text}, \',\'))', 'quote_literal({text})',
		'xmlserialize(CONTENT xmlelement(NAME x, {small}) AS text)', '{timestamptz}::timestamptz(0)::text', 'shout({text})'
	],
	bool => [
		'({small} > {small})', '({int8} = {int4})', '({numeric} < {small})', '({float8} >= 0)', '({floatx} = \'NaN\')', '({text} = {text})',
		'({text} LIKE \'%a%\')', '({text} ~ \'^[a-k]\')', '({text} IS NULL)', '({text} IN (\'DE\', \'FR\', \'\'))', '({small} BETWEEN 2 AND 9)',
		'(NOT {bool})', '({bool} AND {bool})', '({bool} OR {bool})', '({bool} IS TRUE)', '({timestamptz} > timestamptz \'2020-06-01 12:00Z\')',
		'({date} < {date})', '({uuid} > {uuid})', '({jsonb} ? \'tag\')', '({jsonb} @> \'{"num": 1}\')', '({small} = ANY (({ints})::int[]))',
		'({text} IS DISTINCT FROM {text})', '(jsonb_typeof({jsonb}) = \'object\')', 'coalesce({bool}, false)', '({jsonb} IS NOT NULL)',
		'EXISTS (SELECT FROM countries one WHERE one.code = {text})', '({text} IN (SELECT code FROM countries WHERE rank > 2))',
		'({jsonb} @? \'$.items[*] ? (@.qty > 1)\')', '({ints} && ARRAY[1, 2])', '(({small}, {text}) < ({small}, {text}))', '({int4} % 2 = 0)',
		'({tstzx} < {timestamptz})', '({text} SIMILAR TO \'(a|b)%\')', '({bool} IS NOT UNKNOWN)', '({small} NOT BETWEEN SYMMETRIC {small} AND 5)', '({pair} = {pair})', '({pair} IS NULL)',
		'({pair} IS NOT DISTINCT FROM ROW(1, \'a\')::pair)', '({small} <> ALL (ARRAY[1, {small}]))', '({text} ILIKE \'A%\' ESCAPE \'!\')', '({range} @> {small})', '({text} = ANY (SELECT code FROM names))',
		'(({small}, {text}) IN (SELECT rank, code FROM places))', '({text} COLLATE nocase = \'de\')', '({jsonb} @@ \'$.num > 1\')', '({text}::bpchar = {text}::bpchar)', '(({timestamptz}, interval \'1 day\') OVERLAPS (timestamptz \'2020-06-01Z\', interval \'90 days\'))'
	],
	timestamptz => [
		'date_trunc(\'hour\', {timestamptz})', 'date_trunc(\'day\', {timestamptz})', 'date_trunc(\'month\', {timestamptz}, \'Asia/Kolkata\')',
		'date_bin(\'15 min\', {timestamptz}, timestamptz \'2020-01-01 00:00Z\')', '({timestamptz} + {small} * interval \'1 hour\')',
		'to_timestamp({small} * 1000)', '({timestamptz} - interval \'1 month\')', 'coalesce({timestamptz}, timestamptz \'2000-01-01Z\')',
		'{date}::timestamptz', '({timestamp} AT TIME ZONE \'America/New_York\')', 'greatest({timestamptz}, {timestamptz})', '{timestamptz}::timestamptz(0)', 'make_timestamptz(2020, 1 + abs({small}) % 12, 1, 0, 0, 0)', '({timestamptz} + interval \'1 day 1 hour\')'
	],
	tstzx => ['{timestamptz}', 'least({tstzx}, {timestamptz})'],
	timestamp => [ '({timestamptz} AT TIME ZONE \'Europe/Berlin\')', '{timestamptz}::timestamp', '({date} + interval \'90 min\')', 'date_trunc(\'week\', {timestamp})' ],
	date => [ '{timestamptz}::date', '({date} + {small})', 'date_trunc(\'month\', {date})::date', 'make_date(2020, 1 + abs({small}) % 12, 1)' ],
	interval => [ '({timestamptz} - {timestamptz})', '({small} * interval \'1 minute\')', 'make_interval(days => {small})', '({timestamp} - {timestamp})', 'justify_hours({interval})', '({timestamptz} - {timestamptz})::interval day to minute' ],
	uuid => [ 'md5({text})::uuid', 'coalesce({uuid}, md5({text})::uuid)' ],
	jsonb => [
		'({jsonb} -> \'items\')', '({jsonb} -> \'tag\')', 'to_jsonb({int8})', 'jsonb_build_object(\'a\', {int8}, \'b\', {text})',
		'jsonb_build_array({text}, {small})', 'to_jsonb({ints})', '({jsonb} #> \'{items,0}\')', 'jsonb_path_query_first({jsonb}, \'$.items[*].qty\')', 'jsonb_strip_nulls({jsonb})'
	],
	ints => [ 'ARRAY[{int4}, {int4}]', '({ints} || {int4})', 'array_remove({ints}, 1)', '({ints})[1:2]', '(SELECT array_agg(z ORDER BY z DESC) FROM unnest({ints}) AS z)', 'string_to_array(\'1,2,3\', \',\')::int[]' ],
	mood => [ '(CASE WHEN {bool} THEN \'glad\' WHEN {bool} THEN \'calm\' ELSE \'sad\' END)::mood' ],
	pair => [ 'ROW({small}, {text})::pair', 'ROW(NULL, {text})::pair', '(CASE WHEN {bool} THEN ROW(NULL, NULL)::pair END)', '(SELECT p FROM (SELECT {small} AS a, {text} AS b) AS r, LATERAL (SELECT ROW(r.a, r.b)::pair AS p) AS q)' ],
	nocase => [ '({text} COLLATE nocase)', '(upper({text}) COLLATE nocase)', '{text}::bpchar', '{text}::citext' ],
	name => [ 'left({text}, 50)::nickname', '{small}::natural_number' ],
	texts => [ 'string_to_array({text}, \' \')', 'ARRAY[{text}, {text}]', 'regexp_split_to_array({text}, \',\')', 'ARRAY[{mood}, {mood}]', 'ARRAY[{pair}]' ],
	other => [ 'convert_to({text}, \'UTF8\')', '({int4})::bit(12)', '(inet \'10.0.0.0\' + abs({small}))', '({small})::money', 'to_tsvector(\'simple\', {text})', 'numrange(0, abs({small}) + 0.50)',
		'({timestamp})::time', '{text}::char(5)', 'point({small}, 1)::text', '({small})::smallint', '({float8})::real', 'int4multirange({range})', '{text}::name' ],
	json => [ 'json_build_object(\'a\', {small}, \'b\', {text})', 'to_json({ints})', 'json_build_array({numeric}, {text})' ],
	range => [ 'int4range(least({small}, 2000), 2000)', 'int4range(-1000 - abs({small}), 1000 + abs({small}))', '(CASE WHEN {bool} THEN int4range(NULL, 5000 + {small}) END)', 'int4range(0, abs({small}))' ],
);

my %constants = (
	small => [ '0', '1', '7', '(-2)' ],
	int4 => [ '0', '5', '2147483647' ],
	int8 => [ '0::bigint', '10000000000' ],
	numeric => [ '0.0', '1.50', '(-3.14159)' ],
	float8 => [ '0.5::float8', '\'-2.25\'::float8' ],
	floatx => [ '0.1::float8', '\'-0\'::float8' ],
	text => [ '\'\'', '\'DE\'', '\'zz\'', '\'ü\'' ],
	bool => [ 'true', 'false' ],
	timestamptz => ['timestamptz \'2020-02-29 12:34:56Z\''],
	tstzx => ['timestamptz \'infinity\''],
	timestamp => ['timestamp \'2020-02-29 12:34:56\''],
	date => ['date \'2020-02-29\''],
	interval => [ 'interval \'1 day 2 hours\'', 'interval \'30 min\'' ],
	uuid => ['uuid \'00000000-0000-0000-0000-00000000000a\''],
	jsonb => [ '\'{"num": 1}\'::jsonb', '\'[1, "zz"]\'::jsonb' ],
	ints => [ 'ARRAY[1, 2]', '\'{}\'::int[]' ],
	mood => ['\'calm\'::mood'],
	pair => ['ROW(1, \'x\')::pair'],
	range => ['int4range(1, 5)'],
	nocase => ['(\'De\' COLLATE nocase)'],
	name => ['\'nick\'::nickname'],
	texts => ['ARRAY[\'x\', NULL]'],
	other => ['B\'101\''],
	json => ['\'{"a": 1}\'::json'],
);

my @types = sort keys %forms;

# Those whose equal values are one and the same: the first row of a group is
# as good as another.
my %image = map { $_ => 1 } qw(small int4 int8 text bool timestamptz tstzx timestamp date uuid ints mood);

# An expression of a type, of columns in scope: { sql, type } each.
sub expression
{
	my ($scope, $type, $depth) = @_;
	my @columns = grep { $_->{type} eq $type } @$scope;

	if ($depth <= 0 || (@columns && chance(0.4)))
	{
		return pick(@columns)->{sql} if @columns && !chance(0.1);
		return pick(@{ $constants{$type} });
	}
	return expand(pick(@{ $forms{$type} }), $scope, $depth - 1);
}

# Fill in the expressions of a form.
sub expand
{
	my ($form, $scope, $depth) = @_;

	my ($document) = map { $_->{sql} } grep { $_->{sql} =~ /(?:^|\.)j\z/ } @$scope;
	$form =~ s/\{j\}/$document/g if $document;
	$form =~ s/\{([a-z]+[0-9]?)\}/$forms{$1} ? expression($scope, $1, $depth) : "{$1}"/eg;
	return $form;
}

# Something with columns in it, not a constant.
sub column_expression
{
	my ($scope, $type, $depth) = @_;

	for (1 .. 5)
	{
		my $sql = expression($scope, $type, $depth);
		return $sql if grep { $sql =~ /(?<!\w)\Q$_->{sql}\E(?!\w)/ } @$scope;
	}
	my $column = pick(@$scope)->{sql};
	return "(CASE WHEN $column IS NULL THEN $constants{$type}[0] ELSE $constants{$type}[-1] END)";
}

sub random_type
{
	return weighted(
		small => 3, int4 => 2, int8 => 2, numeric => 3, float8 => 2, floatx => 1, text => 4,
		bool => 2, timestamptz => 3, tstzx => 1, timestamp => 1, date => 2, interval => 1,
		uuid => 1, jsonb => 2, ints => 1, mood => 0.5, pair => 0.5, range => 0.5,
		nocase => 0.5, name => 0.5, texts => 0.5, other => 1, json => 0.3);
}

# ---- What is read ----

my @events = (
	[ k => 'small' ], [ i => 'int4' ], [ b => 'int8' ], [ n => 'numeric' ], [ price => 'numeric' ],
	[ f => 'float8' ], [ g => 'floatx' ], [ s => 'text' ], [ country => 'text' ], [ v => 'text' ],
	[ flag => 'bool' ], [ at => 'timestamptz' ], [ far => 'tstzx' ], [ d => 'date' ], [ u => 'uuid' ],
	[ j => 'jsonb' ], [ a => 'ints' ], [ first => 'int4' ], [ sent => 'timestamptz' ], [ msgkey => 'text' ]);

my %changelogs = (
	users => [
		[ id => 'int8' ], [ name => 'text' ], [ country => 'text' ], [ score => 'numeric' ], [ f => 'float8' ],
		[ k => 'small' ], [ at => 'timestamptz' ], [ flag => 'bool' ], [ j => 'jsonb' ], [ a => 'ints' ], [ d => 'date' ] ],
	carts => [
		[ shop => 'text' ], [ cart => 'small' ], [ n => 'numeric' ], [ s => 'text' ], [ u => 'uuid' ], [ i => 'int4' ], [ b => 'int8' ] ]);
my %keys = (users => ['id'], carts => [ 'shop', 'cart' ]);

sub make_scope
{
	my ($columns, $alias) = @_;

	return [ map { { sql => $alias ? "$alias.$_->[0]" : $_->[0], type => $_->[1] } } @$columns ];
}

# More rows for each message: what follows the topic in FROM, and its columns.
my @multipliers = (
	[ ', unnest({ints}) AS x', [ x => 'int4' ] ],
	[ ' LEFT JOIN LATERAL unnest({ints}) WITH ORDINALITY AS x(x, o) ON true', [ x => 'int4' ], [ o => 'int8' ] ],
	[ ' CROSS JOIN LATERAL generate_series(1, {small} % 4) AS x', [ x => 'small' ] ],
	[ ', LATERAL (SELECT {timestamptz} AS t) AS h, LATERAL generate_series(date_trunc(\'hour\', t) - interval \'1 hour\', date_trunc(\'hour\', t), interval \'30 min\') AS w', [ w => 'timestamptz' ] ],
	[ ', jsonb_array_elements(CASE WHEN jsonb_typeof({j} -> \'items\') = \'array\' THEN {j} -> \'items\' END) AS item', [ item => 'jsonb' ], [ '((item ->> \'qty\')::int)' => 'small' ], [ '(item ->> \'sku\')' => 'text' ] ],
	[ ' LEFT JOIN LATERAL jsonb_array_elements(CASE WHEN jsonb_typeof({j} -> \'items\') = \'array\' THEN {j} -> \'items\' END) AS item ON item ->> \'sku\' <> \'b\'', [ '(item ->> \'sku\')' => 'text' ] ],
	[ ', jsonb_to_recordset(jsonb_path_query_array({j}, \'$.items[*] ? (@.type() == "object")\')) AS r(sku text, qty int)', [ 'r.sku' => 'text' ], [ 'r.qty' => 'small' ] ],
	[ ', jsonb_each_text(CASE WHEN jsonb_typeof({j}) = \'object\' THEN {j} END) AS fv(field, val)', [ field => 'text' ], [ val => 'text' ] ],
	[ ', regexp_split_to_table({text}, \'[ ,]\') AS word', [ word => 'text' ] ],
	[ ', ROWS FROM (unnest({ints}), generate_series(1, 2)) AS r(x, y)', [ x => 'int4' ], [ y => 'small' ] ],
	[ ', (VALUES (1, \'one\'), (2, \'two\'), (NULL, \'none\')) AS c(num, word)', [ num => 'small' ], [ word => 'text' ] ],
	[ ' JOIN places c ON c.rank <= {small}', [ 'c.name' => 'text' ], [ 'c.tax' => 'numeric' ] ],
	[ ' JOIN names AS c(code, name) ON c.code > {text}', [ 'c.name' => 'text' ] ],
	[ ', LATERAL (SELECT x::bigint * 2 AS y FROM unnest({ints}) AS x WHERE x > {small}) AS l', [ y => 'int8' ] ]);

# At most one row for each message.
my @companions = (
	[ ' CROSS JOIN LATERAL (SELECT {text} AS word, {numeric} AS num) AS l', [ word => 'text' ], [ num => 'numeric' ] ],
	[ ' LEFT JOIN countries c ON c.code = {text}', [ 'c.name' => 'text' ], [ 'c.rank' => 'small' ], [ 'c.tax' => 'numeric' ] ],
	[ ' JOIN countries c ON c.code = {text}', [ 'c.name' => 'text' ], [ 'c.rank' => 'small' ], [ 'c.tax' => 'numeric' ] ],
	[ ' LEFT JOIN (SELECT rank, min(code) AS code, sum(tax) AS tax FROM countries GROUP BY rank) c ON c.rank = {small}', [ 'c.code' => 'text' ], [ 'c.tax' => 'numeric' ] ]);

# Start of a query: kind, source, scope, what stands in FROM.
sub start_query
{
	my ($kind) = @_;

	my $alias = pick('', '', '', 'e', '"select"', '"it\'s"');

	return {
		kind => $kind, with => '', from => $alias ? "events AS $alias" : 'events', scope => make_scope(\@events, $alias),
		multiplies => 0, outputs => [], where => '', tail => '', tie => [ 'part', 'pos' ] };
}

sub add_item
{
	my ($query, $item) = @_;
	my ($form, @columns) = @$item;

	$query->{from} .= expand($form, $query->{scope}, 1);
	push @{ $query->{scope} }, @{ make_scope(\@columns) };
	return;
}

# The topic in a subquery or in WITH.  For plain PostgreSQL, which must be told
# how to break ties, the place in the log comes out of it, too.
sub wrap_source
{
	my ($query) = @_;
	my @columns;
	my @list;

	for my $i (1 .. 4 + rand 4)
	{
		my $type = random_type();
		push @columns, [ "q$i", $type ];
		push @list, expression($query->{scope}, $type, 1) . " AS q$i";
	}
	push @columns, [ qs => 'text' ], [ qa => 'ints' ], [ j => 'jsonb' ];
	push @list, map { my $name = $_->[1]; (grep { $_->{sql} =~ /(?:^|\.)$name\z/ } @{ $query->{scope} })[0]{sql} . " AS $_->[0]" } [ qs => 's' ], [ qa => 'a' ], [ j => 'j' ];
	my $subquery = 'SELECT ' . join(', ', @list) . "<tie> FROM $query->{from}"
	  . (chance(0.5) ? ' WHERE ' . column_expression($query->{scope}, 'bool', 2) : '');
	if (chance(0.4))
	{
		$query->{with} = "WITH src AS ($subquery) ";
		$query->{from} = 'src';
	}
	else
	{
		$query->{from} = "($subquery) AS src";
	}
	$query->{tie} = [ '"tie part"', '"tie pos"' ];
	$query->{scope} = make_scope(\@columns);
	return;
}

sub add_from
{
	my ($query) = @_;

	wrap_source($query) if chance(0.06);
	# What begins with a comma comes last: ON sees no further back.
	add_item($query, pick(@companions)) if chance(0.12);
	return if $query->{from} =~ / [cl]\b/ || !chance(0.2);
	add_item($query, pick(@multipliers));
	$query->{multiplies} = 1;
	return;
}

sub add_where
{
	my ($query, $probability) = @_;

	$query->{where} = ' WHERE ' . column_expression($query->{scope}, 'bool', 2)
	  if chance($probability);
	return;
}

# ---- Output columns ----

my @odd_names = ('"Total"', '"select"', '"größe"', '"a b"', '"it\'s"', '"%s"', '"1"');

# Returns the new output.
sub add_output
{
	my ($query, $sql, $type, %more) = @_;
	my $number = @{ $query->{outputs} } + 1;
	my $name = "c$number";

	$name = (splice @{ $query->{odd_names} //= [ shuffle @odd_names ] }, 0, 1) // $name
	  if chance(0.05);
	my $output = { sql => $sql, name => $name, type => $type, inexact => 0, %more };
	push @{ $query->{outputs} }, $output;
	return $output;
}

sub add_outputs
{
	my ($query, $number) = @_;

	for (1 .. $number)
	{
		my $type = random_type();
		add_output($query, expression($query->{scope}, $type, 2), $type);
	}
	return;
}

sub list_outputs
{
	my ($query) = @_;

	return join(', ', map { "$_->{sql} AS $_->{name}" } @{ $query->{outputs} });
}

# ---- Kinds ----

sub make_append
{
	my $query = start_query('append');

	add_from($query);
	add_where($query, 0.6);
	add_outputs($query, weighted(1 + rand 7 => 20, 40 => 0.5));
	$query->{as_text} = 1;
	$query->{star} = chance(0.04) && $query->{from} eq 'events';
	return $query;
}

sub random_direction
{
	return pick('', '', ' ASC', ' DESC', ' DESC') . pick('', '', ' NULLS FIRST', ' NULLS LAST', ' NULLS LAST');
}

# An item of ORDER BY: an output, or something that does not show.
sub order_item
{
	my ($query) = @_;
	my $item;

	return pick(@{ $query->{outputs} })->{name} . random_direction()
	  if @{ $query->{outputs} } && chance(0.5);
	my $type = weighted(timestamptz => 4, text => 2, numeric => 2, floatx => 1, tstzx => 1, small => 3, pair => 0.5, jsonb => 1, ints => 1, range => 0.5,
		nocase => 1, name => 0.5, texts => 0.5, other => 0.5, interval => 0.5);
	$item = column_expression($query->{scope}, $type, 1);
	$item .= ' COLLATE ' . pick('"C"', '"POSIX"', '"und-x-icu"') if $type eq 'text' && chance(0.2);
	return $item . random_direction();
}

sub key_type
{
	return weighted(small => 4, text => 5, int4 => 1, int8 => 1, numeric => 1, float8 => 1, floatx => 0.5, bool => 1,
		timestamptz => 3, date => 2, uuid => 0.5, jsonb => 1, ints => 1, mood => 0.5, pair => 1, interval => 0.5, timestamp => 1,
		nocase => 1, name => 0.5, texts => 0.5, other => 1, range => 0.5);
}

sub make_distinct_on
{
	my $query = start_query('distinct on');

	add_from($query);
	add_where($query, 0.3);
	my @keys = map {
		my $type = key_type();
		add_output($query, column_expression($query->{scope}, $type, chance(0.6) ? 0 : 1), $type);
	} 1 .. weighted(1 => 6, 2 => 3, 3 => 1);
	add_outputs($query, rand 5);
	if ($query->{tie}[0] eq 'part' && chance(0.25))
	{
		add_output($query, $_, 'int8') for 'part', 'pos';
	}
	@{ $query->{outputs} } = shuffle @{ $query->{outputs} };
	my @order = map { order_item($query) } 1 .. weighted(0 => 1, 1 => 6, 2 => 2);
	my @key_order = shuffle map { $_->{name} . random_direction() } @keys;

	@key_order = () if !@order && chance(0.5);
	$query->{distinct} = 'DISTINCT ON (' . join(', ', map { $_->{name} } @keys) . ') ';
	$query->{tail} = ' ORDER BY ' . join(', ', @key_order, @order) if @key_order || @order;
	$query->{as_text} = !$query->{multiplies} && !grep { !$image{ $_->{type} } } @keys;
	complete_order($query, \@keys, \@key_order, \@order);
	return $query;
}

# What plain PostgreSQL is told: the order, completed by the place in the log,
# and where a message gives several rows by the other columns.
sub complete_order
{
	my ($query, $keys, $key_order, $order) = @_;
	my @key_order = @$key_order ? @$key_order : map { $_->{name} } @$keys;

	$query->{plain_tail} = ' ORDER BY '
	  . join(', ', @key_order, @$order, @{ $query->{tie} }, map { $_->{type} eq 'json' ? "($_->{sql})::text" : $_->{name} } @{ $query->{outputs} });
	return;
}

# ---- Changelogs ----

my @changelog_joins = (
	[ ' JOIN countries c ON c.code = t.country', [ 'c.name' => 'text' ], [ 'c.tax' => 'numeric' ], [ 'c.rank' => 'small' ] ],
	[ ' LEFT JOIN countries c ON c.code = t.country', [ 'c.name' => 'text' ], [ 'c.tax' => 'numeric' ], [ 'c.rank' => 'small' ] ]);

sub make_changelog
{
	my $query = start_query('changelog');
	my $topic = pick(sort keys %changelogs);

	$query->{topic} = $topic;
	$query->{from} = "$topic AS t";
	$query->{scope} = make_scope($changelogs{$topic}, 't');
	add_item($query, pick(@changelog_joins)) if $topic eq 'users' && chance(0.3);
	add_where($query, 0.6);
	add_output($query, "t.$_", 'text') for @{ $keys{$topic} };
	add_outputs($query, rand 6);
	@{ $query->{outputs} } = shuffle @{ $query->{outputs} };
	$query->{as_text} = 1;
	return $query;
}

# ---- Aggregates ----

# Forms of an argument of a declared type.
my %arguments = (
	'"any"' => '{text}',
	'smallint' => '({small})::smallint',
	'integer' => '{int4}',
	'bigint' => '{int8}',
	'numeric' => '{numeric}',
	'real' => '({small}::real / 4)',
	'double precision' => '{float8}',
	'text' => '{text}',
	'boolean' => '{bool}',
	'date' => '{date}',
	'timestamp with time zone' => '{tstzx}',
	'timestamp without time zone' => '{timestamp}',
	'time without time zone' => '({timestamp})::time',
	'time with time zone' => '({timestamptz})::timetz',
	'interval' => '{interval}',
	'money' => '({small})::money',
	'inet' => '(inet \'10.0.0.0\' + abs({small}))',
	'bit' => '({int4})::bit(16)',
	'oid' => 'abs({small})::oid',
	'tid' => '(\'(\' || abs({small}) || \',1)\')::tid',
	'pg_lsn' => '(pg_lsn \'0/0\' + abs({small}))',
	'xid8' => '(abs({small}))::text::xid8',
	'character' => '({text})::char(5)',
	'bytea' => 'convert_to({text}, \'UTF8\')',
	'citext' => '{text}::citext',
	'anyarray' => '{ints}',
	'anyenum' => '{mood}',
	'anyrange' => '{range}',
	'anymultirange' => 'int4multirange({range})',
	'anyelement' => '{small}',
);

# Types of results, in the terms of this module.
my %result_types = (
	'smallint' => 'small', 'integer' => 'int4', 'bigint' => 'int8', 'numeric' => 'numeric', 'text' => 'text', 'boolean' => 'bool',
	'date' => 'date', 'timestamp with time zone' => 'tstzx', 'interval' => 'interval', 'anyarray' => 'ints');

# Aggregates whose result depends on the order of their input by nature.
my %ordered = map { $_ => 1 } qw(string_agg array_agg any_value);

=pod

=head1 ROUTINES

=head2 find_aggregates($node)

Returns the aggregates of the server that have a combine function and a state
that can be moved, each { name, forms, result, inexact }; and in a second value
the signatures of those that random queries leave out, since their result
depends on the order of rows or their arguments are of no type known here.

=cut

sub find_aggregates
{
	my ($node) = @_;
	my (@found, @left_out);
	my $list = $node->safe_psql(
		'postgres', q(
		SELECT p.proname, p.oid::regprocedure, format_type(p.prorettype, NULL),
			array_to_string(ARRAY(SELECT format_type(t, NULL) FROM unnest(p.proargtypes) WITH ORDINALITY AS u(t, o) ORDER BY o), ';')
		FROM pg_aggregate a JOIN pg_proc p ON p.oid = a.aggfnoid
		WHERE aggkind = 'n' AND aggcombinefn <> 0
			AND (aggtranstype <> 'internal'::regtype OR (aggserialfn <> 0 AND aggdeserialfn <> 0))
		ORDER BY p.oid::regprocedure::text COLLATE "C"));

	for my $line (split /\n/, $list)
	{
		my ($name, $signature, $result, $types) = split /\|/, $line;
		my @types = split /;/, $types;

		if ($ordered{$name} || grep { !$arguments{$_} } @types)
		{
			push @left_out, $signature;
			next;
		}
		push @found, {
			name => $name,
			forms => [ map { $arguments{$_} } @types ],
			result => $result,
			inexact => ($result =~ /^(real|double precision)$/ && $name !~ /^(min|max|sum|avg)$/) || 0
		};
	}
	return (\@found, \@left_out);
}

# A call: { sql, type, inexact }.  Half of them are of the few that people use.
sub aggregate_call
{
	my ($query, $aggregates) = @_;
	my @common = grep { $_->{name} =~ /^(count|sum|avg|min|max)$/ } @$aggregates;
	my $aggregate = pick(chance(0.5) ? @common : @$aggregates);
	my $list = join(', ', map { expand($_, $query->{scope}, 1) } @{ $aggregate->{forms} });
	my $sql = "$aggregate->{name}(" . ($list eq '' ? '*' : $list) . ')';
	my $inexact = $aggregate->{inexact};

	# Sums of what are not eighths depend on their order.
	if ($list ne '' && $aggregate->{name} =~ /^(sum|avg)$/ && $aggregate->{forms}[0] eq '{float8}' && chance(0.2))
	{
		$sql = "$aggregate->{name}(" . expand('{floatx}', $query->{scope}, 1) . ')';
		$inexact = 1;
	}
	$sql =~ s/\(/(DISTINCT / if $list ne '' && chance(0.01);
	$sql =~ s/\)\z/ ORDER BY 1)/ if $list ne '' && chance(0.005);
	$sql .= ' FILTER (WHERE ' . column_expression($query->{scope}, 'bool', 1) . ')' if chance(0.2);
	return { sql => $sql, type => $result_types{ $aggregate->{result} } // $aggregate->{result}, inexact => $inexact };
}

# Expressions over aggregates.  None is more sensitive than its arguments: the
# last digit of a float must not decide, nor the number of zeros behind a
# numeric's point.
my @over_aggregates = (
	[ 'numeric', 'sum({int4}) / nullif(count(*), 0)' ], [ 'numeric', 'sum({numeric}) / nullif(count({numeric}), 0)' ],
	[ 'numeric', 'round(avg({numeric}), 2)' ], [ 'numeric', 'coalesce(sum({numeric}), 0)' ], [ 'int8', 'coalesce(max({int8}), -1)' ],
	[ 'numeric', '100.0 * count(*) FILTER (WHERE {bool}) / (count(*) + 1)' ], [ 'numeric', 'max({int8})::numeric - min({int8})' ],
	[ 'text', 'min({text}) || \'-\' || max({text})' ], [ 'interval', 'max({timestamptz}) - min({timestamptz})' ],
	[ 'bool', 'count({text}) > 2' ], [ 'jsonb', 'jsonb_build_object(\'n\', count(*), \'max\', max({int4}))' ],
	[ 'ints', 'ARRAY[min({int4}), max({int4})]' ], [ 'numeric', 'CASE WHEN count(*) > 5 THEN sum({numeric}) ELSE 0 END' ],
	[ 'small', '(count(*) % 10)::int' ], [ 'text', 'to_char(max({timestamptz}), \'YYYY-MM-DD HH24\')' ], [ 'numeric', 'round(stddev({int4}), 3)' ],
	[ 'text', '(SELECT max(name) FROM countries) || count(*)' ], [ 'bool', 'bool_or({bool}) AND NOT bool_and({bool})' ],
	[ 'floatx', 'stddev_pop({float8}) * 2 + 1', 1 ], [ 'floatx', 'coalesce(corr({float8}, {float8}), 0)', 1 ],
	[ 'numeric', 'avg({int8}) - avg({int4})' ], [ 'floatx', 'avg({float8}) + count(*)' ], [ 'numeric', 'sum({small}) + sum({small}) FILTER (WHERE {bool})' ],
	[ 'pair', 'ROW(min({small}), max({text}))::pair' ], [ 'text', 'min({text}) COLLATE "C"' ], [ 'numeric', '(variance({numeric}))::numeric(60,2)' ],
	[ 'int8', 'greatest(count({text}), count({int8}))' ], [ 'bool', 'avg({small}) > 3.3' ]);

my @having = (
	'count(*) > 3', 'count(*) % 2 = 0', 'count({text}) < 5', 'sum({small}) > 10', 'max({text}) > \'k\'', 'avg({numeric}) < 100.37', 'min({timestamptz}) < timestamptz \'2020-06-01Z\'',
	'bool_or({bool})', 'stddev({small}) > 3.37', 'count(*) FILTER (WHERE {bool}) BETWEEN 1 AND 20', 'sum({int4}) IS NULL', 'max({int8}) > min({int4})', '(SELECT max(tax) FROM countries) < count(*)');

sub add_aggregate
{
	my ($query, $aggregates) = @_;

	if (chance(0.25))
	{
		my ($type, $form, $inexact) = @{ pick(@over_aggregates) };
		add_output($query, expand($form, $query->{scope}, 1), $type, inexact => $inexact // 0);
		return;
	}
	my $call = aggregate_call($query, $aggregates);
	add_output($query, $call->{sql}, $call->{type}, inexact => $call->{inexact});
	return;
}

# GROUP BY: by expression, by place, by name; more than one set of columns.
sub make_group_by
{
	my ($query, $keys) = @_;
	my %place;

	return chance(0.05) ? ' GROUP BY ()' : '' unless @$keys;
	$place{ $query->{outputs}[$_] } = $_ + 1 for 0 .. $#{ $query->{outputs} };
	my $list = join(', ', map { $place{$_} && chance(0.4) ? pick($place{$_}, $_->{name}) : $_->{sql} } @$keys);
	return ' GROUP BY ' . pick("ROLLUP ($list)", "CUBE ($list)", "GROUPING SETS (($list), ())") if chance(0.02);
	return " GROUP BY $list";
}

# A column that depends on the group columns.
sub add_group_expression
{
	my ($query, $keys) = @_;
	my @scope = map { { sql => $_->{sql}, type => $_->{type} } } grep { $image{ $_->{type} } } @$keys;

	return unless @scope;
	my $key = pick(@scope);
	my %wrap = (small => '{small} + 1', int4 => 'abs({int4} % 10)', int8 => '{int8}::text', text => 'upper({text})', bool => 'NOT {bool}',
		timestamptz => 'extract(hour FROM {timestamptz})', timestamp => '{timestamp}::date', date => 'to_char({date}, \'YYYY-Q\')');
	my $form = $wrap{ $key->{type} } or return;

	$form =~ s/\{\w+\}/($key->{sql})/;
	add_output($query, $form, 'text');
	return;
}

sub make_aggregate
{
	my ($aggregates) = @_;
	my $query = start_query('aggregate');

	add_from($query);
	add_where($query, 0.4);
	my @keys = map {
		my $type = key_type();
		add_output($query, column_expression($query->{scope}, $type, chance(0.5) ? 0 : 1), $type, key => 1);
	} 1 .. weighted(0 => 1.5, 1 => 5, 2 => 3, 3 => 1);
	my $calls = weighted(0 => @keys ? 1 : 0, 1 => 3, 2 => 3, 3 => 2, 5 => 1);

	add_aggregate($query, $aggregates) for 1 .. $calls;
	add_output($query, pick(map { @$_ } @constants{qw(small text date)}), 'text') if chance(0.08);
	add_group_expression($query, \@keys) if chance(0.15);
	@{ $query->{outputs} } = shuffle @{ $query->{outputs} };
	if (@keys > 1 && chance(0.03))
	{
		my $hidden = pick(@keys);
		@{ $query->{outputs} } = grep { $_ != $hidden } @{ $query->{outputs} };
	}
	$query->{tail} = make_group_by($query, \@keys);
	$query->{tail} .= ' HAVING ' . expand(pick(@having), $query->{scope}, 1) if chance(0.15);
	return $query;
}

# ---- What nobody keeps ----

my @refused = (
	'SELECT DISTINCT k, country FROM events', 'SELECT k, count(*) OVER (PARTITION BY country) AS n FROM events',
	'SELECT k FROM events UNION ALL SELECT i FROM events', 'SELECT k, s FROM events ORDER BY at', 'SELECT k FROM events LIMIT 5',
	'SELECT k, unnest(a) AS x FROM events', 'SELECT country, count(DISTINCT k) AS n FROM events GROUP BY country',
	'SELECT country, array_agg(k ORDER BY at) AS l FROM events GROUP BY country', 'SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY f) AS m FROM events',
	'SELECT country, count(*) AS n FROM users GROUP BY country', 'SELECT DISTINCT ON (country) country, id FROM users ORDER BY country, at',
	'SELECT count(*) AS n FROM events WHERE at < now()', 'SELECT k, random() AS r FROM events', 'SELECT name FROM users',
	'SELECT c.name, e.k FROM countries c LEFT JOIN events e ON e.country = c.code', 'SELECT e.k FROM events e JOIN users u ON u.id = e.k');

=pod

=head2 random_query($aggregates)

Returns a hash: the texts kappa, for create_view, and plain, for PostgreSQL; kind;
outputs, each { name, inexact }; as_text, whether rows can be compared by what
they look like.  A query of kind 'refused' has nothing but kappa.

=cut

sub random_query
{
	my ($aggregates) = @_;
	my $kind = weighted(append => 25, 'distinct on' => 20, changelog => 15, aggregate => 40, refused => 1);

	return { kind => 'refused', kappa => pick(@refused) } if $kind eq 'refused';
	my $query =
		$kind eq 'append' ? make_append()
	  : $kind eq 'distinct on' ? make_distinct_on()
	  : $kind eq 'changelog' ? make_changelog()
	  : make_aggregate($aggregates);
	my $text = "$query->{with}SELECT " . ($query->{distinct} // '') . ($query->{star} ? '*' : list_outputs($query))
	  . " FROM $query->{from}$query->{where}";

	$query->{kappa} = $text . $query->{tail};
	$query->{plain} = $text . ($query->{plain_tail} // $query->{tail});
	$query->{kappa} =~ s/<tie>//;
	$query->{plain} =~ s/<tie>/, part AS "tie part", pos AS "tie pos"/;
	return $query;
}

1;
