/*-------------------------------------------------------------------------
 *
 * rebuild_log.c
 *	  What a rebuild is going to read: from where to where, and what is gone
 *
 * Offsets are counted, not messages: a compacted topic, or one with
 * transactions, has fewer.  What is known only roughly is said to be so: the
 * size, from a sample of the messages; the duration, from the rate of an
 * earlier replay or of the live view; and how long the messages took to come
 * that are gone, where the log does not tell any more.
 *
 * IDENTIFICATION
 *	  src/rebuild_log.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "fdw_options.h"
#include "kafka_admin.h"
#include "rebuild_log.h"
#include "version_history.h"
#include "view_commands.h"

PG_FUNCTION_INFO_V1(kappa_sql_rebuild_estimate);

/* A sample of this many messages, from no more partitions than that, tells the size of all. */
#define SAMPLE_MESSAGES 1000
#define SAMPLE_PARTS 8
#define SAMPLE_BYTES (1024 * 1024)
#define SAMPLE_TIMEOUT_MS 1000

/* ---- the log ---- */

static KappaReplayPlan *
make_plan(int nparts)
{
	KappaReplayPlan *plan = palloc0(sizeof(KappaReplayPlan));

	plan->nparts = nparts;
	plan->parts = palloc0(Max(nparts, 1) * sizeof(KappaReplayPart));
	for (int p = 0; p < nparts; p++)
		plan->parts[p] = (KappaReplayPart){
			.log_begin = -1,
			.log_end = -1,
			.start = -1,
			.missing_us = -1,
			.first_at = DT_NOBEGIN,
		};
	return plan;
}

static void
read_bounds(KappaReplayPlan *plan, KafkaTopic *topic, int npartitions)
{
	int64 *begin = palloc(Max(npartitions, 1) * sizeof(int64));
	int64 *end = palloc(Max(npartitions, 1) * sizeof(int64));

	kappa_kafka_watermarks(topic, npartitions, begin, end);
	for (int p = 0; p < npartitions; p++)
	{
		plan->parts[p].log_begin = begin[p];
		plan->parts[p].log_end = end[p];
	}
}

/* The first offset of a partition that will be read. */
static int64
get_first(const KappaReplayPart *part)
{
	return part->start >= 0 ? part->start : part->log_begin;
}

/*
 * Start where the live version did, as far as the log has it.  A beginning that
 * is not known or not there any more stays open until the first batch.
 */
static void
start_as_before(KappaReplayPlan *plan, const KappaPosition *position, int npartitions)
{
	plan->nstarts = Min(position->npartitions, npartitions);
	for (int p = 0; p < plan->nstarts; p++)
	{
		KappaReplayPart *part = &plan->parts[p];
		int64 start = position->start_offset[p];

		if (start >= part->log_begin && start <= part->log_end)
			part->start = start;
		else if (start >= 0 && start < part->log_begin)
			part->missing = part->log_begin - start;
	}
}

static void
start_elsewhere(KappaReplayPlan *plan, const int64 *offsets, int npartitions)
{
	plan->nstarts = Min(npartitions, plan->nparts);
	for (int p = 0; p < plan->nstarts; p++)
		plan->parts[p].start = offsets[p];
}

/* ---- a sample ---- */

/* Start a few partitions in the middle of what will be read; false if there is nothing. */
static bool
start_sampling(const KappaReplayPlan *plan, KafkaTopic *topic)
{
	int started = 0;

	for (int p = 0; p < plan->nparts && started < SAMPLE_PARTS; p++)
	{
		KappaReplayPart *part = &plan->parts[p];
		int64 first = get_first(part);

		if (first >= part->log_end)
			continue;
		kappa_kafka_start(topic, p, first + (part->log_end - first) / 2);
		started++;
	}
	return started > 0;
}

/* The average size of key and value; -1 if no message came in time. */
static double
sample_size(const KappaReplayPlan *plan, KafkaClient *client, KafkaTopic *topic)
{
	KappaMessage *messages = palloc(SAMPLE_MESSAGES * sizeof(KappaMessage));
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), SAMPLE_TIMEOUT_MS);
	int64 bytes = 0;
	int count = 0;

	if (!start_sampling(plan, topic))
		return -1;
	while (count == 0 && GetCurrentTimestamp() < deadline)
	{
		int n = kappa_kafka_fetch(topic, messages, SAMPLE_MESSAGES, SAMPLE_BYTES,
								  SAMPLE_TIMEOUT_MS);

		for (int i = 0; i < n; i++)
		{
			if (messages[i].kind != KAPPA_MESSAGE_DATA)
				continue;
			bytes += kappa_message_bytes(&messages[i]);
			count++;
		}
		kappa_kafka_release(client, messages, n);
	}
	kappa_kafka_stop_all(topic);
	return count == 0 ? -1 : (double) bytes / count;
}

