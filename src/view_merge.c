/*-------------------------------------------------------------------------
 *
 * view_merge.c
 *	  The statement that merges a delta into a view's table
 *
 * In the text, t is the view's table, s the companion, d the rows that are
 * merged into them.
 *
 * Rows are merged in the order of their key.  That is faster on large tables
 * (neighbours in the index are neighbours in time), and two merges take their
 * locks in the same order.
 *
 * IDENTIFICATION
 *	  src/view_merge.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "utils/builtins.h"

#include "definition.h"
#include "view_delta.h"
#include "view_merge.h"
#include "view_text.h"

/* INSERT INTO target AS t (columns), then the rows, which the caller appends. */
static void
append_insert(StringInfo buf, const KappaShape *shape, Oid target)
{
	appendStringInfo(buf, "INSERT INTO %s AS t (%s)\n", kappa_definition_relation_name(target),
					 kappa_text_outputs(shape, NULL));
}

/* One more step: WITH name AS (query), with a comment for the readers of kappa.explain. */
static void
append_step(StringInfo buf, const char *name, const char *comment, const char *query)
{
	appendStringInfo(buf, "%s%s AS MATERIALIZED ( -- %s\n%s\n)",
					 buf->len == 0 ? "WITH " : ",\n", quote_identifier(name), comment,
					 kappa_text_indent(query));
}

/* The delta in the order of the key. */
static char *
make_ordered_delta(const KappaShape *shape, const char *delta)
{
	char *rows = psprintf("SELECT * FROM (\n%s\n) AS d", kappa_text_indent(delta));

	if (shape->key == NIL)
		return rows;
	return psprintf("%s\nORDER BY %s", rows, kappa_text_key(shape, "d"));
}

/* ---- without a companion ---- */

static char *
make_append_merge(const KappaShape *shape, const KappaMergeParts *parts)
{
	StringInfoData buf;

	initStringInfo(&buf);
	append_insert(&buf, shape, parts->target);
	appendStringInfoString(&buf, parts->delta);
	return buf.data;
}

/* Of two rows of a key, both with the place of their message, the new one is to stay. */
static void
append_row_wins(StringInfo buf, const KappaShape *shape, const char *new, const char *stored)
{
	KappaOutput *partition = list_nth(shape->outputs, shape->root->partition_output - 1);
	KappaOutput *offset = list_nth(shape->outputs, shape->root->offset_output - 1);

	kappa_text_append_comes_before(buf, shape, new, stored, partition->name, offset->name);
}

/* Rows with a key, where the table itself tells which of two rows stays. */
static char *
make_keyed_merge(const KappaShape *shape, const KappaMergeParts *parts)
{
	StringInfoData buf;
	StringInfoData assignments;

	initStringInfo(&buf);
	initStringInfo(&assignments);
	append_insert(&buf, shape, parts->target);
	appendStringInfo(&buf, "SELECT %s FROM (\n%s\n) AS d\nORDER BY %s\nON CONFLICT (%s) DO ",
					 kappa_text_outputs(shape, "d"), kappa_text_indent(parts->delta),
					 kappa_text_key(shape, "d"), kappa_text_key(shape, NULL));
	if (!kappa_text_append_assignments(&assignments, shape, "excluded"))
		appendStringInfoString(&buf, "NOTHING");
	else
		appendStringInfo(&buf, "UPDATE SET%s", assignments.data);
	if (assignments.len > 0 && shape->root->kind == KAPPA_NODE_LATEST)
	{
		appendStringInfoString(&buf, "\n  WHERE ");
		append_row_wins(&buf, shape, "excluded", "t");
	}
	return buf.data;
}

/* The one row of an aggregate without GROUP BY, which is always there. */
static char *
make_single_merge(const KappaShape *shape, const KappaMergeParts *parts)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfo(&buf, "UPDATE %s AS t SET", kappa_definition_relation_name(parts->target));
	(void) kappa_text_append_assignments(&buf, shape, "d");
	appendStringInfo(&buf, "\nFROM (\n%s\n) AS d", kappa_text_indent(parts->delta));
	return buf.data;
}

