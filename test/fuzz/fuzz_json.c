/*-------------------------------------------------------------------------
 *
 * fuzz_json.c
 *	  The decoder against PostgreSQL's own jsonb and input functions
 *
 * A module with kappa's decoder in it, built for libFuzzer, that a backend
 * loads: so every text that libFuzzer makes up is given both to the decoder and
 * to what PostgreSQL has for it.  They must agree
 *
 * - whether the text is a document, but for the limits that decode_json.h
 *	 names, and on the SQLSTATE if it is not;
 * - for columns of many types and at many paths, on the value, or on the
 *	 SQLSTATE of the error.
 *
 * Each text is decoded twice, the second time by a decoder that may know its
 * shape, and both times by one that knows texts before it.
 *
 * The process aborts where they differ, and libFuzzer keeps the text.
 *
 * IDENTIFICATION
 *	  test/fuzz/fuzz_json.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type_d.h"
#include "decode.h"
#include "decode_json.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(kappa_fuzz);

/* libFuzzer's */
extern int LLVMFuzzerRunDriver(int *argc, char ***argv,
							   int (*run)(const uint8_t *data, size_t size));

#define MAX_STEPS 4
#define NUMERIC_TYPMOD(precision, scale) \
	((int32) (((precision) << 16) | (scale)) + (int32) VARHDRSZ)

/* The columns: all the types of one member, and one type at many places. */
static const struct
{
	Oid type;
	int32 typmod;
	const char *path[MAX_STEPS];
} wanted[] = {
	{ BOOLOID, -1, { "v" } },
	{ INT2OID, -1, { "v" } },
	{ INT4OID, -1, { "v" } },
	{ INT8OID, -1, { "v" } },
	{ FLOAT4OID, -1, { "v" } },
	{ FLOAT8OID, -1, { "v" } },
	{ NUMERICOID, -1, { "v" } },
	{ NUMERICOID, NUMERIC_TYPMOD(6, 2), { "v" } },
	{ TEXTOID, -1, { "v" } },
	{ VARCHAROID, 3 + VARHDRSZ, { "v" } },
	{ BPCHAROID, 3 + VARHDRSZ, { "v" } },
	{ BYTEAOID, -1, { "v" } },
	{ DATEOID, -1, { "v" } },
	{ TIMEOID, -1, { "v" } },
	{ TIMESTAMPOID, -1, { "v" } },
	{ TIMESTAMPOID, 2, { "v" } },
	{ TIMESTAMPTZOID, -1, { "v" } },
	{ INTERVALOID, -1, { "v" } },
	{ UUIDOID, -1, { "v" } },
	{ JSONOID, -1, { "v" } },
	{ JSONBOID, -1, { "v" } },
	{ TEXTOID, -1, { "v", "v" } },
	{ JSONBOID, -1, { "a" } },
	{ JSONBOID, -1, { "a", "b" } },
	{ JSONBOID, -1, { "a", "b", "c" } },
	{ TEXTOID, -1, { "a", "0" } },
	{ TEXTOID, -1, { "a", "1", "b" } },
	{ JSONBOID, -1, { "0" } },
	{ JSONBOID, -1, { "1", "a" } },
	{ TEXTOID, -1, { "\303\251" } },
	{ TEXTOID, -1, { "a\"\\\n" } },
	{ JSONBOID, -1, { NULL } },
};

typedef struct Column
{
	FmgrInfo input;
	FmgrInfo output;
	Oid io_param;
	ArrayType *path;
} Column;

static KappaTable table = { .name = "fuzz", .topic = "fuzz", .format = KAPPA_FORMAT_JSON };
static Column columns[lengthof(wanted)];
static KappaDecoder *decoder;
static MemoryContext decoder_context;
static int decoded;               /* texts, by this decoder */
static MemoryContext run_context; /* reset after each text */

/* Texts for a decoder; then another one begins, without shapes. */
#define TEXTS_PER_DECODER 200

