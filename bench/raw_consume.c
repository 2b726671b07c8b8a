/*-------------------------------------------------------------------------
 *
 * raw_consume.c
 *	  How fast librdkafka alone reads a topic: the limit for everything else
 *
 * usage: raw_consume BROKERS TOPIC [FIRST STEP]
 *
 * Reads all partitions, or the first and every step'th from there, from their
 * first offset to the end that they had at the start, touches the last byte of
 * each message, and prints one line: messages, bytes of keys and values, and
 * the seconds from the first question to the brokers to the last message.
 * Settings are librdkafka's own, except that its queue may hold the whole
 * topic: with the default limits it would stop for up to a second at a time,
 * which is not the limit we look for.
 *
 * IDENTIFICATION
 *	  bench/raw_consume.c
 *
 *-------------------------------------------------------------------------
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <librdkafka/rdkafka.h>

#define TIMEOUT_MS 10000
#define BATCH 10000 /* messages */

static volatile char last_byte; /* keeps the compiler from skipping the read */

static void
die(const char *what, const char *why)
{
	fprintf(stderr, "raw_consume: %s: %s\n", what, why);
	exit(1);
}

static void
check(const char *what, rd_kafka_resp_err_t err)
{
	if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
		die(what, rd_kafka_err2str(err));
}

static void
set_conf(rd_kafka_conf_t *conf, const char *name, const char *value)
{
	char errstr[256];

	if (rd_kafka_conf_set(conf, name, value, errstr, sizeof(errstr)) != RD_KAFKA_CONF_OK)
		die(name, errstr);
}

static double
clock_seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

static rd_kafka_t *
create_consumer(const char *brokers)
{
	char errstr[256];
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_t *rk;

	set_conf(conf, "bootstrap.servers", brokers);
	set_conf(conf, "enable.auto.commit", "false");
	set_conf(conf, "auto.offset.reset", "error");
	set_conf(conf, "enable.partition.eof", "true");
	set_conf(conf, "queued.min.messages", "10000000");
	set_conf(conf, "queued.max.messages.kbytes", "2097151");

	rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, errstr, sizeof(errstr));
	if (rk == NULL)
		die("could not create a consumer", errstr);
	return rk;
}

/* Start every partition that has messages; returns how many. */
static int
start_partitions(rd_kafka_t *rk, rd_kafka_topic_t *topic,
				 rd_kafka_queue_t *queue, int first, int step, int64_t **ends)
{
	const struct rd_kafka_metadata *metadata;
	int npartitions;
	int nstarted = 0;

	check("metadata", rd_kafka_metadata(rk, 0, topic, &metadata, TIMEOUT_MS));
	check("topic", metadata->topics[0].err);
	npartitions = metadata->topics[0].partition_cnt;
	rd_kafka_metadata_destroy(metadata);

	*ends = calloc(npartitions, sizeof(int64_t));
	for (int p = first; p < npartitions; p += step)
	{
		int64_t begin;

		check("offsets",
			  rd_kafka_query_watermark_offsets(rk, rd_kafka_topic_name(topic), p,
											   &begin, &(*ends)[p], TIMEOUT_MS));
		if (begin == (*ends)[p])
			continue;
		if (rd_kafka_consume_start_queue(topic, p, begin, queue) != 0)
			check("start", rd_kafka_last_error());
		nstarted++;
	}
	return nstarted;
}

/* One message or end of partition; true if it is the last of its partition. */
static int
count_message(const rd_kafka_message_t *message, int64_t *ends,
			  int64_t *messages, int64_t *bytes)
{
	int64_t next = message->offset;

	if (message->err != RD_KAFKA_RESP_ERR__PARTITION_EOF)
	{
		check("message", message->err);
		next++;
		(*messages)++;
		*bytes += message->len + message->key_len;
		if (message->len > 0)
			last_byte = ((const char *) message->payload)[message->len - 1];
	}
	if (next < ends[message->partition])
		return 0;
	ends[message->partition] = INT64_MAX;
	return 1;
}

int
main(int argc, char **argv)
{
	int first = argc > 4 ? atoi(argv[3]) : 0;
	int step = argc > 4 ? atoi(argv[4]) : 1;
	rd_kafka_message_t **arrived;
	rd_kafka_queue_t *queue;
	rd_kafka_topic_t *topic;
	rd_kafka_t *rk;
	int64_t *ends;
	int64_t messages = 0;
	int64_t bytes = 0;
	double start;
	int unfinished;

	if (argc < 3 || first < 0 || step < 1)
		die("usage", "raw_consume BROKERS TOPIC [FIRST STEP]");

	rk = create_consumer(argv[1]);
	topic = rd_kafka_topic_new(rk, argv[2], NULL);
	queue = rd_kafka_queue_new(rk);
	arrived = calloc(BATCH, sizeof(rd_kafka_message_t *));

	start = clock_seconds();
	unfinished = start_partitions(rk, topic, queue, first, step, &ends);
	while (unfinished > 0)
	{
		ssize_t n = rd_kafka_consume_batch_queue(queue, 100, arrived, BATCH);

		for (ssize_t i = 0; i < n; i++)
		{
			unfinished -= count_message(arrived[i], ends, &messages, &bytes);
			rd_kafka_message_destroy(arrived[i]);
		}
	}
	printf("%" PRId64 " messages, %" PRId64 " bytes, %.3f seconds\n",
		   messages, bytes, clock_seconds() - start);

	/* Nothing is left to lose, and tearing down costs more than exiting. */
	return 0;
}