/* ---- finding the rows of keys ---- */

/* Rows of keys, to be found in a table. */
typedef struct Lookup
{
	const char *rows; /* a name, for FROM, which gets the alias d */
	Oid table;
	const char *alias;   /* of the table */
	const char *columns; /* what is selected */
	const char *where;   /* a condition, or NULL */
} Lookup;

static void
append_lookup(StringInfo buf, const KappaShape *shape, const Lookup *lookup, bool nulls)
{
	const char *separator = "\nWHERE ";

	appendStringInfo(buf, "SELECT %s\nFROM %s AS d LEFT JOIN %s AS %s ON ",
					 lookup->columns, lookup->rows,
					 kappa_definition_relation_name(lookup->table), lookup->alias);
	kappa_text_append_match(buf, shape, lookup->alias, "d", nulls);
	if (shape->key != NIL && !shape->key_not_null)
	{
		appendStringInfo(buf, "%s(", separator);
		kappa_text_append_null_key(buf, shape, "d", nulls);
		appendStringInfoChar(buf, ')');
		separator = " AND ";
	}
	if (lookup->where != NULL)
		appendStringInfo(buf, "%s%s", separator, lookup->where);
}

/*
 * Keys with a NULL are looked up apart: an index finds equal values fast, and
 * equal NULLs only when it is asked for NULL.
 */
static char *
make_lookup(const KappaShape *shape, const Lookup *lookup)
{
	StringInfoData buf;

	initStringInfo(&buf);
	append_lookup(&buf, shape, lookup, false);
	if (shape->key == NIL || shape->key_not_null)
		return buf.data;
	appendStringInfoString(&buf, "\nUNION ALL\n");
	append_lookup(&buf, shape, lookup, true);
	return buf.data;
}

/* ---- a companion that knows the order ---- */

/* A new row of a key, d, is the one that counts, and not what the companion has, s. */
static void
append_wins(StringInfo buf, const KappaShape *shape)
{
	if (shape->scan->changelog)
		appendStringInfo(buf, "ROW(%s) OPERATOR(pg_catalog.>) ROW(%s)",
						 kappa_text_state(shape, "d"), kappa_text_state(shape, "s"));
	else
		kappa_text_append_comes_before(buf, shape, "d", "s",
									   KAPPA_COLUMN_PARTITION, KAPPA_COLUMN_OFFSET);
}

/* The rows that win against the companion's. */
static char *
make_winners(const KappaShape *shape, Oid companion)
{
	Lookup lookup = { quote_identifier(KAPPA_DELTA), companion, "s" };
	StringInfoData where;

	initStringInfo(&where);
	appendStringInfoString(&where, "(s.ctid IS NULL OR ");
	append_wins(&where, shape);
	appendStringInfoChar(&where, ')');
	lookup.columns = psprintf("d.*, s.ctid AS %s", quote_identifier(KAPPA_COLUMN_STORED));
	lookup.where = where.data;
	return make_lookup(shape, &lookup);
}

/* INSERT INTO the companion, of rows under the alias d. */
static char *
make_state_insert(const KappaShape *shape, Oid companion, const char *rows)
{
	char *columns = kappa_text_state(shape, NULL);
	char *values = kappa_text_state(shape, "d");

	if (shape->key != NIL)
	{
		columns = psprintf("%s, %s", kappa_text_key(shape, NULL), columns);
		values = psprintf("%s, %s", kappa_text_key(shape, "d"), values);
	}
	return psprintf("INSERT INTO %s AS s (%s)\nSELECT %s FROM %s",
					kappa_definition_relation_name(companion), columns, values, rows);
}

