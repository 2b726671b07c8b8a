
# Every SQL block of the cookbook, in its order; then every view is what its
# query says, also after late events.

use strict;
use warnings;

use File::Basename;
use KappaTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = start_kafka();
my $node = new_node(bare => 1);
my $brokers = $kafka->brokers;
my $cookbook = slurp_file(dirname(__FILE__) . '/../../docs/cookbook.md');

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

my @blocks = $cookbook =~ /^```sql\n(.*?)^```/msg;
cmp_ok(scalar @blocks, '>=', 9, 'the cookbook has SQL in it');
my $number = 0;
for my $block (@blocks)
{
	$number++;
	$block =~ s/localhost:9092/$brokers/g;
	my ($out, $err);
	my $status = $node->psql('postgres', $block,
		stdout => \$out, stderr => \$err, on_error_stop => 1, timeout => 120);
	is($status, 0, "SQL block $number of the cookbook runs")
	  or diag("$block\n$err");
}

my @views = split /\n/, $node->safe_psql('postgres', 'SELECT view FROM kappa.views ORDER BY 1');
cmp_ok(scalar @views, '>=', 10, 'it makes views');
ok_view($node, $_) foreach @views;
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM good_customers'), '>', 0, 'some groups are shown');
produce('purchases', purchases(901, 1500));
ok_view($node, $_, name => "$_, later") foreach @views;

$node->stop('fast');
done_testing();
