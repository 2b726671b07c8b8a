
# The functions that a view's query uses: replaced by others, they would put
# rows of two meanings into one table.  So the view stops before the first of
# them, and stays what it is under whatever does not change what they do.

use strict;
use warnings;

use KappaTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = start_kafka();
my $node = new_node();
my $sent = 0;

sub sql { return $node->safe_psql('postgres', $_[0]) }

sub send_some
{
	my ($n) = @_;

	produce('calls', [ map { { value => { k => $_ % 5, n => ++$sent, s => (qw(Ab aB b))[ $_ % 3 ] } } } 1 .. $n ]);
	return;
}

create_topic('calls', partitions => 2);
sql(q(
CREATE EXTENSION citext VERSION '1.4';
CREATE FOREIGN TABLE calls (k int, n bigint, s citext) SERVER events OPTIONS (topic 'calls', format 'json');
CREATE SCHEMA tools;
CREATE FUNCTION in_words(bigint) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'n ' || $1 $$;
CREATE FUNCTION is_fine(bigint) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN $1 % 4 <> 0; END $$;
CREATE FUNCTION tools.inner(bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT $1 + 1';
CREATE FUNCTION parsed(x bigint) RETURNS bigint IMMUTABLE BEGIN ATOMIC SELECT 2 * tools.inner(x); END;
CREATE FUNCTION returned(x bigint) RETURNS bigint IMMUTABLE RETURN x - 1;
CREATE FUNCTION pick(bigint) RETURNS bigint LANGUAGE internal IMMUTABLE STRICT AS 'int8abs';
CREATE FUNCTION folded(citext) RETURNS int LANGUAGE c IMMUTABLE AS '$libdir/citext', 'citext_hash';
CREATE FUNCTION folded_inside(citext) RETURNS int LANGUAGE c IMMUTABLE AS '$libdir/citext', 'citext_hash';
ALTER EXTENSION citext ADD FUNCTION folded_inside(citext);
CREATE FUNCTION day_of(bigint) RETURNS text LANGUAGE sql STABLE SET datestyle = 'ISO' AS $$ SELECT (date '2026-01-01' + $1::int)::text $$;
CREATE FUNCTION strict_or_not(bigint, bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT coalesce($1, -1)';
CREATE FUNCTION near(bigint, bigint) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT abs($1 - $2) < 3';
CREATE OPERATOR ~~~ (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = near);
CREATE TYPE money_of AS (cents bigint);
CREATE FUNCTION to_money(bigint) RETURNS money_of LANGUAGE sql IMMUTABLE AS 'SELECT ROW($1 * 100)::money_of';
CREATE CAST (bigint AS money_of) WITH FUNCTION to_money(bigint);
CREATE FUNCTION add_square(numeric, bigint) RETURNS numeric LANGUAGE sql IMMUTABLE AS 'SELECT $1 + $2 * $2';
CREATE FUNCTION as_text(numeric) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'sum ' || $1 $$;
CREATE AGGREGATE squares(bigint) (SFUNC = add_square, STYPE = numeric, COMBINEFUNC = numeric_add, INITCOND = '0');
CREATE AGGREGATE squares_text(bigint) (SFUNC = add_square, STYPE = numeric, COMBINEFUNC = numeric_add, FINALFUNC = as_text, INITCOND = '0');
CREATE AGGREGATE started(bigint) (SFUNC = int8larger, STYPE = bigint, COMBINEFUNC = int8larger, INITCOND = '0');
CREATE AGGREGATE extreme(bigint) (SFUNC = int8larger, STYPE = bigint, COMBINEFUNC = int8larger);
CREATE FUNCTION waits(bigint) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
	BEGIN PERFORM pg_advisory_xact_lock_shared(4711); RETURN 'before'; END $$;
));

# Name: the query, what makes another one of it, and what that is called then.
my %cases = (
	sql_function => [ 'SELECT n, in_words(n) AS w FROM calls',
		q(CREATE OR REPLACE FUNCTION in_words(bigint) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'no ' || $1 $$), 'in_words(bigint)' ],
	condition => [ 'SELECT n FROM calls WHERE is_fine(n)',
		q(CREATE OR REPLACE FUNCTION is_fine(bigint) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN true; END $$), 'is_fine(bigint)' ],
	behind_a_body => [ 'SELECT k, sum(parsed(n)) AS s FROM calls GROUP BY k',
		'CREATE OR REPLACE FUNCTION tools.inner(bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS \'SELECT $1 + 2\'', 'parsed(bigint)' ],
	a_body => [ 'SELECT DISTINCT ON (k) k, n, returned(n) AS r FROM calls ORDER BY k, n DESC NULLS LAST',
		'CREATE OR REPLACE FUNCTION returned(x bigint) RETURNS bigint IMMUTABLE RETURN x - 2', 'returned(bigint)' ],
	internal => [ 'SELECT k, sum(pick(-n)) AS s FROM calls GROUP BY k',
		q(CREATE OR REPLACE FUNCTION pick(bigint) RETURNS bigint LANGUAGE internal IMMUTABLE STRICT AS 'int8um'), 'pick(bigint)' ],
	library => [ 'SELECT n, folded(s) AS f FROM calls',
		q(CREATE OR REPLACE FUNCTION folded(citext) RETURNS int LANGUAGE c IMMUTABLE AS 'citext', 'citext_hash'), 'folded(public.citext)' ],
	settings => [ 'SELECT day_of(k) AS d, count(*) FROM calls GROUP BY day_of(k)',
		q(ALTER FUNCTION day_of(bigint) SET datestyle = 'German'), 'day_of(bigint)' ],
	strictness => [ 'SELECT n, strict_or_not(n, NULL) AS s FROM calls',
		'ALTER FUNCTION strict_or_not(bigint, bigint) STRICT', 'strict_or_not(bigint,bigint)' ],
	an_operator => [ 'SELECT k, count(*) FILTER (WHERE n ~~~ 20::bigint) AS c FROM calls GROUP BY k',
		'CREATE OR REPLACE FUNCTION near(bigint, bigint) RETURNS boolean LANGUAGE sql IMMUTABLE AS \'SELECT abs($1 - $2) < 30\'', 'near(bigint,bigint)' ],
	a_cast => [ 'SELECT n, n::money_of AS m FROM calls',
		'CREATE OR REPLACE FUNCTION to_money(bigint) RETURNS money_of LANGUAGE sql IMMUTABLE AS \'SELECT ROW($1 * 1000)::money_of\'', 'to_money(bigint)' ],
	transition => [ 'SELECT k, squares(n) AS s FROM calls GROUP BY k',
		'CREATE OR REPLACE FUNCTION add_square(numeric, bigint) RETURNS numeric LANGUAGE sql IMMUTABLE AS \'SELECT $1 + $2\'', 'squares(bigint)' ],
	final => [ 'SELECT k, squares_text(n) AS s FROM calls GROUP BY k HAVING count(*) > 0',
		q(CREATE OR REPLACE FUNCTION as_text(numeric) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'all ' || $1 $$), 'squares_text(bigint)' ],
	an_aggregate => [ 'SELECT k, extreme(n) AS x FROM calls GROUP BY k',
		'CREATE OR REPLACE AGGREGATE extreme(bigint) (SFUNC = int8smaller, STYPE = bigint, COMBINEFUNC = int8smaller)', 'extreme(bigint)' ],
	initial_value => [ 'SELECT k, started(n) AS x FROM calls GROUP BY k',
		q(CREATE OR REPLACE AGGREGATE started(bigint) (SFUNC = int8larger, STYPE = bigint, COMBINEFUNC = int8larger, INITCOND = '1000')), 'started(bigint)' ],
	in_a_subquery => [ 'SELECT x, count(*) FROM (SELECT in_words(n % 3) AS x FROM calls) q GROUP BY x', undef, 'in_words(bigint)' ],
);

# Views of which nothing changes, and definitions to go back to.
my %steady = (
	plain => 'SELECT k, count(*), avg(n) AS a FROM calls GROUP BY k',
	by_citext => 'SELECT s, count(*), max(replace(s, \'a\'::citext, \'c\'::citext)) AS m FROM calls GROUP BY s',
	in_an_extension => 'SELECT n, folded_inside(s) AS f FROM calls',
);

send_some(40);
sql("SELECT kappa.create_view('$_', \$q\$$cases{$_}[0]\$q\$)") foreach sort keys %cases;
sql("SELECT kappa.create_view('$_', \$q\$$steady{$_}\$q\$)") foreach sort keys %steady;
ok_view($node, $_) foreach sort keys %cases, keys %steady;

# Some of what PostgreSQL knows of a function says nothing about its results.
sql(q(
CREATE OR REPLACE FUNCTION in_words(bigint) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE COST 7 AS $$ SELECT 'n ' || $1 $$;
ALTER FUNCTION is_fine(bigint) COST 1000 PARALLEL SAFE;
COMMENT ON FUNCTION tools.inner(bigint) IS 'one more';
CREATE ROLE someone;
ALTER FUNCTION returned(bigint) OWNER TO someone;
ALTER FUNCTION to_money(bigint) RENAME TO money_from;
ALTER FUNCTION money_from(bigint) SET SCHEMA tools;
ALTER AGGREGATE squares(bigint) RENAME TO sum_of_squares;
ALTER EXTENSION citext UPDATE TO '1.6';
CREATE OR REPLACE FUNCTION folded_inside(citext) RETURNS int LANGUAGE c IMMUTABLE AS 'citext', 'citext_hash';
));
send_some(40);
ok_view($node, $_, name => "$_ goes on where nothing has changed") foreach sort keys %cases, keys %steady;

# Nor does a dump and restore change anything.  (A dump leaves the function to the extension, which does not have it.)
sql(q(SELECT kappa.drop_view('in_an_extension')));
delete $steady{in_an_extension};
my $dump = "$PostgreSQL::Test::Utils::tmp_check/functions.sql";
$node->command_ok([ 'pg_dump', '-f', $dump, $node->connstr('postgres') ], 'pg_dump');
sql('CREATE DATABASE copy');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $dump, $node->connstr('copy') ], 'restore');
$node->safe_psql('copy', "SELECT kappa.resume_view('$_')") foreach sort keys %cases;
ok_view($node, $_, dbname => 'copy', name => "$_ in a restored database") foreach sort keys %cases;

