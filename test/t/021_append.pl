
# An append view is filled by a loader of its own, which must do all that INSERT
# does to the table: indexes, constraints, long values, triggers.

use strict;
use warnings;

use KappaTest;
use Test::More;

my $kafka = start_kafka();
my $node = new_node();

sub sql { return $node->safe_psql('postgres', $_[0]) }

sub events
{
	my ($from, $to) = @_;
	return [ map { { value => { n => $_, t => $_ % 7 ? "text $_" : undef } } } $from .. $to ];
}

create_topic('events', partitions => 2);
sql(q(CREATE FOREIGN TABLE events (n int, t text) SERVER events OPTIONS (topic 'events', format 'json')));
sql(q(SELECT kappa.create_view('log', 'SELECT n, t, n * 2 AS twice FROM events WHERE n % 10 <> 9')));
sql(q(SELECT kappa.create_view('checked', 'SELECT n, t FROM events')));
sql(q(CREATE INDEX ON log (n)));
sql(q(CREATE UNIQUE INDEX ON log (twice, n) INCLUDE (n) WHERE n > 0));
sql(q(CREATE INDEX ON log USING brin (n)));

# More than one buffer of rows in a batch, and several batches.
produce('events', events(1, 5000));
ok_view($node, 'log');
produce('events', events(5001, 5003));
ok_view($node, 'log');
is( sql(q(SET enable_seqscan = off; SELECT count(*), sum(n) FROM log WHERE n BETWEEN 100 AND 5002)),
	sql(q(SET enable_indexscan = off; SET enable_bitmapscan = off; SELECT count(*), sum(n) FROM log WHERE n BETWEEN 100 AND 5002)),
	'the index has all rows');
ok(wait_for($node, q(SELECT n_tup_ins = (SELECT count(*) FROM log) FROM pg_stat_user_tables WHERE relname = 'log')), 'inserts are counted');

# Long values, and rows that fill pages one by one.
produce('events', [ map { { value => { n => 6000 + $_, t => join('', map { chr(97 + rand(26)) } 1 .. 6000 * $_) } } } 1 .. 20 ]);
ok_view($node, 'log', name => 'long values');
cmp_ok(sql(q(SELECT pg_relation_size(reltoastrelid) FROM pg_class WHERE relname = 'log')), '>', 0, 'are stored out of line');

# Triggers of all kinds are fired; without them it goes on.
sql(q(CREATE TABLE seen (how text, n bigint)));
sql(q(GRANT ALL ON seen TO PUBLIC));
sql(q(CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF TG_LEVEL = 'ROW' THEN
		INSERT INTO public.seen VALUES ('row', NEW.n);
	ELSE
		INSERT INTO public.seen SELECT 'statement', count(*) FROM new_rows;
	END IF;
	RETURN NULL;
END $$));
sql(q(CREATE TRIGGER note_row AFTER INSERT ON log FOR EACH ROW EXECUTE FUNCTION note()));
sql(q(CREATE TRIGGER note_statement AFTER INSERT ON log REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION note()));
produce('events', events(7001, 7008));
ok_view($node, 'log', name => 'with triggers');
is(sql(q(SELECT how, count(DISTINCT n) FROM seen WHERE how = 'row' GROUP BY how)), 'row|8', 'row triggers');
is(sql(q(SELECT sum(n) FROM seen WHERE how = 'statement')), '8', 'transition tables');
sql(q(DROP TRIGGER note_row ON log));
sql(q(DROP TRIGGER note_statement ON log));
produce('events', events(7010, 7018));
ok_view($node, 'log', name => 'without triggers again');
is(sql(q(SELECT count(*) FROM seen WHERE how = 'row')), '8', 'and none is fired');

# Constraints that the owner adds hold, and the view waits.
sql(q(ALTER TABLE checked ADD CONSTRAINT small CHECK (n < 8000)));
produce('events', events(8000, 8000));
ok(wait_for($node, q(SELECT reason ~ 'violates check constraint "small"' FROM kappa.views WHERE view = 'checked'::regclass)), 'a constraint is kept');
sql(q(ALTER TABLE checked DROP CONSTRAINT small));
ok_view($node, 'checked', name => 'and the view goes on without it');
ok_view($node, 'log', name => 'the other view never stopped');

# Uniqueness that the owner asks for, too.
sql(q(SELECT kappa.create_view('once', 'SELECT n FROM events WHERE n > 9000')));
sql(q(ALTER TABLE once ADD UNIQUE (n)));
produce('events', events(9001, 9002));
ok_view($node, 'once');
produce('events', events(9002, 9002));
ok(wait_for($node, q(SELECT reason ~ 'duplicate key value' FROM kappa.views WHERE view = 'once'::regclass)), 'a unique constraint is kept');
is(sql('SELECT count(*) FROM once'), '2', 'nothing was applied');

$node->stop('fast');
done_testing();
