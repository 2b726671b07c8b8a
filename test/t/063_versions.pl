
# Versions of a view: the table of one that is not live, what differs between
# it and the live one at the same offsets, and the way back after a switch.

use strict;
use warnings;

use KappaTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = start_kafka();
my $node = new_node();

sub run
{
	return $node->safe_psql('postgres', $_[0]);
}

# What a statement says besides its result.
sub messages
{
	my ($out, $err);

	$node->psql('postgres', $_[0], stdout => \$out, stderr => \$err);
	return $err;
}

# Change a view's rows by hand.
sub damage
{
	my ($view, $change) = @_;

	return run("ALTER TABLE $view DISABLE TRIGGER kappa_guard; $change; ALTER TABLE $view ENABLE TRIGGER kappa_guard");
}

# Begin a rebuild, and wait until it stands where the view does.
sub begin
{
	my ($view) = @_;
	my $version = run("SELECT kappa.rebuild('$view', switch => 'manual')");

	ok( wait_for(
			$node,
			"SELECT phase FROM kappa.rebuilds WHERE view = '$view'::regclass",
			'waiting for switch_rebuild'),
		"version $version of $view stands beside the live one");
	return $version;
}

sub switch
{
	my ($view) = @_;

	run("SELECT kappa.switch_rebuild('$view')");
	return is(run("SELECT kappa.wait_for_rebuild('$view', '1 min')"), 't', "$view is switched");
}

sub difference
{
	my ($view, $max_rows) = @_;

	$max_rows //= 1000;
	return run("SELECT difference, copies, coalesce(columns::text, '-'), coalesce(old::text, '-'), coalesce(new::text, '-') FROM kappa.diff_rebuild('$view', $max_rows)");
}

sub summary
{
	my ($view) = @_;

	return run("SELECT difference, column_name, rows, percent FROM kappa.diff_rebuild_summary('$view')");
}

# All that belongs to versions of views.
sub state_objects
{
	return run("SELECT relname FROM pg_class WHERE relnamespace = 'kappa_state'::regnamespace AND relkind IN ('r', 'v') ORDER BY 1");
}

sub orders
{
	my ($from, $to) = @_;

	return [
		map {
			{
				value => {
					id => $_,
					shop => 'shop ' . $_ % 10,
					amount => $_ % 7,
					weight => 0.25 * $_,
					note => "n$_"
				}
			}
		} $from .. $to
	];
}

create_topic('orders', partitions => 2);
create_topic('users', partitions => 2);
produce('orders', orders(1, 3000));
produce('users', [ map { { key => $_, value => { name => "user $_", country => $_ % 2 ? 'DE' : 'FR' } } } 1 .. 100 ]);
run(q(
CREATE ROLE app;
CREATE ROLE other;
GRANT USAGE ON FOREIGN SERVER events TO app;
GRANT CREATE ON SCHEMA public TO app;
SET ROLE app;
CREATE FUNCTION price(amount numeric) RETURNS numeric LANGUAGE sql IMMUTABLE AS 'SELECT amount';
CREATE FOREIGN TABLE orders (id bigint, shop text, amount numeric(10,2), weight float8, note json)
	SERVER events OPTIONS (topic 'orders');
CREATE FOREIGN TABLE users (id bigint OPTIONS (key 'true', metadata 'key'), name text, country text)
	SERVER events OPTIONS (topic 'users');
SELECT kappa.create_view('per_shop', 'SELECT shop, count(*) AS n, sum(price(amount)) AS amount, sum(weight) AS weight, avg(amount) AS mean FROM orders GROUP BY shop');
SELECT kappa.create_view('order_log', 'SELECT id, shop, note FROM orders WHERE id <= 100');
SELECT kappa.create_view('last_order', 'SELECT DISTINCT ON (shop) shop, id FROM orders ORDER BY shop, id DESC');
SELECT kappa.create_view('total', 'SELECT count(*) AS n, sum(weight) AS weight FROM orders');
SELECT kappa.create_view('germans', $$ SELECT id, name FROM users WHERE country = 'DE' $$);
GRANT SELECT ON per_shop TO other;
));
my @views = qw(per_shop last_order total germans order_log);
my %as_text = (order_log => 1);

sub all_right
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	ok_view($node, $_, as_text => $as_text{$_}) foreach @views;
	return;
}
all_right();
my $objects = state_objects();

# ---- The table of a version. ----

is(run("SELECT kappa.version_table('per_shop', 1) = 'per_shop'::regclass"), 't', 'the live version is the view itself');
fails_like($node, "SELECT kappa.version_table('per_shop', 2)",
	qr/view "per_shop" has no version 2.*live version is 1.*HINT:.*kappa\.rebuilds/s, 'a version that is not there');
