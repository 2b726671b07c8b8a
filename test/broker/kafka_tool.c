/*-------------------------------------------------------------------------
 *
 * kafka_tool.c
 *	  What the tests do to a Kafka cluster, from the command line
 *
 *	  kafka_tool [-b BROKERS] COMMAND ...
 *
 *	  ready                            wait until the cluster answers
 *	  create-topic TOPIC [-p N] [-R NODES]... [-c NAME=VALUE]...
 *	  delete-topic TOPIC
 *	  add-partitions TOPIC TOTAL
 *	  delete-records TOPIC PARTITION BEFORE
 *	  produce TOPIC [-t TRANSACTIONAL_ID] [-r MESSAGES_PER_SECOND] [-z CODEC]
 *	  consume TOPIC [-u]               messages as COPY reads them, partitions mixed
 *	  count TOPIC [-u]                 messages that a reader gets
 *	  offsets TOPIC [-u]               partition, first and end offset
 *	  replicas TOPIC                   partition, leader (-1: none), replicas in sync
 *
 * Without -b the brokers are those of KAPPA_TEST_BROKERS.  -u reads also what
 * is not committed.  -R, once for each partition, names the nodes that shall have
 * it ("1,2,3"); otherwise there is one for each, which Kafka chooses.  A command that changes a topic returns when the cluster
 * shows the change.
 *
 * "produce" reads one message per line of standard input, tab-separated:
 *
 *	  PARTITION KEY VALUE [TIMESTAMP_MS [HEADER=VALUE]...]
 *
 * with "-" for the partition that Kafka chooses, \N for no key and for a
 * tombstone, an empty field for no timestamp, and \t \n \r \\ \xHH in texts.
 * The lines !begin, !commit, !abort and !flush act on the transaction and on
 * what is under way; each is answered by a line "ok".
 *
 * IDENTIFICATION
 *	  test/broker/kafka_tool.c
 *
 *-------------------------------------------------------------------------
 */
#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <librdkafka/rdkafka.h>

#define TIMEOUT_MS 30000

/* For a broker that is being started, on a busy machine. */
#define START_TIMEOUT_MS 120000
#define MAX_CONFIGS 32
#define MAX_HEADERS 32

typedef struct Options
{
	const char *brokers;
	const char *topic;
	const char *transactional_id; /* NULL: no transactions */
	const char *codec;
	const char *configs[MAX_CONFIGS];
	int nconfigs;
	const char *nodes[MAX_CONFIGS]; /* by partition */
	int nnodes;
	int partitions;
	double rate; /* messages per second; 0: as fast as it goes */
	bool uncommitted;
	char **args; /* what follows the topic */
	int nargs;
} Options;

/* The offsets of one partition; end is the first that cannot be read yet. */
typedef struct Range
{
	int64_t low;
	int64_t end;
	bool done;
} Range;

static int failed_deliveries = 0;

static void
fail(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fprintf(stderr, "kafka_tool: ");
	vfprintf(stderr, format, args);
	fprintf(stderr, "\n");
	va_end(args);
	exit(1);
}

static double
now_seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

static void
sleep_seconds(double seconds)
{
	struct timespec pause;

	if (seconds <= 0)
		return;
	pause.tv_sec = (time_t) seconds;
	pause.tv_nsec = (long) ((seconds - pause.tv_sec) * 1e9);
	nanosleep(&pause, NULL);
}

static void
set_conf(rd_kafka_conf_t *conf, const char *name, const char *value)
{
	char message[512];

	if (rd_kafka_conf_set(conf, name, value, message, sizeof(message)) !=
		RD_KAFKA_CONF_OK)
		fail("%s", message);
}

static rd_kafka_t *
make_handle(rd_kafka_type_t type, rd_kafka_conf_t *conf)
{
	char message[512];
	rd_kafka_t *handle = rd_kafka_new(type, conf, message, sizeof(message));

	if (handle == NULL)
		fail("%s", message);
	return handle;
}

