/*-------------------------------------------------------------------------
 *
 * aggregate.c
 *	  Partial states of aggregates: made, combined, finalized
 *
 * kappa.partial() is an aggregate that runs another aggregate's transition
 * function, and gives its state instead of its result.  kappa.combine() makes
 * one state of two, and kappa.finalize() the result.  All three do what the
 * executor does when an aggregate runs in parallel, in the same order and in
 * the same memory contexts, so that the states are the same to the bit.
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
#include "nodes/makefuncs.h"
#include "parser/parse_agg.h"
#include "utils/datum.h"
#include "utils/expandeddatum.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "aggregate.h"
#include "aggregate_call.h"

/*
 * A group's state while kappa.partial() runs; lives in the Agg node's memory.
 * The fields are those of AggStatePerGroupData.
 */
typedef struct PartialState
{
	KappaAggregate *agg;
	Datum value;
	bool isnull;
	bool unset; /* the first input becomes the state */
} PartialState;

PG_FUNCTION_INFO_V1(kappa_sql_partial_transition);
PG_FUNCTION_INFO_V1(kappa_sql_partial_typed_transition);
PG_FUNCTION_INFO_V1(kappa_sql_partial_final);
PG_FUNCTION_INFO_V1(kappa_sql_partial_typed_final);
PG_FUNCTION_INFO_V1(kappa_sql_combine);
PG_FUNCTION_INFO_V1(kappa_sql_finalize);

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
	serializes = OidIsValid(form->aggserialfn) && OidIsValid(form->aggdeserialfn);
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

/* ---- what all functions share ---- */

/* The argument that names the aggregate. */
static Oid
get_aggregate_argument(FunctionCallInfo fcinfo, int argno)
{
	if (PG_ARGISNULL(argno))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the aggregate must not be null")));
	return PG_GETARG_OID(argno);
}

static inline void
check_same_aggregate(FunctionCallInfo fcinfo, int argno, const KappaAggregate *agg)
{
	if (unlikely(PG_ARGISNULL(argno) || PG_GETARG_OID(argno) != agg->oid))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the aggregate must be the same for all rows")));
}

static Oid
get_argument_type(FunctionCallInfo fcinfo, int argno)
{
	Oid type = get_fn_expr_argtype(fcinfo->flinfo, argno);

	if (!OidIsValid(type))
		elog(ERROR, "could not determine the type of argument %d", argno);
	return type;
}

/* Resolve an aggregate's types by the arguments from that one on. */
static void
resolve_by_arguments(FunctionCallInfo fcinfo, KappaAggregate *agg, int first, bool variadic)
{
	int nargs = PG_NARGS() - first;
	Oid types[FUNC_MAX_ARGS];

	for (int i = 0; i < nargs; i++)
		types[i] = get_argument_type(fcinfo, first + i);
	kappa_aggregate_resolve_arguments(agg, nargs, types, variadic);
}

/* Call a function whose arguments are in place. */
static inline Datum
call_function(KappaAggregateFunction *function, bool *isnull)
{
	Datum result;

	function->fcinfo->isnull = false;
	result = FunctionCallInvoke(function->fcinfo);
	*isnull = function->fcinfo->isnull;
	return result;
}

/* A kappa.state of an internal one, in the current memory context. */
static Datum
serialize(KappaAggregate *agg, Datum value, bool isnull, const KappaStateHeader *header,
		  bool *result_isnull)
{
	FunctionCallInfo call = agg->serial.fcinfo;
	Datum bytes;

	*result_isnull = true;
	if (isnull && agg->serial.flinfo.fn_strict)
		return (Datum) 0;
	call->args[0].value = value;
	call->args[0].isnull = isnull;
	bytes = call_function(&agg->serial, result_isnull);
	if (*result_isnull)
		return (Datum) 0;
	return kappa_state_pack(header, DatumGetByteaPP(bytes));
}

/* ---- kappa.partial ---- */