/* Put what has won into the companion. */
static void
append_state_changes(StringInfo buf, const KappaShape *shape, Oid companion)
{
	const char *merged = quote_identifier(KAPPA_MERGED);
	char *stored = kappa_text_column("d", KAPPA_COLUMN_STORED);

	append_step(buf, "changed_state", "states of keys that are known",
				psprintf("UPDATE %s AS s SET (%s) =\n  ROW(%s)\nFROM %s AS d WHERE s.ctid OPERATOR(pg_catalog.=) %s",
						 kappa_definition_relation_name(companion),
						 kappa_text_state(shape, NULL), kappa_text_state(shape, "d"),
						 merged, stored));
	append_step(buf, "new_state", "and of those that are new",
				make_state_insert(shape, companion,
								  psprintf("%s AS d WHERE %s IS NULL", merged, stored)));
}

/* From the delta to the rows that have won, which are in the companion then: WITH ... */
static void
append_winners(StringInfo buf, const KappaShape *shape, const KappaMergeParts *parts)
{
	append_step(buf, KAPPA_DELTA, "what the batch says of each key",
				make_ordered_delta(shape, parts->delta));
	append_step(buf, KAPPA_MERGED, shape->scan->changelog ? "where it is later than what was known" : "where it comes before what was known",
				make_winners(shape, parts->companion));
	append_state_changes(buf, shape, parts->companion);
}

/* Bring the view's table to what has won. */
static void
append_row_changes(StringInfo buf, const KappaShape *shape, Oid target)
{
	const char *merged = quote_identifier(KAPPA_MERGED);
	char *stored = kappa_text_column("d", KAPPA_COLUMN_STORED);
	StringInfoData assignments;
	StringInfoData insert;

	initStringInfo(&assignments);
	initStringInfo(&insert);
	(void) kappa_text_append_assignments(&assignments, shape, "d");
	for (int nulls = 0; nulls < 2; nulls++)
	{
		StringInfoData update;

		initStringInfo(&update);
		appendStringInfo(&update, "UPDATE %s AS t SET%s\nFROM %s AS d WHERE %s IS NOT NULL AND ",
						 kappa_definition_relation_name(target), assignments.data, merged, stored);
		kappa_text_append_match(&update, shape, "t", "d", nulls);
		if (nulls)
		{
			appendStringInfoString(&update, "\n  AND (");
			kappa_text_append_null_key(&update, shape, "d", true);
			appendStringInfoChar(&update, ')');
		}
		append_step(buf, nulls ? "changed_nulls" : "changed",
					nulls ? "those with a NULL in their key" : "rows that are in the view",
					update.data);
	}
	append_insert(&insert, shape, target);
	appendStringInfo(&insert, "SELECT %s FROM %s AS d WHERE %s IS NULL",
					 kappa_text_outputs(shape, "d"), merged, stored);
	append_step(buf, "new", "rows that are new", insert.data);
}

/*
 * DISTINCT ON: each key is looked up once in the companion, and its row then
 * inserted or updated: the tables have no other writer.  Faster than ON
 * CONFLICT in both of them, where many rows of the delta are new.
 */
static char *
make_latest_merge(const KappaShape *shape, const KappaMergeParts *parts)
{
	StringInfoData buf;

	initStringInfo(&buf);
	append_winners(&buf, shape, parts);
	append_row_changes(&buf, shape, parts->target);
	appendStringInfo(&buf, "\nSELECT pg_catalog.count(*) FROM %s", quote_identifier(KAPPA_MERGED));
	return buf.data;
}

/* ---- changelogs ---- */

/*
 * Keys are never NULL; rows change, come and go.  MERGE is faster than INSERT
 * with ON CONFLICT and DELETE, the more so the more keys are there already.
 */
