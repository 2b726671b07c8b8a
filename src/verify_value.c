/*-------------------------------------------------------------------------
 *
 * verify_value.c
 *	  Are two values the same, but for the rounding of sums?
 *
 * A sum of floating-point numbers depends on the order in which they are
 * added: batches add them in another order than a query that reads the whole
 * log, as parallel workers do.  Such values are compared with a tolerance
 * relative to the larger one, also inside arrays and rows.  Everything else is
 * compared by the equality that the type's index operators have.
 *
 * IDENTIFICATION
 *	  src/verify_value.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

PG_FUNCTION_INFO_V1(kappa_sql_same_value);

/*
 * Relative tolerances.  A sum of n numbers of one sign is off by less than the
 * precision of the type times n, and hardly ever by more than times the square
 * root of n.
 */
#define FLOAT8_TOLERANCE 1e-9
#define FLOAT4_TOLERANCE 1e-5

static bool same_value(Oid type, Oid collation, Datum a, Datum b, bool rounded);

/* Infinities and NaNs equal themselves only. */
static bool
same_float(double a, double b, double tolerance)
{
	if (isnan(a) || isnan(b))
		return isnan(a) && isnan(b);
	if (a == b)
		return true;
	if (isinf(a) || isinf(b))
		return false;
	return fabs(a - b) <= tolerance * Max(fabs(a), fabs(b));
}

/* Like array_eq(): the bounds count. */
static bool
same_array(Oid element, Oid collation, ArrayType *a, ArrayType *b, bool rounded)
{
	int16 len;
	bool byval;
	char align;
	Datum *left;
	Datum *right;
	bool *left_nulls;
	bool *right_nulls;
	int n;
	int m;

	if (ARR_NDIM(a) != ARR_NDIM(b) ||
		memcmp(ARR_DIMS(a), ARR_DIMS(b), ARR_NDIM(a) * sizeof(int)) != 0 ||
		memcmp(ARR_LBOUND(a), ARR_LBOUND(b), ARR_NDIM(a) * sizeof(int)) != 0)
		return false;

	get_typlenbyvalalign(element, &len, &byval, &align);
	deconstruct_array(a, element, len, byval, align, &left, &left_nulls, &n);
	deconstruct_array(b, element, len, byval, align, &right, &right_nulls, &m);
	Assert(n == m);
	for (int i = 0; i < n; i++)
	{
		if (left_nulls[i] != right_nulls[i] ||
			(!left_nulls[i] && !same_value(element, collation, left[i], right[i], rounded)))
			return false;
	}
	return true;
}

static bool
same_row(HeapTupleHeader a, HeapTupleHeader b, bool rounded)
{
	HeapTupleData left = { .t_len = HeapTupleHeaderGetDatumLength(a), .t_data = a };
	HeapTupleData right = { .t_len = HeapTupleHeaderGetDatumLength(b), .t_data = b };
	TupleDesc desc;
	bool same = true;

	if (HeapTupleHeaderGetTypeId(a) != HeapTupleHeaderGetTypeId(b) ||
		HeapTupleHeaderGetTypMod(a) != HeapTupleHeaderGetTypMod(b))
		return false;

	desc = lookup_rowtype_tupdesc(HeapTupleHeaderGetTypeId(a), HeapTupleHeaderGetTypMod(a));
	for (int i = 0; i < desc->natts && same; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		bool left_null;
		bool right_null;
		Datum x;
		Datum y;

		if (att->attisdropped)
			continue;
		x = heap_getattr(&left, i + 1, desc, &left_null);
		y = heap_getattr(&right, i + 1, desc, &right_null);
		same = left_null == right_null &&
			   (left_null || same_value(att->atttypid, att->attcollation, x, y, rounded));
	}
	ReleaseTupleDesc(desc);
	return same;
}

static bool
same_text(Oid type, Datum a, Datum b)
{
	Oid output;
	bool is_varlena;

	getTypeOutputInfo(type, &output, &is_varlena);
	return strcmp(OidOutputFunctionCall(output, a), OidOutputFunctionCall(output, b)) == 0;
}

static bool
same_value(Oid type, Oid collation, Datum a, Datum b, bool rounded)
{
	Oid base = getBaseType(type);
	Oid element = get_element_type(base);
	TypeCacheEntry *entry;

	if (base == FLOAT8OID)
		return same_float(DatumGetFloat8(a), DatumGetFloat8(b),
						  rounded ? FLOAT8_TOLERANCE : 0);
	if (base == FLOAT4OID)
		return same_float(DatumGetFloat4(a), DatumGetFloat4(b),
						  rounded ? FLOAT4_TOLERANCE : 0);
	if (OidIsValid(element))
		return same_array(element, collation, DatumGetArrayTypeP(a), DatumGetArrayTypeP(b),
						  rounded);
	if (type_is_rowtype(base))
		return same_row(DatumGetHeapTupleHeader(a), DatumGetHeapTupleHeader(b), rounded);

	entry = lookup_type_cache(base, TYPECACHE_EQ_OPR_FINFO);
	if (!OidIsValid(entry->eq_opr_finfo.fn_oid))
		return same_text(base, a, b);
	return DatumGetBool(FunctionCall2Coll(&entry->eq_opr_finfo, collation, a, b));
}

/* kappa.same_value(wanted anyelement, kept anyelement, rounded boolean) -> boolean */
Datum
kappa_sql_same_value(PG_FUNCTION_ARGS)
{
	Oid type = get_fn_expr_argtype(fcinfo->flinfo, 0);

	if (!OidIsValid(type))
		elog(ERROR, "could not determine the type of the values");
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		PG_RETURN_BOOL(PG_ARGISNULL(0) && PG_ARGISNULL(1));
	PG_RETURN_BOOL(same_value(type, PG_GET_COLLATION(),
							  PG_GETARG_DATUM(0), PG_GETARG_DATUM(1),
							  !PG_ARGISNULL(2) && PG_GETARG_BOOL(2)));
}
