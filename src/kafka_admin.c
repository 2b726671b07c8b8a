/*-------------------------------------------------------------------------
 *
 * kafka_admin.c
 *	  Questions to the brokers: partitions, ends of the log, single messages
 *
 * librdkafka's calls for this block, and know nothing of interrupts.  So each
 * is made again and again with a short timeout, and between two tries we look
 * at interrupts and at what librdkafka has reported meanwhile: "timed out" is
 * never the real reason.
 *
 * A try that fails is repeated until kappa.connect_timeout is over, except
 * where waiting cannot help (a refused password), or is unlikely to (nobody
 * listens at any of the addresses).
 *
 * IDENTIFICATION
 *	  src/kafka_admin.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka_admin.h"
#include "kafka_error.h"
#include "kafka_private.h"
#include "kappa.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

/*
 * Bounds of the time that one call of librdkafka may take, which is how long a
 * cancel waits, in ms.
 *
 * An answer that comes after its call has given up is lost, so a cluster that
 * is farther away than a call lasts would never be heard.  So the longer there
 * is no answer the longer calls become: as a part of what has passed, so that
 * nobody who has just asked waits for a cancel.  Once there is an answer, the
 * next question's calls may take twice as long as it took.
 */
#define MIN_SLICE 80
#define MAX_SLICE 1000
#define SLICE_OF_ELAPSED 4

/* Pause before a call that failed at once is repeated, in ms. */
#define RETRY_PAUSE 50

/*
 * When no broker can be reached librdkafka says so after the first round.  A
 * name that has several addresses (localhost is often ::1 first) needs more
 * rounds, and a freshly made topic takes a moment to be known to every broker.
 * In ms.
 */
#define GRACE_UNREACHABLE 1000
#define GRACE_UNKNOWN_TOPIC 250

/* One question to the brokers, over all of its tries. */
typedef struct Question
{
	KafkaTopic *topic;
	const char *verb; /* for "could not <verb> topic ..." */
	TimestampTz asked_at;
	TimestampTz tried_at; /* the last try */
	bool latch_was_set;   /* the caller's wake-up, to be given again */
} Question;

static int usual_slice = MIN_SLICE; /* enough for an answer like the last one */

static Question
ask(KafkaTopic *topic, const char *verb)
{
	Question question = {
		.topic = topic,
		.verb = verb,
		.asked_at = GetCurrentTimestamp(),
	};

	return question;
}

static long
elapsed_ms(const Question *question)
{
	return TimestampDifferenceMilliseconds(question->asked_at,
										   GetCurrentTimestamp());
}

static void
finish(const Question *question)
{
	long took = TimestampDifferenceMilliseconds(question->tried_at, GetCurrentTimestamp());

	kappa_kafka_note_success(question->topic->client);
	usual_slice = (int) Max(MIN_SLICE, Min(MAX_SLICE, 2 * took));
	if (question->latch_was_set)
		SetLatch(MyLatch);
}

/* How long a try that begins now may take. */
static int
begin_try(Question *question)
{
	long elapsed = elapsed_ms(question);
	long left = kappa_connect_timeout - elapsed;
	long slice = Max(usual_slice, Min(MAX_SLICE, elapsed / SLICE_OF_ELAPSED));

	question->tried_at = GetCurrentTimestamp();
	return (int) Max(Min(left, slice), 1);
}

/*
 * Throw for a question that got no answer.  partition is -1 if it was about
 * the topic.
 *
 * A client-wide error that is known says more than "timed out".  One of those
 * is always about a connection, whatever its code means for a message.
 */
static void
report_failure(const Question *question, int err, int32 partition)
{
	KafkaTopic *topic = question->topic;
	KafkaClient *client = topic->client;
	const KafkaErrorClass *class = kappa_kafka_error_class(err);
	const char *text = kappa_kafka_error_text(err);

	if (client->error != 0 &&
		(err == client->error || class->sqlstate == ERRCODE_CONNECTION_FAILURE))
	{
		err = client->error;
		text = client->reason;
		if (kappa_kafka_error_class(err)->action == KAFKA_RETRY)
			class = kappa_kafka_error_class(err);
	}

	ereport(ERROR,
			(errcode(class->sqlstate),
			 partition < 0
				 ? errmsg("could not %s topic \"%s\"", question->verb, topic->name)
				 : errmsg("could not %s partition %d of topic \"%s\"",
						  question->verb, partition, topic->name),
			 errdetail("librdkafka reported %s: %s.",
					   kappa_kafka_error_name(err), text),
			 class->hint ? errhint("%s", class->hint) : 0));
}

