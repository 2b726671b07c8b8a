
# Aggregates that keep more than their value, expressions over aggregates, and
# HAVING: groups come, change, and go as their states cross the line.

use strict;
use warnings;

use KappaTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = start_kafka();
my $node = new_node();
my %views;

sub sql { return $node->safe_psql('postgres', $_[0]) }

sub create
{
	my ($name, $query) = @_;

	$views{$name} = $query;
	sql("SELECT kappa.create_view('$name', \$view\$$query\$view\$)");
	return;
}

sub all_equal
{
	my ($when) = @_;

	ok_view($node, $_, name => "$_: $when") foreach sort keys %views;
	return;
}

# Messages of a few groups, some of them NULL, which can be told apart by from.
sub messages
{
	my ($from, $to) = @_;

	return [
		map {
			{
				value => {
					g => $_ % 11 ? $_ % 5 : undef,
					h => $_ % 7 ? 'h' . $_ % 3 : undef,
					x => $_ % 13 ? $_ : undef,
					n => $_ % 17 ? "$_." . $_ % 100 : undef,
					at => sprintf('2026-03-%02dT%02d:30:00Z', 1 + $_ % 28, $_ % 24),
					tags => [ map { "t$_" } 1 .. $_ % 3 ],
				}
			}
		} $from .. $to
	];
}

create_topic('m', partitions => 3);
sql(q(
	CREATE TABLE names (g int PRIMARY KEY, name text);
	INSERT INTO names SELECT i, 'name ' || i FROM generate_series(0, 3) i;
	CREATE TABLE delta (threshold int);
	INSERT INTO delta VALUES (3);
	CREATE FOREIGN TABLE m (g int, h text, x int, n numeric, at timestamptz, tags text[]) SERVER events OPTIONS (topic 'm', format 'json');
	CREATE FUNCTION add_longest(text, text) RETURNS text LANGUAGE sql IMMUTABLE
		RETURN CASE WHEN length($2) > length($1) OR length($2) = length($1) AND $2 < $1 THEN $2 ELSE coalesce($1, $2) END;
	CREATE FUNCTION show_longest(text) RETURNS text LANGUAGE sql IMMUTABLE RETURN '<' || $1 || '>';
	CREATE FUNCTION add_first(anyarray, anyelement) RETURNS anyarray LANGUAGE sql IMMUTABLE
		AS 'SELECT CASE WHEN $2 IS NULL THEN $1 WHEN $1 IS NULL OR $2 < $1[1] THEN ARRAY[$2] ELSE $1 END';
	CREATE FUNCTION add_firsts(anyarray, anyarray) RETURNS anyarray LANGUAGE sql IMMUTABLE
		AS 'SELECT CASE WHEN $2[1] < $1[1] THEN $2 ELSE coalesce($1, $2) END';
	CREATE FUNCTION show_first(anyarray) RETURNS anyelement LANGUAGE sql IMMUTABLE AS 'SELECT $1[1]';
	CREATE AGGREGATE lowest(anyelement) (SFUNC = add_first, STYPE = anyarray, COMBINEFUNC = add_firsts, FINALFUNC = show_first);
	CREATE FUNCTION add_most(int, VARIADIC int[]) RETURNS int LANGUAGE sql IMMUTABLE
		RETURN greatest($1, (SELECT max(i) FROM unnest($2) i));
	CREATE AGGREGATE most(VARIADIC int[]) (SFUNC = add_most, STYPE = int, COMBINEFUNC = int4larger, FINALFUNC = abs);
	CREATE AGGREGATE longest(text) (SFUNC = add_longest, STYPE = text, COMBINEFUNC = add_longest, FINALFUNC = show_longest);
));

# Each of them, before, between and after the messages.
sub create_all
{
	my ($suffix) = @_;

	create("averages$suffix", q(SELECT g, avg(x) AS a, avg(n) AS b, stddev(n) AS c, var_pop(x) AS d, sum(x::bigint) AS e, count(*) AS f FROM m GROUP BY g));
	create("expressions$suffix", q(SELECT h, g, round(avg(n), 2) AS rounded, sum(x) / nullif(count(x), 0) AS mean, 'kept' AS word, coalesce(h, 'none') || count(*) AS label, CASE WHEN bool_and(x > 3) THEN max(h) END AS condition FROM m GROUP BY g, h));
	create("having$suffix", q(SELECT g, h, count(*) AS n, avg(n) AS a FROM m GROUP BY g, h HAVING count(*) BETWEEN 4 AND 20 AND sum(x) > 100));
	create("hidden$suffix", q(SELECT g FROM m GROUP BY g HAVING avg(x) < 0));
	create("one$suffix", q(SELECT avg(x) AS a, max(n) - min(n) AS spread, count(*) FILTER (WHERE x > 1000000) = 0 AS small FROM m));
	create("one_having$suffix", q(SELECT stddev_samp(x) AS s FROM m HAVING count(*) % 2 = 1));
	create("by_day$suffix", q(SELECT date_trunc('day', at) AS day, avg(n) FILTER (WHERE g = 1) AS one, avg(n) FILTER (WHERE g = 2) AS two, avg(n) AS n FROM m GROUP BY date_trunc('day', at)));
	create("tags$suffix", q(SELECT tag, avg(x) AS a, longest(h) AS l FROM m, LATERAL unnest(tags) AS tag GROUP BY tag));
	create("own$suffix", q(SELECT h, lowest(x) AS x, lowest(n) AS n, lowest(h) AS low, most(x, g) AS most, most(VARIADIC ARRAY[g, 1]) AS more FROM m GROUP BY h));
	create("looked_up$suffix", q(SELECT name, avg(x) AS a FROM m JOIN names USING (g) GROUP BY name HAVING count(*) > (SELECT threshold FROM delta)));
	return;
}