/* Our own call, by its node: where the aggregate is run as one. */
static Aggref *
get_own_aggref(FunctionCallInfo fcinfo)
{
	Aggref *aggref = AggGetAggref(fcinfo);

	if (aggref == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("kappa.partial() cannot be used as a window function")));
	return aggref;
}

/* Look up an aggregate whose arguments begin with that one of ours. */
static KappaAggregate *
open_partial(FunctionCallInfo fcinfo, Oid aggregate, Oid state_type, int first)
{
	MemoryContext caller = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);
	Aggref *own = get_own_aggref(fcinfo);
	KappaAggregate *agg = kappa_aggregate_open(aggregate, PG_GET_COLLATION());
	List *args = NIL;

	resolve_by_arguments(fcinfo, agg, first, own->aggvariadic);
	kappa_aggregate_check_state_type(agg, state_type);
	kappa_aggregate_prepare_transition(agg, own->aggvariadic);
	if (agg->trans_type == INTERNALOID)
		kappa_aggregate_prepare_serial(agg);

	for (int i = first - 1; i < list_length(own->args); i++)
	{
		TargetEntry *arg = flatCopyTargetEntry(list_nth_node(TargetEntry, own->args, i));

		arg->resno = i - first + 2;
		args = lappend(args, arg);
	}
	kappa_aggregate_make_aggref(agg, args);
	fcinfo->flinfo->fn_extra = agg;
	MemoryContextSwitchTo(caller);
	return agg;
}

static MemoryContext
get_aggregate_context(FunctionCallInfo fcinfo)
{
	return ((AggState *) fcinfo->context)->curaggcontext->ecxt_per_tuple_memory;
}

static PartialState *
begin_partial(FunctionCallInfo fcinfo, KappaAggregate *agg)
{
	MemoryContext caller = MemoryContextSwitchTo(get_aggregate_context(fcinfo));
	PartialState *state = palloc(sizeof(PartialState));

	state->agg = agg;
	state->isnull = agg->initial_isnull;
	state->unset = agg->initial_isnull;
	state->value = agg->initial_isnull ? (Datum) 0 : datumCopy(agg->initial_value, agg->trans_byval, agg->trans_len);
	MemoryContextSwitchTo(caller);
	return state;
}

/*
 * Put a by-reference value in the place of a group's state.
 *
 * It is copied into the Agg node's memory, unless it is there already as an
 * expanded object that the transition function may change in place.
 */
static void
replace_state(FunctionCallInfo fcinfo, PartialState *state, Datum value, bool isnull)
{
	int16 len = state->agg->trans_len;

	if (isnull)
		value = (Datum) 0;
	else
	{
		MemoryContext caller = MemoryContextSwitchTo(get_aggregate_context(fcinfo));

		if (!(DatumIsReadWriteExpandedObject(value, false, len) &&
			  MemoryContextGetParent(DatumGetEOHP(value)->eoh_context) == CurrentMemoryContext))
			value = datumCopy(value, false, len);
		MemoryContextSwitchTo(caller);
	}
	if (!state->isnull)
	{
		if (DatumIsReadWriteExpandedObject(state->value, false, len))
			DeleteExpandedObject(state->value);
		else
			pfree(DatumGetPointer(state->value));
	}
	state->value = value;
	state->isnull = isnull;
}

/* Run the transition function, with its arguments in place. */
static void
advance(FunctionCallInfo fcinfo, PartialState *state)
{
	KappaAggregate *agg = state->agg;
	FunctionCallInfo call = agg->transition.fcinfo;
	AggState *aggstate = (AggState *) fcinfo->context;
	AggStatePerTrans own;
	Datum value;
	bool isnull;

	if (agg->transition.flinfo.fn_strict)
	{
		for (int i = 1; i <= agg->nargs; i++)
		{
			if (call->args[i].isnull)
				return;
		}
		if (state->unset)
		{
			state->unset = false;
			if (agg->trans_byval)
			{
				state->value = call->args[1].value;
				state->isnull = false;
			}
			else
				replace_state(fcinfo, state, call->args[1].value, false);
			return;
		}
		/* The state has become null, and remains so. */
		if (state->isnull)
			return;
	}

	own = aggstate->curpertrans;
	aggstate->curpertrans = &agg->pertrans;
	call->context = fcinfo->context;
	call->args[0].value = state->value;
	call->args[0].isnull = state->isnull;
	value = call_function(&agg->transition, &isnull);
	aggstate->curpertrans = own;

	if (agg->trans_byval)
	{
		state->value = value;
		state->isnull = isnull;
	}
	else if (DatumGetPointer(value) != DatumGetPointer(state->value))
		replace_state(fcinfo, state, value, isnull);
	else
		state->isnull = isnull;
}

