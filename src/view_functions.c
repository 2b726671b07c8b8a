/*-------------------------------------------------------------------------
 *
 * view_functions.c
 *	  Which functions give the same result whenever a message is read
 *
 * PostgreSQL calls a function stable if it gives the same result throughout a
 * statement.  That lets through now(), which differs at the next statement,
 * and date_trunc() on timestamptz, which depends on TimeZone alone.  A version
 * pins the settings that it was made under, so the second kind is as good as
 * immutable here; the first would make a replay differ from the live view.
 *
 * PostgreSQL's own stable functions are therefore listed: those that depend on
 * settings (and on what a type's input and output functions depend on) are
 * allowed, all others are taken to read the clock, the session or the
 * catalogs.  Other people's stable functions may read tables, and are treated
 * as lookups.
 *
 * IDENTIFICATION
 *	  src/view_functions.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "view_functions.h"

/*
 * Stable functions of pg_catalog that depend on their arguments and on pinned
 * settings, by name: all stable functions of a name are alike, but for those
 * of time with time zone.  Sorted.
 */
static const char *const settings_functions[] = {
	"anytextcat",
	"array_in",
	"array_out",
	"array_to_json",
	"array_to_string",
	"cash_in",
	"cash_out",
	"concat",
	"concat_ws",
	"convert",
	"convert_from",
	"convert_to",
	"date",
	"date_add",
	"date_cmp_timestamptz",
	"date_eq_timestamptz",
	"date_ge_timestamptz",
	"date_gt_timestamptz",
	"date_in",
	"date_le_timestamptz",
	"date_lt_timestamptz",
	"date_ne_timestamptz",
	"date_out",
	"date_part",
	"date_subtract",
	"date_trunc",
	"domain_in",
	"enum_in",
	"enum_out",
	"extract",
	"format",
	"generate_series",
	"in_range",
	"interval_in",
	"interval_out",
	"interval_pl_timestamptz",
	"json_agg_strict_transfn",
	"json_agg_transfn",
	"json_build_array",
	"json_build_object",
	"json_object_agg_strict_transfn",
	"json_object_agg_transfn",
	"json_object_agg_unique_strict_transfn",
	"json_object_agg_unique_transfn",
	"json_populate_record",
	"json_populate_recordset",
	"json_to_record",
	"json_to_recordset",
	"json_to_tsvector",
	"jsonb_agg_finalfn",
	"jsonb_agg_strict_transfn",
	"jsonb_agg_transfn",
	"jsonb_build_array",
	"jsonb_build_object",
	"jsonb_object_agg_finalfn",
	"jsonb_object_agg_strict_transfn",
	"jsonb_object_agg_transfn",
	"jsonb_object_agg_unique_strict_transfn",
	"jsonb_object_agg_unique_transfn",
	"jsonb_path_exists_tz",
	"jsonb_path_match_tz",
	"jsonb_path_query_array_tz",
	"jsonb_path_query_first_tz",
	"jsonb_path_query_tz",
	"jsonb_populate_record",
	"jsonb_populate_recordset",
	"jsonb_to_record",
	"jsonb_to_recordset",
	"jsonb_to_tsvector",
	"length",
	"make_timestamptz",
	"money",
	"multirange_in",
	"multirange_out",
	"numeric",
	"overlaps",
	"phraseto_tsquery",
	"plainto_tsquery",
	"quote_literal",
	"quote_nullable",
	"range_in",
	"range_out",
	"record_in",
	"record_out",
	"row_to_json",
	"textanycat",
	"time",
	"time_in",
	"timestamp",
	"timestamp_cmp_timestamptz",
	"timestamp_eq_timestamptz",
	"timestamp_ge_timestamptz",
	"timestamp_gt_timestamptz",
	"timestamp_in",
	"timestamp_le_timestamptz",
	"timestamp_lt_timestamptz",
	"timestamp_ne_timestamptz",
	"timestamp_out",
	"timestamptz",
	"timestamptz_cmp_date",
	"timestamptz_cmp_timestamp",
	"timestamptz_eq_date",
	"timestamptz_eq_timestamp",
	"timestamptz_ge_date",
	"timestamptz_ge_timestamp",
	"timestamptz_gt_date",
	"timestamptz_gt_timestamp",
	"timestamptz_in",
	"timestamptz_le_date",
	"timestamptz_le_timestamp",
	"timestamptz_lt_date",
	"timestamptz_lt_timestamp",
	"timestamptz_mi_interval",
	"timestamptz_ne_date",
	"timestamptz_ne_timestamp",
	"timestamptz_out",
	"timestamptz_pl_interval",
	"timetz",
	"timezone",
	"to_char",
	"to_date",
	"to_json",
	"to_jsonb",
	"to_number",
	"to_timestamp",
	"to_tsquery",
	"to_tsvector",
	"ts_debug",
	"ts_headline",
	"ts_match_tq",
	"ts_match_tt",
	"ts_parse",
	"ts_token_type",
	"websearch_to_tsquery",
	"xml",
	"xml_in",
	"xml_is_well_formed",
};

