
# Hostile roles: what they try, and what comes of it.  docs/security.md says
# which line of it each part stands for.

use strict;
use warnings;

use IO::Socket::INET;
use KappaTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = start_kafka();
my $node = new_node(conf => "kappa.retry_max_delay = '300ms'\n");

sub sql { return $node->safe_psql('postgres', @_); }

# As a role; a failure ends the test.
sub as { my ($role, $sql) = @_; return sql("SET ROLE $role; $sql"); }

# A test: a role is refused.
sub refused
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	my ($role, $sql, $pattern, $name) = @_;
	return fails_like($node, "SET ROLE $role; $sql", $pattern, $name);
}

# A test: a view comes to a state, with a reason like that.
sub state_becomes
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	my ($view, $state, $reason, $name) = @_;
	return ok(
		wait_for($node,
			"SELECT state = '$state' AND reason ~ \$\$$reason\$\$ FROM kappa.views WHERE view = '$view'::regclass"),
		"$name: $view is $state");
}

# alice owns views, member may act for her, mallory shares schemas with her.
sql(q(CREATE ROLE alice; CREATE ROLE member IN ROLE alice; CREATE ROLE mallory; CREATE ROLE bob; CREATE ROLE reader;
	GRANT CREATE ON SCHEMA public TO alice, bob, mallory;
	GRANT USAGE ON FOREIGN SERVER events TO alice, bob;
	CREATE SCHEMA tools; GRANT USAGE, CREATE ON SCHEMA tools TO alice, mallory));
create_topic('deeds', partitions => 1);
as('alice', q(CREATE FOREIGN TABLE deeds (n bigint, word text) SERVER events OPTIONS (topic 'deeds', format 'json')));
my $sent = 0;

sub send_deeds
{
	my ($count) = @_;
	produce('deeds', [ map { { value => { n => $sent + $_, word => 'w' . ($sent + $_) } } } 1 .. $count ]);
	$sent += $count;
	return;
}
send_deeds(5);

# ---- A function that fits better than the one that a view calls. ----

as('alice', q(CREATE FUNCTION tools.same(anyelement) RETURNS anyelement LANGUAGE sql IMMUTABLE AS 'SELECT $1';
	SELECT kappa.create_view('copies', 'SELECT n, tools.same(n) AS m FROM deeds');
	SELECT kappa.create_view('totals', 'SELECT tools.same(n) AS n, avg(n) AS a FROM deeds GROUP BY 1')));