static rd_kafka_t *
open_consumer(const Options *options)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();

	set_conf(conf, "bootstrap.servers", options->brokers);
	set_conf(conf, "group.id", "kafka_tool");
	set_conf(conf, "enable.auto.commit", "false");
	set_conf(conf, "enable.partition.eof", "true");
	set_conf(conf, "auto.offset.reset", "error");
	set_conf(conf, "isolation.level",
			 options->uncommitted ? "read_uncommitted" : "read_committed");
	set_conf(conf, "log_level", "3");
	return make_handle(RD_KAFKA_CONSUMER, conf);
}

/*
 * Number of partitions of a topic; 0 if it does not exist, -1 if the cluster
 * does not answer.
 */
static int
count_partitions(rd_kafka_t *handle, const char *name)
{
	rd_kafka_topic_t *topic = rd_kafka_topic_new(handle, name, NULL);
	const struct rd_kafka_metadata *metadata;
	int result = -1;

	if (rd_kafka_metadata(handle, 0, topic, &metadata, 1000) ==
		RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		const rd_kafka_metadata_topic_t *found = &metadata->topics[0];
		int leaders = 0;

		for (int i = 0; i < found->partition_cnt; i++)
			leaders += (found->partitions[i].leader >= 0);
		if (found->err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART)
			result = 0;
		else if (leaders == found->partition_cnt)
			result = found->partition_cnt;
		rd_kafka_metadata_destroy(metadata);
	}
	rd_kafka_topic_destroy(topic);
	return result;
}

/* Wait until the cluster shows the topic with that many partitions. */
static void
wait_for_partitions(rd_kafka_t *handle, const char *name, int expected)
{
	double deadline = now_seconds() + TIMEOUT_MS / 1e3;

	while (count_partitions(handle, name) != expected)
	{
		if (now_seconds() > deadline)
			fail("topic \"%s\" did not get %d partitions", name, expected);
		sleep_seconds(0.01);
	}
}

static void
check_topic_results(const rd_kafka_topic_result_t **results, size_t n)
{
	for (size_t i = 0; i < n; i++)
	{
		const char *reason = rd_kafka_topic_result_error_string(results[i]);

		if (rd_kafka_topic_result_error(results[i]))
			fail("topic \"%s\": %s", rd_kafka_topic_result_name(results[i]),
				 reason ? reason : "failed");
	}
}

static void
check_deleted_records(const rd_kafka_DeleteRecords_result_t *result)
{
	const rd_kafka_topic_partition_list_t *list =
		rd_kafka_DeleteRecords_result_offsets(result);

	for (int i = 0; i < list->cnt; i++)
		if (list->elems[i].err)
			fail("partition %d: %s", list->elems[i].partition,
				 rd_kafka_err2str(list->elems[i].err));
}

/* Wait for the answer to an admin request on the queue, and check it. */
static void
finish_admin(rd_kafka_queue_t *queue)
{
	rd_kafka_event_t *event = rd_kafka_queue_poll(queue, TIMEOUT_MS);
	const rd_kafka_topic_result_t **results;
	size_t n;

	if (event == NULL)
		fail("no answer from the cluster");
	if (rd_kafka_event_error(event))
		fail("%s", rd_kafka_event_error_string(event));
	switch (rd_kafka_event_type(event))
	{
		case RD_KAFKA_EVENT_CREATETOPICS_RESULT:
			results = rd_kafka_CreateTopics_result_topics(
				rd_kafka_event_CreateTopics_result(event), &n);
			check_topic_results(results, n);
			break;
		case RD_KAFKA_EVENT_DELETETOPICS_RESULT:
			results = rd_kafka_DeleteTopics_result_topics(
				rd_kafka_event_DeleteTopics_result(event), &n);
			check_topic_results(results, n);
			break;
		case RD_KAFKA_EVENT_CREATEPARTITIONS_RESULT:
			results = rd_kafka_CreatePartitions_result_topics(
				rd_kafka_event_CreatePartitions_result(event), &n);
			check_topic_results(results, n);
			break;
		case RD_KAFKA_EVENT_DELETERECORDS_RESULT:
			check_deleted_records(rd_kafka_event_DeleteRecords_result(event));
			break;
		default:
			fail("unexpected answer: %s", rd_kafka_event_name(event));
	}
	rd_kafka_event_destroy(event);
	rd_kafka_queue_destroy(queue);
}

