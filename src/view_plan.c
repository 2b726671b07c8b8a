/*-------------------------------------------------------------------------
 *
 * view_plan.c
 *	  From a view's definition to the SQL that keeps it
 *
 * The delta comes from view_delta.c and is deparsed; what merges it into the
 * table is composed around it here, as text.  In the text, t is the view's
 * table, d the delta or its winners, s the companion, w what has won in it.
 *
 * Rows are merged in the order of their key.  That is faster on large tables
 * (neighbours in the index are neighbours in time), and two merges take their
 * locks in the same order.
 *
 * IDENTIFICATION
 *	  src/view_plan.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/ruleutils.h"
#include "utils/typcache.h"

#include "definition.h"
#include "view_delta.h"
#include "view_plan.h"

/* A row is rewritten again and again: leave room for it in its page, and clean up early. */
#define KEYED_STORAGE \
	"fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000"

/* ---- names and lists ---- */

static char *
quote_column(const char *alias, const char *name)
{
	if (alias == NULL)
		return pstrdup(quote_identifier(name));
	return psprintf("%s.%s", alias, quote_identifier(name));
}

static bool
is_key(const KappaOutput *output)
{
	return output->role == KAPPA_OUTPUT_KEY;
}

static KappaOutput *
get_key_output(const KappaShape *shape, ListCell *resno)
{
	ListCell *lc;

	foreach(lc, shape->outputs)
	{
		KappaOutput *output = lfirst(lc);

		if (output->resno == lfirst_int(resno))
			return output;
	}
	elog(ERROR, "key column %d not found", lfirst_int(resno));
	return NULL;
}

/* All columns of the view: a, b, c */
static char *
list_outputs(const KappaShape *shape, const char *alias)
{
	StringInfoData buf;
	const char *separator = "";
	ListCell *lc;

	initStringInfo(&buf);
	foreach(lc, shape->outputs)
	{
		appendStringInfo(&buf, "%s%s", separator,
						 quote_column(alias, ((KappaOutput *) lfirst(lc))->name));
		separator = ", ";
	}
	return buf.data;
}

/* The key columns, in the order of the index. */
static char *
list_key(const KappaShape *shape, const char *alias)
{
	StringInfoData buf;
	const char *separator = "";
	ListCell *lc;

	initStringInfo(&buf);
	foreach(lc, shape->key)
	{
		appendStringInfo(&buf, "%s%s", separator,
						 quote_column(alias, get_key_output(shape, lc)->name));
		separator = ", ";
	}
	return buf.data;
}

/* What the companion holds beside the key: order columns, partition, offset. */
static char *
list_companion(const KappaShape *shape, const char *alias)
{
	StringInfoData buf;
	ListCell *lc;

	initStringInfo(&buf);
	foreach(lc, shape->root->order)
		appendStringInfo(&buf, "%s, ",
						 quote_column(alias, kappa_delta_order_name(shape, lfirst(lc))));
	appendStringInfo(&buf, "%s, ", quote_column(alias, KAPPA_COLUMN_PARTITION));
	appendStringInfoString(&buf, quote_column(alias, KAPPA_COLUMN_OFFSET));
	return buf.data;
}

/* ---- comparisons ---- */

/* "x IS NULL" and "x IS NOT NULL", of the value itself also where it is a row. */
static const char *
get_null_test(Oid type)
{
	return type_is_rowtype(type) ? "IS NOT DISTINCT FROM NULL" : "IS NULL";
}

static const char *
get_not_null_test(Oid type)
{
	return type_is_rowtype(type) ? "IS DISTINCT FROM NULL" : "IS NOT NULL";
}

static void
append_operator(StringInfo buf, const char *left, const char *right, Oid type, Oid opno)
{
	generate_operator_clause(buf, left, type, opno, right, type);
}

