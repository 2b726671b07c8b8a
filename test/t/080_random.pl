
# Random queries over random streams: each view against the same query run by
# plain PostgreSQL over the same messages.  Views are made before, between and
# after bursts of messages, so that batches end anywhere; workers are ended and
# killed, views paused, resumed and rebuilt at random moments.
#
# KAPPA_SEED repeats the choices of a run (not its moments), KAPPA_QUERIES says how
# many queries, KAPPA_ROUND runs one round of them, and KAPPA_ONLY, a list of
# their numbers, makes only these views.

use strict;
use warnings;

use KappaTest;
use List::Util qw(min shuffle);
use PostgreSQL::Test::Utils;
use RandomQuery;
use RandomStream;
use Test::More;
use Time::HiRes qw(time);

my $seed = $ENV{KAPPA_SEED} // int rand 1e9;
my $queries = $ENV{KAPPA_QUERIES} // 200;
my $per_round = 50;
my $only = $ENV{KAPPA_ONLY} && { map { $_ => 1 } split /[ ,]+/, $ENV{KAPPA_ONLY} };
my $started = time;

note "KAPPA_SEED=$seed KAPPA_QUERIES=$queries";

my $kafka = start_kafka();
my $node = new_node(
	conf => q(
restart_after_crash = on
jit = off
kappa.retry_max_delay = 1s
kappa.metadata_interval = 300ms
log_min_messages = warning
log_line_prefix = '%m [%p] %b %q%e '
) . ($ENV{KAPPA_CONF} // ''));

sub sql { return $node->safe_psql('postgres', @_); }

# What queries refer to beside the topics; users' aggregates, too.
sql(q(
CREATE ROLE alice;
CREATE USER MAPPING FOR alice SERVER events;
GRANT USAGE ON FOREIGN SERVER events TO alice;
CREATE SCHEMA "Odd Schema";
GRANT ALL ON SCHEMA "Odd Schema", public TO alice;
CREATE SCHEMA plain;
ALTER DATABASE postgres SET search_path = "Odd Schema", public;
SET search_path = "Odd Schema", public;
CREATE EXTENSION citext SCHEMA public;
CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TYPE mood AS ENUM ('sad', 'calm', 'glad');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN nickname AS text COLLATE "C" CHECK (length(value) < 200);
CREATE DOMAIN natural_number AS int CHECK (value > -100000000);

CREATE TABLE countries (code text PRIMARY KEY, name text, rank int, tax numeric);
INSERT INTO countries VALUES ('DE', 'Deutschland', 1, 0.19), ('FR', 'France', 2, 0.20), ('NL', 'Nederland', 3, 0.21), ('', 'nowhere', 4, NULL), ('US', NULL, 5, 0.1);
CREATE TABLE places (code text, name text, rank int, tax numeric) PARTITION BY LIST (rank);
CREATE TABLE places_1 PARTITION OF places FOR VALUES IN (1, 2);
CREATE TABLE places_2 PARTITION OF places DEFAULT;
INSERT INTO places TABLE countries;
CREATE VIEW names AS SELECT code, upper(name) AS name FROM countries WHERE rank < 5;
GRANT SELECT ON ALL TABLES IN SCHEMA "Odd Schema" TO alice;
ANALYZE;

CREATE FUNCTION close_to(a float8[], b float8[]) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
	SELECT a IS NOT NULL AND b IS NOT NULL AND NOT EXISTS (
		SELECT FROM unnest(a, b) AS u(x, y)
		WHERE x IS DISTINCT FROM y
			AND NOT coalesce(abs(x) < 'Infinity' AND abs(y) < 'Infinity'
				AND abs(x - y) <= 1e-9 * greatest(abs(x), abs(y)) + 1e-6, false)) $$;
CREATE FUNCTION public.ignore() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE FUNCTION shout(text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT upper($1) || '!' $$;

CREATE FUNCTION add_square(numeric, numeric) RETURNS numeric LANGUAGE sql IMMUTABLE AS 'SELECT coalesce($1, 0) + coalesce($2 * $2, 0)';
CREATE AGGREGATE sum_of_squares(numeric) (SFUNC = add_square, STYPE = numeric, COMBINEFUNC = numeric_add, INITCOND = '0');
CREATE AGGREGATE largest(bigint) (SFUNC = int8larger, STYPE = bigint, COMBINEFUNC = int8larger);
CREATE FUNCTION double_it(bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT 2 * $1';
CREATE AGGREGATE twice_the_count(*) (SFUNC = int8inc, STYPE = bigint, COMBINEFUNC = int8pl, FINALFUNC = double_it, INITCOND = '0');
CREATE FUNCTION lesser(anyelement, anyelement) RETURNS anyelement LANGUAGE sql IMMUTABLE AS 'SELECT least($1, $2)';
CREATE AGGREGATE smallest(anyelement) (SFUNC = lesser, STYPE = anyelement, COMBINEFUNC = lesser);
CREATE FUNCTION weigh(pair, int, text) RETURNS pair LANGUAGE sql IMMUTABLE AS 'SELECT ROW(greatest(($1).a, $2), least(($1).b, $3))::pair';
CREATE FUNCTION weigh_both(pair, pair) RETURNS pair LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
	RETURN ROW(greatest(($1).a, ($2).a), least(($1).b, ($2).b))::pair;
END $$;
CREATE FUNCTION weighed(pair) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT concat(($1).a, '/', ($1).b) $$;
CREATE AGGREGATE extremes(int, text) (SFUNC = weigh, STYPE = pair, COMBINEFUNC = weigh_both);
CREATE AGGREGATE extremes_text(int, text) (SFUNC = weigh, STYPE = pair, COMBINEFUNC = weigh_both, FINALFUNC = weighed, INITCOND = '(5,x)');
CREATE FUNCTION collect(text[], text) RETURNS text[] LANGUAGE sql IMMUTABLE AS $$ SELECT ARRAY(SELECT x FROM unnest($1 || $2) AS x GROUP BY x ORDER BY x COLLATE "C" LIMIT 5) $$;
CREATE FUNCTION collect_both(text[], text[]) RETURNS text[] LANGUAGE sql IMMUTABLE AS $$ SELECT ARRAY(SELECT x FROM unnest($1 || $2) AS x GROUP BY x ORDER BY x COLLATE "C" LIMIT 5) WHERE num_nulls($1, $2) < 2 $$;
CREATE AGGREGATE first_words(text) (SFUNC = collect, STYPE = text[], COMBINEFUNC = collect_both);
));
my ($aggregates, $left_out) = find_aggregates($node);
note scalar(@$aggregates) . ' aggregates; left out: ' . (join(', ', @$left_out) || 'none');

my %count = map { $_ => 0 } qw(clean wrong refused invalid snapshot verified);
my %reasons;     # of refusals
my %clean;       # by kind
my @invalid;     # views that fail by right

# ---- Settings ----

my @zones = ('UTC', 'Europe/Berlin', 'America/New_York', 'Asia/Kolkata', 'Australia/Lord_Howe', '-03:30');
my @planner = qw(hashagg hashjoin mergejoin nestloop sort indexscan bitmapscan seqscan material memoize);
my @styles = ('ISO, MDY', 'ISO, DMY', 'SQL, DMY', 'German', 'Postgres, MDY');

# A view keeps those of the session that makes it.
sub random_settings
{
	return '' if chance(0.4);
	return "SET timezone = '" . pick(@zones) . "'; SET datestyle = '" . pick(@styles) . "'; SET intervalstyle = '"
	  . pick('postgres', 'iso_8601', 'sql_standard') . "'; SET extra_float_digits = " . pick(1, 0, -2) . "; SET bytea_output = '" . pick('hex', 'escape') . "';";
}

# ---- One script for many statements ----

# Runs statements that may fail, { number => sql }.  Returns for each
# { state => SQLSTATE, message, rows => [...] }.
sub run_all
{
	my (%statements) = @_;
	my %result;
	my $script = '';
	my ($out, $err);

	foreach my $n (sort { $a <=> $b } keys %statements)
	{
		my $s = $statements{$n};
		$script .= "\\echo \@\@ $n\n$s->{settings}\n$s->{sql}\n\\echo \@= :SQLSTATE :LAST_ERROR_MESSAGE\nRESET ALL;\n";
	}
	$node->psql('postgres', "\\set SHOW_CONTEXT never\n$script",
		stdout => \$out, stderr => \$err, on_error_stop => 0, timeout => 600);
	foreach my $part (split /^\@\@ /m, $out)
	{
		my ($n, $rows, $state, $message) = $part =~ /\A(\d+)\n(.*?)^\@= (\S+) (.*)\z/ms or next;

		chomp $message;
		$message = '' if $state eq '00000';
		$result{$n} = { state => $state, message => $message, rows => [ split /\n/, $rows ] };
	}
	die $err if $err =~ /syntax error|configuration parameter|invalid value for parameter/;
	$result{$_} //= { state => 'gone', message => "no answer: $err", rows => [] } foreach keys %statements;
	return \%result;
}

# ---- Making views ----

sub create_views
{
	my (@views) = @_;
	my $result = run_all(
		map {
			$_->{number} => {
				settings => "SET ROLE $_->{owner}; $_->{settings} SET client_min_messages = error;",
				sql => "SELECT kappa.create_view('public.v$_->{number}', \$q\$$_->{kappa}\$q\$, '$_->{start}');" }
		} @views);

	my @made = grep { note_creation($_, $result->{ $_->{number} }) } @views;

	# With a trigger, other statements do it.
	$node->safe_psql('postgres', join('', map { "CREATE TRIGGER watch AFTER INSERT OR UPDATE OR DELETE ON public.v$_->{number} FOR EACH ROW EXECUTE FUNCTION public.ignore();" } grep { $_->{number} % 4 == 0 } @made));
	return @made;
}

# Returns whether the view is there.
sub note_creation
{
	my ($view, $result) = @_;
	my $message = $result->{message};

	return 1 if $result->{state} eq '00000';
	if ($result->{state} eq '0A000' || ($view->{kind} eq 'refused' && $result->{state} =~ /^42/))
	{
		$message =~ s/"(?:[^"]|"")*"/.../g;
		$message =~ s/(aggregate|function) \S.*? (is|cannot|reads|depends)/$1 ... $2/;
		$count{refused}++;
		$reasons{$message}++;
		return 0;
	}
	$view->{error} = "$result->{state} $message";
	return 0;
}

# What PostgreSQL does not run either, over these messages, is no query; that
# must be rare.
sub check_errors
{
	my @views = grep { $_->{error} } @_;
	my $result = run_all(map { $_->{number} => { settings => "SET search_path = plain, \"Odd Schema\", public; $_->{settings}", sql => "SELECT count(x) FROM ($_->{plain}) AS x;" } } @views);

	foreach my $view (@views)
	{
		my $state = $result->{ $view->{number} }{state};

		if ($state eq '00000')
		{
			$count{wrong}++;
			fail(describe($view));
			diag($view->{error});
			next;
		}
		$count{invalid}++;
		push @invalid, "v$view->{number}";
		note 'not a query: ' . describe($view) . "\n$result->{$view->{number}}{message}";
	}
	return;
}

sub describe
{
	my ($view) = @_;

	return "KAPPA_SEED=$seed KAPPA_QUERIES=$queries KAPPA_ROUND=$view->{round} KAPPA_ONLY=$view->{number}, owner $view->{owner}, start $view->{start}: $view->{settings}\n$view->{kappa}";
}

# ---- Comparing ----

# The columns and rows that differ between a relation and a query.  Rows with
# sums of floats are matched by their other columns.
sub difference
{
	my ($view, $relation) = @_;
	my @inexact = grep { $_->{inexact} } @{ $view->{outputs} };
	my @exact = grep { !$_->{inexact} } @{ $view->{outputs} };
	my $row = $view->{as_text} ? 'x::text' : join(', ', map { $_->{type} eq 'json' ? "$_->{name}::text" : $_->{name} } @exact);
	my $columns = "SELECT attnum, attname, format_type(atttypid, atttypmod), attcollation FROM pg_attribute WHERE attnum > 0 AND attrelid =";
	my $start = qq(
		DROP VIEW IF EXISTS answer;
		CREATE TEMP VIEW answer AS $view->{plain};
		\\if :ERROR
		\\else
		SELECT 'column: ' || c::text FROM ($columns '$relation'::regclass EXCEPT $columns 'answer'::regclass) AS c;);
	my $end = "\\endif\n";

	return qq(
		$start
		WITH kept AS MATERIALIZED (SELECT $row FROM $relation AS x),
			wanted AS MATERIALIZED (SELECT $row FROM answer AS x)
		SELECT 'view:  ' || d::text FROM (SELECT * FROM kept EXCEPT ALL SELECT * FROM wanted) d
		UNION ALL
		SELECT 'query: ' || d::text FROM (SELECT * FROM wanted EXCEPT ALL SELECT * FROM kept) d
		LIMIT 20;
		$end) unless @inexact;

	my $exact = join(', ', '0', map { "x.$_->{name}" . ($_->{type} eq 'json' ? '::text' : '') } @exact);
	my $floats = join(', ', map { "x.$_->{name}" } @inexact);
	my $list = "ROW($exact) AS e, row_number() OVER (PARTITION BY $exact ORDER BY $floats) AS n, ARRAY[$floats]::float8[] AS f, x::text AS t";
	return qq(
		$start
		WITH kept AS MATERIALIZED (SELECT $list FROM $relation AS x),
			wanted AS MATERIALIZED (SELECT $list FROM answer AS x)
		SELECT 'view: ' || coalesce(kept.t, '-') || ' query: ' || coalesce(wanted.t, '-')
		FROM kept FULL JOIN wanted ON kept.e = wanted.e AND kept.n = wanted.n
		WHERE NOT close_to(kept.f, wanted.f)
		LIMIT 20;
		$end);
}

# Compare relations with the queries of their views, { view, relation, start,
# end }; tell of those that differ.
sub compare
{
	my ($what, @pairs) = @_;
	my $number = 0;
	my $planner = join(' ', "SET work_mem = '64MB';", map { "SET enable_$_ = on;" } @planner);
	my $result = run_all(
		map {
			$number++ => {
				settings => "SET search_path = plain, \"Odd Schema\", public; SET plain.start = '$_->{start}'; SET plain.beyond = '$_->{end}'; $planner $_->{view}{settings}",
				sql => difference($_->{view}, $_->{relation}) }
		} @pairs);

	foreach my $i (0 .. $#pairs)
	{
		my $view = $pairs[$i]{view};
		my $r = $result->{$i};

		if ($r->{state} eq '00000' && !@{ $r->{rows} })
		{
			$count{ $what eq 'views' ? 'clean' : 'snapshot' }++;
			$clean{ $view->{kind} }++ if $what eq 'views';
			next;
		}
		$count{wrong}++;
		fail("$what: " . describe($view));
		diag("from $pairs[$i]{start} to $pairs[$i]{end}", $view->{rebuilt} ? ', rebuilt' : '', "\n$view->{plain}\n$r->{state} $r->{message}\n", join("\n", @{ $r->{rows} }), "\n",
			$node->safe_psql('postgres', "SELECT kappa.explain('v$view->{number}')"));
	}
	return;
}

# kappa's own comparison of some views.
sub verify
{
	my (@views) = @_;
	my @some = grep { my $v = $_; chance(0.25) && !grep { $_->{inexact} } @{ $v->{outputs} } } @views;
	my $result = run_all(map { $_->{number} => { settings => '', sql => "SELECT kappa.verify('v$_->{number}');" } } @some);

	foreach my $view (@some)
	{
		my $r = $result->{ $view->{number} };

		$count{verified}++;
		next if $r->{state} eq '00000' && "@{ $r->{rows} }" eq '0';
		$count{wrong}++;
		fail('kappa.verify: ' . describe($view));
		diag("$r->{state} $r->{message} @{ $r->{rows} }\n", sql("SELECT d::text FROM kappa.diff_view('v$view->{number}', 10) AS d"));
	}
	return;
}

# ---- Disturbing ----

sub terminate_worker
{
	my ($pid) = kappa_pids($node, 'kappa worker');

	sql("SELECT pg_terminate_backend($pid)") if $pid;
	return;
}

# The postmaster ends all processes and starts anew.
sub kill_worker
{
	my ($pid) = shuffle kappa_pids($node, 'kappa worker');

	return unless $pid && kill 'KILL', $pid;
	wait_for($node, "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid");
	$count{kills}++;
	return;
}

# Rows and positions of some views, in one snapshot, for later.
sub take_snapshot
{
	my (@views) = @_;
	my $sql = "BEGIN ISOLATION LEVEL REPEATABLE READ;\n";

	foreach my $view (@views)
	{
		my $name = "s$view->{number}_" . ++$view->{snapshots};
		$sql .= "CREATE TABLE $name AS SELECT * FROM v$view->{number};\n"
		  . "CREATE TABLE ${name}_at AS SELECT array_agg(coalesce(start_offset, 0) ORDER BY part) AS s, array_agg(coalesce(next_offset, 0) ORDER BY part) AS e FROM kappa.offsets WHERE view = 'v$view->{number}'::regclass;\n";
	}
	sql("$sql COMMIT;");
	return;
}

sub pause_and_resume
{
	my ($view) = @_;

	sql("SELECT kappa.pause_view('v$view->{number}')");
	sql("SELECT kappa.resume_view('v$view->{number}')");
	return;
}

sub rebuild_one
{
	my ($view) = @_;
	my $how = pick('auto', 'storage', 'rows');
	my ($out, $err);

	$node->psql('postgres', "SELECT kappa.rebuild('v$view->{number}', '$how')", stdout => \$out, stderr => \$err);
	note "rebuild of v$view->{number}: $err" if $err;
	$view->{rebuilt} = !$err;
	return if $err || !chance(0.2);
	$node->psql('postgres', "SELECT kappa.cancel_rebuild('v$view->{number}')", stdout => \$out, stderr => \$err);
	$view->{rebuilt} = 0;
	return;
}

# What an owner may do to the table.
sub maintain
{
	my ($view) = @_;
	my $table = "v$view->{number}";
	my ($out, $err);

	$node->psql(
		'postgres',
		pick("VACUUM FULL $table", "VACUUM $table", "ANALYZE $table", "REINDEX TABLE $table",
			"CREATE INDEX ON $table ($view->{outputs}[0]{name})", "ALTER TABLE $table SET (fillfactor = 50)"),
		stdout => \$out,
		stderr => \$err);
	return;
}

sub disturb
{
	my ($kill, @views) = @_;

	return kill_worker() if $kill;
	return unless @views;
	my $what = weighted(snapshot => 4, terminate => 2, pause => 2, rebuild => 3, maintain => 3, nothing => 1);
	my @some = grep { defined } (shuffle @views)[ 0 .. 3 ];

	take_snapshot(@some) if $what eq 'snapshot';
	terminate_worker() if $what eq 'terminate';
	pause_and_resume($some[0]) if $what eq 'pause';
	rebuild_one($_) foreach $what eq 'rebuild' ? @some : ();
	maintain($_) foreach $what eq 'maintain' ? @some : ();
	return;
}

# ---- Rounds ----

sub make_queries
{
	my ($round) = @_;
	my @made;

	foreach my $number ($round * $per_round + 1 .. min(($round + 1) * $per_round, $queries))
	{
		reseed($seed, 'query', $number);
		my $query = random_query($aggregates);

		$query->{number} = $number;
		$query->{round} = $round;
		$query->{settings} = random_settings();
		$query->{owner} = pick('none', 'none', 'none', 'alice');
		$query->{start} = chance(0.08) ? 'latest' : 'earliest';
		push @made, $query;
	}
	return @made;
}

sub set_batches
{
	my ($rows) = @_;

	sql("ALTER SYSTEM SET kappa.batch_rows = $rows");
	sql("ALTER SYSTEM SET kappa.batch_interval = '" . pick(0, 5, 100) . "ms'");
	sql('ALTER SYSTEM SET kappa.max_workers = ' . pick(2, 4));
	sql('ALTER SYSTEM SET kappa.replay_min_messages = ' . pick(-1, 1, 10, 200));
	sql('ALTER SYSTEM SET kappa.rebuild_workers = ' . pick(1, 2, 3));
	sql("ALTER SYSTEM SET work_mem = '" . pick(64, 4096) . "kB'");
	sql("ALTER SYSTEM SET enable_$_ = " . (chance(0.2) ? 'off' : 'on'))
	  foreach @planner;
	sql('SELECT pg_reload_conf()');
	return;
}

# Wait until all views have what was sent; returns those that do not.  A view
# that has met a message that it cannot take need not be waited for.
sub await_views
{
	my @late = @_;
	my $deadline = time + 300;

	while (@late && time < $deadline)
	{
		my $result = run_all(
			map { $_->{number} => { settings => '', sql => ($_->{rebuilt} ? "SELECT kappa.wait_for_rebuild('v$_->{number}', '10 s');" : '') . "SELECT kappa.wait_for('v$_->{number}', '10 s');" } } @late);

		delete $_->{error} foreach @late;
		@late = grep { my $r = $result->{ $_->{number} }; $r->{state} ne '00000' || grep { $_ ne 't' } @{ $r->{rows} } } @late;
		$_->{error} = $result->{ $_->{number} }{message} . ' '
		  . sql("SELECT concat_ws(' ', v.state, v.sqlstate, v.reason, r.phase, r.waiting_for) FROM kappa.views v LEFT JOIN kappa.rebuilds r USING (view) WHERE v.view = 'v$_->{number}'::regclass")
		  foreach @late;
		last unless grep { $_->{error} !~ / 22\S\S\S / } @late;
	}
	return @late;
}

sub start_offsets
{
	my (@views) = @_;
	my %start = map { split /\|/ } split /\n/, sql('SELECT substr(view::text, 2), array_agg(coalesce(start_offset, 0) ORDER BY part) FROM kappa.offsets GROUP BY view');

	return \%start;
}

sub snapshots
{
	my (@views) = @_;
	my @pairs;

	foreach my $view (@views)
	{
		foreach my $i (1 .. $view->{snapshots} // 0)
		{
			my $relation = "s$view->{number}_$i";
			my ($start, $end) = split /\|/, sql("SELECT s, e FROM ${relation}_at");
			push @pairs, { view => $view, relation => $relation, start => $start, end => '{' . join(',', $end =~ /\d+/g, (0) x 20) . '}' };
		}
	}
	return @pairs;
}

sub drop_all
{
	my (@views) = @_;

	sql(join('', map { my $n = $_->{number}; ("DROP TABLE v$n;\n", map { "DROP TABLE s${n}_$_, s${n}_${_}_at;\n" } 1 .. $_->{snapshots} // 0) } @views) . 'DROP SCHEMA plain CASCADE; CREATE SCHEMA plain;');
	return;
}

sub run_round
{
	my ($round, $kill) = @_;
	my $stream = RandomStream->new($seed, $round);
	my @waiting = grep { !$only || $only->{ $_->{number} } } make_queries($round);
	my (@tried, @views, @producers);

	reseed($seed, 'round', $round);
	my $rows = pick(30, 100, 400, 3000);
	my $steps = 6;
	my $at = int rand $steps;

	set_batches($rows);
	$stream->create($node);
	foreach my $step (0 .. $steps - 1)
	{
		my $part = $step == $steps - 1 ? @waiting : pick(0, 0, @waiting / 2, @waiting);
		my @new = splice @waiting, 0, $part;

		$_->finish foreach @producers;
		$stream->grow if chance(0.1);
		@producers = $stream->burst(int((0.2 + rand) * min(1500, 15 * $rows) / 3)) if $step < $steps - 1;
		push @tried, @new;
		push @views, create_views(@new);
		disturb($kill && $step == $at, @views);
		reseed($seed, 'step', $round, $step);
	}
	$_->finish foreach @producers;

	my $wrong = $count{wrong};
	my %late = map { $_->{number} => 1 } await_views(@views);
	my @there = grep { !$late{ $_->{number} } } @views;
	my $start = start_offsets();
	$stream->load($node);
	check_errors(@tried);
	compare('views', map { { view => $_, relation => "v$_->{number}", start => $start->{ $_->{number} } // '', end => '' } } @there);
	compare('snapshots', snapshots(@there));
	verify(@there);
	is($count{wrong} - $wrong, 0, sprintf 'round %d: %d of %d queries are kept, and equal', $round, scalar @there, scalar @tried);
	note sprintf '%.0f s, %d partitions, batches of %d, %s messages', time - $started, $stream->{partitions}, $rows, sql('SELECT count(*) FROM plain.raw_events');
	drop_all(@views);
	return;
}

my $rounds = int(($queries + $per_round - 1) / $per_round);
foreach my $round (defined $ENV{KAPPA_ROUND} ? $ENV{KAPPA_ROUND} : 0 .. $rounds - 1)
{
	run_round($round, $round % 4 == 1);
}

# ---- The sum of it ----

my $log = slurp_file($node->logfile);
my @crashes = grep { /TRAP|PANIC|was terminated by signal/ && !/signal 9/ } split /\n/, $log;
my @internal = grep { / XX\d\d\d / } split /\n/, $log;

is(join("\n", @crashes), '', 'no process crashed by itself');
is(join("\n", @internal), '', 'no internal error');
my $invalid = join(', ', map { "'public.$_'" } 'nothing', @invalid);
is( sql(qq(SELECT concat_ws(' ', view_name, event, sqlstate, detail) FROM kappa.events
		WHERE event IN ('failed', 'stopped') AND view_name NOT IN ($invalid)
			AND sqlstate NOT IN ('55P03', '40P01'))),
	'',
	'no view failed');
is($count{wrong}, 0, "$count{clean} queries clean, $count{snapshot} snapshots, $count{verified} verified");
note join(', ', map { "$_: $clean{$_}" } sort keys %clean);
note sprintf '%d refused (%.0f %%):', $count{refused}, 100 * $count{refused} / $queries;
note sprintf '%5d %s', $reasons{$_}, $_ foreach sort { $reasons{$b} <=> $reasons{$a} || $a cmp $b } keys %reasons;
cmp_ok($count{refused}, '<=', 0.2 * $queries, 'most queries are kept') unless $only;
cmp_ok($count{invalid}, '<=', 0.02 * $queries, "$count{invalid} were no queries");

$node->stop('fast');
done_testing();
