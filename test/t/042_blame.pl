# Whose fault it is: messages are set aside, what is the system's is waited
# for, and what a view's table does not take stops the view.

use strict;
use warnings;

use KappaTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = start_kafka();
my $node = new_node(conf => "kappa.retry_max_delay = '300ms'\nkappa.dead_letter_limit = 2000\n");

sub sql { return $node->safe_psql('postgres', @_); }

sub state_becomes
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return ok_view_state($node, @_);
}

sub letters
{
	my ($view) = @_;
	return sql("SELECT coalesce(string_agg(pos || ':' || sqlstate, ' ' ORDER BY part, pos), '') FROM kappa.dead_letters WHERE view = '$view'::regclass");
}

# All of the log is applied, but for these letters, and the rest is right.
sub ok_letters
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	my ($view, $wanted, $name) = @_;
	my $reached = sql("SELECT kappa.wait_for('$view', '30 s')");

	is("$reached " . letters($view), "t $wanted", $name // "letters of $view");
	return verified($node, $view);
}

sub messages { return [ map { { value => { n => $_, k => "k$_" } } } @_ ] }

sub make_topic
{
	my ($topic) = @_;

	create_topic($topic);
	return sql("CREATE FOREIGN TABLE $topic (n bigint, k text, small int, tree jsonb) SERVER events OPTIONS (topic '$topic', format 'json')");
}

# ---- The fault of messages. ----

