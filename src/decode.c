/*-------------------------------------------------------------------------
 *
 * decode.c
 *	  From the bytes of a message to column values
 *
 * A decoder is compiled once for the columns that are needed, and then runs
 * for each message: one pass over the value and, if it is JSON, one over the
 * key check them and find the fields; the common types are converted on the
 * spot, and whatever could throw is left for kappa_decode_cell().
 *
 * Whether a message is a row depends on the foreign table alone.  A JSON value
 * is parsed even if no column is wanted, and so is a JSON key.
 *
 * IDENTIFICATION
 *	  src/decode.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "decode.h"
#include "decode_convert.h"
#include "decode_error.h"
#include "decode_json.h"
#include "decode_metadata.h"
#include "decode_path.h"
#include "decode_scalar.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

/* What kind of work a cell is. */
typedef enum CellKind
{
	CELL_FIELD,    /* a field of a JSON document */
	CELL_BYTES,    /* the key or the value as it is */
	CELL_METADATA, /* something else about the message */
} CellKind;

typedef struct Cell
{
	KappaColumn column; /* a copy, without the path */
	CellKind kind;
	bool in_key; /* the field or the bytes are the key's */
	bool is_domain;
	KappaScalar scalar;
	KappaConversion *conversion; /* NULL for metadata */
	int slot;                    /* of a field, among those of its document */
} Cell;

/* A document in a message: what is wanted of it, and what was found. */
typedef struct Document
{
	KappaJsonPaths *paths;
	KappaJsonValue *fields;
} Document;

struct KappaDecoder
{
	char *topic;
	bool value_is_json;
	bool key_is_json;
	bool changelog;
	Document value;
	Document key;
	Document nothing; /* for a text that need only be checked */
	KappaJsonParser *parser;
	MemoryContextCallback on_reset; /* frees the parser */
	int ncells;
	Cell *cells;
	AttrNumber max_attnum;
	int *cell_of; /* by attribute number; -1 if not asked for */
};

static void
free_parser(void *arg)
{
	KappaDecoder *decoder = arg;

	if (decoder->parser != NULL)
		kappa_json_parser_free(decoder->parser);
	decoder->parser = NULL;
}

static void
check_encoding(void)
{
	if (GetDatabaseEncoding() != PG_UTF8)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("topics cannot be read in a database with encoding \"%s\"",
						GetDatabaseEncodingName()),
				 errhint("Use a database with encoding UTF8.")));
}

static CellKind
choose_kind(const KappaTable *table, const KappaColumn *column)
{
	switch (column->source)
	{
		case KAPPA_SOURCE_FIELD:
			return CELL_FIELD;
		case KAPPA_SOURCE_VALUE:
			return CELL_BYTES;
		case KAPPA_SOURCE_KEY:

			/* The bytes of a key are its bytes, whatever they contain. */
			if (table->key_format == KAPPA_KEY_JSON &&
				(column->npath > 0 || column->type != BYTEAOID))
				return CELL_FIELD;
			return CELL_BYTES;
		default:
			return CELL_METADATA;
	}
}

static void
init_cell(Cell *cell, const KappaTable *table, const KappaColumn *column)
{
	cell->column = *column;
	cell->column.name = pstrdup(column->name);
	cell->column.npath = 0;
	cell->column.path = NULL;
	cell->kind = choose_kind(table, column);
	cell->in_key = column->source == KAPPA_SOURCE_KEY;
	cell->is_domain = get_typtype(column->type) == TYPTYPE_DOMAIN;
	cell->scalar = kappa_scalar_for_type(column->type);
	if (cell->kind == CELL_METADATA)
		kappa_metadata_check_type(column);
	else
		cell->conversion = kappa_conversion_create(column->type,
												   column->typmod);
}

/* Compile the paths of the cells that are fields of one of the documents. */
static void
init_document(KappaDecoder *decoder, const KappaTable *table, bool in_key,
			  Document *document)
{
	List *columns = NIL;
	List *cells = NIL;
	int *slots;
	int n = 0;
	ListCell *lc;

	for (int i = 0; i < decoder->ncells; i++)
	{
		Cell *cell = &decoder->cells[i];

		if (cell->kind != CELL_FIELD || cell->in_key != in_key)
			continue;
		columns = lappend(columns, &table->columns[cell->column.attnum - 1]);
		cells = lappend(cells, cell);
	}

	slots = palloc((list_length(columns) + 1) * sizeof(int));
	document->paths = kappa_path_compile(columns, slots);
	document->fields = palloc0((document->paths->nslots + 1) *
							   sizeof(KappaJsonValue));
	foreach(lc, cells)
		((Cell *) lfirst(lc))->slot = slots[n++];
}

