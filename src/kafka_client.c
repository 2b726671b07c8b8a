/*-------------------------------------------------------------------------
 *
 * kafka_client.c
 *	  A Kafka consumer whose life is bound to a memory context
 *
 * librdkafka's threads fetch ahead into one queue for each topic; this file
 * takes messages out of it and hands them to the rest of kappa as plain
 * structs.  Payloads are used where librdkafka put them, so a message must
 * stay alive until its last reader is done, and must be destroyed before the
 * consumer is (rd_kafka_destroy() would wait for it for ever).  Hence every
 * message given out sits in a slot that the client knows.
 *
 * Nothing of ours runs on a thread of librdkafka.  Log lines and client-wide
 * errors travel through a queue of their own, which kappa_kafka_serve_events()
 * reads; the one callback, for errors of a topic, runs inside our own calls
 * and only takes a note.
 *
 * IDENTIFICATION
 *	  src/kafka_client.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "kafka_client.h"
#include "kafka_error.h"
#include "kafka_private.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

/*
 * Descriptors of one client, as far as they can be told beforehand: our pipe,
 * and for librdkafka's broker threads (the bootstrap broker, and one broker
 * that it leads to) a socket and a pipe each.
 */
#define FDS_PER_CLIENT 8

/* Messages taken from librdkafka's queue in one go. */
#define ARRIVED_MAX 1024

#define SLOTS_PER_CHUNK 1024

/*
 * A message that is out.  The first slot of each chunk is not used for a
 * message but links the chunks.
 */
struct MessageSlot
{
	rd_kafka_message_t *raw; /* NULL if the slot is free */
	MessageSlot *next;       /* next free slot, or next chunk */
};

static dlist_head open_clients = DLIST_STATIC_INIT(open_clients);
static bool exit_callback_registered = false;

static void note_topic_error(rd_kafka_t *rk, int err, const char *reason, void *client);
static void shut_down_on_reset(void *arg);
static void shut_down_all(int code, Datum arg);

/* Create the librdkafka handle and the queue of its events. */
static void
create_handle(KafkaClient *client, const KafkaConfig *config)
{
	char errstr[512];

	kappa_kafka_configure(client, config);
	rd_kafka_conf_set_events(client->conf,
							 RD_KAFKA_EVENT_LOG | RD_KAFKA_EVENT_ERROR);
	rd_kafka_conf_set_error_cb(client->conf, note_topic_error);
	rd_kafka_conf_set_opaque(client->conf, client);

	client->rk = rd_kafka_new(RD_KAFKA_CONSUMER, client->conf,
							  errstr, sizeof(errstr));
	if (client->rk == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("could not create a Kafka consumer"),
				 errdetail_internal("%s", errstr)));

	/* The handle owns the configuration now. */
	client->conf = NULL;

	client->events = rd_kafka_queue_get_main(client->rk);
	rd_kafka_set_log_queue(client->rk, client->events);
	rd_kafka_queue_io_event_enable(client->events, client->wakeup[1], "", 1);
}

KafkaClient *
kappa_kafka_open(const KafkaConfig *config, bool with_headers)
{
	MemoryContext context;
	KafkaClient *client;

	if (!exit_callback_registered)
	{
		before_shmem_exit(shut_down_all, 0);
		exit_callback_registered = true;
	}

	context = AllocSetContextCreate(CurrentMemoryContext, "kappa consumer",
									ALLOCSET_DEFAULT_SIZES);
	client = MemoryContextAllocZero(context, sizeof(KafkaClient));
	client->context = context;
	client->with_headers = with_headers;
	client->wakeup[0] = client->wakeup[1] = -1;
	client->open = true;
	dlist_push_tail(&open_clients, &client->node);

	client->on_reset.func = shut_down_on_reset;
	client->on_reset.arg = client;
	MemoryContextRegisterResetCallback(context, &client->on_reset);

	for (int i = 0; i < FDS_PER_CLIENT; i++)
		ReserveExternalFD();

	if (pipe2(client->wakeup, O_NONBLOCK | O_CLOEXEC) != 0)
	{
		client->wakeup[0] = client->wakeup[1] = -1;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create a pipe for a Kafka consumer: %m")));
	}

	create_handle(client, config);

	return client;
}

