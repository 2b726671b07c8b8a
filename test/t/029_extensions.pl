
# Aggregates that extensions bring: sketches, whose states PostgreSQL can
# serialize and combine.  hll is exact where it keeps the values themselves, and
# depends on nothing but the set of values beyond that; tdigest keeps all of few
# values, and approximates many.

use strict;
use warnings;

use KappaTest;
use Test::More;

my $kafka = start_kafka();
my $node = new_node();
my $sent = 0;
my %packaged = map { $_ => 1 } split /\n/, $node->safe_psql('postgres', q(SELECT name FROM pg_available_extensions WHERE name IN ('hll', 'tdigest')));

plan skip_all => 'neither hll nor tdigest is installed' unless %packaged;

sub sql { return $node->safe_psql('postgres', $_[0]) }

# A few values in one group, many in another.
sub send_some
{
	my ($n) = @_;

	produce('visits', [ map { { value => { page => $_ % 9 ? 'busy' : 'quiet', visitor => $_ % 9 ? ++$sent * 7 % 1009 : $_ % 5, took => $_ % 40 / 8 } } } 1 .. $n ]);
	return;
}

create_topic('visits', partitions => 3);
sql(q(CREATE FOREIGN TABLE visits (page text, visitor bigint, took double precision) SERVER events OPTIONS (topic 'visits', format 'json')));
sql("CREATE EXTENSION $_") foreach sort keys %packaged;
send_some(200);
my %queries;

SKIP:
{
	skip 'hll is not installed', 1 unless $packaged{hll};

	%queries = (
		visitors => 'SELECT page, count(*), hll_cardinality(hll_add_agg(hll_hash_bigint(visitor)))::bigint AS visitors FROM visits GROUP BY page',
		sketches => 'SELECT page, hll_add_agg(hll_hash_bigint(visitor), 12) AS sketch FROM visits GROUP BY page HAVING count(*) > 30',
		unions => 'SELECT hll_union_agg(hll_add(hll_empty(), hll_hash_text(page || visitor))) AS u FROM visits',
	);
	sql("SELECT kappa.create_view('$_', \$q\$$queries{$_}\$q\$)") foreach sort keys %queries;
	foreach my $n (0, 1, 300, 2000)
	{
		send_some($n) if $n;
		ok_view($node, $_, name => "$_ after $n more", as_text => 1) foreach sort keys %queries;
	}
	cmp_ok(abs(sql(q(SELECT visitors FROM visitors WHERE page = 'busy')) / sql(q(SELECT count(DISTINCT visitor) FROM visits WHERE page = 'busy')) - 1),
		'<', 0.1, 'it counts what it should');
	is(sql(q(SELECT visitors FROM visitors WHERE page = 'quiet')), 5, 'exactly where there are few');
}

SKIP:
{
	skip 'tdigest is not installed', 1 unless $packaged{tdigest};

	%queries = (
		medians => 'SELECT page, tdigest_percentile(took, 1000, 0.5) AS median, tdigest_percentile(took, 1000, ARRAY[0.1, 0.9]) AS deciles FROM visits GROUP BY page',
		digests => 'SELECT page, tdigest_count(tdigest(took, 100)) AS n FROM visits GROUP BY page',
	);
	sql("SELECT kappa.create_view('$_', \$q\$$queries{$_}\$q\$)") foreach sort keys %queries;
	foreach my $n (1, 200)
	{
		send_some($n);
		ok_view($node, 'digests', name => "digests after $n more");
		is(sql(q(SELECT kappa.wait_for('medians'))), 't', "medians after $n more");
		is(sql("SELECT count(*) FROM medians AS v JOIN ($queries{medians}) AS q USING (page)
			WHERE abs(v.median - q.median) < 0.2 AND abs(v.deciles[1] - q.deciles[1]) < 0.2 AND abs(v.deciles[2] - q.deciles[2]) < 0.2"),
			2, 'as near to those of the query as a sketch is');
	}
}

$node->stop('fast');
done_testing();