/* Functions of pg_catalog that read the clock, volatile or not.  Sorted. */
static const char *const clock_functions[] = {
	"age",
	"clock_timestamp",
	"now",
	"statement_timestamp",
	"timeofday",
	"timetz_in",
	"transaction_timestamp",
};

static int
compare_names(const void *a, const void *b)
{
	return strcmp((const char *) a, *(const char *const *) b);
}

#define is_listed(name, list) \
	(bsearch(name, list, lengthof(list), sizeof(char *), compare_names) != NULL)

/* The zone of a time without a date is that of today. */
static bool
takes_timetz(Form_pg_proc proc)
{
	for (int i = 0; i < proc->pronargs; i++)
	{
		if (proc->proargtypes.values[i] == TIMETZOID)
			return true;
	}
	return proc->prorettype == TIMETZOID && proc->oid != F_TIMETZ_TIMESTAMPTZ;
}

static KappaFunctionClass
classify_builtin(Form_pg_proc proc)
{
	const char *name = NameStr(proc->proname);

	if (is_listed(name, clock_functions) || takes_timetz(proc))
		return KAPPA_FUNCTION_CLOCK;
	if (proc->provolatile == PROVOLATILE_VOLATILE)
		return KAPPA_FUNCTION_VOLATILE;
	if (is_listed(name, settings_functions))
		return KAPPA_FUNCTION_PURE;
	return KAPPA_FUNCTION_SESSION;
}

/*
 * What takes a state of type internal is called by its aggregate alone, and
 * PostgreSQL never looks at how it is declared.  So authors leave it out, which
 * makes it volatile in name: those of hll, for one.
 */
static bool
serves_aggregates(Form_pg_proc proc)
{
	for (int i = 0; i < proc->pronargs; i++)
		if (proc->proargtypes.values[i] == INTERNALOID)
			return true;
	return false;
}

KappaFunctionClass
kappa_function_classify(Oid funcid)
{
	HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(funcid));
	Form_pg_proc proc;
	KappaFunctionClass class;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", funcid);
	proc = (Form_pg_proc) GETSTRUCT(tuple);

	if (proc->provolatile == PROVOLATILE_IMMUTABLE)
		class = KAPPA_FUNCTION_PURE;
	else if (funcid < FirstGenbkiObjectId)
		class = classify_builtin(proc);
	else if (proc->provolatile == PROVOLATILE_STABLE)
		class = KAPPA_FUNCTION_LOOKUP;
	else if (serves_aggregates(proc))
		class = KAPPA_FUNCTION_PURE;
	else
		class = KAPPA_FUNCTION_VOLATILE;
	ReleaseSysCache(tuple);
	return class;
}

/* ---- aggregates ---- */

List *
kappa_function_of_aggregate(Oid aggregate)
{
	HeapTuple tuple = SearchSysCache1(AGGFNOID, ObjectIdGetDatum(aggregate));
	Form_pg_aggregate form;
	List *functions = NIL;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for aggregate %u", aggregate);
	form = (Form_pg_aggregate) GETSTRUCT(tuple);

	functions = lappend_oid(functions, form->aggtransfn);
	if (OidIsValid(form->aggfinalfn))
		functions = lappend_oid(functions, form->aggfinalfn);
	if (OidIsValid(form->aggcombinefn))
		functions = lappend_oid(functions, form->aggcombinefn);
	ReleaseSysCache(tuple);
	return functions;
}

