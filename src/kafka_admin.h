/*-------------------------------------------------------------------------
 *
 * kafka_admin.h
 *	  Questions to the brokers: partitions, ends of the log, single messages
 *
 * Every call waits at most kappa.connect_timeout, in slices of 100 ms (500 ms
 * where brokers have not answered for half of that time) between which it
 * looks at interrupts, and throws when there is no answer:
 * with the SQLSTATE of kafka_error.c, the topic's name, librdkafka's reason in
 * the detail, and the last client-wide error (failed authentication, refused
 * connection) where that is the real reason.
 *
 * IDENTIFICATION
 *	  src/kafka_admin.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_KAFKA_ADMIN_H
#define KAPPA_KAFKA_ADMIN_H

#include "nodes/bitmapset.h"

#include "kafka_client.h"

/*
 * Number of partitions; leaderless, if it is not NULL, gets those that have no
 * leader.  Throws undefined_object, 42704, if there is no such topic.
 */
extern int32 kappa_kafka_partition_count(KafkaTopic *topic, Bitmapset **leaderless);

/*
 * First and end offset of partitions 0 .. n-1; end is the next offset that a
 * read_committed reader could be given (the last stable offset).  Either array
 * may be NULL.
 */
extern void kappa_kafka_watermarks(KafkaTopic *topic, int32 n, int64 *begin, int64 *end);

/*
 * For each of partitions 0 .. n-1: the first offset whose message's timestamp
 * is at or after timestamp (ms since 1970), or the end offset if there is none.
 */
extern void kappa_kafka_offsets_for_time(KafkaTopic *topic, int32 n,
										 int64 timestamp, int64 *offsets);

/*
 * Likewise for a timestamp of each partition; a negative one asks nothing.  -1
 * where nothing was asked or there is no such message.
 */
extern void kappa_kafka_offsets_for_times(KafkaTopic *topic, int32 n,
										  const int64 *timestamps, int64 *offsets);

/*
 * Read the one message at an offset, or report that the log does not have it
 * (false: compacted away, aborted, a control record, or out of range).  Uses a
 * queue of its own; the partition must not be started at the time of the call.
 * On true the caller releases the message with kappa_kafka_release().
 */
extern bool kappa_kafka_read_one(KafkaTopic *topic, int32 partition,
								 int64 offset, KappaMessage *message);

/*
 * Does the cluster compact the topic (cleanup.policy)?  1: yes, 0: no, -1: it
 * does not tell, for instance because the user may not ask.
 */
extern int kappa_kafka_is_compacted(KafkaTopic *topic);

#endif /* KAPPA_KAFKA_ADMIN_H */
