/*-------------------------------------------------------------------------
 *
 * deadletter.c
 *	  Messages that a version has passed over because they cannot be applied
 *
 * A letter has all that the message has, so that it can be looked at, and
 * applied later, when the log does not have it any more.  Of a message that is
 * too long for a table it has the beginning, and the place in the log.
 *
 * IDENTIFICATION
 *	  src/deadletter.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "deadletter.h"
#include "decode_error.h"
#include "kappa.h"
#include "view_commands.h"

PG_FUNCTION_INFO_V1(kappa_sql_discard_dead_letters);
PG_FUNCTION_INFO_V1(kappa_sql_printable);

/* What is kept of key and value of a message that is too long. */
#define HEAD_BYTES 1024

/* Letters to load at once; a single one may be larger. */
#define LOAD_LETTERS 1000
#define LOAD_BYTES (16 * 1024 * 1024)

/* kappa.printable(bytes bytea) -> text */
Datum
kappa_sql_printable(PG_FUNCTION_ARGS)
{
	bytea *bytes = PG_GETARG_BYTEA_PP(0);
	StringInfoData buf;

	initStringInfo(&buf);
	kappa_decode_error_append(&buf, VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
	PG_RETURN_TEXT_P(cstring_to_text_with_len(buf.data, buf.len));
}

/* ---- writing ---- */

static Datum
make_array(Datum *elements, bool *nulls, int n)
{
	int lower_bound = 1;

	return PointerGetDatum(construct_md_array(elements, nulls, 1, &n, &lower_bound, BYTEAOID,
											  -1, false, TYPALIGN_INT));
}

static Datum
make_header_names(const KappaMessage *message)
{
	Datum *names = palloc(message->nheaders * sizeof(Datum));

	for (int i = 0; i < message->nheaders; i++)
		names[i] = kappa_decode_make_bytea(message->headers[i].name,
										   strlen(message->headers[i].name));
	return make_array(names, NULL, message->nheaders);
}

static Datum
make_header_values(const KappaMessage *message)
{
	Datum *values = palloc(message->nheaders * sizeof(Datum));
	bool *nulls = palloc(message->nheaders * sizeof(bool));

	for (int i = 0; i < message->nheaders; i++)
	{
		const KappaHeader *header = &message->headers[i];

		nulls[i] = header->value == NULL;
		values[i] = nulls[i] ? (Datum) 0
							 : kappa_decode_make_bytea(header->value, header->value_len);
	}
	return make_array(values, nulls, message->nheaders);
}

static Size
get_size(const KappaMessage *message)
{
	Size size = kappa_message_bytes(message);

	for (int i = 0; i < message->nheaders; i++)
		size += strlen(message->headers[i].name) + message->headers[i].value_len;
	return size;
}

/* Columns of kappa.dead_letter, as parameters from $1 on. */
typedef struct Parameters
{
	int n;
	Oid types[20];
	Datum values[20];
	char nulls[20];
} Parameters;

static void
add(Parameters *parameters, Oid type, Datum value, bool isnull)
{
	Assert(parameters->n < lengthof(parameters->values));
	parameters->types[parameters->n] = type;
	parameters->values[parameters->n] = value;
	parameters->nulls[parameters->n++] = isnull ? 'n' : ' ';
}

static void
add_text(Parameters *parameters, const char *text)
{
	add(parameters, TEXTOID, text == NULL ? (Datum) 0 : CStringGetTextDatum(text), text == NULL);
}

static void
add_bytes(Parameters *parameters, const char *bytes, Size len)
{
	add(parameters, BYTEAOID, bytes == NULL ? (Datum) 0 : kappa_decode_make_bytea(bytes, len),
		bytes == NULL);
}

static void
add_version(Parameters *parameters, Oid view, int32 version)
{
	add(parameters, OIDOID, ObjectIdGetDatum(view), false);
	add(parameters, INT4OID, Int32GetDatum(version), false);
}

static void
add_message(Parameters *parameters, const KappaMessage *message)
{
	Size size = get_size(message);
	bool complete = size <= (Size) kappa_dead_letter_max_bytes * 1024;
	Size most = complete ? size : HEAD_BYTES;
	bool headers = complete && message->nheaders > 0;
	char type[] = { message->timestamp_type, '\0' };

	add(parameters, INT4OID, Int32GetDatum(message->partition), false);
	add(parameters, INT8OID, Int64GetDatum(message->offset), false);
	add(parameters, INT8OID, Int64GetDatum(message->timestamp), message->timestamp == -1);
	add_text(parameters, type[0] == '\0' ? NULL : type);
	add_bytes(parameters, message->key, Min(message->key_len, most));
	add_bytes(parameters, message->value, Min(message->value_len, most));
	add(parameters, BYTEAARRAYOID, headers ? make_header_names(message) : (Datum) 0, !headers);
	add(parameters, BYTEAARRAYOID, headers ? make_header_values(message) : (Datum) 0, !headers);
	add(parameters, INT8OID, Int64GetDatum(size), false);
	add(parameters, BOOLOID, BoolGetDatum(complete), false);
}

static void
add_error(Parameters *parameters, const ErrorData *error)
{
	add_text(parameters, unpack_sql_state(error->sqlerrcode));
	add_text(parameters, error->message);
	add_text(parameters, error->detail);
	add_text(parameters, error->context);
	add_text(parameters, error->column_name);
}

/* Run a statement as kappa; the result of a SELECT is its first column. */
static int64
execute(const char *sql, Parameters *parameters)
{
	KappaCatalogScope scope;
	int64 result;
	bool isnull;
	int rc;

	kappa_catalog_enter(&scope);
	rc = SPI_execute_with_args(sql, parameters->n, parameters->types, parameters->values,
							   parameters->nulls, false, 0);
	if (rc < 0)
		elog(ERROR, "could not run \"%s\": %s", sql, SPI_result_code_string(rc));
	result = SPI_processed;
	if (rc == SPI_OK_SELECT)
		result = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1,
											 &isnull));
	kappa_catalog_leave(&scope);
	return result;
}

