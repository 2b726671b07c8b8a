
=pod

=head1 NAME

KappaFault - let kappa fail at the points of src/fault.h

=head1 SYNOPSIS

  use KappaFault;

  arm($node, 'switch-swapped', 'exit', view => 'clicks_per_page');
  $node->safe_psql('postgres', q(SELECT kappa.rebuild('clicks_per_page')));
  was_hit($node, 'switch-swapped', view => 'clicks_per_page');

=cut

package KappaFault;

use strict;
use warnings;

use Cwd qw(abs_path);
use Exporter 'import';
use File::Basename;
use KappaTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

our @EXPORT = qw(
  arm
  arm_each
  fault_points
  make_all_kinds
  release
  was_hit
);

my $header = dirname(abs_path(__FILE__)) . '/../src/fault.h';

=pod

=head1 ROUTINES

=head2 fault_points()

Returns the names of all points.

=cut

sub fault_points
{
	my $text = slurp_file($header);

	return $text =~ /^#define KAPPA_FAULT_\w+ "([\w-]+)"/mg;
}

=pod

=head2 make_all_kinds($node, $norders)

Makes a topic "orders" with so many of them, and a view of each kind of merge
over it; returns their names.

=cut

sub make_all_kinds
{
	my ($node, $norders) = @_;

	create_topic('orders', partitions => 2);
	produce('orders', orders(1, $norders));
	$node->safe_psql('postgres', q(
	CREATE FOREIGN TABLE orders (id bigint, shop text, amount numeric(10,2), note text, at timestamptz)
		SERVER events OPTIONS (topic 'orders');
	CREATE FOREIGN TABLE customers (k int OPTIONS (key 'true', metadata 'key'), shop text, amount int)
		SERVER events OPTIONS (topic 'orders');
	CREATE FOREIGN TABLE latest (k int OPTIONS (key 'true', metadata 'key'), shop text, amount int)
		SERVER events OPTIONS (topic 'orders', key_order 'timestamp');
	SELECT kappa.create_view('order_log', 'SELECT id, shop, note FROM orders');
	SELECT kappa.create_view('last_order', 'SELECT DISTINCT ON (shop) shop, amount FROM orders ORDER BY shop, id DESC NULLS LAST');
	SELECT kappa.create_view('people', 'SELECT k, shop, amount FROM customers');
	SELECT kappa.create_view('latest_people', 'SELECT k, shop, amount FROM latest');
	SELECT kappa.create_view('sums', 'SELECT shop, count(*) AS n, max(id) AS top FROM orders GROUP BY shop');
	SELECT kappa.create_view('means', 'SELECT shop, avg(amount) AS mean, count(*) AS n FROM orders GROUP BY shop HAVING count(*) > 3')));
	return qw(order_log last_order people latest_people sums means);
}

# The files of a fault, for each of the views; or the one for any, without them.
sub fault_paths
{
	my ($node, $point, @views) = @_;
	my $path = $node->data_dir . "/kappa_fault/$point";

	die "no point \"$point\"" unless grep { $_ eq $point } fault_points();
	return $path unless @views;
	return map { "$path.$_" } split /\n/,
	  $node->safe_psql('postgres', join(';', map { "SELECT '$_'::regclass::oid" } @views));
}

=pod

=head2 arm($node, $point, $action, view => undef, nth => 1)

Arms a fault: error, disk-full, exit or hang, for one view or for any.  Returns its file, for
was_hit() and release().

=head2 arm_each($node, $point, $action, @views)

Arms one for each of the views, and returns the files.

=cut

sub arm
{
	my ($node, $point, $action, %options) = @_;
	my ($path) = fault_paths($node, $point, $options{view} // ());

	return write_fault($path, $action, $options{nth} // 1);
}

sub arm_each
{
	my ($node, $point, $action, @views) = @_;

	return map { write_fault($_, $action, 1) } fault_paths($node, $point, @views);
}

sub write_fault
{
	my ($path, $action, $nth) = @_;

	mkdir dirname($path);
	unlink "$path.hit";
	append_to_file("$path.new", "$action $nth\n");
	rename("$path.new", $path) or die "could not arm $path: $!";
	return $path;
}

=pod

=head2 was_hit($path, $timeout = 120)

Waits until a fault has been met; returns whether it was.

=cut

sub was_hit
{
	my ($path, $timeout) = @_;
	my $deadline = time + ($timeout // 120);

	until (-e "$path.hit")
	{
		if (time > $deadline)
		{
			diag("nobody came to $path");
			return 0;
		}
		sleep(0.02);
	}
	return 1;
}

=pod

=head2 release($path)

Lets go on who hangs there.

=cut

sub release
{
	my ($path) = @_;

	unlink("$path.hit") == 1 or die "nobody hangs at $path";
	return;
}

1;