void
kappa_kafka_close(KafkaClient *client)
{
	/* The context's callback does the work. */
	MemoryContextDelete(client->context);
}

/* Destroy every message that is out or waits to be given out. */
static void
destroy_messages(KafkaClient *client)
{
	for (KafkaTopic *topic = client->topics; topic; topic = topic->next)
	{
		while (topic->next_arrived < topic->narrived)
			rd_kafka_message_destroy(topic->arrived[topic->next_arrived++]);
	}

	for (MessageSlot *chunk = client->slot_chunks; chunk; chunk = chunk->next)
	{
		for (int i = 1; i < SLOTS_PER_CHUNK; i++)
		{
			if (chunk[i].raw != NULL)
				rd_kafka_message_destroy(chunk[i].raw);
			chunk[i].raw = NULL;
		}
	}
}

/*
 * Give librdkafka's part back: threads, descriptors, buffers.  Called from the
 * context's callback and at exit, whichever comes first, and also for a client
 * that kappa_kafka_open() did not finish.  Does not throw.
 *
 * XXX rd_kafka_destroy() waits for librdkafka's threads, and one that resolves
 * a host name cannot be interrupted: with a name server that does not answer
 * this takes as long as the resolver's timeout.
 */
static void
shut_down(KafkaClient *client)
{
	if (!client->open)
		return;
	client->open = false;
	dlist_delete(&client->node);

	destroy_messages(client);
	for (KafkaTopic *topic = client->topics; topic; topic = topic->next)
	{
		kappa_kafka_stop_all(topic);
		rd_kafka_topic_partition_list_destroy(topic->started);
		rd_kafka_queue_destroy(topic->queue);
		rd_kafka_topic_destroy(topic->rkt);
	}
	if (client->events != NULL)
		rd_kafka_queue_destroy(client->events);
	if (client->rk != NULL)
		rd_kafka_destroy(client->rk);
	if (client->conf != NULL)
		rd_kafka_conf_destroy(client->conf);

	/* Not earlier: librdkafka's threads write to the pipe. */
	for (int i = 0; i < 2; i++)
	{
		if (client->wakeup[i] >= 0)
			close(client->wakeup[i]);
	}
	for (int i = 0; i < FDS_PER_CLIENT; i++)
		ReleaseExternalFD();
}

static void
shut_down_on_reset(void *arg)
{
	shut_down((KafkaClient *) arg);
}

/*
 * A process that exits with librdkafka's threads still running can crash in
 * the exit handlers of the TLS library.
 */
static void
shut_down_all(int code, Datum arg)
{
	while (!dlist_is_empty(&open_clients))
		shut_down(dlist_head_element(KafkaClient, node, &open_clients));
}

/*
 * Topics and partitions
 */

static KafkaTopic *
create_topic(KafkaClient *client, const char *name)
{
	KafkaTopic *topic;
	MemoryContext context = client->context;

	topic = MemoryContextAllocZero(context, sizeof(KafkaTopic));
	topic->client = client;
	topic->name = MemoryContextStrdup(context, name);
	topic->arrived = MemoryContextAlloc(context,
										ARRIVED_MAX * sizeof(rd_kafka_message_t *));

	topic->rkt = rd_kafka_topic_new(client->rk, name, NULL);
	if (topic->rkt == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("invalid Kafka topic name \"%s\"", name),
				 errdetail_internal("%s", rd_kafka_err2str(rd_kafka_last_error()))));
	topic->queue = rd_kafka_queue_new(client->rk);
	rd_kafka_queue_io_event_enable(topic->queue, client->wakeup[1], "", 1);
	topic->started = rd_kafka_topic_partition_list_new(16);

	topic->next = client->topics;
	client->topics = topic;

	return topic;
}

