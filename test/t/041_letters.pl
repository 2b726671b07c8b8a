# Messages that cannot be applied: each is set aside in the transaction that
# passes it, for the views that cannot take it, and for no other.

use strict;
use warnings;

use KappaTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = start_kafka();
my $node = new_node();

sub sql { return $node->safe_psql('postgres', @_); }

# The letters of a view, as partition:offset.
sub letters
{
	my ($view) = @_;
	return sql("SELECT coalesce(string_agg(part || ':' || pos, ' ' ORDER BY part, pos), '') FROM kappa.dead_letters WHERE view = '$view'::regclass");
}

# All that the log has is applied, but for these letters, and the rest is right.
sub ok_letters
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	my ($view, $wanted, $name) = @_;
	my $reached = sql("SELECT kappa.wait_for('$view', '30 s')");

	is($reached . ' ' . letters($view), "t $wanted", $name // "letters of $view");
	is(sql("SELECT state FROM kappa.views WHERE view = '$view'::regclass"), 'running', "$view goes on");
	return verified($node, $view);
}

# ---- Every kind of view, and its neighbours. ----

create_topic('mixed', partitions => 1);
sql(q(CREATE FOREIGN TABLE mixed (k text, n bigint, note text) SERVER events OPTIONS (topic 'mixed', format 'json')));
sql(q(SELECT kappa.create_view('mixed_log', 'SELECT k, n FROM mixed')));
sql(q(SELECT kappa.create_view('mixed_sum', 'SELECT k, count(*) AS c, sum(n) AS s FROM mixed GROUP BY k')));
sql(q(SELECT kappa.create_view('mixed_avg', 'SELECT k, avg(n) AS a, count(*) AS c FROM mixed GROUP BY k HAVING count(*) > 1')));
sql(q(SELECT kappa.create_view('mixed_last', 'SELECT DISTINCT ON (k) k, n FROM mixed ORDER BY k, n DESC NULLS LAST')));
sql(q(SELECT kappa.create_view('mixed_total', 'SELECT sum(n) AS s FROM mixed')));
sql(q(SELECT kappa.create_view('mixed_notes', 'SELECT k, note FROM mixed')));
produce(
	'mixed',
	[
		(map { { value => { k => "k$_", n => $_ }, key => "key$_" } } 0 .. 9),
		{ value => '{"k": "k3", "n": "many", "note": "fine"}', key => 'thirteen', timestamp => 1700000000123,
			headers => [ [ 'trace', 'a' ], [ 'trace', "b\xff" ] ] },
		(map { { value => { k => 'k' . $_ % 5, n => $_ } } } 11 .. 20),
		{ value => '{"k": "k1", "n": 1' },
		(map { { value => { k => 'k' . $_ % 5, n => $_ } } } 22 .. 30),
	]);
ok_letters($_, '0:10 0:21') foreach qw(mixed_log mixed_sum mixed_avg mixed_last mixed_total);
ok_letters('mixed_notes', '0:21', 'a view that does not read the column has it');
is(sql(q(SELECT count(*) FROM mixed_notes WHERE note = 'fine')), '1', 'the message is in it');
is( sql(q(SELECT convert_from(key, 'UTF8'), convert_from(value, 'UTF8'), headers, message_at AT TIME ZONE 'UTC',
		sqlstate, error, column_name, size, complete, topic
	FROM kappa.dead_letters WHERE view = 'mixed_sum'::regclass AND pos = 10)),
	'thirteen|{"k": "k3", "n": "many", "note": "fine"}|{ "trace" : "a", "trace" : "b\\\\xff" }|2023-11-14 22:13:20.123|'
	  . '22P02|invalid input syntax for type bigint: "many"|n|61|t|mixed',
	'a letter has all of the message, and what is wrong');
is( sql(q(SELECT key IS NULL, headers IS NULL, value, sqlstate, error, column_name FROM kappa.dead_letters
	WHERE view = 'mixed_notes'::regclass)),
	't|t|\x7b226b223a20226b31222c20226e223a2031|22P02|message is not valid JSON|', 'a malformed one likewise');
is(sql(q(SELECT dead_letters FROM kappa.stat_views WHERE view = 'mixed_sum'::regclass)), '2', 'letters are counted');
is(sql(q(SELECT messages FROM kappa.stat_views WHERE view = 'mixed_sum'::regclass)), '29', 'and are not among the messages that were applied');
like(sql(q(SELECT string_agg(detail, ';') FROM kappa.events WHERE event = 'diverted' AND view = 'mixed_log'::regclass)),
	qr/^topic "mixed", partition 0, offset 10: invalid input/, 'the first of a burst is an event');

