/*-------------------------------------------------------------------------
 *
 * fdw_reader.c
 *	  Read the messages of ranges of a log, to their end
 *
 * A range is done when its last message has been seen, or a message at or
 * beyond its end, or the end of the partition at or beyond its end.  The last
 * of these is needed: the offsets before the end may belong to commit markers,
 * aborted or compacted messages, which are never delivered.  "Nothing arrives"
 * is never the end.
 *
 * Only some partitions are read at a time.  With LIMIT 1 nobody wants to fetch
 * from all of two hundred partitions first, and in a parallel scan the other
 * processes need something to do.
 *
 * IDENTIFICATION
 *	  src/fdw_reader.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fdw_reader.h"
#include "kafka_admin.h"
#include "kafka_error.h"
#include "kafka_kept.h"
#include "kappa.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* Messages to take at once: few at first, for LIMIT, then as many as pay. */
#define FETCH_FIRST 64
#define FETCH_MAX 2048
#define FETCH_BYTES (4 * 1024 * 1024)

/* How long to wait for messages before we look at what is wrong, in ms. */
#define FETCH_TIMEOUT 100

/* Ranges being read at the same time by one process. */
#define WINDOW_FIRST 4
#define WINDOW_MAX 16

/* A range of the partition that is its place in KappaReader.current. */
typedef struct CurrentRange
{
	bool active;
	int64 start;
	int64 end;
} CurrentRange;

struct KappaReader
{
	MemoryContext context;
	MemoryContextCallback on_reset;
	const KappaTable *table;
	KafkaClient *client; /* NULL if it has been closed */
	KafkaTopic *topic;
	int32 npartitions; /* of the topic */

	KappaRangeQueue *queue;
	int32 ncurrent; /* length of current */
	CurrentRange *current;
	int nactive;
	int window;
	List *waiting; /* KappaRange, taken, whose partition is being read */
	bool done;     /* all of the queue has been read */

	/* Messages that the queue has not been told of. */
	uint64 returned;
	uint64 returned_bytes;

	/* Messages in hand: messages[next .. nmessages). */
	KappaMessage *messages;
	int nmessages;
	int next;
	int fetch_size;

	/* Since when nothing useful has arrived; 0 if something just did. */
	TimestampTz idle_since;
	int error; /* of a partition, since then; 0 if none */
	int32 error_partition;
	char error_reason[256];
};

/*
 * A scan waits at the end of a partition only to hear that it is the end, and
 * brokers keep that answer back for this long when there is nothing to send.
 */
static void
set_short_wait(KafkaConfig *config)
{
	KafkaProperty *property;

	for (int i = 0; i < config->nproperties; i++)
	{
		if (strcmp(config->properties[i].name, "fetch.wait.max.ms") == 0)
			return;
	}

	config->properties = repalloc(config->properties,
								  (config->nproperties + 1) * sizeof(KafkaProperty));
	property = &config->properties[config->nproperties++];
	property->name = "fetch.wait.max.ms";
	property->value = "10";
	property->secret = false;
}

void
kappa_range_queue_init(KappaRangeQueue *queue, int capacity, int nprocesses)
{
	pg_atomic_init_u32(&queue->next, 0);
	pg_atomic_init_u64(&queue->messages, 0);
	pg_atomic_init_u64(&queue->bytes, 0);
	pg_atomic_init_u64(&queue->returned, 0);
	pg_atomic_init_u64(&queue->returned_bytes, 0);
	queue->capacity = capacity;
	queue->nprocesses = nprocesses;
	queue->nranges = 0;
	queue->npartitions = 0;
}

static void
give_back_on_reset(void *arg)
{
	KappaReader *reader = arg;

	(void) kappa_kafka_give_back(reader->client, reader->done);
}

