
# kappa.messages_of: the messages behind a row of a view.

use strict;
use warnings;

use KappaTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = start_kafka();
my $node = new_node();

sub sql { return $node->safe_psql('postgres', $_[0]) }

create_topic('sales', partitions => 2);
produce('sales', [ map { { value => { id => $_, shop => ($_ % 5 ? 'shop ' . $_ % 5 : undef), amount => $_ / 4, at => sprintf('2026-11-01T%02d:00:00Z', $_ % 24), tags => [ 'a', 'b' ] } } } 1 .. 200 ]);
sql(q(
CREATE TABLE regions (shop text PRIMARY KEY, name text);
INSERT INTO regions VALUES ('shop 1', 'north'), ('shop 2', 'south');
CREATE FOREIGN TABLE sales (id int, shop text, amount numeric, at timestamptz, tags text[], part int OPTIONS (metadata 'partition'), pos bigint OPTIONS (metadata 'offset'))
	SERVER events OPTIONS (topic 'sales', format 'json');
SELECT kappa.create_view('per_shop', 'SELECT shop, count(*) AS n, avg(amount) AS a FROM sales WHERE id > 10 GROUP BY shop HAVING count(*) > 1');
SELECT kappa.create_view('per_day', $$SELECT date_trunc('day', at, 'UTC') AS day, upper(shop) AS "Shop", count(*) + 1 AS n FROM sales GROUP BY 1, 2$$);
SELECT kappa.create_view('log', 'SELECT id, shop, amount FROM sales');
SELECT kappa.create_view('tagged', 'SELECT tag, count(*) AS n FROM sales, LATERAL unnest(tags) AS tag GROUP BY tag');
SELECT kappa.create_view('last_sale', 'SELECT DISTINCT ON (shop) shop, id FROM sales ORDER BY shop, id DESC NULLS LAST');
SELECT kappa.create_view('per_region', 'SELECT r.name, count(*) AS n FROM sales s JOIN regions r ON r.shop = s.shop GROUP BY r.name');
));
my @views = qw(per_shop per_day log tagged last_sale per_region);
is(sql("SELECT kappa.wait_for('$_')"), 't', "$_ is up to date") foreach @views;

# What is found, and what plain PostgreSQL says of the same rows.
sub found
{
	my ($view, $row, $where, $name, $topic) = @_;
	my $found = "SELECT part, pos FROM kappa.messages_of('$view', '$row')";
	my $wanted = "SELECT part, pos FROM " . ($topic // 'sales') . " WHERE $where";

	cmp_ok(sql("SELECT count(*) FROM ($found) q"), '>', 0, "$name: some");
	return is(sql("SELECT count(*) FROM (($found EXCEPT ALL $wanted) UNION ALL ($wanted EXCEPT ALL $found)) q"), 0, "$name: these");
}
found('per_shop', '{"shop": "shop 3"}', "shop = 'shop 3' AND id > 10", 'a group');
found('per_shop', '{"shop": null}', 'shop IS NULL AND id > 10', 'the group of NULL');
found('per_shop', '{}', 'id > 10', 'all');
found('per_day', '{"day": "2026-11-01 00:00+00", "Shop": "SHOP 2"}', "shop = 'shop 2'", 'an expression');
found('log', '{"id": 7}', 'id = 7', 'a row');
found('log', '{"amount": 12.50}', 'id = 50', 'a value');
found('tagged', '{"tag": "b"}', 'true', 'a message that gives several rows');
found('last_sale', '{"shop": "shop 1"}', "shop = 'shop 1'", 'all of a key');
found('last_sale', '{"shop": "shop 1", "id": 196}', 'id = 196', 'the one that is shown');
found('last_sale', '{"shop": null}', 'shop IS NULL', 'all of the key NULL');
found('per_region', '{"name": "south"}', "shop = 'shop 2'", 'through a lookup');
# A changelog: the latest message of each key, as in the view.
create_topic('users', partitions => 3);
produce('users', [ map { { key => $_, value => { name => "user $_", country => 'DE' } } } 1 .. 30 ]);
produce('users', [ map { { key => $_, value => { name => "user $_", country => $_ % 2 ? 'DE' : 'FR' } } } 1 .. 10 ]);
produce('users', [ { key => 5, value => undef } ]);
sql(q(
CREATE FOREIGN TABLE users (user_id int OPTIONS (key 'true', metadata 'key'), name text, country text, part int OPTIONS (metadata 'partition'), pos bigint OPTIONS (metadata 'offset'))
	SERVER events OPTIONS (topic 'users', format 'json');
SELECT kappa.create_view('germans', $$SELECT user_id, upper(name) AS name FROM users WHERE country = 'DE'$$);
));
is(sql("SELECT kappa.wait_for('germans')"), 't', 'germans is up to date');
found('germans', '{"user_id": 3}', 'user_id = 3', 'a key', 'users');
found('germans', '{"name": "USER 20"}', 'user_id = 20', 'an expression over a changelog', 'users');
found('germans', '{}', "country = 'DE'", 'all of a changelog', 'users');
is(sql(qq(SELECT count(*) FROM kappa.messages_of('germans', '{"user_id": $_}'))), 0, "user $_ is not in the view") foreach 4, 5;
ok_view($node, 'germans');

is(sql(q(SELECT message ->> 'shop', message ->> 'amount' FROM kappa.messages_of('log', '{"id": 9}'))), 'shop 4|2.25', 'with the row of the topic');
is(sql(q(SELECT count(*) FROM kappa.messages_of('log', '{}', max_rows => 3))), 3, 'no more than asked for');

# Up to the view's offsets.
sql("SELECT kappa.pause_view('log')");
produce('sales', [ map { { value => { id => 7 } } } 1 .. 3 ]);
is(sql(q(SELECT count(*) FROM kappa.messages_of('log', '{"id": 7}'))), 1, 'what the view has not read is not behind it');

fails_like($node, q(SELECT * FROM kappa.messages_of('per_shop', '{"n": 3}')), qr/messages cannot be found by column "n" of view "per_shop"\nDETAIL:  It depends on more than one message.*\nHINT:  Name columns of the view's key/, 'an aggregate');
fails_like($node, q(SELECT * FROM kappa.messages_of('per_shop', '{"x": 3}')), qr/column "x" of view "per_shop" does not exist/, 'no column');
fails_like($node, q(SELECT * FROM kappa.messages_of('per_shop', '[1]')), qr/the row must be a JSON object/, 'no object');
fails_like($node, q(SELECT * FROM kappa.messages_of('log', '{"id": "x"}')), qr/invalid input syntax for type integer: "x"/, 'no value of the type');
fails_like($node, q(SELECT * FROM kappa.messages_of('regions', '{}')), qr/"regions" is not a view of kappa/, 'no view');
fails_like($node, q(CREATE ROLE visitor; SET ROLE visitor; SELECT * FROM kappa.messages_of('log', '{}')), qr/must be owner of table log/, 'somebody else');

ok_view($node, $_) foreach grep { $_ ne 'log' } @views;

done_testing();