/* ---- how long in time ---- */

/* The timestamp of one message; DT_NOBEGIN if it is not there, or has none. */
static TimestampTz
read_timestamp(KafkaClient *client, KafkaTopic *topic, int partition, int64 offset)
{
	KappaMessage message;
	TimestampTz at = DT_NOBEGIN;

	if (!kappa_kafka_read_one(topic, partition, offset, &message))
		return at;
	if (message.timestamp >= 0)
		at = kappa_start_from_kafka(message.timestamp);
	kappa_kafka_release(client, &message, 1);
	return at;
}

/*
 * Messages that are gone tell nothing.  The view may know when it was to start;
 * else it is supposed that they came as often as those that are left.
 */
static void
measure_missing(KappaReplayPart *part, int p, TimestampTz start_at, KafkaClient *client,
				KafkaTopic *topic)
{
	TimestampTz last_at;

	part->first_at = read_timestamp(client, topic, p, part->log_begin);
	if (part->first_at == DT_NOBEGIN)
		return;
	if (start_at != DT_NOBEGIN)
	{
		if (start_at <= part->first_at)
			part->missing_us = part->first_at - start_at;
		return;
	}
	last_at = read_timestamp(client, topic, p, part->log_end - 1);
	if (last_at <= part->first_at)
		return;
	part->missing_us = (double) (last_at - part->first_at) * part->missing /
					   (part->log_end - 1 - part->log_begin);
	part->estimated = true;
}

static void
measure_all_missing(KappaReplayPlan *plan, const KappaView *view, KafkaClient *client,
					KafkaTopic *topic)
{
	TimestampTz start_at = kappa_history_get_start(view->view, view->version);

	for (int p = 0; p < plan->nparts; p++)
	{
		if (plan->parts[p].missing > 0)
			measure_missing(&plan->parts[p], p, start_at, client, topic);
	}
}

/* ---- in words ---- */

static Interval *
make_duration(int64 us)
{
	Interval *interval = palloc0(sizeof(Interval));

	interval->time = us;
	return DatumGetIntervalP(DirectFunctionCall1(interval_justify_hours,
												 IntervalPGetDatum(interval)));
}

/* To the second, from ten on: more would look as if it were known. */
static char *
describe_duration(int64 us)
{
	if (us >= 10 * USECS_PER_SEC)
		us -= us % USECS_PER_SEC;
	return DatumGetCString(DirectFunctionCall1(interval_out, IntervalPGetDatum(make_duration(us))));
}

static void
append_time(StringInfo buf, const KappaReplayPart *part)
{
	if (part->first_at == DT_NOBEGIN)
		return;
	appendStringInfo(buf, ", up to %s", timestamptz_to_str(part->first_at));
	if (part->missing_us < 0)
		return;
	appendStringInfo(buf, part->estimated ? " (about %s, at the rate of those left)" : " (%s)",
					 describe_duration(part->missing_us));
}

static void
append_line(StringInfo buf, char *line)
{
	appendStringInfo(buf, "%s%s", buf->len > 0 ? "\n" : "", line);
}

static void
describe_part(StringInfo buf, const KappaReplayPart *part, int p, int64 start)
{
	StringInfoData line;

	initStringInfo(&line);
	if (part->missing > 0)
	{
		appendStringInfo(&line, "Partition %d begins at offset " INT64_FORMAT ", the view at offset " INT64_FORMAT ": " INT64_FORMAT " offsets are missing",
						 p, part->log_begin, start, part->missing);
		append_time(&line, part);
		appendStringInfoChar(&line, '.');
	}
	else if (start > part->log_end)
		appendStringInfo(&line, "Partition %d ends at offset " INT64_FORMAT ", the view begins at offset " INT64_FORMAT ".",
						 p, part->log_end, start);
	if (line.len > 0)
		append_line(buf, line.data);
}

