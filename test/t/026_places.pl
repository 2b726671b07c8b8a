
# Views with a key: their rows are found and written in place, those of the
# companion, too, whatever has moved them, and by SQL where the table has more to
# it.

use strict;
use warnings;

use KappaTest;
use Test::More;

my $kafka = start_kafka();
my $node = new_node();

sub sql { return $node->safe_psql('postgres', $_[0]) }

# Each of 200 keys, and no key, gets something.
sub messages
{
	my ($round) = @_;

	return [ map { { value => { k => $_ ? $_ : undef, l => $_ % 3 ? undef : 'x', v => $_ * 7 % 11 + $round } } } 0 .. 200 ];
}

# Users, of whom in each round a seventh goes, and another one comes back.
sub users
{
	my ($round) = @_;

	return [ map { { key => $_, value => ($_ + $round) % 7 ? { name => "$_ in $round", old => ($_ + $round) % 3 } : undef } } 1 .. 200 ];
}

my @views = qw(means shown counts pairs latest first members known);
my @companions = map { "kappa_state.${_}_v1_state" } qw(means shown first known);
my $round = 0;

sub go_on
{
	my ($when) = @_;

	produce('events', messages(++$round));
	produce('users', users($round));
	ok_view($node, $_, name => "$_: $when") foreach @views;
	return;
}

# Rows whose companion does not know where they are.
sub strays
{
	my ($view) = @_;

	return sql("SELECT count(*) FROM $view v JOIN kappa_state.${view}_v1_state s
		ON v.k IS NOT DISTINCT FROM s.k AND v.l IS NOT DISTINCT FROM s.l
		WHERE v.ctid IS DISTINCT FROM s.\"kappa shown\"");
}

sub merge_of { return sql("SELECT string_agg(line, e'\\n') FROM kappa.explain('$_[0]') AS line") }

create_topic('events', partitions => 2);
sql(q(CREATE FOREIGN TABLE events (k int, l text, v numeric, part int OPTIONS (metadata 'partition'), pos bigint OPTIONS (metadata 'offset')) SERVER events OPTIONS (topic 'events', format 'json')));
sql(q(SELECT kappa.create_view('means', 'SELECT k, l, avg(v) AS a, avg(k) AS s FROM events GROUP BY k, l')));
sql(q(SELECT kappa.create_view('shown', 'SELECT l, k, avg(v) AS a FROM events GROUP BY k, l HAVING sum(v) % 2 = 0')));
sql(q(SELECT kappa.create_view('counts', 'SELECT count(*) AS n, l, sum(v) AS s, k, max(v) AS m, ''const'' AS c FROM events GROUP BY k, l')));
sql(q(SELECT kappa.create_view('pairs', 'SELECT l, k FROM events GROUP BY l, k')));
sql(q(SELECT kappa.create_view('latest', 'SELECT DISTINCT ON (part, k) v % 5 AS a, part, k, pos FROM events ORDER BY part, k, v % 5, pos DESC')));
sql(q(SELECT kappa.create_view('first', 'SELECT DISTINCT ON (l, k) part, l, v % 7 AS seventh, k FROM events ORDER BY l, k, v % 5, v % 7 DESC NULLS LAST')));
create_topic('users', partitions => 2);
sql(q(CREATE FOREIGN TABLE users (id int OPTIONS (key 'true', metadata 'key'), name text, old int) SERVER events OPTIONS (topic 'users', format 'json')));
sql(q(SELECT kappa.create_view('members', 'SELECT name, id FROM users WHERE old = 1')));
sql(q(SELECT kappa.create_view('ids', 'SELECT id FROM users WHERE old = 1')));
sql(q(CREATE FOREIGN TABLE moments (id int OPTIONS (key 'true', metadata 'key'), name text, old int) SERVER events OPTIONS (topic 'users', format 'json', key_order 'timestamp')));
sql(q(SELECT kappa.create_view('known', 'SELECT name, id FROM moments WHERE old = 2')));
go_on('new rows');
go_on('known rows');
unlike(merge_of($_), qr/ON CONFLICT|MERGE INTO/, "$_: rows are written in place") foreach @views;
is(sql(q(SELECT count(*) FROM means WHERE k IS NULL)), 1, 'one row has no key');

# Versions that nobody sees make room for the next ones.
sub pages
{
	return sql(q(SELECT sum(pg_relation_size(relid)) / 8192 FROM pg_stat_user_tables WHERE relname ~ '^means'));
}