static int
run_ready(const Options *options)
{
	rd_kafka_t *handle = open_consumer(options);
	const struct rd_kafka_metadata *metadata;
	double deadline = now_seconds() + START_TIMEOUT_MS / 1e3;

	while (rd_kafka_metadata(handle, 0, NULL, &metadata, 500) !=
		   RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		if (now_seconds() > deadline)
			fail("no broker at %s", options->brokers);
		sleep_seconds(0.05);
	}
	rd_kafka_metadata_destroy(metadata);
	rd_kafka_destroy(handle);
	return 0;
}

/* Say which nodes shall have a partition: "1,2,3". */
static void
assign_replicas(rd_kafka_NewTopic_t *topic, int partition, const char *nodes)
{
	int32_t numbers[MAX_CONFIGS];
	size_t n = 0;
	char message[512];

	for (const char *next = nodes; next != NULL && n < MAX_CONFIGS; n++)
	{
		numbers[n] = atoi(next);
		next = strchr(next, ',');
		next = next ? next + 1 : NULL;
	}
	if (rd_kafka_NewTopic_set_replica_assignment(topic, partition, numbers, n,
												 message, sizeof(message)))
		fail("%s", message);
}

static int
run_create_topic(const Options *options)
{
	rd_kafka_t *handle = open_consumer(options);
	rd_kafka_queue_t *queue = rd_kafka_queue_new(handle);
	char message[512];
	int partitions = options->nnodes ? options->nnodes : options->partitions;
	rd_kafka_NewTopic_t *topic =
		rd_kafka_NewTopic_new(options->topic, partitions,
							  options->nnodes ? -1 : 1, message, sizeof(message));

	if (topic == NULL)
		fail("%s", message);
	for (int i = 0; i < options->nnodes; i++)
		assign_replicas(topic, i, options->nodes[i]);
	for (int i = 0; i < options->nconfigs; i++)
	{
		char *name = strdup(options->configs[i]);
		char *value = strchr(name, '=');

		if (value == NULL)
			fail("not NAME=VALUE: \"%s\"", name);
		*value++ = '\0';
		rd_kafka_NewTopic_set_config(topic, name, value);
		free(name);
	}
	rd_kafka_CreateTopics(handle, &topic, 1, NULL, queue);
	finish_admin(queue);
	rd_kafka_NewTopic_destroy(topic);
	wait_for_partitions(handle, options->topic, partitions);
	rd_kafka_destroy(handle);
	return 0;
}

static int
run_delete_topic(const Options *options)
{
	rd_kafka_t *handle = open_consumer(options);
	rd_kafka_queue_t *queue = rd_kafka_queue_new(handle);
	rd_kafka_DeleteTopic_t *topic = rd_kafka_DeleteTopic_new(options->topic);

	rd_kafka_DeleteTopics(handle, &topic, 1, NULL, queue);
	finish_admin(queue);
	rd_kafka_DeleteTopic_destroy(topic);
	wait_for_partitions(handle, options->topic, 0);
	rd_kafka_destroy(handle);
	return 0;
}

static int
run_add_partitions(const Options *options)
{
	rd_kafka_t *handle = open_consumer(options);
	rd_kafka_queue_t *queue = rd_kafka_queue_new(handle);
	char message[512];
	rd_kafka_NewPartitions_t *partitions;
	int total;

	if (options->nargs != 1)
		fail("add-partitions needs the new total");
	total = atoi(options->args[0]);
	partitions = rd_kafka_NewPartitions_new(options->topic, total, message,
											sizeof(message));
	if (partitions == NULL)
		fail("%s", message);
	rd_kafka_CreatePartitions(handle, &partitions, 1, NULL, queue);
	finish_admin(queue);
	rd_kafka_NewPartitions_destroy(partitions);
	wait_for_partitions(handle, options->topic, total);
	rd_kafka_destroy(handle);
	return 0;
}