/* What the live version has and the new one is not going to have; NULL if nothing. */
static char *
describe_missing(const KappaReplayPlan *plan, const KappaPosition *position, int npartitions)
{
	StringInfoData buf;
	int64 total = 0;
	int nmissing = 0;

	initStringInfo(&buf);
	for (int p = 0; p < Min(position->npartitions, npartitions); p++)
	{
		describe_part(&buf, &plan->parts[p], p, position->start_offset[p]);
		total += plan->parts[p].missing;
		nmissing += plan->parts[p].missing > 0;
	}
	if (position->npartitions > npartitions)
		append_line(&buf, psprintf("The view has read %d partitions, the topic has %d.",
								   position->npartitions, npartitions));
	if (nmissing > 1)
		append_line(&buf, psprintf("In all " INT64_FORMAT " offsets of %d partitions are missing.",
								   total, nmissing));
	return buf.len > 0 ? buf.data : NULL;
}

/* ---- the rate ---- */

/*
 * Of the last rebuild, if it has read anything; else of the live version since
 * the server started or it was resumed: one process at a time, and mostly small
 * batches, so that is slower than a replay.
 */
static void
find_rate(KappaReplayPlan *plan, Oid view)
{
	KappaCatalogScope scope;
	Oid types[] = { OIDOID };
	Datum values[] = { ObjectIdGetDatum(view) };

	kappa_catalog_enter(&scope);
	if (SPI_execute_with_args("SELECT rate, rebuilt FROM ("
							  "SELECT messages_per_second::float8 AS rate, true AS rebuilt"
							  " FROM kappa.rebuilds WHERE view = $1"
							  " UNION ALL SELECT 1000 * messages / nullif(fetch_time + apply_time + commit_time, 0), false"
							  " FROM kappa.stat_views WHERE view = $1) r"
							  " WHERE rate > 0 ORDER BY rebuilt DESC LIMIT 1",
							  1, types, values, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read kappa.rebuilds");
	if (SPI_processed == 1)
	{
		HeapTuple row = SPI_tuptable->vals[0];
		bool isnull;
		bool rebuilt = DatumGetBool(SPI_getbinval(row, SPI_tuptable->tupdesc, 2, &isnull));

		plan->rate = DatumGetFloat8(SPI_getbinval(row, SPI_tuptable->tupdesc, 1, &isnull));
		plan->basis = rebuilt ? "the last rebuild" : "the live view";
	}
	kappa_catalog_leave(&scope);
}

/* ---- the plan ---- */

KappaReplayPlan *
kappa_replay_plan(const KappaView *view, const KappaTable *table, const KappaStart *start)
{
	KappaPosition *position = kappa_catalog_get_position(view->view, view->version);
	KafkaClient *client;
	KafkaTopic *topic;
	KappaReplayPlan *plan;
	int64 *offsets = NULL;
	int noffsets = 0;
	int npartitions;
	double size;

	kappa_options_check_reader(table, view->owner);
	client = kappa_kafka_open(kappa_options_get_connection(table->serverid, view->owner), false);
	topic = kappa_kafka_topic(client, table->topic);

	/* The log grows: whatever its end is asked for after the start lies behind that. */
	if (start != NULL)
		offsets = kappa_start_resolve(start, topic, &noffsets);
	npartitions = kappa_kafka_partition_count(topic, NULL);
	if (start != NULL || strcmp(position->topic, table->topic) != 0)
		position->npartitions = 0; /* another beginning, or another log */
	plan = make_plan(Max(position->npartitions, npartitions));
	read_bounds(plan, topic, npartitions);
	if (start == NULL)
		start_as_before(plan, position, npartitions);
	else
		start_elsewhere(plan, offsets, noffsets);
	for (int p = 0; p < npartitions; p++)
		plan->messages += plan->parts[p].log_end - get_first(&plan->parts[p]);

	measure_all_missing(plan, view, client, topic);
	plan->missing = describe_missing(plan, position, npartitions);
	size = sample_size(plan, client, topic);
	plan->bytes = size < 0 && plan->messages > 0 ? -1 : (int64) (Max(size, 0) * plan->messages);
	find_rate(plan, view->view);
	kappa_kafka_close(client);
	return plan;
}

int
kappa_replay_get_log(const KappaReplayPlan *plan, int64 **begin, int64 **end)
{
	int n = 0;

	*begin = palloc(Max(plan->nparts, 1) * sizeof(int64));
	*end = palloc(Max(plan->nparts, 1) * sizeof(int64));
	for (; n < plan->nparts && plan->parts[n].log_end >= 0; n++)
	{
		(*begin)[n] = plan->parts[n].log_begin;
		(*end)[n] = plan->parts[n].log_end;
	}
	return n;
}

int64 *
kappa_replay_get_starts(const KappaReplayPlan *plan)
{
	int64 *starts = palloc(Max(plan->nstarts, 1) * sizeof(int64));

	for (int p = 0; p < plan->nstarts; p++)
		starts[p] = plan->parts[p].start;
	return starts;
}

static int64
get_duration_us(const KappaReplayPlan *plan)
{
	return plan->messages / plan->rate * USECS_PER_SEC;
}

static char *
describe_size(int64 bytes)
{
	return text_to_cstring(DatumGetTextPP(DirectFunctionCall1(pg_size_pretty,
															  Int64GetDatum(bytes))));
}

void
kappa_replay_announce(const KappaView *view, const KappaReplayPlan *plan)
{
	StringInfoData detail;

	if (plan->messages == 0)
		return;
	initStringInfo(&detail);
	if (plan->bytes >= 0)
		appendStringInfo(&detail, "They are about %s, judged by a sample.  ",
						 describe_size(plan->bytes));
	if (plan->rate > 0)
		appendStringInfo(&detail, "At the rate of %s, %.0f in a second, that takes about %s.",
						 plan->basis, plan->rate, describe_duration(get_duration_us(plan)));
	else
		appendStringInfoString(&detail, "No rate is known yet.");
	ereport(NOTICE,
			(errmsg_plural("view \"%s\" is going to be rebuilt from " INT64_FORMAT " message",
						   "view \"%s\" is going to be rebuilt from " INT64_FORMAT " messages",
						   plan->messages, get_rel_name(view->view), plan->messages),
			 errdetail_internal("%s", detail.data)));
}

/* ---- as a table ---- */

static void
put_offset(Datum *values, bool *nulls, int column, int64 offset)
{
	values[column] = Int64GetDatum(offset);
	nulls[column] = offset < 0;
}

static void
put_part(ReturnSetInfo *rsinfo, const KappaReplayPart *part, int p)
{
	Datum values[11] = { 0 };
	bool nulls[11] = { 0 };
	int64 first = get_first(part);

	values[0] = Int32GetDatum(p);
	put_offset(values, nulls, 1, part->log_begin);
	put_offset(values, nulls, 2, part->log_end);
	put_offset(values, nulls, 3, first);
	put_offset(values, nulls, 4, part->log_end < 0 ? 0 : part->log_end - first);
	values[5] = Int64GetDatum(part->missing);
	nulls[6] = part->missing_us < 0;
	if (!nulls[6])
		values[6] = IntervalPGetDatum(make_duration(part->missing_us));
	memset(nulls + 7, true, 4);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

static void
put_total(ReturnSetInfo *rsinfo, const KappaReplayPlan *plan)
{
	Datum values[11] = { 0 };
	bool nulls[11] = { true, true, true, true };
	int64 missing = 0;
	int64 longest = -1;

	for (int p = 0; p < plan->nparts; p++)
	{
		missing += plan->parts[p].missing;
		longest = Max(longest, plan->parts[p].missing_us);
	}
	values[4] = Int64GetDatum(plan->messages);
	values[5] = Int64GetDatum(missing);
	nulls[6] = longest < 0;
	if (longest >= 0)
		values[6] = IntervalPGetDatum(make_duration(longest));
	put_offset(values, nulls, 7, plan->bytes);
	memset(nulls + 8, plan->rate == 0, 3);
	if (plan->rate > 0)
	{
		values[8] = DirectFunctionCall1(float8_numeric, Float8GetDatum(rint(plan->rate)));
		values[9] = IntervalPGetDatum(make_duration(get_duration_us(plan)));
		values[10] = CStringGetTextDatum(plan->basis);
	}
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/*
 * kappa.rebuild_estimate(view regclass, start text) -> setof (part int,
 * log_start bigint, log_end bigint, start_offset bigint, messages bigint,
 * missing bigint, missing_time interval, bytes bigint, rate numeric,
 * duration interval, basis text)
 */
Datum
kappa_sql_rebuild_estimate(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	KappaStart *start = NULL;
	KappaView *view;
	KappaVersion *version;
	KappaReplayPlan *plan;

	InitMaterializedSRF(fcinfo, 0);
	if (PG_ARGISNULL(0))
		return (Datum) 0;
	if (!PG_ARGISNULL(1))
		start = kappa_start_parse(text_to_cstring(PG_GETARG_TEXT_PP(1)));
	view = kappa_view_require_owned(PG_GETARG_OID(0), AccessShareLock);
	version = kappa_view_lock_live_version(view->view);
	kappa_view_require_definition(version);
	plan = kappa_replay_plan(view, kappa_options_get_table(version->source), start);
	for (int p = 0; p < plan->nparts; p++)
		put_part(rsinfo, &plan->parts[p], p);
	put_total(rsinfo, plan);
	return (Datum) 0;
}
