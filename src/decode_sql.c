/*-------------------------------------------------------------------------
 *
 * decode_sql.c
 *	  See from SQL what a foreign table makes of a message
 *
 * IDENTIFICATION
 *	  src/decode_sql.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "decode.h"
#include "decode_clock.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"

PG_FUNCTION_INFO_V1(kappa_sql_decode_message);
PG_FUNCTION_INFO_V1(kappa_sql_without_clock_words);

static Bitmapset *
all_columns(const KappaTable *table)
{
	Bitmapset *columns = NULL;

	for (int i = 0; i < table->ncolumns; i++)
	{
		if (table->columns[i].source != KAPPA_SOURCE_DROPPED)
			columns = bms_add_member(columns, table->columns[i].attnum);
	}
	return columns;
}

static KappaTable *
get_topic(Oid relid)
{
	char *name = get_rel_name(relid);

	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid)));
	if (!kappa_options_is_topic(relid))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a foreign table of kappa", name)));
	return kappa_options_get_table(relid);
}

static void
push_string(JsonbParseState **state, JsonbIteratorToken token, const char *string)
{
	JsonbValue value;

	value.type = jbvString;
	value.val.string.val = unconstify(char *, string);
	value.val.string.len = strlen(string);
	pushJsonbValue(state, token, &value);
}

/* Append a column and the text form of its value. */
static void
push_column(JsonbParseState **state, const KappaColumn *column, Datum value,
			bool isnull)
{
	Oid output;
	bool is_varlena;
	JsonbValue null = { .type = jbvNull };

	push_string(state, WJB_KEY, column->name);
	if (isnull)
		pushJsonbValue(state, WJB_VALUE, &null);
	else
	{
		getTypeOutputInfo(column->type, &output, &is_varlena);
		push_string(state, WJB_VALUE, OidOutputFunctionCall(output, value));
	}
}

/* What is kept from one call to the next. */
typedef struct DecodeState
{
	KappaTable *table;
	KappaDecoder *decoder;
	Datum *values;
	uint8 *states;
} DecodeState;

/* Each query makes a decoder of its own, which like a scan's knows earlier messages. */
static DecodeState *
get_state(FmgrInfo *flinfo, Oid relid)
{
	DecodeState *state = flinfo->fn_extra;
	MemoryContext old;

	if (state != NULL && state->table->relid == relid)
		return state;

	old = MemoryContextSwitchTo(flinfo->fn_mcxt);
	state = palloc(sizeof(DecodeState));
	state->table = get_topic(relid);
	state->decoder = kappa_decoder_create(state->table, all_columns(state->table));
	state->values = palloc(kappa_decoder_ncells(state->decoder) * sizeof(Datum) + 1);
	state->states = palloc(kappa_decoder_ncells(state->decoder) + 1);
	MemoryContextSwitchTo(old);
	flinfo->fn_extra = state;
	return state;
}

/*
 * The bytes of an argument, in a chunk of just their size: tools that watch
 * memory notice when something reads beyond a message.
 */
static const char *
copy_bytes(const bytea *value, Size *len)
{
	char *copy;

	*len = VARSIZE_ANY_EXHDR(value);
	copy = palloc(*len);
	memcpy(copy, VARDATA_ANY(value), *len);
	return copy;
}

static KappaMessage
make_message(FunctionCallInfo fcinfo)
{
	KappaMessage message = { .kind = KAPPA_MESSAGE_DATA, .timestamp = -1 };

	if (!PG_ARGISNULL(1))
		message.value = copy_bytes(PG_GETARG_BYTEA_PP(1), &message.value_len);
	if (!PG_ARGISNULL(2))
		message.key = copy_bytes(PG_GETARG_BYTEA_PP(2), &message.key_len);
	return message;
}

/*
 * decode_message(topic regclass, value bytea, key bytea) returns jsonb
 *
 * An object with a member for each column of a foreign table: the text form of
 * what the column would be for a message, or null.  Throws what a scan that
 * reads all columns would.
 */
Datum
kappa_sql_decode_message(PG_FUNCTION_ARGS)
{
	DecodeState *decode;
	KappaMessage message;
	KappaMalformed malformed;
	JsonbParseState *state = NULL;
	JsonbValue *result;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();

	decode = get_state(fcinfo->flinfo, PG_GETARG_OID(0));
	message = make_message(fcinfo);
	if (!kappa_decode_message(decode->decoder, &message, decode->values, decode->states,
							  &malformed))
		kappa_decode_report_malformed(decode->decoder, &message, &malformed);

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < decode->table->ncolumns; i++)
	{
		const KappaColumn *column = &decode->table->columns[i];
		int cell = kappa_decoder_cell(decode->decoder, column->attnum);
		Datum value;
		bool isnull;

		if (cell < 0)
			continue;
		value = kappa_decode_cell(decode->decoder, cell, &message, decode->values[cell],
								  decode->states[cell], &isnull);
		push_column(&state, column, value, isnull);
	}
	result = pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	PG_RETURN_JSONB_P(JsonbValueToJsonb(result));
}

/*
 * without_clock_words(value text) returns text
 *
 * The text itself, if it can be read as a date or time without a look at the
 * clock.
 */
Datum
kappa_sql_without_clock_words(PG_FUNCTION_ARGS)
{
	kappa_clock_check_words(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	PG_RETURN_DATUM(PG_GETARG_DATUM(0));
}