/* Throw if another try will not help; err is what the last one met. */
static void
check_hopeless(const Question *question, int err)
{
	KafkaClient *client = question->topic->client;
	const KafkaErrorClass *class = kappa_kafka_error_class(err);
	long elapsed = elapsed_ms(question);

	if (class->sqlstate == ERRCODE_INSUFFICIENT_PRIVILEGE)
		report_failure(question, err, -1);
	if (class->action == KAFKA_GIVE_UP && elapsed >= GRACE_UNKNOWN_TOPIC)
		report_failure(question, err, -1);

	if (client->error == RD_KAFKA_RESP_ERR__AUTHENTICATION ||
		client->error == RD_KAFKA_RESP_ERR__SSL)
		report_failure(question, client->error, -1);
	if (client->brokers_down && elapsed >= GRACE_UNREACHABLE)
		report_failure(question, RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN, -1);
}

/*
 * After a try that failed: returns when it is time for the next one, or
 * throws.
 */
static void
prepare_retry(Question *question, int err, int32 partition)
{
	int events;

	kappa_kafka_serve_events(question->topic->client);
	check_hopeless(question, err);
	if (elapsed_ms(question) >= kappa_connect_timeout)
		report_failure(question, err, partition);

	/* A try that timed out has waited; others may have failed at once. */
	events = WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					   err == RD_KAFKA_RESP_ERR__TIMED_OUT ? 0 : RETRY_PAUSE,
					   PG_WAIT_EXTENSION);
	if (events & WL_LATCH_SET)
	{
		ResetLatch(MyLatch);
		question->latch_was_set = true;
	}
	CHECK_FOR_INTERRUPTS();
}

/*
 * Ask once for the topic's metadata.  Fills the number of partitions, and those
 * without a leader.
 */
static int
try_metadata(Question *question, int32 *npartitions, Bitmapset **leaderless)
{
	const struct rd_kafka_metadata *metadata;
	int err;

	err = rd_kafka_metadata(question->topic->client->rk, 0, question->topic->rkt,
							&metadata, begin_try(question));
	if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
		return err;

	if (metadata->topic_cnt == 1)
	{
		const rd_kafka_metadata_topic_t *topic = &metadata->topics[0];

		err = topic->err;
		*npartitions = topic->partition_cnt;
		*leaderless = NULL;
		for (int i = 0; i < topic->partition_cnt; i++)
		{
			if (topic->partitions[i].leader < 0)
				*leaderless = bms_add_member(*leaderless, topic->partitions[i].id);
		}
	}
	else
		err = RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
	rd_kafka_metadata_destroy(metadata);

	if (err == RD_KAFKA_RESP_ERR_NO_ERROR && *npartitions == 0)
		err = RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE;

	return err;
}

int32
kappa_kafka_partition_count(KafkaTopic *topic, Bitmapset **leaderless)
{
	Question question = ask(topic, "get the partitions of");
	Bitmapset *found = NULL;
	int32 npartitions = 0;
	int err;

	while ((err = try_metadata(&question, &npartitions, &found)) != 0)
		prepare_retry(&question, err, -1);
	finish(&question);
	if (leaderless != NULL)
		*leaderless = found;
	return npartitions;
}

/*
 * Ask once for an offset of each of n partitions: the first at a timestamp, or
 * one of librdkafka's logical offsets, of which RD_KAFKA_OFFSET_INVALID asks
 * nothing.  *partition is where it failed, if that is known.
 */
