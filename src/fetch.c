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
	if (!kappa_source_has_room(source))
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
	source->nbytes += kappa_message_bytes(message);
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

/* The first break since the source was started is the one that is spoken of. */
static void
note_break(KappaSource *source, const KappaMessage *entry)
{
	KappaBreak *last = &source->last_break;
	int p = entry->partition;
	int64 offset = p >= 0 ? source->fetched[p] : -1;
	MemoryContext old = MemoryContextSwitchTo(source->context);

	if (source->broken == NULL)
	{
		last->repeated = last->error != 0 && last->partition == p && last->offset == offset;
		last->error = entry->error;
		last->partition = p;
		last->offset = offset;
		snprintf(last->reason, sizeof(last->reason), "%.*s",
				 (int) entry->value_len, entry->value_len > 0 ? entry->value : "");
	}
	source->broken = p >= 0 ? bms_add_member(source->broken, p)
							: bms_add_range(source->broken, 0, source->npartitions - 1);
	MemoryContextSwitchTo(old);
}

/*
 * What comes from another broker than before, or from a partition that had none, may
 * be another log: a leader that was elected uncleanly lacks messages, and puts others
 * in their place.  It waits until the last message that was applied has been compared.
 */
static bool
has_moved(KappaSource *source, const KappaMessage *entry)
{
	int64 *broker = &source->broker[entry->partition];
	Bitmapset *partition;

	if (*broker < 0)
		*broker = entry->broker;
	if ((entry->broker < 0 || entry->broker == *broker) &&
		!bms_is_member(entry->partition, source->leaderless))
		return false;
	partition = bms_make_singleton(entry->partition);
	kappa_source_note_moved(source, partition);
	source->leaderless = bms_del_members(source->leaderless, partition);
	source->metadata_at = Min(source->metadata_at, GetCurrentTimestamp());
	bms_free(partition);
	return true;
}

/*
 * Keep the data among the entries that a fetch has brought behind those in
 * hand, and note the rest.
 */
static void
sort_entries(KappaSource *source, int n)
{
	KappaMessage *entries = &source->messages[source->nmessages];
	KafkaClient *client = source->connection->client;

	for (int i = 0; i < n; i++)
	{
		KappaMessage *entry = &entries[i];

		if (entry->kind == KAPPA_MESSAGE_ERROR)
			note_break(source, entry);
		else if (!bms_is_member(entry->partition, source->broken) &&
				 !bms_is_member(entry->partition, source->moved) && !has_moved(source, entry))
		{
			if (entry->kind == KAPPA_MESSAGE_DATA)
			{
				note_message(source, entry);
				source->messages[source->nmessages++] = *entry;
				continue;
			}
			note_eof(source, entry);
		}
		kappa_kafka_release(client, entry, 1);
	}
}

static char *
describe_break(const KappaBreak *last)
{
	const char *reason = last->reason[0] != '\0' ? last->reason
												 : kappa_kafka_error_text(last->error);
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfo(&text, "librdkafka reported %s: %s.",
					 kappa_kafka_error_name(last->error), reason);
	if (last->offset >= 0)
		appendStringInfo(&text, "  The next offset to be read is " INT64_FORMAT ".", last->offset);
	return text.data;
}

/*
 * What came before a break is applied.  Start again: that tells an offset that
 * is gone, or a topic, from what has healed already, and from bytes that stay
 * unreadable.
 */
static void
handle_break(KappaSource *source)
{
	const KappaBreak *last = &source->last_break;
	const KafkaErrorClass *class = kappa_kafka_error_class(last->error);
	ErrorData error = {
		.sqlerrcode = class->sqlstate,
		.message = last->partition >= 0
					   ? psprintf("could not read partition %d of topic \"%s\"",
								  last->partition, source->name)
					   : psprintf("could not read topic \"%s\"", source->name),
		.detail = describe_break(last),
		.hint = unconstify(char *, class->hint),
	};

	ereport(DEBUG1,
			(errmsg_internal("%s", error.message),
			 errdetail_internal("%s", error.detail)));
	kappa_source_note_trouble(source, &error, last->repeated);
}

void
kappa_fetch_gather(KappaSource *source)
{
	instr_time start;
	instr_time duration;

	INSTR_TIME_SET_CURRENT(start);
	while (source->readable && make_room(source) &&
		   ((source->broken == NULL && source->moved == NULL) || source->nmessages > 0))
	{
		int n = kappa_kafka_fetch(source->topic, &source->messages[source->nmessages],
								  Min(source->nallocated, kappa_source_max_messages(source)) -
									  source->nmessages,
								  (Size) kappa_batch_bytes * 1024 - source->nbytes, 0);

		if (n == 0)
			source->readable = false;
		else
			sort_entries(source, n);
		if (n > 0 && source->broken == NULL)
			kappa_source_note_success(source);
	}
	INSTR_TIME_SET_CURRENT(duration);
	INSTR_TIME_SUBTRACT(duration, start);
	source->fetch_us += INSTR_TIME_GET_MICROSEC(duration);
	if (source->nmessages > 0)
		return;
	if (source->broken != NULL)
		handle_break(source);
	else if (source->moved != NULL)
		kappa_source_compare_moved(source);
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
