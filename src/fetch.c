/*-------------------------------------------------------------------------
 *
 * fetch.c
 *	  Take what has arrived for a source, until it is delivered
 *
 * Messages are kept in the order of their arrival, in librdkafka's buffers;
 * ends of partitions are noted and given back, errors start the source anew.
 *
 * IDENTIFICATION
 *	  src/fetch.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "portability/instr_time.h"
#include "utils/memutils.h"

#include "fetch.h"
#include "kafka_error.h"
#include "kappa.h"

/* First size of the array of messages; it grows as batches do. */
#define FIRST_ALLOCATION 256

/* Room for more messages; the array is as large as batches have been. */
static bool
make_room(KappaSource *source)
{
	if (source->nmessages >= kappa_batch_rows ||
		source->nbytes >= (Size) kappa_batch_bytes * 1024)
		return false;
	if (source->messages == NULL)
	{
		source->nallocated = FIRST_ALLOCATION;
		source->messages = MemoryContextAlloc(source->context,
											  source->nallocated * sizeof(KappaMessage));
	}
	else if (source->nmessages == source->nallocated)
	{
		source->nallocated *= 2;
		source->messages = repalloc_huge(source->messages,
										 source->nallocated * sizeof(KappaMessage));
	}
	return true;
}

static void
note_message(KappaSource *source, const KappaMessage *message)
{
	int p = message->partition;

	source->fetched[p] = message->offset + 1;
	source->end[p] = Max(source->end[p], source->fetched[p]);
	source->nbytes += message->key_len + message->value_len;
}

/*
 * The first EOF event is reason enough to store a position: that of a view
 * over an empty topic is symbolic otherwise, for ever.
 */
static void
note_eof(KappaSource *source, const KappaMessage *message)
{
	int p = message->partition;

	source->eof[p] = message->offset;
	source->end[p] = message->offset;
	source->unreported = true;
	source->advanced |= !source->settled;
	if (message->offset > source->fetched[p])
	{
		source->fetched[p] = message->offset;
		source->advanced = true;
	}
}

/*
 * Keep the data among the entries that a fetch has brought behind those in
 * hand, and note the rest.  Returns an error among them in *failed.
 */
static bool
sort_entries(KappaSource *source, int n, KappaMessage *failed)
{
	KappaMessage *entries = &source->messages[source->nmessages];
	KafkaClient *client = source->connection->client;
	bool has_failed = false;

	for (int i = 0; i < n; i++)
	{
		KappaMessage *entry = &entries[i];

		switch (entry->kind)
		{
			case KAPPA_MESSAGE_DATA:
				note_message(source, entry);
				source->messages[source->nmessages++] = *entry;
				break;
			case KAPPA_MESSAGE_EOF:
				note_eof(source, entry);
				kappa_kafka_release(client, entry, 1);
				break;
			case KAPPA_MESSAGE_ERROR:
				has_failed = true;
				*failed = *entry;
				kappa_kafka_release(client, entry, 1);
				break;
		}
	}
	return has_failed;
}

/*
 * librdkafka reports an error for a partition.  Start again: that tells an
 * offset that is gone, or a topic, from what has healed already.
 */
static void
handle_partition_error(KappaSource *source, const KappaMessage *entry)
{
	const KafkaErrorClass *class = kappa_kafka_error_class(entry->error);
	ErrorData error = {
		.sqlerrcode = class->sqlstate,
		.message = psprintf("could not read partition %d of topic \"%s\"",
							entry->partition, source->name),
		.detail = psprintf("librdkafka reported %s: %s.",
						   kappa_kafka_error_name(entry->error),
						   kappa_kafka_error_text(entry->error)),
		.hint = unconstify(char *, class->hint),
	};

	ereport(DEBUG1,
			(errmsg_internal("%s", error.message),
			 errdetail_internal("%s", error.detail)));
	kappa_source_note_trouble(source, &error, false);
}

void
kappa_fetch_gather(KappaSource *source)
{
	KappaMessage failed;
	instr_time start;
	instr_time duration;

	INSTR_TIME_SET_CURRENT(start);
	while (source->readable && make_room(source))
	{
		int n = kappa_kafka_fetch(source->topic, &source->messages[source->nmessages],
								  Min(source->nallocated, kappa_batch_rows) - source->nmessages,
								  (Size) kappa_batch_bytes * 1024 - source->nbytes, 0);

		if (n == 0)
			source->readable = false;
		else if (sort_entries(source, n, &failed))
		{
			handle_partition_error(source, &failed);
			return;
		}
		else
			kappa_source_note_success(source);
	}
	INSTR_TIME_SET_CURRENT(duration);
	INSTR_TIME_SUBTRACT(duration, start);
	source->fetch_us += INSTR_TIME_GET_MICROSEC(duration);
}

void
kappa_fetch_release(KappaSource *source)
{
	if (source->nmessages > 0)
		kappa_kafka_release(source->connection->client, source->messages, source->nmessages);
	source->nmessages = 0;
	source->nbytes = 0;
	source->fetch_us = 0;
}