static char *
make_changelog_merge(const KappaShape *shape, const KappaMergeParts *parts)
{
	StringInfoData buf;
	StringInfoData assignments;
	char *keep = kappa_text_column("d", KAPPA_COLUMN_KEEP);

	initStringInfo(&buf);
	initStringInfo(&assignments);
	if (shape->needs_companion)
	{
		append_winners(&buf, shape, parts);
		appendStringInfo(&buf, "\nMERGE INTO %s AS t\nUSING %s AS d\nON ",
						 kappa_definition_relation_name(parts->target),
						 quote_identifier(KAPPA_MERGED));
	}
	else
		appendStringInfo(&buf, "MERGE INTO %s AS t\nUSING (\n%s\n) AS d\nON ",
						 kappa_definition_relation_name(parts->target),
						 kappa_text_indent(make_ordered_delta(shape, parts->delta)));
	kappa_text_append_match(&buf, shape, "t", "d", false);
	appendStringInfo(&buf, "\nWHEN MATCHED AND NOT %s THEN DELETE\nWHEN MATCHED THEN ", keep);
	if (kappa_text_append_assignments(&assignments, shape, "d"))
		appendStringInfo(&buf, "UPDATE SET%s", assignments.data);
	else
		appendStringInfoString(&buf, "DO NOTHING");
	appendStringInfo(&buf, "\nWHEN NOT MATCHED AND %s THEN INSERT (%s)\n  VALUES (%s)",
					 keep, kappa_text_outputs(shape, NULL), kappa_text_outputs(shape, "d"));
	return buf.data;
}

/* ---- aggregates with a companion ---- */

/* The states of two rows of the companion's, as those of one: (column, ...) = ROW(...) */
static char *
make_combinations(const KappaShape *shape, const char *other)
{
	StringInfoData buf;
	const char *separator = "\n  ";
	ListCell *lc;

	initStringInfo(&buf);
	appendStringInfo(&buf, "SET (%s) = ROW(", kappa_text_state(shape, NULL));
	foreach(lc, shape->root->states)
	{
		appendStringInfoString(&buf, separator);
		kappa_text_append_combination(&buf, lfirst(lc), "s", other);
		separator = ",\n  ";
	}
	appendStringInfoChar(&buf, ')');
	return buf.data;
}

/* Merge the delta into the companion, and hand on the states that come out of it. */
static char *
make_state_merge(const KappaShape *shape, const KappaMergeParts *parts)
{
	char *columns = kappa_text_state(shape, "s");
	char *rows = psprintf("(\n%s\n) AS d", kappa_text_indent(parts->delta));

	if (shape->key == NIL)
		return psprintf("UPDATE %s AS s %s\nFROM %s\nRETURNING %s",
						kappa_definition_relation_name(parts->companion),
						make_combinations(shape, "d"), rows, columns);
	return psprintf("%s\nORDER BY %s\nON CONFLICT (%s) DO UPDATE %s\nRETURNING %s, %s",
					make_state_insert(shape, parts->companion, rows), kappa_text_key(shape, "d"),
					kappa_text_key(shape, NULL), make_combinations(shape, "excluded"),
					kappa_text_key(shape, "s"), columns);
}

/* Take away the groups that HAVING does not show any more. */
static char *
make_deletion(const KappaShape *shape, const KappaMergeParts *parts)
{
	Lookup lookup = { quote_identifier(KAPPA_HIDDEN), parts->target, "t" };

	lookup.columns = psprintf("t.ctid AS %s", quote_identifier(KAPPA_COLUMN_SHOWN));
	return psprintf("DELETE FROM %s AS t USING (\n%s\n) AS d WHERE t.ctid OPERATOR(pg_catalog.=) %s",
					kappa_definition_relation_name(parts->target),
					kappa_text_indent(make_lookup(shape, &lookup)),
					kappa_text_column("d", KAPPA_COLUMN_SHOWN));
}

