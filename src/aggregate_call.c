/*-------------------------------------------------------------------------
 *
 * aggregate_call.c
 *	  What running an aggregate's functions needs, looked up once per query
 *
 * The checks are those that the executor's Agg node makes, and one more: the
 * parser has seen to it that an aggregate gets arguments of its own types, but
 * kappa.partial() takes any.  A function that finds another type than it was
 * promised may crash the server, so the types are checked here.
 *
 * IDENTIFICATION
 *	  src/aggregate_call.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "parser/parse_agg.h"
#include "parser/parse_coerce.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

#include "aggregate.h"
#include "aggregate_call.h"
#include "compat.h"

/* ---- catalogs ---- */

static bool
is_any_type(Oid type)
{
	return type == ANYOID || IsPolymorphicType(type);
}

static void
refuse_aggregate(const KappaAggregate *agg, const char *reason)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot keep the state of aggregate %s", agg->name),
			 errdetail_internal("%s", reason)));
}

static void
read_procedure(KappaAggregate *agg)
{
	HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(agg->oid));
	Form_pg_proc form;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("aggregate with OID %u does not exist", agg->oid)));
	form = (Form_pg_proc) GETSTRUCT(tuple);
	agg->name = format_procedure(agg->oid);
	if (form->prokind != PROKIND_AGGREGATE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("function %s is not an aggregate", agg->name)));

	agg->owner = form->proowner;
	agg->result_type = form->prorettype;
	agg->variadic_any = form->provariadic == ANYOID;
	agg->variadic_array = OidIsValid(form->provariadic) && !agg->variadic_any;
	agg->ndeclared = form->pronargs;
	agg->declared_types = palloc((agg->ndeclared + 1) * sizeof(Oid));
	memcpy(agg->declared_types, form->proargtypes.values, agg->ndeclared * sizeof(Oid));
	agg->polymorphic = kappa_aggregate_is_polymorphic(agg->oid);
	ReleaseSysCache(tuple);
}

static void
read_aggregate(KappaAggregate *agg)
{
	HeapTuple tuple = SearchSysCache1(AGGFNOID, ObjectIdGetDatum(agg->oid));
	Form_pg_aggregate form;
	Datum initial;
	bool isnull;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for aggregate %u", agg->oid);
	form = (Form_pg_aggregate) GETSTRUCT(tuple);
	agg->transition_fn = form->aggtransfn;
	agg->combine_fn = form->aggcombinefn;
	agg->serial_fn = form->aggserialfn;
	agg->deserial_fn = form->aggdeserialfn;
	agg->final_fn = form->aggfinalfn;
	agg->final_extra = form->aggfinalextra;
	agg->trans_type = form->aggtranstype;
	initial = SysCacheGetAttr(AGGFNOID, tuple, Anum_pg_aggregate_agginitval, &isnull);
	agg->initial = isnull ? NULL : TextDatumGetCString(initial);

	if (AGGKIND_IS_ORDERED_SET(form->aggkind))
		refuse_aggregate(agg, "It is an ordered-set aggregate.");
	if (!OidIsValid(agg->combine_fn))
		refuse_aggregate(agg, "It has no combine function.");
	if (kappa_keeps_values(agg->serial_fn))
		refuse_aggregate(agg, "Its state is the list of its values.");
	if (agg->trans_type == INTERNALOID &&
		!(OidIsValid(agg->serial_fn) && OidIsValid(agg->deserial_fn)))
		refuse_aggregate(agg, "It has no functions to serialize and deserialize its state.");
	ReleaseSysCache(tuple);
}

Oid
kappa_aggregate_argument(FunctionCallInfo fcinfo, int argno)
{
	if (PG_ARGISNULL(argno))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the aggregate must not be null")));
	return PG_GETARG_OID(argno);
}

KappaAggregate *
kappa_aggregate_open(Oid oid, Oid collation)
{
	KappaAggregate *agg = palloc0(sizeof(KappaAggregate));
	AclResult aclresult;

	agg->oid = oid;
	agg->collation = collation;
	agg->nargs = -1;
	read_procedure(agg);
	aclresult = object_aclcheck(ProcedureRelationId, oid, GetUserId(), ACL_EXECUTE);
	if (aclresult != ACLCHECK_OK)
		aclcheck_error(aclresult, OBJECT_AGGREGATE, get_func_name(oid));
	InvokeFunctionExecuteHook(oid);
	read_aggregate(agg);

	if (agg->trans_type == INTERNALOID)
		agg->header.function = kappa_state_hash(format_procedure_qualified(agg->serial_fn));
	agg->header.version = PG_MAJORVERSION_NUM;
	return agg;
}