/* A text, and what has been made of it. */
typedef struct Subject
{
	KappaMessage message;
	char *text;  /* the same with a zero byte at its end */
	Jsonb *json; /* what PostgreSQL says it is */
	Datum values[lengthof(wanted)];
	uint8 states[lengthof(wanted)];
	KappaMalformed malformed;
} Subject;

/* What came of something that may throw. */
typedef struct Outcome
{
	bool isnull;
	Datum value;
	int sqlstate; /* 0: it did not throw */
	const char *message;
} Outcome;

typedef void (*Attempt)(Subject *subject, int column, Outcome *outcome);

static Outcome
attempt(Attempt what, Subject *subject, int column)
{
	Outcome outcome = { 0 };
	Outcome *result = &outcome;
	ErrorData *error;

	PG_TRY();
	{
		what(subject, column, result);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(run_context);
		error = CopyErrorData();
		FlushErrorState();
		result->sqlstate = error->sqlerrcode;
		result->message = error->message;
	}
	PG_END_TRY();
	return outcome;
}

static const char *
show(const Outcome *outcome, int column)
{
	if (outcome->sqlstate != 0)
		return psprintf("%s: %s", unpack_sql_state(outcome->sqlstate),
						outcome->message);
	if (outcome->isnull)
		return "null";
	if (column < 0)
		return "accepted";
	return OutputFunctionCall(&columns[column].output, outcome->value);
}

/* They differ: say how, and end the process. */
static void
complain(const Subject *subject, int column, const Outcome *ours,
		 const Outcome *theirs)
{
	if (column >= 0)
	{
		fprintf(stderr, "column of type %s at", format_type_be(wanted[column].type));
		for (int i = 0; i < MAX_STEPS && wanted[column].path[i] != NULL; i++)
			fprintf(stderr, " %s", wanted[column].path[i]);
		fputc('\n', stderr);
	}
	fprintf(stderr, "kappa:      %s\n", show(ours, column));
	fprintf(stderr, "PostgreSQL: %s\n", show(theirs, column));
	fprintf(stderr, "%zu bytes: %s\n", subject->message.value_len, subject->text);
	abort();
}

/* ---- Whether the text is a document. ---- */

static void
read_by_kappa(Subject *subject, int column, Outcome *outcome)
{
	if (!kappa_decode_message(decoder, &subject->message, subject->values,
							  subject->states, &subject->malformed))
		kappa_decode_report_malformed(decoder, &subject->message,
									  &subject->malformed);
}

static void
read_by_postgres(Subject *subject, int column, Outcome *outcome)
{
	(void) pg_verifymbstr(subject->message.value, subject->message.value_len, false);
	subject->json = DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
													   CStringGetDatum(subject->text)));
}

static void
read_as_json(Subject *subject, int column, Outcome *outcome)
{
	(void) DirectFunctionCall1(json_in, CStringGetDatum(subject->text));
}

/* How deep brackets outside of strings are nested. */
static int
measure_depth(const char *text)
{
	int depth = 0;
	int deepest = 0;
	bool in_string = false;

	for (const char *p = text; *p != '\0'; p++)
	{
		if (*p == '"')
			in_string = !in_string;
		else if (in_string)
			p += *p == '\\' && p[1] != '\0';
		else if (*p == '{' || *p == '[')
			deepest = Max(deepest, ++depth);
		else if (*p == '}' || *p == ']')
			depth--;
	}
	return deepest;
}

/*
 * True if both say that the text is a document, or both that it is none.  Of
 * several faults in a text each may have found another one first.
 */