static Datum
accumulate(FunctionCallInfo fcinfo, KappaAggregate *agg, int first)
{
	PartialState *state;
	int nargs = PG_NARGS() - first;

	check_same_aggregate(fcinfo, 1, agg);
	state = PG_ARGISNULL(0) ? begin_partial(fcinfo, agg) : (PartialState *) PG_GETARG_POINTER(0);
	for (int i = 0; i < nargs; i++)
		agg->transition.fcinfo->args[i + 1] = fcinfo->args[first + i];
	advance(fcinfo, state);
	PG_RETURN_POINTER(state);
}

/* partial_transition(internal, aggregate regprocedure, VARIADIC "any") returns internal */
Datum
kappa_sql_partial_transition(PG_FUNCTION_ARGS)
{
	KappaAggregate *agg = fcinfo->flinfo->fn_extra;

	if (agg == NULL)
		agg = open_partial(fcinfo, get_aggregate_argument(fcinfo, 1), kappa_state_type(), 2);
	return accumulate(fcinfo, agg, 2);
}

/* partial_typed_transition(internal, aggregate regprocedure, state anyelement, VARIADIC "any") returns internal */
Datum
kappa_sql_partial_typed_transition(PG_FUNCTION_ARGS)
{
	KappaAggregate *agg = fcinfo->flinfo->fn_extra;

	if (agg == NULL)
		agg = open_partial(fcinfo, get_aggregate_argument(fcinfo, 1),
						   get_argument_type(fcinfo, 2), 3);
	return accumulate(fcinfo, agg, 3);
}

/*
 * The aggregate that a group without rows names.
 *
 * A final function gets nulls for the aggregate's arguments.  With no row that
 * had them, the aggregate can only be told if the query names it plainly.
 */
static Oid
get_constant_aggregate(FunctionCallInfo fcinfo)
{
	Expr *arg = linitial_node(TargetEntry, get_own_aggref(fcinfo)->args)->expr;

	if (!IsA(arg, Const) || ((Const *) arg)->constisnull)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the aggregate must be a constant")));
	return DatumGetObjectId(((Const *) arg)->constvalue);
}

/* Give a group's state.  A typed one may be in the Agg node's memory. */
static Datum
finish_partial(FunctionCallInfo fcinfo, PartialState *state)
{
	KappaAggregate *agg = state->agg;
	Datum value = state->value;
	bool isnull = state->isnull;

	if (agg->trans_type == INTERNALOID)
	{
		agg->serial.fcinfo->context = fcinfo->context;
		value = serialize(agg, state->value, state->isnull, &agg->header, &isnull);
	}
	if (isnull)
		PG_RETURN_NULL();
	return MakeExpandedObjectReadOnly(value, false, agg->trans_len);
}

/* partial_final(internal, aggregate regprocedure, VARIADIC "any") returns kappa.state */
Datum
kappa_sql_partial_final(PG_FUNCTION_ARGS)
{
	KappaAggregate *agg = fcinfo->flinfo->fn_extra;

	if (!PG_ARGISNULL(0))
		return finish_partial(fcinfo, (PartialState *) PG_GETARG_POINTER(0));
	if (agg == NULL)
		agg = open_partial(fcinfo, get_constant_aggregate(fcinfo), kappa_state_type(), 2);
	return finish_partial(fcinfo, begin_partial(fcinfo, agg));
}

