/*-------------------------------------------------------------------------
 *
 * aggregate_partial.c
 *	  kappa.partial(): another aggregate, up to its state
 *
 * An aggregate that runs another one's transition function and gives its
 * state instead of its result.  It works on the Agg node that runs it, in that
 * node's memory; the transition function sees no difference.
 *
 * IDENTIFICATION
 *	  src/aggregate_partial.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "utils/datum.h"
#include "utils/expandeddatum.h"
#include "utils/memutils.h"

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

	kappa_aggregate_resolve_call(agg, fcinfo, first, own->aggvariadic);
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
get_group_context(FunctionCallInfo fcinfo)
{
	return ((AggState *) fcinfo->context)->curaggcontext->ecxt_per_tuple_memory;
}

static PartialState *
begin_partial(FunctionCallInfo fcinfo, KappaAggregate *agg)
{
	MemoryContext caller = MemoryContextSwitchTo(get_group_context(fcinfo));
	PartialState *state = palloc(sizeof(PartialState));

	state->agg = agg;
	state->isnull = agg->initial_isnull;
	state->unset = agg->initial_isnull;
	state->value = agg->initial_value;
	if (!agg->initial_isnull)
		state->value = datumCopy(state->value, agg->trans_byval, agg->trans_len);
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
		MemoryContext caller = MemoryContextSwitchTo(get_group_context(fcinfo));

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
advance_state(FunctionCallInfo fcinfo, PartialState *state)
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
	value = call_aggregate_function(&agg->transition, &isnull);
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
	advance_state(fcinfo, state);
	PG_RETURN_POINTER(state);
}

/* partial_transition(internal, aggregate regprocedure, VARIADIC "any") returns internal */
Datum
kappa_sql_partial_transition(PG_FUNCTION_ARGS)
{
	KappaAggregate *agg = fcinfo->flinfo->fn_extra;

	if (agg == NULL)
		agg = open_partial(fcinfo, kappa_aggregate_argument(fcinfo, 1), kappa_state_type(), 2);
	return accumulate(fcinfo, agg, 2);
}

/* partial_typed_transition(internal, aggregate regprocedure, state anyelement, VARIADIC "any") returns internal */
Datum
kappa_sql_partial_typed_transition(PG_FUNCTION_ARGS)
{
	KappaAggregate *agg = fcinfo->flinfo->fn_extra;

	if (agg == NULL)
		agg = open_partial(fcinfo, kappa_aggregate_argument(fcinfo, 1),
						   kappa_aggregate_argument_type(fcinfo, 2), 3);
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
		value = kappa_aggregate_serialize(agg, state->value, state->isnull, &agg->header,
										  CurrentMemoryContext, &isnull);
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
						   kappa_aggregate_argument_type(fcinfo, 2), 3);
	return finish_partial(fcinfo, begin_partial(fcinfo, agg));
}