static int
try_offsets(Question *question, int32 n, const int64 *timestamps, int64 *offsets,
			int32 *partition)
{
	KafkaTopic *topic = question->topic;
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(n);
	int err;

	*partition = -1;
	for (int i = 0; i < n; i++)
	{
		offsets[i] = RD_KAFKA_OFFSET_END;
		if (timestamps[i] != RD_KAFKA_OFFSET_INVALID)
			rd_kafka_topic_partition_list_add(list, topic->name, i)->offset = timestamps[i];
	}

	err = rd_kafka_offsets_for_times(topic->client->rk, list, begin_try(question));
	for (int i = 0; i < list->cnt && err == RD_KAFKA_RESP_ERR_NO_ERROR; i++)
	{
		err = list->elems[i].err;
		if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
			*partition = list->elems[i].partition;
		offsets[list->elems[i].partition] = list->elems[i].offset;
	}
	rd_kafka_topic_partition_list_destroy(list);

	/*
	 * Without a leader librdkafka waits for one, or, if the broker is gone that was,
	 * says that it does not know the partition; find out who is meant.
	 */
	if (err == RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION ||
		(err == RD_KAFKA_RESP_ERR__TIMED_OUT && elapsed_ms(question) >= kappa_connect_timeout))
	{
		int32 npartitions;
		Bitmapset *leaderless;

		if (try_metadata(question, &npartitions, &leaderless) != 0)
			return RD_KAFKA_RESP_ERR__TIMED_OUT;
		if (leaderless != NULL)
			*partition = bms_next_member(leaderless, -1);
		if (leaderless != NULL ||
			(err == RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION && npartitions >= n))
			err = RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE;
	}

	return err;
}

static void
ask_offsets(KafkaTopic *topic, int32 n, const int64 *timestamps, int64 *offsets)
{
	Question question = ask(topic, "get offsets of");
	int32 partition;
	int err;

	while ((err = try_offsets(&question, n, timestamps, offsets, &partition)) != 0)
		prepare_retry(&question, err, partition);
	finish(&question);
}

/* Likewise, of the same kind for all partitions. */
static void
get_offsets(KafkaTopic *topic, int32 n, int64 timestamp, int64 *offsets)
{
	int64 *timestamps;

	if (n <= 0)
		return;
	timestamps = palloc(n * sizeof(int64));
	for (int i = 0; i < n; i++)
		timestamps[i] = timestamp;
	ask_offsets(topic, n, timestamps, offsets);
	pfree(timestamps);
}

/*
 * The end is asked for with the consumer's isolation level, so it is the last
 * stable offset.
 */
void
kappa_kafka_watermarks(KafkaTopic *topic, int32 n, int64 *begin, int64 *end)
{
	if (begin != NULL)
		get_offsets(topic, n, RD_KAFKA_OFFSET_BEGINNING, begin);
	if (end != NULL)
		get_offsets(topic, n, RD_KAFKA_OFFSET_END, end);
}

void
kappa_kafka_offsets_for_time(KafkaTopic *topic, int32 n,
							 int64 timestamp, int64 *offsets)
{
	int64 *end = palloc(n * sizeof(int64));

	/*
	 * The ends first: what arrives in between then counts as later than the
	 * timestamp asked for only if its own timestamp says so.  Negative
	 * timestamps would be taken for logical offsets.
	 */
	kappa_kafka_watermarks(topic, n, NULL, end);
	get_offsets(topic, n, Max(timestamp, 0), offsets);

	for (int i = 0; i < n; i++)
	{
		if (offsets[i] < 0 || offsets[i] > end[i])
			offsets[i] = end[i];
	}
	pfree(end);
}

void
kappa_kafka_offsets_for_times(KafkaTopic *topic, int32 n, const int64 *timestamps,
							  int64 *offsets)
{
	int64 *asked = palloc(Max(n, 1) * sizeof(int64));
	int nasked = 0;

	for (int i = 0; i < n; i++)
	{
		asked[i] = timestamps[i] >= 0 ? timestamps[i] : RD_KAFKA_OFFSET_INVALID;
		nasked += timestamps[i] >= 0;
		offsets[i] = -1;
	}
	if (nasked > 0)
		ask_offsets(topic, n, asked, offsets);
	pfree(asked);
}

/*
 * Of what a fetch has brought: is it the message at the offset (1), is there
 * none (0), or is it too early to say (-1)?  Throws for errors that stay.
 */
