/*-------------------------------------------------------------------------
 *
 * fill_batch.c
 *	  Read a stretch of the log into memory, one batch after the other
 *
 * A scan hands the executor one message after the other, and forgets it.  Where
 * more has to be known of a message than its row tells, or where several
 * versions are to have it, a replay keeps messages for as long as it takes.
 * They are copied: librdkafka holds no more than it has prefetched, and goes on
 * meanwhile.
 *
 * IDENTIFICATION
 *	  src/fill_batch.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "fdw_reader.h"
#include "fill_batch.h"

/* First size of the array of messages. */
#define FIRST_ALLOCATION 1024

struct KappaFillReader
{
	MemoryContext context; /* holds all of it */
	MemoryContext payload; /* of the messages in hand */
	KappaReader *reader;
	KappaBatch batch;
	int nallocated;
	Size limit; /* bytes of a batch */
};

/* ---- opening ---- */

static KappaRangeQueue *
make_queue(const KappaStretch *stretch)
{
	KappaRangeQueue *queue = palloc(KAPPA_RANGE_QUEUE_SIZE(stretch->npartitions));

	kappa_range_queue_init(queue, stretch->npartitions, 1);
	for (int32 p = 0; p < stretch->npartitions; p++)
	{
		KappaRange range = { .partition = p, .start = stretch->start[p], .end = stretch->end[p] };

		if (range.start >= range.end)
			continue;
		queue->ranges[queue->nranges++] = range;
		queue->npartitions = p + 1;
	}
	return queue;
}

KappaFillReader *
kappa_fill_reader_open(const KappaTable *table, Oid userid, bool with_headers,
					   const KappaStretch *stretch)
{
	KappaFillReader *reader = palloc0(sizeof(KappaFillReader));
	KappaLog bounds = { stretch->npartitions, stretch->start, stretch->end };

	reader->context = CurrentMemoryContext;
	reader->payload = GenerationContextCreate(CurrentMemoryContext, "kappa replayed messages",
											  ALLOCSET_DEFAULT_SIZES);
	reader->batch.context = AllocSetContextCreate(CurrentMemoryContext, "kappa replayed batch",
												  ALLOCSET_DEFAULT_SIZES);
	reader->nallocated = FIRST_ALLOCATION;
	reader->batch.messages = palloc(reader->nallocated * sizeof(KappaMessage));

	/* The other half is for what becomes of them: values, and groups. */
	reader->limit = (Size) maintenance_work_mem * 1024 / 2;
	reader->reader = kappa_reader_open(table,
									   kappa_options_get_connection(table->serverid, userid),
									   with_headers);
	kappa_reader_check_bounds(reader->reader, &bounds, kappa_reader_get_log(reader->reader));
	kappa_reader_start(reader->reader, make_queue(stretch));
	return reader;
}

void
kappa_fill_reader_close(KappaFillReader *reader)
{
	kappa_reader_close(reader->reader);
	MemoryContextDelete(reader->batch.context);
	MemoryContextDelete(reader->payload);
}

/* ---- reading ---- */

static Size
count_bytes(const KappaMessage *message)
{
	Size size = kappa_message_bytes(message) + message->nheaders * sizeof(KappaHeader);

	for (int i = 0; i < message->nheaders; i++)
		size += strlen(message->headers[i].name) + 1 + message->headers[i].value_len;
	return size;
}

/* Copy bytes to where there is room for them, and behind them is the next. */
static const char *
copy_bytes(char **room, const char *bytes, Size len)
{
	char *copy = *room;

	if (bytes == NULL)
		return NULL;
	memcpy(copy, bytes, len);
	*room += len;
	return copy;
}

static void
copy_message(KappaFillReader *reader, KappaMessage *copy, const KappaMessage *message)
{
	Size size = count_bytes(message);
	char *room = MemoryContextAllocHuge(reader->payload, Max(size, 1));
	KappaHeader *headers = (KappaHeader *) room;

	*copy = *message;
	copy->handle = NULL;
	if (message->headers != NULL)
	{
		copy->headers = headers;
		room += message->nheaders * sizeof(KappaHeader);
	}
	for (int i = 0; i < message->nheaders; i++)
	{
		const KappaHeader *header = &message->headers[i];

		headers[i].name = copy_bytes(&room, header->name, strlen(header->name) + 1);
		headers[i].value = copy_bytes(&room, header->value, header->value_len);
		headers[i].value_len = header->value_len;
	}
	copy->key = copy_bytes(&room, message->key, message->key_len);
	copy->value = copy_bytes(&room, message->value, message->value_len);
}

static bool
is_full(const KappaFillReader *reader)
{
	Size size = MemoryContextMemAllocated(reader->payload, false) +
				reader->batch.nmessages * sizeof(KappaMessage);

	return reader->batch.nmessages == INT_MAX / 2 || size >= reader->limit;
}

KappaBatch *
kappa_fill_reader_next(KappaFillReader *reader)
{
	KappaBatch *batch = &reader->batch;
	const KappaMessage *message;

	MemoryContextReset(batch->context);
	MemoryContextReset(reader->payload);
	batch->nmessages = 0;
	while (!is_full(reader) && (message = kappa_reader_next(reader->reader)) != NULL)
	{
		if (batch->nmessages == reader->nallocated)
		{
			reader->nallocated *= 2;
			batch->messages = repalloc_huge(batch->messages,
											reader->nallocated * sizeof(KappaMessage));
		}
		copy_message(reader, &batch->messages[batch->nmessages++], message);
	}
	return batch->nmessages > 0 ? batch : NULL;
}
