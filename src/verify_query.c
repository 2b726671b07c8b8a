/*-------------------------------------------------------------------------
 *
 * verify_query.c
 *	  The SQL that compares a view with its query, or two versions of it
 *
 * The rows of both are put together, those of the query counting +1 and those
 * of the table -1, and grouped by all columns; groups that do not cancel out
 * are what differs.  The log is read once, and hashing and sorting go to disk
 * beyond work_mem.
 *
 * Where rows have a key, what is left is paired by it.  Only there are values
 * compared one by one: to name the columns that differ, and to forgive the
 * rounding of floating-point sums.
 *
 * In the text, u are the rows of both, d those that differ, p pairs of them.
 * Two versions are compared likewise, the new one in the place of the query.
 * The query stands in the first WITH item, which sees none of these names; the
 * names of what stands beside columns of the user's begin with "kappa".
 *
 * IDENTIFICATION
 *	  src/verify_query.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/typcache.h"

#include "verify_query.h"

/* Columns beside the view's own. */
#define COPIES "\"kappa copies\"" /* positive: the query has more; negative: the view */
#define KEY "\"kappa key\""
#define WANTED "\"kappa wanted\""         /* a row that the query has, all of it */
#define KEPT "\"kappa kept\""             /* and one that the view has */
#define COLUMNS "\"kappa columns\""       /* names of those that differ; NULL unless there is a pair */
#define DIFFERENCE "\"kappa difference\"" /* added, changed, removed */
#define NTH "\"kappa nth\""               /* place among those of its difference */

/* ---- columns ---- */

/*
 * Can rows be grouped by the column?  If not, it is compared as text: json,
 * xml, geometric types.
 */
static bool
is_groupable(const KappaOutput *output)
{
	TypeCacheEntry *type = lookup_type_cache(output->type,
											 TYPECACHE_EQ_OPR | TYPECACHE_LT_OPR);

	return OidIsValid(type->eq_opr) && OidIsValid(type->lt_opr);
}

static const char *
get_separator(ListCell *lc, const List *list)
{
	return lc == list_head(list) ? "" : ", ";
}

/* The columns as they are grouped: a, b::text AS b */
static void
append_grouped(StringInfo buf, const KappaShape *shape)
{
	ListCell *lc;

	foreach(lc, shape->outputs)
	{
		KappaOutput *output = lfirst(lc);
		const char *name = quote_identifier(output->name);

		appendStringInfo(buf, "%s%s", get_separator(lc, shape->outputs), name);
		if (!is_groupable(output))
			appendStringInfo(buf, "::pg_catalog.text AS %s", name);
	}
}

/* The columns of d: x.a, x.b */
static void
append_columns(StringInfo buf, const KappaShape *shape, const char *alias)
{
	ListCell *lc;

	foreach(lc, shape->outputs)
		appendStringInfo(buf, "%s%s.%s", get_separator(lc, shape->outputs), alias,
						 quote_identifier(((KappaOutput *) lfirst(lc))->name));
}

/* A column of d in its own type. */
static char *
make_typed(const KappaOutput *output, const char *alias)
{
	const char *name = quote_identifier(output->name);

	if (is_groupable(output))
		return psprintf("%s.%s", alias, name);
	return psprintf("%s.%s::%s", alias, name,
					format_type_extended(output->type, output->typmod,
										 FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY));
}

/* A row of d as json, its columns in their order. */
static void
append_json(StringInfo buf, const KappaShape *shape, const char *alias)
{
	ListCell *lc;

	appendStringInfoString(buf, "(SELECT pg_catalog.row_to_json(\"kappa row\") FROM (SELECT ");
	foreach(lc, shape->outputs)
	{
		KappaOutput *output = lfirst(lc);

		appendStringInfo(buf, "%s%s AS %s", get_separator(lc, shape->outputs),
						 make_typed(output, alias), quote_identifier(output->name));
	}
	appendStringInfoString(buf, ") AS \"kappa row\")");
}

/* ---- keys ---- */

static bool
is_aggregate(const KappaShape *shape)
{
	for (const KappaNode *node = shape->root; node != NULL; node = node->child)
		if (node->kind == KAPPA_NODE_AGGREGATE)
			return true;
	return false;
}

