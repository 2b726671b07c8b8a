
# What people write wrong: queries and options cut up, mixed and misspelt at
# random, and the functions of schema kappa called with whatever their types
# allow.  Each ends in a view or an error that says what is wrong with the
# statement: never in an internal error, a failed assertion or a crash, never with
# a secret in a message, and never in a view of a query that PostgreSQL itself
# refuses.
#
# KAPPA_SEED repeats the choices of a run, KAPPA_SECONDS makes it longer.

use strict;
use warnings;

use JSON::PP qw(decode_json);
use KappaTest;
use List::Util qw(shuffle);
use PostgreSQL::Test::Utils;
use RandomQuery;
use Test::More;
use Time::HiRes qw(time);

my $seed = $ENV{KAPPA_SEED} // int rand 1e9;
my $seconds = $ENV{KAPPA_SECONDS} // 15;
my $secret = 'Xy7secretXy7';

note "KAPPA_SEED=$seed KAPPA_SECONDS=$seconds";

my $node = new_node(conf => q(
restart_after_crash = off
max_stack_depth = 1MB
log_min_messages = error
statement_timeout = 60s
kappa.connect_timeout = 100ms
));

$node->safe_psql('postgres', q(
CREATE SERVER nowhere FOREIGN DATA WRAPPER kappa OPTIONS (bootstrap_servers '127.0.0.1:1');
CREATE FOREIGN TABLE clicks (user_id bigint, page text, country char(2), at timestamptz,
	amount numeric(10,2), weight float8, tags text[], data jsonb, region text COLLATE "C",
	part int OPTIONS (metadata 'partition'), pos bigint OPTIONS (metadata 'offset'))
	SERVER nowhere OPTIONS (topic 'clicks', format 'json');
CREATE FOREIGN TABLE users (user_id bigint OPTIONS (key 'true', metadata 'key'), name text,
	country text, data jsonb) SERVER nowhere OPTIONS (topic 'users', format 'json');
CREATE TABLE countries (code text PRIMARY KEY, name text, rank int, tax numeric);
CREATE FOREIGN DATA WRAPPER other;
CREATE SERVER other FOREIGN DATA WRAPPER other;
CREATE FOREIGN TABLE others (a int, b text) SERVER other;
CREATE VIEW named AS SELECT code, upper(name) AS name FROM countries WHERE rank < 5;
CREATE TABLE outcomes (id int, sqlstate text, message text);

-- Run a statement, and have nothing of it but its SQLSTATE and message.
CREATE FUNCTION attempt(statement text) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
	state text; message text; detail text; hint text;
BEGIN
	EXECUTE statement;
	RAISE EXCEPTION USING errcode = 'KA000';
EXCEPTION WHEN OTHERS OR query_canceled OR assert_failure THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
		detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN ARRAY[state, concat_ws(' / ', message, nullif(detail, ''), nullif(hint, ''))];
END $$;
));

# ---- Mutated queries ----

