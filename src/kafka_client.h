/*-------------------------------------------------------------------------
 *
 * kafka_client.h
 *	  A Kafka consumer whose life is bound to a memory context
 *
 * librdkafka's simple consumer: partitions are started at explicit offsets,
 * there is no consumer group and Kafka never stores a position for us.  The
 * consumer reads committed messages only and reports the end of each
 * partition (KAPPA_MESSAGE_EOF).  It never resets a position by itself.
 *
 * Nothing here runs inside a callback of librdkafka that could throw.
 * Functions throw (ereport) only where their comment says so.
 *
 * IDENTIFICATION
 *	  src/kafka_client.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_KAFKA_CLIENT_H
#define KAPPA_KAFKA_CLIENT_H

#include "message.h"
#include "port.h"

/* A librdkafka property by its own name ("bootstrap.servers"). */
typedef struct KafkaProperty
{
	const char *name;
	const char *value;
	bool secret; /* never show the value */
} KafkaProperty;

typedef struct KafkaConfig
{
	int nproperties;
	KafkaProperty *properties;
} KafkaConfig;

extern bool kappa_kafka_same_config(const KafkaConfig *a, const KafkaConfig *b);

typedef struct KafkaClient KafkaClient;
typedef struct KafkaTopic KafkaTopic;

/*
 * Create a consumer.  It lives until CurrentMemoryContext is reset or deleted,
 * or until kappa_kafka_close(); a context callback destroys it whatever error
 * unwinds the stack, and so does process exit.  No connection is made yet.
 *
 * with_headers: fill KappaMessage.headers (costs a parse for each message).
 *
 * Throws 22023/HV00D for properties that librdkafka refuses.
 */
extern KafkaClient *kappa_kafka_open(const KafkaConfig *config, bool with_headers);
extern void kappa_kafka_close(KafkaClient *client);

/*
 * A topic of this consumer with a queue of its own.  The handle belongs to the
 * client.  Asking again for the same name gives the same handle.
 */
extern KafkaTopic *kappa_kafka_topic(KafkaClient *client, const char *name);
extern const char *kappa_kafka_topic_name(KafkaTopic *topic);

/*
 * Start and stop fetching a partition.  offset is absolute, never one of
 * librdkafka's logical offsets (they cost half a second: the caller asks
 * kappa_kafka_watermarks first).  Throws 08000 if librdkafka refuses.
 */
extern void kappa_kafka_start(KafkaTopic *topic, int32 partition, int64 offset);
extern void kappa_kafka_stop(KafkaTopic *topic, int32 partition);
extern void kappa_kafka_stop_all(KafkaTopic *topic);

/*
 * Take what has arrived for a topic: at most max entries, fetching until
 * max_bytes of keys and values are in hand (the last message may exceed it).
 * Returns the number of entries; 0 if nothing is there.  Waits at most
 * timeout_ms for the first (0: not at all), in slices that look at interrupts.
 *
 * Entries of one partition come in the order of the log; EOF and ERROR
 * entries hold their place in that order.  Messages of a partition that was
 * stopped before the call are never returned.  The entries must be given back
 * with kappa_kafka_release(), in any order, each once; release is cheap for
 * EOF and ERROR entries too.  Closing the client releases what is still out.
 *
 * An ERROR entry carries librdkafka's reason as its value.  Its partition is -1
 * for an error of the topic as a whole, which librdkafka repeats about once a
 * second: the metadata does not have the topic, or a partition of it, any
 * more.  A broker that has just started can say so by mistake.
 */
extern int kappa_kafka_fetch(KafkaTopic *topic, KappaMessage *messages, int max,
							 Size max_bytes, int timeout_ms);
extern void kappa_kafka_release(KafkaClient *client, KappaMessage *messages, int n);

/* Fill the headers of a message in hand whose client was opened without them. */
extern void kappa_kafka_load_headers(KafkaClient *client, KappaMessage *message);

/*
 * Serve librdkafka's events (log lines, client-wide errors).  Returns the last
 * client-wide error since the call before, or 0, with its text in *reason
 * (valid until the next call).  "All brokers down", failed authentication and
 * a name that does not resolve arrive here.  An error is forgotten as soon as
 * the brokers answer: a message, an end of partition, an answer to a question.
 */
extern int kappa_kafka_poll(KafkaClient *client, const char **reason);

/* The last client-wide error that stands, seen before or not; 0 if none. */
extern int kappa_kafka_last_error(KafkaClient *client, const char **reason);

/*
 * Waiting.  The socket becomes readable when any queue of this client turns
 * from empty to non-empty.  The contract of librdkafka's io events: drain
 * first, then fetch until nothing is left, then wait.
 */
extern pgsocket kappa_kafka_socket(KafkaClient *client);
extern void kappa_kafka_drain(KafkaClient *client);

#endif /* KAPPA_KAFKA_CLIENT_H */
