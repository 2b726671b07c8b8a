/*-------------------------------------------------------------------------
 *
 * aggregate.c
 *	  States of aggregates: which can be kept, combined, finalized
 *
 * kappa.partial() makes the state of an aggregate over some rows
 * (aggregate_partial.c), kappa.combine() makes one state of two, and
 * kappa.finalize() the aggregate's result.  All three do what the executor
 * does when an aggregate runs in parallel, in the same order and in the same
 * kinds of memory, so that states and results are the same to the bit.
 *
 * What was looked up is kept in fn_extra for the query.
 *
 * IDENTIFICATION
 *	  src/aggregate.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "parser/parse_agg.h"
#include "utils/datum.h"
#include "utils/expandeddatum.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "aggregate.h"
#include "aggregate_call.h"
#include "compat.h"
#include "kappa.h"

PG_FUNCTION_INFO_V1(kappa_sql_combine);
PG_FUNCTION_INFO_V1(kappa_sql_combined_transition);
PG_FUNCTION_INFO_V1(kappa_sql_finalize);
PG_FUNCTION_INFO_V1(kappa_sql_any_value_transition);

KappaStateKind
kappa_aggregate_state_kind(const Aggref *aggref, Oid *type)
{
	Oid inputs[FUNC_MAX_ARGS];
	HeapTuple tuple;
	Form_pg_aggregate form;
	bool combines;
	bool serializes;

	*type = InvalidOid;
	if (aggref->aggdistinct != NIL || aggref->aggorder != NIL)
		return KAPPA_STATE_NONE;

	tuple = SearchSysCache1(AGGFNOID, ObjectIdGetDatum(aggref->aggfnoid));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for aggregate %u", aggref->aggfnoid);
	form = (Form_pg_aggregate) GETSTRUCT(tuple);
	combines = form->aggkind == AGGKIND_NORMAL && OidIsValid(form->aggcombinefn);
	serializes = OidIsValid(form->aggserialfn) && OidIsValid(form->aggdeserialfn) &&
				 !kappa_keeps_values(form->aggserialfn);
	*type = form->aggtranstype;
	ReleaseSysCache(tuple);

	if (combines && *type == INTERNALOID && serializes)
	{
		*type = kappa_state_type();
		return KAPPA_STATE_SERIAL;
	}
	if (combines && *type != INTERNALOID)
	{
		int ninputs = get_aggregate_argtypes(unconstify(Aggref *, aggref), inputs);

		*type = resolve_aggregate_transtype(aggref->aggfnoid, *type, inputs, ninputs);
		if (get_typtype(*type) != TYPTYPE_PSEUDO)
			return KAPPA_STATE_TYPED;
	}
	*type = InvalidOid;
	return KAPPA_STATE_NONE;
}

bool
kappa_aggregate_is_polymorphic(Oid aggregate)
{
	Oid *types;
	int ntypes;
	bool polymorphic = false;

	(void) get_func_signature(aggregate, &types, &ntypes);
	for (int i = 0; i < ntypes; i++)
		polymorphic |= types[i] == ANYOID || IsPolymorphicType(types[i]);
	return polymorphic;
}

/* ---- memory ---- */

/*
 * Two memory contexts last as long as a call: one for the state, as an Agg
 * node has for its group, and one that functions run in, and may reset.
 */
static MemoryContext
get_state_context(KappaAggregate *agg)
{
	return agg->aggstate->curaggcontext->ecxt_per_tuple_memory;
}

static MemoryContext
get_scratch_context(KappaAggregate *agg)
{
	return agg->aggstate->tmpcontext->ecxt_per_tuple_memory;
}

/* Free what a call has used, and do what its functions wanted done then. */
static void
reset_contexts(KappaAggregate *agg)
{
	ReScanExprContext(agg->aggstate->curaggcontext);
	ReScanExprContext(agg->aggstate->tmpcontext);
}