static int
run_delete_records(const Options *options)
{
	rd_kafka_t *handle = open_consumer(options);
	rd_kafka_queue_t *queue = rd_kafka_queue_new(handle);
	rd_kafka_topic_partition_list_t *list =
		rd_kafka_topic_partition_list_new(1);
	rd_kafka_DeleteRecords_t *request;

	if (options->nargs != 2)
		fail("delete-records needs a partition and an offset");
	rd_kafka_topic_partition_list_add(list, options->topic,
									  atoi(options->args[0]))
		->offset = atoll(options->args[1]);
	request = rd_kafka_DeleteRecords_new(list);
	rd_kafka_topic_partition_list_destroy(list);
	rd_kafka_DeleteRecords(handle, &request, 1, NULL, queue);
	finish_admin(queue);
	rd_kafka_DeleteRecords_destroy(request);
	rd_kafka_destroy(handle);
	return 0;
}

/* Undo the escapes of a field, in place.  Returns it, or NULL for \N. */
static char *
unescape_field(char *field, size_t *len)
{
	char *out = field;

	*len = 0;
	if (strcmp(field, "\\N") == 0)
		return NULL;
	for (char *in = field; *in != '\0'; in++)
	{
		unsigned byte;

		if (*in != '\\')
		{
			*out++ = *in;
			continue;
		}
		switch (*++in)
		{
			case 't':
				*out++ = '\t';
				break;
			case 'n':
				*out++ = '\n';
				break;
			case 'r':
				*out++ = '\r';
				break;
			case '\\':
				*out++ = '\\';
				break;
			case 'x':
				if (sscanf(in + 1, "%2x", &byte) != 1 || !isxdigit(in[2]))
					fail("\\x needs two digits");
				*out++ = (char) byte;
				in += 2;
				break;
			default:
				fail("unknown escape \"\\%c\"", *in);
		}
	}
	*out = '\0';
	*len = out - field;
	return field;
}

static void
note_delivery(rd_kafka_t *handle, const rd_kafka_message_t *message,
			  void *opaque)
{
	/* What an abort purges was not meant to arrive. */
	if (message->err == RD_KAFKA_RESP_ERR_NO_ERROR ||
		message->err == RD_KAFKA_RESP_ERR__PURGE_QUEUE ||
		message->err == RD_KAFKA_RESP_ERR__PURGE_INFLIGHT)
		return;
	if (failed_deliveries++ == 0)
		fprintf(stderr, "kafka_tool: %s\n", rd_kafka_err2str(message->err));
}

static rd_kafka_t *
open_producer(const Options *options)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();

	set_conf(conf, "bootstrap.servers", options->brokers);
	set_conf(conf, "linger.ms", options->rate > 0 ? "0" : "5");

	/* What is sent again, after a broker was killed, must not be there twice. */
	set_conf(conf, "enable.idempotence", "true");
	set_conf(conf, "message.max.bytes", "20971520");
	set_conf(conf, "queue.buffering.max.kbytes", "131072");
	set_conf(conf, "compression.codec", options->codec);
	set_conf(conf, "log_level", "3");

	/*
	 * Not the murmur2 of Java's clients, but any fixed rule does for tests:
	 * one key, one partition.
	 */
	set_conf(conf, "partitioner", "consistent_random");
	if (options->transactional_id)
		set_conf(conf, "transactional.id", options->transactional_id);
	rd_kafka_conf_set_dr_msg_cb(conf, note_delivery);
	return make_handle(RD_KAFKA_PRODUCER, conf);
}

