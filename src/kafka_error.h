/*-------------------------------------------------------------------------
 *
 * kafka_error.h
 *	  From librdkafka's error codes to SQLSTATE, hint and what to do next
 *
 * Error codes travel as int, so that only src/kafka_*.c need librdkafka's
 * header.
 *
 * IDENTIFICATION
 *	  src/kafka_error.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_KAFKA_ERROR_H
#define KAPPA_KAFKA_ERROR_H

typedef enum KafkaErrorAction
{
	KAFKA_RETRY,   /* the broker's or the network's trouble: wait, it heals */
	KAFKA_GIVE_UP, /* reading on would be wrong or pointless: stop and say so */
} KafkaErrorAction;

typedef struct KafkaErrorClass
{
	int code;     /* rd_kafka_resp_err_t */
	int sqlstate; /* as made by MAKE_SQLSTATE */
	KafkaErrorAction action;
	const char *hint; /* NULL if there is no next step to offer */
} KafkaErrorClass;

/* Never NULL: codes that are not listed get a generic KAFKA_RETRY class (08000). */
extern const KafkaErrorClass *kappa_kafka_error_class(int code);

/* Static strings: "_TRANSPORT", and librdkafka's sentence for it. */
extern const char *kappa_kafka_error_name(int code);
extern const char *kappa_kafka_error_text(int code);

/* True for offsets that the log no longer has or does not have yet. */
extern bool kappa_kafka_error_is_out_of_range(int code);

#endif /* KAPPA_KAFKA_ERROR_H */
