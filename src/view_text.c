/*-------------------------------------------------------------------------
 *
 * view_text.c
 *	  Pieces of the SQL that keeps a view: lists of columns, and comparisons
 *
 * IDENTIFICATION
 *	  src/view_text.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/ruleutils.h"
#include "utils/typcache.h"

#include "kappa.h"
#include "view_delta.h"
#include "view_text.h"

/* ---- names and lists ---- */

char *
kappa_text_column(const char *alias, const char *name)
{
	if (alias == NULL)
		return pstrdup(quote_identifier(name));
	return psprintf("%s.%s", alias, quote_identifier(name));
}

KappaOutput *
kappa_text_key_output(const KappaShape *shape, ListCell *resno)
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

static void
append_item(StringInfo buf, const char *alias, const char *name)
{
	appendStringInfo(buf, "%s%s", buf->len > 0 ? ", " : "", kappa_text_column(alias, name));
}

char *
kappa_text_outputs(const KappaShape *shape, const char *alias)
{
	StringInfoData buf;
	ListCell *lc;

	initStringInfo(&buf);
	foreach(lc, shape->outputs)
		append_item(&buf, alias, ((KappaOutput *) lfirst(lc))->name);
	return buf.data;
}

char *
kappa_text_key(const KappaShape *shape, const char *alias)
{
	StringInfoData buf;
	ListCell *lc;

	initStringInfo(&buf);
	foreach(lc, shape->key)
		append_item(&buf, alias, kappa_text_key_output(shape, lc)->name);
	return buf.data;
}

bool
kappa_text_has_name(const List *names, const char *name)
{
	ListCell *lc;

	foreach(lc, names)
		if (strcmp(lfirst(lc), name) == 0)
			return true;
	return false;
}

List *
kappa_text_state_names(const KappaShape *shape)
{
	List *names = NIL;
	ListCell *lc;

	foreach(lc, shape->root->states)
		names = lappend(names, ((KappaState *) lfirst(lc))->name);
	if (shape->root->kind == KAPPA_NODE_AGGREGATE)
		return names;
	if (shape->scan->changelog)
		names = lappend(names, KAPPA_COLUMN_TIMESTAMP);
	foreach(lc, shape->root->order)
		names = lappend(names, kappa_delta_order_name(shape, lfirst(lc)));
	return list_concat(names, list_make2(KAPPA_COLUMN_PARTITION, KAPPA_COLUMN_OFFSET));
}

char *
kappa_text_state(const KappaShape *shape, const char *alias)
{
	StringInfoData buf;
	ListCell *lc;

	initStringInfo(&buf);
	foreach(lc, kappa_text_state_names(shape))
		append_item(&buf, alias, lfirst(lc));
	return buf.data;
}