/* ---- types ---- */

/* What is known only once types are resolved. */
static void
complete_transition_type(KappaAggregate *agg)
{
	Oid input;
	Oid parameter;

	get_typlenbyval(agg->trans_type, &agg->trans_len, &agg->trans_byval);
	agg->initial_isnull = agg->initial == NULL;
	if (agg->initial_isnull)
		return;
	getTypeInputInfo(agg->trans_type, &input, &parameter);
	agg->initial_value = OidInputFunctionCall(input, agg->initial, parameter, -1);
}

static void
complete_result_type(KappaAggregate *agg)
{
	get_typlenbyval(agg->result_type, &agg->result_len, &agg->result_byval);
}

/*
 * Tell states of a polymorphic aggregate apart by the types of its arguments.
 *
 * What serializes such a state may well write the types' OIDs into it.  Those
 * that a dump does not preserve are made part of the hash, so that a state is
 * not read where they mean something else.
 */
static void
complete_arguments(KappaAggregate *agg)
{
	StringInfoData names;

	if (!agg->polymorphic || agg->nargs < 0)
		return;
	initStringInfo(&names);
	for (int i = 0; i < agg->nargs; i++)
	{
		Oid type = agg->arg_types[i];

		appendStringInfo(&names, "%s %u,", format_type_be_qualified(type),
						 type >= FirstNormalObjectId ? type : InvalidOid);
	}
	agg->header.types = kappa_state_hash(names.data);
}

/*
 * Replace declared types by what they are where actual ones are given, as the
 * parser does, and return what a type is that depends on them.
 *
 * Throws if the actual types do not fit together.  Others than polymorphic
 * ones remain as declared, whatever the actual ones are.
 */
static Oid
resolve_types(const Oid *actual, Oid *declared, int ntypes, Oid dependent)
{
	dependent = enforce_generic_type_consistency(actual, declared, ntypes, dependent, false);
	for (int i = 0; i < ntypes; i++)
	{
		switch (declared[i])
		{
			case ANYOID:
			case ANYELEMENTOID:
			case ANYNONARRAYOID:
				declared[i] = actual[i];
				break;
			case ANYARRAYOID:
			case ANYENUMOID:
			case ANYRANGEOID:
			case ANYMULTIRANGEOID:
				/* Domains over these are taken for what they are over. */
				declared[i] = getBaseType(actual[i]);
				break;
			default:
				break;
		}
	}
	return dependent;
}

/* The declared types of so many arguments, of which the last may come several times. */
static Oid *
expand_declared_types(const KappaAggregate *agg, int nargs, bool variadic)
{
	Oid *types = palloc((nargs + 1) * sizeof(Oid));
	bool repeat = agg->variadic_any && !variadic;

	if (repeat ? nargs < agg->ndeclared : nargs != agg->ndeclared)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg_plural("aggregate %s cannot be called with %d argument",
							   "aggregate %s cannot be called with %d arguments",
							   nargs, agg->name, nargs)));
	for (int i = 0; i < nargs; i++)
		types[i] = agg->declared_types[Min(i, agg->ndeclared - 1)];
	return types;
}

Oid
kappa_aggregate_argument_type(FunctionCallInfo fcinfo, int argno)
{
	Oid type = get_fn_expr_argtype(fcinfo->flinfo, argno);

	if (!OidIsValid(type))
		elog(ERROR, "could not determine the type of argument %d", argno);
	return type;
}

void
kappa_aggregate_resolve_call(KappaAggregate *agg, FunctionCallInfo fcinfo, int first,
							 bool variadic)
{
	int nargs = PG_NARGS() - first;
	Oid *resolved = expand_declared_types(agg, nargs, variadic);
	Oid types[FUNC_MAX_ARGS];

	for (int i = 0; i < nargs; i++)
		types[i] = kappa_aggregate_argument_type(fcinfo, first + i);
	agg->result_type = resolve_types(types, resolved, nargs, agg->result_type);
	for (int i = 0; i < nargs; i++)
	{
		if (!IsBinaryCoercible(types[i], resolved[i]))
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("argument %d of aggregate %s must be of type %s, not %s",
							i + 1, agg->name, format_type_be(resolved[i]),
							format_type_be(types[i]))));
	}
	agg->nargs = nargs;
	agg->arg_types = resolved;
	agg->trans_type = resolve_aggregate_transtype(agg->oid, agg->trans_type, resolved, nargs);
	complete_transition_type(agg);
	complete_result_type(agg);
	complete_arguments(agg);
}