ok_view($node, $_) for qw(copies totals);
as('mallory', q(CREATE FUNCTION tools.same(bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE
	AS $$ BEGIN RAISE WARNING 'mallory is %', current_user; RETURN -1; END $$));
sql(q(SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'kappa worker'));
send_deeds(3);
for my $view (qw(copies totals))
{
	state_becomes($view, 'retrying', '^function tools.same\(bigint\) is not one that the view\'s query calls',
		"another function of that name under $view");
	fails_like($node, "SELECT kappa.verify('$view')", qr/is not one that the view's query calls/, 'nor does kappa.verify() call it');
	fails_like($node, "SELECT kappa.rebuild('$view')", qr/is not one that the view's query calls/, 'nor a rebuild');
}
fails_like($node, q(SELECT kappa.messages_of('copies', '{"m": 1}')), qr/is not one that the view's query calls/, 'nor kappa.messages_of()');
as('mallory', 'DROP FUNCTION tools.same(bigint)');
ok_view($node, $_, name => "$_ goes on without it") for qw(copies totals);
is(sql('SELECT count(*) FROM copies WHERE m < 0'), '0', 'it was never called');
unlike(slurp_file($node->logfile), qr/mallory is (?!%)/, 'by nobody');

# ---- The owner alters what belongs to kappa. ----

as('alice', q(ALTER TABLE kappa_state.totals_v1_state ALTER COLUMN n TYPE text USING n::text));
send_deeds(2);
state_becomes('totals', 'stopped', '^columns of table "totals_v1_state" are not what they were', 'another type of a key in the state');
as('alice', q(SELECT kappa.create_view('sums', 'SELECT n % 2 AS odd, avg(n) AS a FROM deeds GROUP BY 1')));
ok_view($node, 'sums');
as('alice', q(CREATE OR REPLACE RULE "_RETURN" AS ON SELECT TO kappa_state.sums_v1 DO INSTEAD SELECT 1::bigint AS odd, 2::numeric AS a));
send_deeds(1);
state_becomes('sums', 'retrying', '^the query reads no topic', 'another definition by a rule');
as('alice', q(SELECT kappa.drop_view('sums'); SELECT kappa.rebuild('totals'); SELECT kappa.wait_for_rebuild('totals')));
ok_view($node, 'totals', name => 'a rebuild mends the state');

# ---- Functions of an owner's types, called by somebody with more rights. ----

as('alice', q(CREATE FUNCTION public.whoami(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE
		AS $$ BEGIN RAISE WARNING 'spy runs as %', current_user; RETURN true; END $$;
	CREATE DOMAIN public.spied AS text CHECK (public.whoami(value));
	SELECT kappa.create_view('spies', 'SELECT n, word::public.spied AS word FROM deeds')));
sql(q(SELECT kappa.wait_for('spies'); SELECT kappa.verify('spies'); SELECT kappa.diff_view('spies'); SELECT kappa.explain('spies');
	SELECT kappa.pause_view('spies'); SELECT kappa.resume_view('spies');
	SELECT kappa.messages_of('spies', '{"word": "w1"}');
	SET kappa.keep_previous = '1h'; SELECT kappa.rebuild('spies', switch => 'manual')));
ok(wait_for($node, q(SELECT phase FROM kappa.rebuilds WHERE view = 'spies'::regclass), 'waiting for switch_rebuild'), 'rebuilt');
sql(q(SELECT kappa.diff_rebuild('spies'); SELECT kappa.diff_rebuild_summary('spies');
	SELECT kappa.switch_rebuild('spies'); SELECT kappa.wait_for_rebuild('spies');
	SELECT kappa.rollback_view('spies'); SELECT kappa.wait_for_rebuild('spies')));
send_deeds(1);
is(sql(q(SELECT kappa.wait_for('spies'); SELECT kappa.verify('spies'))), "t\n0", 'the view has the rows of its query');
sql(q(SELECT kappa.alter_view('spies', 'SELECT n, (word || $$x$$)::public.spied AS word FROM deeds WHERE word::public.spied <> $$w1$$::public.spied');
	SELECT kappa.wait_for_rebuild('spies'); SELECT kappa.drop_view('spies')));
my @seen = slurp_file($node->logfile) =~ /spy runs as (\w+)/g;
cmp_ok(scalar @seen, '>', 20, 'the function of a domain ran');
is(join(',', sort keys %{ { map { $_ => 1 } @seen } }), 'alice', 'as the owner of the view, whoever called what');

# ---- Policies on a table that is looked up. ----

as('bob', q(CREATE TABLE shelf AS SELECT n, 'box ' || n AS box FROM generate_series(1, 100) n;
	GRANT SELECT ON shelf TO alice;
	CREATE FUNCTION public.peek(bigint) RETURNS boolean LANGUAGE plpgsql STABLE
		AS $$ BEGIN RAISE WARNING 'policy runs as %', current_user; RETURN true; END $$;
	ALTER TABLE shelf ENABLE ROW LEVEL SECURITY;
	CREATE POLICY evens ON shelf FOR SELECT USING (n % 2 = 0 AND public.peek(n))));
as('alice', q(CREATE TABLE drawer AS SELECT n FROM generate_series(1, 100) n;
	ALTER TABLE drawer ENABLE ROW LEVEL SECURITY;
	CREATE POLICY few ON drawer USING (n % 3 = 0);
	SELECT kappa.create_view('boxes', 'SELECT n, box FROM deeds JOIN shelf USING (n)');
	SELECT kappa.create_view('drawers', 'SELECT n FROM deeds JOIN drawer USING (n)')));
sub rows_of { my ($view) = @_; return sql("SELECT kappa.wait_for('$view'); SELECT count(*), count(*) FILTER (WHERE n % 2 = 0), count(*) FILTER (WHERE n % 3 = 0) FROM $view"); }
my $all = sub { my ($n) = @_; return sql("SELECT count(*) FROM generate_series(1, $sent) AS g WHERE g % $n = 0") };
is(rows_of('boxes') =~ s/^t\n(\d+\|\d+).*/$1/r, $all->(2) . '|' . $all->(2), 'a view has the rows that policies show to its owner');
is(rows_of('drawers'), "t\n$sent|" . $all->(2) . '|' . $all->(3), 'the owner of a table is not held by its policies');
verified($node, $_) foreach qw(boxes drawers);
as('alice', 'ALTER TABLE drawer FORCE ROW LEVEL SECURITY');
as('bob', 'DROP POLICY evens ON shelf; CREATE POLICY odds ON shelf FOR SELECT USING (n % 2 = 1 AND public.peek(n))');
my $before = $sent;
send_deeds(6);
sql("SELECT kappa.wait_for('$_')") foreach qw(boxes drawers);
is(sql("SELECT string_agg(n::text, ' ' ORDER BY n) FROM boxes WHERE n > $before"), join(' ', grep { $_ % 2 == 1 } $before + 1 .. $sent), 'another policy counts for what comes then');
is(sql("SELECT string_agg(n::text, ' ' ORDER BY n) FROM drawers WHERE n > $before"), join(' ', grep { $_ % 3 == 0 } $before + 1 .. $sent), 'so does FORCE');
sql(q(SELECT kappa.rebuild('drawers'), kappa.rebuild('boxes')));
is(sql("SELECT kappa.wait_for_rebuild('$_')"), 't', "$_ is rebuilt") foreach qw(boxes drawers);
verified($node, $_) foreach qw(boxes drawers);
is(sql('SELECT count(*) FROM boxes WHERE n % 2 = 0') . ' ' . sql('SELECT count(*) FROM drawers WHERE n % 3 <> 0'), '0 0', 'a rebuild, and kappa.verify by a superuser, see what the owner sees');
is(join(',', sort keys %{ { map { $_ => 1 } slurp_file($node->logfile) =~ /policy runs as (\w+)/g } }), 'alice', 'and functions of policies run as the owner of the view');
as('alice', q(SELECT kappa.drop_view('boxes'), kappa.drop_view('drawers')));

# ---- Indexes and triggers on the table of a view. ----

as('alice', q(SELECT kappa.create_view('shown', 'SELECT word, count(*) AS n FROM deeds GROUP BY word')));
ok_view($node, 'shown');
as('mallory', q(CREATE FUNCTION tools.trick(text) RETURNS text LANGUAGE plpgsql IMMUTABLE
		AS $$ BEGIN RAISE WARNING 'index runs as %', current_user; RETURN $1; END $$;
	CREATE FUNCTION tools.trap() RETURNS trigger LANGUAGE plpgsql
		AS $$ BEGIN RAISE WARNING 'trigger runs as %', current_user; RETURN NULL; END $$));
refused('mallory', 'CREATE INDEX ON shown (tools.trick(word))', qr/must be owner of table shown/, 'an index on the view of another');
refused('mallory', 'CREATE TRIGGER trap AFTER INSERT ON shown EXECUTE FUNCTION tools.trap()', qr/permission denied for table shown/, 'a trigger likewise');
as('alice', 'CREATE INDEX trick ON shown (tools.trick(word)); GRANT TRIGGER ON shown TO mallory');
as('mallory', 'CREATE TRIGGER trap AFTER INSERT ON shown EXECUTE FUNCTION tools.trap()');
send_deeds(2);
ok_view($node, 'shown');
sql('REINDEX TABLE shown; VACUUM FULL shown');
my $log = slurp_file($node->logfile);
is(join(',', sort keys %{ { map { $_ => 1 } $log =~ /((?:index|trigger) runs as \w+)/g } }), 'index runs as alice,trigger runs as alice',
	'functions of indexes and triggers run as the owner of the view');

# What they try there.
sub tries
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	my ($statement, $reason) = @_;
	as('mallory', "CREATE OR REPLACE FUNCTION tools.trap() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN $statement; RETURN NULL; END \$\$");
	send_deeds(1);
	return state_becomes('shown', 'retrying', $reason, $statement);
}
tries('RESET ROLE', 'cannot set parameter "role" within security-restricted operation');
tries('SET SESSION AUTHORIZATION DEFAULT', 'cannot set parameter "session_authorization" within security-restricted operation');
tries('CREATE TEMP TABLE t (n int)', 'cannot create temporary table within security-restricted operation');
tries('DELETE FROM kappa.position', 'permission denied for table position');
tries('CREATE ROLE more SUPERUSER', 'superuser|permission denied to create role');
tries('DELETE FROM public.shown', 'cannot change view "shown"');
tries('ALTER TABLE public.shown DISABLE TRIGGER ALL', 'because it is being used by active queries');
as('alice', 'DROP TRIGGER trap ON shown; DROP INDEX trick');
ok_view($node, 'shown', name => 'without the trap the view goes on');

# ---- Who may make the server connect, and wait. ----

as('alice', q(
	GRANT SELECT ON shown TO reader;
	CREATE VIEW public.window_on_deeds AS SELECT * FROM deeds));
ok_view($node, 'shown');
my $silent = IO::Socket::INET->new(Listen => 5, LocalAddr => '127.0.0.1', Blocking => 0) or die "no port: $!";
my $port = $silent->sockport;
sql("CREATE SERVER quiet FOREIGN DATA WRAPPER kappa OPTIONS (bootstrap_servers '127.0.0.1:$port');
	GRANT USAGE ON FOREIGN SERVER quiet TO alice");
as('alice', q(CREATE FOREIGN TABLE hidden (n bigint) SERVER quiet OPTIONS (topic 'deeds');
	CREATE VIEW behind AS SELECT * FROM hidden));

# A test: nobody has connected to the silent port.
sub nobody_came
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($name) = @_;

	return ok(!$silent->accept, $name);
}
for my $statement ('EXPLAIN SELECT * FROM hidden', 'SELECT * FROM hidden', 'EXPLAIN SELECT * FROM behind',
	'SELECT n FROM behind WHERE n > 1', q(SELECT kappa.create_view('stolen', 'SELECT n FROM hidden', 'latest')),
	q(SELECT (SELECT max(n) FROM behind) FROM (VALUES (1)) v))
{
	refused('mallory', "SET kappa.connect_timeout = '2s'; $statement", qr/permission denied for (foreign table hidden|view behind)/, "mallory: $statement");
	nobody_came('and nobody was asked');
}
sql('REVOKE USAGE ON FOREIGN SERVER quiet FROM alice');
for my $statement ('SELECT * FROM hidden', q(SELECT kappa.create_view('mine', 'SELECT n FROM hidden', 'latest')))
{
	refused('alice', $statement, qr/permission denied for foreign server "quiet"/, "without USAGE: $statement");
}
refused('mallory', q(SELECT kappa.create_view('x', 'SELECT n FROM hidden')), qr/permission denied for foreign table hidden/, 'a view of a topic that one may not read');
nobody_came('nobody was asked without USAGE');
$node->psql('postgres', q(SET ROLE alice; EXPLAIN SELECT * FROM hidden));
nobody_came('nor for EXPLAIN');
sql(q(GRANT USAGE ON FOREIGN SERVER quiet TO alice));
$node->psql('postgres', q(SET ROLE alice; SET kappa.connect_timeout = '2s'; SELECT * FROM hidden));
ok($silent->accept, 'the port would have noticed');

for my $function ('wait_for', 'wait_for_rebuild')
{
	refused('mallory', "SELECT kappa.$function('shown')", qr/permission denied for table shown/, "a stranger does not wait: $function");
}
is(as('reader', q(SELECT kappa.wait_for('shown'))), 't', 'a reader does');
is(as('member', q(SELECT kappa.wait_for('shown'))), 't', 'so does a member of the owner');

$node->stop('fast');
done_testing();
