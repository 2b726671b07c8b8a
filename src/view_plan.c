/*-------------------------------------------------------------------------
 *
 * view_plan.c
 *	  From a view's definition to the SQL that keeps it
 *
 * What is computed is built on the definition's tree (view_delta.c,
 * view_states.c) and deparsed; what merges it into the tables is composed
 * around it as text (view_merge.c).
 *
 * IDENTIFICATION
 *	  src/view_plan.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/ruleutils.h"

#include "definition.h"
#include "view_delta.h"
#include "view_fill.h"
#include "view_merge.h"
#include "view_plan.h"
#include "view_states.h"
#include "view_text.h"

/* A row is rewritten again and again: leave room for it in its page, and clean up early. */
#define KEYED_STORAGE \
	"fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000"

/* ---- statements ---- */

static void
set_final_parts(KappaMergeParts *parts, Query *definition, const KappaShape *shape, bool pretty)
{
	if (shape->root->states == NIL)
		return;
	parts->rows = pg_get_querydef(kappa_states_make_final(definition, shape, false), pretty);
	if (definition->havingQual != NULL)
		parts->hidden = pg_get_querydef(kappa_states_make_final(definition, shape, true), pretty);
	if (shape->key == NIL)
		return;
	parts->placed = pg_get_querydef(kappa_states_make_placed(definition, shape, false), pretty);
	if (definition->havingQual != NULL)
		parts->placed_hidden = pg_get_querydef(kappa_states_make_placed(definition, shape, true),
											   pretty);
}

KappaStatements *
kappa_plan_statements(Query *definition, const KappaShape *shape,
					  Oid target, Oid companion, bool pretty)
{
	KappaStatements *statements = palloc0(sizeof(KappaStatements));
	KappaMergeParts parts = { target, companion };

	statements->delta = pg_get_querydef(kappa_delta_over_batch(definition, shape), pretty);
	parts.delta = statements->delta;
	set_final_parts(&parts, definition, shape, pretty);
	statements->merge = kappa_merge_make(shape, &parts);
	statements->find = kappa_merge_make_find(shape, &parts);
	statements->place = kappa_merge_make_placed(shape, &parts);
	statements->by_index = shape->scan->lookups == NIL &&
						   (shape->scan->changelog || shape->needs_companion);
	return statements;
}

char *
kappa_plan_stretch(Query *definition, const KappaShape *shape, bool in_memory)
{
	return pg_get_querydef(kappa_delta_over_stretch(definition, shape, in_memory), false);
}

KappaFillStatements *
kappa_plan_fill(Query *definition, const KappaShape *shape, Oid target, Oid companion,
				Oid staging)
{
	KappaFillStatements *statements = palloc0(sizeof(KappaFillStatements));
	KappaMergeParts parts = { target, companion };

	parts.delta = kappa_fill_make_delta(shape, kappa_definition_relation_name(staging));
	set_final_parts(&parts, definition, shape, false);
	statements->merge = kappa_merge_make(shape, &parts);
	if (shape->key != NIL)
		statements->load = kappa_merge_make_load(shape, &parts);
	return statements;
}

char *
kappa_plan_birth(Query *definition, const KappaShape *shape, Oid target, Oid companion)
{
	KappaMergeParts parts = { target, companion };

	if (shape->root->kind != KAPPA_NODE_AGGREGATE || shape->key != NIL)
		return NULL;
	parts.delta = pg_get_querydef(kappa_delta_over_nothing(definition, shape), false);
	set_final_parts(&parts, definition, shape, false);
	return kappa_merge_make_birth(shape, &parts);
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

static void
append_outputs(StringInfo buf, const KappaShape *shape)
{
	const char *separator = "";
	ListCell *lc;

	foreach(lc, shape->outputs)
	{
		KappaOutput *output = lfirst(lc);

		appendStringInfoString(buf, separator);
		append_column(buf, output->name, output->type, output->typmod, output->collation);
		separator = ", ";
	}
}

static void
append_key(StringInfo buf, const KappaShape *shape)
{
	ListCell *lc;

	foreach(lc, shape->key)
	{
		KappaOutput *output = kappa_text_key_output(shape, lc);

		append_column(buf, output->name, output->type, output->typmod, output->collation);
		appendStringInfoString(buf, ", ");
	}
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
									kappa_text_key(shape, NULL)));
	if (shape->key == NIL || !shape->key_not_null)
		ddl = lappend(ddl, psprintf("ALTER TABLE %s REPLICA IDENTITY FULL", qualified_name));
	return ddl;
}