/* Whether there is a NULL in the key of a row, or none. */
static void
append_null_key_test(StringInfo buf, const KappaShape *shape, const char *alias, bool null)
{
	const char *separator = "";
	ListCell *lc;

	foreach(lc, shape->key)
	{
		KappaOutput *output = get_key_output(shape, lc);

		appendStringInfo(buf, "%s%s %s", separator, quote_column(alias, output->name),
						 null ? get_null_test(output->type) : get_not_null_test(output->type));
		separator = null ? " OR " : " AND ";
	}
}

/* Equality of the keys of two rows that have no NULL in them. */
static void
append_key_match(StringInfo buf, const KappaShape *shape, const char *left, const char *right)
{
	const char *separator = "";
	ListCell *lc;

	foreach(lc, shape->key)
	{
		KappaOutput *output = get_key_output(shape, lc);
		Oid equality = lookup_type_cache(output->type, TYPECACHE_EQ_OPR)->eq_opr;

		appendStringInfoString(buf, separator);
		append_operator(buf, quote_column(left, output->name),
						quote_column(right, output->name), output->type, equality);
		separator = " AND ";
	}
}

/*
 * One sort key's part of the comparison: arms of a CASE, of which none is
 * taken when both values are equal or both NULL.
 */
static void
append_order(StringInfo buf, const KappaOrder *order, const char *a, const char *b)
{
	const char *null = get_null_test(order->type);
	const char *not_null = get_not_null_test(order->type);

	appendStringInfoString(buf, "\n    WHEN ");
	append_operator(buf, a, b, order->type, order->sort_operator);
	appendStringInfoString(buf, " THEN true\n    WHEN ");
	append_operator(buf, b, a, order->type, order->sort_operator);
	appendStringInfoString(buf, " THEN false");
	appendStringInfo(buf, "\n    WHEN %s %s AND %s %s THEN %s", a, null, b, not_null,
					 order->nulls_first ? "true" : "false");
	appendStringInfo(buf, "\n    WHEN %s %s AND %s %s THEN %s", a, not_null, b, null,
					 order->nulls_first ? "false" : "true");
}

/*
 * True if a new row comes before the stored one in the order of the query,
 * completed by the place in the log.
 */
static void
append_comes_before(StringInfo buf, const KappaShape *shape, const char *new,
					const char *stored, const char *partition, const char *offset)
{
	StringInfoData place;
	ListCell *lc;

	initStringInfo(&place);
	appendStringInfo(&place, "ROW(%s, %s) OPERATOR(pg_catalog.<) ROW(%s, %s)",
					 quote_column(new, partition), quote_column(new, offset),
					 quote_column(stored, partition), quote_column(stored, offset));
	if (shape->root->order == NIL)
	{
		appendStringInfoString(buf, place.data);
		return;
	}
	appendStringInfoString(buf, "CASE");
	foreach(lc, shape->root->order)
	{
		char *name = kappa_delta_order_name(shape, lfirst(lc));

		append_order(buf, lfirst(lc), quote_column(new, name),
					 quote_column(stored, name));
	}
	appendStringInfo(buf, "\n    ELSE %s\n  END", place.data);
}

/* ---- combining aggregates ---- */

static void
append_combination(StringInfo buf, const KappaOutput *output, const char *other)
{
	char *a = quote_column("t", output->name);
	char *b = quote_column(other, output->name);
	char *namespace = get_namespace_name(get_func_namespace(output->combine_fn));
	char *function = quote_qualified_identifier(namespace, get_func_name(output->combine_fn));
	char *call = psprintf("%s(%s, %s)", function, a, b);

	if (!output->combine_strict)
		appendStringInfoString(buf, call);
	else if (output->combine_fn < FirstGenbkiObjectId)
		appendStringInfo(buf, "COALESCE(%s, %s, %s)", call, a, b);
	else
	{
		/* A user's function may return NULL for two values, and mean it. */
		const char *null_test = get_null_test(output->type);

		appendStringInfo(buf, "CASE WHEN %s %s THEN %s WHEN %s %s THEN %s ELSE %s END",
						 a, null_test, b, b, null_test, a, call);
	}
}