my $pages = pages();
sql('ALTER TABLE means SET (autovacuum_enabled = off)');
sql('ALTER TABLE kappa_state.means_v1_state SET (autovacuum_enabled = off)');
foreach (1 .. 20)
{
	produce('events', messages(++$round));
	sql("SELECT kappa.wait_for('means')");
}
ok_view($node, $_, name => "$_: after 20 batches") foreach qw(means shown);
ok(wait_for($node, q(SELECT sum(n_tup_upd) > 2 * 20 * 201 FROM pg_stat_user_tables WHERE relname ~ '^means'), 't'), 'rows were updated again and again');
cmp_ok(pages(), '<=', 2 * $pages, 'in tables that do not grow with that');
ok_view($node, 'ids');
ok(wait_for($node, q(SELECT n_tup_ins > 0 AND n_tup_del > 0 AND n_tup_upd = 0 FROM pg_stat_user_tables WHERE relname = 'ids'), 't'), 'keys alone come and go');
ok(wait_for($node, q(SELECT sum(idx_tup_fetch) > 0 FROM pg_stat_user_tables WHERE relname = 'ids'), 't'), 'and are counted when they are found');

# An index on a value, so that no row stays where it is.
sql('CREATE INDEX ON means (a); CREATE INDEX ON shown (a); CREATE INDEX ON counts (s); CREATE INDEX ON latest (pos); CREATE INDEX ON first (seventh); CREATE INDEX ON known (name); CREATE INDEX ON members (name)');
go_on("moved, $_") foreach 1 .. 2;
is(strays($_), 0, "$_: the companion knows where") foreach qw(means shown);
is( sql(q(SET enable_seqscan = off; SELECT count(*), round(sum(a), 9) FROM means WHERE a > 0)),
	sql(q(SET enable_indexscan = off; SET enable_bitmapscan = off; SELECT count(*), round(sum(a), 9) FROM means WHERE a > 0)),
	'an index has all rows');

# Rows that others have moved.
sql("VACUUM FULL $_") foreach @views;
go_on('after VACUUM FULL of the views');
sql("VACUUM FULL $_") foreach @companions;
go_on('after VACUUM FULL of companions');
sql("ALTER TABLE $_ DISABLE TRIGGER kappa_guard") foreach @views;
foreach my $view (@views)
{
	sql("CREATE TABLE copy AS TABLE $view; DELETE FROM $view");
	sql("VACUUM $view");
	sql("INSERT INTO $view SELECT * FROM copy ORDER BY 1 DESC; DROP TABLE copy");
}
go_on('turned around');

# Rows that can be computed anew from a companion come back.
foreach my $view (qw(means shown))
{
	sql("DELETE FROM $view");
	sql("VACUUM $view");
}
sql("ALTER TABLE $_ ENABLE TRIGGER kappa_guard") foreach @views;
go_on('without the rows of those with a companion');
go_on("after $_ more") foreach 1 .. 2;
sql('TRUNCATE kappa_state.means_v1_state');
sql(q(SELECT kappa.rebuild('means')));
ok(wait_for($node, q(SELECT kappa.wait_for_rebuild('means', '60 s')), 't'), 'rebuilt');
go_on('after a rebuild');

# Locks of others are waited for; who changes a row all the same makes the view try again.
my $waits = q(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'kappa worker' AND wait_event_type = 'Lock');
my $holder = $node->background_psql('postgres');
$holder->query_safe('BEGIN; SELECT * FROM means WHERE k = 20 FOR UPDATE');
produce('events', messages(++$round));
ok(wait_for($node, $waits, 1), 'a row lock is waited for');
$holder->query_safe('COMMIT');
go_on('after a row lock');
$holder->query_safe('ALTER TABLE means DISABLE TRIGGER kappa_guard');
$holder->query_safe('BEGIN; UPDATE means SET a = -1 WHERE k = 20');
produce('events', messages(++$round));
ok(wait_for($node, $waits, 1), 'so is an update');
$holder->query_safe('COMMIT');
go_on('after an update by hand');
$holder->query_safe('BEGIN; DELETE FROM means WHERE k = 21; INSERT INTO means (k, l) VALUES (300, NULL)');
produce('events', [ { value => { k => 21, v => 1 } }, { value => { k => 300, v => 1 } } ]);
ok(wait_for($node, $waits, 1), 'so is a row that is new');
$holder->query_safe('COMMIT');
go_on('after a deletion and an insertion by hand');
$holder->query_safe('ALTER TABLE means ENABLE TRIGGER kappa_guard');
$holder->quit;

