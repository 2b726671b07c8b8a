/*-------------------------------------------------------------------------
 *
 * decode_convert.c
 *	  Conversion to any type, by PostgreSQL's own functions
 *
 * jsonb_to_record() stands for what json_populate_type() does in later versions
 * of PostgreSQL: it is the one way that all supported versions have to make
 * any array or composite, domains included, of a part of a document.
 *
 * IDENTIFICATION
 *	  src/decode_convert.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/tupdesc.h"
#include "catalog/pg_type_d.h"
#include "decode_clock.h"
#include "decode_convert.h"
#include "decode_scalar.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"

struct KappaConversion
{
	Oid type;
	int32 typmod;
	Oid base_type; /* of a domain; otherwise as type */
	FmgrInfo input;
	Oid io_param;
	KappaClockShape *clock;

	/* To make an array or composite of a part of a document. */
	bool is_structured;
	FmgrInfo to_record;
	TupleDesc record; /* one column, of the type */
};

/* The description of a record whose one column is of the type. */
static TupleDesc
make_record_desc(Oid type, int32 typmod)
{
	TupleDesc desc = CreateTemplateTupleDesc(1);

	TupleDescInitEntry(desc, 1, "v", type, typmod, 0);
	return BlessTupleDesc(desc);
}

KappaConversion *
kappa_conversion_create(Oid type, int32 typmod)
{
	KappaConversion *conversion = palloc0(sizeof(KappaConversion));
	Oid input;

	conversion->type = type;
	conversion->typmod = typmod;
	conversion->base_type = getBaseType(type);
	getTypeInputInfo(type, &input, &conversion->io_param);
	fmgr_info(input, &conversion->input);
	conversion->clock = kappa_clock_create_shape(type);

	if (OidIsValid(get_element_type(conversion->base_type)) ||
		type_is_rowtype(conversion->base_type))
	{
		conversion->is_structured = true;
		fmgr_info(F_JSONB_TO_RECORD, &conversion->to_record);
		conversion->record = make_record_desc(type, typmod);
	}
	return conversion;
}

Datum
kappa_convert_null(KappaConversion *conversion, bool *isnull)
{
	*isnull = true;

	/* A domain with NOT NULL throws. */
	if (conversion->type != conversion->base_type)
		(void) InputFunctionCall(&conversion->input, NULL,
								 conversion->io_param, conversion->typmod);
	return (Datum) 0;
}

Datum
kappa_convert_cstring(KappaConversion *conversion, char *text, bool *isnull)
{
	kappa_clock_check_text(conversion->clock, text);
	*isnull = false;
	return InputFunctionCall(&conversion->input, text, conversion->io_param,
							 conversion->typmod);
}

Datum
kappa_convert_bytes(KappaConversion *conversion, const char *bytes, Size len,
					bool *isnull)
{
	(void) pg_verifymbstr(bytes, len, false);
	return kappa_convert_cstring(conversion, pnstrdup(bytes, len), isnull);
}

/*
 * Let jsonb_to_record() make an array or composite of a part of a document.
 * It is given a document whose only member is that part, and a record type to
 * match.
 */
static Datum
convert_structured(KappaConversion *conversion, const KappaJsonValue *value,
				   bool *isnull)
{
	LOCAL_FCINFO(fcinfo, 1);
	ReturnSetInfo rsinfo = { .type = T_ReturnSetInfo };
	StringInfoData document;
	Jsonb *jsonb;
	JsonbValue root;
	HeapTupleHeader header;
	HeapTupleData tuple;

	initStringInfo(&document);
	appendStringInfoString(&document, "{\"v\":");
	appendBinaryStringInfo(&document, value->start, value->len);
	appendStringInfoChar(&document, '}');
	jsonb = DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
											   CStringGetDatum(document.data)));

	if (getKeyJsonValueFromContainer(&jsonb->root, "v", 1, &root))
		kappa_clock_check_json(conversion->clock, &root);

	rsinfo.expectedDesc = conversion->record;
	InitFunctionCallInfoData(*fcinfo, &conversion->to_record, 1, InvalidOid,
							 NULL, (Node *) &rsinfo);
	fcinfo->args[0].value = JsonbPGetDatum(jsonb);
	fcinfo->args[0].isnull = false;
	header = DatumGetHeapTupleHeader(FunctionCallInvoke(fcinfo));

	tuple.t_len = HeapTupleHeaderGetDatumLength(header);
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_tableOid = InvalidOid;
	tuple.t_data = header;
	return heap_getattr(&tuple, 1, conversion->record, isnull);
}

/* What (jsonb ->> 'field') would give for a value that is not null. */
static char *
json_value_text(const KappaJsonValue *value)
{
	char *copy;
	Datum datum;

	switch (value->kind)
	{
		case KAPPA_JSON_FALSE:
			return pstrdup("false");
		case KAPPA_JSON_TRUE:
			return pstrdup("true");
		case KAPPA_JSON_STRING:
			copy = palloc(value->len + 1);
			copy[kappa_json_unescape(value->start, value->len, copy)] = '\0';
			return copy;
		case KAPPA_JSON_NUMBER:
			copy = pnstrdup(value->start, value->len);
			if (kappa_scalar_is_plain_number(value->start, value->len))
				return copy;
			datum = DirectFunctionCall3(numeric_in, CStringGetDatum(copy),
										ObjectIdGetDatum(InvalidOid),
										Int32GetDatum(-1));
			return DatumGetCString(DirectFunctionCall1(numeric_out, datum));
		default:
			copy = pnstrdup(value->start, value->len);
			datum = DirectFunctionCall1(jsonb_in, CStringGetDatum(copy));
			return DatumGetCString(DirectFunctionCall1(jsonb_out, datum));
	}
}

Datum
kappa_convert_json(KappaConversion *conversion, const KappaJsonValue *value,
				   bool *isnull)
{
	char *text;
	size_t len;

	if (value->kind == KAPPA_JSON_MISSING || value->kind == KAPPA_JSON_NULL)
		return kappa_convert_null(conversion, isnull);

	if (conversion->is_structured &&
		(value->kind == KAPPA_JSON_ARRAY || value->kind == KAPPA_JSON_OBJECT))
		return convert_structured(conversion, value, isnull);

	if (conversion->base_type == JSONOID || conversion->base_type == JSONBOID)
	{
		const char *source = kappa_json_source(value, &len);

		text = pnstrdup(source, len);
	}
	else
		text = json_value_text(value);
	return kappa_convert_cstring(conversion, text, isnull);
}