static bool
agree_on_document(Subject *subject, const Outcome *ours, const Outcome *theirs)
{
	bool has_nul = strstr(subject->text, "\\u0000") != NULL;

	if (ours->sqlstate == theirs->sqlstate)
		return true;
	if (ours->sqlstate == ERRCODE_PROGRAM_LIMIT_EXCEEDED)
		return measure_depth(subject->text) > KAPPA_JSON_MAX_DEPTH;

	/* Only jsonb has limits for a number; json stands in for it. */
	if (theirs->sqlstate == ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE)
	{
		Outcome json = attempt(read_as_json, subject, -1);

		return ours->sqlstate == json.sqlstate ||
			   (ours->sqlstate == ERRCODE_UNTRANSLATABLE_CHARACTER && has_nul);
	}
	if (ours->sqlstate == 0 || theirs->sqlstate == 0)
		return false;
	return has_nul &&
		   (ours->sqlstate == ERRCODE_UNTRANSLATABLE_CHARACTER ||
			theirs->sqlstate == ERRCODE_UNTRANSLATABLE_CHARACTER);
}

/* ---- What the columns are. ---- */

static void
convert_by_kappa(Subject *subject, int column, Outcome *outcome)
{
	outcome->value = kappa_decode_cell(decoder, column, &subject->message,
									   subject->values[column],
									   subject->states[column],
									   &outcome->isnull);
}

