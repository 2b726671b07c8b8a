/*-------------------------------------------------------------------------
 *
 * message.h
 *	  A Kafka message as the rest of kappa sees it
 *
 * A plain struct without a librdkafka type in it: the Kafka layer fills it,
 * decoders read it.  All pointers point into the Kafka client's buffers and
 * are valid until the message is released (kappa_kafka_release).
 *
 * IDENTIFICATION
 *	  src/message.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_MESSAGE_H
#define KAPPA_MESSAGE_H

#include "c.h"

typedef enum KappaMessageKind
{
	KAPPA_MESSAGE_DATA,  /* a message of the log */
	KAPPA_MESSAGE_EOF,   /* end of the partition; offset = next offset to be written */
	KAPPA_MESSAGE_ERROR, /* the client reports an error for this partition */
} KappaMessageKind;

/* One header; Kafka allows a name to occur more than once. */
typedef struct KappaHeader
{
	const char *name;  /* NUL-terminated */
	const char *value; /* not NUL-terminated; NULL for a null value */
	Size value_len;
} KappaHeader;

typedef struct KappaMessage
{
	KappaMessageKind kind;
	int error;       /* rd_kafka_resp_err_t, for KAPPA_MESSAGE_ERROR only; see kafka_error.h */
	int32 partition; /* -1 for an error of the topic as a whole */
	int32 broker;    /* that it comes from; -1 if that is not known */
	int64 offset;
	int64 timestamp;     /* ms since 1970-01-01 UTC; -1 if the message has none */
	char timestamp_type; /* 'C' create time, 'A' log append time, 0 none */
	const char *key;     /* NULL if the message has no key */
	Size key_len;
	const char *value; /* NULL for a tombstone; of an error, the reason in words */
	Size value_len;
	const KappaHeader *headers; /* NULL unless the client was opened with headers */
	int nheaders;
	void *handle; /* the Kafka client's */
} KappaMessage;

/* Of key and value. */
static inline Size
kappa_message_bytes(const KappaMessage *message)
{
	return message->key_len + message->value_len;
}

/*
 * The order of key_order 'timestamp', in which the latest message of a key is
 * the largest: by timestamp, partition and offset.  Says like memcmp() which of
 * two messages comes first.
 */
static inline int
kappa_message_compare(const KappaMessage *a, const KappaMessage *b)
{
	if (a->timestamp != b->timestamp)
		return a->timestamp < b->timestamp ? -1 : 1;
	if (a->partition != b->partition)
		return a->partition < b->partition ? -1 : 1;
	if (a->offset != b->offset)
		return a->offset < b->offset ? -1 : 1;
	return 0;
}

#endif /* KAPPA_MESSAGE_H */