fails_like($node, "SELECT kappa.version_table('pg_class', 1)", qr/is not a view of kappa/, 'a table that is no view');
fails_like($node, "SELECT * FROM kappa.diff_rebuild('per_shop')", qr/is not being rebuilt.*HINT:.*manual/s, 'nothing to compare with');

begin('per_shop');
my $table = run("SELECT kappa.version_table('per_shop', 2)");
is(run("SET ROLE app; SELECT count(*) = 10 AND sum(n) = 3000 FROM $table"), 't', 'the owner reads the new version before the switch');
fails_like($node, "SET ROLE other; SELECT count(*) FROM $table", qr/permission denied/, 'those with SELECT on the view do not');
is(run("SET ROLE app; GRANT SELECT ON $table TO other; SET ROLE other; SELECT count(*) FROM $table"), 10, 'but for those whom the owner lets');
fails_like($node, "SET ROLE other; SELECT * FROM kappa.diff_rebuild('per_shop')", qr/must be owner/, 'only the owner compares');
fails_like($node, "SELECT * FROM kappa.diff_rebuild('per_shop', -1)", qr/must not be negative/, 'a wrong number of rows');

# ---- Differences: none, then of each kind. ----

is(difference('per_shop'), '', 'a version of the same query does not differ');
is(summary('per_shop'), "same||10|100.0\nchanged||0|0.0\nremoved||0|0.0\nadded||0|0.0", 'and all rows are the same');
damage('per_shop', q(
	DELETE FROM per_shop WHERE shop = 'shop 3';
	UPDATE per_shop SET n = 7 WHERE shop = 'shop 4';
	UPDATE per_shop SET n = 8, amount = 9.50 WHERE shop = 'shop 5';
	UPDATE per_shop SET amount = amount + 0.000 WHERE shop = 'shop 6';
	UPDATE per_shop SET weight = weight * (1 + 1e-12) WHERE shop = 'shop 7';
	UPDATE per_shop SET weight = weight * (1 + 1e-8) WHERE shop = 'shop 8';
	INSERT INTO per_shop (shop, n) VALUES (NULL, 1), ('nobody', 2)));