/* Bring the view's table to the rows that are computed from the states. */
static void
append_rows(StringInfo buf, const KappaShape *shape, const KappaMergeParts *parts)
{
	StringInfoData assignments;
	bool changes;

	initStringInfo(&assignments);
	changes = kappa_text_append_assignments(&assignments, shape, "excluded");
	append_insert(buf, shape, parts->target);
	appendStringInfo(buf, "SELECT %s FROM (\n%s\n) AS d",
					 kappa_text_outputs(shape, "d"), kappa_text_indent(parts->rows));
	appendStringInfo(buf, "\nON CONFLICT (%s) DO ", kappa_text_key(shape, NULL));
	if (changes)
		appendStringInfo(buf, "UPDATE SET%s", assignments.data);
	else
		appendStringInfoString(buf, "NOTHING");
}

/* The same of the one row of an aggregate without GROUP BY, if HAVING shows it. */
static void
append_single_row(StringInfo buf, const KappaShape *shape, const KappaMergeParts *parts)
{
	const char *target = kappa_definition_relation_name(parts->target);
	StringInfoData assignments;

	initStringInfo(&assignments);
	append_step(buf, "final", "the row", parts->rows);
	if (kappa_text_append_assignments(&assignments, shape, "d"))
		append_step(buf, "changed", "if it is in the view",
					psprintf("UPDATE %s AS t SET%s\nFROM final AS d", target, assignments.data));
	appendStringInfoChar(buf, '\n');
	append_insert(buf, shape, parts->target);
	appendStringInfo(buf, "SELECT %s FROM final AS d WHERE NOT EXISTS (SELECT FROM %s)",
					 kappa_text_outputs(shape, "d"), target);
}

static char *
make_aggregate_merge(const KappaShape *shape, const KappaMergeParts *parts)
{
	StringInfoData buf;

	initStringInfo(&buf);
	append_step(&buf, KAPPA_MERGED, "states of the batch, with what was known",
				make_state_merge(shape, parts));
	if (parts->hidden != NULL)
	{
		append_step(&buf, KAPPA_HIDDEN, "groups that HAVING does not show", parts->hidden);
		append_step(&buf, "kappa gone", "which may have been shown before",
					make_deletion(shape, parts));
	}
	if (shape->key == NIL)
		append_single_row(&buf, shape, parts);
	else
	{
		appendStringInfoChar(&buf, '\n');
		append_rows(&buf, shape, parts);
	}
	return buf.data;
}

/* ---- the same, written by place.c ---- */

/* Names of the outputs that are no part of the key. */
static List *
get_values(const KappaShape *shape)
{
	List *names = NIL;
	ListCell *lc;

	foreach(lc, shape->outputs)
		if (((KappaOutput *) lfirst(lc))->role != KAPPA_OUTPUT_KEY)
			names = lappend(names, ((KappaOutput *) lfirst(lc))->name);
	return names;
}

List *
kappa_merge_get_states(const KappaShape *shape)
{
	return shape->needs_companion ? kappa_text_state_names(shape) : get_values(shape);
}

List *
kappa_merge_get_others(const KappaShape *shape)
{
	List *states = kappa_merge_get_states(shape);
	List *others = NIL;
	ListCell *lc;

	if (shape->root->kind == KAPPA_NODE_AGGREGATE)
		return NIL;
	foreach(lc, shape->outputs)
	{
		KappaOutput *output = lfirst(lc);

		if (output->role != KAPPA_OUTPUT_KEY && !kappa_text_has_name(states, output->name))
			others = lappend_int(others, output->resno);
	}
	return others;
}