# Where there is more to the table, SQL does it all.
sql(q(CREATE TABLE seen (how text, k int)));
sql(q(GRANT ALL ON seen TO PUBLIC));
sql(q(CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF TG_TABLE_NAME = 'means' THEN
		INSERT INTO public.seen VALUES (TG_OP, coalesce(NEW.k, OLD.k));
	END IF;
	RETURN NULL;
END $$));
foreach (@views)
{
	sql("CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON $_ FOR EACH ROW EXECUTE FUNCTION note()");
	like(merge_of($_), qr/INSERT INTO|MERGE INTO/, "$_: with a trigger, rows are written by SQL");
}
produce('events', [ { value => { k => 1, v => 1 } }, { value => { k => 301, v => 1 } } ]);
go_on('with a trigger');
is(sql(q(SELECT count(*) FROM seen WHERE how = 'INSERT')), 1, 'a new row is seen');
cmp_ok(sql(q(SELECT count(*) FROM seen WHERE how = 'UPDATE')), '>=', 201, 'as are changed rows');
go_on('with a trigger still');
sql("DROP TRIGGER note ON $_") foreach @views;
sql(q(CREATE TRIGGER note AFTER UPDATE ON kappa_state.means_v2_state FOR EACH ROW EXECUTE FUNCTION note()));
like(merge_of('means'), qr/INSERT INTO/, 'also with one on a companion');
go_on('with a trigger on a companion');
sql(q(DROP TRIGGER note ON kappa_state.means_v2_state));
sql('TRUNCATE seen');
go_on('without the trigger');
is(sql('SELECT count(*) FROM seen'), 0, 'which does not fire any more');

# Constraints of the owner's hold.
sql('ALTER TABLE means ADD CONSTRAINT small CHECK (k < 1000)');
produce('events', [ { value => { k => 1000, v => 1 } } ]);
ok(wait_for($node, q(SELECT reason ~ 'violates check constraint "small"' FROM kappa.views WHERE view = 'means'::regclass), 't'), 'a constraint is kept');
sql('ALTER TABLE means DROP CONSTRAINT small');
go_on('and the view goes on without it');

# A publication that needs to know which row has changed.
sql(q(CREATE PUBLICATION p FOR TABLE means; ALTER TABLE means REPLICA IDENTITY NOTHING));
produce('events', messages(++$round));
ok(wait_for($node, q(SELECT reason ~ 'does not have a replica identity' FROM kappa.views WHERE view = 'means'::regclass), 't'), 'a publication is not left without');
sql('ALTER TABLE means REPLICA IDENTITY FULL');
go_on('with a replica identity');
sql(q(DROP PUBLICATION p; CREATE PUBLICATION p FOR TABLE ids WITH (publish = 'delete'); ALTER TABLE ids REPLICA IDENTITY NOTHING));
produce('users', [ { key => 500, value => { old => 1 } } ]);
ok_view($node, 'ids', name => 'a new row needs no identity');
produce('users', [ { key => 500, value => undef } ]);
ok(wait_for($node, q(SELECT reason ~ 'cannot delete .* replica identity' FROM kappa.views WHERE view = 'ids'::regclass), 't'), 'one that goes needs it');
sql('ALTER TABLE ids REPLICA IDENTITY DEFAULT');
ok_view($node, 'ids', name => 'and goes with it');

# An index with another idea of what is equal, whose OID comes first.
sql(q(CREATE COLLATION caseless (provider = icu, locale = 'und-u-ks-level2', deterministic = false)));
sql(q(SELECT kappa.create_view('words', 'SELECT l COLLATE caseless AS word, count(*) FROM events GROUP BY 1')));
ok_view($node, 'words');
sql(q(CREATE UNIQUE INDEX ON words (word COLLATE "C") NULLS NOT DISTINCT));
sql(q(REINDEX INDEX CONCURRENTLY words_word_key));
produce('events', [ { value => { l => 'X' } }, { value => { l => 'y' } } ]);
ok_view($node, 'words', name => 'a key is found however it is written');

# Rows that can't have beside them what was there.
my @columns = map { "c$_" } 1 .. 900;
create_topic('wide', partitions => 1);
sql("CREATE FOREIGN TABLE wide (id int, @{[ join(', ', map { qq($_ int) } @columns) ]}, part int OPTIONS (metadata 'partition'), pos bigint OPTIONS (metadata 'offset')) SERVER events OPTIONS (topic 'wide', format 'json')");
sql("SELECT kappa.create_view('largest', 'SELECT id, @{[ join(', ', map { qq(max($_) AS $_) } @columns) ]} FROM wide GROUP BY id')");
sql("SELECT kappa.create_view('last', 'SELECT DISTINCT ON (id) id, part, pos, @{[ join(', ', @columns) ]} FROM wide ORDER BY id, pos DESC')");
foreach my $n (1, 2)
{
	produce('wide', [ map { { value => { id => $_ % 5, c1 => $_, c900 => -$_ } } } $n .. 10 * $n ]);
	ok_view($node, $_, name => "$_ of 900 columns, $n") foreach qw(largest last);
}

$node->stop('fast');
done_testing();