/* Assignments of what changes when a row meets another one of its key; false if nothing does. */
static bool
append_assignments(StringInfo buf, const KappaShape *shape, const char *other)
{
	const char *separator = "";
	ListCell *lc;

	foreach(lc, shape->outputs)
	{
		KappaOutput *output = lfirst(lc);

		if (is_key(output) || output->role == KAPPA_OUTPUT_CONSTANT)
			continue;
		appendStringInfo(buf, "%s\n  %s = ", separator, quote_identifier(output->name));
		if (output->role == KAPPA_OUTPUT_AGGREGATE)
			append_combination(buf, output, other);
		else
			appendStringInfoString(buf, quote_column(other, output->name));
		separator = ",";
	}
	return separator[0] != '\0';
}

/* ---- statements ---- */

/* INSERT INTO target AS t (columns), then the rows, which the caller appends. */
static void
append_insert(StringInfo buf, const KappaShape *shape, Oid target)
{
	appendStringInfo(buf, "INSERT INTO %s AS t (%s)\n", kappa_definition_relation_name(target),
					 list_outputs(shape, NULL));
}

/* ON CONFLICT (key) DO ...; true if it ends in a SET clause. */
static bool
append_on_conflict(StringInfo buf, const KappaShape *shape)
{
	StringInfoData assignments;

	initStringInfo(&assignments);
	appendStringInfo(buf, "\nORDER BY %s\nON CONFLICT (%s) DO ",
					 list_key(shape, "d"), list_key(shape, NULL));
	if (append_assignments(&assignments, shape, "excluded"))
	{
		appendStringInfo(buf, "UPDATE SET%s", assignments.data);
		return true;
	}
	appendStringInfoString(buf, "NOTHING");
	return false;
}

static char *
make_append_merge(const KappaShape *shape, Oid target, const char *delta)
{
	StringInfoData buf;

	initStringInfo(&buf);
	append_insert(&buf, shape, target);
	appendStringInfoString(&buf, delta);
	return buf.data;
}

/* Rows with a key, where the table itself tells which of two rows stays. */
static char *
make_keyed_merge(const KappaShape *shape, Oid target, const char *delta)
{
	StringInfoData buf;
	const KappaNode *root = shape->root;

	initStringInfo(&buf);
	append_insert(&buf, shape, target);
	appendStringInfo(&buf, "SELECT %s FROM (\n%s\n) AS d", list_outputs(shape, "d"), delta);
	if (append_on_conflict(&buf, shape) && root->kind == KAPPA_NODE_LATEST)
	{
		KappaOutput *partition = list_nth(shape->outputs, root->partition_output - 1);
		KappaOutput *offset = list_nth(shape->outputs, root->offset_output - 1);

		appendStringInfoString(&buf, "\n  WHERE ");
		append_comes_before(&buf, shape, "excluded", "t", partition->name, offset->name);
	}
	return buf.data;
}

/* The one row of an aggregate without GROUP BY, which is always there. */
static char *
make_single_merge(const KappaShape *shape, Oid target, const char *delta)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfo(&buf, "UPDATE %s AS t SET", kappa_definition_relation_name(target));
	(void) append_assignments(&buf, shape, "d");
	appendStringInfo(&buf, "\nFROM (\n%s\n) AS d", delta);
	return buf.data;
}

/* Order columns and place of a new row, for the companion. */
static void
append_companion_assignments(StringInfo buf, const KappaShape *shape, const char *new)
{
	ListCell *lc;

	foreach(lc, shape->root->order)
	{
		char *name = kappa_delta_order_name(shape, lfirst(lc));

		appendStringInfo(buf, "\n  %s = %s,", quote_identifier(name), quote_column(new, name));
	}
	appendStringInfo(buf, "\n  %s = %s,\n  %s = %s",
					 quote_identifier(KAPPA_COLUMN_PARTITION),
					 quote_column(new, KAPPA_COLUMN_PARTITION),
					 quote_identifier(KAPPA_COLUMN_OFFSET),
					 quote_column(new, KAPPA_COLUMN_OFFSET));
}

