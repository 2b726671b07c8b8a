/*-------------------------------------------------------------------------
 *
 * aggregate_call.h
 *	  What running an aggregate's functions needs, looked up once per query
 *
 * IDENTIFICATION
 *	  src/aggregate_call.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_AGGREGATE_CALL_H
#define KAPPA_AGGREGATE_CALL_H

#include "aggregate_state.h"
#include "executor/nodeAgg.h"
#include "fmgr.h"
#include "nodes/execnodes.h"

/* One of an aggregate's functions, ready to be called. */
typedef struct KappaAggregateFunction
{
	FmgrInfo flinfo;
	FunctionCallInfo fcinfo; /* NULL unless prepared */
} KappaAggregateFunction;

/*
 * An aggregate, the types that it has here, and those of its functions that
 * were prepared.
 */
typedef struct KappaAggregate
{
	Oid oid;
	char *name;       /* with the types of its arguments, for messages */
	Oid collation;    /* that its functions are called with */
	Oid owner;        /* has to have EXECUTE on the functions */
	bool final_extra; /* the final function gets NULL arguments too */

	/* The catalogs' rows; types may be polymorphic until they are resolved. */
	int ndeclared;
	Oid *declared_types;
	bool variadic_any;   /* the last argument may come several times */
	bool variadic_array; /* the last argument is an array that a call may make */
	bool polymorphic;    /* the types of the arguments say what the state is */
	Oid transition_fn;
	Oid combine_fn;
	Oid serial_fn;
	Oid deserial_fn;
	Oid final_fn;
	char *initial; /* text of the initial state, NULL if it is null */

	/* Resolved; without the arguments nargs is -1. */
	int nargs;
	Oid *arg_types;
	Oid trans_type;
	int16 trans_len;
	bool trans_byval;
	Oid result_type;
	int16 result_len;
	bool result_byval;
	Datum initial_value;
	bool initial_isnull;
	KappaStateHeader header; /* of states that these types make */

	KappaAggregateFunction transition;
	KappaAggregateFunction combine;
	KappaAggregateFunction serial;
	KappaAggregateFunction deserial;
	KappaAggregateFunction final;

	/* What AggGetAggref() finds. */
	AggStatePerTransData pertrans;
	AggStatePerAggData peragg;

	/* Stands for the Agg node where there is none; NULL where there is one. */
	AggState *aggstate;
} KappaAggregate;

/*
 * Look up an aggregate, in the current memory context, which has to live as
 * long as the result.  Throws unless the aggregate has a state that can be
 * kept, and the user may execute it.
 */
extern KappaAggregate *kappa_aggregate_open(Oid oid, Oid collation);

/* Resolve all types by those of our own arguments from that one on. */
extern void kappa_aggregate_resolve_call(KappaAggregate *agg, FunctionCallInfo fcinfo,
										 int first, bool variadic);

/* Resolve the transition type, and no other, by the type of a state. */
extern void kappa_aggregate_resolve_state(KappaAggregate *agg, Oid state_type);

/* Resolve all types that can be told from those of a state and of the result. */
extern void kappa_aggregate_resolve_result(KappaAggregate *agg, Oid state_type,
										   Oid result_type);

/* Throw unless states are of that type, and results of this. */
extern void kappa_aggregate_check_state_type(const KappaAggregate *agg, Oid type);
extern void kappa_aggregate_check_result_type(const KappaAggregate *agg, Oid type);

/* Get functions ready.  The types that they need have to be resolved. */
extern void kappa_aggregate_prepare_transition(KappaAggregate *agg, bool variadic);
extern void kappa_aggregate_prepare_combine(KappaAggregate *agg);
extern void kappa_aggregate_prepare_serial(KappaAggregate *agg);
extern void kappa_aggregate_prepare_final(KappaAggregate *agg);

/* Make what AggGetAggref() finds, with the arguments as far as they are known. */
extern void kappa_aggregate_make_aggref(KappaAggregate *agg, List *args);

/* Make a node that stands for the Agg node, and let the functions find it. */
extern void kappa_aggregate_make_node(KappaAggregate *agg);

/* A kappa.state of an internal state, in that memory context. */
extern Datum kappa_aggregate_serialize(KappaAggregate *agg, Datum value, bool isnull,
									   const KappaStateHeader *header,
									   MemoryContext target, bool *result_isnull);

/* The aggregate that an argument of ours names; throws if that is null. */
extern Oid kappa_aggregate_argument(FunctionCallInfo fcinfo, int argno);

/* Type of an argument of ours in the query. */
extern Oid kappa_aggregate_argument_type(FunctionCallInfo fcinfo, int argno);

/* Throw if an argument of ours names another aggregate. */
static inline void
check_same_aggregate(FunctionCallInfo fcinfo, int argno, const KappaAggregate *agg)
{
	if (unlikely(PG_ARGISNULL(argno) || PG_GETARG_OID(argno) != agg->oid))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the aggregate must be the same for all rows")));
}

/* Call a function whose arguments are in place. */
static inline Datum
call_aggregate_function(KappaAggregateFunction *function, bool *isnull)
{
	Datum result;

	function->fcinfo->isnull = false;
	result = FunctionCallInvoke(function->fcinfo);
	*isnull = function->fcinfo->isnull;
	return result;
}

#endif /* KAPPA_AGGREGATE_CALL_H */
