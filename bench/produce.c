/*-------------------------------------------------------------------------
 *
 * produce.c
 *	  Make and produce the benchmark's events: the same seed, the same events
 *
 * usage: produce BROKERS TOPIC COUNT SEED [options]
 *
 *	--key FIELD		Kafka key: "user_id", "page", "country" or "session" of
 *					the event (default: none, partitions in turn)
 *	--keys N		users to draw from (default 1000000: a million events
 *					have about 632000 different ones)
 *	--in-turn		one user after the other, instead of by chance
 *	--rate N		events per second, evenly spaced (default: all at once)
 *	--partitions N	create the topic first, with N partitions
 *	--print			write the events to standard output instead, one a line
 *
 * An event has about 170 bytes:
 *	{"user_id":806606,"page":"/p/903","country":"US","amount":249.06,
 *	 "ts":"2026-11-01T00:00:00.000Z","session":"e4093df8432a8be5",
 *	 "ua":{"browser":"firefox","v":95,"mobile":false}}
 *
 * Event i depends on the seed and on i only, and goes to partition i modulo the
 * number of partitions, or where Kafka's own hash of the key sends it.  With
 * --rate the field "ts" is the time of day at which the event is produced.
 *
 * IDENTIFICATION
 *	  bench/produce.c
 *
 *-------------------------------------------------------------------------
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <librdkafka/rdkafka.h>

#define TIMEOUT_MS 30000
#define FIRST_EVENT 1793491200 /* 2026-11-01, the time of event 0 */

typedef struct Settings
{
	const char *brokers;
	const char *topic;
	int64_t count;
	uint64_t seed;
	const char *key; /* NULL: no key */
	int64_t keys;
	int in_turn;
	double rate;    /* 0: no limit */
	int partitions; /* 0: the topic is there */
	int print;
} Settings;

/* One event; the text of the fields that can be a key. */
typedef struct Event
{
	char user_id[24];
	char page[16];
	const char *country;
	char session[20];
	char json[256];
	int length;
} Event;

static int64_t failed = 0;

static void
die(const char *what, const char *why)
{
	fprintf(stderr, "produce: %s: %s\n", what, why);
	exit(1);
}

static void
check(const char *what, rd_kafka_resp_err_t err)
{
	if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
		die(what, rd_kafka_err2str(err));
}

/*
 * Generating
 */