static void
create_parser(KappaDecoder *decoder)
{
	decoder->on_reset.func = free_parser;
	decoder->on_reset.arg = decoder;
	MemoryContextRegisterResetCallback(CurrentMemoryContext,
									   &decoder->on_reset);
	decoder->parser = kappa_json_parser_create();
	if (decoder->parser == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory"),
				 errdetail("Could not create a JSON parser.")));
}

KappaDecoder *
kappa_decoder_create(const KappaTable *table, Bitmapset *columns)
{
	KappaDecoder *decoder = palloc0(sizeof(KappaDecoder));
	int attnum = -1;

	check_encoding();

	decoder->topic = pstrdup(table->topic);
	decoder->value_is_json = table->format == KAPPA_FORMAT_JSON;
	decoder->key_is_json = table->key_format == KAPPA_KEY_JSON;
	decoder->changelog = table->changelog;
	decoder->max_attnum = table->ncolumns;
	decoder->cell_of = palloc((table->ncolumns + 1) * sizeof(int));
	for (int i = 0; i <= table->ncolumns; i++)
		decoder->cell_of[i] = -1;
	decoder->cells = palloc0((bms_num_members(columns) + 1) * sizeof(Cell));

	while ((attnum = bms_next_member(columns, attnum)) >= 0)
	{
		const KappaColumn *column;

		if (attnum < 1 || attnum > table->ncolumns)
			elog(ERROR, "foreign table \"%s\" has no column %d",
				 table->name, attnum);
		column = &table->columns[attnum - 1];
		if (column->source == KAPPA_SOURCE_DROPPED)
			elog(ERROR, "column %d of foreign table \"%s\" is dropped",
				 attnum, table->name);
		decoder->cell_of[attnum] = decoder->ncells;
		init_cell(&decoder->cells[decoder->ncells++], table, column);
	}

	init_document(decoder, table, false, &decoder->value);
	init_document(decoder, table, true, &decoder->key);
	decoder->nothing.paths = kappa_path_compile(NIL, NULL);
	create_parser(decoder);
	return decoder;
}

int
kappa_decoder_ncells(const KappaDecoder *decoder)
{
	return decoder->ncells;
}

int
kappa_decoder_cell(const KappaDecoder *decoder, AttrNumber attnum)
{
	if (attnum < 1 || attnum > decoder->max_attnum)
		return -1;
	return decoder->cell_of[attnum];
}

/*
 * Check a JSON text and find the fields that are wanted of it.  No text at all
 * is fine, and has no fields.
 */
static bool
read_document(KappaDecoder *decoder, const Document *document,
			  const char *text, Size len, bool in_key,
			  KappaMalformed *malformed)
{
	KappaJsonError error;
	int64 position;

	if (text == NULL || len == 0)
	{
		for (int i = 0; i < document->paths->nslots; i++)
			document->fields[i].kind = KAPPA_JSON_MISSING;
		return true;
	}

	error = kappa_json_parse(decoder->parser, text, len, document->paths,
							 document->fields, &position);
	if (likely(error == KAPPA_JSON_OK))
		return true;
	kappa_decode_error_describe(malformed, error, position, in_key, text, len);
	return false;
}

/* A domain may forbid NULL, so its input function has to be asked. */
static inline KappaCellState
fill_null(const Cell *cell, Datum *result)
{
	*result = (Datum) 0;
	return cell->is_domain ? KAPPA_CELL_DEFERRED : KAPPA_CELL_NULL;
}

static inline KappaCellState
fill_text(const char *text, Size len, Datum *result)
{
	*result = PointerGetDatum(cstring_to_text_with_len(text, len));
	return KAPPA_CELL_VALUE;
}