/* INSERT INTO companion AS s (columns), of rows under the alias d. */
static void
append_companion_insert(StringInfo buf, const KappaShape *shape, Oid companion, const char *rows)
{
	appendStringInfo(buf, "INSERT INTO %s AS s (%s, %s)\n",
					 kappa_definition_relation_name(companion),
					 list_key(shape, NULL), list_companion(shape, NULL));
	appendStringInfo(buf, "SELECT %s, %s FROM %s AS d", list_key(shape, "d"),
					 list_companion(shape, "d"), rows);
}

/*
 * The companion's part: decide which of two rows comes first, and return the
 * keys of those that do.
 */
static void
append_companion(StringInfo buf, const KappaShape *shape, Oid companion)
{
	append_companion_insert(buf, shape, companion, "delta");
	appendStringInfo(buf, "\nORDER BY %s\nON CONFLICT (%s) DO UPDATE SET",
					 list_key(shape, "d"), list_key(shape, NULL));
	append_companion_assignments(buf, shape, "excluded");
	appendStringInfoString(buf, "\n  WHERE ");
	append_comes_before(buf, shape, "excluded", "s", KAPPA_COLUMN_PARTITION, KAPPA_COLUMN_OFFSET);
	appendStringInfo(buf, "\nRETURNING %s", list_key(shape, "s"));
}

/*
 * Rows whose key another row may have won before.  The companion and the delta
 * are joined by their keys as records, because records with a NULL in them are
 * equal and can be merge joined; and both come in the order of the key, so
 * that there is nothing to sort.
 */
static char *
make_companion_merge(const KappaShape *shape, Oid target, Oid companion, const char *delta)
{
	StringInfoData buf;
	const char *key = quote_identifier(KAPPA_COLUMN_KEY);

	initStringInfo(&buf);
	appendStringInfo(&buf, "WITH delta AS MATERIALIZED (\n%s\n), won AS (\n", delta);
	append_companion(&buf, shape, companion);
	appendStringInfoString(&buf, "\n)\n");
	append_insert(&buf, shape, target);
	appendStringInfo(&buf, "SELECT %s FROM (SELECT *, ROW(%s) AS %s FROM delta) AS d\n",
					 list_outputs(shape, "d"), list_key(shape, NULL), key);
	appendStringInfo(&buf, "JOIN (SELECT ROW(%s) AS %s FROM won) AS w ON d.%s OPERATOR(pg_catalog.=) w.%s",
					 list_key(shape, NULL), key, key, key);
	(void) append_on_conflict(&buf, shape);
	return buf.data;
}

/* The rows of the delta with a NULL in their key. */
static char *
make_null_delta(const KappaShape *shape, const char *delta)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfo(&buf, "SELECT * FROM (\n%s\n) AS d WHERE ", delta);
	append_null_key_test(&buf, shape, "d", true);
	return buf.data;
}

/*
 * The rows of the delta that win, each with its row in the companion, if the
 * key has been there before.  Only for keys without a NULL.
 */
static void
append_winners(StringInfo buf, const KappaShape *shape, Oid companion, const char *delta)
{
	appendStringInfo(buf, "SELECT d.*, s.ctid AS %s FROM (\n%s\n) AS d\nLEFT JOIN %s AS s ON ",
					 quote_identifier(KAPPA_COLUMN_STORED), delta,
					 kappa_definition_relation_name(companion));
	append_key_match(buf, shape, "s", "d");
	appendStringInfoString(buf, "\nWHERE ");
	append_null_key_test(buf, shape, "d", false);
	appendStringInfoString(buf, " AND (s.ctid IS NULL OR ");
	append_comes_before(buf, shape, "d", "s", KAPPA_COLUMN_PARTITION, KAPPA_COLUMN_OFFSET);
	appendStringInfoChar(buf, ')');
}

/*
 * The same for keys without a NULL.  The tables have no other writer, so it is
 * enough to look each key up once and then to insert or to update: a quarter
 * faster than ON CONFLICT in both tables.  Tells how many rows it merged.
 */