KappaReader *
kappa_reader_open(const KappaTable *table, KafkaConfig *config,
				  bool with_headers)
{
	KappaReader *reader = palloc0(sizeof(KappaReader));

	set_short_wait(config);
	reader->context = CurrentMemoryContext;
	reader->table = table;
	reader->client = kappa_kafka_borrow(config, with_headers);
	reader->on_reset.func = give_back_on_reset;
	reader->on_reset.arg = reader;
	MemoryContextRegisterResetCallback(reader->context, &reader->on_reset);
	reader->topic = kappa_kafka_topic(reader->client, table->topic);
	reader->messages = palloc(FETCH_MAX * sizeof(KappaMessage));

	/*
	 * Ask before anything is started: partitions whose leader librdkafka does
	 * not know yet begin half a second late.
	 */
	reader->npartitions = kappa_kafka_partition_count(reader->topic, NULL);
	return reader;
}

void
kappa_reader_close(KappaReader *reader)
{
	if (reader->client != NULL && !kappa_kafka_give_back(reader->client, reader->done))
		kappa_kafka_close(reader->client);
	reader->client = NULL;
}

KafkaTopic *
kappa_reader_topic(KappaReader *reader)
{
	return reader->topic;
}

int32
kappa_reader_npartitions(KappaReader *reader)
{
	return reader->npartitions;
}

KappaLog *
kappa_reader_get_log(KappaReader *reader)
{
	KappaLog *log = palloc(sizeof(KappaLog));

	log->npartitions = reader->npartitions;
	log->begin = palloc(Max(log->npartitions, 1) * sizeof(int64));
	log->end = palloc(Max(log->npartitions, 1) * sizeof(int64));
	kappa_kafka_watermarks(reader->topic, log->npartitions,
						   log->begin, log->end);
	return log;
}

void
kappa_reader_check_bounds(KappaReader *reader, const KappaLog *bounds, const KappaLog *log)
{
	for (int32 i = 0; i < bounds->npartitions; i++)
	{
		if (bounds->begin[i] >= bounds->end[i])
			continue;
		if (i >= log->npartitions)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("topic \"%s\" has no partition %d any more",
							reader->table->topic, i)));
		if (bounds->begin[i] < log->begin[i] || bounds->end[i] > log->end[i])
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("partition %d of topic \"%s\" does not have all of the offsets from " INT64_FORMAT " to " INT64_FORMAT,
							i, reader->table->topic,
							bounds->begin[i], bounds->end[i]),
					 errdetail("The log reaches from " INT64_FORMAT " to " INT64_FORMAT ".",
							   log->begin[i], log->end[i])));
	}
}

static void
release_messages(KappaReader *reader)
{
	if (reader->nmessages > 0)
		kappa_kafka_release(reader->client, reader->messages,
							reader->nmessages);
	reader->nmessages = 0;
	reader->next = 0;
}

void
kappa_reader_start(KappaReader *reader, KappaRangeQueue *queue)
{
	release_messages(reader);
	kappa_kafka_stop_all(reader->topic);

	if (queue->npartitions > reader->ncurrent)
	{
		reader->ncurrent = queue->npartitions;
		reader->current = MemoryContextAlloc(reader->context,
											 reader->ncurrent * sizeof(CurrentRange));
	}
	for (int32 i = 0; i < reader->ncurrent; i++)
		reader->current[i].active = false;

	reader->queue = queue;
	reader->done = false;
	reader->nactive = 0;
	list_free_deep(reader->waiting);
	reader->waiting = NIL;
	reader->fetch_size = FETCH_FIRST;
	reader->idle_since = 0;
	reader->error = 0;

	/* Leave the other processes their share. */
	reader->window = WINDOW_FIRST;
	if (queue->nprocesses > 1)
		reader->window = Min(queue->nranges / (2 * queue->nprocesses),
							 WINDOW_MAX);
	reader->window = Max(reader->window, 1);
}

static void
activate_range(KappaReader *reader, const KappaRange *range)
{
	CurrentRange *current = &reader->current[range->partition];

	current->start = range->start;
	current->end = range->end;
	current->active = true;
	reader->nactive++;
	kappa_kafka_start(reader->topic, range->partition, range->start);
}

static void
finish_range(KappaReader *reader, int32 partition)
{
	kappa_kafka_stop(reader->topic, partition);
	reader->current[partition].active = false;
	reader->nactive--;
}

/*
 * Start what waited for its partition.  Only when no message is in hand: one
 * of the former range could be taken for one of the next.
 */