# ---- Who may see them. ----

sql(q(CREATE ROLE reader; CREATE ROLE clerk; CREATE ROLE stranger; GRANT reader TO clerk;
	GRANT SELECT ON mixed_sum TO reader; GRANT SELECT (k) ON mixed_log TO stranger));
sub seen { my ($role) = @_; return sql("SET ROLE $role; SELECT coalesce(string_agg(DISTINCT view::text, ' ' ORDER BY view::text), '') FROM kappa.dead_letters"); }
is(seen('clerk'), 'mixed_sum', 'letters are shown to those who may read the view');
is(seen('stranger'), '', 'and not to those who may read a column of it');
sql('ALTER TABLE mixed_sum ENABLE ROW LEVEL SECURITY; CREATE POLICY one ON mixed_sum USING (k = $$k1$$)');
is(seen('clerk'), '', 'nor to those who may read some rows');
sql('ALTER TABLE mixed_sum DISABLE ROW LEVEL SECURITY');
fails_like($node, q(SET ROLE clerk; SELECT value FROM kappa.dead_letter), qr/permission denied/, 'the table is for nobody');
fails_like($node, q(SET ROLE clerk; SELECT kappa.discard_dead_letters('mixed_sum')), qr/must be owner/, 'a reader cannot give them up');

# ---- Giving them up. ----

is(sql(q(SELECT kappa.discard_dead_letters('mixed_avg'))), '2', 'letters are given up');
ok_letters('mixed_avg', '', 'and listed no more, but still left out');
is(sql(q(SELECT count(*) FROM kappa.dead_letter WHERE view = 'mixed_avg'::regclass AND (key IS NOT NULL OR value IS NOT NULL OR header_names IS NOT NULL))), '0', 'their contents are gone');
is(sql(q(SELECT kappa.discard_dead_letters('mixed_avg'))), '0', 'once');
is(sql(q(SELECT detail FROM kappa.events WHERE event = 'discarded')), '2 dead letters', 'that is an event');

# ---- A changelog: a bad message leaves the row of its key as it was. ----

create_topic('people', partitions => 2);
sql(q(CREATE FOREIGN TABLE people (id int OPTIONS (key 'true', metadata 'key'), name text, age int) SERVER events
	OPTIONS (topic 'people', format 'json');
SELECT kappa.create_view('adults', 'SELECT id, name, age FROM people WHERE age >= 18');
SELECT kappa.create_view('names', 'SELECT id, name FROM people')));
sub person { my ($id, $age, @more) = @_; return { key => $id, value => { name => "n$id", age => $age }, partition => $id % 2, @more } }
produce('people', [ map { person($_, 20 + $_) } 1 .. 6 ]);
sql("SELECT kappa.wait_for('$_')") foreach qw(adults names);
produce(
	'people',
	[
		person(1, 'old'), person(2, 'older'), person(2, 30),    # the second of these is followed by a good one
		{ key => 'x', value => { name => 'no number' }, partition => 0 },
		{ value => { name => 'no key' }, partition => 1 },
		{ key => 3, value => '{', partition => 1 },
		{ key => 4, value => undef, partition => 0 },
	]);
ok_letters('names', '0:5 1:4 1:5', 'keys and values that are none');
like(sql(q(SELECT kappa.wait_for('adults'))), qr/t/, 'adults is there');
like(letters('adults'), qr/^(0:3 )?0:5 1:3 1:4 1:5$/, 'and a value that one view reads; one that is replaced at once need not be');
verified($node, 'adults');
is(sql('SELECT string_agg(id || $$=$$ || age, $$ $$ ORDER BY id) FROM adults'), '1=21 2=30 3=23 5=25 6=26', 'the older message counts where the newer one is bad');
produce('people', [ person(1, 40), person(3, 'again'), person(5, 10) ]);
sql(q(SELECT kappa.wait_for('adults')));
verified($node, 'adults');
is(sql('SELECT string_agg(id || $$=$$ || age, $$ $$ ORDER BY id) FROM adults'), '1=40 2=30 3=23 6=26', 'and the next good one replaces it');
is(sql(q(SELECT kappa.wait_for('names'))), 't');
verified($node, 'names');

$node->stop('fast');
done_testing();