void
kappa_aggregate_resolve_state(KappaAggregate *agg, Oid state_type)
{
	Oid type = agg->trans_type == INTERNALOID ? INTERNALOID : state_type;

	(void) resolve_types(&type, &agg->trans_type, 1, InvalidOid);
	kappa_aggregate_check_state_type(agg, state_type);
	complete_transition_type(agg);
}

/*
 * Find the types of the arguments, if they can be told.
 *
 * A polymorphic argument is told by a polymorphic state or result.  That fails
 * for one that appears in neither, and for "any".
 */
static void
infer_arguments(KappaAggregate *agg, const Oid *known, const Oid *declared)
{
	Oid *types = palloc((agg->ndeclared + 1) * sizeof(Oid));

	for (int i = 0; i < agg->ndeclared; i++)
	{
		Oid scratch[2] = { declared[0], declared[1] };

		types[i] = agg->declared_types[i];
		if (is_any_type(types[i]))
			types[i] = resolve_types(known, scratch, 2, types[i]);
		if (!OidIsValid(types[i]) || is_any_type(types[i]))
			return;
	}
	agg->nargs = agg->ndeclared;
	agg->arg_types = types;
}

void
kappa_aggregate_resolve_result(KappaAggregate *agg, Oid state_type, Oid result_type)
{
	bool internal = agg->trans_type == INTERNALOID;
	Oid known[2] = { internal ? INTERNALOID : state_type, result_type };
	Oid declared[2] = { agg->trans_type, agg->result_type };
	Oid resolved[2] = { agg->trans_type, agg->result_type };

	(void) resolve_types(known, resolved, 2, InvalidOid);
	agg->trans_type = resolved[0];
	agg->result_type = resolved[1];
	kappa_aggregate_check_state_type(agg, state_type);
	kappa_aggregate_check_result_type(agg, result_type);

	if (internal || agg->final_extra)
		infer_arguments(agg, known, declared);
	complete_transition_type(agg);
	complete_result_type(agg);
	complete_arguments(agg);
}

void
kappa_aggregate_check_state_type(const KappaAggregate *agg, Oid type)
{
	Oid own = agg->trans_type == INTERNALOID ? kappa_state_type() : agg->trans_type;

	if (type != own)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("the state of aggregate %s is of type %s, not %s", agg->name,
						format_type_be(own), format_type_be(type))));
}

void
kappa_aggregate_check_result_type(const KappaAggregate *agg, Oid type)
{
	if (type != agg->result_type)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("the result of aggregate %s is of type %s, not %s", agg->name,
						format_type_be(agg->result_type), format_type_be(type))));
}

/* ---- functions ---- */

static void
prepare_function(const KappaAggregate *agg, KappaAggregateFunction *function, Oid oid,
				 Expr *call, int nargs, Oid collation)
{
	AclResult aclresult = object_aclcheck(ProcedureRelationId, oid, agg->owner, ACL_EXECUTE);

	if (aclresult != ACLCHECK_OK)
		aclcheck_error(aclresult, OBJECT_FUNCTION, get_func_name(oid));
	InvokeFunctionExecuteHook(oid);

	fmgr_info(oid, &function->flinfo);
	fmgr_info_set_expr((Node *) call, &function->flinfo);
	function->fcinfo = palloc0(SizeForFunctionCallInfo(nargs));
	InitFunctionCallInfoData(*function->fcinfo, &function->flinfo, nargs, collation,
							 NULL, NULL);
}

void
kappa_aggregate_prepare_transition(KappaAggregate *agg, bool variadic)
{
	Expr *call;

	build_aggregate_transfn_expr(agg->arg_types, agg->nargs, 0, variadic || agg->variadic_array,
								 agg->trans_type, agg->collation, agg->transition_fn,
								 InvalidOid, &call, NULL);
	prepare_function(agg, &agg->transition, agg->transition_fn, call, agg->nargs + 1,
					 agg->collation);

	/* The first argument becomes the state; whether it may, may have changed. */
	if (agg->transition.flinfo.fn_strict && agg->initial_isnull &&
		(agg->nargs == 0 || !IsBinaryCoercible(agg->arg_types[0], agg->trans_type)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("aggregate %s needs to have compatible input type and transition type",
						agg->name)));
}