/* The splitmix64 generator: good enough bits, and a state of one number. */
static uint64_t
next_random(uint64_t *state)
{
	uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

/* Milliseconds since 1970 as ISO 8601; days are converted once and kept. */
static void
format_time(int64_t ms, char *buf, size_t size)
{
	static time_t day = -1;
	static char date[16];
	time_t seconds = ms / 1000;
	int of_day = seconds % 86400;

	if (seconds / 86400 != day)
	{
		struct tm tm;

		day = seconds / 86400;
		gmtime_r(&seconds, &tm);
		strftime(date, sizeof(date), "%Y-%m-%d", &tm);
	}
	snprintf(buf, size, "%sT%02d:%02d:%02d.%03dZ", date, of_day / 3600,
			 of_day / 60 % 60, of_day % 60, (int) (ms % 1000));
}

static void
make_event(const Settings *settings, int64_t i, int64_t ms, Event *event)
{
	static const char *const countries[] = {
		"US", "DE", "FR", "GB", "IN", "BR", "JP", "CA", "ES", "IT",
		"NL", "PL", "SE", "MX", "AU", "KR", "CN", "TR", "ZA", "AR"
	};
	static const char *const browsers[] = { "firefox", "chrome", "safari", "edge" };
	uint64_t state = settings->seed * UINT64_C(0xd1342543de82ef95) + i;
	uint64_t who = next_random(&state);
	uint64_t what = next_random(&state);
	uint64_t session = next_random(&state);
	char at[40];

	snprintf(event->user_id, sizeof(event->user_id), "%" PRIu64,
			 (settings->in_turn ? (uint64_t) i : who) % settings->keys + 1);
	snprintf(event->page, sizeof(event->page), "/p/%d", (int) (what % 1000));
	event->country = countries[(what >> 10) % 20];
	snprintf(event->session, sizeof(event->session), "%016" PRIx64, session);
	format_time(ms, at, sizeof(at));

	event->length =
		snprintf(event->json, sizeof(event->json),
				 "{\"user_id\":%s,\"page\":\"%s\",\"country\":\"%s\",\"amount\":%d.%02d,"
				 "\"ts\":\"%s\",\"session\":\"%s\","
				 "\"ua\":{\"browser\":\"%s\",\"v\":%d,\"mobile\":%s}}",
				 event->user_id, event->page, event->country,
				 (int) ((what >> 16) % 500), (int) ((what >> 26) % 100),
				 at, event->session,
				 browsers[(what >> 34) % 4], (int) (80 + (what >> 36) % 40),
				 (what >> 42) % 2 ? "true" : "false");
}

static const char *
event_key(const Settings *settings, const Event *event)
{
	if (settings->key == NULL)
		return NULL;
	if (strcmp(settings->key, "user_id") == 0)
		return event->user_id;
	if (strcmp(settings->key, "page") == 0)
		return event->page;
	if (strcmp(settings->key, "country") == 0)
		return event->country;
	return event->session;
}

/*
 * Producing
 */

static void
count_failure(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque)
{
	(void) rk;
	(void) opaque;
	if (message->err != RD_KAFKA_RESP_ERR_NO_ERROR && failed++ == 0)
		fprintf(stderr, "produce: delivery: %s\n", rd_kafka_err2str(message->err));
}

static rd_kafka_t *
create_producer(const Settings *settings)
{
	static const char *const properties[][2] = {
		{ "enable.idempotence", "true" },
		{ "queue.buffering.max.messages", "200000" },
		{ "partitioner", "murmur2_random" },
		{ "log_level", "3" }, /* a young cluster's first hiccups are no news */
	};
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_t *rk;
	char errstr[256];

	if (rd_kafka_conf_set(conf, "bootstrap.servers", settings->brokers,
						  errstr, sizeof(errstr)) != RD_KAFKA_CONF_OK)
		die("bootstrap.servers", errstr);
	for (size_t i = 0; i < sizeof(properties) / sizeof(properties[0]); i++)
	{
		if (rd_kafka_conf_set(conf, properties[i][0], properties[i][1],
							  errstr, sizeof(errstr)) != RD_KAFKA_CONF_OK)
			die(properties[i][0], errstr);
	}

	/* At a given rate latency is what counts, otherwise large batches. */
	if (rd_kafka_conf_set(conf, "linger.ms", settings->rate > 0 ? "0" : "20",
						  errstr, sizeof(errstr)) != RD_KAFKA_CONF_OK)
		die("linger.ms", errstr);
	rd_kafka_conf_set_dr_msg_cb(conf, count_failure);

	rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, errstr, sizeof(errstr));
	if (rk == NULL)
		die("could not create a producer", errstr);
	return rk;
}

static void
create_topic(rd_kafka_t *rk, const Settings *settings)
{
	char errstr[256];
	rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
	rd_kafka_NewTopic_t *topic;
	rd_kafka_event_t *event;
	const rd_kafka_topic_result_t **results;
	size_t n;

	topic = rd_kafka_NewTopic_new(settings->topic, settings->partitions, 1,
								  errstr, sizeof(errstr));
	if (topic == NULL)
		die(settings->topic, errstr);
	rd_kafka_CreateTopics(rk, &topic, 1, NULL, queue);
	event = rd_kafka_queue_poll(queue, TIMEOUT_MS);
	if (event == NULL)
		die(settings->topic, "no answer to the request to create the topic");
	check("could not create the topic", rd_kafka_event_error(event));

	results = rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(event), &n);
	if (n != 1 || rd_kafka_topic_result_error(results[0]) != RD_KAFKA_RESP_ERR_NO_ERROR)
		die("could not create the topic",
			n == 1 ? rd_kafka_topic_result_error_string(results[0]) : "no result");

	rd_kafka_event_destroy(event);
	rd_kafka_NewTopic_destroy(topic);
	rd_kafka_queue_destroy(queue);
}

static int
count_partitions(rd_kafka_t *rk, rd_kafka_topic_t *topic)
{
	const struct rd_kafka_metadata *metadata;
	int n;

	check("metadata", rd_kafka_metadata(rk, 0, topic, &metadata, TIMEOUT_MS));
	check("topic", metadata->topics[0].err);
	n = metadata->topics[0].partition_cnt;
	rd_kafka_metadata_destroy(metadata);
	return n;
}

static int64_t
clock_us(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return now.tv_sec * INT64_C(1000000) + now.tv_nsec / 1000;
}