KafkaTopic *
kappa_kafka_topic(KafkaClient *client, const char *name)
{
	for (KafkaTopic *topic = client->topics; topic; topic = topic->next)
	{
		if (!topic->is_probe && strcmp(topic->name, name) == 0)
			return topic;
	}

	return create_topic(client, name);
}

/*
 * A second handle for the same topic, with a queue of its own, to read single
 * messages.  A partition may be started on one of the two at a time.
 */
KafkaTopic *
kappa_kafka_probe(KafkaTopic *topic)
{
	if (topic->probe == NULL)
	{
		topic->probe = create_topic(topic->client, topic->name);
		topic->probe->is_probe = true;
	}

	return topic->probe;
}

const char *
kappa_kafka_topic_name(KafkaTopic *topic)
{
	return topic->name;
}

void
kappa_kafka_start(KafkaTopic *topic, int32 partition, int64 offset)
{
	rd_kafka_topic_partition_t *entry;

	Assert(offset >= 0);

	/*
	 * librdkafka does not check for this, and would fetch twice.  A probe has
	 * the partition still if an error interrupted it.
	 */
	kappa_kafka_stop(topic, partition);
	if (topic->probe != NULL)
		kappa_kafka_stop(topic->probe, partition);

	if (rd_kafka_consume_start_queue(topic->rkt, partition, offset,
									 topic->queue) != 0)
	{
		rd_kafka_resp_err_t err = rd_kafka_last_error();

		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_EXCEPTION),
				 errmsg("could not start reading partition %d of topic \"%s\"",
						partition, topic->name),
				 errdetail("librdkafka reported %s: %s.",
						   rd_kafka_err2name(err), rd_kafka_err2str(err))));
	}

	entry = rd_kafka_topic_partition_list_add(topic->started, topic->name,
											  partition);
	entry->offset = RD_KAFKA_OFFSET_END;
}

/*
 * Throw away what was taken from librdkafka's queue but not yet given out;
 * what is still in the queue librdkafka drops by itself.
 */
static void
forget_arrived(KafkaTopic *topic, int32 partition)
{
	int kept = topic->next_arrived;

	for (int i = topic->next_arrived; i < topic->narrived; i++)
	{
		if (topic->arrived[i]->partition == partition)
			rd_kafka_message_destroy(topic->arrived[i]);
		else
			topic->arrived[kept++] = topic->arrived[i];
	}
	topic->narrived = kept;
}

void
kappa_kafka_stop(KafkaTopic *topic, int32 partition)
{
	if (!rd_kafka_topic_partition_list_del(topic->started, topic->name,
										   partition))
		return;

	rd_kafka_consume_stop(topic->rkt, partition);
	forget_arrived(topic, partition);
}

void
kappa_kafka_stop_all(KafkaTopic *topic)
{
	while (topic->started->cnt > 0)
		kappa_kafka_stop(topic, topic->started->elems[topic->started->cnt - 1].partition);
}

/*
 * Messages
 */

static MessageSlot *
take_slot(KafkaClient *client)
{
	MessageSlot *slot;

	if (client->free_slots == NULL)
	{
		MessageSlot *chunk = MemoryContextAllocZero(client->context,
													SLOTS_PER_CHUNK * sizeof(MessageSlot));

		chunk->next = client->slot_chunks;
		client->slot_chunks = chunk;
		for (int i = SLOTS_PER_CHUNK - 1; i > 0; i--)
		{
			chunk[i].next = client->free_slots;
			client->free_slots = &chunk[i];
		}
	}

	slot = client->free_slots;
	client->free_slots = slot->next;
	return slot;
}