# Over a restored database that has another function the view does not run.
$node->safe_psql('copy', 'SELECT kappa.pause_view(\'sql_function\')');
$node->safe_psql('copy', $cases{sql_function}[1]);
fails_like($node, q(SELECT kappa.resume_view('sql_function')), qr/function public\.in_words\(bigint\) .* has changed/, 'a paused view is not resumed', dbname => 'copy');
sql('DROP DATABASE copy WITH (FORCE)');

# Others in their places stop the views, before anything is mixed.
my $list = join(' UNION ALL ', map { "SELECT '$_' AS v, count(*) AS n, md5(string_agg(x::text, ',' ORDER BY x::text)) AS h FROM $_ x" } sort keys %cases);
my $before = sql("SELECT * FROM ($list) l");
my @original = map { sql("SELECT pg_get_functiondef('$_'::regprocedure)") } qw(in_words(bigint) returned(bigint));

foreach my $view (sort keys %cases)
{
	my $change = $cases{$view}[1] or next;

	$change =~ s/to_money/tools.money_from/ if $view eq 'a_cast';
	sql($change);
}
send_some(40);
foreach my $view (sort keys %cases)
{
	my $name = $cases{$view}[2];
	my $schema = $view eq 'a_cast' ? 'tools' : 'public';

	$name = 'money_from(bigint)' if $view eq 'a_cast';
	$name = 'sum_of_squares(bigint)' if $view eq 'transition';
	ok(wait_for($node, "SELECT state = 'stopped' AND reason LIKE 'function $schema.$name that view % uses has changed%' FROM kappa.views WHERE view = '$view'::regclass"),
		"$view stops")
	  or diag(sql("SELECT state, reason FROM kappa.views WHERE view = '$view'::regclass"));
}
is(sql("SELECT * FROM ($list) l"), $before, 'nothing was applied');
ok_view($node, $_, name => "$_ goes on") foreach sort keys %steady;
fails_like($node, q(SELECT kappa.resume_view('a_body')), qr/function public\.returned\(bigint\) .* has changed.*HINT: .*kappa\.rebuild\(\)/s, 'a stopped view is not resumed');
fails_like($node, q(SELECT kappa.verify('a_body')), qr/function public\.returned\(bigint\) .* has changed/, 'nor compared with another query');