make_topic('faulty');
sql(q(
CREATE DOMAIN positive AS bigint CHECK (VALUE > 0);
CREATE FUNCTION picky(n bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS
	$$ BEGIN IF n = 13 THEN RAISE EXCEPTION 'not %', n USING DETAIL = 'It is unlucky.'; END IF; RETURN n; END $$;
CREATE FUNCTION deep(n bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS
	$$ BEGIN IF n <= 0 THEN RETURN 0; END IF; RETURN public.deep(n + 1); END $$;
SELECT kappa.create_view('by_domain', 'SELECT n::positive AS n FROM faulty');
SELECT kappa.create_view('by_function', 'SELECT picky(n) AS n, count(*) AS c FROM faulty GROUP BY 1');
SELECT kappa.create_view('by_division', 'SELECT DISTINCT ON (k) k, 10 / n AS n FROM faulty ORDER BY k, n');
SELECT kappa.create_view('by_depth', 'SELECT CASE WHEN n = 12 THEN deep(n) END AS d FROM faulty');
SELECT kappa.create_view('by_key', 'SELECT k, count(*) AS c, avg(n) AS a FROM faulty GROUP BY k');
SELECT kappa.create_view('by_value', 'SELECT small FROM faulty');
));
produce(
	'faulty',
	[
		@{ messages(1 .. 9) },
		{ value => { n => -10, k => 'a' } },
		{ value => { n => 0, k => 'a' } },
		{ value => { n => 12, k => 'a' } },
		{ value => { n => 13, k => 'a' } },
		{ value => '[' x 20_000 . ']' x 20_000 },
		{ value => { n => 15, k => join('', map { chr(33 + int(rand 90)) } 1 .. 6000) } },
		{ value => { n => 16, k => join('', map { chr(33 + int(rand 90)) } 1 .. 20_000) } },
		{ value => { n => 17, small => 3_000_000_000 } },
		@{ messages(20 .. 30) },
	]);
ok_letters('by_domain', '9:23514 10:23514 13:54000', 'a domain');
ok_letters('by_function', '12:P0001 13:54000', 'an exception in a function');
ok_letters('by_division', '10:22012 13:54000 14:54000 15:54000', 'an expression, and keys');
ok_letters('by_depth', '11:54001 13:54000', 'a recursion without end');
ok_letters('by_key', '13:54000 14:54000 15:54000', 'keys that are too long for the index');
ok_letters('by_value', '13:54000 16:22003', 'a value');
is(sql(q(SELECT error, detail, column_name IS NULL, context ~ 'picky' FROM kappa.dead_letters WHERE view = 'by_function'::regclass AND pos = 12)),
	'not 13|It is unlucky.|t|t', 'what an exception says is in the letter');
like(sql(q(SELECT error FROM kappa.dead_letters WHERE view = 'by_key'::regclass AND pos = 14)), qr/index row size .*"by_key/, 'and the index');

# ---- The fault of the system. ----

make_topic('mild');
sql(q(
CREATE TABLE mood (code text);
CREATE FUNCTION in_mood(n bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS
	$$ DECLARE c text; BEGIN
	SELECT code INTO c FROM public.mood; IF c IS NOT NULL THEN RAISE EXCEPTION 'mood %', c USING ERRCODE = c; END IF;
	RETURN n; END $$;
SELECT kappa.create_view('moody', 'SELECT in_mood(n) AS n FROM mild');
SELECT kappa.create_view('calm', 'SELECT n FROM mild');
));
produce('mild', messages(0));
ok_letters($_, '') foreach qw(moody calm);
my $n = 0;
foreach my $code (qw(53100 53200 40P01 40001 55P03 57014 58030 08006 42501))
{
	sql("INSERT INTO mood VALUES ('$code')");
	produce('mild', messages(++$n));
	state_becomes('moody', 'retrying', "mood $code");
	is(sql(q(SELECT kappa.wait_for('calm', '30 s'))), 't', "a neighbour goes on beside $code");
	sql('TRUNCATE mood');
	ok_letters('moody', '', "nothing is set aside after $code");
}
sql('ALTER TABLE mood RENAME TO away');
produce('mild', messages(++$n));
state_becomes('moody', 'retrying', 'relation "public.mood" does not exist');
sql('ALTER TABLE away RENAME TO mood');
ok_letters('moody', '', 'a table that was missing has come back');
my $locker = $node->background_psql('postgres');
$locker->query_safe('BEGIN; LOCK TABLE mood');
produce('mild', messages(++$n));
state_becomes('moody', 'retrying', 'lock');
$locker->query_safe('COMMIT');
$locker->quit;
ok_letters('moody', '', 'a table that was locked is free');
is(sql('SELECT count(*), sum(n) FROM moody'), ($n + 1) . '|' . $n * ($n + 1) / 2, 'each message once');

# What fails without any message: the planner computes it beforehand.
sql(q(CREATE FUNCTION ready() RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS
	$$ BEGIN IF EXISTS (SELECT FROM public.mood) THEN RAISE EXCEPTION 'not ready'; END IF; RETURN 0; END $$;
SELECT kappa.create_view('early', 'SELECT n + ready() AS n FROM mild')));
ok_letters('early', '');
sql(q(INSERT INTO mood VALUES ('P0001'); ALTER FUNCTION ready() COST 1000));
$node->restart;
produce('mild', messages(++$n));
state_becomes('early', 'retrying', 'not ready');
sql('TRUNCATE mood');
ok_letters('early', '', 'what fails without a message is waited for');

# ---- The fault of the view's table. ----

make_topic('tables');
sql(q(
CREATE AGGREGATE tight(int) (SFUNC = int4pl, STYPE = int, COMBINEFUNC = int4pl, INITCOND = 0);
CREATE TABLE known (n bigint PRIMARY KEY);
SELECT kappa.create_view('checked', 'SELECT n FROM tables');
SELECT kappa.create_view('distinct_n', 'SELECT n FROM tables');
SELECT kappa.create_view('referring', 'SELECT k, max(n) AS n FROM tables GROUP BY k');
SELECT kappa.create_view('overflowing', 'SELECT tight(n::int) AS s FROM tables');
SELECT kappa.create_view('free', 'SELECT n FROM tables');
));
my @guarded = qw(checked distinct_n referring overflowing);
produce('tables', [ { value => { n => 2_000_000_000, k => 'a' } } ]);
ok_letters($_, '') foreach @guarded;
sql(q(SET client_min_messages = error;
INSERT INTO known VALUES (2000000000);
ALTER TABLE checked ADD CONSTRAINT small CHECK (n > 1000000000);
CREATE UNIQUE INDEX ON distinct_n (n);
ALTER TABLE referring ADD FOREIGN KEY (n) REFERENCES known));
produce('tables', [ map { { value => { n => $_, k => "k$_" } } } 1_000_000_001, 2_000_000_000, 5 ]);
state_becomes('checked', 'stopped', 'violates check constraint "small".*tried 3 times, topic "tables", partition 0, at offset 3');
state_becomes('distinct_n', 'stopped', 'duplicate key value violates unique constraint.*at offset 2');
state_becomes('referring', 'stopped', 'violates foreign key constraint.*at offset 1');
state_becomes('overflowing', 'stopped', 'integer out of range.*at offset 1');
ok_letters('free', '', 'a neighbour goes on');
is(join(' ', map { letters($_) } @guarded), '   ', 'nothing is set aside');
is(sql('SELECT string_agg(x, $$ $$) FROM (VALUES ((SELECT string_agg(n::text, $$,$$) FROM checked)), ((SELECT s::text FROM overflowing))) v (x)'),
	'2000000000 2000000000', 'and nothing applied');
sql(q(ALTER TABLE checked DROP CONSTRAINT small; DROP INDEX distinct_n_n_idx; INSERT INTO known VALUES (1000000001), (5);
	SELECT kappa.resume_view(v) FROM unnest('{checked,distinct_n,referring}'::regclass[]) v));
ok_letters($_, '', "$_ goes on when the cause is gone") foreach qw(checked distinct_n referring);
sql(q(SELECT kappa.resume_view('overflowing')));
state_becomes('overflowing', 'stopped', 'integer out of range', 'what has not changed stops it again');

# ---- The fault of a batch: its messages fail together, and not in their order. ----

make_topic('sums');
sql(q(SELECT kappa.create_view('summed', 'SELECT k, tight(n::int) AS s, count(*) AS c FROM sums GROUP BY k');
SELECT kappa.create_view('beside', 'SELECT n FROM sums')));
produce('sums', [ { value => { n => -2_000_000_000, k => 'a' } } ]);
ok_letters($_, '') foreach qw(summed beside);
sql(q(SELECT kappa.pause_view('summed')));
produce('sums', [ (map { { value => { n => $_ % 4 < 2 ? 2_000_000_000 : -2_000_000_000, k => 'a' } } } 0 .. 999), { value => { n => 'bad', k => 'b' } } ]);
sql(q(SELECT kappa.resume_view('summed')));
ok_letters('summed', '1001:22P02', 'messages that fail together are applied one by one');
is(sql('SELECT * FROM summed'), 'a|-2000000000|1001', 'each once');
ok_letters('beside', '1001:22P02', 'a neighbour goes on beside them');
produce('sums', [ map { { value => { n => 2_000_000_000, k => 'a' } } } 1 .. 3 ]);
state_becomes('summed', 'stopped', 'integer out of range.*tried 3 times', 'what overflows in its order, too, stops the view');
is(letters('summed'), '1001:22P02', 'and nothing is set aside for it');
ok_letters('beside', '1001:22P02', 'a neighbour goes on');

# ---- How much work it is to find them. ----

# Every part of a batch that is tried is a transaction that is rolled back.
sub rollbacks
{
	$node->restart;
	return sql(q(SELECT xact_rollback FROM pg_stat_database WHERE datname = 'postgres'));
}

sub found_with
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	my ($query, $wanted, $limit, $name) = @_;
	my $before = rollbacks();

	sql("SELECT kappa.create_view('searched', '$query')");
	is(sql(q(SELECT kappa.wait_for('searched', '60 s'))), 't', "$name: searched");
	is(sql(q(SELECT count(*) FROM kappa.dead_letters WHERE view = 'searched'::regclass)), $wanted, "$name: $wanted letters");
	verified($node, 'searched');
	sql(q(SELECT kappa.drop_view('searched')));
	my $used = rollbacks() - $before;
	note("$name: $used transactions");
	return cmp_ok($used, '<', $limit, "$name: found with $used statements");
}

make_topic('lots');
my $long = join('', map { chr(33 + int(rand 90)) } 1 .. 6000);
produce('lots', [ map { { value => { n => $_, k => $_ % 100 == 7 ? "$long$_" : $_ % 20, small => $_ % 10 == 3 ? 'three' : $_ == 5000 ? -1 : $_ } } } 0 .. 9999 ]);
found_with('SELECT 1 / (n - 5000) AS n FROM lots', 1, 40, 'one bad message among 10 000');
found_with('SELECT small FROM lots', 1000, 1100, 'a thousand that cannot be converted');
found_with('SELECT n, 1 / (n % 10) AS i FROM lots', 1000, 2100, 'a thousand over which an expression fails');
found_with('SELECT k, count(*) AS c FROM lots GROUP BY k', 100, 2000, 'a hundred whose error comes late');

$node->stop('fast');
done_testing();