/* A copy of a state that a function may change in place. */
static Datum
copy_state(KappaAggregate *agg, Datum value)
{
	MemoryContext caller = MemoryContextSwitchTo(get_state_context(agg));

	/* What comes from a table may be compressed: undo that on the way. */
	if (agg->trans_len == -1)
		value = PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
	else
		value = datumCopy(value, agg->trans_byval, agg->trans_len);
	MemoryContextSwitchTo(caller);
	return value;
}

/* ---- combining ---- */

/* Places of the arguments: combine(aggregate, a, b), combined_transition(a, aggregate, b). */
#define FIRST_STATE(aggregate_argno) (1 - (aggregate_argno))
#define SECOND_STATE 2

/*
 * Run the combine function.  Changes the first state in place, if it likes.
 *
 * In older minor versions, those of numbers make of nothing and nothing a pointer
 * that is null, and would be taken for a state.
 */
static Datum
combine_values(KappaAggregate *agg, Datum value, bool isnull, Datum other,
			   bool other_isnull, bool *result_isnull)
{
	FunctionCallInfo call = agg->combine.fcinfo;
	Datum result;

	agg->aggstate->curpertrans = &agg->pertrans;
	call->args[0].value = value;
	call->args[0].isnull = isnull;
	call->args[1].value = other;
	call->args[1].isnull = other_isnull;
	result = call_aggregate_function(&agg->combine, result_isnull);
	if (agg->trans_type == INTERNALOID && DatumGetPointer(result) == NULL)
		*result_isnull = true;
	agg->aggstate->curpertrans = NULL;
	return result;
}

static void
refuse_state(const KappaAggregate *agg)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATATYPE_MISMATCH),
			 errmsg("the state is not one of aggregate %s", agg->name),
			 errdetail("A state belongs to the function that serializes it and, if the aggregate is polymorphic, to the types of its arguments."),
			 errhint("If one of these was renamed, or restored from a dump, rebuild the view with kappa.rebuild().")));
}

/* The bytes in a kappa.state, once it is clear that they are for us. */
static Datum
unpack_state(const KappaAggregate *agg, Datum state, KappaStateHeader *header)
{
	bytea *bytes = kappa_state_unpack(state, header);

	if (header->version != agg->header.version)
		ereport(ERROR,
				(errcode(ERRCODE_KAPPA_STOP),
				 errmsg("the state of aggregate %s was made by PostgreSQL %d", agg->name,
						header->version),
				 errhint("Rebuild the view with kappa.rebuild().")));
	if (header->function != agg->header.function ||
		(header->types == 0) != !agg->polymorphic ||
		(agg->header.types != 0 && header->types != agg->header.types))
		refuse_state(agg);
	return PointerGetDatum(bytes);
}

/*
 * Combine an internal state with a serialized one.
 *
 * What a deserialize function makes lives in short-lived memory, and is never
 * the first argument of a combine function: that one starts from null.
 */
static Datum
combine_serialized(KappaAggregate *agg, Datum value, bool isnull, Datum bytes,
				   bool bytes_isnull, bool *result_isnull)
{
	FunctionCallInfo call = agg->deserial.fcinfo;
	Datum other = (Datum) 0;
	bool other_isnull = true;

	if (!bytes_isnull || !agg->deserial.flinfo.fn_strict)
	{
		call->args[0].value = bytes;
		call->args[0].isnull = bytes_isnull;
		call->args[1].value = (Datum) 0;
		call->args[1].isnull = false;
		other = call_aggregate_function(&agg->deserial, &other_isnull);
	}
	return combine_values(agg, value, isnull, other, other_isnull, result_isnull);
}