static void
check_error(rd_kafka_error_t *error)
{
	if (error)
		fail("%s", rd_kafka_error_string(error));
}

static void
run_transaction_command(rd_kafka_t *producer, const char *command)
{
	if (strcmp(command, "!begin") == 0)
		check_error(rd_kafka_begin_transaction(producer));
	else if (strcmp(command, "!commit") == 0)
		check_error(rd_kafka_commit_transaction(producer, TIMEOUT_MS));
	else if (strcmp(command, "!abort") == 0)
	{
		/* An abort purges; the tests want the aborted messages in the log. */
		rd_kafka_flush(producer, TIMEOUT_MS);
		check_error(rd_kafka_abort_transaction(producer, TIMEOUT_MS));
	}
	else if (strcmp(command, "!flush") == 0)
		rd_kafka_flush(producer, TIMEOUT_MS);
	else
		fail("unknown command \"%s\"", command);
	printf("ok\n");
	fflush(stdout);
}

/* Add the rest of a line, fields HEADER=VALUE, to the message's headers. */
static rd_kafka_headers_t *
parse_headers(char *rest)
{
	rd_kafka_headers_t *headers = NULL;
	char *field;

	while ((field = strsep(&rest, "\t")) != NULL)
	{
		char *value = strchr(field, '=');
		size_t len;

		if (value == NULL)
			fail("not HEADER=VALUE: \"%s\"", field);
		*value++ = '\0';
		value = unescape_field(value, &len);
		if (headers == NULL)
			headers = rd_kafka_headers_new(MAX_HEADERS);
		rd_kafka_header_add(headers, field, -1, value, len);
	}
	return headers;
}

/* Send the message of one line of input, which is overwritten. */
static void
produce_line(rd_kafka_t *producer, const char *topic, char *line)
{
	char *rest = line;
	char *partition = strsep(&rest, "\t");
	char *key = strsep(&rest, "\t");
	char *value = strsep(&rest, "\t");
	char *timestamp = strsep(&rest, "\t");
	rd_kafka_headers_t *headers = parse_headers(rest);
	int32_t number = RD_KAFKA_PARTITION_UA;
	int64_t when = 0;
	size_t key_len;
	size_t value_len;
	rd_kafka_resp_err_t err;

	if (value == NULL)
		fail("a line needs partition, key and value");
	if (strcmp(partition, "-") != 0)
		number = atoi(partition);
	if (timestamp && *timestamp)
		when = atoll(timestamp);
	key = unescape_field(key, &key_len);
	value = unescape_field(value, &value_len);
	for (;;)
	{
		rd_kafka_headers_t *copy =
			headers ? rd_kafka_headers_copy(headers) : NULL;

		err = rd_kafka_producev(
			producer, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_PARTITION(number),
			RD_KAFKA_V_KEY(key, key_len), RD_KAFKA_V_VALUE(value, value_len),
			RD_KAFKA_V_TIMESTAMP(when), RD_KAFKA_V_HEADERS(copy),
			RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END);
		if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
			break;
		if (copy)
			rd_kafka_headers_destroy(copy);
		if (err != RD_KAFKA_RESP_ERR__QUEUE_FULL)
			fail("%s", rd_kafka_err2str(err));
		rd_kafka_poll(producer, 100);
	}
	if (headers)
		rd_kafka_headers_destroy(headers);
	rd_kafka_poll(producer, 0);
}

static int
run_produce(const Options *options)
{
	rd_kafka_t *producer = open_producer(options);
	double started = now_seconds();
	char *line = NULL;
	size_t size = 0;
	ssize_t len;
	int64_t sent = 0;

	if (options->transactional_id)
		check_error(rd_kafka_init_transactions(producer, TIMEOUT_MS));
	while ((len = getline(&line, &size, stdin)) > 0)
	{
		if (line[len - 1] == '\n')
			line[--len] = '\0';
		if (line[0] == '!')
			run_transaction_command(producer, line);
		else if (len > 0)
		{
			produce_line(producer, options->topic, line);
			sent++;
		}
		if (options->rate > 0)
			sleep_seconds(started + sent / options->rate - now_seconds());
	}
	free(line);
	rd_kafka_flush(producer, START_TIMEOUT_MS);
	if (rd_kafka_outq_len(producer) > 0)
		fail("%d messages were not delivered", rd_kafka_outq_len(producer));
	rd_kafka_destroy(producer);
	return failed_deliveries > 0;
}