static void
fill_headers(KafkaClient *client, rd_kafka_message_t *raw, KappaMessage *message)
{
	rd_kafka_headers_t *raw_headers;
	KappaHeader *headers;
	int n;

	/* An error here only means that there are none. */
	if (rd_kafka_message_headers(raw, &raw_headers) != RD_KAFKA_RESP_ERR_NO_ERROR)
		return;

	n = rd_kafka_header_cnt(raw_headers);
	if (n == 0)
		return;
	headers = MemoryContextAlloc(client->context, n * sizeof(KappaHeader));
	for (int i = 0; i < n; i++)
	{
		const void *value;
		size_t len;

		rd_kafka_header_get_all(raw_headers, i, &headers[i].name, &value, &len);
		headers[i].value = value;
		headers[i].value_len = len;
	}
	message->headers = headers;
	message->nheaders = n;
}

void
kappa_kafka_load_headers(KafkaClient *client, KappaMessage *message)
{
	MessageSlot *slot = message->handle;

	if (message->headers == NULL && slot != NULL)
		fill_headers(client, slot->raw, message);
}

static char
timestamp_type_letter(rd_kafka_timestamp_type_t type)
{
	switch (type)
	{
		case RD_KAFKA_TIMESTAMP_CREATE_TIME:
			return 'C';
		case RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME:
			return 'A';
		default:
			return 0;
	}
}

void
kappa_kafka_adopt_message(KafkaClient *client, rd_kafka_message_t *raw,
						  KappaMessage *message)
{
	rd_kafka_timestamp_type_t type;
	MessageSlot *slot = take_slot(client);

	slot->raw = raw;
	message->handle = slot;
	message->kind = KAPPA_MESSAGE_DATA;
	message->error = 0;
	message->partition = raw->partition;
	message->broker = rd_kafka_message_broker_id(raw);
	message->offset = raw->offset;
	message->timestamp = rd_kafka_message_timestamp(raw, &type);
	message->timestamp_type = timestamp_type_letter(type);
	message->key = raw->key;
	message->key_len = raw->key_len;
	message->value = raw->payload;
	message->value_len = raw->len;
	message->headers = NULL;
	message->nheaders = 0;

	if (raw->err == RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		if (client->with_headers)
			fill_headers(client, raw, message);
	}
	else if (raw->err == RD_KAFKA_RESP_ERR__PARTITION_EOF)
	{
		message->kind = KAPPA_MESSAGE_EOF;
		message->value = NULL;
		message->value_len = 0;
	}
	else
	{
		/* The value is librdkafka's reason, in words. */
		message->kind = KAPPA_MESSAGE_ERROR;
		message->error = raw->err;
	}
}

void
kappa_kafka_release(KafkaClient *client, KappaMessage *messages, int n)
{
	for (int i = 0; i < n; i++)
	{
		MessageSlot *slot = messages[i].handle;

		if (slot == NULL)
			continue;
		Assert(slot->raw != NULL);
		rd_kafka_message_destroy(slot->raw);
		slot->raw = NULL;
		slot->next = client->free_slots;
		client->free_slots = slot;

		if (messages[i].headers != NULL)
			pfree(unconstify(KappaHeader *, messages[i].headers));
	}
}

/*
 * Have the threads that fetch for this topic look at their queue again.
 *
 * librdkafka before 2.2 stops fetching when the queue is full and looks again
 * only once a second, so a fast reader would wait most of the time.  A request
 * to a broker wakes that broker's thread, and the thread then decides anew.
 * One for the end offsets of all partitions goes to each of their leaders; we
 * do not wait for the answers, so it costs a few microseconds and cannot block.
 *
 * It is worth it only after reading a good part of a buffer, and when the
 * queue has room for another part.
 */