static KappaAggregate *
open_combine(FunctionCallInfo fcinfo, int aggregate_argno)
{
	MemoryContext caller = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);
	Oid aggregate = kappa_aggregate_argument(fcinfo, aggregate_argno);
	KappaAggregate *agg = kappa_aggregate_open(aggregate, PG_GET_COLLATION());

	kappa_aggregate_resolve_state(agg, kappa_aggregate_argument_type(fcinfo, SECOND_STATE));
	kappa_aggregate_prepare_combine(agg);
	if (agg->trans_type == INTERNALOID)
		kappa_aggregate_prepare_serial(agg);
	kappa_aggregate_make_node(agg);
	fcinfo->flinfo->fn_extra = agg;
	MemoryContextSwitchTo(caller);
	return agg;
}

/* Combine two serialized states; the result is in that memory context. */
static Datum
combine_serial(KappaAggregate *agg, const NullableDatum *states[2], MemoryContext target,
			   bool *isnull)
{
	KappaStateHeader header = agg->header;
	Datum value = (Datum) 0;
	bool value_isnull = true;

	for (int i = 0; i < 2; i++)
	{
		KappaStateHeader other;
		Datum bytes = (Datum) 0;

		if (!states[i]->isnull)
		{
			bytes = unpack_state(agg, states[i]->value, &other);
			if (header.types != 0 && other.types != header.types)
				refuse_state(agg);
			header.types = other.types;
		}
		value = combine_serialized(agg, value, value_isnull, bytes, states[i]->isnull,
								   &value_isnull);
	}
	return kappa_aggregate_serialize(agg, value, value_isnull, &header, target, isnull);
}

/* Combine two states that are values, likewise. */
static Datum
combine_typed(KappaAggregate *agg, const NullableDatum *states[2], MemoryContext target,
			  bool *isnull)
{
	Datum value = states[0]->value;
	Datum other = states[1]->value;

	if (!states[0]->isnull)
		value = copy_state(agg, value);
	other = MakeExpandedObjectReadOnly(other, states[1]->isnull, agg->trans_len);
	value = combine_values(agg, value, states[0]->isnull, other, states[1]->isnull, isnull);
	if (*isnull)
		return (Datum) 0;
	MemoryContextSwitchTo(target);
	return datumCopy(value, agg->trans_byval, agg->trans_len);
}

static Datum
combine_arguments(FunctionCallInfo fcinfo, int aggregate_argno)
{
	KappaAggregate *agg = fcinfo->flinfo->fn_extra;
	const NullableDatum *states[2] = {
		&fcinfo->args[FIRST_STATE(aggregate_argno)], &fcinfo->args[SECOND_STATE]
	};
	MemoryContext caller;
	Datum result;
	bool isnull;

	if (agg == NULL)
		agg = open_combine(fcinfo, aggregate_argno);
	check_same_aggregate(fcinfo, aggregate_argno, agg);

	/* Null is the state of no rows. */
	if (agg->combine.flinfo.fn_strict && (states[0]->isnull || states[1]->isnull))
	{
		const NullableDatum *given = states[0]->isnull ? states[1] : states[0];

		if (given->isnull)
			PG_RETURN_NULL();
		PG_RETURN_DATUM(given->value);
	}

	caller = MemoryContextSwitchTo(get_scratch_context(agg));
	if (agg->trans_type == INTERNALOID)
		result = combine_serial(agg, states, caller, &isnull);
	else
		result = combine_typed(agg, states, caller, &isnull);
	MemoryContextSwitchTo(caller);
	reset_contexts(agg);
	if (isnull)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(result);
}

/*
 * combine(aggregate regprocedure, a kappa.state, b kappa.state) returns kappa.state
 * combine(aggregate regprocedure, a anyelement, b anyelement) returns anyelement
 */
Datum
kappa_sql_combine(PG_FUNCTION_ARGS)
{
	return combine_arguments(fcinfo, 0);
}

/*
 * combined_transition(a kappa.state, aggregate regprocedure, b kappa.state) returns kappa.state
 * combined_transition(a anyelement, aggregate regprocedure, b anyelement) returns anyelement
 */
Datum
kappa_sql_combined_transition(PG_FUNCTION_ARGS)
{
	return combine_arguments(fcinfo, 1);
}

