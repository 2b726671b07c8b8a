/*-------------------------------------------------------------------------
 *
 * decode_metadata.c
 *	  Columns that tell about the message rather than from it
 *
 * IDENTIFICATION
 *	  src/decode_metadata.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type_d.h"
#include "common/int.h"
#include "decode_metadata.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/timestamp.h"

/*
 * Metadata that kappa itself makes values of, with the types it can be read as.
 * Key and value are not among them: bytes can become any type.
 */
static const struct
{
	KappaColumnSource source;
	const char *name;
	Oid types[2];
	const char *hint;
} metadata_types[] = {
	{ KAPPA_SOURCE_PARTITION, "partition", { INT4OID, INT8OID }, "Use type integer or bigint." },
	{ KAPPA_SOURCE_OFFSET, "offset", { INT8OID }, "Use type bigint." },
	{ KAPPA_SOURCE_TIMESTAMP, "timestamp", { TIMESTAMPTZOID, INT8OID }, "Use type timestamp with time zone, or bigint for milliseconds since 1970." },
	{ KAPPA_SOURCE_TIMESTAMP_TYPE, "timestamp_type", { TEXTOID }, "Use type text." },
	{ KAPPA_SOURCE_HEADERS, "headers", { JSONBOID, JSONOID }, "Use type jsonb or json." },
	{ KAPPA_SOURCE_TOPIC, "topic", { TEXTOID }, "Use type text." },
};

void
kappa_metadata_check_type(const KappaColumn *column)
{
	for (int i = 0; i < lengthof(metadata_types); i++)
	{
		if (metadata_types[i].source != column->source)
			continue;
		if (column->type == metadata_types[i].types[0] ||
			(OidIsValid(metadata_types[i].types[1]) &&
			 column->type == metadata_types[i].types[1]))
			return;
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" of type %s cannot hold the metadata \"%s\"",
						column->name,
						format_type_with_typemod(column->type, column->typmod),
						metadata_types[i].name),
				 errhint("%s", metadata_types[i].hint)));
	}
}

/* False if PostgreSQL has no such timestamp. */
static bool
convert_kafka_timestamp(int64 ms, int32 typmod, Datum *result)
{
	TimestampTz timestamp;

	if (pg_mul_s64_overflow(ms, 1000, &timestamp) ||
		pg_sub_s64_overflow(timestamp,
							(POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY,
							&timestamp) ||
		!IS_VALID_TIMESTAMP(timestamp))
		return false;
	*result = TimestampTzGetDatum(timestamp);
	if (typmod >= 0)
		*result = DirectFunctionCall2(timestamptz_scale, *result,
									  Int32GetDatum(typmod));
	return true;
}

static KappaCellState
fill_timestamp(const KappaColumn *column, const KappaMessage *message, Datum *result)
{
	*result = (Datum) 0;
	if (message->timestamp == -1)
		return KAPPA_CELL_NULL;
	if (column->type == INT8OID)
	{
		*result = Int64GetDatum(message->timestamp);
		return KAPPA_CELL_VALUE;
	}
	if (convert_kafka_timestamp(message->timestamp, column->typmod, result))
		return KAPPA_CELL_VALUE;
	return KAPPA_CELL_DEFERRED;
}

static KappaCellState
fill_timestamp_type(const KappaMessage *message, Datum *result)
{
	switch (message->timestamp_type)
	{
		case 'C':
			*result = CStringGetTextDatum("CreateTime");
			return KAPPA_CELL_VALUE;
		case 'A':
			*result = CStringGetTextDatum("LogAppendTime");
			return KAPPA_CELL_VALUE;
		default:
			*result = (Datum) 0;
			return KAPPA_CELL_NULL;
	}
}

KappaCellState
kappa_metadata_fill(const KappaColumn *column, const char *topic,
					const KappaMessage *message, Datum *result)
{
	*result = (Datum) 0;
	switch (column->source)
	{
		case KAPPA_SOURCE_PARTITION:
			if (column->type == INT4OID)
				*result = Int32GetDatum(message->partition);
			else
				*result = Int64GetDatum(message->partition);
			return KAPPA_CELL_VALUE;
		case KAPPA_SOURCE_OFFSET:
			*result = Int64GetDatum(message->offset);
			return KAPPA_CELL_VALUE;
		case KAPPA_SOURCE_TIMESTAMP:
			return fill_timestamp(column, message, result);
		case KAPPA_SOURCE_TIMESTAMP_TYPE:
			return fill_timestamp_type(message, result);
		case KAPPA_SOURCE_TOPIC:
			*result = CStringGetTextDatum(topic);
			return KAPPA_CELL_VALUE;
		case KAPPA_SOURCE_HEADERS:
			return KAPPA_CELL_DEFERRED;
		default:
			elog(ERROR, "column \"%s\" is not metadata", column->name);
	}
}

/* A string of JSON from bytes that must be UTF-8. */
static void
append_header_text(StringInfo buf, const char *bytes, Size len)
{
	char *copy;

	(void) pg_verifymbstr(bytes, len, false);
	copy = pnstrdup(bytes, len);
	escape_json(buf, copy);
	pfree(copy);
}

static Datum
convert_headers(const KappaColumn *column, const KappaMessage *message)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfoChar(&buf, '{');
	for (int i = 0; i < message->nheaders; i++)
	{
		const KappaHeader *header = &message->headers[i];

		if (i > 0)
			appendStringInfoString(&buf, ", ");
		append_header_text(&buf, header->name, strlen(header->name));
		appendStringInfoString(&buf, ": ");
		if (header->value == NULL)
			appendStringInfoString(&buf, "null");
		else
			append_header_text(&buf, header->value, header->value_len);
	}
	appendStringInfoChar(&buf, '}');

	/* jsonb keeps the last of a name that occurs twice, json keeps both. */
	if (column->type == JSONBOID)
		return DirectFunctionCall1(jsonb_in, CStringGetDatum(buf.data));
	return PointerGetDatum(cstring_to_text_with_len(buf.data, buf.len));
}

Datum
kappa_metadata_convert(const KappaColumn *column, const KappaMessage *message)
{
	if (column->source == KAPPA_SOURCE_HEADERS)
		return convert_headers(column, message);

	/* Nothing else is deferred but a timestamp that cannot be. */
	ereport(ERROR,
			(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
			 errmsg("timestamp out of range"),
			 errdetail("The message has the timestamp " INT64_FORMAT " ms.",
					   message->timestamp)));
}