create_all('_before');
ok_view($node, $_, name => "$_: without a message") foreach sort keys %views;
is(sql('SELECT a IS NULL AND spread IS NULL AND small FROM one_before'), 't', 'the one row is there from the start');
is(sql('SELECT count(*) FROM one_having_before'), '0', 'but not where HAVING hides it');

produce('m', messages(1, 100));
all_equal('first messages');
create_all('_between');
produce('m', messages(101, 101));
all_equal('a single message');
produce('m', messages(102, 1200));
all_equal('many messages');

cmp_ok(sql(q(SELECT count(*) FROM kappa_state.having_before_v1_state)), '>', sql('SELECT count(*) FROM having_before'), 'hidden groups keep their state');
is(sql(q(SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'averages_before'::regclass AND attnum > 0)), 'g, a, b, c, d, e, f', 'the table has the columns of the query alone');

# States are kept by restarts, and by a dump.
$node->restart;
produce('m', messages(1201, 1300));
all_equal('after a restart');
$node->stop('immediate');
$node->start;
produce('m', messages(1301, 1310));
all_equal('after a crash');

create_all('_after');
all_equal('from the log');
sql(qq(SELECT kappa.rebuild('$_'))) foreach qw(averages_before having_before one_having_before);
ok($node->safe_psql('postgres', qq(SELECT kappa.wait_for_rebuild('$_', '1 min'))) eq 't', "$_ is rebuilt") foreach qw(averages_before having_before one_having_before);
produce('m', messages(1311, 1400));
all_equal('after a rebuild');

my $dump = "$PostgreSQL::Test::Utils::tmp_check/dump.sql";
$node->command_ok([ 'pg_dump', '-f', $dump, '-d', $node->connstr('postgres') ], 'dump');
my $other = new_node(name => 'other', bare => 1);
$other->safe_psql('template1', 'CREATE DATABASE restored');
$other->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $dump, '-d', $other->connstr('restored') ], 'restore');
produce('m', messages(1401, 1500));
$other->safe_psql('restored', q(SELECT kappa.resume_view(view) FROM kappa.views));
ok_view($other, $_, dbname => 'restored', name => "$_: restored") foreach qw(averages_before having_between one_before tags_after);

# What a dump of an older version of the server has: states that it serialized
# itself, and such as are of another type by now.
my $older = slurp_file($dump);
my $major = int($node->safe_psql('postgres', 'SHOW server_version_num') / 10000);
my $serialized = sprintf('%04x0000', $major);
my $replaced = ($older =~ s/(\\\\x[0-9a-f]{16})$serialized/${1}00090000/g);
cmp_ok($replaced, '>', 20, 'the dump has serialized states');
ok($older =~ s/(CREATE TABLE kappa_state\.tags_after_v1_state [^;]*"kappa state 1") bigint\[\]/$1 text[]/, 'and others');
append_to_file("$dump.older", $older);
$other->safe_psql('template1', 'CREATE DATABASE older');
$other->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', "$dump.older", '-d', $other->connstr('older') ], 'restore of an older version');
$other->safe_psql('older', q(SELECT kappa.resume_view(view) FROM kappa.views));
produce('m', messages(1501, 1600));
my %stopped = (
	averages_before => qr/state of aggregate stddev\(numeric\) was made by PostgreSQL 9\s+HINT: .*kappa\.rebuild/,
	tags_after => qr/states of view "public\.tags_after" are not those that PostgreSQL $major keeps\s+DETAIL: .*\s+HINT: .*kappa\.rebuild/);
foreach my $view (sort keys %stopped)
{
	ok(wait_for($other, "SELECT state FROM kappa.views WHERE view = '$view'::regclass", 'stopped', 30, dbname => 'older'), "$view stops");
	like($other->safe_psql('older', "SELECT reason FROM kappa.views WHERE view = '$view'::regclass"), $stopped{$view}, 'and says why');
	$other->safe_psql('older', "SELECT kappa.rebuild('$view')");
	is($other->safe_psql('older', "SELECT kappa.wait_for_rebuild('$view', '1 min')"), 't', 'it is rebuilt');
	ok_view($other, $view, dbname => 'older', name => "$view: rebuilt");
}
ok_view($other, $_, dbname => 'older', name => "$_: from an older version") foreach qw(own_after hidden_before);
$other->stop('fast');

$node->stop('fast');
done_testing();
