/*-------------------------------------------------------------------------
 *
 * view_start.c
 *	  Where in the log a view starts
 *
 * IDENTIFICATION
 *	  src/view_start.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "view_start.h"

/* From PostgreSQL's epoch to Kafka's, the one of Unix; microseconds. */
#define KAFKA_EPOCH ((POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY)

static TimestampTz
parse_timestamp(const char *text)
{
	TimestampTz at = DatumGetTimestampTz(DirectFunctionCall3(timestamptz_in,
															 CStringGetDatum(text),
															 ObjectIdGetDatum(InvalidOid),
															 Int32GetDatum(-1)));

	if (TIMESTAMP_NOT_FINITE(at))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_FIELD_OVERFLOW),
				 errmsg("a view cannot start at \"%s\"", text),
				 errhint("Use \"earliest\" or \"latest\".")));
	return at;
}

KappaStart *
kappa_start_parse(const char *text)
{
	KappaStart *start = palloc(sizeof(KappaStart));

	if (pg_strcasecmp(text, "earliest") == 0)
	{
		start->kind = KAPPA_START_EARLIEST;
		start->at = DT_NOBEGIN;
	}
	else if (pg_strcasecmp(text, "latest") == 0)
	{
		start->kind = KAPPA_START_LATEST;
		start->at = GetCurrentTimestamp();
	}
	else
	{
		start->kind = KAPPA_START_TIME;
		start->at = parse_timestamp(text);
	}
	return start;
}

int64 *
kappa_start_resolve(const KappaStart *start, KafkaTopic *topic, int *npartitions)
{
	int64 *offsets;

	*npartitions = 0;
	if (start->kind == KAPPA_START_EARLIEST)
		return NULL;

	*npartitions = kappa_kafka_partition_count(topic, NULL);
	offsets = palloc(Max(*npartitions, 1) * sizeof(int64));
	if (start->kind == KAPPA_START_LATEST)
		kappa_kafka_watermarks(topic, *npartitions, NULL, offsets);
	else
		kappa_kafka_offsets_for_time(topic, *npartitions, (start->at + KAFKA_EPOCH) / 1000,
									 offsets);
	return offsets;
}

TimestampTz
kappa_start_from_kafka(int64 ms)
{
	return ms * 1000 - KAFKA_EPOCH;
}