static char *
make_winners_merge(const KappaShape *shape, Oid target, Oid companion, const char *delta)
{
	StringInfoData buf;
	StringInfoData assignments;
	const char *stored = quote_column("d", KAPPA_COLUMN_STORED);

	initStringInfo(&buf);
	initStringInfo(&assignments);
	appendStringInfoString(&buf, "WITH won AS MATERIALIZED (\n");
	append_winners(&buf, shape, companion, delta);
	appendStringInfo(&buf, "\n), changed_state AS (\nUPDATE %s AS s SET",
					 kappa_definition_relation_name(companion));
	append_companion_assignments(&buf, shape, "d");
	appendStringInfo(&buf, "\nFROM won AS d WHERE s.ctid OPERATOR(pg_catalog.=) %s\n), new_state AS (\n",
					 stored);
	append_companion_insert(&buf, shape, companion, "won");
	appendStringInfo(&buf, " WHERE %s IS NULL\n)", stored);
	if (append_assignments(&assignments, shape, "d"))
	{
		appendStringInfo(&buf, ", changed AS (\nUPDATE %s AS t SET%s\nFROM won AS d WHERE %s IS NOT NULL AND ",
						 kappa_definition_relation_name(target), assignments.data, stored);
		append_key_match(&buf, shape, "t", "d");
		appendStringInfoString(&buf, "\n)");
	}
	appendStringInfoString(&buf, ", new AS (\n");
	append_insert(&buf, shape, target);
	appendStringInfo(&buf, "SELECT %s FROM won AS d WHERE %s IS NULL\n)\nSELECT pg_catalog.count(*) FROM won",
					 list_outputs(shape, "d"), stored);
	return buf.data;
}

/*
 * Over a changelog, whose keys are never NULL: rows change, come and go.  The
 * table has no other writer, so that MERGE is safe; it is faster than INSERT
 * with ON CONFLICT and DELETE, the more so the more keys are there already.
 */
static char *
make_changelog_merge(const KappaShape *shape, Oid target, const char *delta)
{
	StringInfoData buf;
	StringInfoData assignments;
	char *keep = quote_column("d", KAPPA_COLUMN_KEEP);

	initStringInfo(&buf);
	initStringInfo(&assignments);
	appendStringInfo(&buf, "MERGE INTO %s AS t\nUSING (SELECT * FROM (\n%s\n) AS d ORDER BY %s) AS d\nON ",
					 kappa_definition_relation_name(target), delta, list_key(shape, "d"));
	append_key_match(&buf, shape, "t", "d");
	appendStringInfo(&buf, "\nWHEN MATCHED AND NOT %s THEN DELETE\nWHEN MATCHED THEN ", keep);
	if (append_assignments(&assignments, shape, "d"))
		appendStringInfo(&buf, "UPDATE SET%s", assignments.data);
	else
		appendStringInfoString(&buf, "DO NOTHING");
	appendStringInfo(&buf, "\nWHEN NOT MATCHED AND %s THEN INSERT (%s)\n  VALUES (%s)",
					 keep, list_outputs(shape, NULL), list_outputs(shape, "d"));
	return buf.data;
}

KappaStatements *
kappa_plan_statements(Query *definition, const KappaShape *shape,
					  Oid target, Oid companion, bool pretty)
{
	KappaStatements *statements = palloc0(sizeof(KappaStatements));
	char *delta = pg_get_querydef(kappa_delta_over_batch(definition, shape), pretty);

	statements->delta = delta;
	statements->by_index = shape->inexact == NULL &&
						   (shape->scan->changelog || shape->needs_companion);
	if (shape->scan->changelog)
		statements->merge = make_changelog_merge(shape, target, delta);
	else if (shape->needs_companion && statements->by_index)
	{
		statements->merge = make_winners_merge(shape, target, companion, delta);
		statements->merge_nulls = make_companion_merge(shape, target, companion,
													   make_null_delta(shape, delta));
	}
	else if (shape->needs_companion)
		statements->merge = make_companion_merge(shape, target, companion, delta);
	else if (shape->key != NIL)
		statements->merge = make_keyed_merge(shape, target, delta);
	else if (shape->root->kind == KAPPA_NODE_AGGREGATE)
		statements->merge = make_single_merge(shape, target, delta);
	else
		statements->merge = make_append_merge(shape, target, delta);
	return statements;
}

