
# Groups that are hard to keep: keys of all kinds of types, names that kappa
# uses itself, HAVING that groups cross in both directions, subqueries, many
# columns and states, and functions that meddle with the view they work for.

use strict;
use warnings;

use KappaTest;
use Test::More;

my $kafka = start_kafka();
my $node = new_node();
my @views;

sub sql { return $node->safe_psql('postgres', $_[0]) }

sub create
{
	my ($name, $query) = @_;

	push @views, $name;
	sql("SELECT kappa.create_view('$name', \$view\$$query\$view\$)");
	return;
}

sub all_equal
{
	my ($when) = @_;

	ok_view($node, $_, name => "$_: $when") foreach @views;
	return;
}

sub messages
{
	my ($from, $to) = @_;

	return [
		map {
			{
				value => {
					d => $_ % 4 ? $_ % 3 : undef,
					s => $_ % 5 ? 's' . $_ % 3 : undef,
					t => $_,
					excluded => $_ % 7 - 3,
					a => $_ % 6 ? [ $_ % 2, undef, $_ % 3 ] : [],
					r => '[' . $_ % 3 . ',' . ($_ % 3 + 2) . ')',
					c => $_ % 9 ? { x => $_ % 2, y => $_ % 3 ? 'Y' : 'y' } : undef,
					e => (qw(low high))[ $_ % 2 ],
					w => (qw(Aa aA aa b B))[ $_ % 5 ],
					f => $_ % 7 ? $_ / 3 : 'NaN',
					wait => "$_ hours",
					big => 'x' x 2600 . $_ % 5,
					j => { k => $_ % 3 },
					n => ($_ % 3 - 1) * 1.25,
				}
			}
		} $from .. $to
	];
}

