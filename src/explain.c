/*-------------------------------------------------------------------------
 *
 * explain.c
 *	  kappa.explain: what is kept of a view, and the SQL that keeps it
 *
 * The whole output is SQL; what is not a statement is a comment.
 *
 * IDENTIFICATION
 *	  src/explain.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"

#include "apply.h"
#include "compat.h"
#include "definition.h"
#include "fdw_options.h"
#include "place.h"
#include "view_commands.h"
#include "view_text.h"

PG_FUNCTION_INFO_V1(kappa_sql_explain);

/* ---- facts ---- */

static void
append_source(StringInfo buf, const KappaShape *shape)
{
	KappaTable *table = kappa_options_get_table(shape->scan->source);
	const char *separator = " ";
	int column = -1;

	appendStringInfo(buf, "-- reads: topic %s, by foreign table %s, under the alias \"kappa batch\"\n",
					 quote_literal_cstr(table->topic),
					 kappa_definition_relation_name(shape->scan->source));
	appendStringInfoString(buf, "-- decodes:");
	while ((column = bms_next_member(shape->scan->columns, column)) >= 0)
	{
		appendStringInfo(buf, "%s%s", separator,
						 quote_identifier(get_attname(shape->scan->source, column, false)));
		separator = ", ";
	}
	appendStringInfoString(buf, separator[0] == ' ' ? " no column; every message is checked\n" : "\n");
}

static void
append_lookups(StringInfo buf, const KappaShape *shape)
{
	const char *separator = "-- looks up: ";
	ListCell *lc;

	foreach(lc, shape->scan->lookups)
	{
		appendStringInfo(buf, "%s%s", separator, kappa_definition_relation_name(lfirst_oid(lc)));
		separator = ", ";
	}
	if (shape->scan->lookups != NIL)
		appendStringInfoChar(buf, '\n');
	if (shape->inexact != NULL)
		appendStringInfo(buf, "-- not exact: %s\n", shape->inexact);
}

static const char *
describe_kind(KappaStateKind kind)
{
	switch (kind)
	{
		case KAPPA_STATE_NONE:
			return "its value";
		case KAPPA_STATE_TYPED:
			return "its state";
		case KAPPA_STATE_SERIAL:
			return "its state, serialised";
	}
	return "?";
}

static void
append_states(StringInfo buf, const KappaShape *shape)
{
	ListCell *lc;

	foreach(lc, shape->root->states)
	{
		KappaState *state = lfirst(lc);

		appendStringInfo(buf, "--   %s %s: %s, %s\n", quote_identifier(state->name),
						 format_type_be(state->type),
						 format_procedure(state->aggref->aggfnoid), describe_kind(state->kind));
	}
}

static void
append_tables(StringInfo buf, const KappaShape *shape, const KappaVersion *version)
{
	appendStringInfo(buf, "-- keeps: rows in %s", kappa_definition_relation_name(version->target));
	if (shape->key != NIL)
		appendStringInfo(buf, ", one for each %s", kappa_text_key(shape, NULL));
	appendStringInfoChar(buf, '\n');
	if (!OidIsValid(version->companion))
		return;
	appendStringInfo(buf, "-- keeps: for each of them, in %s:\n",
					 kappa_definition_relation_name(version->companion));
	if (shape->root->kind == KAPPA_NODE_AGGREGATE)
		append_states(buf, shape);
	else
		appendStringInfo(buf, "--   %s: what came %s\n", kappa_text_state(shape, NULL),
						 shape->scan->changelog ? "last, of keys without a row too" : "first");
}

static void
append_statement(StringInfo buf, const char *title, const char *sql)
{
	if (sql != NULL)
		appendStringInfo(buf, "\n-- %s\n%s;\n", title, sql + strspn(sql, " "));
}

/* ---- the function ---- */

static void
put_lines(ReturnSetInfo *rsinfo, char *text)
{
	char *line;

	while ((line = strsep(&text, "\n")) != NULL)
	{
		Datum value = CStringGetTextDatum(line);
		bool isnull = false;

		if (text != NULL || line[0] != '\0')
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, &value, &isnull);
	}
}

Datum
kappa_sql_explain(PG_FUNCTION_ARGS)
{
	KappaView *view = kappa_view_require_owned(PG_GETARG_OID(0), AccessShareLock);
	KappaVersion *version = kappa_catalog_get_version(view->view, view->version);
	KappaStatements *statements;
	KappaShape *shape;
	Query *query;
	StringInfoData buf;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	if (!OidIsValid(version->definition))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("definition of view \"%s\" was dropped", get_rel_name(view->view))));
	query = kappa_definition_get_query(version->definition);
	shape = kappa_analyze_query(query, NULL, false);
	statements = kappa_definition_get_statements(query, shape, version, true);

	initStringInfo(&buf);
	appendStringInfo(&buf, "-- view %s, version %d: %s\n",
					 kappa_definition_relation_name(view->view), version->version, view->kind);
	append_source(&buf, shape);
	append_lookups(&buf, shape);
	append_tables(&buf, shape, version);
	append_statement(&buf, "query", kappa_definition_get_text(version->definition, true));
	append_statement(&buf, "delta: the query over one batch of messages", statements->delta);
	if (statements->place != NULL && kappa_place_is_possible(version->target, version->companion))
		append_statement(&buf,
						 psprintf("merge: what is run for each batch, live and in a replay, when each row of the delta has\n"
								  "-- been looked up in the %s (\"kappa found\"); its rows replace those of their keys %s",
								  shape->needs_companion ? "companion" : "view",
								  shape->needs_companion ? "in both tables" : "there"),
						 statements->place);
	else
		append_statement(&buf, "merge: what is run for each batch, live and in a replay", statements->merge);
	put_lines((ReturnSetInfo *) fcinfo->resultinfo, buf.data);
	return (Datum) 0;
}