char *
kappa_text_indent(const char *sql)
{
	StringInfoData buf;
	char quote = '\0';

	/* ruleutils.c starts a SELECT with a space. */
	sql += strspn(sql, " ");
	initStringInfo(&buf);
	appendStringInfoString(&buf, "  ");
	for (const char *c = sql; *c != '\0'; c++)
	{
		if (quote == '\0' && (*c == '\'' || *c == '"'))
			quote = *c;
		else if (*c == quote)
			quote = '\0';
		appendStringInfoChar(&buf, *c);
		if (*c == '\n' && quote == '\0')
			appendStringInfoString(&buf, "  ");
	}
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

void
kappa_text_append_null_key(StringInfo buf, const KappaShape *shape, const char *alias, bool null)
{
	const char *separator = "";
	ListCell *lc;

	foreach(lc, shape->key)
	{
		KappaOutput *output = kappa_text_key_output(shape, lc);

		appendStringInfo(buf, "%s%s %s", separator, kappa_text_column(alias, output->name),
						 null ? get_null_test(output->type) : get_not_null_test(output->type));
		separator = null ? " OR " : " AND ";
	}
}

void
kappa_text_append_match(StringInfo buf, const KappaShape *shape,
						const char *left, const char *right, bool nulls)
{
	const char *separator = "";
	ListCell *lc;

	if (shape->key == NIL)
		appendStringInfoString(buf, "true");
	foreach(lc, shape->key)
	{
		KappaOutput *output = kappa_text_key_output(shape, lc);
		Oid equality = lookup_type_cache(output->type, TYPECACHE_EQ_OPR)->eq_opr;
		char *a = kappa_text_column(left, output->name);
		char *b = kappa_text_column(right, output->name);
		const char *null_test = get_null_test(output->type);

		appendStringInfoString(buf, separator);
		if (nulls)
			appendStringInfoChar(buf, '(');
		append_operator(buf, a, b, output->type, equality);
		if (nulls)
			appendStringInfo(buf, " OR %s %s AND %s %s)", a, null_test, b, null_test);
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

void
kappa_text_append_comes_before(StringInfo buf, const KappaShape *shape, const char *new,
							   const char *stored, const char *partition, const char *offset)
{
	StringInfoData place;
	ListCell *lc;

	initStringInfo(&place);
	appendStringInfo(&place, "ROW(%s, %s) OPERATOR(pg_catalog.<) ROW(%s, %s)",
					 kappa_text_column(new, partition), kappa_text_column(new, offset),
					 kappa_text_column(stored, partition), kappa_text_column(stored, offset));
	if (shape->root->order == NIL)
	{
		appendStringInfoString(buf, place.data);
		return;
	}
	appendStringInfoString(buf, "CASE");
	foreach(lc, shape->root->order)
	{
		char *name = kappa_delta_order_name(shape, lfirst(lc));

		append_order(buf, lfirst(lc), kappa_text_column(new, name),
					 kappa_text_column(stored, name));
	}
	appendStringInfo(buf, "\n    ELSE %s\n  END", place.data);
}

/* ---- combining states ---- */

static char *
make_function_call(const KappaState *state, const char *a, const char *b)
{
	char *namespace;

	if (state->kind != KAPPA_STATE_NONE)
		return psprintf(KAPPA_SCHEMA ".combine(%s::pg_catalog.regprocedure, %s, %s)",
						quote_literal_cstr(format_procedure_qualified(state->aggref->aggfnoid)),
						a, b);
	namespace = get_namespace_name(get_func_namespace(state->combine_fn));
	return psprintf("%s(%s, %s)",
					quote_qualified_identifier(namespace, get_func_name(state->combine_fn)),
					a, b);
}

void
kappa_text_append_combination(StringInfo buf, const KappaState *state,
							  const char *left, const char *right)
{
	char *a = kappa_text_column(left, state->name);
	char *b = kappa_text_column(right, state->name);
	char *call = make_function_call(state, a, b);

	if (state->kind != KAPPA_STATE_NONE || !state->combine_strict)
		appendStringInfoString(buf, call);
	else if (state->combine_fn < FirstGenbkiObjectId)
		appendStringInfo(buf, "COALESCE(%s, %s, %s)", call, a, b);
	else
	{
		/* A user's function may return NULL for two values, and mean it. */
		const char *null_test = get_null_test(state->type);

		appendStringInfo(buf, "CASE WHEN %s %s THEN %s WHEN %s %s THEN %s ELSE %s END",
						 a, null_test, b, b, null_test, a, call);
	}
}

bool
kappa_text_append_assignments(StringInfo buf, const KappaShape *shape, const char *other)
{
	const char *separator = "";
	ListCell *lc;

	foreach(lc, shape->outputs)
	{
		KappaOutput *output = lfirst(lc);

		if (output->role == KAPPA_OUTPUT_KEY || output->role == KAPPA_OUTPUT_CONSTANT)
			continue;
		appendStringInfo(buf, "%s\n  %s = ", separator, quote_identifier(output->name));
		if (output->role == KAPPA_OUTPUT_AGGREGATE)
			kappa_text_append_combination(buf, output->state, "t", other);
		else
			appendStringInfoString(buf, kappa_text_column(other, output->name));
		separator = ",";
	}
	return separator[0] != '\0';
}
