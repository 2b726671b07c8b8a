/*-------------------------------------------------------------------------
 *
 * fdw_reader.h
 *	  Read the messages of ranges of a log, to their end
 *
 * IDENTIFICATION
 *	  src/fdw_reader.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_FDW_READER_H
#define KAPPA_FDW_READER_H

#include "fdw_options.h"
#include "fdw_ranges.h"
#include "port/atomics.h"

/*
 * The ranges of one scan, and how many of them are taken.  In a parallel scan
 * it lies in dynamic shared memory, and every process takes ranges from it
 * until none is left; otherwise it belongs to the one process.
 */
typedef struct KappaRangeQueue
{
	pg_atomic_uint32 next;     /* index of the next range to take */
	pg_atomic_uint64 messages; /* read by all processes, for EXPLAIN */
	pg_atomic_uint64 bytes;
	pg_atomic_uint64 returned; /* messages that lie in the ranges */
	pg_atomic_uint64 returned_bytes;
	int32 npartitions; /* above every partition in ranges */
	int nprocesses;    /* that are expected to take ranges */
	int capacity;
	int nranges;
	KappaRange ranges[FLEXIBLE_ARRAY_MEMBER];
} KappaRangeQueue;

#define KAPPA_RANGE_QUEUE_SIZE(n) \
	(offsetof(KappaRangeQueue, ranges) + (n) * sizeof(KappaRange))

/* An empty queue with room for ranges. */
extern void kappa_range_queue_init(KappaRangeQueue *queue, int capacity, int nprocesses);

typedef struct KappaReader KappaReader;

/*
 * Connect to a topic; may add to config what suits a scan.  Throws if the
 * brokers or the topic cannot be reached.  Reads no catalog.  Lives in
 * CurrentMemoryContext, whose reset closes it.
 */
extern KappaReader *kappa_reader_open(const KappaTable *table,
									  KafkaConfig *config, bool with_headers);
extern void kappa_reader_close(KappaReader *reader);

extern KafkaTopic *kappa_reader_topic(KappaReader *reader);
extern int32 kappa_reader_npartitions(KappaReader *reader);

/* First and end offsets now; palloc'd. */
extern KappaLog *kappa_reader_get_log(KappaReader *reader);

/*
 * Throw unless the log has what bounds ask for: a result that is short of
 * messages must not look like one.
 */
extern void kappa_reader_check_bounds(KappaReader *reader, const KappaLog *bounds,
									  const KappaLog *log);

/*
 * Begin to read, or begin again.  The queue must stay where it is until the
 * reader is closed or started anew.
 */
extern void kappa_reader_start(KappaReader *reader, KappaRangeQueue *queue);

/*
 * The next message, or NULL when all ranges are read to their end and the
 * queue has no more.  It is valid until the next call.  Throws when a part of
 * a range cannot be read: the end of the messages is never an error in
 * disguise.
 */
extern const KappaMessage *kappa_reader_next(KappaReader *reader);

#endif /* KAPPA_FDW_READER_H */