/* A string with escapes, if it goes into text. */
static bool
convert_escaped(const Cell *cell, const KappaJsonValue *field, Datum *result)
{
	char *buffer;
	bool done;

	if (cell->scalar != KAPPA_SCALAR_TEXT)
		return false;
	buffer = palloc(field->len);
	done = kappa_scalar_from_text(cell->scalar, cell->column.typmod, buffer,
								  kappa_json_unescape(field->start, field->len,
													  buffer),
								  result);
	pfree(buffer);
	return done;
}

/* Convert a field on the spot, if its form is one of the usual ones. */
static inline bool
convert_field(const Cell *cell, const KappaJsonValue *field, Datum *result)
{
	switch (field->kind)
	{
		case KAPPA_JSON_STRING:
			if (unlikely(field->escaped))
				return convert_escaped(cell, field, result);
			return kappa_scalar_from_text(cell->scalar, cell->column.typmod,
										  field->start, field->len, result);
		case KAPPA_JSON_NUMBER:
			return kappa_scalar_from_number(cell->scalar, cell->column.typmod,
											field->start, field->len, result);
		case KAPPA_JSON_TRUE:
		case KAPPA_JSON_FALSE:
			if (cell->scalar != KAPPA_SCALAR_BOOL &&
				cell->scalar != KAPPA_SCALAR_TEXT)
				return false;
			return kappa_scalar_from_text(cell->scalar, cell->column.typmod,
										  field->start, field->len, result);
		default:
			return false;
	}
}

static KappaCellState
fill_field(const Cell *cell, const KappaJsonValue *field, Datum *result)
{
	KappaJsonValue *copy;
	const char *source;
	size_t len;

	if (field->kind == KAPPA_JSON_MISSING || field->kind == KAPPA_JSON_NULL)
		return fill_null(cell, result);
	if (likely(convert_field(cell, field, result)))
		return KAPPA_CELL_VALUE;

	/* The text has been checked, and json keeps it as it is. */
	if (cell->column.type == JSONOID)
	{
		source = kappa_json_source(field, &len);
		return fill_text(source, len, result);
	}

	copy = palloc(sizeof(KappaJsonValue));
	*copy = *field;
	*result = PointerGetDatum(copy);
	return KAPPA_CELL_DEFERRED;
}

Datum
kappa_decode_make_bytea(const char *bytes, Size len)
{
	bytea *result = palloc(VARHDRSZ + len);

	SET_VARSIZE(result, VARHDRSZ + len);
	memcpy(VARDATA(result), bytes, len);
	return PointerGetDatum(result);
}

/* Bytes of key or value.  What is deferred finds them in the message again. */
static KappaCellState
fill_bytes(const Cell *cell, const char *bytes, Size len, Datum *result)
{
	*result = (Datum) 0;
	if (bytes == NULL)
		return fill_null(cell, result);
	if (cell->column.type == BYTEAOID)
		return fill_text(bytes, len, result);
	if (cell->scalar == KAPPA_SCALAR_TEXT && !pg_verifymbstr(bytes, len, true))
		return KAPPA_CELL_DEFERRED;
	if (kappa_scalar_from_text(cell->scalar, cell->column.typmod, bytes, len,
							   result))
		return KAPPA_CELL_VALUE;
	return KAPPA_CELL_DEFERRED;
}

static inline KappaCellState
fill_cell(const KappaDecoder *decoder, const Cell *cell,
		  const KappaMessage *message, Datum *result)
{
	const Document *document;

	switch (cell->kind)
	{
		case CELL_FIELD:
			document = cell->in_key ? &decoder->key : &decoder->value;
			return fill_field(cell, &document->fields[cell->slot], result);
		case CELL_BYTES:
			if (cell->in_key)
				return fill_bytes(cell, message->key, message->key_len, result);
			return fill_bytes(cell, message->value, message->value_len, result);
		case CELL_METADATA:
			return kappa_metadata_fill(&cell->column, decoder->topic, message,
									   result);
	}
	return KAPPA_CELL_NULL;
}

/*
 * True if a cell is NULL whatever its domain says: there is nothing that the
 * domain could judge, because the text is broken, or because the message is a
 * tombstone that deletes a row of a changelog.  On a topic of events, however,
 * a message without a value is a row like any other.
 */
static inline bool
is_blank(const KappaDecoder *decoder, const Cell *cell,
		 const KappaMessage *message, bool value_ok, bool key_ok)
{
	if (cell->kind == CELL_METADATA)
		return false;
	if (cell->in_key)
		return cell->kind == CELL_FIELD && !key_ok;
	return (cell->kind == CELL_FIELD && !value_ok) ||
		   (decoder->changelog && message->value == NULL);
}