/* An aggregate without GROUP BY has one row, which needs no key to be found. */
static bool
has_pairs(const KappaShape *shape)
{
	return shape->key != NIL || is_aggregate(shape);
}

/* The key as one record: two with a NULL in them are equal, and can be merge joined. */
static void
append_key(StringInfo buf, const KappaShape *shape, const char *alias)
{
	ListCell *lc;

	appendStringInfoString(buf, "ROW(");
	foreach(lc, shape->key)
	{
		KappaOutput *output = list_nth(shape->outputs, lfirst_int(lc) - 1);

		appendStringInfo(buf, "%s%s.%s", get_separator(lc, shape->key), alias,
						 quote_identifier(output->name));
	}
	appendStringInfoString(buf, shape->key == NIL ? "0)" : ")");
}

/* ---- statements ---- */

/* WITH d AS (rows that differ) */
static void
append_differences(StringInfo buf, const KappaComparison *comparison)
{
	const KappaShape *shape = comparison->shape;

	appendStringInfoString(buf, "WITH d AS MATERIALIZED (\nSELECT ");
	append_columns(buf, shape, "u");
	appendStringInfoString(buf, ", pg_catalog.sum(u." COPIES ") AS " COPIES);
	if (has_pairs(shape))
	{
		appendStringInfoString(buf, ", ");
		append_key(buf, shape, "u");
		appendStringInfoString(buf, " AS " KEY);
	}
	appendStringInfoString(buf, "\nFROM (SELECT ");
	append_grouped(buf, shape);
	appendStringInfo(buf, ", 1 AS " COPIES " FROM (\n%s\n) AS q\nUNION ALL\nSELECT ",
					 comparison->query);
	append_grouped(buf, shape);
	appendStringInfo(buf, ", -1 FROM ONLY %s AS t) AS u\nGROUP BY ", comparison->table);
	append_columns(buf, shape, "u");
	appendStringInfoString(buf, "\nHAVING pg_catalog.sum(u." COPIES ") OPERATOR(pg_catalog.<>) 0\n)");
}

/* Names of the columns in which two rows differ. */
static void
append_differing_columns(StringInfo buf, const KappaShape *shape)
{
	const char *rounded = is_aggregate(shape) ? "true" : "false";
	const char *separator = "";
	ListCell *lc;

	appendStringInfoString(buf, "pg_catalog.array_remove(ARRAY[");
	foreach(lc, shape->outputs)
	{
		KappaOutput *output = lfirst(lc);

		if (list_member_int(shape->key, output->resno))
			continue;
		appendStringInfo(buf, "%sCASE WHEN NOT kappa.same_value(%s, %s, %s) THEN %s END",
						 separator, make_typed(output, WANTED), make_typed(output, KEPT),
						 rounded, quote_literal_cstr(output->name));
		separator = ", ";
	}
	appendStringInfoString(buf, "]::pg_catalog.text[], NULL)");
}

/*
 * , p AS (pairs), without those that are the same after all.  The columns of d
 * are in them as two records.
 */
static void
append_pairs(StringInfo buf, const KappaComparison *comparison)
{
	appendStringInfoString(buf, ", p AS MATERIALIZED (\nSELECT * FROM (SELECT"
								" " WANTED "." COPIES " AS wanted, pg_catalog.abs(" KEPT "." COPIES ") AS kept,"
								" COALESCE(" WANTED "." KEY ", " KEPT "." KEY ") AS " KEY ", " WANTED ", " KEPT ",\n"
								"CASE WHEN " WANTED "." COPIES " IS NOT NULL AND " KEPT "." COPIES " IS NOT NULL THEN ");
	append_differing_columns(buf, comparison->shape);
	appendStringInfoString(buf, " END AS " COLUMNS "\n"
								"FROM (SELECT * FROM d WHERE " COPIES " OPERATOR(pg_catalog.>) 0) AS " WANTED "\n"
								"FULL JOIN (SELECT * FROM d WHERE " COPIES " OPERATOR(pg_catalog.<) 0) AS " KEPT
								" ON " WANTED "." KEY " OPERATOR(pg_catalog.=) " KEPT "." KEY ") AS p\n"
								"WHERE COALESCE(pg_catalog.cardinality(p." COLUMNS "), 1) OPERATOR(pg_catalog.>) 0");
	if (comparison->unknown_keys != NULL)
		appendStringInfo(buf, "\nAND NOT EXISTS (SELECT FROM (SELECT ROW(x.*) AS " KEY " FROM (%s) AS x) AS n"
							  " WHERE n." KEY " OPERATOR(pg_catalog.=) p." KEY ")",
						 comparison->unknown_keys);
	if (comparison->skip_extra)
		appendStringInfoString(buf, "\nAND p.wanted IS NOT NULL");
	appendStringInfoString(buf, "\n)");
}