void
kappa_deadletter_insert(const KappaApplier *applier, const KappaMessage *message,
						const ErrorData *error)
{
	Parameters parameters = { 0 };

	add_version(&parameters, applier->view, applier->version);
	add_text(&parameters, applier->topic);
	add_message(&parameters, message);
	add_error(&parameters, error);
	(void) execute("INSERT INTO kappa.dead_letter (view, version, topic, part, pos, message_ms,"
				   " timestamp_type, key, value, header_names, header_values, size, complete,"
				   " sqlstate, error, detail, context, column_name)"
				   " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15,"
				   " $16, $17, $18)",
				   &parameters);
}

static void
add_place(Parameters *parameters, const KappaMessage *message)
{
	add(parameters, INT4OID, Int32GetDatum(message->partition), false);
	add(parameters, INT8OID, Int64GetDatum(message->offset), false);
}

void
kappa_deadletter_delete(Oid view, int32 version, const KappaMessage *message)
{
	Parameters parameters = { 0 };

	add_version(&parameters, view, version);
	add_place(&parameters, message);
	(void) execute("DELETE FROM kappa.dead_letter"
				   " WHERE view = $1 AND version = $2 AND part = $3 AND pos = $4",
				   &parameters);
}

void
kappa_deadletter_update(Oid view, int32 version, const KappaMessage *message,
						const ErrorData *error)
{
	Parameters parameters = { 0 };

	add_version(&parameters, view, version);
	add_place(&parameters, message);
	add_error(&parameters, error);
	(void) execute("UPDATE kappa.dead_letter SET sqlstate = $5, error = $6, detail = $7,"
				   " context = $8, column_name = $9, failed_at = clock_timestamp()"
				   " WHERE view = $1 AND version = $2 AND part = $3 AND pos = $4",
				   &parameters);
}

int64
kappa_deadletter_count(Oid view, int32 version)
{
	Parameters parameters = { 0 };

	add_version(&parameters, view, version);
	return execute("SELECT count(*) FROM kappa.dead_letter"
				   " WHERE view = $1 AND version = $2 AND discarded_at IS NULL",
				   &parameters);
}

/* ---- reading ---- */

/* Bytes of a column, in the caller's context; NULL for null. */
static const char *
read_bytes(Datum value, bool isnull, Size *len)
{
	bytea *bytes;

	*len = 0;
	if (isnull)
		return NULL;
	bytes = DatumGetByteaPCopy(value);
	*len = VARSIZE(bytes) - VARHDRSZ;
	return VARDATA(bytes);
}

static const char *
read_column(HeapTuple row, int column, Size *len)
{
	bool isnull;
	Datum value = SPI_getbinval(row, SPI_tuptable->tupdesc, column, &isnull);

	return read_bytes(value, isnull, len);
}