static void
activate_waiting(KappaReader *reader)
{
	ListCell *lc;

	foreach(lc, reader->waiting)
	{
		KappaRange *range = lfirst(lc);

		if (reader->current[range->partition].active)
			continue;
		activate_range(reader, range);
		reader->waiting = foreach_delete_current(reader->waiting, lc);
		pfree(range);
	}
}

/* Take ranges from the queue until enough are being read. */
static void
take_ranges(KappaReader *reader)
{
	KappaRangeQueue *queue = reader->queue;

	activate_waiting(reader);
	while (reader->nactive < reader->window && reader->waiting == NIL)
	{
		uint32 i = pg_atomic_fetch_add_u32(&queue->next, 1);
		KappaRange *range;

		if (i >= queue->nranges)
		{
			/* Not further, or asking often enough would wrap around. */
			pg_atomic_write_u32(&queue->next, queue->nranges);
			break;
		}

		range = &queue->ranges[i];
		if (reader->current[range->partition].active)
		{
			MemoryContext old = MemoryContextSwitchTo(reader->context);
			KappaRange *copy = palloc(sizeof(KappaRange));

			*copy = *range;
			reader->waiting = lappend(reader->waiting, copy);
			MemoryContextSwitchTo(old);
		}
		else
			activate_range(reader, range);
	}
}

/* Some range that is being read. */
static int32
first_active_partition(KappaReader *reader)
{
	int32 partition = 0;

	while (!reader->current[partition].active)
		partition++;
	return partition;
}

static void
report_read_error(KappaReader *reader, int32 partition, int error,
				  const char *reason)
{
	const KafkaErrorClass *class = kappa_kafka_error_class(error);
	bool out_of_range = kappa_kafka_error_is_out_of_range(error);

	if (reason == NULL || reason[0] == '\0')
		reason = kappa_kafka_error_text(error);

	ereport(ERROR,
			(errcode(class->sqlstate),
			 errmsg("could not read partition %d of topic \"%s\"",
					partition, reader->table->topic),
			 errdetail("librdkafka reported %s: %s.",
					   kappa_kafka_error_name(error), reason),
			 out_of_range
				 ? errhint("Messages may have been removed from the log while it was being read.")
			 : class->hint ? errhint("%s", class->hint)
						   : 0));
}

/*
 * Nothing has arrived for a good while, and there is no error.  Are
 * the brokers still there, and is the log?  If so, go on: a long stretch of
 * aborted messages looks just like this.
 */
static void
check_still_there(KappaReader *reader)
{
	KappaLog *log = kappa_reader_get_log(reader);

	for (int32 i = 0; i < reader->ncurrent; i++)
	{
		CurrentRange *current = &reader->current[i];

		if (!current->active)
			continue;
		if (i >= log->npartitions || log->end[i] < current->end)
			ereport(ERROR,
					(errcode(ERRCODE_NO_DATA_FOUND),
					 errmsg("partition %d of topic \"%s\" has become shorter while it was being read",
							i, reader->table->topic),
					 errdetail("Its end was at offset " INT64_FORMAT " and is now at " INT64_FORMAT ".",
							   current->end,
							   i < log->npartitions ? log->end[i] : 0)));
	}
	pfree(log->begin);
	pfree(log->end);
	pfree(log);
}

/* Called when there was nothing useful to do.  Throws if that cannot go on. */
static void
check_progress(KappaReader *reader)
{
	TimestampTz now = GetCurrentTimestamp();
	const char *reason;
	int error;

	if (reader->idle_since == 0)
	{
		reader->idle_since = now;
		return;
	}

	error = kappa_kafka_last_error(reader->client, &reason);
	if (error != 0 &&
		kappa_kafka_error_class(error)->action == KAFKA_GIVE_UP)
		report_read_error(reader, first_active_partition(reader), error, reason);

	if (error == 0 && reader->error == 0)
	{
		/* The answer may take as long again. */
		if (TimestampDifferenceExceeds(reader->idle_since, now,
									   kappa_connect_timeout / 2))
		{
			check_still_there(reader);
			reader->idle_since = GetCurrentTimestamp();
		}
		return;
	}

	if (!TimestampDifferenceExceeds(reader->idle_since, now,
									kappa_connect_timeout))
		return;
	if (error != 0)
		report_read_error(reader, first_active_partition(reader), error, reason);
	report_read_error(reader, reader->error_partition, reader->error,
					  reader->error_reason);
}