char *
kappa_verify_count_query(const KappaComparison *comparison)
{
	StringInfoData buf;

	initStringInfo(&buf);
	append_differences(&buf, comparison);
	if (!has_pairs(comparison->shape))
		appendStringInfoString(&buf, "\nSELECT COALESCE(pg_catalog.sum(pg_catalog.abs(d." COPIES ")), 0)::pg_catalog.int8,"
									 " NULL::pg_catalog.text FROM d");
	else
	{
		append_pairs(&buf, comparison);
		appendStringInfoString(&buf, "\nSELECT COALESCE(pg_catalog.sum(GREATEST(p.wanted, p.kept)), 0)::pg_catalog.int8,"
									 " (SELECT pg_catalog.string_agg(DISTINCT c, ', ') FROM p,"
									 " LATERAL pg_catalog.unnest(p." COLUMNS ") AS c) FROM p");
	}
	return buf.data;
}

static void
append_unpaired_rows(StringInfo buf, const KappaComparison *comparison)
{
	const KappaShape *shape = comparison->shape;

	appendStringInfoString(buf, "\nSELECT CASE WHEN d." COPIES " OPERATOR(pg_catalog.>) 0 THEN 'missing' ELSE 'extra' END,"
								" pg_catalog.abs(d." COPIES "), NULL::pg_catalog.text[], ");
	append_json(buf, shape, "d");
	appendStringInfoString(buf, " FROM d\nORDER BY ");
	append_columns(buf, shape, "d");
}

/* Of each pair one row, or two, the wanted one first. */
static void
append_paired_rows(StringInfo buf, const KappaComparison *comparison)
{
	const KappaShape *shape = comparison->shape;

	append_pairs(buf, comparison);
	appendStringInfoString(buf, "\nSELECT l.difference, l.copies, p." COLUMNS ", l.\"row\" FROM p, LATERAL (VALUES"
								" ('missing', p.wanted, ");
	append_json(buf, shape, "(p." WANTED ")");
	appendStringInfoString(buf, "), ('extra', p.kept, ");
	append_json(buf, shape, "(p." KEPT ")");
	appendStringInfoString(buf, ")) AS l(difference, copies, \"row\")\n"
								"WHERE l.copies IS NOT NULL\nORDER BY p." KEY ", l.difference DESC");
}

char *
kappa_verify_rows_query(const KappaComparison *comparison, int64 max_rows)
{
	StringInfoData buf;

	initStringInfo(&buf);
	append_differences(&buf, comparison);
	if (has_pairs(comparison->shape))
		append_paired_rows(&buf, comparison);
	else
		append_unpaired_rows(&buf, comparison);
	appendStringInfo(&buf, "\nLIMIT " INT64_FORMAT, max_rows);
	return buf.data;
}

/* ---- two versions ---- */

/* , x AS (what has become of each row that differs) */
static void
append_changes(StringInfo buf, const KappaComparison *comparison)
{
	append_differences(buf, comparison);
	if (has_pairs(comparison->shape))
	{
		append_pairs(buf, comparison);
		appendStringInfoString(buf, ", x AS (\nSELECT p.*, GREATEST(p.wanted, p.kept) AS copies,"
									" CASE WHEN p.kept IS NULL THEN 'added' WHEN p.wanted IS NULL THEN 'removed'"
									" ELSE 'changed' END AS " DIFFERENCE " FROM p\n)");
	}
	else
		appendStringInfoString(buf, ", x AS (\nSELECT d AS " KEPT ", d AS " WANTED ", NULL::pg_catalog.text[] AS " COLUMNS ","
									" ROW(d.*) AS " KEY ", pg_catalog.abs(d." COPIES ") AS copies,"
									" CASE WHEN d." COPIES " OPERATOR(pg_catalog.>) 0 THEN 'added'"
									" ELSE 'removed' END AS " DIFFERENCE " FROM d\n)");
}

