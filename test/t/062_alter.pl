
# A view gets another query: each kind of change against each kind of thing
# that may hang on the view's table, and what alter_view() refuses.

use strict;
use warnings;

use KappaTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = start_kafka();
my $node = new_node(allows_streaming => 'logical', conf => 'kappa.keep_previous = 0');

sub run
{
	return $node->safe_psql('postgres', $_[0]);
}

sub alter
{
	my ($view, $query, $options) = @_;

	return "SELECT kappa.alter_view('$view', \$query\$ $query \$query\$" . ($options ? ", $options" : '') . ')';
}

sub done
{
	my ($view, $name) = @_;

	return is(run("SELECT kappa.wait_for_rebuild('$view', '2 min')"), 't', $name);
}

# Names and types of the columns that people see.
sub columns
{
	return run("SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum) FROM pg_attribute "
		  . "WHERE attrelid = '$_[0]'::regclass AND attnum > 0 AND NOT attisdropped");
}

create_topic('orders', partitions => 2);
create_topic('others', partitions => 2);
produce('orders', orders(1, 2000));
run(q(
CREATE ROLE app;
CREATE ROLE reader;
GRANT USAGE ON FOREIGN SERVER events TO app;
GRANT CREATE ON SCHEMA public TO app;
CREATE TABLE log (entry text);
GRANT INSERT ON log TO app;
SET ROLE app;
CREATE FOREIGN TABLE orders (id bigint, shop text, amount numeric(10,2), note text, at timestamptz)
	SERVER events OPTIONS (topic 'orders');
CREATE FOREIGN TABLE others (id bigint, shop text) SERVER events OPTIONS (topic 'others');
CREATE FOREIGN TABLE customers (k int OPTIONS (key 'true', metadata 'key'), shop text, amount int, note text)
	SERVER events OPTIONS (topic 'orders');
CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS
	$$ BEGIN INSERT INTO public.log VALUES (TG_OP); RETURN NULL; END $$;
));

# ---- Each change against each dependent. ----

my $base = 'SELECT shop, count(*) AS n, sum(amount) AS total, max(id) AS top FROM orders GROUP BY shop';
my %changes = (
	expression => 'SELECT shop, count(*) AS n, sum(amount * 2) AS total, max(id) AS top FROM orders GROUP BY shop',
	condition => 'SELECT shop, count(*) AS n, sum(amount) AS total, max(id) AS top FROM orders WHERE id > 500 GROUP BY shop',
	added => 'SELECT shop, count(*) AS n, sum(amount) AS total, max(id) AS top, avg(amount) AS mean, max(note) AS last_note FROM orders GROUP BY shop',
	dropped => 'SELECT shop, count(*) AS n, max(id) AS top FROM orders GROUP BY shop',
	both => 'SELECT shop, count(*) AS n, max(id) AS top, min(note) AS first_note FROM orders GROUP BY shop',
	kind => 'SELECT DISTINCT ON (shop) shop, id + 0 AS n, amount::numeric AS total, id AS top FROM orders ORDER BY shop, id DESC NULLS LAST');
my %dependents = (
	nothing => [ 'storage', '' ],
	view => [ 'storage', 'CREATE VIEW of_%1$s AS SELECT shop, n FROM %1$s; CREATE VIEW rows_of_%1$s AS SELECT v FROM %1$s v' ],
	index => [ 'storage', 'CREATE INDEX %1$s_i ON %1$s (top DESC) INCLUDE (n) WHERE n > 10; CREATE UNIQUE INDEX ON %1$s (upper(shop), n); CREATE STATISTICS %1$s_s ON shop, n FROM %1$s' ],
	grant => [ 'storage', q(GRANT SELECT ON %1$s TO reader; GRANT SELECT (n) ON %1$s TO PUBLIC; COMMENT ON TABLE %1$s IS 'shops'; COMMENT ON COLUMN %1$s.n IS 'orders') ],
	policy => [ 'storage', 'ALTER TABLE %1$s ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON %1$s FOR SELECT TO reader USING (n > 0)' ],
	publication => [ 'rows', 'RESET ROLE; CREATE PUBLICATION of_%1$s FOR TABLE %1$s' ],
	trigger => [ 'rows', 'CREATE TRIGGER watch AFTER INSERT OR DELETE OR UPDATE OF n ON %1$s FOR EACH ROW EXECUTE FUNCTION tell()' ],
	reference => [ 'rows', 'CREATE TABLE ref_%1$s (shop text REFERENCES %1$s (shop)); INSERT INTO ref_%1$s SELECT shop FROM %1$s' ]);
