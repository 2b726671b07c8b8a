
# docs/reference.md and the installed extension list the same functions, views,
# columns, tables, parameters and options; and every object has a comment.

use strict;
use warnings;

use File::Basename;
use KappaTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $top = dirname(__FILE__) . '/../..';
my $page = slurp_file("$top/docs/reference.md");
my $node = new_node(bare => 1);

$node->safe_psql('postgres', 'CREATE EXTENSION kappa');

sub lines
{
	return split /\n/, $node->safe_psql('postgres', @_);
}

# A test: two lists have the same members.
sub same_list
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	my ($documented, $found, $name) = @_;
	my %documented = map { $_ => 1 } @$documented;
	my %found = map { $_ => 1 } @$found;

	cmp_ok(scalar @$found, '>', 0, "$name: there are some");
	is_deeply([ sort grep { !$documented{$_} } @$found ],
		[], "$name: all are in the reference");
	is_deeply([ sort grep { !$found{$_} } @$documented ],
		[], "$name: the reference has no others");
	return is(scalar @$documented, scalar keys %documented, "$name: each once");
}

# The text below a heading.
sub section
{
	my ($heading) = @_;

	my ($text) = $page =~ /^#+ \Q$heading\E\n(.*?)(?=^#|\z)/ms;
	return $text // '';
}

# ---- Functions: names and types of arguments, defaults, results. ----