my @queries = (
	'SELECT page, count(*) AS n, sum(amount) AS s, max(at) AS last FROM clicks GROUP BY page',
	'SELECT user_id, page, at FROM clicks WHERE country = \'DE\' AND amount > 10.5',
	'SELECT DISTINCT ON (user_id) user_id, page, at FROM clicks ORDER BY user_id, at DESC NULLS LAST, pos DESC',
	'SELECT user_id, name FROM users WHERE country IS DISTINCT FROM \'DE\'',
	'SELECT c.page, k.name, count(*) AS n FROM clicks c JOIN countries k ON k.code = c.country GROUP BY c.page, k.name',
	'SELECT c.page, k.tax * c.amount AS t FROM clicks AS c LEFT JOIN countries AS k ON (k.code = c.country)',
	'SELECT user_id, tag FROM clicks, unnest(tags) AS tag',
	'SELECT user_id, i ->> \'sku\' AS sku FROM clicks, LATERAL jsonb_array_elements(data -> \'items\') AS i WHERE i ? \'sku\'',
	'SELECT page, avg(weight) FILTER (WHERE weight > 0) AS a, bool_or(amount > 1) AS b FROM clicks GROUP BY 1 HAVING count(*) > 1',
	'SELECT page, string_agg(region, \',\' ORDER BY region) AS r, count(DISTINCT user_id) AS d FROM clicks GROUP BY page',
	'WITH c AS (SELECT * FROM clicks WHERE page ~ \'^/\') SELECT page, min(at) AS first FROM c GROUP BY page',
	'SELECT s.p, s.n FROM (SELECT page AS p, amount AS n FROM clicks) AS s WHERE s.p IN (SELECT code FROM named)',
	'SELECT date_trunc(\'day\', at, \'UTC\') AS day, percentile_cont(0.5) WITHIN GROUP (ORDER BY weight) AS m FROM clicks GROUP BY 1',
	'SELECT CASE WHEN amount > 0 THEN \'in\' ELSE \'out\' END AS way, count(*) AS n FROM clicks GROUP BY CASE WHEN amount > 0 THEN \'in\' ELSE \'out\' END',
	'SELECT count(*) AS n, array_agg(page ORDER BY pos) AS pages, jsonb_object_agg(pos, page) AS o FROM clicks',
	'SELECT page, (SELECT name FROM countries WHERE code = country) AS name, EXISTS (SELECT FROM named WHERE code = page) AS e FROM clicks',
	'SELECT c.*, c AS whole, ROW(c.page, 1) AS r, c.tableoid, c.ctid FROM clicks c',
	'SELECT page COLLATE "C" AS p, rank() OVER (PARTITION BY page ORDER BY at) FROM clicks GROUP BY GROUPING SETS ((page), ())',
	'VALUES (1, \'a\') UNION ALL SELECT user_id, name FROM users EXCEPT TABLE countries',
	'SELECT (data #>> \'{a,b}\')::numeric::int % 7 AS b, amount::text || page AS t FROM clicks TABLESAMPLE SYSTEM (10)'
);
my @words = ("\t", "\n", '$$', 'numeric(1000,1000)', 'int[][]', 'interval day to second(9)', 'AT TIME ZONE',
	"'NaN'::float8", 'NULL::record', 'IS NOT DISTINCT FROM', split ' ', <<'END');
