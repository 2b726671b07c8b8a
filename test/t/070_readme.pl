
# Every SQL block of the README, in its order, as a reader would type it.

use strict;
use warnings;

use KappaTest;
use Test::More;

my $kafka = start_kafka();
my $node = new_node(bare => 1);

create_topic('clicks', partitions => 2);
create_topic('orders', partitions => 2);
create_topic('users', partitions => 2);
produce('clicks', [ map { { value => { user_id => $_, page => "/$_", at => '2026-11-01T00:00:00Z' } } } 1 .. 10 ]);
produce(
	'orders',
	[
		map {
			{
				value => {
					order_id => $_,
					user_id => $_ % 3,
					amount => $_ / 2,
					items => [ map { { sku => "s$_", qty => $_ } } 1 .. $_ % 4 ],
					shipping => { address => { city => "city " . $_ % 2 } },
					tags => [ 'new', 'gift' ]
				}
			}
		} 1 .. 20
	]);
produce('users', [ map { { key => $_, value => { name => "user $_", country => $_ % 2 ? 'DE' : 'FR' } } } 1 .. 10 ]);

cmp_ok(run_blocks($node, 'README.md', 'localhost:9092' => $kafka->brokers), '>=', 6, 'the README has SQL in it');

ok_view($node, $_) for qw(clicks_per_page german_users);
is($node->safe_psql('postgres', 'SELECT sum(orders) FROM revenue_per_city'), '20', 'and gives what it says');
is($node->safe_psql('postgres', q(SELECT count(*) FROM pg_class WHERE relname = 'order_items')), '0', 'the last block drops a view');

$node->stop('fast');
done_testing();