/* ---- finalizing ---- */

static KappaAggregate *
open_finalize(FunctionCallInfo fcinfo)
{
	MemoryContext caller = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);
	Oid aggregate = kappa_aggregate_argument(fcinfo, 0);
	KappaAggregate *agg = kappa_aggregate_open(aggregate, PG_GET_COLLATION());
	Oid state_type = kappa_aggregate_argument_type(fcinfo, 1);
	Oid result_type = kappa_aggregate_argument_type(fcinfo, 2);

	if (PG_NARGS() > 3)
	{
		kappa_aggregate_resolve_call(agg, fcinfo, 3, get_fn_expr_variadic(fcinfo->flinfo));
		kappa_aggregate_check_state_type(agg, state_type);
		kappa_aggregate_check_result_type(agg, result_type);
	}
	else
		kappa_aggregate_resolve_result(agg, state_type, result_type);

	if (agg->trans_type == INTERNALOID)
		kappa_aggregate_prepare_combine(agg);
	kappa_aggregate_prepare_final(agg);
	kappa_aggregate_make_node(agg);
	fcinfo->flinfo->fn_extra = agg;
	MemoryContextSwitchTo(caller);
	return agg;
}

/* The state to finalize, where the final function may change it. */
static Datum
get_final_state(FunctionCallInfo fcinfo, KappaAggregate *agg, bool *isnull)
{
	KappaStateHeader header;

	if (!PG_ARGISNULL(1) && agg->trans_type == INTERNALOID)
		return combine_serialized(agg, (Datum) 0, true,
								  unpack_state(agg, PG_GETARG_DATUM(1), &header), false, isnull);

	*isnull = PG_ARGISNULL(1) && agg->initial_isnull;
	if (*isnull)
		return (Datum) 0;
	return copy_state(agg, PG_ARGISNULL(1) ? agg->initial_value : PG_GETARG_DATUM(1));
}

static Datum
run_final(KappaAggregate *agg, Datum value, bool isnull, bool *result_isnull)
{
	FunctionCallInfo call = agg->final.fcinfo;
	Datum result;

	*result_isnull = isnull;
	if (call == NULL)
		return value;

	*result_isnull = true;
	if (agg->final.flinfo.fn_strict && (isnull || call->nargs > 1))
		return (Datum) 0;
	agg->aggstate->curperagg = &agg->peragg;
	call->args[0].value = value;
	call->args[0].isnull = isnull;
	result = call_aggregate_function(&agg->final, result_isnull);
	agg->aggstate->curperagg = NULL;
	return result;
}

/*
 * finalize(aggregate regprocedure, state "any", result anyelement) returns anyelement
 * finalize(aggregate regprocedure, state "any", result anyelement, VARIADIC arguments "any") returns anyelement
 */
Datum
kappa_sql_finalize(PG_FUNCTION_ARGS)
{
	KappaAggregate *agg = fcinfo->flinfo->fn_extra;
	MemoryContext caller;
	Datum state;
	Datum result;
	bool isnull;

	if (agg == NULL)
		agg = open_finalize(fcinfo);
	check_same_aggregate(fcinfo, 0, agg);

	caller = MemoryContextSwitchTo(get_scratch_context(agg));
	state = get_final_state(fcinfo, agg, &isnull);
	MemoryContextSwitchTo(get_state_context(agg));
	result = run_final(agg, state, isnull, &isnull);
	MemoryContextSwitchTo(caller);
	if (!isnull)
		result = datumCopy(result, agg->result_byval, agg->result_len);
	reset_contexts(agg);
	if (isnull)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(result);
}

/* ---- columns that follow from the key ---- */

/* any_value_transition(state anyelement, value anyelement) returns anyelement; strict */
Datum
kappa_sql_any_value_transition(PG_FUNCTION_ARGS)
{
	PG_RETURN_DATUM(PG_GETARG_DATUM(0));
}