static bool
decode_message(KappaDecoder *decoder, const KappaMessage *message,
			   bool only_keys, Datum *values, uint8 *states,
			   KappaMalformed *malformed)
{
	bool value_ok = true;
	bool key_ok = true;

	if (decoder->key_is_json)
		key_ok = read_document(decoder, &decoder->key, message->key,
							   message->key_len, true, malformed);
	if (decoder->value_is_json)
		value_ok = read_document(decoder,
								 only_keys ? &decoder->nothing : &decoder->value,
								 message->value, message->value_len, false,
								 malformed);

	for (int i = 0; i < decoder->ncells; i++)
	{
		const Cell *cell = &decoder->cells[i];

		if ((only_keys && !cell->column.key) ||
			is_blank(decoder, cell, message, value_ok, key_ok))
		{
			values[i] = (Datum) 0;
			states[i] = KAPPA_CELL_NULL;
		}
		else
			states[i] = fill_cell(decoder, cell, message, &values[i]);
	}
	return value_ok && key_ok;
}

bool
kappa_decode_message(KappaDecoder *decoder, const KappaMessage *message,
					 Datum *values, uint8 *states, KappaMalformed *malformed)
{
	return decode_message(decoder, message, false, values, states, malformed);
}

bool
kappa_decode_keys(KappaDecoder *decoder, const KappaMessage *message,
				  Datum *values, uint8 *states, KappaMalformed *malformed)
{
	return decode_message(decoder, message, true, values, states, malformed);
}

static Datum
convert_deferred(const Cell *cell, const KappaErrorSubject *subject,
				 const KappaJsonValue *field, bool *isnull)
{
	*isnull = false;
	if (cell->kind == CELL_METADATA)
		return kappa_metadata_convert(&cell->column, subject->message);
	if (subject->bytes == NULL)
		return kappa_convert_null(cell->conversion, isnull);
	if (cell->kind == CELL_FIELD)
		return kappa_convert_json(cell->conversion, field, isnull);
	return kappa_convert_bytes(cell->conversion, subject->bytes, subject->len,
							   isnull);
}

static Datum
finish_deferred(const KappaDecoder *decoder, const Cell *cell,
				const KappaMessage *message, Datum value, bool *isnull)
{
	KappaErrorSubject subject = { decoder->topic, message, cell->column.name };
	const KappaJsonValue *field = NULL;
	Datum result;

	if (cell->kind == CELL_FIELD)
	{
		field = (const KappaJsonValue *) DatumGetPointer(value);
		if (field != NULL)
			subject.bytes = kappa_json_source(field, &subject.len);
	}
	else if (cell->kind == CELL_BYTES)
	{
		subject.bytes = cell->in_key ? message->key : message->value;
		subject.len = cell->in_key ? message->key_len : message->value_len;
	}

	kappa_decode_error_push(&subject);
	result = convert_deferred(cell, &subject, field, isnull);
	kappa_decode_error_pop(&subject);
	return result;
}

Datum
kappa_decode_cell(KappaDecoder *decoder, int cell, const KappaMessage *message,
				  Datum value, uint8 state, bool *isnull)
{
	*isnull = state == KAPPA_CELL_NULL;
	if (state != KAPPA_CELL_DEFERRED)
		return value;
	return finish_deferred(decoder, &decoder->cells[cell], message, value,
						   isnull);
}

void
kappa_decode_report_malformed(const KappaDecoder *decoder,
							  const KappaMessage *message,
							  const KappaMalformed *malformed)
{
	KappaErrorSubject subject = { decoder->topic, message };

	subject.bytes = malformed->in_key ? message->key : message->value;
	subject.len = malformed->in_key ? message->key_len : message->value_len;
	kappa_decode_error_push(&subject);
	ereport(ERROR,
			(errcode(malformed->sqlstate),
			 malformed->in_key ? errmsg("message key is not valid JSON")
							   : errmsg("message is not valid JSON"),
			 malformed->position >= 0
				 ? errdetail("At byte %d: %s.", malformed->position,
							 malformed->reason)
				 : errdetail("Reason: %s.", malformed->reason)));
}