/* The number of rows of one difference. */
#define COUNT_OF(difference) \
	"COALESCE(pg_catalog.sum(x.copies) FILTER (WHERE x." DIFFERENCE " OPERATOR(pg_catalog.=) '" difference "'), 0)::pg_catalog.int8 AS " difference

static void
append_names(StringInfo buf, int place, const char *difference, const List *names)
{
	ListCell *lc;

	foreach(lc, names)
		appendStringInfo(buf, "\nUNION ALL SELECT %d, '%s', %s, NULL", place, difference,
						 quote_literal_cstr(lfirst(lc)));
}

/*
 * Percentages are of all rows that either version has, those with a key in
 * both counted once.
 */
char *
kappa_verify_version_summary_query(const KappaVersionComparison *comparison)
{
	StringInfoData buf;

	initStringInfo(&buf);
	append_changes(&buf, &comparison->rows);
	appendStringInfo(&buf, ", t AS (\nSELECT " COUNT_OF("changed") ", " COUNT_OF("removed") ", " COUNT_OF("added") ","
																												   " (SELECT pg_catalog.count(*) FROM ONLY %s) AS kept FROM x\n)",
					 comparison->rows.table);
	appendStringInfoString(&buf, "\nSELECT l.difference, l.name, l.n, pg_catalog.round(100 OPERATOR(pg_catalog.*) l.n::pg_catalog.numeric"
								 " OPERATOR(pg_catalog./) NULLIF(t.kept OPERATOR(pg_catalog.+) t.added, 0)::pg_catalog.numeric, 1)\n"
								 "FROM t, LATERAL (\n"
								 "SELECT 1 AS place, 'same' AS difference, NULL AS name,"
								 " t.kept OPERATOR(pg_catalog.-) t.changed OPERATOR(pg_catalog.-) t.removed AS n\n"
								 "UNION ALL SELECT 2, 'changed', NULL, t.changed\n"
								 "UNION ALL SELECT 3, 'changed', c, pg_catalog.count(*) FROM x,"
								 " LATERAL pg_catalog.unnest(x." COLUMNS ") AS c GROUP BY c\n"
								 "UNION ALL SELECT 4, 'removed', NULL, t.removed\n"
								 "UNION ALL SELECT 5, 'added', NULL, t.added");
	append_names(&buf, 6, "column removed", comparison->removed);
	append_names(&buf, 7, "column added", comparison->added);
	appendStringInfoString(&buf, ") AS l\nORDER BY l.place, l.n DESC, l.name");
	return buf.data;
}

/* Rows are made json only when it is known which are wanted. */
char *
kappa_verify_version_rows_query(const KappaComparison *comparison, int64 max_rows)
{
	const KappaShape *shape = comparison->shape;
	StringInfoData buf;

	initStringInfo(&buf);
	append_changes(&buf, comparison);
	appendStringInfoString(&buf, "\nSELECT s." DIFFERENCE ", s.copies, s." COLUMNS ",\n"
								 "CASE WHEN s." DIFFERENCE " OPERATOR(pg_catalog.<>) 'added' THEN ");
	append_json(&buf, shape, "(s." KEPT ")");
	appendStringInfoString(&buf, " END,\nCASE WHEN s." DIFFERENCE " OPERATOR(pg_catalog.<>) 'removed' THEN ");
	append_json(&buf, shape, "(s." WANTED ")");
	appendStringInfo(&buf, " END\nFROM (SELECT n.* FROM (SELECT x.*, pg_catalog.row_number()"
						   " OVER (PARTITION BY x." DIFFERENCE " ORDER BY x." KEY ") AS " NTH " FROM x) AS n\n"
						   "ORDER BY n." NTH ", n." DIFFERENCE " LIMIT " INT64_FORMAT ") AS s\n"
						   "ORDER BY s." DIFFERENCE ", s." KEY,
					 max_rows);
	return buf.data;
}
