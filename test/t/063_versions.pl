
# Versions of a view: the table of one that is not live, what differs between
# it and the live one at the same offsets, and the way back after a switch.

use strict;
use warnings;

use KappaTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = start_kafka();
my $node = new_node(conf => 'kappa.keep_previous = 0');

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
	qr/view "per_shop" has no version 2.*live version is 1.*HINT:.*kappa\.keep_previous/s, 'a version that is not there');
fails_like($node, "SELECT kappa.version_table('pg_class', 1)", qr/is not a view of kappa/, 'a table that is no view');
fails_like($node, "SELECT * FROM kappa.diff_rebuild('per_shop')", qr/is not being rebuilt, and has no previous version.*HINT:.*manual/s, 'nothing to compare with');

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
like( messages("BEGIN; CREATE OR REPLACE VIEW kappa_state.per_shop_v2 AS " . (add_column($new, 'page') =~ s/max\(orders\.id\)/orders.id/r =~ s/GROUP BY (orders\.)?shop/GROUP BY orders.shop, orders.id/r)
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

# ---- The way back. ----

run("ALTER SYSTEM SET kappa.keep_previous = '1h'; SELECT pg_reload_conf()");
ok(wait_for($node, 'SHOW kappa.keep_previous', '1h'), 'from now on previous versions are kept');

# Begin a rebuild or the way back, and wait for its end.
sub finish
{
	my ($view, $command) = @_;

	my $version = run("SET client_min_messages = error; SELECT kappa.$command('$view')");
	is(run("SELECT kappa.wait_for_rebuild('$view', '1 min')"), 't', "$command of $view");
	is(run("SELECT version FROM kappa.views WHERE view = '$view'::regclass"), $version, "version $version of $view is live");
	return $version;
}

sub versions
{
	my ($view) = @_;

	return "SELECT string_agg(version || CASE WHEN kept_until IS NULL THEN '' ELSE ' kept' END, ', ' ORDER BY version) FROM kappa.view_version WHERE view = '$view'::regclass";
}

# A test: all versions stand at the same offsets.
sub together
{
	my ($view) = @_;

	return ok( wait_for($node,
			"SELECT count(*) = 2 AND count(DISTINCT (start_offset, next_offset)) = 1 FROM kappa.position WHERE view = '$view'::regclass"),
		"the versions of $view stand together");
}

fails_like($node, "SELECT kappa.rollback_view('per_shop')",
	qr/has no previous version.*HINT:.*kappa\.keep_previous/s, 'what was not kept does not come back');
fails_like($node, "SELECT kappa.drop_previous('per_shop')", qr/has no previous version/, 'nor is it dropped');

# What is wrong in the old version, in a row that no later message is about;
# what a wrong row shows; and how to watch the view, so that it is switched by rows.
my %wrong = (
	per_shop => [ "UPDATE per_shop SET n = 1 WHERE shop = 'shop 3'", "SELECT n FROM per_shop WHERE shop = 'shop 3'" ],
	order_log => [ 'DELETE FROM order_log WHERE id = 3', 'SELECT count(*) FROM order_log WHERE id = 3' ],
	last_order => [ "UPDATE last_order SET id = 1 WHERE shop = 'shop 3'", "SELECT id FROM last_order WHERE shop = 'shop 3'" ],
	total => [ 'UPDATE total SET n = n - 7', 'SELECT n - (SELECT count(*) FROM orders) FROM total' ],
	germans => [ 'DELETE FROM germans WHERE id = 3', 'SELECT count(*) FROM germans WHERE id = 3' ]);
my $id = 10_000;

sub more
{
	produce('orders', [ map { { value => { id => ++$id, shop => 'shop 1', amount => 1, weight => 0.5, note => 'more' } } } 1 .. 50 ]);
	produce('users', [ { key => 5, value => { name => "user $id", country => 'DE' } } ]);
	return;
}

foreach my $way ('storage', 'rows')
{
	run('CREATE PUBLICATION watch FOR TABLE ' . join(', ', @views)) if $way eq 'rows';
	foreach my $view ($way eq 'storage' ? @views : qw(per_shop order_log germans))
	{
		my ($change, $look) = @{ $wrong{$view} };
		my $before = run("SELECT version FROM kappa.views WHERE view = '$view'::regclass");
		my $identity = "SELECT oid, relacl, (SELECT count(*) FROM pg_index WHERE indrelid = c.oid) FROM pg_class c WHERE oid = '$view'::regclass";

		damage($view, $change);
		my $shown = run($look);
		my $same = run($identity);
		my $after = finish($view, 'rebuild');
		is(run("SELECT switch FROM kappa.rebuilds WHERE view = '$view'::regclass"), $way, "$view is switched by $way");
		ok_view($node, $view, as_text => $as_text{$view});
		is(run(versions($view)), "$before kept, $after", "the version before is kept");
		more();
		ok_view($node, $view, as_text => $as_text{$view});
		together($view);
		is(run("SELECT count(*) FROM kappa.diff_rebuild('$view')"), 1, 'and can be compared');

		finish($view, 'rollback_view');
		is(run($look), $shown, "$view is what it was");
		is(run(versions($view)), "$before, $after kept", 'the other one is kept now');
		more();
		is(run("SELECT kappa.wait_for('$view', '30 s')"), 't', 'and follows the log');
		is(run("SELECT kappa.verify('$view')"), 1, 'wrong in one row only');

		finish($view, 'rollback_view');
		ok_view($node, $view, as_text => $as_text{$view});
		is(run($identity), $same, 'the table is the same');
		together($view);
		run("SELECT kappa.drop_previous('$view')");
		is(run(versions($view)), $after, 'one version is left');
	}
}
run('DROP PUBLICATION watch');
is(state_objects() =~ s/_v\d+/_v/gr, $objects =~ s/_v\d+/_v/gr, 'nothing is left of the versions that were kept');
is(run("SELECT count(*) FROM kappa.position"), scalar @views, 'nor of their positions');

# An index that is made while a version is kept is there after the way back.
my $version = finish('order_log', 'rebuild');
run('CREATE INDEX order_log_id ON order_log (id)');
finish('order_log', 'rollback_view');
is( run('SET enable_seqscan = off; EXPLAIN (COSTS OFF) SELECT shop FROM order_log WHERE id = 7') =~ /order_log_id/, 1, 'a later index is used');
is( run('SET enable_seqscan = off; SELECT shop FROM order_log WHERE id = 7'), 'shop 7', 'and has the rows');

# A reader does not hold up the way back, and sees what it saw.
finish('per_shop', 'rebuild');
my $old_rows = run('SELECT sum(n) FROM per_shop');
$reader = $node->background_psql('postgres');
$reader->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
more();
is(run("SELECT kappa.wait_for('per_shop', '30 s')"), 't', 'messages come');
finish('per_shop', 'rollback_view');
is($reader->query_safe('SELECT sum(n) FROM per_shop'), $old_rows, 'a snapshot of the versions together does not hold up the way back');
$reader->query_safe('COMMIT');
$reader->quit;
all_right();

# ---- Another query. ----

sub columns
{
	return run("SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = '$_[0]'::regclass AND attnum > 0 AND NOT attisdropped");
}

run("SELECT kappa.drop_previous('per_shop')");
run('CREATE INDEX per_shop_n ON per_shop (n)');
my $altered = 'SELECT shop, count(*) AS n, sum(price(amount)) + 1 AS amount, sum(weight) AS weight, avg(amount) AS mean, max(id) AS latest FROM orders GROUP BY shop';
foreach my $way ('storage', 'rows')
{
	run("SET client_min_messages = error; SELECT kappa.alter_view('per_shop', '$altered', switch => 'manual')");
	ok( wait_for($node, "SELECT phase FROM kappa.rebuilds WHERE view = 'per_shop'::regclass", 'waiting for switch_rebuild'),
		'a version with another query stands beside the live one');
	is(summary('per_shop'), "same||0|0.0\nchanged||10|100.0\nchanged|amount|10|100.0\nremoved||0|0.0\nadded||0|0.0\ncolumn added|latest||", 'what it changes');
	run("SELECT kappa.cancel_rebuild('per_shop')");

	my $before = run("SELECT version FROM kappa.views WHERE view = 'per_shop'::regclass");
	my $version = run("SET client_min_messages = error; SELECT kappa.alter_view('per_shop', '$altered', switch => '$way')");
	is(run("SELECT kappa.wait_for_rebuild('per_shop', '1 min')"), 't', "another query, by $way");
	is(columns('per_shop'), 'shop, n, amount, weight, mean, latest', 'has another column');
	is(run(versions('per_shop')), "$before kept, $version", 'the old one is kept');
	is(columns(run("SELECT kappa.version_table('per_shop', $before)")), 'shop, n, amount, weight, mean', 'with its columns');
	is(run("SELECT state FROM kappa.versions WHERE view = 'per_shop'::regclass AND version = $before"), 'previous', 'as kappa.versions says');
	more();
	ok_view($node, 'per_shop');
	together('per_shop');
	run('CREATE INDEX per_shop_latest ON per_shop (latest)');

	run('CREATE VIEW of_latest AS SELECT latest FROM per_shop');
	fails_like($node, "SELECT kappa.rollback_view('per_shop')", qr/view public\.of_latest depends on column latest/, 'what depends on the new column is in the way');
	run('DROP VIEW of_latest');
	finish('per_shop', 'rollback_view');
	is(columns('per_shop'), 'shop, n, amount, weight, mean', 'the old columns are back');
	more();
	ok_view($node, 'per_shop');
	is(run(versions('per_shop')), $before, 'the other version has gone with its column');
	is(run("SELECT string_agg(indexrelid::regclass::text, ', ' ORDER BY 1) FROM pg_index WHERE indrelid = 'per_shop'::regclass AND NOT indisunique"), 'per_shop_n', 'indexes of old columns are there');
}
run(q(SET client_min_messages = error; SELECT kappa.alter_view('per_shop', 'SELECT shop, count(*) AS n, sum(price(amount)) AS amount, avg(amount) AS mean FROM orders GROUP BY shop')));
is(run("SELECT kappa.wait_for_rebuild('per_shop', '1 min')"), 't', 'a query without a column');
fails_like($node, "SELECT kappa.rollback_view('per_shop')", qr/has no previous version/, 'cannot be taken back: the column is gone');
ok_view($node, 'per_shop');
finish('per_shop', 'rebuild');

# ---- When it ends. ----

# The next rebuild.
my $next = run("SELECT kappa.rebuild('per_shop', switch => 'manual')");
is(run(versions('per_shop')) =~ s/\d+, $next/-/r, '-', 'a rebuild drops the previous version');
fails_like($node, "SELECT kappa.rollback_view('per_shop')", qr/is being rebuilt.*DETAIL:.*drops the previous version/s, 'there is no way back meanwhile');
run("SELECT kappa.cancel_rebuild('per_shop')");

# Its time.
run("SET kappa.keep_previous = '1s'; SELECT kappa.rebuild('per_shop'); SELECT kappa.wait_for_rebuild('per_shop')");
ok(wait_for($node, versions('per_shop'), run("SELECT version FROM kappa.views WHERE view = 'per_shop'::regclass")), 'its time is over, though no message comes');
is(run("SELECT detail FROM kappa.events WHERE event = 'forgotten' ORDER BY id DESC LIMIT 1"), 'its time is over', 'which is an event');
run("SET kappa.keep_previous = -1; SELECT kappa.rebuild('per_shop'); SELECT kappa.wait_for_rebuild('per_shop')");
is(run("SELECT kept_until FROM kappa.view_version WHERE view = 'per_shop'::regclass AND kept_until IS NOT NULL"), 'infinity', 'or it has no limit');

# Others.
fails_like($node, "SET ROLE other; SELECT kappa.rollback_view('per_shop')", qr/must be owner/, 'only the owner goes back');
fails_like($node, "SET ROLE other; SELECT kappa.drop_previous('per_shop')", qr/must be owner/, 'or drops it');
run("SELECT kappa.pause_view('per_shop')");
fails_like($node, "SELECT kappa.rollback_view('per_shop')", qr/is paused/, 'a paused view does not go back');
more();
run("SELECT kappa.resume_view('per_shop')");
ok_view($node, 'per_shop');
together('per_shop');

# ---- A crash; then a version that fails, which is what the way back is for. ----

kill_hard($node);
$node->start;
finish('per_shop', 'rollback_view');
ok_view($node, 'per_shop');
together('per_shop');

# Give the live version another query, as if alter_view had.
sub spoil
{
	my ($view, $from, $to) = @_;
	my ($name) = run("SELECT definition FROM kappa.view_version JOIN kappa.view v USING (view, version) WHERE view = '$view'::regclass");
	my $query = run("SELECT pg_get_viewdef('$name')");

	like($query, $from, 'there is something to spoil');
	$query =~ s/$from/$to/;
	run("CREATE OR REPLACE VIEW $name AS $query");
	return;
}

run(q(CREATE FUNCTION "full"(amount numeric) RETURNS numeric LANGUAGE plpgsql IMMUTABLE AS
	$$ BEGIN RAISE 'no space' USING ERRCODE = 'disk_full'; END $$));
spoil('per_shop', qr/price\([^)]*\)/, '"full"(amount)');
produce('orders', [ map { { value => { id => $_, shop => 'shop 2', amount => $_, weight => 1 } } } 98 .. 100 ]);
ok(wait_for($node, "SELECT state || ': ' || substring(reason, 'has changed') FROM kappa.views WHERE view = 'per_shop'::regclass", 'stopped: has changed'), 'a new version fails');
my $good = finish('per_shop', 'rollback_view');
ok_view($node, 'per_shop');
is(run(versions('per_shop')), $good, 'one that did not follow the log is not kept');

finish('per_shop', 'rebuild');
spoil('per_shop', qr/count\(\*\)/, 'count(id)');
ok(wait_for($node, "SELECT state FROM kappa.views WHERE view = 'per_shop'::regclass", 'stopped'), 'a new version stops');
is(finish('per_shop', 'rollback_view'), $good, 'the way back is open');
ok_view($node, 'per_shop');
is(run("SELECT state FROM kappa.views WHERE view = 'per_shop'::regclass"), 'running', 'and the view runs again');

# ---- Gone with the view. ----

finish('per_shop', 'rebuild');
run('DROP TABLE per_shop');
is(run("SELECT relname FROM pg_class WHERE relname LIKE 'per_shop%'"), '', 'a dropped view takes its previous version along');
@views = grep { $_ ne 'per_shop' } @views;
run("SELECT kappa.drop_previous('order_log')");
all_right();
is(run("SELECT count(*), (SELECT count(*) FROM kappa.view_version) FROM kappa.position"), '4|4', 'what is left is live');

done_testing();