/* The key and its states, then all else of the delta. */
static char *
make_find(const KappaShape *shape, const char *delta)
{
	StringInfoData buf;
	ListCell *lc;

	initStringInfo(&buf);
	appendStringInfo(&buf, "SELECT %s", kappa_text_key(shape, "d"));
	foreach(lc, kappa_merge_get_states(shape))
		appendStringInfo(&buf, ", %s", kappa_text_column("d", lfirst(lc)));
	foreach(lc, kappa_merge_get_others(shape))
	{
		KappaOutput *output = list_nth(shape->outputs, lfirst_int(lc) - 1);

		appendStringInfo(&buf, ", %s", kappa_text_column("d", output->name));
	}
	if (shape->scan->changelog)
		appendStringInfo(&buf, ", %s", kappa_text_column("d", KAPPA_COLUMN_KEEP));
	appendStringInfo(&buf, " FROM (\n%s\n) AS d\nORDER BY %s", kappa_text_indent(delta),
					 kappa_text_key(shape, "d"));
	return buf.data;
}

/* Does it take what was there of an output, which is its own state, to tell what comes out? */
static bool
is_compared(const KappaShape *shape, const KappaOutput *output)
{
	const KappaNode *root = shape->root;
	ListCell *lc;

	if (root->kind != KAPPA_NODE_LATEST)
		return output->role == KAPPA_OUTPUT_AGGREGATE;
	foreach(lc, root->order)
		if (((KappaOrder *) lfirst(lc))->output == output->resno)
			return true;
	return output->resno == root->partition_output || output->resno == root->offset_output;
}

List *
kappa_merge_get_old(const KappaShape *shape)
{
	List *numbers = NIL;
	int number = 0;
	ListCell *lc;

	if (shape->needs_companion)
	{
		foreach(lc, kappa_merge_get_states(shape))
			numbers = lappend_int(numbers, ++number);
		return numbers;
	}
	foreach(lc, shape->outputs)
	{
		if (((KappaOutput *) lfirst(lc))->role == KAPPA_OUTPUT_KEY)
			continue;
		number++;
		if (is_compared(shape, lfirst(lc)))
			numbers = lappend_int(numbers, number);
	}
	return numbers;
}

static void
append_old_state(StringInfo buf, const char *column, const char *name)
{
	appendStringInfo(buf, "%s%s AS %s", buf->len > 0 ? ", " : "",
					 kappa_text_column("d", column), quote_identifier(name));
}

/*
 * , LATERAL (SELECT what was found of states, under their names) AS s
 *
 * A place in the log that is part of the key is what it was.
 */
static void
append_old_states(StringInfo buf, const KappaShape *shape)
{
	List *states = kappa_merge_get_states(shape);
	StringInfoData columns;
	ListCell *lc;

	initStringInfo(&columns);
	foreach(lc, kappa_merge_get_old(shape))
		append_old_state(&columns, psprintf(KAPPA_COLUMN_OLD, lfirst_int(lc)),
						 list_nth(states, lfirst_int(lc) - 1));
	foreach(lc, shape->outputs)
	{
		KappaOutput *output = lfirst(lc);

		if (!shape->needs_companion && output->role == KAPPA_OUTPUT_KEY &&
			is_compared(shape, output))
			append_old_state(&columns, output->name, output->name);
	}
	if (columns.len > 0)
		appendStringInfo(buf, ", LATERAL (SELECT %s) AS s", columns.data);
}

/*
 * A state of the batch and what was there of it, as one.  place: the column that
 * says where it was; where that is NULL nothing was, and the batch's stays.
 */
static void
append_combined(StringInfo buf, const KappaState *state, const char *place)
{
	appendStringInfo(buf, "CASE WHEN %s IS NULL THEN %s ELSE ", kappa_text_column("d", place),
					 kappa_text_column("d", state->name));
	kappa_text_append_combination(buf, state, "s", "d");
	appendStringInfo(buf, " END AS %s", quote_identifier(state->name));
}