/*
 * Aggregates whose values add up although their states are something else, or
 * whose combine function runs only inside an aggregate.
 */
static Oid
combine_by_value(Oid aggregate)
{
	switch (aggregate)
	{
		case F_SUM_INT8:
		case F_SUM_NUMERIC:
			return F_NUMERIC_ADD;
		case F_SUM_INTERVAL:
			return F_INTERVAL_PL;
		case F_RANGE_INTERSECT_AGG_ANYRANGE:
			return F_RANGE_INTERSECT;
		case F_RANGE_INTERSECT_AGG_ANYMULTIRANGE:
			return F_MULTIRANGE_INTERSECT;
		default:
			return InvalidOid;
	}
}

/* A state that starts with a value, and combined by a strict built-in, is never NULL: count. */
static bool
state_may_be_null(Oid aggregate, HeapTuple tuple)
{
	bool no_initial_value;

	(void) SysCacheGetAttr(AGGFNOID, tuple, Anum_pg_aggregate_agginitval, &no_initial_value);
	return no_initial_value || aggregate >= FirstGenbkiObjectId;
}

Oid
kappa_function_combine(Oid aggregate, bool *skip_null)
{
	HeapTuple tuple;
	Form_pg_aggregate form;
	Oid combine = combine_by_value(aggregate);

	*skip_null = true;
	if (OidIsValid(combine))
		return combine;

	tuple = SearchSysCache1(AGGFNOID, ObjectIdGetDatum(aggregate));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for aggregate %u", aggregate);
	form = (Form_pg_aggregate) GETSTRUCT(tuple);

	if (form->aggkind == AGGKIND_NORMAL && !OidIsValid(form->aggfinalfn) &&
		form->aggtranstype != INTERNALOID)
		combine = form->aggcombinefn;
	if (OidIsValid(combine))
		*skip_null = func_strict(combine) && state_may_be_null(aggregate, tuple);
	ReleaseSysCache(tuple);
	return combine;
}

bool
kappa_function_reads_json(Oid funcid)
{
	switch (funcid)
	{
		case F_JSON_POPULATE_RECORD:
		case F_JSON_POPULATE_RECORDSET:
		case F_JSON_TO_RECORD:
		case F_JSON_TO_RECORDSET:
		case F_JSONB_POPULATE_RECORD:
		case F_JSONB_POPULATE_RECORDSET:
		case F_JSONB_TO_RECORD:
		case F_JSONB_TO_RECORDSET:
			return true;
		default:
			return false;
	}
}

/* ---- types whose input reads the clock ---- */

static bool
is_datetime(Oid type)
{
	switch (type)
	{
		case DATEOID:
		case TIMEOID:
		case TIMETZOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			return true;
		default:
			return false;
	}
}

static bool
is_timetz(Oid type)
{
	return type == TIMETZOID;
}

static bool type_holds(Oid type, bool (*wanted)(Oid type));

static bool
row_type_holds(Oid type, bool (*wanted)(Oid type))
{
	TupleDesc desc = lookup_rowtype_tupdesc_domain(type, -1, true);
	bool found = false;

	if (desc == NULL)
		return false;
	for (int i = 0; i < desc->natts && !found; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		found = !att->attisdropped && type_holds(att->atttypid, wanted);
	}
	ReleaseTupleDesc(desc);
	return found;
}

static bool
type_holds(Oid type, bool (*wanted)(Oid type))
{
	Oid base = getBaseType(type);
	Oid element = get_element_type(base);

	check_stack_depth();
	if (wanted(base))
		return true;
	if (OidIsValid(element))
		return type_holds(element, wanted);
	if (type_is_range(base))
		return type_holds(get_range_subtype(base), wanted);
	if (type_is_multirange(base))
		return type_holds(get_range_subtype(get_multirange_range(base)), wanted);
	return base != RECORDOID && type_is_rowtype(base) && row_type_holds(base, wanted);
}

bool
kappa_type_takes_clock_words(Oid type)
{
	return type_holds(type, is_datetime);
}

bool
kappa_type_takes_timetz(Oid type)
{
	return type_holds(type, is_timetz);
}