static void
read_headers(HeapTuple row, int column, KappaMessage *message)
{
	Datum *names;
	Datum *values;
	bool *nulls;
	bool isnull;
	Datum array = SPI_getbinval(row, SPI_tuptable->tupdesc, column, &isnull);
	KappaHeader *headers;

	if (isnull)
		return;
	deconstruct_array(DatumGetArrayTypeP(array), BYTEAOID, -1, false, TYPALIGN_INT, &names,
					  NULL, &message->nheaders);
	array = SPI_getbinval(row, SPI_tuptable->tupdesc, column + 1, &isnull);
	deconstruct_array(DatumGetArrayTypeP(array), BYTEAOID, -1, false, TYPALIGN_INT, &values,
					  &nulls, &message->nheaders);
	headers = palloc0(Max(message->nheaders, 1) * sizeof(KappaHeader));
	for (int i = 0; i < message->nheaders; i++)
	{
		Size len;
		const char *name = read_bytes(names[i], false, &len);

		headers[i].name = pnstrdup(name, len);
		headers[i].value = read_bytes(values[i], nulls[i], &headers[i].value_len);
	}
	message->headers = headers;
}

static void
read_letter(HeapTuple row, KappaDeadLetter *letter)
{
	TupleDesc columns = SPI_tuptable->tupdesc;
	KappaMessage *message = &letter->message;
	char *type = SPI_getvalue(row, columns, 4);
	bool isnull;

	memset(letter, 0, sizeof(KappaDeadLetter));
	message->kind = KAPPA_MESSAGE_DATA;
	message->partition = DatumGetInt32(SPI_getbinval(row, columns, 1, &isnull));
	message->offset = DatumGetInt64(SPI_getbinval(row, columns, 2, &isnull));
	message->timestamp = DatumGetInt64(SPI_getbinval(row, columns, 3, &isnull));
	if (isnull)
		message->timestamp = -1;
	message->timestamp_type = type == NULL ? '\0' : type[0];
	message->key = read_column(row, 5, &message->key_len);
	message->value = read_column(row, 6, &message->value_len);
	read_headers(row, 7, message);
	letter->complete = DatumGetBool(SPI_getbinval(row, columns, 9, &isnull));
}

int
kappa_deadletter_load(Oid view, int32 version, int32 partition, int64 offset,
					  KappaDeadLetter **letters)
{
	MemoryContext context = CurrentMemoryContext;
	KappaMessage place = { .partition = partition, .offset = offset };
	Parameters parameters = { 0 };
	KappaCatalogScope scope;
	MemoryContext old;
	int n;

	add_version(&parameters, view, version);
	add_place(&parameters, &place);
	add(&parameters, INT4OID, Int32GetDatum(LOAD_LETTERS), false);
	add(&parameters, INT8OID, Int64GetDatum(LOAD_BYTES), false);
	kappa_catalog_enter(&scope);
	if (SPI_execute_with_args("SELECT part, pos, message_ms, timestamp_type, key, value,"
							  " header_names, header_values, complete FROM"
							  " (SELECT *, sum(size) OVER (ORDER BY part, pos) - size AS before"
							  " FROM kappa.dead_letter WHERE view = $1 AND version = $2"
							  " AND (part, pos) > ($3, $4) AND discarded_at IS NULL"
							  " ORDER BY part, pos LIMIT $5) AS d"
							  " WHERE before < $6 ORDER BY part, pos",
							  parameters.n, parameters.types, parameters.values, NULL, false,
							  0) != SPI_OK_SELECT)
		elog(ERROR, "could not read dead letters");
	n = SPI_processed;
	old = MemoryContextSwitchTo(context);
	*letters = palloc(Max(n, 1) * sizeof(KappaDeadLetter));
	for (int i = 0; i < n; i++)
		read_letter(SPI_tuptable->vals[i], &(*letters)[i]);
	MemoryContextSwitchTo(old);
	kappa_catalog_leave(&scope);
	return n;
}

/* ---- giving up ---- */

/*
 * kappa.discard_dead_letters(view regclass) -> bigint.  The place remains, so
 * that it is known what the view has passed over.
 */
Datum
kappa_sql_discard_dead_letters(PG_FUNCTION_ARGS)
{
	KappaView *view = kappa_view_require_owned(PG_GETARG_OID(0), AccessShareLock);
	Parameters parameters = { 0 };
	int64 discarded;

	add_version(&parameters, view->view, view->version);
	discarded = execute("WITH d AS (UPDATE kappa.dead_letter SET discarded_at = clock_timestamp(),"
						" key = NULL, value = NULL, header_names = NULL, header_values = NULL"
						" WHERE view = $1 AND discarded_at IS NULL RETURNING version)"
						" SELECT count(*) FROM d WHERE version = $2",
						&parameters);
	if (discarded > 0)
		kappa_catalog_add_event(view->view, "discarded", 0, NULL,
								psprintf(INT64_FORMAT " dead letters", discarded));
	PG_RETURN_INT64(discarded);
}