/* The states that come out of what was found. */
static char *
make_merged(const KappaShape *shape)
{
	StringInfoData buf;
	ListCell *lc;

	initStringInfo(&buf);
	appendStringInfo(&buf, "SELECT %s", kappa_text_key(shape, "d"));
	foreach(lc, shape->root->states)
	{
		appendStringInfoString(&buf, ",\n  ");
		append_combined(&buf, lfirst(lc), KAPPA_COLUMN_STORED);
	}
	appendStringInfo(&buf, ",\n  %s, %s\nFROM %s AS d",
					 kappa_text_column("d", KAPPA_COLUMN_STORED),
					 kappa_text_column("d", KAPPA_COLUMN_SHOWN), quote_identifier(KAPPA_FOUND));
	append_old_states(&buf, shape);
	appendStringInfoString(&buf, "\nOFFSET 0");
	return buf.data;
}

static char *
make_rows_of_states(const KappaMergeParts *parts, const char *merged)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfo(&buf, "WITH %s AS ( -- states of the batch, with what was known\n%s\n)\n%s",
					 quote_identifier(KAPPA_MERGED), kappa_text_indent(merged), parts->placed);
	if (parts->placed_hidden != NULL)
		appendStringInfo(&buf, "\nUNION ALL\n%s", parts->placed_hidden);
	return buf.data;
}

/* Which rows are written: none that is as it was. */
static void
append_row_filter(StringInfo buf, const KappaShape *shape)
{
	char *shown = kappa_text_column("d", KAPPA_COLUMN_SHOWN);
	char *keep = kappa_text_column("d", KAPPA_COLUMN_KEEP);
	StringInfoData assignments;
	bool changes;

	initStringInfo(&assignments);
	changes = kappa_text_append_assignments(&assignments, shape, "d");
	if (shape->needs_companion)
	{
		appendStringInfo(buf, "\nWHERE %s IS NULL OR ",
						 kappa_text_column("d", KAPPA_COLUMN_STORED));
		append_wins(buf, shape);
	}
	else if (shape->scan->changelog && changes)
		appendStringInfo(buf, "\nWHERE %s OR %s IS NOT NULL", keep, shown);
	else if (shape->scan->changelog)
		appendStringInfo(buf, "\nWHERE %s OPERATOR(pg_catalog.=) (%s IS NULL)", keep, shown);
	else if (!changes)
		appendStringInfo(buf, "\nWHERE %s IS NULL", shown);
	else if (shape->root->kind == KAPPA_NODE_LATEST)
	{
		appendStringInfo(buf, "\nWHERE %s IS NULL OR ", shown);
		append_row_wins(buf, shape, "d", "s");
	}
}

/* What comes out of the batch's rows and of what was found of their keys. */
static char *
make_rows(const KappaShape *shape)
{
	StringInfoData buf;
	const char *separator = "SELECT ";
	ListCell *lc;

	initStringInfo(&buf);
	foreach(lc, shape->outputs)
	{
		KappaOutput *output = lfirst(lc);

		appendStringInfoString(&buf, separator);
		separator = ",\n  ";
		if (output->role == KAPPA_OUTPUT_AGGREGATE)
			append_combined(&buf, output->state, KAPPA_COLUMN_SHOWN);
		else
			appendStringInfoString(&buf, kappa_text_column("d", output->name));
	}
	if (shape->needs_companion)
		appendStringInfo(&buf, ",\n  %s, %s", kappa_text_state(shape, "d"),
						 kappa_text_column("d", KAPPA_COLUMN_STORED));
	appendStringInfo(&buf, ",\n  %s, ", kappa_text_column("d", KAPPA_COLUMN_SHOWN));
	if (shape->scan->changelog)
		appendStringInfoString(&buf, kappa_text_column("d", KAPPA_COLUMN_KEEP));
	else
		appendStringInfo(&buf, "true AS %s", quote_identifier(KAPPA_COLUMN_KEEP));
	appendStringInfo(&buf, "\nFROM %s AS d", quote_identifier(KAPPA_FOUND));
	append_old_states(&buf, shape);
	append_row_filter(&buf, shape);
	return buf.data;
}

