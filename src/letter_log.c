/*-------------------------------------------------------------------------
 *
 * letter_log.c
 *	  Read again what the log has beside a dead letter
 *
 * IDENTIFICATION
 *	  src/letter_log.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"

#include "fdw_options.h"
#include "fdw_reader.h"
#include "letter_log.h"

struct KappaLetterLog
{
	KappaReader *reader;
	KappaLog *bounds;
};

KappaLetterLog *
kappa_letter_log_open(const KappaApplier *applier)
{
	KappaLetterLog *log = palloc(sizeof(KappaLetterLog));
	KafkaConfig *config = kappa_options_get_connection(applier->serverid, applier->owner);

	log->reader = kappa_reader_open(kappa_options_get_table(applier->relid), config, true);
	log->bounds = kappa_reader_get_log(log->reader);
	return log;
}

bool
kappa_letter_log_has(const KappaLetterLog *log, int32 partition, int64 offset)
{
	return partition < log->bounds->npartitions && offset >= log->bounds->begin[partition] &&
		   offset < log->bounds->end[partition];
}

void
kappa_letter_log_read(KappaLetterLog *log, const KappaRange *ranges, int n,
					  void (*visit)(const KappaMessage *message, void *arg), void *arg)
{
	KappaRangeQueue *queue = palloc(KAPPA_RANGE_QUEUE_SIZE(n));
	const KappaMessage *message;

	kappa_range_queue_init(queue, n, 1);
	queue->nranges = n;
	for (int i = 0; i < n; i++)
	{
		queue->ranges[i] = ranges[i];
		queue->npartitions = Max(queue->npartitions, ranges[i].partition + 1);
	}
	kappa_reader_start(log->reader, queue);
	while ((message = kappa_reader_next(log->reader)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		visit(message, arg);
	}
}

static const char *
copy_bytes(const char *bytes, Size len)
{
	return bytes == NULL ? NULL : memcpy(palloc(Max(len, 1)), bytes, len);
}

void
kappa_letter_log_copy(KappaMessage *to, const KappaMessage *from)
{
	KappaHeader *headers = palloc(Max(from->nheaders, 1) * sizeof(KappaHeader));

	*to = *from;
	to->handle = NULL;
	to->key = copy_bytes(from->key, from->key_len);
	to->value = copy_bytes(from->value, from->value_len);
	for (int i = 0; i < from->nheaders; i++)
	{
		headers[i] = from->headers[i];
		headers[i].name = pstrdup(from->headers[i].name);
		headers[i].value = copy_bytes(from->headers[i].value, from->headers[i].value_len);
	}
	to->headers = from->headers == NULL ? NULL : headers;
}
