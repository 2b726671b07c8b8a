/*-------------------------------------------------------------------------
 *
 * view_fill.c
 *	  From the partial results of a replay to one delta
 *
 * A replay runs the delta over one stretch of the log after the other and keeps
 * the rows that come out in a staging table.  In the end the rows of each key
 * are made one, as if the delta had been run over the whole log, and that is
 * merged like any delta.
 *
 * IDENTIFICATION
 *	  src/view_fill.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

#include "kappa.h"
#include "view_delta.h"
#include "view_fill.h"
#include "view_text.h"

#define TYPE_FORMAT (FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY)

bool
kappa_fill_is_possible(const KappaShape *shape)
{
	return shape->root->kind != KAPPA_NODE_LATEST || shape->key != NIL;
}

bool
kappa_fill_needs_batches(const KappaShape *shape)
{
	return shape->scan->changelog && shape->needs_companion;
}

bool
kappa_fill_needs_staging(const KappaShape *shape)
{
	return shape->root->kind != KAPPA_NODE_SCAN || shape->scan->changelog;
}

/* ---- aggregates ---- */

/*
 * The aggregate of PostgreSQL's own that makes one of many states that are
 * values: sum for sums and counts, or the aggregate itself where it does the
 * same with a value as with a state (max, bool_or).  NULL if there is none.
 */
static char *
find_native_aggregate(const KappaState *state)
{
	HeapTuple tuple = SearchSysCache1(AGGFNOID, ObjectIdGetDatum(state->aggref->aggfnoid));
	Form_pg_aggregate form;
	char *result = NULL;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for aggregate %u", state->aggref->aggfnoid);
	form = (Form_pg_aggregate) GETSTRUCT(tuple);
	if (state->kind == KAPPA_STATE_NONE && state->aggref->aggfnoid < FirstGenbkiObjectId)
	{
		if (form->aggtransfn == form->aggcombinefn)
			result = get_func_name(state->aggref->aggfnoid);
		else if (form->aggcombinefn == F_INT8PL ||
				 (form->aggtranstype != state->type && !IsPolymorphicType(form->aggtranstype)))
			result = "sum";
	}
	ReleaseSysCache(tuple);
	return result;
}

/* Many states as one. */
static void
append_combined(StringInfo buf, const KappaState *state)
{
	char *column = kappa_text_column("d", state->name);
	char *native = find_native_aggregate(state);

	if (native != NULL)
		appendStringInfo(buf, "pg_catalog.%s(%s)::%s", quote_identifier(native), column,
						 format_type_extended(state->type, -1, TYPE_FORMAT));
	else
		appendStringInfo(buf, KAPPA_SCHEMA ".combined(%s::pg_catalog.regprocedure, %s)",
						 quote_literal_cstr(format_procedure_qualified(state->aggref->aggfnoid)),
						 column);
	appendStringInfo(buf, " AS %s", quote_identifier(state->name));
}

/* GROUP BY all columns that are part of the key, and no others. */
static char *
make_groups(const KappaShape *shape, const char *staging, const char *columns)
{
	if (shape->key == NIL)
		return psprintf("SELECT %s\nFROM %s AS d", columns, staging);
	return psprintf("SELECT %s\nFROM %s AS d\nGROUP BY %s", columns, staging,
					kappa_text_key(shape, "d"));
}

static char *
make_groups_of_states(const KappaShape *shape, const char *staging)
{
	StringInfoData columns;
	ListCell *lc;

	initStringInfo(&columns);
	if (shape->key != NIL)
		appendStringInfo(&columns, "%s, ", kappa_text_key(shape, "d"));
	foreach(lc, shape->root->states)
	{
		append_combined(&columns, lfirst(lc));
		if (lnext(shape->root->states, lc) != NULL)
			appendStringInfoString(&columns, ", ");
	}
	return make_groups(shape, staging, columns.data);
}