bool
kappa_merge_can_be_placed(const KappaShape *shape)
{
	int noutputs = list_length(shape->outputs);
	int nstates = list_length(kappa_merge_get_states(shape));
	int found = list_length(shape->key) + nstates +
				list_length(kappa_merge_get_others(shape)) +
				list_length(kappa_merge_get_old(shape)) + 3;

	return shape->key != NIL && found <= MaxTupleAttributeNumber &&
		   noutputs + (shape->needs_companion ? nstates : 0) + 3 <= MaxTupleAttributeNumber;
}

char *
kappa_merge_make_find(const KappaShape *shape, const KappaMergeParts *parts)
{
	if (!kappa_merge_can_be_placed(shape))
		return NULL;
	if (parts->placed != NULL)
		return make_ordered_delta(shape, parts->delta);
	return make_find(shape, parts->delta);
}

char *
kappa_merge_make_placed(const KappaShape *shape, const KappaMergeParts *parts)
{
	if (!kappa_merge_can_be_placed(shape))
		return NULL;
	if (parts->placed != NULL)
		return make_rows_of_states(parts, make_merged(shape));
	return make_rows(shape);
}

/*
 * The same where nothing is known of any key.  What stands for a place is none;
 * load.c replaces it.
 */
static char *
make_first_merged(const KappaShape *shape, const char *delta)
{
	return psprintf("SELECT d.*,\n  NULL::pg_catalog.tid AS %s, '(0,0)'::pg_catalog.tid AS %s\n"
					"FROM (\n%s\n) AS d\nORDER BY %s",
					quote_identifier(KAPPA_COLUMN_STORED), quote_identifier(KAPPA_COLUMN_SHOWN),
					kappa_text_indent(delta), kappa_text_key(shape, "d"));
}

char *
kappa_merge_make_load(const KappaShape *shape, const KappaMergeParts *parts)
{
	if (parts->placed == NULL && shape->needs_companion && shape->key != NIL)
		return psprintf("SELECT d.*, '(0,0)'::pg_catalog.tid AS %s FROM (\n%s\n) AS d\nORDER BY %s",
						quote_identifier(KAPPA_COLUMN_SHOWN), kappa_text_indent(parts->delta),
						kappa_text_key(shape, "d"));
	if (parts->placed == NULL)
		return make_ordered_delta(shape, parts->delta);
	return make_rows_of_states(parts, make_first_merged(shape, parts->delta));
}

/* ---- the whole ---- */

char *
kappa_merge_make(const KappaShape *shape, const KappaMergeParts *parts)
{
	if (shape->scan->changelog)
		return make_changelog_merge(shape, parts);
	if (shape->root->kind == KAPPA_NODE_LATEST && shape->needs_companion)
		return make_latest_merge(shape, parts);
	if (shape->needs_companion)
		return make_aggregate_merge(shape, parts);
	if (shape->key != NIL)
		return make_keyed_merge(shape, parts);
	if (shape->root->kind == KAPPA_NODE_AGGREGATE)
		return make_single_merge(shape, parts);
	return make_append_merge(shape, parts);
}

char *
kappa_merge_make_birth(const KappaShape *shape, const KappaMergeParts *parts)
{
	StringInfoData buf;

	if (!shape->needs_companion)
		return make_append_merge(shape, parts);
	initStringInfo(&buf);
	append_step(&buf, KAPPA_MERGED, "states of no message",
				psprintf("%s\nRETURNING %s",
						 make_state_insert(shape, parts->companion,
										   psprintf("(\n%s\n) AS d", kappa_text_indent(parts->delta))),
						 kappa_text_state(shape, "s")));
	appendStringInfoChar(&buf, '\n');
	append_insert(&buf, shape, parts->target);
	appendStringInfo(&buf, "SELECT %s FROM (\n%s\n) AS d",
					 kappa_text_outputs(shape, "d"), kappa_text_indent(parts->rows));
	return buf.data;
}