static void
wake_fetchers(KafkaTopic *topic)
{
	int64 messages = topic->messages_since_wake;
	int64 bytes = topic->bytes_since_wake;
	int64 queued;

	if (topic->client->refetches || topic->started->cnt == 0 ||
		(bytes < kappa_kafka_buffer_bytes() / 4 && messages < kappa_kafka_buffer_messages() / 4))
		return;

	queued = rd_kafka_queue_length(topic->queue);
	if (queued > kappa_kafka_buffer_messages() / 2 ||
		queued * (bytes / messages) > kappa_kafka_buffer_bytes() / 2)
		return;

	(void) rd_kafka_offsets_for_times(topic->client->rk, topic->started, 0);
	topic->messages_since_wake = 0;
	topic->bytes_since_wake = 0;
}

/* Take more from librdkafka's queue; false if it is empty. */
static bool
refill_arrived(KafkaTopic *topic, int max)
{
	ssize_t n;

	topic->client->reading = topic;
	n = rd_kafka_consume_batch_queue(topic->queue, 0, topic->arrived,
									 Min(max, ARRIVED_MAX));
	topic->client->reading = NULL;
	topic->next_arrived = 0;
	topic->narrived = Max(n, 0);
	wake_fetchers(topic);

	return n > 0;
}

/* An error of the topic as a whole, as an entry that needs no release. */
static void
give_out_error(KafkaTopic *topic, KappaMessage *message)
{
	memset(message, 0, sizeof(KappaMessage));
	message->kind = KAPPA_MESSAGE_ERROR;
	message->error = topic->error;
	message->partition = -1;
	message->broker = -1;
	message->offset = -1;
	message->timestamp = -1;
	message->value = topic->error_text;
	message->value_len = strlen(topic->error_text);
	topic->error = 0;
}

/* kappa_kafka_fetch() without waiting. */
static int
take_arrived(KafkaTopic *topic, KappaMessage *messages, int max, Size max_bytes)
{
	Size bytes = 0;
	int n = 0;

	while (n < max && bytes < max_bytes)
	{
		Size size;

		if (topic->next_arrived == topic->narrived &&
			!refill_arrived(topic, max - n))
			break;

		kappa_kafka_adopt_message(topic->client,
								  topic->arrived[topic->next_arrived],
								  &messages[n]);
		topic->next_arrived++;

		size = kappa_message_bytes(&messages[n]);
		bytes += size;
		topic->bytes_since_wake += size;
		topic->messages_since_wake++;
		n++;
	}

	if (n > 0 && messages[n - 1].kind != KAPPA_MESSAGE_ERROR)
		kappa_kafka_note_success(topic->client);
	if (topic->error != 0 && n < max)
		give_out_error(topic, &messages[n++]);

	return n;
}

/* Make the socket readable, as librdkafka does. */
static void
poke_socket(KafkaClient *client)
{
	/* If the pipe is full, it is readable. */
	ssize_t rc pg_attribute_unused() = write(client->wakeup[1], "", 1);
}

/*
 * The wait is on our latch and on the pipe, never inside librdkafka, so that a
 * cancel is served at once.  The caller may be waiting for other things too,
 * other topics of this client for one: a wake-up that is taken here is given
 * again at the end.
 */
int
kappa_kafka_fetch(KafkaTopic *topic, KappaMessage *messages, int max,
				  Size max_bytes, int timeout_ms)
{
	KafkaClient *client = topic->client;
	TimestampTz deadline;
	int events = 0;
	int n;

	kappa_kafka_serve_events(client);
	n = take_arrived(topic, messages, max, max_bytes);
	if (n > 0 || timeout_ms <= 0)
		return n;

	deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout_ms);
	while (n == 0)
	{
		long left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(),
													deadline);

		if (left <= 0)
			break;
		events |= kappa_kafka_wait(client, left);
		kappa_kafka_serve_events(client);
		n = take_arrived(topic, messages, max, max_bytes);
	}

	if (events & WL_LATCH_SET)
		SetLatch(MyLatch);
	if (events & WL_SOCKET_READABLE)
		poke_socket(client);

	return n;
}

/*
 * Waiting
 */

pgsocket
kappa_kafka_socket(KafkaClient *client)
{
	return client->wakeup[0];
}