static int
judge_message(const Question *question, const KappaMessage *message, int64 offset)
{
	switch (message->kind)
	{
		case KAPPA_MESSAGE_DATA:
			if (message->offset < offset)
				return -1;
			return message->offset == offset;

		case KAPPA_MESSAGE_EOF:
			return 0;

		case KAPPA_MESSAGE_ERROR:
			if (kappa_kafka_error_is_out_of_range(message->error))
				return 0;
			check_hopeless(question, message->error);
			return -1;
	}

	return -1;
}

/*
 * Nothing has come for a while: throw if nothing ever will.  librdkafka waits
 * silently for a partition that the topic does not have.
 */
static void
check_partition(Question *question, int32 partition)
{
	int32 npartitions;
	Bitmapset *leaderless;

	if (elapsed_ms(question) >= kappa_connect_timeout)
		report_failure(question, RD_KAFKA_RESP_ERR__TIMED_OUT, partition);

	kappa_kafka_serve_events(question->topic->client);
	check_hopeless(question, RD_KAFKA_RESP_ERR_NO_ERROR);
	if (try_metadata(question, &npartitions, &leaderless) == 0 &&
		partition >= npartitions)
		report_failure(question, RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION, partition);
}

bool
kappa_kafka_read_one(KafkaTopic *topic, int32 partition,
					 int64 offset, KappaMessage *message)
{
	Question question = ask(topic, "read a message of");
	KafkaTopic *probe = kappa_kafka_probe(topic);
	int verdict = -1;

	kappa_kafka_start(probe, partition, offset);
	while (verdict < 0)
	{
		if (kappa_kafka_fetch(probe, message, 1, 1, begin_try(&question)) == 0)
		{
			check_partition(&question, partition);
			continue;
		}
		verdict = judge_message(&question, message, offset);
		if (verdict != 1)
			kappa_kafka_release(topic->client, message, 1);
	}
	kappa_kafka_stop(probe, partition);

	return verdict == 1;
}

/* Does a configuration, as the brokers describe it, ask for compaction? */
static int
judge_configuration(rd_kafka_event_t *event)
{
	const rd_kafka_DescribeConfigs_result_t *result;
	size_t nresources = 0;
	size_t nentries = 0;
	const rd_kafka_ConfigResource_t **resources;
	const rd_kafka_ConfigEntry_t **entries;

	result = rd_kafka_event_DescribeConfigs_result(event);
	resources = rd_kafka_DescribeConfigs_result_resources(result, &nresources);
	if (nresources != 1 ||
		rd_kafka_ConfigResource_error(resources[0]) != RD_KAFKA_RESP_ERR_NO_ERROR)
		return -1;
	entries = rd_kafka_ConfigResource_configs(resources[0], &nentries);
	for (size_t i = 0; i < nentries; i++)
	{
		const char *value = rd_kafka_ConfigEntry_value(entries[i]);

		if (value != NULL &&
			strcmp(rd_kafka_ConfigEntry_name(entries[i]), "cleanup.policy") == 0)
			return strstr(value, "compact") != NULL;
	}
	return -1;
}

/* Ask once; true if there was an answer, be it that there is none to be had. */
static bool
try_is_compacted(Question *question, int *compacted)
{
	KafkaTopic *topic = question->topic;
	rd_kafka_t *rk = topic->client->rk;
	rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
	rd_kafka_ConfigResource_t *resource = rd_kafka_ConfigResource_new(RD_KAFKA_RESOURCE_TOPIC,
																	  topic->name);
	rd_kafka_event_t *event;
	bool answered;

	rd_kafka_DescribeConfigs(rk, &resource, 1, NULL, queue);
	event = rd_kafka_queue_poll(queue, begin_try(question));
	answered = event != NULL;
	if (answered && rd_kafka_event_error(event) == RD_KAFKA_RESP_ERR_NO_ERROR)
		*compacted = judge_configuration(event);
	if (event != NULL)
		rd_kafka_event_destroy(event);
	rd_kafka_ConfigResource_destroy(resource);
	rd_kafka_queue_destroy(queue);
	return answered;
}

int
kappa_kafka_is_compacted(KafkaTopic *topic)
{
	Question question = ask(topic, "get the configuration of");
	int compacted = -1;

	while (!try_is_compacted(&question, &compacted))
		prepare_retry(&question, RD_KAFKA_RESP_ERR__TIMED_OUT, -1);
	finish(&question);
	return compacted;
}