# Changed back, it goes on; built anew, it has what the function says now.
sql($_) foreach @original;
foreach my $view (qw(sql_function in_a_subquery a_body))
{
	sql("SELECT kappa.resume_view('$view')");
	ok_view($node, $view, name => "$view goes on where it was changed back");
}
foreach my $view (qw(behind_a_body an_operator transition initial_value library))
{
	sql("SELECT kappa.rebuild('$view')");
	is(sql("SELECT kappa.wait_for_rebuild('$view', '1 min')"), 't', "$view is built anew");
	ok_view($node, $view, name => "$view has what its functions say now");
}
send_some(20);
ok_view($node, $_, name => "$_ goes on afterwards") foreach qw(sql_function behind_a_body transition);

# A rebuild that meets another function midway is none of either.
sql(q(SELECT kappa.rebuild('condition', switch => 'manual')));
ok(wait_for($node, q(SELECT phase FROM kappa.rebuilds WHERE view = 'condition'::regclass), 'waiting for switch_rebuild'), 'a rebuild waits');
sql(q(CREATE OR REPLACE FUNCTION is_fine(bigint) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN $1 % 3 = 0; END $$));
send_some(20);
ok(wait_for($node, q(SELECT error LIKE 'function public.is_fine(bigint) that view % uses has changed%' FROM kappa.rebuilds WHERE view = 'condition'::regclass)),
	'and fails') or diag(sql(q(SELECT * FROM kappa.rebuilds WHERE view = 'condition'::regclass)));