/* The offsets of all partitions of the topic, in an array to be freed. */
static Range *
get_ranges(rd_kafka_t *handle, const char *topic, int *npartitions)
{
	Range *ranges;

	*npartitions = count_partitions(handle, topic);
	if (*npartitions <= 0)
		fail("there is no topic \"%s\"", topic);
	ranges = calloc(*npartitions, sizeof(Range));
	for (int i = 0; i < *npartitions; i++)
	{
		rd_kafka_resp_err_t err = rd_kafka_query_watermark_offsets(
			handle, topic, i, &ranges[i].low, &ranges[i].end, TIMEOUT_MS);

		if (err)
			fail("%s", rd_kafka_err2str(err));
		ranges[i].done = (ranges[i].low >= ranges[i].end);
	}
	return ranges;
}

static int
run_offsets(const Options *options)
{
	rd_kafka_t *handle = open_consumer(options);
	int n;
	Range *ranges = get_ranges(handle, options->topic, &n);

	for (int i = 0; i < n; i++)
		printf("%d\t%" PRId64 "\t%" PRId64 "\n", i, ranges[i].low,
			   ranges[i].end);
	free(ranges);
	rd_kafka_destroy(handle);
	return 0;
}

static int
run_replicas(const Options *options)
{
	rd_kafka_t *handle = open_consumer(options);
	rd_kafka_topic_t *topic = rd_kafka_topic_new(handle, options->topic, NULL);
	const struct rd_kafka_metadata *metadata;
	rd_kafka_resp_err_t err =
		rd_kafka_metadata(handle, 0, topic, &metadata, TIMEOUT_MS);
	const rd_kafka_metadata_topic_t *found;

	if (err)
		fail("%s", rd_kafka_err2str(err));
	found = &metadata->topics[0];
	for (int i = 0; i < found->partition_cnt; i++)
	{
		const rd_kafka_metadata_partition_t *partition = &found->partitions[i];

		printf("%d\t%d\t", partition->id, partition->leader);
		for (int j = 0; j < partition->isr_cnt; j++)
			printf("%s%d", j > 0 ? "," : "", partition->isrs[j]);
		putchar('\n');
	}
	rd_kafka_metadata_destroy(metadata);
	rd_kafka_topic_destroy(topic);
	rd_kafka_destroy(handle);
	return 0;
}

/* Print bytes as COPY's text format reads them. */
static void
print_field(const char *bytes, size_t len)
{
	if (bytes == NULL)
	{
		fputs("\\N", stdout);
		return;
	}
	for (size_t i = 0; i < len; i++)
	{
		switch (bytes[i])
		{
			case '\t':
				fputs("\\t", stdout);
				break;
			case '\n':
				fputs("\\n", stdout);
				break;
			case '\r':
				fputs("\\r", stdout);
				break;
			case '\\':
				fputs("\\\\", stdout);
				break;
			default:
				putchar(bytes[i]);
		}
	}
}

static void
print_message(const rd_kafka_message_t *message)
{
	printf("%d\t%" PRId64 "\t%" PRId64 "\t", message->partition,
		   message->offset, rd_kafka_message_timestamp(message, NULL));
	print_field(message->key, message->key_len);
	putchar('\t');
	print_field(message->payload, message->len);
	putchar('\n');
}

/*
 * Read the topic up to the ends that it has now.  Returns the number of
 * messages, and prints them if asked.
 */