static Datum
extract(PGFunction function, Subject *subject, int column, bool *isnull)
{
	LOCAL_FCINFO(fcinfo, 2);
	Datum result;

	InitFunctionCallInfoData(*fcinfo, NULL, 2, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = JsonbPGetDatum(subject->json);
	fcinfo->args[0].isnull = false;
	fcinfo->args[1].value = PointerGetDatum(columns[column].path);
	fcinfo->args[1].isnull = false;
	result = function(fcinfo);
	*isnull = fcinfo->isnull;
	return result;
}

/* JSON's null is SQL's; json and jsonb are the part, other types its text. */
static void
convert_by_postgres(Subject *subject, int column, Outcome *outcome)
{
	Datum part = extract(jsonb_extract_path_text, subject, column, &outcome->isnull);

	if (outcome->isnull)
		return;
	if (wanted[column].type == JSONBOID || wanted[column].type == JSONOID)
		outcome->value = extract(jsonb_extract_path, subject, column,
								 &outcome->isnull);
	else
		outcome->value = InputFunctionCall(&columns[column].input,
										   TextDatumGetCString(part),
										   columns[column].io_param,
										   wanted[column].typmod);
}

static bool
agree_on_value(int column, Outcome *ours, const Outcome *theirs)
{
	/* What would depend on the clock is refused, wherever it stands. */
	if (ours->sqlstate == ERRCODE_INVALID_DATETIME_FORMAT &&
		strstr(ours->message, "would depend on the clock") != NULL)
		return true;
	if (ours->sqlstate != theirs->sqlstate || ours->isnull != theirs->isnull)
		return false;
	if (ours->sqlstate != 0 || ours->isnull)
		return true;

	/* json keeps how a value is written; it must mean the same. */
	if (wanted[column].type == JSONOID)
	{
		char *source = TextDatumGetCString(ours->value);

		ours->value = DirectFunctionCall1(jsonb_in, CStringGetDatum(source));
	}
	return strcmp(OutputFunctionCall(&columns[column].output, ours->value),
				  OutputFunctionCall(&columns[column].output, theirs->value)) == 0;
}

static void
compare_columns(Subject *subject)
{
	for (int i = 0; i < lengthof(wanted); i++)
	{
		Outcome ours = attempt(convert_by_kappa, subject, i);
		Outcome theirs = attempt(convert_by_postgres, subject, i);

		if (!agree_on_value(i, &ours, &theirs))
			complain(subject, i, &ours, &theirs);
	}
}

static void
compare(Subject *subject)
{
	bool ok = kappa_decode_keys(decoder, &subject->message, subject->values,
								subject->states, &subject->malformed);
	Outcome ours = attempt(read_by_kappa, subject, -1);
	Outcome theirs = attempt(read_by_postgres, subject, -1);

	if (!agree_on_document(subject, &ours, &theirs) ||
		ok != (ours.sqlstate == 0))
		complain(subject, -1, &ours, &theirs);
	if (ours.sqlstate == 0 && theirs.sqlstate == 0)
		compare_columns(subject);
}

/* ---- Set-up. ---- */

static void
init_column(int i, KappaColumn *description)
{
	Datum steps[MAX_STEPS];
	Oid function;
	bool is_varlena;

	description->attnum = i + 1;
	description->name = psprintf("c%d", i);
	description->type = wanted[i].type;
	description->typmod = wanted[i].typmod;
	description->source = KAPPA_SOURCE_FIELD;
	description->path = palloc0(MAX_STEPS * sizeof(char *));
	while (description->npath < MAX_STEPS &&
		   wanted[i].path[description->npath] != NULL)
	{
		const char *step = wanted[i].path[description->npath];

		steps[description->npath] = CStringGetTextDatum(step);
		description->path[description->npath++] = step;
	}
	columns[i].path = construct_array(steps, description->npath, TEXTOID, -1,
									  false, TYPALIGN_INT);

	getTypeInputInfo(wanted[i].type, &function, &columns[i].io_param);
	fmgr_info(function, &columns[i].input);
	/* json is compared as jsonb. */
	getTypeOutputInfo(wanted[i].type == JSONOID ? JSONBOID : wanted[i].type,
					  &function, &is_varlena);
	fmgr_info(function, &columns[i].output);
}

static void
init_table(void)
{
	table.ncolumns = lengthof(wanted);
	table.columns = palloc0(lengthof(wanted) * sizeof(KappaColumn));
	for (int i = 0; i < lengthof(wanted); i++)
		init_column(i, &table.columns[i]);
}

/* In place of the decoder that there is. */
static void
create_decoder(void)
{
	MemoryContext old_context;

	MemoryContextReset(decoder_context);
	old_context = MemoryContextSwitchTo(decoder_context);
	decoder = kappa_decoder_create(&table, bms_add_range(NULL, 1, lengthof(wanted)));
	MemoryContextSwitchTo(old_context);
}

static int
run_one(const uint8_t *data, size_t size)
{
	MemoryContext old_context = MemoryContextSwitchTo(run_context);
	Subject *subject = palloc0(sizeof(Subject));

	/* The bytes are libFuzzer's, who notices when more of them are read. */
	subject->message.value = (const char *) data;
	subject->message.value_len = size;
	subject->text = pnstrdup((const char *) data, size);

	if (decoded++ % TEXTS_PER_DECODER == 0)
		create_decoder();

	/* No value at all is a row, and none that PostgreSQL could read. */
	for (int i = 0; i < 2 && size > 0; i++)
		compare(subject);

	MemoryContextSwitchTo(old_context);
	MemoryContextReset(run_context);
	return 0;
}

/*
 * kappa_fuzz(VARIADIC text[]): run libFuzzer with these arguments.  Does not
 * return: libFuzzer ends the process.
 */
Datum
kappa_fuzz(PG_FUNCTION_ARGS)
{
	ArrayType *arguments = PG_GETARG_ARRAYTYPE_P(0);
	Datum *elements;
	int n;
	char **argv;

	deconstruct_array(arguments, TEXTOID, -1, false, TYPALIGN_INT, &elements,
					  NULL, &n);
	argv = palloc0((n + 2) * sizeof(char *));
	argv[0] = pstrdup("kappa_fuzz");
	for (int i = 0; i < n; i++)
		argv[i + 1] = TextDatumGetCString(elements[i]);
	n++;

	run_context = AllocSetContextCreate(CurrentMemoryContext, "kappa_fuzz",
										ALLOCSET_DEFAULT_SIZES);
	decoder_context = AllocSetContextCreate(CurrentMemoryContext, "kappa_fuzz decoder",
											ALLOCSET_DEFAULT_SIZES);
	init_table();
	return Int32GetDatum(LLVMFuzzerRunDriver(&n, &argv, run_one));
}
