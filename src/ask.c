/*-------------------------------------------------------------------------
 *
 * ask.c
 *	  Questions to the brokers about a source, while it is read
 *
 * Whatever any broker can answer is asked to find out if there is one.  Offsets
 * are known to the leaders of partitions alone: where one of them does not answer,
 * but others do, it is gone, and the cluster will elect another one, or say that
 * there is none to be had.  Meanwhile all other partitions are read.
 *
 * IDENTIFICATION
 *	  src/ask.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "anchor.h"
#include "ask.h"
#include "kafka_admin.h"
#include "kappa.h"

/* How long one question to the brokers may keep the worker: alone, and with others. */
#define ASK_TIMEOUT_MS 3000
#define BUSY_ASK_TIMEOUT_MS 1000

/* Between two looks at a topic of which a partition has no leader. */
#define LEADER_INTERVAL_MS 1000

/* A broker that is gone may be leader for so long: Kafka's broker.session.timeout.ms, and some. */
#define ELECTION_MS 12000

/* Between two questions for the end offsets when there was no answer. */
#define FAILED_ENDS_INTERVAL_MS 5000

/* Whether sources would have to wait for the answer to another one's question. */
static bool
others_are_started(KappaSource *source)
{
	ListCell *lc;

	foreach(lc, kappa_sources)
		if (lfirst(lc) != source && ((KappaSource *) lfirst(lc))->started)
			return true;
	return false;
}

ErrorData *
kappa_ask_attempt(void (*step)(void *arg), KappaSource *source)
{
	int saved = kappa_connect_timeout;
	int patience = others_are_started(source) ? BUSY_ASK_TIMEOUT_MS : ASK_TIMEOUT_MS;
	ErrorData *error;

	kappa_connect_timeout = Min(saved, patience);
	error = kappa_worker_attempt(step, source);
	kappa_connect_timeout = saved;
	return error;
}

/* Whether a question would have to wait for a fetch. */
static bool
is_fetching(KappaConnection *connection)
{
	ListCell *lc;

	foreach(lc, kappa_sources)
		if (((KappaSource *) lfirst(lc))->connection == connection &&
			((KappaSource *) lfirst(lc))->started)
			return true;
	return false;
}

KafkaTopic *
kappa_ask_topic(KappaSource *source)
{
	if (!is_fetching(source->connection))
		return source->topic;
	return kappa_kafka_topic(kappa_connection_get_asker(source->connection), source->name);
}

static void
ask_ends_step(void *arg)
{
	KappaSource *source = arg;

	kappa_kafka_watermarks(kappa_ask_topic(source), source->npartitions, NULL, source->end);
}

/* Whoever waits for the end of the log means that of new partitions, too. */
static void
ask_all_ends_step(void *arg)
{
	KappaSource *source = arg;
	KafkaTopic *topic = kappa_ask_topic(source);

	if (kappa_kafka_partition_count(topic, NULL) != source->npartitions)
		source->stale = true;
	else
		kappa_kafka_watermarks(topic, source->npartitions, NULL, source->end);
}

/* ---- leaders ---- */

void
kappa_ask_note_leaderless(KappaSource *source, const Bitmapset *leaderless)
{
	MemoryContext old;

	/* A leader that comes back may lack what there was before. */
	kappa_source_note_moved(source, bms_difference(source->leaderless, leaderless));
	old = MemoryContextSwitchTo(source->context);
	bms_free(source->leaderless);
	source->leaderless = bms_copy(leaderless);
	MemoryContextSwitchTo(old);
}

/* Any broker can answer that. */
static void
ask_partitions_step(void *arg)
{
	KappaSource *source = arg;
	Bitmapset *leaderless;

	if (kappa_kafka_partition_count(kappa_ask_topic(source), &leaderless) != source->npartitions)
		source->stale = true;
	else
		kappa_ask_note_leaderless(source, leaderless);
}

ErrorData
kappa_ask_describe_leaderless(KappaSource *source, const char *detail)
{
	ErrorData error = {
		.sqlerrcode = ERRCODE_CONNECTION_FAILURE,
		.message = psprintf("partition %d of topic \"%s\" has no leader",
							bms_next_member(source->leaderless, -1), source->name),
		.detail = pstrdup(detail),
		.hint = pstrdup("See which brokers of the cluster are gone."),
	};

	return error;
}

/* Views are shown as retrying, but all that can be read is read. */
static void
note_headless(KappaSource *source, const ErrorData *error)
{
	ListCell *lc;

	if (source->headless)
		return;
	source->headless = true;
	source->suspended = true;
	foreach(lc, source->views)
		kappa_worker_suspend_view(lfirst(lc), error, source->metadata_at);
}

static void
note_all_leaders(KappaSource *source)
{
	if (!source->headless || !bms_is_empty(source->leaderless) || source->unanswered_since != 0)
		return;
	source->headless = false;
	kappa_source_note_success(source);
}

/* Do not wait for so long until leaders are looked at again. */
static void
look_soon(KappaSource *source)
{
	TimestampTz soon = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LEADER_INTERVAL_MS);

	source->metadata_at = kappa_earlier(source->metadata_at, soon);
}