my @matrix = map { my $change = $_; map { [ "${change}_$_", $change, $_ ] } sort keys %dependents } sort keys %changes;

run("SET ROLE app; " . join(';', map { "SELECT kappa.create_view('$_->[0]', '$base')" } @matrix));
run(join(';', map { "SELECT kappa.wait_for('$_->[0]')" } @matrix));
run(join(';', map { 'SET ROLE app; ' . sprintf($dependents{ $_->[2] }[1], $_->[0]) } @matrix));

# What hangs on a table, by OID.
sub dependents_of
{
	return run(qq(SELECT c.oid, relacl, relrowsecurity, obj_description(c.oid), col_description(c.oid, 2),
		(SELECT attacl FROM pg_attribute WHERE attrelid = c.oid AND attname = 'n'),
		(SELECT array_agg(i.indexrelid || pg_get_indexdef(i.indexrelid) ORDER BY 1) FROM pg_index i WHERE indrelid = c.oid AND indisvalid),
		(SELECT array_agg(oid || pg_get_statisticsobjdef(oid)) FROM pg_statistic_ext WHERE stxrelid = c.oid),
		(SELECT array_agg(oid || pg_get_constraintdef(oid) ORDER BY oid) FROM pg_constraint WHERE c.oid IN (conrelid, confrelid)),
		(SELECT array_agg(oid || pg_get_triggerdef(oid) ORDER BY oid) FROM pg_trigger WHERE tgrelid = c.oid),
		(SELECT array_agg(polname || pg_get_expr(polqual, polrelid)) FROM pg_policy WHERE polrelid = c.oid),
		(SELECT array_agg(oid || prattrs::text) FROM pg_publication_rel WHERE prrelid = c.oid),
		(SELECT array_agg(DISTINCT ev_class::regclass || pg_get_viewdef(ev_class)) FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid
			WHERE d.refobjid = c.oid AND d.classid = 'pg_rewrite'::regclass)
		FROM pg_class c WHERE oid = '$_[0]'::regclass));
}

my %before = map { ($_->[0] => dependents_of($_->[0])) } @matrix;
my $producer = start_producer('orders', orders(2001, 8000), rate => 1000);
run(join(';', 'SET ROLE app; SET client_min_messages = warning', map { alter($_->[0], $changes{ $_->[1] }) } @matrix));
foreach my $case (@matrix)
{
	my ($view, $change, $dependent) = @$case;

	done($view, "$change, with $dependent");
	is(run(rebuild_status($view)), "2|$dependents{$dependent}[0]|done", 'is switched as it should be');
	is(dependents_of($view), $before{$view}, "$dependent is the same");
}
$producer->finish;
ok_view($node, $_->[0]) foreach @matrix;
is(columns('both_view'), 'shop text, n bigint, top bigint, first_note text', 'columns come last and go');
is(columns('added_index'), 'shop text, n bigint, total numeric, top bigint, mean numeric, last_note text', 'several, too');
is(run(q(SELECT DISTINCT kind FROM kappa.views WHERE view::text LIKE 'kind_%')), 'latest', 'the kind is the new one');
is(run('SELECT count(*) FROM of_both_view'), run('SELECT count(*) FROM both_view'), 'an SQL view reads the new rows');
is(run(q(SELECT string_agg(attname, ' ' ORDER BY attname) FROM pg_stats WHERE tablename = 'both_nothing')), 'first_note n shop top',
	'the planner knows the new columns');