/* Every aggregate is an output, and its own state; other outputs follow from the key. */
static char *
make_groups_of_values(const KappaShape *shape, const char *staging)
{
	StringInfoData columns;
	ListCell *lc;

	initStringInfo(&columns);
	foreach(lc, shape->outputs)
	{
		KappaOutput *output = lfirst(lc);
		const char *name = quote_identifier(output->name);

		if (columns.len > 0)
			appendStringInfoString(&columns, ", ");
		if (output->role == KAPPA_OUTPUT_AGGREGATE)
			append_combined(&columns, output->state);
		else if (list_member_int(shape->key, output->resno))
			appendStringInfo(&columns, "d.%s", name);
		else
			appendStringInfo(&columns, KAPPA_SCHEMA ".any_value(d.%s) AS %s", name, name);
	}
	return make_groups(shape, staging, columns.data);
}

/* ---- DISTINCT ON ---- */

static void
append_order(StringInfo buf, const KappaShape *shape, const KappaOrder *order)
{
	char *name = get_opname(order->sort_operator);
	Oid namespace;
	HeapTuple tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(order->sort_operator));

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for operator %u", order->sort_operator);
	namespace = ((Form_pg_operator) GETSTRUCT(tuple))->oprnamespace;
	ReleaseSysCache(tuple);
	appendStringInfo(buf, ", %s USING OPERATOR(%s.%s) NULLS %s",
					 kappa_text_column("d", kappa_delta_order_name(shape, order)),
					 quote_identifier(get_namespace_name(namespace)), name,
					 order->nulls_first ? "FIRST" : "LAST");
}

/* The rest of the order: the columns that carry a message's place in the log. */
static void
append_place(StringInfo buf, const KappaShape *shape)
{
	const KappaNode *root = shape->root;
	const char *partition = KAPPA_COLUMN_PARTITION;
	const char *offset = KAPPA_COLUMN_OFFSET;

	if (!shape->needs_companion)
	{
		partition = ((KappaOutput *) list_nth(shape->outputs, root->partition_output - 1))->name;
		offset = ((KappaOutput *) list_nth(shape->outputs, root->offset_output - 1))->name;
	}
	appendStringInfo(buf, ", %s, %s", kappa_text_column("d", partition),
					 kappa_text_column("d", offset));
}

/* Rows that are nothing but their key have no order. */
static char *
make_first_rows(const KappaShape *shape, const char *staging)
{
	char *key = kappa_text_key(shape, "d");
	StringInfoData buf;
	ListCell *lc;

	initStringInfo(&buf);
	appendStringInfo(&buf, "SELECT DISTINCT ON (%s) d.*\nFROM %s AS d\nORDER BY %s", key,
					 staging, key);
	if (!shape->needs_companion && shape->root->partition_output == 0)
		return buf.data;
	foreach(lc, shape->root->order)
		append_order(&buf, shape, lfirst(lc));
	append_place(&buf, shape);
	return buf.data;
}

/* ---- changelogs ---- */

/*
 * The last row of each key.  Only then may those go that are not kept: until
 * all are there, they are what takes older ones away.  A companion, which has
 * the order of all keys that ever were, gets them, too.
 */
static char *
make_last_rows(const KappaShape *shape, const char *staging)
{
	char *key = kappa_text_key(shape, "d");
	char *rows = psprintf("SELECT DISTINCT ON (%s) d.*\nFROM %s AS d\nORDER BY %s, %s%s DESC, %s DESC",
						  key, staging, key,
						  shape->needs_companion
							  ? psprintf("%s DESC, ", kappa_text_column("d", KAPPA_COLUMN_TIMESTAMP))
							  : "",
						  kappa_text_column("d", KAPPA_COLUMN_PARTITION),
						  kappa_text_column("d", KAPPA_COLUMN_OFFSET));

	if (shape->needs_companion)
		return rows;
	return psprintf("SELECT * FROM (\n%s\n) AS d\nWHERE %s", kappa_text_indent(rows),
					kappa_text_column("d", KAPPA_COLUMN_KEEP));
}

char *
kappa_fill_make_delta(const KappaShape *shape, const char *staging)
{
	if (shape->scan->changelog)
		return make_last_rows(shape, staging);
	if (shape->root->kind == KAPPA_NODE_LATEST)
		return make_first_rows(shape, staging);
	if (shape->needs_companion)
		return make_groups_of_states(shape, staging);
	return make_groups_of_values(shape, staging);
}