/* partial_typed_final(internal, aggregate regprocedure, state anyelement, VARIADIC "any") returns anyelement */
Datum
kappa_sql_partial_typed_final(PG_FUNCTION_ARGS)
{
	KappaAggregate *agg = fcinfo->flinfo->fn_extra;

	if (!PG_ARGISNULL(0))
		return finish_partial(fcinfo, (PartialState *) PG_GETARG_POINTER(0));
	if (agg == NULL)
		agg = open_partial(fcinfo, get_constant_aggregate(fcinfo),
						   get_argument_type(fcinfo, 2), 3);
	return finish_partial(fcinfo, begin_partial(fcinfo, agg));
}

/* ---- combining ---- */

/* Run the combine function.  Changes the first state in place, if it likes. */
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
	result = call_function(&agg->combine, result_isnull);
	agg->aggstate->curpertrans = NULL;
	return result;
}

static void
refuse_state(const KappaAggregate *agg)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATATYPE_MISMATCH),
			 errmsg("the state is not one of aggregate %s", agg->name),
			 errdetail("States are told by the names of the function that serializes them and, if the aggregate is polymorphic, of the types of its arguments."),
			 errhint("After one of these was renamed, rebuild the view with kappa.rebuild().")));
}

/* The bytes in a kappa.state, once it is clear that they are for us. */
static Datum
unpack_state(const KappaAggregate *agg, Datum state, KappaStateHeader *header)
{
	bytea *bytes = kappa_state_unpack(state, header);

	if (header->version != agg->header.version)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
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
		other = call_function(&agg->deserial, &other_isnull);
	}
	return combine_values(agg, value, isnull, other, other_isnull, result_isnull);
}

static KappaAggregate *
open_combine(FunctionCallInfo fcinfo)
{
	MemoryContext caller = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);
	KappaAggregate *agg = kappa_aggregate_open(get_aggregate_argument(fcinfo, 0),
											   PG_GET_COLLATION());

	kappa_aggregate_resolve_state(agg, get_argument_type(fcinfo, 1));
	kappa_aggregate_prepare_combine(agg);
	if (agg->trans_type == INTERNALOID)
		kappa_aggregate_prepare_serial(agg);
	kappa_aggregate_make_node(agg);
	fcinfo->flinfo->fn_extra = agg;
	MemoryContextSwitchTo(caller);
	return agg;
}

/* Free what a call has used, and do what its functions wanted done then. */
static void
reset_contexts(KappaAggregate *agg)
{
	ReScanExprContext(agg->aggstate->curaggcontext);
	ReScanExprContext(agg->aggstate->tmpcontext);
}

/* Combine two serialized states, in the aggregate's short-lived memory. */
static Datum
combine_serial(FunctionCallInfo fcinfo, KappaAggregate *agg, bool *isnull)
{
	KappaStateHeader header = agg->header;
	Datum value = (Datum) 0;
	bool value_isnull = true;

	for (int i = 1; i <= 2; i++)
	{
		KappaStateHeader other;
		Datum bytes = (Datum) 0;

		if (!PG_ARGISNULL(i))
		{
			bytes = unpack_state(agg, PG_GETARG_DATUM(i), &other);
			if (header.types != 0 && other.types != header.types)
				refuse_state(agg);
			header.types = other.types;
		}
		value = combine_serialized(agg, value, value_isnull, bytes, PG_ARGISNULL(i),
								   &value_isnull);
	}
	return serialize(agg, value, value_isnull, &header, isnull);
}

/* Combine two states that are values. */
static Datum
combine_typed(FunctionCallInfo fcinfo, KappaAggregate *agg, bool *isnull)
{
	Datum value = PG_GETARG_DATUM(1);
	MemoryContext caller;

	if (!PG_ARGISNULL(1))
	{
		caller = MemoryContextSwitchTo(get_aggregate_context(agg->combine.fcinfo));
		value = datumCopy(value, agg->trans_byval, agg->trans_len);
		MemoryContextSwitchTo(caller);
	}
	return combine_values(agg, value, PG_ARGISNULL(1),
						  MakeExpandedObjectReadOnly(PG_GETARG_DATUM(2), PG_ARGISNULL(2), agg->trans_len),
						  PG_ARGISNULL(2), isnull);
}

