/*-------------------------------------------------------------------------
 *
 * trace.c
 *	  Find the messages behind a row of a view
 *
 * The log is read again, between the view's offsets, by the view's own FROM and
 * WHERE, and with one more condition: that the expressions of the columns that
 * the caller names have the caller's values.  That is not what the view keeps,
 * so it is found however many messages have gone into a group.
 *
 * IDENTIFICATION
 *	  src/trace.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "executor/tstoreReceiver.h"
#include "fmgr.h"
#include "funcapi.h"
#include "nodes/makefuncs.h"
#include "optimizer/clauses.h"
#include "parser/parsetree.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/typcache.h"

#include "definition.h"
#include "fdw_options.h"
#include "fdw_scan.h"
#include "view_callees.h"
#include "view_commands.h"
#include "view_delta.h"
#include "view_query.h"

PG_FUNCTION_INFO_V1(kappa_sql_messages_of);

/* ---- the condition ---- */

static KappaOutput *
find_output(const KappaShape *shape, const char *name)
{
	ListCell *lc;

	foreach(lc, shape->outputs)
		if (strcmp(((KappaOutput *) lfirst(lc))->name, name) == 0)
			return lfirst(lc);
	return NULL;
}

static void
refuse_column(Oid view, const char *name, bool exists)
{
	ereport(ERROR,
			(errcode(exists ? ERRCODE_FEATURE_NOT_SUPPORTED : ERRCODE_UNDEFINED_COLUMN),
			 exists ? errmsg("messages cannot be found by column \"%s\" of view \"%s\"", name,
							 get_rel_name(view))
					: errmsg("column \"%s\" of view \"%s\" does not exist", name,
							 get_rel_name(view)),
			 exists ? errdetail("It depends on more than one message, or its type has no equality.") : 0,
			 exists ? errhint("Name columns of the view's key.") : 0));
}

/* A value of the column's type, from its JSON form. */
static Const *
make_value(const KappaOutput *output, char *text)
{
	Oid input;
	Oid parameter;
	int16 len;
	bool byval;
	Datum value;

	getTypeInputInfo(output->type, &input, &parameter);
	get_typlenbyval(output->type, &len, &byval);
	value = OidInputFunctionCall(input, text, parameter, output->typmod);
	return makeConst(output->type, output->typmod, output->collation, len, value, false, byval);
}

static Expr *
make_condition(const Query *query, const KappaOutput *output, char *text)
{
	Expr *expression = copyObject(get_tle_by_resno(query->targetList, output->resno)->expr);
	Oid equality = lookup_type_cache(output->type, TYPECACHE_EQ_OPR)->eq_opr;
	NullTest *test;

	if (text != NULL)
		return make_opclause(equality, BOOLOID, false, expression,
							 (Expr *) make_value(output, text), InvalidOid,
							 output->collation);
	test = makeNode(NullTest);
	test->arg = expression;
	test->nulltesttype = IS_NULL;
	test->argisrow = false;
	test->location = -1;
	return (Expr *) test;
}

/* The text of a JSON value, as ->> gives it: a container's own. */
static char *
get_text(JsonbValue *value)
{
	switch (value->type)
	{
		case jbvNull:
			return NULL;
		case jbvString:
			return pnstrdup(value->val.string.val, value->val.string.len);
		case jbvNumeric:
			return DatumGetCString(DirectFunctionCall1(numeric_out,
													   NumericGetDatum(value->val.numeric)));
		case jbvBool:
			return value->val.boolean ? "true" : "false";
		default:
			return JsonbToCString(NULL, value->val.binary.data, value->val.binary.len);
	}
}

/* Conditions that fields of an object stand for. */
static List *
make_conditions(const Query *query, const KappaShape *shape, Oid view, Jsonb *object)
{
	List *conditions = NIL;
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue name;
	JsonbValue value;

	if (!JB_ROOT_IS_OBJECT(object))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the row must be a JSON object"),
				 errhint("Its fields are columns of the view, for example '{\"page\": \"/home\"}'.")));
	iterator = JsonbIteratorInit(&object->root);
	while ((token = JsonbIteratorNext(&iterator, &name, true)) != WJB_DONE)
	{
		char *column;
		KappaOutput *output;
		Node *expression;

		if (token != WJB_KEY)
			continue;
		(void) JsonbIteratorNext(&iterator, &value, true);
		column = pnstrdup(name.val.string.val, name.val.string.len);
		output = find_output(shape, column);
		if (output == NULL)
			refuse_column(view, column, false);
		expression = (Node *) get_tle_by_resno(query->targetList, output->resno)->expr;
		if (contain_agg_clause(expression) ||
			!OidIsValid(lookup_type_cache(output->type, TYPECACHE_EQ_OPR)->eq_opr))
			refuse_column(view, column, true);
		conditions = lappend(conditions, make_condition(query, output, get_text(&value)));
	}
	return conditions;
}