same_list(
	[ $page =~ /^(?:### |\| )`(kappa\.\w+\([^`]*\) → [^`]+)`/mg ],
	[
		lines(
			q(SELECT format('kappa.%s(%s) → %s', proname,
				regexp_replace(regexp_replace(pg_get_function_arguments(p.oid), ',? ?\mOUT [^,]+', '', 'g'),
					'(DEFAULT (''[^'']*''|NULL))::[a-z]+', '\1', 'g'),
				pg_get_function_result(p.oid)
				|| coalesce((SELECT ' (' || string_agg(format('%s %s', name, format_type(type, NULL)), ', ' ORDER BY i) || ')'
					FROM unnest(proargnames, proallargtypes, proargmodes) WITH ORDINALITY AS u (name, type, mode, i)
					WHERE mode = 'o'), ''))
			FROM pg_proc p WHERE pronamespace = 'kappa'::regnamespace))
	],
	'functions');

# ---- Views, with columns and types in order; tables with columns. ----

same_list([ $page =~ /^### `(kappa\.\w+)`$/mg ],
	[ lines(q(SELECT 'kappa.' || relname FROM pg_class WHERE relkind = 'v' AND relnamespace = 'kappa'::regnamespace)) ],
	'views');
foreach my $view ($page =~ /^### `(kappa\.\w+)`$/mg)
{
	is( join("\n", section("`$view`") =~ /^\| (`\w+` \| [^|]+) \|/mg),
		join("\n", lines(qq(SELECT format('`%s` | %s', attname, format_type(atttypid, atttypmod))
			FROM pg_attribute WHERE attrelid = '$view'::regclass AND attnum > 0 ORDER BY attnum))),
		"the columns of $view");
}
same_list([ section('Tables') =~ /^\| `(kappa\.[^`]+)`/mg ],
	[ lines(q(SELECT format('kappa.%s (%s)', relname, string_agg(attname, ', ' ORDER BY attnum))
		FROM pg_class c JOIN pg_attribute a ON attrelid = c.oid AND attnum > 0
		WHERE relkind = 'r' AND relnamespace = 'kappa'::regnamespace GROUP BY relname)) ],
	'tables');

# ---- Aggregates that are kept, and those that are not, by name. ----

my $queries = slurp_file("$top/docs/queries.md");
my @aggregates = (
	[ 'kept', qr/^> (.*)$/m, q(aggkind = 'n' AND aggcombinefn <> 0) ],
	[ 'not combined', qr/the list of their values: ([^|]*)/, q(aggkind = 'n' AND aggcombinefn = 0) ],
	[ 'ordered', qr/aggregates with `WITHIN GROUP`: ([^|]*)/, q(aggkind <> 'n') ]);
# The page names those of PostgreSQL 15; later versions have more, and combine more.
foreach my $list ($node->pg_version < 16 ? @aggregates : ())
{
	my ($name, $place, $condition) = @$list;
	same_list([ map { /`(\w+)`/g } $queries =~ $place ],
		[ lines(qq(SELECT DISTINCT proname FROM pg_aggregate JOIN pg_proc p ON p.oid = aggfnoid WHERE p.oid < 16384 AND $condition)) ],
		"aggregates, $name");
}

# ---- States and phases. ----

my $sources = join('', map { slurp_file($_) } glob("$top/src/*.[ch]"));
my ($states, $phases) = split /^`kappa\.rebuilds\.phase`/m, section('States');
same_list([ $states =~ /^\| `([^`]+)` \|/mg ],
	[ split /, | or /, $node->safe_psql('postgres', q(SELECT col_description('kappa.views'::regclass, attnum) FROM pg_attribute
		WHERE attrelid = 'kappa.views'::regclass AND attname = 'state')) ],
	'states');
same_list([ map { /`([^`]+)`/g } $phases =~ /^\| (`[^|]+`) \|/mg ],
	[ $sources =~ /#define KAPPA_PHASE_\w+ "([^"]+)"/g ],
	'phases');

# ---- Configuration parameters. ----

# min_val and max_val are in the unit; current_setting() writes as people do.
same_list(
	[ section('Configuration parameters') =~ /^\| (`kappa\.\w+` \|.*?) \|[^|]*\|$/mg ],
	[
		map { s/\|  \|/| |/r } lines(
			q(SELECT format('`%s` | %s | %s | %s to %s | %s', name, unit, current_setting(name), min_val, max_val, context)
			FROM pg_settings WHERE name LIKE 'kappa.%'))
	],
	'parameters');

# ---- Options, by class. ----

my %macros = (connection => 'CONNECTION', secret => 'SECRET', identity => 'IDENTITY');
my $properties = slurp_file("$top/src/fdw_properties.c");

foreach my $class (sort keys %macros)
{
	my ($row) = section('Of servers and user mappings') =~ /^\| $class \|(.*)$/m;

	same_list([ grep { !/^(pg_read_server_files|GSSAPI)$/ } $row =~ /`(\w+)`/g ],
		[ $properties =~ /^\t$macros{$class}\("(\w+)"\)/mg ], "options of class $class");
}
same_list([ map { section($_) =~ /^\| `(\w+)` \|/mg } 'Of foreign tables', 'Of columns' ],
	[ $properties =~ /^\tOWN\("(\w+)"/mg ], 'options of foreign tables and columns');

# What kappa sets in librdkafka's place stands in one function.
my ($defaults) = slurp_file("$top/src/kafka_settings.c") =~ /^set_defaults\(.*?\n\{(.*?)^\}/ms;
same_list([ section('Of servers and user mappings') =~ /^\| `(\w+)` \|/mg ],
	[ map { tr/./_/r } $defaults =~ /set_conf(?:_int)?\(client, "([a-z.]+)"/g ],
	'defaults of options');

# ---- Comments. ----

# Types that come with a table or another type are members in newer versions, too.
is( $node->safe_psql('postgres',
		q(SELECT string_agg(pg_describe_object(classid, objid, 0), ', ') FROM pg_depend d
		WHERE refclassid = 'pg_extension'::regclass AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'kappa')
		AND deptype = 'e'
		AND NOT (classid = 'pg_type'::regclass
			AND objid IN (SELECT oid FROM pg_type WHERE typrelid <> 0 OR typcategory = 'A'))
		AND obj_description(objid, (SELECT relname FROM pg_class WHERE oid = classid)) IS NULL)),
	'',
	'every object of the extension has a comment');

# ---- Links from page to page. ----

foreach my $file ("$top/README.md", glob("$top/docs/*.md"))
{
	my $text = slurp_file($file);

	foreach my $link ($text =~ /\]\(([^)\s]+)\)/g)
	{
		my ($path, $anchor) = $link =~ /^([^#]*)(?:#(.*))?$/;

		next if $path =~ /^https?:/;
		my $target = $path eq '' ? $file : dirname($file) . "/$path";
		ok(-e $target, basename($file) . " links to $link") or next;
		next unless defined $anchor;
		my @anchors = map { lc =~ tr/a-z0-9_ -//cdr =~ tr/ /-/r } slurp_file($target) =~ /^#+ (.*)$/mg;
		ok((grep { $_ eq $anchor } @anchors), "and $anchor is there");
	}
}

$node->stop('fast');
done_testing();