/*
 * combine(aggregate regprocedure, a kappa.state, b kappa.state) returns kappa.state
 * combine(aggregate regprocedure, a anyelement, b anyelement) returns anyelement
 */
Datum
kappa_sql_combine(PG_FUNCTION_ARGS)
{
	KappaAggregate *agg = fcinfo->flinfo->fn_extra;
	MemoryContext caller;
	Datum result;
	bool isnull;

	if (agg == NULL)
		agg = open_combine(fcinfo);
	check_same_aggregate(fcinfo, 0, agg);

	/* Null is the state of no input. */
	if (agg->combine.flinfo.fn_strict && (PG_ARGISNULL(1) || PG_ARGISNULL(2)))
	{
		int given = PG_ARGISNULL(1) ? 2 : 1;

		if (PG_ARGISNULL(given))
			PG_RETURN_NULL();
		PG_RETURN_DATUM(PG_GETARG_DATUM(given));
	}

	caller = MemoryContextSwitchTo(agg->aggstate->tmpcontext->ecxt_per_tuple_memory);
	if (agg->trans_type == INTERNALOID)
		result = combine_serial(fcinfo, agg, &isnull);
	else
		result = combine_typed(fcinfo, agg, &isnull);
	MemoryContextSwitchTo(caller);
	if (!isnull)
	{
		if (agg->trans_type == INTERNALOID)
			result = datumCopy(result, false, -1);
		else
			result = datumCopy(result, agg->trans_byval, agg->trans_len);
	}
	reset_contexts(agg);
	if (isnull)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(result);
}

/* ---- finalizing ---- */

static KappaAggregate *
open_finalize(FunctionCallInfo fcinfo)
{
	MemoryContext caller = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);
	KappaAggregate *agg = kappa_aggregate_open(get_aggregate_argument(fcinfo, 0),
											   PG_GET_COLLATION());
	Oid state_type = get_argument_type(fcinfo, 1);
	Oid result_type = get_argument_type(fcinfo, 2);

	if (PG_NARGS() > 3)
	{
		resolve_by_arguments(fcinfo, agg, 3, get_fn_expr_variadic(fcinfo->flinfo));
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
	MemoryContext caller;
	Datum value;

	if (!PG_ARGISNULL(1) && agg->trans_type == INTERNALOID)
		return combine_serialized(agg, (Datum) 0, true,
								  unpack_state(agg, PG_GETARG_DATUM(1), &header), false, isnull);

	*isnull = PG_ARGISNULL(1) && agg->initial_isnull;
	if (*isnull)
		return (Datum) 0;
	caller = MemoryContextSwitchTo(agg->aggstate->curaggcontext->ecxt_per_tuple_memory);
	value = datumCopy(PG_ARGISNULL(1) ? agg->initial_value : PG_GETARG_DATUM(1),
					  agg->trans_byval, agg->trans_len);
	MemoryContextSwitchTo(caller);
	return value;
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
	result = call_function(&agg->final, result_isnull);
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
	Datum result;
	bool isnull;

	if (agg == NULL)
		agg = open_finalize(fcinfo);
	check_same_aggregate(fcinfo, 0, agg);

	caller = MemoryContextSwitchTo(agg->aggstate->tmpcontext->ecxt_per_tuple_memory);
	result = get_final_state(fcinfo, agg, &isnull);
	MemoryContextSwitchTo(agg->aggstate->curaggcontext->ecxt_per_tuple_memory);
	result = run_final(agg, result, isnull, &isnull);
	MemoryContextSwitchTo(caller);
	if (!isnull)
		result = datumCopy(result, agg->result_byval, agg->result_len);
	reset_contexts(agg);
	if (isnull)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(result);
}