char *
kappa_plan_birth(Query *definition, const KappaShape *shape, Oid target)
{
	if (shape->root->kind != KAPPA_NODE_AGGREGATE || shape->key != NIL)
		return NULL;
	return make_append_merge(shape, target,
							 pg_get_querydef(kappa_delta_over_nothing(definition, shape), false));
}

char *
kappa_plan_bounded_query(Query *definition, const KappaShape *shape)
{
	return pg_get_querydef(kappa_delta_over_log(definition, shape), false);
}

/* ---- tables ---- */

static void
append_column(StringInfo buf, const char *name, Oid type, int32 typmod, Oid collation)
{
	appendStringInfo(buf, "%s %s", quote_identifier(name),
					 format_type_extended(type, typmod,
										  FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY));
	if (OidIsValid(collation) && collation != get_typcollation(type))
		appendStringInfo(buf, " COLLATE %s", generate_collation_name(collation));
}

/*
 * What follows CREATE TABLE.  Rows that are updated or deleted need an identity
 * for logical replication, or somebody's publication of all tables would stop
 * the view; columns that may be NULL cannot be one.
 */
static List *
make_key_ddl(const KappaShape *shape, const char *qualified_name)
{
	List *ddl = NIL;

	if (shape->key != NIL)
		ddl = lappend(ddl, psprintf("ALTER TABLE %s ADD %s (%s)", qualified_name,
									shape->key_not_null ? "PRIMARY KEY" : "UNIQUE NULLS NOT DISTINCT",
									list_key(shape, NULL)));
	if (shape->key == NIL || !shape->key_not_null)
		ddl = lappend(ddl, psprintf("ALTER TABLE %s REPLICA IDENTITY FULL", qualified_name));
	return ddl;
}

List *
kappa_plan_table_ddl(const KappaShape *shape, const char *qualified_name)
{
	StringInfoData buf;
	const char *separator = "";
	ListCell *lc;

	initStringInfo(&buf);
	appendStringInfo(&buf, "CREATE TABLE %s (", qualified_name);
	foreach(lc, shape->outputs)
	{
		KappaOutput *output = lfirst(lc);

		appendStringInfoString(&buf, separator);
		append_column(&buf, output->name, output->type, output->typmod, output->collation);
		separator = ", ";
	}
	appendStringInfoChar(&buf, ')');
	if (shape->key != NIL)
		appendStringInfo(&buf, " WITH (%s)", KEYED_STORAGE);
	return lcons(buf.data, make_key_ddl(shape, qualified_name));
}

List *
kappa_plan_companion_ddl(const KappaShape *shape, const char *qualified_name)
{
	StringInfoData buf;
	ListCell *lc;

	if (!shape->needs_companion)
		return NIL;
	initStringInfo(&buf);
	appendStringInfo(&buf, "CREATE TABLE %s (", qualified_name);
	foreach(lc, shape->key)
	{
		KappaOutput *output = get_key_output(shape, lc);

		append_column(&buf, output->name, output->type, output->typmod, output->collation);
		appendStringInfoString(&buf, ", ");
	}
	foreach(lc, shape->root->order)
	{
		KappaOrder *order = lfirst(lc);

		append_column(&buf, kappa_delta_order_name(shape, order),
					  order->type, order->typmod, order->collation);
		appendStringInfoString(&buf, ", ");
	}
	appendStringInfo(&buf, "%s integer NOT NULL, %s bigint NOT NULL) WITH (%s)",
					 quote_identifier(KAPPA_COLUMN_PARTITION),
					 quote_identifier(KAPPA_COLUMN_OFFSET), KEYED_STORAGE);
	return lcons(buf.data, make_key_ddl(shape, qualified_name));
}
