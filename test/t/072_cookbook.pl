
# Every SQL block of the cookbook, in its order; then every view is what its
# query says, also after late events.

use strict;
use warnings;

use KappaTest;
use Test::More;

my $kafka = start_kafka();
my $node = new_node(bare => 1);

# Purchases; every tenth comes hours late.
sub purchases
{
	my ($from, $to) = @_;

	return [
		map {
			my $minute = $_ % 10 ? $_ : $_ - 300;
			{
				value => {
					purchase_id => $_,
					user_id => $_ % 12 ? $_ % 40 : undef,
					country => (qw(de DE fr at))[ $_ % 4 ],
					amount => ($_ * 37 % 500) / 4 - 5,
					ms => $_ * 17 % 1100,
					items => [ map { { sku => "s$_", qty => $_, price => $_ / 3 } } 1 .. $_ % 4 ],
					at => sprintf('2026-03-%02dT%02d:%02d:00Z', 2 + $minute / 1440, $minute / 60 % 24, $minute % 60)
				}
			}
		} $from .. $to
	];
}

create_topic('purchases', partitions => 3);
produce('purchases', purchases(301, 900));

cmp_ok(run_blocks($node, 'docs/cookbook.md', 'localhost:9092' => $kafka->brokers), '>=', 9, 'the cookbook has SQL in it');

my @views = split /\n/, $node->safe_psql('postgres', 'SELECT view FROM kappa.views ORDER BY 1');
cmp_ok(scalar @views, '>=', 10, 'it makes views');
ok_view($node, $_) foreach @views;
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM good_customers'), '>', 0, 'some groups are shown');
produce('purchases', purchases(901, 1500));
ok_view($node, $_, name => "$_, later") foreach @views;

$node->stop('fast');
done_testing();