void
kappa_aggregate_prepare_combine(KappaAggregate *agg)
{
	Oid types[] = { agg->trans_type, agg->trans_type };
	Expr *call;

	build_aggregate_transfn_expr(types, 2, 0, false, agg->trans_type, agg->collation,
								 agg->combine_fn, InvalidOid, &call, NULL);
	prepare_function(agg, &agg->combine, agg->combine_fn, call, 2, agg->collation);
	if (agg->trans_type != INTERNALOID)
		return;

	if (agg->combine.flinfo.fn_strict)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("combine function with transition type %s must not be declared STRICT",
						format_type_be(agg->trans_type))));
	build_aggregate_deserialfn_expr(agg->deserial_fn, &call);
	prepare_function(agg, &agg->deserial, agg->deserial_fn, call, 2, InvalidOid);
}

void
kappa_aggregate_prepare_serial(KappaAggregate *agg)
{
	Expr *call;

	build_aggregate_serialfn_expr(agg->serial_fn, &call);
	prepare_function(agg, &agg->serial, agg->serial_fn, call, 1, InvalidOid);
}

/* Throws where the arguments have to be known and are not. */
void
kappa_aggregate_prepare_final(KappaAggregate *agg)
{
	int nargs = 1;
	Expr *call;

	if (agg->nargs < 0 &&
		(agg->final_extra || agg->trans_type == INTERNALOID))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("could not determine the types of the arguments of aggregate %s", agg->name),
				 errhint("Give kappa.finalize() a null of each argument's type after the result.")));
	if (!OidIsValid(agg->final_fn))
		return;

	if (agg->final_extra)
		nargs += agg->nargs;
	build_aggregate_finalfn_expr(agg->arg_types, nargs, agg->trans_type, agg->result_type,
								 agg->collation, agg->final_fn, &call);
	prepare_function(agg, &agg->final, agg->final_fn, call, nargs, agg->collation);
	for (int i = 1; i < nargs; i++)
		agg->final.fcinfo->args[i].isnull = true;
}

void
kappa_aggregate_make_aggref(KappaAggregate *agg, List *args)
{
	Aggref *aggref = makeNode(Aggref);

	aggref->aggfnoid = agg->oid;
	aggref->aggtype = agg->result_type;
	aggref->inputcollid = agg->collation;
	aggref->aggtranstype = agg->trans_type;
	aggref->args = args;
	for (int i = 0; i < agg->nargs; i++)
		aggref->aggargtypes = lappend_oid(aggref->aggargtypes, agg->arg_types[i]);
	aggref->aggstar = agg->ndeclared == 0;
	aggref->aggkind = AGGKIND_NORMAL;

	agg->pertrans.aggref = aggref;
	agg->pertrans.aggtranstype = agg->trans_type;
	agg->pertrans.transtypeLen = agg->trans_len;
	agg->pertrans.transtypeByVal = agg->trans_byval;
	agg->peragg.aggref = aggref;
}

static void
set_context(KappaAggregateFunction *function, AggState *aggstate)
{
	if (function->fcinfo != NULL)
		function->fcinfo->context = (Node *) aggstate;
}

void
kappa_aggregate_make_node(KappaAggregate *agg)
{
	AggState *aggstate = makeNode(AggState);

	kappa_aggregate_make_aggref(agg, NIL);
	aggstate->curaggcontext = CreateStandaloneExprContext();
	aggstate->tmpcontext = CreateStandaloneExprContext();
	aggstate->pertrans = &agg->pertrans;
	aggstate->numtrans = 1;
	agg->aggstate = aggstate;
	set_context(&agg->combine, aggstate);
	set_context(&agg->serial, aggstate);
	set_context(&agg->deserial, aggstate);
	set_context(&agg->final, aggstate);
}

Datum
kappa_aggregate_serialize(KappaAggregate *agg, Datum value, bool isnull,
						  const KappaStateHeader *header, MemoryContext target,
						  bool *result_isnull)
{
	FunctionCallInfo call = agg->serial.fcinfo;
	Datum bytes;

	*result_isnull = true;
	if (isnull && agg->serial.flinfo.fn_strict)
		return (Datum) 0;
	call->args[0].value = value;
	call->args[0].isnull = isnull;
	bytes = call_aggregate_function(&agg->serial, result_isnull);
	if (*result_isnull)
		return (Datum) 0;
	MemoryContextSwitchTo(target);
	return kappa_state_pack(header, DatumGetByteaPP(bytes));
}