SELECT FROM WHERE GROUP BY HAVING ORDER LIMIT OFFSET DISTINCT ON ALL AND OR NOT IN IS NULL TRUE CASE WHEN THEN
ELSE END AS JOIN LEFT FULL CROSS NATURAL USING LATERAL UNION INTERSECT WITH RECURSIVE OVER WINDOW PARTITION
FILTER WITHIN ARRAY ROW CAST COLLATE INTO FOR UPDATE VALUES TABLE ONLY EXISTS ANY SOME BETWEEN ESCAPE ASC DESC
NULLS FIRST LAST ROLLUP CUBE MATERIALIZED
clicks users countries others named page user_id at amount weight tags data name code rank tax pos part ctid tableoid
xmin c k s n x
now() random() count(*) sum( avg( max( min( count( array_agg( string_agg( first_value( jsonb_agg( coalesce(
upper( length( to_char( generate_series(1,3) unnest( pg_sleep(0) current_date current_user nextval('x')
kappa.verify('clicks') mode() grouping( xmlelement(
:: . .. , ; ( ) [ ] * + - / % ^ = <> < > <= ~ @ || -> ->> #> && @> ? $1 : := => "x" 'x' '' " ' \ -- /* */
E'\x00' U&'\d83d' B'1' 0 1 -1 1.5 1e400 99999999999999999999 0x1F char(0) 'infinity' é 😀
END

sub tokens
{
	my ($text) = @_;

	return $text =~ /\s+|\w+|'[^']*'|"[^"]*"|->>|::|[^\w\s]/g;
}

# A stretch of a list: its start and length.
sub stretch
{
	my ($n, $longest) = @_;
	my $length = 1 + int rand $longest;
	my $start = int rand($n + 1);

	$length = $n - $start if $start + $length > $n;
	return ($start, $length);
}

sub mutate
{
	my ($text, $others, $dictionary) = @_;
	my @t = tokens($text);

	foreach (1 .. 1 + int rand 4)
	{
		my ($start, $length) = stretch(scalar @t, 6);
		my @other = tokens(pick(@$others));
		my ($from, $n) = stretch(scalar @other, 12);

		weighted(
			sub { splice @t, $start, $length } => 2,
			sub { splice @t, $start, 0, ' ', pick(@$dictionary), ' ' } => 4,
			sub { splice @t, $start, $length, ' ', pick(@$dictionary), ' ' } => 4,
			sub { splice @t, $start, $length, @other[ $from .. $from + $n - 1 ] } => 4,
			sub { splice @t, $start, 0, @t[ $start .. $start + $length - 1 ] } => 2,
			sub { splice @t, $start, $length, '(', @t[ $start .. $start + $length - 1 ], ')' } => 3,
			sub { splice @t, $start, $length, reverse @t[ $start .. $start + $length - 1 ] } => 1,
			sub { my $depth = int rand 3000; splice @t, $start, $length, '(' x $depth, '1', ')' x $depth } => 0.1,
			sub { splice @t, $start, 0, pick('-', 'NOT ', 'a.') x rand 3000 } => 0.1
		)->();
	}
	return join('', @t);
}

# ---- Mutated options ----

my @option_names = (
	qw(topic format key_format key_order path metadata key bootstrap_servers security_protocol
	  sasl_mechanism sasl_mechanisms sasl_username client_id check_crcs fetch_wait_max_ms
	  socket_timeout_ms ssl_ca_pem ssl_ca_location ssl_cipher_suites ssl_endpoint_identification_algorithm
	  sasl_oauthbearer_method sasl_kerberos_principal plugin_library_paths group_id debug acks
	  broker_address_family metadata_max_age_ms));
my @secret_names =
  qw(sasl_password ssl_key_password ssl_key_pem ssl_certificate_pem sasl_oauthbearer_client_secret sasl_oauthbearer_config);
my @option_values = (
	qw(json raw true false on off key value partition offset timestamp headers topic ssl sasl_ssl PLAIN
	  SCRAM-SHA-512 GSSAPI OAUTHBEARER 0 1 -1 2147483648 1e3 127.0.0.1:1 a.b a."b.c".d a..b "),
	'', ' ', 'é', "a\nb", '\\', "'", 'x' x 300, 'a.' x 1000 . 'a', '"' x 9, 'https://', '[::1]:9092,,', '/etc/passwd');

sub literal { my ($text) = @_; $text =~ s/'/''/g; $text =~ s/\\/\\\\/g; return "E'$text'"; }

sub random_options
{
	my ($adding) = @_;

	return join(', ', map {
		my $hidden = chance(0.2);
		my $name = $hidden ? pick(@secret_names) : pick(@option_names);
		my $value = $hidden ? $secret : pick(@option_values);

		substr($name, rand length $name, 1) = pick('', '_', 'x') if chance(0.1);
		# The value of a name that is no secret's may be shown.
		$value = 'x' unless grep { $_ eq $name } @secret_names or $value ne $secret;
		($adding ? pick('ADD ', 'SET ', '') : '') . "\"$name\" " . literal($value);
	} 1 .. 1 + int rand 3);
}

sub option_statement
{
	my $options = random_options();
	my $changes = random_options(1);

	return pick(
		"CREATE SERVER s FOREIGN DATA WRAPPER kappa OPTIONS ($options)",
		"ALTER SERVER nowhere OPTIONS ($changes)",
		"CREATE USER MAPPING FOR public SERVER nowhere OPTIONS ($options)",
		"ALTER FOREIGN TABLE clicks OPTIONS ($changes)",
		"ALTER FOREIGN TABLE users ALTER COLUMN name OPTIONS ($changes)",
		"CREATE FOREIGN TABLE t (a int OPTIONS ($options), b text OPTIONS (" . random_options() . ')) SERVER nowhere OPTIONS ('
		  . random_options() . "); PERFORM kappa.decode_message('t', '{\"a\": 1}')",
		"ALTER FOREIGN DATA WRAPPER kappa OPTIONS ($changes)");
}

# ---- Calls ----

my %arguments = (
	text => [ "''", "'x'", "repeat('x', 70)", "'SELECT 1'", "'earliest'", "'-infinity'", "'manual'" ],
	regclass => [ "'clicks'", "'users'", "'countries'", "'others'", '0', "'kappa.views'", '1' ],
	integer => [ '0', '-1', '2147483647' ],
	bigint => [ '0', '-1', '9223372036854775807' ],
	oid => [ '0', "'clicks'::regclass", "'others'::regclass", "'countries'::regclass" ],
	bytea => [ "''", q('{"user_id": 1}'), q('\xff'), q('{"data":') ],
	regprocedure => [ '0', "'sum(int)'::regprocedure", "'array_agg(anynonarray)'::regprocedure", "'avg(numeric)'::regprocedure", "'upper(text)'::regprocedure" ],
	boolean => [ 'true', 'false' ],
	interval => [ "'0'", "'1 ms'", "'-1 day'" ],
	tid => [ "'(0,0)'", "'(4294967295,65535)'" ],
	anyelement => [ '1', "'x'::text", '1.5', 'ROW(1)', "'{1}'::int[]", "'2020-01-01'::date" ],
	'"any"' => [ '1', "'x'::text", 'ARRAY[1]' ],
	'text[]' => ["'{topic=a}'"]);

# Every function, but for those that wait for processes, as a list of types.
my @functions = map { [ split /\|/, $_, 2 ] } split /\n/, $node->safe_psql('postgres', q(
	SELECT p.oid::regproc, array_to_string(ARRAY(SELECT format_type(t, NULL) FROM unnest(p.proargtypes) AS t), ';')
	FROM pg_proc p
	WHERE pronamespace = 'kappa'::regnamespace AND prokind = 'f'
		AND NOT proargtypes::oid[] && ARRAY['internal'::regtype, 'cstring'::regtype]::oid[]
		AND prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)));

sub call_statement
{
	my ($name, $types) = @{ pick(@functions) };
	my @values = map {
		my $pool = $arguments{$_} // [];

		@$pool && chance(0.9) ? pick(@$pool) . (/any|^text$|\[\]/ ? '' : "::$_") : 'NULL' . (/any/ ? '::int' : "::$_")
	} split /;/, $types;

	return "PERFORM * FROM $name(" . join(', ', @values) . ')';
}

# ---- Run them ----

my %count;
my @findings;

sub in_block
{
	my ($statement) = @_;

	return "DO \$do\$ BEGIN $statement; END \$do\$";
}

# Statements as [KIND, STATEMENT, TEXT OF THE QUERY].
sub random_statement
{
	my $kind = weighted(query => 6, option => 3, call => 1);

	if ($kind eq 'query')
	{
		my $text = mutate(pick(@queries), \@queries, \@words);

		$text =~ s/\$q\$|\0//g;
		return [ $kind,
			"SELECT kappa.create_view('m', \$q\$$text\$q\$); SELECT count(*) FROM kappa.explain('m'); DROP TABLE m",
			$text ];
	}
	return [ $kind, option_statement() =~ s/; PERFORM/; SELECT/r ] if $kind eq 'option';
	return [ $kind, in_block(call_statement()) ];
}

# The outcomes, or nothing if the server did not survive.
sub outcomes
{
	my @statements = @_;
	my $script = join("\n", map { 'SELECT to_json(attempt(' . quote($_) . "))::text;" } @statements);
	my ($out, $err);

	eval {
		$node->psql('postgres', $script, stdout => \$out, stderr => \$err,
			extra_params => ['-q'], timeout => 300);
	};
	my @lines = split /\n/, $out // '';

	return @lines == @statements ? map { decode_json($_) } @lines : ();
}

sub quote
{
	my ($text) = @_;
	my $tag = 'q1';

	$tag .= 'x' while index($text, "\$$tag") >= 0;
	return "\$$tag\$$text\$$tag\$";
}

sub judge
{
	my ($statement, $outcome) = @_;
	my ($kind, $sql, $query) = @$statement;
	my ($state, $message) = @$outcome;

	$count{$kind}++;
	$count{ $state eq 'KA000' ? 'accepted' : 'refused' }++;
	push @findings, "$message\n\tfrom $sql"
	  if $state =~ /^(XX|57014|P0004)/ || index($message, $secret) >= 0;
	return unless $query && $state eq 'KA000';

	# What is not a query of PostgreSQL is no view; no statement before it is none.
	my ($plain) = outcomes('CREATE VIEW p AS ' . $query =~ s/\A[;\s]+//r);
	push @findings, "a view of what PostgreSQL says is no query: $plain->[1]\n\tfrom $sql"
	  if !$plain || $plain->[0] ne 'KA000';
	return;
}

my $started = time;
for (my $round = 1; time - $started < $seconds && @findings < 5; $round++)
{
	reseed($seed, $round);
	my @statements = map { random_statement() } 1 .. 100;
	my @outcomes = outcomes(map { $_->[1] } @statements);

	if (!@outcomes)
	{
		# Which of them was it?
		$node->stop('immediate', fail_ok => 1);
		$node->start;
		foreach (@statements)
		{
			next if outcomes($_->[1]);
			push @findings, "no answer\n\tfrom $_->[1]";
			last;
		}
		last;
	}
	judge($statements[$_], $outcomes[$_]) foreach 0 .. $#statements;
}

diag('summary: ' . join(', ', map { "$count{$_} $_" } sort keys %count));
is(join("\n", @findings), '', 'no statement is more than refused');
cmp_ok($count{$_} // 0, '>', 20, "some are $_") foreach qw(accepted refused);
is($node->safe_psql('postgres', 'SELECT count(*) FROM kappa.views'), 0, 'nothing is left');
$node->stop('fast');
my $log = slurp_file($node->logfile);
unlike($log, qr/TRAP:|PANIC|terminated by signal/, 'nor has the log anything worse');
done_testing();