is(leftovers($node), '', 'nothing is left of old versions');

# Tables that have lost columns are rebuilt, and altered, as others.
foreach my $view (qw(dropped_nothing both_index dropped_publication))
{
	my $way = $view =~ /publication/ ? 'rows' : 'storage';

	run("SET client_min_messages = warning; SELECT kappa.rebuild('$view')");
	done($view, "$view is rebuilt");
	is(run(rebuild_status($view)), "3|$way|done", "by $way");
	ok_view($node, $view);
	run('SET client_min_messages = warning;' . alter($view, 'SELECT shop, count(*) AS n, max(id) AS top, sum(amount) AS total, min(at) AS since FROM orders GROUP BY shop'));
	done($view, 'and altered once more');
	is(run(rebuild_status($view)), "4|$way|done", "by $way");
	produce('orders', orders(8001, 8100));
	ok_view($node, $view);
}
run("DROP TABLE $_->[0] CASCADE") foreach @matrix;
is(run(q(SELECT count(*) FROM pg_class WHERE relnamespace = 'kappa_state'::regnamespace)), 0, 'views take all along');
is(run(q(SELECT count(*) FROM kappa.version_history)), 0, 'also their history');

# ---- Other kinds of views. ----

run(q(SET ROLE app;
SELECT kappa.create_view('order_log', 'SELECT id, shop, amount, note FROM orders');
SELECT kappa.create_view('totals', 'SELECT count(*) AS n, sum(amount) AS total FROM orders');
SELECT kappa.create_view('last_order', 'SELECT DISTINCT ON (shop) shop, id, amount FROM orders ORDER BY shop, at DESC NULLS LAST, id DESC NULLS LAST');
SELECT kappa.create_view('persons', 'SELECT k, shop, amount FROM customers WHERE amount > 2');
CREATE INDEX order_log_shop ON order_log (shop, id);
CREATE INDEX order_log_note ON order_log (id) WHERE length(note) > 10;
));
run("SELECT kappa.wait_for('$_')") foreach qw(order_log totals last_order persons);
my %others = (
	order_log => 'SELECT id, note, upper(shop) AS big, at FROM orders WHERE amount < 6',
	totals => 'SELECT count(*) AS n, max(id) AS top, avg(amount) AS mean FROM orders',
	last_order => 'SELECT shop, max(id) AS id, count(*) AS n FROM orders GROUP BY shop',
	persons => 'SELECT k, amount + 1 AS amount, note FROM customers WHERE amount < 5');