/* ---- the query ---- */

/*
 * Where messages are in the log is what the scan says, counted from the view's
 * start; one that gives several rows is listed once.
 */
static char *
make_query(Query *definition, const KappaShape *shape, const KappaVersion *version,
		   Jsonb *object, const KappaPosition *position, int64 max_rows)
{
	Query *query = kappa_query_resolve_aliases(definition);
	StringInfoData starts;

	query = kappa_delta_over_messages(query, shape,
									  make_conditions(query, shape, version->view, object));
	initStringInfo(&starts);
	for (int p = 0; p < position->npartitions; p++)
		appendStringInfo(&starts, "%s" INT64_FORMAT, p == 0 ? "" : ",",
						 position->start_offset[p]);
	return psprintf("SELECT DISTINCT ON (m.part, m.place) m.part, m.place OPERATOR(pg_catalog.+)"
					" ('{%s}'::pg_catalog.int8[])[m.part OPERATOR(pg_catalog.+) 1], m.message"
					" FROM (%s) AS m ORDER BY m.part, m.place LIMIT " INT64_FORMAT,
					starts.data, kappa_definition_deparse(query, version), max_rows);
}

/* Between which offsets the view was made; what was not read yet is empty. */
static KappaPosition *
load_position(const KappaVersion *version)
{
	KappaPosition *position = kappa_catalog_get_position_at(version->view, version->version,
															GetActiveSnapshot());

	if (position == NULL)
		elog(ERROR, "view \"%s\" has no position", get_rel_name(version->view));
	for (int p = 0; p < position->npartitions; p++)
		if (position->start_offset[p] < 0 || position->next_offset[p] < 0)
			position->start_offset[p] = position->next_offset[p] = 0;
	return position;
}

/* What the view has passed over is behind none of its rows. */
static void
bind_gaps(Oid source, const KappaVersion *version)
{
	ListCell *lc;

	foreach(lc, kappa_catalog_list_gaps_at(version->view, version->version, GetActiveSnapshot()))
	{
		KappaGap *gap = lfirst(lc);

		kappa_fdw_bind_gap(source, gap->part, gap->from_offset, gap->to_offset);
	}
}

/* Run the query, as the view's owner. */
static void
find_messages(const char *sql, Query *definition, ReturnSetInfo *rsinfo)
{
	DestReceiver *dest = CreateDestReceiver(DestTuplestore);
	SPIExecuteOptions options = { .read_only = true, .dest = dest };

	SetTuplestoreDestReceiverParams(dest, rsinfo->setResult,
									rsinfo->econtext->ecxt_per_query_memory, false, NULL, NULL);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	kappa_callees_expect(sql, definition);
	if (SPI_execute_extended(sql, &options) != SPI_OK_SELECT)
		elog(ERROR, "could not run: %s", sql);
	SPI_finish();
	dest->rDestroy(dest);
}

/*
 * kappa.messages_of(view regclass, row jsonb, max_rows bigint)
 * -> setof (part integer, pos bigint, message json)
 */
Datum
kappa_sql_messages_of(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	KappaView *view = kappa_view_require_owned(PG_GETARG_OID(0), AccessShareLock);
	KappaVersion *version = kappa_catalog_get_version(view->view, view->version);
	int64 max_rows = PG_GETARG_INT64(2);
	KappaOwnerScope scope;
	KappaPosition *position;
	Query *definition;
	KappaShape *shape;

	if (max_rows < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_rows must not be negative")));
	if (version == NULL || !OidIsValid(version->definition))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("definition of view \"%s\" was dropped", get_rel_name(view->view))));
	InitMaterializedSRF(fcinfo, 0);
	PushActiveSnapshot(GetTransactionSnapshot());
	definition = kappa_definition_get_query(version->definition);
	shape = kappa_analyze_query(definition, NULL, false);
	position = load_position(version);
	kappa_fdw_bind_bounds(shape->scan->source, position->npartitions, position->start_offset,
						  position->next_offset);
	bind_gaps(shape->scan->source, version);

	/* Reading the caller's values runs the checks of the owner's types. */
	kappa_definition_enter_owner(&scope, view->owner, version->settings);
	find_messages(make_query(definition, shape, version, PG_GETARG_JSONB_P(1), position,
							 max_rows),
				  definition, rsinfo);
	kappa_definition_leave_owner(&scope);
	kappa_fdw_unbind_bounds();
	PopActiveSnapshot();
	return (Datum) 0;
}