/* Wait until it is event i's turn, serving delivery reports meanwhile. */
static void
keep_pace(rd_kafka_t *rk, const Settings *settings, int64_t start, int64_t i)
{
	int64_t due = start + (int64_t) (i * 1e6 / settings->rate);
	int64_t wait;

	rd_kafka_poll(rk, 0);
	while ((wait = due - clock_us(CLOCK_MONOTONIC)) > 0)
	{
		struct timespec pause = { wait / 1000000, wait % 1000000 * 1000 };

		nanosleep(&pause, NULL);
	}
}

static void
produce_event(rd_kafka_t *rk, rd_kafka_topic_t *topic, int32_t partition,
			  const char *key, const Event *event)
{
	while (rd_kafka_produce(topic, partition, RD_KAFKA_MSG_F_COPY,
							(void *) event->json, event->length,
							key, key ? strlen(key) : 0, NULL) != 0)
	{
		if (rd_kafka_last_error() != RD_KAFKA_RESP_ERR__QUEUE_FULL)
			check("could not produce", rd_kafka_last_error());
		rd_kafka_poll(rk, 100);
	}
}

static void
produce_all(const Settings *settings)
{
	rd_kafka_t *rk = create_producer(settings);
	rd_kafka_topic_t *topic;
	int64_t start;
	int npartitions;

	if (settings->partitions > 0)
		create_topic(rk, settings);
	topic = rd_kafka_topic_new(rk, settings->topic, NULL);
	npartitions = count_partitions(rk, topic);

	start = clock_us(CLOCK_MONOTONIC);
	for (int64_t i = 0; i < settings->count; i++)
	{
		int64_t ms = FIRST_EVENT * INT64_C(1000) + i * 10;
		const char *key;
		Event event;

		if (settings->rate > 0)
		{
			keep_pace(rk, settings, start, i);
			ms = clock_us(CLOCK_REALTIME) / 1000;
		}
		make_event(settings, i, ms, &event);
		key = event_key(settings, &event);
		produce_event(rk, topic,
					  key ? RD_KAFKA_PARTITION_UA : (int32_t) (i % npartitions),
					  key, &event);
		if (i % 1000 == 0)
			rd_kafka_poll(rk, 0);
	}
	check("flush", rd_kafka_flush(rk, TIMEOUT_MS));
	if (failed > 0)
		die("some events were not delivered", "see above");

	printf("%" PRId64 " events, %d partitions, %.3f seconds\n", settings->count,
		   npartitions, (clock_us(CLOCK_MONOTONIC) - start) / 1e6);
	rd_kafka_topic_destroy(topic);
	rd_kafka_destroy(rk);
}

static void
print_all(const Settings *settings)
{
	for (int64_t i = 0; i < settings->count; i++)
	{
		Event event;

		make_event(settings, i, FIRST_EVENT * INT64_C(1000) + i * 10, &event);
		puts(event.json);
	}
}

static void
check_key(const char *key)
{
	static const char *const names[] = { "user_id", "page", "country", "session" };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
	{
		if (strcmp(key, names[i]) == 0)
			return;
	}
	die("--key", "must be user_id, page, country or session");
}

static Settings
read_arguments(int argc, char **argv)
{
	static const struct option options[] = {
		{ "key", required_argument, NULL, 'k' },
		{ "keys", required_argument, NULL, 'n' },
		{ "in-turn", no_argument, NULL, 't' },
		{ "rate", required_argument, NULL, 'r' },
		{ "partitions", required_argument, NULL, 'p' },
		{ "print", no_argument, NULL, 'o' },
		{ NULL, 0, NULL, 0 },
	};
	Settings settings = { .keys = 1000000 };
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1)
	{
		switch (c)
		{
			case 'k':
				check_key(optarg);
				settings.key = optarg;
				break;
			case 'n':
				settings.keys = atoll(optarg);
				break;
			case 't':
				settings.in_turn = 1;
				break;
			case 'r':
				settings.rate = atof(optarg);
				break;
			case 'p':
				settings.partitions = atoi(optarg);
				break;
			case 'o':
				settings.print = 1;
				break;
			default:
				exit(2);
		}
	}
	if (argc - optind != 4 || settings.keys < 1)
		die("usage", "produce BROKERS TOPIC COUNT SEED [--key FIELD] [--keys N] "
					 "[--in-turn] [--rate N] [--partitions N] [--print]");
	settings.brokers = argv[optind];
	settings.topic = argv[optind + 1];
	settings.count = atoll(argv[optind + 2]);
	settings.seed = strtoull(argv[optind + 3], NULL, 10);

	return settings;
}

int
main(int argc, char **argv)
{
	Settings settings = read_arguments(argc, argv);

	if (settings.print)
		print_all(&settings);
	else
		produce_all(&settings);
	return 0;
}