sql(q(SELECT kappa.rebuild('condition')));
is(sql(q(SELECT kappa.wait_for_rebuild('condition', '1 min'))), 't', 'the next one does not');
ok_view($node, 'condition', name => 'which has what the function says now');

# What a function is does not depend on the settings of who asks.
sql(q(CREATE FUNCTION is_late(timestamptz) RETURNS boolean IMMUTABLE RETURN $1 >= timestamptz '2026-01-02 00:00+00';
SELECT kappa.create_view('late', $$ SELECT n, is_late(to_timestamp(n)) AS l FROM calls $$)));
ok_view($node, 'late');
sql(q(SET TimeZone = 'Asia/Tokyo'; SELECT kappa.rebuild('late')));
is(sql(q(SELECT kappa.wait_for_rebuild('late', '1 min'))), 't', 'rebuilt in another time zone');
ok_view($node, 'late');

# A function that is replaced while a batch is applied: the batch is not committed.
sql(q(SELECT kappa.create_view('gate', 'SELECT n, waits(n) AS w FROM calls')));
ok_view($node, 'gate');
my $applied = sql('SELECT count(*) FROM gate');
my $holder = $node->background_psql('postgres');
$holder->query_safe('SELECT pg_advisory_lock(4711)');
send_some(20);
ok(wait_for($node, q(SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)), 'a batch is being applied');
sql(q(CREATE OR REPLACE FUNCTION waits(bigint) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN 'after'; END $$));
$holder->query_safe('SELECT pg_advisory_unlock(4711)');
$holder->quit;
ok(wait_for($node, q(SELECT state FROM kappa.views WHERE view = 'gate'::regclass), 'stopped'), 'the view stops');
is(sql(q(SELECT count(*), count(*) FILTER (WHERE w <> 'before') FROM gate)), "$applied|0", 'nothing of the batch was committed');
sql(q(SELECT kappa.rebuild('gate')));
is(sql(q(SELECT kappa.wait_for_rebuild('gate', '1 min'))), 't', 'it is built anew');
ok_view($node, 'gate', name => 'as the function says now');
like(slurp_file($node->logfile), qr/view "public\.gate" is stopped/, 'the log names the view');

$node->stop('fast');
done_testing();