is(summary('per_shop'), <<'END' =~ s/\n\z//r, 'the summary counts rows, and columns by how often they changed');
same||6|50.0
changed||3|25.0
changed|n|2|16.7
changed|amount|1|8.3
changed|weight|1|8.3
removed||2|16.7
added||1|8.3
END
is( run("SELECT difference, copies, columns, coalesce(old->>'shop', '-'), old->>'n', new->>'shop', new->>'n' FROM kappa.diff_rebuild('per_shop')"),
	<<'END' =~ s/\n\z//r, 'the rows show old and new side by side, also of a NULL group');
added|1||-||shop 3|300
changed|1|{n}|shop 4|7|shop 4|300
changed|1|{n,amount}|shop 5|8|shop 5|300
changed|1|{weight}|shop 8|300|shop 8|300
removed|1||nobody|2||
removed|1||-|1||
END
is(run("SELECT difference FROM kappa.diff_rebuild('per_shop', 3)"), "added\nchanged\nremoved", 'a few rows are some of each kind');
like(messages("SELECT kappa.diff_rebuild('per_shop', 3)"), qr/only the first 3 differences.*diff_rebuild_summary/s, 'and it is said that there are more');
is(run("SELECT count(*) FROM kappa.diff_rebuild('per_shop', 0)"), 0, 'no rows, if none are wanted');

# Both stand at the same offsets while messages come.
my $producer = start_producer('orders', orders(3001, 9000), rate => 2000);
foreach my $i (1 .. 5)
{
	is( run("SELECT count(*) FROM kappa.diff_rebuild('per_shop') WHERE (new->>'shop') IN ('shop 0', 'shop 1', 'shop 2', 'shop 6', 'shop 7', 'shop 9')"),
		0, "while messages come rows that do not differ do not, $i");
}
$producer->finish;

# Of what the companion has, messages have made the rows right again.
is(difference('per_shop') =~ s/\|.*//mgr, "removed\nremoved", 'rows that no message has touched still differ');
damage('per_shop', "UPDATE per_shop SET n = 1 WHERE shop = 'shop 4'");

# Versions with other columns, as if a query had been altered.
my $pg = "SELECT pg_get_viewdef('kappa_state.per_shop_v%d')";
my ($old, $new) = map { run(sprintf $pg, $_) =~ s/;\s*\z//r } 1, 2;
sub add_column { my ($query, $name) = @_; return $query =~ s/\n   FROM/,\n max(orders.id) AS $name\n FROM/r }
is( run("BEGIN; CREATE OR REPLACE VIEW kappa_state.per_shop_v1 AS " . add_column($old, 'was')
		. "; CREATE OR REPLACE VIEW kappa_state.per_shop_v2 AS " . add_column($new, 'will be' =~ s/ /_/r)
		. "; SELECT difference, column_name, rows FROM kappa.diff_rebuild_summary('per_shop') WHERE difference <> 'same'; ROLLBACK"),
	"changed||1\nchanged|n|1\nremoved||2\nadded||0\ncolumn removed|was|\ncolumn added|will_be|",
	'columns that only one version has are named');
like( messages("BEGIN; CREATE OR REPLACE VIEW kappa_state.per_shop_v2 AS " . (add_column($new, 'page') =~ s/max\(orders\.id\)/orders.id/r =~ s/GROUP BY orders\.shop/GROUP BY orders.shop, orders.id/r)
		. "; SELECT kappa.diff_rebuild('per_shop'); ROLLBACK"),
	qr/are not paired.*different keys/s, 'with different keys, rows are not paired');
like( messages("BEGIN; UPDATE kappa.position SET start_offset[1] = 5 WHERE view = 'per_shop'::regclass AND version = 2; SELECT kappa.diff_rebuild('per_shop'); ROLLBACK"),
	qr/do not start at the same offsets/, 'nor is it passed over that one starts later');
switch('per_shop');
ok_view($node, 'per_shop');

# ---- Every kind of view. ----

damage('order_log', q(
	DELETE FROM order_log WHERE id = 3;
	UPDATE order_log SET note = '"x"' WHERE id = 6;
	INSERT INTO order_log SELECT o.* FROM order_log o, generate_series(1, 2) WHERE id = 9));
begin('order_log');
is( difference('order_log'), <<'END' =~ s/\n\z//r, 'rows without key are removed and added, with their number');
added|1|-|-|{"id":3,"shop":"shop 3","note":"n3"}
added|1|-|-|{"id":6,"shop":"shop 6","note":"n6"}
removed|1|-|{"id":6,"shop":"shop 6","note":"x"}|-
removed|2|-|{"id":9,"shop":"shop 9","note":"n9"}|-
END
is(summary('order_log'), "same||98|95.1\nchanged||0|0.0\nremoved||3|2.9\nadded||2|1.9", 'and counted');
switch('order_log');

damage('last_order', "UPDATE last_order SET id = 1 WHERE shop = 'shop 1'");
begin('last_order');
is(difference('last_order'), 'changed|1|{id}|{"shop":"shop 1","id":1}|{"shop":"shop 1","id":8991}', 'a view of the latest');
switch('last_order');

damage('total', 'UPDATE total SET n = 1');
begin('total');
is(summary('total'), "same||0|0.0\nchanged||1|100.0\nchanged|n|1|100.0\nremoved||0|0.0\nadded||0|0.0", 'a single row needs no key');
switch('total');

damage('germans', "UPDATE germans SET name = 'x' WHERE id = 1; DELETE FROM germans WHERE id = 3");
begin('germans');
is(summary('germans'), "same||48|96.0\nchanged||1|2.0\nchanged|name|1|2.0\nremoved||0|0.0\nadded||1|2.0", 'a changelog');
switch('germans');
all_right();

# ---- Not at the same offsets. ----

begin('per_shop');
run("UPDATE kappa.position SET next_offset[1] = next_offset[1] - 1 WHERE view = 'per_shop'::regclass AND version = 3");
fails_like($node, "SELECT * FROM kappa.diff_rebuild_summary('per_shop')",
	qr/versions 2 and 3 of view "per_shop" do not stand at the same offsets.*next offset of partition 0: \d+ and \d+.*waiting for switch_rebuild/s,
	'versions apart are not compared, with numbers');
run("SELECT kappa.cancel_rebuild('per_shop')");
all_right();

# A reader of the comparison holds the switch back, and a switched one is gone.
begin('per_shop');
my $reader = $node->background_psql('postgres');
$reader->query_safe("BEGIN; SELECT count(*) FROM kappa.diff_rebuild('per_shop')");
run("SELECT kappa.switch_rebuild('per_shop')");
is($reader->query_safe("SELECT count(*) FROM kappa.diff_rebuild('per_shop')"), 0, 'in one transaction the versions stay what they are');
$reader->query_safe('COMMIT');
$reader->quit;
is(run("SELECT kappa.wait_for_rebuild('per_shop', '1 min')"), 't', 'then it is switched');
all_right();
is(state_objects() =~ s/_v\d+/_v/gr, $objects =~ s/_v\d+/_v/gr, 'nothing is left but what is live');

done_testing();
