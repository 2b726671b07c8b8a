/*-------------------------------------------------------------------------
 *
 * kafka_kept.h
 *	  A consumer that a process keeps from one use to the next
 *
 * IDENTIFICATION
 *	  src/kafka_kept.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_KAFKA_KEPT_H
#define KAPPA_KAFKA_KEPT_H

#include "kafka_client.h"

/* From now on this process keeps a consumer. */
extern void kappa_kafka_keep(void);

/*
 * The consumer that is kept, if it has the same configuration and nobody uses
 * it; else a new one, as of kappa_kafka_open(), which may be kept from then on.
 */
extern KafkaClient *kappa_kafka_borrow(const KafkaConfig *config, bool with_headers);

/*
 * The borrower needs it no longer.  False if it is not the one that is kept: then
 * it is the borrower's to close, and may have been closed already.  sound: it has
 * brought what was asked of it, no partition is started, and no message is out;
 * of any other it is not known what state it is in, and it is closed.  Does not
 * throw.
 */
extern bool kappa_kafka_give_back(const KafkaClient *client, bool sound);

#endif /* KAPPA_KAFKA_KEPT_H */