static int64_t
read_topic(const Options *options, bool print)
{
	rd_kafka_t *handle = open_consumer(options);
	rd_kafka_topic_partition_list_t *assignment =
		rd_kafka_topic_partition_list_new(1);
	int n;
	Range *ranges = get_ranges(handle, options->topic, &n);
	int unread = 0;
	int64_t messages = 0;

	for (int i = 0; i < n; i++)
	{
		if (ranges[i].done)
			continue;
		rd_kafka_topic_partition_list_add(assignment, options->topic, i)
			->offset = ranges[i].low;
		unread++;
	}
	rd_kafka_poll_set_consumer(handle);
	if (unread > 0)
		rd_kafka_assign(handle, assignment);
	rd_kafka_topic_partition_list_destroy(assignment);

	while (unread > 0)
	{
		rd_kafka_message_t *message =
			rd_kafka_consumer_poll(handle, TIMEOUT_MS);
		Range *range;

		if (message == NULL)
			fail("no more messages, though not at the end");
		if (message->err && message->err != RD_KAFKA_RESP_ERR__PARTITION_EOF)
			fail("%s", rd_kafka_message_errstr(message));
		range = &ranges[message->partition];
		if (!message->err && message->offset < range->end)
		{
			messages++;
			if (print)
				print_message(message);
		}
		/* The EOF event tells of records that are never delivered. */
		if (!range->done &&
			message->offset + (message->err ? 0 : 1) >= range->end)
		{
			range->done = true;
			unread--;
		}
		rd_kafka_message_destroy(message);
	}
	rd_kafka_consumer_close(handle);
	rd_kafka_destroy(handle);
	free(ranges);
	return messages;
}

static int
run_consume(const Options *options)
{
	read_topic(options, true);
	return 0;
}

static int
run_count(const Options *options)
{
	printf("%" PRId64 "\n", read_topic(options, false));
	return 0;
}

static const struct
{
	const char *name;
	int (*run)(const Options *options);
	bool needs_topic;
} commands[] = {
	{ "ready", run_ready, false },
	{ "create-topic", run_create_topic, true },
	{ "delete-topic", run_delete_topic, true },
	{ "add-partitions", run_add_partitions, true },
	{ "delete-records", run_delete_records, true },
	{ "produce", run_produce, true },
	{ "consume", run_consume, true },
	{ "count", run_count, true },
	{ "offsets", run_offsets, true },
	{ "replicas", run_replicas, true },
};

int
main(int argc, char **argv)
{
	Options options = { .brokers = getenv("KAPPA_TEST_BROKERS"),
						.codec = "none",
						.partitions = 1 };
	int option;

	while ((option = getopt(argc, argv, "b:c:p:r:R:t:uz:")) != -1)
	{
		switch (option)
		{
			case 'b':
				options.brokers = optarg;
				break;
			case 'c':
				if (options.nconfigs >= MAX_CONFIGS)
					fail("too many options");
				options.configs[options.nconfigs++] = optarg;
				break;
			case 'p':
				options.partitions = atoi(optarg);
				break;
			case 'R':
				if (options.nnodes >= MAX_CONFIGS)
					fail("too many options");
				options.nodes[options.nnodes++] = optarg;
				break;
			case 'r':
				options.rate = atof(optarg);
				break;
			case 't':
				options.transactional_id = optarg;
				break;
			case 'u':
				options.uncommitted = true;
				break;
			case 'z':
				options.codec = optarg;
				break;
			default:
				return 2;
		}
	}
	if (options.brokers == NULL)
		fail("no brokers: use -b or KAPPA_TEST_BROKERS");
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
	{
		if (optind >= argc || strcmp(argv[optind], commands[i].name) != 0)
			continue;
		if (commands[i].needs_topic && optind + 1 >= argc)
			fail("which topic?");
		options.topic = argv[optind + 1];
		options.args = argv + optind + 2;
		options.nargs = argc - optind - 2;
		return commands[i].run(&options);
	}
	fail("unknown command \"%s\"", optind < argc ? argv[optind] : "");
	return 2;
}
