/*-------------------------------------------------------------------------
 *
 * latency.c
 *	  How long a message takes from its producer to a row that can be read
 *
 * usage: latency BROKERS TOPIC CONNINFO QUERY RATE COUNT
 *
 * Produces COUNT messages {"seq": N} to a topic, evenly spaced at RATE a
 * second, and meanwhile asks the database by QUERY, a prepared lookup with the
 * parameter $1, whether the oldest message that has not been seen yet is there.
 * The clock of a message starts when it is handed to librdkafka.  Messages are
 * produced when they are due, whether the ones before were seen or not, so a
 * view that hangs cannot hide it.
 *
 * Prints three numbers: median, 99th percentile and maximum in milliseconds,
 * of all messages but the first tenth.
 *
 * IDENTIFICATION
 *	  bench/latency.c
 *
 *-------------------------------------------------------------------------
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <libpq-fe.h>
#include <librdkafka/rdkafka.h>

#define TIMEOUT_MS 10000

static void
die(const char *what, const char *why)
{
	fprintf(stderr, "latency: %s: %s\n", what, why);
	exit(1);
}

static double
clock_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1e3 + now.tv_nsec / 1e6;
}

static rd_kafka_topic_t *
open_topic(const char *brokers, const char *name)
{
	static const char *const properties[][2] = {
		{ "linger.ms", "0" },
		{ "topic.metadata.refresh.interval.ms", "-1" },
		{ "log_level", "3" },
	};
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_topic_t *topic;
	const struct rd_kafka_metadata *metadata;
	rd_kafka_resp_err_t err;
	char errstr[256];
	rd_kafka_t *rk;

	if (rd_kafka_conf_set(conf, "bootstrap.servers", brokers,
						  errstr, sizeof(errstr)) != RD_KAFKA_CONF_OK)
		die("bootstrap.servers", errstr);
	for (size_t i = 0; i < sizeof(properties) / sizeof(properties[0]); i++)
	{
		if (rd_kafka_conf_set(conf, properties[i][0], properties[i][1],
							  errstr, sizeof(errstr)) != RD_KAFKA_CONF_OK)
			die(properties[i][0], errstr);
	}
	rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, errstr, sizeof(errstr));
	if (rk == NULL)
		die("could not create a producer", errstr);

	topic = rd_kafka_topic_new(rk, name, NULL);
	err = rd_kafka_metadata(rk, 0, topic, &metadata, TIMEOUT_MS);
	if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
		die(name, rd_kafka_err2str(err));
	rd_kafka_metadata_destroy(metadata);
	return topic;
}

static PGconn *
open_database(const char *conninfo, const char *query)
{
	PGconn *conn = PQconnectdb(conninfo);
	PGresult *result;

	if (PQstatus(conn) != CONNECTION_OK)
		die("could not connect", PQerrorMessage(conn));
	result = PQprepare(conn, "lookup", query, 1, NULL);
	if (PQresultStatus(result) != PGRES_COMMAND_OK)
		die(query, PQerrorMessage(conn));
	PQclear(result);
	return conn;
}

static void
produce(rd_kafka_topic_t *topic, int seq)
{
	char value[40];
	int len = snprintf(value, sizeof(value), "{\"seq\": %d}", seq);

	if (rd_kafka_produce(topic, RD_KAFKA_PARTITION_UA, RD_KAFKA_MSG_F_COPY,
						 value, len, NULL, 0, NULL) != 0)
		die("could not produce", rd_kafka_err2str(rd_kafka_last_error()));
}

static int
is_visible(PGconn *conn, int seq)
{
	char text[16];
	const char *values[] = { text };
	PGresult *result;
	int found;

	snprintf(text, sizeof(text), "%d", seq);
	result = PQexecPrepared(conn, "lookup", 1, values, NULL, NULL, 0);
	if (PQresultStatus(result) != PGRES_TUPLES_OK)
		die("lookup", PQerrorMessage(conn));
	found = PQntuples(result) > 0;
	PQclear(result);
	return found;
}

static int
compare(const void *a, const void *b)
{
	double x = *(const double *) a;
	double y = *(const double *) b;

	return (x > y) - (x < y);
}

static void
report(double *latencies, int n)
{
	int first = n / 10;
	double *kept = latencies + first;

	n -= first;
	qsort(kept, n, sizeof(double), compare);
	printf("%.2f %.2f %.2f\n", kept[n / 2],
		   kept[(int) (n * 0.99)], kept[n - 1]);
}

int
main(int argc, char **argv)
{
	rd_kafka_topic_t *topic;
	PGconn *conn;
	double *times;
	double start;
	double progress;
	double rate;
	int count;
	int produced = 0;
	int seen = 0;

	if (argc != 7)
		die("usage", "latency BROKERS TOPIC CONNINFO QUERY RATE COUNT");
	topic = open_topic(argv[1], argv[2]);
	conn = open_database(argv[3], argv[4]);
	rate = atof(argv[5]);
	count = atoi(argv[6]);
	times = calloc(count, sizeof(double));

	start = progress = clock_ms();
	while (seen < count)
	{
		if (produced < count && clock_ms() >= start + produced * 1e3 / rate)
		{
			times[produced] = clock_ms();
			produce(topic, produced++);
		}
		if (seen < produced && is_visible(conn, seen))
		{
			progress = clock_ms();
			times[seen] = progress - times[seen];
			seen++;
		}
		else if (seen == produced)
			progress = clock_ms();
		else if (clock_ms() > progress + TIMEOUT_MS)
			die("lookup", "a message did not become visible");
	}
	report(times, count);
	return 0;
}