create_topic('g', partitions => 2);
sql(q(
	CREATE TYPE pair AS (x int, y text);
	CREATE TYPE level AS ENUM ('high', 'low');
	CREATE DOMAIN small AS int CHECK (value < 1000);
	CREATE DOMAIN filled AS numeric NOT NULL;
	CREATE COLLATION caseless (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
	CREATE FOREIGN TABLE g (d int, s text, t int, excluded int, a int[], r int4range, c pair, e level, w text COLLATE caseless,
		f float8, wait interval, big text, j jsonb, n numeric) SERVER events OPTIONS (topic 'g', format 'json')));
sql(qq(CREATE TABLE "$_" (i int); INSERT INTO "$_" VALUES (length('$_'))))
  foreach qw(merged final changed gone delta d s t), 'kappa delta', 'kappa batch', 'kappa log';

# What PostgreSQL allows a transaction that only reads.
foreach my $function (
	[ touching => q(DELETE FROM kappa_state.touching_v1_state) ],
	[ changing => q(DELETE FROM changing) ],
	[ dropping => q(PERFORM kappa.drop_view('dropping')) ],
	[ becoming => q(PERFORM set_config('role', 'postgres', false)) ],
	[ seeking => q(PERFORM kappa.seek_view('seeking', 'g', 0, 1000000)) ])
{
	my ($name, $body) = @$function;

	sql(qq(CREATE FUNCTION $name(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS \$\$BEGIN $body; RETURN \$1; END\$\$;
		SELECT kappa.create_view('$name', 'SELECT $name(t % 2) AS m, avg(t) AS a FROM g GROUP BY 1')));
}

my $columns = join(', ', map { "max(t) + $_ AS c$_" } 1 .. 300);
my $states = join(', ', map { "avg(t + $_) AS a$_, stddev(n * $_) AS s$_" } 1 .. 15);

sub create_all
{
	my ($suffix) = @_;

	create("columns$suffix", q(SELECT d AS excluded, s AS delta, avg(t) AS d, avg(excluded) AS s, max(t) AS merged, count(*) AS "Count" FROM g GROUP BY d, s HAVING sum(excluded) <> 0));
	create("tables$suffix", q(SELECT d, avg(t) AS a FROM g GROUP BY d HAVING count(*) > (SELECT sum(i) FROM (SELECT i FROM merged UNION ALL SELECT i FROM final UNION ALL SELECT i FROM changed UNION ALL SELECT i FROM gone UNION ALL SELECT i FROM delta UNION ALL SELECT i FROM d UNION ALL SELECT i FROM s UNION ALL SELECT i FROM t UNION ALL SELECT i FROM "kappa delta" UNION ALL SELECT i FROM "kappa batch" UNION ALL SELECT i FROM "kappa log") x)));
	create("correlated$suffix", q(SELECT d, avg(t) AS a FROM g GROUP BY d HAVING EXISTS (SELECT FROM d AS t WHERE t.i > g.d)));
	create("filters$suffix", q(SELECT d, avg(t) FILTER (WHERE t % 2 = (SELECT i FROM d)) AS a, count(*) FILTER (WHERE EXISTS (SELECT FROM t WHERE i = g.d)) AS c FROM g GROUP BY d));
	create("arrays$suffix", q(SELECT a, avg(t) AS x FROM g GROUP BY a HAVING count(*) % 3 <> 0));
	create("ranges$suffix", q(SELECT r, avg(t) AS x FROM g GROUP BY r));
	create("pairs$suffix", q(SELECT c, avg(t) AS x FROM g GROUP BY c));
	create("enums$suffix", q(SELECT e, avg(t) AS x, max(e) AS m FROM g GROUP BY e));
	create("objects$suffix", q(SELECT j, avg(t) AS x FROM g GROUP BY j));
	create("domains$suffix", q(SELECT (t % 4)::small AS k, avg(n) AS x FROM g GROUP BY (t % 4)::small));
	create("filled$suffix", q(SELECT d, avg(t)::filled AS a FROM g GROUP BY d HAVING count(*) % 2 = 0));
	create("caseless$suffix", q(SELECT w, avg(t) AS a, count(*) FROM g GROUP BY w HAVING max(w) <= 'AA' OR count(*) % 2 = 0));
	create("large$suffix", q(SELECT big, s, avg(t) AS x FROM g GROUP BY big, s));
	create("intervals$suffix", q(SELECT d, avg(wait) AS a, sum(wait) AS s FROM g GROUP BY d));
	create("not_numbers$suffix", q(SELECT s, max(f) AS m, min(f) AS l FROM g GROUP BY s HAVING max(f) = 'NaN'));
	create("wide$suffix", "SELECT d, $columns FROM g GROUP BY d");
	create("states$suffix", "SELECT d, $states FROM g GROUP BY d HAVING avg(t) > 0");
	create("crossing$suffix", q(SELECT d, avg(n) AS a, count(*) AS n FROM g GROUP BY d HAVING sum(excluded) % 2 = 0));
	create("crossing_one$suffix", q(SELECT avg(excluded) AS a FROM g HAVING count(*) % 2 = 0));
	create("word$suffix", q(SELECT 1 AS one FROM g HAVING count(*) > 3));
	create("constants$suffix", q(SELECT 'x'::text AS one, 1 AS two, avg(t) AS a FROM g GROUP BY 1, 2 HAVING count(*) > 1));
	create("guarded$suffix", q(SELECT d, 1 / (count(*) - 3) AS z, avg(t) AS a FROM g GROUP BY d HAVING count(*) <> 3));
	return;
}

create_all('_before');
all_equal('without a message');
produce('g', messages($_, $_)) foreach 1 .. 12;
all_equal('one by one');
produce('g', messages(13, 1500));
all_equal('many messages');
@views = ();
create_all('_after');
all_equal('from the log');

is(sql(q(SELECT view::text, reason ~ 'is not allowed in a non-volatile function|being used by active queries|within security-restricted operation|refers to has just been altered'
	FROM kappa.views WHERE state <> 'running' ORDER BY view::text)),
	join("\n", map { "$_|t" } qw(becoming changing dropping seeking touching)),
	'functions that meddle hold up their own views alone');

# A division by zero in one group, which no single message is to blame for, stops the view; nothing is skipped.
sql(q(SELECT kappa.create_view('divided', 'SELECT d, 1 / (2 - count(*)) AS z, avg(t) AS a FROM g WHERE t <= 8 GROUP BY d HAVING count(*) > 1')));
ok(wait_for($node, q(SELECT state, reason ~ '^division by zero' FROM kappa.views WHERE view = 'divided'::regclass), 'stopped|t'),
	'a group that divides by zero is an error');
is(sql(q(SELECT count(*) FROM kappa.dead_letters WHERE view = 'divided'::regclass)), '0', 'of no message');
fails_like($node, 'SELECT d, 1 / (2 - count(*)) AS z FROM g WHERE t <= 8 GROUP BY d HAVING count(*) > 1', qr/division by zero/, 'as for PostgreSQL');

$node->stop('fast');
done_testing();
