/*-------------------------------------------------------------------------
 *
 * kafka_private.h
 *	  What the files of the Kafka client share, librdkafka included
 *
 * Only kafka_*.c include this file: it is where librdkafka's types meet ours.
 *
 * IDENTIFICATION
 *	  src/kafka_private.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_KAFKA_PRIVATE_H
#define KAPPA_KAFKA_PRIVATE_H

#include <librdkafka/rdkafka.h>

#include "kafka_client.h"
#include "lib/ilist.h"
#include "utils/palloc.h"

typedef struct MessageSlot MessageSlot;

/*
 * A consumer.
 *
 * All of its memory, the struct too, lives in a context of its own, a child of
 * the one that the consumer is bound to.  Whatever deletes that context runs
 * the callback that closes the consumer.
 */
struct KafkaClient
{
	MemoryContext context;
	MemoryContextCallback on_reset;
	dlist_node node;          /* in the process's list of open clients */
	bool open;                /* false once librdkafka's part is gone */
	bool with_headers;        /* fill KappaMessage.headers */
	bool refetches;           /* librdkafka goes on fetching without wake_fetchers() */
	int reserved_fds;         /* given back at close */
	int wakeup[2];            /* pipe that librdkafka's queues write to */
	rd_kafka_conf_t *conf;    /* ours until rd_kafka_new() succeeds */
	rd_kafka_t *rk;           /* NULL until then */
	rd_kafka_queue_t *events; /* log lines and client-wide errors */
	KafkaTopic *topics;       /* linked by KafkaTopic.next */
	KafkaTopic *reading;      /* whose queue is being read just now, or NULL */
	MessageSlot *free_slots;  /* see kafka_client.c */
	MessageSlot *slot_chunks;
	int error;         /* last client-wide error; 0 once brokers answer */
	bool error_unseen; /* kappa_kafka_poll() has not returned it yet */
	bool brokers_down; /* librdkafka found none to talk to */
	char reason[512];  /* librdkafka's words for error */
	char log[512];     /* scratch for one log line */
};

struct KafkaTopic
{
	KafkaTopic *next;
	KafkaClient *client;
	char *name;
	KafkaTopic *probe; /* see kappa_kafka_probe(); NULL until needed */
	bool is_probe;
	rd_kafka_topic_t *rkt;
	rd_kafka_queue_t *queue;
	rd_kafka_topic_partition_list_t *started; /* partitions being fetched */

	/* Taken from librdkafka, not yet given out: arrived[next .. count). */
	rd_kafka_message_t **arrived;
	int narrived;
	int next_arrived;

	int error; /* of the topic as a whole; 0 once it is given out */
	char error_text[256];

	/* How full the queue may be; see wake_fetchers(). */
	int64 messages_since_wake;
	int64 bytes_since_wake;
};

/*
 * Fill client->conf.  Throws for properties that librdkafka refuses; what is
 * made by then is cleaned up with the client.
 */
extern void kappa_kafka_configure(KafkaClient *client, const KafkaConfig *config);

/* The prefetch buffer of a topic, in bytes, and the same in messages. */
extern int64 kappa_kafka_buffer_bytes(void);
extern int64 kappa_kafka_buffer_messages(void);

/* Take what librdkafka has to say; never blocks, never throws. */
extern void kappa_kafka_serve_events(KafkaClient *client);

/* The brokers answered: whatever error was noted before is history. */
extern void kappa_kafka_note_success(KafkaClient *client);

/*
 * Wait for anything from librdkafka, the latch, or the timeout.  Drains the
 * socket, serves interrupts (throws) and returns WL_* flags.
 */
extern int kappa_kafka_wait(KafkaClient *client, long timeout_ms);

extern KafkaTopic *kappa_kafka_probe(KafkaTopic *topic);

/* A message from librdkafka as ours; the client keeps track of it from now on. */
extern void kappa_kafka_adopt_message(KafkaClient *client, rd_kafka_message_t *raw,
									  KappaMessage *message);

#endif /* KAPPA_KAFKA_PRIVATE_H */