my ($out, $err);
foreach my $view (sort keys %others)
{
	$node->psql('postgres', alter($view, $others{$view}), stderr => \$err);
	like($err, qr/NOTICE:  columns? [\w", ]+ of view "$view" will be dropped at the switch/, "what goes from $view is said")
	  if $view =~ /order|persons/;
	like($err, qr/index public.order_log_shop depends on column shop/, 'with its index') if $view eq 'order_log';
}
foreach my $view (sort keys %others)
{
	done($view, "$view has another query");
	is(run(rebuild_status($view)), '2|storage|done', 'by storage');
}
produce('orders', orders(8101, 9000));
ok_view($node, $_) foreach sort keys %others;
is(columns('order_log'), 'id bigint, note text, big text, at timestamp with time zone', 'columns of a log');
is(run("SELECT string_agg(indexrelid::regclass::text, ' ') FROM pg_index WHERE indrelid = 'order_log'::regclass"), 'order_log_note',
	'an index goes with its column, others stay');
is(run("SELECT kind FROM kappa.views WHERE view = 'last_order'::regclass"), 'aggregate', 'from the latest row to an aggregate');
is(run('SELECT count(*), count(note), max(length(note)) > 2900 FROM order_log'), run('SELECT count(*), count(note), true FROM orders WHERE amount < 6'),
	'long values came along');

# What is published and gets a column, or loses one, and has no key.
run('SET ROLE app;' . alter($_, 'SELECT id, upper(shop) AS big, amount FROM orders', "switch => 'rows'")) foreach 'order_log';
done('order_log', 'by rows without a key');
ok_view($node, 'order_log');
is(columns('order_log'), 'id bigint, big text, amount numeric(10,2)', 'columns, too');

# ---- What is refused: before anything is read. ----

run(q(
CREATE DOMAIN positive AS bigint CHECK (VALUE > 0);
SET ROLE app;
SELECT kappa.create_view('shops', 'SELECT shop, count(*) AS n, sum(amount) AS total, max(id) AS top, max(at) AS seen FROM orders GROUP BY shop');
SELECT kappa.create_view('people', 'SELECT k, shop, amount FROM customers');
RESET ROLE;
ALTER TABLE shops ADD CHECK (seen IS NOT NULL);
CREATE VIEW tops AS SELECT shop, top FROM shops;
CREATE POLICY p ON shops USING (total > 0);
CREATE PUBLICATION narrow FOR TABLE people (k, amount);
CREATE MATERIALIZED VIEW top_of_tops AS SELECT max(top) FROM tops;
CREATE UNIQUE INDEX people_shop ON people (shop, k);
CREATE TABLE elsewhere (shop text, n bigint, FOREIGN KEY (shop) REFERENCES shops (shop));
));
run("SELECT kappa.wait_for('$_')") foreach qw(shops people);
my $from = 'FROM orders GROUP BY shop';
my @refused = (
	[ 'shops', 'SELECT shop, count(*)::int AS n, sum(amount) AS total, max(id) AS top, max(at) AS seen ' . $from,
		qr/42P16.*cannot change the type of column "n" of view "shops".*bigint.*integer.*Cast the expression/s, 'another type' ],
	[ 'shops', 'SELECT shop, count(*) AS n, sum(amount)::numeric(12,2) AS total, max(id) AS top, max(at) AS seen ' . $from,
		qr/42P16.*type of column "total".*numeric\(12,2\)/s, 'another precision' ],
	[ 'shops', 'SELECT shop COLLATE "C" AS shop, count(*) AS n, sum(amount) AS total, max(id) AS top, max(at) AS seen FROM orders GROUP BY 1',
		qr/42P16.*cannot change the collation of column "shop".*"default".*"C"/s, 'another collation' ],
	[ 'shops', 'SELECT shop, sum(amount) AS total, count(*) AS n, max(id) AS top, max(at) AS seen ' . $from,
		qr/42P16.*column "total" of view "shops" cannot come before column "n".*shop, n, total, top, seen/s, 'another order' ],
	[ 'shops', 'SELECT shop, count(*) AS orders, sum(amount) AS total, max(id) AS top, max(at) AS seen ' . $from,
		qr/42P16.*column "orders" of view "shops" cannot come before column "total".*second view/s, 'another name' ],
	[ 'shops', 'SELECT shop, count(*) AS n, sum(amount) AS total, max(id)::positive AS big, max(at) AS seen ' . $from,
		qr/0A000.*cannot add column "big" to view "shops".*positive is a domain.*Cast the expression to bigint/s, 'a domain' ],
	[ 'shops', 'SELECT shop, count(*) AS n, sum(amount) AS total, max(at) AS seen ' . $from,
		qr/2BP01.*cannot drop column "top" of view "shops".*view public.tops depends on column top.*Keep the columns/s, 'a column in an SQL view' ],
	[ 'shops', 'SELECT shop, count(*) AS n, max(id) AS top, max(at) AS seen ' . $from,
		qr/2BP01.*policy p on table public.shops depends on column total/s, 'a column in a policy' ],
	[ 'shops', 'SELECT shop, count(*) AS n, max(at) AS seen ' . $from,
		qr/2BP01.*drop columns "total", "top" of view.*policy p on table public.shops depends on column total\s+view public.tops depends on column top/s, 'two of them' ],
	[ 'shops', "SELECT shop, at, count(*) AS n, sum(amount) AS total, max(id) AS top FROM orders GROUP BY shop, at",
		qr/42P16.*cannot change the key of view "shops".*have the key \(shop\).*\(shop, at\).*second view/s, 'a longer key' ],
	[ 'shops', 'SELECT shop, id AS n, amount::numeric AS total, id AS top, at AS seen FROM orders',
		qr/42P16.*cannot change the key of view "shops".*those of the query have none/s, 'no key' ],
	[ 'order_log', 'SELECT DISTINCT ON (id) id, upper(shop) AS big, amount FROM orders ORDER BY id, at NULLS LAST',
		qr/42P16.*cannot change the key of view "order_log".*have no key, those of the query have \(id\)/s, 'a key' ],
	[ 'people', 'SELECT id::int AS k, max(shop) AS shop, max(amount)::int AS amount FROM orders GROUP BY 1',
		qr/42P16.*key of view "people".*no unique index on \(k\) that takes nulls for equal/s, 'a key that can be null' ],
	[ 'people', 'SELECT k, shop FROM customers',
		qr/2BP01.*publication of table public.people in publication narrow depends on column amount/s, 'a published column' ],
	[ 'shops', 'SELECT shop, count(*) AS n, 1::numeric AS total, max(id) AS top, NULL::timestamptz AS seen FROM others GROUP BY shop',
		qr/0A000.*cannot change the topic of view "shops".*topic "orders" of server "events".*topic "others"/s, 'another topic' ],
	[ 'shops', 'SELECT shop, count(*) AS n, count(DISTINCT id)::numeric AS total, max(id) AS top, max(at) AS seen ' . $from,
		qr/0A000.*DISTINCT/s, 'what create_view refuses' ],
	[ 'shops', 'SELECT shop, count(*) AS n, sum(amounts) AS total FROM orders GROUP BY shop',
		qr/42703.*column "amounts" does not exist.*QUERY/s, 'a mistake, with its place' ],
	[ 'shops', 'DELETE FROM shops', qr/42601.*must be a SELECT/s, 'another statement' ],
	[ 'elsewhere', 'SELECT 1', qr/42809.*is not a view of kappa/s, 'an ordinary table' ]);
foreach my $case (@refused)
{
	my ($view, $query, $pattern, $name) = @$case;

	fails_like($node, "\\set VERBOSITY verbose\n" . alter($view, $query), $pattern, "refused: $name");
}
fails_like($node, 'SET ROLE reader;' . alter('shops', $base), qr/must be owner/, 'refused: to others');
fails_like($node, alter('shops', 'SELECT shop, count(*) AS n, sum(amount) AS total, max(id) AS top, max(at) AS seen ' . $from, "switch => 'now'"),
	qr/unrecognized way to switch/, 'refused: a wrong way to switch');
run("SET ROLE app; SELECT kappa.create_view('identified', '$base'); SELECT kappa.wait_for('identified')");
run('ALTER TABLE identified ADD PRIMARY KEY (shop, n); ALTER TABLE identified REPLICA IDENTITY USING INDEX identified_pkey');
fails_like($node, alter('identified', 'SELECT shop, max(id) AS top FROM orders GROUP BY shop'),
	qr/index public.identified_pkey depends on column n/, 'refused: a column of the replica identity');
run('DROP TABLE identified; DROP PUBLICATION narrow; DROP INDEX people_shop');
run(q(CREATE TABLE hidden (shop text, city text)));
fails_like($node, alter('shops', 'SELECT o.shop, count(*) AS n, sum(amount) AS total, max(id) AS top, max(at) AS seen FROM orders o JOIN hidden h USING (shop) GROUP BY o.shop'),
	qr/permission denied for table hidden/, 'refused: what the owner may not read, whoever calls');
is(run("SELECT count(*) FROM kappa.rebuilds WHERE view = 'shops'::regclass"), 0, 'and nothing has begun');
is(leftovers($node), '', 'nor is anything left');

done_testing();