static void
note_partition_error(KappaReader *reader, const KappaMessage *message)
{
	reader->error = message->error;
	reader->error_partition = message->partition;
	snprintf(reader->error_reason, sizeof(reader->error_reason), "%.*s",
			 message->value != NULL ? (int) message->value_len : 0,
			 message->value != NULL ? message->value : "");

	if (kappa_kafka_error_class(message->error)->action == KAFKA_GIVE_UP)
		report_read_error(reader, message->partition, message->error,
						  reader->error_reason);
}

/*
 * Decide what an entry means.  True if it is a message of a range that is
 * being read.
 */
static inline bool
accept_entry(KappaReader *reader, const KappaMessage *message)
{
	CurrentRange *current;

	/* librdkafka reads on behind a range: what it meets there is of no concern. */
	if (message->partition >= reader->ncurrent ||
		(message->partition >= 0 && !reader->current[message->partition].active))
		return false;
	if (unlikely(message->kind == KAPPA_MESSAGE_ERROR))
	{
		note_partition_error(reader, message);
		return false;
	}
	current = &reader->current[message->partition];

	reader->idle_since = 0;
	reader->error = 0;
	if (unlikely(message->offset >= current->end - 1))
	{
		/* At end - 1 a message is the last one; "end of partition" is not. */
		bool last = message->offset == current->end - 1;

		if (message->kind == KAPPA_MESSAGE_EOF && last)
			return false;
		finish_range(reader, message->partition);
		return last;
	}
	return message->kind == KAPPA_MESSAGE_DATA &&
		   message->offset >= current->start;
}

static void
count_messages(KappaReader *reader)
{
	uint64 messages = 0;
	uint64 bytes = 0;

	for (int i = 0; i < reader->nmessages; i++)
	{
		if (reader->messages[i].kind != KAPPA_MESSAGE_DATA)
			continue;
		messages++;
		bytes += kappa_message_bytes(&reader->messages[i]);
	}
	pg_atomic_fetch_add_u64(&reader->queue->messages, messages);
	pg_atomic_fetch_add_u64(&reader->queue->bytes, bytes);
}

static void
count_returned(KappaReader *reader)
{
	pg_atomic_fetch_add_u64(&reader->queue->returned, reader->returned);
	pg_atomic_fetch_add_u64(&reader->queue->returned_bytes, reader->returned_bytes);
	reader->returned = reader->returned_bytes = 0;
}

/* Get more messages in hand; false when there will be no more. */
static bool
fetch_messages(KappaReader *reader)
{
	release_messages(reader);
	count_returned(reader);

	while (reader->nmessages == 0)
	{
		CHECK_FOR_INTERRUPTS();

		take_ranges(reader);
		reader->done = reader->nactive == 0;
		if (reader->done)
			return false;

		reader->nmessages = kappa_kafka_fetch(reader->topic, reader->messages,
											  reader->fetch_size, FETCH_BYTES,
											  FETCH_TIMEOUT);
		if (reader->nmessages == 0 || reader->idle_since != 0)
			check_progress(reader);
	}

	count_messages(reader);
	if (reader->fetch_size < FETCH_MAX)
		reader->fetch_size *= 2;
	else if (reader->queue->nprocesses == 1)
		reader->window = WINDOW_MAX;
	return true;
}

const KappaMessage *
kappa_reader_next(KappaReader *reader)
{
	for (;;)
	{
		while (reader->next < reader->nmessages)
		{
			const KappaMessage *message = &reader->messages[reader->next++];

			if (accept_entry(reader, message))
			{
				reader->returned++;
				reader->returned_bytes += kappa_message_bytes(message);
				return message;
			}
		}
		if (!fetch_messages(reader))
			return NULL;
	}
}