List *
kappa_plan_table_ddl(const KappaShape *shape, const char *qualified_name)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfo(&buf, "CREATE TABLE %s (", qualified_name);
	append_outputs(&buf, shape);
	appendStringInfoChar(&buf, ')');
	if (shape->key != NIL)
		appendStringInfo(&buf, " WITH (%s)", KEYED_STORAGE);
	return lcons(buf.data, make_key_ddl(shape, qualified_name));
}

static void
append_states(StringInfo buf, const KappaShape *shape)
{
	const char *separator = "";
	ListCell *lc;

	foreach(lc, shape->root->states)
	{
		KappaState *state = lfirst(lc);

		appendStringInfoString(buf, separator);
		append_column(buf, state->name, state->type, -1, state->collation);
		separator = ", ";
	}
}

/* Columns by which rows of a key are sorted: all, or those that are no outputs. */
static void
append_order_and_place(StringInfo buf, const KappaShape *shape, bool hidden_only)
{
	ListCell *lc;

	if (shape->scan->changelog && shape->needs_companion)
		appendStringInfo(buf, "%s bigint NOT NULL, ", quote_identifier(KAPPA_COLUMN_TIMESTAMP));
	foreach(lc, shape->root->order)
	{
		KappaOrder *order = lfirst(lc);

		if (hidden_only && order->output != 0)
			continue;
		append_column(buf, kappa_delta_order_name(shape, order),
					  order->type, order->typmod, order->collation);
		appendStringInfoString(buf, ", ");
	}
	appendStringInfo(buf, "%s integer NOT NULL, %s bigint NOT NULL",
					 quote_identifier(KAPPA_COLUMN_PARTITION),
					 quote_identifier(KAPPA_COLUMN_OFFSET));
}

List *
kappa_plan_companion_ddl(const KappaShape *shape, const char *qualified_name)
{
	StringInfoData buf;

	if (!shape->needs_companion)
		return NIL;
	initStringInfo(&buf);
	appendStringInfo(&buf, "CREATE TABLE %s (", qualified_name);
	append_key(&buf, shape);
	if (shape->root->kind == KAPPA_NODE_AGGREGATE)
		append_states(&buf, shape);
	else
		append_order_and_place(&buf, shape, false);
	if (shape->key != NIL)
		appendStringInfo(&buf, ", %s tid", quote_identifier(KAPPA_COLUMN_SHOWN));
	appendStringInfo(&buf, ") WITH (%s)", KEYED_STORAGE);
	return lcons(buf.data, make_key_ddl(shape, qualified_name));
}

/* The columns of a delta, in their order; it is read once, and from end to end. */
List *
kappa_plan_staging_ddl(const KappaShape *shape, const char *qualified_name)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfo(&buf, "CREATE TABLE %s (", qualified_name);
	if (shape->root->kind == KAPPA_NODE_AGGREGATE && shape->needs_companion)
	{
		append_key(&buf, shape);
		append_states(&buf, shape);
	}
	else
	{
		append_outputs(&buf, shape);
		if (shape->scan->changelog)
			appendStringInfo(&buf, ", %s boolean NOT NULL", quote_identifier(KAPPA_COLUMN_KEEP));
		if (shape->scan->changelog || shape->needs_companion)
		{
			appendStringInfoString(&buf, ", ");
			append_order_and_place(&buf, shape, true);
		}
	}
	appendStringInfoChar(&buf, ')');
	return list_make1(buf.data);
}