/*
 * A partition without a leader is no reason to stop the others.  Elections take
 * a moment, so it is told only if it is there at two looks.
 */
static void
judge_leaders(KappaSource *source, const Bitmapset *before)
{
	if (!bms_is_empty(source->leaderless))
		look_soon(source);
	if (bms_overlap(before, source->leaderless))
	{
		ErrorData error = kappa_ask_describe_leaderless(source, "The other partitions are read.");

		note_headless(source, &error);
	}
	note_all_leaders(source);
}

/*
 * A question that only leaders can answer has failed, though others answer: one
 * that is gone, or out of reach, and until an election there is no other.
 */
static void
judge_silent_leader(KappaSource *source, const ErrorData *error)
{
	if (source->unanswered_since == 0)
		source->unanswered_since = source->failing_since;
	if (TimestampDifferenceExceeds(source->unanswered_since, GetCurrentTimestamp(), ELECTION_MS))
		note_headless(source, error);
}

/*
 * A question beside the fetch has failed.  Busy brokers that answer late are no
 * trouble as long as the client has no error to tell, unless it goes on: then
 * nobody knows how far the views are behind, or whether it is still the same topic.
 */
static void
judge_failed_question(KappaSource *source, ErrorData *error)
{
	TimestampTz now = GetCurrentTimestamp();
	ErrorData *other;

	if (!source->ask_failed)
		source->ends_at = TimestampTzPlusMilliseconds(now, FAILED_ENDS_INTERVAL_MS);
	source->ask_failed = true;
	if (ERRCODE_TO_CATEGORY(error->sqlerrcode) != ERRCODE_CONNECTION_EXCEPTION)
	{
		kappa_source_note_trouble(source, error, true);
		return;
	}
	ereport(DEBUG1,
			(errmsg_internal("%s", error->message),
			 errdetail_internal("%s", error->detail ? error->detail : "")));
	if (source->failing_since == 0)
		source->failing_since = now;
	if (source->unanswered_since == 0 && !kappa_connection_is_down(source->connection) &&
		!TimestampDifferenceExceeds(source->failing_since, now, ELECTION_MS))
		return;
	other = kappa_ask_attempt(ask_partitions_step, source);
	if (other == NULL)
		judge_silent_leader(source, error);
	else
		kappa_source_note_broker_trouble(source, other);
}

/* ---- the ends of the log ---- */

static bool
ask_ends(KappaSource *source, void (*step)(void *arg))
{
	ErrorData *error;

	if (!source->started)
		return false;
	error = kappa_ask_attempt(step, source);
	source->ask_failed = false;
	if (error != NULL)
	{
		look_soon(source);
		judge_failed_question(source, error);
		return false;
	}
	source->ends_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), KAPPA_ENDS_INTERVAL_MS);
	source->failing_since = 0;
	if (source->unanswered_since == 0)
		return true;
	source->unanswered_since = 0;
	kappa_source_note_moved(source, bms_add_range(NULL, 0, source->npartitions - 1));
	note_all_leaders(source);
	return true;
}

bool
kappa_ask_ends(KappaSource *source)
{
	return ask_ends(source, ask_ends_step);
}

bool
kappa_ask_all_ends(KappaSource *source)
{
	if (source->ask_failed && GetCurrentTimestamp() < source->ends_at)
		return false;
	return ask_ends(source, ask_all_ends_step) && !source->stale;
}

/*
 * librdkafka speaks of single connections that it has lost as of all brokers
 * being down.  So after a time of grace the brokers are asked something: only
 * if they do not answer there is trouble.
 */
void
kappa_ask_check_connections(TimestampTz now)
{
	ListCell *lc;

	foreach(lc, kappa_connections)
		kappa_connection_serve(lfirst(lc), now);

	foreach(lc, kappa_sources)
	{
		KappaSource *source = lfirst(lc);

		if (!source->started || !kappa_connection_is_suspect(source->connection, now))
			continue;
		source->connection->down_since = 0;
		(void) kappa_ask_ends(source);
	}
}

/* ---- the topic ---- */

static void
ask_for_anchors_step(void *arg)
{
	KappaSource *source = arg;

	kappa_anchor_check(source, kappa_ask_topic(source));
}

void
kappa_ask_about_topic(KappaSource *source, TimestampTz now)
{
	Bitmapset *before = bms_copy(source->leaderless);
	ErrorData *error;

	source->metadata_at = TimestampTzPlusMilliseconds(now, kappa_metadata_interval);
	error = kappa_ask_attempt(ask_partitions_step, source);
	if (error == NULL && !source->stale)
		judge_leaders(source, before);
	if (error == NULL && !source->stale && bms_is_empty(source->leaderless))
		error = kappa_ask_attempt(ask_for_anchors_step, source);
	if (error != NULL)
		judge_failed_question(source, error);
}

void
kappa_ask_hasten_metadata(void)
{
	TimestampTz latest = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													 kappa_metadata_interval);
	ListCell *lc;

	foreach(lc, kappa_sources)
	{
		KappaSource *source = lfirst(lc);

		source->metadata_at = Min(source->metadata_at, latest);
	}
}