void
kappa_kafka_drain(KafkaClient *client)
{
	char buf[64];
	ssize_t n;

	do
		n = read(client->wakeup[0], buf, sizeof(buf));
	while (n == sizeof(buf) || (n < 0 && errno == EINTR));
}

/*
 * Wait until something arrives on any queue, the latch is set or the time is
 * over; throws if it was for an interrupt.  Both sources are drained.  Returns
 * WL_* flags.
 */
int
kappa_kafka_wait(KafkaClient *client, long timeout_ms)
{
	int events;

	CHECK_FOR_INTERRUPTS();
	events = WaitLatchOrSocket(MyLatch,
							   WL_LATCH_SET | WL_SOCKET_READABLE |
								   WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							   client->wakeup[0], timeout_ms,
							   PG_WAIT_EXTENSION);
	if (events & WL_LATCH_SET)
	{
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	if (events & WL_SOCKET_READABLE)
		kappa_kafka_drain(client);

	return events;
}

/*
 * Events
 */

/* Keep librdkafka's words, made fit to be shown. */
static void
copy_reason(char *to, Size size, const char *from)
{
	strlcpy(to, from, size);

	/* Brokers and system libraries speak any encoding. */
	if (!pg_verifymbstr(to, strlen(to), true))
	{
		for (char *c = to; *c != '\0'; c++)
		{
			if (IS_HIGHBIT_SET(*c))
				*c = '?';
		}
	}
}

/*
 * Note a client-wide error.  "All brokers down" follows the error that put the
 * last of them down, which says more.
 */
static void
note_error(KafkaClient *client, rd_kafka_resp_err_t err, const char *reason)
{
	if (err == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN)
	{
		client->brokers_down = true;
		if (client->error != 0)
			return;
	}

	client->error = err;
	client->error_unseen = true;
	copy_reason(client->reason, sizeof(client->reason), reason);
}

/*
 * librdkafka's error callback.  Only one kind of error comes this way: the
 * metadata no longer has a topic or partition that is being read, once for
 * each partition and without its number.
 */
static void
note_topic_error(rd_kafka_t *rk, int err, const char *reason, void *client)
{
	KafkaTopic *topic = ((KafkaClient *) client)->reading;

	if (topic == NULL)
		note_error((KafkaClient *) client, err, reason);
	else if (topic->error != RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART)
	{
		topic->error = err;
		copy_reason(topic->error_text, sizeof(topic->error_text), reason);
	}
}

void
kappa_kafka_note_success(KafkaClient *client)
{
	client->error = 0;
	client->error_unseen = false;
	client->brokers_down = false;
}

void
kappa_kafka_serve_events(KafkaClient *client)
{
	rd_kafka_event_t *event;

	while ((event = rd_kafka_queue_poll(client->events, 0)) != NULL)
	{
		const char *facility;
		const char *line;
		int level;

		client->log[0] = '\0';
		if (rd_kafka_event_type(event) == RD_KAFKA_EVENT_ERROR)
			note_error(client, rd_kafka_event_error(event),
					   rd_kafka_event_error_string(event));
		else if (rd_kafka_event_type(event) == RD_KAFKA_EVENT_LOG &&
				 rd_kafka_event_log(event, &facility, &line, &level) == 0)
			copy_reason(client->log, sizeof(client->log), line);

		/* Before elog(), which may throw when it is out of memory. */
		rd_kafka_event_destroy(event);

		if (client->log[0] != '\0')
			elog(DEBUG1, "librdkafka: %s", client->log);
	}
}

int
kappa_kafka_poll(KafkaClient *client, const char **reason)
{
	int error = kappa_kafka_last_error(client, reason);

	if (!client->error_unseen)
		return 0;
	client->error_unseen = false;

	return error;
}

int
kappa_kafka_last_error(KafkaClient *client, const char **reason)
{
	kappa_kafka_serve_events(client);
	*reason = client->reason;

	return client->error;
}
